//! Jobs whose expressions failed at intake, and that `retry` evaluates again. Such a job runs, is
//! replaced by other jobs, or is not wanted. None of this is an attempt.

use rusqlite::Connection;

use super::super::breaker;
use super::super::effects::Effects;
use super::super::writer_cache::WriterCache;
use super::transition::{self, Reevaluated};
use super::{AttemptRecord, ClaimedJob, JobOrigin, OriginKind, insert, keys, load_current_claim};
use crate::domain::job_plan::JobSpec;
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
    pub(in crate::store) fn write_failed_record(&self, wall_ms: i64) -> AttemptRecord {
        let detail = "split: its jobs could not be written: see the server's log";
        AttemptRecord {
            outcome: Outcome::Failed,
            next: NextStep::Dead(detail.to_owned()),
            is_permanent: true,
            ..AttemptRecord::not_started(&self.claimed, detail, wall_ms)
        }
    }

    /// Returns the record of a job whose replacement jobs are not all inserted when the server
    /// stops. The job is evaluated again.
    pub(in crate::store) fn interrupted_record(&self, wall_ms: i64) -> AttemptRecord {
        AttemptRecord::not_started(&self.claimed, "the server was stopped", wall_ms)
    }

    /// Returns the properties of the jobs that replace the job.
    pub(in crate::store) fn job_origin(&self) -> JobOrigin {
        JobOrigin {
            event: self.claimed.event.0,
            source: self.claimed.source,
            handler: self.claimed.handler,
            created_at_ms: self.received_at_ms,
            kind: OriginKind::Retry { replay: i64::from(self.claimed.replay) },
        }
    }
}

/// Applies the result, if the claim is current.
///
/// # Errors
/// The write failed.
pub fn apply_reevaluation(
    conn: &Connection,
    cache: &mut WriterCache,
    reevaluation: &Reevaluation,
) -> rusqlite::Result<Effects> {
    let first = cache.counters.job + 1;
    let (is_current, mut effects) = check_claim(conn, cache, reevaluation)?;
    if !is_current {
        return Ok(effects);
    }
    let job = &reevaluation.claimed;
    let changes = match &reevaluation.spec {
        None => {
            let reason = "not wanted by when";
            transition::reevaluate(conn, cache, job, Reevaluated::NotWanted { reason })?
        }
        Some(JobSpec::Event(keys)) => {
            let version = keys.version.as_ref().filter(|_| keys.ordering.is_some());
            let version = version.map(keys::encode_version);
            let (ordering_key, version) = (keys.ordering.as_ref(), version.as_deref());
            let result = Reevaluated::Wanted { ordering_key, version };
            transition::reevaluate(conn, cache, job, result)?
        }
        Some(spec) => {
            effects.merge(insert::insert_jobs(conn, cache, reevaluation.job_origin(), spec)?);
            let last = cache.counters.job;
            let replacement = match last + 1 - first {
                0 => "no jobs: split gave nothing".to_owned(),
                1 => format!("job {first}"),
                _ => format!("jobs {first}–{last}"),
            };
            close_replaced(conn, cache, job, &replacement)?
        }
    };
    effects.merge(changes);
    Ok(effects)
}

/// Closes a job whose replacement jobs were inserted by earlier transactions. Returns false if they
/// are not wanted, because the job has ended or was cancelled.
pub(in crate::store) fn close_replaced_job(
    conn: &Connection,
    cache: &WriterCache,
    reevaluation: &Reevaluation,
    replacement: &str,
) -> rusqlite::Result<(bool, Effects)> {
    let (is_current, mut effects) = check_claim(conn, cache, reevaluation)?;
    if is_current {
        effects.merge(close_replaced(conn, cache, &reevaluation.claimed, replacement)?);
    }
    Ok((is_current, effects))
}

fn close_replaced(
    conn: &Connection,
    cache: &WriterCache,
    job: &ClaimedJob,
    replacement: &str,
) -> rusqlite::Result<Effects> {
    let reason = &format!("expanded into {replacement}");
    transition::reevaluate(conn, cache, job, Reevaluated::Replaced { reason })
}

/// Returns whether the claim is current, and not cancelled by a person. Closes the job if it is cancelled.
fn check_claim(
    conn: &Connection,
    cache: &WriterCache,
    reevaluation: &Reevaluation,
) -> rusqlite::Result<(bool, Effects)> {
    let job = &reevaluation.claimed;
    let mut effects = Effects::default();
    breaker::end_probe(cache, job.handler, job.is_probe, &mut effects);
    let Some(current) = load_current_claim(conn, job.claim)? else { return Ok((false, effects)) };
    let Some(reason) = current.cancel_reason else { return Ok((true, effects)) };
    let result = Reevaluated::NotWanted { reason: &reason };
    effects.merge(transition::reevaluate(conn, cache, job, result)?);
    Ok((false, effects))
}
