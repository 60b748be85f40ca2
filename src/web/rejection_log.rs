//! Refusals, until they are written: of one source, address and reason the first 100 an hour are
//! rows, the rest a count on the last of them. A flood costs memory up to a bound and one message to
//! the writer a look; it never slows intake.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain;
use crate::store::rejections::RejectionRow;

/// Rows an hour for one source, address and reason.
const ROWS_AN_HOUR: u32 = 100;
const HOUR_MS: i64 = 3_600_000;

/// So many different ones are told apart an hour; all others of a status are counted as one.
const KEYS_MAX: usize = 10_000;

/// So many rows wait to be written, and one more of each status.
const PENDING_MAX: usize = 5_000;

/// What is longer is cut.
const PATH_BYTES_MAX: usize = 2048;
const METHOD_BYTES_MAX: usize = 32;
const REASON_BYTES_MAX: usize = 256;

/// A request that was refused.
pub struct RejectedRequest<'a> {
    pub source: Option<&'a str>,
    pub method: &'a str,
    /// Without the query; secrets replaced.
    pub path: &'a str,
    pub ip: &'a str,
    pub bytes: usize,
    pub status: u16,
    /// Secrets replaced.
    pub reason: &'a str,
}

/// One source, address and reason.
struct RejectionBucket {
    since_ms: i64,
    rows: u32,
    /// On the last row, since the last drain.
    suppressed: i64,
    last: RejectionRow,
}

#[derive(Default)]
struct Inner {
    keys: HashMap<u64, RejectionBucket>,
    /// What no key had room for, by status.
    overflow: HashMap<u16, RejectionBucket>,
    pending: Vec<RejectionRow>,
}

/// Shared by all intake threads.
#[derive(Default)]
pub struct RejectionLog(Mutex<Inner>);

impl RejectionLog {
    /// Notes one.
    pub fn record(&self, request: &RejectedRequest<'_>, now_ms: i64) {
        let (key, status) = (key(request), request.status);
        let row = || row(request, now_ms);
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { keys, overflow: others, pending } = &mut *inner;
        let full = pending.len() >= PENDING_MAX;
        let no_room = full || keys.len() >= KEYS_MAX;
        match keys.get_mut(&key) {
            Some(kept) if full || (kept.is_current(now_ms) && kept.rows >= ROWS_AN_HOUR) => {
                kept.suppressed += 1;
            }
            Some(kept) => {
                // Counts belong to the row before this one.
                pending.extend(kept.take_suppressed());
                let row = row();
                pending.push(row.clone());
                if !kept.is_current(now_ms) {
                    (kept.since_ms, kept.rows) = (now_ms, 0);
                }
                kept.rows += 1;
                kept.last = row;
            }
            None if no_room => match others.get_mut(&status) {
                Some(kept) => kept.suppressed += 1,
                None => {
                    let row = overflow_row(status, now_ms);
                    pending.push(row.clone());
                    others.insert(status, RejectionBucket::new(row, now_ms));
                }
            },
            None => {
                let row = row();
                pending.push(row.clone());
                keys.insert(key, RejectionBucket::new(row, now_ms));
            }
        }
    }

    /// What is to be written now. Those whose hour is over are forgotten here, once a look, and not
    /// while a request waits.
    pub fn drain(&self, now_ms: i64) -> Vec<RejectionRow> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { keys, overflow: others, pending } = &mut *inner;
        let mut rows = std::mem::take(pending);
        rows.extend(
            keys.values_mut()
                .chain(others.values_mut())
                .filter_map(RejectionBucket::take_suppressed),
        );
        keys.retain(|_, kept| kept.is_current(now_ms));
        others.retain(|_, kept| kept.is_current(now_ms));
        rows
    }
}

impl RejectionBucket {
    fn new(row: RejectionRow, now_ms: i64) -> Self {
        Self { since_ms: now_ms, rows: 1, suppressed: 0, last: row }
    }

    /// Not where the clock was set back: its hour would never end.
    fn is_current(&self, now_ms: i64) -> bool {
        (0..HOUR_MS).contains(&now_ms.saturating_sub(self.since_ms))
    }

    /// What is to be counted on its last row.
    fn take_suppressed(&mut self) -> Option<RejectionRow> {
        let count = std::mem::take(&mut self.suppressed);
        (count > 0).then(|| RejectionRow { count, is_increment: true, ..self.last.clone() })
    }
}

fn key(request: &RejectedRequest<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (request.source, domain::network_of(request.ip), request.status).hash(&mut hasher);
    // Reasons that name the sender's own text or clock would each be a new one: 401s and 400s of
    // one source and address count together beyond their first words.
    for letter in request.reason.chars().filter(|c| !c.is_ascii_digit()).take(60) {
        letter.hash(&mut hasher);
    }
    hasher.finish()
}

