//! The house's invariants, each an absence: read from the sources, not from the program.
//!
//! What fails here is a wall that was walked through. Where the wall is in the wrong place, move it
//! here, and say why in the commit.

use std::collections::BTreeMap;
use std::fs;

use hooktrail::config::Durability;

use source::{Source, files, sources, top};

mod source;

/// Each room and those it may know, which all stand above it: so imports go one way.
const MAY_KNOW: [(&str, &[&str]); 27] = [
    ("domain", &[]),
    ("json", &[]),
    ("multipart", &[]),
    ("clock", &["domain"]),
    ("escape", &[]),
    ("redact", &[]),
    ("log", &["clock", "domain", "escape", "redact"]),
    ("notify", &[]),
    ("process", &["clock", "domain"]),
    // Before config, which finds faults in expressions.
    ("expression", &["clock", "domain", "json", "multipart", "process"]),
    ("config", &["clock", "domain", "expression"]),
    // Of config only how durable the file is to be: see `the_store_knows_one_setting`.
    ("store", &["clock", "config", "domain"]),
    // Rooms that decide: no I/O, no store, no clock.
    ("scheduler", &["config", "domain"]),
    ("planner", &["config", "domain", "expression"]),
    ("verify", &["config", "domain", "json", "multipart", "planner"]),
    ("handler", &["clock", "config", "domain", "json", "process"]),
    // Rooms that coordinate.
    (
        "worker",
        &[
            "clock",
            "config",
            "domain",
            "expression",
            "handler",
            "planner",
            "process",
            "scheduler",
            "store",
        ],
    ),
    ("dispatcher", &["clock", "config", "domain", "handler", "scheduler", "store", "worker"]),
    ("recovery", &["clock", "config", "domain", "process", "scheduler", "store", "worker"]),
    ("expander", &["domain", "expression", "planner", "store", "worker"]),
    ("replay", &["config", "domain", "expression", "planner", "store", "worker"]),
    (
        "maintenance",
        &["clock", "config", "domain", "expression", "planner", "notify", "store", "worker"],
    ),
    (
        "web",
        &[
            "clock",
            "config",
            "domain",
            "expression",
            "planner",
            "json",
            "multipart",
            "redact",
            "store",
            "verify",
        ],
    ),
    (
        "app",
        &[
            "clock",
            "config",
            "dispatcher",
            "domain",
            "expander",
            "expression",
            "handler",
            "planner",
            "log",
            "notify",
            "process",
            "scheduler",
            "recovery",
            "redact",
            "store",
            "maintenance",
            "web",
            "worker",
        ],
    ),
    (
        "cli",
        &[
            "app",
            "clock",
            "config",
            "domain",
            "escape",
            "expression",
            "handler",
            "planner",
            "json",
            "log",
            "process",
            "scheduler",
            "redact",
            "replay",
            "store",
            "verify",
            "web",
            "worker",
        ],
    ),
    ("main", &["cli"]),
    ("lib", &[]),
];

const OPENING_LINES_MAX: usize = 12;

#[track_caller]
fn assert_none(found: &[String], rule: &str) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

/// Lines of code in `src` with one of `words`, but for files whose path begins with one of `but`.
fn lines_with(words: &[&str], but: &[&str]) -> Vec<String> {
    sources("src")
        .iter()
        .filter(|source| !but.iter().any(|path| source.path.starts_with(path)))
        .flat_map(|source| source.lines_where(|code| words.iter().any(|word| code.contains(word))))
        .collect()
}

