//! What the writer can be asked to do: each operation is declared here once, applied within the
//! group's transaction, and heard of by `Hear` after the commit.

use std::collections::HashMap;

use crossbeam_channel::Sender;
use rusqlite::Connection;

use super::events::{self, InsertReply};
use super::handshakes::{self, HandshakeRecord};
use super::jobs::{self, AttemptRecord, ClaimedJob, JobDisposition};
use super::reevaluate::{self, Reevaluation};
use super::registry::{self, Registry};
use super::rejections::{self, RejectionRow};
use super::writer_state::WriterState;
use super::{ErrorKind, alerts, audit, breaker, claim, classify, sources, write_anchor};
use crate::domain::claim_request::ClaimRequest;
use crate::domain::{HandlerId, SourceId};

/// One change to the trail.
#[derive(Debug)]
pub enum Operation {
    /// Claim ready jobs.
    Claim(ClaimRequest),
    Finish(Box<AttemptRecord>),
    Expand(Box<Reevaluation>),
    /// Make ready what is due.
    Promote,
    Refusals(Vec<RejectionRow>),
    Handshakes(Vec<HandshakeRecord>),
    /// Number the names of a configuration; the answer comes after the commit.
    Register {
        sources: Vec<String>,
        handlers: Vec<registry::HandlerRegistration>,
        reply: Sender<Registry>,
    },
    Audit(audit::AuditEntry),
    /// Count the queue of each source again; the answer comes when the counts hold.
    Recount(Sender<()>),
    /// Keep the clock's anchor and when sources were heard of, and forget dedupe keys whose window is
    /// over.
    SaveState(Vec<(SourceId, i64)>),
    /// Something to be told, seen by who does not write.
    Notice(alerts::AlertSignal),
    /// An event of the source `hooktrail`.
    Alert(Box<alerts::AlertEvent>),
}

impl Operation {
    /// What it costs, in rows.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Claim(ask) => ask.jobs,
            Self::Expand(it) => it.owed.as_ref().map_or(1, |owed| 1 + owed.job_count()),
            Self::Promote => usize::try_from(jobs::PROMOTED_AT_ONCE).unwrap_or(usize::MAX),
            Self::Refusals(rows) => rows.len(),
            Self::Handshakes(rows) => rows.len(),
            Self::Register { sources, handlers, .. } => sources.len() + handlers.len(),
            Self::SaveState(seen) => seen.len(),
            Self::Alert(made) => made.accept.as_ref().map_or(1, events::NewEvent::weight),
            Self::Finish(_) | Self::Audit(_) | Self::Recount(_) | Self::Notice(_) => 2,
        }
    }
}

/// What an operation gave.
#[derive(Debug)]
pub enum OperationResult {
    Accepted(InsertReply),
    Claimed { ask: ClaimRequest, jobs: Vec<ClaimedJob> },
    Finished { handler: HandlerId, how: JobDisposition },
    Promoted { next_due_ms: Option<i64> },
    Registered(Sender<Registry>, Registry),
    Nothing,
}

/// Who listens to the writer, on its thread: must not wait for anything.
pub trait WriterObserver: Send {
    /// A thread is free; the outcomes of what it ran are in the group that is written next.
    fn worker_freed(&self, handler: HandlerId);
    /// What to claim at the end of that group.
    fn plan(&self) -> Vec<ClaimRequest>;
    /// A claim was committed; fewer than asked means that no more are ready.
    fn claimed(&self, ask: ClaimRequest, jobs: Vec<ClaimedJob>);
    /// A claim was not written; `writable` will be heard.
    fn claim_failed(&self, ask: ClaimRequest);
    /// A handler rests until then, on the trail's clock, and has a job on trial after that; `None`:
    /// it rests no more.
    fn breaker_changed(&self, handler: HandlerId, until_ms: Option<i64>);
    /// An outcome is on disk.
    fn finished(&self, handler: HandlerId, how: JobDisposition);
    /// These have so many more jobs that are ready.
    fn jobs_ready(&self, handlers: &HashMap<HandlerId, usize>);
    /// A job began to wait until then, on the trail's clock.
    fn job_scheduled(&self, until_ms: i64);
    /// When the next waiting job is due, on the trail's clock.
    fn next_due(&self, at_ms: Option<i64>);
    /// Somebody else changed the file.
    fn external_write(&self);
    /// The file can be written again.
    fn store_recovered(&self);
    /// Nothing more can be promised by this process: it must end.
    fn broken(&self, why: &str);
}

