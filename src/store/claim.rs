//! Claims the oldest ready jobs of a handler: they become running, each with the number of its
//! attempt.
//!
//! `version_by` is decided here, when a job is about to start. A job with a stale version is
//! cancelled instead of claimed.

use rusqlite::{Connection, params};

use super::breaker;
use super::job_keys;
use super::jobs::ClaimedJob;
use super::writer_state::WriterState;
use crate::domain::claim_request::ClaimRequest;
use crate::domain::job_plan::KeyHash;
use crate::domain::{Claim, EventId, HandlerId, JobId, SourceId};

/// Maximum number of rounds of one claim, so that other operations get their turn.
const MAX_ROUNDS: usize = 64;

/// A claim starts no further round after it has looked at this many jobs.
const MAX_EXAMINED_JOBS: usize = 500;

/// Claims the oldest ready jobs for a request, and cancels those that `version_by` finds stale.
/// Claims nothing for a paused handler, even if the scheduler does not know of the pause yet. While
/// the circuit breaker is open, claims only the probe.
///
/// # Errors
/// The write failed.
pub fn claim(
    conn: &Connection,
    state: &mut WriterState,
    request: &ClaimRequest,
) -> rusqlite::Result<Vec<ClaimedJob>> {
    let open_until_ms =
        state.breakers.get(&request.handler).and_then(|breaker| breaker.open_until_ms);
    if state.is_paused(request.handler) {
        return Ok(Vec::new());
    }
    if open_until_ms.is_some_and(|until_ms| !request.is_probe || state.now_ms < until_ms) {
        return Ok(Vec::new());
    }
    let mut claimed = claim_ready(conn, state, request.handler, request.max_jobs)?;
    if open_until_ms.is_some()
        && let Some(first) = claimed.first_mut()
    {
        first.is_probe = true;
        breaker::log_probe(conn, state, request.handler, first.claim.job.0)?;
    }
    if let Some(interval_ms) = request.min_interval_ms.filter(|_| !claimed.is_empty()) {
        let count = i64::try_from(claimed.len()).unwrap_or(i64::MAX);
        let next_ms = state.now_ms.saturating_add(interval_ms.saturating_mul(count));
        conn.prepare_cached("UPDATE handlers SET next_start_at = ?2 WHERE id = ?1")?
            .execute([request.handler.0, next_ms])?;
    }
    Ok(claimed)
}

fn claim_ready(
    conn: &Connection,
    state: &mut WriterState,
    handler: HandlerId,
    max_jobs: usize,
) -> rusqlite::Result<Vec<ClaimedJob>> {
    let (mut claimed, mut examined) = (Vec::with_capacity(max_jobs), 0);
    for _ in 0..MAX_ROUNDS {
        if examined >= MAX_EXAMINED_JOBS {
            break;
        }
        let marked = mark_running(conn, state, handler, max_jobs - claimed.len())?;
        let marked_count = marked.len();
        examined += marked_count;
        let before = claimed.len();
        for (job, version_key) in marked {
            state.adjust_queued(job.source, -1);
            let newer = match &version_key {
                Some((key, value)) => job_keys::find_newer_version(conn, handler, key, value)?,
                None => None,
            };
            match (newer, version_key) {
                (Some(newer), Some((key, _))) => {
                    cancel_stale(conn, state, &job, newer)?;
                    job_keys::release_next(conn, state, handler, &key)?;
                }
                _ => claimed.push(job),
            }
        }
        if claimed.len() - before == marked_count {
            claimed.sort_unstable_by_key(|job| job.claim.job);
            return Ok(claimed);
        }
    }
    // More jobs may be ready. Without this, fewer jobs than requested would mean that no more are
    // ready.
    state.mark_ready(handler);
    Ok(claimed)
}

/// The ordering key of a job and its value of `version_by`.
type VersionKey = Option<(KeyHash, String)>;

fn mark_running(
    conn: &Connection,
    state: &WriterState,
    handler: HandlerId,
    max_jobs: usize,
) -> rusqlite::Result<Vec<(ClaimedJob, VersionKey)>> {
    let mut update = conn.prepare_cached(
        "UPDATE jobs SET state = 2, attempt = attempt + 1, started_at = ?3, due_at = NULL,
           wait_ms = NULL, cancel_reason = NULL
         WHERE id IN (SELECT id FROM jobs INDEXED BY jobs_by_state
           WHERE state = 0 AND handler = ?1 AND state NOT IN (3, 6) ORDER BY id LIMIT ?2)
         RETURNING id, attempt, event, source, failures, age_start, item, replay, reevaluation, version,
           ordering_key",
    )?;
    let handler_time_ms = state.handler_time_ms(handler);
    let max_jobs = i64::try_from(max_jobs).unwrap_or(i64::MAX);
    let rows = update.query_map(params![handler.0, max_jobs, state.wall_ms], |row| {
        let claimed = ClaimedJob {
            claim: Claim { job: JobId(row.get(0)?), attempt: row.get(1)? },
            event: EventId(row.get(2)?),
            source: SourceId(row.get(3)?),
            handler,
            failures: row.get(4)?,
            age_ms: (handler_time_ms - row.get::<_, i64>(5)?).max(0),
            item: row.get(6)?,
            replay: row.get::<_, Option<u32>>(7)?.unwrap_or(0),
            should_reevaluate: row.get::<_, Option<i64>>(8)? == Some(1),
            is_probe: false,
        };
        let version: Option<String> = row.get(9)?;
        let version_key = match version {
            Some(value) => row.get::<_, Option<KeyHash>>(10)?.map(|key| (key, value)),
            None => None,
        };
        Ok((claimed, version_key))
    })?;
    rows.collect()
}

/// Cancels a claimed job whose version is stale.
fn cancel_stale(
    conn: &Connection,
    state: &WriterState,
    job: &ClaimedJob,
    newer: JobId,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE jobs SET state = 5, attempt = attempt - 1, started_at = NULL, ended_at = ?2,
           reason = ?3 WHERE id = ?1",
    )?
    .execute(params![job.claim.job.0, state.wall_ms, format!("older than job {newer}")])?;
    Ok(())
}
