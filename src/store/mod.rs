//! The database. All SQL of the project is in this folder.
//!
//! `open` creates the connection that may write, and `writer` runs it on its own thread. Other
//! threads read through a `ReadPool`. The command line works beside a running server: it changes
//! the database in short, separate transactions (`audit`, `replay`), which the server notices by
//! `data_version`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{ErrorCode, OpenFlags};

pub mod alerts;
pub mod audit;
mod backfill;
pub mod backlog_task;
pub mod backup;
pub mod backup_schedule;
mod batch_insert;
mod block_index;
mod body_text;
mod bounded_log;
pub mod breaker;
pub mod checkpoint;
mod chunked_writes;
pub mod database_copy;
pub mod dead_job;
mod dead_job_retries;
pub mod dedupe;
pub mod deferrals;
pub mod deferred;
pub mod effects;
pub mod erasure;
pub mod event_jobs;
pub mod event_reads;
pub mod events;
mod expansions;
mod expired_keys;
mod failure_groups;
mod file_system;
pub mod files;
pub mod handle;
pub mod handshakes;
mod job_counts;
pub mod jobs;
pub mod key_lookup;
mod lock;
mod meta;
mod migrate;
mod minute_counts;
pub mod open_files;
pub mod operation;
mod page_gaps;
mod prefetched_jobs;
mod problem;
pub mod prune;
pub mod queries;
pub mod read_limit;
pub mod registry;
pub mod rejections;
pub mod replay;
pub mod rescue;
pub mod reserve;
pub mod restore;
pub mod retention;
mod row_budget;
mod run_record;
pub mod seal;
pub mod search;
pub mod selection;
pub mod send_lookup;
mod settled_job;
pub mod settlements;
pub mod source_counters;
mod sources;
mod start_check;
mod statements;
pub mod stats;
#[cfg(test)]
mod tests;
pub mod transaction_end;
pub mod user_query;
pub mod verify;
pub mod write_transaction;
pub mod writer;
pub mod writer_cache;

pub use file_system::UnsafeFileSystem;
pub use lock::{Lock, LockHolder, find_lock_holder, io_error};
pub use migrate::{Access, load_anchor, open, open_error_text, open_for_cli, write_anchor};
pub use run_record::{ReloadRecord, RunState, ServerInfo};
pub use rusqlite::types::Value;
pub use rusqlite::{Connection, Result};
pub use start_check::{StartProblem, check_start};

use crate::clock::MonotonicClock;
use crate::config::Durability;

