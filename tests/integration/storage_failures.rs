//! Storage failures: a full or failing disk, a file that is no valid database, and other programs that
//! lock it.

use std::fs;
use std::process::{Command, Stdio};

use rusqlite::Connection;

use crate::alerts::with_alert_handler;
use crate::support::server::{Server, cli, scenario, stderr, until};

/// Posts until the server responds 503, and returns the accepted events.
fn post_until_503(server: &Server, limit: usize) -> Vec<i64> {
    let body = vec![b'x'; 20_000];
    let mut accepted = Vec::new();
    for _ in 0..limit {
        let response = server.post("/hooks/a", &body);
        if response.status != 202 {
            assert_eq!(response.status, 503);
            return accepted;
        }
        accepted.push(response.event_id());
    }
    panic!("the server accepted {limit} events");
}

#[test]
fn a_full_disk_is_503_until_there_is_space_and_loses_no_event() {
    // Files are limited to 2 MiB. Only the soft limit is set, so that the test can raise it again.
    let server = scenario()
        .source("a", "")
        .wrapped_by(&["sh", "-c", "ulimit -S -f 4096; exec \"$@\"", "sh"])
        .start();
    let accepted = post_until_503(&server, 1000);
    until("the server is not ready", || server.request("GET", "/readyz", "", b"").status == 503);
    until("the log has the error", || server.log().contains("can't be written"));
    server.set_limit("--fsize=unlimited:");
    until("the server accepts events again", || server.post("/hooks/a", "x").status == 202);
    let stored = server.event_ids();
    assert!(accepted.iter().all(|event| stored.contains(event)));
    assert_eq!(server.value("pragma integrity_check"), "ok");
}

#[test]
fn an_outcome_that_cannot_be_written_is_written_later() {
    let server = scenario()
        .source("a", "")
        .handler("h", "", "[ -e go ] || { touch waits; until [ -e go ]; do sleep 0.01; done; }")
        .start();
    server.post("/hooks/a", "x");
    until("the job runs", || server.path().join("waits").exists());
    let lock = server.lock_database();
    server.write_file("go", "");
    until("the log names the holder", || server.log().contains("has held it for writing"));
    assert!(server.log().contains("(integration"), "the holder is not named: {}", server.log());
    assert_eq!(server.post("/hooks/a", "x").status, 503);
    drop(lock);
    server.until("select outcome from outcomes where job = 1", "succeeded");
    until("the server accepts events again", || server.post("/hooks/a", "x").status == 202);
}

#[test]
fn after_a_failed_sync_no_event_is_accepted() {
    let mut server = scenario().source("a", "").start();
    let mut accepted = vec![server.post("/hooks/a", "x").event_id()];
    let strace = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-p", &server.pid().to_string()])
        .args(["-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO"])
        .stdin(Stdio::null())
        .spawn();
    let mut strace = strace.expect("strace, which tests/run installs");
    // Until strace is attached, syncs succeed.
    until("a sync fails", || match server.try_request("POST", "/hooks/a", "", b"x") {
        Some(response) if response.status == 202 => {
            accepted.push(response.event_id());
            false
        }
        _ => true,
    });
    let rejected = server.try_request("POST", "/hooks/a", "", b"x");
    assert!(rejected.is_none_or(|response| response.status == 503));
    assert_eq!(server.wait_for_exit(), Some(1));
    until("the log has the reason", || server.log().contains("could not be synced"));
    let _ = strace.kill();
    let _ = strace.wait();
    server.start();
    let stored = server.event_ids();
    assert!(accepted.iter().all(|event| stored.contains(event)), "{accepted:?} {stored:?}");
}

#[test]
fn the_write_ahead_log_shrinks_after_a_reader_ends_its_snapshot() {
    let server = with_alert_handler("cat", "when = '.type == \"wal.blocked\"'")
        .source("a", "max_body_size = \"4 MiB\"")
        .start();
    let log = server.path().join("t.db-wal");
    let size = || fs::metadata(&log).map_or(0, |found| found.len());
    server.post("/hooks/a", "x");
    let reader = server.open_database();
    reader.execute_batch("begin; select count(*) from events").expect("a snapshot");
    let body = vec![b'x'; 4 << 20];
    while size() < 260 << 20 {
        assert_eq!(server.post("/hooks/a", &body).status, 202);
    }
    server.until("select count(*) from outcomes where handler = 'alert'", "1");
    let alert = server.value("select stdout from attempts");
    assert!(alert.contains("\"detail\":") && alert.contains("a reader keeps the file"), "{alert}");
    reader.execute_batch("commit").expect("the end");
    until("the write-ahead log shrinks", || size() <= 64 << 20);
}

