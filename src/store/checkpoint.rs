//! Checkpoints copy the WAL into the database, on a separate thread and connection, so that
//! no request waits for one.
//!
//! SQLite's default runs a checkpoint within the commit that made the WAL long, which harms the p99
//! of intake (benches/README.md). Here a pass runs every `PASS` while something is written. When a
//! pass reaches the end of a long WAL, the writer runs a short last pass itself, after which the
//! WAL starts over. While another process holds a snapshot, the WAL cannot start over and grows;
//! the server warns of that.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use rusqlite::Connection;

use super::{ErrorKind, Store, classify};
use crate::config::Durability;

/// The size to which the WAL is cut when it starts over.
pub const WAL_BYTES_KEPT: i64 = 64 << 20;

/// From this size on the server warns of a growing WAL, and again each time its size has doubled.
pub const WAL_BYTES_WARNED: u64 = 256 << 20;

/// Time between two passes.
const PASS: Duration = Duration::from_millis(20);

/// From this number of pages on, the writer lets the WAL start over.
const WAL_PAGES_LONG: i64 = 10_000;

/// The state that the writer and the checkpoint thread share.
#[derive(Debug, Default)]
pub struct CheckpointProgress {
    /// Length of the WAL in pages, if the last pass reached its end; 0 if the writer has nothing to
    /// do.
    restart_pages: AtomicI64,
    written: AtomicBool,
}

/// The writer's side of the shared state.
#[derive(Debug)]
pub struct CheckpointSignal {
    progress: Arc<CheckpointProgress>,
    wake: Sender<()>,
}

impl CheckpointSignal {
    /// Must be called after each commit.
    pub fn notify_commit(&self) {
        if !self.progress.written.swap(true, Ordering::Relaxed) {
            let _ = self.wake.try_send(());
        }
    }

    /// Returns true if the writer should run the pass after which the WAL starts over.
    pub fn should_restart_wal(&self) -> bool {
        self.progress.restart_pages.swap(0, Ordering::Relaxed) > WAL_PAGES_LONG
    }
}

/// Copies as many pages as possible without making anybody wait. Returns the number of pages in the
/// WAL, and how many of them are copied.
///
/// # Errors
/// A failed read, write or sync.
pub fn passive(conn: &Connection) -> rusqlite::Result<(i64, i64)> {
    conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(1)?, row.get(2)?)))
}

/// Copies all pages and cuts the WAL to zero bytes. Returns false if another connection blocks
/// that.
///
/// # Errors
/// A failed read, write or sync.
pub fn truncate(conn: &Connection) -> rusqlite::Result<bool> {
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| Ok(row.get::<_, i64>(0)? == 0))
}

/// Starts the thread. It ends when the `CheckpointSignal` is dropped. It calls `broken` when a sync
/// fails, and sends the reason to `on_blocked` when the WAL grows.
///
/// # Errors
/// The connection or the thread cannot be created.
pub fn start(
    store: &Store,
    durability: Durability,
    on_sync_failure: impl Fn(&str) + Send + 'static,
    on_blocked: Sender<String>,
) -> anyhow::Result<(CheckpointSignal, JoinHandle<()>)> {
    let conn = Connection::open(&store.path)?;
    super::check_open_files(&store.files)?;
    super::set_pragmas(&conn, durability)?;
    conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.busy_timeout(Duration::ZERO)?;
    let progress = Arc::new(CheckpointProgress::default());
    let (wake, wake_receiver) = bounded(1);
    let signal = CheckpointSignal { progress: Arc::clone(&progress), wake };
    let warn_at_bytes = WAL_BYTES_WARNED;
    let mut checkpointer =
        Checkpointer { conn, path: store.path.clone(), progress, warn_at_bytes, on_blocked };
    let thread = std::thread::Builder::new()
        .name("checkpoint".into())
        .spawn(move || checkpointer.run(&wake_receiver, &on_sync_failure))?;
    Ok((signal, thread))
}

struct Checkpointer {
    conn: Connection,
    path: PathBuf,
    progress: Arc<CheckpointProgress>,
    warn_at_bytes: u64,
    on_blocked: Sender<String>,
}

impl Checkpointer {
    fn run(&mut self, wake_receiver: &Receiver<()>, on_sync_failure: &dyn Fn(&str)) {
        while wake_receiver.recv().is_ok() {
            std::thread::sleep(PASS);
            self.progress.written.store(false, Ordering::Relaxed);
            match passive(&self.conn) {
                Ok((log, copied)) => {
                    let done = if copied == log { log } else { 0 };
                    self.progress.restart_pages.store(done, Ordering::Relaxed);
                    self.warn_if_growing(log * 4096);
                }
                Err(e) => match classify(&e) {
                    ErrorKind::Sync => {
                        on_sync_failure(&format!("a checkpoint could not be synced ({e})"))
                    }
                    ErrorKind::Busy => {}
                    _ => log::debug!("a checkpoint failed: {e}"),
                },
            }
        }
    }

    /// Warns of a WAL that grows because another process holds a snapshot.
    fn warn_if_growing(&mut self, wal_bytes: i64) {
        let bytes = u64::try_from(wal_bytes).unwrap_or(0);
        if bytes >= self.warn_at_bytes {
            let found = super::snapshot_readers(&self.path);
            let holder =
                if found.is_empty() { String::new() } else { format!(": {}", found.join(", ")) };
            let message = format!(
                "{}-wal: grew to {} MiB because a reader keeps the file open in one long \
                 transaction{holder}: end it, and the WAL shrinks",
                self.path.display(),
                bytes >> 20
            );
            log::warn!("{message}");
            // If the channel is full, the message in it says the same.
            let _ = self.on_blocked.try_send(message);
            self.warn_at_bytes = bytes * 2;
        } else if bytes < WAL_BYTES_WARNED / 2 {
            self.warn_at_bytes = WAL_BYTES_WARNED;
        }
    }
}
