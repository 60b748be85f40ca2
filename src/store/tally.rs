//! How many jobs of each source are queued, counted in memory: `queued_max` is asked for at every
//! request. The writer keeps it, and counts again when somebody else changed the file.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;

use super::jobs;
use crate::domain::SourceId;

/// The counts of those sources that have a limit.
#[derive(Debug, Default)]
pub struct Tally {
    of: Mutex<HashMap<SourceId, Arc<AtomicI64>>>,
}

impl Tally {
    /// Which sources are to be counted from now on, each with its count, which holds when the writer
    /// has counted (`Op::Recount`).
    pub fn watch(&self, sources: &[SourceId]) -> HashMap<SourceId, Arc<AtomicI64>> {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        of.retain(|source, _| sources.contains(source));
        for &source in sources {
            of.entry(source).or_default();
        }
        of.clone()
    }

    pub(super) fn add(&self, source: SourceId, jobs: i64) {
        let of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = of.get(&source) {
            count.fetch_add(jobs, Ordering::Relaxed);
        }
    }

    pub(super) fn count_again(&self, conn: &Connection) -> rusqlite::Result<()> {
        let of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        for (&source, count) in of.iter() {
            count.store(jobs::queued_of(conn, source)?, Ordering::Relaxed);
        }
        Ok(())
    }
}
