//! Tables `jobs` and `attempts`: claims, finishes, waits, and what a crash left running.
//!
//! A claim names the attempt; a finish that names one no longer current changes nothing. Each
//! statement's row count is checked where it matters.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::breaker::{self, BreakerPolicy};
use super::writer_state::WriterState;
use super::{alerts, deferred, job_keys};
use crate::domain::job_plan::KeyHash;
use crate::domain::{Claim, EventId, HandlerId, JobId, Outcome, SourceId};

/// A job that this process may run now, once.
#[derive(Clone, Debug)]
pub struct ClaimedJob {
    pub claim: Claim,
    pub event: EventId,
    pub source: SourceId,
    pub handler: HandlerId,
    /// What failed or timed out so far in this run of attempts.
    pub failures: u32,
    /// How long the job has been alive, its handler's pauses apart.
    pub age_ms: i64,
    pub item: Option<u32>,
    /// The number of the replay that made it; 0: none.
    pub replay: u32,
    /// Its expressions failed at intake: they are to be evaluated anew before it runs.
    pub expand: bool,
    /// Its handler rests, and is tried by this one.
    pub on_trial: bool,
}

/// What becomes of a job after an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Succeeded,
    Dead {
        reason: String,
    },
    /// Again after `wait_ms`; `failures` is the new count.
    Again {
        wait_ms: i64,
        failures: u32,
    },
}

/// The end of an attempt, to be written.
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
    pub next: Next,
    /// The handler said that trying again is useless: that is no failure of its own.
    pub is_permanent: bool,
    pub on_trial: bool,
    pub breaker: BreakerPolicy,
    /// Ends of the server with this job running, in a row, this one included; else 0.
    pub crashes: u32,
}

/// How a job stands after its finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobDisposition {
    Settled,
    Ready,
    /// Until then, on the trail's clock.
    Waiting(i64),
    /// The claim was no longer current: nothing was changed.
    Stale,
}

/// What is known of a running job whose claim is current.
pub(super) struct CurrentClaim {
    pub cancel: Option<String>,
    pub order: Option<KeyHash>,
    pub newest: Option<String>,
}

/// `None`: the claim is not current any more.
pub(super) fn load_current_claim(
    conn: &Connection,
    claim: Claim,
) -> rusqlite::Result<Option<CurrentClaim>> {
    conn.prepare_cached(
        "SELECT cancel, ordering_key, newest FROM jobs WHERE id = ?1 AND attempt = ?2 AND state = 2",
    )?
    .query_row(params![claim.job.0, claim.attempt], |row| {
        Ok(CurrentClaim { cancel: row.get(0)?, order: row.get(1)?, newest: row.get(2)? })
    })
    .optional()
}

/// Writes an outcome and moves the job on, if the claim is current.
///
/// # Errors
/// The write failed.
pub fn finish(
    conn: &Connection,
    state: &mut WriterState,
    f: &AttemptRecord,
) -> rusqlite::Result<JobDisposition> {
    let Some(current) = load_current_claim(conn, f.claim)? else {
        breaker::probe_inconclusive(state, f.handler, f.on_trial);
        return Ok(JobDisposition::Stale);
    };
    let now_ms = state.now_ms;
    // A job that succeeded before it could be ended has succeeded.
    let (row_state, reason, due_at, wait, failures) = match (&f.next, current.cancel) {
        (Next::Succeeded, _) => (3, None, None, None, None),
        (_, Some(why)) => (5, Some(why), None, None, None),
        (Next::Dead { reason }, None) => (4, Some(reason.clone()), None, None, None),
        (Next::Again { wait_ms: 0, failures }, None) => (0, None, None, None, Some(*failures)),
        (Next::Again { wait_ms, failures }, None) => {
            (1, None, Some(now_ms + wait_ms), Some(*wait_ms), Some(*failures))
        }
    };
    let settled_at = (row_state >= 3).then_some(f.ended_at_ms);
    let changed = conn
        .prepare_cached(
            "UPDATE jobs SET state = ?2, reason = ?3, due_at = ?4, wait_ms = ?5,
               failures = coalesce(?6, failures), crashes = ?7, ended_at = ?8, started_at = NULL,
               cancel = NULL WHERE id = ?1",
        )?
        .execute(params![
            f.claim.job.0,
            row_state,
            reason,
            due_at,
            wait,
            failures,
            f.crashes,
            settled_at
        ])?;
    debug_assert_eq!(changed, 1);
    let next_at = (row_state <= 1).then(|| f.ended_at_ms + wait.unwrap_or(0));
    insert_attempt(conn, state, f, next_at)?;
    breaker::on_attempt(conn, state, f)?;
    if row_state == 4 {
        alerts::job_dead(conn, state, f.claim.job, f.source)?;
    }
    if row_state <= 1 {
        state.adjust_queued(f.source, 1);
    }
    if let Some(key) = current.order {
        if let (3, Some(value)) = (row_state, current.newest) {
            job_keys::record_version(conn, f.handler, &key, &value, f.claim.job)?;
        }
        job_keys::release_next(conn, state, f.handler, &key)?;
    }
    Ok(match (row_state, due_at) {
        (0, _) => JobDisposition::Ready,
        (1, Some(due_at)) => JobDisposition::Waiting(due_at),
        _ => JobDisposition::Settled,
    })
}

