//! Who may run now: threads are given to handlers, as many as are free and no more.
//!
//! Pure: told what happened, asked for a plan. A free thread goes to the highest priority that has a
//! job ready, among equals to the handler with the fewest running. Whether a handler has a job ready
//! is a hint: set when one is stored or comes due, cleared only by a claim that got fewer than it
//! asked for. The writer tells both in the order of its commits, so no wake-up is missed.

use std::collections::HashMap;

use self::handler_schedule::{HandlerLimits, HandlerSchedule};
use crate::domain::HandlerId;
use crate::domain::claim_request::ClaimRequest;

pub mod handler_schedule;
pub mod rate_limiter;
pub mod retry;

/// The state of all handlers. Moments are in microseconds on the trail's clock.
#[derive(Debug)]
pub struct Scheduler {
    threads: usize,
    busy: usize,
    lanes: HashMap<HandlerId, HandlerSchedule>,
}

impl Scheduler {
    pub fn new(threads: usize) -> Self {
        Self { threads, busy: 0, lanes: HashMap::new() }
    }

    /// Takes over a configuration; any handler may have jobs ready.
    pub fn configure(&mut self, limits: &HashMap<HandlerId, HandlerLimits>) {
        for (handler, lane) in &mut self.lanes {
            lane.configure(limits.get(handler).copied());
        }
        for (&handler, &limits) in limits {
            self.lanes.entry(handler).or_default().configure(Some(limits));
        }
        self.wake_all();
    }

    /// These, and no others, are paused.
    pub fn set_paused(&mut self, paused: &[HandlerId]) {
        for (handler, lane) in &mut self.lanes {
            lane.paused = paused.contains(handler);
        }
    }

    /// It rests until then, and has one job on trial from then on; `None`: it does not rest any more.
    pub fn set_breaker(&mut self, handler: HandlerId, until_us: Option<i64>) {
        self.lane(handler).rests(until_us);
    }

    /// With `rate`: what an earlier process left, no start before.
    pub fn restore_rate_limit(&mut self, handler: HandlerId, at_us: i64, now_us: i64) {
        if let Some(pace) = &mut self.lane(handler).pace {
            pace.restore(at_us, now_us);
        }
    }

    /// So many more jobs are ready.
    pub fn add_ready(&mut self, handler: HandlerId, jobs: usize, now_us: i64) {
        self.lane(handler).woken(jobs, now_us);
    }

    /// Any handler may have jobs ready.
    pub fn wake_all(&mut self) {
        for lane in self.lanes.values_mut() {
            lane.mark_maybe_ready();
        }
    }

    /// Whether somebody gathers a batch whose ready jobs are to be counted.
    pub fn needs_count(&self) -> bool {
        self.lanes.values().any(|lane| lane.count_limit().is_some())
    }

    /// Those, each with how many are to be counted at most; what comes while they are is added.
    pub fn begin_count(&mut self) -> Vec<(HandlerId, usize)> {
        let begin = |(&handler, lane): (&HandlerId, &mut HandlerSchedule)| {
            Some((handler, lane.begin_count()?))
        };
        self.lanes.iter_mut().filter_map(begin).collect()
    }

    /// It had so many ready jobs when they were counted, or more where that is as many as were to be.
    pub fn set_counted(&mut self, handler: HandlerId, jobs: usize, now_us: i64) {
        self.lane(handler).counted(jobs, now_us);
    }

    /// A claim got `got` jobs.
    pub fn claimed(&mut self, ask: &ClaimRequest, got: usize, now_us: i64) {
        self.busy -= ask.threads(ask.jobs) - ask.threads(got);
        self.lane(ask.handler).claimed(ask, got, now_us);
    }

    /// A claim was not written.
    pub fn claim_failed(&mut self, ask: &ClaimRequest) {
        self.busy -= ask.threads(ask.jobs);
        self.lane(ask.handler).claim_failed(ask);
    }

    /// A thread is free again; the outcomes of what it ran are on their way to the disk, before any
    /// claim that is asked for from here on.
    pub fn release_thread(&mut self, handler: HandlerId) {
        self.busy -= 1;
        self.lane(handler).busy -= 1;
    }

    /// Threads that run jobs, or for which some were asked.
    pub fn busy(&self) -> usize {
        self.busy
    }

    /// What to ask for now; counted as running from here on.
    pub fn plan(&mut self, now_us: i64) -> Vec<ClaimRequest> {
        let mut asks: Vec<ClaimRequest> = Vec::new();
        if self.busy >= self.threads {
            return asks;
        }
        for lane in self.lanes.values_mut() {
            lane.begin_plan(now_us);
        }
        while self.busy < self.threads {
            let Some((&handler, lane)) = self
                .lanes
                .iter_mut()
                .filter(|(_, lane)| lane.may_start())
                .min_by_key(|(handler, lane)| (lane.sort_key(), **handler))
            else {
                break;
            };
            self.busy += 1;
            let before = asks.iter_mut().find(|ask| ask.handler == handler);
            lane.grant_thread(handler, before, now_us).into_iter().for_each(|ask| asks.push(ask));
        }
        asks
    }

    /// When a plan may be another than now by time alone.
    pub fn next_us(&self) -> Option<i64> {
        if self.busy >= self.threads {
            return None;
        }
        self.lanes.values().filter_map(HandlerSchedule::due_us).min()
    }

    fn lane(&mut self, handler: HandlerId) -> &mut HandlerSchedule {
        self.lanes.entry(handler).or_default()
    }
}

#[cfg(test)]
mod tests;
