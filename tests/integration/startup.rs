//! What passes by itself does not end a start: the server waits, says what for, and answers 503.

use std::os::unix::net::UnixDatagram;
use std::process::Command;

use crate::support::server::{Server, err, scenario, until};

/// Waits until it answers in place of the server that cannot start.
fn until_it_stands_by(server: &Server) {
    let status = |path: &str| server.try_request("GET", path, "", b"").map(|answer| answer.status);
    until("it answers", || status("/healthz") == Some(200));
    assert_eq!(status("/readyz"), Some(503));
    let refused = server.post("/hooks/a", vec![b'x'; 200_000]);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
}

fn waits(server: &Server) -> usize {
    server.log().matches("waiting until this changes").count()
}

#[test]
fn a_start_without_room_waits_and_goes_on_when_there_is_some() {
    // No file may be longer than 64 KiB: the soft limit alone, so that it can be raised again.
    let mut server = scenario()
        .source("a", "")
        .under(&["sh", "-c", "ulimit -S -f 128; exec \"$@\"", "sh"])
        .prepare();
    server.spawn();
    until_it_stands_by(&server);
    assert_eq!(waits(&server), 1, "{}", server.log());
    let limit = format!("--pid={}", server.pid());
    let raised = Command::new("prlimit").args([&limit, "--fsize=unlimited:"]).status();
    assert!(raised.expect("prlimit").success());
    until("it starts", || server.log().contains("listening for webhooks"));
    assert_eq!(server.post("/hooks/a", "x").status, 202);
    assert_eq!(waits(&server), 1, "{}", server.log());
}

#[test]
fn another_programs_lock_at_start_is_waited_for_and_its_holder_named() {
    let mut server = scenario().source("a", "").prepare();
    server.start();
    assert_eq!(server.stop(), Some(0));
    let holder = server.trail();
    holder.execute_batch("begin immediate").expect("the write lock");
    server.spawn();
    until_it_stands_by(&server);
    let named = format!("held by process {} (", std::process::id());
    until("it names the holder", || server.log().contains(&named));
    holder.execute_batch("rollback").expect("the end");
    until("it starts", || server.log().contains("listening for webhooks"));
    assert_eq!(server.post("/hooks/a", "x").status, 202);
}

