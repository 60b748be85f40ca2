//! The schedule of one handler: how many jobs it may start now, and what it waits for.
//!
//! Usually one claim asks for as many jobs as there are free threads. A handler with a rate limit, in
//! batch mode or with an open circuit breaker has one claim in flight at a time, because the result of a
//! claim decides what may start next.

use std::cmp::Reverse;
use std::time::Duration;

use super::prefetch::Prefetch;
use super::rate_limiter::RateLimiter;
use crate::config::{self, Batch, Rate};
use crate::domain::HandlerId;
use crate::domain::claim_request::ClaimRequest;

/// The part of a handler's configuration that the scheduler needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandlerLimits {
    pub priority: i64,
    pub concurrency: usize,
    pub rate: Option<Rate>,
    pub batch: Option<BatchPolicy>,
    pub should_prefetch: bool,
}

/// `batch_size` and `batch_wait` of a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPolicy {
    pub max_jobs: usize,
    pub wait: Duration,
}

impl HandlerLimits {
    pub fn from_config(handler: &config::Handler) -> Self {
        let policy = |Batch { size, wait }| BatchPolicy { max_jobs: size, wait };
        Self {
            priority: handler.priority,
            concurrency: handler.concurrency,
            rate: handler.rate_limit,
            batch: handler.batch().map(policy),
            should_prefetch: handler.should_prefetch,
        }
    }
}

/// An open circuit breaker, and its probe after the cooldown.
#[derive(Clone, Copy, Debug)]
struct OpenCircuit {
    until_us: i64,
    /// The probe is claimed or running.
    is_probing: bool,
}

/// A batch that waits for more jobs.
#[derive(Clone, Copy, Debug, Default)]
struct BatchProgress {
    /// An upper bound of the ready jobs, unless a count is needed.
    jobs: usize,
    is_counted: bool,
    /// When the first job of the batch became ready.
    since_us: Option<i64>,
}

#[derive(Debug)]
pub(super) struct HandlerSchedule {
    /// `None` for a handler that is no longer configured: its running jobs finish, no job starts.
    limits: Option<HandlerLimits>,
    pub is_paused: bool,
    /// A hint: only a claim that gets fewer jobs than requested clears it.
    may_have_ready_jobs: bool,
    /// Threads that run its jobs, or for which a claim is in flight.
    pub busy: usize,
    pub rate_limiter: Option<RateLimiter>,
    open_circuit: Option<OpenCircuit>,
    batch_progress: BatchProgress,
    /// A claim is in flight, and no other claim is made before its result is known.
    has_claim_in_flight: bool,
    /// How many more threads the current plan may give to this handler.
    threads_left: usize,
    pub prefetch: Prefetch,
}

impl Default for HandlerSchedule {
    fn default() -> Self {
        Self {
            limits: None,
            is_paused: false,
            may_have_ready_jobs: true,
            busy: 0,
            rate_limiter: None,
            open_circuit: None,
            batch_progress: BatchProgress::default(),
            has_claim_in_flight: false,
            threads_left: 0,
            prefetch: Prefetch::default(),
        }
    }
}

impl HandlerSchedule {
    pub fn configure(&mut self, limits: Option<HandlerLimits>) {
        self.limits = limits;
        match (limits.and_then(|limits| limits.rate), &mut self.rate_limiter) {
            (Some(rate), Some(rate_limiter)) => rate_limiter.set_rate(rate),
            (Some(rate), rate_limiter) => *rate_limiter = Some(RateLimiter::new(rate)),
            (None, rate_limiter) => *rate_limiter = None,
        }
    }

    pub fn set_breaker(&mut self, until_us: Option<i64>) {
        self.open_circuit = until_us.map(|until_us| OpenCircuit { until_us, is_probing: false });
        self.mark_maybe_ready();
    }

    pub fn mark_maybe_ready(&mut self) {
        self.may_have_ready_jobs = true;
        self.batch_progress.is_counted = false;
    }

