//! Inserts rows of `jobs` and `items`: at intake, after a replay, or when expressions were
//! evaluated again.

use rusqlite::{Connection, params};

use super::writer_state::WriterState;
use super::{alerts, job_keys};
use crate::domain::job_plan::{JobKeys, JobSpec};
use crate::domain::{HandlerId, JobId, SourceId};

/// The properties that new jobs of an event share.
#[derive(Clone, Copy, Debug)]
pub struct JobOrigin {
    pub event: i64,
    pub source: SourceId,
    pub handler: HandlerId,
    /// Wall clock.
    pub created_at_ms: i64,
    pub origin: Origin,
}

/// How jobs were created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Inserted in the transaction of their event, in the range of ids that the event names.
    Event,
    /// The event's own jobs, inserted after the event.
    DeferredEvent,
    /// Inserted by the replay with this number, or by `retry` of a job whose expressions had failed
    /// (0, or the number of the replay that created the job).
    Replay(i64),
}

impl JobOrigin {
    /// Returns true for jobs of `retry` and `replay`. They supersede no other job, no job
    /// supersedes them, and `unique_by` lets them pass.
    fn bypasses_keys(self) -> bool {
        matches!(self.origin, Origin::Replay(_))
    }

    /// Returns the number of the replay.
    pub(super) fn replay(self) -> Option<i64> {
        match self.origin {
            Origin::Replay(number) if number > 0 => Some(number),
            _ => None,
        }
    }

    /// Returns the event, unless the event's own range of ids has the jobs.
    pub(super) fn appended_to(self) -> Option<i64> {
        (self.origin != Origin::Event).then_some(self.event)
    }
}

/// Inserts the jobs. The first gets the id `state.counters.job + 1`.
///
/// # Errors
/// The write failed, or the items cannot be read.
pub fn insert_jobs(
    conn: &Connection,
    state: &mut WriterState,
    origin: JobOrigin,
    owed: &JobSpec,
) -> rusqlite::Result<()> {
    insert_jobs_from(conn, state, origin, owed, 0, || true).map(drop)
}

/// Inserts the jobs from index `from` on: at least one, then as long as `goes_on` returns true.
/// Returns the index of the next job.
///
/// # Errors
/// The write failed, or the items cannot be read.
pub fn insert_jobs_from(
    conn: &Connection,
    state: &mut WriterState,
    of: JobOrigin,
    owed: &JobSpec,
    from: usize,
    goes_on: impl Fn() -> bool,
) -> rusqlite::Result<usize> {
    match owed {
        JobSpec::Event(keys) => insert_job(conn, state, of, None, keys)?,
        JobSpec::Dead(why) => insert_dead_job(conn, state, of, why)?,
        JobSpec::Items(items) => {
            let unread = |e| rusqlite::Error::ToSqlConversionFailure(Box::new(e));
            let mut body = Vec::new();
            let mut insert =
                conn.prepare_cached("INSERT INTO items (job, body) VALUES (?1, ?2)")?;
            for at in from..items.count() {
                if at > from && !goes_on() {
                    return Ok(at);
                }
                insert_job(conn, state, of, Some(at + 1), &items.keys(at).map_err(unread)?)?;
                items.read(at, &mut body).map_err(unread)?;
                insert.execute(params![state.counters.job, body])?;
            }
        }
    }
    Ok(owed.job_count())
}

/// The initial state of a new job.
#[derive(Default)]
pub(super) struct InitialState {
    pub state: i64,
    pub due_at: Option<i64>,
    pub wait_ms: Option<i64>,
    pub burst_started_at: Option<i64>,
    pub reason: Option<String>,
}

