//! The scheduler: decides how many jobs of which handler to claim for the threads that are free.
//!
//! It is pure: callers report what happened and request a plan. A free thread goes to the handler with
//! the highest priority that has a job ready; among equals, to the one with the fewest busy threads.
//! Whether a handler has a job ready is a hint. A stored job or a due job sets it, and only a claim
//! that got fewer jobs than it asked for clears it. The writer reports both in the order of its
//! commits, so no wake-up is missed.

use std::cmp::Reverse;
use std::collections::HashMap;

use self::handler_schedule::{HandlerLimits, HandlerSchedule};
use crate::domain::HandlerId;
use crate::domain::claim_request::ClaimRequest;

pub mod handler_schedule;
mod prefetch;
pub mod rate_limiter;
pub mod retry;

/// A configured handler, as far as starting its jobs is concerned.
#[derive(Clone, Debug)]
pub struct ScheduledHandler {
    pub name: String,
    pub limits: HandlerLimits,
}

/// The handlers of a configuration.
pub type HandlerTable = HashMap<HandlerId, ScheduledHandler>;

/// The smallest key gets the next thread.
type SortKey = ((Reverse<i64>, usize), HandlerId);

/// The schedules of all handlers and the number of busy threads. All times are microseconds on the
/// database clock.
#[derive(Debug)]
pub struct Scheduler {
    threads: usize,
    busy: usize,
    handlers: HashMap<HandlerId, HandlerSchedule>,
}

impl Scheduler {
    pub fn new(threads: usize) -> Self {
        Self { threads, busy: 0, handlers: HashMap::new() }
    }

    /// Applies a new configuration. Any handler may have jobs ready afterwards.
    pub fn configure(&mut self, limits: &HashMap<HandlerId, HandlerLimits>) {
        for (handler, schedule) in &mut self.handlers {
            schedule.configure(limits.get(handler).copied());
        }
        for (&handler, &limits) in limits {
            self.handlers.entry(handler).or_default().configure(Some(limits));
        }
        self.wake_all();
    }

    /// Pauses exactly these handlers and resumes all others.
    pub fn set_paused(&mut self, paused: &[HandlerId]) {
        for (handler, schedule) in &mut self.handlers {
            schedule.is_paused = paused.contains(handler);
        }
    }

    /// Opens a handler's circuit breaker until `until_us`. After that, one job runs as a probe. `None`
    /// closes the breaker.
    pub fn set_breaker(&mut self, handler: HandlerId, until_us: Option<i64>) {
        self.schedule(handler).set_breaker(until_us);
    }

    /// Restores the rate limit that an earlier process left: no job starts before `at_us`.
    pub fn restore_rate_limit(&mut self, handler: HandlerId, at_us: i64, now_us: i64) {
        if let Some(rate_limiter) = &mut self.schedule(handler).rate_limiter {
            rate_limiter.restore(at_us, now_us);
        }
    }

    /// Records that `jobs` more jobs are ready.
    pub fn add_ready(&mut self, handler: HandlerId, jobs: usize, now_us: i64) {
        self.schedule(handler).add_ready(jobs, now_us);
    }

    /// Assumes that every handler may have jobs ready.
    pub fn wake_all(&mut self) {
        for schedule in self.handlers.values_mut() {
            schedule.mark_maybe_ready();
        }
    }

    /// Returns the handlers in batch mode whose ready jobs must be counted, and how many jobs to count at
    /// most.
    pub fn counts_needed(&self) -> Vec<(HandlerId, usize)> {
        if self.busy >= self.threads {
            return Vec::new();
        }
        let needed = |(&handler, schedule): (&HandlerId, &HandlerSchedule)| {
            Some((handler, schedule.count_limit()?))
        };
        self.handlers.iter().filter_map(needed).collect()
    }

    /// Records the result of a count. A result equal to the requested maximum means that many or more.
    pub fn set_counted(&mut self, handler: HandlerId, jobs: usize, now_us: i64) {
        self.schedule(handler).set_counted(jobs, now_us);
    }

    /// Records a committed claim that got `claimed_count` jobs.
    pub fn record_claim(&mut self, request: &ClaimRequest, claimed_count: usize, now_us: i64) {
        self.busy -= request.thread_count(request.max_jobs) - request.thread_count(claimed_count);
        self.schedule(request.handler).record_claim(request, claimed_count, now_us);
    }

    /// Records a claim that could not be written.
    pub fn record_failed_claim(&mut self, request: &ClaimRequest, now_us: i64) {
        self.busy -= request.thread_count(request.max_jobs);
        self.schedule(request.handler).record_failed_claim(request, now_us);
    }

    /// Records that a thread is free. The outcomes of its jobs are already in the writer's queue, ahead
    /// of any claim planned from now on.
    pub fn release_thread(&mut self, handler: HandlerId) {
        self.busy -= 1;
        self.schedule(handler).busy -= 1;
    }

