//! Tables `deferred_events`, `expansions` and `dead_job_retries`: work that is too long for the
//! transaction of its event, or comes after it. The writer does it in short transactions.
//!
//! A deferred event has a row in `deferred_events` and no jobs. Its jobs are inserted unreleased,
//! in a reserved range of job ids. The transaction that inserts the last one deletes the row and makes
//! the range visible, so that an event has all of its jobs or none. Further transactions release the
//! jobs in order: `insert::place_job` decides the state of each as if it was inserted at that moment.
//!
//! After a crash before the jobs are visible, the next process deletes the hidden rows and evaluates
//! the event again. After a later crash, it goes on releasing.

use std::time::Instant;

use crossbeam_channel::Sender;
use rusqlite::{Connection, OptionalExtension, params};

use const_format::formatcp;

use super::dedupe::{self, DedupeCheck, DedupeKey};
use super::effects::{AlertCondition, DeadJobRetry, Effects};
use super::expired_keys;
use super::jobs::reevaluate::{self, Reevaluation};
use super::jobs::transition::{self, IS_DEAD, IS_UNRELEASED, Placement};
use super::jobs::{JobOrigin, OriginKind, insert, load_current_claim};
use super::writer_cache::WriterCache;
use crate::domain::job_plan::{
    DebounceKey, JobKeys, JobPlan, JobSpec, KeyHash, LateDedupe, UniqueKey,
};
use crate::domain::{EventId, HandlerId, JobId, SourceId};

/// Maximum number of dead jobs that duplicates retry in one transaction.
pub(super) const MAX_DEAD_RETRIED: usize = 100;

/// Number of rows that one statement deletes.
const DELETE_CHUNK: i64 = 50;

/// The rows, bytes and time that a transaction has left.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowBudget {
    pub rows: usize,
    pub bytes: usize,
    pub deadline: Instant,
}

impl RowBudget {
    fn spend(&mut self, rows: usize, bytes: usize) {
        self.rows = self.rows.saturating_sub(rows);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    pub fn is_spent(&self) -> bool {
        self.rows == 0 || self.bytes == 0 || Instant::now() >= self.deadline
    }
}

/// A task that needs several short transactions.
#[derive(Debug)]
pub struct BacklogTask {
    kind: TaskKind,
    progress: TaskProgress,
}

/// The own jobs of a deferred event.
#[derive(Debug)]
pub struct EventJobs {
    pub event: EventId,
    pub source: SourceId,
    pub received_at_ms: i64,
    pub specs: Vec<(HandlerId, JobSpec)>,
    pub expression_errors: Option<String>,
    /// The keys of an event that was stored before its `dedupe` was evaluated.
    pub late_dedupe: LateDedupe,
}

#[derive(Debug)]
enum TaskKind {
    Event(EventJobs),
    /// The jobs that replace a retried job. The sender is dropped when the task ends, after the
    /// release of the jobs.
    ReplaceJob(Box<Reevaluation>, #[expect(dead_code)] Option<Sender<()>>),
    /// Rows that are already inserted: by an earlier process, or by a task that failed.
    Resumed(ExpansionRow),
    /// Dead jobs of an event are retried because of a duplicate.
    DeadJobRetry(DeadJobRetry),
    /// Expired keys are deleted.
    KeyPurge,
}

/// A row of `expansions`.
#[derive(Clone, Copy, Debug)]
struct ExpansionRow {
    event: EventId,
    source: SourceId,
    /// The job that these jobs replace; `None` if they are the event's own.
    job: Option<i64>,
}

/// The progress of a task. It advances when its transaction is committed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TaskProgress {
    stage: TaskStage,
    first: i64,
    last: i64,
    /// The next job, in each stage.
    next: i64,
    /// The handler and the item of the next job, as indexes.
    handler: usize,
    item: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum TaskStage {
    #[default]
    Begin,
    Insert,
    Release,
    Remove,
    Ended,
}

impl TaskProgress {
    pub fn has_ended(&self) -> bool {
        self.stage == TaskStage::Ended
    }
}

/// The follow-up of a task that the database rejected.
pub(super) enum FailedTask {
    /// The expander must evaluate this event (unless its jobs are inserted) and all later ones of the
    /// source again.
    Event,
    /// The retried job fails.
    ReplaceJob(Box<Reevaluation>),
    Other,
}

impl BacklogTask {
    fn new(kind: TaskKind) -> Self {
        Self { kind, progress: TaskProgress::default() }
    }

