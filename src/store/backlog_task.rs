//! Tasks that are too long for one transaction, or come after the transaction of their event. The writer does
//! them in short transactions.
//!
//! After a crash before the jobs of a deferred event are visible, the next process deletes the hidden rows and
//! evaluates the event again. After a later crash, it goes on releasing.

use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use rusqlite::Connection;

use super::backfill::{self, Backfill};
use super::deferred::{self, EventJobs};
use super::effects::DeadJobRetry;
use super::expansions::{self, Expansion, JobRange};
use super::jobs::reevaluate::{self, Reevaluation};
use super::jobs::{JobOrigin, insert, load_current_claim};
use super::retention::{self, RemovalProgress, RetentionBatch};
use super::row_budget::RowBudget;
use super::write_transaction::WriteTransaction;
use super::writer_cache::WriterCache;
use super::{dead_job_retries, expired_keys};
use crate::domain::job_plan::JobSpec;
use crate::domain::{EventId, JobId, SourceId};

/// A task that needs several short transactions.
#[derive(Debug)]
pub struct BacklogTask {
    kind: TaskKind,
    progress: TaskProgress,
}

#[derive(Debug)]
enum TaskKind {
    Event(EventJobs),
    /// The jobs that replace a retried job. The sender is dropped when the task ends, after the
    /// release of the jobs.
    ReplaceJob(Box<Reevaluation>, #[expect(dead_code)] Option<Sender<()>>),
    /// Rows that are already inserted: by an earlier process, or by a task that failed.
    Resumed(Expansion),
    /// Dead jobs of an event are retried because of a duplicate.
    DeadJobRetry(DeadJobRetry),
    /// Expired keys are deleted.
    KeyPurge,
    /// The rows of a large table are migrated.
    Backfill(Backfill),
    /// The sender is dropped when the task ends.
    Retention(RetentionStep, #[expect(dead_code)] Sender<()>),
}

/// A step of `retention`.
#[derive(Debug)]
pub enum RetentionStep {
    Batch(RetentionBatch),
    /// Removals that an earlier process began are completed.
    Unfinished,
    /// Free pages are returned to the file system.
    FreePages,
}

/// How long a step of `retention` may use a transaction. Intake waits for it and for its commit, so it is shorter than
/// for work on jobs.
const MAX_RETENTION_TIME: Duration = Duration::from_micros(1500);

/// The progress of a task. It advances when its transaction is committed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TaskProgress {
    stage: TaskStage,
    range: JobRange,
    /// The handler and the item of the next job, as indexes.
    handler: usize,
    item: usize,
    batch: RemovalProgress,
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

    fn is_inserting(&self) -> bool {
        matches!(self.stage, TaskStage::Begin | TaskStage::Insert)
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

    fn resume(expansion: Expansion, stage: TaskStage, range: JobRange) -> Self {
        let progress = TaskProgress { stage, range, ..TaskProgress::default() };
        Self { kind: TaskKind::Resumed(expansion), progress }
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
        Self::new(TaskKind::DeadJobRetry(retry))
    }

    pub(super) fn backfill(backfill: Backfill) -> Self {
        Self::new(TaskKind::Backfill(backfill))
    }

    pub(super) fn purge_keys() -> Self {
        Self::new(TaskKind::KeyPurge)
    }

    /// Creates a task for `retention`. `done` is dropped when it ends.
    pub fn retain(step: RetentionStep, done: Sender<()>) -> Self {
        Self::new(TaskKind::Retention(step, done))
    }

    /// Returns the source that the task belongs to.
    pub(super) fn source(&self) -> SourceId {
        match &self.kind {
            TaskKind::Event(jobs) => jobs.source,
            TaskKind::ReplaceJob(reevaluation, _) => reevaluation.claimed.source,
            TaskKind::Resumed(expansion) => expansion.source,
            TaskKind::DeadJobRetry(retry) => retry.source,
            TaskKind::KeyPurge | TaskKind::Backfill(_) | TaskKind::Retention(..) => SourceId(0),
        }
    }

    /// Returns the expansion of the task's jobs. A task without jobs has none.
    fn expansion(&self) -> Option<Expansion> {
        let (event, source, job) = match &self.kind {
            TaskKind::Event(jobs) => (jobs.event, jobs.source, None),
            TaskKind::ReplaceJob(reevaluation, _) => {
                let claimed = &reevaluation.claimed;
                (claimed.event, claimed.source, Some(claimed.claim.job))
            }
            TaskKind::Resumed(expansion) => return Some(*expansion),
            TaskKind::DeadJobRetry(_)
            | TaskKind::KeyPurge
            | TaskKind::Backfill(_)
            | TaskKind::Retention(..) => return None,
        };
        Some(Expansion { event, source, job })
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
        matches!(self.kind, TaskKind::Event(_)) && self.progress.is_inserting()
    }

    /// Advances the task, and frees the plan once the jobs are inserted.
    pub(super) fn advance(&mut self, progress: TaskProgress) {
        self.progress = progress;
        if progress.stage == TaskStage::Release {
            match &mut self.kind {
                TaskKind::Event(jobs) => jobs.specs = Vec::new(),
                TaskKind::ReplaceJob(reevaluation, _) => reevaluation.spec = None,
                _ => {}
            }
        }
    }

    /// Returns what fails if the database rejects the task, for the log.
    pub(super) fn problem(&self) -> &'static str {
        match &self.kind {
            TaskKind::Event(_) | TaskKind::ReplaceJob(..) | TaskKind::Resumed(_) => {
                "jobs could not be inserted"
            }
            TaskKind::DeadJobRetry(_) => "dead jobs could not be retried",
            TaskKind::KeyPurge => "expired keys could not be deleted",
            TaskKind::Backfill(_) => "rows could not be migrated",
            TaskKind::Retention(..) => "events could not be removed",
        }
    }

    /// Splits a task that the database rejected into the removal of its hidden rows and the
    /// follow-up.
    pub(super) fn into_failure(self) -> (Option<BacklogTask>, FailedTask) {
        let TaskProgress { stage, range, .. } = self.progress;
        let removal = (stage == TaskStage::Insert).then(|| {
            let (event, job) = (EventId(0), Some(JobId(0)));
            let expansion = Expansion { event, source: self.source(), job };
            Self::resume(expansion, TaskStage::Remove, JobRange { next: range.first, ..range })
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
            TaskKind::ReplaceJob(reevaluation, _) => {
                self.progress.is_inserting().then_some(reevaluation)
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
        tx: &mut WriteTransaction<'_>,
        budget: &mut RowBudget,
    ) -> rusqlite::Result<TaskProgress> {
        let mut progress = self.progress;
        while !progress.has_ended() {
            let range = &mut progress.range;
            let is_done = match (progress.stage, self.expansion()) {
                (TaskStage::Begin, _) => self.begin(tx, &mut progress, budget)?,
                (TaskStage::Insert, _) => self.insert(tx, &mut progress, budget)?,
                (TaskStage::Release, Some(expansion)) => {
                    expansions::release_jobs(tx, expansion, range, budget)?
                }
                (TaskStage::Remove, _) => expansions::delete_jobs(tx.conn, range, budget)?,
                (TaskStage::Release | TaskStage::Ended, _) => true,
            };
            if is_done {
                progress.stage = TaskStage::Ended;
            }
            if budget.is_spent() {
                break;
            }
        }
        Ok(progress)
    }

    /// Does the task, or reserves the ids of its jobs. Returns whether the task has ended, as `insert` does.
    fn begin(
        &self,
        tx: &mut WriteTransaction<'_>,
        progress: &mut TaskProgress,
        budget: &mut RowBudget,
    ) -> rusqlite::Result<bool> {
        let job_count = match &self.kind {
            TaskKind::Event(jobs) => deferred::insert_event_jobs(tx, jobs, budget)?,
            TaskKind::ReplaceJob(reevaluation, _) => {
                let current = load_current_claim(tx.conn, reevaluation.claimed.claim)?;
                let is_wanted = current.is_some_and(|current| current.cancel_reason.is_none());
                let spec = reevaluation.spec.as_ref().filter(|_| is_wanted);
                if spec.is_none() {
                    // The job was cancelled, has ended, or is not wanted.
                    reevaluate::apply_reevaluation(tx, reevaluation)?;
                }
                spec.map(JobSpec::job_count)
            }
            TaskKind::DeadJobRetry(retry) => {
                let after_job = &mut progress.range.next;
                *after_job = retry.after_job.max(*after_job);
                return dead_job_retries::continue_retry(tx, retry.event, after_job, budget);
            }
            TaskKind::KeyPurge => {
                let deleted = expired_keys::purge(tx.conn, tx.cache.now_ms)?;
                budget.spend(deleted.max(1), 0);
                return Ok(deleted == 0);
            }
            TaskKind::Backfill(backfill) => return backfill::step(tx.conn, backfill, budget),
            TaskKind::Retention(step, _) => {
                budget.deadline = budget.deadline.min(Instant::now() + MAX_RETENTION_TIME);
                return match step {
                    RetentionStep::Batch(batch) => {
                        progress.batch = retention::apply_batch(tx, batch, progress.batch, budget)?;
                        Ok(progress.batch.is_done)
                    }
                    RetentionStep::Unfinished => retention::finish_removals(tx, budget),
                    RetentionStep::FreePages => retention::return_free_pages(tx.conn, budget),
                };
            }
            TaskKind::Resumed(_) => None,
        };
        let (Some(count), Some(expansion)) = (job_count, self.expansion()) else {
            return Ok(true);
        };
        progress.range = expansions::reserve(tx, expansion, count)?;
        progress.stage = TaskStage::Insert;
        Ok(false)
    }

    /// Inserts unreleased jobs. After the last one, makes all of them visible.
    fn insert(
        &self,
        tx: &mut WriteTransaction<'_>,
        progress: &mut TaskProgress,
        budget: &mut RowBudget,
    ) -> rusqlite::Result<bool> {
        let replacement;
        let (specs, origin) = match &self.kind {
            TaskKind::Event(jobs) => (&jobs.specs[..], jobs.job_origin()),
            TaskKind::ReplaceJob(reevaluation, _) => {
                let handler = reevaluation.claimed.handler;
                replacement = reevaluation.spec.clone().map(|spec| (handler, spec));
                (replacement.as_slice(), reevaluation.job_origin())
            }
            _ => return Ok(true),
        };
        let mut body = Vec::new();
        while let Some((handler, spec)) = specs.get(progress.handler) {
            if progress.item >= spec.job_count() {
                (progress.handler, progress.item) = (progress.handler + 1, 0);
                continue;
            }
            let origin = JobOrigin { handler: *handler, ..origin };
            let id_and_item = (progress.range.next, progress.item);
            insert::insert_unreleased(tx, origin, id_and_item, spec, &mut body)?;
            budget.spend(1, body.len());
            progress.range.next += 1;
            progress.item += 1;
            if budget.is_spent() && progress.range.next <= progress.range.last {
                return Ok(false);
            }
        }
        self.make_visible(tx, progress)?;
        Ok(false)
    }

    /// Makes all jobs of the task visible.
    fn make_visible(
        &self,
        tx: &mut WriteTransaction<'_>,
        progress: &mut TaskProgress,
    ) -> rusqlite::Result<()> {
        let JobRange { first, last, .. } = progress.range;
        let count = last + 1 - first;
        progress.range.next = first;
        progress.stage = TaskStage::Release;
        match &self.kind {
            TaskKind::Event(jobs) => {
                let counted = deferred::settle_event(tx.conn, jobs)?;
                tx.effects.adjust_queued(jobs.source, count - counted);
            }
            TaskKind::ReplaceJob(reevaluation, _) => {
                let into = format!("jobs {first}–{last}");
                if !reevaluate::close_replaced_job(tx, reevaluation, &into)? {
                    progress.stage = TaskStage::Remove;
                    return Ok(());
                }
                tx.effects.adjust_queued(reevaluation.claimed.source, count);
            }
            _ => {}
        }
        expansions::make_visible(tx.conn, progress.range)
    }
}

/// Loads the deferred events of each source into the cache, and returns the tasks that an earlier
/// process had begun.
pub(super) fn load_tasks(
    conn: &Connection,
    cache: &mut WriterCache,
) -> rusqlite::Result<Vec<BacklogTask>> {
    cache.deferred.extend(deferred::count_by_source(conn)?);
    let mut tasks = Vec::new();
    for (expansion, range, is_visible) in expansions::load_all(conn)? {
        let stage = if is_visible { TaskStage::Release } else { TaskStage::Remove };
        if is_visible && expansion.job.is_none() {
            cache.apply_deferred(&[(expansion.source, 1)]);
        }
        tasks.push(BacklogTask::resume(expansion, stage, range));
    }
    let retries = dead_job_retries::load_all(conn)?;
    tasks.extend(retries.into_iter().map(BacklogTask::retry_dead_jobs));
    Ok(tasks)
}
