//! What a change of the database means for the rest of the server: queue lengths, wake-ups, alerts.
//!
//! Each change adds its effects to those of its transaction. The writer publishes the effects of a group after
//! the commit. The effects of an operation that is rolled back are dropped with it.

use super::dead_job::DeadJob;
use super::failure_groups::GroupChanges;
use super::job_counts::JobCounts;
use super::minute_counts::MinuteCounts;
use super::seal::NewEntries;
use super::settled_job::SettledJob;
use crate::domain::breaker::BreakerState;
use crate::domain::job::JobState;
use crate::domain::{EventId, HandlerId, JobId, SourceId};

/// The effects of changes in one transaction. The vectors have an entry for each handler or source that is
/// affected, and these are few.
#[derive(Clone, Debug, Default)]
#[must_use = "effects must be published after the commit"]
pub struct Effects {
    /// Changes in the number of queued jobs of each source.
    pub(super) queued: Vec<(SourceId, i64)>,
    /// Changes in the number of deferred events of each source.
    pub(super) deferred: Vec<(SourceId, i64)>,
    /// How many more jobs of each handler are ready.
    pub ready: Vec<(HandlerId, usize)>,
    /// When the next of the jobs that were scheduled is due (database clock).
    pub next_due_ms: Option<i64>,
    /// Handlers whose circuit breaker changed, and those whose probe ended without a result.
    pub breakers: Vec<(HandlerId, BreakerState)>,
    /// Conditions for alerts. `alerts::record` writes them in the same transaction.
    pub(super) alerts: Vec<AlertCondition>,
    /// Sources with a new event.
    pub(super) active_sources: Vec<SourceId>,
    /// Events with too many dead jobs for the transaction in which a duplicate retries them.
    pub(super) dead_job_retries: Vec<DeadJobRetry>,
    /// How many dead jobs duplicates retried.
    pub(super) retried_dead_jobs: usize,
    /// Jobs that became dead, for the log.
    pub dead_jobs: Vec<DeadJob>,
    /// For the rates of `stats`. Written before the commit.
    pub(super) minute_counts: MinuteCounts,
    /// Changes in the number of jobs of each handler. Written before the commit.
    pub(super) job_counts: Vec<(HandlerId, JobCounts)>,
    /// Changes in the groups of failures. Written before the commit.
    pub(super) failure_groups: GroupChanges,
    /// Jobs that reached a final state, if a handler subscribes to that. Written before the commit.
    pub(super) settled: Vec<SettledJob>,
    /// The transaction recorded such jobs.
    pub(super) has_settled_jobs: bool,
    /// What the transaction seals.
    pub(super) sealed: NewEntries,
}

/// A condition that the source `hooktrail` reports, if a handler subscribes to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AlertCondition {
    DeadJob(JobId, SourceId),
    UnhandledEvent(EventId, SourceId),
    /// A handler's circuit breaker opened or closed. The caller has checked that it is reported.
    Breaker {
        handler: HandlerId,
        is_open: bool,
        detail: String,
    },
}

/// A row of `dead_job_retries`.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeadJobRetry {
    pub source: SourceId,
    pub event: EventId,
    /// Jobs up to this one are done.
    pub after_job: i64,
}

fn add<K: PartialEq, N: std::ops::AddAssign>(entries: &mut Vec<(K, N)>, key: K, number: N) {
    match entries.iter_mut().find(|(known, _)| *known == key) {
        Some((_, sum)) => *sum += number,
        None => entries.push((key, number)),
    }
}

fn sum<K: PartialEq + Copy>(entries: &[(K, i64)], key: K) -> i64 {
    entries.iter().find(|(known, _)| *known == key).map_or(0, |(_, sum)| *sum)
}

impl Effects {
    /// Records a change in the number of queued jobs of a source.
    pub(super) fn adjust_queued(&mut self, source: SourceId, jobs: i64) {
        if jobs != 0 {
            add(&mut self.queued, source, jobs);
        }
    }

    /// Records that a job changed its state. `None`: it did not exist before, or does not exist any more.
    pub(super) fn count_job(
        &mut self,
        handler: HandlerId,
        from: Option<JobState>,
        to: Option<JobState>,
    ) {
        let change = JobCounts::of(to) - JobCounts::of(from);
        if change != JobCounts::default() {
            add(&mut self.job_counts, handler, change);
        }
    }

    /// Records a change in the number of deferred events of a source.
    pub(super) fn adjust_deferred(&mut self, source: SourceId, events: i64) {
        add(&mut self.deferred, source, events);
    }

    /// Records that one more job of a handler is ready.
    pub(super) fn add_ready(&mut self, handler: HandlerId) {
        add(&mut self.ready, handler, 1);
    }

    /// Records that a job was scheduled for this time (database clock).
    pub(super) fn add_due(&mut self, due_ms: i64) {
        self.next_due_ms = Some(self.next_due_ms.map_or(due_ms, |earlier| earlier.min(due_ms)));
    }

    /// Records that a source had an event.
    pub(super) fn add_active_source(&mut self, source: SourceId) {
        if !self.active_sources.contains(&source) {
            self.active_sources.push(source);
        }
    }

    /// Returns the change in the number of queued jobs of a source.
    pub(super) fn queued_change(&self, source: SourceId) -> i64 {
        sum(&self.queued, source)
    }

    /// Returns the change in the number of deferred events of a source.
    pub(super) fn deferred_change(&self, source: SourceId) -> i64 {
        sum(&self.deferred, source)
    }
}