    /// Creates a task that inserts the jobs of a deferred event.
    pub fn insert_event_jobs(jobs: EventJobs) -> Self {
        Self::new(TaskKind::Event(jobs))
    }

    /// Creates a task that replaces a retried job by other jobs. `done` is dropped when the task
    /// ends.
    pub fn replace_job(reevaluation: Box<Reevaluation>, done: Sender<()>) -> Self {
        Self::new(TaskKind::ReplaceJob(reevaluation, Some(done)))
    }

    pub(super) fn retry_dead_jobs(retry: DeadJobRetry) -> Self {
        let progress = TaskProgress { next: retry.after_job, ..TaskProgress::default() };
        Self { kind: TaskKind::DeadJobRetry(retry), progress }
    }

    pub(super) fn purge_keys() -> Self {
        Self::new(TaskKind::KeyPurge)
    }

    /// Returns the source that the task belongs to.
    pub(super) fn source(&self) -> SourceId {
        match &self.kind {
            TaskKind::Event(jobs) => jobs.source,
            TaskKind::ReplaceJob(reevaluation, _) => reevaluation.claimed.source,
            TaskKind::Resumed(expansion) => expansion.source,
            TaskKind::DeadJobRetry(retry) => retry.source,
            TaskKind::KeyPurge => SourceId(0),
        }
    }

    /// Returns true if the task ends when a deferred event has its jobs.
    pub(super) fn is_event_task(&self) -> bool {
        match &self.kind {
            TaskKind::Event(_) => self.progress.stage != TaskStage::Remove,
            TaskKind::Resumed(expansion) => {
                expansion.job.is_none() && self.progress.stage == TaskStage::Release
            }
            _ => false,
        }
    }

    /// Returns true while the event has no visible jobs.
    pub(super) fn is_inserting_event(&self) -> bool {
        matches!(self.kind, TaskKind::Event(_))
            && matches!(self.progress.stage, TaskStage::Begin | TaskStage::Insert)
    }

    /// Advances the task, and frees the plan once the jobs are inserted.
    pub(super) fn advance(&mut self, progress: TaskProgress) {
        self.progress = progress;
        if let (TaskKind::Event(jobs), TaskStage::Release) = (&mut self.kind, progress.stage) {
            jobs.specs = Vec::new();
        }
        if let (TaskKind::ReplaceJob(reevaluation, _), TaskStage::Release) =
            (&mut self.kind, progress.stage)
        {
            reevaluation.spec = None;
        }
    }

    /// Splits a task that the database rejected into the removal of its hidden rows and the
    /// follow-up.
    pub(super) fn into_failure(self) -> (Option<BacklogTask>, FailedTask) {
        let TaskProgress { stage, first, last, .. } = self.progress;
        let expansion = ExpansionRow { event: EventId(0), source: self.source(), job: Some(0) };
        let removal = (stage == TaskStage::Insert).then_some(BacklogTask {
            kind: TaskKind::Resumed(expansion),
            progress: TaskProgress {
                stage: TaskStage::Remove,
                first,
                last,
                next: first,
                ..TaskProgress::default()
            },
        });
        let failed = match self.kind {
            TaskKind::Event(_) => FailedTask::Event,
            // The expander evaluates the later events of the source again.
            TaskKind::Resumed(expansion) if expansion.job.is_none() => FailedTask::Event,
            TaskKind::ReplaceJob(reevaluation, _) if stage != TaskStage::Release => {
                FailedTask::ReplaceJob(reevaluation)
            }
            _ => FailedTask::Other,
        };
        (removal, failed)
    }

    /// Returns the retried job, if its jobs are not all inserted yet.
    pub(super) fn into_unfinished_replacement(self) -> Option<Box<Reevaluation>> {
        match self.kind {
            TaskKind::ReplaceJob(reevaluation, _)
                if matches!(self.progress.stage, TaskStage::Begin | TaskStage::Insert) =>
            {
                Some(reevaluation)
            }
            _ => None,
        }
    }

