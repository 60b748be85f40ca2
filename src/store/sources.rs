//! Table `sources`: the last activity of each source, and whether an alert says that it is silent
//! or only rejects requests. The writer caches all of it, so that an event needs no reads.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use super::effects::Effects;
use super::writer_cache::{SourceStatus, WriterCache};
use crate::domain::SourceId;

/// How many of the newest events are searched for a source's last one. `last_seen_at` is saved only
/// now and then, and a crash loses the newest value.
const SEARCHED_EVENTS: i64 = 10_000;

/// Records an event or a duplicate of a source. Both end the rejecting condition; only an event
/// ends the silence.
pub(super) fn record_activity(
    conn: &Connection,
    cache: &mut WriterCache,
    source: SourceId,
    is_event: bool,
    effects: &mut Effects,
) -> rusqlite::Result<()> {
    if is_event {
        effects.add_active_source(source);
    }
    let before = cache.source_status.get(&source).copied().unwrap_or_default();
    let after = SourceStatus {
        has_accepted: true,
        is_silent: before.is_silent && !is_event,
        is_rejecting: false,
    };
    if before != after {
        save_status(conn, cache, source, after)?;
    }
    Ok(())
}

pub(super) fn save_status(
    conn: &Connection,
    cache: &mut WriterCache,
    source: SourceId,
    status: SourceStatus,
) -> rusqlite::Result<()> {
    let flag = |is_set: bool| is_set.then_some(1);
    let SourceStatus { has_accepted: accepted, is_silent: silent, is_rejecting: refusing } = status;
    conn.prepare_cached(
        "UPDATE sources SET has_accepted = ?2, is_silent = ?3, is_rejecting = ?4 WHERE id = ?1",
    )?
    .execute(params![source.0, flag(accepted), flag(silent), flag(refusing)])?;
    cache.source_status.insert(source, status);
    Ok(())
}

/// Returns the time of each source's last event, or of its registration (database clock).
pub(super) fn load_last_seen(
    conn: &Connection,
    now_ms: i64,
    wall_ms: i64,
) -> rusqlite::Result<HashMap<SourceId, i64>> {
    let mut select = conn.prepare("SELECT id, coalesce(last_seen_at, ?1) FROM sources")?;
    let rows = select.query_map([now_ms], |row| Ok((SourceId(row.get(0)?), row.get(1)?)))?;
    let mut last_seen: HashMap<SourceId, i64> = rows.collect::<rusqlite::Result<_>>()?;
    let mut select = conn.prepare(
        "SELECT source, max(received_at) FROM
           (SELECT source, received_at FROM events ORDER BY id DESC LIMIT ?1) GROUP BY source",
    )?;
    let mut rows = select.query([SEARCHED_EVENTS])?;
    while let Some(row) = rows.next()? {
        let (source, received_at_ms): (i64, i64) = (row.get(0)?, row.get(1)?);
        let ago_ms = wall_ms.saturating_sub(received_at_ms).max(0);
        let at_ms = now_ms.saturating_sub(ago_ms);
        let known = last_seen.entry(SourceId(source)).or_insert(at_ms);
        *known = at_ms.max(*known);
    }
    Ok(last_seen)
}

/// Saves the last activity of the sources.
pub(super) fn save_last_seen(
    conn: &Connection,
    last_seen: &[(SourceId, i64)],
) -> rusqlite::Result<()> {
    let mut update = conn.prepare_cached(
        "UPDATE sources SET last_seen_at = ?2 WHERE id = ?1 AND coalesce(last_seen_at, 0) < ?2",
    )?;
    for (source, at_ms) in last_seen {
        update.execute([source.0, *at_ms])?;
    }
    Ok(())
}
