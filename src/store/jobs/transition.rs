//! Every change of a job's state (`domain::job`), with what follows from it: the next job of the ordering
//! key, queue lengths, wake-ups, alerts. No other file writes `jobs.state` or names its numbers; other
//! queries use the conditions below.
//!
//! Each function adds its effects to those of the transaction. A change that is not possible in the job's
//! present state changes nothing.

use const_format::formatcp;
use rusqlite::{Connection, params};

use super::super::batch_insert::{
    BatchInsert, BatchRow, RowValues, StatementTexts, statement_texts,
};
use super::super::effects::{AlertCondition, Effects};
use super::super::failure_groups::Membership;
use super::super::settled_job::SettledJob;
use super::super::statements::Statements;
use super::super::write_transaction::WriteTransaction;
use super::{
    AttemptRecord, CLAIM_COLUMNS, ClaimedJob, CurrentClaim, JobOrigin, VersionKey, failures,
};
use crate::domain::job::{JobState, PublicState};
use crate::domain::job_plan::{DebounceKey, KeyHash};
use crate::domain::{Claim, HandlerId, JobId, NextStep, SourceId};

const BLOCKED: i64 = JobState::Blocked.code();
const READY: i64 = JobState::Ready.code();
const SCHEDULED: i64 = JobState::Scheduled.code();
const RUNNING: i64 = JobState::Running.code();
const SUCCEEDED: i64 = JobState::Succeeded.code();
const DEAD: i64 = JobState::Dead.code();
const CANCELLED: i64 = JobState::Cancelled.code();
const UNRELEASED: i64 = JobState::Unreleased.code();

// Conditions on the column `state` of `jobs`, for the WHERE clauses of all queries. They are text, because
// SQLite uses a partial index only if the query repeats the index's condition literally.

pub(in crate::store) const IS_BLOCKED: &str = formatcp!("state = {BLOCKED}");
pub(in crate::store) const IS_READY: &str = formatcp!("state = {READY}");
/// The condition of the index `jobs_waiting`: only scheduled jobs have `due_at`.
pub(in crate::store) const IS_SCHEDULED: &str = "due_at IS NOT NULL";
pub(in crate::store) const IS_RUNNING: &str = formatcp!("state = {RUNNING}");
pub(in crate::store) const IS_SUCCEEDED: &str = formatcp!("state = {SUCCEEDED}");
pub(in crate::store) const IS_DEAD: &str = formatcp!("state = {DEAD}");
pub(in crate::store) const IS_CANCELLED: &str = formatcp!("state = {CANCELLED}");
pub(in crate::store) const IS_UNRELEASED: &str = formatcp!("state = {UNRELEASED}");

/// In the state whose number is the first value of the query.
pub(in crate::store) const IS_IN_STATE_1: &str = "state = ?1";

/// Blocked, ready or scheduled: the condition of the index `jobs_debounce`.
pub(in crate::store) const IS_WAITING: &str = formatcp!("state < {RUNNING}");

/// Waiting or running: a part of the condition of the index `jobs_order`.
pub(in crate::store) const IS_UNFINISHED: &str = formatcp!("state < {SUCCEEDED}");

/// Whether a job from ?1 to ?2 is waiting or running. It reads `jobs_by_state`, so its cost does not grow with the range.
pub(in crate::store) const HAS_UNFINISHED_BETWEEN_1_AND_2: &str = formatcp!(
    "SELECT EXISTS (SELECT 1 FROM (VALUES ({BLOCKED}), ({READY}), ({SCHEDULED}), ({RUNNING})) s
       CROSS JOIN handlers h CROSS JOIN jobs j INDEXED BY jobs_by_state
       WHERE j.state = s.column1 AND {IS_INDEXED} AND j.handler = h.id AND j.id BETWEEN ?1 AND ?2)"
);

/// Blocked, ready, scheduled or unreleased: `queued` in the views.
pub(in crate::store) const IS_QUEUED: &str =
    formatcp!("state IN ({BLOCKED}, {READY}, {SCHEDULED}, {UNRELEASED})");

/// Neither succeeded nor unreleased: the condition of the index `jobs_by_state`.
pub(in crate::store) const IS_INDEXED: &str = formatcp!("state NOT IN ({SUCCEEDED}, {UNRELEASED})");

/// Neither dead nor cancelled.
pub(in crate::store) const IS_NOT_GIVEN_UP: &str = formatcp!("state NOT IN ({DEAD}, {CANCELLED})");

/// The states that `retry` accepts.
pub(in crate::store) const CAN_RETRY: &str =
    formatcp!("state IN ({SCHEDULED}, {DEAD}, {CANCELLED})");