    /// Does as much of the task as the budget allows, but at least one part. Returns the new
    /// progress.
    ///
    /// # Errors
    /// The write failed, or the items cannot be read.
    pub(super) fn step(
        &self,
        conn: &Connection,
        cache: &mut WriterCache,
        budget: &mut RowBudget,
    ) -> rusqlite::Result<(TaskProgress, Effects)> {
        let (mut progress, mut effects) = (self.progress, Effects::default());
        loop {
            let changes = match progress.stage {
                TaskStage::Begin => self.begin(conn, cache, &mut progress, budget)?,
                TaskStage::Insert => self.insert(conn, cache, &mut progress, budget)?,
                TaskStage::Release => self.release(conn, cache, &mut progress, budget)?,
                TaskStage::Remove => {
                    delete_unreleased_jobs(conn, &mut progress, budget)?;
                    Effects::default()
                }
                TaskStage::Ended => return Ok((progress, effects)),
            };
            effects.merge(changes);
            if budget.is_spent() {
                return Ok((progress, effects));
            }
        }
    }

    fn begin(
        &self,
        conn: &Connection,
        cache: &mut WriterCache,
        progress: &mut TaskProgress,
        budget: &mut RowBudget,
    ) -> rusqlite::Result<Effects> {
        match &self.kind {
            TaskKind::Event(jobs) => begin_event(conn, cache, jobs, progress, budget),
            TaskKind::ReplaceJob(reevaluation, _) => {
                let current = load_current_claim(conn, reevaluation.claimed.claim)?;
                let is_wanted = current.is_some_and(|current| current.cancel_reason.is_none());
                match &reevaluation.spec {
                    Some(spec) if is_wanted => {
                        let claimed = &reevaluation.claimed;
                        let (event, source) = (claimed.event, claimed.source);
                        let job = Some(claimed.claim.job.0);
                        let expansion = ExpansionRow { event, source, job };
                        reserve_job_ids(conn, cache, expansion, spec.job_count(), progress)?;
                        Ok(Effects::default())
                    }
                    // The job was cancelled, has ended, or is not wanted.
                    _ => {
                        progress.stage = TaskStage::Ended;
                        reevaluate::apply_reevaluation(conn, cache, reevaluation)
                    }
                }
            }
            TaskKind::DeadJobRetry(DeadJobRetry { event, .. }) => {
                let limit = MAX_DEAD_RETRIED.min(budget.rows);
                let (dead, effects) = retry_dead_jobs(conn, cache, *event, progress.next, limit)?;
                budget.spend(dead.count.max(1), 0);
                progress.next = dead.last;
                if dead.count < limit {
                    conn.prepare_cached("DELETE FROM dead_job_retries WHERE event = ?1")?
                        .execute([event.0])?;
                    progress.stage = TaskStage::Ended;
                } else {
                    conn.prepare_cached(
                        "UPDATE dead_job_retries SET after_job = ?2 WHERE event = ?1",
                    )?
                    .execute([event.0, dead.last])?;
                }
                Ok(effects)
            }
            TaskKind::KeyPurge => {
                let deleted = expired_keys::purge(conn, cache.now_ms)?;
                budget.spend(deleted.max(1), 0);
                if deleted == 0 {
                    progress.stage = TaskStage::Ended;
                }
                Ok(Effects::default())
            }
            TaskKind::Resumed(_) => {
                progress.stage = TaskStage::Ended;
                Ok(Effects::default())
            }
        }
    }

