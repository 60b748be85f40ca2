//! Writes all metrics as text: OpenMetrics 1.0, or the text format of Prometheus, version 0.0.4.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::gauges::{EvaluatorGauges, Gauges, HandlerGauges};
use super::histogram::{Histogram, HistogramValues, to_f64};
use super::{
    HandlerMetrics, INTAKE_BUCKETS, IntakeResult, Metrics, RejectionReason, SourceMetrics,
    UnavailableReason,
};
use crate::domain::{HandlerId, Outcome};

/// The source of requests to a path without one.
const UNKNOWN_SOURCE: &str = "-";

/// The format of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    OpenMetrics,
    Prometheus,
}

/// Writes the metrics and the values of the moment as text.
///
/// # Errors
/// Memory is short.
pub(super) fn render(
    metrics: &Arc<Metrics>,
    gauges: Gauges,
    format: Format,
) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape { metrics: Arc::clone(metrics), gauges }));
    let mut open_metrics = String::new();
    text::encode(&mut open_metrics, &registry)?;
    match format {
        Format::OpenMetrics => Ok(open_metrics),
        Format::Prometheus => to_prometheus_text(&open_metrics),
    }
}

/// Changes the comments of OpenMetrics, which prometheus-client writes, into those of the Prometheus text format.
/// There a counter's name includes `_total`, and an info is a gauge.
fn to_prometheus_text(open_metrics: &str) -> Result<String, fmt::Error> {
    let (mut text, mut help) = (String::with_capacity(open_metrics.len()), "");
    for line in open_metrics.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            // The name depends on the type, which follows.
            help = described.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|typed| typed.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            writeln!(text, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}")?;
        } else if !line.starts_with('#') {
            writeln!(text, "{line}")?;
        }
    }
    Ok(text)
}

/// The metrics and the values of the moment.
#[derive(Debug)]
struct Scrape {
    metrics: Arc<Metrics>,
    gauges: Gauges,
}

type Label<'l> = (&'static str, &'l str);

/// Writes families of metrics, each with its description and all its samples.
struct FamilyWriter<'a>(DescriptorEncoder<'a>);

impl FamilyWriter<'_> {
    fn counters<'l>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Vec<Label<'l>>, u64)>,
    ) -> fmt::Result {
        let name = without_suffix(name, "_total");
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            let mut sample = family.encode_family(&labels)?;
            sample.encode_counter::<NoLabelSet, u64, f64>(&value, None)?;
        }
        Ok(())
    }

    fn gauges<'l, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Vec<Label<'l>>, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn histograms<'l>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Vec<Label<'l>>, HistogramValues)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, HistogramValues { sum, count, buckets }) in samples {
            let mut sample = family.encode_family(&labels)?;
            sample.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, counter: &Counter) -> fmt::Result {
        let name = without_suffix(name, "_total");
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, u64, f64>(&counter.get(), None)
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) -> fmt::Result {
        let HistogramValues { sum, count, buckets } = HistogramValues::of_one(histogram);
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        family.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = FamilyWriter(encoder);
        self.write_intake(&mut writer)?;
        self.write_queue(&mut writer)?;
        self.write_attempts(&mut writer)?;
        self.write_evaluators(&mut writer)?;
        self.write_storage(&mut writer)?;
        self.write_process(&mut writer)
    }
}

