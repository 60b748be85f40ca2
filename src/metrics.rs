//! Counters and histograms of the server, and their text for Prometheus.
//!
//! `app` makes one [`Metrics`] and passes it down, so nothing is global. Other modules count where things
//! happen: an update is one or two atomic additions without a lock. Intake holds the counters of a source by
//! its configuration. The writer looks them up once for each source of a commit group.
//! Values that only exist elsewhere, such as queue lengths, are read at each scrape ([`Gauges`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

use crate::domain::{HandlerId, Outcome, SourceId};

pub mod endpoint;
mod gauges;
mod histogram;
mod reasons;
mod render;

pub use endpoint::Exporter;
pub use gauges::{EvaluatorGauges, Gauges, HandlerGauges};
use histogram::{Buckets, Histogram};
pub use reasons::{RejectionReason, UnavailableReason};

/// Buckets of the time that intake takes for a request. A commit with its sync takes about a millisecond.
static INTAKE_BUCKETS: Buckets = Buckets::of_microseconds(&[
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
]);

/// Buckets of the time of a commit group.
static GROUP_DURATION_BUCKETS: Buckets = Buckets::of_microseconds(&[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000,
]);

/// Buckets of the number of operations in a commit group, which has at most 1,024 and the retried ones.
static GROUP_SIZE_BUCKETS: Buckets =
    Buckets::of_numbers(&[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]);

/// Buckets of the time of an attempt, from a `stream` handler to a job of an hour.
static ATTEMPT_BUCKETS: Buckets = Buckets::of_microseconds(&[
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    900_000_000,
    3_600_000_000,
]);

/// All counters and histograms of a server.
#[derive(Debug)]
pub struct Metrics {
    /// The version of the program.
    version: &'static str,
    /// When the server started (wall clock).
    started_at_ms: i64,
    configured: ArcSwap<ConfiguredMetrics>,
    /// Requests to a path without a source.
    unknown_source: RejectionCounters,
    unavailable: [Counter; UnavailableReason::ALL.len()],
    intake_threads: Mutex<Vec<Arc<IntakeDurations>>>,
    /// The number of open connections of each listener.
    pub intake_connections: Arc<AtomicUsize>,
    pub admin_connections: Arc<AtomicUsize>,
    commit_durations: Histogram,
    group_operations: Histogram,
    failed_commits: Counter,
    failed_reads: Counter,
}

/// The metrics of the sources and handlers in the configuration. A reload replaces it.
#[derive(Debug, Default)]
struct ConfiguredMetrics {
    sources: BTreeMap<SourceId, Arc<SourceMetrics>>,
    handlers: BTreeMap<HandlerId, Arc<HandlerMetrics>>,
}

/// Counts rejections by their reason.
#[derive(Debug, Default)]
struct RejectionCounters([Counter; RejectionReason::ALL.len()]);

impl RejectionCounters {
    fn count(&self, reason: RejectionReason) {
        self.0[reason as usize].inc();
    }
}

/// The metrics of a source. A source that is not in the configuration any more may still be counted, but is
/// not exported.
#[derive(Debug, Default)]
pub struct SourceMetrics {
    name: String,
    events: Counter,
    duplicates: Counter,
    rejections: RejectionCounters,
    /// Wall clock; 0: there was none.
    last_event_at_ms: AtomicI64,
}

impl SourceMetrics {
    /// Counts what a commit group has stored. `last_event_at_ms`: when the last of its events was received
    /// (wall clock).
    fn add_committed(&self, events: u64, duplicates: u64, last_event_at_ms: Option<i64>) {
        if events > 0 {
            self.events.inc_by(events);
        }
        if duplicates > 0 {
            self.duplicates.inc_by(duplicates);
        }
        if let Some(at_ms) = last_event_at_ms {
            self.last_event_at_ms.store(at_ms, Ordering::Relaxed);
        }
    }

    /// Counts a rejected request.
    pub fn count_rejection(&self, reason: RejectionReason) {
        self.rejections.count(reason);
    }
}

/// The metrics of a handler, which all worker threads share.
#[derive(Debug)]
struct HandlerMetrics {
    name: String,
    attempts: [Counter; Outcome::ALL.len()],
    durations: Histogram,
}

/// The result of a request, as far as the sender is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntakeResult {
    /// The response is a 2xx.
    Accepted,
    /// The response is a 503: the sender should retry.
    Unavailable,
    /// Any other response.
    Rejected,
}

impl IntakeResult {
    const ALL: [Self; 3] = [Self::Accepted, Self::Unavailable, Self::Rejected];

    /// Returns the result that a response with this status is for the sender.
    pub fn of_status(status: u16) -> Self {
        match status {
            200..=299 => Self::Accepted,
            503 => Self::Unavailable,
            _ => Self::Rejected,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Unavailable => "unavailable",
            Self::Rejected => "rejected",
        }
    }
}