/// The row of an attempt that has ended.
fn insert_attempt(
    conn: &Connection,
    state: &mut WriterState,
    f: &AttemptRecord,
    next_at: Option<i64>,
) -> rusqlite::Result<()> {
    let id = state.counters.attempt + 1;
    conn.prepare_cached(
        "INSERT INTO attempts (id, job, attempt, outcome, detail, ended_at, duration_ms, next_at,
           stdout, stderr) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        id,
        f.claim.job.0,
        f.claim.attempt,
        f.outcome.name(),
        f.detail,
        f.ended_at_ms,
        f.duration_ms,
        next_at,
        non_empty(&f.stdout),
        non_empty(&f.stderr),
    ])?;
    state.counters.attempt = id;
    Ok(())
}

fn non_empty(bytes: &[u8]) -> Option<&[u8]> {
    (!bytes.is_empty()).then_some(bytes)
}

/// Lets a job run again now, with fresh attempts and the same key, unless it was expanded into
/// others; says whether it will. It collapses nothing, and nothing collapses it.
pub(super) fn requeue(
    conn: &Connection,
    state: &mut WriterState,
    job: JobId,
    handler: HandlerId,
) -> rusqlite::Result<bool> {
    let revived: Option<Option<KeyHash>> = conn
        .prepare_cached(
            "UPDATE jobs SET state = CASE WHEN ordering_key IS NULL THEN 0 ELSE -1 END, since = ?2,
               failures = 0, crashes = 0, due_at = NULL, wait_ms = NULL, ended_at = NULL,
               reason = NULL, cancel = NULL, debounce_key = NULL
             WHERE id = ?1 AND state IN (1, 4, 5) AND expand IS NOT 2 RETURNING ordering_key",
        )?
        .query_row(params![job.0, state.active_ms(handler)], |row| row.get(0))
        .optional()?;
    let Some(order) = revived else { return Ok(false) };
    match order {
        Some(key) => job_keys::release_next(conn, state, handler, &key)?,
        None => state.mark_ready(handler),
    }
    Ok(true)
}

/// At most this number of due jobs is made ready in one transaction.
pub(super) const PROMOTED_AT_ONCE: i64 = 500;

/// Makes ready what is due, a few at a time, and wakes the handlers that have work now. What has an
/// order key may have to wait for an older job of it that came back.
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
        .query_map([state.now_ms, PROMOTED_AT_ONCE], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (handler, order) in due {
        match order {
            Some(key) => job_keys::release_next(conn, state, HandlerId(handler), &key)?,
            None => state.mark_ready(HandlerId(handler)),
        }
    }
    Ok(())
}

