//! Says whether a server could lock and open a database, without doing so: nothing is created, locked or
//! migrated, except that SQLite makes its `-wal` and `-shm` to read a database.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::open_files::{resolve, with_suffix};
use super::{BUSY_TIMEOUT, file_system, io_error, migrate, rescue, write_lock_holder};

/// How often another program's lock is looked for: a command of a second holds it for a moment.
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// Why a server could not open a database, with the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartProblem {
    /// No server could.
    Any(String),
    /// This user could not now. Another user, or the unit of the server, may.
    ThisUser(String),
}

impl StartProblem {
    fn at(path: &Path, text: &str) -> Self {
        Self::Any(format!("{}: {text}", path.display()))
    }

    fn from_io(path: &Path, text: &str, error: &io::Error) -> Self {
        let text_of = |text| io_error(path, text, error).to_string();
        match error.kind() {
            ErrorKind::PermissionDenied => Self::ThisUser(text_of(text)),
            _ => Self::Any(text_of(text)),
        }
    }
}

/// Checks what a server needs of the database at `path`. `is_served`: a server of it runs.
///
/// # Errors
/// A server could not start, or would wait and respond 503.
pub fn check_start(path: &Path, is_served: bool) -> Result<(), StartProblem> {
    let any = |e: super::OpenError| StartProblem::Any(e.to_string());
    file_system::check(path).map_err(any)?;
    if !check_folder(path)? {
        return Ok(());
    }
    let database = resolve(path).map_err(|e| StartProblem::from_io(path, "cannot be found", &e))?;
    let found = fs::metadata(&database).ok();
    if let Some(text) = found.as_ref().and_then(migrate::find_wrong_type) {
        return Err(StartProblem::at(&database, text));
    }
    let folder = database.parent().unwrap_or(Path::new("/"));
    check_access(folder, Access::WRITE_OK | Access::EXEC_OK)?;
    if super::free_bytes(folder).is_ok_and(|free| free == 0) {
        let text = "the disk is full, and the server waits for space: free some";
        return Err(StartProblem::at(folder, text));
    }
    for suffix in ["", ".lock", "-wal", "-shm"] {
        let file = with_suffix(&database, suffix);
        if fs::symlink_metadata(&file).is_ok() {
            check_access(&file, Access::READ_OK | Access::WRITE_OK)?;
        }
        if suffix == ".lock" && file.is_dir() {
            let text = "is a folder, and the server keeps its lock there: remove it";
            return Err(StartProblem::at(&file, text));
        }
    }
    rescue::check_configured_path(path).map_err(any)?;
    if found.is_some_and(|found| found.len() > 0) {
        migrate::check_readable(&database).map_err(any)?;
    }
    match is_served {
        true => Ok(()),
        false => check_write_lock(&database),
    }
}

/// Checks the folder of the database. Returns false if the server would create it.
fn check_folder(path: &Path) -> Result<bool, StartProblem> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    for ancestor in folder.ancestors() {
        match fs::metadata(ancestor) {
            Ok(found) if !found.is_dir() => {
                return Err(StartProblem::at(ancestor, "is not a folder: change store.path"));
            }
            Ok(_) if ancestor == folder => return Ok(true),
            Ok(_) => {
                check_access(ancestor, Access::WRITE_OK | Access::EXEC_OK)?;
                return Ok(false);
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {
                // systemd creates the folder of `StateDirectory=` when it starts the unit.
                if ancestor.is_symlink() {
                    let text = "is a link to a folder that does not exist: create it";
                    let text = format!("{}: {text}", ancestor.display());
                    return Err(StartProblem::ThisUser(text));
                }
            }
            // A file is in the place of a folder, which is the next ancestor.
            Err(e) if e.kind() == ErrorKind::NotADirectory => {}
            Err(e) => {
                return Err(StartProblem::from_io(ancestor, "cannot be entered", &e));
            }
        }
    }
    Ok(false)
}

fn check_access(path: &Path, access: Access) -> Result<(), StartProblem> {
    accessat(CWD, path, access, AtFlags::EACCESS).map_err(|e| {
        let text = "cannot be written by this user: make it writable for the server's user";
        StartProblem::from_io(path, text, &e.into())
    })
}

/// Checks that no other program keeps the server from writing.
fn check_write_lock(database: &Path) -> Result<(), StartProblem> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    while let Some(holder) = write_lock_holder(database) {
        if Instant::now() > deadline {
            let text =
                format!("held by {holder}, and the server waits for it: end it, or let it finish");
            return Err(StartProblem::at(database, &text));
        }
        std::thread::sleep(LOCK_RETRY);
    }
    Ok(())
}
