//! Architecture rules that the lints of Cargo.toml and clippy.toml can't express. These tests read the
//! sources as plain text: lines of comments and tests are left out.
//!
//! If a rule stands in the way of a good change, change the rule here and give the reason in the commit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use hooktrail::internals::config::Durability;

/// Each module and those it may import. A module imports only modules above it, so that no two modules
/// depend on each other.
const IMPORTS: &[(&str, &str)] = &[
    ("test_support", ""),
    ("domain", ""),
    ("json", ""),
    ("media_type", ""),
    ("urlencoded", ""),
    ("multipart", ""),
    ("clock", ""),
    ("numbers", ""),
    ("time_input", "clock"),
    ("escape", ""),
    ("redact", ""),
    ("log", "clock escape redact"),
    ("notify", ""),
    ("tls", ""),
    ("metrics", "domain"),
    ("process", ""),
    // Before config, which reports errors in expressions.
    ("expression", "clock domain json media_type multipart process urlencoded"),
    ("body_redaction", "expression json media_type multipart redact urlencoded"),
    ("verify", "domain json media_type multipart urlencoded"),
    ("config", "body_redaction clock domain expression tls verify"),
    // Decides without I/O, database and clock. The writer owns it.
    ("scheduler", "config domain"),
    // Of config only `Durability`: see `the_store_reads_no_configuration`.
    ("store", "clock config domain escape metrics scheduler"),
    ("row_json", "store"),
    // Modules that decide, without I/O, database and clock.
    ("planner", "config domain expression redact"),
    // Connections to NATS.
    ("jetstream", "clock config domain process"),
    ("handler", "clock config domain jetstream json process urlencoded"),
    // Modules that coordinate.
    (
        "worker",
        "clock config domain expression handler jetstream metrics planner process scheduler store",
    ),
    ("recovery", "clock config domain process scheduler store worker"),
    ("expander", "domain expression planner store worker"),
    ("replay", "config domain expression planner store worker"),
    ("maintenance", "clock config domain expression log notify planner store worker"),
    (
        "web",
        "clock config domain expression jetstream json media_type metrics notify planner redact store tls \
         verify",
    ),
    ("problems", "clock config numbers store"),
    (
        "admin",
        "clock config domain jetstream metrics numbers problems process replay row_json store time_input verify \
         web worker",
    ),
    (
        "app",
        "admin clock config domain expander expression handler jetstream log maintenance metrics notify \
         planner process recovery redact scheduler store tls web worker",
    ),
    (
        "cli",
        "admin app clock config domain escape expression handler jetstream json log numbers planner problems \
         process redact replay row_json store time_input tls verify web worker",
    ),
    (
        "internals",
        "cli clock config domain expression handler jetstream planner process scheduler store verify web",
    ),
    ("main", ""),
    ("lib", "cli"),
];

const MAX_HEADER_LINES: usize = 12;

/// A Rust file.
pub struct Source {
    /// The path from the root of the repository: `src/web/mod.rs`.
    pub path: String,
    pub text: String,
}

impl Source {
    /// The top-level module: `web` for `src/web/mod.rs`, `clock` for `src/clock.rs`.
    fn module(&self) -> &str {
        let path = self.path.strip_prefix("src/").unwrap_or(&self.path);
        path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
    }

