//! The state that the writer and the dispatcher share: the scheduler, the handlers, and pending work.
//!
//! The writer changes it after each commit. The dispatcher's thread changes it for work that takes
//! longer or depends on time. Both do so under one lock, and nothing here blocks.

use std::time::Duration;

use crossbeam_channel::Sender;

use super::HandlerMap;
use crate::clock::MonotonicClock;
use crate::domain::HandlerId;
use crate::domain::claim_request::ClaimRequest;
use crate::scheduler::Scheduler;
use crate::store::jobs::ClaimedJob;
use crate::worker::Assignment;

/// How long to wait for the result of a promotion before asking for it again.
const PROMOTION_TIMEOUT_MS: i64 = 5_000;

/// How long to wait before a failed read is retried.
const RETRY_DELAY_MS: i64 = 1_000;

const MAX_SLEEP_MS: i64 = 3_600_000;

/// Work for the dispatcher's thread.
#[derive(Debug, Default)]
pub(super) struct PendingWork {
    /// A new configuration to apply.
    pub configure: Option<HandlerMap>,
    /// Another process may have changed the database.
    pub refresh: bool,
    /// Claimed jobs that cannot start, each with the reason.
    pub unstartable: Vec<(ClaimedJob, &'static str)>,
}

impl PendingWork {
    fn is_empty(&self) -> bool {
        self.configure.is_none() && !self.refresh && self.unstartable.is_empty()
    }
}

/// The shared state. See the module's description.
#[derive(Debug)]
pub(super) struct DispatcherState {
    pub scheduler: Scheduler,
    pub handlers: HandlerMap,
    clock: MonotonicClock,
    /// The channel to the workers. They end when it is dropped.
    assignments: Option<Sender<Assignment>>,
    pub pending: PendingWork,
    /// When the next scheduled job is due, on the database clock.
    pub due_ms: Option<i64>,
    /// When a promotion of due jobs was requested that has no result yet.
    pub promotion_requested_ms: Option<i64>,
    /// A claim could not be written. No further claim is made until `store_recovered`.
    pub blocked: bool,
    pub stopping: bool,
    /// When the dispatcher's thread wakes up by itself.
    wakes_at_ms: i64,
    /// When failed work is retried.
    retry_at_ms: Option<i64>,
}

impl DispatcherState {
    pub fn new(threads: usize, clock: MonotonicClock, assignments: Sender<Assignment>) -> Self {
        Self {
            scheduler: Scheduler::new(threads),
            handlers: HandlerMap::default(),
            clock,
            assignments: Some(assignments),
            pending: PendingWork::default(),
            due_ms: None,
            promotion_requested_ms: None,
            blocked: false,
            stopping: false,
            wakes_at_ms: i64::MIN,
            retry_at_ms: None,
        }
    }

    pub fn now_us(&self) -> i64 {
        self.clock.now_ms().saturating_mul(1000)
    }

    /// Returns the claims to make now.
    pub fn plan(&mut self) -> Vec<ClaimRequest> {
        if self.stopping || self.blocked {
            return Vec::new();
        }
        let now_us = self.now_us();
        self.scheduler.plan(now_us)
    }

    /// Hands the jobs of a committed claim to workers.
    pub fn start_claimed(&mut self, request: &ClaimRequest, claimed: Vec<ClaimedJob>) {
        let now_us = self.now_us();
        self.scheduler.record_claim(request, claimed.len(), now_us);
        if request.is_one_batch {
            self.start(claimed);
        } else {
            claimed.into_iter().for_each(|job| self.start(vec![job]));
        }
    }

    /// Hands jobs to a worker. One is always free, because a plan claims only for free threads.
    fn start(&mut self, mut claimed: Vec<ClaimedJob>) {
        let Some(id) = claimed.first().map(|job| job.handler) else { return };
        // A reload may have changed or removed the handler since the claim.
        let Some(assignments) = &self.assignments else {
            return self.requeue(claimed, "the server was stopped");
        };
        let Some(handler) = self.handlers.get(&id) else {
            return self.requeue(claimed, "its handler was removed from the configuration");
        };
        if handler.settings.batch().is_none() {
            let others =
                claimed.drain(1..).map(|job| (job, "its handler no longer runs in batch mode"));
            self.pending.unstartable.extend(others);
        }
        if let Err(e) = assignments.try_send(Assignment { claimed, handler: handler.clone() }) {
            log::error!("no worker was free for a claimed job: the job is requeued");
            self.requeue(e.into_inner().claimed, "no thread was free for it");
        }
    }

    /// Gives claimed jobs back to the queue.
    fn requeue(&mut self, claimed: Vec<ClaimedJob>, reason: &'static str) {
        if let Some(first) = claimed.first() {
            self.scheduler.release_thread(first.handler);
        }
        self.pending.unstartable.extend(claimed.into_iter().map(|job| (job, reason)));
    }

