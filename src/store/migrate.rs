//! Opens the file: checks whose it is before anything is written, makes it where there is none, and
//! brings an older one to this version.
//!
//! A file of another program, of a newer Hooktrail, or damaged is refused and left as it was. Before
//! the first step of a migration a copy is kept beside it where there is room.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, params};

use super::{OpenError, Store, chunked_writes, files, open_files, rescue, set_pragmas};
use crate::clock::{self, ClockAnchor, MonotonicClock};
use crate::config::Durability;

const SCHEMA: &str = include_str!("../../schema.sql");

/// `PRAGMA application_id`: "Hktl".
const APPLICATION_ID: i64 = 0x486b_746c;

/// "HkTr": what builds before the first release wrote.
const PRE_RELEASE_APPLICATION_ID: i64 = 0x486b_5472;

/// A step from version n (its place, from 1) to the next.
pub(super) type Migration = fn(&Connection) -> rusqlite::Result<()>;

/// To add one: write the function, put it last here, make schema.sql what it leads to.
const MIGRATIONS: &[Migration] = &[];

/// The version that this program reads and writes.
const VERSION: i64 = version_after(MIGRATIONS);

const fn version_after(steps: &[Migration]) -> i64 {
    steps.len() as i64 + 1
}

/// What can't be changed without rewriting the file, and its measured values.
const FIXED: [(&str, i64); 2] = [("page_size", 4096), ("auto_vacuum", 2)];

/// Opens the database for writing. The caller holds its `Lock`, or writes only briefly.
///
/// # Errors
/// What was found and what to do; the file is then as it was.
pub fn open(path: &Path, durability: Durability) -> Result<Store, OpenError> {
    open_with_steps(path, durability, MIGRATIONS).map_err(|e| open_error_text(path, &e))
}

/// Opens the database, and brings an older one to the version that `steps` lead to.
pub(super) fn open_with_steps(
    path: &Path,
    durability: Durability,
    steps: &[Migration],
) -> anyhow::Result<Store> {
    let is_new = fs::metadata(path).map_or(true, |found| found.is_file() && found.len() == 0);
    if !is_new {
        check_application_id(path, version_after(steps))?;
    }
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, is_new);
    if is_new {
        // SQLite would create it by the umask. Nothing of it is open yet: closing loses no lock.
        drop(files::open_or_create(path)?);
    }
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(super::BUSY_TIMEOUT)?;
    if is_new || version_of(&conn)? == 0 {
        create(&conn, path)?;
    } else {
        // A copy that `VACUUM INTO` made is not in WAL mode.
        use_wal(&conn)?;
        migrate(&conn, path, steps)?;
    }
    set_pragmas(&conn, durability)?;
    opened(path, conn)
}

/// What is known of a database once it is open: also which files these are.
fn opened(path: &Path, conn: Connection) -> anyhow::Result<Store> {
    let (trail, anchor) = read_meta(&conn)?;
    let configured = path;
    let path = open_files::resolve(configured)?;
    let files = Arc::new(open_files::OpenFiles::new(&path, configured)?);
    Ok(Store { path, files, conn, clock: MonotonicClock::from_anchor(&anchor), database_id: trail })
}

/// Opens the database for a command that works beside a server, or without one: nothing is made and
/// nothing migrated, and the log is left to the server.
///
/// # Errors
/// What was found and what to do.
pub fn open_for_cli(path: &Path) -> Result<Store, OpenError> {
    let open = || {
        rescue::check_before(path)?;
        if !path.exists() {
            anyhow::bail!("there is no trail yet: start the server once");
        }
        check_application_id(path, VERSION)?;
        let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        let version = version_of(&conn)?;
        anyhow::ensure!(
            version == VERSION,
            "is of schema version {version}, not {VERSION}: start the server, which brings it up"
        );
        set_pragmas(&conn, Durability::Full)?;
        conn.busy_handler(Some(chunked_writes::busy_handler))?;
        opened(path, conn)
    };
    open().map_err(|e| open_error_text(path, &e))
}

/// Looks at the file by a connection that leaves no trace.
fn check_application_id(path: &Path, newest: i64) -> anyhow::Result<()> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.busy_timeout(super::BUSY_TIMEOUT)?;
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let id: i64 = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
    anyhow::ensure!(
        id != PRE_RELEASE_APPLICATION_ID,
        "was made by a pre-release build of Hooktrail, whose format this version does not read: name \
         a new file in store.path, and let the old build finish what is queued"
    );
    anyhow::ensure!(
        id == APPLICATION_ID || (id == 0 && tables == 0),
        "is a database of another program: name a file of Hooktrail's own in store.path"
    );
    let version = version_of(&conn)?;
    anyhow::ensure!(
        version <= newest,
        "is of schema version {version}, and this program knows up to {newest}: run the newer \
         hooktrail that wrote it"
    );
    anyhow::ensure!(
        !conn.is_readonly("main")?,
        "can't be written: make the file, its -wal and -shm and their folder writable for this user"
    );
    Ok(())
}

