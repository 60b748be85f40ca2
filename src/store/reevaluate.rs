//! Jobs whose expressions failed at intake, and were evaluated anew when a person said `retry`: such a
//! job runs, makes other jobs, or is not wanted. None of that is an attempt.

use rusqlite::{Connection, params};

use super::breaker::{self, BreakerPolicy};
use super::insert::{self, JobOrigin, Origin};
use super::job_keys;
use super::jobs::{self, AttemptRecord, ClaimedJob, JobDisposition, Next};
use super::writer_state::WriterState;
use crate::domain::Outcome;
use crate::domain::job_plan::{JobKeys, JobSpec};

/// What the expressions gave, for a claimed job.
#[derive(Debug)]
pub struct Reevaluation {
    pub claimed: ClaimedJob,
    /// Wall clock: when the event came.
    pub received_at_ms: i64,
    /// `None`: `when` does not want it.
    pub owed: Option<JobSpec>,
}

impl Reevaluation {
    /// Whether its jobs are too many for one transaction that others wait for.
    pub fn is_large(&self) -> bool {
        self.owed.as_ref().is_some_and(JobSpec::is_large)
    }

    /// The job's end where the jobs that were made of it could not be written.
    pub(super) fn write_failed_record(&self, wall_ms: i64) -> AttemptRecord {
        let detail = "split: its jobs could not be written, see the log".to_owned();
        self.finish(wall_ms, Outcome::Failed, detail.clone(), Next::Dead { reason: detail })
    }

    /// The job's end where the server stops before the jobs that are made of it are there: it is
    /// evaluated again.
    pub(super) fn interrupted(&self, wall_ms: i64) -> AttemptRecord {
        let detail = "the server was stopped".to_owned();
        let next = Next::Again { wait_ms: 0, failures: self.claimed.failures };
        self.finish(wall_ms, Outcome::Interrupted, detail, next)
    }

    fn finish(&self, wall_ms: i64, outcome: Outcome, detail: String, next: Next) -> AttemptRecord {
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
            on_trial: self.claimed.on_trial,
            breaker: BreakerPolicy::NEVER,
            crashes: 0,
        }
    }
}

/// Writes it, if the claim is current.
///
/// # Errors
/// The write failed.
pub fn apply_reevaluation(
    conn: &Connection,
    state: &mut WriterState,
    it: &Reevaluation,
) -> rusqlite::Result<JobDisposition> {
    breaker::probe_inconclusive(state, it.claimed.handler, it.claimed.on_trial);
    let Some(current) = jobs::load_current_claim(conn, it.claimed.claim)? else {
        return Ok(JobDisposition::Stale);
    };
    if let Some(why) = current.cancel {
        return close_job(conn, state, it, &why, Some(1));
    }
    match &it.owed {
        None => close_job(conn, state, it, "not wanted by when", Some(1)),
        Some(JobSpec::Event(keys)) => requeue(conn, state, it, keys),
        Some(owed) => {
            let first = state.counters.job + 1;
            let of = JobOrigin {
                event: it.claimed.event.0,
                source: it.claimed.source,
                handler: it.claimed.handler,
                created_at_ms: it.received_at_ms,
                origin: Origin::Replay(i64::from(it.claimed.replay)),
            };
            insert::insert_jobs(conn, state, of, owed)?;
            let last = state.counters.job;
            let into = match last + 1 - first {
                0 => "no jobs: split gave nothing".to_owned(),
                1 => format!("job {first}"),
                _ => format!("jobs {first}–{last}"),
            };
            close_job(conn, state, it, &format!("expanded into {into}"), Some(2))
        }
    }
}

/// Ends a job whose jobs were inserted in transactions before this one; `false`: it has ended by
/// itself, or was cancelled, and they are not wanted.
pub(super) fn replace(
    conn: &Connection,
    state: &mut WriterState,
    it: &Reevaluation,
    into: &str,
) -> rusqlite::Result<bool> {
    breaker::probe_inconclusive(state, it.claimed.handler, it.claimed.on_trial);
    let Some(current) = jobs::load_current_claim(conn, it.claimed.claim)? else { return Ok(false) };
    if let Some(why) = current.cancel {
        close_job(conn, state, it, &why, Some(1))?;
        return Ok(false);
    }
    close_job(conn, state, it, &format!("expanded into {into}"), Some(2))?;
    Ok(true)
}

fn close_job(
    conn: &Connection,
    state: &WriterState,
    it: &Reevaluation,
    reason: &str,
    expand: Option<i64>,
) -> rusqlite::Result<JobDisposition> {
    conn.prepare_cached(
        "UPDATE jobs SET state = 5, attempt = attempt - 1, started_at = NULL, cancel = NULL,
           ended_at = ?2, reason = ?3, expand = ?4 WHERE id = ?1",
    )?
    .execute(params![it.claimed.claim.job.0, state.wall_ms, reason, expand])?;
    Ok(JobDisposition::Settled)
}

/// It runs as it is, with the keys that it has now.
fn requeue(
    conn: &Connection,
    state: &mut WriterState,
    it: &Reevaluation,
    keys: &JobKeys,
) -> rusqlite::Result<JobDisposition> {
    let newest =
        keys.newest.as_ref().filter(|_| keys.order.is_some()).map(job_keys::encode_version);
    conn.prepare_cached(
        "UPDATE jobs SET state = ?2, attempt = attempt - 1, started_at = NULL, expand = NULL,
           ordering_key = ?3, newest = ?4 WHERE id = ?1",
    )?
    .execute(params![
        it.claimed.claim.job.0,
        if keys.order.is_some() { -1 } else { 0 },
        keys.order,
        newest
    ])?;
    state.adjust_queued(it.claimed.source, 1);
    match &keys.order {
        Some(key) => job_keys::release_next(conn, state, it.claimed.handler, key)?,
        None => state.mark_ready(it.claimed.handler),
    }
    Ok(JobDisposition::Settled)
}
