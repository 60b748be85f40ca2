//! What commands print about a database that they can't use, and what they can do with one that this user
//! may only read.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::server::{AS_NOBODY, HOOKTRAIL, Server, scenario, stderr, stdout};

/// The commands that open the database, but for `check`, which reports errors of the configuration. The last
/// ones write to it.
const READERS: [&[&str]; 7] = [
    &["list"],
    &["show", "1"],
    &["stats"],
    &["tail"],
    &["eval", ".", "1"],
    &["retry", "1", "--dry-run"],
    &["replay", "1", "--dry-run"],
];
const WRITERS: [&[&str]; 5] =
    [&["retry", "1"], &["cancel", "1"], &["replay", "1"], &["pause", "h"], &["resume", "h"]];

/// Runs a command as user `nobody`.
fn as_nobody(folder: &Path, args: &[&str]) -> Output {
    Command::new(AS_NOBODY[0])
        .args(&AS_NOBODY[1..])
        .arg(HOOKTRAIL)
        .args(args)
        .current_dir(folder)
        .env_remove("HOOKTRAIL_CONFIG")
        .output()
        .expect("setpriv, of util-linux")
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("the mode");
}

/// A server with an event and its dead job, and a folder that others may search.
fn server_of_root() -> Server {
    let handler = "retry = { max_attempts = 1 }";
    let server = scenario().source("a", "").handler("h", handler, "exit 7").start();
    server.post("/hooks/a", "{}");
    server.until("select count(*) from dead_jobs", "1");
    set_mode(server.path(), 0o755);
    server
}

#[test]
fn each_command_says_what_it_found_in_place_of_the_database() {
    let server = scenario().source("a", "").handler("h", "", "true").prepare();
    let database = server.path().join("t.db");
    let check = |expected: &str| {
        for args in READERS.iter().chain(&WRITERS) {
            let output = server.cli(args);
            let errors = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{args:?}: {errors}");
            let error = errors.lines().last().unwrap_or_default();
            assert_eq!(error, format!("{}: {expected}", database.display()), "{args:?}");
        }
    };
    check("the database does not exist yet: start the server once");
    std::fs::write(&database, "").expect("a file");
    check("the database does not exist yet: start the server once");
    std::fs::write(&database, "no database").expect("a file");
    check("is not an SQLite database: name another file in store.path");
    std::fs::remove_file(&database).expect("the file");
    server.open_database().execute_batch("CREATE TABLE x (y)").expect("a table");
    check("is a database of another program: name a file of Hooktrail's own in store.path");
    std::fs::remove_file(&database).expect("the file");
    std::fs::create_dir(&database).expect("a folder");
    check("is a folder: name a file in store.path");
}

#[test]
fn each_command_names_the_server_as_the_remedy_for_an_old_schema() {
    let mut server = scenario().source("a", "").handler("h", "", "true").start();
    server.stop();
    let error = |version: i64| {
        server.open_database().pragma_update(None, "user_version", version).expect("the version");
        stderr(&server.cli(&["list"]))
    };
    assert!(error(0).contains("start the server once, which migrates it"), "{}", error(0));
    assert!(error(99).contains("run the newer hooktrail that wrote it"), "{}", error(99));
}

#[test]
#[ignore = "needs root"]
fn a_user_who_may_read_the_database_can_read_and_a_write_names_its_owner() {
    let mut server = server_of_root();
    let folder = server.path().to_owned();
    for name in ["t.db", "t.db-wal", "t.db-shm"] {
        set_mode(&folder.join(name), 0o644);
    }
    let check = || {
        for args in READERS {
            let output = as_nobody(&folder, args);
            assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
        }
        for args in WRITERS {
            let output = as_nobody(&folder, args);
            assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stdout(&output));
            let error = "user nobody may not write it: run this command as root";
            assert!(stderr(&output).contains(error), "{args:?}: {}", stderr(&output));
        }
    };
    check();
    assert_eq!(server.stop(), Some(0));
    check();
    // Without the files that SQLite needs to read the database, and that this user can't create.
    for name in ["t.db-wal", "t.db-shm"] {
        std::fs::remove_file(folder.join(name)).expect("the file");
    }
    let errors = stderr(&as_nobody(&folder, &["list"]));
    assert!(errors.contains("start the server, or run this command as root"), "{errors}");
}

#[test]
#[ignore = "needs root"]
fn a_user_who_may_not_read_the_database_learns_who_may() {
    let server = server_of_root();
    for args in READERS.iter().chain(&WRITERS) {
        let errors = stderr(&as_nobody(server.path(), args));
        let error = errors.lines().last().unwrap_or_default();
        assert!(error.contains("user nobody may not"), "{args:?}: {errors}");
        assert!(error.contains("run this command as root"), "{args:?}: {errors}");
    }
}
