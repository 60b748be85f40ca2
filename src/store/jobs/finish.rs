//! Outcomes: the attempt's row, the new state of its job, and the handler's circuit breaker.

use rusqlite::{Connection, params};

use super::super::breaker;
use super::super::effects::Effects;
use super::super::writer_cache::WriterCache;
use super::{
    AttemptRecord, FinishResult, JobOrigin, VersionKey, keys, load_current_claim, transition,
};
use crate::domain::Outcome;
use crate::domain::job::JobState;

/// Writes an outcome and updates the job, if the claim is current: the job succeeds, waits for a retry,
/// becomes dead or is cancelled.
///
/// # Errors
/// The write failed.
pub fn finish(
    conn: &Connection,
    cache: &mut WriterCache,
    record: &AttemptRecord,
) -> rusqlite::Result<(FinishResult, Effects)> {
    let mut effects = Effects::default();
    let Some(current) = load_current_claim(conn, record.claim)? else {
        breaker::end_probe(cache, record.handler, record.is_probe, &mut effects);
        return Ok((FinishResult::Stale, effects));
    };
    let (result, changes) = transition::finish(conn, cache, record, &current)?;
    effects.merge(changes);
    let next_at = match result {
        FinishResult::Ready => Some(record.ended_at_ms),
        FinishResult::Scheduled { wait_ms, .. } => Some(record.ended_at_ms + wait_ms),
        FinishResult::Ended(_) | FinishResult::Stale => None,
    };
    insert_attempt(conn, cache, record, next_at, &mut effects)?;
    effects.merge(breaker::on_attempt(conn, cache, record)?);
    if result == FinishResult::Ended(JobState::Succeeded) {
        cache.blocks.add_success(conn, record.handler, record.source, record.claim.job.0)?;
    }
    if let (FinishResult::Ended(JobState::Succeeded), Some(key), Some(value)) =
        (result, current.ordering_key, current.version)
    {
        let version = VersionKey { key, value };
        keys::record_version(conn, record.handler, &version, record.claim.job)?;
    }
    Ok((result, effects))
}

/// Inserts the row of a finished attempt.
fn insert_attempt(
    conn: &Connection,
    cache: &mut WriterCache,
    record: &AttemptRecord,
    next_at: Option<i64>,
    effects: &mut Effects,
) -> rusqlite::Result<()> {
    let id = cache.counters.attempt + 1;
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
    cache.counters.attempt = id;
    let AttemptRecord { source, handler, outcome, duration_ms, .. } = *record;
    cache.blocks.add_attempt(conn, handler, source, id)?;
    let has_succeeded = outcome == Outcome::Succeeded;
    effects.minute_counts.add_attempt(source, handler, has_succeeded, duration_ms);
    Ok(())
}

/// Inserts the failed attempt of a job whose expression failed at intake.
///
/// # Errors
/// The write failed.
pub(in crate::store) fn record_failure(
    conn: &Connection,
    cache: &mut WriterCache,
    (origin, job): (JobOrigin, i64),
    reason: &str,
    effects: &mut Effects,
) -> rusqlite::Result<()> {
    cache.counters.attempt += 1;
    let JobOrigin { source, handler, .. } = origin;
    conn.prepare_cached(
        "INSERT INTO attempts (id, job, attempt, outcome, detail, ended_at, duration_ms)
         VALUES (?1, ?2, 1, ?3, ?4, ?5, 0)",
    )?
    .execute(params![
        cache.counters.attempt,
        job,
        Outcome::Failed.name(),
        reason,
        cache.wall_ms
    ])?;
    cache.blocks.add_attempt(conn, handler, source, cache.counters.attempt)?;
    effects.minute_counts.add_attempt(source, handler, false, 0);
    Ok(())
}

fn non_empty(bytes: &[u8]) -> Option<&[u8]> {
    (!bytes.is_empty()).then_some(bytes)
}
