//! Finds the event of a request that `hooktrail send` posted. The response contains no event id.

use rusqlite::Connection;

use super::statements::Statements;

/// The end of the tables `events` and `duplicates` at a point in time.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    event: i64,
    duplicate: i64,
}

/// The event of a request, or the original of a duplicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentEvent {
    pub event: i64,
    pub is_duplicate: bool,
}

/// Returns the current position.
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

/// Returns the first event since `position` of that source with that body, or the original of a
/// duplicate.
///
/// # Errors
/// The read failed.
pub fn find_since(
    conn: &Connection,
    since: &Position,
    source: &str,
    body: &[u8],
) -> rusqlite::Result<Option<SentEvent>> {
    let sql = "SELECT e.id FROM events e JOIN sources s ON s.id = e.source
               WHERE e.id > ?1 AND s.name = ?2 AND e.body = ?3 ORDER BY e.id LIMIT 1";
    if let Some(event) = conn.find(sql, (since.event, source, body), |row| row.get(0))? {
        return Ok(Some(SentEvent { event, is_duplicate: false }));
    }
    let sql = "SELECT d.event FROM duplicates d JOIN events e ON e.id = d.event
                 JOIN sources s ON s.id = e.source
               WHERE d.id > ?1 AND s.name = ?2 ORDER BY d.id LIMIT 1";
    conn.find(sql, (since.duplicate, source), |row| {
        Ok(SentEvent { event: row.get(0)?, is_duplicate: true })
    })
}
