//! Loads a [`Config`]: finds config.toml, reads it and its includes, and merges their tables.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::error::{ConfigError, ConfigErrors, Diagnostics, Findings, KeyLocation, Location};
use super::toml_reader::{TomlFile, TomlTable, TomlValue};
use super::{
    Config, Handler, SecretReference, command_checks, handler, include, parse, server, source,
};

/// Far beyond any configuration; it stops at a database or device given by mistake.
const MAX_FILE_BYTES: u64 = 4 << 20;
const SYSTEM_FILE: &str = "/etc/hooktrail/config.toml";

/// A configuration without errors.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadedConfig {
    pub config: Config,
    /// Warnings about values that are valid but may do harm, each with file and line.
    pub warnings: Vec<String>,
    /// References to secrets: [`super::read_secrets`] reads them.
    pub secrets: Vec<SecretReference>,
    pub(super) locations: Vec<KeyLocation>,
}

impl LoadedConfig {
    /// Makes an error about a value that is allowed and does not work on this machine: the item `index` of
    /// `server.listen` or `admin.listen`, `store.path`, or a handler's `url`.
    pub fn error_at(&self, key: &str, index: usize, text: &str) -> ConfigError {
        let location = self.locations.iter().filter(|location| location.key == key).nth(index);
        ConfigError {
            file: location.map_or_else(|| self.config.file.clone(), |found| found.file.clone()),
            line: location.and_then(|found| found.line),
            text: format!("{key}: {text}"),
        }
    }
}

/// Finds the file to load: `flag` (`--config` or `HOOKTRAIL_CONFIG`), else the usual paths.
pub fn find(flag: Option<PathBuf>) -> Result<PathBuf, ConfigErrors> {
    if let Some(path) = flag {
        return Ok(path);
    }
    for path in ["config.toml", SYSTEM_FILE].map(PathBuf::from) {
        // If the path can't be checked, the file may exist; reading it then reports the error.
        if path.try_exists().unwrap_or(true) {
            return Ok(path);
        }
    }
    let text = format!(
        "neither here nor {SYSTEM_FILE}: `hooktrail init` writes one, --config names one elsewhere"
    );
    Err(ConfigErrors(vec![ConfigError { file: "config.toml".into(), line: None, text }]))
}

/// Reads a file and its includes, and returns all errors at once.
pub fn load(path: &Path) -> Result<LoadedConfig, ConfigErrors> {
    let log = Diagnostics::default();
    let config = read_all(path, &log);
    let Findings { warnings, secrets, locations } = log.finish()?;
    // Without a recorded error `read_all` returns a configuration.
    let config = config.ok_or_else(|| ConfigErrors(Vec::new()))?;
    Ok(LoadedConfig { config, warnings, secrets, locations })
}

/// Reads what a file and its includes declare, and ignores errors. For names alone: values may be wrong.
pub fn load_despite_errors(path: &Path) -> Option<Config> {
    read_all(path, &Diagnostics::default())
}

fn read_all(path: &Path, log: &Diagnostics) -> Option<Config> {
    let main = read_file(path, log)?;
    let whole_file = Location { line: 0, ..main.locate(0) };
    let absolute = std::path::absolute(path)
        .map_err(|error| log.error(whole_file, format!("can't be made absolute: {error}")))
        .ok()?;
    let folder = absolute.parent().unwrap_or(Path::new("/")).to_owned();
    let tree = parse(&main, log);
    let names = include::expand(&TomlTable::root(&main, &tree, log), path, log);
    let files: Vec<TomlFile> = names.iter().filter_map(|name| read_file(name, log)).collect();
    let mut trees = vec![(&main, tree)];
    trees.extend(files.iter().map(|file| (file, parse(file, log))));

    let mut sections = Sections::default();
    for (i, (file, tree)) in trees.iter().enumerate() {
        sections.add(TomlTable::root(file, tree, log), i > 0);
    }
    let mut single = |key: &'static str| {
        sections.single.remove(key).unwrap_or_else(|| TomlTable::absent(key, log))
    };
    let server = server::read_server(single("server"), &folder);
    let admin = server::read_admin(single("admin"), &server, &folder);
    let store = server::read_store(single("store"), &folder);
    let workers = single("workers");
    let threads_at = workers.get("threads").map_or(workers.at, |value| value.at);
    let workers = server::read_workers(workers);
    let sources: Vec<source::ParsedSource> = sections
        .sources
        .into_iter()
        .map(|(name, table)| source::read_source(name, table, &server, (&folder, store.retention)))
        .collect();
    source::check_paths(&sources, log);
    let names: Vec<&str> = sources.iter().map(|parsed| parsed.source.name.as_str()).collect();
    let handlers: Vec<Handler> = sections
        .handlers
        .into_iter()
        .map(|(name, table)| handler::read_handler(name, table, &names, &folder))
        .collect();
    source::warn_about_unused(&sources, &handlers, log);
    command_checks::warn_about_threads(&handlers, workers.threads, threads_at, log);
    let sources = sources.into_iter().map(|parsed| parsed.source).collect();
    Some(Config { file: absolute, server, admin, store, workers, sources, handlers })
}

