//! A database of each released schema is served by this version, also if its first start is killed.
//!
//! `tests/fixtures/vN.sql` is a database of schema version N as `sqlite3 .dump` prints it, and `vN.txt` what the views
//! show after its first start. `HOOKTRAIL_UPDATE_FIXTURES=1 tests/run --test integration upgrades::` writes those of the
//! present version. After its release the database never changes, and what the views show only by columns at their end.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rusqlite::Connection;
use rustix::process::Signal;

use crate::support::server::{
    Scenario, Server, display_value, scenario, send_signal, stdout, until,
};

/// The version that this program writes, as `tests/integration/architecture.rs` compares it with schema.sql.
const PRESENT: i64 = 3;

/// "Hktl".
const APPLICATION_ID: i64 = 0x486b_746c;

fn fixture(version: i64, suffix: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/v{version}.{suffix}"))
}

/// A configuration that runs no job.
fn idle_scenario() -> Scenario {
    scenario()
        .source("a", "")
        .handler("ok", "paused = true", "true")
        .handler("dies", "paused = true", "true")
        .handler("split", "paused = true", "true")
        .handler("slow", "paused = true", "true")
        .handler("held", "paused = true", "true")
}

/// Writes a fixture as the database of a stopped server.
fn write_database(server: &Server, version: i64) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(server.path().join(format!("t.db{suffix}")));
    }
    let conn = Connection::open(server.path().join("t.db")).expect("a database");
    let dump = fs::read_to_string(fixture(version, "sql")).expect("a fixture");
    conn.execute_batch("PRAGMA page_size = 4096; PRAGMA auto_vacuum = 2;").unwrap();
    conn.execute_batch(&dump).expect("a dump");
    conn.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
    conn.pragma_update(None, "user_version", version).unwrap();
}

/// What people see of a database.
fn shown(server: &Server) -> String {
    let mut text = String::new();
    for view in ["trail", "outcomes", "dead_jobs", "rejections", "audit_log", "breaker_log"] {
        text += &format!("# {view}\n");
        for row in server.rows(&format!("select * from {view} order by 1")) {
            let values: Vec<String> = row.iter().map(display_value).collect();
            text += &format!("{}\n", values.join(" | "));
        }
    }
    text += "# bodies\n";
    for body in
        server.column("select id || ' ' || coalesce(cast(body as text), 'removed') from events")
    {
        text += &format!("{body}\n");
    }
    text
}

/// What a start changes by the time at which it happens: the end of an attempt that ran.
fn without_start_time(text: &str) -> String {
    let line = |line: &str| match line.contains("| interrupted |") {
        true => line
            .split(" | ")
            .enumerate()
            .filter(|(n, _)| ![1, 9, 10].contains(n))
            .map(|(_, value)| value)
            .collect::<Vec<_>>()
            .join(" | "),
        false => line.to_owned(),
    };
    text.lines().map(|text| line(text) + "\n").collect()
}

