//! What is wrong with a server's database, its queues and its disk, for `status` and the console.

use std::collections::HashMap;

use crate::clock::{self, MonotonicClock};
use crate::config::{Config, StoreConfig, duration_text};
use crate::numbers;
use crate::store::backup_schedule::BackupSchedule;
use crate::store::checkpoint::WAL_BYTES_WARNED;
use crate::store::stats::DatabaseSummary;
use crate::store::{self, Connection, erasure};

/// Returns a line for each problem that the database shows.
///
/// # Errors
/// The read failed.
pub fn find_in_database(
    conn: &Connection,
    clock: MonotonicClock,
    config: &Config,
    summary: &DatabaseSummary,
) -> store::Result<Vec<String>> {
    let mut problems = Vec::new();
    for (handler, until_ms) in &summary.open_breakers {
        let until = clock::format_local(*until_ms);
        problems.push(format!("handler {handler}: the circuit breaker is open until {until}"));
    }
    if erasure::has_unfinished_erasure(conn)? {
        problems.push(
            "an `erase` did not end: what it erased may be left in the files: run it again"
                .to_owned(),
        );
    }
    problems.extend(overdue_backup_problem(conn, clock)?);
    problems.extend(orphaned_queue_warnings(&summary.queued_by_handler, config));
    Ok(problems)
}

/// Returns a line for each problem of the disk.
pub fn find_on_disk(config: &StoreConfig) -> Vec<String> {
    let wal_bytes = store::wal_bytes(&config.path);
    let wal = (wal_bytes >= WAL_BYTES_WARNED).then(|| {
        format!(
            "the write-ahead log has {}: a program keeps the database open in one long read",
            numbers::format_megabytes(wal_bytes)
        )
    });
    wal.into_iter().chain(low_space_problem(config)).collect()
}

/// Returns the free space of the disk, in bytes.
pub fn free_bytes(config: &StoreConfig) -> Option<u64> {
    store::free_bytes(config.path.parent().unwrap_or(&config.path)).ok()
}

/// Returns the problem if the disk has less free space than `store.min_free_space`.
pub fn low_space_problem(config: &StoreConfig) -> Option<String> {
    let free = free_bytes(config).filter(|free| *free < config.min_free_bytes)?;
    Some(format!(
        "{} free on the disk, less than store.min_free_space ({}): senders get 503",
        numbers::format_megabytes(free),
        numbers::format_megabytes(config.min_free_bytes)
    ))
}

/// Returns the problem if the newest backup is older than it should be.
fn overdue_backup_problem(
    conn: &Connection,
    clock: MonotonicClock,
) -> store::Result<Option<String>> {
    let schedule = BackupSchedule::load(conn)?;
    let overdue = schedule.filter(|schedule| schedule.is_overdue(clock.now_ms()));
    Ok(overdue.map(|schedule| schedule.describe(clock, crate::clock::format_local, duration_text)))
}

/// Returns a warning for each handler that has queued jobs and is not in config.toml.
pub fn orphaned_queue_warnings(queued: &HashMap<String, i64>, config: &Config) -> Vec<String> {
    let is_removed = |name: &str| config.handlers.iter().all(|handler| handler.name != name);
    let warning = |(name, jobs): (&String, &i64)| {
        let noun = if *jobs == 1 { "job" } else { "jobs" };
        format!(
            "handler {name} has {jobs} queued {noun} and is not in config.toml: add it again, or run \
             `hooktrail cancel --handler {name}`"
        )
    };
    let mut lines: Vec<String> =
        queued.iter().filter(|entry| is_removed(entry.0)).map(warning).collect();
    lines.sort();
    lines
}
