//! Queue depth, rates and ages of handlers and sources, for `stats` and `list`.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension};

use super::queries::{ISO, Rows, query};
use crate::clock::MonotonicClock;

/// Returns the handlers with their queue depth, the counts of the last hour, and whether they are
/// paused or their circuit breaker is open. `to_wall_ms` converts the database clock.
///
/// # Errors
/// The read failed.
pub fn load_handler_stats(
    conn: &Connection,
    hour_ago_ms: i64,
    to_wall_ms: i64,
) -> rusqlite::Result<Rows> {
    let first_attempt = first_id_since(conn, "attempts", "ended_at", hour_ago_ms)?;
    query(
        conn,
        &format!("SELECT h.name AS handler, h.paused,
           strftime({ISO}, (h.breaker_open_until + ?2) / 1000.0, 'unixepoch') AS breaker_open_until,
           coalesce((SELECT jobs FROM queue_depth d WHERE d.handler = h.name AND d.state = 'queued'), 0)
             AS queued,
           coalesce((SELECT jobs FROM queue_depth d WHERE d.handler = h.name AND d.state = 'running'), 0)
             AS running,
           (SELECT count(*) FROM jobs j WHERE j.state = 4 AND j.handler = h.id) AS dead,
           (SELECT min(oldest_at) FROM queue_depth d WHERE d.handler = h.name) AS oldest_at,
           coalesce(r.succeeded, 0) AS succeeded_last_hour,
           coalesce(r.other, 0) AS unsuccessful_last_hour
         FROM handlers h LEFT JOIN (
           SELECT j.handler, sum(a.outcome = 'succeeded') AS succeeded,
             sum(a.outcome <> 'succeeded') AS other
           FROM attempts a JOIN jobs j ON j.id = a.job
           WHERE a.id >= ?3 AND a.ended_at >= ?1 GROUP BY j.handler) r ON r.handler = h.id
         ORDER BY h.name"),
        &[hour_ago_ms.into(), to_wall_ms.into(), first_attempt.into()],
    )
}

/// Returns the sources with the counts of the last hour.
///
/// # Errors
/// The read failed.
pub fn load_source_stats(
    conn: &Connection,
    hour_ago_ms: i64,
    to_wall_ms: i64,
) -> rusqlite::Result<Rows> {
    let first_event = first_id_since(conn, "events", "received_at", hour_ago_ms)?;
    query(
        conn,
        &format!(
            "SELECT s.name AS source, coalesce(e.events, 0) AS events_last_hour,
               coalesce((SELECT sum(r.count) FROM rejected_requests r WHERE r.source = s.name
                 AND r.at >= ?1), 0) AS rejected_last_hour,
               strftime({ISO}, coalesce(e.last, CASE WHEN s.has_accepted THEN s.last_seen_at + ?3 END)
                 / 1000.0, 'unixepoch') AS last_event_at
             FROM sources s LEFT JOIN (
               SELECT source, count(*) AS events, max(received_at) AS last FROM events
               WHERE id >= ?2 AND received_at >= ?1 GROUP BY source) e ON e.source = s.id
             ORDER BY s.name"
        ),
        &[hour_ago_ms.into(), first_event.into(), to_wall_ms.into()],
    )
}

/// Finds the first row of a table whose time is not before `since_ms`, by its id. Ids and times grow together,
/// so a binary search reads a few rows, where a count would read all.
fn first_id_since(
    conn: &Connection,
    table: &str,
    time: &str,
    since_ms: i64,
) -> rusqlite::Result<i64> {
    let bounds = format!("SELECT coalesce(min(id), 0), coalesce(max(id), 0) + 1 FROM {table}");
    let (mut low, mut high): (i64, i64) =
        conn.query_row(&bounds, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let sql = format!("SELECT id, {time} FROM {table} WHERE id >= ?1 ORDER BY id LIMIT 1");
    let mut select = conn.prepare(&sql)?;
    while low < high {
        let middle = low + (high - low) / 2;
        let found: Option<(i64, i64)> =
            select.query_row([middle], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        match found {
            Some((id, at_ms)) if at_ms < since_ms => low = id + 1,
            Some(_) | None => high = middle,
        }
    }
    Ok(low)
}

/// Returns how many jobs are queued for each handler, by its name.
///
/// # Errors
/// The read failed.
pub fn queued_by_handler(conn: &Connection) -> rusqlite::Result<HashMap<String, i64>> {
    let mut select =
        conn.prepare("SELECT handler, jobs FROM queue_depth WHERE state = 'queued'")?;
    select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// The state of the queue and of the handlers, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatabaseSummary {
    pub queued: i64,
    pub running: i64,
    pub dead: i64,
    /// Wall clock.
    pub oldest_queued_at_ms: Option<i64>,
    /// Handlers with an open circuit breaker, and until when (wall clock).
    pub open_breakers: Vec<(String, i64)>,
    pub paused: Vec<String>,
}

/// Returns the state of the queue and of the handlers.
///
/// # Errors
/// The read failed.
pub fn load_summary(conn: &Connection, clock: MonotonicClock) -> rusqlite::Result<DatabaseSummary> {
    let count = |sql: &str| conn.query_row(sql, [], |row| row.get(0));
    let oldest: Option<i64> = conn.query_row(
        "SELECT min(e.received_at) FROM (SELECT min(id) AS id FROM jobs WHERE state = 0 AND handler IN
           (SELECT id FROM handlers) UNION ALL SELECT min(id) FROM jobs WHERE state = 1) q
           JOIN jobs j ON j.id = q.id JOIN events e ON e.id = j.event",
        [],
        |row| row.get(0),
    )?;
    let mut select = conn.prepare(
        "SELECT name, breaker_open_until FROM handlers WHERE breaker_open_until IS NOT NULL ORDER BY name",
    )?;
    let open_breakers =
        select.query_map([], |row| Ok((row.get(0)?, clock.to_wall_ms(row.get(1)?))))?;
    let open_breakers = open_breakers.collect::<rusqlite::Result<_>>()?;
    let mut select = conn.prepare("SELECT name FROM handlers WHERE paused ORDER BY name")?;
    let paused = select.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(DatabaseSummary {
        queued: count("SELECT coalesce(sum(jobs), 0) FROM queue_depth WHERE state = 'queued'")?,
        running: count("SELECT count(*) FROM jobs WHERE state = 2")?,
        dead: count("SELECT count(*) FROM jobs WHERE state = 4")?,
        oldest_queued_at_ms: oldest,
        open_breakers,
        paused,
    })
}
