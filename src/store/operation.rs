//! The operations of the writer. Each is declared here once and applied within the transaction of
//! its group.

use crossbeam_channel::Sender;

use super::events::{self, InsertReply};
use super::handshakes::{self, HandshakeRecord};
use super::jobs::finish::{self, AttemptInserts};
use super::jobs::reevaluate::{self, Reevaluation};
use super::jobs::{AttemptRecord, ClaimedJob, claim, queue, transition};
use super::registry::{self, Registry};
use super::rejections::{self, RejectionRow};
use super::retention::{self, RetentionRest};
use super::settlements::{self, SettlementEvent};
use super::statements::Statements;
use super::write_transaction::WriteTransaction;
use super::{ErrorKind, alerts, audit, breaker, classify, sources, write_anchor};
use crate::domain::claim_request::ClaimRequest;
use crate::domain::{INTERNAL_SOURCE, Outcome, SourceId};

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
    /// The rules of `retention` rest.
    RestRetention(RetentionRest),
    /// A condition for an alert that another thread noticed.
    AlertSignal(alerts::AlertSignal),
    /// An event of the source `hooktrail`.
    AlertEvent(Box<alerts::AlertEvent>),
    /// Events of type `job.settled`. The reply is sent after the commit.
    ReportSettlements {
        events: Vec<SettlementEvent>,
        reply: Sender<()>,
    },
}

impl Operation {
    /// Returns whether this is the outcome of a job that succeeded.
    pub(super) fn has_succeeded(&self) -> bool {
        matches!(self, Self::Finish(record) if record.outcome == Outcome::Succeeded)
    }

    /// Returns the cost of the operation, in rows.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Claim(request) => request.max_jobs,
            Self::Reevaluate(reevaluation) => {
                reevaluation.spec.as_ref().map_or(1, |spec| 1 + spec.job_count())
            }
            Self::Promote => usize::try_from(transition::MAX_PROMOTED).unwrap_or(usize::MAX),
            Self::Rejections(rows) => rows.len(),
            Self::Handshakes(rows) => rows.len(),
            Self::Register { sources, handlers, .. } => sources.len() + handlers.len(),
            Self::SaveState(last_seen) => last_seen.len(),
            Self::AlertEvent(alert) => alert.event.as_ref().map_or(1, events::NewEvent::weight),
            Self::ReportSettlements { events, .. } => settlements::weight(events),
            Self::Finish(_)
            | Self::Audit(_)
            | Self::Recount(_)
            | Self::RestRetention(_)
            | Self::AlertSignal(_) => 2,
        }
    }
}

/// The reply of an operation. It counts only after the commit.
#[derive(Debug)]
pub enum OperationResult {
    Inserted(InsertReply),
    Claimed {
        request: ClaimRequest,
        jobs: Vec<ClaimedJob>,
    },
    Promoted {
        next_due_ms: Option<i64>,
    },
    Registered(Sender<Registry>, Registry),
    Done,
    /// The database rejected this operation alone, and nothing was changed.
    Rejected,
}