impl Scrape {
    fn write_intake(&self, writer: &mut FamilyWriter<'_>) -> fmt::Result {
        let configured = self.metrics.configured.load();
        let mut sources: Vec<&SourceMetrics> =
            configured.sources.values().map(|source| &**source).collect();
        sources.sort_unstable_by_key(|source| &source.name);
        writer.counters(
            "hooktrail_events_total",
            "Events that were stored.",
            sources
                .iter()
                .map(|source| (vec![("source", source.name.as_str())], source.events.get())),
        )?;
        writer.counters(
            "hooktrail_duplicates_total",
            "Requests that repeated a stored event.",
            sources
                .iter()
                .map(|source| (vec![("source", source.name.as_str())], source.duplicates.get())),
        )?;
        let of_sources = sources.iter().flat_map(|source| {
            RejectionReason::ALL.map(|reason| (source.name.as_str(), reason, &source.rejections))
        });
        let unknown = RejectionReason::ALL.into_iter().filter(|reason| reason.needs_no_source());
        let of_unknown =
            unknown.map(|reason| (UNKNOWN_SOURCE, reason, &self.metrics.unknown_source));
        writer.counters(
            "hooktrail_rejections_total",
            "Requests that were rejected with a 4xx. The source is - if no source has the path.",
            of_sources.filter(|(_, reason, _)| !reason.needs_no_source()).chain(of_unknown).map(
                |(source, reason, counters)| {
                    let labels = vec![("source", source), ("reason", reason.name())];
                    (labels, counters.0[reason as usize].get())
                },
            ),
        )?;
        writer.counters(
            "hooktrail_unavailable_responses_total",
            "Requests that got a 503.",
            UnavailableReason::ALL.map(|reason| {
                let count = self.metrics.unavailable[reason as usize].get();
                (vec![("reason", reason.name())], count)
            }),
        )?;
        let threads = self.metrics.intake_threads.lock().clone();
        writer.histograms(
            "hooktrail_intake_duration_seconds",
            "Time from the first byte of a request to its response, by the kind of the response.",
            IntakeResult::ALL.map(|result| {
                let histograms = threads.iter().map(|thread| &thread.0[result as usize]);
                let values = HistogramValues::of(&INTAKE_BUCKETS, histograms);
                (vec![("result", result.name())], values)
            }),
        )?;
        writer.gauges(
            "hooktrail_last_event_timestamp_seconds",
            "When the last event was received, in seconds since 1970. 0: there is none.",
            sources.iter().map(|source| {
                let at_ms = source.last_event_at_ms.load(Ordering::Relaxed);
                (vec![("source", source.name.as_str())], seconds(at_ms))
            }),
        )?;
        writer.gauges(
            "hooktrail_stream_readable",
            "1 if the source reads its stream, 0 if it can't.",
            self.gauges.stream_readers.iter().map(|(source, is_reading)| {
                (vec![("source", source.as_str())], u32::from(*is_reading))
            }),
        )?;
        let connections = [
            ("intake", &self.metrics.intake_connections),
            ("admin", &self.metrics.admin_connections),
        ];
        writer.gauges(
            "hooktrail_connections",
            "Open connections.",
            connections.map(|(listener, count)| {
                (vec![("listener", listener)], count.load(Ordering::Relaxed))
            }),
        )
    }

    /// The handlers of the configuration, by name, with their values of the moment. `None`: those could not be
    /// read.
    fn handler_gauges(&self) -> Option<Vec<(String, HandlerGauges)>> {
        let known = self.gauges.handlers.as_ref()?;
        let with_gauges = |(&id, handler): (&HandlerId, &Arc<HandlerMetrics>)| {
            let gauges = known.iter().find(|gauges| gauges.handler == id).copied();
            (handler.name.clone(), gauges.unwrap_or_else(|| HandlerGauges::without_jobs(id)))
        };
        let configured = self.metrics.configured.load();
        let mut handlers: Vec<_> = configured.handlers.iter().map(with_gauges).collect();
        handlers.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Some(handlers)
    }

    fn write_queue(&self, writer: &mut FamilyWriter<'_>) -> fmt::Result {
        let Some(handlers) = self.handler_gauges() else { return Ok(()) };
        writer.gauges(
            "hooktrail_jobs",
            "Jobs that are queued, running or dead.",
            handlers.iter().flat_map(|(name, gauges)| {
                let HandlerGauges { queued, running, dead, .. } = *gauges;
                [("queued", queued), ("running", running), ("dead", dead)]
                    .map(|(state, jobs)| (vec![("handler", name.as_str()), ("state", state)], jobs))
            }),
        )?;
        writer.gauges(
            "hooktrail_oldest_job_age_seconds",
            "Age of the oldest job that is queued or running. 0: there is none.",
            by_handler(&handlers, |gauges| gauges.oldest_job_age.as_secs_f64()),
        )?;
        writer.gauges(
            "hooktrail_handler_paused",
            "1 if the handler is paused.",
            by_handler(&handlers, |gauges| u32::from(gauges.is_paused)),
        )?;
        writer.gauges(
            "hooktrail_circuit_breaker_open",
            "1 if the circuit breaker of the handler is open.",
            by_handler(&handlers, |gauges| u32::from(gauges.is_breaker_open)),
        )
    }

    fn write_attempts(&self, writer: &mut FamilyWriter<'_>) -> fmt::Result {
        let configured = self.metrics.configured.load();
        let mut handlers: Vec<&HandlerMetrics> =
            configured.handlers.values().map(|handler| &**handler).collect();
        handlers.sort_unstable_by_key(|handler| &handler.name);
        writer.counters(
            "hooktrail_attempts_total",
            "Attempts that have ended.",
            handlers.iter().flat_map(|handler| {
                Outcome::ALL.map(|outcome| {
                    let labels =
                        vec![("handler", handler.name.as_str()), ("outcome", outcome.name())];
                    (labels, handler.attempts[outcome as usize].get())
                })
            }),
        )?;
        writer.histograms(
            "hooktrail_attempt_duration_seconds",
            "Time of an attempt.",
            handlers.iter().map(|handler| {
                let values = HistogramValues::of_one(&handler.durations);
                (vec![("handler", handler.name.as_str())], values)
            }),
        )?;
        writer.gauge(
            "hooktrail_worker_threads",
            "Threads that run attempts.",
            self.gauges.worker_threads,
        )?;
        writer.gauge(
            "hooktrail_worker_threads_busy",
            "Worker threads that run a job or wait for its claim.",
            self.gauges.busy_worker_threads,
        )
    }