fn read_file(path: &Path, log: &Diagnostics) -> Option<TomlFile> {
    let number = log.add_file(path);
    let whole_file = Location { file: number, line: 0 };
    let mut bytes = Vec::new();
    let result = std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    if let Err(error) = result {
        log.error(whole_file, format!("can't be read: {error}"));
        return None;
    }
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let max = parse::size_text(MAX_FILE_BYTES);
        log.error(whole_file, format!("is larger than {max}: expected a configuration"));
        return None;
    }
    match String::from_utf8(bytes) {
        Ok(text) => Some(TomlFile::new(number, text)),
        Err(error) => {
            let valid_text = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + valid_text.iter().filter(|byte| **byte == b'\n').count();
            log.error(Location { file: number, line }, "is not UTF-8: save it as UTF-8".to_owned());
            None
        }
    }
}

fn parse<'f>(file: &'f TomlFile, log: &Diagnostics) -> DeTable<'f> {
    let (tree, errors) = DeTable::parse_recoverable(&file.text);
    for error in errors {
        let at = file.locate(error.span().map_or(0, |span| span.start));
        log.syntax_error(at, format!("not TOML: {}", error.message()));
    }
    tree.into_inner()
}

/// The tables of all files. Each table stands in one file alone.
#[derive(Default)]
struct Sections<'a> {
    single: BTreeMap<&'static str, TomlTable<'a>>,
    sources: Vec<(&'a str, TomlTable<'a>)>,
    handlers: Vec<(&'a str, TomlTable<'a>)>,
    locations: BTreeMap<String, Location>,
}

impl<'a> Sections<'a> {
    fn add(&mut self, root: TomlTable<'a>, is_included: bool) {
        if let (true, Some(value)) = (is_included, root.get("include")) {
            value.error("is in an included file: expected only in config.toml");
        }
        for key in ["server", "admin", "store", "workers"] {
            if let Some(value) = root.get(key)
                && let Some(table) = value.table(&format!("expected a table [{key}]"))
                && self.is_first(&value)
            {
                self.single.insert(key, table);
            }
        }
        for (kind, example) in [("sources", "[sources.paminga]"), ("handlers", "[handlers.crm]")] {
            let expected = format!("expected a table such as {example}");
            let tables = root.get(kind).and_then(|value| value.table(&expected));
            for (name, value) in tables.iter().flat_map(TomlTable::entries_in_order) {
                if let Some(table) = value.table(&expected)
                    && self.is_first(&value)
                {
                    let tables_of_kind =
                        if kind == "sources" { &mut self.sources } else { &mut self.handlers };
                    tables_of_kind.push((name, table));
                }
            }
        }
        root.reject_unknown();
    }

    /// Whether no earlier file has this table.
    fn is_first(&mut self, value: &TomlValue<'_>) -> bool {
        if let Some(first) = self.locations.get(&value.key) {
            let place = value.log.display_location(*first);
            value.error(format!("is in two files: {place} has it too: expected in one"));
            return false;
        }
        self.locations.insert(value.key.clone(), value.at);
        true
    }
}
