//! Refusals, until they are written: of one source, address and reason the first 100 an hour are
//! rows, the rest a count on the last of them. A flood costs memory up to a bound and one message to
//! the writer a look; it never slows intake.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, PoisonError};

use super::refuse::Refusal;
use crate::store::refusals::Refused;

/// Rows an hour for one source, address and reason.
const ROWS_AN_HOUR: u32 = 100;
const HOUR_MS: i64 = 3_600_000;

/// So many different ones are told apart an hour; beyond it all others are counted as one.
const KEYS_MAX: usize = 10_000;

/// So many rows wait to be written.
const PENDING_MAX: usize = 5_000;

/// What is longer is cut.
const PATH_BYTES_MAX: usize = 2048;
const TEXT_BYTES_MAX: usize = 256;

/// A request that was refused.
pub struct Request<'a> {
    pub source: Option<&'a str>,
    pub method: &'a str,
    /// Without the query; secrets replaced.
    pub path: &'a str,
    pub ip: &'a str,
    pub bytes: usize,
}

/// One source, address and reason.
struct Kept {
    since_ms: i64,
    rows: u32,
    /// On the last row, since the last drain.
    more: i64,
    last: Refused,
}

#[derive(Default)]
struct Inner {
    keys: HashMap<u64, Kept>,
    pending: Vec<Refused>,
}

/// Shared by all intake threads.
#[derive(Default)]
pub struct Ledger(Mutex<Inner>);

impl Ledger {
    /// Notes one.
    pub fn note(&self, request: &Request<'_>, refusal: &Refusal, now_ms: i64) {
        let reason = refusal.reason();
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = key(request, refusal.status(), &reason);
        if !inner.keys.contains_key(&key) && inner.keys.len() >= KEYS_MAX {
            inner.keys.retain(|_, kept| kept.more > 0 || now_ms - kept.since_ms < HOUR_MS);
            if inner.keys.len() >= KEYS_MAX {
                key = 0;
            }
        }
        let Inner { keys, pending } = &mut *inner;
        if let Some(kept) = keys.get_mut(&key)
            && (0..HOUR_MS).contains(&(now_ms - kept.since_ms))
            && (kept.rows >= ROWS_AN_HOUR || pending.len() >= PENDING_MAX)
        {
            kept.more += 1;
            return;
        }
        if pending.len() >= PENDING_MAX {
            // Full of rows of others that are not written yet: their last one counts it.
            if let Some(last) = pending.last_mut() {
                last.count += 1;
            }
            return;
        }
        let row = row(request, refusal.status(), &reason, now_ms);
        pending.push(row.clone());
        let fresh = || Kept { since_ms: now_ms, rows: 0, more: 0, last: row.clone() };
        let kept = keys.entry(key).or_insert_with(fresh);
        if !(0..HOUR_MS).contains(&(now_ms - kept.since_ms)) {
            let more = std::mem::replace(kept, fresh());
            pending.extend(counted(more));
        }
        let kept = keys.entry(key).or_insert_with(fresh);
        kept.rows += 1;
        if kept.more > 0 {
            // Counts belong to the row before this one.
            let before = Refused { count: kept.more, adds: true, ..kept.last.clone() };
            pending.push(before);
            kept.more = 0;
        }
        kept.last = row;
    }

    /// What is to be written now.
    pub fn drain(&self, now_ms: i64) -> Vec<Refused> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows = std::mem::take(&mut inner.pending);
        for kept in inner.keys.values_mut() {
            if kept.more > 0 {
                rows.push(Refused { count: kept.more, adds: true, ..kept.last.clone() });
                kept.more = 0;
            }
        }
        inner.keys.retain(|_, kept| (0..HOUR_MS).contains(&(now_ms - kept.since_ms)));
        rows
    }
}

fn counted(kept: Kept) -> Option<Refused> {
    (kept.more > 0).then_some(Refused { count: kept.more, adds: true, ..kept.last })
}

fn key(request: &Request<'_>, status: u16, reason: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Reasons that name the sender's own text or clock would each be a new one: 401s and 400s of one
    // source and address count together beyond their first words.
    let words: String = reason.chars().filter(|c| !c.is_ascii_digit()).take(60).collect();
    (request.source, request.ip, status, words).hash(&mut hasher);
    // 0 is the key of all others.
    hasher.finish().max(1)
}

fn row(request: &Request<'_>, status: u16, reason: &str, now_ms: i64) -> Refused {
    Refused {
        at_ms: now_ms,
        source: request.source.map(str::to_owned),
        method: cut(request.method, TEXT_BYTES_MAX),
        path: cut(request.path, PATH_BYTES_MAX),
        ip: request.ip.to_owned(),
        status,
        reason: cut(reason, TEXT_BYTES_MAX),
        bytes: i64::try_from(request.bytes).unwrap_or(i64::MAX),
        count: 1,
        row: Arc::new(AtomicI64::new(0)),
        adds: false,
    }
}

fn cut(text: &str, max: usize) -> String {
    text[..text.floor_char_boundary(max)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(ledger: &Ledger, ip: &str, now_ms: i64) {
        let request = Request { source: Some("a"), method: "POST", path: "/", ip, bytes: 3 };
        ledger.note(&request, &Refusal::Address, now_ms);
    }

    fn counts(rows: &[Refused]) -> (usize, i64) {
        let new = rows.iter().filter(|row| !row.adds).count();
        (new, rows.iter().map(|row| row.count).sum())
    }

    #[test]
    fn the_first_hundred_an_hour_are_rows_and_the_rest_a_count_on_the_last() {
        let ledger = Ledger::default();
        for _ in 0..250 {
            note(&ledger, "192.0.2.1", 1000);
        }
        let rows = ledger.drain(1000);
        assert_eq!(counts(&rows), (100, 250));
        let added = rows.iter().find(|row| row.adds).unwrap();
        assert!(Arc::ptr_eq(&added.row, &rows[99].row));
        note(&ledger, "192.0.2.1", 2000);
        assert_eq!(counts(&ledger.drain(2000)), (0, 1));
        note(&ledger, "192.0.2.1", 1000 + HOUR_MS);
        assert_eq!(counts(&ledger.drain(1000 + HOUR_MS)), (1, 1));
    }

    #[test]
    fn a_flood_from_many_addresses_stays_within_its_bounds_and_loses_no_count() {
        let ledger = Ledger::default();
        for number in 0..30_000 {
            note(&ledger, &format!("10.0.{}.{}", number / 256, number % 256), 1000);
        }
        assert!(ledger.0.lock().unwrap().keys.len() <= KEYS_MAX + 1);
        assert_eq!(counts(&ledger.drain(1000)), (PENDING_MAX, 30_000));
    }
}
