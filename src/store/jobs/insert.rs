//! Inserts rows of `jobs` and `items`: at intake, after a replay, or when expressions were
//! evaluated again.

use rusqlite::{Connection, params};

use super::super::effects::Effects;
use super::super::writer_cache::WriterCache;
use super::finish::record_failure;
use super::transition::{self, NewJob, Placement};
use super::{JobOrigin, keys};
use crate::domain::job_plan::{JobKeys, JobSpec};

/// Inserts the jobs. The first gets the id `cache.counters.job + 1`.
///
/// # Errors
/// The write failed, or the items cannot be read.
pub(in crate::store) fn insert_jobs(
    conn: &Connection,
    cache: &mut WriterCache,
    origin: JobOrigin,
    spec: &JobSpec,
) -> rusqlite::Result<Effects> {
    insert_jobs_from(conn, cache, origin, spec, 0, || true).map(|(_, effects)| effects)
}

/// Inserts the jobs from index `from` on: at least one, then as long as `should_continue` returns
/// true. Returns the index of the next job.
///
/// # Errors
/// The write failed, or the items cannot be read.
pub(in crate::store) fn insert_jobs_from(
    conn: &Connection,
    cache: &mut WriterCache,
    origin: JobOrigin,
    spec: &JobSpec,
    from: usize,
    should_continue: impl Fn() -> bool,
) -> rusqlite::Result<(usize, Effects)> {
    let mut effects = Effects::default();
    match spec {
        JobSpec::Event(keys) => effects.merge(insert_job(conn, cache, origin, None, keys)?),
        JobSpec::Dead(reason) => {
            effects.merge(insert_ended(conn, cache, origin, Placement::Dead(reason.clone()))?);
            let id = cache.counters.job;
            record_failure(conn, cache, (origin, id), reason, &mut effects)?;
        }
        JobSpec::Items(items) => {
            let mut body = Vec::new();
            let mut insert = conn.prepare_cached(INSERT_ITEM)?;
            for index in from..items.count() {
                if index > from && !should_continue() {
                    return Ok((index, effects));
                }
                let keys = items.keys(index).map_err(read_error)?;
                effects.merge(insert_job(conn, cache, origin, Some(index), &keys)?);
                items.read(index, &mut body).map_err(read_error)?;
                insert.execute(params![cache.counters.job, body])?;
            }
        }
    }
    Ok((spec.job_count(), effects))
}

/// Inserts one job for the event itself that has ended. A retry evaluates the handler's expressions again.
///
/// # Errors
/// The write failed.
pub(in crate::store) fn insert_ended(
    conn: &Connection,
    cache: &mut WriterCache,
    origin: JobOrigin,
    placement: Placement,
) -> rusqlite::Result<Effects> {
    let (id, keys) = (cache.counters.job + 1, JobKeys::default());
    let job = new_job(id, origin, None, &keys, (placement, None));
    let effects = transition::create(conn, cache, &NewJob { should_reevaluate: true, ..job })?;
    cache.counters.job = id;
    Ok(effects)
}

const INSERT_ITEM: &str = "INSERT INTO items (job, body) VALUES (?1, ?2)";

