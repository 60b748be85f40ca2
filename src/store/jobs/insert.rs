//! Inserts rows of `jobs` and `items`: at intake, after a replay, or when expressions were
//! evaluated again.

use rusqlite::params;

use super::super::statements::Statements;
use super::super::write_transaction::WriteTransaction;
use super::finish::record_failure;
use super::transition::{self, NewJob, Placement};
use super::{JobOrigin, keys};
use crate::domain::job_plan::{JobKeys, JobSpec};

/// Inserts the jobs. The first gets the id `cache.counters.job + 1`.
///
/// # Errors
/// The write failed, or the items cannot be read.
pub(in crate::store) fn insert_jobs(
    tx: &mut WriteTransaction<'_>,
    origin: JobOrigin,
    spec: &JobSpec,
) -> rusqlite::Result<()> {
    insert_jobs_from(tx, origin, spec, 0, || true).map(|_| ())
}

/// Inserts the jobs from index `from` on: at least one, then as long as `should_continue` returns
/// true. Returns the index of the next job.
///
/// # Errors
/// The write failed, or the items cannot be read.
pub(in crate::store) fn insert_jobs_from(
    tx: &mut WriteTransaction<'_>,
    origin: JobOrigin,
    spec: &JobSpec,
    from: usize,
    should_continue: impl Fn() -> bool,
) -> rusqlite::Result<usize> {
    match spec {
        JobSpec::Event(keys) => insert_job(tx, origin, None, keys)?,
        JobSpec::Dead(reason) => {
            insert_ended(tx, origin, Placement::Dead(reason.clone()))?;
            record_failure(tx, (origin, tx.cache.counters.job), reason)?;
        }
        JobSpec::Items(items) => {
            let mut body = Vec::new();
            let mut insert = tx.conn.prepare_cached(INSERT_ITEM)?;
            for index in from..items.count() {
                if index > from && !should_continue() {
                    return Ok(index);
                }
                let keys = items.keys(index).map_err(read_error)?;
                insert_job(tx, origin, Some(index), &keys)?;
                items.read(index, &mut body).map_err(read_error)?;
                insert.execute(params![tx.cache.counters.job, body])?;
            }
        }
    }
    Ok(spec.job_count())
}

/// Inserts one job for the event itself that has ended. A retry evaluates the handler's expressions again.
///
/// # Errors
/// The write failed.
pub(in crate::store) fn insert_ended(
    tx: &mut WriteTransaction<'_>,
    origin: JobOrigin,
    placement: Placement,
) -> rusqlite::Result<()> {
    let (id, keys) = (tx.cache.counters.job + 1, JobKeys::default());
    let job = new_job(id, origin, None, &keys, (placement, None));
    transition::create(tx, &NewJob { should_reevaluate: true, ..job })?;
    tx.cache.counters.job = id;
    Ok(())
}

const INSERT_ITEM: &str = "INSERT INTO items (job, body) VALUES (?1, ?2)";

fn read_error(error: std::io::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

fn insert_job(
    tx: &mut WriteTransaction<'_>,
    origin: JobOrigin,
    item: Option<usize>,
    keys: &JobKeys,
) -> rusqlite::Result<()> {
    let id = tx.cache.counters.job + 1;
    let placed = place_job(tx, origin, id, keys)?;
    transition::create(tx, &new_job(id, origin, item, keys, placed))?;
    tx.cache.counters.job = id;
    Ok(())
}

/// `item` is the index of the item, from 0.
fn new_job<'k>(
    id: i64,
    origin: JobOrigin,
    item: Option<usize>,
    keys: &'k JobKeys,
    (placement, burst_started_at_ms): PlacedJob,
) -> NewJob<'k> {
    let debounce = keys.debounce.filter(|_| !origin.bypasses_keys());
    let version = keys.version.as_ref().filter(|_| keys.ordering.is_some());
    NewJob {
        id,
        origin,
        item: item.and_then(|item| i64::try_from(item + 1).ok()),
        ordering_key: keys.ordering.as_ref(),
        version: version.map(keys::encode_version),
        debounce_key: debounce.map(|debounce| debounce.key),
        burst_started_at_ms,
        should_reevaluate: placement.is_failure(),
        placement,
    }
}

