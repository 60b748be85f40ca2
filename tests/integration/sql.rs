//! `hooktrail sql`: what a query can read, what it cannot do, and who may run it.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::server::{
    AS_NOBODY, HOOKTRAIL, NOBODY, RunningCommand, Server, scenario, stderr, stdout, until,
};

fn server_with_events() -> Server {
    let server =
        scenario().source("a", "").handler("h", "retry = { max_attempts = 1 }", "exit 7").start();
    for body in ["{\"name\":\"first\"}", "a\tb\\c\nd"] {
        assert_eq!(server.post("/hooks/a", body).status, 202);
    }
    server.until("select count(*) from dead_jobs", "2");
    server
}

#[track_caller]
fn succeeds(server: &Server, args: &[&str]) -> String {
    let output = server.cli(&[&["sql"], args].concat());
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

#[track_caller]
fn fails(server: &Server, args: &[&str], expected: &str) {
    let output = server.cli(&[&["sql"], args].concat());
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}{}", stdout(&output), stderr(&output));
    assert!(stderr(&output).contains(expected), "{args:?}: {}", stderr(&output));
    assert_eq!(stdout(&output), "", "{args:?}");
}

#[test]
fn a_pipe_gets_tab_separated_values_and_json_an_object_for_each_row() {
    let mut server = server_with_events();
    let query = "select id, cast(body as text) as body, null as no_value from events order by id";
    let check = |server: &Server| {
        let expected = "id\tbody\tno_value\n1\t{\"name\":\"first\"}\t\\N\n2\ta\\tb\\\\c\\nd\t\\N\n";
        assert_eq!(succeeds(server, &[query]), expected);
        let lines = server.json_lines(&["sql", "--json", query]);
        let expected = serde_json::json!({"id": 2, "body": "a\tb\\c\nd", "no_value": null});
        assert_eq!(lines[1], expected);
    };
    check(&server);
    assert_eq!(succeeds(&server, &["select 1 as one where 0"]), "one\n");
    fails(
        &server,
        &["--json", "select 1 as a, 2 as a"],
        "two columns have the name a: rename one with AS",
    );
    assert_eq!(server.stop(), Some(0));
    check(&server);
}

#[test]
fn a_narrow_terminal_gets_each_column_that_the_query_names() {
    let server = server_with_events();
    let query =
        "'select detail, source, handler, duration_ms * 0 as zero, job_state, id from outcomes'";
    let table = server.cli_on_terminal(50, &["sql", query]);
    let header: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(header, ["detail", "source", "handler", "zero", "job_state", "id"], "{table}");
    assert_eq!(table.lines().count(), 3, "{table}");
}

/// The names of the files in a folder.
fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).expect("the folder");
    entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn no_statement_changes_anything() {
    let server = server_with_events();
    let state =
        "select (select count(*) from events), (select group_concat(sql) from sqlite_schema),
        (select user_version from pragma_user_version), (select count(*) from dead_jobs)";
    let (before, files) = (server.rows(state), names(server.path()));
    for statement in [
        "delete from events",
        "select 1; delete from events",
        "update events set body = null",
        "insert into events (id) values (9)",
        "replace into events (id) values (1)",
        "with x as (select 1) delete from jobs",
        "explain delete from events",
        "create table x (y)",
        "create temp table x (y)",
        "create view x as select 1",
        "create virtual table x using fts5(y)",
        "drop view trail",
        "drop table jobs",
        "alter table events rename to x",
        "attach 'other.db' as other",
        "detach main",
        "vacuum",
        "vacuum into 'copy.db'",
        "reindex",
        "analyze",
        "begin",
        "begin immediate",
        "savepoint x",
        "commit",
        "pragma journal_mode = delete",
        "pragma journal_mode",
        "pragma query_only = off",
        "pragma wal_checkpoint(truncate)",
        "pragma writable_schema = on",
        "pragma user_version = 9",
        "pragma incremental_vacuum",
        "pragma optimize",
        "pragma hard_heap_limit = 0",
        "pragma trusted_schema = on",
        "select * from pragma_wal_checkpoint",
        "select * from pragma_journal_mode",
        "select load_extension('x')",
        "select writefile('x', 'y')",
        "select readfile('/etc/hostname')",
        "select edit('x')",
    ] {
        fails(&server, &[statement], "");
    }
    fails(&server, &["select 1; select 2"], "more than one statement");
    fails(&server, &["delete from events"], "expected a query that only reads, such as SELECT");
    fails(&server, &[""], "expected a query that only reads");
    fails(&server, &["select x from events"], "no such column: x");
    assert_eq!(server.rows(state), before);
    assert_eq!(names(server.path()), files);
    assert_eq!(server.post("/hooks/a", "x").status, 202);
}

