//! Tables `expansions` and `expansion_keys`: jobs that several transactions insert.
//!
//! They are inserted unreleased, in a reserved range of job ids. The transaction that inserts the last one
//! makes the range visible, so that an event has all of its jobs or none. Further transactions release the
//! jobs in order: `insert::place_job` decides the state of each as if it was inserted at that moment.

use const_format::formatcp;
use rusqlite::{Connection, params};

use super::jobs::transition::{self, IS_UNRELEASED};
use super::jobs::{JobOrigin, OriginKind, insert};
use super::row_budget::RowBudget;
use super::statements::Statements;
use super::write_transaction::WriteTransaction;
use crate::domain::job_plan::{DebounceKey, JobKeys, KeyHash, UniqueKey};
use crate::domain::{EventId, HandlerId, JobId, SourceId};

/// Number of rows that one statement deletes.
const DELETE_CHUNK: i64 = 50;

/// A row of `expansions`, without its range.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expansion {
    pub event: EventId,
    pub source: SourceId,
    /// The job that these jobs replace; `None` if they are the event's own.
    pub job: Option<JobId>,
}

/// The ids of the jobs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct JobRange {
    pub first: i64,
    pub last: i64,
    /// The next job to insert, to release or to delete.
    pub next: i64,
}

/// Reserves job ids.
pub(super) fn reserve(
    tx: &mut WriteTransaction<'_>,
    expansion: Expansion,
    count: usize,
) -> rusqlite::Result<JobRange> {
    let first = tx.cache.counters.job + 1;
    let last = tx.cache.counters.job.saturating_add(i64::try_from(count).unwrap_or(i64::MAX));
    tx.conn.change(
        "INSERT INTO expansions (first_job, last_job, next_job, event, source, job)
         VALUES (?1, ?2, ?1, ?3, ?4, ?5)",
        params![first, last, expansion.event, expansion.source, expansion.job],
    )?;
    tx.cache.counters.job = last;
    Ok(JobRange { first, last, next: first })
}

/// Makes all jobs of a range visible.
pub(super) fn make_visible(conn: &Connection, range: JobRange) -> rusqlite::Result<()> {
    let sql = "UPDATE expansions SET is_visible = 1 WHERE first_job = ?1";
    conn.change(sql, [range.first]).map(|_| ())
}

/// Returns the expansions that an earlier process had begun, and whether each is visible.
pub(super) fn load_all(conn: &Connection) -> rusqlite::Result<Vec<(Expansion, JobRange, bool)>> {
    let sql = "SELECT first_job, last_job, next_job, event, source, job, is_visible
               FROM expansions ORDER BY first_job";
    conn.list(sql, [], |row| {
        let (first, last, next, event, source, job, is_visible) = row.try_into()?;
        Ok((Expansion { event, source, job }, JobRange { first, last, next }, is_visible))
    })
}

/// A job that waits for its release.
struct UnreleasedJob {
    id: i64,
    handler: HandlerId,
    /// The reason why its expression failed.
    failure: Option<String>,
    keys: JobKeys,
}

fn load_unreleased(
    conn: &Connection,
    range: JobRange,
    limit: usize,
) -> rusqlite::Result<Vec<UnreleasedJob>> {
    let sql = formatcp!(
        "SELECT j.id, j.handler, CASE WHEN j.reevaluation = 1 THEN j.reason END, j.ordering_key,
           k.unique_key, coalesce(k.unique_window_ms, 0), j.debounce_key, coalesce(k.debounce_ms, 0)
         FROM jobs j LEFT JOIN expansion_keys k ON k.job = j.id
         WHERE j.id BETWEEN ?1 AND ?2 AND {IS_UNRELEASED} ORDER BY j.id LIMIT ?3"
    );
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    conn.list(sql, [range.next, range.last, limit], |row| {
        let (unique, window_ms): (Option<KeyHash>, i64) = (row.get(4)?, row.get(5)?);
        let (debounce, debounce_ms): (Option<KeyHash>, i64) = (row.get(6)?, row.get(7)?);
        let keys = JobKeys {
            ordering: row.get(3)?,
            version: None,
            unique: unique.map(|key| UniqueKey { key, window_ms }),
            debounce: debounce.map(|key| DebounceKey { key, debounce_ms }),
        };
        Ok(UnreleasedJob { id: row.get(0)?, handler: row.get(1)?, failure: row.get(2)?, keys })
    })
}

/// Releases jobs in order. Returns whether all of them are released.
pub(super) fn release_jobs(
    tx: &mut WriteTransaction<'_>,
    expansion: Expansion,
    range: &mut JobRange,
    budget: &mut RowBudget,
) -> rusqlite::Result<bool> {
    let jobs = load_unreleased(tx.conn, *range, budget.rows)?;
    let is_last_chunk = jobs.len() < budget.rows;
    for job in &jobs {
        let origin = JobOrigin {
            event: expansion.event.0,
            source: expansion.source,
            handler: job.handler,
            created_at_ms: 0,
            kind: match expansion.job {
                Some(_) => OriginKind::Retry { replay: 0 },
                None => OriginKind::DeferredEvent,
            },
        };
        insert::admit_job(tx, origin, job.id, (&job.keys, job.failure.as_deref()))?;
        range.next = job.id + 1;
        budget.spend(1, 1);
        if budget.is_spent() {
            break;
        }
    }
    let is_complete = is_last_chunk && jobs.last().is_none_or(|job| job.id < range.next);
    if is_complete {
        let sql = "DELETE FROM expansion_keys WHERE job BETWEEN ?1 AND ?2";
        tx.conn.change(sql, [range.first, range.last])?;
        delete(tx.conn, *range)?;
        if expansion.job.is_none() {
            tx.effects.adjust_deferred(expansion.source, -1);
        }
    } else {
        let sql = "UPDATE expansions SET next_job = ?2 WHERE first_job = ?1";
        tx.conn.change(sql, [range.first, range.next])?;
    }
    Ok(is_complete)
}

/// Deletes unreleased jobs, and then their row of `expansions`. Returns whether all of them are deleted.
pub(super) fn delete_jobs(
    conn: &Connection,
    range: &mut JobRange,
    budget: &mut RowBudget,
) -> rusqlite::Result<bool> {
    while range.next <= range.last {
        let to = range.last.min(range.next + DELETE_CHUNK - 1);
        let mut removed = transition::delete_unreleased(conn, range.next, to)?;
        for sql in [
            "DELETE FROM items WHERE job BETWEEN ?1 AND ?2",
            "DELETE FROM expansion_keys WHERE job BETWEEN ?1 AND ?2",
        ] {
            removed += conn.change(sql, [range.next, to])?;
        }
        budget.spend(removed.max(1), 1);
        range.next = to + 1;
        if budget.is_spent() && range.next <= range.last {
            return Ok(false);
        }
    }
    delete(conn, *range)?;
    Ok(true)
}

fn delete(conn: &Connection, range: JobRange) -> rusqlite::Result<()> {
    conn.change("DELETE FROM expansions WHERE first_job = ?1", [range.first]).map(|_| ())
}
