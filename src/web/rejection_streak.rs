//! Counts consecutive rejections of a source. After many of them, its secret or its sender has
//! probably changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use parking_lot::Mutex;

use super::rejection::Rejection;
use crate::domain::SourceId;

/// Number of consecutive rejections that raises an alert.
const ALERT_THRESHOLD: u32 = 20;

/// Number of consecutive requests with a stale timestamp that points to a wrong clock. Fewer may be
/// replays of an old request.
const STALE_THRESHOLD: u32 = 3;

/// Minimum time between two warnings for one source.
const STALE_WARNING_INTERVAL_MS: i64 = 600_000;

/// The streak of one source, shared by all intake threads.
#[derive(Debug, Default)]
pub struct RejectionStreak {
    count: AtomicU32,
    /// Of these, the requests with a valid signature and a stale timestamp.
    stale: AtomicU32,
    stale_warned_at_ms: AtomicI64,
    /// The last reason, for an alert that is not raised yet.
    pending_alert: Mutex<Option<String>>,
}

impl RejectionStreak {
    /// Counts a rejection. Only those count that a wrong configuration may cause.
    pub fn record_rejection(&self, rejection: &Rejection, reason: &str) {
        let is_counted = matches!(
            rejection,
            Rejection::Signature { .. }
                | Rejection::UnsupportedMediaType
                | Rejection::MalformedBody { .. }
        );
        if is_counted && self.count.fetch_add(1, Ordering::Relaxed) + 1 == ALERT_THRESHOLD {
            let alert = format!("{ALERT_THRESHOLD} rejections in a row: {reason}");
            *self.pending_alert.lock() = Some(alert);
        }
    }

    /// Counts a request whose only problem is its timestamp. Returns the number of consecutive ones
    /// if it is time for a warning.
    pub fn record_stale(&self, now_ms: i64) -> Option<u32> {
        let count = self.stale.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let previous_ms = self.stale_warned_at_ms.load(Ordering::Relaxed);
        // In both directions, because this machine's clock may be the wrong one.
        let is_time =
            now_ms.saturating_sub(previous_ms).saturating_abs() >= STALE_WARNING_INTERVAL_MS;
        let (current, order) = (previous_ms, Ordering::Relaxed);
        (count >= STALE_THRESHOLD
            && is_time
            && self.stale_warned_at_ms.compare_exchange(current, now_ms, order, order).is_ok())
        .then_some(count)
    }

    /// Ends the streak after an accepted request.
    pub fn reset(&self) {
        for count in [&self.count, &self.stale] {
            if count.load(Ordering::Relaxed) > 0 {
                count.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Returns the alert to raise, once.
    pub fn take_alert(&self) -> Option<String> {
        self.pending_alert.lock().take()
    }
}

/// The streaks of all sources. A reload keeps them.
#[derive(Debug, Default)]
pub struct RejectionStreaks(Mutex<HashMap<SourceId, Arc<RejectionStreak>>>);

impl RejectionStreaks {
    /// Returns the streak of a source.
    pub fn for_source(&self, source: SourceId) -> Arc<RejectionStreak> {
        let mut by_source = self.0.lock();
        Arc::clone(by_source.entry(source).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature_rejection() -> Rejection {
        Rejection::Signature { reason: "no x header".into(), www_authenticate: None }
    }

    #[test]
    fn stale_timestamps_cause_a_warning_at_the_third_in_a_row_and_then_rarely() {
        let streak = RejectionStreak::default();
        let now_ms = 1_764_000_000_000;
        assert_eq!([now_ms; 3].map(|now_ms| streak.record_stale(now_ms)), [None, None, Some(3)]);
        assert_eq!(streak.record_stale(now_ms + STALE_WARNING_INTERVAL_MS - 1), None);
        assert_eq!(streak.record_stale(now_ms + STALE_WARNING_INTERVAL_MS), Some(5));
        streak.reset();
        assert_eq!(streak.record_stale(now_ms + 9 * STALE_WARNING_INTERVAL_MS), None);
    }

    #[test]
    fn twenty_rejections_in_a_row_raise_one_alert_and_an_accepted_request_resets_the_streak() {
        let streak = RejectionStreak::default();
        for _ in 0..19 {
            streak.record_rejection(&signature_rejection(), &signature_rejection().reason());
        }
        streak.record_rejection(&Rejection::Address, "");
        assert_eq!(streak.take_alert(), None);
        streak.reset();
        streak.record_rejection(&Rejection::UnsupportedMediaType, "");
        assert_eq!(streak.take_alert(), None);
        for _ in 0..40 {
            streak.record_rejection(&signature_rejection(), &signature_rejection().reason());
        }
        assert_eq!(streak.take_alert().as_deref(), Some("20 rejections in a row: no x header"));
        assert_eq!(streak.take_alert(), None);
    }
}