/// How many jobs of a handler are ready, at most `max`.
///
/// # Errors
/// The read failed.
pub fn count_ready(conn: &Connection, handler: HandlerId, max: usize) -> rusqlite::Result<usize> {
    conn.prepare_cached(
        "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE state = 0 AND handler = ?1 LIMIT ?2)",
    )?
    .query_row(params![handler.0, i64::try_from(max).unwrap_or(i64::MAX)], |row| {
        Ok(usize::try_from(row.get::<_, i64>(0)?).unwrap_or(0))
    })
}

/// When the next waiting job is due, on the trail's clock.
///
/// # Errors
/// The read failed.
pub fn next_due(conn: &Connection) -> rusqlite::Result<Option<i64>> {
    conn.prepare_cached("SELECT min(due_at) FROM jobs WHERE state = 1")?
        .query_row([], |row| row.get(0))
}

/// No job waits longer than its wait was set for, whatever the clock did. Once, at the start.
///
/// # Errors
/// The write failed.
pub fn clamp_waits(conn: &Connection, now_ms: i64) -> rusqlite::Result<usize> {
    conn.execute(
        "UPDATE jobs SET due_at = ?1 + wait_ms WHERE state = 1 AND due_at > ?1 + wait_ms",
        [now_ms],
    )
}

/// Running jobs that somebody cancelled.
///
/// # Errors
/// The read failed.
pub fn pending_cancellations(conn: &Connection) -> rusqlite::Result<Vec<Claim>> {
    let mut select =
        conn.prepare_cached("SELECT id, attempt FROM jobs WHERE state = 2 AND cancel IS NOT NULL")?;
    let row = |row: &Row<'_>| Ok(Claim { job: JobId(row.get(0)?), attempt: row.get(1)? });
    select.query_map([], row)?.collect()
}

/// A job that an earlier process was running when it ended.
#[derive(Clone, Debug)]
pub struct OrphanedJob {
    pub claimed: ClaimedJob,
    pub crashes: u32,
    pub started_at_ms: i64,
    pub cancelled: bool,
}

/// What an earlier process left running.
///
/// # Errors
/// The read failed.
pub fn orphaned_jobs(conn: &Connection, state: &WriterState) -> rusqlite::Result<Vec<OrphanedJob>> {
    let mut select = conn.prepare(
        "SELECT id, attempt, event, source, handler, failures, since, item, replay, crashes,
           coalesce(started_at, 0), cancel IS NOT NULL, expand FROM jobs WHERE state = 2 ORDER BY id",
    )?;
    let rows = select.query_map([], |row| {
        let handler = HandlerId(row.get(4)?);
        let claimed = ClaimedJob {
            claim: Claim { job: JobId(row.get(0)?), attempt: row.get(1)? },
            event: EventId(row.get(2)?),
            source: SourceId(row.get(3)?),
            handler,
            failures: row.get(5)?,
            age_ms: (state.active_ms(handler) - row.get::<_, i64>(6)?).max(0),
            item: row.get(7)?,
            replay: row.get::<_, Option<u32>>(8)?.unwrap_or(0),
            expand: row.get::<_, Option<i64>>(12)? == Some(1),
            on_trial: false,
        };
        let (crashes, started_at_ms, cancelled) = (row.get(9)?, row.get(10)?, row.get(11)?);
        Ok(OrphanedJob { claimed, crashes, started_at_ms, cancelled })
    })?;
    rows.collect()
}

/// How many jobs of a source are queued. By the index alone, as there may be millions.
///
/// # Errors
/// The read failed.
pub fn queued_count(conn: &Connection, source: SourceId) -> rusqlite::Result<i64> {
    conn.prepare_cached(
        "SELECT (SELECT count(*) FROM jobs INDEXED BY jobs_ready WHERE state = 0 AND source = ?1)
           + (SELECT count(*) FROM jobs INDEXED BY jobs_waiting WHERE state = 1 AND source = ?1)
           + (SELECT count(*) FROM jobs INDEXED BY jobs_order
                WHERE state = -1 AND ordering_key IS NOT NULL AND state < 3 AND source = ?1)",
    )?
    .query_row([source.0], |row| row.get::<_, i64>(0))
    .and_then(|queued| Ok(queued + deferred::count_queued(conn, source)?))
}