#[test]
fn a_query_may_describe_the_database() {
    let server = server_with_events();
    assert_eq!(
        succeeds(&server, &["select name from pragma_table_info('queue_depth') limit 1"]),
        "name\nhandler\n"
    );
    assert_eq!(succeeds(&server, &["pragma page_size"]), "page_size\n4096\n");
    assert!(succeeds(&server, &["explain query plan select * from events"]).contains("SCAN"));
    let values = "with recursive n(n) as (values (1) union all select n + 1 from n where n < 3) select sum(n) from n";
    assert!(succeeds(&server, &[values]).ends_with("\n6\n"));
}

#[test]
fn time_rows_and_temporary_files_of_a_query_are_bounded() {
    let server = server_with_events();
    let endless = "with recursive n(n) as (select 1 union all select n + 1 from n) select";
    let count = format!("{endless} count(*) from n");
    fails(&server, &["--timeout", "100ms", &count], "the query took longer than 100ms");
    let all = format!("{endless} n from n");
    fails(
        &server,
        &[&all],
        "the result has more than 100000 rows: add LIMIT to the query, or give --limit",
    );
    assert_eq!(succeeds(&server, &["--limit", "2", &all]), "n\n1\n2\n");
    let large = format!("{endless} zeroblob(1000000) from n");
    fails(&server, &[&large], "the result is larger than 64 MiB");
    fails(&server, &["select length(zeroblob(300000000))"], "too big");
    // 300 rows of 1 MiB do not fit the file.
    let sorted = format!("{endless} n, zeroblob(1048576) as r from n limit 300");
    let sorted = format!("select n from ({sorted}) order by r, n");
    fails(
        &server,
        &["--timeout", "1h", &sorted],
        "the query needs more than 256 MiB for temporary files",
    );
    let output = server.cli(&["sql", "--timeout", "2h", "select 1"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn output_that_nobody_reads_keeps_no_transaction_open() {
    let server = server_with_events();
    let query = "with recursive n(n) as (select 1 union all select n + 1 from n where n < 50000)
        select n, (select max(id) from events) from n";
    let mut command = server.start_cli(&["sql", query], Stdio::piped());
    let RunningCommand(child) = &mut command;
    let mut first = [0];
    child.stdout.as_mut().expect("a pipe").read_exact(&mut first).expect("the first byte");
    assert_eq!(child.try_wait().expect("the state"), None, "the pipe holds the whole output");
    assert_eq!(server.post("/hooks/a", "x").status, 202);
    until("the log can be truncated", || {
        let conn = server.open_database();
        let checkpoint = "pragma wal_checkpoint(truncate)";
        conn.query_row(checkpoint, [], |row| row.get::<_, i64>(0)).is_ok_and(|busy| busy == 0)
    });
}

/// Runs a command as a user without rights, whose group is that of `nobody`.
fn as_member(folder: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(AS_NOBODY[0]);
    command.args(&AS_NOBODY[1..]).args(words).current_dir(folder).env_remove("HOOKTRAIL_CONFIG");
    command.output().expect("setpriv, of util-linux")
}

/// Lets the group of `nobody` read what the server of root gives its group, as a member of the group `hooktrail` can.
fn share_with_group(server: &Server) {
    let set_mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("the mode");
    };
    set_mode(server.path(), 0o750);
    set_mode(&server.path().join("config.toml"), 0o640);
    for name in names(server.path()) {
        chown(server.path().join(name), None, Some(NOBODY)).expect("the group");
    }
    chown(server.path(), None, Some(NOBODY)).expect("the group");
    let mode = server.path().join("t.db").metadata().expect("the database").permissions().mode();
    assert_eq!(mode & 0o777, 0o640, "the server gives its group other rights");
}

#[track_caller]
fn assert_member_reads(server: &Server, expected: &str) {
    let query = "select count(*) as events from trail";
    let output = as_member(server.path(), &[HOOKTRAIL, "sql", query]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), format!("events\n{expected}\n"));
}

#[test]
#[ignore = "needs root"]
fn as_another_user_of_the_group_it_reads_whether_a_server_runs_was_stopped_or_was_killed() {
    let mut server = server_with_events();
    share_with_group(&server);
    assert_member_reads(&server, "2");
    assert_eq!(server.stop(), Some(0));
    assert_member_reads(&server, "2");
    server.start();
    assert_eq!(server.post("/hooks/a", "x").status, 202);
    server.kill();
    assert_member_reads(&server, "3");
    // The last sqlite3 of a user who may write removes the -wal and the -shm.
    drop(server.open_database().query_row("select count(*) from events", [], |_| Ok(())));
    assert!(!server.path().join("t.db-wal").exists());
    assert_member_reads(&server, "3");
    assert!(!server.path().join("t.db-wal").exists());
    server.start();
    assert_eq!(server.post("/hooks/a", "x").status, 202);
}

#[test]
#[ignore = "needs root"]
fn as_another_user_of_the_group_sqlite3_reads_too_and_neither_can_write() {
    let mut server = server_with_events();
    share_with_group(&server);
    let sqlite3 =
        |server: &Server, query: &str| as_member(server.path(), &["sqlite3", "t.db", query]);
    let check = |server: &Server| {
        let count = sqlite3(server, "select count(*) from trail");
        assert_eq!(stdout(&count), "2\n", "{}", stderr(&count));
        for statement in ["delete from events", "vacuum", "pragma journal_mode = delete"] {
            let output = sqlite3(server, statement);
            let text = format!("{}{}", stdout(&output), stderr(&output));
            let is_unchanged = !output.status.success() || text == "wal\n";
            assert!(is_unchanged, "{statement}: {text}");
        }
        for name in ["t.db", "t.db-wal", "t.db-shm", "t.db.lock"] {
            let output = as_member(server.path(), &["test", "-w", name]);
            assert_eq!(output.status.code(), Some(1), "a member can write {name}");
        }
        let output = as_member(server.path(), &["test", "-w", "."]);
        assert_eq!(output.status.code(), Some(1), "a member can remove files");
    };
    check(&server);
    assert_eq!(server.post("/hooks/a", "x").status, 202);
    assert_eq!(server.stop(), Some(0));
    let output = sqlite3(&server, "select count(*) from trail");
    assert_eq!(stdout(&output), "3\n", "{}", stderr(&output));
    server.start();
    assert_eq!(server.post("/hooks/a", "x").status, 202);
}

#[test]
#[ignore = "needs root"]
fn as_another_user_outside_the_group_it_says_who_may_read() {
    let server = server_with_events();
    std::fs::set_permissions(server.path(), std::fs::Permissions::from_mode(0o755))
        .expect("the mode");
    let output = as_member(server.path(), &[HOOKTRAIL, "sql", "select 1"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = stderr(&output);
    assert!(errors.contains("user nobody may not read it: run this command as root"), "{errors}");
}

#[test]
fn a_query_ends_after_its_time_also_within_one_function() {
    let server = scenario().source("a", "").start();
    server.post("/hooks/a", "x");
    let query = "select instr(hex(zeroblob(50000000)), hex(zeroblob(5000000)) || substr(method, 1, 1)) from events";
    fails(&server, &["--timeout", "100ms", query], "the query took longer than 100ms");
}