#[test]
fn a_signal_ends_the_wait_of_a_start() {
    let mut server = scenario().source("a", "").prepare();
    server.start();
    assert_eq!(server.stop(), Some(0));
    let holder = server.trail();
    holder.execute_batch("begin immediate").expect("the write lock");
    server.spawn();
    until("it waits", || waits(&server) == 1);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_start_that_waits_asks_systemd_for_more_time() {
    let socket = tempfile::tempdir().expect("a folder");
    let path = socket.path().join("notify");
    let systemd = UnixDatagram::bind(&path).expect("a socket");
    systemd.set_read_timeout(Some(crate::support::server::DEADLINE)).expect("patience");
    let variable = format!("NOTIFY_SOCKET={}", path.display());
    let mut server = scenario().source("a", "").under(&["env", &variable]).prepare();
    server.start();
    assert_eq!(server.stop(), Some(0));
    let holder = server.trail();
    holder.execute_batch("begin immediate").expect("the write lock");
    server.spawn();
    let mut message = [0; 4096];
    let mut said = String::new();
    while !(said.contains("EXTEND_TIMEOUT_USEC=") && said.contains("STATUS=waiting: ")) {
        let bytes = systemd.recv(&mut message).expect("a message");
        said.push_str(&String::from_utf8_lossy(&message[..bytes]));
    }
    let started = said.rfind("READY=1");
    assert!(started < said.find("EXTEND_TIMEOUT_USEC="), "{said}");
}

#[test]
fn a_server_that_fails_again_and_again_waits_before_it_starts() {
    let mut server = scenario().source("a", "").prepare();
    server.file("t.db", &"not a database, but text ".repeat(200));
    for _ in 0..6 {
        let refused = server.cli(&["serve"]);
        assert_eq!(refused.status.code(), Some(1), "{}", err(&refused));
    }
    server.spawn();
    until("it waits", || server.log().contains("the last 6 runs of this server"));
    // A stop ends the row, as a person sees to it.
    let code = server.stop();
    assert!(matches!(code, Some(0 | 1)), "{code:?}");
    std::fs::remove_file(server.path().join("t.db")).expect("it goes");
    server.start();
    assert_eq!(server.post("/hooks/a", "x").status, 202);
}

#[test]
fn a_run_is_recorded_beside_the_database_as_ready_and_as_stopped() {
    let mut server = scenario().source("a", "").start();
    let has = |server: &Server, line: &str| {
        server.text_of("t.db.lock").lines().any(|found| found == line)
    };
    until("it is ready", || has(&server, "state ready"));
    assert!(has(&server, &server.pid().to_string()));
    assert_eq!(server.stop(), Some(0));
    assert!(has(&server, "state stopped"));
}

/// A server whose database is on a file system of its own, in `mount`. `None`, and a note, where this
/// machine lets nobody mount one.
fn on_own_file_system(options: &str) -> Option<Server> {
    let able =
        Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "none", "/mnt"]).output();
    if !able.is_ok_and(|output| output.status.success()) {
        println!("not tried: no file system can be mounted here");
        return None;
    }
    let mount = format!("mount -t tmpfs -o {options} none mount && exec \"$@\"");
    let scenario = scenario().source("a", "").under(&["unshare", "-rm", "sh", "-c", &mount, "sh"]);
    std::fs::create_dir(scenario.path().join("mount")).expect("a folder");
    let mut server = scenario.prepare();
    let config = server.config();
    *config = config.replace("\"t.db\"", "\"mount/t.db\"");
    server.write_config();
    Some(server)
}

/// Runs a line of shell where the file system of the server is seen.
fn run_beside(server: &Server, line: &str) {
    let pid = server.pid().to_string();
    let place = ["-t", &pid, "-U", "-m", "--preserve-credentials", "sh", "-c"];
    let line = format!("cd '{}' && {line}", server.path().display());
    let ran = Command::new("nsenter").args(place).arg(line).status();
    assert!(ran.expect("nsenter").success());
}

#[test]
fn a_removed_database_is_saved_once_there_is_room_for_it() {
    let Some(mut server) = on_own_file_system("size=900k") else { return };
    server.start();
    assert_eq!(server.post("/hooks/a", "x").status, 202);
    run_beside(&server, "rm mount/t.db");
    until("it says what it needs", || server.log().contains("make room within 10 minutes"));
    assert_eq!(server.post("/hooks/a", "x").status, 503);
    run_beside(&server, "mount -o remount,size=9m mount");
    until("it is saved", || server.log().contains("all events are saved in"));
    assert_eq!(server.ended(), Some(1));
}

#[test]
fn a_disk_that_the_log_fills_is_written_again_by_the_room_that_was_kept() {
    let Some(mut server) = on_own_file_system("size=900k") else { return };
    server.start();
    let body = vec![b'x'; 3000];
    until("it is full", || server.post("/hooks/a", &body).status == 503);
    until("it makes room", || server.log().contains("removed the reserve"));
    until("it takes some again", || server.post("/hooks/a", "x").status == 202);
}

#[test]
fn a_file_system_that_is_mounted_read_only_is_waited_for() {
    let Some(mut server) = on_own_file_system("ro") else { return };
    server.spawn();
    until_it_stands_by(&server);
    assert!(server.log().contains("mounted read-only"), "{}", server.log());
    run_beside(&server, "mount -o remount,rw mount");
    until("it starts", || server.log().contains("listening for webhooks"));
    assert_eq!(server.post("/hooks/a", "x").status, 202);
}
