//! Tables `dedupe` and `duplicates`: the keys by which duplicates are recognised, and the duplicates.

use rusqlite::{Connection, OptionalExtension, params};

use crate::domain::job_plan::KeyHash;
use crate::domain::{EventId, SourceId};

/// How many duplicates of one event keep their bodies.
const MAX_DUPLICATE_BODIES: i64 = 10;

/// The keys that identify duplicates of an event. One matching key is enough.
#[derive(Clone, Copy, Debug, Default)]
pub struct DedupeCheck {
    /// The key of the source's own `dedupe`.
    pub source_key: Option<DedupeKey>,
    /// The sender's own key of the delivery.
    pub delivery_key: Option<DedupeKey>,
    /// The expression of `dedupe` is evaluated later. The event is stored as deferred.
    pub is_late: bool,
    /// A duplicate retries the dead jobs of its event.
    pub retry_dead: bool,
    pub mode: InsertMode,
}

/// A key and its window.
#[derive(Clone, Copy, Debug)]
pub struct DedupeKey {
    pub key: KeyHash,
    pub window_ms: i64,
}

/// How the writer handles a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InsertMode {
    /// Store it, or record it as a duplicate.
    #[default]
    Store,
    /// Report whether it is a duplicate. Only deletes expired keys.
    LookUp,
    /// Record it if it is a duplicate. Otherwise only deletes expired keys.
    RecordDuplicate,
}

/// Returns the event that a request duplicates. If only the source's own key matches, the delivery
/// key is saved with the event too. Otherwise the same delivery would become a new event when the
/// own key expires.
pub(super) fn find_original(
    conn: &Connection,
    source: SourceId,
    dedupe: &DedupeCheck,
    now_ms: i64,
) -> rusqlite::Result<Option<EventId>> {
    if let Some(delivery_key) = &dedupe.delivery_key
        && let Some(original) = find_by_key(conn, source, delivery_key, now_ms)?
    {
        return Ok(Some(original));
    }
    let Some(source_key) = &dedupe.source_key else { return Ok(None) };
    let Some(original) = find_by_key(conn, source, source_key, now_ms)? else { return Ok(None) };
    if let Some(delivery_key) = &dedupe.delivery_key {
        save_key(conn, source, delivery_key, original.0, now_ms)?;
    }
    Ok(Some(original))
}

/// Returns the event that has this key within its window. Deletes an expired key.
fn find_by_key(
    conn: &Connection,
    source: SourceId,
    key: &DedupeKey,
    now_ms: i64,
) -> rusqlite::Result<Option<EventId>> {
    let found: Option<(i64, i64)> = conn
        .prepare_cached("SELECT event, expires_at FROM dedupe WHERE source = ?1 AND key = ?2")?
        .query_row(params![source.0, key.key], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match found {
        Some((event, until)) if now_ms < until => Ok(Some(EventId(event))),
        Some(_) => {
            conn.prepare_cached("DELETE FROM dedupe WHERE source = ?1 AND key = ?2")?
                .execute(params![source.0, key.key])?;
            Ok(None)
        }
        None => Ok(None),
    }
}

pub(super) fn save_key(
    conn: &Connection,
    source: SourceId,
    key: &DedupeKey,
    event: i64,
    now_ms: i64,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO dedupe (source, key, event, expires_at) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![source.0, key.key, event, now_ms.saturating_add(key.window_ms)])?;
    Ok(())
}

/// Records a duplicate of `original`, with its body if that differs.
pub(super) fn insert_duplicate(
    conn: &Connection,
    original: EventId,
    received_at_ms: i64,
    ip: &str,
    body: &[u8],
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO duplicates (event, received_at, ip, body)
         SELECT ?1, ?2, ?3, CASE
           WHEN coalesce((SELECT body = ?4 FROM events WHERE id = ?1), 0) THEN NULL
           WHEN (SELECT count(*) FROM duplicates WHERE event = ?1 AND body IS NOT NULL) >= ?5
           THEN NULL ELSE ?4 END",
    )?
    .execute(params![original.0, received_at_ms, ip, body, MAX_DUPLICATE_BODIES])?;
    Ok(())
}
