//! Starting jobs. The writer owns the scheduler, asks it for claims between two commits, and hands claimed
//! jobs to the workers. Everything here runs on the writer's thread, and nothing blocks.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::Sender;
use rusqlite::Connection;

use super::super::effects::Effects;
use super::super::handle::WriterHandle;
use super::super::jobs::{AttemptRecord, ClaimedJob, queue};
use super::super::operation::Operation;
use super::super::prefetched_jobs::PrefetchedJobs;
use super::super::registry;
use crate::clock::{self, MonotonicClock};
use crate::domain::breaker::BreakerState;
use crate::domain::claim_request::ClaimRequest;
use crate::domain::{Claim, HandlerId, Outcome};
use crate::scheduler::{HandlerTable, Scheduler};

/// How long to wait before a failed read is retried.
const RETRY_DELAY_MS: i64 = 1_000;

/// How long to wait before a claim or a promotion that the database rejected is repeated.
const REJECTED_DELAY_MS: i64 = 5_000;

/// Claimed jobs for one worker: one job, or with `mode = "batch"` several of one handler.
pub type Assignment = Vec<ClaimedJob>;

/// Stops attempts.
type CancelAttempts = Box<dyn Fn(&[Claim]) + Send>;

/// The connections of the writer to the workers.
pub struct WorkerLink {
    /// The number of workers.
    pub threads: usize,
    /// The channel to the workers, with room for one assignment each. They end when it is dropped.
    pub assignments: Sender<Assignment>,
    /// Stops these attempts. Called with all running jobs that people have cancelled.
    pub cancel: CancelAttempts,
}

/// The scheduler with what it needs to know, and the channel to the workers.
pub(super) struct JobDispatch {
    clock: MonotonicClock,
    scheduler: Scheduler,
    handlers: HandlerTable,
    /// `None`: the server has stopped, and the workers end.
    assignments: Option<Sender<Assignment>>,
    cancel: CancelAttempts,
    /// A new configuration, until the rate limits and pauses could be read.
    new_handlers: Option<HandlerTable>,
    /// Another process may have changed the database.
    should_refresh: bool,
    /// When a failed read is retried (database clock).
    retry_at_ms: Option<i64>,
    /// When the next scheduled job is due (database clock).
    due_ms: Option<i64>,
    /// A claim could not be written. No further claim is made until the database can be written.
    is_blocked: bool,
    is_stopping: bool,
    /// How many threads run jobs or wait for a claim, for other threads to read.
    busy_threads: Arc<AtomicUsize>,
    prefetched: Arc<PrefetchedJobs>,
    /// The handlers of jobs that have not succeeded and whose outcomes are being written.
    failures: Vec<HandlerId>,
}

impl JobDispatch {
    pub fn new(
        clock: MonotonicClock,
        workers: WorkerLink,
        handlers: HandlerTable,
        breakers: &HashMap<HandlerId, BreakerState>,
        handle: &WriterHandle,
    ) -> Self {
        let mut scheduler = Scheduler::new(workers.threads);
        for (&handler, breaker) in breakers {
            scheduler.set_breaker(handler, breaker.open_until_ms.map(to_us));
        }
        Self {
            clock,
            scheduler,
            handlers: HandlerTable::new(),
            assignments: Some(workers.assignments),
            cancel: workers.cancel,
            new_handlers: Some(handlers),
            should_refresh: true,
            retry_at_ms: None,
            due_ms: None,
            is_blocked: false,
            is_stopping: false,
            busy_threads: Arc::clone(&handle.busy_threads),
            prefetched: Arc::clone(&handle.prefetched),
            failures: Vec::new(),
        }
    }

    /// Returns the operations to write now: claims for free threads, and the promotion of due jobs. Starts
    /// prefetched jobs if all outcomes are committed.
    pub fn plan(&mut self, conn: &Connection, is_all_committed: bool) -> Vec<Operation> {
        let now_ms = self.clock.now_ms();
        self.read_changes(conn, now_ms);
        if self.is_blocked {
            return Vec::new();
        }
        if is_all_committed {
            self.failures.drain(..).for_each(|handler| self.prefetched.end_failure(handler));
        }
        let mut operations = self.return_prefetched(to_us(now_ms));
        if self.is_stopping {
            return operations;
        }
        // Its result, or `set_due`, sets the time again.
        if self.due_ms.is_some_and(|due_ms| due_ms <= now_ms) {
            self.due_ms = None;
            operations.push(Operation::Promote);
        }
        for (handler, max) in self.scheduler.counts_needed() {
            let jobs = queue::count_ready(conn, handler, max).unwrap_or_else(|e| {
                log::error!("the ready jobs of a batch cannot be counted: {e}");
                max
            });
            self.scheduler.set_counted(handler, jobs, to_us(now_ms));
        }
        for request in self.scheduler.plan(to_us(now_ms)) {
            if is_all_committed || self.prefetched.is_empty(request.handler) {
                let request = self.start_prefetched(request, &mut operations);
                operations.extend(request.map(Operation::Claim));
            } else {
                // An outcome of the group may open the circuit breaker. The next plan starts the prefetched jobs.
                self.scheduler.record_failed_claim(&request, to_us(now_ms));
            }
        }
        let (open, requests) = self.scheduler.plan_prefetch(to_us(now_ms));
        self.prefetched.open_only(&open);
        operations.extend(requests.into_iter().map(Operation::Claim));
        self.publish_busy();
        operations
    }

