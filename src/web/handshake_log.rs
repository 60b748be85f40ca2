//! Handshakes that were answered, until they are written. Anybody may ask for one where its sender
//! asks unsigned: what is more than can be told apart between two looks is one row.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::store::handshakes::HandshakeRecord;

/// So many wait to be written.
const PENDING_MAX: usize = 1_000;

/// What is longer is cut.
const DETAIL_BYTES_MAX: usize = 2048;

#[derive(Default)]
struct Inner {
    pending: Vec<HandshakeRecord>,
    more: u64,
}

/// Between two warnings that somebody else's requests bring about.
const WARN_EVERY_MS: i64 = 60_000;

/// Shared by all intake threads.
#[derive(Default)]
pub struct HandshakeLog {
    inner: Mutex<Inner>,
    warned_at_ms: AtomicI64,
}

impl HandshakeLog {
    /// Notes one.
    pub fn record(&self, mut shaken: HandshakeRecord) {
        shaken.detail.truncate(shaken.detail.floor_char_boundary(DETAIL_BYTES_MAX));
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.pending.len() < PENDING_MAX {
            inner.pending.push(shaken);
        } else {
            inner.more += 1;
        }
    }

    /// Whether it is time to warn again of an own handshake that fails: anybody may make it.
    pub fn may_warn(&self, now_ms: i64) -> bool {
        let before = self.warned_at_ms.load(Ordering::Relaxed);
        let is_time = now_ms.saturating_sub(before).saturating_abs() >= WARN_EVERY_MS;
        let (same, order) = (before, Ordering::Relaxed);
        is_time && self.warned_at_ms.compare_exchange(same, now_ms, order, order).is_ok()
    }

    /// What is to be written now.
    pub fn drain(&self, now_ms: i64) -> Vec<HandshakeRecord> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows = std::mem::take(&mut inner.pending);
        let more = std::mem::take(&mut inner.more);
        if more > 0 {
            // Names no source and no address, so that none is blamed for what others sent.
            rows.push(HandshakeRecord {
                at_ms: now_ms,
                source: String::new(),
                method: String::new(),
                ip: String::new(),
                detail: format!("{more} more than are told apart"),
            });
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_handshakes_stays_within_its_bounds_and_is_counted() {
        let handshakes = HandshakeLog::default();
        let one = HandshakeRecord {
            at_ms: 1,
            source: "a".to_owned(),
            method: "HEAD".to_owned(),
            ip: "192.0.2.1".to_owned(),
            detail: "\u{fc}".repeat(5000),
        };
        for _ in 0..5_000 {
            handshakes.record(one.clone());
        }
        let rows = handshakes.drain(2);
        assert_eq!((rows.len(), rows[0].detail.len()), (PENDING_MAX + 1, 2048));
        assert_eq!(rows[PENDING_MAX].detail, "4000 more than are told apart");
        assert_eq!(handshakes.drain(3), []);
    }

    #[test]
    fn a_warning_is_given_once_a_minute() {
        let handshakes = HandshakeLog::default();
        let at = [100_000, 100_001, 159_999, 160_000, 1_000];
        assert_eq!(at.map(|at| handshakes.may_warn(at)), [true, false, false, true, true]);
    }
}