/// Views are for people and hold nothing: they are always those of this version.
fn views(conn: &Connection) -> rusqlite::Result<()> {
    for view in SCHEMA
        .split_inclusive(";\n")
        .filter_map(|text| text.find("CREATE VIEW ").map(|at| &text[at..]))
    {
        let name = view.split_whitespace().nth(2).unwrap_or_default();
        conn.execute_batch(&format!("DROP VIEW IF EXISTS {name}; {view}"))?;
    }
    Ok(())
}

fn version_of(conn: &Connection) -> rusqlite::Result<i64> {
    conn.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Makes the file in one transaction, and sees that its name is on disk too.
fn create(conn: &Connection, path: &Path) -> anyhow::Result<()> {
    for (pragma, value) in FIXED {
        conn.pragma_update(None, pragma, value)?;
    }
    use_wal(conn)?;
    conn.pragma_update(None, "synchronous", 2)?;
    let trail = hex::encode(clock::random::<8>()?);
    conn.execute_batch("BEGIN IMMEDIATE")?;
    conn.execute_batch(SCHEMA)?;
    conn.pragma_update(None, "application_id", APPLICATION_ID)?;
    conn.pragma_update(None, "user_version", VERSION)?;
    conn.execute("INSERT INTO meta VALUES ('trail', ?1)", [&trail])?;
    write_anchor(conn, &ClockAnchor::first())?;
    conn.execute_batch("COMMIT")?;
    check_fixed(conn)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    fs::File::open(folder.unwrap_or(Path::new(".")))?
        .sync_all()
        .context("its folder can't be synced")
}

fn use_wal(conn: &Connection) -> anyhow::Result<()> {
    let mode: String = conn.query_row("PRAGMA journal_mode = wal", [], |row| row.get(0))?;
    anyhow::ensure!(mode == "wal", "can't be used in WAL mode here (it stayed {mode:?})");
    Ok(())
}

fn check_fixed(conn: &Connection) -> anyhow::Result<()> {
    for (pragma, wanted) in FIXED {
        let found: i64 = conn.pragma_query_value(None, pragma, |row| row.get(0))?;
        anyhow::ensure!(found == wanted, "PRAGMA {pragma} is {found}: expected {wanted}");
    }
    Ok(())
}

fn migrate(conn: &Connection, path: &Path, steps: &[Migration]) -> anyhow::Result<()> {
    check_fixed(conn)?;
    let version = version_of(conn)?;
    if version == version_after(steps) {
        return Ok(());
    }
    // Before the copy: while another program holds the file, each try would make one.
    conn.execute_batch("BEGIN IMMEDIATE; ROLLBACK")?;
    let copy = back_up(conn, path, version)?;
    let migrated = run_steps(conn, path, version, steps);
    if let Err(e) = &migrated
        && matches!(open_error_text(path, e), OpenError::Passing(_))
        && let Some(copy) = copy
    {
        if !conn.is_autocommit() {
            let _ = conn.execute_batch("ROLLBACK");
        }
        // As long as the file is as it was, the next try needs the room more.
        if version_of(conn).is_ok_and(|now| now == version) {
            let _ = fs::remove_file(copy);
        }
    }
    migrated
}

fn run_steps(
    conn: &Connection,
    path: &Path,
    version: i64,
    steps: &[Migration],
) -> anyhow::Result<()> {
    for (step, from) in steps.iter().zip(1_i64..).skip(usize::try_from(version - 1)?) {
        conn.execute_batch("BEGIN IMMEDIATE")?;
        step(conn)
            .and_then(|()| views(conn))
            .with_context(|| format!("the step from schema version {from} failed"))?;
        conn.pragma_update(None, "user_version", from + 1)?;
        conn.execute_batch("COMMIT")?;
        log::info!("{}: brought from schema version {from} to {}", path.display(), from + 1);
    }
    Ok(())
}

/// Keeps the file as it was before the first step, where there is room twice over.
fn back_up(conn: &Connection, path: &Path, version: i64) -> anyhow::Result<Option<PathBuf>> {
    let copy = open_files::with_suffix(path, &format!(".v{version}"));
    let needed = fs::metadata(path)?.len() + super::log_bytes(path);
    let space = rustix::fs::statvfs(path)?;
    if space.f_bavail * space.f_frsize < needed * 2 {
        log::warn!("{}: no room to keep a copy before it is migrated", path.display());
        return Ok(None);
    }
    // Under another name until it is whole: half a copy would only take up the room.
    let part = open_files::with_suffix(&copy, ".part");
    let _ = fs::remove_file(&part);
    drop(files::open_or_create(&part)?);
    let copied = conn
        .execute("VACUUM INTO ?1", [part.to_string_lossy()])
        .map_err(anyhow::Error::from)
        .and_then(|_| Ok(fs::File::open(&part)?.sync_all()?))
        .and_then(|()| Ok(fs::rename(&part, &copy)?));
    if let Err(e) = copied {
        let _ = fs::remove_file(&part);
        return Err(e.context(format!("{} could not be written", copy.display())));
    }
    log::info!("{}: kept as it was in {}", path.display(), copy.display());
    Ok(Some(copy))
}

fn read_meta(conn: &Connection) -> anyhow::Result<(String, ClockAnchor)> {
    let mut value = conn.prepare("SELECT value FROM meta WHERE name = ?1")?;
    let trail = value.query_row(["trail"], |row| row.get(0))?;
    let anchor = ClockAnchor {
        database_ms: value.query_row(["clock_trail_ms"], |row| row.get(0))?,
        wall_ms: value.query_row(["clock_wall_ms"], |row| row.get(0))?,
        boot_ms: value.query_row(["clock_boot_ms"], |row| row.get(0))?,
        boot_id: value.query_row(["clock_boot_id"], |row| row.get(0))?,
    };
    Ok((trail, anchor))
}

/// Keeps a moment by all clocks, from which the next process carries on.
///
/// # Errors
/// The write failed.
pub fn write_anchor(conn: &Connection, anchor: &ClockAnchor) -> rusqlite::Result<()> {
    let mut set = conn.prepare_cached(
        "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
    )?;
    set.execute(params!["clock_trail_ms", anchor.database_ms])?;
    set.execute(params!["clock_wall_ms", anchor.wall_ms])?;
    set.execute(params!["clock_boot_ms", anchor.boot_ms])?;
    set.execute(params!["clock_boot_id", anchor.boot_id])?;
    Ok(())
}

/// Why a database cannot be served, as `path: what was found: what to do`; and whether that passes.
pub fn open_error_text(path: &Path, error: &anyhow::Error) -> OpenError {
    use rusqlite::ErrorCode as Code;
    if let Some(known) = error.downcast_ref::<OpenError>() {
        return known.clone();
    }
    let io = error.chain().find_map(|e| e.downcast_ref::<std::io::Error>());
    if let Some(passing @ OpenError::Passing(_)) = io.map(|e| super::io_error(path, "", e)) {
        return passing;
    }
    let failure = error.chain().find_map(|e| match e.downcast_ref::<rusqlite::Error>() {
        Some(rusqlite::Error::SqliteFailure(failure, _)) => Some(*failure),
        _ => None,
    });
    if let Some(failure) = failure
        && let Some(text) = passing(path, failure)
    {
        return OpenError::Passing(format!("{}: {text} ({error:#})", path.display()));
    }
    let remedy = match failure.map(|failure| failure.code) {
        Some(Code::NotADatabase) => "is not an SQLite database: name another file in store.path",
        Some(Code::DatabaseCorrupt) => {
            "is damaged: put a copy in its place and remove its -wal and -shm, or save what can \
             be read with `sqlite3 FILE .recover`"
        }
        Some(Code::ReadOnly) => {
            "can't be written: make the file, its -wal and -shm and their folder writable for \
             this user"
        }
        Some(Code::CannotOpen) => {
            "can't be opened: see that it is a file, and that this user may read and write it and \
             its folder"
        }
        _ => return OpenError::Other(format!("{}: {error:#}", path.display())),
    };
    OpenError::Other(format!("{}: {remedy} ({error:#})", path.display()))
}

/// What a failure is that passes without a change of the file or the configuration, and what ends it.
fn passing(path: &Path, failure: rusqlite::ffi::Error) -> Option<String> {
    use rusqlite::ErrorCode as Code;
    use rusqlite::ffi;
    const FAILED_WRITES: [i32; 3] =
        [ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_TRUNCATE, ffi::SQLITE_IOERR_SHMSIZE];
    match failure.code {
        Code::DatabaseBusy | Code::DatabaseLocked => {
            let holder = super::write_lock_holder(path);
            let holder = holder.as_deref().unwrap_or("another program");
            return Some(format!("held by {holder}: end it, or let it finish"));
        }
        Code::DiskFull => return Some("the disk is full: free some space".to_owned()),
        Code::SystemIoFailure | Code::ReadOnly | Code::CannotOpen => {}
        _ => return None,
    }
    let space = rustix::fs::statvfs(path.parent().unwrap_or(path)).ok()?;
    if space.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        Some("its file system is mounted read-only: mount it writable".to_owned())
    } else if space.f_bavail == 0 {
        Some("the disk is full: free some space".to_owned())
    } else if FAILED_WRITES.contains(&failure.extended_code) {
        Some(
            "can't be written: see that there is room for it, also by quotas and limits".to_owned(),
        )
    } else {
        None
    }
}
