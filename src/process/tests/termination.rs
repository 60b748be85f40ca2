//! Tests of the ends of a run: exit codes, signals, timeouts, cancellation and failed starts.

use std::time::{Duration, Instant};

use super::{ExitReason, command, process_exists, sh};

#[test]
fn exit_codes_and_signals_are_reported() {
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
fn signals_that_the_server_ignores_end_its_children() {
    assert_eq!(sh("kill -PIPE $$; exit 0").exit(), ExitReason::Signal(13));
    assert_eq!(sh("kill -XFSZ $$; exit 0").exit(), ExitReason::Signal(25));
}

#[test]
fn a_process_that_times_out_keeps_its_output() {
    let result = sh("echo one; echo two >&2; exec sleep 1000").timeout_ms(300).run();
    assert_eq!(result.exit, ExitReason::TimedOut);
    assert_eq!((result.stdout, result.stderr), (b"one\n".to_vec(), b"two\n".to_vec()));
}

#[test]
fn an_exit_code_after_the_timeout_does_not_count() {
    let obedient = sh("trap 'echo bye; exit 0' TERM; while :; do sleep 0.01; done").timeout_ms(500);
    let result = obedient.run();
    assert_eq!((result.exit, result.stdout), (ExitReason::TimedOut, b"bye\n".to_vec()));
}

#[test]
fn a_cancelled_run_gets_sigterm_and_a_grace_period() {
    let obedient = sh("trap 'echo bye; exit 0' TERM; : > up; while :; do sleep 0.01; done");
    let result = obedient.cancel_when_file("up");
    assert_eq!((result.exit, result.stdout), (ExitReason::Stopped, b"bye\n".to_vec()));
}

#[test]
fn a_stopped_process_continues_to_handle_sigterm() {
    let asleep = sh("trap 'echo bye; exit 0' TERM; : > up; kill -STOP $$; sleep 1000 & wait");
    let result = asleep.cancel_when_file("up");
    assert_eq!((result.exit, result.stdout), (ExitReason::Stopped, b"bye\n".to_vec()));
}

#[test]
fn a_process_that_moved_to_another_group_is_ended() {
    let gone = "setpgrp(0, getpgrp(getppid)) or die; open(F, '>up'); sleep 1000";
    let script = format!("exec perl -e \"{gone}\"");
    assert_eq!(sh(&script).cancel_when_file("up").exit, ExitReason::Stopped);
    assert_eq!(sh(&script).timeout_ms(300).run().exit, ExitReason::TimedOut);
    let stubborn = sh(&format!("trap '' TERM; {script}")).grace_ms(200);
    assert_eq!(stubborn.cancel_when_file("up").exit, ExitReason::Stopped);
}

#[test]
fn a_process_that_ignores_sigterm_is_killed_after_the_grace() {
    let began = Instant::now();
    let stubborn = sh("trap '' TERM; echo $$ > pid; : > up; while :; do sleep 0.01; done");
    let stubborn = stubborn.grace_ms(200);
    assert_eq!(stubborn.cancel_when_file("up").exit, ExitReason::Stopped);
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    assert!(!process_exists(&stubborn.file("pid")));
}

#[test]
fn without_a_grace_period_a_process_is_killed_at_once() {
    let stubborn = sh("trap '' TERM; while :; do sleep 0.01; done");
    assert_eq!(stubborn.timeout_ms(50).grace_ms(0).exit(), ExitReason::TimedOut);
}

#[test]
fn a_run_that_is_cancelled_before_its_start_does_not_start() {
    let test_run = sh(": > ran");
    test_run.stop.cancel();
    assert_eq!(test_run.exit(), ExitReason::Stopped);
    assert!(!test_run.path().join("ran").exists());
}

/// Creates a file with this mode and text and runs it. Returns why it did not start, without the
/// folder.
fn not_started(mode: u32, text: &str) -> String {
    let mut test_run = command("", &["it"]);
    let path = test_run.path().join("it");
    // Another process writes the file. If this process wrote it, a child that another test starts
    // at this moment would hold it open.
    let script = format!("cat > {0}; chmod {mode:o} {0}", path.display());
    assert_eq!(sh(&script).input(text.as_bytes()).exit(), ExitReason::Code(0));
    test_run.command.path = path;
    not_started_reason(&test_run)
}

fn not_started_reason(test_run: &super::TestRun) -> String {
    let folder = format!("{}/", test_run.path().display());
    match test_run.exit() {
        ExitReason::NotStarted(reason) => reason.replace(&folder, ""),
        other => panic!("the exit was {other:?}"),
    }
}

#[test]
fn a_file_that_can_not_be_started_is_explained() {
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
fn a_missing_file_and_a_missing_directory_have_different_errors() {
    assert_eq!(
        not_started_reason(&command("/no/such/file", &["it"])),
        "/no/such/file: there is no such file"
    );
    let mut test_run = sh("exit 0");
    test_run.command.directory = "/no/such/directory".into();
    assert_eq!(not_started_reason(&test_run), "/no/such/directory: there is no such directory");
}

#[test]
fn an_argument_with_a_nul_or_a_large_environment_is_an_error() {
    assert_eq!(
        not_started_reason(&sh("exit 0 \0")),
        "an argument, a path or a variable contains a NUL byte"
    );
    let mut test_run = sh("exit 0");
    test_run.command.env.push(("LARGE".into(), "x".repeat(4 << 20).into()));
    assert_eq!(
        not_started_reason(&test_run),
        "/bin/sh: the environment is too large: no variable may be longer than 128 KiB"
    );
}
