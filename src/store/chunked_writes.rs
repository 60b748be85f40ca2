//! Writes of the command line that change many rows: in short transactions, with pauses in which a
//! running server's writer gets its turn.
//!
//! SQLite has no queue for its lock. A waiting connection retries, at first after 1, 2, 5, 10, 15,
//! 20 and 25 ms. A connection that releases the lock and takes it again at once keeps the other out
//! for seconds. A pause longer than each of these delays lets the other in.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::Store;
use super::writer_state::WriterState;

/// A transaction ends after this time, its commit apart.
const MAX_SLICE: Duration = Duration::from_millis(20);

/// Time between two transactions.
const PAUSE: Duration = Duration::from_millis(30);

/// A server under load leaves only short gaps between its transactions. The command line tries to
/// lock the database every millisecond, this many times.
const MAX_LOCK_ATTEMPTS: i32 = 30_000;

/// The time that a transaction has for its work.
#[derive(Clone, Copy, Debug)]
pub struct TimeSlice(Instant);

impl TimeSlice {
    pub fn has_time(self) -> bool {
        self.0.elapsed() < MAX_SLICE
    }
}

/// Runs the command line's writes on a database that a server may be writing.
#[derive(Debug)]
pub struct ChunkedWriter<'s> {
    store: &'s Store,
    /// When the last transaction ended.
    ended_at: Option<Instant>,
}

impl<'s> ChunkedWriter<'s> {
    pub fn new(store: &'s Store) -> Self {
        Self { store, ended_at: None }
    }

    /// Calls `step` in one transaction, at the earliest [`PAUSE`] after the last one.
    ///
    /// # Errors
    /// The error of `step`, or of a failed write.
    pub fn write_chunk<T>(
        &mut self,
        step: impl FnOnce(&Connection, &mut WriterState, TimeSlice) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        if let Some(ended_at) = self.ended_at {
            std::thread::sleep(PAUSE.saturating_sub(ended_at.elapsed()));
        }
        let done = super::in_transaction(&self.store.conn, |conn| {
            let slice = TimeSlice(Instant::now());
            let mut state = WriterState::read(conn, self.store.clock)?;
            let before = state.counters;
            let done = step(conn, &mut state, slice)?;
            if state.counters != before {
                state.write_counters(conn)?;
            }
            Ok(done)
        });
        self.ended_at = Some(Instant::now());
        done
    }
}

/// The busy handler of SQLite: waits for a millisecond, a limited number of times.
pub(super) fn busy_handler(attempts: i32) -> bool {
    std::thread::sleep(Duration::from_millis(1));
    attempts < MAX_LOCK_ATTEMPTS
}
