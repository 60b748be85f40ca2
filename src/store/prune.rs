//! `prune`: applies rules by hand, in transactions that are as short as those of other commands.

use super::Store;
use super::audit::{self, AuditEntry};
use super::checkpoint;
use super::chunked_writes::ChunkedWriter;
use super::retention::{
    RemovalProgress, RetentionBatch, apply_batch, finish_removals, return_free_pages,
};
use super::row_budget::RowBudget;

/// A prune in progress.
#[derive(Debug)]
pub struct Prune<'s> {
    store: &'s Store,
    writer: ChunkedWriter<'s>,
    entry: AuditEntry,
    /// The row of its audit entry, after the first transaction.
    audit_row: Option<i64>,
}

impl<'s> Prune<'s> {
    /// Creates a prune. `entry` is its entry for the audit log, to which the number of jobs is added.
    pub fn new(store: &'s Store, entry: AuditEntry) -> Self {
        Self { store, writer: ChunkedWriter::new(store), entry, audit_row: None }
    }

    /// Removes a batch. After an interruption, whole transactions remain, and the audit log has the correct count.
    ///
    /// # Errors
    /// The write failed.
    pub fn apply(&mut self, batch: &RetentionBatch) -> anyhow::Result<RemovalProgress> {
        let mut progress = RemovalProgress::default();
        while !progress.is_done {
            let (entry, audit_row) = (&self.entry, self.audit_row);
            let (done, row) = self.writer.write_chunk(|tx, _| {
                let done = apply_batch(tx, batch, progress, &mut RowBudget::of_command())?;
                let jobs = i64::try_from(done.jobs - progress.jobs)?;
                let has_removed = done.events > progress.events || jobs > 0;
                let row = match has_removed {
                    true => Some(audit::record_progress(tx.conn, audit_row, entry, jobs)?),
                    false => audit_row,
                };
                Ok((done, row))
            })?;
            (progress, self.audit_row) = (done, row);
        }
        self.checkpoint_without_server()?;
        Ok(progress)
    }

    /// Completes the removals that an earlier process began.
    ///
    /// # Errors
    /// The write failed.
    pub fn finish_removals(&mut self) -> anyhow::Result<()> {
        while !self
            .writer
            .write_chunk(|tx, _| Ok(finish_removals(tx, &mut RowBudget::of_command())?))?
        {}
        Ok(())
    }

    /// Returns some free pages to the file system. Returns whether it is done.
    ///
    /// # Errors
    /// The write failed.
    pub fn return_free_pages(&mut self) -> anyhow::Result<bool> {
        let is_done = self
            .writer
            .write_chunk(|tx, _| Ok(return_free_pages(tx.conn, &mut RowBudget::of_command())?))?;
        self.checkpoint_without_server()?;
        Ok(is_done)
    }

    /// Copies the WAL into the database if it is long and no server does that.
    fn checkpoint_without_server(&self) -> anyhow::Result<()> {
        let max_bytes = u64::try_from(checkpoint::WAL_BYTES_KEPT)?;
        if super::wal_bytes(&self.store.path) > max_bytes
            && super::find_lock_holder(&self.store.path)?.is_none()
        {
            checkpoint::passive(&self.store.conn)?;
        }
        Ok(())
    }
}