/// The states that `cancel` accepts.
pub(in crate::store) const CAN_CANCEL: &str =
    formatcp!("state IN ({BLOCKED}, {READY}, {SCHEDULED}, {RUNNING}, {DEAD}, {UNRELEASED})");

/// The name of a job's state, as views show it.
pub(in crate::store) const STATE_NAME: &str = formatcp!(
    "CASE state WHEN {RUNNING} THEN '{}' WHEN {SUCCEEDED} THEN '{}' WHEN {DEAD} THEN '{}'
       WHEN {CANCELLED} THEN '{}' ELSE '{}' END",
    PublicState::Running.name(),
    PublicState::Succeeded.name(),
    PublicState::Dead.name(),
    PublicState::Cancelled.name(),
    PublicState::Queued.name(),
);

/// Returns the condition for jobs that people see in this state.
pub(in crate::store) const fn is_public(state: PublicState) -> &'static str {
    match state {
        PublicState::Queued => IS_QUEUED,
        PublicState::Running => IS_RUNNING,
        PublicState::Succeeded => IS_SUCCEEDED,
        PublicState::Dead => IS_DEAD,
        PublicState::Cancelled => IS_CANCELLED,
    }
}

/// Returns the numbers of the stored states that people see as this one, if `jobs_by_state` has them. It has
/// neither succeeded nor unreleased jobs.
pub(in crate::store) fn indexed_states(state: PublicState) -> Option<Vec<i64>> {
    let is_indexed = |stored: &JobState| {
        stored.public() == state && !matches!(stored, JobState::Succeeded | JobState::Unreleased)
    };
    let states: Vec<i64> =
        JobState::ALL.into_iter().filter(is_indexed).map(JobState::code).collect();
    (!states.is_empty()).then_some(states)
}

/// The state of a new job, with the columns that belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) enum Placement {
    Ready,
    Blocked,
    /// Due after `wait_ms`, at `due_at_ms` (database clock).
    Scheduled {
        due_at_ms: i64,
        wait_ms: i64,
    },
    Cancelled(String),
    /// An expression of the handler failed, for this reason.
    Dead(String),
    /// Hidden until all jobs of the event are inserted; the reason if an expression failed.
    Unreleased(Option<String>),
}

impl Placement {
    const fn state(&self) -> JobState {
        match self {
            Self::Ready => JobState::Ready,
            Self::Blocked => JobState::Blocked,
            Self::Scheduled { .. } => JobState::Scheduled,
            Self::Cancelled(_) => JobState::Cancelled,
            Self::Dead(_) => JobState::Dead,
            Self::Unreleased(_) => JobState::Unreleased,
        }
    }

    fn reason(&self) -> Option<&str> {
        match self {
            Self::Cancelled(reason) | Self::Dead(reason) => Some(reason),
            Self::Unreleased(failure) => failure.as_deref(),
            Self::Ready | Self::Blocked | Self::Scheduled { .. } => None,
        }
    }

    /// Returns true if an expression failed, so that the job has one failed attempt.
    pub const fn is_failure(&self) -> bool {
        matches!(self, Self::Dead(_) | Self::Unreleased(Some(_)))
    }

    const fn schedule(&self) -> (Option<i64>, Option<i64>) {
        match *self {
            Self::Scheduled { due_at_ms, wait_ms } => (Some(due_at_ms), Some(wait_ms)),
            _ => (None, None),
        }
    }

    /// Adds what follows from the placement itself.
    fn add_effects(&self, effects: &mut Effects, job: i64, origin: JobOrigin) {
        match self {
            Self::Ready => effects.add_ready(origin.handler),
            Self::Scheduled { due_at_ms, .. } => effects.add_due(*due_at_ms),
            Self::Dead(_) => {
                effects.alerts.push(AlertCondition::DeadJob(JobId(job), origin.source));
            }
            Self::Blocked | Self::Cancelled(_) | Self::Unreleased(_) => {}
        }
    }
}

/// A job to create.
#[derive(Debug)]
pub(in crate::store) struct NewJob<'a> {
    pub id: i64,
    pub origin: JobOrigin,
    /// The number of the item, from 1.
    pub item: Option<i64>,
    pub ordering_key: Option<&'a KeyHash>,
    pub version: Option<String>,
    pub debounce_key: Option<KeyHash>,
    pub burst_started_at_ms: Option<i64>,
    /// A retry evaluates the handler's expressions first.
    pub should_reevaluate: bool,
    pub placement: Placement,
}

