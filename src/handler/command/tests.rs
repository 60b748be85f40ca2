//! What a command finds, and what its end means: real processes.

use std::collections::BTreeMap;
use std::sync::Arc;

use tempfile::TempDir;

use super::*;
use crate::domain::{Claim, Event, EventId, JobId};

const OUTPUT_BYTES_MAX: usize = 4096;

/// A task in the making, in a folder of its own.
struct Trial {
    folder: TempDir,
    task: Task,
    stop: Stop,
}

fn handler(folder: &Path, command: &[&str]) -> config::Handler {
    config::Handler {
        name: "crm".into(),
        sources: vec!["shop".into()],
        command: command.iter().map(|&word| word.to_owned()).collect(),
        directory: folder.to_owned(),
        priority: 0,
        concurrency: 1,
        timeout: Duration::from_secs(600),
        env: Vec::new(),
        output_bytes_max: OUTPUT_BYTES_MAX,
        retry: config::Retry::default(),
        paused: false,
    }
}

fn event() -> Event {
    let headers = [
        ("content-type", &b"application/json"[..]),
        ("x-tag", b"one"),
        ("x-odd", b"\xff\"\\\n"),
        ("x-tag", b"two, three"),
    ];
    Event {
        id: EventId(42),
        uid: [7; 16],
        source: "shop".into(),
        received_at_ms: 1_795_000_000_123,
        method: "POST".into(),
        path: "/hooks/shop".into(),
        query: Some("a=%20b&c".into()),
        ip: "192.0.2.1".into(),
        headers: Headers(headers.iter().map(|(n, v)| ((*n).to_owned(), v.to_vec())).collect()),
        body: b"{\"a\":1}".to_vec().into(),
    }
}

fn command(words: &[&str]) -> Trial {
    let folder = tempfile::tempdir().unwrap();
    let task = Task {
        claim: Claim { job: JobId(7), attempt: 3 },
        handler: handler(folder.path(), words).into(),
        env: [].into(),
        event: event().into(),
        item: None,
        attempts_max: 40,
        key: "a-key".into(),
        mark: format!("test{}.7.3", folder.path().display()),
    };
    Trial { folder, task, stop: Stop::new().unwrap() }
}

fn sh(script: &str) -> Trial {
    command(&["/bin/sh", "-c", script])
}

impl Trial {
    fn set(mut self, change: impl FnOnce(&mut config::Handler)) -> Self {
        change(Arc::make_mut(&mut self.task.handler));
        self
    }

    fn env(mut self, pairs: &[(&str, &str)]) -> Self {
        let pair = |&(name, value): &(&str, &str)| (name.to_owned(), OsString::from(value));
        self.task.env = pairs.iter().map(pair).collect();
        self
    }

