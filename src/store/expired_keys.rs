//! Deletes expired keys of `dedupe` and `unique_by`, some at a time. A key of `dedupe` that was valid when a
//! deferred event was stored stays until the key of that event is known.

use rusqlite::Connection;

use super::statements::Statements;

/// Deletes some expired keys and returns their number.
pub(super) fn purge(conn: &Connection, now_ms: i64) -> rusqlite::Result<usize> {
    let unique = conn.change(
        "DELETE FROM unique_keys WHERE (handler, key) IN
           (SELECT handler, key FROM unique_keys WHERE expires_at <= ?1 ORDER BY expires_at LIMIT 500)",
        [now_ms],
    )?;
    let dedupe = conn.change(
        "DELETE FROM dedupe WHERE (source, key) IN
           (SELECT source, key FROM dedupe WHERE expires_at <=
              min(?1, coalesce((SELECT min(dedupe_at) FROM deferred_events
                WHERE dedupe_at IS NOT NULL), ?1))
            ORDER BY expires_at LIMIT 500)",
        [now_ms],
    )?;
    Ok(unique + dedupe)
}
