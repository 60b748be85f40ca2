//! Names in code font in README.md and docs/ exist in the program: views and columns, configuration keys,
//! commands and flags, environment variables, files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Command;

use super::cli_reference::command_line;
use super::links::prose_lines;
use super::{documentation_pages, keys_of_table, keys_of_verify, new_database, page, repository};

/// A name in code font, where it stands.
struct Span {
    place: String,
    /// The text of the line before it.
    before: String,
    text: String,
}

/// All code spans outside fenced blocks. A span may go on in the next line.
fn spans() -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for name in documentation_pages() {
        let text = page(&name);
        let mut is_open = false;
        for (number, line) in prose_lines(&text) {
            is_open &= !line.is_empty();
            let mut parts = line.split('`').peekable();
            let mut before = String::new();
            while let Some(part) = parts.next() {
                match spans.last_mut().filter(|_| is_open && before.is_empty()) {
                    Some(begun) => begun.text = format!("{} {part}", begun.text).trim().to_owned(),
                    None if is_open => spans.push(Span {
                        place: format!("{name}:{number}"),
                        before: before.clone(),
                        text: part.to_owned(),
                    }),
                    None => {}
                }
                before.push_str(part);
                before.push('`');
                is_open ^= parts.peek().is_some();
            }
        }
    }
    assert!(spans.len() > 500, "{} code spans", spans.len());
    spans
}