/// Starts a server on a file that is no valid database. Returns the error; the file must be unchanged.
fn serve_with_database_file(create: impl FnOnce(&std::path::Path)) -> String {
    let scenario = scenario().source("a", "");
    scenario.write();
    let path = scenario.path().join("t.db");
    create(&path);
    let before = fs::read(&path).expect("the file");
    let output = cli(scenario.path(), &["serve"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert_eq!(fs::read(&path).expect("the file"), before);
    stderr(&output)
}

#[test]
fn a_file_that_is_no_database_is_rejected_and_unchanged() {
    let error = serve_with_database_file(|path| {
        fs::write(path, "not a database, but text ".repeat(200)).expect("a file")
    });
    assert!(error.contains("not an SQLite database"), "{error}");
}

#[test]
fn a_database_of_another_program_is_rejected_and_unchanged() {
    let error = serve_with_database_file(|path| {
        let conn = Connection::open(path).expect("a database");
        conn.execute_batch("create table t (x); insert into t values (1)").expect("a table");
    });
    assert!(error.contains("another program"), "{error}");
}

#[test]
fn a_database_of_a_newer_version_is_rejected_and_unchanged() {
    let mut server = scenario().start();
    assert_eq!(server.stop(), Some(0));
    server.open_database().execute_batch("pragma user_version = 99").expect("a version");
    let output = server.cli(&["serve"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("schema version 99"), "{}", stderr(&output));
    assert_eq!(server.value("pragma user_version"), "99");
}

#[test]
fn after_a_downgrade_the_error_names_the_copy_from_before_the_migration_and_its_restore_works() {
    let mut server = scenario().source("a", "").start();
    server.post("/hooks/a", "kept");
    assert_eq!(server.stop(), Some(0));
    // What a migration to a later version leaves.
    assert!(server.cli(&["backup", "t.db.v3"]).status.success());
    server.open_database().execute_batch("pragma user_version = 4; drop table events").unwrap();
    let output = server.cli(&["serve"]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let (_, command) = text.split_once("`hooktrail ").expect("a command");
    let command: Vec<&str> = command.split('`').next().unwrap().split(' ').collect();
    let restored = server.cli(&command);
    assert!(restored.status.success(), "{command:?}: {}", stderr(&restored));
    server.start();
    assert_eq!(server.column("select body from events"), ["kept"]);
}

#[test]
fn a_truncated_database_is_rejected_and_unchanged() {
    let error = serve_with_database_file(|path| {
        let conn = Connection::open(path).expect("a database");
        conn.execute_batch(include_str!("../../schema.sql")).expect("the schema");
        conn.execute_batch("pragma application_id = 1214993522; pragma user_version = 1")
            .expect("the numbers");
        drop(conn);
        let half = fs::read(path).expect("the file");
        fs::write(path, &half[..half.len() / 2]).expect("half of it");
    });
    assert!(error.contains("damaged") || error.contains("malformed"), "{error}");
}

#[test]
fn below_min_free_space_is_503_and_not_ready() {
    let server = scenario()
        .raw_config("[workers]\nthreads = 1")
        .source("a", "")
        .server("max_body_size = 100");
    let server = server.start();
    assert_eq!(server.request("GET", "/readyz", "", b"").status, 200);
    assert_eq!(server.request("GET", "/healthz", "", b"").status, 200);
    drop(server);
    let mut low = scenario().source("a", "").start();
    low.replace_in_config("min_free_space = 1024", "min_free_space = \"1000 TiB\"");

    assert_eq!(low.stop(), Some(0));
    low.start();
    let response = low.post("/hooks/a", "x");
    assert!(response.status == 503 && response.header("retry-after").is_some(), "{response:?}");
    assert_eq!(low.request("GET", "/readyz", "", b"").status, 503);
    assert_eq!(low.value("select count(*) from rejections"), "0");
}
