//! Claims the oldest ready jobs of a handler: they become running, each with the number of its
//! attempt.
//!
//! `version_by` is decided here, when a job is about to start. A job with a stale version is
//! cancelled instead of claimed.

use super::super::breaker;
use super::super::statements::Statements;
use super::super::write_transaction::WriteTransaction;
use super::{ClaimedJob, keys, transition};
use crate::domain::claim_request::ClaimRequest;

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
    tx: &mut WriteTransaction<'_>,
    request: &ClaimRequest,
) -> rusqlite::Result<Vec<ClaimedJob>> {
    let open_until_ms = tx.cache.breaker(request.handler).open_until_ms;
    let is_breaker_open =
        open_until_ms.is_some_and(|until_ms| !request.is_probe || tx.cache.now_ms < until_ms);
    if tx.cache.is_paused(request.handler) || is_breaker_open {
        return Ok(Vec::new());
    }
    let mut claimed = claim_ready(tx, request)?;
    if open_until_ms.is_some()
        && let Some(first) = claimed.first_mut()
    {
        first.is_probe = true;
        breaker::log_probe(tx, request.handler, first.claim.job)?;
    }
    if let Some(interval_ms) = request.min_interval_ms.filter(|_| !claimed.is_empty()) {
        let count = i64::try_from(claimed.len()).unwrap_or(i64::MAX);
        let next_ms = tx.cache.now_ms.saturating_add(interval_ms.saturating_mul(count));
        let sql = "UPDATE handlers SET next_start_at = ?2 WHERE id = ?1";
        tx.conn.change(sql, (request.handler, next_ms))?;
    }
    Ok(claimed)
}

fn claim_ready(
    tx: &mut WriteTransaction<'_>,
    request: &ClaimRequest,
) -> rusqlite::Result<Vec<ClaimedJob>> {
    let ClaimRequest { handler, max_jobs, is_prefetch, .. } = *request;
    let (mut claimed, mut examined) = (Vec::with_capacity(max_jobs), 0);
    for _ in 0..MAX_ROUNDS {
        if examined >= MAX_EXAMINED_JOBS {
            break;
        }
        let running = transition::claim(tx, handler, max_jobs - claimed.len(), is_prefetch)?;
        let running_count = running.len();
        examined += running_count;
        let before = claimed.len();
        for (job, version) in running {
            if let Some(version) = version
                && let Some(newer) = keys::find_newer_version(tx.conn, handler, &version)?
            {
                transition::outdate(tx, &job, &version.key, newer)?;
            } else {
                claimed.push(job);
            }
        }
        if claimed.len() - before == running_count {
            claimed.sort_unstable_by_key(|job| job.claim.job);
            return Ok(claimed);
        }
    }
    // More jobs may be ready. Without this, fewer jobs than requested would mean that no more are
    // ready.
    tx.effects.add_ready(handler);
    Ok(claimed)
}
