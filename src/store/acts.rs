//! What people do to jobs and handlers: retry, cancel, pause, resume, each with its row in `acts`.
//!
//! The command line calls these on a connection of its own, beside a running server or without one;
//! each transaction is short, so that the server's writer never waits for long.

use rusqlite::{Connection, params};

/// A row of the view `acts`.
#[derive(Clone, Debug)]
pub struct Act {
    /// Wall clock.
    pub at_ms: i64,
    pub who: String,
    /// `cli`, `console`, `api`, `signal`.
    pub via: &'static str,
    pub what: String,
    pub jobs: i64,
    pub reason: Option<String>,
}

/// Writes it down. Within a transaction.
///
/// # Errors
/// The write failed.
pub fn record(conn: &Connection, act: &Act) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO act_log (at, who, via, what, jobs, reason) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![act.at_ms, act.who, act.via, act.what, act.jobs, act.reason])?;
    Ok(())
}
