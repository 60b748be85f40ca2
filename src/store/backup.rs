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
use super::database_copy::{OnStep, copy_pages, create_complete, folder, needed_bytes, sync};
use super::open_files::with_suffix;
use super::statements::Statements;
use super::transaction_end::write_directly;
use crate::clock;

/// The files of a server beside its database.
const SERVER_FILES: [&str; 5] = ["", "-wal", "-shm", ".lock", ".reserve"];

/// A complete backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    pub file: PathBuf,
    pub bytes: u64,
    /// The highest id of an event in it, 0 if it has none.
    pub last_event: i64,
}

/// Copies the database to `target`, and checks the copy. An existing file is replaced when the new one is
/// complete. `min_free_bytes`: the free space that a server on the same disk needs.
///
/// # Errors
/// There is not enough space, a read or a write failed, the copy is damaged, or `on_step` ended it. An existing
/// file is unchanged.
pub fn back_up(
    store: &Store,
    target: &Path,
    min_free_bytes: u64,
    on_step: OnStep<'_>,
) -> anyhow::Result<Backup> {
    check_target(store, target)?;
    let needed = needed_bytes(&store.conn)?;
    check_free_space(store, target, needed, min_free_bytes)?;
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
    let last_event = create_complete(target, |part| {
        copy_pages(&store.conn, part, &mut on_step)?;
        leave_wal_mode(part)?;
        sync(part)?;
        check(part, before).context("the copy could not be read back: try again, or another disk")
    })?;
    let bytes = fs::metadata(target)?.len();
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

/// The path of a new backup of `database` in a folder: `hooktrail-20261129T101500Z.db`.
pub fn path_in(folder: &Path, database: &Path) -> PathBuf {
    let time = clock::format_compact(clock::wall_ms());
    folder.join(format!("{}{time}.db", prefix(database)))
}

/// `hooktrail-`, the prefix of backups in a folder.
fn prefix(database: &Path) -> String {
    format!("{}-", database.file_stem().unwrap_or_default().to_string_lossy())
}

/// Removes all backups of `database` in a folder but the newest `keep`, and what interrupted ones left. Returns
/// the removed backups. Other files stay.
///
/// # Errors
/// The folder cannot be read, or a file cannot be removed.
pub fn remove_old(folder: &Path, database: &Path, keep: usize) -> std::io::Result<Vec<PathBuf>> {
    let prefix = prefix(database);
    let mut backups = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(&prefix) else { continue };
        match rest.split_once('.') {
            Some((time, "db")) if is_time(time) => backups.push(path),
            Some((time, "db.part")) if is_time(time) => fs::remove_file(&path)?,
            _ => {}
        }
    }
    backups.sort();
    backups.truncate(backups.len().saturating_sub(keep));
    for backup in &backups {
        fs::remove_file(backup)?;
    }
    Ok(backups)
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

/// A backup must not replace a file that a server uses.
fn check_target(store: &Store, target: &Path) -> anyhow::Result<()> {
    let Ok(found) = fs::metadata(target) else { return Ok(()) };
    anyhow::ensure!(found.is_file(), "is no regular file: name another one");
    for suffix in SERVER_FILES {
        let used = fs::metadata(with_suffix(&store.path, suffix)).ok();
        let is_used =
            used.is_some_and(|used| (used.dev(), used.ino()) == (found.dev(), found.ino()));
        anyhow::ensure!(!is_used, "is a file of the database itself: name another one");
    }
    let is_served = super::find_lock_holder(target)?.is_some();
    anyhow::ensure!(!is_served, "is the database of a running server: name another file");
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

/// Makes a file that can be read without its `-wal` and `-shm`.
fn leave_wal_mode(part: &Path) -> anyhow::Result<()> {
    let conn = Connection::open_with_flags(part, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let mode: String = conn.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0))?;
    anyhow::ensure!(mode == "delete", "PRAGMA journal_mode is {mode:?}: expected \"delete\"");
    Ok(())
}

/// Reads a copy back. Returns the highest id of an event in it.
fn check(part: &Path, events_before: i64) -> anyhow::Result<i64> {
    let conn = Connection::open_with_flags(part, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let result: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    anyhow::ensure!(result == "ok", "{result}");
    let events = last_event(&conn)?;
    anyhow::ensure!(events >= events_before, "it ends at event {events}, before {events_before}");
    Ok(events)
}

fn last_event(conn: &Connection) -> rusqlite::Result<i64> {
    conn.value("SELECT event FROM counters", [])
}
