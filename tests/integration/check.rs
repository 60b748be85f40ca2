//! `hooktrail check` against `hooktrail serve`: where the server does not start, the check fails and says
//! why, and it changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

use rusqlite::Connection;

use crate::support::server::{
    AS_NOBODY, HOOKTRAIL, Scenario, Server, cli, scenario, stderr, stdout, until,
};

/// The names and sizes of the files in a folder. Reading a database creates SQLite's files beside it.
fn list_files(folder: &Path) -> BTreeMap<String, u64> {
    let entries = fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry"));
    let entry = |entry: fs::DirEntry| {
        let bytes = entry.metadata().expect("the metadata").len();
        (entry.file_name().to_string_lossy().into_owned(), bytes)
    };
    let is_sqlite = |name: &str| name.ends_with("-wal") || name.ends_with("-shm");
    entries.map(entry).filter(|(name, _)| !is_sqlite(name)).collect()
}

/// A source, its handler, and what a case adds to them.
fn working() -> Scenario {
    scenario().source("a", "").handler("h", "", "true")
}

/// Checks a configuration that keeps the server from starting: `check` fails with `expected` and the line
/// of `key`, and changes nothing.
#[track_caller]
fn assert_neither_starts(case: &str, scenario: Scenario, key: &str, expected: &str) {
    let mut server = scenario.prepare();
    let files = list_files(server.path());
    let checked = server.cli(&["check"]);
    assert_eq!(list_files(server.path()), files, "{case}");
    server.spawn();
    let mut outcome = None;
    until("the server ends, waits or listens", || {
        let log = server.log();
        outcome = match server.exit_code() {
            Some(code) => Some(format!("exit {code}")),
            None if log.contains("waiting until this changes") => Some("waits".to_owned()),
            None => log.contains("listening for webhooks").then(|| "listens".to_owned()),
        };
        outcome.is_some()
    });
    assert_ne!(outcome.as_deref(), Some("listens"), "{case}: the server starts");
    let errors = stderr(&checked);
    assert_eq!(
        checked.status.code(),
        Some(78),
        "{case}: {outcome:?}: {errors}{}",
        stdout(&checked)
    );
    let place = errors.lines().find(|line| line.contains(expected)).unwrap_or_else(|| {
        panic!("{case}: expected {expected:?}:\n{errors}{}", server.log());
    });
    let line = place.split(':').nth(1).and_then(|number| number.parse::<usize>().ok());
    let config = server.read_file("config.toml");
    let text = line.and_then(|number| config.lines().nth(number - 1)).unwrap_or_default();
    assert!(text.contains(key.rsplit('.').next().unwrap_or(key)), "{case}: {place} is {text:?}");
    assert!(place.contains(key), "{case}: {place}");
}

fn with_database(change: impl FnOnce(&Path)) -> Scenario {
    let scenario = working();
    change(&scenario.path().join("t.db"));
    scenario
}

/// Creates a database by starting a server, and stops it.
fn with_own_database(change: impl FnOnce(&Path)) -> Scenario {
    let mut server = working().start();
    assert_eq!(server.stop(), Some(0));
    let path = server.path().join("t.db");
    let scenario = working();
    fs::copy(path, scenario.path().join("t.db")).expect("a copy");
    change(&scenario.path().join("t.db"));
    scenario
}

#[test]
fn check_fails_for_each_database_with_which_the_server_does_not_start() {
    let write = |text: &'static str| move |path: &Path| fs::write(path, text).expect("a file");
    let folder = |path: &Path| fs::create_dir(path).expect("a folder");
    let sql = |text: &'static str| {
        move |path: &Path| {
            let conn = Connection::open(path).expect("a database");
            conn.execute_batch(text).expect("the statements");
        }
    };
    let beside = |name: &'static str| move |path: &Path| path.with_file_name(name);
    let key = "store.path";
    let is_folder = "is a folder: name a file in store.path";
    assert_neither_starts("a folder", with_database(folder), key, is_folder);
    let link = with_database(|path| symlink("missing/t.db", path).expect("a link"));
    assert_neither_starts("a dangling link", link, key, "cannot be found");
    let lock = with_database(|path| folder(&beside("t.db.lock")(path)));
    assert_neither_starts("a folder as lock", lock, key, "t.db.lock: is a folder");
    let text =
        with_database(write("not a database, but a text that is long enough to be read as one"));
    assert_neither_starts("a text", text, key, "is not an SQLite database");
    let other = with_database(sql("create table t (x)"));
    assert_neither_starts("another program", other, key, "is a database of another program");
    let newer = with_own_database(sql("pragma user_version = 99"));
    assert_neither_starts("a newer schema", newer, key, "is of schema version 99");
    let early = with_own_database(sql("pragma application_id = 1214993522"));
    assert_neither_starts("a pre-release", early, key, "was created by a pre-release build");
    let damaged = with_own_database(|path| {
        let bytes = fs::read(path).expect("the file");
        fs::write(path, &bytes[..bytes.len() / 2]).expect("half of it");
    });
    assert_neither_starts("half of a database", damaged, key, "is damaged");
    for empty in [false, true] {
        let rescued = with_database(|path| {
            fs::write(beside("t.rescued-20261128T173000Z.db")(path), "").expect("a file");
            if empty {
                fs::write(path, "").expect("an empty file");
            }
        });
        assert_neither_starts("a rescued file", rescued, key, "To go on with them: mv ");
    }
}

