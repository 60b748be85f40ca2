//! Table `sources`: the last activity of each source, and whether an alert says that it is silent
//! or only rejects requests. The writer caches all of it, so that an event needs no reads.

use std::collections::HashMap;

use rusqlite::Connection;

use super::statements::Statements;
use super::write_transaction::WriteTransaction;
use super::writer_cache::SourceStatus;
use crate::domain::SourceId;

/// How many of the last minutes with counts are searched for a source's last event. `last_seen_at` is saved
/// every ten minutes, and a crash loses the newest value.
const SEARCHED_MINUTES: i64 = 60;

/// Records an event or a duplicate of a source. Both end the rejecting condition; only an event
/// ends the silence.
pub(super) fn record_activity(
    tx: &mut WriteTransaction<'_>,
    source: SourceId,
    is_event: bool,
) -> rusqlite::Result<()> {
    if is_event {
        tx.effects.add_active_source(source);
    }
    let before = tx.cache.source_status.get(&source).copied().unwrap_or_default();
    let after = SourceStatus {
        has_accepted: true,
        is_silent: before.is_silent && !is_event,
        is_rejecting: false,
    };
    if before != after {
        save_status(tx, source, after)?;
    }
    Ok(())
}

pub(super) fn save_status(
    tx: &mut WriteTransaction<'_>,
    source: SourceId,
    status: SourceStatus,
) -> rusqlite::Result<()> {
    let SourceStatus { has_accepted, is_silent, is_rejecting } = status;
    tx.conn.change(
        "UPDATE sources SET has_accepted = nullif(?2, 0), is_silent = nullif(?3, 0),
           is_rejecting = nullif(?4, 0) WHERE id = ?1",
        (source, has_accepted, is_silent, is_rejecting),
    )?;
    tx.cache.source_status.insert(source, status);
    Ok(())
}

/// Returns the time of each source's last event, or of its registration (database clock).
pub(super) fn load_last_seen(
    conn: &Connection,
    now_ms: i64,
    wall_ms: i64,
) -> rusqlite::Result<HashMap<SourceId, i64>> {
    let sql = "SELECT id, coalesce(last_seen_at, ?1) FROM sources";
    let mut last_seen: HashMap<SourceId, i64> = conn.list(sql, [now_ms], |row| row.try_into())?;
    // Not from `events`: a page holds few of them, so thousands of pages would be read.
    let sql = "SELECT source, max(last_event_at) FROM minute_counts
      WHERE minute > (SELECT max(minute) FROM minute_counts) - ?1 AND last_event_at IS NOT NULL GROUP BY source";
    let events: Vec<(SourceId, i64)> = conn.list(sql, [SEARCHED_MINUTES], |row| row.try_into())?;
    for (source, received_at_ms) in events {
        let ago_ms = wall_ms.saturating_sub(received_at_ms).max(0);
        let at_ms = now_ms.saturating_sub(ago_ms);
        let known = last_seen.entry(source).or_insert(at_ms);
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
        update.execute((source, at_ms))?;
    }
    Ok(())
}