    /// Numbers and lines of the program: neither tests nor comments. A test module is the last item of
    /// its file.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_test_file = self.path.contains("/tests/") || self.path.ends_with("tests.rs");
        let end = self.text.find("#[cfg(test)]\nmod tests {").unwrap_or(self.text.len());
        let program = if is_test_file { "" } else { &self.text[..end] };
        (1..).zip(program.lines()).filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// `path:line: text` for each line of the program that matches.
    fn lines_where<'s>(
        &'s self,
        matches: impl Fn(&str) -> bool + 's,
    ) -> impl Iterator<Item = String> {
        let lines = self.code().filter(move |(_, line)| matches(line));
        lines.map(|(number, line)| format!("{}:{number}: {}", self.path, line.trim()))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below a folder of the repository, but for build output and local data.
fn files(folder: &str) -> Vec<(String, PathBuf)> {
    const LEFT_OUT: [&str; 3] = [".git", "target", "data"];
    let (mut files, mut folders) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let file_type = fs::symlink_metadata(&path).unwrap().file_type();
            if LEFT_OUT.iter().any(|name| path.ends_with(name)) {
                continue;
            } else if file_type.is_dir() {
                folders.push(path);
            } else if file_type.is_file() {
                let name = path.strip_prefix(root()).unwrap();
                files.push((name.to_string_lossy().into_owned(), path));
            }
        }
    }
    files.sort();
    files
}

pub fn sources(folder: &str) -> Vec<Source> {
    let rust = files(folder).into_iter().filter(|(path, _)| path.ends_with(".rs"));
    let sources: Vec<Source> =
        rust.map(|(path, file)| Source { path, text: fs::read_to_string(file).unwrap() }).collect();
    assert!(!sources.is_empty(), "{folder} has no sources");
    sources
}

#[track_caller]
fn assert_none(found: &[String], rule: &str) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

#[test]
fn sql_stands_in_the_store_alone() {
    // The words of statements and of their parts, and what runs them.
    const SQL: [&str; 36] = [
        "SELECT ",
        "INSERT ",
        "UPDATE ",
        "DELETE FROM ",
        "REPLACE INTO ",
        "PRAGMA ",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT ",
        "VACUUM",
        "ATTACH ",
        "ALTER ",
        "DROP ",
        "WHERE ",
        " JOIN ",
        "GROUP BY ",
        "ORDER BY ",
        "LIMIT ",
        " AND ",
        " OR ",
        " NOT ",
        " IN (",
        "BETWEEN ",
        "IS NULL",
        "insert into ",
        "delete from ",
        "order by ",
        "rusqlite",
        "params!",
        ".execute(",
        ".execute_batch(",
        ".prepare_cached(",
        ".query_row(",
        ".query_map(",
        "pragma_",
    ];
    let is_sql = |line: &str| {
        SQL.iter().any(|word| line.contains(word))
            || (line.contains("select ") && line.contains(" from "))
    };
    let sources = sources("src").into_iter().filter(|source| source.module() != "store");
    let found: Vec<String> =
        sources.flat_map(|source| source.lines_where(is_sql).collect::<Vec<_>>()).collect();
    assert_none(&found, "move this into src/store");
}

#[test]
fn one_file_compares_the_states_of_jobs_in_sql() {
    // Local variables of Rust have more specific names than `state`, so that a search finds SQL alone.
    let is_comparison =
        |line: &str| ["=", "IN", "<", ">"].iter().any(|op| line.contains(&format!("state {op}")));
    let sources = sources("src").into_iter();
    let found: Vec<String> = sources
        .filter(|source| source.path != "src/store/jobs/transition.rs")
        .flat_map(|source| source.lines_where(is_comparison).collect::<Vec<_>>())
        .collect();
    assert_none(&found, "use a condition of src/store/jobs/transition.rs");
}

/// The modules of the crate that a file imports or names by their path.
fn imports(source: &Source) -> Vec<String> {
    let code: String = source.code().map(|(_, line)| format!("{line}\n")).collect();
    let mut names = Vec::new();
    for root in ["crate::", "hooktrail::"] {
        for (at, _) in code.match_indices(root) {
            let rest = &code[at + root.len()..];
            let group = rest.strip_prefix('{').and_then(|rest| rest.split_once(';'));
            let words = group.map_or(rest, |(group, _)| group).split(|c: char| !is_identifier(c));
            names.extend(
                words.take(if group.is_some() { usize::MAX } else { 1 }).map(str::to_owned),
            );
        }
    }
    names
}

