//! Each way a run can end.

use std::time::{Duration, Instant};

use super::{ExitReason, exists, program, sh};

#[test]
fn a_process_ends_by_its_exit_code_or_by_a_signal() {
    for (script, exit) in [
        ("exit 0", ExitReason::Code(0)),
        ("exit 65", ExitReason::Code(65)),
        ("exit 7", ExitReason::Code(7)),
        ("exit 255", ExitReason::Code(255)),
        ("kill -SEGV $$", ExitReason::Signal(11)),
        ("kill -KILL $$", ExitReason::Signal(9)),
    ] {
        assert_eq!(sh(script).exit(), exit, "{script}");
    }
}

#[test]
fn signals_that_the_server_ignores_are_not_ignored_by_what_it_starts() {
    assert_eq!(sh("kill -PIPE $$; exit 0").exit(), ExitReason::Signal(13));
    assert_eq!(sh("kill -XFSZ $$; exit 0").exit(), ExitReason::Signal(25));
}

#[test]
fn a_process_that_takes_too_long_is_ended_and_what_it_said_is_kept() {
    let over = sh("echo one; echo two >&2; exec sleep 1000").timeout_ms(300).run();
    assert_eq!(over.exit, ExitReason::TimedOut);
    assert_eq!((over.stdout, over.stderr), (b"one\n".to_vec(), b"two\n".to_vec()));
}

#[test]
fn an_exit_code_after_the_timeout_does_not_count() {
    let polite = sh("trap 'echo bye; exit 0' TERM; while :; do sleep 0.01; done").timeout_ms(500);
    let over = polite.run();
    assert_eq!((over.exit, over.stdout), (ExitReason::TimedOut, b"bye\n".to_vec()));
}

#[test]
fn a_run_that_is_stopped_gets_sigterm_and_time_to_end() {
    let polite = sh("trap 'echo bye; exit 0' TERM; : > up; while :; do sleep 0.01; done");
    let over = polite.stopped_when("up");
    assert_eq!((over.exit, over.stdout), (ExitReason::Stopped, b"bye\n".to_vec()));
}

#[test]
fn a_process_that_is_suspended_hears_sigterm() {
    let asleep = sh("trap 'echo bye; exit 0' TERM; : > up; kill -STOP $$; sleep 1000 & wait");
    let over = asleep.stopped_when("up");
    assert_eq!((over.exit, over.stdout), (ExitReason::Stopped, b"bye\n".to_vec()));
}

#[test]
fn a_process_that_left_its_group_for_another_is_ended_all_the_same() {
    let gone = "setpgrp(0, getpgrp(getppid)) or die; open(F, '>up'); sleep 1000";
    let script = format!("exec perl -e \"{gone}\"");
    assert_eq!(sh(&script).stopped_when("up").exit, ExitReason::Stopped);
    assert_eq!(sh(&script).timeout_ms(300).run().exit, ExitReason::TimedOut);
    let stubborn = sh(&format!("trap '' TERM; {script}")).grace_ms(200);
    assert_eq!(stubborn.stopped_when("up").exit, ExitReason::Stopped);
}

#[test]
fn a_process_that_ignores_sigterm_is_killed_after_the_grace() {
    let began = Instant::now();
    let stubborn = sh("trap '' TERM; echo $$ > pid; : > up; while :; do sleep 0.01; done");
    let stubborn = stubborn.grace_ms(200);
    assert_eq!(stubborn.stopped_when("up").exit, ExitReason::Stopped);
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    assert!(!exists(&stubborn.file("pid")));
}

#[test]
fn without_any_grace_a_process_is_killed_at_once() {
    let stubborn = sh("trap '' TERM; while :; do sleep 0.01; done");
    assert_eq!(stubborn.timeout_ms(50).grace_ms(0).exit(), ExitReason::TimedOut);
}

#[test]
fn what_is_stopped_before_its_start_does_not_start() {
    let trial = sh(": > ran");
    trial.stop.set();
    assert_eq!(trial.exit(), ExitReason::Stopped);
    assert!(!trial.path().join("ran").exists());
}

/// Makes a file of that mode and text, and runs it; why it did not start, its folder taken out.
fn not_started(mode: u32, text: &str) -> String {
    let mut trial = program("", &["it"]);
    let path = trial.path().join("it");
    // Written by another process: one that starts elsewhere just now would hold ours open.
    let script = format!("cat > {0}; chmod {mode:o} {0}", path.display());
    assert_eq!(sh(&script).input(text.as_bytes()).exit(), ExitReason::Code(0));
    trial.program.path = path;
    why(&trial)
}

fn why(trial: &super::Trial) -> String {
    let folder = format!("{}/", trial.path().display());
    match trial.exit() {
        ExitReason::NotStarted(why) => why.replace(&folder, ""),
        other => panic!("it ended by {other:?}"),
    }
}

#[test]
fn what_can_not_be_started_says_why_and_what_to_do() {
    assert_eq!(not_started(0o644, "#!/bin/sh\n"), "it: not executable: chmod +x it");
    assert_eq!(
        not_started(0o755, "exit 0\n"),
        "it: not a program: a script needs a first line such as #!/bin/sh"
    );
    assert_eq!(
        not_started(0o755, "#!/no/such/interpreter\n"),
        "it: the interpreter named in its first line was not found"
    );
}

#[test]
fn a_missing_file_and_a_missing_directory_are_told_apart() {
    assert_eq!(why(&program("/no/such/file", &["it"])), "/no/such/file: there is no such file");
    let mut trial = sh("exit 0");
    trial.program.directory = "/no/such/directory".into();
    assert_eq!(why(&trial), "/no/such/directory: there is no such directory");
}

#[test]
fn an_argument_with_a_nul_and_an_environment_too_large_start_nothing() {
    assert_eq!(why(&sh("exit 0 \0")), "a NUL byte in it");
    let mut trial = sh("exit 0");
    trial.program.env.push(("LARGE".into(), "x".repeat(4 << 20).into()));
    assert_eq!(
        why(&trial),
        "/bin/sh: the environment is too large: no variable may be longer than 128 KiB"
    );
}
