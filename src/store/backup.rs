//! Backups: complete, checked copies of the database, made while a server writes to it.
//!
//! A backup has the content of one commit. It is read back before it gets its name, so a file with the name of a
//! backup is one. It needs no `-wal`, and can be read where nothing can be written.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rusqlite::{Connection, OpenFlags};

use super::Store;
use super::alerts::{AlertSignal, record_signal};
use super::backup_schedule::{self, ScheduleChange};
use super::database_copy::{
    OnStep, Replace, copy_pages, create_complete, dated_name, dated_prefix, find_damage, folder,
    leave_wal_mode, needed_bytes, part_path, sync,
};
use super::migrate::open_unused;
use super::open_files::{FileId, resolve, with_suffix};
use super::statements::Statements;
use super::transaction_end::write_directly;
use crate::clock;

/// The files of a server beside its database.
const SERVER_FILES: [&str; 6] = ["", "-wal", "-shm", "-journal", ".lock", ".reserve"];

/// A part of a backup that is older than this was left by a process that was killed.
const STALE_PART_S: i64 = 24 * 60 * 60;

/// A complete backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    pub file: PathBuf,
    pub bytes: u64,
    /// The highest id of an event in it, 0 if it has none.
    pub last_event: i64,
}

/// Copies the database to `target`, and checks the copy. `can_replace`: an existing file may be replaced, when the new
/// one is complete. `min_free_bytes`: the free space that a server on the same disk needs.
///
/// # Errors
/// There is not enough space, a read or a write failed, the copy is damaged, or `on_step` ended it. An existing
/// file is unchanged.
pub fn back_up(
    store: &Store,
    target: &Path,
    can_replace: bool,
    min_free_bytes: u64,
    on_step: OnStep<'_>,
) -> anyhow::Result<Backup> {
    // A symbolic link leads to the file that is written.
    let file = resolve(target)?;
    check_not_used(store, &file)?;
    check_not_used(store, &part_path(&file))?;
    anyhow::ensure!(can_replace || !file.exists(), "exists: name another file, or give --force");
    let needed = needed_bytes(&store.conn)?;
    check_free_space(store, &file, needed, min_free_bytes)?;
    let before = last_event(&store.conn)?;
    let database_folder = folder(&store.path);
    let is_low = |free: u64| free < min_free_bytes;
    let was_low = is_low(super::free_bytes(database_folder)?);
    let mut on_step = |progress| {
        // The server's WAL grows while the copy holds its snapshot.
        let free = super::free_bytes(database_folder)?;
        anyhow::ensure!(
            was_low || !is_low(free),
            "ended, because {} has only {} MiB free, less than store.min_free_space: free some space",
            database_folder.display(),
            free >> 20
        );
        on_step(progress)
    };
    let replace = if can_replace { Replace::Allowed } else { Replace::Forbidden };
    let last_event = create_complete(&file, replace, |part| {
        copy_pages(&store.conn, part, &mut on_step)?;
        leave_wal_mode(part)?;
        sync(part)?;
        check(part, before).context(
            "the copy is damaged: run `hooktrail verify`, because the database itself may be, or else use \
             another disk",
        )
    })?;
    let bytes = fs::metadata(&file)?.len();
    Ok(Backup { file: target.to_owned(), bytes, last_event })
}

/// Records that a backup could not be made, so that the server raises an alert.
///
/// # Errors
/// The write failed.
pub fn record_failure(store: &Store, detail: String) -> anyhow::Result<()> {
    let signal = AlertSignal::BackupFailed(detail);
    let ((), _) = write_directly(store, |tx, _| Ok(record_signal(tx, &signal)?))?;
    Ok(())
}

/// Expects backups from now on, before the first one is made: the backup itself then has the schedule.
///
/// # Errors
/// The write failed.
pub fn expect_backups(store: &Store, period_ms: i64) -> anyhow::Result<()> {
    let now_ms = store.clock.now_ms();
    let ((), _) =
        write_directly(store, |tx, _| Ok(backup_schedule::expect(tx.conn, now_ms, period_ms)?))?;
    Ok(())
}

/// Records a backup that began at this time of the database clock.
///
/// # Errors
/// The write failed.
pub fn record_backup(
    store: &Store,
    began_at_ms: i64,
    change: ScheduleChange,
) -> anyhow::Result<()> {
    let record = |conn: &Connection| backup_schedule::record(conn, began_at_ms, change);
    let ((), _) = write_directly(store, |tx, _| Ok(record(tx.conn)?))?;
    Ok(())
}

