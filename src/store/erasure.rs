//! `erase`: removes the content of events for good.
//!
//! Removed content may be left in three places: in the unused parts of a page that has other rows, in a page without rows,
//! and in the WAL. At the end of `erase`, all pages without rows are cut off the file, the unused parts of all others are
//! filled with zeros, and the WAL is cut to nothing. This connection fills what it removes at once
//! (`PRAGMA secure_delete`). The server does not, because that takes 5 % of the rate of intake.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::audit::{self, AuditEntry};
use super::chunked_writes::ChunkedWriter;
use super::retention::{
    RemovedPart, continue_removal, cut_free_pages, find_settled, finish_removals,
    remove_logged_quotes, start_removal,
};
use super::row_budget::RowBudget;
use super::statements::Statements;
use super::{Store, checkpoint, database_copy, open_files, page_gaps};

/// The row of `meta` that exists while an erasure is not complete.
const UNFINISHED: &str = "erasure_unfinished";

/// How long the WAL is tried to be cut while others read it.
const MAX_TRUNCATION_TIME: Duration = Duration::from_secs(30);

/// What `erase` did with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErasedEvent {
    Erased,
    /// A job of it is queued or running, and needs the body.
    Unsettled,
    /// It is gone meanwhile.
    Missing,
}

/// An erasure in progress.
#[derive(Debug)]
pub struct Erasure<'s> {
    store: &'s Store,
    writer: ChunkedWriter<'s>,
    entry: AuditEntry,
    /// The row of its audit entry, after the first transaction.
    audit_row: Option<i64>,
    /// The next page whose gap is filled.
    next_page: i64,
}

