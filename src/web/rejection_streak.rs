//! Refusals in a row of one source: so many that its secret, or its sender, must have changed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::rejection::Rejection;
use crate::domain::SourceId;

/// So many in a row are told.
const ALERT_THRESHOLD: u32 = 20;

/// So many requests in a row that are wrong in their time alone are the clock's fault, rather than
/// somebody's who sends an old one again.
const STALE_MIN: u32 = 3;

/// Between two warnings of one source's.
const STALE_EVERY_MS: i64 = 600_000;

/// Shared by all intake threads.
#[derive(Debug, Default)]
pub struct RejectionStreak {
    count: AtomicU32,
    /// Of these, whose signature held and whose time stamp alone was wrong.
    stale: AtomicU32,
    stale_told_at_ms: AtomicI64,
    /// To be told: the last of them.
    last: Mutex<Option<String>>,
}

impl RejectionStreak {
    /// Only what may be the server's own fault counts, and not a stranger's.
    pub fn refused(&self, refusal: &Rejection, reason: &str) {
        let counts = matches!(
            refusal,
            Rejection::Signature { .. }
                | Rejection::UnsupportedMediaType
                | Rejection::MalformedBody { .. }
        );
        if counts && self.count.fetch_add(1, Ordering::Relaxed) + 1 == ALERT_THRESHOLD {
            let why = format!("{ALERT_THRESHOLD} refused in a row: {reason}");
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        }
    }

    /// Counts a request whose time stamp alone is wrong; how many there were in a row, if it is time to
    /// warn of them.
    pub fn stale(&self, now_ms: i64) -> Option<u32> {
        let count = self.stale.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let before = self.stale_told_at_ms.load(Ordering::Relaxed);
        // Either way: the clock may be the one that is wrong.
        let is_time = now_ms.saturating_sub(before).saturating_abs() >= STALE_EVERY_MS;
        let (same, order) = (before, Ordering::Relaxed);
        (count >= STALE_MIN
            && is_time
            && self.stale_told_at_ms.compare_exchange(same, now_ms, order, order).is_ok())
        .then_some(count)
    }

    pub fn accepted(&self) {
        for count in [&self.count, &self.stale] {
            if count.load(Ordering::Relaxed) > 0 {
                count.store(0, Ordering::Relaxed);
            }
        }
    }

    /// What is to be told, once.
    pub fn take_alert(&self) -> Option<String> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// That of each source: a reload ends none.
#[derive(Debug, Default)]
pub struct RejectionStreaks(Mutex<HashMap<SourceId, Arc<RejectionStreak>>>);

impl RejectionStreaks {
    pub fn for_source(&self, source: SourceId) -> Arc<RejectionStreak> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(source).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong() -> Rejection {
        Rejection::Signature { reason: "no x header".into(), challenge: None }
    }

    #[test]
    fn a_clock_that_may_be_wrong_is_told_of_at_the_third_in_a_row_and_then_rarely() {
        let streak = RejectionStreak::default();
        let now_ms = 1_764_000_000_000;
        assert_eq!([now_ms; 3].map(|now_ms| streak.stale(now_ms)), [None, None, Some(3)]);
        assert_eq!(streak.stale(now_ms + STALE_EVERY_MS - 1), None);
        assert_eq!(streak.stale(now_ms + STALE_EVERY_MS), Some(5));
        streak.accepted();
        assert_eq!(streak.stale(now_ms + 9 * STALE_EVERY_MS), None);
    }

    #[test]
    fn twenty_in_a_row_are_told_once_and_an_accepted_one_begins_anew() {
        let streak = RejectionStreak::default();
        for _ in 0..19 {
            streak.refused(&wrong(), &wrong().reason());
        }
        streak.refused(&Rejection::Address, "");
        assert_eq!(streak.take_alert(), None);
        streak.accepted();
        streak.refused(&Rejection::UnsupportedMediaType, "");
        assert_eq!(streak.take_alert(), None);
        for _ in 0..40 {
            streak.refused(&wrong(), &wrong().reason());
        }
        assert_eq!(streak.take_alert().as_deref(), Some("20 refused in a row: no x header"));
        assert_eq!(streak.take_alert(), None);
    }
}
