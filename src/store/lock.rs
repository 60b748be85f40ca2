//! The lock that lets one server own one database. The server locks the file itself, not its name,
//! so that a symbolic link, a hard link or a bind mount leads to the same lock.
//!
//! It is an open file description lock on a byte that SQLite does not use. Closing any other
//! descriptor of the file in this process drops SQLite's own locks
//! (<https://www.sqlite.org/howtocorrupt.html>, section 2.2). Therefore the lock's descriptor is
//! opened before SQLite opens the file, and never closed. The kernel releases the lock with the
//! process.
//!
//! `NAME.lock` beside the database is locked first. It holds the owner's process id and how its
//! last runs ended. It also keeps a second server away while the first one saves a database that
//! was removed.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read, Seek};
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::open_files::{FileId, resolve, with_suffix};
use super::run_record::{self, RunRecord, RunState, ServerInfo};
use super::{OpenError, file_system, files, rescue};
use crate::clock;

/// A server that is killed while it starts a command leaves a child, which holds the locks until it
/// becomes that command. A new server waits this long for the child, if the old server is gone.
const STALE_LOCK_GRACE: Duration = Duration::from_secs(5);
const RETRY_INTERVAL: Duration = Duration::from_millis(2);

/// The locked byte. It is behind the 512 bytes from 0x40000000 on, which SQLite locks.
const LOCKED_BYTE: i64 = 0x4000_0000 + 4096;

/// Returns whether a new database may be created at a path.
type CheckNew<'a> = &'a dyn Fn(&Path) -> Result<(), OpenError>;

/// The lock of a database, held until the process exits.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    id: FileId,
    name: File,
    _database: ManuallyDrop<File>,
    run: Mutex<RunRecord>,
}

impl Lock {
    /// Locks `database`, and creates an empty file if there is none.
    ///
    /// # Errors
    /// `InUse`, naming the holder; `Transient` if the file system is full or read-only; otherwise
    /// `Other` with a remedy.
    pub fn acquire(database: &Path) -> Result<Self, OpenError> {
        let lock = Self::acquire_after(database, &rescue::check_no_rescued)?;
        lock.record(RunState::Starting);
        Ok(lock)
    }

    /// Locks `database` for a command that replaces it. The record of the last server stays.
    ///
    /// # Errors
    /// As for `acquire`, but files that an earlier server rescued are no obstacle.
    pub fn acquire_to_restore(database: &Path) -> Result<Self, OpenError> {
        Self::acquire_after(database, &|_| Ok(()))
    }

    /// `check_new` is called before a file is created.
    fn acquire_after(database: &Path, check_new: CheckNew<'_>) -> Result<Self, OpenError> {
        let deadline = Instant::now() + STALE_LOCK_GRACE;
        file_system::check(database)?;
        let path = resolve(database).map_err(|e| io_error(database, "cannot be found", &e))?;
        let mut name = open_name(&path)?;
        wait_for_name(&mut name, &path, deadline)?;
        let (file, id) = wait_for_database(&path, deadline, check_new)?;
        let previous = RunRecord::parse(&read_text(&mut name));
        let run = Mutex::new(RunRecord::begin(previous.as_ref()));
        Ok(Self { path, id, name, _database: file, run })
    }

    /// Returns the path of the database without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the identity of the locked file.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Returns the record of the run that holds the lock.
    pub fn run(&self) -> RunRecord {
        self.run.lock().clone()
    }

    /// Restarts the run's clock, after a wait that does not count as a part of the run.
    pub fn restart_run(&self) {
        self.run.lock().started_boot_ms = clock::boot_ms();
        self.record(RunState::Starting);
    }

    /// Records what `hooktrail status` shows of this server.
    pub fn describe(&self, change: impl FnOnce(&mut ServerInfo)) {
        let mut run = self.run.lock();
        change(run.server.get_or_insert_default());
        self.write(&run);
    }

    /// Records problems that only the server knows. Does nothing before it is ready.
    pub fn record_problems(&self, problems: Vec<String>) {
        let mut run = self.run.lock();
        match &mut run.server {
            Some(info) if info.problems != problems => info.problems = problems,
            _ => return,
        }
        self.write(&run);
    }

    /// Records how far this run got, for the next one.
    pub fn record(&self, state: RunState) {
        let mut run = self.run.lock();
        *run = RunRecord { state, ..run.clone() };
        self.write(&run);
    }

    fn write(&self, run: &RunRecord) {
        let text = run.to_text();
        // An error is ignored: the lock works without a readable record. The text is written over
        // the old one, so that a full disk needs no block for it.
        if self.name.write_all_at(text.as_bytes(), 0).is_ok() {
            let _ = self.name.set_len(u64::try_from(text.len()).unwrap_or(0));
        }
    }
}

fn open_name(path: &Path) -> Result<File, OpenError> {
    let name = with_suffix(path, ".lock");
    files::open_or_create(&name).map_err(|e| {
        io_error(
            &name,
            "cannot be opened for writing: the server keeps its lock there; give it a folder that it may \
             write to",
            &e,
        )
    })
}

