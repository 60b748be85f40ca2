//! The response to `/metrics`, in the format that the client accepts.

use std::fmt;
use std::sync::Arc;

use super::Metrics;
use super::gauges::Gauges;
use super::render::{Format, render};

/// The path of the admin listener.
pub const PATH: &str = "/metrics";

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Responds to scrapes.
pub struct Exporter {
    pub metrics: Arc<Metrics>,
    collect: Box<dyn Fn() -> Gauges + Send + Sync>,
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.metrics.fmt(f)
    }
}

impl Exporter {
    /// Makes an exporter. `collect` returns the values of the moment. It may read the database, and blocks the
    /// caller of `respond` for that long.
    pub fn new(
        metrics: Arc<Metrics>,
        collect: impl Fn() -> Gauges + Send + Sync + 'static,
    ) -> Self {
        Self { metrics, collect: Box::new(collect) }
    }

    /// Returns the content type and the text of a scrape. `accept`: the header of the request.
    pub fn respond(&self, accept: Option<&str>) -> (&'static str, String) {
        let gauges = (self.collect)();
        if gauges.handlers.is_none() {
            self.metrics.failed_reads.inc();
        }
        let (format, content_type) = match accept.is_some_and(prefers_open_metrics) {
            true => (Format::OpenMetrics, OPEN_METRICS),
            false => (Format::Prometheus, PROMETHEUS),
        };
        // Writing into a string does not fail.
        (content_type, render(&self.metrics, gauges, format).unwrap_or_default())
    }
}

/// Whether an `Accept` header names OpenMetrics, and not with a lower weight than plain text (RFC 9110,
/// section 12.5.1).
fn prefers_open_metrics(accept: &str) -> bool {
    let weight = |media_type: &str| {
        let ranges = accept.split(',').map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
            (name, weight.unwrap_or(1.0))
        });
        let named = ranges.filter(|(name, _)| name.eq_ignore_ascii_case(media_type));
        named.map(|(_, weight)| weight).fold(0.0, f32::max)
    };
    let open_metrics = weight("application/openmetrics-text");
    open_metrics > 0.0 && open_metrics >= weight("text/plain")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_sent_to_a_client_that_prefers_it() {
        for (accept, expected) in [
            ("*/*", false),
            ("text/plain;version=0.0.4", false),
            ("application/openmetrics-text", true),
            (
                "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                true,
            ),
            (
                "text/plain;version=0.0.4;q=0.5, Application/OpenMetrics-Text; version=1.0.0; q=0.4",
                false,
            ),
            ("application/openmetrics-text;q=0", false),
            ("", false),
        ] {
            assert_eq!(prefers_open_metrics(accept), expected, "{accept}");
        }
    }
}
