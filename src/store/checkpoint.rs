//! Checkpoints: copying the log into the file, on a thread and a connection of their own, so that
//! no sender waits for one.
//!
//! SQLite's own way, a checkpoint within the commit that made the log long, costs the p99 of intake
//! (benches/README.md). Here a pass runs every `PASS` while something is written; when one got to
//! the end of a long log, the writer runs a last short one itself, after which the log starts over.
//! While a foreign reader holds a snapshot the log can't start over and grows: that is warned of.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use rusqlite::Connection;

use super::{ErrorKind, Store, classify};
use crate::config::Durability;

/// What the log's file is cut down to when it starts over.
pub const LOG_BYTES_KEPT: i64 = 64 << 20;

/// From this size on the log is warned of, and again each time it has doubled.
const LOG_BYTES_WARNED: u64 = 256 << 20;

/// Between two passes.
const PASS: Duration = Duration::from_millis(20);

/// From this length on the writer lets the log start over.
const LOG_PAGES_LONG: i64 = 10_000;

/// What the writer and the checkpointer tell each other.
#[derive(Debug, Default)]
pub struct CheckpointProgress {
    /// The last pass got to the end of a log of so many pages; 0: nothing to do for the writer.
    restart_pages: AtomicI64,
    written: AtomicBool,
}

/// The writer's end.
#[derive(Debug)]
pub struct CheckpointSignal {
    progress: Arc<CheckpointProgress>,
    wake: Sender<()>,
}

impl CheckpointSignal {
    /// After a commit.
    pub fn notify_commit(&self) {
        if !self.progress.written.swap(true, Ordering::Relaxed) {
            let _ = self.wake.try_send(());
        }
    }

    /// Whether the writer should run the pass after which the log starts over.
    pub fn should_restart_wal(&self) -> bool {
        self.progress.restart_pages.swap(0, Ordering::Relaxed) > LOG_PAGES_LONG
    }
}

/// Copies as much as can be without anybody waiting: how long the log is and how much of it is
/// copied, in pages.
///
/// # Errors
/// A failed read, write or sync.
pub fn passive(conn: &Connection) -> rusqlite::Result<(i64, i64)> {
    conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(1)?, row.get(2)?)))
}

/// Copies all and cuts the log to nothing; `false` where somebody is in the way.
///
/// # Errors
/// A failed read, write or sync.
pub fn truncate(conn: &Connection) -> rusqlite::Result<bool> {
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| Ok(row.get::<_, i64>(0)? == 0))
}

/// Starts the thread; it ends when the `Nudge` is dropped. `broken` is called when a sync failed;
/// `held` is told why the log grows.
///
/// # Errors
/// The connection or the thread can't be made.
pub fn start(
    store: &Store,
    durability: Durability,
    broken: impl Fn(&str) + Send + 'static,
    on_blocked: Sender<String>,
) -> anyhow::Result<(CheckpointSignal, JoinHandle<()>)> {
    let conn = Connection::open(&store.path)?;
    super::check_opened(&store.files)?;
    super::set_pragmas(&conn, durability)?;
    conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.busy_timeout(Duration::ZERO)?;
    let progress = Arc::new(CheckpointProgress::default());
    let (wake, woken) = bounded(1);
    let nudge = CheckpointSignal { progress: Arc::clone(&progress), wake };
    let warned_at = LOG_BYTES_WARNED;
    let mut passes =
        Checkpointer { conn, path: store.path.clone(), progress, warned_at, held: on_blocked };
    let thread = std::thread::Builder::new()
        .name("checkpoint".into())
        .spawn(move || passes.run(&woken, &broken))?;
    Ok((nudge, thread))
}

struct Checkpointer {
    conn: Connection,
    path: PathBuf,
    progress: Arc<CheckpointProgress>,
    warned_at: u64,
    held: Sender<String>,
}

impl Checkpointer {
    fn run(&mut self, woken: &Receiver<()>, broken: &dyn Fn(&str)) {
        while woken.recv().is_ok() {
            std::thread::sleep(PASS);
            self.progress.written.store(false, Ordering::Relaxed);
            match passive(&self.conn) {
                Ok((log, copied)) => {
                    let done = if copied == log { log } else { 0 };
                    self.progress.restart_pages.store(done, Ordering::Relaxed);
                    self.watch(log * 4096);
                }
                Err(e) => match classify(&e) {
                    ErrorKind::Sync => broken(&format!("a checkpoint could not be synced ({e})")),
                    ErrorKind::Busy => {}
                    _ => log::debug!("a checkpoint did not get through: {e}"),
                },
            }
        }
    }

    /// Warns of a log that grows because somebody holds a snapshot of the file.
    fn watch(&mut self, log_bytes: i64) {
        let bytes = u64::try_from(log_bytes).unwrap_or(0);
        if bytes >= self.warned_at {
            let found = super::readers_of(&self.path);
            let holder =
                if found.is_empty() { String::new() } else { format!(": {}", found.join(", ")) };
            let why = format!(
                "{}-wal: grew to {} MiB because a reader keeps the file open in one long \
                 transaction{holder}: end it, and the log shrinks",
                self.path.display(),
                bytes >> 20
            );
            log::warn!("{why}");
            // One that waits to be told says as much.
            let _ = self.held.try_send(why);
            self.warned_at = bytes * 2;
        } else if bytes < LOG_BYTES_WARNED / 2 {
            self.warned_at = LOG_BYTES_WARNED;
        }
    }
}