/// Locks `NAME.lock`. Waits while the holder is a child of a dead server.
fn wait_for_name(name: &mut File, path: &Path, deadline: Instant) -> Result<(), OpenError> {
    loop {
        match name.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => return Err(io_error(path, "cannot be locked", &e)),
        }
        let holder = run_record::pid(&read_text(name)).filter(|pid| is_alive(*pid));
        if holder.is_some() || Instant::now() > deadline {
            return Err(in_use_error(path, holder));
        }
        std::thread::sleep(RETRY_INTERVAL);
    }
}

/// Locks the database itself, which its owner may know by another name. Waits like `wait_for_name`.
fn wait_for_database(
    path: &Path,
    deadline: Instant,
    check_new: CheckNew<'_>,
) -> Result<(ManuallyDrop<File>, FileId), OpenError> {
    loop {
        let file = open_database(path, check_new)?;
        let id = FileId::from_metadata(
            &file.metadata().map_err(|e| io_error(path, "cannot be read", &e))?,
        );
        match lock_byte(&file) {
            // Another process may have replaced the file meanwhile.
            Ok(()) if FileId::at(path).ok() == Some(id) => return Ok((file, id)),
            Ok(()) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::PermissionDenied) => {}
            Err(e) => return Err(io_error(path, "cannot be locked", &e)),
        }
        // SQLite does not have this file open in this process yet.
        drop(ManuallyDrop::into_inner(file));
        let holder = super::database_holders(path).into_iter().next();
        if holder.is_some() || Instant::now() > deadline {
            return Err(in_use_error(path, holder));
        }
        std::thread::sleep(RETRY_INTERVAL);
    }
}

/// Opens the database for writing. Creates a new one only if `check_new` allows it.
fn open_database(path: &Path, check_new: CheckNew<'_>) -> Result<ManuallyDrop<File>, OpenError> {
    if rescue::is_missing(path) {
        check_new(path)?;
    }
    files::open_or_create(path).map(ManuallyDrop::new).map_err(|e| {
        io_error(
            path,
            "cannot be opened for writing: make the file, its -wal and -shm and their folder writable for \
             this user",
            &e,
        )
    })
}

/// Describes the exclusive lock of the byte.
fn describe_lock() -> libc::flock {
    // SAFETY: `flock` is plain data, for which zeros are a valid value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    (lock.l_start, lock.l_len) = (LOCKED_BYTE, 1);
    lock
}

/// Locks the byte for the open file description. A child after `fork` shares it.
fn lock_byte(file: &File) -> io::Result<()> {
    let lock = describe_lock();
    // SAFETY: the descriptor is open, and the kernel reads one `flock`, which lives until it returns.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The server that owns a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockHolder {
    /// `None` if this user can't read it.
    pub record: Option<RunRecord>,
}

impl LockHolder {
    /// Returns what the server recorded about itself when it was ready.
    pub fn info(&self) -> Option<&ServerInfo> {
        self.record.as_ref().and_then(|record| record.server.as_ref())
    }
}

/// Returns the server that owns the database, if one runs. Locks nothing. Leaves the database open: closing
/// it would drop the locks that SQLite holds in this process.
///
/// # Errors
/// The database exists and cannot be read.
pub fn find_lock_holder(database: &Path) -> io::Result<Option<LockHolder>> {
    let path = match resolve(database) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        path => path?,
    };
    let file = match File::open(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        file => ManuallyDrop::new(file?),
    };
    if !is_byte_locked(&file)? {
        return Ok(None);
    }
    let text = fs::read_to_string(with_suffix(&path, ".lock")).unwrap_or_default();
    Ok(Some(LockHolder { record: RunRecord::parse(&text) }))
}

/// Returns whether another open file description has locked the byte.
fn is_byte_locked(file: &File) -> io::Result<bool> {
    let mut lock = describe_lock();
    // SAFETY: the descriptor is open, and the kernel writes one `flock`, which lives until it returns.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } {
        0 => Ok(lock.l_type != libc::F_UNLCK as libc::c_short),
        _ => Err(io::Error::last_os_error()),
    }
}

fn in_use_error(path: &Path, holder: Option<u32>) -> OpenError {
    let named = holder.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid} ({})", super::process_name(pid)),
    );
    OpenError::InUse(format!(
        "{}: owned by {named}: one server owns one file; stop that one first",
        path.display(),
    ))
}

/// Turns an error of the file system into an `OpenError`: transient if free space or a writable
/// mount ends it.
pub fn io_error(path: &Path, text: &str, error: &io::Error) -> OpenError {
    let path = path.display();
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            OpenError::Transient(format!("{path}: the disk is full: free some space ({error})"))
        }
        ErrorKind::ReadOnlyFilesystem => OpenError::Transient(format!(
            "{path}: its file system is mounted read-only: mount it writable ({error})"
        )),
        _ => OpenError::Other(format!("{path}: {text} ({error})")),
    }
}

fn read_text(file: &mut File) -> String {
    let mut text = String::new();
    let _ = file.rewind();
    let _ = file.read_to_string(&mut text);
    text
}

/// Returns true if the process runs. A zombie holds no lock.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}
