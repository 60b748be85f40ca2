//! Table `handshake_log`: answered handshakes, which are the URL verification requests of senders.
//! `web/handshake_log.rs` collects them and limits their rate.

use rusqlite::Connection;

use super::bounded_log::{self, BoundedLog};

/// An answered handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakeRecord {
    /// Wall clock.
    pub at_ms: i64,
    pub source: String,
    pub method: String,
    pub ip: String,
    pub detail: String,
}

pub(super) fn write(conn: &Connection, rows: &[HandshakeRecord]) -> rusqlite::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut insert = conn.prepare_cached(
        "INSERT INTO handshake_log (at, source, method, ip, detail) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for HandshakeRecord { at_ms, source, method, ip, detail } in rows {
        insert.execute((at_ms, source, method, ip, detail))?;
    }
    bounded_log::trim(conn, BoundedLog::Handshakes)
}