/// Fails with all spans for which `wrong` gives a reason.
fn check(wrong: impl Fn(&Span) -> Option<String>) {
    let found = spans();
    let wrong = found.iter().filter_map(|span| {
        wrong(span).map(|reason| format!("{}: `{}`: {reason}", span.place, span.text))
    });
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn is_word(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(is_part)
}

/// Names of the schema.
struct Schema {
    views: BTreeSet<String>,
    /// `table.column`
    columns: BTreeSet<String>,
}

impl Schema {
    fn read() -> Self {
        let (_folder, conn) = new_database();
        let names = |sql: &str| -> BTreeSet<String> {
            let mut select = conn.prepare(sql).unwrap();
            select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        };
        Self {
            views: names("select name from sqlite_master where type = 'view'"),
            columns: names(
                "select m.name || '.' || c.name from sqlite_master m, pragma_table_info(m.name) c",
            ),
        }
    }
}

#[test]
fn a_view_and_a_column_that_a_page_names_exist() {
    let schema = Schema::read();
    check(|Span { before, text, .. }| {
        let before = before.trim_end_matches(['`', '[']).trim_end();
        if before.ends_with("view") || before.ends_with("views") {
            return (!schema.views.contains(text)).then(|| "there is no such view".to_owned());
        }
        let (table, column) = text.split_once('.')?;
        let is_readable = schema.views.contains(table) || ["events", "attempts"].contains(&table);
        (is_readable && is_word(column) && !schema.columns.contains(text))
            .then(|| format!("{table} has no such column"))
    });
}

fn is_configuration_table(name: &str) -> bool {
    ["handlers", "sources"].contains(&name)
}

/// The tables of config.toml as `a.b`, and the keys of each as the program lists them.
struct Keys(Vec<(&'static str, BTreeSet<String>)>);

impl Keys {
    fn read() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tables = [
            ("", "", ""),
            ("server", "server", ""),
            ("admin", "admin", ""),
            ("store", "store", ""),
            ("store.retention", "store.retention", ""),
            ("workers", "workers", ""),
            ("sources", "sources.a", ""),
            ("sources.dedupe", "sources.a.dedupe", "sources.a.dedupe.body = true\n"),
            ("sources.handshake", "sources.a.handshake", "sources.a.handshake.respond = '.'\n"),
            ("sources.retention", "sources.a.retention", ""),
            ("sources.respond", "sources.a.respond", ""),
            ("sources.jetstream", "sources.a.jetstream", "sources.a.jetstream.stream = 's'\n"),
            ("handlers", "handlers.h", ""),
            ("handlers.jetstream", "handlers.h.jetstream", "handlers.h.jetstream.stream = 's'\n"),
            ("handlers.retry", "handlers.h.retry", ""),
            ("handlers.breaker", "handlers.h.breaker", ""),
            ("handlers.unique_by", "handlers.h.unique_by", "handlers.h.unique_by.jq = '.'\n"),
        ];
        let mut all = Vec::new();
        for (name, table, before) in tables {
            all.push((name, keys_of_table(folder.path(), table, before)));
        }
        all.push(("sources.verify", keys_of_verify()));
        all.push(("secret", ["file", "env", "credential"].map(str::to_owned).into()));
        Self(all)
    }

    fn has(&self, table: &str, key: &str) -> bool {
        self.0.iter().any(|(name, keys)| *name == table && keys.contains(key))
    }

    fn is_table(&self, table: &str) -> bool {
        self.0.iter().any(|(name, _)| *name == table)
    }

    fn is_key_of_any(&self, key: &str) -> bool {
        self.0.iter().any(|(_, keys)| keys.contains(key))
    }

    /// Whether `a.b.c` is a key from the top, the name of a source or handler included.
    fn has_path(&self, path: &str) -> bool {
        let mut parts: Vec<&str> = path.split('.').collect();
        if is_configuration_table(parts[0]) {
            if parts.len() < 3 {
                return true;
            }
            parts.remove(1);
        }
        let (key, table) = parts.split_last().unwrap();
        // The names in `env` and `headers` are the user's.
        let is_users = matches!(table.last(), Some(&("env" | "headers")));
        is_users || self.has(&table.join("."), key) || self.is_table(&parts.join("."))
    }
}

#[test]
fn a_configuration_key_that_a_page_names_exists() {
    let keys = Keys::read();
    check(|Span { text, .. }| {
        let missing = || Some("there is no such configuration key".to_owned());
        if let Some(table) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let top = table.split('.').next().unwrap();
            let is_other = ["", "redacted", "Service"].contains(&top) || !is_word(top);
            return (!is_other && !keys.has("", top)).then(missing)?;
        }
        if let Some((key, value)) = text.split_once(" = ") {
            let is_toml = value.starts_with(|c: char| "\"'[{".contains(c) || c.is_ascii_digit())
                || ["true", "false"].contains(&value);
            let is_jq = key.contains(['|', '(']);
            let key = key.trim_start_matches(['{', ' ']).rsplit('.').next().unwrap();
            let is_toml = is_toml && !is_jq;
            return (is_toml && is_word(key) && !keys.is_key_of_any(key)).then(missing)?;
        }
        let parts: Vec<&str> = text.split('.').collect();
        let is_name = |part: &&str| is_word(part) || **part == *"NAME" || part.contains('-');
        if parts.len() < 2 || !parts.iter().all(is_name) {
            return None;
        }
        if keys.has("", parts[0]) {
            return (!keys.has_path(text)).then(missing)?;
        }
        // `breaker.threshold` is short for `handlers.NAME.breaker.threshold`.
        let short = ["sources", "handlers"].map(|top| format!("{top}.{}", parts[0]));
        let tables: Vec<&String> = short.iter().filter(|table| keys.is_table(table)).collect();
        (!tables.is_empty() && !tables.iter().any(|table| keys.has(table, parts[1])))
            .then(missing)?
    });
}

/// The texts of the program between quotes, with what schema.sql and the shipped files name.
fn program_words() -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    let split = |text: &str, words: &mut BTreeSet<String>| {
        let parts = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        words.extend(parts.filter(|part| part.contains('_')).map(str::to_owned));
    };
    let sources = files_under(&repository().join("src")).into_iter();
    // Former keys are names that the program knows and a page must not use.
    for path in sources.filter(|path| !path.ends_with("config/former_keys.rs")) {
        let text = fs::read_to_string(&path).unwrap();
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for quoted in line.split('"').skip(1).step_by(2) {
                split(quoted, &mut words);
            }
            // A column of a query that has several lines.
            let column = line.split(" AS ").nth(1).and_then(|rest| rest.split([',', ' ']).next());
            split(column.unwrap_or_default(), &mut words);
        }
    }
    let shipped = ["schema.sql", "config.toml", "tests/payloads/paminga-form.json"];
    for name in shipped {
        split(&page(name), &mut words);
    }
    words
}

fn files_under(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { files_under(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|end| end == "rs" || end == "jq"))
        .collect()
}

#[test]
fn a_name_with_underscores_that_a_page_gives_is_in_the_program() {
    let (keys, schema, words) = (Keys::read(), Schema::read(), program_words());
    let tests: String = files_under(&repository().join("tests"))
        .iter()
        .chain(&files_under(&repository().join("src")))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    check(|Span { text, .. }| {
        let is_name = is_word(text) && text.contains('_');
        let is_known = keys.is_key_of_any(text)
            || schema.views.contains(text)
            || schema.columns.iter().any(|column| column.ends_with(&format!(".{text}")))
            || words.contains(text)
            || tests.contains(&format!("fn {text}()"))
            || is_foreign(text);
        (is_name && !is_known).then(|| "the program has no such name".to_owned())
    });
}

/// Names of what a user writes, of proxies, and of a sender's fields.
fn is_foreign(name: &str) -> bool {
    let proxies = ["buffer_requests", "client_max_body_size", "proxy_pass"];
    ["last_seen", "contact_id", "sg_event_id"].iter().chain(&proxies).any(|other| *other == name)
}

/// Flags with `--`, of the program and of this command.
fn flags(command: &Command) -> BTreeSet<String> {
    let longs = command.get_arguments().filter_map(|arg| arg.get_long());
    let shorts = command.get_arguments().filter_map(|arg| arg.get_short());
    longs.map(|long| format!("--{long}")).chain(shorts.map(|short| format!("-{short}"))).collect()
}

