//! Tests that kill orphans of a run and leave other processes alone.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use super::{ExitReason, process_exists, sh, until};
use crate::process::{RUN_ID_VARIABLE, Supervisor};
use crate::test_support::is_running;

/// Runs a script that writes the ids of its orphans into `pids`. None may exist afterwards.
#[track_caller]
fn check(script: &str, orphan_count: usize) {
    let wait = format!("until [ \"$(wc -l < pids)\" -ge {orphan_count} ]; do sleep 0.01; done");
    let test_run = sh(&format!(": > pids\n{script}\n{wait}"));
    assert_eq!(test_run.exit(), ExitReason::Code(0));
    let pids = test_run.file("pids");
    assert_eq!(pids.lines().count(), orphan_count);
    for pid in pids.lines() {
        assert!(!process_exists(pid), "{pid} is still there:\n{script}");
    }
}

const STAY: &str = "echo $$ >> pids; exec sleep 1000";

#[test]
fn a_child_with_its_own_session_is_killed() {
    check(&format!("setsid sh -c '{STAY}' &"), 1);
}

#[test]
fn a_child_whose_parents_ended_is_killed() {
    check(&format!("(setsid sh -c 'sh -c \"$0\" & exit' '{STAY}' &)"), 1);
}

#[test]
fn a_child_that_ignores_signals_is_killed() {
    check(
        "setsid sh -c 'trap \"\" TERM INT HUP; echo $$ >> pids
           while :; do sleep 0.01; done' > /dev/null 2>&1 3>&- < /dev/null &",
        1,
    );
}

#[test]
fn orphans_of_orphans_are_killed() {
    // Each process has a new session and is a child of the one before.
    check(
        "echo 'echo $$ >> pids
               [ $1 = 0 ] || setsid sh nest $(($1 - 1)) &
               exec sleep 1000' > nest
         setsid sh nest 5 &",
        6,
    );
}

#[test]
fn orphans_of_an_active_run_are_left_alone() {
    let first = sh(&format!(
        "(setsid sh -c '{STAY}' &); until [ -s pids ]; do sleep 0.01; done; : > up
         until [ -e go ]; do sleep 0.01; done"
    ));
    std::thread::scope(|scope| {
        let run = scope.spawn(|| first.exit());
        until("the first run has its orphan", || first.path().join("up").exists());
        assert_eq!(sh("exit 0").owner(&first.command.supervisor).exit(), ExitReason::Code(0));
        assert!(process_exists(&first.file("pids")), "another run's orphan was killed");
        std::fs::write(first.path().join("go"), "").unwrap();
        assert_eq!(run.join().unwrap(), ExitReason::Code(0));
    });
    assert!(!process_exists(&first.file("pids")));
}

/// Starts a process with a run id in a new group, as an earlier server would have left it.
/// Returns it with its first line of output.
fn start_with_run_id(run_id: &str, script: &str) -> (Child, String) {
    let mut child = Command::new("/bin/sh")
        .args(["-c", script, script])
        .env_clear()
        .env(RUN_ID_VARIABLE, run_id)
        .env("PATH", "/usr/bin:/bin")
        .process_group(0)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    (child, line)
}

/// Kills the processes that an earlier server with this id left, and returns their number.
fn kill_earlier_runs(id: &str) -> usize {
    Supervisor::new(id).kill_earlier_runs()
}

#[test]
fn processes_of_an_earlier_server_are_killed_with_their_groups() {
    let own_pid = std::process::id();
    let script = "sleep 1000 & echo $$ $!; wait";
    let own_runs: Vec<_> =
        (1..4).map(|job| start_with_run_id(&format!("t{own_pid}.{job}.1"), script)).collect();
    let mut other = start_with_run_id(&format!("t{own_pid}0.1.1"), script);
    assert!(kill_earlier_runs(&format!("t{own_pid}")) >= 3);
    for (mut child, pids) in own_runs {
        // `kill_earlier_runs` may have reaped it already.
        let _ = child.wait();
        for pid in pids.split_whitespace() {
            until("the process has ended", || !is_running(pid));
        }
    }
    assert!(other.1.split_whitespace().all(is_running), "a process of another database was killed");
    assert!(kill_earlier_runs(&format!("t{own_pid}0")) >= 1);
    let _ = other.0.wait();
}

#[test]
fn a_process_that_repeats_exec_is_found_and_killed() {
    for round in 0..20 {
        // Within `exec`, a process has no environment, and so no run id.
        check("echo 'exec sh again' > again; setsid sh -c 'echo $$ >> pids; exec sh again' &", 1);
        let id = format!("again{}.{round}", std::process::id());
        let (mut child, pid) =
            start_with_run_id(&format!("{id}.1"), "echo $$; exec sh -c \"$0\" \"$0\" > /dev/null");
        assert!(kill_earlier_runs(&id) >= 1);
        let _ = child.wait();
        assert!(!is_running(pid.trim()));
    }
}

#[test]
fn an_orphan_that_repeats_exec_is_killed_while_another_process_starts() {
    for round in 0..100 {
        let test_run = sh("echo 'exec sh again' > again
             setsid sh -c 'echo $$ > pid; exec sh again' &
             until [ -s pid ]; do sleep 0.01; done");
        let _start = Arc::clone(&test_run.command.supervisor.table.lock().start_guard);
        assert_eq!(test_run.exit(), ExitReason::Code(0));
        assert!(!process_exists(&test_run.file("pid")), "{round}");
    }
}
