//! The files that the server has open, identified by device and inode. A thread notices when
//! another file takes their names.
//!
//! The thread compares them twice per second by stat(2). It never opens one, because closing a
//! descriptor of the database drops the locks that SQLite holds on it (see `lock`).

use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::handle::{Health, WriterHealth};

/// How often the files are compared. Together with the writer's `IDLE_INTERVAL` this is half of the
/// two seconds after which the server confirms no more events.
const PERIOD: Duration = Duration::from_millis(500);

/// Maximum number of symbolic links on the way to a database that does not exist yet.
const MAX_LINKS: usize = 40;

/// The identity of a file: its device and inode, independent of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// Returns the identity of the file that `metadata` describes.
    pub fn from_metadata(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    /// Returns the identity of the file at `path`. Follows symbolic links.
    ///
    /// # Errors
    /// The file does not exist, or its folder cannot be searched.
    pub fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::from_metadata(&fs::metadata(path)?))
    }
}

/// Appends `suffix` to `path`.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Returns the path of the database without symbolic links, also if the file does not exist yet.
/// SQLite names the `-wal` and `-shm` files after this path.
///
/// # Errors
/// The folder does not exist, or the links form a circle.
pub fn resolve(database: &Path) -> io::Result<PathBuf> {
    let mut path = database.to_owned();
    for _ in 0..MAX_LINKS {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.canonicalize()?,
            _ => Path::new(".").canonicalize()?,
        };
        let Some(name) = path.file_name() else { return path.canonicalize() };
        let here = folder.join(name);
        match fs::read_link(&here) {
            Ok(target) => path = folder.join(target),
            Err(_) => return Ok(here),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

/// A change of a file that the server has open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileChange {
    Removed(PathBuf),
    Replaced(PathBuf),
}

impl fmt::Display for FileChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Removed(path) => write!(f, "{}: was removed or moved away", path.display()),
            Self::Replaced(path) => write!(f, "{}: was replaced by another file", path.display()),
        }
    }
}

/// The database, its `-wal` and its `-shm`, as they were when the server opened them.
#[derive(Debug)]
pub struct OpenFiles {
    database: FileId,
    files: Vec<(PathBuf, FileId)>,
    change: OnceLock<FileChange>,
}

impl OpenFiles {
    /// Records the files of the database at `path`, which an open connection has read. `path` has
    /// no symbolic links. `configured` may have some, and they must keep leading to the same file
    /// too.
    ///
    /// # Errors
    /// The database does not exist.
    pub fn new(path: &Path, configured: &Path) -> io::Result<Self> {
        let database = FileId::at(path)?;
        let beside = ["-wal", "-shm"].map(|suffix| with_suffix(path, suffix));
        let mut files = vec![(path.to_owned(), database)];
        files.extend(
            beside.into_iter().filter_map(|path| FileId::at(&path).ok().map(|id| (path, id))),
        );
        if configured != path {
            files.push((configured.to_owned(), database));
        }
        Ok(Self { database, files, change: OnceLock::new() })
    }

    /// Returns the identity of the database itself.
    pub fn database(&self) -> FileId {
        self.database
    }

    /// Returns the first of the files that is no longer at its path. An inconclusive error, such as
    /// a folder that cannot be searched, is no change.
    pub fn compare(&self) -> Option<FileChange> {
        self.files.iter().find_map(|(path, id)| match FileId::at(path) {
            Ok(found) if found == *id => None,
            Ok(_) => Some(FileChange::Replaced(path.clone())),
            Err(e) if is_absent(&e) => Some(FileChange::Removed(path.clone())),
            Err(_) => None,
        })
    }

    /// Returns the first change that `check` found. It is permanent, because a removed file may
    /// come back with other content.
    pub fn change(&self) -> Option<&FileChange> {
        self.change.get()
    }

    /// Compares the files and records the first change.
    pub fn check(&self) -> Option<&FileChange> {
        if self.change.get().is_none()
            && let Some(change) = self.compare()
        {
            let _ = self.change.set(change);
        }
        self.change.get()
    }

    /// Returns true if the file with this suffix is still the one that was opened.
    pub(super) fn is_in_place(&self, suffix: &str) -> bool {
        let database = &self.files[0].0;
        let path = with_suffix(database, suffix);
        self.files.iter().any(|(known, id)| *known == path && FileId::at(&path).ok() == Some(*id))
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Starts the thread that compares the files. When one is gone, it sets `health` to `Broken` at
/// once. The writer checks equally often, and saves the content. The thread ends when the sender of
/// `stop` is dropped.
///
/// # Errors
/// The thread cannot be started.
pub fn watch(
    files: Arc<OpenFiles>,
    health: Arc<WriterHealth>,
    stop: Receiver<()>,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("file-watch".into()).spawn(move || {
        while stop.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
            if files.check().is_some() {
                health.set(Health::Broken);
                return;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_resolved_through_links_to_a_file_that_does_not_exist_yet() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        std::os::unix::fs::symlink("real.db", top.join("link.db")).unwrap();
        std::os::unix::fs::symlink("link.db", top.join("second.db")).unwrap();
        std::os::unix::fs::symlink("circle.db", top.join("circle.db")).unwrap();
        for name in ["real.db", "link.db", "second.db"] {
            assert_eq!(resolve(&top.join(name)).unwrap(), top.join("real.db"), "{name}");
        }
        assert!(resolve(&top.join("circle.db")).is_err());
        assert!(resolve(&top.join("absent/t.db")).is_err());
    }

    #[test]
    fn a_symbolic_link_that_leads_to_another_file_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("t.db"), folder.path().join("link.db"));
        for name in ["t.db", "other.db"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        std::os::unix::fs::symlink("t.db", &link).unwrap();
        let files = OpenFiles::new(&path, &link).unwrap();
        assert_eq!(files.compare(), None);
        fs::remove_file(&link).unwrap();
        assert_eq!(files.compare(), Some(FileChange::Removed(link.clone())));
        std::os::unix::fs::symlink("other.db", &link).unwrap();
        assert_eq!(files.compare(), Some(FileChange::Replaced(link)));
    }

    #[test]
    fn a_file_that_is_removed_or_replaced_is_noticed_and_a_changed_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        let log = with_suffix(&path, "-wal");
        for file in [&path, &log] {
            fs::write(file, "x").unwrap();
        }
        let files = OpenFiles::new(&path, &path).unwrap();
        fs::write(&path, "other content").unwrap();
        assert_eq!(files.compare(), None);
        fs::remove_file(&log).unwrap();
        assert_eq!(files.compare(), Some(FileChange::Removed(log)));
        fs::write(folder.path().join("new"), "y").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!(files.check(), Some(&FileChange::Replaced(path.clone())));
        fs::remove_file(&path).unwrap();
        assert_eq!(files.check(), Some(&FileChange::Replaced(path)), "the first is kept");
    }
}
