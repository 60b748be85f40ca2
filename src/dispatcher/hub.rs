//! Where the writer, the workers' outcomes, and whoever configures and stops the server meet: the
//! desk, its lock, and what wakes the dispatcher's thread.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::Sender;

use super::Handlers;
use super::desk::Desk;
use crate::clock::TrailClock;
use crate::domain::HandlerId;
use crate::domain::ask::Ask;
use crate::store::jobs::{Claimed, Finished};
use crate::store::op::Hear;
use crate::store::rest::Rest;
use crate::worker::Start;

/// The desk, for all who change it.
#[derive(Debug)]
pub struct Hub {
    desk: Mutex<Desk>,
    wake: Condvar,
}

impl Hub {
    /// For so many workers, who listen to `to`; with the rests that an earlier process left.
    pub fn new(
        threads: usize,
        clock: TrailClock,
        to: Sender<Start>,
        rests: &HashMap<HandlerId, Rest>,
    ) -> Self {
        let mut desk = Desk::new(threads, clock, to);
        rests.iter().for_each(|(&handler, rest)| desk.rests(handler, rest.until_ms));
        Self { desk: Mutex::new(desk), wake: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, change: impl FnOnce(&mut Desk)) {
        let mut desk = self.lock();
        change(&mut desk);
        self.call(&desk);
    }

    /// Wakes the dispatcher's thread, if there is something for it.
    fn call(&self, desk: &Desk) {
        if desk.calls() {
            self.wake.notify_one();
        }
    }

    /// Takes over a configuration.
    pub fn configure(&self, handlers: Handlers) {
        self.tell(|desk| desk.todo.configure = Some(handlers));
    }

    pub(super) fn look(&self) {
        self.tell(Desk::look);
    }

    /// Starts no more jobs.
    pub fn stop(&self) {
        self.tell(|desk| desk.stopping = true);
    }

    /// Ends the dispatcher, and with it the workers.
    pub fn leave(&self) {
        self.tell(Desk::leave);
    }

    /// Threads that run jobs, or for which some were asked.
    pub fn busy(&self) -> usize {
        self.lock().dispatch.busy()
    }

    /// Sleeps until there is something to do.
    pub(super) fn wait(&self) -> MutexGuard<'_, Desk> {
        let mut desk = self.lock();
        let sleep = desk.sleep();
        let woken = self.wake.wait_timeout_while(desk, sleep, |desk| !desk.calls());
        woken.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// The writer's way to the desk.
pub struct Ear {
    pub hub: Arc<Hub>,
    /// Called when the process must end.
    pub broken: Box<dyn Fn(&str) + Send>,
}

impl Hear for Ear {
    fn freed(&self, handler: HandlerId) {
        self.hub.lock().dispatch.finished(handler);
    }

    fn plan(&self) -> Vec<Ask> {
        let mut desk = self.hub.lock();
        let asks = desk.plan();
        // Here, where all that a commit changed is known, and not at each change.
        self.hub.call(&desk);
        asks
    }

    fn claimed(&self, ask: Ask, jobs: Vec<Claimed>) {
        self.hub.lock().claimed(&ask, jobs);
    }

    fn claim_failed(&self, ask: Ask) {
        self.hub.lock().claim_failed(&ask);
    }

    fn rests(&self, handler: HandlerId, until_ms: Option<i64>) {
        self.hub.lock().rests(handler, until_ms);
    }

    fn finished(&self, handler: HandlerId, how: Finished) {
        match how {
            Finished::Ready => self.hub.lock().woken(handler, 1),
            Finished::Waiting(at_ms) => self.waits(at_ms),
            Finished::Settled | Finished::Stale => {}
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