    /// Inserts unreleased jobs. After the last one, makes all of them visible.
    fn insert(
        &self,
        conn: &Connection,
        cache: &mut WriterCache,
        progress: &mut TaskProgress,
        budget: &mut RowBudget,
    ) -> rusqlite::Result<Effects> {
        let replacement;
        let (specs, origin) = match &self.kind {
            TaskKind::Event(jobs) => (&jobs.specs[..], event_origin(jobs)),
            TaskKind::ReplaceJob(reevaluation, _) => {
                let handler = reevaluation.claimed.handler;
                replacement = reevaluation.spec.clone().map(|spec| (handler, spec));
                (replacement.as_slice(), reevaluation.job_origin())
            }
            _ => {
                progress.stage = TaskStage::Ended;
                return Ok(Effects::default());
            }
        };
        let mut body = Vec::new();
        while let Some((handler, spec)) = specs.get(progress.handler) {
            if spec.job_count() == 0 {
                progress.handler += 1;
                continue;
            }
            let origin = JobOrigin { handler: *handler, ..origin };
            let (id, item) = (progress.next, progress.item);
            insert::insert_unreleased(conn, cache, origin, (id, item), spec, &mut body)?;
            budget.spend(1, body.len());
            progress.next += 1;
            progress.item += 1;
            if progress.item >= spec.job_count() {
                (progress.handler, progress.item) = (progress.handler + 1, 0);
            }
            if budget.is_spent() && progress.handler < self.handler_count() {
                return Ok(Effects::default());
            }
        }
        self.make_visible(conn, cache, progress)
    }

    fn handler_count(&self) -> usize {
        match &self.kind {
            TaskKind::Event(jobs) => jobs.specs.len(),
            _ => 1,
        }
    }

    /// Makes all jobs of the task visible.
    fn make_visible(
        &self,
        conn: &Connection,
        cache: &WriterCache,
        progress: &mut TaskProgress,
    ) -> rusqlite::Result<Effects> {
        let TaskProgress { first, last, .. } = *progress;
        let count = last + 1 - first;
        let mut effects = Effects::default();
        progress.next = first;
        progress.stage = TaskStage::Release;
        match &self.kind {
            TaskKind::Event(jobs) => {
                let counted = settle_event(conn, jobs)?;
                effects.adjust_queued(jobs.source, count - counted);
            }
            TaskKind::ReplaceJob(reevaluation, _) => {
                let into = format!("jobs {first}–{last}");
                let (is_wanted, changes) =
                    reevaluate::close_replaced_job(conn, cache, reevaluation, &into)?;
                effects.merge(changes);
                if !is_wanted {
                    progress.stage = TaskStage::Remove;
                    return Ok(effects);
                }
                effects.adjust_queued(reevaluation.claimed.source, count);
            }
            _ => {}
        }
        conn.prepare_cached("UPDATE expansions SET is_visible = 1 WHERE first_job = ?1")?
            .execute([first])?;
        Ok(effects)
    }