/// Creates a job.
pub(in crate::store) fn create(
    tx: &mut WriteTransaction<'_>,
    job: &NewJob<'_>,
) -> rusqlite::Result<()> {
    let NewJob { id, origin, placement, .. } = job;
    let state = placement.state();
    let (due_at, wait_ms) = placement.schedule();
    // The age of an unreleased job begins when it is admitted.
    let age_start = match state {
        JobState::Unreleased => 0,
        _ => tx.cache.handler_time_ms(origin.handler),
    };
    tx.conn.change(
        "INSERT INTO jobs (id, event, handler, source, state, created_at, age_start, attempt, failures,
           due_at, wait_ms, ended_at, reason, item, replay, appended_to, ordering_key, version, debounce_key,
           burst_started_at, reevaluation)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19,
           nullif(?20, 0))",
        params![
            id,
            origin.event,
            origin.handler,
            origin.source,
            state,
            origin.created_at_ms,
            age_start,
            placement.is_failure(),
            due_at,
            wait_ms,
            state.is_final().then_some(tx.cache.wall_ms),
            placement.reason(),
            job.item,
            origin.replay(),
            origin.appended_to(),
            job.ordering_key,
            job.version,
            job.debounce_key,
            job.burst_started_at_ms,
            job.should_reevaluate,
        ],
    )?;
    tx.cache.blocks.add_job(tx.conn, origin.handler, origin.source, *id, origin.created_at_ms)?;
    if state.is_queued() && state != JobState::Unreleased {
        tx.effects.adjust_queued(origin.source, 1);
    }
    tx.effects.count_job(origin.handler, None, Some(state));
    placement.add_effects(tx.effects, *id, *origin);
    settle_placed(tx, job, placement);
    group_failure(tx, job)
}

/// Notes a job whose first state is final.
fn settle_placed(tx: &mut WriteTransaction<'_>, job: &NewJob<'_>, placement: &Placement) {
    if placement.state().is_final() {
        let reason = placement.reason().unwrap_or_default();
        settle(tx, (JobId(job.id), job.origin.source), placement.state(), reason);
    }
}

/// Notes a job that reached a final state without an attempt that ends now.
fn settle(
    tx: &mut WriteTransaction<'_>,
    (job, source): (JobId, SourceId),
    state: JobState,
    reason: &str,
) {
    if tx.cache.should_report_settled(source) {
        let (at_ms, detail) = (tx.cache.wall_ms, reason.to_owned());
        tx.effects.settled.push(SettledJob { job, state, attempts: None, at_ms, detail });
    }
}

/// Notes a job that reached a final state by its last attempt.
fn settle_attempted(
    tx: &mut WriteTransaction<'_>,
    record: &AttemptRecord,
    state: JobState,
    reason: Option<&str>,
) {
    if state.is_final() && tx.cache.should_report_settled(record.source) {
        tx.effects.settled.push(SettledJob {
            job: record.claim.job,
            state,
            attempts: Some(record.claim.attempt),
            at_ms: record.ended_at_ms,
            detail: reason.unwrap_or(&record.detail).to_owned(),
        });
    }
}

/// Puts a job whose expression failed into the group of its reason.
fn group_failure(tx: &mut WriteTransaction<'_>, job: &NewJob<'_>) -> rusqlite::Result<()> {
    match &job.placement {
        Placement::Dead(reason) => {
            failures::join(tx, (JobId(job.id), job.origin.handler), None, true, reason)
        }
        _ => Ok(()),
    }
}

/// A row of `jobs` for a ready job without keys.
pub(in crate::store) struct PlainJobRow {
    id: i64,
    origin: JobOrigin,
    age_start: i64,
}

impl BatchRow for PlainJobRow {
    const STATEMENTS: StatementTexts = statement_texts!(
        "jobs (id, event, handler, source, state, created_at, age_start)",
        formatcp!("(?, ?, ?, ?, {READY}, ?, ?)")
    );

    fn bind(&self, values: &mut RowValues<'_, '_>) -> rusqlite::Result<()> {
        let JobOrigin { event, source, handler, created_at_ms, .. } = self.origin;
        values.bind(params![self.id, event, handler, source, created_at_ms, self.age_start])
    }
}

