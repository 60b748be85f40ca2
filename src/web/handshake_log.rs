//! Buffers handshakes until they are written. For some senders a handshake is unsigned, so anybody
//! may send one. Handshakes beyond the limit are counted in one row.

use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;

use crate::store::handshakes::HandshakeRecord;

/// Maximum number of handshakes that wait to be written.
const MAX_PENDING_ROWS: usize = 1_000;

/// Maximum size of a detail. A longer one is cut.
const MAX_DETAIL_BYTES: usize = 2048;

#[derive(Default)]
struct HandshakeLogState {
    pending: Vec<HandshakeRecord>,
    overflow: u64,
}

/// Minimum time between two warnings that requests of others can cause.
const WARNING_INTERVAL_MS: i64 = 60_000;

/// The handshakes of all intake threads that are not written yet.
#[derive(Default)]
pub struct HandshakeLog {
    state: Mutex<HandshakeLogState>,
    warned_at_ms: AtomicI64,
}

impl HandshakeLog {
    /// Adds a handshake.
    pub fn record(&self, mut handshake: HandshakeRecord) {
        handshake.detail.truncate(handshake.detail.floor_char_boundary(MAX_DETAIL_BYTES));
        let mut buffer = self.state.lock();
        if buffer.pending.len() < MAX_PENDING_ROWS {
            buffer.pending.push(handshake);
        } else {
            buffer.overflow += 1;
        }
    }

    /// Whether it is time for another warning about a failed `handshake.respond`. Anybody can make
    /// it fail.
    pub fn should_warn(&self, now_ms: i64) -> bool {
        let previous_ms = self.warned_at_ms.load(Ordering::Relaxed);
        let is_time = now_ms.saturating_sub(previous_ms).saturating_abs() >= WARNING_INTERVAL_MS;
        let (current, order) = (previous_ms, Ordering::Relaxed);
        is_time && self.warned_at_ms.compare_exchange(current, now_ms, order, order).is_ok()
    }

    /// Returns the rows to write.
    pub fn drain(&self, now_ms: i64) -> Vec<HandshakeRecord> {
        let mut buffer = self.state.lock();
        let mut rows = std::mem::take(&mut buffer.pending);
        let overflow = std::mem::take(&mut buffer.overflow);
        if overflow > 0 {
            // The row has no source and no address, because it counts requests of several.
            rows.push(HandshakeRecord {
                at_ms: now_ms,
                source: String::new(),
                method: String::new(),
                ip: String::new(),
                detail: format!("{overflow} more handshakes"),
            });
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_handshakes_is_bounded_and_counted() {
        let handshakes = HandshakeLog::default();
        let handshake = HandshakeRecord {
            at_ms: 1,
            source: "a".to_owned(),
            method: "HEAD".to_owned(),
            ip: "192.0.2.1".to_owned(),
            detail: "\u{fc}".repeat(5000),
        };
        for _ in 0..5_000 {
            handshakes.record(handshake.clone());
        }
        let rows = handshakes.drain(2);
        assert_eq!((rows.len(), rows[0].detail.len()), (MAX_PENDING_ROWS + 1, 2048));
        assert_eq!(rows[MAX_PENDING_ROWS].detail, "4000 more handshakes");
        assert_eq!(handshakes.drain(3), []);
    }

    #[test]
    fn a_warning_appears_once_per_minute() {
        let handshakes = HandshakeLog::default();
        let at = [100_000, 100_001, 159_999, 160_000, 1_000];
        assert_eq!(at.map(|at| handshakes.should_warn(at)), [true, false, false, true, true]);
    }
}
