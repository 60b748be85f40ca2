//! The backlog of tasks that are too long for one transaction (`backlog_task.rs`). Each source has a
//! queue, and the queues take turns. Between two transactions the writer handles other requests.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::super::backlog_task::{BacklogTask, FailedTask, TaskProgress};
use super::super::row_budget::RowBudget;
use super::super::write_transaction::WriteTransaction;
use crate::domain::SourceId;

/// Target duration of a transaction, its commit included.
const TARGET_TRANSACTION_TIME: Duration = Duration::from_millis(20);

/// Part of that time for writing rows.
const MAX_ROWS_TIME: Duration = Duration::from_millis(10);

/// Maximum, minimum and initial number of rows in one transaction.
const MAX_ROWS: usize = 1000;
const MIN_ROWS: usize = 8;
const INITIAL_ROWS: usize = 200;
/// Bytes that the budget allows for each row.
const ROW_BYTES: usize = 4096;

/// A source, and whether the queue holds its deferred events or its other tasks. Deferred events do
/// not wait for the other tasks.
type QueueKey = (SourceId, bool);

#[derive(Debug)]
pub(super) struct Backlog {
    queues: HashMap<QueueKey, VecDeque<BacklogTask>>,
    /// Queues that have tasks, in the order of their turns.
    ready_queues: VecDeque<QueueKey>,
    /// Number of rows that a transaction may write.
    rows: usize,
    /// The part of the current transaction, which is not committed yet.
    step: Option<BacklogStep>,
}

#[derive(Debug)]
struct BacklogStep {
    key: QueueKey,
    /// Number of tasks that ended.
    ended: usize,
    /// Progress of the next task.
    progress: Option<TaskProgress>,
}

/// The outcome of a task that the database rejected.
pub(super) struct FailedStep {
    /// What could not be done, for the log.
    pub problem: &'static str,
    pub source: SourceId,
    pub follow_up: FailedTask,
    /// Tasks of deferred events that are left in the queue.
    pub remaining: usize,
}

impl Backlog {
    pub fn new() -> Self {
        Self {
            queues: HashMap::new(),
            ready_queues: VecDeque::new(),
            rows: INITIAL_ROWS,
            step: None,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.ready_queues.is_empty()
    }

    pub fn push(&mut self, task: BacklogTask) {
        let key = (task.source(), task.is_event_task());
        let queue = self.queues.entry(key).or_default();
        if queue.is_empty() {
            self.ready_queues.push_back(key);
        }
        queue.push_back(task);
    }

    /// Removes and returns all tasks.
    pub fn drain(&mut self) -> impl Iterator<Item = BacklogTask> {
        self.ready_queues.clear();
        std::mem::take(&mut self.queues).into_values().flatten()
    }

    /// Does a part of the tasks in the open transaction.
    pub fn step(&mut self, tx: &mut WriteTransaction<'_>) -> rusqlite::Result<()> {
        let Some(&key) = self.ready_queues.front() else { return Ok(()) };
        let Some(queue) = self.queues.get(&key) else { return Ok(()) };
        let deadline = Instant::now() + MAX_ROWS_TIME;
        let mut budget = RowBudget { rows: self.rows, bytes: self.rows * ROW_BYTES, deadline };
        let step = self.step.insert(BacklogStep { key, ended: 0, progress: None });
        for task in queue {
            let progress = task.step(tx, &mut budget)?;
            if !progress.has_ended() {
                step.progress = Some(progress);
                break;
            }
            step.ended += 1;
            if budget.is_spent() {
                break;
            }
        }
        Ok(())
    }

    /// Records that the transaction is on disk after `elapsed`. Returns the source, and how many of
    /// its deferred events have their jobs now.
    pub fn commit(&mut self, elapsed: Duration) -> Option<(SourceId, usize)> {
        self.rows = if elapsed > TARGET_TRANSACTION_TIME {
            (self.rows / 2).max(MIN_ROWS)
        } else {
            (self.rows + self.rows / 4).min(MAX_ROWS)
        };
        let BacklogStep { key, ended, progress } = self.step.take()?;
        let queue = self.queues.get_mut(&key)?;
        let settled = queue.drain(..ended).filter(BacklogTask::is_event_task).count();
        if let (Some(task), Some(progress)) = (queue.front_mut(), progress) {
            task.advance(progress);
        }
        self.rotate(key);
        Some((key.0, settled))
    }

    /// Records that the transaction was rolled back.
    pub fn roll_back(&mut self) {
        self.step = None;
    }

    /// Removes the task that the database rejected last. The other deferred events of its source
    /// are returned to the expander, so that their order stays.
    pub fn fail_task(&mut self) -> Option<FailedStep> {
        let BacklogStep { key, ended, .. } = self.step.take()?;
        let queue = self.queues.get_mut(&key)?;
        let task = queue.remove(ended)?;
        let problem = task.problem();
        let (removal, follow_up) = task.into_failure();
        queue.retain(|task| !task.is_inserting_event());
        let remaining = queue.iter().filter(|task| task.is_event_task()).count();
        self.rotate(key);
        if let Some(removal) = removal {
            self.push(removal);
        }
        Some(FailedStep { problem, source: key.0, follow_up, remaining })
    }

    /// Gives the turn to the next queue.
    fn rotate(&mut self, key: QueueKey) {
        self.ready_queues.retain(|waiting| *waiting != key);
        if self.queues.get(&key).is_none_or(VecDeque::is_empty) {
            self.queues.remove(&key);
        } else {
            self.ready_queues.push_back(key);
        }
    }
}