fn row(request: &RejectedRequest<'_>, now_ms: i64) -> RejectionRow {
    RejectionRow {
        at_ms: now_ms,
        source: request.source.map(str::to_owned),
        method: cut(request.method, METHOD_BYTES_MAX),
        path: cut(request.path, PATH_BYTES_MAX),
        ip: request.ip.to_owned(),
        status: request.status,
        reason: cut(request.reason, REASON_BYTES_MAX),
        bytes: i64::try_from(request.bytes).unwrap_or(i64::MAX),
        count: 1,
        row: Arc::new(AtomicI64::new(0)),
        is_increment: false,
    }
}

/// Names no source and no address, so that none is blamed for what others sent.
fn overflow_row(status: u16, now_ms: i64) -> RejectionRow {
    let reason = "of more addresses than are told apart";
    let request =
        RejectedRequest { source: None, method: "", path: "", ip: "", bytes: 0, status, reason };
    row(&request, now_ms)
}

fn cut(text: &str, max: usize) -> String {
    text[..text.floor_char_boundary(max)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(ledger: &RejectionLog, ip: &str, now_ms: i64) {
        let (method, path, reason) = ("POST", "/", "not in allow_from");
        let source = Some("a");
        let request = RejectedRequest { source, method, path, ip, bytes: 3, status: 403, reason };
        ledger.record(&request, now_ms);
    }

    fn counts(rows: &[RejectionRow]) -> (usize, i64) {
        let new = rows.iter().filter(|row| !row.is_increment).count();
        (new, rows.iter().map(|row| row.count).sum())
    }

    #[test]
    fn the_first_hundred_an_hour_are_rows_and_the_rest_a_count_on_the_last() {
        let ledger = RejectionLog::default();
        for _ in 0..250 {
            note(&ledger, "192.0.2.1", 1000);
        }
        let rows = ledger.drain(1000);
        assert_eq!(counts(&rows), (100, 250));
        let added = rows.iter().find(|row| row.is_increment).unwrap();
        assert!(Arc::ptr_eq(&added.row, &rows[99].row));
        note(&ledger, "192.0.2.1", 2000);
        assert_eq!(counts(&ledger.drain(2000)), (0, 1));
        note(&ledger, "192.0.2.1", 1000 + HOUR_MS);
        assert_eq!(counts(&ledger.drain(1000 + HOUR_MS)), (1, 1));
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_counted_together() {
        let ledger = RejectionLog::default();
        for number in 0..300 {
            note(&ledger, &format!("2001:db8:1:2::{number:x}"), 1000);
            note(&ledger, &format!("2001:db8:1:{number:x}::1"), 1000);
        }
        assert_eq!(counts(&ledger.drain(1000)), (100 + 299, 600));
    }

    #[test]
    fn a_flood_from_many_addresses_stays_within_its_bounds_and_loses_no_count() {
        let ledger = RejectionLog::default();
        for number in 0..30_000 {
            note(&ledger, &format!("10.0.{}.{}", number / 256, number % 256), 1000);
        }
        assert!(ledger.0.lock().unwrap().keys.len() <= KEYS_MAX);
        assert_eq!(counts(&ledger.drain(1000)), (PENDING_MAX + 1, 30_000));
    }

    #[test]
    fn no_address_is_blamed_for_what_others_sent() {
        let ledger = RejectionLog::default();
        for number in 0..30_000 {
            note(&ledger, &format!("10.0.{}.{}", number / 256, number % 256), 1000);
        }
        note(&ledger, "10.0.0.0", 1000);
        let mut by_ip: HashMap<String, i64> = HashMap::new();
        for row in ledger.drain(1000) {
            *by_ip.entry(row.ip).or_default() += row.count;
        }
        assert_eq!(by_ip.remove("10.0.0.0"), Some(2));
        by_ip.remove("");
        assert!(by_ip.values().all(|count| *count == 1));
    }

    #[test]
    fn a_new_hour_begins_anew_and_leaves_nothing_behind() {
        let ledger = RejectionLog::default();
        for _ in 0..150 {
            note(&ledger, "192.0.2.1", 0);
        }
        for _ in 0..150 {
            note(&ledger, "192.0.2.1", HOUR_MS);
        }
        let rows = ledger.drain(HOUR_MS);
        assert_eq!(counts(&rows), (200, 300));
        let adds: Vec<&RejectionRow> = rows.iter().filter(|row| row.is_increment).collect();
        assert!(Arc::ptr_eq(&adds[0].row, &rows[99].row) && adds[0].count == 50);
        assert_eq!(counts(&ledger.drain(2 * HOUR_MS)), (0, 0));
        assert!(ledger.0.lock().unwrap().keys.is_empty());
    }

    #[test]
    fn what_a_stranger_made_long_is_cut_between_letters() {
        let ledger = RejectionLog::default();
        let path = "/\u{fc}".repeat(PATH_BYTES_MAX);
        let method = "M".repeat(1000);
        let (method, path, reason) = (&*method, &*path, "no source at this path");
        let request =
            RejectedRequest { source: None, method, path, ip: "", bytes: 0, status: 404, reason };
        ledger.record(&request, 0);
        let rows = ledger.drain(0);
        assert_eq!((rows[0].method.len(), rows[0].path.len()), (32, 2047));
    }
}
