//! Deletes expired keys of `dedupe` and `unique_by`, some at a time. A key of `dedupe` that was valid when a
//! deferred event was stored stays until the key of that event is known.

use rusqlite::Connection;

/// Deletes some expired keys and returns their number.
pub(super) fn purge(conn: &Connection, now_ms: i64) -> rusqlite::Result<usize> {
    let deleted = conn
        .prepare_cached(
            "DELETE FROM unique_keys WHERE (handler, key) IN
               (SELECT handler, key FROM unique_keys WHERE expires_at <= ?1 ORDER BY expires_at LIMIT 500)",
        )?
        .execute([now_ms])?;
    conn.prepare_cached(
        "DELETE FROM dedupe WHERE (source, key) IN
           (SELECT source, key FROM dedupe WHERE expires_at <=
              min(?1, coalesce((SELECT min(dedupe_at) FROM deferred_events
                WHERE dedupe_at IS NOT NULL), ?1))
            ORDER BY expires_at LIMIT 500)",
    )?
    .execute([now_ms])
    .map(|deleted_keys| deleted_keys + deleted)
}
