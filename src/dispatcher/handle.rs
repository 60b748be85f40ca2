//! The handle to the dispatcher: its shared state, the lock, and the wake-up of its thread.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::Sender;

use super::HandlerMap;
use super::state::DispatcherState;
use crate::clock::{self, MonotonicClock};
use crate::domain::HandlerId;
use crate::domain::claim_request::ClaimRequest;
use crate::store::breaker::BreakerState;
use crate::store::dead_job::DeadJob;
use crate::store::jobs::{ClaimedJob, FinishResult};
use crate::store::operation::WriterObserver;
use crate::worker::Assignment;

/// The dispatcher's shared state with its lock. The writer, the application and the dispatcher's own
/// thread hold one.
#[derive(Debug)]
pub struct DispatcherHandle {
    state: Mutex<DispatcherState>,
    wake: Condvar,
}

impl DispatcherHandle {
    /// Creates the state for `threads` workers, which receive from `assignments`. `breakers` are the open
    /// circuit breakers that an earlier process left.
    pub fn new(
        threads: usize,
        clock: MonotonicClock,
        assignments: Sender<Assignment>,
        breakers: &HashMap<HandlerId, BreakerState>,
    ) -> Self {
        let mut state = DispatcherState::new(threads, clock, assignments);
        for (&handler, breaker) in breakers {
            state.set_open_until(handler, breaker.open_until_ms);
        }
        Self { state: Mutex::new(state), wake: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, DispatcherState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut DispatcherState)) {
        let mut state = self.lock();
        change(&mut state);
        self.wake_if_needed(&state);
    }

    /// Wakes the dispatcher's thread if it has work.
    fn wake_if_needed(&self, state: &DispatcherState) {
        if state.has_work() {
            self.wake.notify_one();
        }
    }

    /// Applies a new configuration.
    pub fn configure(&self, handlers: HandlerMap) {
        self.update(|state| state.pending.configure = Some(handlers));
    }

    /// Asks the dispatcher's thread to read the database again.
    pub(super) fn request_refresh(&self) {
        self.update(DispatcherState::request_refresh);
    }

    /// Starts no more jobs. Running jobs go on.
    pub fn stop(&self) {
        self.update(|state| state.stopping = true);
    }

    /// Ends the dispatcher's thread, and with it the workers.
    pub fn shut_down(&self) {
        self.update(DispatcherState::close);
    }

    /// The number of threads that run jobs or for which a claim is in flight.
    pub fn busy(&self) -> usize {
        self.lock().scheduler.busy()
    }

    /// Blocks until there is work for the dispatcher's thread.
    pub(super) fn wait_for_work(&self) -> MutexGuard<'_, DispatcherState> {
        let mut state = self.lock();
        let sleep = state.sleep_duration();
        let locked = self.wake.wait_timeout_while(state, sleep, |state| !state.has_work());
        locked.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Receives what the writer reports after each commit, and passes it to the dispatcher.
pub struct WriterListener {
    pub dispatcher: Arc<DispatcherHandle>,
    /// Called for each job that became dead. It must not block.
    pub on_dead_job: Box<dyn Fn(&DeadJob) + Send>,
    /// Called with the reason when the process has to end.
    pub on_broken: Box<dyn Fn(&str) + Send>,
}

impl WriterObserver for WriterListener {
    fn worker_freed(&self, handler: HandlerId) {
        self.dispatcher.lock().scheduler.release_thread(handler);
    }

    fn plan_claims(&self) -> Vec<ClaimRequest> {
        let mut state = self.dispatcher.lock();
        let requests = state.plan();
        // Here, because all changes of a commit are known by now.
        self.dispatcher.wake_if_needed(&state);
        requests
    }

    fn jobs_claimed(&self, request: ClaimRequest, jobs: Vec<ClaimedJob>) {
        self.dispatcher.lock().start_claimed(&request, jobs);
    }

    fn claim_failed(&self, request: ClaimRequest) {
        self.dispatcher.lock().record_failed_claim(&request);
    }

    fn breaker_changed(&self, handler: HandlerId, until_ms: Option<i64>) {
        let name = self.dispatcher.lock().set_open_until(handler, until_ms);
        let Some((name, until_ms)) = name else { return };
        match until_ms {
            Some(until_ms) => log::warn!(
                "handler {name}: the circuit breaker is open until {}: its jobs wait",
                clock::format_rfc3339(until_ms)
            ),
            None => log::info!("handler {name}: the circuit breaker is closed"),
        }
    }

    fn job_died(&self, dead_job: DeadJob) {
        (self.on_dead_job)(&dead_job);
    }

    fn attempt_finished(&self, handler: HandlerId, result: FinishResult) {
        match result {
            FinishResult::Ready => self.dispatcher.lock().add_ready(handler, 1),
            FinishResult::Scheduled(at_ms) => self.job_scheduled(at_ms),
            FinishResult::Settled | FinishResult::Stale => {}
        }
    }

    fn jobs_ready(&self, handlers: &HashMap<HandlerId, usize>) {
        let mut state = self.dispatcher.lock();
        for (&handler, &jobs) in handlers {
            state.add_ready(handler, jobs);
        }
    }

    fn job_scheduled(&self, until_ms: i64) {
        self.dispatcher.lock().note_due_at(Some(until_ms));
    }

    fn next_due(&self, at_ms: Option<i64>) {
        let mut state = self.dispatcher.lock();
        state.promotion_requested_ms = None;
        state.due_ms = at_ms;
    }

    fn external_write(&self) {
        self.dispatcher.request_refresh();
    }

    fn store_recovered(&self) {
        self.dispatcher.update(|state| {
            state.blocked = false;
            state.request_refresh();
        });
    }

    fn store_failed(&self, reason: &str) {
        (self.on_broken)(reason);
    }
}
