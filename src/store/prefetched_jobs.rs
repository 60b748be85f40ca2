//! Prefetched jobs: claimed and committed while the threads of their handler are still busy. A thread whose job
//! succeeded starts the next one without a wait for the disk.
//!
//! The thread goes on with the same handler, so it needs neither another thread nor more of `concurrency`. The
//! writer adds and returns prefetched jobs, and says whether threads may take them.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;

use super::jobs::ClaimedJob;
use crate::domain::HandlerId;

/// The prefetched jobs of all handlers. The scheduler bounds their number.
#[derive(Debug, Default)]
pub struct PrefetchedJobs {
    queues: Mutex<HashMap<HandlerId, PrefetchQueue>>,
}

/// The prefetched jobs of one handler, oldest first.
#[derive(Debug, Default)]
struct PrefetchQueue {
    jobs: VecDeque<ClaimedJob>,
    /// A thread of the handler may take the next job.
    is_open: bool,
    /// Outcomes that are not committed and may open the circuit breaker. No thread takes a job meanwhile.
    failures: usize,
}

impl PrefetchedJobs {
    /// Takes the next job for a thread whose job of the same handler has succeeded.
    pub(super) fn take_next(&self, handler: HandlerId) -> Option<ClaimedJob> {
        let mut queues = self.queues.lock();
        let queue = queues.get_mut(&handler)?;
        if queue.is_open && queue.failures == 0 { queue.jobs.pop_front() } else { None }
    }

    /// Stops the threads of a handler from taking jobs, because a job has not succeeded.
    pub(super) fn begin_failure(&self, handler: HandlerId) {
        self.queues.lock().entry(handler).or_default().failures += 1;
    }

    /// The outcome of a job that has not succeeded is committed.
    pub(super) fn end_failure(&self, handler: HandlerId) {
        self.queues.lock().entry(handler).or_default().failures -= 1;
    }

    /// Returns whether a handler has no jobs.
    pub(super) fn is_empty(&self, handler: HandlerId) -> bool {
        self.queues.lock().get(&handler).is_none_or(|queue| queue.jobs.is_empty())
    }

    /// Adds jobs of a committed claim.
    pub(super) fn add(&self, handler: HandlerId, jobs: Vec<ClaimedJob>) {
        self.queues.lock().entry(handler).or_default().jobs.extend(jobs);
    }

    /// Takes the next job for a free thread.
    pub(super) fn pop(&self, handler: HandlerId) -> Option<ClaimedJob> {
        self.queues.lock().get_mut(&handler)?.jobs.pop_front()
    }

    /// Takes all jobs of these handlers, to return them to the queue.
    pub(super) fn drain(&self, handlers: &[HandlerId]) -> Vec<ClaimedJob> {
        let mut queues = self.queues.lock();
        let mut jobs = Vec::new();
        for handler in handlers {
            jobs.extend(queues.get_mut(handler).into_iter().flat_map(|queue| queue.jobs.drain(..)));
        }
        jobs
    }

    /// Lets threads of exactly these handlers take the next job.
    pub(super) fn open_only(&self, handlers: &[HandlerId]) {
        let mut queues = self.queues.lock();
        for (handler, queue) in queues.iter_mut() {
            queue.is_open = handlers.contains(handler);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Claim, JobId};

    const H: HandlerId = HandlerId(1);

    fn with_jobs(numbers: [i64; 2]) -> PrefetchedJobs {
        let prefetched = PrefetchedJobs::default();
        let job = |number| ClaimedJob::for_test(Claim { job: JobId(number), attempt: 1 });
        prefetched.add(H, numbers.map(job).into());
        prefetched
    }

    fn next(prefetched: &PrefetchedJobs) -> Option<i64> {
        prefetched.take_next(H).map(|job| job.claim.job.0)
    }

    #[test]
    fn threads_take_jobs_in_order_while_the_queue_is_open() {
        let prefetched = with_jobs([7, 8]);
        assert_eq!(next(&prefetched), None, "the writer has not opened the queue");
        prefetched.open_only(&[H]);
        assert_eq!(
            (next(&prefetched), next(&prefetched), next(&prefetched)),
            (Some(7), Some(8), None)
        );
    }

    #[test]
    fn no_thread_takes_a_job_while_a_failure_is_not_committed() {
        let prefetched = with_jobs([7, 8]);
        prefetched.begin_failure(H);
        prefetched.begin_failure(H);
        prefetched.open_only(&[H]);
        prefetched.end_failure(H);
        assert_eq!(next(&prefetched), None);
        prefetched.end_failure(H);
        assert_eq!(next(&prefetched), Some(7));
    }
}
