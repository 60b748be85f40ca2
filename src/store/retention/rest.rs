//! The rest of `retention` after a clock jump, or after a time in which no server ran. It is saved, so that it lasts over
//! restarts.

use rusqlite::{Connection, OptionalExtension};

use super::super::meta;

/// How long the rules rest.
const REST_MS: i64 = 86_400_000;

/// A rest of all rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionRest {
    /// Database clock.
    pub until_ms: i64,
    pub reason: String,
}

impl RetentionRest {
    /// The rest that begins at `now_ms` (database clock).
    pub fn new(now_ms: i64, reason: String) -> Self {
        Self { until_ms: now_ms.saturating_add(REST_MS), reason }
    }
}

/// Loads the rest, if the rules rest at `now_ms` (database clock).
///
/// # Errors
/// The read failed.
pub fn load_rest(conn: &Connection, now_ms: i64) -> rusqlite::Result<Option<RetentionRest>> {
    let sql = "SELECT u.value, r.value FROM meta u JOIN meta r ON r.name = 'retention_rest_reason'
               WHERE u.name = 'retention_rests_until'";
    let rest = conn
        .query_row(sql, [], |row| Ok(RetentionRest { until_ms: row.get(0)?, reason: row.get(1)? }))
        .optional()?;
    Ok(rest.filter(|rest| rest.until_ms > now_ms))
}

/// Saves a rest.
///
/// # Errors
/// The write failed.
pub fn save_rest(conn: &Connection, rest: &RetentionRest) -> rusqlite::Result<()> {
    meta::set(conn, "retention_rests_until", rest.until_ms)?;
    meta::set(conn, "retention_rest_reason", &rest.reason)
}