    /// Releases jobs in order.
    fn release(
        &self,
        conn: &Connection,
        cache: &mut WriterCache,
        progress: &mut TaskProgress,
        budget: &mut RowBudget,
    ) -> rusqlite::Result<Effects> {
        let expansion = match &self.kind {
            TaskKind::Event(jobs) => {
                ExpansionRow { event: jobs.event, source: jobs.source, job: None }
            }
            TaskKind::ReplaceJob(reevaluation, _) => ExpansionRow {
                event: reevaluation.claimed.event,
                source: reevaluation.claimed.source,
                job: Some(reevaluation.claimed.claim.job.0),
            },
            TaskKind::Resumed(expansion) => *expansion,
            TaskKind::DeadJobRetry(_) | TaskKind::KeyPurge => {
                progress.stage = TaskStage::Ended;
                return Ok(Effects::default());
            }
        };
        let mut effects = Effects::default();
        let rows = load_unreleased(conn, progress, budget.rows)?;
        let is_last_chunk = rows.len() < budget.rows;
        for row in &rows {
            effects.merge(admit_job(conn, cache, expansion, row)?);
            progress.next = row.id + 1;
            budget.spend(1, 1);
            if budget.is_spent() {
                break;
            }
        }
        if is_last_chunk && rows.last().is_none_or(|row| row.id < progress.next) {
            conn.prepare_cached("DELETE FROM expansion_keys WHERE job BETWEEN ?1 AND ?2")?
                .execute([progress.first, progress.last])?;
            delete_expansion(conn, progress.first)?;
            if expansion.job.is_none() {
                effects.adjust_deferred(expansion.source, -1);
            }
            progress.stage = TaskStage::Ended;
        } else {
            conn.prepare_cached("UPDATE expansions SET next_job = ?2 WHERE first_job = ?1")?
                .execute([progress.first, progress.next])?;
        }
        Ok(effects)
    }
}

/// Returns true if jobs of earlier events of this source are not inserted yet. `group` are the effects of the
/// transaction so far.
pub(super) fn is_deferring(cache: &WriterCache, group: &Effects, source: SourceId) -> bool {
    let committed = cache.deferred.get(&source).copied().unwrap_or(0);
    group.deferred_change(source).saturating_add_unsigned(committed as u64) > 0
}

/// Marks an event that was just stored as deferred.
pub(super) fn defer_event(
    conn: &Connection,
    event: i64,
    source: SourceId,
    (plan, late_since_ms): (&JobPlan, Option<i64>),
    effects: &mut Effects,
) -> rusqlite::Result<()> {
    let handlers = plan.event_handlers().iter().map(|handler| handler.0).collect::<Vec<_>>();
    let handlers = format!("{handlers:?}"); // a JSON array
    let jobs = i64::try_from(plan.job_count()).unwrap_or(i64::MAX);
    conn.prepare_cached(
        "INSERT INTO deferred_events (event, source, handlers, job_count, dedupe_at)
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![event, source.0, handlers, jobs, late_since_ms])?;
    effects.adjust_deferred(source, 1);
    effects.adjust_queued(source, jobs);
    Ok(())
}

/// Loads the deferred events of each source into the cache, and returns the tasks that an earlier
/// process had begun.
pub(super) fn load_tasks(
    conn: &Connection,
    cache: &mut WriterCache,
) -> rusqlite::Result<Vec<BacklogTask>> {
    let mut select =
        conn.prepare("SELECT source, count(*) FROM deferred_events GROUP BY source")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let events = usize::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
        cache.deferred.insert(SourceId(row.get(0)?), events);
    }
    let mut select = conn.prepare(
        "SELECT first_job, last_job, next_job, event, source, job, is_visible
         FROM expansions ORDER BY first_job",
    )?;
    let mut tasks = Vec::new();
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let expansion = ExpansionRow {
            event: EventId(row.get(3)?),
            source: SourceId(row.get(4)?),
            job: row.get(5)?,
        };
        let (first, last, next) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let stage = if row.get(6)? { TaskStage::Release } else { TaskStage::Remove };
        let progress = TaskProgress { stage, first, last, next, ..TaskProgress::default() };
        if stage == TaskStage::Release && expansion.job.is_none() {
            cache.apply_deferred(&[(expansion.source, 1)]);
        }
        tasks.push(BacklogTask { kind: TaskKind::Resumed(expansion), progress });
    }
    let mut select = conn.prepare(
        "SELECT e.source, e.id, r.after_job FROM dead_job_retries r JOIN events e ON e.id = r.event",
    )?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (source, event) = (SourceId(row.get(0)?), EventId(row.get(1)?));
        tasks.push(BacklogTask::retry_dead_jobs(DeadJobRetry {
            source,
            event,
            after_job: row.get(2)?,
        }));
    }
    Ok(tasks)
}

/// Returns the next deferred events of a source, oldest first, and whether their `dedupe` must be evaluated.
///
/// # Errors
/// The read failed.
pub fn list_events(
    conn: &Connection,
    source: SourceId,
    after: EventId,
    limit: usize,
) -> rusqlite::Result<Vec<(EventId, bool)>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    conn.prepare_cached(
        "SELECT event, dedupe_at IS NOT NULL FROM deferred_events
         WHERE source = ?1 AND event > ?2 ORDER BY event LIMIT ?3",
    )?
    .query_map([source.0, after.0, limit], |row| Ok((EventId(row.get(0)?), row.get(1)?)))?
    .collect()
}

fn event_origin(jobs: &EventJobs) -> JobOrigin {
    JobOrigin {
        event: jobs.event.0,
        source: jobs.source,
        handler: HandlerId(0),
        created_at_ms: jobs.received_at_ms,
        kind: OriginKind::DeferredEvent,
    }
}

