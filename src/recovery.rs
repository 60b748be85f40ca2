//! Recovery after a crash, before the server listens: kills the processes that the earlier server left,
//! gives each running job the outcome `interrupted`, and clamps delays that a clock jump made longer.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock;
use crate::config::{Config, Retry};
use crate::domain::{AttemptResult, HandlerId, Outcome};
use crate::process::Supervisor;
use crate::scheduler::retry::{self, JobHistory};
use crate::store::Store;
use crate::store::jobs::queue::{self, InterruptedJob};
use crate::store::jobs::{AttemptRecord, finish};
use crate::store::registry::Registry;
use crate::store::rejections;
use crate::store::transaction_end::write_directly;
use crate::worker;

/// Recovers from a crash. Returns how many jobs were interrupted.
///
/// # Errors
/// The write failed, and nothing was changed.
pub fn recover_after_crash(
    store: &Store,
    config: &Config,
    registry: &Registry,
    supervisor: &Supervisor,
) -> anyhow::Result<usize> {
    let orphans = supervisor.kill_earlier_runs();
    if orphans > 0 {
        log::warn!("killed {orphans} processes that an earlier server had left");
    }
    let policies: HashMap<HandlerId, &Retry> = config
        .handlers
        .iter()
        .filter_map(|handler| Some((*registry.handlers.get(&handler.name)?, &handler.retry)))
        .collect();
    let default = Retry::default();
    let (interrupted, effects) = write_directly(store, |tx, _| {
        rejections::seal_open_counts(tx)?;
        queue::clamp_waits(tx.conn, tx.cache.now_ms)?;
        let interrupted = queue::list_running_jobs(tx.conn, tx.cache)?;
        for job in &interrupted {
            let policy = policies.get(&job.claimed.handler).copied().unwrap_or(&default);
            let record = interrupted_attempt(job, policy);
            finish::finish_single(tx, &record)?;
        }
        Ok(interrupted.len())
    })?;
    effects.dead_jobs.iter().for_each(|dead_job| log::warn!("{dead_job} count=1"));
    Ok(interrupted)
}

/// The record of an attempt that the crash interrupted. A prefetched job may not have started, so the crash does
/// not count against it, even if earlier crashes did.
fn interrupted_attempt(job: &InterruptedJob, policy: &Retry) -> AttemptRecord {
    let (crashes, counted_crashes) = match job.started_at_ms {
        Some(_) => (job.crashes.saturating_add(1), job.crashes.saturating_add(1)),
        None => (job.crashes, 0),
    };
    let detail = match job.started_at_ms {
        _ if job.is_cancelled => "cancelled",
        Some(_) => "the server ended while it ran",
        None => "the server ended before it started, or while it ran",
    };
    let result = AttemptResult::new(Outcome::Interrupted, detail);
    let ms = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    let history = JobHistory {
        failures: job.claimed.failures,
        age: ms(job.claimed.age_ms),
        crashes: counted_crashes,
    };
    let next = retry::next_step(policy, history, &result, clock::random_unit_f64);
    let now_ms = clock::wall_ms();
    worker::build_attempt_record(
        &job.claimed,
        result,
        next,
        now_ms,
        job.started_at_ms.map_or(Duration::ZERO, |started_at_ms| ms(now_ms - started_at_ms)),
        crashes,
    )
}
