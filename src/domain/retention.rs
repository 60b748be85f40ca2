//! How long stored events are kept.

use std::time::Duration;

/// The durations of `retention`. `None`: forever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// How long after an event settled its body, headers, query, items and outputs are kept.
    pub bodies: Option<Duration>,
    /// How long after an event settled it is kept at all.
    pub events: Option<Duration>,
    /// How long after a job died the two other rules leave its event alone.
    pub dead_jobs: Option<Duration>,
}
