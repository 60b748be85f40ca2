//! New rows of `jobs` and `items`: what an event owes, at intake or when its expressions were
//! evaluated anew.

use rusqlite::{Connection, params};

use super::writer_state::WriterState;
use super::{alerts, job_keys};
use crate::domain::job_plan::{JobKeys, JobSpec};
use crate::domain::{HandlerId, JobId, SourceId};

/// What the new jobs of an event have in common.
#[derive(Clone, Copy, Debug)]
pub struct JobOrigin {
    pub event: i64,
    pub source: SourceId,
    pub handler: HandlerId,
    /// Wall clock.
    pub created_at_ms: i64,
    pub origin: Origin,
}

/// How jobs came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Inserted together with their event: a range of numbers that the event names.
    Event,
    /// The event's own jobs, inserted after it.
    DeferredEvent,
    /// Inserted by the replay with this number or, with 0 or a replay's number, by `retry` of a job
    /// whose expressions had failed.
    Replay(i64),
}

impl JobOrigin {
    /// Those of `retry` and `replay` neither collapse others nor are collapsed, and `unique_by` lets
    /// them pass.
    fn bypasses_keys(self) -> bool {
        matches!(self.origin, Origin::Replay(_))
    }

    /// The number of the replay.
    pub(super) fn replay(self) -> Option<i64> {
        match self.origin {
            Origin::Replay(number) if number > 0 => Some(number),
            _ => None,
        }
    }

    /// The event, where it does not name the jobs itself.
    pub(super) fn later(self) -> Option<i64> {
        (self.origin != Origin::Event).then_some(self.event)
    }
}

/// Inserts what is owed; the next job's number is `state.counters.job + 1`.
///
/// # Errors
/// The write failed, or items can't be read.
pub fn insert_jobs(
    conn: &Connection,
    state: &mut WriterState,
    of: JobOrigin,
    owed: &JobSpec,
) -> rusqlite::Result<()> {
    insert_jobs_from(conn, state, of, owed, 0, || true).map(drop)
}

/// Inserts of what is owed the jobs from that place on, at least one, as long as `goes_on` says so;
/// the place of the next.
///
/// # Errors
/// The write failed, or items can't be read.
pub fn insert_jobs_from(
    conn: &Connection,
    state: &mut WriterState,
    of: JobOrigin,
    owed: &JobSpec,
    from: usize,
    goes_on: impl Fn() -> bool,
) -> rusqlite::Result<usize> {
    match owed {
        JobSpec::Event(keys) => job(conn, state, of, None, keys)?,
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
                job(conn, state, of, Some(at + 1), &items.keys(at).map_err(unread)?)?;
                items.read(at, &mut body).map_err(unread)?;
                insert.execute(params![state.counters.job, body])?;
            }
        }
    }
    Ok(owed.job_count())
}

/// How a new job stands.
#[derive(Default)]
pub(super) struct InitialState {
    pub state: i64,
    pub due_at: Option<i64>,
    pub wait_ms: Option<i64>,
    pub burst_at: Option<i64>,
    pub reason: Option<String>,
}

fn job(
    conn: &Connection,
    state: &mut WriterState,
    of: JobOrigin,
    item: Option<usize>,
    keys: &JobKeys,
) -> rusqlite::Result<()> {
    let id = state.counters.job + 1;
    let stand = place_job(conn, state, of, id, keys)?;
    let collapse = keys.collapse.filter(|_| !of.bypasses_keys()).map(|collapse| collapse.key);
    conn.prepare_cached(
        "INSERT INTO jobs (id, event, handler, source, state, created_at, since, due_at, wait_ms,
           ended_at, reason, item, replay, later, ordering_key, newest, debounce_key, debounce_since)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
    )?
    .execute(params![
        id,
        of.event,
        of.handler.0,
        of.source.0,
        stand.state,
        of.created_at_ms,
        state.active_ms(of.handler),
        stand.due_at,
        stand.wait_ms,
        (stand.state == 5).then_some(state.wall_ms),
        stand.reason,
        item.and_then(|item| i64::try_from(item).ok()),
        of.replay(),
        of.later(),
        keys.order,
        keys.newest.as_ref().filter(|_| keys.order.is_some()).map(job_keys::encode_version),
        collapse,
        stand.burst_at,
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

/// Decides whether a new job is ready, waits or is held, or is cancelled at once, by its keys and by
/// the jobs before it. Cancels the jobs that it supersedes.
pub(super) fn place_job(
    conn: &Connection,
    state: &mut WriterState,
    of: JobOrigin,
    id: i64,
    keys: &JobKeys,
) -> rusqlite::Result<InitialState> {
    let mut stand = InitialState::default();
    if !of.bypasses_keys()
        && let Some(once) = keys.once
        && let Some(first) = job_keys::claim_unique_key(conn, state.now_ms, of.handler, once, id)?
    {
        return Ok(InitialState {
            state: 5,
            reason: Some(format!("same as job {first}")),
            ..stand
        });
    }
    if !of.bypasses_keys()
        && let Some(collapse) = keys.collapse
    {
        // One that is released may have been overtaken by a job of another source.
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
            // At the latest after ten times that, since the burst began.
            let latest = began_at.saturating_add(collapse.settle_ms.saturating_mul(10));
            let due_at = state.now_ms.saturating_add(collapse.settle_ms).min(latest);
            let wait_ms = (due_at - state.now_ms).max(0);
            stand.burst_at = Some(began_at);
            if wait_ms > 0 {
                (stand.state, stand.due_at, stand.wait_ms) = (1, Some(due_at), Some(wait_ms));
            }
        }
    }
    if stand.state == 0
        && let Some(key) = &keys.order
        && job_keys::has_unfinished(conn, of.handler, key)?
    {
        stand.state = -1;
    }
    Ok(stand)
}

/// A job whose expression failed: one attempt that says so, and dead.
fn insert_dead_job(
    conn: &Connection,
    state: &mut WriterState,
    of: JobOrigin,
    why: &str,
) -> rusqlite::Result<()> {
    let id = state.counters.job + 1;
    conn.prepare_cached(
        "INSERT INTO jobs (id, event, handler, source, state, created_at, since, attempt, failures,
           ended_at, reason, replay, later, expand)
         VALUES (?1, ?2, ?3, ?4, 4, ?5, ?6, 1, 1, ?7, ?8, ?9, ?10, 1)",
    )?
    .execute(params![
        id,
        of.event,
        of.handler.0,
        of.source.0,
        of.created_at_ms,
        state.active_ms(of.handler),
        state.wall_ms,
        why,
        of.replay(),
        of.later(),
    ])?;
    state.counters.job = id;
    record_failure(conn, state, of, id, why)
}

/// The attempt of a job whose expression failed.
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
    alerts::job_dead(conn, state, JobId(id), of.source)
}
