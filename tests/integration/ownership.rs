//! One server owns one database file, by whatever name. A second server is rejected. A server whose file
//! is removed or replaced saves its events and ends.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Mutex;

use rusqlite::Connection;
use rustix::process::Signal;

use crate::support::server::{Server, cli, scenario, stderr, stdout, until};

/// Runs a second server in the same folder, with another path to the database.
fn serve_again(server: &Server, database: &str) -> Output {
    let config = fs::read_to_string(server.path().join("config.toml")).expect("config.toml");
    server.write_file("second.toml", &config.replace("\"t.db\"", &format!("\"{database}\"")));
    cli(server.path(), &["--config", "second.toml", "serve"])
}

fn rescued_files(folder: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path());
    let is_rescued = |path: &PathBuf| path.to_string_lossy().contains("t.rescued-");
    entries.filter(is_rescued).collect()
}

fn count_events(database: &Path) -> i64 {
    let conn = Connection::open(database).expect("a database");
    let sound = conn.query_row("pragma integrity_check", [], |row| row.get::<_, String>(0));
    assert_eq!(sound.as_deref(), Ok("ok"), "{}", database.display());
    conn.query_row("select count(*) from events", [], |row| row.get(0)).expect("a number")
}

#[test]
fn a_second_server_by_another_name_of_the_file_is_exit_75_and_touches_no_job() {
    let server = scenario()
        .source("a", "")
        .handler("h", "", "touch runs; until [ -e go ]; do sleep 0.01; done")
        .start();
    server.post("/hooks/a", "x");
    until("the job runs", || server.path().join("runs").exists());
    symlink("t.db", server.path().join("symbolic.db")).expect("a symbolic link");
    symlink("symbolic.db", server.path().join("twice.db")).expect("a symbolic link");
    fs::hard_link(server.path().join("t.db"), server.path().join("hard.db")).expect("a hard link");
    let holder = format!("process {}", server.pid());
    for name in ["t.db", "symbolic.db", "twice.db", "hard.db"] {
        let rejected = serve_again(&server, name);
        assert_eq!(rejected.status.code(), Some(75), "{name}: {}", stderr(&rejected));
        assert!(stderr(&rejected).contains(&holder), "{name}: {}", stderr(&rejected));
    }
    fs::remove_file(server.path().join("t.db.lock")).expect("the file is removed");
    let rejected = serve_again(&server, "t.db");
    assert_eq!(rejected.status.code(), Some(75), "{}", stderr(&rejected));
    assert!(stderr(&rejected).contains(&holder), "{}", stderr(&rejected));
    // The command line and readers still work.
    assert!(stdout(&server.cli(&["list"])).contains("running"));
    server.write_file("go", "");
    server.until("select outcome || ' ' || detail from outcomes", "succeeded exit 0");
    assert_eq!(server.post("/hooks/a", "x").status, 202);
}

#[test]
fn the_database_stays_locked_when_readers_open_and_close_it() {
    let server = scenario().source("a", "").start();
    for _ in 0..3 {
        server.post("/hooks/a", "x");
        server.value("select count(*) from events");
        assert!(server.cli(&["stats"]).status.success());
        assert_eq!(serve_again(&server, "t.db").status.code(), Some(75));
    }
    fs::hard_link(server.path().join("t.db"), server.path().join("hard.db")).expect("a hard link");
    assert_eq!(serve_again(&server, "hard.db").status.code(), Some(75));
}

#[test]
fn a_removed_database_is_saved_with_all_accepted_events() {
    let mut server = scenario().source("a", "").handler("h", "", "true").start();
    let accepted = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while let Some(response) = server.try_request("POST", "/hooks/a", "", b"x")
                && response.status == 202
            {
                accepted.lock().expect("the list").push(response.event_id());
            }
        });
        until("the server accepts events", || accepted.lock().expect("the list").len() > 20);
        for name in ["t.db", "t.db-wal", "t.db-shm"] {
            fs::remove_file(server.path().join(name)).expect("the file is removed");
        }
    });
    assert_eq!(server.wait_for_exit(), Some(1));
    until("the log has the reason", || server.log().contains("was removed or moved away"));
    let rescued = rescued_files(server.path());
    assert_eq!(rescued.len(), 1, "{rescued:?}");
    let conn = Connection::open(&rescued[0]).expect("a database");
    for event in accepted.into_inner().expect("the list") {
        let count =
            conn.query_row("select count(*) from events where id = ?1", [event], |row| row.get(0));
        assert_eq!(count, Ok(1), "event {event}");
    }
    drop(conn);
    let events = count_events(&rescued[0]);

    // The server creates no new database while a rescued one is not moved back.
    for args in [&["serve"][..], &["list"]] {
        let rejected = server.cli(args);
        assert_eq!(rejected.status.code(), Some(1), "{args:?}");
        assert!(stderr(&rejected).contains("To go on with them: mv "), "{}", stderr(&rejected));
        assert!(!server.path().join("t.db").exists());
    }
    let checked = server.cli(&["check"]);
    assert_eq!(checked.status.code(), Some(78));
    assert!(stderr(&checked).contains("To go on with them: mv "), "{}", stderr(&checked));
    fs::rename(&rescued[0], server.path().join("t.db")).expect("its old name");
    server.start();
    assert_eq!(server.value("select count(*) from events"), events.to_string());
    server.until("select count(*) from trail where settled_at is null", "0");
    assert_eq!(server.post("/hooks/a", "x").status, 202);
}

