//! Tests of commands: their environment and input, and their results.

use std::sync::Arc;

use super::*;
use crate::config;
use crate::domain::Event;
use crate::handler::detail_text::MAX_DETAIL_CHARS;
use crate::handler::tests::{command_of, sample_task};

fn task(script: &str) -> Task {
    sample_task(|handler| {
        command_of(handler).args = ["sh", "-c", script].map(String::from).to_vec()
    })
}

fn task_with(script: &str, change: impl FnOnce(&mut config::Handler)) -> Task {
    let task = task(script);
    let mut handler = (*task.handler).clone();
    change(&mut handler);
    Task { handler: Arc::new(handler), ..task }
}

fn run_attempt(task: &Task) -> AttemptResult {
    CommandRunner.run(task, &CancelToken::new().unwrap())
}

fn stdout_of(task: &Task) -> String {
    String::from_utf8(run_attempt(task).stdout).unwrap()
}

#[test]
fn the_exit_decides_the_outcome() {
    let run_result = |exit| process::RunResult {
        exit,
        stdout_start: Vec::new(),
        stdout: b"out".to_vec(),
        stderr: b"why\n\n".to_vec(),
    };
    let check = |exit: ExitReason, deferred: bool, expected: (Outcome, bool, &str)| {
        let deferred = deferred.then_some(Some(Duration::from_secs(9)));
        let control = ControlMessages { deferred, free_text: "said".into() };
        let result = attempt_result(run_result(exit), control, Duration::from_secs(90));
        assert_eq!((result.outcome, result.is_permanent, result.detail.as_str()), expected);
        assert_eq!(result.retry_after.is_some(), result.outcome == Outcome::Deferred);
        assert_eq!(result.stdout, b"out");
    };
    use Outcome::{Deferred, Failed, Interrupted, Succeeded, TimedOut};
    check(ExitReason::Code(0), false, (Succeeded, false, "exit 0: why: said"));
    check(ExitReason::Code(65), false, (Failed, true, "exit 65: why: said"));
    check(ExitReason::Code(75), false, (Failed, false, "exit 75: why: said"));
    check(ExitReason::Signal(11), false, (Failed, false, "signal 11: why: said"));
    check(ExitReason::TimedOut, false, (TimedOut, false, "timeout 1m 30s: why: said"));
    check(ExitReason::Stopped, false, (Interrupted, false, "stopped: why: said"));
    let missing = || ExitReason::NotStarted("/x: gone".into());
    check(missing(), false, (Failed, false, "not started: /x: gone: why: said"));
    // A deferral decides regardless of the exit code, but not after a timeout or a cancellation.
    for exit in
        [ExitReason::Code(0), ExitReason::Code(7), ExitReason::Code(65), ExitReason::Signal(15)]
    {
        check(exit, true, (Deferred, false, "deferred: why: said"));
    }
    check(ExitReason::TimedOut, true, (TimedOut, false, "timeout 1m 30s: why: said"));
    check(ExitReason::Stopped, true, (Interrupted, false, "stopped: why: said"));
}

