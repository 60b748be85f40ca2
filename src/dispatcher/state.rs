//! Who runs and who may: what is known of threads, handlers and time, in one place under one lock.
//!
//! The writer's thread changes it as it commits; the dispatcher's sees to what takes longer or is a
//! matter of time. Nothing here waits for anything.

use std::time::Duration;

use crossbeam_channel::Sender;

use super::HandlerMap;
use crate::clock::MonotonicClock;
use crate::config::Mode;
use crate::domain::HandlerId;
use crate::domain::claim_request::ClaimRequest;
use crate::scheduler::Scheduler;
use crate::store::jobs::ClaimedJob;
use crate::worker::Assignment;

/// After so long without an answer it is asked again that what is due be made ready.
const PROMOTION_PATIENCE_MS: i64 = 5_000;

/// After so long what could not be read is read again.
const AGAIN_MS: i64 = 1_000;

const SLEEP_MS_MAX: i64 = 3_600_000;

/// What the dispatcher's thread has to do.
#[derive(Debug, Default)]
pub(super) struct PendingWork {
    /// A configuration is to be taken over.
    pub configure: Option<HandlerMap>,
    /// Others may have changed the file.
    pub look: bool,
    /// Claimed jobs that can't be started, and why.
    pub put_back: Vec<(ClaimedJob, &'static str)>,
}

impl PendingWork {
    fn is_nothing(&self) -> bool {
        self.configure.is_none() && !self.look && self.put_back.is_empty()
    }
}

#[derive(Debug)]
pub(super) struct SchedulerState {
    pub dispatch: Scheduler,
    pub handlers: HandlerMap,
    clock: MonotonicClock,
    /// To the workers; they end when it is gone.
    to: Option<Sender<Assignment>>,
    pub todo: PendingWork,
    /// When the next waiting job is due, on the trail's clock.
    pub due_ms: Option<i64>,
    /// When it was asked for that what is due be made ready, where no answer came yet.
    pub promoting_ms: Option<i64>,
    /// A claim was not written; `writable` will be told.
    pub blocked: bool,
    pub stopping: bool,
    /// Until when the dispatcher's thread sleeps.
    sleeps_until_ms: i64,
    /// What failed is done again, and no sooner.
    again_ms: Option<i64>,
}

impl SchedulerState {
    pub fn new(threads: usize, clock: MonotonicClock, to: Sender<Assignment>) -> Self {
        Self {
            dispatch: Scheduler::new(threads),
            handlers: HandlerMap::default(),
            clock,
            to: Some(to),
            todo: PendingWork::default(),
            due_ms: None,
            promoting_ms: None,
            blocked: false,
            stopping: false,
            sleeps_until_ms: i64::MIN,
            again_ms: None,
        }
    }

    pub fn now_us(&self) -> i64 {
        self.clock.now_ms().saturating_mul(1000)
    }

    /// What to claim now.
    pub fn plan(&mut self) -> Vec<ClaimRequest> {
        if self.stopping || self.blocked {
            return Vec::new();
        }
        let now_us = self.now_us();
        self.dispatch.plan(now_us)
    }

    /// Hands out what a claim got.
    pub fn claimed(&mut self, ask: &ClaimRequest, claimed: Vec<ClaimedJob>) {
        let now_us = self.now_us();
        self.dispatch.claimed(ask, claimed.len(), now_us);
        if ask.as_one_batch {
            self.start(claimed);
        } else {
            claimed.into_iter().for_each(|one| self.start(vec![one]));
        }
    }

    /// To a worker: there is always one free, as no more are asked for.
    fn start(&mut self, mut claimed: Vec<ClaimedJob>) {
        let Some(id) = claimed.first().map(|one| one.handler) else { return };
        // Changed or removed by a reload between the claim and here?
        let Some(to) = &self.to else { return self.put_back(claimed, "the server was stopped") };
        let Some(handler) = self.handlers.get(&id) else {
            return self.put_back(claimed, "its handler was taken out of the configuration");
        };
        if handler.settings.mode != Mode::Batch {
            let others =
                claimed.drain(1..).map(|one| (one, "its handler takes no batches any more"));
            self.todo.put_back.extend(others);
        }
        if let Err(e) = to.try_send(Assignment { claimed, handler: handler.clone() }) {
            log::error!("no worker was free for a claimed job, which is put back");
            self.put_back(e.into_inner().claimed, "no thread was free for it");
        }
    }

