//! Finds the events of a key: the job that has it as its idempotency key, and the events that other machines
//! know by it.
//!
//! The `uid` of an event begins with the time at which it was received, so no index on `uid` is needed. The
//! block index names the blocks of ids that have events of that minute. This is exact even if the wall clock jumped.
//! Events with an origin key have an index, because their `uid` may begin with an earlier time.

use const_format::formatcp;
use rusqlite::Connection;

use super::block_index::{ids_of_block, minute_of};
use super::queries::VISIBLE;
use super::statements::Statements;
use crate::clock;
use crate::domain::idempotency_key::IdempotencyKey;
use crate::domain::{EventId, JobId};

/// The most blocks that are searched: those of a minute with 17,000 events per second.
const MAX_BLOCKS: usize = 1000;

/// Finds the job with an idempotency key, and its event.
///
/// # Errors
/// A read failed.
pub fn find_job(
    conn: &Connection,
    key: &IdempotencyKey<'_>,
) -> rusqlite::Result<Option<(EventId, JobId)>> {
    let Some(event) = find_event(conn, &key.uid)? else { return Ok(None) };
    let sql = formatcp!(
        "SELECT j.id FROM events e JOIN jobs j
           ON j.id BETWEEN e.first_job AND e.last_job OR j.appended_to = e.id
         WHERE e.id = ?1 AND j.handler = (SELECT id FROM handlers WHERE name = ?2)
           AND coalesce(j.item, 0) = ?3 AND coalesce(j.replay, 0) = ?4 AND {VISIBLE}"
    );
    let job = conn.find(sql, (event, key.handler, key.item, key.replay), |row| row.get(0))?;
    Ok(job.map(|job| (event, job)))
}

/// Finds the event with a `uid`.
fn find_event(conn: &Connection, uid: &[u8; 16]) -> rusqlite::Result<Option<EventId>> {
    let sql = "SELECT id FROM events WHERE uid = ?1 AND origin_key IS NOT NULL";
    if let Some(event) = conn.find(sql, [uid], |row| row.get(0))? {
        return Ok(Some(event));
    }
    let Some(received_at_ms) = clock::time_of_id(uid) else { return Ok(None) };
    let sql = "SELECT id FROM events WHERE id BETWEEN ?1 AND ?2 AND received_at = ?3 AND uid = ?4";
    for block in list_blocks(conn, received_at_ms)? {
        let (first, last) = ids_of_block(block);
        let found = conn.find(sql, (first, last, received_at_ms, uid), |row| row.get(0))?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Lists the blocks that may have an event of a time. The first ones begin with the events next to that time.
fn list_blocks(conn: &Connection, received_at_ms: i64) -> rusqlite::Result<Vec<i64>> {
    let sql = "SELECT DISTINCT block FROM event_blocks WHERE min_minute <= ?1 AND ?1 <= max_minute";
    let blocks: Vec<i64> = conn.list(sql, [minute_of(received_at_ms)], |row| row.get(0))?;
    let mut by_distance = Vec::with_capacity(blocks.len());
    let sql = "SELECT received_at FROM events WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT 1";
    for block in blocks {
        let begin_ms: Option<i64> = conn.find(sql, ids_of_block(block), |row| row.get(0))?;
        by_distance.extend(begin_ms.map(|begin_ms| (begin_ms.abs_diff(received_at_ms), block)));
    }
    by_distance.sort_unstable();
    Ok(by_distance.into_iter().map(|(_, block)| block).take(MAX_BLOCKS).collect())
}

/// Lists up to `limit` events with an origin key and an id above `after`, oldest first.
///
/// # Errors
/// The read failed.
pub fn list_events_by_origin(
    conn: &Connection,
    key: &str,
    after: EventId,
    limit: i64,
) -> rusqlite::Result<Vec<EventId>> {
    let sql = "SELECT id FROM events WHERE origin_key = ?1 AND id > ?2 ORDER BY id LIMIT ?3";
    conn.list(sql, (key, after, limit), |row| row.get(0))
}

/// Counts the events with an origin key.
///
/// # Errors
/// The read failed.
pub fn count_events_by_origin(conn: &Connection, key: &str) -> rusqlite::Result<i64> {
    conn.value("SELECT count(*) FROM events WHERE origin_key = ?1", [key])
}