/// Creates a ready job without keys. Its row is inserted when the caller flushes `rows`.
pub(in crate::store) fn create_plain(
    tx: &mut WriteTransaction<'_>,
    rows: &mut BatchInsert<'_, PlainJobRow>,
    origin: JobOrigin,
) -> rusqlite::Result<()> {
    let (id, JobOrigin { source, handler, created_at_ms, .. }) =
        (tx.cache.counters.job + 1, origin);
    rows.push(PlainJobRow { id, origin, age_start: tx.cache.handler_time_ms(handler) })?;
    tx.cache.blocks.add_job(tx.conn, handler, source, id, created_at_ms)?;
    tx.effects.adjust_queued(source, 1);
    tx.effects.count_job(handler, None, Some(JobState::Ready));
    tx.effects.add_ready(handler);
    tx.cache.counters.job = id;
    Ok(())
}

/// Gives an unreleased job its state. A job with an ordering key that may start is blocked first: a younger
/// job of the key may be ready, but the older one goes first.
pub(in crate::store) fn admit(
    tx: &mut WriteTransaction<'_>,
    job: &NewJob<'_>,
) -> rusqlite::Result<()> {
    let NewJob { id, origin, placement, .. } = job;
    let order = match placement {
        Placement::Ready | Placement::Blocked => job.ordering_key,
        _ => None,
    };
    let placement = if order.is_some() { &Placement::Blocked } else { placement };
    let state = placement.state();
    let (due_at, wait_ms) = placement.schedule();
    tx.conn.change(
        formatcp!(
            "UPDATE jobs SET state = ?2, age_start = ?3, due_at = ?4, wait_ms = ?5, burst_started_at = ?6,
               ended_at = ?7, reason = ?8 WHERE id = ?1 AND {IS_UNRELEASED}"
        ),
        params![
            id,
            state,
            tx.cache.handler_time_ms(origin.handler),
            due_at,
            wait_ms,
            job.burst_started_at_ms,
            state.is_final().then_some(tx.cache.wall_ms),
            placement.reason(),
        ],
    )?;
    placement.add_effects(tx.effects, *id, *origin);
    if state.is_final() {
        tx.effects.adjust_queued(origin.source, -1);
    }
    tx.effects.count_job(origin.handler, Some(JobState::Unreleased), Some(state));
    settle_placed(tx, job, placement);
    group_failure(tx, job)?;
    release_next(tx, origin.handler, order)
}

/// Deletes the unreleased jobs in a range of ids. Returns their number.
pub(in crate::store) fn delete_unreleased(
    conn: &Connection,
    first: i64,
    last: i64,
) -> rusqlite::Result<usize> {
    let sql = formatcp!("DELETE FROM jobs WHERE id BETWEEN ?1 AND ?2 AND {IS_UNRELEASED}");
    conn.change(sql, [first, last])
}

/// Returns true if a job of this key is unfinished.
pub(in crate::store) fn has_unfinished(
    conn: &Connection,
    handler: HandlerId,
    key: &KeyHash,
) -> rusqlite::Result<bool> {
    let sql = formatcp!(
        "SELECT EXISTS (SELECT 1 FROM jobs INDEXED BY jobs_order
           WHERE handler = ?1 AND ordering_key = ?2 AND ordering_key IS NOT NULL AND {IS_UNFINISHED})"
    );
    conn.value(sql, (handler, key))
}

/// Makes the oldest unfinished job of an ordering key ready, and blocks the others. Must be called whenever
/// a job of the key ends or is queued again. Without a key, there is nothing to release.
fn release_next(
    tx: &mut WriteTransaction<'_>,
    handler: HandlerId,
    key: Option<&KeyHash>,
) -> rusqlite::Result<()> {
    let Some(key) = key else { return Ok(()) };
    let mut first = tx.conn.prepare_cached(formatcp!(
        "SELECT min(id) FROM jobs INDEXED BY jobs_order WHERE handler = ?1 AND ordering_key = ?2
           AND ordering_key IS NOT NULL AND {IS_UNFINISHED} AND state = ?3"
    ))?;
    let mut oldest = |state: i64| -> rusqlite::Result<Option<i64>> {
        first.query_row(params![handler, key, state], |row| row.get(0))
    };
    let (blocked, ready) = (oldest(BLOCKED)?, oldest(READY)?);
    let (scheduled, running) = (oldest(SCHEDULED)?, oldest(RUNNING)?);
    let next =
        [blocked, ready, scheduled].into_iter().flatten().min().filter(|_| running.is_none());
    let mut set_state = tx.conn.prepare_cached("UPDATE jobs SET state = ?2 WHERE id = ?1")?;
    if let Some(ready) = ready
        && next != Some(ready)
    {
        set_state.execute([ready, BLOCKED])?;
    }
    if let Some(blocked) = blocked
        && next == Some(blocked)
    {
        set_state.execute([blocked, READY])?;
        tx.effects.add_ready(handler);
    }
    Ok(())
}

