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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Counts for as long as it may.
    fn count(conn: &Connection) -> anyhow::Result<i64> {
        let sql = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n) SELECT count(*) FROM n";
        Ok(conn.query_row(sql, [], |row| row.get(0))?)
    }

    #[test]
    fn a_read_ends_at_its_deadline_or_when_it_is_cancelled_and_the_connection_can_be_used_again() {
        let conn = Connection::open_in_memory().unwrap();
        let (past, future) = (Instant::now(), Instant::now() + Duration::from_secs(3600));
        for (deadline, is_cancelled) in [(past, false), (future, true)] {
            let is_cancelled = Arc::new(AtomicBool::new(is_cancelled));
            let error =
                ReadLimit { deadline, is_cancelled }.run(&conn, count).unwrap().unwrap_err();
            assert!(is_over_limit(&error), "{error:#}");
            let sql =
                "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 10000)
                       SELECT count(*) FROM n";
            let rows: i64 = conn.query_row(sql, [], |row| row.get(0)).unwrap();
            assert_eq!(rows, 10_000, "without a limit");
        }
    }
}
