//! Whose a stray is, where its mark does not say so or the kernel lists no children.

use rustix::process::{Signal, kill_process_group};

use super::{DEADLINE, ExitReason, Instant, Trial, alone, exists, sh, until};
use crate::process::orphans::RunGuard;
use crate::process::procfs::{RunId, children, children_among_all, read_run_id, wait_for_ends};
use crate::process::{become_subreaper, spawn};

/// Leaves a process with a session of its own, and then does as `script` says.
fn leaves(env: &str, script: &str) -> Trial {
    let stray = format!("({env} setsid sh -c 'echo $$ > pid; : > up; exec sleep 1000' &)");
    sh(&format!("{stray}; until [ -e up ]; do sleep 0.01; done; {script}"))
}

#[test]
fn a_stray_without_a_mark_is_ended_when_nobody_else_can_have_left_it() {
    alone(
        "orphan_ownership::a_stray_without_a_mark_is_ended_when_nobody_else_can_have_left_it",
        || {
            let trial = leaves("env -i", "exit 3");
            assert_eq!(trial.exit(), ExitReason::Code(3));
            assert!(!exists(&trial.file("pid")));
        },
    );
}

#[test]
fn a_stray_without_a_mark_may_be_any_runs_that_began_before_it_was_seen() {
    alone(
        "orphan_ownership::a_stray_without_a_mark_may_be_any_runs_that_began_before_it_was_seen",
        || {
            let (long, trial) = (sh(": > up; exec sleep 1000"), leaves("env -i", "exit 3"));
            std::thread::scope(|scope| {
                let run = scope.spawn(|| long.run());
                until("the long one runs", || long.path().join("up").exists());
                assert_eq!(trial.exit(), ExitReason::Code(3));
                assert!(exists(&trial.file("pid")), "it may be the long one's");
                long.stop.set();
                assert_eq!(run.join().unwrap().exit, ExitReason::Stopped);
            });
            assert!(!exists(&trial.file("pid")));
        },
    );
}

#[test]
fn where_the_server_had_children_before_a_stray_without_a_mark_may_be_theirs() {
    alone(
        "orphan_ownership::where_the_server_had_children_before_a_stray_without_a_mark_may_be_theirs",
        || {
            let mut before = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
            let trial = leaves("env -i", "exit 3");
            assert_eq!(trial.exit(), ExitReason::Code(3));
            assert!(exists(&trial.file("pid")));
            // By its number: it is our child, and nobody else reaps it.
            let pid = rustix::process::Pid::from_raw(trial.file("pid").trim().parse().unwrap());
            rustix::process::kill_process(pid.unwrap(), Signal::KILL).unwrap();
            before.kill().unwrap();
            before.wait().unwrap();
        },
    );
}

#[test]
fn without_a_list_of_children_they_are_found_among_all_processes() {
    alone(
        "orphan_ownership::without_a_list_of_children_they_are_found_among_all_processes",
        || {
            become_subreaper().unwrap();
            let trial = leaves("", "exec sleep 1000");
            let entered = RunGuard::new(&trial.program.mark);
            let child = spawn::spawn(&trial.program, &entered).unwrap();
            until("the stray is ours", || children_among_all().len() == 2);
            let strays = children();
            assert_eq!(strays.len(), 1);
            assert!(children_among_all().contains(&strays[0]));
            assert!(children_among_all().contains(&child.pid));
            let mark = RunId::Is(trial.program.mark.clone());
            until("its mark is seen", || read_run_id(strays[0]) == mark);
            kill_process_group(child.pid, Signal::KILL).unwrap();
            assert!(wait_for_ends(&[(child.pid, child.process)], Instant::now() + DEADLINE));
            assert_eq!(read_run_id(child.pid), RunId::None);
            entered.kill_orphans(child.pid);
            entered.reap(child.pid).unwrap();
            assert_eq!(children_among_all(), []);
        },
    );
}
