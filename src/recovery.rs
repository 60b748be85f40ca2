//! What a sudden end left behind, settled before the server listens: processes are ended, running
//! jobs get their outcome `interrupted`, waits are no longer than they were set for.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock;
use crate::config::{Config, Retry};
use crate::domain::{AttemptResult, HandlerId, Outcome};
use crate::process;
use crate::scheduler::retry::{self, JobHistory};
use crate::store::jobs::{AttemptRecord, OrphanedJob};
use crate::store::registry::Registry;
use crate::store::writer_state::WriterState;
use crate::store::{self, Store, jobs};
use crate::worker;

/// Settles it; says how many jobs were interrupted.
///
/// # Errors
/// The write failed: nothing was changed.
pub fn recover_after_crash(
    store: &Store,
    config: &Config,
    registry: &Registry,
) -> anyhow::Result<usize> {
    let strays = process::kill_run(&format!("{}.", store.database_id));
    if strays > 0 {
        log::warn!("ended {strays} processes that an earlier server had left");
    }
    let policies: HashMap<HandlerId, &Retry> = config
        .handlers
        .iter()
        .filter_map(|handler| Some((*registry.handlers.get(&handler.name)?, &handler.retry)))
        .collect();
    let default = Retry::default();
    store::in_transaction(&store.conn, |conn| {
        let mut state = WriterState::read(conn, store.clock)?;
        jobs::clamp_waits(conn, state.now_ms)?;
        let left = jobs::orphaned_jobs(conn, &state)?;
        for one in &left {
            let policy = policies.get(&one.claimed.handler).copied().unwrap_or(&default);
            jobs::finish(conn, &mut state, &interrupted(one, policy))?;
        }
        state.write_counters(conn)?;
        Ok(left.len())
    })
}

fn interrupted(left: &OrphanedJob, policy: &Retry) -> AttemptRecord {
    let crashes = left.crashes.saturating_add(1);
    let detail = if left.cancelled { "cancelled" } else { "the server ended while it ran" };
    let ended = AttemptResult::new(Outcome::Interrupted, detail);
    let ms = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    let record =
        JobHistory { failures: left.claimed.failures, age: ms(left.claimed.age_ms), crashes };
    let next = retry::next_step(policy, record, &ended, clock::random_unit_f64);
    let now_ms = clock::wall_ms();
    worker::build_attempt_record(
        &left.claimed,
        ended,
        next,
        now_ms,
        ms(now_ms - left.started_at_ms),
        crashes,
    )
}
