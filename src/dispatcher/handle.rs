//! Where the writer, the workers' outcomes, and whoever configures and stops the server meet: the
//! desk, its lock, and what wakes the dispatcher's thread.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::Sender;

use super::HandlerMap;
use super::state::SchedulerState;
use crate::clock::MonotonicClock;
use crate::domain::HandlerId;
use crate::domain::claim_request::ClaimRequest;
use crate::store::breaker::BreakerState;
use crate::store::jobs::{ClaimedJob, JobDisposition};
use crate::store::operation::WriterObserver;
use crate::worker::Assignment;

/// The desk, for all who change it.
#[derive(Debug)]
pub struct Scheduler {
    desk: Mutex<SchedulerState>,
    wake: Condvar,
}

impl Scheduler {
    /// For so many workers, who listen to `to`; with the rests that an earlier process left.
    pub fn new(
        threads: usize,
        clock: MonotonicClock,
        to: Sender<Assignment>,
        rests: &HashMap<HandlerId, BreakerState>,
    ) -> Self {
        let mut desk = SchedulerState::new(threads, clock, to);
        rests.iter().for_each(|(&handler, rest)| desk.set_open_until(handler, rest.until_ms));
        Self { desk: Mutex::new(desk), wake: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, SchedulerState> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut SchedulerState)) {
        let mut desk = self.lock();
        change(&mut desk);
        self.wake_if_needed(&desk);
    }

    /// Wakes the dispatcher's thread, if there is something for it.
    fn wake_if_needed(&self, desk: &SchedulerState) {
        if desk.has_work() {
            self.wake.notify_one();
        }
    }

    /// Takes over a configuration.
    pub fn configure(&self, handlers: HandlerMap) {
        self.update(|desk| desk.todo.configure = Some(handlers));
    }

    pub(super) fn look(&self) {
        self.update(SchedulerState::request_refresh);
    }

    /// Starts no more jobs.
    pub fn stop(&self) {
        self.update(|desk| desk.stopping = true);
    }

    /// Ends the dispatcher, and with it the workers.
    pub fn shut_down(&self) {
        self.update(SchedulerState::close);
    }

    /// Threads that run jobs, or for which some were asked.
    pub fn busy(&self) -> usize {
        self.lock().dispatch.busy()
    }

    /// Sleeps until there is something to do.
    pub(super) fn wait_for_work(&self) -> MutexGuard<'_, SchedulerState> {
        let mut desk = self.lock();
        let sleep = desk.sleep_duration();
        let woken = self.wake.wait_timeout_while(desk, sleep, |desk| !desk.has_work());
        woken.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// The writer's way to the desk.
pub struct WriterListener {
    pub hub: Arc<Scheduler>,
    /// Called when the process must end.
    pub broken: Box<dyn Fn(&str) + Send>,
}

impl WriterObserver for WriterListener {
    fn worker_freed(&self, handler: HandlerId) {
        self.hub.lock().dispatch.release_thread(handler);
    }

    fn plan(&self) -> Vec<ClaimRequest> {
        let mut desk = self.hub.lock();
        let asks = desk.plan();
        // Here, where all that a commit changed is known, and not at each change.
        self.hub.wake_if_needed(&desk);
        asks
    }

    fn claimed(&self, ask: ClaimRequest, jobs: Vec<ClaimedJob>) {
        self.hub.lock().claimed(&ask, jobs);
    }

    fn claim_failed(&self, ask: ClaimRequest) {
        self.hub.lock().claim_failed(&ask);
    }

    fn breaker_changed(&self, handler: HandlerId, until_ms: Option<i64>) {
        self.hub.lock().set_open_until(handler, until_ms);
    }

    fn finished(&self, handler: HandlerId, how: JobDisposition) {
        match how {
            JobDisposition::Ready => self.hub.lock().add_ready(handler, 1),
            JobDisposition::Waiting(at_ms) => self.job_scheduled(at_ms),
            JobDisposition::Settled | JobDisposition::Stale => {}
        }
    }

    fn jobs_ready(&self, handlers: &HashMap<HandlerId, usize>) {
        let mut desk = self.hub.lock();
        for (&handler, &jobs) in handlers {
            desk.add_ready(handler, jobs);
        }
    }

    fn job_scheduled(&self, until_ms: i64) {
        self.hub.lock().note_due_at(Some(until_ms));
    }

    fn next_due(&self, at_ms: Option<i64>) {
        let mut desk = self.hub.lock();
        desk.promoting_ms = None;
        desk.due_ms = at_ms;
    }

    fn external_write(&self) {
        self.hub.look();
    }

    fn store_recovered(&self) {
        self.hub.update(|desk| {
            desk.blocked = false;
            desk.request_refresh();
        });
    }

    fn broken(&self, why: &str) {
        (self.broken)(why);
    }
}
