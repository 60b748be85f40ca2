//! A sample task, as the worker builds it, and helpers for the tests of all runners.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::domain::{EventId, Headers, JobId};

/// Builds attempt 3 of job 7 of event 42 for handler `crm`, with changed settings.
pub(super) fn sample_task(change: impl FnOnce(&mut config::Handler)) -> Task {
    let line = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    let event = Event {
        id: EventId(42),
        uid: [0; 16],
        source: "paminga".into(),
        received_at_ms: 1_795_000_000_123,
        method: "POST".into(),
        path: "/hooks/paminga".into(),
        query: None,
        ip: "192.0.2.7".into(),
        headers: Headers(vec![
            line("x-a", "1"),
            line("content-type", "text/plain"),
            line("x-a", "say \"2\""),
            ("x-raw".into(), b"\xff".to_vec()),
        ]),
        body: Arc::from(*b"the body"),
        expression_errors: None,
    };
    let mut handler = config::Handler {
        sources: vec!["paminga".into()],
        concurrency: 1,
        timeout: Duration::from_secs(120),
        ..config::Handler::with_defaults("crm", Path::new("/"))
    };
    change(&mut handler);
    Task {
        claim: Claim { job: JobId(7), attempt: 3 },
        handler: Arc::new(handler),
        env: Arc::new([]),
        headers: Arc::new([]),
        sign: Arc::new([]),
        input: Arc::clone(&event.body),
        is_json_input: false,
        event: Arc::new(event),
        item: None,
        max_attempts: 40,
        idempotency_key: "the-key".into(),
        run_id: format!("sample{}.7.3", std::process::id()),
    }
}

/// The command of a handler, to change it.
#[track_caller]
pub(super) fn command_of(handler: &mut config::Handler) -> &mut config::Command {
    match &mut handler.kind {
        config::HandlerKind::Command(command) => command,
        config::HandlerKind::Url(target) => panic!("{target:?} is no command"),
    }
}

/// Shell functions for scripts that respond in lines. `of_line` reads the job's number from
/// `$line`. `ok` responds that it succeeded, with the process id as detail. `answer OUTCOME`
/// responds with another outcome.
pub(super) const SHELL_FUNCTIONS: &str = r#"
of_line() { job=${line#*\"job\":}; job=${job%%,*}; }
answer() { echo "{\"job\":$job,\"outcome\":\"$1\",\"detail\":\"$$\"}"; }
ok() { answer succeeded; }
"#;

/// Waits until `condition` is true.
#[track_caller]
pub(super) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Returns whether the process exists. An ended process that was not reaped exists too.
#[track_caller]
pub(super) fn is_alive(pid: &str) -> bool {
    assert!(pid.trim().parse::<u32>().is_ok(), "{pid:?} is not a process id");
    Path::new("/proc").join(pid.trim()).exists()
}