fn is_identifier(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[test]
fn modules_import_only_what_the_table_allows() {
    let modules: Vec<&str> = IMPORTS.iter().map(|(module, _)| *module).collect();
    for (at, (module, allowed)) in IMPORTS.iter().enumerate() {
        for name in allowed.split_whitespace() {
            assert!(
                modules[..at].contains(&name),
                "{module} may not import {name}, a module below it"
            );
        }
    }
    let allowed: BTreeMap<&str, &str> = IMPORTS.iter().copied().collect();
    let mut found = Vec::new();
    for source in sources("src") {
        let module = source.module();
        let Some(allowed) = allowed.get(module) else {
            found.push(format!("{}: add the module {module} to IMPORTS", source.path));
            continue;
        };
        for name in imports(&source) {
            let is_allowed = name == module || allowed.split_whitespace().any(|word| word == name);
            if modules.contains(&name.as_str()) && !is_allowed {
                found.push(format!("{}: {module} may not import {name}", source.path));
            }
        }
    }
    assert_none(&found, "IMPORTS lists the imports that are allowed");
}

/// The paths that code names. In the groups of a `use` they are written out: `a::{b, c::{d}}` is
/// `a::b` and `a::c::d`.
fn paths(code: &str) -> BTreeSet<String> {
    let (mut paths, mut prefixes, mut word) = (BTreeSet::new(), vec![String::new()], String::new());
    for c in code.chars() {
        if is_identifier(c) || c == ':' {
            word.push(c);
            continue;
        }
        let prefix = prefixes.last().map_or("", String::as_str);
        let path = format!("{prefix}{}", std::mem::take(&mut word));
        paths.insert(path.clone());
        match c {
            '{' if path.ends_with("::") => prefixes.push(path),
            '{' => prefixes.push(String::new()),
            '}' => drop(prefixes.pop()),
            _ => {}
        }
    }
    paths
}

/// The module of `modules` that a path leads to, seen from the module `own`.
fn find_module<'m>(modules: &'m BTreeSet<String>, own: &str, path: &str) -> Option<&'m String> {
    let mut base: Vec<&str> = own.split("::").collect();
    let mut rest: Vec<&str> = path.split("::").collect();
    match rest[0] {
        "crate" => base.clear(),
        "self" | "super" => base.truncate(base.len() - usize::from(rest[0] == "super")),
        child if rest.len() > 1 && modules.contains(&format!("{own}::{child}")) => {
            rest.insert(0, "self");
        }
        _ => return None,
    }
    rest.remove(0);
    while rest.first() == Some(&"super") {
        (_, _) = (base.pop(), rest.remove(0));
    }
    base.extend(rest);
    (1..=base.len()).rev().find_map(|length| modules.get(&base[..length].join("::")))
}

#[test]
fn the_files_of_a_module_import_each_other_in_one_direction() {
    let sources = sources("src");
    let name = |source: &Source| {
        let path = source.path.trim_start_matches("src/").trim_end_matches(".rs");
        path.trim_end_matches("/mod").replace('/', "::")
    };
    let modules: BTreeSet<String> = sources.iter().map(name).collect();
    let mut imports = BTreeSet::new();
    for source in &sources {
        let own = name(source);
        let code: String = source.code().map(|(_, line)| format!("{line}\n")).collect();
        for path in paths(&code) {
            let Some(other) = find_module(&modules, &own, &path) else { continue };
            // A module may use what its parent defines for all its children.
            let is_ancestor = format!("{own}::").starts_with(&format!("{other}::"));
            if !is_ancestor && other.split("::").next() == own.split("::").next() {
                imports.insert((own.clone(), other.clone()));
            }
        }
    }
    // An import is in no circle if its importer is not imported, or if it imports nothing.
    loop {
        let count = imports.len();
        let importers: BTreeSet<String> = imports.iter().map(|(from, _)| from.clone()).collect();
        let imported: BTreeSet<String> = imports.iter().map(|(_, to)| to.clone()).collect();
        imports.retain(|(from, to)| imported.contains(from) && importers.contains(to));
        if imports.len() == count {
            break;
        }
    }
    let found: Vec<String> = imports.iter().map(|(from, to)| format!("{from} -> {to}")).collect();
    assert_none(&found, "these imports form circles");
}

