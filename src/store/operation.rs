//! The operations of the writer. Each is declared here once and applied within the transaction of
//! its group. A `WriterObserver` is notified after the commit.

use std::collections::HashMap;

use crossbeam_channel::Sender;
use rusqlite::Connection;

use super::dead_job::DeadJob;
use super::events::{self, InsertReply};
use super::handshakes::{self, HandshakeRecord};
use super::jobs::{self, AttemptRecord, ClaimedJob, FinishResult};
use super::reevaluate::{self, Reevaluation};
use super::registry::{self, Registry};
use super::rejections::{self, RejectionRow};
use super::writer_state::WriterState;
use super::{ErrorKind, alerts, audit, breaker, claim, classify, sources, write_anchor};
use crate::domain::claim_request::ClaimRequest;
use crate::domain::{HandlerId, INTERNAL_SOURCE, SourceId};

/// One change to the database.
#[derive(Debug)]
pub enum Operation {
    /// Claims ready jobs.
    Claim(ClaimRequest),
    Finish(Box<AttemptRecord>),
    Reevaluate(Box<Reevaluation>),
    /// Makes due jobs ready.
    Promote,
    Rejections(Vec<RejectionRow>),
    Handshakes(Vec<HandshakeRecord>),
    /// Assigns ids to the names of a configuration. The reply is sent after the commit.
    Register {
        sources: Vec<String>,
        handlers: Vec<registry::HandlerRegistration>,
        reply: Sender<Registry>,
    },
    Audit(audit::AuditEntry),
    /// Counts the queued jobs of each source again. The reply is sent when the counts are correct.
    Recount(Sender<()>),
    /// Saves the clock's anchor and the last activity of the sources, and deletes expired keys.
    SaveState(Vec<(SourceId, i64)>),
    /// A condition for an alert that another thread noticed.
    AlertSignal(alerts::AlertSignal),
    /// An event of the source `hooktrail`.
    AlertEvent(Box<alerts::AlertEvent>),
}

impl Operation {
    /// Returns the cost of the operation, in rows.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Claim(request) => request.max_jobs,
            Self::Reevaluate(reevaluation) => {
                reevaluation.spec.as_ref().map_or(1, |spec| 1 + spec.job_count())
            }
            Self::Promote => usize::try_from(jobs::MAX_PROMOTED).unwrap_or(usize::MAX),
            Self::Rejections(rows) => rows.len(),
            Self::Handshakes(rows) => rows.len(),
            Self::Register { sources, handlers, .. } => sources.len() + handlers.len(),
            Self::SaveState(last_seen) => last_seen.len(),
            Self::AlertEvent(alert) => alert.event.as_ref().map_or(1, events::NewEvent::weight),
            Self::Finish(_) | Self::Audit(_) | Self::Recount(_) | Self::AlertSignal(_) => 2,
        }
    }
}

/// What an operation returns. Observers get it after the commit.
#[derive(Debug)]
pub enum OperationResult {
    Inserted(InsertReply),
    Claimed { request: ClaimRequest, jobs: Vec<ClaimedJob> },
    Finished { handler: HandlerId, result: FinishResult },
    Promoted { next_due_ms: Option<i64> },
    Registered(Sender<Registry>, Registry),
    Nothing,
}

/// An observer of the writer. It is called on the writer's thread and must never block.
pub trait WriterObserver: Send {
    /// A thread is free. The outcomes of its jobs are in the group that is written next.
    fn worker_freed(&self, handler: HandlerId);
    /// Returns the jobs to claim at the end of that group.
    fn plan_claims(&self) -> Vec<ClaimRequest>;
    /// A claim was committed. Fewer jobs than requested means that no more are ready.
    fn jobs_claimed(&self, request: ClaimRequest, jobs: Vec<ClaimedJob>);
    /// A claim could not be written. `store_recovered` follows when the database can be written
    /// again.
    fn claim_failed(&self, request: ClaimRequest);
    /// A handler's circuit breaker opened until `until_ms` (database clock), and runs a probe after
    /// that. `None`: the breaker is closed.
    fn breaker_changed(&self, handler: HandlerId, until_ms: Option<i64>);
    /// A job became dead.
    fn job_died(&self, dead_job: DeadJob);
    /// An outcome is on disk.
    fn attempt_finished(&self, handler: HandlerId, result: FinishResult);
    /// How many more jobs of each handler became ready.
    fn jobs_ready(&self, handlers: &HashMap<HandlerId, usize>);
    /// A job was scheduled for this time (database clock).
    fn job_scheduled(&self, until_ms: i64);
    /// The time at which the next scheduled job is due (database clock).
    fn next_due(&self, at_ms: Option<i64>);
    /// Another process changed the database.
    fn external_write(&self);
    /// The database can be written again.
    fn store_recovered(&self);
    /// This process can confirm nothing more and must exit.
    fn store_failed(&self, reason: &str);
}

