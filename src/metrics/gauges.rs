//! What a scrape reads from other parts of the server: the database, the pools and the file system.

use std::time::Duration;

use crate::domain::HandlerId;

/// The values of a moment. `None`: the value could not be read, so the scrape leaves it out.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// The handlers that the database knows. Others have no jobs.
    pub handlers: Option<Vec<HandlerGauges>>,
    pub worker_threads: usize,
    /// Worker threads that run jobs or wait for a claim that is being written.
    pub busy_worker_threads: usize,
    pub evaluators: Vec<EvaluatorGauges>,
    /// The sources that read streams, and whether they can do so now.
    pub stream_readers: Vec<(String, bool)>,
    pub is_database_writable: bool,
    pub database_bytes: Option<u64>,
    pub wal_bytes: u64,
    pub free_disk_bytes: Option<u64>,
    /// `store.min_free_space`.
    pub min_free_disk_bytes: u64,
}

/// The jobs of a handler, and whether they may start.
#[derive(Clone, Copy, Debug)]
pub struct HandlerGauges {
    pub handler: HandlerId,
    pub is_paused: bool,
    pub is_breaker_open: bool,
    pub queued: u64,
    pub running: u64,
    pub dead: u64,
    /// The age of the oldest job that is queued or running; 0 if there is none.
    pub oldest_job_age: Duration,
}

impl HandlerGauges {
    /// Makes the values of a handler that has no jobs.
    pub(super) fn without_jobs(handler: HandlerId) -> Self {
        Self {
            handler,
            is_paused: false,
            is_breaker_open: false,
            queued: 0,
            running: 0,
            dead: 0,
            oldest_job_age: Duration::ZERO,
        }
    }
}

/// The evaluator processes for requests of one priority.
#[derive(Clone, Copy, Debug)]
pub struct EvaluatorGauges {
    pub priority: &'static str,
    /// Processes that run.
    pub evaluators: usize,
    /// Processes that work on requests.
    pub busy: usize,
    /// Requests that wait for a process.
    pub waiting: usize,
    /// Requests that a process has answered since the start.
    pub evaluations: u64,
    /// Processes that ended or were killed while they had requests, since the start.
    pub killed: u64,
}
