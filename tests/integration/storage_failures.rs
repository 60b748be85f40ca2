//! Disks that fill up or fail, files that are not ours, others who hold the file.

use std::fs;
use std::process::{Command, Stdio};

use rusqlite::Connection;

use crate::support::server::{Server, cli, err, out, scenario, text, until};

/// Posts until the answer is not 202; the events that were taken.
fn fill(server: &Server, at_most: usize) -> Vec<i64> {
    let body = vec![b'x'; 20_000];
    let mut taken = Vec::new();
    for _ in 0..at_most {
        let answer = server.post("/hooks/a", &body);
        if answer.status != 202 {
            assert_eq!(answer.status, 503);
            return taken;
        }
        taken.push(answer.event());
    }
    panic!("it never was full");
}

fn kept(server: &Server) -> Vec<i64> {
    let rows = server.rows("select id from events order by id");
    rows.iter().filter_map(|row| text(&row[0]).parse().ok()).collect()
}

#[test]
fn a_full_disk_is_503_until_there_is_space_and_loses_nothing() {
    // 2 MiB a file, and the soft limit alone: it can be raised again.
    let server = scenario()
        .source("a", "")
        .under(&["sh", "-c", "ulimit -S -f 4096; exec \"$@\"", "sh"])
        .start();
    let taken = fill(&server, 1000);
    until("it knows", || server.request("GET", "/readyz", "", b"").status == 503);
    until("it says so", || server.log().contains("can't be written"));
    let limit = format!("--pid={}", server.pid());
    let raised = Command::new("prlimit").args([&limit, "--fsize=unlimited:"]).status();
    assert!(raised.expect("prlimit").success());
    until("it takes some again", || server.post("/hooks/a", "x").status == 202);
    let kept = kept(&server);
    assert!(taken.iter().all(|event| kept.contains(event)));
    assert_eq!(server.value("pragma integrity_check"), "ok");
}

#[test]
fn an_outcome_that_can_not_be_written_is_kept_and_written_later() {
    let server = scenario()
        .source("a", "")
        .handler("h", "", "[ -e go ] || { touch waits; until [ -e go ]; do sleep 0.01; done; }")
        .start();
    server.post("/hooks/a", "x");
    until("it runs", || server.path().join("waits").exists());
    let holder = server.trail();
    holder.execute_batch("begin immediate").expect("the write lock");
    server.file("go", "");
    until("it is blocked", || server.log().contains("has held it for writing"));
    assert!(server.log().contains("(integration"), "the holder is not named: {}", server.log());
    assert_eq!(server.post("/hooks/a", "x").status, 503);
    holder.execute_batch("rollback").expect("the end");
    server.until("select outcome from outcomes where job = 1", "succeeded");
    until("it takes some again", || server.post("/hooks/a", "x").status == 202);
}

#[test]
fn after_a_failed_sync_nothing_more_is_promised() {
    let mut server = scenario().source("a", "").start();
    let mut taken = vec![server.post("/hooks/a", "x").event()];
    let strace = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-p", &server.pid().to_string()])
        .args(["-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO"])
        .stdin(Stdio::null())
        .spawn();
    let mut strace = strace.expect("strace, which tests/run installs");
    // Until strace has taken hold of it, syncs still succeed.
    until("a sync fails", || match server.try_request("POST", "/hooks/a", "", b"x") {
        Some(answer) if answer.status == 202 => {
            taken.push(answer.event());
            false
        }
        _ => true,
    });
    let refused = server.try_request("POST", "/hooks/a", "", b"x");
    assert!(refused.is_none_or(|answer| answer.status == 503));
    assert_eq!(server.ended(), Some(1));
    until("it says why", || server.log().contains("could not be synced"));
    let _ = strace.kill();
    let _ = strace.wait();
    server.start();
    let kept = kept(&server);
    assert!(taken.iter().all(|event| kept.contains(event)), "{taken:?} {kept:?}");
}

#[test]
fn the_log_grows_while_a_reader_holds_a_snapshot_and_shrinks_after() {
    let server = scenario()
        .source("a", "max_body_size = \"4 MiB\"")
        .handler("alert", "when = '.type == \"wal.blocked\"'", "cat")
        .from("alert", "hooktrail")
        .start();
    let log = server.path().join("t.db-wal");
    let size = || fs::metadata(&log).map_or(0, |found| found.len());
    server.post("/hooks/a", "x");
    let reader = server.trail();
    reader.execute_batch("begin; select count(*) from events").expect("a snapshot");
    let body = vec![b'x'; 4 << 20];
    while size() < 260 << 20 {
        assert_eq!(server.post("/hooks/a", &body).status, 202);
    }
    server.until("select count(*) from outcomes where handler = 'alert'", "1");
    let alert = server.value("select stdout from attempts");
    assert!(alert.contains("\"detail\":") && alert.contains("a reader keeps the file"), "{alert}");
    reader.execute_batch("commit").expect("the end");
    until("it shrinks", || size() <= 64 << 20);
}

/// A file in the place of the database; what is said of it. It stays as it was.
fn refused(make: impl FnOnce(&std::path::Path)) -> String {
    let scenario = scenario().source("a", "");
    scenario.write();
    let path = scenario.path().join("t.db");
    make(&path);
    let before = fs::read(&path).expect("the file");
    let output = cli(scenario.path(), &["serve"]);
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    assert_eq!(fs::read(&path).expect("the file"), before);
    err(&output)
}

#[test]
fn a_file_that_is_not_a_database_is_refused_and_left() {
    let said =
        refused(|path| fs::write(path, "not a database, but text ".repeat(200)).expect("it"));
    assert!(said.contains("not an SQLite database"), "{said}");
}

#[test]
fn a_database_of_another_program_is_refused_and_left() {
    let said = refused(|path| {
        let conn = Connection::open(path).expect("a database");
        conn.execute_batch("create table t (x); insert into t values (1)").expect("a table");
    });
    assert!(said.contains("another program"), "{said}");
}

#[test]
fn a_file_of_a_newer_version_is_refused_and_left() {
    let mut server = scenario().start();
    assert_eq!(server.stop(), Some(0));
    server.trail().execute_batch("pragma user_version = 99").expect("a version");
    let output = server.cli(&["serve"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("schema version 99"), "{}", err(&output));
    assert_eq!(server.value("pragma user_version"), "99");
    // The configuration is none the worse.
    let check = server.cli(&["check"]);
    assert!(check.status.success(), "{}", err(&check));
    assert!(out(&check).contains("schema version 99") && out(&check).contains("no errors"));
}

#[test]
fn a_truncated_file_is_refused_and_left() {
    let said = refused(|path| {
        let conn = Connection::open(path).expect("a database");
        conn.execute_batch(include_str!("../../schema.sql")).expect("the schema");
        conn.execute_batch("pragma application_id = 1214993522; pragma user_version = 1")
            .expect("its numbers");
        drop(conn);
        let half = fs::read(path).expect("the file");
        fs::write(path, &half[..half.len() / 2]).expect("half of it");
    });
    assert!(said.contains("damaged") || said.contains("malformed"), "{said}");
}