    fn write_evaluators(&self, writer: &mut FamilyWriter<'_>) -> fmt::Result {
        let evaluators = &self.gauges.evaluators;
        fn sample<V>(
            evaluators: &[EvaluatorGauges],
            value: impl Fn(&EvaluatorGauges) -> V,
        ) -> impl Iterator<Item = (Vec<Label<'static>>, V)> {
            evaluators
                .iter()
                .map(move |gauges| (vec![("priority", gauges.priority)], value(gauges)))
        }
        writer.gauges(
            "hooktrail_evaluators",
            "Evaluator processes that run.",
            sample(evaluators, |gauges| gauges.evaluators),
        )?;
        writer.gauges(
            "hooktrail_evaluators_busy",
            "Evaluator processes that work on requests.",
            sample(evaluators, |gauges| gauges.busy),
        )?;
        writer.gauges(
            "hooktrail_evaluations_waiting",
            "Requests that wait for an evaluator process.",
            sample(evaluators, |gauges| gauges.waiting),
        )?;
        writer.counters(
            "hooktrail_evaluations_total",
            "Requests that an evaluator process answered.",
            sample(evaluators, |gauges| gauges.evaluations),
        )?;
        writer.counters(
            "hooktrail_evaluators_killed_total",
            "Evaluator processes that ended or were killed while they had requests.",
            sample(evaluators, |gauges| gauges.killed),
        )
    }

    fn write_storage(&self, writer: &mut FamilyWriter<'_>) -> fmt::Result {
        let (metrics, gauges) = (&*self.metrics, &self.gauges);
        writer.histogram(
            "hooktrail_commit_group_operations",
            "Operations in a commit group.",
            &metrics.group_operations,
        )?;
        writer.histogram(
            "hooktrail_commit_duration_seconds",
            "Time of a commit group, with its sync.",
            &metrics.commit_durations,
        )?;
        writer.counter(
            "hooktrail_failed_commits_total",
            "Commit groups that could not be written.",
            &metrics.failed_commits,
        )?;
        writer.gauge(
            "hooktrail_database_writable",
            "1 if the last commit group could be written.",
            u32::from(gauges.is_database_writable),
        )?;
        if let Some(bytes) = gauges.database_bytes {
            writer.gauge("hooktrail_database_bytes", "Size of the database file.", bytes)?;
        }
        writer.gauge("hooktrail_wal_bytes", "Size of the write-ahead log.", gauges.wal_bytes)?;
        if let Some(bytes) = gauges.free_disk_bytes {
            writer.gauge(
                "hooktrail_disk_free_bytes",
                "Free space of the file system that has the database.",
                bytes,
            )?;
        }
        writer.gauge(
            "hooktrail_disk_min_free_bytes",
            "Free space below which requests get a 503.",
            gauges.min_free_disk_bytes,
        )
    }

    fn write_process(&self, writer: &mut FamilyWriter<'_>) -> fmt::Result {
        writer.counter(
            "hooktrail_metrics_read_errors_total",
            "Scrapes without the metrics of the queue, because the database could not be read.",
            &self.metrics.failed_reads,
        )?;
        let mut build = writer.0.encode_descriptor(
            without_suffix("hooktrail_build_info", "_info"),
            "The version of the program.",
            None,
            MetricType::Info,
        )?;
        build.encode_info(&[("version", self.metrics.version)])?;
        writer.gauge(
            "process_start_time_seconds",
            "When the server started, in seconds since 1970.",
            seconds(self.metrics.started_at_ms),
        )
    }
}

fn by_handler<'h, V>(
    handlers: &'h [(String, HandlerGauges)],
    value: impl Fn(&HandlerGauges) -> V,
) -> impl Iterator<Item = (Vec<Label<'h>>, V)> {
    handlers.iter().map(move |(name, gauges)| (vec![("handler", name.as_str())], value(gauges)))
}

/// Returns a name without the suffix of its samples, which prometheus-client adds.
fn without_suffix<'n>(name: &'n str, suffix: &str) -> &'n str {
    name.strip_suffix(suffix).unwrap_or(name)
}

/// Converts a time from milliseconds since 1970 to seconds.
fn seconds(at_ms: i64) -> f64 {
    to_f64(u64::try_from(at_ms).unwrap_or(0)) / 1000.0
}
