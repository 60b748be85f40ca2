//! Copies of a database that other connections write meanwhile. A copy is made page by page from one snapshot.
//! It has a temporary name until it is complete and synced, because an incomplete one only takes up space.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::files;
use super::open_files::{FileId, with_suffix};
use crate::clock;

/// Pages between two calls of `on_step`: 4 MiB.
const STEP_PAGES: i32 = 1024;

/// Space that a copy needs in addition to its pages.
const SPARE_BYTES: u64 = 1 << 20;

/// A step is retried if another process that inspects the copy has locked it.
const LOCKED_PAUSE: Duration = Duration::from_millis(20);
const MAX_LOCKED_STEPS: u32 = 500;

/// How far a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyProgress {
    pub copied_pages: u64,
    pub pages: u64,
}

/// Called after each step of a copy. An error ends the copy.
pub type OnStep<'a> = &'a mut dyn FnMut(CopyProgress) -> anyhow::Result<()>;

/// Returns how many bytes a copy needs.
///
/// # Errors
/// The file cannot be read.
pub fn needed_bytes(conn: &Connection) -> rusqlite::Result<u64> {
    let pages: i64 = conn.pragma_query_value(None, "page_count", |row| row.get(0))?;
    let page_bytes: i64 = conn.pragma_query_value(None, "page_size", |row| row.get(0))?;
    Ok(u64::try_from(pages * page_bytes).unwrap_or(0) + SPARE_BYTES)
}

/// The folder of a file, `.` for a name without one.
pub(super) fn folder(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns the files in the folder of `database`, sorted.
pub(super) fn list_beside(database: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder(database)) else { return Vec::new() };
    let mut files: Vec<PathBuf> =
        entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    files.sort();
    files
}

/// Returns what the names of dated copies of a database begin with: `hooktrail.rescued-` with the label `.rescued-`.
pub(super) fn dated_prefix(database: &Path, label: &str) -> String {
    let stem = database.file_stem().unwrap_or_default().to_string_lossy();
    format!("{stem}{label}")
}

/// Returns the name of a copy of that time: `hooktrail.rescued-20261128T173000Z.db`.
pub(super) fn dated_name(prefix: &str, at_ms: i64) -> String {
    format!("{prefix}{}.db", clock::format_compact(at_ms))
}

/// The temporary name of a file until it is complete.
pub(super) fn part_path(target: &Path) -> PathBuf {
    with_suffix(target, ".hooktrail.part")
}

/// Whether a complete file may replace one that has its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replace {
    Allowed,
    Forbidden,
}

/// Creates a file with the content that `write` gives it at a temporary path. An existing file at `target` is
/// replaced at once, when the new one is complete.
///
/// # Errors
/// A write or a sync failed, another process writes the same file, or a file that must not be replaced has appeared.
/// The incomplete file is removed.
pub(super) fn create_complete<T>(
    target: &Path,
    replace: Replace,
    write: impl FnOnce(&Path) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let part = part_path(target);
    let locked = lock_part(&part)?;
    let written = write(&part).and_then(|result| {
        locked.sync_all()?;
        rename(&part, target, replace)?;
        Ok(result)
    });
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    let result = written?;
    sync(folder(target)).context("its folder could not be synced")?;
    Ok(result)
}

fn rename(part: &Path, target: &Path, replace: Replace) -> anyhow::Result<()> {
    if replace == Replace::Forbidden {
        match rustix::fs::renameat_with(CWD, part, CWD, target, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => anyhow::bail!("exists: name another file, or give --force"),
            // The file system does not know it.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                anyhow::ensure!(!target.exists(), "exists: name another file, or give --force");
            }
            Err(e) => return Err(std::io::Error::from(e).into()),
        }
    }
    Ok(fs::rename(part, target)?)
}

/// Creates an empty file, and locks it as long as it is open. A process that was killed may have left one.
fn lock_part(part: &Path) -> anyhow::Result<File> {
    let file = files::open_or_create(part)?;
    let is_locked =
        file.try_lock().is_ok() && FileId::at(part)? == FileId::from_metadata(&file.metadata()?);
    anyhow::ensure!(is_locked, "another process writes it: wait for its end");
    file.set_len(0)?;
    Ok(file)
}

/// Sets the journal mode of a copy.
pub(super) fn set_journal_mode(copy: &Connection, mode: &str) -> anyhow::Result<()> {
    let sql = format!("PRAGMA journal_mode = {mode}");
    let found: String = copy.query_row(&sql, [], |row| row.get(0))?;
    anyhow::ensure!(found == mode, "PRAGMA journal_mode is {found:?}: expected {mode:?}");
    Ok(())
}

/// Makes a file that can be read without its `-wal` and `-shm`.
pub(super) fn leave_wal_mode(part: &Path) -> anyhow::Result<()> {
    let conn = Connection::open_with_flags(part, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    set_journal_mode(&conn, "delete")
}

/// Reads all pages and indexes. Returns the first damage that SQLite finds.
pub(super) fn find_damage(copy: &Connection) -> Option<String> {
    let result = copy.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0));
    Some(result.unwrap_or_else(|e| e.to_string())).filter(|result| result != "ok")
}

pub(super) fn sync(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// Copies the content of `conn` into the empty file `to`. The caller syncs it.
///
/// # Errors
/// A read or a write failed, or `on_step` ended the copy.
pub(super) fn copy_pages(conn: &Connection, to: &Path, on_step: OnStep<'_>) -> anyhow::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut to = Connection::open_with_flags(to, flags)?;
    // No journal is needed: an incomplete copy is removed.
    to.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")?;
    // One snapshot: without it, another connection's commit restarts the copy.
    conn.execute_batch("BEGIN")?;
    let copied = copy_steps(conn, &mut to, on_step);
    let _ = conn.execute_batch("COMMIT");
    copied?;
    to.close().map_err(|(_, e)| e)?;
    Ok(())
}

fn copy_steps(conn: &Connection, to: &mut Connection, on_step: OnStep<'_>) -> anyhow::Result<()> {
    conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?;
    let backup = Backup::new(conn, to)?;
    let mut locked = 0;
    loop {
        let step = backup.step(STEP_PAGES)?;
        let progress = backup.progress();
        let pages = u64::try_from(progress.pagecount).unwrap_or(0);
        let copied_pages = pages.saturating_sub(u64::try_from(progress.remaining).unwrap_or(0));
        on_step(CopyProgress { copied_pages, pages })?;
        match step {
            StepResult::Done => return Ok(()),
            StepResult::More => {}
            _ => {
                locked += 1;
                anyhow::ensure!(locked < MAX_LOCKED_STEPS, "another process keeps it locked");
                std::thread::sleep(LOCKED_PAUSE);
            }
        }
    }
}
