//! A sample task, as the worker builds it, and helpers for the tests of all runners.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::domain::{EventId, Headers, JobId};
use crate::process::Supervisor;

/// Builds attempt 3 of job 7 of event 42 for handler `crm`, with changed settings. Its processes have
/// their own supervisor.
pub(super) fn sample_task(change: impl FnOnce(&mut config::Handler)) -> Task {
    static LAST_NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = LAST_NUMBER.fetch_add(1, Ordering::Relaxed);
    let id = format!("sample{}-{number}", std::process::id());
    sample_task_of(&Supervisor::new(&id), change)
}

fn sample_task_of(supervisor: &Arc<Supervisor>, change: impl FnOnce(&mut config::Handler)) -> Task {
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
        client: Some("CN=paminga,O=\"P\"".into()),
        origin_key: None,
        headers: Headers(vec![
            line("x-a", "1"),
            line("content-type", "text/plain"),
            line("x-a", "say \"2\""),
            ("x-raw".into(), b"\xff".to_vec()),
        ]),
        body: Arc::from(*b"the body"),
        expression_errors: None,
        removed_bytes: None,
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
        message: None,
        idempotency_key: "the-key".into(),
        supervisor: Arc::clone(supervisor),
        lookups: LookupLimit::default(),
    }
}

/// The command of a handler, to change it.
#[track_caller]
pub(super) fn command_of(handler: &mut config::Handler) -> &mut config::CommandTarget {
    match &mut handler.kind {
        config::HandlerKind::Command(command) => command,
        other => panic!("{other:?} is no command"),
    }
}

/// Shell functions for scripts that respond in lines. `of_line` reads the job's number from
/// `$line`. `ok` responds that it succeeded, with the process id as detail. `answer OUTCOME`
/// responds with another outcome.
const SHELL_FUNCTIONS: &str = r#"
of_line() { job=${line#*\"job\":}; job=${job%%,*}; }
answer() { echo "{\"job\":$job,\"outcome\":\"$1\",\"detail\":\"$$\"}"; }
ok() { answer succeeded; }
"#;

/// A handler in a temporary folder, with the runner that keeps or collects its processes.
pub(super) struct Harness<R> {
    pub folder: TempDir,
    pub supervisor: Arc<Supervisor>,
    pub runner: R,
    pub handler: config::Handler,
    pub body: Arc<[u8]>,
    pub stop: CancelToken,
}

impl<R> Harness<R> {
    /// A handler whose processes run this script.
    pub fn new(script: &str, new_runner: impl FnOnce(&config::Handler) -> R) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let task = sample_task(|handler| {
            let script = format!("{SHELL_FUNCTIONS}\n{script}");
            command_of(handler).args = ["sh", "-c", &script].map(String::from).to_vec();
            command_of(handler).directory = folder.path().to_owned();
            handler.concurrency = 4;
        });
        let (runner, handler) = (new_runner(&task.handler), (*task.handler).clone());
        let (stop, supervisor) = (CancelToken::new().unwrap(), task.supervisor);
        supervisor.become_subreaper().unwrap();
        Self { folder, supervisor, runner, handler, body: task.input, stop }
    }

    pub fn timeout_ms(mut self, ms: u64) -> Self {
        self.handler.timeout = Duration::from_millis(ms);
        self
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Reads a file in the folder. A missing file is empty.
    pub fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join(name)).unwrap_or_default()
    }

    pub fn task(&self, job: i64) -> Task {
        let mut task = sample_task_of(&self.supervisor, |handler| *handler = self.handler.clone());
        task.claim.job = JobId(job);
        Task { input: Arc::clone(&self.body), ..task }
    }
}
