//! Queue depth, rates and ages of handlers and sources, for `stats`, `status` and `list`.

use std::collections::HashMap;

use rusqlite::Connection;
use rusqlite::types::Value;

use super::minute_counts::{self, MINUTES_OF_LAST_HOUR};
use super::queries::{ISO, Rows, query};
use super::statements::Statements;
use crate::clock::MonotonicClock;
use crate::domain::{HandlerId, SourceId};

/// Returns the handlers with their queue depth, the counts of the last hour, and whether they are
/// paused or their circuit breaker is open.
///
/// # Errors
/// The read failed.
pub fn load_handler_stats(conn: &Connection, clock: MonotonicClock) -> rusqlite::Result<Rows> {
    // The view is read once for all handlers.
    query(
        conn,
        &format!(
            "WITH depth AS MATERIALIZED (SELECT handler, sum(jobs) FILTER (WHERE state IS 'queued') AS queued,
               sum(jobs) FILTER (WHERE state IS 'running') AS running, min(oldest_at) AS oldest_at
               FROM queue_depth GROUP BY handler),
             hour AS MATERIALIZED (SELECT handler, sum(succeeded) AS succeeded,
               sum(unsuccessful) AS unsuccessful FROM minute_counts
               WHERE minute >= ?1 AND handler > 0 GROUP BY handler)
             SELECT h.name AS handler, h.paused,
               strftime({ISO}, (h.breaker_open_until + ?2) / 1000.0, 'unixepoch') AS breaker_open_until,
               coalesce(d.queued, 0) AS queued, coalesce(d.running, 0) AS running,
               h.dead, d.oldest_at,
               coalesce(c.succeeded, 0) AS succeeded_last_hour,
               coalesce(c.unsuccessful, 0) AS unsuccessful_last_hour
             FROM handlers h LEFT JOIN depth d ON d.handler = h.name LEFT JOIN hour c ON c.handler = h.id
             ORDER BY h.name"
        ),
        &last_hour_and_offset(clock),
    )
}

/// Returns the sources with the counts of the last hour.
///
/// # Errors
/// The read failed.
pub fn load_source_stats(conn: &Connection, clock: MonotonicClock) -> rusqlite::Result<Rows> {
    // `last_seen_at` is saved only now and then, so the newest value is in `minute_counts`.
    query(
        conn,
        &format!(
            "WITH hour AS MATERIALIZED (SELECT source, sum(events) AS events, sum(rejections) AS rejections
               FROM minute_counts WHERE minute >= ?1 AND handler = 0 GROUP BY source),
             last AS MATERIALIZED (SELECT source, max(minute), last_event_at FROM minute_counts
               WHERE handler = 0 AND last_event_at IS NOT NULL GROUP BY source)
             SELECT s.name AS source, coalesce(c.events, 0) AS events_last_hour,
               coalesce(c.rejections, 0) AS rejected_last_hour,
               strftime({ISO}, coalesce(l.last_event_at, CASE WHEN s.has_accepted THEN s.last_seen_at + ?2 END)
                 / 1000.0, 'unixepoch') AS last_event_at
             FROM sources s LEFT JOIN hour c ON c.source = s.id LEFT JOIN last l ON l.source = s.id
             ORDER BY s.name"
        ),
        &last_hour_and_offset(clock),
    )
}

/// Returns the first minute of the last hour, and the difference between the wall clock and the database
/// clock.
fn last_hour_and_offset(clock: MonotonicClock) -> [Value; 2] {
    let first_minute = minute_counts::minute_of(clock.now_ms()) + 1 - MINUTES_OF_LAST_HOUR;
    [first_minute.into(), clock.to_wall_ms(0).into()]
}

/// Returns how many jobs are queued for each handler, by its name.
///
/// # Errors
/// The read failed.
pub fn queued_by_handler(conn: &Connection) -> rusqlite::Result<HashMap<String, i64>> {
    let sql = "SELECT handler, jobs FROM queue_depth WHERE state IS 'queued'";
    conn.list(sql, [], |row| row.try_into())
}

/// The state of the queue and of the handlers, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatabaseSummary {
    /// The number of queued jobs of each handler that has some.
    pub queued_by_handler: HashMap<String, i64>,
    pub running: i64,
    pub dead: i64,
    /// Wall clock.
    pub oldest_queued_at_ms: Option<i64>,
    /// Handlers with an open circuit breaker, and until when (wall clock).
    pub open_breakers: Vec<(String, i64)>,
    pub paused: Vec<String>,
}

impl DatabaseSummary {
    /// Returns the number of queued jobs.
    pub fn queued(&self) -> i64 {
        self.queued_by_handler.values().sum()
    }
}

