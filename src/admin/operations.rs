//! Operations: `retry`, `cancel` and `replay`, on few or many jobs. One thread runs them one after another, in short
//! transactions as the command line does, so that they never hold up intake. A client sees the progress and may stop
//! an operation.
//!
//! The list of operations is in memory. After a restart the audit log has what they changed.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::write_access::WriteAccess;
use crate::clock;
use crate::config::Config;
use crate::domain::id_set::{IdRanges, IdSet};
use crate::replay::{self, ReplayRequest};
use crate::store::Store;
use crate::store::audit::{self, AuditEntry, JobCommand};
use crate::store::queries::Selector;
use crate::store::selection::{self, BulkProgress};
use crate::worker::task_builder::TaskBuilder;

/// Operations that wait for the one that runs.
const MAX_WAITING: usize = 16;

/// Operations that are remembered.
const MAX_REMEMBERED: usize = 200;

/// What an operation does.
#[derive(Clone, Debug)]
pub enum Action {
    Retry,
    Cancel { reason: String },
    Replay,
}

impl Action {
    /// The name of the command.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Cancel { .. } => "cancel",
            Self::Replay => "replay",
        }
    }
}

/// What to do with which jobs or events, and for whom.
#[derive(Clone, Debug)]
pub struct OperationRequest {
    pub action: Action,
    /// Only these jobs, or events for a replay. Empty: all that the selector selects.
    pub ids: IdRanges,
    pub selector: Selector,
    /// Count the jobs or events, and change nothing.
    pub is_dry_run: bool,
    /// For the audit log.
    pub who: String,
    /// `api` or `console`.
    pub via: &'static str,
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationState {
    Waiting,
    /// The jobs or events are being selected.
    Selecting,
    Running,
    Done,
    /// A client stopped it. What it had done stays.
    Stopped,
    Failed,
}

impl OperationState {
    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Selecting => "selecting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }

    /// Returns true if nothing more happens.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Stopped | Self::Failed)
    }
}

/// The progress of an operation.
#[derive(Clone, Debug)]
pub struct OperationStatus {
    pub state: OperationState,
    pub progress: BulkProgress,
    /// Why it failed, or what it left out.
    pub detail: Option<String>,
    /// Wall clock.
    pub ended_at_ms: Option<i64>,
}

/// An operation that a client asked for.
#[derive(Debug)]
pub struct Operation {
    pub id: u64,
    pub request: OperationRequest,
    /// Wall clock.
    pub created_at_ms: i64,
    status: Mutex<OperationStatus>,
    should_stop: AtomicBool,
    ended: Notify,
}

impl Operation {
    /// Returns how far it is.
    pub fn status(&self) -> OperationStatus {
        self.status.lock().clone()
    }

    /// Stops it after the present transaction.
    pub fn stop(&self) {
        self.should_stop.store(true, Ordering::Relaxed);
    }

    /// Waits until it has ended, at most for `limit`.
    pub async fn wait(&self, limit: Duration) -> OperationStatus {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let ended = self.ended.notified();
            let status = self.status();
            if status.state.is_final() || tokio::time::timeout_at(deadline, ended).await.is_err() {
                return self.status();
            }
        }
    }

    fn set_state(&self, next: OperationState) {
        let mut status = self.status.lock();
        *status =
            OperationStatus { state: next, progress: BulkProgress::default(), ..status.clone() };
    }

    fn report(&self, progress: BulkProgress) -> ControlFlow<()> {
        self.status.lock().progress = progress;
        match self.should_stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// Sets the progress at the end of a run.
    fn end_of_run(&self, progress: BulkProgress, detail: Option<String>) -> RunEnd {
        self.status.lock().progress = progress;
        match self.should_stop.load(Ordering::Relaxed) && progress.done < progress.total {
            true => RunEnd::Stopped,
            false => RunEnd::Complete(detail),
        }
    }

    fn end(&self, state: OperationState, detail: Option<String>) {
        let mut status = self.status.lock();
        (status.state, status.detail) = (state, detail);
        status.ended_at_ms = Some(clock::wall_ms());
        drop(status);
        self.ended.notify_waiters();
    }
}

