//! Outcomes: the attempt's row, the new state of its job, and the handler's circuit breaker.

use rusqlite::params;

use super::super::breaker;
use super::super::statements::Statements;
use super::super::write_transaction::WriteTransaction;
use super::{AttemptRecord, JobOrigin, VersionKey, keys, load_current_claim, transition};
use crate::domain::Outcome;
use crate::domain::job::JobState;

/// Writes an outcome and updates the job, if the claim is current: the job succeeds, waits for a retry,
/// becomes dead or is cancelled. Returns its state. If the claim is no longer current, nothing changes.
///
/// # Errors
/// The write failed.
pub fn finish(
    tx: &mut WriteTransaction<'_>,
    record: &AttemptRecord,
) -> rusqlite::Result<Option<JobState>> {
    let Some(current) = load_current_claim(tx.conn, record.claim)? else {
        breaker::end_probe(tx.cache, record.handler, record.is_probe, tx.effects);
        return Ok(None);
    };
    let (state, wait_ms) = transition::finish(tx, record, &current)?;
    insert_attempt(tx, record, wait_ms.map(|wait_ms| record.ended_at_ms + wait_ms))?;
    breaker::on_attempt(tx, record)?;
    if matches!(state, JobState::Succeeded) {
        let AttemptRecord { handler, source, claim, .. } = *record;
        tx.cache.blocks.add_success(tx.conn, handler, source, claim.job.0)?;
        if let Some((key, value)) = current.ordering_key.zip(current.version) {
            keys::record_version(tx.conn, handler, &VersionKey { key, value }, claim.job)?;
        }
    }
    Ok(Some(state))
}

/// Inserts the row of a finished attempt.
fn insert_attempt(
    tx: &mut WriteTransaction<'_>,
    record: &AttemptRecord,
    next_at: Option<i64>,
) -> rusqlite::Result<()> {
    let id = tx.cache.counters.attempt + 1;
    tx.conn.change(
        "INSERT INTO attempts (id, job, attempt, outcome, detail, ended_at, duration_ms, next_at,
           stdout, stderr) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            id,
            record.claim.job,
            record.claim.attempt,
            record.outcome.name(),
            record.detail,
            record.ended_at_ms,
            record.duration_ms,
            next_at,
            non_empty(&record.stdout),
            non_empty(&record.stderr),
        ],
    )?;
    tx.cache.counters.attempt = id;
    let AttemptRecord { source, handler, outcome, duration_ms, .. } = *record;
    tx.cache.blocks.add_attempt(tx.conn, handler, source, id)?;
    let has_succeeded = outcome == Outcome::Succeeded;
    tx.effects.minute_counts.add_attempt(source, handler, has_succeeded, duration_ms);
    Ok(())
}

/// Inserts the failed attempt of a job whose expression failed at intake.
///
/// # Errors
/// The write failed.
pub(in crate::store) fn record_failure(
    tx: &mut WriteTransaction<'_>,
    (origin, job): (JobOrigin, i64),
    reason: &str,
) -> rusqlite::Result<()> {
    let id = tx.cache.counters.attempt + 1;
    let JobOrigin { source, handler, .. } = origin;
    tx.conn.change(
        "INSERT INTO attempts (id, job, attempt, outcome, detail, ended_at, duration_ms)
         VALUES (?1, ?2, 1, ?3, ?4, ?5, 0)",
        params![id, job, Outcome::Failed.name(), reason, tx.cache.wall_ms],
    )?;
    tx.cache.counters.attempt = id;
    tx.cache.blocks.add_attempt(tx.conn, handler, source, id)?;
    tx.effects.minute_counts.add_attempt(source, handler, false, 0);
    Ok(())
}

fn non_empty(bytes: &[u8]) -> Option<&[u8]> {
    (!bytes.is_empty()).then_some(bytes)
}
