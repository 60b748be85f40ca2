//! README.md and docs/ agree with the program: keys, defaults, queries, variables and configurations.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use hooktrail::internals::config::{self, Config, Durability, LoadedConfig};
use hooktrail::internals::verify::{PRESETS, Scheme};
use rusqlite::Connection;

use crate::architecture::sources;
use crate::support::server::{HOOKTRAIL, scenario};

/// A configuration with a source and a handler.
const MINIMAL: &str = "[sources.a]\n[handlers.h]\nsources = ['a']\ncommand = ['true']\n";

mod cli_reference;
mod guides;
mod language;
mod links;
mod names;
mod operations;
mod reference;
mod scaling;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn page(name: &str) -> String {
    fs::read_to_string(repository().join(name)).unwrap()
}

/// README.md and the pages of docs/, by their paths.
fn documentation_pages() -> Vec<String> {
    let entries = fs::read_dir(repository().join("docs")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names = names.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}"));
    let mut names: Vec<String> = names.chain(["README.md".to_owned()]).collect();
    names.sort();
    names
}

/// The cells of every table row of a page, without the header rows.
fn rows(page: &str) -> Vec<Vec<&str>> {
    let lines: Vec<&str> = page.lines().collect();
    let is_header = |at: usize| lines.get(at + 1).is_some_and(|next| next.starts_with("|---"));
    let rows = (0..lines.len()).filter(|&at| lines[at].starts_with("| ") && !is_header(at));
    rows.map(|at| lines[at].trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

/// The texts in code font of a line.
fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The fenced code blocks of a language.
pub fn blocks(page: &str, language: &str) -> Vec<String> {
    let open = format!("```{language}\n");
    let after = page.split(&open).skip(1);
    after.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// Loads a configuration. An error has all messages.
fn load(folder: &Path, text: &str) -> Result<Config, String> {
    let file = folder.join("config.toml");
    fs::write(&file, text).unwrap();
    config::load(&file)
        .map(|LoadedConfig { config, .. }| config)
        .map_err(|errors| errors.to_string())
}

/// The keys of `verify`, those of all schemes.
fn keys_of_verify() -> BTreeSet<String> {
    let folder = tempfile::tempdir().unwrap();
    let keys = |scheme| {
        let before = format!("sources.a.verify.scheme = '{scheme}'\n");
        keys_of_table(folder.path(), "sources.a.verify", &before)
    };
    Scheme::names().flat_map(keys).collect()
}

/// The keys of a table, as the error of an unknown key lists them. `before`: lines that the table needs.
fn keys_of_table(folder: &Path, table: &str, before: &str) -> BTreeSet<String> {
    let path = if table.is_empty() { String::new() } else { format!("{table}.") };
    // This name is similar to no key, so the error lists all keys.
    let errors =
        load(folder, &complete(&format!("{before}{path}qqqqqqqqqqqqq = 0\n"))).unwrap_err();
    let listed = errors.lines().find_map(|line| line.split(" is unknown: expected ").nth(1));
    let keys = listed.expect(&errors).split(", ").flat_map(|part| part.split(" or "));
    keys.map(str::to_owned).collect()
}

/// The text of a cell that is one code span.
fn code(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`').filter(|code| !code.contains('`'))
}

#[test]
fn each_key_of_the_configuration_reference_exists_and_has_its_default() {
    let folder = tempfile::tempdir().unwrap();
    let expected = load(folder.path(), MINIMAL).unwrap();
    let page = page("docs/configuration.md");
    let mut count = 0;
    for row in rows(&page) {
        let Some(key) = code(row[0]).filter(|key| key.contains('.')) else { continue };
        count += 1;
        let name = if key.starts_with("sources") { "a" } else { "h" };
        let with_name = |text: &str| text.replace("NAME", name);
        if let Some(default) = code(row[1]) {
            // `window` needs a key in the same table.
            let dedupe = key.contains("dedupe").then_some("sources.a.dedupe.body = true\n");
            let dedupe = dedupe.unwrap_or_default();
            let line = format!("{dedupe}{} = {}\n", with_name(key), with_name(default));
            let mut loaded = load(folder.path(), &complete(&line)).unwrap();
            loaded.sources.iter_mut().for_each(|source| source.dedupe = config::Dedupe::Preset);
            for handler in loaded.handlers.iter_mut().filter(|handler| handler.url().is_some()) {
                handler.kind = expected.handlers[0].kind.clone();
            }
            assert_eq!(loaded, expected, "{key} = {default}");
        } else {
            let errors = load(folder.path(), &complete(&format!("{} = 0\n", with_name(key))));
            let errors = errors.err().unwrap_or_default();
            assert!(!errors.contains("unknown") && !errors.contains("not yet"), "{key}: {errors}");
        }
    }
    assert!(count > 30, "only {count} keys");
}

/// Adds a source and a handler to a line, in a form in which the line may be a key of either.
fn complete(line: &str) -> String {
    let is_key = |key: &str| line.starts_with(&format!("{key} "));
    let mut text = line.to_owned();
    if !is_key("handlers.h.sources") {
        text.push_str("handlers.h.sources = ['a']\n");
    }
    // Either a command or a URL.
    let url = ["url", "headers", "forward_headers", "sign", "proxy"];
    if url[1..].iter().any(|key| is_key(&format!("handlers.h.{key}"))) {
        text.push_str("handlers.h.url = 'https://example.com'\n");
    } else if !is_key("handlers.h.command") && !is_key("handlers.h.url") {
        text.push_str("handlers.h.command = ['true']\n");
    }
    if !line.starts_with("sources.a.verify") {
        text.push_str("sources.a.verify = { scheme = 'none' }\n");
    }
    text
}

/// A configuration without the tables that the first line of a block replaces.
fn without_replaced_tables(config: &str, block: &str) -> String {
    let first = block.lines().next().unwrap_or_default();
    let replaced = first.strip_prefix("# In place of ").unwrap_or_default();
    let mut is_replaced = false;
    let lines = config.lines().filter(|line| {
        if line.starts_with('[') {
            is_replaced = replaced.contains(line.trim());
        }
        !is_replaced
    });
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_configurations_of_a_page_pasted_in_their_order_below_the_shipped_one_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    for name in documentation_pages() {
        let mut config = page("config.toml");
        for block in blocks(&page(&name), "toml") {
            config = format!("{}\n{block}", without_replaced_tables(&config, &block));
            let loaded = load(folder.path(), &config);
            assert!(loaded.is_ok(), "{name}: {block}{}", loaded.unwrap_err());
        }
    }
}

/// The names of an object's fields.
fn fields(json: &str) -> Vec<String> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(json).unwrap();
    object.keys().cloned().collect()
}

#[test]
fn the_alert_and_the_input_line_on_the_pages_have_the_fields_of_real_ones() {
    let write_input = "cat > \"$HOOKTRAIL_HANDLER\"";
    let server = scenario()
        .source("a", "")
        .handler("dead", "", "exit 65")
        .handler("lines", "mode = \"batch\"\nbatch_wait = \"1ms\"", write_input)
        .handler("alert", "", write_input)
        .handler_source("alert", "hooktrail")
        .handler("settled", "when = '.type == \"job.settled\"'\nconcurrency = 1", write_input)
        .handler_source("settled", "hooktrail")
        .start();
    let headers = "Content-Type: application/json\r\n";
    server.request("POST", "/hooks/a", headers, br#"{"contact_id":"1"}"#);
    server.until("select count(*) from trail where settled_at is not null", "4");
    for (name, handlers) in
        [("docs/alerts.md", &["alert", "settled"][..]), ("docs/handlers.md", &["lines"])]
    {
        let shown = blocks(&page(name), "json");
        assert_eq!(shown.len(), handlers.len(), "{name}: {shown:?}");
        for (shown, handler) in shown.iter().zip(handlers) {
            assert_eq!(fields(shown), fields(&server.read_file(handler)), "{name}");
        }
    }
}

#[test]
fn every_sender_has_its_line_in_the_table_and_a_section() {
    let folder = tempfile::tempdir().unwrap();
    let senders = page("docs/senders.md");
    for scheme in PRESETS {
        let named = format!("{{ scheme = \"{}\",", scheme.name);
        let examples = blocks(&senders, "toml").into_iter().filter(|block| block.contains(&named));
        assert!(examples.count() >= 1, "docs/senders.md: {}", scheme.name);
        let row = rows(&senders).into_iter().find(|row| row[1].contains(&named));
        let verify = row.and_then(|row| code(row[1])).unwrap_or_else(|| panic!("{}", scheme.name));
        let loaded = load(folder.path(), &format!("[sources.a]\nverify = {verify}\n"));
        assert!(loaded.is_ok(), "docs/senders.md: {}", loaded.unwrap_err());
        assert!(senders.contains(&format!("verify = {}", verify.split("NAME").next().unwrap())));
    }
}

/// A new database.
fn new_database() -> (tempfile::TempDir, Connection) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hooktrail.db");
    let store = hooktrail::internals::store::open(&path, Durability::Full).unwrap();
    (folder, store.conn)
}

#[test]
fn every_query_of_the_database_page_runs() {
    let (_folder, conn) = new_database();
    let blocks = blocks(&page("docs/database.md"), "sql");
    assert!(blocks.len() > 5);
    for query in blocks.iter().flat_map(|block| block.split(';')) {
        // Only the sqlite3 program has `writefile`.
        if !query.trim().is_empty() && !query.contains("writefile(") {
            let prepared = conn.prepare(query).map(|_| ());
            assert_eq!(prepared, Ok(()), "{query}");
        }
    }
}

#[test]
fn the_backup_command_ends_while_webhooks_arrive_and_copies_earlier_events() {
    let page = page("docs/database.md");
    let command = blocks(&page, "sh").into_iter().find(|block| block.contains("copy.db"));
    let command = command.expect("a backup command").replace("hooktrail.db", "t.db");
    let server = scenario().source("a", "").start();
    let before = server.post("/hooks/a", "x").event_id();
    let copied = AtomicBool::new(false);
    let ran = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !copied.load(Ordering::Relaxed) {
                server.post("/hooks/a", "x");
            }
        });
        let limited = ["60", "sh", "-c", &command];
        let programs = Path::new(HOOKTRAIL).parent().unwrap().display();
        let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
        let mut ran = Command::new("timeout");
        let ran = ran.args(limited).env("PATH", path).current_dir(server.path()).status();
        copied.store(true, Ordering::Relaxed);
        ran.unwrap()
    });
    assert!(ran.success(), "{command}: {ran}");
    let copy = Connection::open(server.path().join("copy.db")).unwrap();
    let holds = "select count(*) from events where id <= ?1";
    assert_eq!(copy.query_row(holds, [before], |row| row.get(0)), Ok(before));
}

