//! `[handlers.NAME]`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::server::close;
use super::table::{Table, Value};
use super::values::{self, ANY, DAY, POSITIVE, TIMEOUT};
use super::{Breaker, EnvValue, Handler, Mode, Retry, secret};

const LATER: &[&str] = &[
    "when",
    "split",
    "transform",
    "order_by",
    "newest_by",
    "once_by",
    "collapse_by",
    "settle",
    "rate",
    "batch_jobs_max",
    "batch_wait",
    "breaker",
    "url",
    "jetstream",
    "headers",
    "forward_headers",
    "sign",
    "proxy",
];
const MODES_LATER: [&str; 3] = ["stream", "batch", "cgi"];
const SOURCES: &str = r#"expected a list of sources such as ["paminga"]"#;
const COMMAND: &str =
    r#"expected a list of a program and its arguments such as ["handlers/crm.py", "--live"]"#;
const ENV: &str = r#"expected a table such as { CRM_URL = "https://example.com" }"#;
const ENV_VALUE: &str =
    r#"expected text, { env = "NAME" }, { file = "path" } or { credential = "name" }"#;
const OUTPUT_BYTES_MAX: u64 = 64 << 20;

/// Variables that the server sets for each attempt.
const OWN_VARIABLES: [&str; 16] = [
    "EVENT",
    "JOB",
    "ITEM",
    "ATTEMPT",
    "ATTEMPTS_MAX",
    "SOURCE",
    "HANDLER",
    "RECEIVED_AT",
    "METHOD",
    "PATH",
    "QUERY",
    "IP",
    "CONTENT_TYPE",
    "HEADERS",
    "KEY",
    "MARK",
];

/// `sources`: the names of all that there are.
pub(super) fn read(name: &str, table: Table<'_>, sources: &[&str], folder: &Path) -> Handler {
    if let Err(remedy) = values::name(name) {
        table.fault(format!("is no name: {remedy}"));
    }
    read_mode(&table);
    let default = Handler::named(name, folder);
    let handler = Handler {
        sources: read_sources(&table, sources),
        command: read_command(&table, folder),
        directory: read_directory(&table, folder),
        priority: table.integer("priority", 0, i64::MIN..=i64::MAX),
        concurrency: table.integer("concurrency", 4, 1..=1024) as usize,
        timeout: table.duration("timeout", default.timeout, TIMEOUT),
        env: read_env(&table, folder),
        output_bytes_max: table.size("output_bytes_max", 64 << 10, 0..=OUTPUT_BYTES_MAX) as usize,
        retry: table.get("retry").and_then(|value| read_retry(&value)).unwrap_or_default(),
        paused: table.flag("paused", false),
        ..default
    };
    warn_of_program(&table, &handler);
    close(table, LATER);
    handler
}

