//! Saves a database whose file was removed or replaced while the server had it open. The open
//! descriptors still reach its content until the process exits.
//!
//! The copy is made beside the old path (`database_copy`). The next start creates no new database beside it.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::database_copy::{
    OnStep, Replace, copy_pages, create_complete, dated_name, dated_prefix, folder, list_beside,
};
use super::open_files::resolve;
use super::{OpenError, files};
use crate::clock;

/// What follows the database's name in those of rescued files.
const LABEL: &str = ".rescued-";

/// Returns the path for a copy of `database`: `NAME.rescued-20261128T173000Z.db`.
pub fn target_path(database: &Path) -> PathBuf {
    folder(database).join(dated_name(&dated_prefix(database, LABEL), clock::wall_ms()))
}

/// Returns the files that an earlier server saved beside `database`, complete or not.
pub fn find_rescued(database: &Path) -> Vec<PathBuf> {
    let prefix = dated_prefix(database, LABEL);
    let is_rescued = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let part = [".db", ".part", ".wal"].iter().any(|end| name.ends_with(end));
        name.starts_with(&prefix) && part
    };
    list_beside(database).into_iter().filter(is_rescued).collect()
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
    let all = folder(database).join(dated_prefix(database, LABEL));
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
pub fn copy(conn: &Connection, target: &Path, on_step: OnStep<'_>) -> anyhow::Result<()> {
    create_complete(target, Replace::Allowed, |part| copy_pages(conn, part, on_step))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Durability;
    use crate::store::open;
    use crate::store::open_files::with_suffix;

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
        let mut on_step = |_| {
            steps += 1;
            Ok(())
        };
        copy(&store.conn, &target, &mut on_step).unwrap();
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
        assert!(copy(&store.conn, &target, &mut |_| Ok(())).is_err());
        assert!(!with_suffix(&target, ".part").exists());
    }
}
