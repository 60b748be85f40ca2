//! Tables `jobs` and `attempts`: outcomes, retries, scheduled jobs, and jobs that a crash left
//! running. `finish` writes the outcome of a claimed job: the job succeeds, waits for a retry,
//! becomes dead or is cancelled. `insert::record_failure` writes the outcome of a job whose
//! expression failed at intake. After a crash, `list_running_jobs` lists the running jobs, and
//! recovery.rs finishes them as interrupted.
//!
//! A claim names the attempt. An outcome whose claim is no longer current changes nothing.
//! Statements check their row count where it matters.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::breaker::{self, BreakerPolicy};
use super::writer_state::WriterState;
use super::{alerts, deferred, job_keys};
use crate::domain::job_plan::KeyHash;
use crate::domain::{Claim, EventId, HandlerId, JobId, NextStep, Outcome, SourceId};

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
}

/// The record of a finished attempt, to be written.
#[derive(Clone, Debug)]
pub struct AttemptRecord {
    pub claim: Claim,
    pub handler: HandlerId,
    pub source: SourceId,
    pub outcome: Outcome,
    pub detail: String,
    /// Wall clock.
    pub ended_at_ms: i64,
    pub duration_ms: i64,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub next: NextStep,
    /// The handler reported that a retry is useless. This is not a failure of the handler.
    pub is_permanent: bool,
    pub is_probe: bool,
    pub breaker: BreakerPolicy,
    /// Consecutive server crashes during this job, including this one; 0 if the attempt ended
    /// normally.
    pub crashes: u32,
}

/// The result of writing an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishResult {
    Settled,
    Ready,
    /// Until this time (database clock).
    Scheduled(i64),
    /// The claim was no longer current, and nothing changed.
    Stale,
}

/// The columns of a running job whose claim is current.
pub(super) struct CurrentClaim {
    pub cancel_reason: Option<String>,
    pub ordering_key: Option<KeyHash>,
    pub version: Option<String>,
}

/// Loads a running job. Returns `None` if the claim is no longer current.
pub(super) fn load_current_claim(
    conn: &Connection,
    claim: Claim,
) -> rusqlite::Result<Option<CurrentClaim>> {
    conn.prepare_cached(
        "SELECT cancel_reason, ordering_key, version FROM jobs WHERE id = ?1 AND attempt = ?2 AND state = 2",
    )?
    .query_row(params![claim.job.0, claim.attempt], |row| {
        Ok(CurrentClaim { cancel_reason: row.get(0)?, ordering_key: row.get(1)?, version: row.get(2)? })
    })
    .optional()
}

/// Writes an outcome and updates the job, if the claim is current.
///
/// # Errors
/// The write failed.
pub fn finish(
    conn: &Connection,
    state: &mut WriterState,
    record: &AttemptRecord,
) -> rusqlite::Result<FinishResult> {
    let Some(current) = load_current_claim(conn, record.claim)? else {
        breaker::probe_inconclusive(state, record.handler, record.is_probe);
        return Ok(FinishResult::Stale);
    };
    let now_ms = state.now_ms;
    // A job that succeeds before it is stopped has succeeded, even if it was cancelled.
    let (row_state, reason, due_at, wait, failures) = match (&record.next, current.cancel_reason) {
        (NextStep::Succeeded, _) => (3, None, None, None, None),
        (_, Some(reason)) => (5, Some(reason), None, None, None),
        (NextStep::Dead(reason), None) => (4, Some(reason.clone()), None, None, None),
        (NextStep::Retry { delay, failures }, None) => {
            match i64::try_from(delay.as_millis()).unwrap_or(i64::MAX) {
                0 => (0, None, None, None, Some(*failures)),
                wait_ms => (1, None, Some(now_ms + wait_ms), Some(wait_ms), Some(*failures)),
            }
        }
    };
    let settled_at = (row_state >= 3).then_some(record.ended_at_ms);
    let changed = conn
        .prepare_cached(
            "UPDATE jobs SET state = ?2, reason = ?3, due_at = ?4, wait_ms = ?5,
               failures = coalesce(?6, failures), crashes = ?7, ended_at = ?8, started_at = NULL,
               cancel_reason = NULL WHERE id = ?1",
        )?
        .execute(params![
            record.claim.job.0,
            row_state,
            reason,
            due_at,
            wait,
            failures,
            record.crashes,
            settled_at
        ])?;
    debug_assert_eq!(changed, 1);
    let next_at = (row_state <= 1).then(|| record.ended_at_ms + wait.unwrap_or(0));
    insert_attempt(conn, state, record, next_at)?;
    breaker::on_attempt(conn, state, record)?;
    if row_state == 3 {
        state.blocks.add_success(conn, record.handler, record.source, record.claim.job.0)?;
    }
    if row_state == 4 {
        alerts::record_dead_job(conn, state, record.claim.job, record.source)?;
    }
    if row_state <= 1 {
        state.adjust_queued(record.source, 1);
    }
    if let Some(key) = current.ordering_key {
        if let (3, Some(value)) = (row_state, current.version) {
            job_keys::record_version(conn, record.handler, &key, &value, record.claim.job)?;
        }
        job_keys::release_next(conn, state, record.handler, &key)?;
    }
    Ok(match (row_state, due_at) {
        (0, _) => FinishResult::Ready,
        (1, Some(due_at)) => FinishResult::Scheduled(due_at),
        _ => FinishResult::Settled,
    })
}

