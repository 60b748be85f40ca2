//! Buffers rejections until they are written. For each source, address and reason the first 100 per
//! hour are rows. The others are a count on the last of these rows. A flood uses a bounded amount
//! of memory and one message to the writer for each call of `drain`, and never delays intake.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use parking_lot::Mutex;

use crate::domain;
use crate::store::rejections::{RejectionKind, RejectionRow};

/// Maximum number of rows per hour for one source, address and reason.
const ROWS_PER_HOUR: u32 = 100;
const HOUR_MS: i64 = 3_600_000;

/// Maximum number of buckets per hour. Further rejections are counted by status only.
const MAX_BUCKETS: usize = 10_000;

/// Maximum number of rows that wait to be written, plus one for each status.
const MAX_PENDING_ROWS: usize = 5_000;

/// A longer text is cut.
const MAX_PATH_BYTES: usize = 2048;
const MAX_METHOD_BYTES: usize = 32;
const MAX_REASON_BYTES: usize = 256;

/// The parts of a request that `rejections` stores.
pub struct RejectedRequest<'a> {
    pub source: Option<&'a str>,
    pub method: &'a str,
    /// Without the query; secrets are redacted.
    pub path: &'a str,
    pub ip: &'a str,
    pub bytes: usize,
    pub status: u16,
    /// Secrets are redacted.
    pub reason: &'a str,
}

/// The rejections of one source, address and reason.
struct RejectionBucket {
    since_ms: i64,
    rows: u32,
    /// Rejections since the last `drain` that only add to the count of the last row.
    suppressed: i64,
    /// The count of the last row has grown.
    has_grown: bool,
    last: RejectionRow,
}

#[derive(Default)]
struct RejectionLogState {
    buckets: HashMap<u64, RejectionBucket>,
    /// Rejections without room for a bucket, by status.
    overflow: HashMap<u16, RejectionBucket>,
    pending: Vec<RejectionRow>,
}

/// The rejections of all intake threads that are not written yet.
#[derive(Default)]
pub struct RejectionLog(Mutex<RejectionLogState>);

impl RejectionLog {
    /// Adds a rejection.
    pub fn record(&self, request: &RejectedRequest<'_>, now_ms: i64) {
        let (key, status) = (key(request), request.status);
        let row = || row(request, now_ms);
        let mut buffer = self.0.lock();
        let RejectionLogState { buckets, overflow, pending } = &mut *buffer;
        let is_full = pending.len() >= MAX_PENDING_ROWS;
        let has_no_room = is_full || buckets.len() >= MAX_BUCKETS;
        match buckets.get_mut(&key) {
            Some(bucket)
                if is_full || (bucket.is_current(now_ms) && bucket.rows >= ROWS_PER_HOUR) =>
            {
                bucket.suppressed += 1;
            }
            Some(bucket) => {
                // The count so far belongs to the previous row.
                pending.extend(bucket.end_row());
                let row = row();
                pending.push(row.clone());
                if !bucket.is_current(now_ms) {
                    (bucket.since_ms, bucket.rows) = (now_ms, 0);
                }
                bucket.rows += 1;
                bucket.last = row;
            }
            None if has_no_room => match overflow.get_mut(&status) {
                Some(bucket) => bucket.suppressed += 1,
                None => {
                    let row = overflow_row(status, now_ms);
                    pending.push(row.clone());
                    overflow.insert(status, RejectionBucket::new(row, now_ms));
                }
            },
            None => {
                let row = row();
                pending.push(row.clone());
                buckets.insert(key, RejectionBucket::new(row, now_ms));
            }
        }
    }

    /// Returns the rows to write. Buckets whose hour is over are removed here, and not while a
    /// request waits.
    pub fn drain(&self, now_ms: i64) -> Vec<RejectionRow> {
        let mut buffer = self.0.lock();
        let RejectionLogState { buckets, overflow, pending } = &mut *buffer;
        let mut rows = std::mem::take(pending);
        let mut is_current = |bucket: &mut RejectionBucket| {
            let is_current = bucket.is_current(now_ms);
            if !is_current {
                rows.extend(bucket.end_row());
            }
            is_current
        };
        buckets.retain(|_, bucket| is_current(bucket));
        overflow.retain(|_, bucket| is_current(bucket));
        let open_buckets = buckets.values_mut().chain(overflow.values_mut());
        rows.extend(open_buckets.filter_map(RejectionBucket::take_suppressed));
        rows
    }
}

impl RejectionBucket {
    fn new(row: RejectionRow, now_ms: i64) -> Self {
        Self { since_ms: now_ms, rows: 1, suppressed: 0, has_grown: false, last: row }
    }

    /// False also after the clock was set back: otherwise the hour would never end.
    fn is_current(&self, now_ms: i64) -> bool {
        (0..HOUR_MS).contains(&now_ms.saturating_sub(self.since_ms))
    }

    /// Returns the last count of a row that gets no more, if it has grown.
    fn end_row(&mut self) -> Option<RejectionRow> {
        let count = std::mem::take(&mut self.suppressed);
        let has_grown = std::mem::take(&mut self.has_grown) || count > 0;
        let kind = RejectionKind::LastRepeat;
        has_grown.then(|| RejectionRow { count, kind, ..self.last.clone() })
    }

    /// Returns the count to add to the last row.
    fn take_suppressed(&mut self) -> Option<RejectionRow> {
        let count = std::mem::take(&mut self.suppressed);
        self.has_grown |= count > 0;
        let kind = RejectionKind::Repeat;
        (count > 0).then(|| RejectionRow { count, kind, ..self.last.clone() })
    }
}