fn read_error(error: std::io::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

fn insert_job(
    conn: &Connection,
    cache: &mut WriterCache,
    origin: JobOrigin,
    item: Option<usize>,
    keys: &JobKeys,
) -> rusqlite::Result<Effects> {
    let id = cache.counters.job + 1;
    let (placed, mut effects) = place_job(conn, cache, origin, id, keys)?;
    let job = new_job(id, origin, item, keys, placed);
    effects.merge(transition::create(conn, cache, &job)?);
    cache.counters.job = id;
    Ok(effects)
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
    conn: &Connection,
    cache: &mut WriterCache,
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
            conn.prepare_cached(INSERT_ITEM)?.execute(params![id, &*body])?;
            (items.keys(item).map_err(read_error)?, None)
        }
    };
    let item = matches!(spec, JobSpec::Items(_)).then_some(item);
    let job = new_job(id, origin, item, &keys, (Placement::Unreleased(failure), None));
    // An unreleased job has no effects: it counts when all jobs of the event are visible.
    let _ = transition::create(conn, cache, &job)?;
    let debounce = keys.debounce.filter(|_| !origin.bypasses_keys());
    let unique = keys.unique.filter(|_| !origin.bypasses_keys());
    if unique.is_some() || debounce.is_some_and(|debounce| debounce.debounce_ms > 0) {
        conn.prepare_cached(
            "INSERT INTO expansion_keys (job, unique_key, unique_window_ms, debounce_ms)
             VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            id,
            unique.map(|unique| unique.key),
            unique.map(|unique| unique.window_ms),
            debounce.map(|debounce| debounce.debounce_ms)
        ])?;
    }
    Ok(())
}

/// Gives an unreleased job the state that it would have if it was inserted now.
pub(in crate::store) fn admit_job(
    conn: &Connection,
    cache: &mut WriterCache,
    origin: JobOrigin,
    id: i64,
    (keys, failure): (&JobKeys, Option<&str>),
) -> rusqlite::Result<Effects> {
    let (placed, mut effects) = match failure {
        Some(reason) => ((Placement::Dead(reason.to_owned()), None), Effects::default()),
        None => place_job(conn, cache, origin, id, keys)?,
    };
    effects.merge(transition::admit(conn, cache, &new_job(id, origin, None, keys, placed))?);
    if let Some(reason) = failure {
        record_failure(conn, cache, (origin, id), reason, &mut effects)?;
    }
    Ok(effects)
}

/// The placement of a job, and when its burst of `debounce` began.
type PlacedJob = (Placement, Option<i64>);

/// Decides the state of a new job by its keys and by earlier jobs. Cancels the jobs that it supersedes.
fn place_job(
    conn: &Connection,
    cache: &WriterCache,
    origin: JobOrigin,
    id: i64,
    keys: &JobKeys,
) -> rusqlite::Result<(PlacedJob, Effects)> {
    let mut effects = Effects::default();
    let (mut placement, mut burst_started_at_ms) = (Placement::Ready, None);
    if !origin.bypasses_keys()
        && let Some(unique) = keys.unique
        && let Some(first) = keys::claim_unique_key(conn, cache.now_ms, origin.handler, unique, id)?
    {
        return Ok(((Placement::Cancelled(format!("same as job {first}")), None), effects));
    }
    if !origin.bypasses_keys()
        && let Some(debounce) = keys.debounce
    {
        // A job of another source may have overtaken a job that is only now released.
        if id <= cache.counters.job
            && let Some(newer) = keys::find_newer_debounced(conn, origin.handler, debounce, id)?
        {
            let reason = format!("superseded by job {newer}");
            return Ok(((Placement::Cancelled(reason), None), effects));
        }
        let (started_at_ms, superseded) =
            transition::supersede(conn, cache, origin.handler, debounce, id)?;
        effects.merge(superseded);
        if debounce.debounce_ms > 0 {
            // The job starts at the latest ten times `debounce` after the burst began.
            let latest_ms = started_at_ms.saturating_add(debounce.debounce_ms.saturating_mul(10));
            let due_at_ms = cache.now_ms.saturating_add(debounce.debounce_ms).min(latest_ms);
            let wait_ms = (due_at_ms - cache.now_ms).max(0);
            burst_started_at_ms = Some(started_at_ms);
            if wait_ms > 0 {
                placement = Placement::Scheduled { due_at_ms, wait_ms };
            }
        }
    }
    if placement == Placement::Ready
        && let Some(key) = &keys.ordering
        && transition::has_unfinished(conn, origin.handler, key)?
    {
        placement = Placement::Blocked;
    }
    Ok(((placement, burst_started_at_ms), effects))
}