/// Releases the next job of an ordering key, or notes that a job without a key is ready.
fn wake_queued(
    tx: &mut WriteTransaction<'_>,
    handler: HandlerId,
    ordering_key: Option<&KeyHash>,
) -> rusqlite::Result<()> {
    if ordering_key.is_none() {
        tx.effects.add_ready(handler);
    }
    release_next(tx, handler, ordering_key)
}

/// Maximum number of due jobs that one transaction makes ready.
pub(in crate::store) const MAX_PROMOTED: i64 = 500;

/// Makes some due jobs ready. A job with an ordering key may have to wait for an older job of the key that
/// was retried.
pub(in crate::store) fn promote(tx: &mut WriteTransaction<'_>) -> rusqlite::Result<()> {
    let sql = formatcp!(
        "UPDATE jobs SET state = CASE WHEN ordering_key IS NULL THEN {READY} ELSE {BLOCKED} END,
           due_at = NULL, wait_ms = NULL
         WHERE id IN (SELECT id FROM jobs WHERE {IS_SCHEDULED} AND due_at <= ?1 ORDER BY due_at LIMIT ?2)
         RETURNING handler, ordering_key"
    );
    let due: Vec<(HandlerId, Option<KeyHash>)> =
        tx.conn.list(sql, [tx.cache.now_ms, MAX_PROMOTED], |row| row.try_into())?;
    for (handler, ordering_key) in due {
        wake_queued(tx, handler, ordering_key.as_ref())?;
    }
    Ok(())
}

/// Makes ready jobs with consecutive ids running. `OR FAIL`: after an error, the caller rolls back its
/// transaction or savepoint, so SQLite does not have to be able to undo the statement alone.
pub(in crate::store) const SET_RUNNING: &str = formatcp!(
    "UPDATE OR FAIL jobs SET state = {RUNNING}, attempt = attempt + 1, started_at = ?3
     WHERE id BETWEEN ?1 AND ?2"
);

/// A claimed job, with its version if it has one.
pub(in crate::store) type VersionedClaim = (ClaimedJob, Option<VersionKey>);

/// Makes the oldest ready jobs of a handler running, each with the number of its next attempt. Nobody writes
/// when a prefetched job starts, so its `started_at` is 0.
pub(in crate::store) fn claim(
    tx: &mut WriteTransaction<'_>,
    handler: HandlerId,
    max_jobs: usize,
    is_prefetch: bool,
) -> rusqlite::Result<Vec<VersionedClaim>> {
    let select = formatcp!(
        "SELECT {CLAIM_COLUMNS}, version, ordering_key FROM jobs INDEXED BY jobs_by_state
         WHERE {IS_READY} AND handler = ?1 AND {IS_INDEXED} ORDER BY id LIMIT ?2"
    );
    let max_jobs = i64::try_from(max_jobs).unwrap_or(i64::MAX);
    let rows = tx.held.get(select)?.query_map((handler, max_jobs), |row| {
        let (version, key): (Option<String>, _) = (row.get(10)?, row.get(11)?);
        let version_key = version.zip(key).map(|(value, key)| VersionKey { key, value });
        Ok((ClaimedJob::read(row, tx.cache)?, version_key))
    })?;
    let mut claimed: Vec<VersionedClaim> = rows.collect::<rusqlite::Result<_>>()?;
    // One `UPDATE` of all with `RETURNING` would fill two temporary tables, which takes longer than a claim.
    let update = tx.held.get(SET_RUNNING)?;
    let started_at_ms = if is_prefetch { 0 } else { tx.cache.wall_ms };
    let is_next = |(job, _): &VersionedClaim, (next, _): &VersionedClaim| {
        next.claim.job.0 == job.claim.job.0 + 1
    };
    for jobs in claimed.chunk_by_mut(is_next) {
        let [first, last] =
            [jobs.first(), jobs.last()].map(|job| job.map(|(job, _)| job.claim.job));
        let changed = update.execute(params![first, last, started_at_ms])?;
        debug_assert_eq!(changed, jobs.len());
        for (job, _) in jobs {
            job.claim.attempt += 1;
            job.is_prefetched = is_prefetch;
            tx.effects.adjust_queued(job.source, -1);
            tx.effects.count_job(handler, Some(JobState::Ready), Some(JobState::Running));
        }
    }
    Ok(claimed)
}