    /// Hands prefetched jobs to free threads. Returns the claim for the threads that are left.
    fn start_prefetched(
        &mut self,
        mut request: ClaimRequest,
        operations: &mut Vec<Operation>,
    ) -> Option<ClaimRequest> {
        let mut unstarted = Vec::new();
        while request.max_jobs > 0
            && let Some(job) = self.prefetched.pop(request.handler)
        {
            request.max_jobs -= 1;
            self.scheduler.remove_prefetched(request.handler, 1, to_us(self.clock.now_ms()));
            self.start(vec![job], &mut unstarted);
        }
        operations.extend(unstarted.into_iter().map(|record| Operation::Finish(Box::new(record))));
        (request.max_jobs > 0).then_some(request)
    }

    /// Returns prefetched jobs to the queue that may not start now.
    fn return_prefetched(&mut self, now_us: i64) -> Vec<Operation> {
        let (handlers, reason) = match self.is_stopping {
            true => (self.scheduler.prefetching(), "the server was stopped"),
            false => {
                (self.scheduler.prefetches_to_return(now_us), "its handler could not start it")
            }
        };
        let wall_ms = clock::wall_ms();
        let jobs = self.prefetched.drain(&handlers);
        jobs.iter().for_each(|job| self.scheduler.remove_prefetched(job.handler, 1, now_us));
        let record = |job| AttemptRecord::not_started(job, reason, wall_ms);
        jobs.iter().map(|job| Operation::Finish(Box::new(record(job)))).collect()
    }

    /// Reads what a new configuration or another process may have changed.
    fn read_changes(&mut self, conn: &Connection, now_ms: i64) {
        if self.new_handlers.is_none() && !self.should_refresh
            || self.retry_at_ms.is_some_and(|at_ms| now_ms < at_ms)
        {
            return;
        }
        self.retry_at_ms = None;
        let read = self.read_configuration(conn, now_ms).and_then(|()| self.refresh(conn));
        if let Err(e) = read {
            log::error!("the queue cannot be read, retrying: {e}");
            self.retry_at_ms = Some(now_ms.saturating_add(RETRY_DELAY_MS));
        }
    }

    /// Applies a new configuration. A rate limit continues from the last start that the database knows: of an
    /// earlier process, or of this one before a reload removed and restored the limit.
    fn read_configuration(&mut self, conn: &Connection, now_ms: i64) -> rusqlite::Result<()> {
        let Some(handlers) = &self.new_handlers else { return Ok(()) };
        let rate_starts = registry::next_rate_starts(conn)?;
        let limits = handlers.iter().map(|(&id, handler)| (id, handler.limits));
        self.scheduler.configure(&limits.collect());
        for (handler, next_ms) in rate_starts {
            self.scheduler.restore_rate_limit(handler, to_us(next_ms), to_us(now_ms));
        }
        self.handlers = self.new_handlers.take().unwrap_or_default();
        self.should_refresh = true;
        Ok(())
    }

    /// Reads pauses, due times and cancellations.
    fn refresh(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let (paused, due_ms) = (registry::paused_handlers(conn)?, queue::next_due(conn)?);
        (self.cancel)(&queue::pending_cancellations(conn)?);
        self.scheduler.set_paused(&paused);
        self.scheduler.wake_all();
        self.due_ms = due_ms;
        self.should_refresh = false;
        Ok(())
    }

    /// Returns when `plan` may return more without any message (database clock).
    pub fn next_wakeup_ms(&self) -> Option<i64> {
        let retry_at_ms =
            self.retry_at_ms.filter(|_| self.new_handlers.is_some() || self.should_refresh);
        if self.is_blocked || self.is_stopping {
            return retry_at_ms;
        }
        // Rounded up: the clock counts whole milliseconds.
        let start_ms = self.scheduler.next_us().map(|us| us.saturating_add(999).div_euclid(1000));
        [retry_at_ms, self.due_ms, start_ms].into_iter().flatten().min()
    }

    /// Applies a new configuration.
    pub fn configure(&mut self, handlers: HandlerTable) {
        self.new_handlers = Some(handlers);
        self.retry_at_ms = None;
    }

    /// Another process has changed the database.
    pub fn request_refresh(&mut self) {
        self.should_refresh = true;
        self.retry_at_ms = None;
    }

