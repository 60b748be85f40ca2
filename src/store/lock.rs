//! One server owns one file: `NAME.lock` beside the database, locked while it lives.
//!
//! The kernel lets go of the lock with the process, so nothing has to be cleaned up after a crash.
//! The file holds the owner's process id, for whoever is turned away.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::OpenError;

/// Held by the one server of a database.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

fn path_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

impl Lock {
    /// Takes the lock of `database`.
    ///
    /// # Errors
    /// `OpenError::Owned`, naming the holder; or the lock file can't be written.
    pub fn take(database: &Path) -> Result<Self, OpenError> {
        let path = path_of(database);
        let options =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).clone();
        let mut file = options.open(&path).map_err(|e| {
            OpenError::Other(format!(
                "{}: can't be opened for writing ({e}): the server keeps its lock there; give it \
                 a folder that it may write to",
                path.display()
            ))
        })?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::Owned(format!(
                    "{}: owned by {}: one server owns one file; stop that one first",
                    database.display(),
                    holder(&mut file)
                )));
            }
            Err(TryLockError::Error(e)) => {
                return Err(OpenError::Other(format!("{}: can't be locked: {e}", path.display())));
            }
        }
        // Only for people: a lock without a readable pid still locks.
        let _ = file.set_len(0);
        let _ = writeln!(file, "{}", std::process::id());
        Ok(Self { _file: file })
    }

    /// Whether a server owns `database` now.
    pub fn is_taken(database: &Path) -> bool {
        File::open(path_of(database))
            .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let _ = file.read_to_string(&mut text);
    match text.trim().parse::<u32>() {
        Ok(pid) => format!("process {pid} ({})", super::name_of_process(pid)),
        Err(_) => "another process".to_owned(),
    }
}
