//! One server owns one database, whatever its name: a second one is turned away, and one whose file is
//! taken away saves what it holds and ends.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Mutex;

use rusqlite::Connection;
use rustix::process::Signal;

use crate::support::server::{Server, cli, err, out, scenario, until};

/// A second server in the same folder, with another path to a database.
fn second(server: &Server, database: &str) -> Output {
    let config = fs::read_to_string(server.path().join("config.toml")).expect("config.toml");
    server.file("second.toml", &config.replace("\"t.db\"", &format!("\"{database}\"")));
    cli(server.path(), &["--config", "second.toml", "serve"])
}

fn rescued(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("it").path());
    let is_rescued = |path: &PathBuf| path.to_string_lossy().contains("t.rescued-");
    entries.filter(is_rescued).collect()
}

fn count(database: &Path) -> i64 {
    let conn = Connection::open(database).expect("a database");
    let sound = conn.query_row("pragma integrity_check", [], |row| row.get::<_, String>(0));
    assert_eq!(sound.as_deref(), Ok("ok"), "{}", database.display());
    conn.query_row("select count(*) from events", [], |row| row.get(0)).expect("a number")
}

#[test]
fn a_second_server_by_another_name_of_the_file_ends_with_75_and_touches_no_job() {
    let server = scenario()
        .source("a", "")
        .handler("h", "", "touch runs; until [ -e go ]; do sleep 0.01; done")
        .start();
    server.post("/hooks/a", "x");
    until("it runs", || server.path().join("runs").exists());
    symlink("t.db", server.path().join("symbolic.db")).expect("a symbolic link");
    symlink("symbolic.db", server.path().join("twice.db")).expect("a symbolic link");
    fs::hard_link(server.path().join("t.db"), server.path().join("hard.db")).expect("a hard link");
    let owner = format!("process {}", server.pid());
    for name in ["t.db", "symbolic.db", "twice.db", "hard.db"] {
        let turned_away = second(&server, name);
        assert_eq!(turned_away.status.code(), Some(75), "{name}: {}", err(&turned_away));
        assert!(err(&turned_away).contains(&owner), "{name}: {}", err(&turned_away));
    }
    fs::remove_file(server.path().join("t.db.lock")).expect("it goes");
    let turned_away = second(&server, "t.db");
    assert_eq!(turned_away.status.code(), Some(75), "{}", err(&turned_away));
    assert!(err(&turned_away).contains(&owner), "{}", err(&turned_away));
    // The command line and readers work beside it.
    assert!(out(&server.cli(&["list"])).contains("running"));
    server.file("go", "");
    server.until("select outcome || ' ' || detail from outcomes", "succeeded exit 0");
    assert_eq!(server.post("/hooks/a", "x").status, 202);
}

#[test]
fn a_database_that_readers_open_and_close_stays_locked() {
    let server = scenario().source("a", "").start();
    for _ in 0..3 {
        server.post("/hooks/a", "x");
        server.value("select count(*) from events");
        assert!(server.cli(&["stats"]).status.success());
        assert_eq!(second(&server, "t.db").status.code(), Some(75));
    }
    fs::hard_link(server.path().join("t.db"), server.path().join("hard.db")).expect("a hard link");
    assert_eq!(second(&server, "hard.db").status.code(), Some(75));
}

#[test]
fn a_removed_database_is_saved_with_everything_that_was_accepted() {
    let mut server = scenario().source("a", "").handler("h", "", "true").start();
    let accepted = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while let Some(answer) = server.try_request("POST", "/hooks/a", "", b"x")
                && answer.status == 202
            {
                accepted.lock().expect("the list").push(answer.event());
            }
        });
        until("it takes some", || accepted.lock().expect("the list").len() > 20);
        for name in ["t.db", "t.db-wal", "t.db-shm"] {
            fs::remove_file(server.path().join(name)).expect("it goes");
        }
    });
    assert_eq!(server.ended(), Some(1));
    until("it says why", || server.log().contains("was removed or moved away"));
    let found = rescued(server.path());
    assert_eq!(found.len(), 1, "{found:?}");
    let conn = Connection::open(&found[0]).expect("a database");
    for event in accepted.into_inner().expect("the list") {
        let kept =
            conn.query_row("select count(*) from events where id = ?1", [event], |row| row.get(0));
        assert_eq!(kept, Ok(1), "event {event}");
    }
    drop(conn);
    let events = count(&found[0]);

    // It begins no new database until that one was put in its place.
    for args in [&["serve"][..], &["list"]] {
        let refused = server.cli(args);
        assert_eq!(refused.status.code(), Some(1), "{args:?}");
        assert!(err(&refused).contains("To go on with them: mv "), "{}", err(&refused));
        assert!(!server.path().join("t.db").exists());
    }
    let checked = server.cli(&["check"]);
    assert!(
        out(&checked).contains("warning: ") && out(&checked).contains("To go on with them: mv ")
    );
    fs::rename(&found[0], server.path().join("t.db")).expect("its old name");
    server.start();
    assert_eq!(server.value("select count(*) from events"), events.to_string());
    server.until("select count(*) from trail where settled_at is null", "0");
    assert_eq!(server.post("/hooks/a", "x").status, 202);
}