    /// The database rejected a claim or a promotion. The writer looks for due jobs again, but not at once.
    pub fn refresh_later(&mut self) {
        self.should_refresh = true;
        self.retry_at_ms = Some(self.clock.now_ms().saturating_add(REJECTED_DELAY_MS));
    }

    /// The database can be written again.
    pub fn resume(&mut self) {
        self.is_blocked = false;
        self.should_refresh = true;
    }

    /// Starts no more jobs. Running jobs go on.
    pub fn stop(&mut self) {
        self.is_stopping = true;
        self.prefetched.open_only(&[]);
        self.publish_busy();
    }

    /// Ends the workers, each after its present assignment.
    pub fn close(&mut self) {
        self.stop();
        self.assignments = None;
    }

    /// A thread is free, or goes on with a prefetched job. The outcomes of its jobs are in the group that is written
    /// next.
    pub fn record_end(&mut self, handler: HandlerId, last: Option<&Operation>, has_next: bool) {
        if let Some(Operation::Finish(record)) = last
            && record.outcome != Outcome::Interrupted
        {
            self.scheduler.record_duration(handler, to_us(record.duration_ms));
        }
        if has_next {
            self.scheduler.remove_prefetched(handler, 1, to_us(self.clock.now_ms()));
        } else {
            self.scheduler.release_thread(handler);
            self.publish_busy();
            if last.is_some_and(|last| !last.has_succeeded()) {
                self.failures.push(handler);
            }
        }
    }

    /// The database cannot be written: no job starts.
    pub fn block(&mut self) {
        self.is_blocked = true;
        self.prefetched.open_only(&[]);
    }

    /// Sets the time at which the next scheduled job is due, as read by a promotion.
    pub fn set_due(&mut self, due_ms: Option<i64>) {
        self.due_ms = due_ms;
    }

    /// Learns what a commit changed.
    pub fn apply_effects(&mut self, effects: &Effects) {
        let now_us = to_us(self.clock.now_ms());
        for &(handler, breaker) in &effects.breakers {
            self.scheduler.set_breaker(handler, breaker.open_until_ms.map(to_us));
            if let Some(handler) = self.handlers.get(&handler) {
                self.log_breaker(&handler.name, breaker);
            }
        }
        if let Some(due_ms) = effects.next_due_ms {
            self.due_ms = Some(self.due_ms.map_or(due_ms, |earlier| earlier.min(due_ms)));
        }
        for &(handler, jobs) in &effects.ready {
            self.scheduler.add_ready(handler, jobs, now_us);
        }
    }

    fn log_breaker(&self, name: &str, breaker: BreakerState) {
        match breaker.open_until_ms {
            Some(until_ms) => log::warn!(
                "handler {name}: the circuit breaker is open until {}: its jobs wait",
                clock::format_rfc3339(self.clock.to_wall_ms(until_ms))
            ),
            None => log::info!("handler {name}: the circuit breaker is closed"),
        }
    }

    /// Hands the jobs of a committed claim to workers. Returns the outcomes of jobs that cannot start.
    pub fn start_claimed(
        &mut self,
        request: &ClaimRequest,
        claimed: Vec<ClaimedJob>,
    ) -> Vec<AttemptRecord> {
        self.scheduler.record_claim(request, claimed.len(), to_us(self.clock.now_ms()));
        let mut unstarted = Vec::new();
        if request.is_prefetch {
            self.prefetched.add(request.handler, claimed);
        } else if request.is_one_batch {
            self.start(claimed, &mut unstarted);
        } else {
            claimed.into_iter().for_each(|job| self.start(vec![job], &mut unstarted));
        }
        self.publish_busy();
        unstarted
    }

    /// Hands jobs to a worker. One is always free, because a plan claims only for free threads.
    fn start(&mut self, assignment: Assignment, unstarted: &mut Vec<AttemptRecord>) {
        let Some(handler) = assignment.first().map(|job| job.handler) else { return };
        let (jobs, reason) = match &self.assignments {
            None => (assignment, "the server was stopped"),
            Some(assignments) => match assignments.try_send(assignment) {
                Ok(()) => return,
                Err(e) => {
                    log::error!("no worker was free for a claimed job: the job is requeued");
                    (e.into_inner(), "no thread was free for it")
                }
            },
        };
        self.scheduler.release_thread(handler);
        let wall_ms = clock::wall_ms();
        unstarted.extend(jobs.iter().map(|job| AttemptRecord::not_started(job, reason, wall_ms)));
    }

    /// Records a claim that could not be written, and stops claiming.
    pub fn record_failed_claim(&mut self, request: &ClaimRequest) {
        self.scheduler.record_failed_claim(request, to_us(self.clock.now_ms()));
        self.block();
        self.publish_busy();
    }

    fn publish_busy(&self) {
        self.busy_threads.store(self.scheduler.busy(), Ordering::Relaxed);
    }
}

/// Converts milliseconds to the microseconds of the scheduler.
fn to_us(ms: i64) -> i64 {
    ms.saturating_mul(1000)
}
