//! Room on the disk that the server keeps for itself in `NAME.reserve`, and releases when the disk is full.
//!
//! On a full disk the log cannot be copied into the database, which has to grow for that, and the log
//! keeps the room that it takes. With the reserve released the log is copied and cut, and outcomes of jobs are written.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use super::files;
use super::open_files::with_suffix;

/// What is kept, where there is room enough.
const RESERVE_BYTES: u64 = 1 << 20;

/// Less is of no use.
const RESERVE_BYTES_MIN: u64 = 64 << 10;

/// At most this part of what is free.
const PART_OF_FREE: u64 = 4;

const SUFFIX: &str = ".reserve";

/// Makes the reserve of `database` where there is none. `free_bytes` is what is free on its disk.
pub fn keep(database: &Path, free_bytes: u64) {
    let bytes = (free_bytes / PART_OF_FREE).min(RESERVE_BYTES) & !4095;
    let path = with_suffix(database, SUFFIX);
    if bytes < RESERVE_BYTES_MIN || path.exists() {
        return;
    }
    // It is a precaution: a file system that cannot reserve has none.
    if let Err(e) = allocate(&path, bytes) {
        let _ = fs::remove_file(&path);
        log::debug!("{}: no reserve: {e}", path.display());
    }
}

fn allocate(path: &Path, bytes: u64) -> io::Result<()> {
    let file = files::open_or_create(path)?;
    Ok(fallocate(&file, FallocateFlags::empty(), 0, bytes)?)
}

/// Releases the reserve where hardly anything else is free.
pub fn release_if_full(database: &Path) {
    let free =
        rustix::fs::statvfs(database).map(|space| space.f_bavail.saturating_mul(space.f_frsize));
    if free.is_ok_and(|free| free < RESERVE_BYTES_MIN) {
        release(database);
    }
}

/// Gives the room back to the file system; whether there was any.
pub fn release(database: &Path) -> bool {
    let path = with_suffix(database, SUFFIX);
    let is_released = fs::remove_file(&path).is_ok();
    if is_released {
        log::warn!(
            "{}: removed, as the disk is full: the server made room for itself",
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
            keep(&database, free);
            assert_eq!(size(), expected, "{free}");
            assert_eq!(release(&database), expected.is_some());
            assert!(!release(&database));
        }
    }
}
