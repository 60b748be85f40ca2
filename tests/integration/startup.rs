//! A start under a temporary condition: the server logs what it waits for, and responds 503 meanwhile.

use std::cell::Cell;
use std::net::TcpListener;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;

use crate::support::server::{Scenario, Server, scenario, stderr, until};

/// Waits until the stand-in responds for a server that cannot start yet.
pub fn until_it_responds_503(server: &Server) {
    let status =
        |path: &str| server.try_request("GET", path, "", b"").map(|response| response.status);
    until("the server responds", || status("/healthz") == Some(200));
    assert_eq!(status("/readyz"), Some(503));
    let rejected = server.post("/hooks/a", vec![b'x'; 200_000]);
    assert_eq!((rejected.status, rejected.header("retry-after")), (503, Some("5")));
}

fn count_waits(server: &Server) -> usize {
    server.log().matches("waiting until this changes").count()
}

#[test]
fn a_start_on_a_full_disk_waits_for_space() {
    // Files are limited to 64 KiB. Only the soft limit is set, so that the test can raise it again.
    let mut server = scenario()
        .source("a", "")
        .wrapped_by(&["sh", "-c", "ulimit -S -f 128; exec \"$@\"", "sh"])
        .prepare();
    server.spawn();
    until_it_responds_503(&server);
    assert_eq!(count_waits(&server), 1, "{}", server.log());
    server.set_limit("--fsize=unlimited:");
    until("the server starts", || server.log().contains("listening for webhooks"));
    assert_eq!(server.post("/hooks/a", "x").status, 202);
    assert_eq!(count_waits(&server), 1, "{}", server.log());
}

#[test]
fn a_start_waits_for_the_lock_of_another_program_and_names_it() {
    let mut server = scenario().source("a", "").prepare();
    server.start();
    assert_eq!(server.stop(), Some(0));
    let lock = server.lock_database();
    server.spawn();
    until_it_responds_503(&server);
    let holder_name = format!("held by process {} (", std::process::id());
    until("the log names the holder", || server.log().contains(&holder_name));
    drop(lock);
    until("the server starts", || server.log().contains("listening for webhooks"));
    assert_eq!(server.post("/hooks/a", "x").status, 202);
}

#[test]
fn a_signal_ends_a_waiting_start() {
    let mut server = scenario().source("a", "").prepare();
    server.start();
    assert_eq!(server.stop(), Some(0));
    let _lock = server.lock_database();
    server.spawn();
    until("the server waits", || count_waits(&server) == 1);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_waiting_start_asks_systemd_for_more_time() {
    let socket = tempfile::tempdir().expect("a folder");
    let path = socket.path().join("notify");
    let systemd = UnixDatagram::bind(&path).expect("a socket");
    systemd.set_read_timeout(Some(crate::support::server::DEADLINE)).expect("a timeout");
    let variable = format!("NOTIFY_SOCKET={}", path.display());
    let mut server = scenario().source("a", "").wrapped_by(&["env", &variable]).prepare();
    server.start();
    assert_eq!(server.stop(), Some(0));
    let _lock = server.lock_database();
    server.spawn();
    let mut message = [0; 4096];
    let mut messages = String::new();
    // The first start may take long too, on a busy machine.
    let is_complete = |messages: &str| {
        let (_, second) = messages.split_once("STOPPING=1").unwrap_or_default();
        second.contains("EXTEND_TIMEOUT_USEC=") && second.contains("STATUS=waiting: ")
    };
    while !is_complete(&messages) {
        let bytes = systemd.recv(&mut message).expect("a message");
        messages.push_str(&String::from_utf8_lossy(&message[..bytes]));
    }
}

#[test]
fn a_server_that_failed_repeatedly_waits_before_it_starts() {
    let mut server = scenario().source("a", "").prepare();
    server.write_file("t.db", &"not a database, but text ".repeat(200));
    for _ in 0..6 {
        let rejected = server.cli(&["serve"]);
        assert_eq!(rejected.status.code(), Some(1), "{}", stderr(&rejected));
    }
    server.spawn();
    until("the server waits", || server.log().contains("the last 6 runs of this server"));
    // A stop ends the series of failures, as a person has taken over.
    let code = server.stop();
    assert!(matches!(code, Some(0 | 1)), "{code:?}");
    std::fs::remove_file(server.path().join("t.db")).expect("the file is removed");
    server.start();
    assert_eq!(server.post("/hooks/a", "x").status, 202);
}

#[test]
fn the_lock_file_has_the_state_of_the_server() {
    let mut server = scenario().source("a", "").start();
    let has = |server: &Server, line: &str| {
        server.read_file("t.db.lock").lines().any(|found| found == line)
    };
    until("the lock file has the state", || has(&server, "state ready"));
    assert!(has(&server, &server.pid().to_string()));
    assert_eq!(server.stop(), Some(0));
    assert!(has(&server, "state stopped"));
}

#[test]
fn after_a_start_that_failed_commands_say_that_there_is_no_database_yet() {
    let scenario = scenario().source("a", "");
    scenario.write();
    std::fs::write(scenario.path().join("t.db"), "").expect("an empty file");
    let output = crate::support::server::cli(scenario.path(), &["list"]);
    assert_eq!(output.status.code(), Some(1));
    let message = crate::support::server::stderr(&output);
    assert!(
        message.contains("the database does not exist yet: start the server once"),
        "{message}"
    );
}

/// Starts a server that cannot listen. Returns the last line of its log without the time.
fn last_line_of_failed_start(scenario: Scenario) -> String {
    let mut server = scenario.prepare();
    server.spawn();
    assert_eq!(server.wait_for_exit(), Some(1));
    until("the log has the reason", || server.log().contains("can't listen on"));
    server.log().lines().last().unwrap_or_default().to_owned()
}

#[test]
fn a_start_on_a_taken_port_names_the_address_and_how_to_find_the_other_program() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = other.local_addr().expect("an address").to_string();
    let line = last_line_of_failed_start(scenario().source("a", "").listen(&address));
    let expected = format!(
        "can't listen on {address}: another program listens there, which `ss -ltnp` names: stop it, or \
         configure another address"
    );
    assert!(line.contains(&expected), "{line}");
}

#[test]
fn a_start_on_the_socket_file_of_another_program_names_the_file_and_what_to_do() {
    let with_path = |create: &dyn Fn(&Path)| {
        let scenario = scenario().source("a", "").listen("unix:http.sock");
        create(&scenario.path().join("http.sock"));
        last_line_of_failed_start(scenario)
    };
    let other = Cell::new(None);
    let line = with_path(&|path| other.set(UnixListener::bind(path).ok()));
    let expected = "http.sock: another program listens there: stop it, or configure another path";
    assert!(line.contains(expected), "{line}");
    let line = with_path(&|path| std::fs::write(path, "x").expect("a file"));
    let expected = "http.sock: a file that is not a socket has this path: remove it, or configure another path";
    assert!(line.contains(expected), "{line}");
}