/// Writes the fixture of the present version: a database with jobs in each state, whose server was killed.
fn update_fixture() {
    let mut server = scenario()
        .source("a", "dedupe = { header = \"X-Id\" }")
        .handler("ok", "when = '.ok'", "echo out; echo err >&2")
        .handler("dies", "when = '.dies'\nretry = { max_attempts = 1 }", "echo reason >&2; exit 1")
        .handler("split", "when = '.items'\nsplit = '.items[]'\nordering_key = '.'", "cat")
        .handler("slow", "when = '.slow'", "sleep 60")
        .handler(
            "held",
            "when = '.held'\npaused = true\nunique_by = { jq = '.id', window = '7d' }",
            "true",
        )
        .start();
    let bodies = [
        r#"{"ok":true}"#,
        r#"{"dies":true}"#,
        r#"{"items":[1,2]}"#,
        r#"{"held":true,"id":1}"#,
        r#"{"ok":true,"erased":true}"#,
        r#"{"none":true}"#,
    ];
    for (number, body) in bodies.iter().enumerate() {
        let headers = format!("Content-Type: application/json\r\nX-Id: {number}\r\n");
        for body in [*body, &body.replace('}', ",\"again\":true}")] {
            assert_eq!(server.request("POST", "/hooks/a", &headers, body.as_bytes()).status, 202);
        }
    }
    assert_eq!(server.post("/hooks/unknown", "x").status, 404);
    server.until("select count(*) from trail where settled_at is null", "1");
    server.until("select count(*) from rejections", "1");
    assert!(server.cli(&["erase", "5"]).status.success());
    server.post("/hooks/a", r#"{"slow":true}"#);
    server.until("select sum(running) from trail", "1");
    server.kill();
    let dump = Command::new("sqlite3").arg(server.path().join("t.db")).arg(".dump").output();
    let dump = String::from_utf8(dump.expect("sqlite3").stdout).expect("text");
    fs::write(fixture(PRESENT, "sql"), dump).unwrap();
    let mut reader = idle_scenario().prepare();
    write_database(&reader, PRESENT);
    reader.start();
    fs::write(fixture(PRESENT, "txt"), without_start_time(&shown(&reader))).unwrap();
}

#[test]
fn a_database_of_each_released_schema_keeps_its_rows() {
    if std::env::var_os("HOOKTRAIL_UPDATE_FIXTURES").is_some() {
        update_fixture();
    }
    for version in 1..=PRESENT {
        let mut server = idle_scenario().prepare();
        write_database(&server, version);
        server.start();
        let expected = fs::read_to_string(fixture(version, "txt")).expect("what the views show");
        assert_eq!(without_start_time(&shown(&server)), expected, "version {version}");
        assert!(server.cli(&["verify"]).status.success());
        assert_eq!(server.value("pragma user_version"), PRESENT.to_string());
        assert_eq!(server.post("/hooks/a", "{}").event_id(), 8);
    }
}

#[test]
fn a_backup_of_each_released_schema_is_verified_and_restored() {
    for version in 1..=PRESENT {
        let mut server = idle_scenario().prepare();
        write_database(&server, version);
        let [database, backup] = ["t.db", "old.db"].map(|name| server.path().join(name));
        fs::rename(database, &backup).unwrap();
        let verified = server.cli(&["verify", "old.db"]);
        assert!(verified.status.success(), "version {version}: {}", stdout(&verified));
        let tamper = |sql: &str| Connection::open(&backup).unwrap().execute(sql, []).unwrap();
        tamper("UPDATE events SET method = 'PUT' WHERE id = 2");
        let found = stdout(&server.cli(&["verify", "old.db"]));
        let problem = "a row was changed after it was sealed: event 2\n";
        assert!(found.contains(problem), "version {version}: {found}");
        tamper("UPDATE events SET method = 'POST' WHERE id = 2");
        assert!(server.cli(&["restore", "old.db"]).status.success(), "version {version}");
        server.start();
        assert_eq!(
            server.value(
                "select count(*) || ' ' || count(client) || ' ' || count(origin_key) from trail"
            ),
            "7 0 0"
        );
        assert!(server.cli(&["verify"]).status.success(), "version {version}");
    }
}

#[test]
fn the_fixture_of_the_present_version_has_the_present_schema() {
    let schema = |conn: &Connection| -> Vec<String> {
        let sql = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY name";
        let mut select = conn.prepare(sql).unwrap();
        let rows = select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap);
        rows.collect()
    };
    let server = idle_scenario().prepare();
    write_database(&server, PRESENT);
    let present = Connection::open_in_memory().unwrap();
    present.execute_batch(include_str!("../../schema.sql")).unwrap();
    assert_eq!(
        schema(&server.open_database()),
        schema(&present),
        "schema.sql has changed: add a migration, or before the release write the fixture again"
    );
}

#[test]
fn a_first_start_that_is_killed_at_any_write_is_completed_by_the_next() {
    for version in 1..=PRESENT {
        let expected = fs::read_to_string(fixture(version, "txt")).expect("what the views show");
        let mut kills = 0;
        for call in ["pwrite64", "fdatasync,fsync"] {
            for count in 1.. {
                let inject = format!("inject={call}:signal=SIGKILL:when={count}");
                let trace = format!("trace={call}");
                let mut server = idle_scenario()
                    .wrapped_by(&[
                        "strace",
                        "-f",
                        "-qq",
                        "-o",
                        "/dev/null",
                        "-e",
                        &trace,
                        "-e",
                        &inject,
                    ])
                    .prepare();
                write_database(&server, version);
                server.spawn();
                let mut is_killed = false;
                until("the server is killed or listens", || {
                    is_killed = server.has_ended();
                    is_killed || server.log().contains("listening for webhooks")
                });
                if !is_killed && kill_behind_wrapper(&mut server) {
                    break;
                }
                kills += 1;
                server.remove_wrapper();
                server.start();
                assert_eq!(without_start_time(&shown(&server)), expected, "{call} {count}");
                assert!(server.cli(&["verify"]).status.success(), "{call} {count}");
            }
        }
        assert!(kills >= 10, "only {kills} places");
    }
}

/// Kills a server that a wrapper started, because the wrapper would leave it running. Returns false if it has ended.
fn kill_behind_wrapper(server: &mut Server) -> bool {
    let status = stdout(&server.cli(&["status", "--json"]));
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let pid = status["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    let is_killed = pid.is_some_and(|pid| send_signal(pid, Signal::KILL).is_ok());
    server.wait_for_exit();
    is_killed
}