impl<'s> Erasure<'s> {
    /// Creates an erasure. `entry` is its entry for the audit log, to which the number of jobs is added.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn new(store: &'s Store, entry: AuditEntry) -> anyhow::Result<Self> {
        // Pages without rows, too: this connection may write more pages for that.
        store.conn.query_row("PRAGMA secure_delete = ON", [], |_| Ok(()))?;
        let mut writer = ChunkedWriter::new(store);
        // An erasure that was killed has begun with these.
        while !writer.write_chunk(|tx, _| Ok(finish_removals(tx, &mut RowBudget::of_command())?))? {
        }
        Ok(Self { store, writer, entry, audit_row: None, next_page: 1 })
    }

    /// Removes the content of an event.
    ///
    /// # Errors
    /// The write failed.
    pub fn erase(&mut self, event: i64) -> anyhow::Result<ErasedEvent> {
        let (entry, audit_row) = (&self.entry, self.audit_row);
        let begun = self.writer.write_chunk(|tx, _| {
            let Some(found) = find_settled(tx.conn, event)? else { return Ok(None) };
            tx.conn.change("INSERT OR IGNORE INTO meta VALUES (?1, 1)", [UNFINISHED])?;
            start_removal(tx.conn, RemovedPart::Quotes, &found)?;
            // The rest of a removal that began before would leave quotes.
            let sql = "UPDATE partial_removals SET rule = ?2, next_job = ?3 WHERE event = ?1 AND rule = 0";
            tx.conn.change(sql, (event, RemovedPart::Quotes.code(), found.first_job))?;
            let jobs = i64::try_from(found.jobs)?;
            Ok(Some(audit::record_progress(tx.conn, audit_row, entry, jobs)?))
        })?;
        let Some(row) = begun else {
            let exists = "SELECT EXISTS (SELECT 1 FROM events WHERE id = ?1)";
            let is_missing = !self.store.conn.value::<bool>(exists, [event])?;
            return Ok(if is_missing { ErasedEvent::Missing } else { ErasedEvent::Unsettled });
        };
        self.audit_row = Some(row);
        while !self.writer.write_chunk(|tx, _| {
            Ok(continue_removal(tx, event, &mut RowBudget::of_command())?.is_done)
        })? {}
        Ok(ErasedEvent::Erased)
    }

    /// Removes quotes of removed bodies from the log of circuit breakers and from recorded alerts.
    ///
    /// # Errors
    /// The write failed.
    pub fn remove_logged_quotes(&mut self) -> anyhow::Result<()> {
        self.writer.write_chunk(|tx, _| Ok(remove_logged_quotes(tx.conn)?))
    }

    /// Cuts some pages without rows off the file. Returns whether there are none left.
    ///
    /// # Errors
    /// The write failed.
    pub fn cut_free_pages(&mut self) -> anyhow::Result<bool> {
        self.writer
            .write_chunk(|tx, _| Ok(cut_free_pages(tx.conn, &mut RowBudget::of_command(), 0)?))
    }

    /// Fills the gaps of some pages with zeros. Returns whether there are no more pages.
    ///
    /// # Errors
    /// The write failed.
    pub fn fill_gaps(&mut self) -> anyhow::Result<bool> {
        let next_page = &mut self.next_page;
        self.writer.write_chunk(|tx, _| {
            Ok(page_gaps::fill_gaps(tx.conn, next_page, &mut RowBudget::of_command())?)
        })
    }

    /// Cuts the WAL to nothing, which completes the erasure.
    ///
    /// # Errors
    /// A reader keeps the WAL, or it cannot be written.
    pub fn cut_wal(mut self) -> anyhow::Result<()> {
        let conn = &self.store.conn;
        // Each try waits for nobody: while this connection waited for readers, nobody could write.
        conn.busy_timeout(Duration::ZERO)?;
        let started_at = Instant::now();
        while !is_cut(checkpoint::truncate(conn))? {
            let readers = super::snapshot_readers(&self.store.path).join(", ");
            anyhow::ensure!(
                started_at.elapsed() < MAX_TRUNCATION_TIME,
                "{}-wal: still has erased content, and a reader keeps it from being cut ({readers}): end the reader, and run \
                 the same command again",
                self.store.path.display()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        super::chunked_writes::wait_as_cli(conn)?;
        self.writer.write_chunk(|tx, _| {
            Ok(tx.conn.change("DELETE FROM meta WHERE name = ?1", [UNFINISHED])?)
        })?;
        Ok(())
    }
}

/// Whether a checkpoint has cut the WAL. A lock of another connection is no error.
fn is_cut(result: rusqlite::Result<bool>) -> rusqlite::Result<bool> {
    match result {
        Err(e) if super::classify(&e) == super::ErrorKind::Busy => Ok(false),
        result => result,
    }
}

/// Returns whether an erasure ended before it was complete.
///
/// # Errors
/// The read failed.
pub fn has_unfinished_erasure(conn: &Connection) -> rusqlite::Result<bool> {
    conn.value("SELECT EXISTS (SELECT 1 FROM meta WHERE name = ?1)", [UNFINISHED])
}

/// Returns the next events from `first` to `last`, each with its source and whether it has a body.
///
/// # Errors
/// The read failed.
pub fn list_events(
    conn: &Connection,
    first: i64,
    last: i64,
    limit: usize,
) -> rusqlite::Result<Vec<(i64, crate::domain::SourceId, bool)>> {
    let sql = "SELECT id, source, removed_bytes IS NULL FROM events WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT ?3";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    conn.list(sql, [first, last, limit], |row| row.try_into())
}

/// Returns the files beside the database that are copies of it, such as `hooktrail.replaced-20261129T113042Z.db`.
pub fn find_copies(database: &Path) -> Vec<PathBuf> {
    let stem = database.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let own = ["", "-wal", "-shm", "-journal", ".lock", ".reserve"]
        .map(|suffix| open_files::with_suffix(database, suffix));
    let is_copy = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let rest = name.strip_prefix(&stem);
        let is_ours = rest.is_some_and(|rest| {
            let is_dated =
                [".rescued-", ".replaced-", "-2"].iter().any(|label| rest.starts_with(label));
            let is_named =
                [".v", ".restored", ".hooktrail.part"].iter().any(|label| rest.contains(label));
            is_dated || is_named
        });
        is_ours && own.iter().all(|own| own.file_name() != path.file_name())
    };
    database_copy::list_beside(database).into_iter().filter(is_copy).collect()
}