#[test]
fn all_sql_is_in_the_store() {
    const WORDS: [&str; 14] = [
        "SELECT",
        "INSERT",
        "UPDATE",
        "REPLACE",
        "PRAGMA",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT",
        "VACUUM",
        "ATTACH",
        "CREATE",
        "ALTER",
        "DROP",
    ];
    let is_sql = |literal: &str| {
        let mut words = literal.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let lower = literal.to_ascii_lowercase();
        words.any(|word| WORDS.contains(&word))
            || ["delete from ", "insert into "].iter().any(|text| lower.contains(text))
            || (lower.contains("select ") && lower.contains(" from "))
    };
    let mut found = Vec::new();
    for source in sources("src").iter().filter(|source| source.room() != "store") {
        let sql = source.literals.iter().filter(|(_, literal)| is_sql(literal));
        found.extend(sql.map(|(line, literal)| format!("{}:{line}: {literal}", source.path)));
    }
    assert_none(&found, "SQL stands in src/store alone");
    let calls = [".execute(", ".execute_batch(", ".query_row(", ".query_map(", "pragma_update("];
    assert_none(&lines_with(&calls, &["src/store/"]), "src/store alone talks to SQLite");
}

#[test]
fn processes_start_in_one_room() {
    let words = [
        "Command::new(",
        "std::process::Command",
        "process::Command;",
        "posix_spawn",
        "::fork(",
        "::exec",
        "clone3",
    ];
    assert_none(&lines_with(&words, &["src/process"]), "src/process alone starts processes");
}

#[test]
fn the_server_writes_to_stderr_and_to_systemd_in_one_place() {
    let words = ["println!(", "print!(", "stderr()", "stdout()", "process::exit"];
    let but = ["src/log.rs", "src/cli/", "src/expression/evaluator_main.rs"];
    assert_none(&lines_with(&words, &but), "src/log.rs alone writes, as a write may block");
    let words = ["sd_notify::notify"];
    assert_none(&lines_with(&words, &["src/notify.rs"]), "src/notify.rs alone sends");
}

#[test]
fn time_and_chance_come_from_one_room() {
    let words = [
        "SystemTime",
        "UNIX_EPOCH",
        "Timestamp::now",
        "Zoned::now",
        "getrandom",
        "SystemRandom",
        "rand::",
        "thread_rng",
        "clock_gettime",
    ];
    assert_none(&lines_with(&words, &["src/clock.rs"]), "src/clock.rs alone asks for them");
}

#[test]
fn the_domain_is_not_serialised() {
    let is_domain = |source: &Source| source.path == "src/domain.rs";
    let domain = sources("src").into_iter().find(is_domain).unwrap();
    let found = domain.lines_where(|code| code.contains("serde") || code.contains("Serialize"));
    assert_none(&found, "how things look outside is decided where they leave");
}

#[test]
fn every_channel_has_a_bound() {
    let words = ["unbounded", "mpsc::channel"];
    assert_none(&lines_with(&words, &[]), "a channel without a bound is memory without one");
}

#[test]
fn nothing_is_unwrapped_outside_tests() {
    let words = [".unwrap()", ".expect(", "todo!(", "unimplemented!(", "dbg!("];
    assert_none(&lines_with(&words, &[]), "an error is given back, or has a place to go");
}

#[test]
fn unsafe_says_why_it_is_safe() {
    let mut found = Vec::new();
    for source in sources("src") {
        let text: Vec<&str> = source.text.lines().collect();
        for (at, code) in source.code.iter().enumerate() {
            let is_unsafe = code.split(|c: char| !c.is_alphanumeric() && c != '_');
            let above = &text[at.saturating_sub(8)..at];
            if is_unsafe.into_iter().any(|word| word == "unsafe")
                && !above.iter().any(|line| line.trim_start().starts_with("// SAFETY:"))
            {
                found.push(format!("{}:{}: {}", source.path, at + 1, text[at].trim()));
            }
        }
    }
    assert_none(&found, "`// SAFETY:` stands above");
}

