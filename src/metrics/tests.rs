//! What is counted is exported, under the names of the configuration alone.

use super::histogram::HistogramValues;
use super::render::{Format, render};
use super::*;

const A: SourceId = SourceId(1);
const H: HandlerId = HandlerId(1);

fn source(id: SourceId, name: &str) -> ConfiguredSource<'_> {
    ConfiguredSource { id, name, last_event_at_ms: None }
}

fn metrics() -> Arc<Metrics> {
    let metrics = Metrics::new("1.2.3", 1_790_000_000_500);
    metrics.configure([source(A, "a")].into_iter(), [(H, "h")].into_iter());
    Arc::new(metrics)
}

/// The lines of the Prometheus format that begin with these letters.
fn lines(metrics: &Arc<Metrics>, start: &str) -> Vec<String> {
    let gauges = Gauges { handlers: Some(Vec::new()), ..Gauges::default() };
    let text = render(metrics, gauges, Format::Prometheus).unwrap();
    text.lines().filter(|line| line.starts_with(start)).map(str::to_owned).collect()
}

#[test]
fn a_value_is_in_the_first_bucket_whose_bound_is_not_below_it() {
    static BUCKETS: Buckets = Buckets::of_microseconds(&[1_000, 2_000_000]);
    let histogram = Histogram::new(&BUCKETS);
    for nanoseconds in [1, 1_000_000, 1_000_001, 2_000_000_000, 2_000_000_001] {
        histogram.observe_duration(Duration::from_nanos(nanoseconds));
    }
    let values = HistogramValues::of_one(&histogram);
    assert_eq!(values.buckets, [(0.001, 2), (2.0, 2), (f64::INFINITY, 1)]);
    assert_eq!((values.sum, values.count), (4.002_000_003, 5));
}

#[test]
fn a_scrape_adds_up_the_durations_of_all_intake_threads() {
    let metrics = metrics();
    for _ in 0..2 {
        let thread = metrics.add_intake_thread();
        thread.observe(IntakeResult::of_status(202), Duration::from_millis(3));
    }
    assert_eq!(
        lines(&metrics, "hooktrail_intake_duration_seconds_count"),
        [
            r#"hooktrail_intake_duration_seconds_count{result="accepted"} 2"#,
            r#"hooktrail_intake_duration_seconds_count{result="unavailable"} 0"#,
            r#"hooktrail_intake_duration_seconds_count{result="rejected"} 0"#,
        ]
    );
}

#[test]
fn a_reload_keeps_the_counts_of_a_name_and_exports_no_removed_name() {
    let metrics = metrics();
    let count = || metrics.count_committed([(A, 3, 1, Some(2_500))].into_iter());
    count();
    let b = SourceId(2);
    metrics.configure([source(A, "a"), source(b, "b")].into_iter(), std::iter::empty());
    count();
    assert_eq!(
        lines(&metrics, "hooktrail_events_total"),
        [r#"hooktrail_events_total{source="a"} 6"#, r#"hooktrail_events_total{source="b"} 0"#]
    );
    assert_eq!(
        lines(&metrics, r#"hooktrail_last_event_timestamp_seconds{source="a"}"#),
        [r#"hooktrail_last_event_timestamp_seconds{source="a"} 2.5"#]
    );
    metrics.configure([source(b, "b")].into_iter(), std::iter::empty());
    count();
    metrics.count_attempt(H, Outcome::Failed, Duration::ZERO);
    assert_eq!(
        lines(&metrics, "hooktrail_events_total"),
        [r#"hooktrail_events_total{source="b"} 0"#]
    );
    assert_eq!(lines(&metrics, "hooktrail_attempts_total"), [""; 0]);
}

#[test]
fn each_reason_and_each_result_has_its_own_place() {
    let indexes = RejectionReason::ALL.map(|reason| reason as usize);
    assert!(indexes.into_iter().eq(0..indexes.len()));
    let indexes = UnavailableReason::ALL.map(|reason| reason as usize);
    assert!(indexes.into_iter().eq(0..indexes.len()));
    let indexes = IntakeResult::ALL.map(|result| result as usize);
    assert!(indexes.into_iter().eq(0..indexes.len()));
    let indexes = Outcome::ALL.map(|outcome| outcome as usize);
    assert!(indexes.into_iter().eq(0..indexes.len()));
}

#[test]
fn the_prometheus_format_names_a_counter_with_its_suffix() {
    let metrics = metrics();
    assert_eq!(
        lines(&metrics, "# TYPE hooktrail_events"),
        ["# TYPE hooktrail_events_total counter"]
    );
    assert_eq!(
        lines(&metrics, "# HELP hooktrail_build"),
        ["# HELP hooktrail_build_info The version of the program."]
    );
    assert_eq!(lines(&metrics, "hooktrail_build"), [r#"hooktrail_build_info{version="1.2.3"} 1"#]);
    assert_eq!(lines(&metrics, "process_start"), ["process_start_time_seconds 1790000000.5"]);
    assert_eq!(lines(&metrics, "# EOF"), [""; 0]);
    let text = render(&metrics, Gauges::default(), Format::OpenMetrics).unwrap();
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    assert!(text.contains("# TYPE hooktrail_events counter\nhooktrail_events_total{"), "{text}");
}