#[test]
fn imports_of_other_modules_begin_with_crate() {
    let mut found = Vec::new();
    for source in sources("src") {
        let depth =
            source.path.matches('/').count() - usize::from(source.path.ends_with("/mod.rs"));
        let root = "super::".repeat(depth);
        found.extend(source.lines_where(|line| depth > 0 && line.contains(&root)));
    }
    assert_none(&found, "this path leads to the crate's root: write `crate::`");
}

#[test]
fn the_store_reads_no_configuration() {
    let mut found = Vec::new();
    for source in sources("src").iter().filter(|source| source.module() == "store") {
        found.extend(source.lines_where(|line| {
            let mut paths = line.split("crate::config").skip(1);
            paths.any(|rest| !rest.starts_with("::Durability"))
        }));
    }
    assert_none(&found, "pass the store what it needs as arguments");
}

#[test]
fn domain_types_are_not_serialized() {
    let mut found = Vec::new();
    for source in sources("src").iter().filter(|source| source.module() == "domain") {
        found.extend(
            source.lines_where(|line| line.contains("serde") || line.contains("Serialize")),
        );
    }
    assert_none(&found, "the module that sends a value outside decides its format");
}

#[test]
fn every_file_begins_with_its_purpose() {
    let mut found = Vec::new();
    for source in ["src", "tests", "benches", "fuzz"].into_iter().flat_map(sources) {
        let header = source.text.lines().take_while(|line| line.starts_with("//!")).count();
        if !(1..=MAX_HEADER_LINES).contains(&header) {
            found.push(format!("{}: {header} lines of //!", source.path));
        }
    }
    assert_none(&found, "a file begins with 1 to 12 lines of //!");
}

#[test]
fn every_public_type_has_a_doc_comment() {
    let mut found = Vec::new();
    for source in sources("src") {
        let mut is_documented = false;
        for (number, line) in (1..).zip(source.text.lines()) {
            let words = line.trim_start();
            let is_type = ["pub struct ", "pub enum ", "pub trait ", "pub type "]
                .iter()
                .any(|item| words.starts_with(item));
            if is_type && !is_documented {
                found.push(format!("{}:{number}: {words}", source.path));
            }
            is_documented = words.starts_with("///") || is_documented && words.starts_with("#[");
        }
    }
    assert_none(&found, "say what the type is");
}

#[test]
fn the_schema_file_names_the_version_that_the_program_makes() {
    let schema = fs::read_to_string(root().join("schema.sql")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hooktrail.db");
    let store = hooktrail::internals::store::open(&path, Durability::Full).unwrap();
    let version = store.conn.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    let line = format!("version {} (`PRAGMA user_version`)", version.unwrap());
    assert!(schema.lines().next().unwrap().contains(&line), "schema.sql begins with: {line}");
}

#[test]
fn no_file_names_a_package_registry() {
    // In parts, so that this file does not name them either.
    let hosts = [["crates", "io"], ["npmjs", "org"], ["pypi", "org"], ["rubygems", "org"]];
    let hosts = hosts.map(|parts| parts.join("."));
    let mut found = Vec::new();
    for (name, path) in files("") {
        let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        for (number, line) in (1..).zip(text.lines()) {
            let names = |host: &String| {
                // `crates.io-index` in the lock file is the name of a repository.
                line.match_indices(host.as_str()).any(|(at, host)| {
                    !line[at + host.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '-')
                })
            };
            if hosts.iter().any(names) {
                found.push(format!("{name}:{number}: {line}"));
            }
        }
    }
    assert_none(&found, "the machine's configuration says where packages come from");
}
