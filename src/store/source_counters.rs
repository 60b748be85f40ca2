//! What is known of each source in memory: how many of its jobs are queued, as `max_queued` is asked
//! for at every request, and when it had its last event. The writer keeps both, and counts again when
//! somebody else changed the file.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::jobs;
use crate::domain::SourceId;

/// A source's `max_queued`, and how many of its jobs are queued. The writer refuses an event where they
/// are at the limit: it alone sees one event after another, so that of those that arrive together one
/// at most goes beyond it.
#[derive(Clone, Debug)]
pub struct QueueLimit {
    /// As of the last commit.
    pub queued: Arc<AtomicI64>,
    pub max_jobs: i64,
}

impl QueueLimit {
    /// Whether it is at the limit, with what this much changed since the last commit.
    pub fn is_reached(&self, change: i64) -> bool {
        self.queued.load(Ordering::Relaxed).saturating_add(change) >= self.max_jobs
    }
}

/// The counts of those sources that have a limit, and the last events of all.
#[derive(Debug, Default)]
pub struct SourceCounters {
    of: Mutex<HashMap<SourceId, Arc<AtomicI64>>>,
    /// Trail's clock.
    seen: Mutex<HashMap<SourceId, i64>>,
}

impl SourceCounters {
    /// Counts these sources too from now on. Each count holds when the writer has counted
    /// (`Op::Recount`).
    pub fn set_watched(&self, sources: &[SourceId]) -> HashMap<SourceId, Arc<AtomicI64>> {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        for &source in sources {
            of.entry(source).or_default();
        }
        of.clone()
    }

    /// Counts no others any more.
    pub fn retain(&self, sources: &[SourceId]) {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        of.retain(|source, _| sources.contains(source));
    }

    /// When a source had its last event, or was first heard of, on the trail's clock. One that is
    /// asked for before it was heard of is heard of now.
    pub fn seen_at(&self, source: SourceId, now_ms: i64) -> i64 {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner).entry(source).or_insert(now_ms)
    }

    /// All of them, to be kept.
    pub fn last_seen_all(&self) -> Vec<(SourceId, i64)> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().map(|(source, at_ms)| (*source, *at_ms)).collect()
    }

    pub(super) fn set_last_seen(&self, sources: impl Iterator<Item = (SourceId, i64)>) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).extend(sources);
    }

    pub(super) fn add(&self, source: SourceId, jobs: i64) {
        let of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = of.get(&source) {
            count.fetch_add(jobs, Ordering::Relaxed);
        }
    }

    pub(super) fn recount(&self, conn: &Connection) -> rusqlite::Result<()> {
        let of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        for (&source, count) in of.iter() {
            count.store(jobs::queued_count(conn, source)?, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Counting a million queued jobs takes a tenth of a second, and senders wait meanwhile: where others
/// write again and again, it is done for at most this small a part of the time.
const COUNTING_SHARE: u32 = 50;

/// Counts again where somebody else wrote; the writer's.
#[derive(Debug)]
pub(super) struct QueueRecount {
    pub of: Arc<SourceCounters>,
    /// Somebody else wrote since.
    pub is_stale: bool,
    at: Instant,
    took: Duration,
}

impl QueueRecount {
    pub fn new(of: Arc<SourceCounters>) -> Self {
        Self { of, is_stale: false, at: Instant::now(), took: Duration::ZERO }
    }

    /// Counts where it `must`, or is old and did not take much of the time lately; whether the counts
    /// hold.
    pub fn count(&mut self, conn: &Connection, must: bool) -> bool {
        let is_due = self.is_stale && self.at.elapsed() >= self.took * COUNTING_SHARE;
        if !must && !is_due {
            return !self.is_stale;
        }
        let began = Instant::now();
        let counted = self.of.recount(conn);
        if let Err(e) = &counted {
            log::debug!("the queue could not be counted again: {e}");
        }
        *self = Self {
            of: Arc::clone(&self.of),
            is_stale: counted.is_err(),
            at: Instant::now(),
            took: began.elapsed(),
        };
        !self.is_stale
    }
}
