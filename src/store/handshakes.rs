//! Table `handshake_log`: answered handshakes, which are the URL verification requests of senders.
//! `web/handshake_log.rs` collects them and limits their rate. Beyond `MAX_ROWS` rows the oldest
//! are deleted.

use rusqlite::Connection;

use super::statements::Statements;

/// Maximum number of rows.
pub const MAX_ROWS: i64 = 100_000;

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
    let mut insert = conn.prepare_cached(
        "INSERT INTO handshake_log (at, source, method, ip, detail) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for HandshakeRecord { at_ms, source, method, ip, detail } in rows {
        insert.execute((at_ms, source, method, ip, detail))?;
    }
    let last = conn.last_insert_rowid();
    conn.change("DELETE FROM handshake_log WHERE id <= ?1", [last - MAX_ROWS]).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_handshakes_beyond_the_maximum_are_deleted() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(include_str!("../../schema.sql")).unwrap();
        let (at_ms, method) = (0, "GET".to_owned());
        let (source, ip, detail) = ("a".to_owned(), "::1".to_owned(), String::new());
        let record = HandshakeRecord { at_ms, source, method, ip, detail };
        write(&conn, &vec![record.clone(); 5]).unwrap();
        conn.execute("UPDATE handshake_log SET id = id + ?1 WHERE id >= 3", [MAX_ROWS]).unwrap();
        write(&conn, &[record.clone(), record]).unwrap();
        let count: i64 =
            conn.query_row("SELECT count(*) FROM handshakes", [], |row| row.get(0)).unwrap();
        assert_eq!(count, 5);
    }
}