    pub fn add_ready(&mut self, jobs: usize, now_us: i64) {
        self.may_have_ready_jobs = true;
        let Some(batch) = self.batch() else { return };
        self.batch_progress.jobs = self.batch_progress.jobs.saturating_add(jobs);
        self.batch_progress.since_us.get_or_insert(now_us);
        // Some of these jobs may be cancelled or superseded by now.
        let is_full = self.batch_progress.jobs >= batch.max_jobs;
        self.batch_progress.is_counted &= !is_full;
    }

    pub fn count_limit(&self) -> Option<usize> {
        let is_due = self.can_start() && !self.has_claim_in_flight && self.open_circuit.is_none();
        let batch = self.batch().filter(|_| is_due && !self.batch_progress.is_counted);
        batch.map(|batch| batch.max_jobs)
    }

    pub fn set_counted(&mut self, jobs: usize, now_us: i64) {
        self.may_have_ready_jobs = jobs > 0;
        let since_us = (jobs > 0).then(|| self.batch_progress.since_us.unwrap_or(now_us));
        self.batch_progress = BatchProgress { jobs, is_counted: true, since_us };
    }

    pub fn record_claim(&mut self, request: &ClaimRequest, claimed_count: usize, now_us: i64) {
        if request.is_prefetch {
            self.prefetch.remove(request.max_jobs - claimed_count, now_us);
            // If the circuit breaker has opened meanwhile, the claim got no job, but there may be ready jobs.
            self.may_have_ready_jobs &=
                claimed_count == request.max_jobs || self.open_circuit.is_some();
            return;
        }
        self.busy -= request.thread_count(request.max_jobs) - request.thread_count(claimed_count);
        self.has_claim_in_flight = false;
        if let Some(rate_limiter) = &mut self.rate_limiter {
            rate_limiter.record_starts(claimed_count, now_us);
        }
        if let Some(open_circuit) = &mut self.open_circuit {
            if !request.is_probe {
                // The circuit breaker opened after this claim was planned, so the claim got no job. There
                // may be ready jobs.
                return;
            }
            open_circuit.is_probing = claimed_count > 0;
        }
        self.may_have_ready_jobs &= claimed_count == request.max_jobs;
        self.batch_progress = BatchProgress::default();
    }

    pub fn record_failed_claim(&mut self, request: &ClaimRequest, now_us: i64) {
        if request.is_prefetch {
            return self.prefetch.remove(request.max_jobs, now_us);
        }
        self.busy -= request.thread_count(request.max_jobs);
        self.has_claim_in_flight = false;
        if let Some(open_circuit) = &mut self.open_circuit {
            open_circuit.is_probing &= !request.is_probe;
        }
    }

    /// The handler with the smallest key gets the next thread.
    pub fn sort_key(&self) -> (Reverse<i64>, usize) {
        (Reverse(self.limits.map_or(i64::MIN, |limits| limits.priority)), self.busy)
    }

    pub fn begin_plan(&mut self, now_us: i64) {
        let is_due = self.can_start() && self.due_us().is_none_or(|due_us| due_us <= now_us);
        self.threads_left = match &self.rate_limiter {
            _ if !is_due || self.has_claim_in_flight || self.count_limit().is_some() => 0,
            _ if self.open_circuit.is_some() || self.batch().is_some() => 1,
            Some(rate_limiter) => rate_limiter.permits_now(now_us),
            None => usize::MAX,
        };
    }

    pub fn may_start(&self) -> bool {
        self.threads_left > 0 && self.limits.is_some_and(|limits| self.busy < limits.concurrency)
    }

