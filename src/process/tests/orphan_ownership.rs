//! Tests that assign orphans to runs without a run id, and without the kernel's list of children.

use rustix::process::{Signal, kill_process_group};

use super::{DEADLINE, ExitReason, Instant, TestRun, in_own_process, process_exists, sh, until};
use crate::process::orphans::RunGuard;
use crate::process::procfs::{RunId, read_children, read_run_id, scan_children, wait_for_exits};
use crate::process::spawn;

/// Prepares a run that leaves an orphan in a new session and then runs `script`.
fn leaves_orphan(env: &str, script: &str) -> TestRun {
    let orphan = format!("({env} setsid sh -c 'echo $$ > pid; : > up; exec sleep 1000' &)");
    sh(&format!("{orphan}; until [ -e up ]; do sleep 0.01; done; {script}"))
}

#[test]
fn an_orphan_without_a_run_id_is_killed_if_only_this_run_can_have_left_it() {
    in_own_process(
        "orphan_ownership::an_orphan_without_a_run_id_is_killed_if_only_this_run_can_have_left_it",
        || {
            let test_run = leaves_orphan("env -i", "exit 3");
            assert_eq!(test_run.exit(), ExitReason::Code(3));
            assert!(!process_exists(&test_run.file("pid")));
        },
    );
}

#[test]
fn an_orphan_without_a_run_id_is_killed_after_all_runs_that_began_before_it() {
    in_own_process(
        "orphan_ownership::an_orphan_without_a_run_id_is_killed_after_all_runs_that_began_before_it",
        || {
            let long = sh(": > up; exec sleep 1000");
            let test_run = leaves_orphan("env -i", "exit 3").owner(&long.command.supervisor);
            std::thread::scope(|scope| {
                let run = scope.spawn(|| long.run());
                until("the long run has started", || long.path().join("up").exists());
                assert_eq!(test_run.exit(), ExitReason::Code(3));
                assert!(process_exists(&test_run.file("pid")), "it may belong to the long run");
                long.stop.cancel();
                assert_eq!(run.join().unwrap().exit, ExitReason::Stopped);
            });
            assert!(!process_exists(&test_run.file("pid")));
        },
    );
}

#[test]
fn an_orphan_without_a_run_id_is_left_alone_if_the_server_had_other_children() {
    in_own_process(
        "orphan_ownership::an_orphan_without_a_run_id_is_left_alone_if_the_server_had_other_children",
        || {
            let mut before = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
            let test_run = leaves_orphan("env -i", "exit 3");
            assert_eq!(test_run.exit(), ExitReason::Code(3));
            assert!(process_exists(&test_run.file("pid")));
            // The orphan is a child of this process, and nothing else reaps it. So its id is valid.
            let pid = rustix::process::Pid::from_raw(test_run.file("pid").trim().parse().unwrap());
            rustix::process::kill_process(pid.unwrap(), Signal::KILL).unwrap();
            before.kill().unwrap();
            before.wait().unwrap();
        },
    );
}

#[test]
fn children_are_found_among_all_processes_if_the_kernel_has_no_list() {
    in_own_process(
        "orphan_ownership::children_are_found_among_all_processes_if_the_kernel_has_no_list",
        || {
            let test_run = leaves_orphan("", "exec sleep 1000");
            let guard = RunGuard::new(&test_run.command.supervisor, &test_run.command.run_id);
            let child = spawn::spawn(&test_run.command, &guard).unwrap();
            until("the orphan is a child of this process", || scan_children().len() == 2);
            let orphans = read_children();
            assert_eq!(orphans.len(), 1);
            assert!(scan_children().contains(&orphans[0]));
            assert!(scan_children().contains(&child.pid));
            let run_id = RunId::Value(test_run.command.run_id.clone());
            until("its run id is visible", || read_run_id(orphans[0]) == run_id);
            kill_process_group(child.pid, Signal::KILL).unwrap();
            assert!(wait_for_exits(&[(child.pid, child.pidfd)], Instant::now() + DEADLINE));
            assert_eq!(read_run_id(child.pid), RunId::Missing);
            guard.kill_orphans(child.pid);
            guard.supervisor.reap(child.pid).unwrap();
            assert_eq!(scan_children(), []);
        },
    );
}