#[test]
fn check_fails_if_the_folder_of_the_database_cannot_be_created() {
    let scenario = working();
    scenario.write_file("file", "x");
    let mut server = scenario.prepare();
    server.replace_in_config("\"t.db\"", "\"file/sub/t.db\"");
    let assert_rejected = |server: &Server, expected: &str| {
        let served = server.cli(&["serve"]);
        assert_eq!(served.status.code(), Some(1), "{}", stderr(&served));
        let checked = server.cli(&["check"]);
        assert_eq!(checked.status.code(), Some(78), "{}", stdout(&checked));
        assert!(stderr(&checked).contains(expected), "{}", stderr(&checked));
    };
    assert_rejected(&server, "/file: is not a folder: change store.path");
    server.replace_in_config("file/sub/t.db", "link/t.db");
    symlink("nowhere", server.path().join("link")).expect("a link");
    assert_rejected(&server, "/link: is a link to a folder that does not exist: create it");
}

#[test]
fn check_fails_for_each_address_on_which_the_server_cannot_listen() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let used = listener.local_addr().expect("an address");
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let (key, in_use) = ("server.listen", "another program listens there");
    assert_neither_starts("a used port", working().listen(&used.to_string()), key, in_use);
    let admin = working().admin(&format!("listen = ['{used}']"));
    assert_neither_starts("a used admin port", admin, "admin.listen", in_use);
    let both = working().listen(&format!("0.0.0.0:{p}\", \"127.0.0.1:{p}", p = free.port()));
    assert_neither_starts("a port twice", both, key, in_use);
    let foreign = working().listen("192.0.2.1:0");
    assert_neither_starts("a foreign address", foreign, key, "does not have the address 192.0.2.1");
    let missing = working().listen("unix:missing/http.sock");
    assert_neither_starts("no folder", missing, key, "there is no folder ");
    let file = working().listen("unix:config.toml");
    assert_neither_starts("a file", file, key, "a file that is not a socket has this path");
    let scenario = working().listen("unix:http.sock");
    let _other = UnixListener::bind(scenario.path().join("http.sock")).expect("a socket");
    assert_neither_starts("a used socket", scenario, key, in_use);
}

#[test]
fn check_fails_for_each_secret_file_that_the_server_cannot_use() {
    let verify = "verify = { scheme = 'bearer', secret = { file = 'secret' } }";
    let (key, missing) = ("sources.b.verify.secret", "it must exist and be readable");
    assert_neither_starts("no file", working().source("b", verify), key, missing);
    let empty = working().source("b", verify);
    empty.write_file("secret", "\n");
    assert_neither_starts("an empty file", empty, key, "is empty");
}

#[test]
fn check_reports_all_problems_of_a_start_at_once_in_the_order_of_their_lines() {
    let server = working()
        .listen("unix:missing/http.sock")
        .listen("192.0.2.1:0")
        .source("b", "verify = { scheme = 'bearer', secret = { file = 'secret' } }")
        .prepare();
    fs::create_dir(server.path().join("t.db")).expect("a folder");
    let checked = server.cli(&["check"]);
    assert_eq!(checked.status.code(), Some(78));
    let errors = stderr(&checked);
    let keys: Vec<&str> =
        errors.lines().filter_map(|line| line.split(':').nth(2)).map(str::trim).collect();
    let expected = ["server.listen", "server.listen", "store.path", "sources.b.verify.secret"];
    assert_eq!(keys, expected, "{errors}");
}

#[test]
fn check_passes_beside_a_running_server_and_after_it_was_killed() {
    let mut server = working().listen("unix:http.sock").prepare();
    let strict = |server: &Server| {
        let checked = server.cli(&["check", "--strict"]);
        assert!(checked.status.success(), "{}{}", stdout(&checked), stderr(&checked));
    };
    strict(&server);
    server.start();
    strict(&server);
    server.kill();
    // The socket file of the dead server is still there.
    assert!(server.path().join("http.sock").exists());
    strict(&server);
    fs::remove_file(server.path().join("t.db")).expect("the file is removed");
    fs::write(server.path().join("t.db"), "").expect("the empty file of a start that failed");
    strict(&server);
}

