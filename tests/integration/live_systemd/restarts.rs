//! Restarts under load: `systemctl restart`, as an upgrade of the package does it.

use std::net::TcpStream;
use std::time::Instant;

use super::Installation;
use crate::support::load::Load;
use crate::support::machine::free_port;
use crate::support::server::{is_long, until};

fn restarts() -> usize {
    if is_long() { 20 } else { 5 }
}

/// Restarts the service under load, and asserts that each request gets a 202 and is stored.
fn assert_no_request_fails(installed: &Installation) {
    let start = Instant::now();
    let load = Load::start(installed.port, "/hooks/a");
    for _ in 0..restarts() {
        // Each process gets some of the load.
        load.until_accepted(100);
        installed.machine.run("systemctl restart hooktrail");
    }
    let accepted = load.stop_without_failure();
    println!("{} restarts, {accepted} requests in {:?}", restarts(), start.elapsed());
    assert_eq!(installed.query("select count(*) from events"), accepted.to_string());
    assert_eq!(installed.property("NRestarts"), "0");
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn restarts_under_load_fail_no_request_as_systemd_stores_the_sockets() {
    let installed = Installation::boot("[sources.a]\n");
    installed.start();
    assert_ne!(installed.property("NFileDescriptorStore"), "0");
    assert_no_request_fails(&installed);
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn restarts_under_load_fail_no_request_with_the_socket_unit() {
    let installed = Installation::boot("[sources.a]\n");
    let listen = format!("[Socket]\nListenStream=\nListenStream=127.0.0.1:{}\n", installed.port);
    installed.machine.write("/etc/systemd/system/hooktrail.socket.d/port.conf", listen);
    installed.machine.run("systemctl daemon-reload; systemctl start hooktrail.socket");
    installed.start();
    assert_no_request_fails(&installed);
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn a_sender_waits_while_systemd_starts_the_server_again_after_a_crash() {
    let installed = Installation::boot("[sources.a]\n");
    installed.drop_in("RestartSec=1s");
    installed.start();
    installed.machine.run("systemctl kill --kill-who=main --signal=KILL hooktrail");
    until("the server has crashed", || installed.property("SubState") == "auto-restart");
    assert_eq!(installed.post("a"), Some(202));
    assert_eq!(installed.property("NRestarts"), "1");
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn systemd_closes_a_socket_that_a_reload_removes() {
    let mut installed = Installation::boot("[sources.a]\n");
    installed.start();
    let old_port = installed.port;
    let stored = installed.property("NFileDescriptorStore");
    installed.port = free_port();
    installed.configure("[sources.a]\n");
    installed.machine.run("systemctl reload hooktrail");
    assert_eq!(installed.post("a"), Some(202));
    until("nothing listens at the old port", || {
        TcpStream::connect(("127.0.0.1", old_port)).is_err()
    });
    assert_eq!(installed.property("NFileDescriptorStore"), stored);
    installed.machine.run("systemctl restart hooktrail");
    assert_eq!(installed.post("a"), Some(202));
    assert!(TcpStream::connect(("127.0.0.1", old_port)).is_err());
    installed.machine.run("systemctl stop hooktrail");
    assert!(TcpStream::connect(("127.0.0.1", installed.port)).is_err());
}