/// Cancels a claimed job whose version is outdated. Its attempt does not start.
pub(in crate::store) fn outdate(
    tx: &mut WriteTransaction<'_>,
    job: &ClaimedJob,
    key: &KeyHash,
    newer: JobId,
) -> rusqlite::Result<()> {
    let reason = format!("older than job {newer}");
    tx.conn.change(
        formatcp!(
            "UPDATE jobs SET state = {CANCELLED}, attempt = attempt - 1, started_at = NULL,
               cancel_reason = NULL, ended_at = ?2, reason = ?3 WHERE id = ?1 AND {IS_RUNNING}"
        ),
        params![job.claim.job, tx.cache.wall_ms, reason],
    )?;
    settle(tx, (job.claim.job, job.source), JobState::Cancelled, &reason);
    tx.effects.count_job(job.handler, Some(JobState::Running), Some(JobState::Cancelled));
    leave_failures(tx, job.claim)?;
    release_next(tx, job.handler, Some(key))
}

/// Takes a job that ends out of its group of failures. Only a job with an earlier attempt can be in one.
fn leave_failures(tx: &mut WriteTransaction<'_>, claim: Claim) -> rusqlite::Result<()> {
    if claim.attempt <= 1 {
        return Ok(());
    }
    let group: Option<i64> =
        tx.conn.value("SELECT failure FROM jobs WHERE id = ?1", [claim.job])?;
    failures::leave(tx, claim.job, group.map(|group| (group, false)))
}

/// Ends a successful attempt if its claim is current and the job has no ordering key: then nothing else depends
/// on it, and one statement is enough. Otherwise changes nothing and returns false.
pub(in crate::store) fn succeed_plain(
    tx: &mut WriteTransaction<'_>,
    record: &AttemptRecord,
) -> rusqlite::Result<bool> {
    let update = tx.held.get(formatcp!(
        "UPDATE jobs SET state = {SUCCEEDED}, crashes = ?3, ended_at = ?4, started_at = NULL,
           cancel_reason = NULL
         WHERE id = ?1 AND attempt = ?2 AND {IS_RUNNING} AND ordering_key IS NULL"
    ))?;
    let AttemptRecord { claim, crashes, ended_at_ms, .. } = record;
    let has_ended = update.execute(params![claim.job, claim.attempt, crashes, ended_at_ms])? == 1;
    if has_ended {
        tx.effects.count_job(record.handler, Some(JobState::Running), Some(JobState::Succeeded));
        settle_attempted(tx, record, JobState::Succeeded, None);
        leave_failures(tx, *claim)?;
    }
    Ok(has_ended)
}

/// Ends the attempt of a running job whose claim is current. Returns its state, and the wait until the next
/// attempt if one follows.
pub(in crate::store) fn finish(
    tx: &mut WriteTransaction<'_>,
    record: &AttemptRecord,
    current: &CurrentClaim,
) -> rusqlite::Result<(JobState, Option<i64>)> {
    let (mut retry_wait_ms, mut failed_attempts) = (None, None);
    // A job that succeeds before it is stopped has succeeded, even if it was cancelled.
    let (state, reason) = match (&record.next, &current.cancel_reason) {
        (NextStep::Succeeded, _) => (JobState::Succeeded, None),
        (_, Some(reason)) => (JobState::Cancelled, Some(reason)),
        (NextStep::Dead(reason), None) => (JobState::Dead, Some(reason)),
        (NextStep::Retry { delay, failures }, None) => {
            retry_wait_ms = Some(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX));
            failed_attempts = Some(*failures);
            (if delay.as_millis() == 0 { JobState::Ready } else { JobState::Scheduled }, None)
        }
    };
    let wait_ms = retry_wait_ms.filter(|_| state == JobState::Scheduled);
    let due_ms = wait_ms.map(|wait_ms| tx.cache.now_ms.saturating_add(wait_ms));
    let changed = tx.conn.change(
        formatcp!(
            "UPDATE jobs SET state = ?2, reason = ?3, due_at = ?4, wait_ms = ?5,
               failures = coalesce(?6, failures), crashes = ?7, ended_at = ?8, started_at = NULL,
               cancel_reason = NULL WHERE id = ?1 AND {IS_RUNNING}"
        ),
        params![
            record.claim.job,
            state,
            reason,
            due_ms,
            wait_ms,
            failed_attempts,
            record.crashes,
            state.is_final().then_some(record.ended_at_ms),
        ],
    )?;
    debug_assert_eq!(changed, 1);
    match state {
        JobState::Dead => {
            tx.effects.alerts.push(AlertCondition::DeadJob(record.claim.job, record.source));
        }
        JobState::Ready => tx.effects.add_ready(record.handler),
        _ => {}
    }
    if state.is_queued() {
        tx.effects.adjust_queued(record.source, 1);
    }
    tx.effects.count_job(record.handler, Some(JobState::Running), Some(state));
    settle_attempted(tx, record, state, reason.map(String::as_str));
    let before = current.failure.map(|group| (group, false));
    let job = (record.claim.job, record.handler);
    match state {
        JobState::Dead => {
            let reason = reason.map_or(record.detail.as_str(), String::as_str);
            failures::join(tx, job, before, true, reason)?;
        }
        JobState::Succeeded | JobState::Cancelled => failures::leave(tx, job.0, before)?,
        _ if record.outcome.is_failure() => {
            failures::join(tx, job, before, false, &record.detail)?;
        }
        // A deferred or interrupted attempt says nothing about the failure before.
        _ => {}
    }
    due_ms.into_iter().for_each(|due_ms| tx.effects.add_due(due_ms));
    release_next(tx, record.handler, current.ordering_key.as_ref())?;
    Ok((state, retry_wait_ms))
}

