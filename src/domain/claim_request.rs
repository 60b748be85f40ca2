//! A request of the scheduler to the store: claim jobs for free worker threads.

use super::HandlerId;

/// A request to claim jobs of one handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimRequest {
    pub handler: HandlerId,
    /// Maximum number of jobs to claim.
    pub max_jobs: usize,
    /// All jobs start together on one thread. Otherwise each job gets its own thread.
    pub is_one_batch: bool,
    /// The handler's circuit breaker is open, and this job is the probe.
    pub is_probe: bool,
    /// The jobs wait for threads that are still busy with jobs of the same handler.
    pub is_prefetch: bool,
    /// With `rate_limit`: the interval between two starts. The store saves the time of the next allowed
    /// start, so that the next process respects it.
    pub min_interval_ms: Option<i64>,
}

impl ClaimRequest {
    /// Returns how many threads `jobs` claimed jobs occupy.
    pub fn thread_count(&self, jobs: usize) -> usize {
        match self {
            Self { is_prefetch: true, .. } => 0,
            Self { is_one_batch: true, .. } => jobs.min(1),
            _ => jobs,
        }
    }
}