/// Inserts the jobs of a deferred event if they are few. Otherwise reserves their ids.
fn begin_event(
    conn: &Connection,
    cache: &mut WriterCache,
    jobs: &EventJobs,
    progress: &mut TaskProgress,
    budget: &mut RowBudget,
) -> rusqlite::Result<Effects> {
    let mut effects = Effects::default();
    // After the database rejected a task, the expander may send an event twice.
    let Some(dedupe_at_ms) = load_dedupe_at(conn, jobs.event)? else {
        progress.stage = TaskStage::Ended;
        return Ok(effects);
    };
    if let Some(at_ms) = dedupe_at_ms
        && let Some(original) = apply_late_dedupe(conn, jobs, at_ms)?
    {
        progress.stage = TaskStage::Ended;
        return cancel_duplicate(conn, cache, jobs, original, budget);
    }
    let count: usize = jobs.specs.iter().map(|(_, spec)| spec.job_count()).sum();
    let is_large = jobs.specs.iter().any(|(_, spec)| spec.is_large()) || count > budget.rows;
    if is_large {
        let (event, source) = (jobs.event, jobs.source);
        let expansion = ExpansionRow { event, source, job: None };
        reserve_job_ids(conn, cache, expansion, count, progress)?;
        return Ok(effects);
    }
    for (handler, spec) in &jobs.specs {
        let origin = JobOrigin { handler: *handler, ..event_origin(jobs) };
        effects.merge(insert::insert_jobs(conn, cache, origin, spec)?);
        budget.spend(spec.job_count(), usize::try_from(spec.bytes()).unwrap_or(usize::MAX));
    }
    budget.spend(1, 0);
    if jobs.specs.is_empty() {
        effects.alerts.push(AlertCondition::UnhandledEvent(jobs.event, jobs.source));
    }
    let counted = settle_event(conn, jobs)?;
    effects.adjust_queued(jobs.source, -counted);
    effects.adjust_deferred(jobs.source, -1);
    progress.stage = TaskStage::Ended;
    Ok(effects)
}

/// Returns when a deferred event was stored, if its `dedupe` is late. The outer `None`: it is not deferred.
fn load_dedupe_at(conn: &Connection, event: EventId) -> rusqlite::Result<Option<Option<i64>>> {
    conn.prepare_cached("SELECT dedupe_at FROM deferred_events WHERE event = ?1")?
        .query_row([event.0], |row| row.get(0))
        .optional()
}

/// Looks up the keys of an event whose `dedupe` was late, and returns the event that it repeats. Otherwise
/// saves the keys. They are valid from the moment at which the event was stored.
fn apply_late_dedupe(
    conn: &Connection,
    jobs: &EventJobs,
    stored_at_ms: i64,
) -> rusqlite::Result<Option<EventId>> {
    let LateDedupe { source_key, body_key, window_ms, .. } = jobs.late_dedupe;
    let with_window = |key| DedupeKey { key, window_ms };
    let (source_key, delivery_key) = (source_key.map(with_window), body_key.map(with_window));
    let keys = DedupeCheck { source_key, delivery_key, ..DedupeCheck::default() };
    if let Some(original) = dedupe::find_original(conn, jobs.source, &keys, stored_at_ms)? {
        return Ok(Some(original));
    }
    if source_key.is_some() {
        for key in source_key.iter().chain(&delivery_key) {
            dedupe::save_key(conn, jobs.source, key, jobs.event.0, stored_at_ms)?;
        }
    }
    // An event with many jobs stays deferred. After a crash it must not find its own key.
    conn.prepare_cached("UPDATE deferred_events SET dedupe_at = NULL WHERE event = ?1")?
        .execute([jobs.event.0])?;
    Ok(None)
}

