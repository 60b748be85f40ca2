//! Bounds the time of a read: a long one keeps the write-ahead log from starting over, and a stop of the server would wait
//! for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rusqlite::Connection;

/// Steps of SQLite's virtual machine between two checks: some tens of microseconds.
const STEPS: i32 = 2_000;

/// When a read has to end.
#[derive(Clone, Debug)]
pub struct ReadLimit {
    pub deadline: Instant,
    /// The client has gone, or the server stops.
    pub is_cancelled: Arc<AtomicBool>,
}

impl ReadLimit {
    fn is_over(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed) || Instant::now() >= self.deadline
    }

    /// Runs reads on a connection. One that goes on beyond the limit fails.
    ///
    /// # Errors
    /// SQLite rejects the registration.
    pub fn run<T>(
        self,
        conn: &Connection,
        read: impl FnOnce(&Connection) -> T,
    ) -> rusqlite::Result<T> {
        conn.progress_handler(STEPS, Some(move || self.is_over()))?;
        let result = read(conn);
        conn.progress_handler(0, None::<fn() -> bool>)?;
        Ok(result)
    }
}

/// Whether a read failed because it went on beyond its limit.
pub fn is_over_limit(error: &anyhow::Error) -> bool {
    let failure =
        error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
    failure == Some(rusqlite::ErrorCode::OperationInterrupted)
}
