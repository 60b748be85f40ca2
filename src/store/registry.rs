//! The names in the database. Each source and handler gets a permanent id. `pause` and `resume`
//! hold until `paused` itself changes in config.toml.

use std::collections::HashMap;

use rusqlite::Connection;

use super::breaker;
use super::statements::Statements;
use super::write_transaction::WriteTransaction;
use crate::domain::breaker::BreakerPolicy;
use crate::domain::{HandlerId, SourceId};

/// The ids of the names in a configuration.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    pub sources: HashMap<String, SourceId>,
    pub handlers: HashMap<String, HandlerId>,
}

/// A handler of the configuration.
#[derive(Clone, Debug)]
pub struct HandlerRegistration {
    pub name: String,
    pub is_paused: bool,
    pub breaker: BreakerPolicy,
    /// The handler takes events of type `job.settled`.
    pub takes_settled_jobs: bool,
}

/// Assigns an id to each name, and applies `paused` and `breaker` of the configuration.
///
/// # Errors
/// The write failed.
pub fn register(
    tx: &mut WriteTransaction<'_>,
    sources: &[String],
    handlers: &[HandlerRegistration],
) -> rusqlite::Result<Registry> {
    let (conn, now_ms) = (tx.conn, tx.cache.now_ms);
    let mut registry = Registry::default();
    for name in sources {
        let id = conn.value(
            "INSERT INTO sources (name, last_seen_at) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE
               SET last_seen_at = coalesce(last_seen_at, excluded.last_seen_at) RETURNING id",
            (name, now_ms),
        )?;
        registry.sources.insert(name.clone(), id);
    }
    for HandlerRegistration { name, is_paused: paused, breaker, .. } in handlers {
        conn.execute("INSERT INTO handlers (name) VALUES (?1) ON CONFLICT DO NOTHING", [name])?;
        let sql = "SELECT id, paused_in_config FROM handlers WHERE name = ?1";
        let (id, before): (HandlerId, bool) = conn.query_row(sql, [name], |row| row.try_into())?;
        if before != *paused {
            conn.execute("UPDATE handlers SET paused_in_config = ?2 WHERE id = ?1", (id, paused))?;
            set_paused(conn, id, *paused, now_ms)?;
        }
        tx.effects.alerts.extend(breaker::apply_config(conn, id, *breaker, now_ms)?);
        registry.handlers.insert(name.clone(), id);
    }
    Ok(registry)
}

/// Pauses or resumes a handler. Returns whether that changed anything. Must be called within a
/// transaction.
///
/// # Errors
/// The write failed.
pub fn set_paused(
    conn: &Connection,
    handler: HandlerId,
    paused: bool,
    now_ms: i64,
) -> rusqlite::Result<bool> {
    let sql = match paused {
        true => {
            "UPDATE handlers SET paused = 1, idle_since = coalesce(idle_since, ?2)
             WHERE id = ?1 AND paused = 0"
        }
        false => {
            "UPDATE handlers SET paused = 0,
               idle_ms = idle_ms + CASE WHEN breaker_open_until IS NULL
                 THEN max(0, ?2 - coalesce(idle_since, ?2)) ELSE 0 END,
               idle_since = CASE WHEN breaker_open_until IS NOT NULL THEN idle_since END
             WHERE id = ?1 AND paused = 1"
        }
    };
    Ok(conn.execute(sql, (handler, now_ms))? == 1)
}

/// Returns the id of a handler that the database knows, configured or not.
///
/// # Errors
/// The read failed.
pub fn find_handler(conn: &Connection, name: &str) -> rusqlite::Result<Option<HandlerId>> {
    conn.find("SELECT id FROM handlers WHERE name = ?1", [name], |row| row.get(0))
}

/// Returns the paused handlers.
///
/// # Errors
/// The read failed.
pub fn paused_handlers(conn: &Connection) -> rusqlite::Result<Vec<HandlerId>> {
    conn.list("SELECT id FROM handlers WHERE paused = 1", [], |row| row.get(0))
}

/// Returns for each handler with a `rate_limit` the earliest time of its next start (database clock).
///
/// # Errors
/// The read failed.
pub fn next_rate_starts(conn: &Connection) -> rusqlite::Result<Vec<(HandlerId, i64)>> {
    let sql = "SELECT id, next_start_at FROM handlers WHERE next_start_at IS NOT NULL";
    conn.list(sql, [], |row| row.try_into())
}

/// Returns the names of all sources in the database.
///
/// # Errors
/// The read failed.
pub fn source_names(conn: &Connection) -> rusqlite::Result<HashMap<SourceId, String>> {
    conn.list("SELECT id, name FROM sources", [], |row| row.try_into())
}

/// Returns true if the database knows a source of that name.
///
/// # Errors
/// The read failed.
pub fn source_exists(conn: &Connection, name: &str) -> rusqlite::Result<bool> {
    conn.value("SELECT EXISTS (SELECT 1 FROM sources WHERE name = ?1)", [name])
}

/// Returns true if the event exists.
///
/// # Errors
/// The read failed.
pub fn event_exists(conn: &Connection, event: i64) -> rusqlite::Result<bool> {
    conn.value("SELECT EXISTS (SELECT 1 FROM events WHERE id = ?1)", [event])
}