#[test]
fn check_passes_for_a_database_whose_folder_the_server_creates() {
    let mut server = working().prepare();
    server.replace_in_config("\"t.db\"", "\"new/sub/t.db\"");
    assert!(server.cli(&["check", "--strict"]).status.success());
    assert!(!server.path().join("new").exists());
    server.start();
}

#[test]
fn check_fails_while_another_program_keeps_the_database_locked() {
    let mut server = working().start();
    assert_eq!(server.stop(), Some(0));
    let lock = server.lock_database();
    let checked = server.cli(&["check"]);
    assert_eq!(checked.status.code(), Some(78), "{}", stdout(&checked));
    let holder = format!("held by process {} (", std::process::id());
    assert!(stderr(&checked).contains(&holder), "{}", stderr(&checked));
    drop(lock);
    assert!(server.cli(&["check"]).status.success());
}

#[test]
fn check_warns_about_https_without_root_certificates() {
    let url =
        |scheme: &str| format!("[handlers.u]\nsources = ['a']\nurl = '{scheme}://127.0.0.1/'");
    for (scheme, warnings) in [("https", 1), ("http", 0)] {
        let server = working().raw_config(&url(scheme)).prepare();
        let checked = Command::new(HOOKTRAIL)
            .arg("check")
            .current_dir(server.path())
            .env("SSL_CERT_FILE", "/nowhere")
            .env_remove("SSL_CERT_DIR")
            .output()
            .expect("the check");
        let printed = stdout(&checked);
        assert_eq!(printed.matches("warning: ").count(), warnings, "{printed}");
        assert_eq!(printed.contains("handlers.u.url: no root certificate was found"), warnings > 0);
    }
}

/// Runs a command in a folder as user `nobody`.
fn run_as_nobody(folder: &Path, args: &[&str]) -> Output {
    let command = [&AS_NOBODY[1..], &[HOOKTRAIL], args].concat();
    let output = Command::new(AS_NOBODY[0]).args(command).current_dir(folder).output();
    output.expect("setpriv, of util-linux")
}

#[test]
#[ignore = "needs root"]
fn check_fails_for_a_folder_in_which_this_user_may_not_write() {
    use std::os::unix::fs::PermissionsExt;
    let server = working().listen("unix:closed/http.sock").prepare();
    let closed = server.path().join("closed");
    fs::create_dir(&closed).expect("a folder");
    for folder in [server.path(), &closed] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("the mode");
    }
    let served = run_as_nobody(server.path(), &["serve"]);
    assert_eq!(served.status.code(), Some(1), "{}", stderr(&served));
    let checked = run_as_nobody(server.path(), &["check"]);
    let errors = stderr(&checked);
    assert_eq!(checked.status.code(), Some(78), "{errors}");
    assert!(errors.contains("this user can't create a file in "), "{errors}");
    assert!(errors.contains("cannot be written by this user"), "{errors}");
    // The default `directory` of the handler is no warning, although this user may not write to it.
    assert_eq!(stdout(&checked), "");
    assert!(cli(server.path(), &["check", "--strict"]).status.success());
}

#[test]
fn the_shipped_configuration_and_six_handlers_with_defaults_have_no_warning() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(cli(folder.path(), &["init"]).status.success());
    let handlers: String = (1..=6)
        .map(|number| {
            format!("[handlers.h{number}]\nsources = ['paminga']\ncommand = ['handlers/alert']\n")
        })
        .collect();
    let file = folder.path().join("config.toml");
    let config = fs::read_to_string(&file).expect("config.toml");
    // Another program may use the ports.
    let config = config.replace("127.0.0.1:8080", "127.0.0.1:0") + "\n[admin]\nlisten = []\n";
    fs::write(file, config + &handlers).expect("config.toml");
    let checked = cli(folder.path(), &["check", "--strict"]);
    assert!(checked.status.success(), "{}{}", stdout(&checked), stderr(&checked));
}

#[test]
fn serve_and_a_reload_log_the_warnings_of_check_once_each() {
    let mut server = working()
        .source("unused", "")
        .raw_config("[handlers.gone]\nsources = ['a']\ncommand = ['./gone.sh']")
        .start();
    let checked = stdout(&server.cli(&["check"]));
    let warnings: Vec<&str> =
        checked.lines().filter_map(|line| line.strip_prefix("warning: ")).collect();
    assert_eq!(warnings.len(), 2, "{checked}");
    for count in [1, 2] {
        if count == 2 {
            server.reload_with("");
            server.until_reloads(1);
        }
        let log = server.log();
        for warning in &warnings {
            assert_eq!(log.matches(warning).count(), count, "{warning}:\n{log}");
        }
    }
}
