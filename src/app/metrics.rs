//! Connects the metrics to the parts of the server that a scrape reads.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{self, MonotonicClock};
use crate::config::Config;
use crate::domain::{INTERNAL_SOURCE, SourceId};
use crate::expression::{EvaluatorCounts, EvaluatorPool};
use crate::jetstream::ReaderStates;
use crate::metrics::{ConfiguredSource, EvaluatorGauges, Exporter, Gauges, HandlerGauges, Metrics};
use crate::store::handle::{Health, WriterHandle};
use crate::store::registry::Registry;
use crate::store::{self, ReadPool, stats};

/// How long a scrape waits for a connection to the database. The admin listener has one thread.
const MAX_READ_WAIT: Duration = Duration::from_millis(500);

/// The parts of the server that a scrape reads.
pub(super) struct ScrapeInputs {
    pub readers: ReadPool,
    pub expressions: EvaluatorPool,
    pub writer: WriterHandle,
    pub database: PathBuf,
    pub worker_threads: usize,
    pub min_free_disk_bytes: u64,
    pub reader_states: Arc<ReaderStates>,
}

/// Makes the exporter of the metrics.
pub(super) fn exporter(metrics: &Arc<Metrics>, inputs: ScrapeInputs) -> Exporter {
    Exporter::new(Arc::clone(metrics), move || inputs.collect())
}

impl ScrapeInputs {
    fn collect(&self) -> Gauges {
        let evaluators = self.expressions.counts().into_iter().map(evaluator_gauges);
        Gauges {
            handlers: self.load_handlers(),
            worker_threads: self.worker_threads,
            busy_worker_threads: self.writer.busy_threads(),
            evaluators: evaluators.collect(),
            stream_readers: self.reader_states.list(),
            is_database_writable: self.writer.health.get() == Health::Healthy,
            database_bytes: store::database_bytes(&self.database),
            wal_bytes: store::wal_bytes(&self.database),
            free_disk_bytes: store::free_bytes(&self.database).ok(),
            min_free_disk_bytes: self.min_free_disk_bytes,
        }
    }

    /// Returns the jobs of the handlers, or `None` if the database cannot be read now.
    fn load_handlers(&self) -> Option<Vec<HandlerGauges>> {
        let conn = self.readers.get_timeout(MAX_READ_WAIT);
        let conn = conn.inspect_err(|e| log::debug!("metrics: no connection: {e}")).ok()?;
        let loads = stats::load_handler_loads(&conn);
        let loads =
            loads.inspect_err(|e| log::debug!("metrics: the jobs can't be read: {e}")).ok()?;
        let now_ms = clock::wall_ms();
        let number = |jobs: i64| u64::try_from(jobs).unwrap_or(0);
        let gauges = loads.into_iter().map(|load| HandlerGauges {
            handler: load.handler,
            is_paused: load.is_paused,
            is_breaker_open: load.is_breaker_open,
            queued: number(load.queued),
            running: number(load.running),
            dead: number(load.dead),
            oldest_job_age: load.oldest_at_ms.map_or(Duration::ZERO, |at_ms| {
                Duration::from_millis(number(now_ms.saturating_sub(at_ms)))
            }),
        });
        Some(gauges.collect())
    }
}

fn evaluator_gauges(counts: EvaluatorCounts) -> EvaluatorGauges {
    let EvaluatorCounts { priority, evaluators, busy, waiting, evaluations, killed } = counts;
    EvaluatorGauges { priority: priority.name(), evaluators, busy, waiting, evaluations, killed }
}

/// Exports the sources and handlers of a configuration. New sources begin with the time of their last event in the
/// database.
pub(super) fn configure(
    metrics: &Metrics,
    config: &Config,
    registry: &Registry,
    (readers, clock): (&ReadPool, MonotonicClock),
) {
    let last_event_times = load_last_event_times(readers, clock);
    let names = config.sources.iter().map(|source| source.name.as_str()).chain([INTERNAL_SOURCE]);
    let sources = names.filter_map(|name| {
        let id = *registry.sources.get(name)?;
        Some(ConfiguredSource { id, name, last_event_at_ms: last_event_times.get(&id).copied() })
    });
    let handlers = config.handlers.iter().filter_map(|handler| {
        Some((*registry.handlers.get(&handler.name)?, handler.name.as_str()))
    });
    metrics.configure(sources, handlers);
}

fn load_last_event_times(readers: &ReadPool, clock: MonotonicClock) -> HashMap<SourceId, i64> {
    let loaded = readers
        .get()
        .map_err(anyhow::Error::from)
        .and_then(|conn| Ok(stats::load_last_event_times(&conn, clock)?));
    loaded.unwrap_or_else(|e| {
        log::warn!("metrics: the times of the last events can't be read: {e:#}");
        HashMap::new()
    })
}