/// The times that one intake thread took for requests. Each thread has its own, so that no memory moves
/// between processors with each request. A scrape adds them up.
#[derive(Debug)]
pub struct IntakeDurations([Histogram; IntakeResult::ALL.len()]);

impl IntakeDurations {
    /// Counts a request.
    pub fn observe(&self, result: IntakeResult, duration: Duration) {
        self.0[result as usize].observe_duration(duration);
    }
}

/// A source of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct ConfiguredSource<'a> {
    pub id: SourceId,
    pub name: &'a str,
    /// When it had its last event before this process, if it had one (wall clock).
    pub last_event_at_ms: Option<i64>,
}

impl Metrics {
    /// Makes the metrics of a server that started at this time (wall clock). It has no sources and handlers yet.
    pub fn new(version: &'static str, started_at_ms: i64) -> Self {
        Self {
            version,
            started_at_ms,
            configured: ArcSwap::default(),
            unknown_source: RejectionCounters::default(),
            unavailable: Default::default(),
            intake_threads: Mutex::default(),
            intake_connections: Arc::default(),
            admin_connections: Arc::default(),
            commit_durations: Histogram::new(&GROUP_DURATION_BUCKETS),
            group_operations: Histogram::new(&GROUP_SIZE_BUCKETS),
            failed_commits: Counter::default(),
            failed_reads: Counter::default(),
        }
    }

    /// Exports these sources and handlers from now on, and no others. Those that were exported before keep
    /// their counts.
    pub fn configure<'n>(
        &self,
        sources: impl Iterator<Item = ConfiguredSource<'n>>,
        handlers: impl Iterator<Item = (HandlerId, &'n str)>,
    ) {
        let known = self.configured.load();
        let source = |source: ConfiguredSource<'_>| {
            let existing = known.sources.get(&source.id).cloned();
            let metrics = existing.unwrap_or_else(|| {
                Arc::new(SourceMetrics {
                    name: source.name.to_owned(),
                    last_event_at_ms: AtomicI64::new(source.last_event_at_ms.unwrap_or(0)),
                    ..SourceMetrics::default()
                })
            });
            (source.id, metrics)
        };
        let handler = |(id, name): (HandlerId, &str)| {
            let existing = known.handlers.get(&id).cloned();
            let metrics = existing.unwrap_or_else(|| {
                Arc::new(HandlerMetrics {
                    name: name.to_owned(),
                    attempts: Default::default(),
                    durations: Histogram::new(&ATTEMPT_BUCKETS),
                })
            });
            (id, metrics)
        };
        let (sources, handlers) = (sources.map(source).collect(), handlers.map(handler).collect());
        self.configured.store(Arc::new(ConfiguredMetrics { sources, handlers }));
    }

    /// Returns the metrics of a source, for a holder that counts many requests. Those of a source that is not
    /// configured are not exported.
    pub fn source(&self, id: SourceId) -> Arc<SourceMetrics> {
        self.configured.load().sources.get(&id).cloned().unwrap_or_default()
    }

    /// Counts a rejected request to a path without a source.
    pub fn count_unknown_source(&self, reason: RejectionReason) {
        self.unknown_source.count(reason);
    }

    /// Counts a 503.
    pub fn count_unavailable(&self, reason: UnavailableReason) {
        self.unavailable[reason as usize].inc();
    }

    /// Returns the durations for a new intake thread.
    pub fn add_intake_thread(&self) -> Arc<IntakeDurations> {
        let histograms = IntakeResult::ALL.map(|_| Histogram::new(&INTAKE_BUCKETS));
        let durations = Arc::new(IntakeDurations(histograms));
        self.intake_threads.lock().push(Arc::clone(&durations));
        durations
    }

    /// Counts a commit group of this many operations.
    pub fn count_commit(&self, operations: usize, duration: Duration) {
        self.group_operations.observe(u64::try_from(operations).unwrap_or(u64::MAX));
        self.commit_durations.observe_duration(duration);
    }

    /// Counts a commit group that was rolled back. Its senders get a 503.
    pub fn count_failed_commit(&self) {
        self.failed_commits.inc();
    }

    /// Counts what a commit group has stored, for each of its sources: the number of events and of duplicates,
    /// and when the last event was received (wall clock).
    pub fn count_committed(
        &self,
        sources: impl Iterator<Item = (SourceId, u64, u64, Option<i64>)>,
    ) {
        let configured = self.configured.load();
        for (id, events, duplicates, last_event_at_ms) in sources {
            if let Some(source) = configured.sources.get(&id) {
                source.add_committed(events, duplicates, last_event_at_ms);
            }
        }
    }

    /// Counts an attempt that has ended.
    pub fn count_attempt(&self, handler: HandlerId, outcome: Outcome, duration: Duration) {
        if let Some(handler) = self.configured.load().handlers.get(&handler) {
            handler.attempts[outcome as usize].inc();
            handler.durations.observe_duration(duration);
        }
    }
}

#[cfg(test)]
mod tests;
