//! What the command line does to many rows: in transactions that are short, with pauses between them
//! in which a running server's writer has its turn.
//!
//! SQLite has no queue for its lock: who waits asks again after a while, at first after 1, 2, 5, 10,
//! 15, 20 and 25 ms. Whoever gives the lock up only to take it again at once keeps such a one out
//! for seconds; a pause longer than each of these lets it in.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::Store;
use super::writer_state::WriterState;

/// No command holds the file for longer at once, its commit apart.
const MAX_SLICE: Duration = Duration::from_millis(20);

/// Between two transactions.
const PAUSE: Duration = Duration::from_millis(30);

/// A server under load leaves gaps that are short: whoever changes the file beside it looks for one every
/// millisecond, for so many of them.
const PATIENCE_MS: i32 = 30_000;

/// Whether the transaction may go on.
#[derive(Clone, Copy, Debug)]
pub struct TimeSlice(Instant);

impl TimeSlice {
    pub fn has_time(self) -> bool {
        self.0.elapsed() < MAX_SLICE
    }
}

/// The command line's turns at a file that a server may be writing.
#[derive(Debug)]
pub struct ChunkedWriter<'s> {
    store: &'s Store,
    /// When the last one ended.
    ended: Option<Instant>,
}

impl<'s> ChunkedWriter<'s> {
    pub fn new(store: &'s Store) -> Self {
        Self { store, ended: None }
    }

    /// Calls `step` in a transaction each, until it says that nothing is left. An end in between
    /// leaves what was done by whole transactions.
    ///
    /// # Errors
    /// What `step` gives, or the file can't be written.
    pub fn run(
        &mut self,
        mut step: impl FnMut(&Connection, &mut WriterState, TimeSlice) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        loop {
            if let Some(ended) = self.ended {
                std::thread::sleep(PAUSE.saturating_sub(ended.elapsed()));
            }
            let is_more = self.run_chunk(&mut step);
            self.ended = Some(Instant::now());
            if !matches!(is_more, Ok(true)) {
                return is_more.map(drop);
            }
        }
    }

    fn run_chunk(
        &self,
        step: &mut impl FnMut(&Connection, &mut WriterState, TimeSlice) -> anyhow::Result<bool>,
    ) -> anyhow::Result<bool> {
        super::in_transaction(&self.store.conn, |conn| {
            let hold = TimeSlice(Instant::now());
            let mut state = WriterState::read(conn, self.store.clock)?;
            let before = state.counters;
            let is_more = step(conn, &mut state, hold)?;
            if state.counters != before {
                state.write_counters(conn)?;
            }
            Ok(is_more)
        })
    }
}

/// What a connection does that finds the file held.
pub(super) fn busy_handler(asked: i32) -> bool {
    std::thread::sleep(Duration::from_millis(1));
    asked < PATIENCE_MS
}