fn read_mode(table: &Table<'_>) {
    let parse = |text: &str| match text {
        "each" => Ok(()),
        text if MODES_LATER.contains(&text) => Err("not yet known to this version".to_owned()),
        text => Err(values::one_of(text, &["each"])),
    };
    table.parsed("mode", r#"expected "each""#, parse);
}

fn read_sources(table: &Table<'_>, known: &[&str]) -> Vec<String> {
    let Some(value) = table.get("sources") else {
        table.missing(format!("has no sources: {SOURCES}"));
        return Vec::new();
    };
    let Some(items) = value.list(SOURCES) else { return Vec::new() };
    if items.is_empty() {
        value.fault(format!("is []: {SOURCES}"));
    }
    let mut sources = Vec::new();
    for item in &items {
        let Some(text) = item.text(SOURCES) else { continue };
        if text == "hooktrail" {
            item.fault(
                r#"names "hooktrail": the built-in source is not yet known to this version"#,
            );
        } else if sources.iter().any(|source| source == text) {
            item.fault(format!("names {} twice: once is enough", values::shown_text(text)));
        } else if !known.contains(&text) {
            let hint = values::hint(text, known, values::shown_text);
            let hint = if known.is_empty() { "there are no sources".to_owned() } else { hint };
            let text =
                format!("{} names {}, no source: {hint}", item.key, values::shown_text(text));
            // In broken TOML the source may be there.
            table.log.missing(item.at, text);
        } else {
            sources.push(text.to_owned());
        }
    }
    sources
}

fn read_command(table: &Table<'_>, folder: &Path) -> Vec<String> {
    let Some(value) = table.get("command") else {
        if !["url", "jetstream"].iter().any(|key| table.has(key)) {
            table.missing(r#"has nothing to do: expected command = ["program", "argument"]"#);
        }
        return Vec::new();
    };
    let Some(items) = value.list(COMMAND) else { return Vec::new() };
    let mut command: Vec<String> =
        items.iter().filter_map(|item| item.text(COMMAND)).map(str::to_owned).collect();
    match command.first_mut() {
        None if items.is_empty() => value.fault(format!("is []: {COMMAND}")),
        None => {}
        Some(program) if program.is_empty() => {
            value.fault(format!("has an empty program: {COMMAND}"));
        }
        Some(program) if program.contains('/') => match values::path(program, folder).to_str() {
            Some(path) => *program = path.to_owned(),
            None => value.fault("is under a folder whose name is not UTF-8: expected one that is"),
        },
        Some(_) => {}
    }
    command
}

fn read_directory(table: &Table<'_>, folder: &Path) -> PathBuf {
    let Some(value) = table.get("directory") else { return folder.to_owned() };
    let parse = |text: &str| match text {
        "" => Err("expected a folder".to_owned()),
        text => Ok(values::path(text, folder)),
    };
    let Some(path) = value.parsed("expected a folder", parse) else { return folder.to_owned() };
    if !path.is_dir() {
        value.warn(format!("is {}: no such folder", values::shown_text(&path.to_string_lossy())));
    }
    path
}

fn read_env(table: &Table<'_>, folder: &Path) -> Vec<(String, EnvValue)> {
    let Some(table) = table.get("env").and_then(|value| value.table(ENV)) else {
        return Vec::new();
    };
    let mut env = Vec::new();
    for (name, value) in table.all() {
        let own = name.strip_prefix("HOOKTRAIL_").is_some_and(|name| OWN_VARIABLES.contains(&name));
        if name.is_empty() || name.contains(['=', '\0']) {
            value.fault("is no name for a variable: expected one without =");
        } else if own {
            value.fault("is set by the server: expected another name");
        } else if let Some(value) = read_env_value(&value, folder) {
            env.push((name.to_owned(), value));
        }
    }
    env
}

/// Text is not shown: where people put passwords all the same, no fault repeats them.
fn read_env_value(value: &Value<'_>, folder: &Path) -> Option<EnvValue> {
    if value.is_table() {
        return secret::one(value, folder, true).map(EnvValue::Secret);
    }
    match value.raw_text() {
        Some(text) if text.contains('\0') => value.wrong_unseen("expected text without a NUL"),
        Some(text) => Some(EnvValue::Text(text.to_owned())),
        None => value.wrong_unseen(ENV_VALUE),
    }
}

impl Handler {
    /// One with the contract's defaults that does nothing yet.
    pub fn named(name: &str, directory: &Path) -> Self {
        Self {
            name: name.to_owned(),
            sources: Vec::new(),
            command: Vec::new(),
            directory: directory.to_owned(),
            mode: Mode::Each,
            target: None,
            when: None,
            split: None,
            transform: None,
            order_by: None,
            newest_by: None,
            once_by: None,
            collapse_by: None,
            settle: None,
            rate: None,
            batch_jobs_max: 100,
            batch_wait: Duration::from_secs(1),
            breaker: Breaker::default(),
            priority: 0,
            concurrency: 4,
            timeout: Duration::from_secs(30),
            env: Vec::new(),
            output_bytes_max: 64 << 10,
            retry: Retry::default(),
            paused: false,
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self { failures: 20, pause: Duration::from_secs(60) }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts_max: 40,
            first: Duration::from_secs(5),
            factor: 2.0,
            longest: Duration::from_secs(6 * 3_600),
            jitter: 0.2,
            give_up_after: 7 * DAY,
        }
    }
}

fn read_retry(value: &Value<'_>) -> Option<Retry> {
    let table = value.table("expected a table such as { attempts_max = 40 }")?;
    let default = Retry::default();
    let attempts = table.integer("attempts_max", i64::from(default.attempts_max), 1..=1_000_000);
    let retry = Retry {
        attempts_max: u32::try_from(attempts).unwrap_or(default.attempts_max),
        first: table.duration("first", default.first, ANY),
        factor: table.number("factor", default.factor, 1.0..=1e9, "expected a number, at least 1"),
        longest: table.duration("longest", default.longest, ANY),
        jitter: table.number("jitter", default.jitter, 0.0..=1.0, "expected a number from 0 to 1"),
        give_up_after: table.duration("give_up_after", default.give_up_after, POSITIVE),
    };
    close(table, &[]);
    Some(retry)
}

/// A program that can't be started is no fault: it may be installed a moment later.
fn warn_of_program(table: &Table<'_>, handler: &Handler) {
    let (Some(program), Some(value)) = (handler.command.first(), table.get("command")) else {
        return;
    };
    let shown = values::shown_text(program);
    let reason = if program.contains('/') {
        let remedy = match runs(Path::new(program)) {
            Runs::Yes => return,
            Runs::NotExecutable => format!("is not executable: chmod +x {program}"),
            Runs::NotThere => "does not exist: expected a program".to_owned(),
        };
        format!("names {shown}, which {remedy}")
    } else if in_path(program, handler) {
        return;
    } else {
        format!("names {shown}, which is not in PATH: install it, or write its path with a slash")
    };
    value.warn(reason);
}

enum Runs {
    Yes,
    NotExecutable,
    NotThere,
}

/// By the file's mode, since `check` is often run by another user than the server.
fn runs(program: &Path) -> Runs {
    match program.metadata() {
        Ok(file) if file.is_file() && file.permissions().mode() & 0o111 != 0 => Runs::Yes,
        Ok(file) if file.is_file() => Runs::NotExecutable,
        _ => Runs::NotThere,
    }
}

fn in_path(program: &str, handler: &Handler) -> bool {
    let own = handler.env.iter().find(|(name, _)| name == "PATH");
    let path = match own {
        Some((_, EnvValue::Text(path))) => path.into(),
        // Not to be read here.
        Some((_, EnvValue::Secret(_))) => return true,
        None => std::env::var_os("PATH").unwrap_or_default(),
    };
    let found = |folder: PathBuf| matches!(runs(&folder.join(program)), Runs::Yes);
    std::env::split_paths(&path).any(|folder| found(handler.directory.join(folder)))
}