#[test]
fn a_replaced_database_is_saved_and_the_new_file_is_unchanged() {
    let other = scenario().source("a", "").start();
    other.post("/hooks/a", "another server");
    let mut server = scenario().source("a", "").start();
    let copy = server.path().join("copy.db");
    let copied = other.open_database().execute("vacuum into ?1", [copy.to_string_lossy()]);
    copied.expect("a copy");
    for _ in 0..3 {
        assert_eq!(server.post("/hooks/a", "x").status, 202);
    }
    fs::rename(&copy, server.path().join("t.db")).expect("another file");
    assert_eq!(server.wait_for_exit(), Some(1));
    until("the log has the reason", || server.log().contains("was replaced by another file"));
    let rescued = rescued_files(server.path());
    assert_eq!(rescued.len(), 1, "{rescued:?}");
    assert_eq!(count_events(&rescued[0]), 3);
    // SQLite does not apply the write-ahead log of the old file to the new one.
    server.start();
    assert_eq!(server.value("select cast(body as text) from events"), "another server");
    assert_eq!(server.value("pragma integrity_check"), "ok");
    until("the start names the rescued file", || {
        server.log().contains("remove this file when you no longer need it")
    });
}

#[test]
fn a_removed_write_ahead_log_is_copied_into_the_database() {
    let mut server = scenario().source("a", "").start();
    for _ in 0..3 {
        assert_eq!(server.post("/hooks/a", "x").status, 202);
    }
    fs::remove_file(server.path().join("t.db-wal")).expect("the file is removed");
    assert_eq!(server.wait_for_exit(), Some(1));
    assert_eq!(rescued_files(server.path()), Vec::<PathBuf>::new());
    server.start();
    assert_eq!(server.value("select count(*) from events"), "3");
}

#[test]
fn a_removed_link_to_the_database_ends_the_server_and_loses_no_event() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = folder.path().join("real.db");
    let mut server = scenario().source("a", "").prepare();
    symlink(&database, server.path().join("t.db")).expect("a symbolic link");
    server.start();
    assert_eq!(server.post("/hooks/a", "x").status, 202);
    assert!(folder.path().join("real.db.lock").exists());
    fs::remove_file(server.path().join("t.db")).expect("the file is removed");
    assert_eq!(server.wait_for_exit(), Some(1));
    assert_eq!(count_events(&database), 1);
    let names = fs::read_dir(folder.path()).expect("the folder");
    let names =
        names.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"));
    assert!(names.into_iter().all(|name| !name.contains("rescued")));
}

#[test]
fn a_database_removed_during_a_stop_is_saved() {
    let mut server = scenario()
        .source("a", "")
        .handler("h", "", "touch runs; until [ -e go ]; do sleep 0.01; done")
        .start();
    server.post("/hooks/a", "x");
    until("the job runs", || server.path().join("runs").exists());
    server.signal(Signal::TERM);
    until("the server stops", || server.log().contains("stopping"));
    fs::remove_file(server.path().join("t.db")).expect("the file is removed");
    server.write_file("go", "");
    assert_eq!(server.wait_for_exit(), Some(1));
    let rescued = rescued_files(server.path());
    assert_eq!(rescued.len(), 1, "{rescued:?}");
    assert_eq!(count_events(&rescued[0]), 1);
    // The remaining write-ahead log does not damage the copy.
    assert!(server.path().join("t.db-wal").exists());
    fs::rename(&rescued[0], server.path().join("t.db")).expect("its old name");
    server.start();
    server.until("select outcome from outcomes", "succeeded");
    assert_eq!(server.value("pragma integrity_check"), "ok");
}

#[test]
fn a_second_server_on_the_same_file_is_exit_75_and_names_the_first() {
    let server = scenario().source("a", "").start();
    let second = cli(server.path(), &["serve"]);
    assert_eq!(second.status.code(), Some(75));
    assert!(stderr(&second).contains(&format!("process {}", server.pid())), "{}", stderr(&second));
    assert_eq!(server.post("/hooks/a", "x").status, 202);
}