#[test]
fn descriptor_3_defers_a_job() {
    let result =
        run_attempt(&task(r#"echo '{"outcome":"deferred","retry_after":"10m"}' >&3; exit 1"#));
    assert_eq!(
        (result.outcome, result.retry_after),
        (Outcome::Deferred, Some(Duration::from_secs(600)))
    );
}

#[test]
fn detail_is_one_line_of_bounded_length() {
    let check = |script: &str, expected: &str| {
        assert_eq!(run_attempt(&task(script)).detail, expected, "{script}");
    };
    check("printf 'first\\nlast\\n\\n  \\n' >&2; exit 7", "exit 7: last");
    check("printf 'a\\tb\\033[2Jc\\n\\033\\n' >&2; exit 7", "exit 7: a b [2Jc");
    check("printf '\\377\\n' >&2; exit 7", "exit 7: \u{fffd}");
    check("printf 'progress\\rdone\\r\\n' >&2; exit 7", "exit 7: done");
    check("echo why >&2; echo said >&3; echo more >&3; exit 7", "exit 7: why: said more");
    let long = run_attempt(&task("head -c 100000 /dev/zero | tr '\\0' e >&2; exit 7"));
    assert_eq!(long.detail.len(), MAX_DETAIL_CHARS);
    let long_control_text = run_attempt(&task("yes | head -n 100000 >&3; exit 7"));
    assert_eq!(long_control_text.detail.chars().count(), MAX_DETAIL_CHARS);
}

#[test]
fn the_body_or_the_item_is_on_stdin() {
    assert_eq!(stdout_of(&task("cat")), "the body");
    let input = Arc::from(*b"an item");
    assert_eq!(stdout_of(&Task { input, item: Some(1), ..task("cat") }), "an item");
}

#[test]
fn the_environment_has_the_documented_variables() {
    let mut expected: Vec<(String, String)> = [
        ("HOOKTRAIL_EVENT", "42"),
        ("HOOKTRAIL_JOB", "7"),
        ("HOOKTRAIL_ATTEMPT", "3"),
        ("HOOKTRAIL_MAX_ATTEMPTS", "40"),
        ("HOOKTRAIL_SOURCE", "paminga"),
        ("HOOKTRAIL_HANDLER", "crm"),
        ("HOOKTRAIL_RECEIVED_AT", "2026-11-18T11:06:40.123Z"),
        ("HOOKTRAIL_METHOD", "POST"),
        ("HOOKTRAIL_PATH", "/hooks/paminga"),
        ("HOOKTRAIL_QUERY", ""),
        ("HOOKTRAIL_IP", "192.0.2.7"),
        ("HOOKTRAIL_CLIENT", r#"CN=paminga,O="P""#),
        ("HOOKTRAIL_CONTENT_TYPE", "text/plain"),
        ("HOOKTRAIL_HEADERS", r#"{"content-type":"text/plain","x-a":"1, say \"2\"","x-raw":"�"}"#),
        ("HOOKTRAIL_IDEMPOTENCY_KEY", "the-key"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    let task = task_with("", |handler| command_of(handler).args = vec!["env".into(), "-0".into()]);
    expected.push(("HOOKTRAIL_RUN_ID".into(), task.supervisor.run_id("7.3")));
    for name in ["PATH", "HOME", "LANG", "TZ"] {
        expected.extend(std::env::var(name).ok().map(|value| (name.to_owned(), value)));
    }
    expected.sort();
    let stdout = stdout_of(&task);
    let lines = stdout.split_terminator('\0');
    let mut found: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn an_item_has_its_number_in_the_environment() {
    assert_eq!(stdout_of(&Task { item: Some(5), ..task("echo $HOOKTRAIL_ITEM") }), "5\n");
}

#[test]
fn the_handlers_env_overrides_inherited_variables() {
    let env = Arc::new([
        ("PATH".to_owned(), "/usr/bin:/bin".into()),
        ("HOME".to_owned(), "/nowhere".into()),
        ("CRM_KEY".to_owned(), "a secret".into()),
    ]);
    let task = Task { env, ..task("env | grep -c '^PATH='; echo $PATH $HOME $CRM_KEY") };
    assert_eq!(stdout_of(&task), "1\n/usr/bin:/bin /nowhere a secret\n");
}

#[test]
fn a_value_of_an_event_stays_one_variable() {
    let mut task = task("printf %s \"$HOOKTRAIL_QUERY\"");
    let query = Some("a=$(id)&b=\n`x`;\0c".to_owned());
    task.event = Arc::new(Event { query, ..(*task.event).clone() });
    assert_eq!(stdout_of(&task), "a=$(id)&b=\n`x`;?c");
}

#[test]
fn a_program_is_looked_up_in_the_handlers_path() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("bin")).unwrap();
    let file = folder.path().join("bin/own-tool");
    std::fs::write(&file, "").unwrap();
    let task = task_with("", |handler| {
        command_of(handler).args = vec!["own-tool".into()];
        command_of(handler).directory = folder.path().into();
    });
    let task =
        |path: &str| Task { env: Arc::new([("PATH".to_owned(), path.into())]), ..task.clone() };
    let not_executable = run_attempt(&task("/bin:bin")).detail;
    assert!(not_executable.contains("bin/own-tool: not executable"), "{not_executable}");
    std::fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("/bin/pwd", &file).unwrap();
    let found = run_attempt(&task("/bin:bin"));
    assert_eq!(found.stdout, format!("{}\n", folder.path().display()).as_bytes());
    let missing = run_attempt(&task("/bin"));
    assert_eq!(missing.outcome, Outcome::Failed);
    assert_eq!(missing.detail, "not started: own-tool: no such program in PATH (/bin)");
}

#[test]
fn the_detail_of_a_timeout_has_its_length_and_the_last_line_of_stderr() {
    let script = "echo stuck >&2; exec sleep 1000";
    let result =
        run_attempt(&task_with(script, |handler| handler.timeout = Duration::from_millis(1500)));
    assert_eq!(result.outcome, Outcome::TimedOut);
    assert_eq!(result.detail, "timeout 1s 500ms: stuck");
}

#[test]
fn a_stopped_attempt_is_interrupted() {
    let stop = CancelToken::new().unwrap();
    stop.cancel();
    let result = CommandRunner.run(&task("exit 0"), &stop);
    assert_eq!((result.outcome, result.detail.as_str()), (Outcome::Interrupted, "stopped"));
}