/// Applies one operation completely.
///
/// # Errors
/// The write failed. The caller rolls the transaction back.
pub fn apply(tx: &mut WriteTransaction<'_>, op: &Operation) -> rusqlite::Result<OperationResult> {
    match op {
        Operation::Claim(request) => {
            let jobs = claim::claim(tx, request)?;
            return Ok(OperationResult::Claimed { request: *request, jobs });
        }
        Operation::Finish(record) => _ = finish::finish_single(tx, record)?,
        Operation::Reevaluate(reevaluation) => reevaluate::apply_reevaluation(tx, reevaluation)?,
        Operation::Promote => {
            transition::promote(tx)?;
            return Ok(OperationResult::Promoted { next_due_ms: queue::next_due(tx.conn)? });
        }
        Operation::Rejections(rows) => rejections::write(tx, rows)?,
        Operation::Handshakes(rows) => handshakes::write(tx.conn, rows)?,
        Operation::Register { sources, handlers, reply } => {
            let registry = register(tx, sources, handlers)?;
            return Ok(OperationResult::Registered(reply.clone(), registry));
        }
        Operation::Audit(entry) => audit::record(tx.conn, entry)?,
        Operation::Recount(_) => {}
        Operation::RestRetention(rest) => retention::save_rest(tx.conn, rest)?,
        Operation::AlertSignal(signal) => alerts::record_signal(tx, signal)?,
        Operation::AlertEvent(alert) => alerts::emit(tx, alert)?,
        Operation::ReportSettlements { events, .. } => settlements::report(tx, events)?,
        Operation::SaveState(last_seen) => {
            sources::save_last_seen(tx.conn, last_seen)?;
            write_anchor(tx.conn, &tx.cache.clock.anchor())?;
        }
    }
    Ok(OperationResult::Done)
}

/// Assigns ids to the names of a configuration, and applies `paused`, `breaker` and the subscriptions to alerts and to
/// settled jobs.
///
/// # Errors
/// The write failed.
pub fn register(
    tx: &mut WriteTransaction<'_>,
    sources: &[String],
    handlers: &[registry::HandlerRegistration],
) -> rusqlite::Result<Registry> {
    let registry = registry::register(tx, sources, handlers)?;
    let own_source = registry.sources.get(INTERNAL_SOURCE).copied();
    alerts::set_subscriber(tx.conn, own_source)?;
    let has_subscriber = handlers.iter().any(|handler| handler.takes_settled_jobs);
    settlements::set_subscriber(tx.conn, own_source.filter(|_| has_subscriber))?;
    let before = std::mem::take(&mut tx.cache.breakers);
    tx.cache.reload_config_tables(tx.conn)?;
    for handler in breaker::changed_handlers(&before, &tx.cache.breakers) {
        tx.effects.breakers.push((handler, tx.cache.breaker(handler)));
    }
    Ok(registry)
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
    /// Applies an operation. The row of an attempt may be inserted only when the caller flushes `attempts`.
    pub(super) fn apply_operation<'e>(
        self,
        tx: &mut WriteTransaction<'_>,
        attempts: &mut AttemptInserts<'_, 'e>,
        op: &'e Operation,
    ) -> rusqlite::Result<OperationResult> {
        self.apply(tx, |tx| match (self, op) {
            (Self::Group, Operation::Finish(record)) => {
                finish::finish(tx, attempts, record).map(|_| OperationResult::Done)
            }
            _ => {
                attempts.flush()?;
                apply(tx, op)
            }
        })
    }

    /// Applies a part of a group. If it is rolled back alone, the effects and the cache are as before.
    pub(super) fn apply(
        self,
        tx: &mut WriteTransaction<'_>,
        apply: impl FnOnce(&mut WriteTransaction<'_>) -> rusqlite::Result<OperationResult>,
    ) -> rusqlite::Result<OperationResult> {
        let before = match self {
            Self::Group => None,
            Self::Savepoints => {
                tx.conn.change("SAVEPOINT op", [])?;
                tx.cache.forget_known_rows();
                Some((tx.cache.clone(), tx.effects.clone()))
            }
        };
        let applied = apply(tx).and_then(|result| {
            alerts::record_conditions(tx)?;
            Ok(result)
        });
        match (applied, before) {
            (Ok(result), before) => {
                if before.is_some() {
                    tx.conn.change("RELEASE op", [])?;
                }
                Ok(result)
            }
            (Err(e), Some(before)) if classify(&e) == ErrorKind::Operation => {
                log::error!("the database rejected an operation, which is skipped: {e}");
                tx.conn.execute_batch("ROLLBACK TO op; RELEASE op")?;
                (*tx.cache, *tx.effects) = before;
                Ok(OperationResult::Rejected)
            }
            (Err(e), _) => Err(e),
        }
    }
}
