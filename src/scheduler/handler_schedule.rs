//! One handler in the eyes of `dispatch`: what it may start, and what it waits for.
//!
//! A plain one is asked for as many jobs as there are threads for it. One that has a `rate`, gathers
//! batches or rests is asked one thing at a time, since the answer says what may be next.

use std::cmp::Reverse;
use std::time::Duration;

use super::rate_limiter::RateLimiter;
use crate::config::{self, Mode, Rate};
use crate::domain::HandlerId;
use crate::domain::claim_request::ClaimRequest;

/// What config.toml says of a handler, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandlerLimits {
    pub priority: i64,
    pub concurrency: usize,
    pub rate: Option<Rate>,
    pub batch: Option<BatchPolicy>,
}

/// `batch_size` and `batch_wait`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPolicy {
    pub jobs_max: usize,
    pub wait: Duration,
}

impl HandlerLimits {
    pub fn of(handler: &config::Handler) -> Self {
        let batch = BatchPolicy { jobs_max: handler.batch_size, wait: handler.batch_wait };
        Self {
            priority: handler.priority,
            concurrency: handler.concurrency,
            rate: handler.rate_limit,
            batch: Some(batch).filter(|_| handler.mode == Mode::Batch),
        }
    }
}

/// A rest, and the trial after it.
#[derive(Clone, Copy, Debug)]
struct OpenCircuit {
    until_us: i64,
    /// The job on trial was asked for, or runs.
    on_trial: bool,
}

/// What is known of a batch that is waiting for more.
#[derive(Clone, Copy, Debug, Default)]
struct BatchProgress {
    /// Ready at most, unless they are to be counted.
    jobs: usize,
    is_counted: bool,
    /// So many came since a count began: they may be in it or not.
    since_count: usize,
    /// When the first was there.
    since_us: Option<i64>,
}

#[derive(Debug)]
pub(super) struct HandlerSchedule {
    /// `None`: not configured any more; what runs may end.
    limits: Option<HandlerLimits>,
    pub paused: bool,
    ready: bool,
    /// Threads that run its jobs, or for which some were asked.
    pub busy: usize,
    pub pace: Option<RateLimiter>,
    rest: Option<OpenCircuit>,
    gathered: BatchProgress,
    /// An answer is waited for before anything more is asked.
    claim_in_flight: bool,
    /// How many more threads this plan may give it.
    threads_left: usize,
}

impl Default for HandlerSchedule {
    fn default() -> Self {
        Self {
            limits: None,
            paused: false,
            ready: true,
            busy: 0,
            pace: None,
            rest: None,
            gathered: BatchProgress::default(),
            claim_in_flight: false,
            threads_left: 0,
        }
    }
}

impl HandlerSchedule {
    pub fn configure(&mut self, limits: Option<HandlerLimits>) {
        self.limits = limits;
        match (limits.and_then(|limits| limits.rate), &mut self.pace) {
            (Some(rate), Some(pace)) => pace.set_rate(rate),
            (Some(rate), pace) => *pace = Some(RateLimiter::new(rate)),
            (None, pace) => *pace = None,
        }
    }

    pub fn rests(&mut self, until_us: Option<i64>) {
        self.rest = until_us.map(|until_us| OpenCircuit { until_us, on_trial: false });
        self.mark_maybe_ready();
    }

    pub fn mark_maybe_ready(&mut self) {
        self.ready = true;
        self.gathered.is_counted = false;
    }

    pub fn woken(&mut self, jobs: usize, now_us: i64) {
        self.ready = true;
        let Some(batch) = self.batch() else { return };
        self.gathered.jobs = self.gathered.jobs.saturating_add(jobs);
        self.gathered.since_count = self.gathered.since_count.saturating_add(jobs);
        self.gathered.since_us.get_or_insert(now_us);
        // Some of them may be cancelled or collapsed by now.
        let is_full = self.gathered.jobs >= batch.jobs_max;
        self.gathered.is_counted &= !is_full;
    }

    pub fn count_limit(&self) -> Option<usize> {
        let is_due = self.can_start() && !self.claim_in_flight && self.rest.is_none();
        let batch = self.batch().filter(|_| is_due && !self.gathered.is_counted);
        batch.map(|batch| batch.jobs_max)
    }

    pub fn begin_count(&mut self) -> Option<usize> {
        self.gathered.since_count = 0;
        self.count_limit()
    }