#[test]
fn a_handler_gets_the_variables_that_its_page_lists() {
    let server = scenario().source("a", "").handler("h", "split = \".\"", "env").start();
    server.post("/hooks/a", "body");
    server.until("select succeeded from trail", "1");
    let found = server.value("select cast(stdout as text) from attempts");
    let names = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.filter(|word| word.starts_with("HOOKTRAIL_")).map(str::to_owned).collect()
    };
    let lines = found.lines().filter_map(|line| line.split('=').next());
    let page = page("docs/handlers.md");
    let listed: String = rows(&page).iter().map(|row| format!("{} ", row[0])).collect();
    assert_eq!(names(&lines.collect::<Vec<_>>().join(" ")), names(&listed));
}

#[test]
fn the_configuration_reference_has_every_key() {
    let folder = tempfile::tempdir().unwrap();
    let page = page("docs/configuration.md");
    let tables = ["server", "admin", "store", "workers", "sources.a", "handlers.h"];
    for table in tables.into_iter().chain(["handlers.h.retry", "handlers.h.breaker"]) {
        for key in keys_of_table(folder.path(), table, "") {
            let key = format!("{table}.{key}").replace(".a.", ".NAME.").replace(".h.", ".NAME.");
            let has_row =
                page.contains(&format!("| `{key}` |")) || page.contains(&format!("| `{key}."));
            assert!(has_row, "docs/configuration.md has no {key}");
        }
    }
}

#[test]
fn each_guarantee_names_tests_that_exist() {
    let page = page("README.md");
    let section = page.split("\n## ").find(|part| part.starts_with("Guarantees\n")).unwrap();
    let code: String =
        ["src", "tests"].into_iter().flat_map(sources).map(|source| source.text).collect();
    let exists = |name: &&str| {
        let head = format!("fn {name}() {{");
        code.lines().zip(code.lines().skip(1)).any(|(attribute, line)| {
            line.trim_start() == head && attribute.trim_start() == "#[test]"
        })
    };
    let start = |number: usize| section.find(&format!("\n{number}. "));
    let guarantees = (1..).map_while(|number| {
        let end = start(number + 1).unwrap_or(section.len());
        start(number).map(|start| &section[start..end])
    });
    let mut count = 0;
    for guarantee in guarantees {
        count += 1;
        let named: Vec<&str> = code_spans(guarantee).filter(|word| word.contains('_')).collect();
        assert!(!named.is_empty(), "no test is named:{guarantee}");
        let missing: Vec<_> = named.into_iter().filter(|name| !exists(name)).collect();
        assert!(missing.is_empty(), "there are no such tests: {missing:?}");
    }
    assert!(count >= 6, "{count} guarantees");
}
