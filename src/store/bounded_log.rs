//! The logs that nothing else bounds: `handshake_log`, `breaker_changes` and `audit_entries`. Each keeps its newest
//! rows, so that a sender, a handler or a script cannot fill the disk.

use rusqlite::Connection;

use super::statements::Statements;

/// Maximum number of rows of a log.
pub const MAX_ROWS: i64 = 100_000;

/// A log with ascending ids.
#[derive(Clone, Copy, Debug)]
pub(super) enum BoundedLog {
    Handshakes,
    BreakerChanges,
    AuditEntries,
}

/// Deletes the rows of a log beyond the newest `MAX_ROWS`. Called after each insert into it.
pub(super) fn trim(conn: &Connection, log: BoundedLog) -> rusqlite::Result<()> {
    let sql = match log {
        BoundedLog::Handshakes => "DELETE FROM handshake_log WHERE id <= ?1",
        BoundedLog::BreakerChanges => "DELETE FROM breaker_changes WHERE id <= ?1",
        BoundedLog::AuditEntries => "DELETE FROM audit_entries WHERE id <= ?1",
    };
    conn.change(sql, [conn.last_insert_rowid() - MAX_ROWS]).map(|_| ())
}
