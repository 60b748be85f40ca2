//! Table `sources`: when each had its last event, and whether it is told that it is silent or only
//! refuses. The writer knows it all, so that an event costs no reads.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use super::writer_state::WriterState;
use crate::domain::SourceId;

/// So many of the newest events are looked through for a source's last one: `seen_at` is kept now
/// and then, and a crash leaves it behind.
const NEWEST: i64 = 10_000;

/// What was told of a source, and whether it ever had an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SourceStatus {
    pub accepted: bool,
    pub silent: bool,
    pub refusing: bool,
}

pub(super) fn load_status(conn: &Connection) -> rusqlite::Result<HashMap<SourceId, SourceStatus>> {
    let mut select = conn.prepare_cached(
        "SELECT id, accepted IS NOT NULL, silent IS NOT NULL, rejecting IS NOT NULL FROM sources",
    )?;
    let rows = select.query_map([], |row| {
        let (accepted, silent, refusing) = (row.get(1)?, row.get(2)?, row.get(3)?);
        Ok((SourceId(row.get(0)?), SourceStatus { accepted, silent, refusing }))
    })?;
    rows.collect()
}

/// A source had an event, or a repeat of one: it refuses no more, and with an event is not silent.
pub(super) fn record_activity(
    conn: &Connection,
    state: &mut WriterState,
    source: SourceId,
    is_event: bool,
) -> rusqlite::Result<()> {
    if is_event && !state.active_sources.contains(&source) {
        state.active_sources.push(source);
    }
    let before = state.standing.get(&source).copied().unwrap_or_default();
    let after =
        SourceStatus { accepted: true, silent: before.silent && !is_event, refusing: false };
    if before != after {
        set(conn, state, source, after)?;
    }
    Ok(())
}

pub(super) fn set(
    conn: &Connection,
    state: &mut WriterState,
    source: SourceId,
    standing: SourceStatus,
) -> rusqlite::Result<()> {
    let yes = |is_so: bool| is_so.then_some(1);
    let SourceStatus { accepted, silent, refusing } = standing;
    conn.prepare_cached(
        "UPDATE sources SET accepted = ?2, silent = ?3, rejecting = ?4 WHERE id = ?1",
    )?
    .execute(params![source.0, yes(accepted), yes(silent), yes(refusing)])?;
    state.standing.insert(source, standing);
    Ok(())
}

/// When each source had its last event, or was first heard of, on the trail's clock.
pub(super) fn load_last_seen(
    conn: &Connection,
    now_ms: i64,
    wall_ms: i64,
) -> rusqlite::Result<HashMap<SourceId, i64>> {
    let mut select = conn.prepare("SELECT id, coalesce(seen_at, ?1) FROM sources")?;
    let rows = select.query_map([now_ms], |row| Ok((SourceId(row.get(0)?), row.get(1)?)))?;
    let mut seen: HashMap<SourceId, i64> = rows.collect::<rusqlite::Result<_>>()?;
    let mut select = conn.prepare(
        "SELECT source, max(received_at) FROM
           (SELECT source, received_at FROM events ORDER BY id DESC LIMIT ?1) GROUP BY source",
    )?;
    let mut rows = select.query([NEWEST])?;
    while let Some(row) = rows.next()? {
        let (source, received_at_ms): (i64, i64) = (row.get(0)?, row.get(1)?);
        let ago_ms = wall_ms.saturating_sub(received_at_ms).max(0);
        let at_ms = now_ms.saturating_sub(ago_ms);
        let known = seen.entry(SourceId(source)).or_insert(at_ms);
        *known = at_ms.max(*known);
    }
    Ok(seen)
}

/// Keeps it.
pub(super) fn save_last_seen(conn: &Connection, seen: &[(SourceId, i64)]) -> rusqlite::Result<()> {
    let mut update = conn.prepare_cached(
        "UPDATE sources SET seen_at = ?2 WHERE id = ?1 AND coalesce(seen_at, 0) < ?2",
    )?;
    for (source, at_ms) in seen {
        update.execute([source.0, *at_ms])?;
    }
    Ok(())
}