/// Returns the state of the queue and of the handlers.
///
/// # Errors
/// The read failed.
pub fn load_summary(conn: &Connection, clock: MonotonicClock) -> rusqlite::Result<DatabaseSummary> {
    let sql = "SELECT handler, state IS 'queued', jobs,
                 CAST(round(unixepoch(oldest_at, 'subsec') * 1000) AS INTEGER) FROM queue_depth";
    let depths: Vec<(String, bool, i64, Option<i64>)> = conn.list(sql, [], |row| row.try_into())?;
    let mut summary = DatabaseSummary::default();
    for (handler, is_queued, jobs, oldest_at_ms) in depths {
        if is_queued {
            summary.queued_by_handler.insert(handler, jobs);
            summary.oldest_queued_at_ms =
                summary.oldest_queued_at_ms.into_iter().chain(oldest_at_ms).min();
        } else {
            summary.running += jobs;
        }
    }
    summary.dead = conn.value("SELECT coalesce(sum(dead), 0) FROM handlers", [])?;
    let sql = "SELECT name, breaker_open_until FROM handlers WHERE breaker_open_until IS NOT NULL
               ORDER BY name";
    summary.open_breakers =
        conn.list(sql, [], |row| Ok((row.get(0)?, clock.to_wall_ms(row.get(1)?))))?;
    let sql = "SELECT name FROM handlers WHERE paused ORDER BY name";
    summary.paused = conn.list(sql, [], |row| row.get(0))?;
    Ok(summary)
}

/// The counts of a minute: those of a source, or those of the attempts of a handler for all sources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MinuteStats {
    /// The minute of the last hour, from 0.
    pub index: usize,
    /// The name of the source or of the handler.
    pub name: String,
    pub events: i64,
    pub rejections: i64,
    pub succeeded: i64,
    pub unsuccessful: i64,
    /// The sum of the attempts' durations.
    pub duration_ms: i64,
}

/// Returns the counts of the minutes of the last hour in which something happened: those of the sources, and those of
/// the handlers.
///
/// # Errors
/// The read failed.
pub fn load_minutes(
    conn: &Connection,
    clock: MonotonicClock,
) -> rusqlite::Result<[Vec<MinuteStats>; 2]> {
    let first = minute_counts::minute_of(clock.now_ms()) + 1 - MINUTES_OF_LAST_HOUR;
    let read = |table: &str, column: &str, condition: &str| {
        let sql = format!(
            "SELECT c.minute - ?1, n.name, sum(c.events), sum(c.rejections), sum(c.succeeded),
               sum(c.unsuccessful), sum(c.duration_ms)
             FROM minute_counts c JOIN {table} n ON n.id = c.{column}
             WHERE c.minute >= ?1 AND {condition} GROUP BY c.minute, n.name"
        );
        conn.list(&sql, [first], |row| {
            let index: i64 = row.get(0)?;
            Ok(MinuteStats {
                index: usize::try_from(index).unwrap_or(0),
                name: row.get(1)?,
                events: row.get(2)?,
                rejections: row.get(3)?,
                succeeded: row.get(4)?,
                unsuccessful: row.get(5)?,
                duration_ms: row.get(6)?,
            })
        })
    };
    Ok([read("sources", "source", "c.handler = 0")?, read("handlers", "handler", "c.handler > 0")?])
}

/// The jobs of a handler, and whether they may start, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandlerLoad {
    pub handler: HandlerId,
    pub is_paused: bool,
    pub is_breaker_open: bool,
    pub queued: i64,
    pub running: i64,
    pub dead: i64,
    /// When the oldest job that is queued or running was created (wall clock).
    pub oldest_at_ms: Option<i64>,
}

/// Returns the jobs of all handlers that the database knows.
///
/// # Errors
/// The read failed.
pub fn load_handler_loads(conn: &Connection) -> rusqlite::Result<Vec<HandlerLoad>> {
    // The view is read once for all handlers.
    let sql =
        "WITH depth AS MATERIALIZED (SELECT handler, sum(jobs) FILTER (WHERE state IS 'queued') AS queued,
           sum(jobs) FILTER (WHERE state IS 'running') AS running, min(oldest_at) AS oldest_at
           FROM queue_depth GROUP BY handler)
         SELECT h.id, h.paused, h.breaker_open_until IS NOT NULL, coalesce(d.queued, 0), coalesce(d.running, 0),
           h.dead, CAST(round(unixepoch(d.oldest_at, 'subsec') * 1000) AS INTEGER)
         FROM handlers h LEFT JOIN depth d ON d.handler = h.name";
    conn.list(sql, [], |row| {
        Ok(HandlerLoad {
            handler: row.get(0)?,
            is_paused: row.get(1)?,
            is_breaker_open: row.get(2)?,
            queued: row.get(3)?,
            running: row.get(4)?,
            dead: row.get(5)?,
            oldest_at_ms: row.get(6)?,
        })
    })
}

/// Returns when each source had its last event (wall clock), of the sources that had one.
///
/// # Errors
/// The read failed.
pub fn load_last_event_times(
    conn: &Connection,
    clock: MonotonicClock,
) -> rusqlite::Result<HashMap<SourceId, i64>> {
    let sql =
        "WITH last AS MATERIALIZED (SELECT source, max(last_event_at) AS at FROM minute_counts
          WHERE handler = 0 GROUP BY source)
        SELECT s.id, coalesce(l.at, s.last_seen_at + ?1) AS last_event_at
        FROM sources s LEFT JOIN last l ON l.source = s.id
        WHERE s.has_accepted AND last_event_at IS NOT NULL";
    conn.list(sql, [clock.to_wall_ms(0)], |row| row.try_into())
}