    pub fn counted(&mut self, count: usize, now_us: i64) {
        let jobs_max = self.batch().map_or(count, |batch| batch.jobs_max);
        let jobs = count.saturating_add(self.gathered.since_count);
        self.ready = jobs > 0;
        let since_us = (jobs > 0).then(|| self.gathered.since_us.unwrap_or(now_us));
        // Full by what came meanwhile alone: that may have been counted twice.
        let is_counted = jobs < jobs_max || count >= jobs_max;
        self.gathered = BatchProgress { jobs, is_counted, since_count: 0, since_us };
    }

    pub fn claimed(&mut self, ask: &ClaimRequest, got: usize, now_us: i64) {
        self.busy -= ask.threads(ask.jobs) - ask.threads(got);
        self.claim_in_flight = false;
        if let Some(pace) = &mut self.pace {
            pace.started(got, now_us);
        }
        if let Some(rest) = &mut self.rest {
            if !ask.is_probe {
                // Asked for before it rested, and refused: there may be jobs all the same.
                return;
            }
            rest.on_trial = got > 0;
        }
        self.ready &= got == ask.jobs;
        self.gathered = BatchProgress::default();
    }

    pub fn claim_failed(&mut self, ask: &ClaimRequest) {
        self.busy -= ask.threads(ask.jobs);
        self.claim_in_flight = false;
        if let Some(rest) = &mut self.rest {
            rest.on_trial &= !ask.is_probe;
        }
    }

    /// The smallest is next.
    pub fn sort_key(&self) -> (Reverse<i64>, usize) {
        (Reverse(self.limits.map_or(i64::MIN, |limits| limits.priority)), self.busy)
    }

    pub fn begin_plan(&mut self, now_us: i64) {
        let is_due = self.can_start() && self.due_us().is_none_or(|due_us| due_us <= now_us);
        self.threads_left = match &self.pace {
            _ if !is_due || self.claim_in_flight || self.count_limit().is_some() => 0,
            _ if self.rest.is_some() || self.batch().is_some() => 1,
            Some(pace) => pace.permits_now(now_us),
            None => usize::MAX,
        };
    }

    pub fn may_start(&self) -> bool {
        self.threads_left > 0 && self.limits.is_some_and(|limits| self.busy < limits.concurrency)
    }

    /// Gives it a thread more: by what was asked for it already in this plan, or by what is given
    /// back.
    pub fn grant_thread(
        &mut self,
        handler: HandlerId,
        before: Option<&mut ClaimRequest>,
        now_us: i64,
    ) -> Option<ClaimRequest> {
        self.busy += 1;
        self.threads_left -= 1;
        if let Some(ask) = before {
            ask.jobs += 1;
            return None;
        }
        let on_trial = self.rest.is_some();
        if let Some(rest) = &mut self.rest {
            rest.on_trial = true;
        }
        let batch = self.batch();
        self.claim_in_flight = on_trial || batch.is_some() || self.pace.is_some();
        let allowed = self.pace.as_ref().map_or(usize::MAX, |pace| pace.permits_now(now_us));
        let jobs = match batch {
            Some(batch) if !on_trial => batch.jobs_max.min(allowed),
            _ => 1,
        };
        let gap_ms = self.pace.as_ref().map(RateLimiter::gap_ms);
        Some(ClaimRequest {
            handler,
            jobs,
            as_one_batch: batch.is_some(),
            is_probe: on_trial,
            min_interval_ms: gap_ms,
        })
    }

    /// When it may start one: none where that is not a matter of time, or at once.
    pub fn due_us(&self) -> Option<i64> {
        if !self.can_start() || self.claim_in_flight {
            return None;
        }
        let gathered = &self.gathered;
        let full_us = match (self.batch(), gathered.since_us) {
            (Some(batch), Some(since_us))
                if self.rest.is_none() && gathered.jobs < batch.jobs_max =>
            {
                let wait_us = i64::try_from(batch.wait.as_micros()).unwrap_or(i64::MAX);
                Some(since_us.saturating_add(wait_us))
            }
            _ => None,
        };
        let rested_us = self.rest.map(|rest| rest.until_us);
        let paced_us = self.pace.as_ref().map(RateLimiter::due_us);
        [full_us, rested_us, paced_us].into_iter().flatten().max()
    }

    /// But for time.
    fn can_start(&self) -> bool {
        self.ready
            && !self.paused
            && self.rest.is_none_or(|rest| !rest.on_trial)
            && self.limits.is_some_and(|limits| self.busy < limits.concurrency)
    }

    fn batch(&self) -> Option<BatchPolicy> {
        self.limits.and_then(|limits| limits.batch)
    }
}