/// Records that an event turned out to be a duplicate. Inserts a cancelled job for each of its handlers.
fn cancel_duplicate(
    conn: &Connection,
    cache: &mut WriterCache,
    jobs: &EventJobs,
    original: EventId,
    budget: &mut RowBudget,
) -> rusqlite::Result<Effects> {
    budget.spend(2 + jobs.specs.len(), 0);
    let mut effects = Effects::default();
    if jobs.late_dedupe.retry_dead {
        let limit = MAX_DEAD_RETRIED.min(budget.rows);
        effects = retry_dead_jobs_of_event(conn, cache, limit, jobs.source, original)?;
        budget.spend(effects.retried_dead_jobs, 0);
    }
    conn.prepare_cached("SELECT ip, body FROM events WHERE id = ?1")?.query_row(
        [jobs.event.0],
        |row| {
            let (ip, body) = (row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_bytes()?);
            dedupe::insert_duplicate(conn, original, jobs.received_at_ms, ip, body)
        },
    )?;
    effects.minute_counts.add_duplicate(jobs.source);
    let reason = format!("duplicate of event {}", original.0);
    for (handler, _) in jobs.specs.iter().filter(|(_, spec)| spec.job_count() > 0) {
        let origin = JobOrigin { handler: *handler, ..event_origin(jobs) };
        let placement = Placement::Cancelled(reason.clone());
        effects.merge(insert::insert_ended(conn, cache, origin, placement)?);
    }
    effects.adjust_queued(jobs.source, -settle_event(conn, jobs)?);
    effects.adjust_deferred(jobs.source, -1);
    Ok(effects)
}

/// Returns true if the jobs of an event are not inserted yet.
///
/// # Errors
/// The read failed.
pub fn is_deferred(conn: &Connection, event: EventId) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM deferred_events WHERE event = ?1)")?
        .query_row([event.0], |row| row.get(0))
}

/// Deletes the row of a deferred event, because its jobs are inserted. Returns how many queued jobs
/// the event counted as.
fn settle_event(conn: &Connection, jobs: &EventJobs) -> rusqlite::Result<i64> {
    let counted = conn
        .prepare_cached("DELETE FROM deferred_events WHERE event = ?1 RETURNING job_count")?
        .query_row([jobs.event.0], |row| row.get(0))?;
    if let Some(errors) = &jobs.expression_errors {
        conn.prepare_cached("UPDATE events SET note = ?2 WHERE id = ?1")?
            .execute(params![jobs.event.0, errors])?;
    }
    Ok(counted)
}

fn reserve_job_ids(
    conn: &Connection,
    cache: &mut WriterCache,
    expansion: ExpansionRow,
    count: usize,
    progress: &mut TaskProgress,
) -> rusqlite::Result<()> {
    let first = cache.counters.job + 1;
    let last = cache.counters.job.saturating_add(i64::try_from(count).unwrap_or(i64::MAX));
    conn.prepare_cached(
        "INSERT INTO expansions (first_job, last_job, next_job, event, source, job)
         VALUES (?1, ?2, ?1, ?3, ?4, ?5)",
    )?
    .execute(params![first, last, expansion.event.0, expansion.source.0, expansion.job])?;
    cache.counters.job = last;
    (progress.first, progress.last, progress.next) = (first, last, first);
    progress.stage = TaskStage::Insert;
    Ok(())
}

/// A job that waits for its release.
struct UnreleasedJob {
    id: i64,
    handler: HandlerId,
    /// The reason why its expression failed.
    failure: Option<String>,
    keys: JobKeys,
}

fn load_unreleased(
    conn: &Connection,
    progress: &TaskProgress,
    limit: usize,
) -> rusqlite::Result<Vec<UnreleasedJob>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    conn.prepare_cached(formatcp!(
        "SELECT j.id, j.handler, CASE WHEN j.reevaluation = 1 THEN j.reason END, j.ordering_key,
           j.debounce_key, k.unique_key, k.unique_window_ms, k.debounce_ms
         FROM jobs j LEFT JOIN expansion_keys k ON k.job = j.id
         WHERE j.id BETWEEN ?1 AND ?2 AND {IS_UNRELEASED} ORDER BY j.id LIMIT ?3"
    ))?
    .query_map(params![progress.next, progress.last, limit], |row| {
        let debounce: Option<KeyHash> = row.get(4)?;
        let unique: Option<KeyHash> = row.get(5)?;
        let window_ms = row.get::<_, Option<i64>>(6)?.unwrap_or(0);
        let debounce_ms = row.get::<_, Option<i64>>(7)?.unwrap_or(0);
        Ok(UnreleasedJob {
            id: row.get(0)?,
            handler: HandlerId(row.get(1)?),
            failure: row.get(2)?,
            keys: JobKeys {
                ordering: row.get(3)?,
                version: None,
                unique: unique.map(|key| UniqueKey { key, window_ms }),
                debounce: debounce.map(|key| DebounceKey { key, debounce_ms }),
            },
        })
    })?
    .collect()
}

