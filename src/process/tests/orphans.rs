//! What leaves its group is found and ended; what is another's is left alone.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use super::{ExitReason, exists, sh, until};
use crate::process::{MARK, kill_run};

/// Runs a script that writes down the processes it leaves behind; all are gone after it.
#[track_caller]
fn check(script: &str, left: usize) {
    let wait = format!("until [ \"$(wc -l < pids)\" -ge {left} ]; do sleep 0.01; done");
    let trial = sh(&format!(": > pids\n{script}\n{wait}"));
    assert_eq!(trial.exit(), ExitReason::Code(0));
    let pids = trial.file("pids");
    assert_eq!(pids.lines().count(), left);
    for pid in pids.lines() {
        assert!(!exists(pid), "{pid} is still there:\n{script}");
    }
}

const STAY: &str = "echo $$ >> pids; exec sleep 1000";

#[test]
fn a_child_with_a_session_of_its_own_is_ended() {
    check(&format!("setsid sh -c '{STAY}' &"), 1);
}

#[test]
fn a_child_that_gave_up_its_parents_is_ended() {
    check(&format!("(setsid sh -c 'sh -c \"$0\" & exit' '{STAY}' &)"), 1);
}

#[test]
fn a_child_that_ignores_everything_is_ended() {
    check(
        "setsid sh -c 'trap \"\" TERM INT HUP; echo $$ >> pids
           while :; do sleep 0.01; done' > /dev/null 2>&1 3>&- < /dev/null &",
        1,
    );
}

#[test]
fn strays_of_strays_are_ended_to_the_last() {
    // Each has a session of its own, and is the child of the one before.
    check(
        "echo 'echo $$ >> pids
               [ $1 = 0 ] || setsid sh nest $(($1 - 1)) &
               exec sleep 1000' > nest
         setsid sh nest 5 &",
        6,
    );
}

#[test]
fn strays_of_another_run_are_left_alone() {
    let one = sh(&format!(
        "(setsid sh -c '{STAY}' &); until [ -s pids ]; do sleep 0.01; done; : > up
         until [ -e go ]; do sleep 0.01; done"
    ));
    std::thread::scope(|scope| {
        let run = scope.spawn(|| one.exit());
        until("the first has its stray", || one.path().join("up").exists());
        assert_eq!(sh("exit 0").exit(), ExitReason::Code(0));
        assert!(exists(&one.file("pids")), "another run's stray was ended");
        std::fs::write(one.path().join("go"), "").unwrap();
        assert_eq!(run.join().unwrap(), ExitReason::Code(0));
    });
    assert!(!exists(&one.file("pids")));
}

/// A process with a mark, as an earlier server would have left it, in a group of its own; and what
/// it says first.
fn left(mark: &str, script: &str) -> (Child, String) {
    let mut child = Command::new("/bin/sh")
        .args(["-c", script, script])
        .env_clear()
        .env(MARK, mark)
        .env("PATH", "/usr/bin:/bin")
        .process_group(0)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    said.read_line(&mut line).unwrap();
    (child, line)
}

#[test]
fn what_an_earlier_server_left_is_found_by_its_mark_and_ended_with_its_group() {
    let own = std::process::id();
    let script = "sleep 1000 & echo $$ $!; wait";
    let mine: Vec<_> = (1..4).map(|job| left(&format!("t{own}.{job}.1"), script)).collect();
    let mut other = left(&format!("t{own}0.1.1"), script);
    assert!(kill_run(&format!("t{own}.")) >= 3);
    for (mut child, pids) in mine {
        // Reaped already, or to be.
        let _ = child.wait();
        for pid in pids.split_whitespace() {
            until("it is gone", || !is_alive(pid));
        }
    }
    assert!(other.1.split_whitespace().all(is_alive), "another trail's was ended");
    assert!(kill_run(&format!("t{own}0.")) >= 1);
    assert_eq!(kill_run(&format!("t{own}")), 0);
    let _ = other.0.wait();
}

#[test]
fn what_keeps_becoming_another_program_is_found_all_the_same() {
    for round in 0..20 {
        // Within `exec` a process has no environment, and so no mark.
        check("echo 'exec sh again' > again; setsid sh -c 'echo $$ >> pids; exec sh again' &", 1);
        let mark = format!("again{}.{round}.1", std::process::id());
        let (mut child, pid) = left(&mark, "echo $$; exec sh -c \"$0\" \"$0\" > /dev/null");
        assert!(kill_run(&mark) >= 1);
        let _ = child.wait();
        assert!(!is_alive(pid.trim()));
    }
}

/// Ended ones that wait to be reaped by whoever is their parent are not.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}
