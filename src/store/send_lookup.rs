//! What became of a request that the command line sent: it knows no number, as a sender knows none.

use rusqlite::{Connection, OptionalExtension, params};

/// How far the trail went before.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    event: i64,
    duplicate: i64,
}

/// The event, or the first of its repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentEvent {
    pub event: i64,
    pub is_duplicate: bool,
}

/// Where the trail ends now.
///
/// # Errors
/// The read failed.
pub fn position(conn: &Connection) -> rusqlite::Result<Position> {
    conn.query_row(
        "SELECT (SELECT coalesce(max(id), 0) FROM events),
           (SELECT coalesce(max(id), 0) FROM duplicates)",
        [],
        |row| Ok(Position { event: row.get(0)?, duplicate: row.get(1)? }),
    )
}

/// An event of that source with that body since then, or a repeat.
///
/// # Errors
/// The read failed.
pub fn since(
    conn: &Connection,
    mark: &Position,
    source: &str,
    body: &[u8],
) -> rusqlite::Result<Option<SentEvent>> {
    let event = conn
        .query_row(
            "SELECT e.id FROM events e JOIN sources s ON s.id = e.source
             WHERE e.id > ?1 AND s.name = ?2 AND e.body = ?3 ORDER BY e.id LIMIT 1",
            params![mark.event, source, body],
            |row| row.get(0),
        )
        .optional()?;
    if let Some(event) = event {
        return Ok(Some(SentEvent { event, is_duplicate: false }));
    }
    conn.query_row(
        "SELECT d.event FROM duplicates d JOIN events e ON e.id = d.event
           JOIN sources s ON s.id = e.source
         WHERE d.id > ?1 AND s.name = ?2 ORDER BY d.id LIMIT 1",
        params![mark.duplicate, source],
        |row| Ok(SentEvent { event: row.get(0)?, is_duplicate: true }),
    )
    .optional()
}
