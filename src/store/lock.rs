//! One server owns one file: `NAME.lock` beside the database, locked while it lives.
//!
//! The kernel lets go of the lock with the process, so nothing has to be cleaned up after a crash.
//! The file holds the owner's process id, for whoever is turned away.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{OpenError, files};

/// A server that was killed while it started a command leaves a child that holds the lock until it
/// becomes that command: so long is waited for it, when the server itself is gone.
const LAST_CHILD: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(2);

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
        let mut file = files::open_or_create(&path).map_err(|e| {
            OpenError::Other(format!(
                "{}: can't be opened for writing ({e}): the server keeps its lock there; give it \
                 a folder that it may write to",
                path.display()
            ))
        })?;
        let deadline = Instant::now() + LAST_CHILD;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(e)) => {
                    let path = path.display();
                    return Err(OpenError::Other(format!("{path}: can't be locked: {e}")));
                }
            }
            let holder = holder(&mut file);
            if holder.is_some_and(is_alive) || Instant::now() > deadline {
                let named = holder.map_or_else(
                    || "another process".to_owned(),
                    |pid| format!("process {pid} ({})", super::name_of_process(pid)),
                );
                return Err(OpenError::Owned(format!(
                    "{}: owned by {named}: one server owns one file; stop that one first",
                    database.display(),
                )));
            }
            std::thread::sleep(AGAIN);
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

/// The process that says it holds the lock.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    let _ = file.rewind();
    let _ = file.read_to_string(&mut text);
    text.trim().parse().ok()
}

/// What waits to be reaped holds nothing.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}
