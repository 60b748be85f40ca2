//! Recovery after a crash, before the server listens: kills the processes that the earlier server left,
//! gives each running job the outcome `interrupted`, and clamps delays that a clock jump made longer.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock;
use crate::config::{Config, Retry};
use crate::domain::{AttemptResult, HandlerId, Outcome};
use crate::process;
use crate::scheduler::retry::{self, JobHistory};
use crate::store::effects::Effects;
use crate::store::jobs::queue::{self, InterruptedJob};
use crate::store::jobs::{AttemptRecord, finish};
use crate::store::registry::Registry;
use crate::store::transaction_end::write_last;
use crate::store::writer_cache::WriterCache;
use crate::store::{self, Store};
use crate::worker;

/// Recovers from a crash. Returns how many jobs were interrupted.
///
/// # Errors
/// The write failed, and nothing was changed.
pub fn recover_after_crash(
    store: &Store,
    config: &Config,
    registry: &Registry,
) -> anyhow::Result<usize> {
    let orphans = process::kill_run(&format!("{}.", store.database_id));
    if orphans > 0 {
        log::warn!("killed {orphans} processes that an earlier server had left");
    }
    let policies: HashMap<HandlerId, &Retry> = config
        .handlers
        .iter()
        .filter_map(|handler| Some((*registry.handlers.get(&handler.name)?, &handler.retry)))
        .collect();
    let default = Retry::default();
    let (interrupted, effects) = store::in_transaction(&store.conn, |conn| {
        let mut cache = WriterCache::read(conn, store.clock)?;
        let (before, mut effects) = (cache.counters, Effects::default());
        queue::clamp_waits(conn, cache.now_ms)?;
        let interrupted = queue::list_running_jobs(conn, &cache)?;
        for job in &interrupted {
            let policy = policies.get(&job.claimed.handler).copied().unwrap_or(&default);
            let record = interrupted_attempt(job, policy);
            effects.merge(finish::finish(conn, &mut cache, &record)?.1);
        }
        write_last(conn, &mut cache, before, &mut effects)?;
        Ok((interrupted.len(), effects))
    })?;
    effects.dead_jobs.iter().for_each(|dead_job| log::warn!("{dead_job} count=1"));
    Ok(interrupted)
}

/// The record of an attempt that the crash interrupted.
fn interrupted_attempt(job: &InterruptedJob, policy: &Retry) -> AttemptRecord {
    let crashes = job.crashes.saturating_add(1);
    let detail = if job.is_cancelled { "cancelled" } else { "the server ended while it ran" };
    let result = AttemptResult::new(Outcome::Interrupted, detail);
    let ms = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    let history =
        JobHistory { failures: job.claimed.failures, age: ms(job.claimed.age_ms), crashes };
    let next = retry::next_step(policy, history, &result, clock::random_unit_f64);
    let now_ms = clock::wall_ms();
    worker::build_attempt_record(
        &job.claimed,
        result,
        next,
        now_ms,
        ms(now_ms - job.started_at_ms),
        crashes,
    )
}