/// The new state of a job whose expressions were evaluated again.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) enum Reevaluated<'a> {
    /// It runs, with these keys.
    Wanted { ordering_key: Option<&'a KeyHash>, version: Option<&'a str> },
    /// It is cancelled for this reason, and a retry evaluates it again.
    NotWanted { reason: &'a str },
    /// It is cancelled for this reason, because other jobs replace it.
    Replaced { reason: &'a str },
}

/// Ends the evaluation of a claimed job. It was no attempt.
pub(in crate::store) fn reevaluate(
    tx: &mut WriteTransaction<'_>,
    job: &ClaimedJob,
    result: Reevaluated<'_>,
) -> rusqlite::Result<()> {
    let (reason, code) = match result {
        Reevaluated::Wanted { ordering_key, version } => {
            let state = if ordering_key.is_some() { BLOCKED } else { READY };
            tx.conn.change(
                formatcp!(
                    "UPDATE jobs SET state = ?2, attempt = attempt - 1, started_at = NULL,
                       reevaluation = NULL, ordering_key = ?3, version = ?4 WHERE id = ?1 AND {IS_RUNNING}"
                ),
                params![job.claim.job, state, ordering_key, version],
            )?;
            tx.effects.adjust_queued(job.source, 1);
            tx.effects.count_job(job.handler, Some(JobState::Running), Some(JobState::Ready));
            return wake_queued(tx, job.handler, ordering_key);
        }
        Reevaluated::NotWanted { reason } => (reason, 1),
        Reevaluated::Replaced { reason } => (reason, 2),
    };
    tx.conn.change(
        formatcp!(
            "UPDATE jobs SET state = {CANCELLED}, attempt = attempt - 1, started_at = NULL,
               cancel_reason = NULL, ended_at = ?2, reason = ?3, reevaluation = ?4
             WHERE id = ?1 AND {IS_RUNNING}"
        ),
        params![job.claim.job, tx.cache.wall_ms, reason, code],
    )?;
    tx.effects.count_job(job.handler, Some(JobState::Running), Some(JobState::Cancelled));
    settle(tx, (job.claim.job, job.source), JobState::Cancelled, reason);
    leave_failures(tx, job.claim)
}

/// Cancels the older waiting jobs of a debounce key. Returns when the burst began.
pub(in crate::store) fn supersede(
    tx: &mut WriteTransaction<'_>,
    handler: HandlerId,
    debounce: DebounceKey,
    newer_job: i64,
) -> rusqlite::Result<i64> {
    let sql = formatcp!(
        "UPDATE jobs SET state = {CANCELLED}, reason = ?4, ended_at = ?5, due_at = NULL, wait_ms = NULL
         WHERE id IN (SELECT id FROM jobs INDEXED BY jobs_debounce WHERE handler = ?1
           AND debounce_key = ?2 AND debounce_key IS NOT NULL AND {IS_WAITING} AND id < ?3)
         RETURNING id, source, ordering_key, burst_started_at, attempt, failure"
    );
    let reason = format!("superseded by job {newer_job}");
    let values = params![handler, debounce.key, newer_job, reason, tx.cache.wall_ms];
    type Cancelled = (JobId, SourceId, Option<KeyHash>, Option<i64>, i64, Option<i64>);
    let cancelled: Vec<Cancelled> = tx.conn.list(sql, values, |row| row.try_into())?;
    let mut started_at_ms = tx.cache.now_ms;
    for (job, source, ordering_key, burst_started_at, attempt, failure) in cancelled {
        tx.effects.adjust_queued(source, -1);
        tx.effects.count_job(handler, Some(JobState::Ready), Some(JobState::Cancelled));
        settle(tx, (job, source), JobState::Cancelled, &reason);
        failures::leave(tx, job, failure.map(|group| (group, false)))?;
        // A job that has run belongs to an earlier burst.
        if let Some(at) = burst_started_at.filter(|_| attempt == 0) {
            started_at_ms = started_at_ms.min(at);
        }
        release_next(tx, handler, ordering_key.as_ref())?;
    }
    Ok(started_at_ms)
}

/// The columns that `retry` and `cancel` need.
struct StoredJob {
    state: JobState,
    source: SourceId,
    handler: HandlerId,
    ordering_key: Option<KeyHash>,
    failure: Membership,
}

fn load_job(conn: &Connection, job: JobId) -> rusqlite::Result<Option<StoredJob>> {
    let sql = "SELECT state, source, handler, ordering_key, failure FROM jobs WHERE id = ?1";
    conn.find(sql, [job], |row| {
        let state: JobState = row.get(0)?;
        let failure: Option<i64> = row.get(4)?;
        Ok(StoredJob {
            state,
            source: row.get(1)?,
            handler: row.get(2)?,
            ordering_key: row.get(3)?,
            failure: failure.map(|group| (group, state == JobState::Dead)),
        })
    })
}

/// Cancels a queued job, or dismisses a dead one. A running job gets the reason, and is cancelled when its
/// attempt ends. Returns whether that changed anything.
pub(in crate::store) fn cancel(
    tx: &mut WriteTransaction<'_>,
    job: JobId,
    reason: &str,
) -> rusqlite::Result<bool> {
    let Some(StoredJob { state, source, handler, ordering_key, failure }) = load_job(tx.conn, job)?
    else {
        return Ok(false);
    };
    if state == JobState::Running {
        let sql = "UPDATE jobs SET cancel_reason = ?2 WHERE id = ?1";
        return tx.conn.change(sql, (job, reason)).map(|_| true);
    }
    // `ended_at` of a dead job stays. An unreleased job has not begun: the outcome of its failed expression is
    // written at its release.
    let changed = tx.conn.change(
        formatcp!(
            "UPDATE jobs SET state = {CANCELLED}, reason = ?2, ended_at = coalesce(ended_at, ?3),
               due_at = NULL, wait_ms = NULL, attempt = iif({IS_UNRELEASED}, 0, attempt),
               failures = iif({IS_UNRELEASED}, 0, failures) WHERE id = ?1 AND {CAN_CANCEL}"
        ),
        (job, reason, tx.cache.wall_ms),
    )?;
    if changed == 0 {
        return Ok(false);
    }
    if state.is_queued() {
        tx.effects.adjust_queued(source, -1);
    }
    tx.effects.count_job(handler, Some(state), Some(JobState::Cancelled));
    settle(tx, (job, source), JobState::Cancelled, reason);
    failures::leave(tx, job, failure)?;
    release_next(tx, handler, ordering_key.as_ref())?;
    Ok(true)
}

/// Queues a job again with fresh attempts and the same idempotency key, unless other jobs have replaced it, or its
/// event has no body any more.
/// It supersedes no other job, and no job supersedes it. Returns whether the job will run.
pub(in crate::store) fn retry(tx: &mut WriteTransaction<'_>, job: JobId) -> rusqlite::Result<bool> {
    let Some(StoredJob { state: before, source, handler, ordering_key, failure }) =
        load_job(tx.conn, job)?
    else {
        return Ok(false);
    };
    // The only unfinished job of its key needs no look at the others.
    let blocking_key = match &ordering_key {
        Some(key) if has_unfinished(tx.conn, handler, key)? => Some(key),
        _ => None,
    };
    let state = if blocking_key.is_some() { JobState::Blocked } else { JobState::Ready };
    let changed = tx.conn.change(
        formatcp!(
            "UPDATE jobs SET state = ?3, age_start = ?2, failures = 0, crashes = 0, due_at = NULL,
               wait_ms = NULL, ended_at = NULL, reason = NULL, debounce_key = NULL
             WHERE id = ?1 AND {CAN_RETRY} AND reevaluation IS NOT 2
               AND NOT EXISTS
                 (SELECT 1 FROM events e WHERE e.id = jobs.event AND e.removed_bytes IS NOT NULL)"
        ),
        (job, tx.cache.handler_time_ms(handler), state),
    )?;
    if changed == 0 {
        return Ok(false);
    }
    if !before.is_queued() {
        tx.effects.adjust_queued(source, 1);
    }
    tx.effects.count_job(handler, Some(before), Some(state));
    failures::leave(tx, job, failure)?;
    wake_queued(tx, handler, blocking_key)?;
    Ok(true)
}