    fn put_back(&mut self, claimed: Vec<ClaimedJob>, why: &'static str) {
        if let Some(first) = claimed.first() {
            self.dispatch.release_thread(first.handler);
        }
        self.todo.put_back.extend(claimed.into_iter().map(|one| (one, why)));
    }

    pub fn set_open_until(&mut self, handler: HandlerId, until_ms: Option<i64>) {
        self.dispatch.set_breaker(handler, until_ms.map(|ms| ms.saturating_mul(1000)));
    }

    /// So many more jobs of it are ready.
    pub fn add_ready(&mut self, handler: HandlerId, jobs: usize) {
        let now_us = self.now_us();
        self.dispatch.add_ready(handler, jobs, now_us);
    }

    pub fn claim_failed(&mut self, ask: &ClaimRequest) {
        self.dispatch.claim_failed(ask);
        self.blocked = true;
        self.promoting_ms = None;
    }

    /// A job waits until then: one that began to, or what the file said a moment ago, which what was
    /// heard since adds to.
    pub fn note_due_at(&mut self, until_ms: Option<i64>) {
        self.due_ms = self.due_ms.into_iter().chain(until_ms).min();
    }

    /// The file may have been changed by others, or can be written again.
    pub fn request_refresh(&mut self) {
        self.todo.look = true;
        self.promoting_ms = None;
    }

    /// Whether waiting jobs are due, which are to be made ready.
    pub fn should_promote(&mut self) -> bool {
        let now_ms = self.clock.now_ms();
        let is_due = self.promote_at_ms().is_some_and(|at_ms| at_ms <= now_ms);
        if is_due {
            self.promoting_ms = Some(now_ms);
        }
        is_due
    }

    /// When to ask for it: again after a while, where no answer came.
    fn promote_at_ms(&self) -> Option<i64> {
        let due_ms = self.due_ms.filter(|_| !self.stopping && !self.blocked)?;
        let again_ms = self.promoting_ms.map(|ms| ms.saturating_add(PROMOTION_PATIENCE_MS));
        Some(again_ms.map_or(due_ms, |again_ms| again_ms.max(due_ms)))
    }

    /// Something could not be read: it is to be done again after a while.
    pub fn retry_later(&mut self, change: impl FnOnce(&mut PendingWork)) {
        change(&mut self.todo);
        self.again_ms = Some(self.clock.now_ms().saturating_add(AGAIN_MS));
    }

    /// Ends the workers, each after what it runs.
    pub fn close(&mut self) {
        self.stopping = true;
        self.to = None;
    }

    pub fn is_closed(&self) -> bool {
        self.to.is_none()
    }

    /// Whether the dispatcher's thread has something to do before it would wake by itself.
    pub fn has_work(&self) -> bool {
        let now_ms = self.clock.now_ms();
        let is_todo = !self.todo.is_nothing() && self.again_ms.is_none_or(|at_ms| at_ms <= now_ms);
        // The second: a thread sleeps on while the machine does, a wait does not.
        let is_due = |at_ms| at_ms < self.sleeps_until_ms || at_ms <= now_ms;
        self.is_closed()
            || is_todo
            || self.next_wakeup_ms().is_some_and(is_due)
            || self.dispatch.needs_count()
    }

    /// How long that thread may sleep.
    pub fn sleep_duration(&mut self) -> Duration {
        let now_ms = self.clock.now_ms();
        let at_ms =
            self.next_wakeup_ms().unwrap_or(i64::MAX).min(now_ms.saturating_add(SLEEP_MS_MAX));
        self.sleeps_until_ms = at_ms;
        Duration::from_millis(u64::try_from(at_ms - now_ms).unwrap_or(0))
    }

    /// When there may be something to do by time alone.
    fn next_wakeup_ms(&self) -> Option<i64> {
        let again_ms = self.again_ms.filter(|_| !self.todo.is_nothing());
        if self.blocked || self.stopping {
            return again_ms;
        }
        // The next whole millisecond: the clock has no finer ones.
        let next_ms = self.dispatch.next_us().map(|us| us.saturating_add(999).div_euclid(1000));
        self.promote_at_ms().into_iter().chain(next_ms).chain(again_ms).min()
    }
}