    /// Opens or closes the circuit breaker of a handler. Returns the handler's name and the time on the
    /// wall clock, or `None` for a handler that is not configured.
    pub fn set_open_until(
        &mut self,
        handler: HandlerId,
        until_ms: Option<i64>,
    ) -> Option<(String, Option<i64>)> {
        self.scheduler.set_breaker(handler, until_ms.map(|ms| ms.saturating_mul(1000)));
        let name = self.handlers.get(&handler)?.settings.name.clone();
        Some((name, until_ms.map(|ms| self.clock.to_wall_ms(ms))))
    }

    /// Records that `jobs` more jobs of a handler are ready.
    pub fn add_ready(&mut self, handler: HandlerId, jobs: usize) {
        let now_us = self.now_us();
        self.scheduler.add_ready(handler, jobs, now_us);
    }

    /// Records a claim that could not be written, and stops claiming.
    pub fn record_failed_claim(&mut self, request: &ClaimRequest) {
        self.scheduler.record_failed_claim(request);
        self.blocked = true;
        self.promotion_requested_ms = None;
    }

    /// Records a due time: of a job that was just scheduled, or the earliest one in the database.
    /// The earliest time wins, because a job may have been scheduled since the database was read.
    pub fn note_due_at(&mut self, until_ms: Option<i64>) {
        self.due_ms = self.due_ms.into_iter().chain(until_ms).min();
    }

    /// Asks for a refresh: another process may have changed the database, or it can be written again.
    pub fn request_refresh(&mut self) {
        self.pending.refresh = true;
        self.promotion_requested_ms = None;
    }

    /// Returns whether scheduled jobs are due, and notes that their promotion is requested.
    pub fn should_promote(&mut self) -> bool {
        let now_ms = self.clock.now_ms();
        let is_due = self.promote_at_ms().is_some_and(|at_ms| at_ms <= now_ms);
        if is_due {
            self.promotion_requested_ms = Some(now_ms);
        }
        is_due
    }

    /// When to request the next promotion. A request without a result is repeated.
    fn promote_at_ms(&self) -> Option<i64> {
        let due_ms = self.due_ms.filter(|_| !self.stopping && !self.blocked)?;
        let retry_at_ms =
            self.promotion_requested_ms.map(|ms| ms.saturating_add(PROMOTION_TIMEOUT_MS));
        Some(retry_at_ms.map_or(due_ms, |retry_at_ms| retry_at_ms.max(due_ms)))
    }

    /// Schedules a retry of work that failed.
    pub fn retry_later(&mut self, change: impl FnOnce(&mut PendingWork)) {
        change(&mut self.pending);
        self.retry_at_ms = Some(self.clock.now_ms().saturating_add(RETRY_DELAY_MS));
    }

    /// Ends the workers, each after its current job.
    pub fn close(&mut self) {
        self.stopping = true;
        self.assignments = None;
    }

    pub fn is_closed(&self) -> bool {
        self.assignments.is_none()
    }

    /// Returns whether the dispatcher's thread has work before it wakes up by itself.
    pub fn has_work(&self) -> bool {
        let now_ms = self.clock.now_ms();
        let has_pending =
            !self.pending.is_empty() && self.retry_at_ms.is_none_or(|at_ms| at_ms <= now_ms);
        // The second condition matters after a suspend: the thread's timer stops, the clock does not.
        let is_due = |at_ms| at_ms < self.wakes_at_ms || at_ms <= now_ms;
        self.is_closed()
            || has_pending
            || self.next_wakeup_ms().is_some_and(is_due)
            || self.scheduler.needs_count()
    }

    /// Returns how long the dispatcher's thread may sleep.
    pub fn sleep_duration(&mut self) -> Duration {
        let now_ms = self.clock.now_ms();
        let at_ms =
            self.next_wakeup_ms().unwrap_or(i64::MAX).min(now_ms.saturating_add(MAX_SLEEP_MS));
        self.wakes_at_ms = at_ms;
        Duration::from_millis(u64::try_from(at_ms - now_ms).unwrap_or(0))
    }

    /// Returns the next time at which work can become due without any other event.
    fn next_wakeup_ms(&self) -> Option<i64> {
        let retry_at_ms = self.retry_at_ms.filter(|_| !self.pending.is_empty());
        if self.blocked || self.stopping {
            return retry_at_ms;
        }
        // Rounded up: the clock counts whole milliseconds.
        let next_ms = self.scheduler.next_us().map(|us| us.saturating_add(999).div_euclid(1000));
        self.promote_at_ms().into_iter().chain(next_ms).chain(retry_at_ms).min()
    }
}
