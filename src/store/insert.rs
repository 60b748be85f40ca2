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
    pub kind: OriginKind,
}

/// How jobs were created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginKind {
    /// Jobs inserted with their event, in its id range.
    Event,
    /// The event's own jobs, inserted after the event and outside its id range.
    DeferredEvent,
    /// Inserted by the replay with this number.
    Replay(i64),
    /// Inserted by `retry` of a job whose expressions had failed. `replay` is the number of the
    /// replay that created that job; 0 if none did.
    Retry { replay: i64 },
}

impl JobOrigin {
    /// Returns true for jobs of `retry` and `replay`. They supersede no other job, no job
    /// supersedes them, and `unique_by` lets them pass.
    pub(super) fn bypasses_keys(self) -> bool {
        matches!(self.kind, OriginKind::Replay(_) | OriginKind::Retry { .. })
    }

    /// Returns the number of the replay.
    pub(super) fn replay(self) -> Option<i64> {
        match self.kind {
            OriginKind::Replay(replay) | OriginKind::Retry { replay } if replay > 0 => Some(replay),
            _ => None,
        }
    }

    /// Returns the event id if the jobs are outside that range.
    pub(super) fn appended_to(self) -> Option<i64> {
        (self.kind != OriginKind::Event).then_some(self.event)
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
    spec: &JobSpec,
) -> rusqlite::Result<()> {
    insert_jobs_from(conn, state, origin, spec, 0, || true).map(drop)
}

/// Inserts the jobs from index `from` on: at least one, then as long as `should_continue` returns
/// true. Returns the index of the next job.
///
/// # Errors
/// The write failed, or the items cannot be read.
pub fn insert_jobs_from(
    conn: &Connection,
    state: &mut WriterState,
    origin: JobOrigin,
    spec: &JobSpec,
    from: usize,
    should_continue: impl Fn() -> bool,
) -> rusqlite::Result<usize> {
    match spec {
        JobSpec::Event(keys) => insert_job(conn, state, origin, None, keys)?,
        JobSpec::Dead(reason) => insert_dead_job(conn, state, origin, reason)?,
        JobSpec::Items(items) => {
            let read_error = |e| rusqlite::Error::ToSqlConversionFailure(Box::new(e));
            let mut body = Vec::new();
            let mut insert =
                conn.prepare_cached("INSERT INTO items (job, body) VALUES (?1, ?2)")?;
            for index in from..items.count() {
                if index > from && !should_continue() {
                    return Ok(index);
                }
                insert_job(
                    conn,
                    state,
                    origin,
                    Some(index + 1),
                    &items.keys(index).map_err(read_error)?,
                )?;
                items.read(index, &mut body).map_err(read_error)?;
                insert.execute(params![state.counters.job, body])?;
            }
        }
    }
    Ok(spec.job_count())
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
    origin: JobOrigin,
    item: Option<usize>,
    keys: &JobKeys,
) -> rusqlite::Result<()> {
    let id = state.counters.job + 1;
    let initial = place_job(conn, state, origin, id, keys)?;
    let debounce = keys.debounce.filter(|_| !origin.bypasses_keys()).map(|debounce| debounce.key);
    conn.prepare_cached(
        "INSERT INTO jobs (id, event, handler, source, state, created_at, age_start, due_at, wait_ms,
           ended_at, reason, item, replay, appended_to, ordering_key, version, debounce_key, burst_started_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
    )?
    .execute(params![
        id,
        origin.event,
        origin.handler.0,
        origin.source.0,
        initial.state,
        origin.created_at_ms,
        state.handler_time_ms(origin.handler),
        initial.due_at,
        initial.wait_ms,
        (initial.state == 5).then_some(state.wall_ms),
        initial.reason,
        item.and_then(|item| i64::try_from(item).ok()),
        origin.replay(),
        origin.appended_to(),
        keys.ordering,
        keys.version.as_ref().filter(|_| keys.ordering.is_some()).map(job_keys::encode_version),
        debounce,
        initial.burst_started_at,
    ])?;
    state.blocks.add_job(conn, origin.handler, origin.source, id, origin.created_at_ms)?;
    state.counters.job = id;
    state.adjust_queued(origin.source, i64::from(initial.state < 2));
    match initial.state {
        0 => state.mark_ready(origin.handler),
        1 => state.mark_due(initial.due_at),
        _ => {}
    }
    Ok(())
}

/// Decides the initial state of a new job by its keys and by earlier jobs: ready, scheduled,
/// blocked, or cancelled at once. Cancels the jobs that the new job supersedes.
pub(super) fn place_job(
    conn: &Connection,
    state: &mut WriterState,
    origin: JobOrigin,
    id: i64,
    keys: &JobKeys,
) -> rusqlite::Result<InitialState> {
    let mut initial = InitialState::default();
    if !origin.bypasses_keys()
        && let Some(unique) = keys.unique
        && let Some(first) =
            job_keys::claim_unique_key(conn, state.now_ms, origin.handler, unique, id)?
    {
        return Ok(InitialState {
            state: 5,
            reason: Some(format!("same as job {first}")),
            ..initial
        });
    }
    if !origin.bypasses_keys()
        && let Some(debounce) = keys.debounce
    {
        // A job of another source may have overtaken a job that is only now released.
        if id <= state.counters.job
            && let Some(newer) = job_keys::find_newer_debounced(conn, origin.handler, debounce, id)?
        {
            return Ok(InitialState {
                state: 5,
                reason: Some(format!("superseded by job {newer}")),
                ..initial
            });
        }
        let started_at = job_keys::supersede_older(conn, state, origin.handler, debounce, id)?;
        if debounce.debounce_ms > 0 {
            // The job starts at the latest ten times `debounce` after the burst began.
            let latest = started_at.saturating_add(debounce.debounce_ms.saturating_mul(10));
            let due_at = state.now_ms.saturating_add(debounce.debounce_ms).min(latest);
            let wait_ms = (due_at - state.now_ms).max(0);
            initial.burst_started_at = Some(started_at);
            if wait_ms > 0 {
                (initial.state, initial.due_at, initial.wait_ms) = (1, Some(due_at), Some(wait_ms));
            }
        }
    }
    if initial.state == 0
        && let Some(key) = &keys.ordering
        && job_keys::has_unfinished(conn, origin.handler, key)?
    {
        initial.state = -1;
    }
    Ok(initial)
}

/// Inserts a dead job for an expression that failed, with one attempt that has the reason.
fn insert_dead_job(
    conn: &Connection,
    state: &mut WriterState,
    origin: JobOrigin,
    reason: &str,
) -> rusqlite::Result<()> {
    let id = state.counters.job + 1;
    conn.prepare_cached(
        "INSERT INTO jobs (id, event, handler, source, state, created_at, age_start, attempt, failures,
           ended_at, reason, replay, appended_to, reevaluation)
         VALUES (?1, ?2, ?3, ?4, 4, ?5, ?6, 1, 1, ?7, ?8, ?9, ?10, 1)",
    )?
    .execute(params![
        id,
        origin.event,
        origin.handler.0,
        origin.source.0,
        origin.created_at_ms,
        state.handler_time_ms(origin.handler),
        state.wall_ms,
        reason,
        origin.replay(),
        origin.appended_to(),
    ])?;
    state.blocks.add_job(conn, origin.handler, origin.source, id, origin.created_at_ms)?;
    state.counters.job = id;
    record_failure(conn, state, origin, id, reason)
}

/// Inserts the failed attempt of a job whose expression failed.
pub(super) fn record_failure(
    conn: &Connection,
    state: &mut WriterState,
    origin: JobOrigin,
    id: i64,
    reason: &str,
) -> rusqlite::Result<()> {
    state.counters.attempt += 1;
    conn.prepare_cached(
        "INSERT INTO attempts (id, job, attempt, outcome, detail, ended_at, duration_ms)
         VALUES (?1, ?2, 1, 'failed', ?3, ?4, 0)",
    )?
    .execute(params![state.counters.attempt, id, reason, state.wall_ms])?;
    let (source, handler) = (origin.source, origin.handler);
    state.blocks.add_attempt(conn, handler, source, state.counters.attempt)?;
    state.minute_counts.add_attempt(source, handler, false, 0);
    alerts::record_dead_job(conn, state, JobId(id), origin.source)
}