/// The operations of this process.
#[derive(Debug)]
pub struct Operations {
    queue: Sender<Arc<Operation>>,
    recent: Mutex<VecDeque<Arc<Operation>>>,
    last_id: AtomicU64,
    is_closed: AtomicBool,
}

/// There are too many operations.
#[derive(Clone, Copy, Debug)]
pub struct QueueFull;

/// What the thread needs to run operations.
pub struct OperationRunner {
    pub write_access: WriteAccess,
    pub config: Arc<ArcSwap<Config>>,
    pub task_builder: TaskBuilder,
}

/// Starts the thread. It ends when the operations are dropped.
///
/// # Errors
/// The thread can't be started.
pub fn start(runner: OperationRunner) -> anyhow::Result<(Arc<Operations>, JoinHandle<()>)> {
    let (queue, receiver) = bounded(MAX_WAITING);
    let operations = Operations {
        queue,
        recent: Mutex::default(),
        last_id: AtomicU64::new(0),
        is_closed: AtomicBool::new(false),
    };
    let thread = std::thread::Builder::new()
        .name("operations".into())
        .spawn(move || runner.run_all(&receiver))?;
    Ok((Arc::new(operations), thread))
}

impl Operations {
    /// Adds an operation.
    ///
    /// # Errors
    /// Too many operations wait.
    pub fn add(&self, request: OperationRequest) -> Result<Arc<Operation>, QueueFull> {
        let operation = Arc::new(Operation {
            id: self.last_id.fetch_add(1, Ordering::Relaxed) + 1,
            request,
            created_at_ms: clock::wall_ms(),
            status: Mutex::new(OperationStatus {
                state: OperationState::Waiting,
                progress: BulkProgress::default(),
                detail: None,
                ended_at_ms: None,
            }),
            should_stop: AtomicBool::new(false),
            ended: Notify::new(),
        });
        // `close` stops what is in the list, so an operation is in it before it can begin.
        let mut recent = self.recent.lock();
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(QueueFull);
        }
        match self.queue.try_send(Arc::clone(&operation)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return Err(QueueFull),
        }
        recent.push_front(Arc::clone(&operation));
        recent.truncate(MAX_REMEMBERED);
        Ok(operation)
    }

    /// Returns an operation, unless it is unknown or too long ago.
    pub fn find(&self, id: u64) -> Option<Arc<Operation>> {
        self.recent.lock().iter().find(|operation| operation.id == id).cloned()
    }

    /// Returns the operations of this process, newest first.
    pub fn list(&self) -> Vec<Arc<Operation>> {
        self.recent.lock().iter().cloned().collect()
    }

    /// Stops all operations. No others begin.
    pub fn close(&self) {
        let recent = self.recent.lock();
        self.is_closed.store(true, Ordering::Relaxed);
        recent.iter().for_each(|operation| operation.stop());
    }
}

/// How an operation ended.
enum RunEnd {
    /// It did all, except for what the text names.
    Complete(Option<String>),
    /// A client stopped it before its end.
    Stopped,
}

impl OperationRunner {
    fn run_all(&self, receiver: &Receiver<Arc<Operation>>) {
        while let Ok(operation) = receiver.recv() {
            let result = self.run(&operation);
            match result {
                Ok(RunEnd::Complete(detail)) => operation.end(OperationState::Done, detail),
                Ok(RunEnd::Stopped) => operation.end(OperationState::Stopped, None),
                Err(error) => {
                    log::warn!("operation {}: {error:#}", operation.id);
                    operation.end(OperationState::Failed, Some(format!("{error:#}")));
                }
            }
        }
    }