/// Inserts the row of a finished attempt.
fn insert_attempt(
    conn: &Connection,
    state: &mut WriterState,
    record: &AttemptRecord,
    next_at: Option<i64>,
) -> rusqlite::Result<()> {
    let id = state.counters.attempt + 1;
    conn.prepare_cached(
        "INSERT INTO attempts (id, job, attempt, outcome, detail, ended_at, duration_ms, next_at,
           stdout, stderr) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        id,
        record.claim.job.0,
        record.claim.attempt,
        record.outcome.name(),
        record.detail,
        record.ended_at_ms,
        record.duration_ms,
        next_at,
        non_empty(&record.stdout),
        non_empty(&record.stderr),
    ])?;
    state.counters.attempt = id;
    let AttemptRecord { source, handler, outcome, duration_ms, .. } = *record;
    state.blocks.add_attempt(conn, handler, source, id)?;
    state.minute_counts.add_attempt(source, handler, outcome == Outcome::Succeeded, duration_ms);
    Ok(())
}

fn non_empty(bytes: &[u8]) -> Option<&[u8]> {
    (!bytes.is_empty()).then_some(bytes)
}

/// Requeues a job with fresh attempts and the same idempotency key, unless other jobs have replaced
/// it. Returns whether the job will run. It supersedes no other job, and no job supersedes it.
pub(super) fn requeue(
    conn: &Connection,
    state: &mut WriterState,
    job: JobId,
    handler: HandlerId,
) -> rusqlite::Result<bool> {
    let requeued: Option<Option<KeyHash>> = conn
        .prepare_cached(
            "UPDATE jobs SET state = CASE WHEN ordering_key IS NULL OR NOT EXISTS
                   (SELECT 1 FROM jobs o INDEXED BY jobs_order WHERE o.handler = jobs.handler
                      AND o.ordering_key = jobs.ordering_key AND o.ordering_key IS NOT NULL
                      AND o.state < 3) THEN 0 ELSE -1 END, age_start = ?2,
               failures = 0, crashes = 0, due_at = NULL, wait_ms = NULL, ended_at = NULL,
               reason = NULL, cancel_reason = NULL, debounce_key = NULL
             WHERE id = ?1 AND state IN (1, 4, 5) AND reevaluation IS NOT 2
             RETURNING CASE state WHEN -1 THEN ordering_key END",
        )?
        .query_row(params![job.0, state.handler_time_ms(handler)], |row| row.get(0))
        .optional()?;
    let Some(blocked_key) = requeued else { return Ok(false) };
    match blocked_key {
        Some(key) => job_keys::release_next(conn, state, handler, &key)?,
        // Without an ordering key, or the only unfinished job of its key.
        None => state.mark_ready(handler),
    }
    Ok(true)
}

/// Maximum number of due jobs that one transaction makes ready.
pub(super) const MAX_PROMOTED: i64 = 500;

/// Makes some due jobs ready. A job with an ordering key may have to wait for an older job of the
/// key that was retried.
///
/// # Errors
/// The write failed.
pub fn promote(conn: &Connection, state: &mut WriterState) -> rusqlite::Result<()> {
    let mut update = conn.prepare_cached(
        "UPDATE jobs SET state = CASE WHEN ordering_key IS NULL THEN 0 ELSE -1 END, due_at = NULL,
           wait_ms = NULL WHERE id IN
           (SELECT id FROM jobs WHERE state = 1 AND due_at <= ?1 ORDER BY due_at LIMIT ?2)
         RETURNING handler, ordering_key",
    )?;
    let due: Vec<(i64, Option<KeyHash>)> = update
        .query_map([state.now_ms, MAX_PROMOTED], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (handler, ordering_key) in due {
        match ordering_key {
            Some(key) => job_keys::release_next(conn, state, HandlerId(handler), &key)?,
            None => state.mark_ready(HandlerId(handler)),
        }
    }
    Ok(())
}

/// Counts the ready jobs of a handler, up to `max`.
///
/// # Errors
/// The read failed.
pub fn count_ready(conn: &Connection, handler: HandlerId, max: usize) -> rusqlite::Result<usize> {
    conn.prepare_cached(
        "SELECT count(*) FROM (SELECT 1 FROM jobs INDEXED BY jobs_by_state
           WHERE state = 0 AND handler = ?1 AND state NOT IN (3, 6) LIMIT ?2)",
    )?
    .query_row(params![handler.0, i64::try_from(max).unwrap_or(i64::MAX)], |row| {
        Ok(usize::try_from(row.get::<_, i64>(0)?).unwrap_or(0))
    })
}