/// Applies one operation.
///
/// # Errors
/// The write failed. The caller rolls the transaction back.
pub fn apply(
    conn: &Connection,
    state: &mut WriterState,
    op: &Operation,
) -> rusqlite::Result<OperationResult> {
    Ok(match op {
        Operation::Claim(request) => OperationResult::Claimed {
            request: *request,
            jobs: claim::claim(conn, state, request)?,
        },
        Operation::Finish(finish) => OperationResult::Finished {
            handler: finish.handler,
            result: jobs::finish(conn, state, finish)?,
        },
        Operation::Reevaluate(reevaluation) => OperationResult::Finished {
            handler: reevaluation.claimed.handler,
            result: reevaluate::apply_reevaluation(conn, state, reevaluation)?,
        },
        Operation::Promote => {
            jobs::promote(conn, state)?;
            OperationResult::Promoted { next_due_ms: jobs::next_due(conn)? }
        }
        Operation::Rejections(rows) => {
            rejections::write(conn, state, rows)?;
            OperationResult::Nothing
        }
        Operation::Handshakes(rows) => {
            handshakes::write(conn, rows)?;
            OperationResult::Nothing
        }
        Operation::Register { sources, handlers, reply } => {
            let registry = registry::register(conn, sources, handlers, state.now_ms)?;
            alerts::set_subscriber(conn, registry.sources.get(INTERNAL_SOURCE).copied())?;
            let before = std::mem::take(&mut state.breakers);
            state.reload_config_tables(conn)?;
            state.changed_breakers.extend(breaker::changed_handlers(&before, &state.breakers));
            OperationResult::Registered(reply.clone(), registry)
        }
        Operation::Audit(entry) => {
            audit::record(conn, entry)?;
            OperationResult::Nothing
        }
        Operation::Recount(_) => OperationResult::Nothing,
        Operation::AlertSignal(signal) => {
            alerts::record_signal(conn, state, signal)?;
            OperationResult::Nothing
        }
        Operation::AlertEvent(alert) => {
            alerts::emit(conn, state, alert)?;
            OperationResult::Nothing
        }
        Operation::SaveState(last_seen) => {
            sources::save_last_seen(conn, last_seen)?;
            write_anchor(conn, &state.clock.anchor())?;
            OperationResult::Nothing
        }
    })
}

/// How the operations of a group are isolated from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Isolation {
    /// No isolation: the first error rolls back the whole group. A savepoint for each operation
    /// would add a tenth to its time, for errors that hardly ever happen.
    Group,
    /// Each operation runs in its own savepoint. An error of the operation itself rolls back only
    /// that operation; any other error fails the group.
    Savepoints,
}

impl Isolation {
    pub(super) fn apply(
        self,
        conn: &Connection,
        state: &mut WriterState,
        apply: impl FnOnce(&Connection, &mut WriterState) -> rusqlite::Result<OperationResult>,
    ) -> rusqlite::Result<OperationResult> {
        if self == Self::Group {
            return apply(conn, state);
        }
        conn.prepare_cached("SAVEPOINT op")?.execute([])?;
        let (counters, queued) = (state.counters, state.queued_changes.clone());
        let (deferred, dead_job_retries) = (state.deferred.clone(), state.dead_job_retries.len());
        let dead_jobs = state.dead_jobs.len();
        let minute_counts = state.minute_counts.clone();
        match apply(conn, state) {
            Ok(done) => {
                conn.prepare_cached("RELEASE op")?.execute([])?;
                Ok(done)
            }
            Err(e) if classify(&e) == ErrorKind::Operation => {
                log::error!("the database rejected an operation, which is skipped: {e}");
                conn.execute_batch("ROLLBACK TO op; RELEASE op")?;
                (state.counters, state.queued_changes, state.deferred) =
                    (counters, queued, deferred);
                state.dead_job_retries.truncate(dead_job_retries);
                state.dead_jobs.truncate(dead_jobs);
                state.minute_counts = minute_counts;
                state.blocks.clear();
                state.reload_handlers(conn)?;
                Ok(OperationResult::Nothing)
            }
            Err(e) => Err(e),
        }
    }
}
