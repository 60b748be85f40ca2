//! Counts the evaluator processes of one priority, for metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// How many processes run, and what they have done since the start.
#[derive(Debug, Default)]
pub(super) struct ProcessCounters {
    running: AtomicUsize,
    evaluations: AtomicU64,
    killed: AtomicU64,
}

impl ProcessCounters {
    /// Counts a process until the guard is dropped.
    pub fn start(self: &Arc<Self>) -> RunningGuard {
        self.running.fetch_add(1, Ordering::Relaxed);
        RunningGuard(Arc::clone(self))
    }

    /// Counts a request that a process has answered.
    pub fn count_evaluation(&self) {
        self.evaluations.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a process that ended, or was killed, while it had requests.
    pub fn count_killed(&self) {
        self.killed.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of processes that run.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Returns the number of answered requests.
    pub fn evaluations(&self) -> u64 {
        self.evaluations.load(Ordering::Relaxed)
    }

    /// Returns the number of processes that ended, or were killed, while they had requests.
    pub fn killed(&self) -> u64 {
        self.killed.load(Ordering::Relaxed)
    }
}

/// A process that runs.
#[derive(Debug)]
pub(super) struct RunningGuard(Arc<ProcessCounters>);

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}