    fn run(&self, operation: &Operation) -> anyhow::Result<RunEnd> {
        if operation.should_stop.load(Ordering::Relaxed) {
            return Ok(RunEnd::Stopped);
        }
        let OperationRequest { action, selector, ids, is_dry_run, who, via } = &operation.request;
        let store = self.write_access.open()?;
        operation.set_state(OperationState::Selecting);
        let single = ids
            .iter()
            .next()
            .filter(|range| range.start() == range.end() && ids.iter().count() == 1);
        let mut audit = AuditEntry {
            at_ms: clock::wall_ms(),
            who: who.clone(),
            via,
            action: action.name().to_owned(),
            target: None,
            jobs: 0,
            reason: None,
        };
        let command = match action {
            Action::Retry => JobCommand::Retry,
            Action::Cancel { reason } => {
                audit.reason = Some(reason.clone());
                JobCommand::Cancel { reason: reason.clone() }
            }
            Action::Replay => {
                audit.target = single.map(|range| format!("event {}", range.start()));
                return self.replay(&store, operation, audit);
            }
        };
        audit.target = single.map(|range| format!("job {}", range.start()));
        let mut report = |progress| operation.report(progress);
        let jobs =
            selection::select_jobs(&store.conn, selector, ids, command.condition(), &mut report)?;
        let missing = count_missing_bodies(&store, operation, &command)?;
        if operation.should_stop.load(Ordering::Relaxed) {
            return Ok(RunEnd::Stopped);
        }
        if *is_dry_run {
            let count = jobs.len();
            operation.status.lock().progress =
                BulkProgress { done: count, total: count, jobs: count };
            return Ok(RunEnd::Complete(missing));
        }
        operation.set_state(OperationState::Running);
        let progress = audit::apply_to_jobs(&store, &jobs, &command, &audit, &mut report)?;
        Ok(operation.end_of_run(progress, missing))
    }

    fn replay(
        &self,
        store: &Store,
        operation: &Operation,
        audit: AuditEntry,
    ) -> anyhow::Result<RunEnd> {
        let OperationRequest { selector, ids, is_dry_run, .. } = &operation.request;
        let config = self.config.load_full();
        let handler = selector.handler.as_deref();
        let request = ReplayRequest { selector: selector.clone(), events: ids.clone(), handler };
        let mut report = |progress| operation.report(progress);
        let selected =
            replay::select_events(store, &config, &request, &self.task_builder, &mut report)?;
        if operation.should_stop.load(Ordering::Relaxed) {
            return Ok(RunEnd::Stopped);
        }
        let unmatched = selected.unmatched().len();
        let no_handler = (unmatched > 0)
            .then(|| format!("{}: no handler takes their source", count_of(unmatched, "event")));
        if *is_dry_run {
            let count = selected.events();
            operation.status.lock().progress = BulkProgress { done: count, total: count, jobs: 0 };
            return Ok(RunEnd::Complete(no_handler));
        }
        operation.set_state(OperationState::Running);
        let summary = selected.run(store, &config, audit, &mut report)?;
        let missing = summary.missing_events.len() as u64;
        let missing =
            (missing > 0).then(|| format!("{}: the body was removed", count_of(missing, "event")));
        Ok(operation.end_of_run(summary.progress, join_details(no_handler, missing)))
    }
}

/// Says how many jobs can't run because their event has no body any more.
fn count_missing_bodies(
    store: &Store,
    operation: &Operation,
    command: &JobCommand,
) -> anyhow::Result<Option<String>> {
    let Some(condition) = command.missing_body_condition() else { return Ok(None) };
    let OperationRequest { selector, ids, .. } = &operation.request;
    let mut check_stop = |_| match operation.should_stop.load(Ordering::Relaxed) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    let jobs: IdSet =
        selection::select_jobs(&store.conn, selector, ids, condition, &mut check_stop)?;
    let count = jobs.len();
    Ok((count > 0)
        .then(|| format!("{}: the body of the event was removed", count_of(count, "job"))))
}

/// Returns `1 job` or `2 jobs`.
fn count_of(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn join_details(first: Option<String>, second: Option<String>) -> Option<String> {
    match (first, second) {
        (Some(first), Some(second)) => Some(format!("{first}; {second}")),
        (first, second) => first.or(second),
    }
}
