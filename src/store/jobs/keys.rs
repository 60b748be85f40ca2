//! The keys of jobs: `ordering_key`, `version_by`, `unique_by` and `debounce_by`. Each rule is
//! applied within the transaction that changes a job.
//!
//! Of the jobs of one ordering key at most one is ready: the oldest unfinished one. The others are
//! blocked, and not in the index that claims use. So a claim costs the same however many jobs are
//! blocked.

use const_format::formatcp;
use rusqlite::{Connection, params};

use super::super::statements::Statements;
use super::VersionKey;
use super::transition::{IS_NOT_GIVEN_UP, IS_WAITING};
use crate::domain::job_plan::{DebounceKey, UniqueKey};
use crate::domain::version_value::VersionValue;
use crate::domain::{HandlerId, JobId};

/// Returns the job of this handler that has the key within its window and is neither dead nor
/// cancelled. If there is none, assigns the key to `job`.
pub(in crate::store) fn claim_unique_key(
    conn: &Connection,
    now_ms: i64,
    handler: HandlerId,
    unique: UniqueKey,
    job: i64,
) -> rusqlite::Result<Option<JobId>> {
    let sql = formatcp!(
        "SELECT o.job FROM unique_keys o WHERE o.handler = ?1 AND o.key = ?2 AND o.expires_at > ?3
           AND coalesce((SELECT {IS_NOT_GIVEN_UP} FROM jobs j WHERE j.id = o.job), 1)"
    );
    let first = conn.find(sql, params![handler, unique.key, now_ms], |row| row.get(0))?;
    if first.is_none() {
        let expires_at_ms = now_ms.saturating_add(unique.window_ms);
        conn.change(
            "INSERT OR REPLACE INTO unique_keys VALUES (?1, ?2, ?3, ?4)",
            params![handler, unique.key, job, expires_at_ms],
        )?;
    }
    Ok(first)
}

/// Returns the newest queued job of a debounce key that is newer than this one.
pub(in crate::store) fn find_newer_debounced(
    conn: &Connection,
    handler: HandlerId,
    debounce: DebounceKey,
    job: i64,
) -> rusqlite::Result<Option<JobId>> {
    let sql = formatcp!(
        "SELECT max(id) FROM jobs INDEXED BY jobs_debounce WHERE handler = ?1 AND debounce_key = ?2
           AND debounce_key IS NOT NULL AND {IS_WAITING} AND id > ?3"
    );
    conn.value(sql, params![handler, debounce.key, job])
}

/// Encodes a value of `version_by` for its column.
pub(in crate::store) fn encode_version(version: &VersionValue) -> String {
    match version {
        VersionValue::Number(digits) => format!("n{digits}"),
        VersionValue::Text(text) => format!("t{text}"),
    }
}

fn decode_version(encoded: &str) -> Option<VersionValue> {
    let text = || encoded.get(1..).map(str::to_owned);
    match encoded.as_bytes().first()? {
        b'n' => text().map(VersionValue::Number),
        _ => text().map(VersionValue::Text),
    }
}

/// Returns the job that succeeded with a higher version than this one.
pub(in crate::store) fn find_newer_version(
    conn: &Connection,
    handler: HandlerId,
    version: &VersionKey,
) -> rusqlite::Result<Option<JobId>> {
    let sql = "SELECT value, job FROM versions WHERE handler = ?1 AND key = ?2";
    let highest: Option<(String, JobId)> =
        conn.find(sql, params![handler, version.key], |row| row.try_into())?;
    Ok(highest.and_then(|(highest, job)| {
        let is_older = decode_version(&version.value)? < decode_version(&highest)?;
        is_older.then_some(job)
    }))
}

/// Records the version of a job that succeeded, if it is the highest. A value of another type
/// replaces one that it cannot be compared with.
pub(in crate::store) fn record_version(
    conn: &Connection,
    handler: HandlerId,
    version: &VersionKey,
    job: JobId,
) -> rusqlite::Result<()> {
    if find_newer_version(conn, handler, version)?.is_none() {
        conn.change(
            "INSERT OR REPLACE INTO versions VALUES (?1, ?2, ?3, ?4)",
            params![handler, version.key, version.value, job],
        )?;
    }
    Ok(())
}
