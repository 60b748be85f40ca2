//! File descriptor 3: lines, and signs of life.

use super::{ControlLine, ExitReason, Trial, sh};

/// The lines that a run gave; `alive` is a sign of life.
fn notes(trial: &Trial) -> (ExitReason, Vec<String>) {
    let mut lines = Vec::new();
    let exit = trial
        .run_with(&mut |line| {
            lines.push(String::from_utf8_lossy(line).into_owned());
            if line == b"alive" { ControlLine::Alive } else { ControlLine::Noted }
        })
        .exit;
    (exit, lines)
}

#[track_caller]
fn check(script: &str, expected: &[&str]) {
    let (exit, lines) = notes(&sh(script));
    assert_eq!(
        (exit, lines),
        (ExitReason::Code(0), expected.iter().map(|&l| l.to_owned()).collect())
    );
}

#[test]
fn lines_arrive_one_by_one_however_they_are_written() {
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
fn a_line_without_an_end_is_cut() {
    let (exit, lines) =
        notes(&sh("head -c 1000000 /dev/zero | tr '\\0' x >&3; echo >&3; echo y >&3"));
    assert_eq!(exit, ExitReason::Code(0));
    let lengths: Vec<usize> = lines.iter().map(String::len).collect();
    assert_eq!(lengths, [64 << 10, 1]);
}

#[test]
fn lines_have_no_number_as_a_long_run_may_give_many_signs_of_life() {
    let (exit, lines) = notes(&sh("yes alive | head -n 50000 >&3"));
    assert_eq!((exit, lines.len()), (ExitReason::Code(0), 50_000));
}

#[test]
fn a_sign_of_life_starts_the_timeout_anew() {
    let trial = sh("for i in 1 2 3 4 5 6 7 8; do sleep 0.3; echo alive >&3; done");
    assert_eq!(notes(&trial.timeout_ms(1500)).0, ExitReason::Code(0));
}

#[test]
fn a_line_that_is_no_sign_of_life_does_not() {
    let trial = sh("while :; do sleep 0.02; echo noise >&3; done");
    assert_eq!(notes(&trial.timeout_ms(300)).0, ExitReason::TimedOut);
}

#[test]
fn a_sign_of_life_after_the_timeout_comes_too_late() {
    let trial = sh("trap 'while :; do echo alive >&3; sleep 0.01; done' TERM
                    while :; do sleep 0.01; done");
    assert_eq!(notes(&trial.timeout_ms(300).grace_ms(100)).0, ExitReason::TimedOut);
}
