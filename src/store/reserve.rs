//! The disk reserve: space that the server holds in `NAME.reserve`, and releases when the disk is
//! full.
//!
//! On a full disk, a checkpoint cannot copy the WAL into the database, which has to grow for that,
//! and the WAL keeps its space. Releasing the reserve lets a checkpoint run, and outcomes of jobs
//! are written.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use super::files;
use super::open_files::with_suffix;

/// Size of the reserve, if there is enough free space.
const RESERVE_BYTES: u64 = 1 << 20;

/// A smaller reserve is useless.
const MIN_RESERVE_BYTES: u64 = 64 << 10;

/// The reserve takes at most 1/4 of the free space.
const PART_OF_FREE: u64 = 4;

const SUFFIX: &str = ".reserve";

/// Creates the reserve of `database` if there is none. `free_bytes` is the free space of its disk.
pub fn create(database: &Path, free_bytes: u64) {
    let bytes = (free_bytes / PART_OF_FREE).min(RESERVE_BYTES) & !4095;
    let path = with_suffix(database, SUFFIX);
    if bytes < MIN_RESERVE_BYTES || path.exists() {
        return;
    }
    // The reserve is optional: a file system that cannot allocate space has none.
    if let Err(e) = allocate(&path, bytes) {
        let _ = fs::remove_file(&path);
        log::debug!("{}: no reserve: {e}", path.display());
    }
}

fn allocate(path: &Path, bytes: u64) -> io::Result<()> {
    let file = files::open_or_create(path)?;
    Ok(fallocate(&file, FallocateFlags::empty(), 0, bytes)?)
}

/// Releases the reserve if the disk is almost full.
pub fn release_if_full(database: &Path) {
    if super::free_bytes(database).is_ok_and(|free| free < MIN_RESERVE_BYTES) {
        release(database);
    }
}

/// Releases the reserve. Returns whether there was one.
pub fn release(database: &Path) -> bool {
    let path = with_suffix(database, SUFFIX);
    let is_released = fs::remove_file(&path).is_ok();
    if is_released {
        log::warn!(
            "{}: the disk is full: removed the reserve, so that the server can write",
            path.display()
        );
    }
    is_released
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_takes_a_quarter_of_what_is_free_at_most_and_is_released_once() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("t.db");
        let size = || fs::metadata(with_suffix(&database, SUFFIX)).ok().map(|found| found.len());
        for (free, expected) in
            [(100 << 10, None), (1 << 20, Some(256 << 10)), (1 << 30, Some(1 << 20))]
        {
            create(&database, free);
            assert_eq!(size(), expected, "{free}");
            assert_eq!(release(&database), expected.is_some());
            assert!(!release(&database));
        }
    }
}
