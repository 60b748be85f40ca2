//! Puts a backup in the place of the database.
//!
//! The database is replaced by one rename, so that there is a complete one at each moment. Before that, the WAL of
//! the old one is copied into it and removed: SQLite would apply it to the new file. The old database stays
//! beside the new one.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::database_copy::{OnStep, copy_pages, create_complete, folder, sync};
use super::lock::Lock;
use super::migrate::{VERSION, find_unreadable, open_unused};
use super::open_files::with_suffix;
use super::statements::Statements;
use super::{checkpoint, database_copy, rescue};
use crate::clock;

/// The ids of events, jobs and outcomes continue this far above those of the backup. The lost database may have
/// given the ids between, and no id may stand for two things.
pub const SKIPPED_IDS: i64 = 1_000_000_000;

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    pub database: PathBuf,
    /// The highest id of an event in the backup, 0 if it has none.
    pub last_event: i64,
    /// Where the earlier database is now, if there was one.
    pub replaced: Option<PathBuf>,
}

/// Checks a backup, and puts a copy of it in the place of `database`. `can_replace`: an existing database may be
/// replaced.
///
/// # Errors
/// `InUse` if a server owns the database. It exists and must not be replaced. The backup is damaged, newer, or of
/// another program. A read or a write failed. The database is unchanged.
pub fn restore(
    backup: &Path,
    database: &Path,
    can_replace: bool,
    on_step: OnStep<'_>,
) -> anyhow::Result<Restored> {
    let from = open_backup(backup).with_context(|| format!("{}", backup.display()))?;
    super::files::create_folder(folder(database))?;
    let lock = Lock::acquire_to_restore(database)?;
    let database = lock.path().to_owned();
    let exists = !rescue::is_missing(&database);
    anyhow::ensure!(
        can_replace || !exists,
        "{}: exists: --force replaces it, and keeps it beside the new one",
        database.display()
    );
    anyhow::ensure!(
        !is_same_file(backup, &database),
        "{}: is the database itself: name a backup",
        backup.display()
    );
    let needed = database_copy::needed_bytes(&from)?;
    let free = super::free_bytes(folder(&database))?;
    anyhow::ensure!(
        free >= needed,
        "{}: the copy needs {} MiB, and {} MiB are free: free some space",
        database.display(),
        (needed >> 20) + 1,
        free >> 20
    );
    let last_event = from.value("SELECT event FROM counters", [])?;
    // The name of the copy must not be that of a database: it would be opened with the WAL of the old one.
    let copy = with_suffix(&database, ".restored");
    let copied = create_complete(&copy, |part| {
        copy_pages(&from, part, on_step)?;
        skip_ids(part)
    });
    copied.with_context(|| format!("{}", database.display()))?;
    let replaced = if exists { Some(keep(&database)?) } else { None };
    for suffix in ["-wal", "-shm"] {
        remove(&with_suffix(&database, suffix))?;
    }
    sync(folder(&database))?;
    fs::rename(&copy, &database)?;
    sync(folder(&database))?;
    Ok(Restored { database, last_event, replaced })
}

/// Opens a backup, and checks it.
fn open_backup(backup: &Path) -> anyhow::Result<Connection> {
    let conn = open_unused(backup)?;
    if let Some(reason) = find_unreadable(&conn, VERSION)? {
        anyhow::bail!("{}: name a backup that this program reads", reason.finding());
    }
    let result = conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0));
    let result: String = result.unwrap_or_else(|e| e.to_string());
    anyhow::ensure!(result == "ok", "is damaged: name another backup ({result})");
    Ok(conn)
}

fn is_same_file(backup: &Path, database: &Path) -> bool {
    let id = |path: &Path| super::open_files::FileId::at(path).ok();
    id(backup).is_some() && id(backup) == id(database)
}

/// Lets the ids of a copy continue above those of the lost database.
fn skip_ids(copy: &Path) -> anyhow::Result<()> {
    let conn = Connection::open_with_flags(copy, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let mode: String = conn.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0))?;
    anyhow::ensure!(mode == "delete", "PRAGMA journal_mode is {mode:?}: expected \"delete\"");
    conn.execute(
        "UPDATE counters SET event = event + ?1, job = job + ?1, attempt = attempt + ?1",
        [SKIPPED_IDS],
    )?;
    Ok(())
}

/// Copies the WAL of the old database into it. Returns false if the database is too damaged for that.
fn empty_wal(database: &Path) -> anyhow::Result<bool> {
    let emptied = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .and_then(|conn| {
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            conn.busy_timeout(super::BUSY_TIMEOUT)?;
            checkpoint::truncate(&conn)
        });
    match emptied {
        Ok(true) => Ok(true),
        Ok(false) => {
            let path = database.display();
            anyhow::bail!("{path}: another program reads or writes it: end that program first")
        }
        Err(_) => Ok(false),
    }
}

/// Gives the old database a second name, by which it stays. Afterwards, its WAL is not needed by its first name.
fn keep(database: &Path) -> anyhow::Result<PathBuf> {
    let is_whole = empty_wal(database)?;
    let stem = database.file_stem().unwrap_or_default().to_string_lossy();
    let mut at_ms = clock::wall_ms();
    let kept = loop {
        let time = clock::format_compact(at_ms);
        let kept = folder(database).join(format!("{stem}.replaced-{time}.db"));
        match fs::hard_link(database, &kept) {
            // A restore of the same second was killed.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => at_ms += 1000,
            linked => {
                linked.with_context(|| {
                    format!("{}: cannot be kept as {}", database.display(), kept.display())
                })?;
                break kept;
            }
        }
    };
    if !is_whole {
        let _ = fs::rename(with_suffix(database, "-wal"), with_suffix(&kept, "-wal"));
    }
    Ok(kept)
}

fn remove(file: &Path) -> std::io::Result<()> {
    match fs::remove_file(file) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
