//! What the dispatcher asks of the store: jobs for threads that are free.

use super::HandlerId;

/// Jobs of one handler are to be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimRequest {
    pub handler: HandlerId,
    /// At most so many.
    pub jobs: usize,
    /// They start together, on one thread; else each on one of its own.
    pub as_one_batch: bool,
    /// The handler rests: this is to be its trial.
    pub is_probe: bool,
    /// With `rate`: the gap between two starts, for whoever goes on after this process.
    pub min_interval_ms: Option<i64>,
}

impl ClaimRequest {
    /// How many threads so many jobs of it take.
    pub fn threads(&self, jobs: usize) -> usize {
        if self.as_one_batch { jobs.min(1) } else { jobs }
    }
}
