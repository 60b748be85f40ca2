//! Where the writer, the workers' outcomes, and whoever configures and stops the server meet: the
//! desk, its lock, and what wakes the dispatcher's thread.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::Sender;

use super::HandlerMap;
use super::desk::SchedulerState;
use crate::clock::MonotonicClock;
use crate::domain::HandlerId;
use crate::domain::ask::ClaimRequest;
use crate::store::jobs::{ClaimedJob, JobDisposition};
use crate::store::op::WriterObserver;
use crate::store::rest::BreakerState;
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
        rests.iter().for_each(|(&handler, rest)| desk.rests(handler, rest.until_ms));
        Self { desk: Mutex::new(desk), wake: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, SchedulerState> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, change: impl FnOnce(&mut SchedulerState)) {
        let mut desk = self.lock();
        change(&mut desk);
        self.call(&desk);
    }

    /// Wakes the dispatcher's thread, if there is something for it.
    fn call(&self, desk: &SchedulerState) {
        if desk.calls() {
            self.wake.notify_one();
        }
    }

    /// Takes over a configuration.
    pub fn configure(&self, handlers: HandlerMap) {
        self.tell(|desk| desk.todo.configure = Some(handlers));
    }

    pub(super) fn look(&self) {
        self.tell(SchedulerState::look);
    }

    /// Starts no more jobs.
    pub fn stop(&self) {
        self.tell(|desk| desk.stopping = true);
    }

    /// Ends the dispatcher, and with it the workers.
    pub fn leave(&self) {
        self.tell(SchedulerState::leave);
    }

    /// Threads that run jobs, or for which some were asked.
    pub fn busy(&self) -> usize {
        self.lock().dispatch.busy()
    }

    /// Sleeps until there is something to do.
    pub(super) fn wait(&self) -> MutexGuard<'_, SchedulerState> {
        let mut desk = self.lock();
        let sleep = desk.sleep();
        let woken = self.wake.wait_timeout_while(desk, sleep, |desk| !desk.calls());
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
    fn freed(&self, handler: HandlerId) {
        self.hub.lock().dispatch.finished(handler);
    }

    fn plan(&self) -> Vec<ClaimRequest> {
        let mut desk = self.hub.lock();
        let asks = desk.plan();
        // Here, where all that a commit changed is known, and not at each change.
        self.hub.call(&desk);
        asks
    }

    fn claimed(&self, ask: ClaimRequest, jobs: Vec<ClaimedJob>) {
        self.hub.lock().claimed(&ask, jobs);
    }

    fn claim_failed(&self, ask: ClaimRequest) {
        self.hub.lock().claim_failed(&ask);
    }

    fn rests(&self, handler: HandlerId, until_ms: Option<i64>) {
        self.hub.lock().rests(handler, until_ms);
    }

    fn finished(&self, handler: HandlerId, how: JobDisposition) {
        match how {
            JobDisposition::Ready => self.hub.lock().woken(handler, 1),
            JobDisposition::Waiting(at_ms) => self.waits(at_ms),
            JobDisposition::Settled | JobDisposition::Stale => {}
        }
    }

    fn woken(&self, handlers: &HashMap<HandlerId, usize>) {
        let mut desk = self.hub.lock();
        for (&handler, &jobs) in handlers {
            desk.woken(handler, jobs);
        }
    }

    fn waits(&self, until_ms: i64) {
        self.hub.lock().waits(Some(until_ms));
    }

    fn next_due(&self, at_ms: Option<i64>) {
        let mut desk = self.hub.lock();
        desk.promoting_ms = None;
        desk.due_ms = at_ms;
    }

    fn foreign(&self) {
        self.hub.look();
    }

    fn writable(&self) {
        self.hub.tell(|desk| {
            desk.blocked = false;
            desk.look();
        });
    }

    fn broken(&self, why: &str) {
        (self.broken)(why);
    }
}
