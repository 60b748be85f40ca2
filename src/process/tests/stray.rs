//! What leaves its group is found and ended; what is another's is left alone.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::{Exit, exists, sh, until};
use crate::process::{MARK, end_marked};

/// Runs a script that writes down the processes it leaves behind; all are gone after it.
#[track_caller]
fn check(script: &str, left: usize) {
    let wait = format!("until [ \"$(wc -l < pids)\" -ge {left} ]; do sleep 0.01; done");
    let trial = sh(&format!(": > pids\n{script}\n{wait}"));
    assert_eq!(trial.exit(), Exit::Code(0));
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
        assert_eq!(sh("exit 0").exit(), Exit::Code(0));
        assert!(exists(&one.file("pids")), "another run's stray was ended");
        std::fs::write(one.path().join("go"), "").unwrap();
        assert_eq!(run.join().unwrap(), Exit::Code(0));
    });
    assert!(!exists(&one.file("pids")));
}

/// A process and its child with a mark, as an earlier server would have left them; their numbers.
fn left(mark: &str) -> String {
    let mut child = Command::new("/bin/sh")
        .args(["-c", "sleep 1000 & echo $$ $!; wait"])
        .env_clear()
        .env(MARK, mark)
        .env("PATH", "/usr/bin:/bin")
        .process_group(0)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut said = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    line
}

#[test]
fn what_an_earlier_server_left_is_found_by_its_mark_and_ended_with_its_group() {
    let own = std::process::id();
    let mine: Vec<String> = (1..4).map(|job| left(&format!("trail{own}.{job}.1"))).collect();
    let other = left(&format!("trail{own}0.1.1"));
    assert!(end_marked(&format!("trail{own}.")) >= 3);
    for pid in mine.iter().flat_map(|pids| pids.split_whitespace()) {
        until("it is gone", || !is_alive(pid));
    }
    assert!(other.split_whitespace().all(is_alive), "another trail's was ended");
    assert!(end_marked(&format!("trail{own}0.")) >= 1);
    assert_eq!(end_marked(&format!("trail{own}")), 0);
}

/// Ended ones that wait to be reaped by whoever is their parent are not.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}
