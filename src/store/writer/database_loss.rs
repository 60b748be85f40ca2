//! Handles the loss of the database file: when it was removed or replaced, the writer saves its
//! content, and the process exits.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::super::effects::Effects;
use super::super::handle::{Health, WriteRequest, WriterMessage};
use super::super::open_files::{FileChange, with_suffix};
use super::super::operation::Isolation;
use super::super::{checkpoint, database_copy, rescue};
use super::Writer;

/// How long the writer waits for free space. Only this process can still reach the events.
const FREE_SPACE_TIMEOUT: Duration = Duration::from_secs(600);

/// How often it checks the free space.
const FREE_SPACE_INTERVAL: Duration = Duration::from_secs(1);

impl Writer {
    /// Saves all accepted events and makes the process exit. Nothing is accepted from here on.
    pub(super) fn save_database(
        &mut self,
        change: &FileChange,
        receiver: &Receiver<WriterMessage>,
    ) {
        self.inputs.health.set(Health::Broken);
        log::error!("{change}: senders get 503, and what this server still holds is saved");
        self.write_outcomes(receiver);
        let reason = match self.checkpoint_into_database().map_or_else(|| self.rescue(receiver), Ok)
        {
            Ok(saved) => format!("{change}: {saved}"),
            Err(e) => format!("{change}, and its events could not be saved: {e:#}"),
        };
        (self.inputs.on_broken)(&reason);
        // The process must exit by this error: a stop that is in progress must not report success.
        std::thread::sleep(Duration::from_secs(5));
    }

    /// Writes the outcomes of finished jobs, so that they are saved too.
    fn write_outcomes(&mut self, receiver: &Receiver<WriterMessage>) {
        self.roll_back();
        self.jobs.stop();
        let mut group = Vec::new();
        self.add_claims(&mut group);
        while let Ok(message) = receiver.try_recv() {
            self.collect(message, &mut group);
        }
        self.fail_group(&mut group);
        let written =
            self.transaction(&[], &mut Vec::new(), &mut Effects::default(), Isolation::Savepoints);
        if let Err(e) = written {
            log::warn!(
                "{} outcomes could not be saved ({e}): their jobs run again",
                self.retry_queue.len()
            );
            self.roll_back();
        }
    }

    /// If the database itself is in place, copies the WAL into it, which saves everything. It does
    /// not do so if another program may have begun another WAL.
    fn checkpoint_into_database(&self) -> Option<String> {
        let files = &self.store.files;
        let is_alone = files.is_in_place("")
            && ["-wal", "-shm"].iter().all(|suffix| {
                files.is_in_place(suffix) || !with_suffix(&self.store.path, suffix).exists()
            });
        if !is_alone {
            return None;
        }
        match checkpoint::truncate(&self.store.conn) {
            Ok(true) => Some(format!("all events are in {}", self.store.path.display())),
            Ok(false) | Err(_) => None,
        }
    }

    /// Copies the database beside its old path, if there is room.
    fn rescue(&self, receiver: &Receiver<WriterMessage>) -> anyhow::Result<String> {
        let path = &self.store.path;
        let target = rescue::target_path(path);
        let saved = self.wait_for_free_space(receiver).and_then(|()| {
            rescue::copy(&self.store.conn, &target, &mut |_| {
                self.inputs.health.heartbeat();
                while let Ok(message) = receiver.try_recv() {
                    reject_message(message);
                }
                Ok(())
            })
        });
        self.remove_stale_wal(&target, saved.is_ok());
        saved.map(|()| {
            format!(
                "all events are saved in {}; stop what removes it, and see docs/database.md on how to \
                 go on",
                target.display()
            )
        })
    }

    /// # Errors
    /// There is not enough free space, and nobody freed any in time.
    fn wait_for_free_space(&self, receiver: &Receiver<WriterMessage>) -> anyhow::Result<()> {
        let path = &self.store.path;
        let needed = database_copy::needed_bytes(&self.store.conn)?;
        let (started_at, mut is_reported) = (Instant::now(), false);
        loop {
            let free = rescue::free_bytes(path)?;
            if free >= needed {
                return Ok(());
            }
            let (free_mib, needed_mib) = (free >> 20, (needed >> 20) + 1);
            let shortage =
                format!("{free_mib} MiB are free beside it, {needed_mib} MiB are needed");
            anyhow::ensure!(started_at.elapsed() < FREE_SPACE_TIMEOUT, "{shortage}");
            if !is_reported {
                log::error!(
                    "{}: {shortage}: make room within {} minutes, or its events are lost",
                    path.display(),
                    FREE_SPACE_TIMEOUT.as_secs() / 60
                );
                is_reported = true;
            }
            self.inputs.health.heartbeat();
            match receiver.recv_timeout(FREE_SPACE_INTERVAL) {
                Ok(message) => reject_message(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => anyhow::bail!("{shortage}"),
            }
        }
    }

    /// Removes the WAL of a replaced database. It belongs to the old file, but SQLite would apply
    /// it to the file that is now at the path. The WAL stays if the old file was only renamed and
    /// may come back.
    fn remove_stale_wal(&self, target: &Path, is_saved: bool) {
        let files = &self.store.files;
        let is_replaced = self.store.path.exists() && !files.is_in_place("");
        if !is_replaced {
            return;
        }
        let log = with_suffix(&self.store.path, "-wal");
        if files.is_in_place("-wal") {
            let backup: PathBuf = target.with_extension("wal");
            let _ = if is_saved { fs::remove_file(&log) } else { fs::rename(&log, backup) };
        }
        if files.is_in_place("-shm") {
            let _ = fs::remove_file(with_suffix(&self.store.path, "-shm"));
        }
    }
}

/// Replies to a message without writing it.
fn reject_message(message: WriterMessage) {
    if let WriterMessage::Write(WriteRequest::NewEvents(new_events, reply_queue)) = message {
        reply_queue.reject(new_events);
    }
}
