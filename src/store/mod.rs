//! The trail on disk: all SQL is in this folder, and whoever else wants something asks here.
//!
//! `open` makes one connection that may write; `writer` runs it on its own thread. Everyone else
//! reads through `Readers`. The command line, which works beside a running server, changes the file
//! by short transactions of its own (`acts`), which the server notices by `data_version`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

pub mod acts;
pub mod alerts;
mod batch;
pub mod channel;
pub mod checkpoint;
pub mod claim;
pub mod events;
pub mod expand;
pub mod files;
pub mod handshakes;
mod insert;
pub mod jobs;
mod keys;
pub mod list;
mod lock;
mod migrate;
pub mod op;
pub mod read;
pub mod refusals;
pub mod registry;
pub mod replay;
pub mod rest;
pub mod sent;
mod sources;
pub mod state;
pub mod stats;
pub mod tally;
#[cfg(test)]
mod tests;
pub mod writer;

pub use lock::Lock;
pub use migrate::{open, open_beside, write_anchor};

use crate::clock::TrailClock;
use crate::config::Durability;

/// How long the writer waits for a foreign one before it answers 503.
pub const FOREIGN_WRITER_PATIENCE: Duration = Duration::from_secs(2);

/// Why a database can't be served.
#[derive(Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Another server owns it: exit 75.
    Owned(String),
    /// Anything else, with what to do about it: exit 1.
    Other(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Owned(text) | Self::Other(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for OpenError {}

/// A database that was checked, brought to this version, and may be written.
#[derive(Debug)]
pub struct Store {
    pub path: PathBuf,
    pub conn: Connection,
    pub clock: TrailClock,
    /// The file's own random name.
    pub trail: String,
}

/// Connections that only read; they never hold a snapshot longer than one question takes.
pub type Readers = r2d2::Pool<r2d2_sqlite::SqliteConnectionManager>;

/// A pool of at most `size` reading connections on `path`.
///
/// # Errors
/// The file can't be opened.
pub fn readers(path: &Path, size: u32) -> anyhow::Result<Readers> {
    let manager = r2d2_sqlite::SqliteConnectionManager::file(path)
        .with_flags(OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .with_init(|conn| {
            conn.busy_timeout(FOREIGN_WRITER_PATIENCE)?;
            // A reader that is the last to close would checkpoint, where somebody waits for it.
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            keep_plans(conn)?;
            conn.set_prepared_statement_cache_capacity(32);
            conn.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -1024;")
        });
    Ok(r2d2::Pool::builder()
        .max_size(size)
        .min_idle(Some(1))
        .test_on_check_out(false)
        .build(manager)?)
}

/// Sets what a writing connection must have, and reads it back: a pragma that is misspelt or not
/// supported is silently ignored by SQLite.
///
/// # Errors
/// A pragma that did not take, named.
pub fn set_pragmas(conn: &Connection, durability: Durability) -> anyhow::Result<()> {
    let synchronous = match durability {
        Durability::Full => 2,
        Durability::Normal => 1,
    };
    conn.busy_timeout(FOREIGN_WRITER_PATIENCE)?;
    // wal_autocheckpoint: checkpoint.rs does it, on another thread. journal_size_limit: what the
    // log is cut down to when it starts over. cell_size_check: a corrupt page is refused early.
    let wanted: [(&str, i64); 6] = [
        ("synchronous", synchronous),
        ("wal_autocheckpoint", 0),
        ("journal_size_limit", checkpoint::LOG_BYTES_KEPT),
        ("cache_size", -8192),
        ("temp_store", 2),
        ("cell_size_check", 1),
    ];
    for (name, value) in wanted {
        // Some of these answer with a row when they are set, some don't.
        conn.execute_batch(&format!("PRAGMA {name} = {value}"))?;
        let found: i64 = if name == "wal_autocheckpoint" || name == "journal_size_limit" {
            conn.query_row(&format!("PRAGMA {name} = {value}"), [], |row| row.get(0))?
        } else {
            conn.pragma_query_value(None, name, |row| row.get(0))?
        };
        anyhow::ensure!(found == value, "PRAGMA {name} is {found}: expected {value}");
    }
    let mode: String = conn.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    anyhow::ensure!(mode == "wal", "PRAGMA journal_mode is {mode:?}: expected \"wal\"");
    keep_plans(conn)?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Statements keep the plan they were prepared with. Else SQLite prepares one anew whenever a value is
/// bound that the plan may go by, such as that of a `LIMIT`: half the time of a claim.
fn keep_plans(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// Does all of `change` or nothing of it.
///
/// # Errors
/// What `change` gives, or the file can't be written.
pub fn in_transaction<T>(
    conn: &Connection,
    change: impl FnOnce(&Connection) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    conn.execute_batch("BEGIN IMMEDIATE")?;
    let done = change(conn).and_then(|done| {
        conn.execute_batch("COMMIT")?;
        Ok(done)
    });
    if done.is_err() && !conn.is_autocommit() {
        let _ = conn.execute_batch("ROLLBACK");
    }
    done
}

/// What an error of SQLite means for whoever has to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A sync failed: what is on disk is unknown, nothing more may be promised by this process.
    Sync,
    /// The file is damaged or was taken away: no use to go on.
    Damaged,
    /// Somebody else holds the write lock.
    Busy,
    /// It may go away: no space, a failed write.
    Passing,
    /// The operation's own fault.
    Own,
}

/// Sorts an error.
pub fn trouble(error: &rusqlite::Error) -> Trouble {
    const IOERR_FSYNC: i32 = rusqlite::ffi::SQLITE_IOERR_FSYNC;
    const IOERR_DIR_FSYNC: i32 = rusqlite::ffi::SQLITE_IOERR_DIR_FSYNC;
    let rusqlite::Error::SqliteFailure(code, _) = error else { return Trouble::Own };
    match (code.code, code.extended_code) {
        (_, IOERR_FSYNC | IOERR_DIR_FSYNC) => Trouble::Sync,
        (ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _) => Trouble::Damaged,
        (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _) => Trouble::Busy,
        (
            ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::ReadOnly
            | ErrorCode::CannotOpen
            | ErrorCode::OutOfMemory,
            _,
        ) => Trouble::Passing,
        _ => Trouble::Own,
    }
}

/// What a process is called, for messages.
pub fn name_of_process(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm"))
        .map_or_else(|_| "gone".to_owned(), |name| name.trim().to_owned())
}

/// Who else holds the write lock of `database`.
pub fn write_lock_holder(database: &Path) -> Option<String> {
    lock_holders(database, 120, 120).into_iter().next()
}

/// Who else holds a lock on one of these bytes of the `-shm` file: in WAL mode 120 is the writer's,
/// 123 to 127 are the readers' (<https://www.sqlite.org/walformat.html>).
fn lock_holders(database: &Path, from: u64, to: u64) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut shm = database.as_os_str().to_owned();
    shm.push("-shm");
    let Ok(found) = std::fs::metadata(&shm) else { return Vec::new() };
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let holder = |line: &str| -> Option<u32> {
        // "1: POSIX  ADVISORY  WRITE 1234 08:01:567 120 120"
        let fields: Vec<&str> = line.split_whitespace().filter(|field| *field != "->").collect();
        let [_, _, _, _, pid, file, first, last] = fields[..] else { return None };
        let first: u64 = first.parse().ok()?;
        let last: u64 = last.parse().unwrap_or(u64::MAX);
        let ours = file.rsplit(':').next()?.parse() == Ok(found.ino());
        let pid: u32 = pid.parse().ok()?;
        (ours && first <= to && from <= last && pid != std::process::id()).then_some(pid)
    };
    let mut pids: Vec<u32> = locks.lines().filter_map(holder).collect();
    pids.sort_unstable();
    pids.dedup();
    pids.iter().map(|&pid| format!("process {pid} ({})", name_of_process(pid))).collect()
}

/// The size of the log beside `database`, in bytes.
pub fn log_bytes(database: &Path) -> u64 {
    let mut log = database.as_os_str().to_owned();
    log.push("-wal");
    std::fs::metadata(log).map_or(0, |found| found.len())
}
