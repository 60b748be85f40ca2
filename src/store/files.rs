//! Files and folders that hold webhooks. Their modes do not depend on the umask: the owner writes,
//! the group reads, and nobody else has access. SQLite gives `-wal` and `-shm` the mode of the
//! database.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::unistd::{Uid, User};

const FILE_MODE: u32 = 0o640;
const FOLDER_MODE: u32 = 0o750;

/// Opens a file for reading and writing, and creates it if there is none.
///
/// # Errors
/// The file can't be opened or created.
pub fn open_or_create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(FILE_MODE);
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            file.set_permissions(Permissions::from_mode(FILE_MODE))?;
            Ok(file)
        }
        // The file exists, or there is a symbolic link to the place where it will be.
        Err(e) if e.kind() == ErrorKind::AlreadyExists => options.create(true).open(path),
        Err(e) => Err(e),
    }
}

/// Creates a folder and those above it that are missing; existing ones keep their modes.
///
/// # Errors
/// A folder can't be created.
pub fn create_folder(folder: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = folder
        .ancestors()
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        .collect();
    for folder in missing.into_iter().rev() {
        match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
            // A group that the folder above passes on (setgid) is kept.
            Ok(()) => {
                let inherited = fs::metadata(folder)?.permissions().mode() & 0o7000;
                fs::set_permissions(folder, Permissions::from_mode(inherited | FOLDER_MODE))?;
            }
            Err(_) if folder.is_dir() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Returns the name that the system's user database has for a user id, or `uid 1234` if it has none.
pub fn user_name(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| format!("uid {uid}"), |user| user.name)
}
