//! Prefetch: how many jobs of a handler are claimed before a thread is free for them.
//!
//! A thread with short jobs would mostly wait for the disk, because a claim is synced before its job starts. So
//! while all threads that a handler may use are busy, its next jobs are claimed too.

/// Prefetched jobs for each busy thread of a handler.
const MAX_JOBS_PER_THREAD: usize = 4;

/// The jobs of a handler are prefetched while they take less than this on average. A slow disk syncs in about as long.
const SHORT_JOB_US: i64 = 10_000;

/// The longest duration that counts, so that one long job matters for about twenty short ones.
const MAX_SAMPLE_US: i64 = 100_000;

/// The weight of the last job in the average is one part of this.
const AVERAGED_JOBS: i64 = 8;

/// After this time without a start, prefetched jobs return to the queue.
const MAX_WAIT_US: i64 = 1_000_000;

/// The prefetched jobs of one handler.
#[derive(Clone, Copy, Debug)]
pub struct Prefetch {
    /// Jobs that are being claimed, or that wait for a thread.
    jobs: usize,
    /// When a job was added or removed last.
    changed_at_us: i64,
    average_us: i64,
}

impl Default for Prefetch {
    /// A handler without a past has long jobs.
    fn default() -> Self {
        Self { jobs: 0, changed_at_us: 0, average_us: MAX_SAMPLE_US }
    }
}

impl Prefetch {
    /// Learns the duration of a job.
    pub fn record_duration(&mut self, duration_us: i64) {
        let sample_us = duration_us.clamp(0, MAX_SAMPLE_US);
        self.average_us += (sample_us - self.average_us) / AVERAGED_JOBS;
    }

    /// Returns how many more jobs to claim for this many busy threads.
    pub fn jobs_wanted(&self, busy: usize) -> usize {
        match self.average_us < SHORT_JOB_US {
            true => (busy * MAX_JOBS_PER_THREAD).saturating_sub(self.jobs),
            false => 0,
        }
    }

    pub fn add(&mut self, jobs: usize, now_us: i64) {
        self.jobs += jobs;
        self.changed_at_us = now_us;
    }

    pub fn remove(&mut self, jobs: usize, now_us: i64) {
        self.jobs -= jobs;
        self.changed_at_us = now_us;
    }

    pub fn has_jobs(&self) -> bool {
        self.jobs > 0
    }

    /// Returns when the jobs return to the queue if none of them starts.
    pub fn return_at_us(&self) -> Option<i64> {
        self.has_jobs().then(|| self.changed_at_us.saturating_add(MAX_WAIT_US))
    }

    /// The jobs have waited for too long: the handler counts as one with long jobs.
    pub fn record_stall(&mut self) {
        self.average_us = MAX_SAMPLE_US;
    }
}