#[test]
fn a_replaced_database_is_saved_and_the_new_one_stays_as_it_is() {
    let other = scenario().source("a", "").start();
    other.post("/hooks/a", "of another server");
    let mut server = scenario().source("a", "").start();
    let copy = server.path().join("copy.db");
    let copied = other.trail().execute("vacuum into ?1", [copy.to_string_lossy()]);
    copied.expect("a copy");
    for _ in 0..3 {
        assert_eq!(server.post("/hooks/a", "x").status, 202);
    }
    fs::rename(&copy, server.path().join("t.db")).expect("another file");
    assert_eq!(server.ended(), Some(1));
    until("it says why", || server.log().contains("was replaced by another file"));
    let found = rescued(server.path());
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(count(&found[0]), 3);
    // The log of the old file is not applied to the new one.
    server.start();
    assert_eq!(server.value("select cast(body as text) from events"), "of another server");
    assert_eq!(server.value("pragma integrity_check"), "ok");
    until("the start names the rescued file", || {
        server.log().contains("remove this file when you no longer need it")
    });
}

#[test]
fn a_removed_log_is_copied_into_the_database_that_is_still_there() {
    let mut server = scenario().source("a", "").start();
    for _ in 0..3 {
        assert_eq!(server.post("/hooks/a", "x").status, 202);
    }
    fs::remove_file(server.path().join("t.db-wal")).expect("it goes");
    assert_eq!(server.ended(), Some(1));
    assert_eq!(rescued(server.path()), Vec::<PathBuf>::new());
    server.start();
    assert_eq!(server.value("select count(*) from events"), "3");
}

#[test]
fn a_link_to_the_database_that_leads_elsewhere_ends_the_server_and_leaves_all_in_the_database() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = folder.path().join("real.db");
    let mut server = scenario().source("a", "").prepare();
    symlink(&database, server.path().join("t.db")).expect("a symbolic link");
    server.start();
    assert_eq!(server.post("/hooks/a", "x").status, 202);
    assert!(folder.path().join("real.db.lock").exists());
    fs::remove_file(server.path().join("t.db")).expect("it goes");
    assert_eq!(server.ended(), Some(1));
    assert_eq!(count(&database), 1);
    let names = fs::read_dir(folder.path()).expect("the folder");
    let names = names.map(|entry| entry.expect("it").file_name().into_string().expect("a name"));
    assert!(names.into_iter().all(|name| !name.contains("rescued")));
}

#[test]
fn a_database_that_is_removed_during_a_stop_is_saved_too() {
    let mut server = scenario()
        .source("a", "")
        .handler("h", "", "touch runs; until [ -e go ]; do sleep 0.01; done")
        .start();
    server.post("/hooks/a", "x");
    until("it runs", || server.path().join("runs").exists());
    server.signal(Signal::TERM);
    until("it stops", || server.log().contains("stopping"));
    fs::remove_file(server.path().join("t.db")).expect("it goes");
    server.file("go", "");
    assert_eq!(server.ended(), Some(1));
    let found = rescued(server.path());
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(count(&found[0]), 1);
    // The log that was left behind does the copy no harm.
    assert!(server.path().join("t.db-wal").exists());
    fs::rename(&found[0], server.path().join("t.db")).expect("its old name");
    server.start();
    server.until("select outcome from outcomes", "succeeded");
    assert_eq!(server.value("pragma integrity_check"), "ok");
}