fn admit_job(
    conn: &Connection,
    cache: &mut WriterCache,
    expansion: ExpansionRow,
    job: &UnreleasedJob,
) -> rusqlite::Result<Effects> {
    let origin = JobOrigin {
        event: expansion.event.0,
        source: expansion.source,
        handler: job.handler,
        created_at_ms: 0,
        kind: match expansion.job {
            Some(_) => OriginKind::Retry { replay: 0 },
            None => OriginKind::DeferredEvent,
        },
    };
    insert::admit_job(conn, cache, origin, job.id, (&job.keys, job.failure.as_deref()))
}

/// Deletes unreleased jobs, and then their row of `expansions`.
fn delete_unreleased_jobs(
    conn: &Connection,
    progress: &mut TaskProgress,
    budget: &mut RowBudget,
) -> rusqlite::Result<()> {
    while progress.next <= progress.last {
        let to = progress.last.min(progress.next + DELETE_CHUNK - 1);
        let mut removed = 0;
        for sql in [
            "DELETE FROM items WHERE job BETWEEN ?1 AND ?2",
            "DELETE FROM expansion_keys WHERE job BETWEEN ?1 AND ?2",
        ] {
            removed += conn.prepare_cached(sql)?.execute([progress.next, to])?;
        }
        removed += transition::delete_unreleased(conn, progress.next, to)?;
        budget.spend(removed.max(1), 1);
        progress.next = to + 1;
        if budget.is_spent() && progress.next <= progress.last {
            return Ok(());
        }
    }
    delete_expansion(conn, progress.first)?;
    progress.stage = TaskStage::Ended;
    Ok(())
}

fn delete_expansion(conn: &Connection, first: i64) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM expansions WHERE first_job = ?1")?.execute([first])?;
    Ok(())
}

/// Retries the dead jobs of an event with fresh attempts: `limit` now, the others in later
/// transactions.
pub(super) fn retry_dead_jobs_of_event(
    conn: &Connection,
    cache: &WriterCache,
    limit: usize,
    source: SourceId,
    event: EventId,
) -> rusqlite::Result<Effects> {
    let (dead, mut effects) = retry_dead_jobs(conn, cache, event, 0, limit)?;
    effects.retried_dead_jobs += dead.count;
    if dead.count == limit {
        let sql = "INSERT OR IGNORE INTO dead_job_retries (event, after_job) VALUES (?1, ?2)";
        if conn.prepare_cached(sql)?.execute([event.0, dead.last])? == 1 {
            effects.dead_job_retries.push(DeadJobRetry { source, event, after_job: dead.last });
        }
    }
    Ok(effects)
}

/// Dead jobs that were retried.
struct RetriedJobs {
    count: usize,
    /// The id of the last one.
    last: i64,
}

/// Retries the dead jobs of an event whose ids are above `after`, at most `limit`.
fn retry_dead_jobs(
    conn: &Connection,
    cache: &WriterCache,
    event: EventId,
    after: i64,
    limit: usize,
) -> rusqlite::Result<(RetriedJobs, Effects)> {
    let mut select = conn.prepare_cached(formatcp!(
        "SELECT id FROM (
           SELECT j.id FROM events e CROSS JOIN jobs j INDEXED BY jobs_dead
             WHERE e.id = ?1 AND {IS_DEAD} AND j.id > ?2 AND j.id BETWEEN e.first_job AND e.last_job
           UNION ALL
           SELECT id FROM jobs WHERE appended_to = ?1 AND {IS_DEAD} AND id > ?2)
         ORDER BY id LIMIT ?3"
    ))?;
    let values = params![event.0, after, i64::try_from(limit).unwrap_or(i64::MAX)];
    let dead: Vec<i64> =
        select.query_map(values, |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let mut effects = Effects::default();
    for &job in &dead {
        effects.merge(transition::retry(conn, cache, JobId(job))?.1);
    }
    Ok((RetriedJobs { count: dead.len(), last: dead.last().copied().unwrap_or(after) }, effects))
}
