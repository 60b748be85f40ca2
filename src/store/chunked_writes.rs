//! Writes of the command line that change many rows: in short transactions, with pauses in which a
//! running server's writer gets its turn.
//!
//! SQLite has no queue for its lock, and `busy_timeout` waits up to 25 ms between the first attempts.
//! A connection that releases the lock and takes it again at once keeps such a waiting one out for
//! seconds. Therefore the server's writer and the command line try each millisecond, and the pause is
//! much longer than that.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::row_budget::MAX_COMMAND_TIME;
use super::transaction_end::write_directly;
use super::write_transaction::WriteTransaction;
use super::{BUSY_TIMEOUT, Store};

/// Time between two transactions.
pub(super) const PAUSE: Duration = Duration::from_millis(12);

/// A server under load leaves only short gaps between its transactions. The command line tries to
/// lock the database every millisecond, this many times.
const MAX_CLI_ATTEMPTS: i32 = 30_000;

/// How often the server's writer tries before it responds 503.
const MAX_WRITER_ATTEMPTS: i32 = BUSY_TIMEOUT.as_millis() as i32;

/// The time that a transaction has for its work.
#[derive(Clone, Copy, Debug)]
pub struct TimeSlice(Instant);

impl TimeSlice {
    pub fn has_time(self) -> bool {
        self.0.elapsed() < MAX_COMMAND_TIME
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
        step: impl FnOnce(&mut WriteTransaction<'_>, TimeSlice) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        if let Some(ended_at) = self.ended_at {
            std::thread::sleep(PAUSE.saturating_sub(ended_at.elapsed()));
        }
        let done = write_directly(self.store, |tx, began_at| step(tx, TimeSlice(began_at)));
        self.ended_at = Some(Instant::now());
        done.map(|(result, _)| result)
    }
}

/// Makes a connection of the command line wait for the lock.
pub(super) fn wait_as_cli(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_handler(Some(|attempts| wait_for_lock(attempts, MAX_CLI_ATTEMPTS)))
}

/// Makes the connection of the server's writer wait for the lock, for about [`BUSY_TIMEOUT`].
pub(super) fn wait_as_writer(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_handler(Some(|attempts| wait_for_lock(attempts, MAX_WRITER_ATTEMPTS)))
}

/// SQLite calls this when another process holds the lock. Returns whether it should try again.
fn wait_for_lock(attempts: i32, max_attempts: i32) -> bool {
    std::thread::sleep(Duration::from_millis(1));
    attempts < max_attempts
}