    /// Gives the handler one more thread. Extends the claim that the current plan already has for it,
    /// or returns a new one.
    pub fn grant_thread(
        &mut self,
        handler: HandlerId,
        pending: Option<&mut ClaimRequest>,
        now_us: i64,
    ) -> Option<ClaimRequest> {
        self.busy += 1;
        self.threads_left -= 1;
        if let Some(request) = pending {
            request.max_jobs += 1;
            return None;
        }
        let is_probing = self.open_circuit.is_some();
        if let Some(open_circuit) = &mut self.open_circuit {
            open_circuit.is_probing = true;
        }
        let batch = self.batch();
        self.has_claim_in_flight = is_probing || batch.is_some() || self.rate_limiter.is_some();
        let allowed = self
            .rate_limiter
            .as_ref()
            .map_or(usize::MAX, |rate_limiter| rate_limiter.permits_now(now_us));
        let jobs = match batch {
            Some(batch) if !is_probing => batch.max_jobs.min(allowed),
            _ => 1,
        };
        let interval_ms = self.rate_limiter.as_ref().map(RateLimiter::interval_ms);
        Some(ClaimRequest {
            handler,
            max_jobs: jobs,
            is_one_batch: batch.is_some(),
            is_probe: is_probing,
            is_prefetch: false,
            min_interval_ms: interval_ms,
        })
    }

    /// Returns whether prefetched jobs may start as soon as a thread of the handler is free. A rate limit, a batch and
    /// an open circuit breaker decide later what may start.
    pub fn allows_prefetch(&self) -> bool {
        let can_prefetch = |limits: HandlerLimits| {
            limits.should_prefetch && limits.rate.is_none() && limits.batch.is_none()
        };
        self.limits.is_some_and(can_prefetch) && !self.is_paused && self.open_circuit.is_none()
    }

    /// Returns whether the handler may have as many busy threads as it has. A reload may have lowered the limit.
    pub fn is_within_concurrency(&self) -> bool {
        self.limits.is_some_and(|limits| self.busy <= limits.concurrency)
    }

    /// The claim of the jobs to prefetch now, if there are any.
    pub fn prefetch_request(&mut self, handler: HandlerId, now_us: i64) -> Option<ClaimRequest> {
        let max_jobs = match self.may_have_ready_jobs {
            true => self.prefetch.jobs_wanted(self.busy),
            false => 0,
        };
        self.prefetch.add(max_jobs, now_us);
        (max_jobs > 0).then_some(ClaimRequest {
            handler,
            max_jobs,
            is_one_batch: false,
            is_probe: false,
            is_prefetch: true,
            min_interval_ms: None,
        })
    }

    /// Returns when the handler may start its next job. `None` if it may start at once, or if
    /// something other than time has to change first.
    pub fn due_us(&self) -> Option<i64> {
        if !self.can_start() || self.has_claim_in_flight {
            return None;
        }
        let batch_progress = &self.batch_progress;
        let batch_wait_us = match (self.batch(), batch_progress.since_us) {
            (Some(batch), Some(since_us))
                if self.open_circuit.is_none() && batch_progress.jobs < batch.max_jobs =>
            {
                let wait_us = i64::try_from(batch.wait.as_micros()).unwrap_or(i64::MAX);
                Some(since_us.saturating_add(wait_us))
            }
            _ => None,
        };
        let cooldown_us = self.open_circuit.map(|open_circuit| open_circuit.until_us);
        let rate_limit_us = self.rate_limiter.as_ref().map(RateLimiter::due_us);
        [batch_wait_us, cooldown_us, rate_limit_us].into_iter().flatten().max()
    }

    /// Returns whether the handler may start a job, time aside.
    fn can_start(&self) -> bool {
        (self.may_have_ready_jobs || self.prefetch.has_jobs())
            && !self.is_paused
            && self.open_circuit.is_none_or(|open_circuit| !open_circuit.is_probing)
            && self.limits.is_some_and(|limits| self.busy < limits.concurrency)
    }

    fn batch(&self) -> Option<BatchPolicy> {
        self.limits.and_then(|limits| limits.batch)
    }
}