fn insert_job(
    conn: &Connection,
    state: &mut WriterState,
    of: JobOrigin,
    item: Option<usize>,
    keys: &JobKeys,
) -> rusqlite::Result<()> {
    let id = state.counters.job + 1;
    let stand = place_job(conn, state, of, id, keys)?;
    let collapse = keys.debounce.filter(|_| !of.bypasses_keys()).map(|collapse| collapse.key);
    conn.prepare_cached(
        "INSERT INTO jobs (id, event, handler, source, state, created_at, age_start, due_at, wait_ms,
           ended_at, reason, item, replay, appended_to, ordering_key, version, debounce_key, burst_started_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
    )?
    .execute(params![
        id,
        of.event,
        of.handler.0,
        of.source.0,
        stand.state,
        of.created_at_ms,
        state.handler_time_ms(of.handler),
        stand.due_at,
        stand.wait_ms,
        (stand.state == 5).then_some(state.wall_ms),
        stand.reason,
        item.and_then(|item| i64::try_from(item).ok()),
        of.replay(),
        of.appended_to(),
        keys.ordering,
        keys.version.as_ref().filter(|_| keys.ordering.is_some()).map(job_keys::encode_version),
        collapse,
        stand.burst_started_at,
    ])?;
    state.counters.job = id;
    state.adjust_queued(of.source, i64::from(stand.state < 2));
    match stand.state {
        0 => state.mark_ready(of.handler),
        1 => state.mark_due(stand.due_at),
        _ => {}
    }
    Ok(())
}

/// Decides the initial state of a new job by its keys and by earlier jobs: ready, scheduled,
/// blocked, or cancelled at once. Cancels the jobs that the new job supersedes.
pub(super) fn place_job(
    conn: &Connection,
    state: &mut WriterState,
    of: JobOrigin,
    id: i64,
    keys: &JobKeys,
) -> rusqlite::Result<InitialState> {
    let mut stand = InitialState::default();
    if !of.bypasses_keys()
        && let Some(once) = keys.unique
        && let Some(first) = job_keys::claim_unique_key(conn, state.now_ms, of.handler, once, id)?
    {
        return Ok(InitialState {
            state: 5,
            reason: Some(format!("same as job {first}")),
            ..stand
        });
    }
    if !of.bypasses_keys()
        && let Some(collapse) = keys.debounce
    {
        // A job of another source may have overtaken a job that is only now released.
        if id <= state.counters.job
            && let Some(newer) = job_keys::superseding(conn, of.handler, collapse, id)?
        {
            return Ok(InitialState {
                state: 5,
                reason: Some(format!("superseded by job {newer}")),
                ..stand
            });
        }
        let began_at = job_keys::supersede_older(conn, state, of.handler, collapse, id)?;
        if collapse.settle_ms > 0 {
            // The job starts at the latest ten times `settle` after the burst began.
            let latest = began_at.saturating_add(collapse.settle_ms.saturating_mul(10));
            let due_at = state.now_ms.saturating_add(collapse.settle_ms).min(latest);
            let wait_ms = (due_at - state.now_ms).max(0);
            stand.burst_started_at = Some(began_at);
            if wait_ms > 0 {
                (stand.state, stand.due_at, stand.wait_ms) = (1, Some(due_at), Some(wait_ms));
            }
        }
    }
    if stand.state == 0
        && let Some(key) = &keys.ordering
        && job_keys::has_unfinished(conn, of.handler, key)?
    {
        stand.state = -1;
    }
    Ok(stand)
}

/// Inserts a dead job for an expression that failed, with one attempt that has the reason.
fn insert_dead_job(
    conn: &Connection,
    state: &mut WriterState,
    of: JobOrigin,
    why: &str,
) -> rusqlite::Result<()> {
    let id = state.counters.job + 1;
    conn.prepare_cached(
        "INSERT INTO jobs (id, event, handler, source, state, created_at, age_start, attempt, failures,
           ended_at, reason, replay, appended_to, reevaluation)
         VALUES (?1, ?2, ?3, ?4, 4, ?5, ?6, 1, 1, ?7, ?8, ?9, ?10, 1)",
    )?
    .execute(params![
        id,
        of.event,
        of.handler.0,
        of.source.0,
        of.created_at_ms,
        state.handler_time_ms(of.handler),
        state.wall_ms,
        why,
        of.replay(),
        of.appended_to(),
    ])?;
    state.counters.job = id;
    record_failure(conn, state, of, id, why)
}

/// Inserts the failed attempt of a job whose expression failed.
pub(super) fn record_failure(
    conn: &Connection,
    state: &mut WriterState,
    of: JobOrigin,
    id: i64,
    why: &str,
) -> rusqlite::Result<()> {
    state.counters.attempt += 1;
    conn.prepare_cached(
        "INSERT INTO attempts (id, job, attempt, outcome, detail, ended_at, duration_ms)
         VALUES (?1, ?2, 1, 'failed', ?3, ?4, 0)",
    )?
    .execute(params![state.counters.attempt, id, why, state.wall_ms])?;
    alerts::record_dead_job(conn, state, JobId(id), of.source)
}
