//! The keys of jobs: `ordering_key`, `version_by`, `unique_by` and `debounce_by`. Each rule is
//! applied within the transaction that changes a job.
//!
//! Of the jobs of one ordering key at most one is ready: the oldest unfinished one. The others are
//! blocked, and not in the index that claims use. So a claim costs the same however many jobs are
//! blocked.

use rusqlite::{Connection, OptionalExtension, params};

use super::writer_state::WriterState;
use crate::domain::job_plan::{DebounceKey, KeyHash, UniqueKey};
use crate::domain::version_value::VersionValue;
use crate::domain::{HandlerId, JobId, SourceId};

/// Returns true if a job of this key is unfinished.
pub(super) fn has_unfinished(
    conn: &Connection,
    handler: HandlerId,
    key: &KeyHash,
) -> rusqlite::Result<bool> {
    conn.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM jobs INDEXED BY jobs_order
           WHERE handler = ?1 AND ordering_key = ?2 AND ordering_key IS NOT NULL AND state < 3)",
    )?
    .query_row(params![handler.0, key], |row| row.get(0))
}

/// Makes the oldest unfinished job of a key ready, and blocks the others. Must be called whenever a
/// job of the key ends or is requeued.
pub(super) fn release_next(
    conn: &Connection,
    state: &mut WriterState,
    handler: HandlerId,
    key: &KeyHash,
) -> rusqlite::Result<()> {
    let mut first = conn.prepare_cached(
        "SELECT min(id) FROM jobs INDEXED BY jobs_order
         WHERE handler = ?1 AND ordering_key = ?2 AND ordering_key IS NOT NULL AND state < 3 AND state = ?3",
    )?;
    let mut oldest = |state_code: i64| -> rusqlite::Result<Option<i64>> {
        first.query_row(params![handler.0, key, state_code], |row| row.get(0))
    };
    let (blocked, ready, scheduled, running) = (oldest(-1)?, oldest(0)?, oldest(1)?, oldest(2)?);
    let next =
        [blocked, ready, scheduled].into_iter().flatten().min().filter(|_| running.is_none());
    let mut set = conn.prepare_cached("UPDATE jobs SET state = ?2 WHERE id = ?1")?;
    if let Some(ready) = ready
        && next != Some(ready)
    {
        set.execute([ready, -1])?;
    }
    if let Some(blocked) = blocked
        && next == Some(blocked)
    {
        set.execute([blocked, 0])?;
        state.mark_ready(handler);
    }
    Ok(())
}

/// Returns the job of this handler that has the key within its window and is neither dead nor
/// cancelled. If there is none, assigns the key to `job`.
pub(super) fn claim_unique_key(
    conn: &Connection,
    now_ms: i64,
    handler: HandlerId,
    unique: UniqueKey,
    job: i64,
) -> rusqlite::Result<Option<JobId>> {
    let first: Option<i64> = conn
        .prepare_cached(
            "SELECT o.job FROM unique_keys o WHERE o.handler = ?1 AND o.key = ?2 AND o.expires_at > ?3
               AND coalesce((SELECT j.state NOT IN (4, 5) FROM jobs j WHERE j.id = o.job), 1)",
        )?
        .query_row(params![handler.0, unique.key, now_ms], |row| row.get(0))
        .optional()?;
    if first.is_none() {
        conn.prepare_cached("INSERT OR REPLACE INTO unique_keys VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![
                handler.0,
                unique.key,
                job,
                now_ms.saturating_add(unique.window_ms)
            ])?;
    }
    Ok(first.map(JobId))
}

/// Deletes some expired keys and returns their number.
pub(super) fn purge_expired(conn: &Connection, now_ms: i64) -> rusqlite::Result<usize> {
    conn.prepare_cached(
        "DELETE FROM unique_keys WHERE (handler, key) IN
           (SELECT handler, key FROM unique_keys WHERE expires_at <= ?1 ORDER BY expires_at LIMIT 500)",
    )?
    .execute([now_ms])
}

/// Cancels the older queued jobs of a debounce key, and returns when the burst began.
pub(super) fn supersede_older(
    conn: &Connection,
    state: &mut WriterState,
    handler: HandlerId,
    debounce: DebounceKey,
    newer_job: i64,
) -> rusqlite::Result<i64> {
    let mut cancel = conn.prepare_cached(
        "UPDATE jobs SET state = 5, reason = ?4, ended_at = ?5, due_at = NULL, wait_ms = NULL
         WHERE id IN (SELECT id FROM jobs INDEXED BY jobs_debounce WHERE handler = ?1
           AND debounce_key = ?2 AND debounce_key IS NOT NULL AND state < 2 AND id < ?3)
         RETURNING source, ordering_key, burst_started_at, attempt",
    )?;
    let reason = format!("superseded by job {newer_job}");
    let cancelled: Vec<(i64, Option<KeyHash>, Option<i64>, i64)> = cancel
        .query_map(params![handler.0, debounce.key, newer_job, reason, state.wall_ms], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut started_at = state.now_ms;
    for (source, ordering_key, burst_started_at, attempt) in cancelled {
        state.adjust_queued(SourceId(source), -1);
        // A job that has run belongs to an earlier burst.
        if let Some(at) = burst_started_at.filter(|_| attempt == 0) {
            started_at = started_at.min(at);
        }
        if let Some(key) = ordering_key {
            release_next(conn, state, handler, &key)?;
        }
    }
    Ok(started_at)
}

/// Returns the newest queued job of a debounce key that is newer than this one.
pub(super) fn find_newer_debounced(
    conn: &Connection,
    handler: HandlerId,
    debounce: DebounceKey,
    job: i64,
) -> rusqlite::Result<Option<JobId>> {
    conn.prepare_cached(
        "SELECT max(id) FROM jobs INDEXED BY jobs_debounce WHERE handler = ?1 AND debounce_key = ?2
           AND debounce_key IS NOT NULL AND state < 2 AND id > ?3",
    )?
    .query_row(params![handler.0, debounce.key, job], |row| row.get::<_, Option<i64>>(0))
    .map(|newer| newer.map(JobId))
}

/// Encodes a value of `version_by` for its column.
pub(super) fn encode_version(version: &VersionValue) -> String {
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
pub(super) fn find_newer_version(
    conn: &Connection,
    handler: HandlerId,
    key: &KeyHash,
    value: &str,
) -> rusqlite::Result<Option<JobId>> {
    let highest: Option<(String, i64)> = conn
        .prepare_cached("SELECT value, job FROM versions WHERE handler = ?1 AND key = ?2")?
        .query_row(params![handler.0, key], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(highest.and_then(|(highest, job)| {
        let is_older = decode_version(value)? < decode_version(&highest)?;
        is_older.then_some(JobId(job))
    }))
}

/// Records the version of a job that succeeded, if it is the highest. A value of another type
/// replaces one that it cannot be compared with.
pub(super) fn record_version(
    conn: &Connection,
    handler: HandlerId,
    key: &KeyHash,
    value: &str,
    job: JobId,
) -> rusqlite::Result<()> {
    if find_newer_version(conn, handler, key, value)?.is_none() {
        conn.prepare_cached("INSERT OR REPLACE INTO versions VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![handler.0, key, value, job.0])?;
    }
    Ok(())
}
