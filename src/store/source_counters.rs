//! Counters of the sources in memory: how many of their jobs are queued, which `max_queued` needs
//! for each request, and when they had their last event. The writer updates both, and recounts
//! after another process has changed the database.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::Connection;

use super::jobs::queue;
use crate::domain::SourceId;

/// The `max_queued` of a source, with its number of queued jobs. The writer rejects an event if the
/// number has reached the limit. Only the writer sees events one after another, so that of events
/// that arrive together at most one exceeds the limit.
#[derive(Clone, Debug)]
pub struct QueueLimit {
    /// As of the last commit.
    pub queued: Arc<AtomicI64>,
    pub max_jobs: i64,
}

impl QueueLimit {
    /// Returns true if the limit is reached. `change` is the difference since the last commit.
    pub fn is_reached(&self, change: i64) -> bool {
        self.queued.load(Ordering::Relaxed).saturating_add(change) >= self.max_jobs
    }
}

/// The number of queued jobs of each source with a limit, and the last activity of all sources.
#[derive(Debug, Default)]
pub struct SourceCounters {
    queued: Mutex<HashMap<SourceId, Arc<AtomicI64>>>,
    /// Database clock.
    last_seen: Mutex<HashMap<SourceId, i64>>,
}

impl SourceCounters {
    /// Counts the jobs of these sources too from now on. Each count is correct after the next
    /// `Operation::Recount`.
    pub fn set_watched(&self, sources: &[SourceId]) -> HashMap<SourceId, Arc<AtomicI64>> {
        let mut queued = self.queued.lock();
        for &source in sources {
            queued.entry(source).or_default();
        }
        queued.clone()
    }

    /// Stops counting all other sources.
    pub fn retain(&self, sources: &[SourceId]) {
        let mut queued = self.queued.lock();
        queued.retain(|source, _| sources.contains(source));
    }

    /// Returns when a source had its last event, or was registered (database clock). A source that
    /// is unknown counts as registered now.
    pub fn last_seen_ms(&self, source: SourceId, now_ms: i64) -> i64 {
        *self.last_seen.lock().entry(source).or_insert(now_ms)
    }

    /// Returns the last activity of all sources, to be saved.
    pub fn last_seen_all(&self) -> Vec<(SourceId, i64)> {
        let last_seen = self.last_seen.lock();
        last_seen.iter().map(|(source, at_ms)| (*source, *at_ms)).collect()
    }

    pub(super) fn set_last_seen(&self, sources: impl Iterator<Item = (SourceId, i64)>) {
        self.last_seen.lock().extend(sources);
    }

    pub(super) fn add(&self, source: SourceId, jobs: i64) {
        let queued = self.queued.lock();
        if let Some(count) = queued.get(&source) {
            count.fetch_add(jobs, Ordering::Relaxed);
        }
    }

    pub(super) fn recount(&self, conn: &Connection) -> rusqlite::Result<()> {
        let queued = self.queued.lock();
        for (&source, count) in queued.iter() {
            count.store(queue::queued_count(conn, source)?, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Counting a million queued jobs takes 0.1 s, while senders wait. If another process keeps
/// writing, counting takes at most one part in this many of the time.
const COUNTING_SHARE: u32 = 50;

/// The writer's recount of queued jobs after another process has written.
#[derive(Debug)]
pub(super) struct QueueRecount {
    pub counters: Arc<SourceCounters>,
    /// Another process has written since the last count.
    pub is_stale: bool,
    counted_at: Instant,
    count_duration: Duration,
}

impl QueueRecount {
    pub fn new(counters: Arc<SourceCounters>) -> Self {
        Self {
            counters,
            is_stale: false,
            counted_at: Instant::now(),
            count_duration: Duration::ZERO,
        }
    }

    /// Counts if `must`, or if the counts are stale and the last count is long enough ago. Returns
    /// whether the counts are correct.
    pub fn count(&mut self, conn: &Connection, is_forced: bool) -> bool {
        let is_due =
            self.is_stale && self.counted_at.elapsed() >= self.count_duration * COUNTING_SHARE;
        if !is_forced && !is_due {
            return !self.is_stale;
        }
        let started_at = Instant::now();
        let counted = self.counters.recount(conn);
        if let Err(e) = &counted {
            log::debug!("the queue could not be counted again: {e}");
        }
        *self = Self {
            counters: Arc::clone(&self.counters),
            is_stale: counted.is_err(),
            counted_at: Instant::now(),
            count_duration: started_at.elapsed(),
        };
        !self.is_stale
    }
}