/// Returns when the next scheduled job is due (database clock).
///
/// # Errors
/// The read failed.
pub fn next_due(conn: &Connection) -> rusqlite::Result<Option<i64>> {
    conn.prepare_cached("SELECT min(due_at) FROM jobs WHERE state = 1")?
        .query_row([], |row| row.get(0))
}

/// Shortens delays that exceed their original length after a clock change. Called once at the
/// start.
///
/// # Errors
/// The write failed.
pub fn clamp_waits(conn: &Connection, now_ms: i64) -> rusqlite::Result<usize> {
    conn.execute(
        "UPDATE jobs SET due_at = ?1 + wait_ms WHERE state = 1 AND due_at > ?1 + wait_ms",
        [now_ms],
    )
}

/// Returns the running jobs that were cancelled.
///
/// # Errors
/// The read failed.
pub fn pending_cancellations(conn: &Connection) -> rusqlite::Result<Vec<Claim>> {
    let mut select = conn.prepare_cached(
        "SELECT id, attempt FROM jobs INDEXED BY jobs_by_state
         WHERE state = 2 AND state NOT IN (3, 6) AND cancel_reason IS NOT NULL",
    )?;
    let row = |row: &Row<'_>| Ok(Claim { job: JobId(row.get(0)?), attempt: row.get(1)? });
    select.query_map([], row)?.collect()
}

/// A job that was running when an earlier process ended.
#[derive(Clone, Debug)]
pub struct InterruptedJob {
    pub claimed: ClaimedJob,
    pub crashes: u32,
    pub started_at_ms: i64,
    pub is_cancelled: bool,
}

/// Returns the jobs that an earlier process left running.
///
/// # Errors
/// The read failed.
pub fn list_running_jobs(
    conn: &Connection,
    state: &WriterState,
) -> rusqlite::Result<Vec<InterruptedJob>> {
    let mut select = conn.prepare(
        "SELECT id, attempt, event, source, handler, failures, age_start, item, replay, crashes,
           coalesce(started_at, 0), cancel_reason IS NOT NULL, reevaluation FROM jobs INDEXED BY jobs_by_state
         WHERE state = 2 AND state NOT IN (3, 6) ORDER BY id",
    )?;
    let rows = select.query_map([], |row| {
        let handler = HandlerId(row.get(4)?);
        let claimed = ClaimedJob {
            claim: Claim { job: JobId(row.get(0)?), attempt: row.get(1)? },
            event: EventId(row.get(2)?),
            source: SourceId(row.get(3)?),
            handler,
            failures: row.get(5)?,
            age_ms: (state.handler_time_ms(handler) - row.get::<_, i64>(6)?).max(0),
            item: row.get(7)?,
            replay: row.get::<_, Option<u32>>(8)?.unwrap_or(0),
            should_reevaluate: row.get::<_, Option<i64>>(12)? == Some(1),
            is_probe: false,
        };
        let (crashes, started_at_ms, cancelled) = (row.get(9)?, row.get(10)?, row.get(11)?);
        Ok(InterruptedJob { claimed, crashes, started_at_ms, is_cancelled: cancelled })
    })?;
    rows.collect()
}

/// Counts the queued jobs of a source. It reads only indexes, because there may be millions of
/// jobs.
///
/// # Errors
/// The read failed.
pub fn queued_count(conn: &Connection, source: SourceId) -> rusqlite::Result<i64> {
    conn.prepare_cached(
        "SELECT count(*) FROM jobs INDEXED BY jobs_by_state
         WHERE state BETWEEN -1 AND 1 AND state NOT IN (3, 6) AND source = ?1",
    )?
    .query_row([source.0], |row| row.get::<_, i64>(0))
    .and_then(|queued| Ok(queued + deferred::count_queued(conn, source)?))
}