/// The path of a new backup of `database` in a folder: `hooktrail-20261129T101500Z.db`.
pub fn path_in(folder: &Path, database: &Path) -> PathBuf {
    folder.join(dated_name(&dated_prefix(database, "-"), clock::wall_ms()))
}

/// Removes all backups of the database in a folder but `newest` and the `keep` - 1 before it, and what killed processes
/// left. Returns the removed backups. Other files stay: those with other names, and backups of other databases.
///
/// # Errors
/// The folder cannot be read, or a file cannot be removed.
pub fn remove_old(
    folder: &Path,
    store: &Store,
    newest: &Path,
    keep: usize,
) -> std::io::Result<Vec<PathBuf>> {
    let prefix = dated_prefix(&store.path, "-");
    let mut backups = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some((time, end)) = name.strip_prefix(&prefix).and_then(|rest| rest.split_once('.'))
        else {
            continue;
        };
        match end {
            _ if !is_time(time) => {}
            "db" if path.file_name() != newest.file_name() && is_of(store, &path) => {
                backups.push(path);
            }
            "db.hooktrail.part" if is_stale(&path) => fs::remove_file(&path)?,
            _ => {}
        }
    }
    backups.sort();
    backups.truncate(backups.len().saturating_sub(keep.saturating_sub(1)));
    for backup in &backups {
        fs::remove_file(backup)?;
    }
    Ok(backups)
}

/// Whether a file is a backup of this database.
fn is_of(store: &Store, backup: &Path) -> bool {
    let sql = "SELECT value FROM meta WHERE name = 'database_id'";
    let id = open_unused(backup)
        .and_then(|conn| Ok(conn.query_row(sql, [], |row| row.get::<_, String>(0))?));
    id.is_ok_and(|id| id == store.database_id)
}

fn is_stale(part: &Path) -> bool {
    let oldest_s = clock::wall_ms() / 1000 - STALE_PART_S;
    fs::metadata(part).is_ok_and(|found| found.mtime() < oldest_s)
}

/// Whether a text has the form `20261129T101500Z`.
fn is_time(text: &str) -> bool {
    text.len() == 16
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        })
}

/// A backup must not replace a file that a server uses, or will use.
fn check_not_used(store: &Store, file: &Path) -> anyhow::Result<()> {
    let found = fs::metadata(file).ok();
    let id = found.as_ref().map(FileId::from_metadata);
    for suffix in SERVER_FILES {
        let used = with_suffix(&store.path, suffix);
        let is_used = file == used || (id.is_some() && FileId::at(&used).ok() == id);
        anyhow::ensure!(!is_used, "is a file of the database itself: name another one");
    }
    if let Some(found) = found {
        anyhow::ensure!(found.is_file(), "is no regular file: name another one");
        let is_served = super::find_lock_holder(file)?.is_some();
        anyhow::ensure!(!is_served, "is the database of a running server: name another file");
    }
    Ok(())
}

fn check_free_space(
    store: &Store,
    target: &Path,
    needed: u64,
    min_free_bytes: u64,
) -> anyhow::Result<()> {
    let folder = folder(target);
    let free = super::free_bytes(folder).with_context(|| format!("{}", folder.display()))?;
    let is_shared = fs::metadata(folder)?.dev() == fs::metadata(&store.path)?.dev();
    let kept = if is_shared { min_free_bytes } else { 0 };
    let (needed_mib, free_mib) = ((needed >> 20) + 1, free >> 20);
    anyhow::ensure!(
        free >= needed.saturating_add(kept),
        "needs {needed_mib} MiB, and {} has {free_mib} MiB free{}: free some space, or name a file on another \
         disk",
        folder.display(),
        if kept > 0 {
            format!(", of which the server needs {} (store.min_free_space)", kept >> 20)
        } else {
            String::new()
        }
    );
    Ok(())
}

/// Reads a copy back. Returns the highest id of an event in it.
fn check(part: &Path, events_before: i64) -> anyhow::Result<i64> {
    let conn = Connection::open_with_flags(part, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    if let Some(damage) = find_damage(&conn) {
        anyhow::bail!(damage);
    }
    let events = last_event(&conn)?;
    anyhow::ensure!(events >= events_before, "it ends at event {events}, before {events_before}");
    Ok(events)
}

fn last_event(conn: &Connection) -> rusqlite::Result<i64> {
    conn.value("SELECT coalesce(max(id), 0) FROM events", [])
}
