//! Saves a database whose file was removed or replaced while the server had it open. The open
//! descriptors still reach its content until the process exits.
//!
//! The copy is made from one snapshot, page by page, beside the old path. It has a temporary name
//! until it is complete and synced. The next start creates no new database beside it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::open_files::{resolve, with_suffix};
use super::{OpenError, files};
use crate::clock;

/// Pages between two calls of `on_step`: 4 MiB.
const STEP_PAGES: i32 = 1024;

/// Space that the copy needs in addition to its pages.
const ROOM_SPARE_BYTES: u64 = 1 << 20;

/// A step is retried if another process that inspects the copy has locked it.
const LOCKED_PAUSE: Duration = Duration::from_millis(20);
const MAX_LOCKED_STEPS: u32 = 500;

/// Returns `NAME.rescued-`, the prefix of rescued files.
fn prefix(database: &Path) -> String {
    let stem = database.file_stem().unwrap_or_default().to_string_lossy();
    format!("{stem}.rescued-")
}

fn folder(database: &Path) -> &Path {
    database.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns the path for a copy of `database`: `NAME.rescued-20261128T173000Z.db`.
pub fn target_path(database: &Path) -> PathBuf {
    let seconds: String = clock::format_rfc3339(clock::wall_ms()).chars().take(19).collect();
    let compact = seconds.replace(['-', ':'], "");
    folder(database).join(format!("{}{compact}Z.db", prefix(database)))
}

/// Returns the files that an earlier server saved beside `database`, complete or not.
pub fn find_rescued(database: &Path) -> Vec<PathBuf> {
    let prefix = prefix(database);
    let Ok(entries) = fs::read_dir(folder(database)) else { return Vec::new() };
    let names = entries.filter_map(Result::ok).map(|entry| entry.path());
    let is_rescued = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let part = [".db", ".part", ".wal"].iter().any(|end| name.ends_with(end));
        name.starts_with(&prefix) && part
    };
    let mut found: Vec<PathBuf> = names.filter(is_rescued).collect();
    found.sort();
    found
}

/// Fails if a rescued file is beside a database that does not exist.
///
/// # Errors
/// An error that names the files and the remedy.
pub fn check_no_rescued(database: &Path) -> Result<(), OpenError> {
    let found = find_rescued(database);
    let Some(last) = found.last() else { return Ok(()) };
    let complete = found.iter().rfind(|path| path.extension().is_some_and(|end| end == "db"));
    let path = database.display();
    let what = match complete {
        Some(copy) => format!(
            "{copy} is beside it: an earlier server saved its events there when the file was removed. To \
             go on with them: mv {copy} {path}",
            copy = copy.display()
        ),
        None => format!(
            "{} is beside it: an earlier server ended before it had saved its events there",
            last.display()
        ),
    };
    let all = folder(database).join(prefix(database));
    Err(OpenError::Other(format!(
        "{path}: does not exist, and {what}. To begin without them: move {}* away",
        all.display()
    )))
}

/// Checks the configured path in the same way, before a server opens it.
///
/// # Errors
/// As for `check_no_rescued`.
pub fn check_configured_path(configured: &Path) -> Result<(), OpenError> {
    match resolve(configured) {
        Ok(path) if is_missing(&path) => check_no_rescued(&path),
        _ => Ok(()),
    }
}

/// Whether a server would create a new database at `path`. A start that failed leaves an empty file.
pub fn is_missing(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |found| found.is_file() && found.len() == 0)
}

/// Returns how many bytes a copy needs.
///
/// # Errors
/// The file cannot be read.
pub fn needed_bytes(conn: &Connection) -> rusqlite::Result<u64> {
    let pages: i64 = conn.pragma_query_value(None, "page_count", |row| row.get(0))?;
    let page_bytes: i64 = conn.pragma_query_value(None, "page_size", |row| row.get(0))?;
    Ok(u64::try_from(pages * page_bytes).unwrap_or(0) + ROOM_SPARE_BYTES)
}

/// Returns how many bytes are free for the copy. Creates the folder again if it was removed too.
///
/// # Errors
/// The folder cannot be created, or its file system reports no free space.
pub fn free_bytes(database: &Path) -> std::io::Result<u64> {
    let folder = folder(database);
    files::create_folder(folder)?;
    super::free_bytes(folder)
}