    fn file(self, name: &str, mode: u32, text: &str) -> Self {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    /// Never on the main thread, whose children `process` takes for strays.
    fn run(&self) -> Ended {
        let kind = Command { grace: Duration::from_millis(100) };
        std::thread::scope(|scope| scope.spawn(|| kind.run(&self.task, &self.stop)).join().unwrap())
    }

    /// What it said about its end, the folder taken out.
    fn detail(&self) -> String {
        self.run().detail.replace(&format!("{}/", self.folder.path().display()), "")
    }

    /// What the command finds in its environment.
    fn environment(&self) -> BTreeMap<String, String> {
        let said = String::from_utf8(self.run().stdout).unwrap();
        let lines = said.split_terminator('\0').filter_map(|line| line.split_once('='));
        lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

#[track_caller]
fn check(script: &str, outcome: Outcome, dead: bool, detail: &str) {
    let ended = sh(script).run();
    assert_eq!((ended.outcome, ended.dead, ended.detail.as_str()), (outcome, dead, detail));
    assert_eq!(ended.wait, None);
}

#[test]
fn the_exit_decides() {
    check("exit 0", Outcome::Succeeded, false, "exit 0");
    check("exit 65", Outcome::Failed, true, "exit 65");
    check("exit 75", Outcome::Failed, false, "exit 75");
    check("exit 7", Outcome::Failed, false, "exit 7");
    check("kill -SEGV $$", Outcome::Failed, false, "signal 11");
}

#[test]
fn a_command_that_takes_too_long_has_timed_out() {
    let ended = sh("echo far >&2; exec sleep 1000")
        .set(|handler| handler.timeout = Duration::from_millis(300))
        .run();
    assert_eq!((ended.outcome, ended.detail.as_str()), (Outcome::TimedOut, "timeout 300ms: far"));
}

#[test]
fn a_command_that_is_stopped_is_interrupted() {
    let trial = sh("exit 0");
    trial.stop.set();
    let ended = trial.run();
    assert_eq!((ended.outcome, ended.dead), (Outcome::Interrupted, false));
}

#[test]
fn output_is_kept_with_the_outcome() {
    let ended = sh("echo out; echo err >&2; exit 1").run();
    assert_eq!((ended.stdout, ended.stderr), (b"out\n".to_vec(), b"err\n".to_vec()));
    let ended = sh("yes | head -c 100000; yes | head -c 100000 >&2").run();
    assert_eq!((ended.stdout.len(), ended.stderr.len()), (OUTPUT_BYTES_MAX, OUTPUT_BYTES_MAX));
}

#[test]
fn the_last_line_of_stderr_is_in_the_detail() {
    check("echo one >&2; echo two >&2; exit 7", Outcome::Failed, false, "exit 7: two");
    check("printf 'one\\ntwo' >&2; exit 7", Outcome::Failed, false, "exit 7: two");
    check("printf 'one\\n\\n  \\r\\n\\n' >&2; exit 7", Outcome::Failed, false, "exit 7: one");
    check("printf '10%%\\r99%%\\r' >&2", Outcome::Succeeded, false, "exit 0: 99%");
}

#[test]
fn nothing_in_a_detail_moves_a_cursor_or_ends_a_line() {
    let ended = sh("printf 'a\\033[2Jb\\tc\\000d\\302\\205e\\377f\\n' >&2; exit 7").run();
    assert_eq!(ended.detail, "exit 7: a [2Jb c d e\u{fffd}f");
    let ended = sh("printf 'x\\ny\\033[2J\\n' >&3; exit 7").run();
    assert_eq!(ended.detail, "exit 7: x y [2J");
}

#[test]
fn a_detail_is_cut_where_a_line_is_long() {
    for script in ["yes ä | tr -d '\\n' | head -c 100000 >&2", "yes | head -n 3000 >&3"] {
        let ended = sh(script).run();
        assert_eq!(ended.detail.chars().count(), DETAIL_CHARS_MAX);
    }
}

#[track_caller]
fn defers(line: &str, exit: i32, wait: Option<u64>) {
    let ended = sh(&format!("echo '{line}' >&3; exit {exit}")).run();
    assert_eq!((ended.outcome, ended.dead), (Outcome::Deferred, false), "{line}");
    assert_eq!(ended.wait, wait.map(Duration::from_secs), "{line}");
}

#[test]
fn a_command_that_defers_has_deferred_whatever_its_exit() {
    for exit in [0, 1, 65] {
        defers(r#"{"outcome":"deferred","retry_after":"10m"}"#, exit, Some(600));
    }
    defers(r#"{"outcome":"deferred","retry_after":90}"#, 0, Some(90));
    defers(r#"{"outcome":"deferred"}"#, 0, None);
    for wrong in [r#""soon""#, "-5", "null", "[]", "1e300"] {
        defers(&format!(r#"{{"outcome":"deferred","retry_after":{wrong}}}"#), 0, None);
    }
}

#[test]
fn the_last_word_about_deferring_counts() {
    let ended = sh(r#"echo '{"outcome":"deferred","retry_after":"1h"}' >&3
                      echo '{"outcome":"deferred","retry_after":"2h"}' >&3"#)
    .run();
    assert_eq!(ended.wait, Some(Duration::from_secs(7200)));
}

#[test]
fn a_timeout_is_one_also_after_a_word_about_deferring() {
    let ended = sh(r#"echo '{"outcome":"deferred","retry_after":"1h"}' >&3; exec sleep 1000"#)
        .set(|handler| handler.timeout = Duration::from_millis(300))
        .run();
    assert_eq!((ended.outcome, ended.wait), (Outcome::TimedOut, None));
}

#[test]
fn other_lines_on_descriptor_3_go_into_the_detail() {
    check(
        r#"echo half way >&3; echo '{"alive":false}' >&3; echo last >&2; exit 7"#,
        Outcome::Failed,
        false,
        r#"exit 7: half way {"alive":false}: last"#,
    );
    check(
        r#"echo '{"outcome":"dead"}' >&3"#,
        Outcome::Succeeded,
        false,
        r#"exit 0: {"outcome":"dead"}"#,
    );
    check("echo '[1' >&3", Outcome::Succeeded, false, "exit 0: [1");
}

#[test]
fn a_sign_of_life_starts_the_timeout_anew_and_leaves_no_trace() {
    let trial = sh(r#"for i in 1 2 3 4 5 6 7 8; do sleep 0.3; echo '{"alive":true}' >&3; done"#);
    let ended = trial.set(|handler| handler.timeout = Duration::from_millis(1500)).run();
    assert_eq!((ended.outcome, ended.detail.as_str()), (Outcome::Succeeded, "exit 0"));
}

#[test]
fn what_can_not_be_started_has_failed_and_says_why() {
    let ended = command(&["/no/such/file"]).run();
    assert_eq!((ended.outcome, ended.dead), (Outcome::Failed, false));
    assert_eq!(ended.detail, "not started: /no/such/file: there is no such file");
    let ended = command(&["no-such-program"]).env(&[("PATH", "/usr/bin")]).run();
    assert_eq!(ended.detail, "not started: no-such-program: no such program in PATH (/usr/bin)");
    let missing = sh("exit 0").set(|handler| handler.directory = "/no/such".into());
    assert_eq!(missing.detail(), "not started: /no/such: there is no such directory");
    let none = sh("").set(|handler| handler.command.clear());
    assert_eq!(none.detail(), "not started: no command");
}

#[test]
fn a_program_without_a_slash_is_looked_up_in_its_own_path() {
    let trial = command(&["it"]).file("it", 0o755, "#!/bin/sh\necho \"$0\"\n");
    let folder = trial.folder.path().display().to_string();
    let path = format!("/no/such:{folder}/none:{folder}:/usr/bin:/bin");
    let ended = trial.env(&[("PATH", &path)]).run();
    assert_eq!(ended.stdout, format!("{folder}/it\n").into_bytes());
}

#[test]
fn a_file_in_path_that_is_not_executable_and_a_relative_folder_are_passed_over() {
    let trial = command(&["it"]).file("it", 0o644, "#!/bin/sh\n");
    let folder = trial.folder.path().display().to_string();
    let path = format!(".::{folder}");
    let ended = trial.env(&[("PATH", &path)]).run();
    assert_eq!(ended.detail, format!("not started: it: no such program in PATH ({path})"));
}

#[test]
fn a_command_reads_the_events_bytes_or_its_items() {
    let mut trial = sh("cat");
    assert_eq!(trial.run().stdout, b"{\"a\":1}");
    trial.task.item = Some((2, b"\0\xff".to_vec().into()));
    assert_eq!(trial.run().stdout, b"\0\xff");
}

/// The variables of the contract, section 7.
const OWN: [(&str, &str); 14] = [
    ("EVENT", "42"),
    ("JOB", "7"),
    ("ATTEMPT", "3"),
    ("ATTEMPTS_MAX", "40"),
    ("SOURCE", "shop"),
    ("HANDLER", "crm"),
    ("RECEIVED_AT", "2026-11-18T11:06:40.123Z"),
    ("METHOD", "POST"),
    ("PATH", "/hooks/shop"),
    ("QUERY", "a=%20b&c"),
    ("IP", "192.0.2.1"),
    ("CONTENT_TYPE", "application/json"),
    (
        "HEADERS",
        r#"{"content-type":"application/json","x-odd":"�\"\\\n","x-tag":"one, two, three"}"#,
    ),
    ("KEY", "a-key"),
];

#[test]
fn a_command_finds_what_the_contract_says_and_nothing_else() {
    let trial = command(&["/usr/bin/env", "-0"]).env(&[("CRM_URL", "https://example.com/?a=b")]);
    let mut expected: BTreeMap<String, String> = OWN
        .iter()
        .map(|(name, value)| (format!("HOOKTRAIL_{name}"), (*value).to_owned()))
        .collect();
    expected.insert("HOOKTRAIL_MARK".into(), trial.task.mark.clone());
    expected.insert("CRM_URL".into(), "https://example.com/?a=b".into());
    for name in ["PATH", "HOME", "LANG", "TZ"] {
        if let Ok(value) = std::env::var(name) {
            expected.insert(name.into(), value);
        }
    }
    assert_eq!(trial.environment(), expected);
}

#[test]
fn an_item_is_numbered_and_a_missing_query_is_empty() {
    let mut trial = command(&["/usr/bin/env", "-0"]);
    trial.task.item = Some((2, b"{}".to_vec().into()));
    trial.task.event = Event { query: None, headers: Headers::default(), ..event() }.into();
    let found = trial.environment();
    assert_eq!(found["HOOKTRAIL_ITEM"], "2");
    assert_eq!(found["HOOKTRAIL_QUERY"], "");
    assert_eq!(
        (found["HOOKTRAIL_CONTENT_TYPE"].as_str(), found["HOOKTRAIL_HEADERS"].as_str()),
        ("", "{}")
    );
}

#[test]
fn a_handlers_own_environment_goes_before_what_is_inherited() {
    let found =
        command(&["/usr/bin/env", "-0"]).env(&[("HOME", "/mine"), ("TZ", "UTC")]).environment();
    assert_eq!((found["HOME"].as_str(), found["TZ"].as_str()), ("/mine", "UTC"));
}

#[test]
fn what_a_sender_sent_is_never_more_than_text() {
    let mut trial = command(&["/usr/bin/env", "-0"]);
    let path = "/hooks/$(touch pwned)`touch pwned`;touch pwned\nHOOKTRAIL_KEY=forged";
    trial.task.event = Event { path: path.into(), ..event() }.into();
    let found = trial.environment();
    assert_eq!(
        (found["HOOKTRAIL_PATH"].as_str(), found["HOOKTRAIL_KEY"].as_str()),
        (path, "a-key")
    );
    assert!(!trial.folder.path().join("pwned").exists());
}
