//! Jobs whose expressions failed at intake, and that `retry` evaluates again. Such a job runs, is
//! replaced by other jobs, or is not wanted. None of this is an attempt.

use super::super::breaker;
use super::super::write_transaction::WriteTransaction;
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
    tx: &mut WriteTransaction<'_>,
    reevaluation: &Reevaluation,
) -> rusqlite::Result<()> {
    let first = tx.cache.counters.job + 1;
    if !check_claim(tx, reevaluation)? {
        return Ok(());
    }
    let job = &reevaluation.claimed;
    match &reevaluation.spec {
        None => {
            let reason = "not wanted by when";
            transition::reevaluate(tx, job, Reevaluated::NotWanted { reason })
        }
        Some(JobSpec::Event(keys)) => {
            let version = keys.version.as_ref().filter(|_| keys.ordering.is_some());
            let version = version.map(keys::encode_version);
            let (ordering_key, version) = (keys.ordering.as_ref(), version.as_deref());
            transition::reevaluate(tx, job, Reevaluated::Wanted { ordering_key, version })
        }
        Some(spec) => {
            insert::insert_jobs(tx, reevaluation.job_origin(), spec)?;
            let last = tx.cache.counters.job;
            let replacement = match last + 1 - first {
                0 => "no jobs: split gave nothing".to_owned(),
                1 => format!("job {first}"),
                _ => format!("jobs {first}–{last}"),
            };
            close_replaced(tx, job, &replacement)
        }
    }
}

/// Closes a job whose replacement jobs were inserted by earlier transactions. Returns false if they
/// are not wanted, because the job has ended or was cancelled.
pub(in crate::store) fn close_replaced_job(
    tx: &mut WriteTransaction<'_>,
    reevaluation: &Reevaluation,
    replacement: &str,
) -> rusqlite::Result<bool> {
    let is_current = check_claim(tx, reevaluation)?;
    if is_current {
        close_replaced(tx, &reevaluation.claimed, replacement)?;
    }
    Ok(is_current)
}

fn close_replaced(
    tx: &mut WriteTransaction<'_>,
    job: &ClaimedJob,
    replacement: &str,
) -> rusqlite::Result<()> {
    let reason = &format!("expanded into {replacement}");
    transition::reevaluate(tx, job, Reevaluated::Replaced { reason })
}

/// Returns whether the claim is current, and not cancelled by a person. Closes the job if it is cancelled.
fn check_claim(
    tx: &mut WriteTransaction<'_>,
    reevaluation: &Reevaluation,
) -> rusqlite::Result<bool> {
    let job = &reevaluation.claimed;
    breaker::end_probe(tx.cache, job.handler, job.is_probe, tx.effects);
    let Some(current) = load_current_claim(tx.conn, job.claim)? else { return Ok(false) };
    let Some(reason) = current.cancel_reason else { return Ok(true) };
    transition::reevaluate(tx, job, Reevaluated::NotWanted { reason: &reason })?;
    Ok(false)
}