/// The problem of a command line that begins with `hooktrail`.
fn command_error(cli: &Command, line: &str) -> Option<String> {
    let line = line.trim_start_matches("sudo -u hooktrail ").trim_start_matches("sudo ");
    let line = line.split(['#', '|', '>', ';', '&']).next().unwrap();
    let mut words = line.split_whitespace().skip(1);
    let (mut name, mut allowed) = ("hooktrail", flags(cli));
    while let Some(word) = words.next() {
        let flag = word.split('=').next().unwrap();
        if is_flag(flag) && !allowed.contains(flag) {
            return Some(format!("{name} has no flag {flag}"));
        }
        if word == "--config" {
            words.next();
        } else if name == "hooktrail" && is_word(word) {
            let Some(command) = cli.find_subcommand(word) else {
                return Some(format!("there is no command {word}"));
            };
            (name, allowed) = (word, flags(command));
        }
    }
    None
}

fn is_flag(word: &str) -> bool {
    let name = word.strip_prefix("--").or(word.strip_prefix('-')).unwrap_or_default();
    let is_part = |c: char| c.is_ascii_lowercase() || c == '-';
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(is_part)
}

#[test]
fn a_command_and_a_flag_that_a_page_names_exist() {
    let cli = command_line();
    let all: BTreeSet<String> = cli.get_subcommands().chain([&cli]).flat_map(flags).collect();
    check(|Span { text, .. }| {
        if text.trim_start_matches("sudo -u hooktrail ").starts_with("hooktrail ") {
            return command_error(&cli, text);
        }
        let flag = text.split([' ', '=']).next().unwrap();
        (flag.starts_with("--") && is_flag(flag) && !all.contains(flag))
            .then(|| "there is no such flag".to_owned())
    });
}

#[test]
fn commands_in_shell_blocks_exist_with_their_flags() {
    let cli = command_line();
    let mut wrong = Vec::new();
    for name in documentation_pages() {
        for block in super::blocks(&page(&name), "sh") {
            let as_service = "sudo -u hooktrail ";
            let lines = block.lines().filter(|line| {
                let line = line.trim_start_matches(as_service).trim_start_matches("sudo ");
                line.starts_with("hooktrail ")
            });
            for line in lines {
                wrong.extend(command_error(&cli, line).map(|why| format!("{name}: {line}: {why}")));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn an_environment_variable_that_a_page_names_exists() {
    let mut known = BTreeSet::new();
    for path in files_under(&repository().join("src")) {
        for line in fs::read_to_string(&path).unwrap().lines() {
            for quoted in line.split('"').skip(1).step_by(2) {
                known.insert(quoted.to_owned());
                // The variables of a handler are listed without their prefix.
                known.insert(format!("HOOKTRAIL_{quoted}"));
            }
        }
    }
    let tests = ["HOOKTRAIL_UPDATE_DOCS", "HOOKTRAIL_TEST_OFFLINE"];
    check(|Span { text, .. }| {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let mut named = words.filter(|word| word.starts_with("HOOKTRAIL_"));
        let unknown = named.find(|word| {
            *word != "HOOKTRAIL_" && !known.contains(*word) && !tests.contains(word)
        })?;
        Some(format!("there is no environment variable {unknown}"))
    });
}

#[test]
fn a_file_that_a_page_names_exists() {
    let folders = [
        "src/",
        "tests/",
        "docs/",
        "systemd/",
        "benches/",
        "examples/",
        "fuzz/",
        "monitoring/",
        "packaging/",
    ];
    let sources: String = files_under(&repository().join("src"))
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    check(|Span { text, .. }| {
        let is_ours = folders.iter().any(|folder| text.starts_with(folder))
            || (text.ends_with(".md") && !text.contains(['/', ' ']))
            || text == "schema.sql";
        if is_ours && !text.contains(['*', ' ']) && !repository().join(text).exists() {
            return Some("there is no such file".to_owned());
        }
        // Files beside the database: `hooktrail.db-wal`, `hooktrail.db.lock`, `hooktrail.rescued-TIME.db`.
        let suffix = text.strip_prefix("hooktrail.db").or(text.strip_prefix("hooktrail"))?;
        let name = suffix.split("TIME").next().unwrap();
        let is_beside = name.starts_with(['.', '-']) && !name.contains(' ');
        let name = name.trim_end_matches(|c: char| c.is_ascii_digit());
        (is_beside && !is_shipped(text) && !sources.contains(name))
            .then(|| "the server makes no such file".to_owned())
    });
}

/// Whether a file of this name comes with the program: `hooktrail.service`.
fn is_shipped(name: &str) -> bool {
    repository().join("systemd").join(name).exists()
}
