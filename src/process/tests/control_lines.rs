//! Tests of file descriptor 3: control lines and heartbeats.

use super::{ControlLine, ExitReason, TestRun, sh};

/// Returns the exit of a run and its control lines. The line `alive` is a heartbeat.
fn control_lines(test_run: &TestRun) -> (ExitReason, Vec<String>) {
    let mut lines = Vec::new();
    let exit = test_run
        .run_with(&mut |line| {
            lines.push(String::from_utf8_lossy(line).into_owned());
            if line == b"alive" { ControlLine::Heartbeat } else { ControlLine::Message }
        })
        .exit;
    (exit, lines)
}

#[track_caller]
fn check(script: &str, expected: &[&str]) {
    let (exit, lines) = control_lines(&sh(script));
    assert_eq!(
        (exit, lines),
        (ExitReason::Code(0), expected.iter().map(|&l| l.to_owned()).collect())
    );
}

#[test]
fn control_lines_arrive_one_by_one() {
    check("echo one >&3; echo two >&3", &["one", "two"]);
    check(
        "printf o >&3; sleep 0.02; printf 'ne\\nt' >&3; sleep 0.02; echo wo >&3",
        &["one", "two"],
    );
    check("printf '\\n\\none\\n\\n' >&3", &["one"]);
    check("printf 'one\\nwithout an end' >&3", &["one", "without an end"]);
    check("exit 0", &[]);
}

#[test]
fn a_long_control_line_is_cut() {
    let (exit, lines) =
        control_lines(&sh("head -c 1000000 /dev/zero | tr '\\0' x >&3; echo >&3; echo y >&3"));
    assert_eq!(exit, ExitReason::Code(0));
    let lengths: Vec<usize> = lines.iter().map(String::len).collect();
    assert_eq!(lengths, [64 << 10, 1]);
}

#[test]
fn the_number_of_control_lines_has_no_limit() {
    let (exit, lines) = control_lines(&sh("yes alive | head -n 50000 >&3"));
    assert_eq!((exit, lines.len()), (ExitReason::Code(0), 50_000));
}

#[test]
fn a_heartbeat_restarts_the_timeout() {
    let test_run = sh("for i in 1 2 3 4 5 6 7 8; do sleep 0.3; echo alive >&3; done");
    assert_eq!(control_lines(&test_run.timeout_ms(1500)).0, ExitReason::Code(0));
}

#[test]
fn other_control_lines_do_not_restart_the_timeout() {
    let test_run = sh("while :; do sleep 0.02; echo noise >&3; done");
    assert_eq!(control_lines(&test_run.timeout_ms(300)).0, ExitReason::TimedOut);
}

#[test]
fn a_heartbeat_after_the_timeout_has_no_effect() {
    let test_run = sh("trap 'while :; do echo alive >&3; sleep 0.01; done' TERM
                    while :; do sleep 0.01; done");
    assert_eq!(control_lines(&test_run.timeout_ms(300).grace_ms(100)).0, ExitReason::TimedOut);
}