/// The rooms that a file names: after `crate::`, after `hooktrail::` (in main.rs), and after as many
/// `super::` as lead there.
fn known(source: &Source) -> Vec<String> {
    let code = source.code.join("\n");
    let is_mod = source.path.ends_with("/mod.rs");
    let depth = source.path.matches('/').count() - usize::from(is_mod);
    let roots = ["crate::".to_owned(), "hooktrail::".to_owned(), "super::".repeat(depth)];
    let mut known = Vec::new();
    for root in roots {
        for (at, _) in code.match_indices(&root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':')) {
                continue;
            }
            known.extend(first_names(&code[at + root.len()..]));
        }
    }
    known.sort();
    known.dedup();
    known
}

/// `a` of `a::b`; `a` and `c` of `{a::b, c}`.
fn first_names(text: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        let text = text.trim_start();
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(list) = text.strip_prefix('{') else { return vec![name(text)] };
    let (mut depth, mut names, mut start) = (0, Vec::new(), 0);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(name(&list[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn imports_go_one_way() {
    let rooms: Vec<&str> = MAY_KNOW.iter().map(|(room, _)| *room).collect();
    for (at, (room, may)) in MAY_KNOW.iter().enumerate() {
        let above = |name: &&&str| rooms[..at].contains(name);
        assert!(may.iter().filter(above).count() == may.len(), "{room} knows one below it");
    }
    let may: BTreeMap<&str, &[&str]> = MAY_KNOW.into_iter().collect();
    let mut found = Vec::new();
    for source in sources("src") {
        let room = source.room();
        let Some(may) = may.get(room) else {
            found.push(format!("{}: {room} is a new room: say what it may know", source.path));
            continue;
        };
        let wrong = |name: &String| {
            rooms.contains(&name.as_str()) && name != room && !may.contains(&name.as_str())
        };
        let wrong = known(&source).into_iter().filter(wrong);
        found.extend(wrong.map(|name| format!("{}: {room} may not know {name}", source.path)));
    }
    assert_none(&found, "imports go one way (MAY_KNOW)");
}

#[test]
fn the_store_knows_one_setting() {
    let mut found = Vec::new();
    for source in sources("src").iter().filter(|source| source.room() == "store") {
        found.extend(source.lines_where(|code| {
            let names = code.match_indices("crate::config").map(|(at, it)| &code[at + it.len()..]);
            names.into_iter().any(|rest| !rest.starts_with("::Durability"))
        }));
    }
    assert_none(&found, "the store is told what it needs, it reads no configuration");
}

#[test]
fn a_file_opens_with_what_it_is() {
    let mut found = Vec::new();
    for source in ["src", "tests"].into_iter().flat_map(sources) {
        let opening = source.text.lines().take_while(|line| line.starts_with("//!")).count();
        if !(1..=OPENING_LINES_MAX).contains(&opening) {
            found.push(format!("{}: {opening} lines of //!", source.path));
        }
    }
    assert_none(&found, "1 to 12 lines say what it is and who calls it");
}

#[test]
fn the_schemas_file_says_the_version_that_is_made() {
    let schema = fs::read_to_string(top().join("schema.sql")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hooktrail.db");
    let made = hooktrail::store::open(&path, Durability::Full).unwrap();
    let pragma = made.conn.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    let says = format!("version {} (`PRAGMA user_version`)", pragma.unwrap());
    assert!(schema.lines().next().unwrap().contains(&says), "schema.sql begins with: {says}");
}

#[test]
fn no_file_names_a_registry() {
    // In parts, so that this file does not name them either.
    let hosts = [["crates", "io"], ["npmjs", "org"], ["pypi", "org"], ["rubygems", "org"]];
    let hosts = hosts.map(|parts| parts.join("."));
    let mut found = Vec::new();
    for (name, path) in files("") {
        let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        for (line, number) in text.lines().zip(1..) {
            let names = |host: &String| {
                // The lock file's `crates.io-index` is a repository's name.
                line.match_indices(host.as_str()).any(|(at, host)| {
                    !line[at + host.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '-')
                })
            };
            if hosts.iter().any(names) {
                found.push(format!("{name}:{number}: {line}"));
            }
        }
    }
    assert_none(&found, "where packages come from is the machine's affair");
}
