//! Tables `dedupe` and `duplicates`: the keys by which duplicates are recognised, and the duplicates.

use rusqlite::{Connection, params};

use super::statements::Statements;
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
        save_key(conn, source, delivery_key, original, now_ms)?;
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
    let sql = "SELECT event, expires_at FROM dedupe WHERE source = ?1 AND key = ?2";
    let found: Option<(EventId, i64)> =
        conn.find(sql, params![source, key.key], |row| row.try_into())?;
    match found {
        Some((event, until)) if now_ms < until => Ok(Some(event)),
        Some(_) => {
            let sql = "DELETE FROM dedupe WHERE source = ?1 AND key = ?2";
            conn.change(sql, params![source, key.key]).map(|_| None)
        }
        None => Ok(None),
    }
}

/// Saves the keys of an event that is no duplicate.
pub(super) fn save_keys(
    conn: &Connection,
    source: SourceId,
    dedupe: &DedupeCheck,
    event: EventId,
    now_ms: i64,
) -> rusqlite::Result<()> {
    let mut keys = dedupe.source_key.iter().chain(&dedupe.delivery_key);
    keys.try_for_each(|key| save_key(conn, source, key, event, now_ms))
}

fn save_key(
    conn: &Connection,
    source: SourceId,
    key: &DedupeKey,
    event: EventId,
    now_ms: i64,
) -> rusqlite::Result<()> {
    let expires_at_ms = now_ms.saturating_add(key.window_ms);
    let sql = "INSERT INTO dedupe (source, key, event, expires_at) VALUES (?1, ?2, ?3, ?4)";
    conn.change(sql, params![source, key.key, event, expires_at_ms]).map(|_| ())
}

/// Records a duplicate of `original`, with its body if that differs. The key of an event lasts for its window, also if
/// `retention` has removed the body or the event: then the duplicate leaves no body, or no row.
pub(super) fn insert_duplicate(
    conn: &Connection,
    original: EventId,
    received_at_ms: i64,
    ip: &str,
    body: &[u8],
) -> rusqlite::Result<()> {
    conn.change(
        "INSERT INTO duplicates (event, received_at, ip, body)
         SELECT id, ?2, ?3, CASE
           WHEN removed_bytes IS NOT NULL OR body = ?4 THEN NULL
           WHEN (SELECT count(*) FROM duplicates WHERE event = ?1 AND body IS NOT NULL) >= ?5
           THEN NULL ELSE ?4 END
         FROM events WHERE id = ?1",
        params![original, received_at_ms, ip, body, MAX_DUPLICATE_BODIES],
    )?;
    Ok(())
}
