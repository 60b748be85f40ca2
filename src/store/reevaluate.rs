//! Jobs whose expressions failed at intake, and that `retry` evaluates again. Such a job runs, is
//! replaced by other jobs, or is not wanted. None of this is an attempt.

use std::time::Duration;

use rusqlite::{Connection, params};

use super::breaker::{self, BreakerPolicy};
use super::insert::{self, JobOrigin, OriginKind};
use super::job_keys;
use super::jobs::{self, AttemptRecord, ClaimedJob, FinishResult};
use super::writer_state::WriterState;
use crate::domain::job_plan::{JobKeys, JobSpec};
use crate::domain::{NextStep, Outcome};

/// The result of the expressions for a claimed job.
#[derive(Debug)]
pub struct Reevaluation {
    pub claimed: ClaimedJob,
    /// Wall clock: when the event was received.
    pub received_at_ms: i64,
    /// The jobs to create; `None` if `when` does not want the event.
    pub spec: Option<JobSpec>,
}

impl Reevaluation {
    /// Returns true if the jobs need several transactions, so that other writers do not have to
    /// wait.
    pub fn is_large(&self) -> bool {
        self.spec.as_ref().is_some_and(JobSpec::is_large)
    }

    /// Returns the record of a job whose replacement jobs could not be written: the job fails.
    pub(super) fn write_failed_record(&self, wall_ms: i64) -> AttemptRecord {
        let detail = "split: its jobs could not be written: see the server's log".to_owned();
        self.record(wall_ms, Outcome::Failed, detail.clone(), NextStep::Dead(detail))
    }

    /// Returns the record of a job whose replacement jobs are not all inserted when the server
    /// stops. The job is evaluated again.
    pub(super) fn interrupted_record(&self, wall_ms: i64) -> AttemptRecord {
        let detail = "the server was stopped".to_owned();
        let next = NextStep::Retry { delay: Duration::ZERO, failures: self.claimed.failures };
        self.record(wall_ms, Outcome::Interrupted, detail, next)
    }

    fn record(
        &self,
        wall_ms: i64,
        outcome: Outcome,
        detail: String,
        next: NextStep,
    ) -> AttemptRecord {
        AttemptRecord {
            claim: self.claimed.claim,
            handler: self.claimed.handler,
            source: self.claimed.source,
            outcome,
            detail,
            ended_at_ms: wall_ms,
            duration_ms: 0,
            stdout: Vec::new(),
            stderr: Vec::new(),
            next,
            is_permanent: true,
            is_probe: self.claimed.is_probe,
            breaker: BreakerPolicy::NEVER,
            crashes: 0,
        }
    }
}

/// Applies the result, if the claim is current.
///
/// # Errors
/// The write failed.
pub fn apply_reevaluation(
    conn: &Connection,
    state: &mut WriterState,
    reevaluation: &Reevaluation,
) -> rusqlite::Result<FinishResult> {
    breaker::probe_inconclusive(state, reevaluation.claimed.handler, reevaluation.claimed.is_probe);
    let Some(current) = jobs::load_current_claim(conn, reevaluation.claimed.claim)? else {
        return Ok(FinishResult::Stale);
    };
    if let Some(reason) = current.cancel_reason {
        return close_job(conn, state, reevaluation, &reason, Some(1));
    }
    match &reevaluation.spec {
        None => close_job(conn, state, reevaluation, "not wanted by when", Some(1)),
        Some(JobSpec::Event(keys)) => requeue(conn, state, reevaluation, keys),
        Some(spec) => {
            let first = state.counters.job + 1;
            let origin = JobOrigin {
                event: reevaluation.claimed.event.0,
                source: reevaluation.claimed.source,
                handler: reevaluation.claimed.handler,
                created_at_ms: reevaluation.received_at_ms,
                kind: OriginKind::Retry { replay: i64::from(reevaluation.claimed.replay) },
            };
            insert::insert_jobs(conn, state, origin, spec)?;
            let last = state.counters.job;
            let replacement = match last + 1 - first {
                0 => "no jobs: split gave nothing".to_owned(),
                1 => format!("job {first}"),
                _ => format!("jobs {first}–{last}"),
            };
            close_job(conn, state, reevaluation, &format!("expanded into {replacement}"), Some(2))
        }
    }
}

/// Closes a job whose replacement jobs were inserted by earlier transactions. Returns false if they
/// are not wanted, because the job has ended or was cancelled.
pub(super) fn close_replaced_job(
    conn: &Connection,
    state: &mut WriterState,
    reevaluation: &Reevaluation,
    replacement: &str,
) -> rusqlite::Result<bool> {
    breaker::probe_inconclusive(state, reevaluation.claimed.handler, reevaluation.claimed.is_probe);
    let Some(current) = jobs::load_current_claim(conn, reevaluation.claimed.claim)? else {
        return Ok(false);
    };
    if let Some(reason) = current.cancel_reason {
        close_job(conn, state, reevaluation, &reason, Some(1))?;
        return Ok(false);
    }
    close_job(conn, state, reevaluation, &format!("expanded into {replacement}"), Some(2))?;
    Ok(true)
}

fn close_job(
    conn: &Connection,
    state: &WriterState,
    reevaluation: &Reevaluation,
    reason: &str,
    code: Option<i64>,
) -> rusqlite::Result<FinishResult> {
    conn.prepare_cached(
        "UPDATE jobs SET state = 5, attempt = attempt - 1, started_at = NULL, cancel_reason = NULL,
           ended_at = ?2, reason = ?3, reevaluation = ?4 WHERE id = ?1",
    )?
    .execute(params![reevaluation.claimed.claim.job.0, state.wall_ms, reason, code])?;
    Ok(FinishResult::Settled)
}

/// Requeues the job with its new keys.
fn requeue(
    conn: &Connection,
    state: &mut WriterState,
    reevaluation: &Reevaluation,
    keys: &JobKeys,
) -> rusqlite::Result<FinishResult> {
    let version =
        keys.version.as_ref().filter(|_| keys.ordering.is_some()).map(job_keys::encode_version);
    conn.prepare_cached(
        "UPDATE jobs SET state = ?2, attempt = attempt - 1, started_at = NULL, reevaluation = NULL,
           ordering_key = ?3, version = ?4 WHERE id = ?1",
    )?
    .execute(params![
        reevaluation.claimed.claim.job.0,
        if keys.ordering.is_some() { -1 } else { 0 },
        keys.ordering,
        version
    ])?;
    state.adjust_queued(reevaluation.claimed.source, 1);
    match &keys.ordering {
        Some(key) => job_keys::release_next(conn, state, reevaluation.claimed.handler, key)?,
        None => state.mark_ready(reevaluation.claimed.handler),
    }
    Ok(FinishResult::Settled)
}
