//! Reads of the queue: ready and running jobs, due times, queue lengths.

use const_format::formatcp;
use rusqlite::Connection;

use super::super::statements::Statements;
use super::super::writer_cache::WriterCache;
use super::transition::{
    IS_INDEXED, IS_READY, IS_RUNNING, IS_SCHEDULED, IS_UNRELEASED, IS_WAITING,
};
use super::{CLAIM_COLUMNS, ClaimedJob};
use crate::domain::{Claim, HandlerId, JobId, SourceId};

/// Counts the ready jobs of a handler, up to `max`.
///
/// # Errors
/// The read failed.
pub fn count_ready(conn: &Connection, handler: HandlerId, max: usize) -> rusqlite::Result<usize> {
    let sql = formatcp!(
        "SELECT count(*) FROM (SELECT 1 FROM jobs INDEXED BY jobs_by_state
           WHERE {IS_READY} AND handler = ?1 AND {IS_INDEXED} LIMIT ?2)"
    );
    let count: i64 = conn.value(sql, (handler, i64::try_from(max).unwrap_or(i64::MAX)))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Returns when the next scheduled job is due (database clock).
///
/// # Errors
/// The read failed.
pub fn next_due(conn: &Connection) -> rusqlite::Result<Option<i64>> {
    conn.value(formatcp!("SELECT min(due_at) FROM jobs WHERE {IS_SCHEDULED}"), [])
}

/// Shortens delays that exceed their original length after a clock change. Called once at the
/// start.
///
/// # Errors
/// The write failed.
pub fn clamp_waits(conn: &Connection, now_ms: i64) -> rusqlite::Result<usize> {
    conn.execute(
        formatcp!(
            "UPDATE jobs SET due_at = ?1 + wait_ms WHERE {IS_SCHEDULED} AND due_at > ?1 + wait_ms"
        ),
        [now_ms],
    )
}

/// Returns the running jobs that were cancelled.
///
/// # Errors
/// The read failed.
pub fn pending_cancellations(conn: &Connection) -> rusqlite::Result<Vec<Claim>> {
    let sql = formatcp!(
        "SELECT id, attempt FROM jobs INDEXED BY jobs_by_state
         WHERE {IS_RUNNING} AND {IS_INDEXED} AND cancel_reason IS NOT NULL"
    );
    conn.list(sql, [], |row| Ok(Claim { job: row.get(0)?, attempt: row.get(1)? }))
}

/// Returns why a prefetched job must not start: someone has cancelled it or paused its handler since the claim.
///
/// # Errors
/// The read failed.
pub fn start_obstacle(conn: &Connection, job: JobId) -> rusqlite::Result<Option<&'static str>> {
    let sql = "SELECT j.cancel_reason IS NOT NULL, h.paused FROM jobs j JOIN handlers h ON h.id = j.handler
      WHERE j.id = ?1";
    let found: Option<(bool, bool)> = conn.find(sql, [job], |row| row.try_into())?;
    Ok(match found {
        Some((true, _)) => Some("cancelled"),
        Some((false, true)) => Some("its handler was paused"),
        _ => None,
    })
}

/// A job that was running when an earlier process ended.
#[derive(Clone, Debug)]
pub struct InterruptedJob {
    pub claimed: ClaimedJob,
    pub crashes: u32,
    /// `None`: the job was prefetched, and it is unknown whether it has started.
    pub started_at_ms: Option<i64>,
    pub is_cancelled: bool,
}

/// Returns the jobs that an earlier process left running.
///
/// # Errors
/// The read failed.
pub fn list_running_jobs(
    conn: &Connection,
    cache: &WriterCache,
) -> rusqlite::Result<Vec<InterruptedJob>> {
    let sql = formatcp!(
        "SELECT {CLAIM_COLUMNS}, crashes, nullif(started_at, 0), cancel_reason IS NOT NULL
         FROM jobs INDEXED BY jobs_by_state WHERE {IS_RUNNING} AND {IS_INDEXED} ORDER BY id"
    );
    conn.list(sql, [], |row| {
        let claimed = ClaimedJob::read(row, cache)?;
        let (crashes, started_at_ms, is_cancelled) = (row.get(10)?, row.get(11)?, row.get(12)?);
        Ok(InterruptedJob { claimed, crashes, started_at_ms, is_cancelled })
    })
}

/// Counts the queued jobs of a source. It reads only indexes, because there may be millions of
/// jobs.
///
/// # Errors
/// The read failed.
pub fn queued_count(conn: &Connection, source: SourceId) -> rusqlite::Result<i64> {
    let sql = formatcp!(
        "SELECT count(*) FROM jobs INDEXED BY jobs_by_state
         WHERE {IS_WAITING} AND {IS_INDEXED} AND source = ?1"
    );
    Ok(conn.value::<i64>(sql, [source])? + count_deferred(conn, source)?)
}

/// Counts the jobs of a source that wait for their release, and the queued jobs of its deferred
/// events.
fn count_deferred(conn: &Connection, source: SourceId) -> rusqlite::Result<i64> {
    let sql = formatcp!(
        "SELECT (SELECT coalesce(sum(job_count), 0) FROM deferred_events WHERE source = ?1)
           + (SELECT count(*) FROM expansions x JOIN jobs j NOT INDEXED
                ON j.id BETWEEN x.next_job AND x.last_job
                WHERE x.source = ?1 AND x.is_visible AND {IS_UNRELEASED})"
    );
    conn.value(sql, [source])
}
