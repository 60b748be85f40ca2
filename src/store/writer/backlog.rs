//! Work that is too long for one transaction (`deferred.rs`): for each source a queue, worked off in
//! turn, a little in each transaction. Between two of them the writer takes what waits for it.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::super::deferred::{Budget, Failed, Progress, Work};
use super::super::writer_state::WriterState;
use crate::domain::SourceId;

/// How long a transaction may take, its commit included.
const TRANSACTION_MAX: Duration = Duration::from_millis(20);

/// Half of it is for rows.
const ROWS_TIME: Duration = Duration::from_millis(10);

/// How many rows and bytes a transaction writes at most, and at first.
const ROWS_MAX: usize = 1000;
const ROWS_MIN: usize = 8;
const ROWS_FIRST: usize = 200;
/// Each row may bring as much.
const ROW_BYTES: usize = 4096;

/// A source's deferred events, or its other work, which those need not wait for.
type Key = (SourceId, bool);

#[derive(Debug)]
pub(super) struct Backlog {
    queues: HashMap<Key, VecDeque<Work>>,
    /// Those that have work, in the order of their turn.
    turn: VecDeque<Key>,
    /// What a transaction may write.
    rows: usize,
    /// What was done in the transaction that is not committed yet.
    step: Option<Step>,
}

#[derive(Debug)]
struct Step {
    key: Key,
    /// Works that are over.
    over: usize,
    /// How far the next one is.
    progress: Option<Progress>,
}

/// What became of a work that the database refused.
pub(super) struct Refused {
    pub source: SourceId,
    pub failed: Failed,
    /// Works of deferred events that are left.
    pub left: usize,
}

impl Backlog {
    pub fn new() -> Self {
        Self { queues: HashMap::new(), turn: VecDeque::new(), rows: ROWS_FIRST, step: None }
    }

    pub fn is_empty(&self) -> bool {
        self.turn.is_empty()
    }

    pub fn push(&mut self, work: Work) {
        let key = (work.source(), work.is_of_deferred_event());
        let queue = self.queues.entry(key).or_default();
        if queue.is_empty() {
            self.turn.push_back(key);
        }
        queue.push_back(work);
    }

    /// All that is left.
    pub fn drain(&mut self) -> impl Iterator<Item = Work> {
        self.turn.clear();
        std::mem::take(&mut self.queues).into_values().flatten()
    }

    /// Does a part of the work, in the transaction that is open.
    pub fn step(&mut self, conn: &Connection, state: &mut WriterState) -> rusqlite::Result<()> {
        let Some(&key) = self.turn.front() else { return Ok(()) };
        let Some(queue) = self.queues.get(&key) else { return Ok(()) };
        let until = Instant::now() + ROWS_TIME;
        let mut budget = Budget { rows: self.rows, bytes: self.rows * ROW_BYTES, until };
        let step = self.step.insert(Step { key, over: 0, progress: None });
        for work in queue {
            let progress = work.step(conn, state, &mut budget)?;
            if !progress.is_over() {
                step.progress = Some(progress);
                break;
            }
            step.over += 1;
            if budget.is_spent() {
                break;
            }
        }
        Ok(())
    }

    /// The transaction is on disk and took so long: the source and how many of its deferred events have
    /// their jobs.
    pub fn commit(&mut self, took: Duration) -> Option<(SourceId, usize)> {
        self.rows = if took > TRANSACTION_MAX {
            (self.rows / 2).max(ROWS_MIN)
        } else {
            (self.rows + self.rows / 4).min(ROWS_MAX)
        };
        let Step { key, over, progress } = self.step.take()?;
        let queue = self.queues.get_mut(&key)?;
        let settled = queue.drain(..over).filter(Work::is_of_deferred_event).count();
        if let (Some(work), Some(progress)) = (queue.front_mut(), progress) {
            work.advance(progress);
        }
        self.rotate(key);
        Some((key.0, settled))
    }

    /// The transaction was taken back.
    pub fn roll_back(&mut self) {
        self.step = None;
    }

    /// The database refused what was done last. Deferred events of its source are given back, so that
    /// none comes before an earlier one.
    pub fn refuse(&mut self) -> Option<Refused> {
        let Step { key, over, .. } = self.step.take()?;
        let queue = self.queues.get_mut(&key)?;
        let (removal, failed) = queue.remove(over)?.fail();
        queue.retain(|work| !work.is_before_release());
        let left = queue.iter().filter(|work| work.is_of_deferred_event()).count();
        self.rotate(key);
        if let Some(removal) = removal {
            self.push(removal);
        }
        Some(Refused { source: key.0, failed, left })
    }

    /// It is the next one's turn.
    fn rotate(&mut self, key: Key) {
        self.turn.retain(|waiting| *waiting != key);
        if self.queues.get(&key).is_none_or(VecDeque::is_empty) {
            self.queues.remove(&key);
        } else {
            self.turn.push_back(key);
        }
    }
}