/// Copies the content of `conn` to `target`, and syncs it. Calls `on_step` every 4 MiB.
///
/// # Errors
/// A read, a write or a sync failed. The incomplete copy is removed.
pub fn copy(conn: &Connection, target: &Path, on_step: &mut dyn FnMut()) -> anyhow::Result<()> {
    create_complete(target, |part| copy_pages(conn, part, on_step))?;
    File::open(folder(target))?.sync_all().context("its folder could not be synced")
}

/// Creates a file with the content that `write` gives it. It has a temporary name until it is complete and
/// synced, because an incomplete one only takes up space.
pub(super) fn create_complete(
    target: &Path,
    write: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let part = with_suffix(target, ".part");
    let _ = fs::remove_file(&part);
    drop(files::open_or_create(&part)?);
    let written = write(&part)
        .and_then(|()| Ok(File::open(&part)?.sync_all()?))
        .and_then(|()| Ok(fs::rename(&part, target)?));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}

fn copy_pages(conn: &Connection, part: &Path, on_step: &mut dyn FnMut()) -> anyhow::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut to = Connection::open_with_flags(part, flags)?;
    // No journal is needed: an incomplete copy is removed, and `copy` syncs a complete one.
    to.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")?;
    // One snapshot: without it, another connection's commit restarts the copy.
    conn.execute_batch("BEGIN")?;
    let copied = copy_steps(conn, &mut to, on_step);
    let _ = conn.execute_batch("COMMIT");
    copied?;
    to.close().map_err(|(_, e)| e)?;
    Ok(())
}

fn copy_steps(
    conn: &Connection,
    to: &mut Connection,
    on_step: &mut dyn FnMut(),
) -> anyhow::Result<()> {
    conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?;
    let backup = Backup::new(conn, to)?;
    let mut locked = 0;
    loop {
        on_step();
        match backup.step(STEP_PAGES)? {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Durability;
    use crate::store::open;

    #[test]
    fn a_removed_database_is_saved_including_the_content_of_its_wal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        let store = open(&path, Durability::Full).unwrap();
        store.conn.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (7)").unwrap();
        for suffix in ["", "-wal", "-shm"] {
            fs::remove_file(with_suffix(&path, suffix)).unwrap();
        }
        let (target, mut steps) = (target_path(&path), 0);
        copy(&store.conn, &target, &mut || steps += 1).unwrap();
        assert!(steps > 0);
        let saved = Connection::open(&target).unwrap();
        let found = saved.query_row("SELECT x FROM t", [], |row| row.get::<_, i64>(0));
        assert_eq!(found, Ok(7));
        assert!(store.conn.is_autocommit());
    }

    #[test]
    fn a_new_database_is_rejected_only_beside_a_rescued_one_of_the_same_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        for name in ["other.rescued-1.db", "t.rescued-notes.txt", "t.db-wal"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(check_no_rescued(&path), Ok(()));
        let rescued = folder.path().join("t.rescued-20261128T173000Z.db");
        fs::write(&rescued, "").unwrap();
        let Err(OpenError::Other(text)) = check_no_rescued(&path) else {
            panic!("it was not rejected")
        };
        let told = format!("mv {} {}", rescued.display(), path.display());
        assert!(text.contains(&told), "{text}");
    }

    #[test]
    fn a_new_database_is_rejected_beside_an_incomplete_rescued_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        fs::write(folder.path().join("t.rescued-20261128T173000Z.db.part"), "").unwrap();
        let Err(OpenError::Other(text)) = check_no_rescued(&path) else {
            panic!("it was not rejected")
        };
        assert!(text.contains("ended before it had saved") && !text.contains("mv "), "{text}");
    }

    #[test]
    fn a_failed_copy_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        let store = open(&path, Durability::Full).unwrap();
        let target = target_path(&path);
        // A folder at the target path makes the rename fail.
        fs::create_dir(&target).unwrap();
        fs::write(target.join("x"), "").unwrap();
        assert!(copy(&store.conn, &target, &mut || {}).is_err());
        assert!(!with_suffix(&target, ".part").exists());
    }
}