fn key(request: &RejectedRequest<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (request.source, domain::client_network(request.ip), request.status).hash(&mut hasher);
    domain::reason_kind(request.reason).for_each(|letter| letter.hash(&mut hasher));
    hasher.finish()
}

fn row(request: &RejectedRequest<'_>, now_ms: i64) -> RejectionRow {
    RejectionRow {
        at_ms: now_ms,
        source: request.source.map(str::to_owned),
        method: truncate(request.method, MAX_METHOD_BYTES),
        path: truncate(request.path, MAX_PATH_BYTES),
        ip: request.ip.to_owned(),
        status: request.status,
        reason: truncate(request.reason, MAX_REASON_BYTES),
        bytes: i64::try_from(request.bytes).unwrap_or(i64::MAX),
        count: 1,
        row_id: Arc::new(AtomicI64::new(0)),
        kind: RejectionKind::New,
    }
}

/// The row has no source and no address, because it counts requests of several.
fn overflow_row(status: u16, now_ms: i64) -> RejectionRow {
    let reason = "more addresses than are counted separately";
    let request =
        RejectedRequest { source: None, method: "", path: "", ip: "", bytes: 0, status, reason };
    row(&request, now_ms)
}

fn truncate(text: &str, max: usize) -> String {
    text[..text.floor_char_boundary(max)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(log: &RejectionLog, ip: &str, now_ms: i64) {
        let (method, path, reason) = ("POST", "/", "not in allow_from");
        let source = Some("a");
        let request = RejectedRequest { source, method, path, ip, bytes: 3, status: 403, reason };
        log.record(&request, now_ms);
    }

    fn counts(rows: &[RejectionRow]) -> (usize, i64) {
        let new = rows.iter().filter(|row| row.kind == RejectionKind::New).count();
        (new, rows.iter().map(|row| row.count).sum())
    }

    #[test]
    fn the_first_hundred_per_hour_are_rows_and_the_others_a_count_on_the_last() {
        let log = RejectionLog::default();
        for _ in 0..250 {
            record(&log, "192.0.2.1", 1000);
        }
        let rows = log.drain(1000);
        assert_eq!(counts(&rows), (100, 250));
        let added = rows.iter().find(|row| row.kind == RejectionKind::Repeat).unwrap();
        assert!(Arc::ptr_eq(&added.row_id, &rows[99].row_id));
        record(&log, "192.0.2.1", 2000);
        assert_eq!(counts(&log.drain(2000)), (0, 1));
        record(&log, "192.0.2.1", 1000 + HOUR_MS);
        assert_eq!(counts(&log.drain(1000 + HOUR_MS)), (1, 1));
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_counted_together() {
        let log = RejectionLog::default();
        for number in 0..300 {
            record(&log, &format!("2001:db8:1:2::{number:x}"), 1000);
            record(&log, &format!("2001:db8:1:{number:x}::1"), 1000);
        }
        assert_eq!(counts(&log.drain(1000)), (100 + 299, 600));
    }

    #[test]
    fn a_flood_from_many_addresses_is_bounded_and_loses_no_count() {
        let log = RejectionLog::default();
        for number in 0..30_000 {
            record(&log, &format!("10.0.{}.{}", number / 256, number % 256), 1000);
        }
        assert!(log.0.lock().buckets.len() <= MAX_BUCKETS);
        assert_eq!(counts(&log.drain(1000)), (MAX_PENDING_ROWS + 1, 30_000));
    }

    #[test]
    fn overflow_is_never_counted_on_the_row_of_an_address() {
        let log = RejectionLog::default();
        for number in 0..30_000 {
            record(&log, &format!("10.0.{}.{}", number / 256, number % 256), 1000);
        }
        record(&log, "10.0.0.0", 1000);
        let mut by_ip: HashMap<String, i64> = HashMap::new();
        for row in log.drain(1000) {
            *by_ip.entry(row.ip).or_default() += row.count;
        }
        assert_eq!(by_ip.remove("10.0.0.0"), Some(2));
        by_ip.remove("");
        assert!(by_ip.values().all(|count| *count == 1));
    }

    #[test]
    fn a_new_hour_starts_new_rows_and_removes_old_buckets() {
        let log = RejectionLog::default();
        for _ in 0..150 {
            record(&log, "192.0.2.1", 0);
        }
        for _ in 0..150 {
            record(&log, "192.0.2.1", HOUR_MS);
        }
        let rows = log.drain(HOUR_MS);
        assert_eq!(counts(&rows), (200, 300));
        let adds: Vec<&RejectionRow> =
            rows.iter().filter(|row| row.kind != RejectionKind::New).collect();
        assert!(Arc::ptr_eq(&adds[0].row_id, &rows[99].row_id) && adds[0].count == 50);
        assert_eq!(counts(&log.drain(2 * HOUR_MS)), (0, 0));
        assert!(log.0.lock().buckets.is_empty());
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let log = RejectionLog::default();
        let path = "/\u{fc}".repeat(MAX_PATH_BYTES);
        let method = "M".repeat(1000);
        let (method, path, reason) = (&*method, &*path, "no source at this path");
        let request =
            RejectedRequest { source: None, method, path, ip: "", bytes: 0, status: 404, reason };
        log.record(&request, 0);
        let rows = log.drain(0);
        assert_eq!((rows[0].method.len(), rows[0].path.len()), (32, 2047));
    }
}
