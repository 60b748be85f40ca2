//! A database on a file system that is full, too small or read-only. The tests mount one in a namespace of
//! their own; `tests/run` runs them if the machine allows it.

use std::process::Command;

use crate::startup::until_it_responds_503;
use crate::support::server::{HOOKTRAIL, Server, scenario, until};

/// A server whose database is on a file system of this test, mounted at `mount`.
fn prepare_on_tmpfs(options: &str) -> Server {
    let mount = format!("mount -t tmpfs -o {options} none mount && exec \"$@\"");
    let scenario =
        scenario().source("a", "").wrapped_by(&["unshare", "-rm", "sh", "-c", &mount, "sh"]);
    std::fs::create_dir(scenario.path().join("mount")).expect("a folder");
    let mut server = scenario.prepare();
    let config = server.config();
    *config = config.replace("\"t.db\"", "\"mount/t.db\"");
    server.write_config();
    server
}

/// Runs a shell command that sees the file system of the server.
fn run_in_mount_namespace(server: &Server, line: &str) {
    let pid = server.pid().to_string();
    let place = ["-t", &pid, "-U", "-m", "--preserve-credentials", "sh", "-c"];
    let line = format!("cd '{}' && {line}", server.path().display());
    let status = Command::new("nsenter").args(place).arg(line).status();
    assert!(status.expect("nsenter").success());
}

#[test]
#[ignore = "needs a machine that allows mounts"]
fn a_removed_database_is_saved_when_the_disk_has_space() {
    let mut server = prepare_on_tmpfs("size=900k");
    server.start();
    assert_eq!(server.post("/hooks/a", "x").status, 202);
    run_in_mount_namespace(&server, "rm mount/t.db");
    until("the log says how much room it needs", || {
        server.log().contains("make room within 10 minutes")
    });
    assert_eq!(server.post("/hooks/a", "x").status, 503);
    run_in_mount_namespace(&server, "mount -o remount,size=9m mount");
    until("the events are saved", || server.log().contains("all events are saved in"));
    assert_eq!(server.wait_for_exit(), Some(1));
}

#[test]
#[ignore = "needs a machine that allows mounts"]
fn the_reserved_disk_space_makes_a_full_disk_writable_again() {
    let mut server = prepare_on_tmpfs("size=900k");
    // Otherwise the server may notice the lack of space before a write fails.
    server.replace_in_config("min_free_space = 1024", "min_free_space = 0");
    server.start();
    let body = vec![b'x'; 3000];
    // A 503 alone does not show a full disk: a busy server sends it too.
    until("the disk is full and the server frees its reserve", || {
        server.post("/hooks/a", &body);
        server.log().contains("removed the reserve")
    });
    until("the server accepts events again", || server.post("/hooks/a", "x").status == 202);
}

#[test]
#[ignore = "needs a machine that allows mounts"]
fn a_start_on_a_read_only_file_system_waits() {
    let mut server = prepare_on_tmpfs("ro");
    server.spawn();
    until_it_responds_503(&server);
    assert!(server.log().contains("mounted read-only"), "{}", server.log());
    run_in_mount_namespace(&server, "mount -o remount,rw mount");
    until("the server starts", || server.log().contains("listening for webhooks"));
    assert_eq!(server.post("/hooks/a", "x").status, 202);
}

#[test]
#[ignore = "needs a machine that allows mounts"]
fn a_start_with_a_database_on_a_disk_that_became_read_only_says_what_to_do_and_goes_on_later() {
    let mount = "[ ! -e is-read-only ] ||
        { mount --bind mount mount && mount -o remount,bind,ro mount; } && exec \"$@\"";
    let scenario =
        scenario().source("a", "").wrapped_by(&["unshare", "-rm", "sh", "-c", mount, "sh"]);
    std::fs::create_dir(scenario.path().join("mount")).expect("a folder");
    let mut server = scenario.prepare();
    server.replace_in_config("\"t.db\"", "\"mount/t.db\"");
    server.start();
    assert_eq!(server.post("/hooks/a", "x").event_id(), 1);
    assert_eq!(server.stop(), Some(0));
    server.write_file("is-read-only", "");
    server.spawn();
    until_it_responds_503(&server);
    let expected = "its file system is mounted read-only: mount it writable";
    assert!(server.log().contains(expected), "{}", server.log());
    let check = format!("! {HOOKTRAIL} check 2> check.log");
    run_in_mount_namespace(&server, &check);
    assert!(server.read_file("check.log").contains(expected), "{}", server.read_file("check.log"));
    run_in_mount_namespace(&server, "mount -o remount,bind,rw mount");
    until("the server starts", || server.log().contains("listening for webhooks"));
    assert_eq!(server.post("/hooks/a", "x").event_id(), 2);
}