/// Applies one operation.
///
/// # Errors
/// The write failed; the caller takes all of it back.
pub fn apply(
    conn: &Connection,
    state: &mut WriterState,
    op: &Operation,
) -> rusqlite::Result<OperationResult> {
    Ok(match op {
        Operation::Claim(ask) => {
            OperationResult::Claimed { ask: *ask, jobs: claim::claim(conn, state, ask)? }
        }
        Operation::Finish(finish) => OperationResult::Finished {
            handler: finish.handler,
            how: jobs::finish(conn, state, finish)?,
        },
        Operation::Expand(it) => OperationResult::Finished {
            handler: it.claimed.handler,
            how: reevaluate::apply_reevaluation(conn, state, it)?,
        },
        Operation::Promote => {
            jobs::promote(conn, state)?;
            OperationResult::Promoted { next_due_ms: jobs::next_due(conn)? }
        }
        Operation::Refusals(rows) => {
            rejections::write(conn, state, rows)?;
            OperationResult::Nothing
        }
        Operation::Handshakes(rows) => {
            handshakes::write(conn, rows)?;
            OperationResult::Nothing
        }
        Operation::Register { sources, handlers, reply } => {
            let registry = registry::register(conn, sources, handlers, state.now_ms)?;
            alerts::set_subscriber(conn, registry.sources.get(alerts::SOURCE).copied())?;
            let before = std::mem::take(&mut state.rests);
            state.reload_config_tables(conn)?;
            state.changed_breakers.extend(breaker::diff(&before, &state.rests));
            OperationResult::Registered(reply.clone(), registry)
        }
        Operation::Audit(act) => {
            audit::record(conn, act)?;
            OperationResult::Nothing
        }
        Operation::Recount(_) => OperationResult::Nothing,
        Operation::Notice(notice) => {
            alerts::record_signal(conn, state, notice)?;
            OperationResult::Nothing
        }
        Operation::Alert(made) => {
            alerts::emit(conn, state, made)?;
            OperationResult::Nothing
        }
        Operation::SaveState(seen) => {
            sources::save_last_seen(conn, seen)?;
            write_anchor(conn, &state.clock.anchor())?;
            OperationResult::Nothing
        }
    })
}

/// How the operations of a group are kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Isolation {
    /// Not at all: the first fault takes all of them back. A savepoint each would cost every
    /// operation a tenth of its time, for faults that hardly ever happen.
    Together,
    /// Each in its own savepoint: its own fault is its own failure, anything else is the group's.
    EachAlone,
}

impl Isolation {
    pub(super) fn apply(
        self,
        conn: &Connection,
        state: &mut WriterState,
        apply: impl FnOnce(&Connection, &mut WriterState) -> rusqlite::Result<OperationResult>,
    ) -> rusqlite::Result<OperationResult> {
        if self == Self::Together {
            return apply(conn, state);
        }
        conn.prepare_cached("SAVEPOINT op")?.execute([])?;
        let (counters, queued) = (state.counters, state.queued.clone());
        let (deferred, revivals) = (state.deferred.clone(), state.revivals.len());
        match apply(conn, state) {
            Ok(done) => {
                conn.prepare_cached("RELEASE op")?.execute([])?;
                Ok(done)
            }
            Err(e) if classify(&e) == ErrorKind::Own => {
                log::error!("an operation was refused by the database, and is left out: {e}");
                conn.execute_batch("ROLLBACK TO op; RELEASE op")?;
                (state.counters, state.queued, state.deferred) = (counters, queued, deferred);
                state.revivals.truncate(revivals);
                state.read_idle(conn)?;
                Ok(OperationResult::Nothing)
            }
            Err(e) => Err(e),
        }
    }
}
