//! Tables `jobs`, `items` and `attempts`: new jobs, claims, outcomes, retries. `transition` is the only
//! code that writes the state of a job.
//!
//! A claim names the attempt. An outcome whose claim is no longer current changes nothing.

use std::time::Duration;

use rusqlite::{Connection, Row};

use self::transition::IS_RUNNING;
use super::seal::AttemptSeal;
use super::statements::Statements;
use super::writer_cache::WriterCache;
use crate::domain::breaker::BreakerPolicy;
use crate::domain::job_plan::KeyHash;
use crate::domain::{Claim, EventId, HandlerId, NextStep, Outcome, SourceId};

pub mod claim;
pub(in crate::store) mod failures;
pub mod finish;
pub(super) mod insert;
pub(super) mod keys;
pub mod queue;
pub mod reevaluate;
pub(super) mod transition;

/// The properties that new jobs of an event share.
#[derive(Clone, Copy, Debug)]
pub struct JobOrigin {
    pub event: i64,
    pub source: SourceId,
    pub handler: HandlerId,
    /// Wall clock.
    pub created_at_ms: i64,
    pub kind: OriginKind,
}

/// How jobs were created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginKind {
    /// Jobs inserted with their event, in its id range.
    Event,
    /// The event's own jobs, inserted after the event and outside its id range.
    DeferredEvent,
    /// Inserted by the replay with this number.
    Replay(i64),
    /// Inserted by `retry` of a job whose expressions had failed. `replay` is the number of the
    /// replay that created that job; 0 if none did.
    Retry { replay: i64 },
}

impl JobOrigin {
    /// Returns true for jobs of `retry` and `replay`. They supersede no other job, no job
    /// supersedes them, and `unique_by` lets them pass.
    pub(super) fn bypasses_keys(self) -> bool {
        matches!(self.kind, OriginKind::Replay(_) | OriginKind::Retry { .. })
    }

    /// Returns the number of the replay.
    pub(super) fn replay(self) -> Option<i64> {
        match self.kind {
            OriginKind::Replay(replay) | OriginKind::Retry { replay } if replay > 0 => Some(replay),
            _ => None,
        }
    }

    /// Returns the event id if the jobs are outside that range.
    pub(super) fn appended_to(self) -> Option<i64> {
        (self.kind != OriginKind::Event).then_some(self.event)
    }
}

/// A claimed job, which this process may run once.
#[derive(Clone, Debug)]
pub struct ClaimedJob {
    pub claim: Claim,
    pub event: EventId,
    pub source: SourceId,
    pub handler: HandlerId,
    /// Failures and timeouts since the first attempt or the last `retry`.
    pub failures: u32,
    /// The age of the job, without the time that its handler was paused or its circuit breaker open.
    pub age_ms: i64,
    pub item: Option<u32>,
    /// The number of the replay that created the job; 0 if none did.
    pub replay: u32,
    /// The job's expressions failed at intake and must be evaluated again before it runs.
    pub should_reevaluate: bool,
    /// The job is the probe of its handler's open circuit breaker.
    pub is_probe: bool,
    /// The job was claimed before a thread was free for it.
    pub is_prefetched: bool,
}

/// The columns of a claimed job.
const CLAIM_COLUMNS: &str = "id, attempt, event, source, handler, failures, age_start, item,
  coalesce(replay, 0), reevaluation IS 1";

impl ClaimedJob {
    /// A job for tests, whose other ids are 1.
    #[cfg(test)]
    pub fn for_test(claim: Claim) -> Self {
        Self {
            claim,
            event: EventId(1),
            source: SourceId(1),
            handler: HandlerId(1),
            failures: 0,
            age_ms: 0,
            item: None,
            replay: 0,
            should_reevaluate: false,
            is_probe: false,
            is_prefetched: false,
        }
    }

    /// Reads a row that begins with [`CLAIM_COLUMNS`].
    fn read(row: &Row<'_>, cache: &WriterCache) -> rusqlite::Result<Self> {
        let handler = row.get(4)?;
        Ok(Self {
            claim: Claim { job: row.get(0)?, attempt: row.get(1)? },
            event: row.get(2)?,
            source: row.get(3)?,
            handler,
            failures: row.get(5)?,
            age_ms: (cache.handler_time_ms(handler) - row.get::<_, i64>(6)?).max(0),
            item: row.get(7)?,
            replay: row.get(8)?,
            should_reevaluate: row.get(9)?,
            is_probe: false,
            is_prefetched: false,
        })
    }
}

/// The ordering key of a job and its value of `version_by`.
#[derive(Debug)]
pub(super) struct VersionKey {
    pub key: KeyHash,
    pub value: String,
}

/// The record of a finished attempt, to be written.
#[derive(Clone, Debug)]
pub struct AttemptRecord {
    pub claim: Claim,
    pub event: EventId,
    pub item: Option<u32>,
    pub handler: HandlerId,
    pub source: SourceId,
    pub outcome: Outcome,
    pub detail: String,
    /// Wall clock.
    pub ended_at_ms: i64,
    pub duration_ms: i64,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// For `detail` and the outputs. It is made before the writer gets the record, because outputs may be large.
    pub seal: Option<AttemptSeal>,
    pub next: NextStep,
    /// The handler reported that a retry is useless. This is not a failure of the handler.
    pub is_permanent: bool,
    pub is_probe: bool,
    pub breaker: BreakerPolicy,
    /// Consecutive server crashes during this job, including this one; 0 if the attempt ended
    /// normally.
    pub crashes: u32,
}

impl AttemptRecord {
    /// The record of a claimed job that did not start. It is queued again, and the attempt does not count.
    pub fn not_started(job: &ClaimedJob, detail: &str, wall_ms: i64) -> Self {
        let next = NextStep::Retry { delay: Duration::ZERO, failures: job.failures };
        Self {
            claim: job.claim,
            event: job.event,
            item: job.item,
            handler: job.handler,
            source: job.source,
            outcome: Outcome::Interrupted,
            detail: detail.to_owned(),
            ended_at_ms: wall_ms,
            duration_ms: 0,
            stdout: Vec::new(),
            stderr: Vec::new(),
            seal: AttemptSeal::new(detail, &[], &[]),
            next,
            is_permanent: false,
            is_probe: job.is_probe,
            breaker: BreakerPolicy::NEVER,
            crashes: 0,
        }
    }
}

/// The columns of a running job whose claim is current.
#[derive(Debug)]
pub(super) struct CurrentClaim {
    pub cancel_reason: Option<String>,
    pub ordering_key: Option<KeyHash>,
    pub version: Option<String>,
    /// The group of its last failure.
    pub failure: Option<i64>,
}

/// Loads a running job. Returns `None` if the claim is no longer current.
pub(super) fn load_current_claim(
    conn: &Connection,
    claim: Claim,
) -> rusqlite::Result<Option<CurrentClaim>> {
    let sql = const_format::formatcp!(
        "SELECT cancel_reason, ordering_key, version, failure FROM jobs
         WHERE id = ?1 AND attempt = ?2 AND {IS_RUNNING}"
    );
    conn.find(sql, (claim.job, claim.attempt), |row| {
        let (cancel_reason, ordering_key, version, failure) = row.try_into()?;
        Ok(CurrentClaim { cancel_reason, ordering_key, version, failure })
    })
}
