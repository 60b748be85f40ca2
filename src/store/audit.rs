//! Commands of people on jobs and handlers: retry, cancel, pause and resume. Each is recorded in
//! the audit log.
//!
//! The command line calls these functions on a separate connection, beside a running server or
//! without one. Each transaction is short, so that the server's writer never waits for long.

use anyhow::Context;
use const_format::formatcp;
use rusqlite::{Connection, params};

use super::bounded_log::{self, BoundedLog};
use super::chunked_writes::ChunkedWriter;
use super::jobs::transition;
use super::selection::{BulkProgress, OnProgress};
use super::statements::Statements;
use super::write_transaction::WriteTransaction;
use super::{in_transaction, registry};
use crate::domain::id_set::IdSet;
use crate::domain::{HandlerId, JobId};

/// A row of the view `audit_log`.
#[derive(Clone, Debug)]
pub struct AuditEntry {
    /// Wall clock.
    pub at_ms: i64,
    pub who: String,
    /// `cli`, `console`, `api`, `signal`.
    pub via: &'static str,
    /// The command: `retry`, `replay`, `cancel`, `pause`, `resume`, `reload`, `prune`, `erase`.
    pub action: String,
    /// The target: `job 12`, `event 7`, or a handler's name. `None`: a selection of jobs, or the
    /// server.
    pub target: Option<String>,
    pub jobs: i64,
    pub reason: Option<String>,
}

/// The event of a job `j` has no body any more.
const LACKS_BODY: &str =
    "EXISTS (SELECT 1 FROM events e WHERE e.id = j.event AND e.removed_bytes IS NOT NULL)";

/// A command on jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobCommand {
    /// Run again now, with fresh attempts.
    Retry,
    /// Cancel queued jobs, stop running ones, dismiss dead ones.
    Cancel { reason: String },
}

impl JobCommand {
    /// The name on the command line and in the audit log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Cancel { .. } => "cancel",
        }
    }

    /// The SQL condition for jobs that the command can change.
    pub fn condition(&self) -> &'static str {
        match self {
            Self::Retry => formatcp!("{} AND NOT {LACKS_BODY}", transition::CAN_RETRY),
            Self::Cancel { .. } => transition::CAN_CANCEL,
        }
    }

    /// The SQL condition for jobs that only lack the body of their event.
    pub fn missing_body_condition(&self) -> Option<&'static str> {
        match self {
            Self::Retry => Some(formatcp!("{} AND {LACKS_BODY}", transition::CAN_RETRY)),
            Self::Cancel { .. } => None,
        }
    }
}

/// Inserts an entry. Must be called within a transaction.
///
/// # Errors
/// The write failed.
pub fn record(conn: &Connection, entry: &AuditEntry) -> rusqlite::Result<()> {
    let AuditEntry { at_ms, who, via, action, target, jobs, reason } = entry;
    conn.change(
        "INSERT INTO audit_entries (at, who, via, action, target, jobs, reason)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![at_ms, who, via, action, target, jobs, reason],
    )?;
    bounded_log::trim(conn, BoundedLog::AuditEntries)
}

/// Applies a command to those of `jobs` that allow it. Returns the progress at the end, or where
/// `on_progress` stopped it. Works in several transactions: after an interruption the rest is
/// unchanged, and the audit log has the correct count.
///
/// # Errors
/// The write failed. The error says how many jobs were changed before.
pub fn apply_to_jobs(
    store: &super::Store,
    jobs: &IdSet,
    command: &JobCommand,
    entry: &AuditEntry,
    on_progress: &mut OnProgress<'_>,
) -> anyhow::Result<BulkProgress> {
    let mut progress = BulkProgress { total: jobs.len(), ..BulkProgress::default() };
    let mut remaining = jobs.iter();
    let mut writer = ChunkedWriter::new(store);
    let mut row = None;
    while progress.done < progress.total {
        let chunk = writer.write_chunk(|tx, slice| {
            let (mut done, mut changed) = (0, 0_i64);
            while slice.has_time()
                && let Some(job) = remaining.next()
            {
                changed += i64::from(apply_command(tx, JobId(job), command)?);
                done += 1;
            }
            Ok((record_progress(tx.conn, row, entry, changed)?, done, changed.unsigned_abs()))
        });
        let (audit_row, done, changed) = chunk.with_context(|| {
            format!("stopped after {} of {} jobs", progress.done, progress.total)
        })?;
        row = Some(audit_row);
        progress.done += done;
        progress.jobs += changed;
        if on_progress(progress).is_break() {
            break;
        }
    }
    Ok(progress)
}

/// Inserts an entry, or adds `jobs` to the entry that was inserted before. Returns the row's id.
pub(super) fn record_progress(
    conn: &Connection,
    row: Option<i64>,
    entry: &AuditEntry,
    jobs: i64,
) -> rusqlite::Result<i64> {
    if let Some(row) = row {
        conn.change("UPDATE audit_entries SET jobs = jobs + ?2 WHERE id = ?1", [row, jobs])?;
        return Ok(row);
    }
    record(conn, &AuditEntry { jobs, ..entry.clone() })?;
    Ok(conn.last_insert_rowid())
}

/// Applies a command to a job. Returns whether that changed anything.
pub(super) fn apply_command(
    tx: &mut WriteTransaction<'_>,
    job: JobId,
    command: &JobCommand,
) -> rusqlite::Result<bool> {
    match command {
        JobCommand::Retry => transition::retry(tx, job),
        JobCommand::Cancel { reason } => transition::cancel(tx, job, reason),
    }
}

/// Pauses or resumes a handler. Returns whether that changed anything.
///
/// # Errors
/// The write failed.
pub fn set_paused(
    store: &super::Store,
    handler: HandlerId,
    is_paused: bool,
    entry: &AuditEntry,
) -> anyhow::Result<bool> {
    in_transaction(&store.conn, |conn| {
        let changed = registry::set_paused(conn, handler, is_paused, store.clock.now_ms())?;
        if changed {
            record(conn, entry)?;
        }
        Ok(changed)
    })
}