/// How long the writer waits for another writer's lock before it responds 503.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// The reason why a database cannot be served, with a remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Another server owns the database: exit code 75.
    InUse(String),
    /// The condition may end without a restart, such as a full disk: the server waits.
    Transient(String),
    /// Any other error: exit code 1.
    Other(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::InUse(text) | Self::Transient(text) | Self::Other(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for OpenError {}

/// A database that is checked, migrated to this version, and open for writing.
#[derive(Debug)]
pub struct Store {
    /// The path without symbolic links.
    pub path: PathBuf,
    pub files: Arc<open_files::OpenFiles>,
    pub conn: Connection,
    pub clock: MonotonicClock,
    /// The random id of the database.
    pub database_id: String,
    /// What migrations left for later.
    backfills: Vec<backfill::Backfill>,
}

/// A pool of connections that only read. A connection holds a snapshot no longer than one query
/// takes.
pub type ReadPool = r2d2::Pool<r2d2_sqlite::SqliteConnectionManager>;

/// Creates a pool of at most `size` reading connections to the database of `store`. A connection
/// fails if another file has taken that path.
///
/// # Errors
/// The file cannot be opened.
pub fn read_pool(store: &Store, size: u32) -> anyhow::Result<ReadPool> {
    let files = Arc::clone(&store.files);
    let manager = r2d2_sqlite::SqliteConnectionManager::file(&store.path)
        .with_flags(OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .with_init(move |conn| {
            check_open_files(&files)?;
            conn.busy_timeout(BUSY_TIMEOUT)?;
            // The last connection to close runs a checkpoint by default, while a request waits for
            // it.
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            enable_query_planner_stability(conn)?;
            conn.set_prepared_statement_cache_capacity(32);
            body_text::register(conn)?;
            conn.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -1024;")
        });
    Ok(r2d2::Pool::builder()
        .max_size(size)
        .min_idle(Some(1))
        .test_on_check_out(false)
        .build(manager)?)
}

/// Checks that a connection, which was opened by path, has the files of the server open.
fn check_open_files(files: &open_files::OpenFiles) -> rusqlite::Result<()> {
    let Some(change) = files.compare() else { return Ok(()) };
    let moved = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_READONLY_DBMOVED);
    Err(rusqlite::Error::SqliteFailure(moved, Some(change.to_string())))
}

/// Sets the pragmas of a writing connection and reads them back, because SQLite silently ignores a
/// pragma that is misspelt or not supported.
///
/// # Errors
/// A pragma that has another value than the one set; the error names it.
pub fn set_pragmas(conn: &Connection, durability: Durability) -> anyhow::Result<()> {
    let synchronous = match durability {
        Durability::Full => 2,
        Durability::Normal => 1,
    };
    conn.busy_timeout(BUSY_TIMEOUT)?;
    // wal_autocheckpoint: checkpoint.rs runs checkpoints on another thread. journal_size_limit: the
    // size to which the WAL is cut when it starts over. cell_size_check: reports a corrupt page
    // early.
    let expected: [(&str, i64); 6] = [
        ("synchronous", synchronous),
        ("wal_autocheckpoint", 0),
        ("journal_size_limit", checkpoint::WAL_BYTES_KEPT),
        ("cache_size", -6144),
        ("temp_store", 2),
        ("cell_size_check", 1),
    ];
    for (name, value) in expected {
        // Some of these pragmas return a row when they are set, others do not.
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
    enable_query_planner_stability(conn)?;
    seal::register_functions(conn)?;
    body_text::register(conn)?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Enables SQLite's query planner stability guarantee: statements keep the plan that they were
/// prepared with. Without it SQLite prepares a statement again whenever a bound value may affect
/// the plan, such as that of a `LIMIT`. That takes half the time of a claim.
fn enable_query_planner_stability(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// Runs `change` in a transaction, and rolls back if it fails.
///
/// # Errors
/// The error of `change`, or of a failed write.
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

/// The kind of an SQLite error, by how the caller must react.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A sync failed. The content of the disk is unknown, so this process must not confirm anything
    /// more.
    Sync,
    /// The file is damaged or was removed. Retrying is useless.
    Damaged,
    /// Another process holds the write lock.
    Busy,
    /// The error may go away, such as a full disk or a failed write.
    Transient,
    /// The operation itself caused the error.
    Operation,
}

/// Classifies an error.
pub fn classify(error: &rusqlite::Error) -> ErrorKind {
    const IOERR_FSYNC: i32 = rusqlite::ffi::SQLITE_IOERR_FSYNC;
    const IOERR_DIR_FSYNC: i32 = rusqlite::ffi::SQLITE_IOERR_DIR_FSYNC;
    let rusqlite::Error::SqliteFailure(code, _) = error else { return ErrorKind::Operation };
    match (code.code, code.extended_code) {
        (_, IOERR_FSYNC | IOERR_DIR_FSYNC) => ErrorKind::Sync,
        (ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _) => ErrorKind::Damaged,
        (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _) => ErrorKind::Busy,
        (
            ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::ReadOnly
            | ErrorCode::CannotOpen
            | ErrorCode::OutOfMemory,
            _,
        ) => ErrorKind::Transient,
        _ => ErrorKind::Operation,
    }
}

/// Returns the name of a process, for messages.
pub fn process_name(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm"))
        .map_or_else(|_| "ended".to_owned(), |name| name.trim().to_owned())
}

/// Returns the other process that holds the write lock of `database`. In WAL mode the lock is byte
/// 120 of the `-shm` file (<https://www.sqlite.org/walformat.html>); otherwise it is in SQLite's
/// lock bytes of the database itself.
pub fn write_lock_holder(database: &Path) -> Option<String> {
    // /proc/locks is read in pieces, and can lack a lock if others come and go meanwhile.
    (0..LOCK_READS).find_map(|_| find_write_lock_holder(database))
}

/// How often /proc/locks is read before a lock counts as not held.
const LOCK_READS: usize = 5;

fn find_write_lock_holder(database: &Path) -> Option<String> {
    let holders = lock_holders(&shm(database), (120, 120), &["WRITE"]);
    let holders = holders.into_iter().chain(lock_holders(database, DATABASE_BYTES, &["WRITE"]));
    holders.map(describe_process).next()
}

/// Returns the other processes that read `database` now. WAL's read locks are bytes 123 to 127 of
/// the `-shm` file.
fn snapshot_readers(database: &Path) -> Vec<String> {
    lock_holders(&shm(database), (123, 127), &["READ", "WRITE"])
        .into_iter()
        .map(describe_process)
        .collect()
}

/// Returns the other processes that have `database` open with SQLite in WAL mode.
fn database_holders(database: &Path) -> Vec<u32> {
    lock_holders(database, DATABASE_BYTES, &["READ", "WRITE"])
}

/// The bytes of the database that SQLite locks (<https://www.sqlite.org/c3ref/io_methods.html>).
const DATABASE_BYTES: (u64, u64) = (0x4000_0000, 0x4000_0000 + 511);

fn shm(database: &Path) -> PathBuf {
    open_files::with_suffix(database, "-shm")
}

fn describe_process(pid: u32) -> String {
    format!("process {pid} ({})", process_name(pid))
}

/// Returns the other processes that hold a lock of these kinds on one of these bytes of `file`.
fn lock_holders(file: &Path, (from, to): (u64, u64), kinds: &[&str]) -> Vec<u32> {
    use std::os::unix::fs::MetadataExt;
    let Ok(found) = std::fs::metadata(file) else { return Vec::new() };
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let holder = |line: &str| -> Option<u32> {
        // "1: POSIX  ADVISORY  WRITE 1234 08:01:567 120 120"
        let fields: Vec<&str> = line.split_whitespace().filter(|field| *field != "->").collect();
        let [_, "POSIX", _, kind, pid, file, first, last] = fields[..] else { return None };
        let first: u64 = first.parse().ok()?;
        let last: u64 = last.parse().unwrap_or(u64::MAX);
        let is_match = file.rsplit(':').next()?.parse() == Ok(found.ino()) && kinds.contains(&kind);
        let pid: u32 = pid.parse().ok()?;
        (is_match && first <= to && from <= last && pid != std::process::id()).then_some(pid)
    };
    let mut pids: Vec<u32> = locks.lines().filter_map(holder).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Returns the size of the database's WAL, in bytes.
pub fn wal_bytes(database: &Path) -> u64 {
    let log = open_files::with_suffix(database, "-wal");
    std::fs::metadata(log).map_or(0, |found| found.len())
}

/// Returns the free space of the file system that holds `path`, in bytes.
///
/// # Errors
/// The path does not exist.
pub fn free_bytes(path: &Path) -> std::io::Result<u64> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let space = rustix::fs::statvfs(path)?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

/// Returns the size of the database without its write-ahead log, or `None` if there is no database.
pub fn database_bytes(database: &Path) -> Option<u64> {
    std::fs::metadata(database).ok().map(|found| found.len())
}