    /// Records how long a job took.
    pub fn record_duration(&mut self, handler: HandlerId, duration_us: i64) {
        self.schedule(handler).prefetch.record_duration(duration_us);
    }

    /// Records that prefetched jobs started or returned to the queue.
    pub fn remove_prefetched(&mut self, handler: HandlerId, jobs: usize, now_us: i64) {
        self.schedule(handler).prefetch.remove(jobs, now_us);
    }

    /// Returns the handlers with prefetched jobs.
    pub fn prefetching(&self) -> Vec<HandlerId> {
        let has_jobs =
            |(_, schedule): &(&HandlerId, &HandlerSchedule)| schedule.prefetch.has_jobs();
        self.handlers.iter().filter(has_jobs).map(|(&handler, _)| handler).collect()
    }

    /// Returns the handlers whose prefetched jobs must return to the queue: they may not start any more, or have
    /// waited for too long.
    pub fn prefetches_to_return(&mut self, now_us: i64) -> Vec<HandlerId> {
        let mut handlers = Vec::new();
        for (&handler, schedule) in &mut self.handlers {
            let Some(return_at_us) = schedule.prefetch.return_at_us() else { continue };
            if !schedule.allows_prefetch() {
                handlers.push(handler);
            } else if return_at_us <= now_us {
                schedule.prefetch.record_stall();
                handlers.push(handler);
            }
        }
        handlers
    }

    /// Plans which jobs to prefetch. Returns the handlers whose threads may go on with prefetched jobs, and the claims
    /// to make. Both only for handlers that would get back a thread that they release now. Must be called after `plan`.
    pub fn plan_prefetch(&mut self, now_us: i64) -> (Vec<HandlerId>, Vec<ClaimRequest>) {
        let (mut open, mut requests) = (Vec::new(), Vec::new());
        let is_candidate = |schedule: &HandlerSchedule| {
            schedule.busy > 0 && schedule.allows_prefetch() && schedule.is_within_concurrency()
        };
        if !self.handlers.values().any(is_candidate) {
            return (open, requests);
        }
        let next = self.next_handler(now_us);
        for (&handler, schedule) in &mut self.handlers {
            let (Reverse(priority), busy) = schedule.sort_key();
            let key = ((Reverse(priority), busy.saturating_sub(1)), handler);
            if is_candidate(schedule) && next.is_none_or(|next| key <= next) {
                open.push(handler);
                requests.extend(schedule.prefetch_request(handler, now_us));
            }
        }
        (open, requests)
    }

    /// Returns the key of the handler that waits for a thread and would get the next one. `None` if none waits.
    fn next_handler(&mut self, now_us: i64) -> Option<SortKey> {
        if self.busy < self.threads {
            return None;
        }
        let mut keys = Vec::new();
        for (&handler, schedule) in &mut self.handlers {
            schedule.begin_plan(now_us);
            if schedule.may_start() {
                keys.push((schedule.sort_key(), handler));
            }
        }
        keys.into_iter().min()
    }

    /// The number of threads that run jobs or for which a claim is in flight.
    pub fn busy(&self) -> usize {
        self.busy
    }

    /// Returns the claims to make now. Their threads count as busy from here on.
    pub fn plan(&mut self, now_us: i64) -> Vec<ClaimRequest> {
        let mut requests: Vec<ClaimRequest> = Vec::new();
        if self.busy >= self.threads {
            return requests;
        }
        for schedule in self.handlers.values_mut() {
            schedule.begin_plan(now_us);
        }
        while self.busy < self.threads {
            let Some((&handler, schedule)) = self
                .handlers
                .iter_mut()
                .filter(|(_, schedule)| schedule.may_start())
                .min_by_key(|(handler, schedule)| (schedule.sort_key(), **handler))
            else {
                break;
            };
            self.busy += 1;
            let pending = requests.iter_mut().find(|request| request.handler == handler);
            schedule
                .grant_thread(handler, pending, now_us)
                .into_iter()
                .for_each(|request| requests.push(request));
        }
        requests
    }

    /// Returns the earliest time at which a plan can change without any other event.
    pub fn next_us(&self) -> Option<i64> {
        let has_free_thread = self.busy < self.threads;
        let next_us = |schedule: &HandlerSchedule| {
            let due_us = schedule.due_us().filter(|_| has_free_thread);
            [due_us, schedule.prefetch.return_at_us()].into_iter().flatten().min()
        };
        self.handlers.values().filter_map(next_us).min()
    }

    fn schedule(&mut self, handler: HandlerId) -> &mut HandlerSchedule {
        self.handlers.entry(handler).or_default()
    }
}

#[cfg(test)]
mod tests;