/// Inserts the job with this id, for the item at the index `item`. Views do not show it yet. `body` holds
/// its item afterwards.
pub(in crate::store) fn insert_unreleased(
    tx: &mut WriteTransaction<'_>,
    origin: JobOrigin,
    (id, item): (i64, usize),
    spec: &JobSpec,
    body: &mut Vec<u8>,
) -> rusqlite::Result<()> {
    body.clear();
    let (keys, failure) = match spec {
        JobSpec::Event(keys) => (keys.clone(), None),
        JobSpec::Dead(reason) => (JobKeys::default(), Some(reason.clone())),
        JobSpec::Items(items) => {
            items.read(item, body).map_err(read_error)?;
            tx.conn.change(INSERT_ITEM, params![id, &*body])?;
            (items.keys(item).map_err(read_error)?, None)
        }
    };
    let item = matches!(spec, JobSpec::Items(_)).then_some(item);
    // An unreleased job has no effects: it counts when all jobs of the event are visible.
    transition::create(
        tx,
        &new_job(id, origin, item, &keys, (Placement::Unreleased(failure), None)),
    )?;
    let debounce = keys.debounce.filter(|_| !origin.bypasses_keys());
    let unique = keys.unique.filter(|_| !origin.bypasses_keys());
    if unique.is_some() || debounce.is_some_and(|debounce| debounce.debounce_ms > 0) {
        let (unique_key, window_ms) = unique.map(|unique| (unique.key, unique.window_ms)).unzip();
        tx.conn.change(
            "INSERT INTO expansion_keys (job, unique_key, unique_window_ms, debounce_ms)
             VALUES (?1, ?2, ?3, ?4)",
            params![id, unique_key, window_ms, debounce.map(|debounce| debounce.debounce_ms)],
        )?;
    }
    Ok(())
}

/// Gives an unreleased job the state that it would have if it was inserted now.
pub(in crate::store) fn admit_job(
    tx: &mut WriteTransaction<'_>,
    origin: JobOrigin,
    id: i64,
    (keys, failure): (&JobKeys, Option<&str>),
) -> rusqlite::Result<()> {
    let placed = match failure {
        Some(reason) => (Placement::Dead(reason.to_owned()), None),
        None => place_job(tx, origin, id, keys)?,
    };
    transition::admit(tx, &new_job(id, origin, None, keys, placed))?;
    match failure {
        Some(reason) => record_failure(tx, (origin, id), reason),
        None => Ok(()),
    }
}

/// The placement of a job, and when its burst of `debounce` began.
type PlacedJob = (Placement, Option<i64>);

/// Decides the state of a new job by its keys and by earlier jobs. Cancels the jobs that it supersedes.
fn place_job(
    tx: &mut WriteTransaction<'_>,
    origin: JobOrigin,
    id: i64,
    keys: &JobKeys,
) -> rusqlite::Result<PlacedJob> {
    let (conn, now_ms, handler) = (tx.conn, tx.cache.now_ms, origin.handler);
    let (mut placement, mut burst_started_at_ms) = (Placement::Ready, None);
    if !origin.bypasses_keys()
        && let Some(unique) = keys.unique
        && let Some(first) = keys::claim_unique_key(conn, now_ms, handler, unique, id)?
    {
        return Ok((Placement::Cancelled(format!("same as job {first}")), None));
    }
    if !origin.bypasses_keys()
        && let Some(debounce) = keys.debounce
    {
        // A job of another source may have overtaken a job that is only now released.
        if id <= tx.cache.counters.job
            && let Some(newer) = keys::find_newer_debounced(conn, handler, debounce, id)?
        {
            return Ok((Placement::Cancelled(format!("superseded by job {newer}")), None));
        }
        let started_at_ms = transition::supersede(tx, handler, debounce, id)?;
        if debounce.debounce_ms > 0 {
            // The job starts at the latest ten times `debounce` after the burst began.
            let latest_ms = started_at_ms.saturating_add(debounce.debounce_ms.saturating_mul(10));
            let due_at_ms = now_ms.saturating_add(debounce.debounce_ms).min(latest_ms);
            let wait_ms = (due_at_ms - now_ms).max(0);
            burst_started_at_ms = Some(started_at_ms);
            if wait_ms > 0 {
                placement = Placement::Scheduled { due_at_ms, wait_ms };
            }
        }
    }
    if placement == Placement::Ready
        && let Some(key) = &keys.ordering
        && transition::has_unfinished(conn, handler, key)?
    {
        placement = Placement::Blocked;
    }
    Ok((placement, burst_started_at_ms))
}
