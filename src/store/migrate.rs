//! Opens the database: checks which program owns it before writing anything, creates it if there is
//! none, and migrates an older one to this version.
//!
//! A file of another program, of a newer Hooktrail, or a damaged one is rejected and left
//! unchanged. Before the first migration, a copy is made beside the file if there is space.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::backfill::{self, Backfill};
use super::{
    OpenError, Store, chunked_writes, database_copy, files, meta, open_files, rescue, set_pragmas,
};
use crate::clock::{self, ClockAnchor, MonotonicClock};
use crate::config::Durability;

const SCHEMA: &str = include_str!("../../schema.sql");

/// `PRAGMA application_id`: "Hktl".
const APPLICATION_ID: i64 = 0x486b_746c;

/// "HkTr": the id that builds before the first release wrote.
const PRE_RELEASE_APPLICATION_ID: i64 = 0x486b_5472;

/// A migration from version n (its position, from 1) to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Migration {
    /// Changes the schema, and rows of small tables, in one transaction before the server accepts events.
    pub change: fn(&Connection) -> rusqlite::Result<()>,
    /// Changes all rows of a large table, while the server runs.
    pub backfill: Option<Backfill>,
}

/// To add one: write the functions, append it here, and edit schema.sql to match the result.
pub(super) const MIGRATIONS: &[Migration] = &[
    Migration { change: add_clients, backfill: None },
    Migration { change: add_origin_keys_and_settlements, backfill: None },
];

/// Adds the subjects of client certificates to events. The rows of earlier events stay as they are.
fn add_clients(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch("ALTER TABLE events ADD COLUMN client TEXT")
}

/// Adds the keys of events from other machines, and the jobs whose end is reported. No earlier event has one, so the indexes are empty: SQLite reads the
/// rows for each of them once, without their overflow pages.
fn add_origin_keys_and_settlements(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(
        "ALTER TABLE events ADD COLUMN origin_key TEXT;
         CREATE INDEX events_origin_key ON events (origin_key) WHERE origin_key IS NOT NULL;
         CREATE INDEX events_origin_uid ON events (uid) WHERE origin_key IS NOT NULL;
         CREATE TABLE settlements (
           id INTEGER PRIMARY KEY AUTOINCREMENT,
           job INTEGER NOT NULL,
           event INTEGER NOT NULL,
           source INTEGER NOT NULL,
           handler INTEGER NOT NULL,
           item INTEGER,
           replay INTEGER,
           attempts INTEGER NOT NULL,
           ended_as INTEGER NOT NULL,
           at INTEGER NOT NULL,
           detail TEXT,
           uid BLOB NOT NULL,
           origin_key TEXT
         )",
    )
}

/// The version that this program reads and writes.
const VERSION: i64 = version_after(MIGRATIONS);

const fn version_after(steps: &[Migration]) -> i64 {
    steps.len() as i64 + 1
}

/// The pragmas that cannot be changed without rewriting the file, with their measured values.
const FIXED: [(&str, i64); 2] = [("page_size", 4096), ("auto_vacuum", 2)];

/// Opens the database for writing. The caller holds its `Lock`, or writes only briefly.
///
/// # Errors
/// The error names the problem and the remedy. The file is unchanged.
pub fn open(path: &Path, durability: Durability) -> Result<Store, OpenError> {
    open_with_steps(path, durability, MIGRATIONS).map_err(|e| open_error_text(path, &e))
}

/// Opens the database, and migrates an older one by `steps`.
pub(super) fn open_with_steps(
    path: &Path,
    durability: Durability,
    steps: &[Migration],
) -> anyhow::Result<Store> {
    let is_new = rescue::is_missing(path);
    if !is_new {
        anyhow::ensure!(
            !check_application_id(path, version_after(steps))?,
            "can't be written: make the file, its -wal and -shm and their folder writable for this user"
        );
    }
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, is_new);
    if is_new {
        // SQLite would create the file with a mode that depends on the umask. No connection is open
        // yet, so closing this descriptor drops no lock.
        drop(files::open_or_create(path)?);
    }
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(super::BUSY_TIMEOUT)?;
    if is_new || version_of(&conn)? == 0 {
        create(&conn, path)?;
    } else {
        // A copy made by `VACUUM INTO` is not in WAL mode.
        use_wal(&conn)?;
        migrate(&conn, path, steps)?;
    }
    set_pragmas(&conn, durability)?;
    let known = steps.iter().filter_map(|step| step.backfill);
    let backfills = backfill::list_pending(&conn, known)?;
    Ok(Store { backfills, ..build_store(path, conn)? })
}

/// Builds the `Store` of an open database, including the identity of its files.
fn build_store(path: &Path, conn: Connection) -> anyhow::Result<Store> {
    let (database_id, anchor) = read_meta(&conn)?;
    let configured = path;
    let path = open_files::resolve(configured)?;
    let files = Arc::new(open_files::OpenFiles::new(&path, configured)?);
    Ok(Store {
        path,
        files,
        conn,
        clock: MonotonicClock::from_anchor(&anchor),
        database_id,
        backfills: Vec::new(),
    })
}

/// The access that a command needs to the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// Opens the database for a command that works beside a server, or without one. Creates and
/// migrates nothing, and leaves the WAL to the server.
///
/// # Errors
/// The error names the problem and the remedy.
pub fn open_for_cli(path: &Path, access: Access) -> Result<Store, OpenError> {
    let open = || {
        rescue::check_configured_path(path)?;
        check_access(path, access)?;
        let is_readonly = check_application_id(path, VERSION)?;
        anyhow::ensure!(access == Access::Read || !is_readonly, not_allowed(path, access));
        let conn = open_without_checkpoint(path)?;
        check_version(&conn)?;
        let mode: String = conn.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
        anyhow::ensure!(
            mode == "wal",
            "is a copy that no server has opened yet: start the server once, or use `hooktrail verify FILE`"
        );
        set_pragmas(&conn, Durability::Full)?;
        chunked_writes::wait_as_cli(&conn)?;
        build_store(path, conn)
    };
    open().map_err(|e| match access {
        Access::Read => read_error(path, &e),
        Access::Write => open_error_text(path, &e),
    })
}

/// Opens the database for reading only, beside a server or without one. Creates nothing but SQLite's `-wal` and `-shm`.
///
/// # Errors
/// The error names the problem and the remedy.
pub(super) fn open_to_query(path: &Path) -> Result<Connection, OpenError> {
    let open = || {
        rescue::check_configured_path(path)?;
        check_access(path, Access::Read)?;
        check_application_id(path, VERSION)?;
        let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        conn.busy_timeout(super::BUSY_TIMEOUT)?;
        check_version(&conn)?;
        anyhow::Ok(conn)
    };
    open().map_err(|e| read_error(path, &e))
}

/// Returns true if this user may read the file at `path`.
pub(super) fn is_readable(path: &Path) -> bool {
    check_access(path, Access::Read).is_ok()
}

/// Checks that the database has the schema of this program.
pub(super) fn check_version(conn: &Connection) -> anyhow::Result<()> {
    let version = version_of(conn)?;
    anyhow::ensure!(
        version == VERSION,
        "is of schema version {version}, not {VERSION}: start the server once, which migrates it"
    );
    Ok(())
}

/// Turns an error of a command that only reads into one with a remedy.
fn read_error(path: &Path, error: &anyhow::Error) -> OpenError {
    match find_failure(error).map(|failure| failure.code) {
        // SQLite reads a database in WAL mode only beside its -wal and -shm. It creates them, or after
        // a crash restores them.
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen) => OpenError::Other(format!(
            "{}: can't be read without writing its -wal and -shm: start the server, or {} ({error})",
            path.display(),
            as_owner(path)
        )),
        _ => open_error_text(path, error),
    }
}

/// Returns what is wrong with a file that can't be a database because of its type.
pub(super) fn find_wrong_type(found: &fs::Metadata) -> Option<&'static str> {
    match (found.is_dir(), found.is_file()) {
        (true, _) => Some("is a folder: name a file in store.path"),
        (_, false) => Some("is no regular file: name another file in store.path"),
        _ => None,
    }
}

/// Checks that there is a database that this user may use.
fn check_access(path: &Path, access: Access) -> anyhow::Result<()> {
    let found = match fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) if e.kind() == ErrorKind::PermissionDenied => {
            anyhow::bail!(
                "is in a folder that user {} may not search: {}",
                this_user(),
                as_owner(path)
            )
        }
        found => Some(found?),
    };
    // A start that failed leaves an empty file.
    let Some(found) = found.filter(|found| !found.is_file() || found.len() > 0) else {
        anyhow::bail!("the database does not exist yet: start the server once");
    };
    if let Some(text) = find_wrong_type(&found) {
        anyhow::bail!(text);
    }
    let needed = match access {
        Access::Read => rustix::fs::Access::READ_OK,
        Access::Write => rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK,
    };
    match rustix::fs::access(path, needed) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::ACCESS) => anyhow::bail!(not_allowed(path, access)),
        Err(e) => Err(std::io::Error::from(e).into()),
    }
}

/// The error for a user who may not read or write the database.
fn not_allowed(path: &Path, access: Access) -> String {
    let verb = match access {
        Access::Read => "read",
        Access::Write => "write",
    };
    format!("user {} may not {verb} it: {}", this_user(), as_owner(path))
}

fn this_user() -> String {
    files::user_name(rustix::process::geteuid().as_raw())
}

/// The remedy: to run the command as the user who owns the database.
fn as_owner(path: &Path) -> String {
    match fs::metadata(path) {
        Ok(found) => {
            let owner = files::user_name(found.uid());
            format!("run this command as {owner}, such as `sudo -u {owner} hooktrail …`")
        }
        Err(_) => "run this command as the user of the server".to_owned(),
    }
}

/// Why this version does not read a database.
enum Unreadable {
    PreRelease,
    OtherProgram,
    Newer { version: i64, known: i64 },
}

impl Unreadable {
    fn finding(&self) -> String {
        match self {
            Self::PreRelease => {
                "was created by a pre-release build of Hooktrail, whose format this version does \
                 not read"
                    .to_owned()
            }
            Self::OtherProgram => "is a database of another program".to_owned(),
            Self::Newer { version, known } => {
                format!("is of schema version {version}, and this program knows up to {known}")
            }
        }
    }

    /// What to do if `store.path` names the file `path`.
    fn remedy(&self, path: &Path) -> String {
        match self {
            Self::PreRelease => {
                "name a new file in store.path, and let the old build finish its queued jobs"
                    .to_owned()
            }
            Self::OtherProgram => "name a file of Hooktrail's own in store.path".to_owned(),
            Self::Newer { known, .. } => {
                let run = "run the newer hooktrail that wrote it".to_owned();
                let copies = (1..=*known).rev().map(|version| copy_before_migration(path, version));
                match copies.into_iter().find(|copy| copy.is_file()) {
                    Some(copy) => format!(
                        "{run}, or go back to the copy from before its migration, without what arrived since: \
                         `hooktrail restore --force {}`",
                        copy.display()
                    ),
                    None => run,
                }
            }
        }
    }
}

/// Checks that this version could open and migrate the file. Changes nothing.
pub(super) fn check_readable(path: &Path) -> Result<(), OpenError> {
    let check = || {
        check_application_id(path, VERSION)?;
        let conn = open_without_checkpoint(path)?;
        if version_of(&conn)? > 0 {
            check_fixed(&conn)?;
            read_meta(&conn)?;
        }
        anyhow::Ok(())
    };
    check().map_err(|e| open_error_text(path, &e))
}

/// Opens a database that no server uses, to read it. It may be where nothing can be written. No file is created
/// beside it, unless its WAL has content that SQLite must read.
///
/// # Errors
/// It does not exist, is served, or is no complete SQLite database.
pub(super) fn open_unused(path: &Path) -> anyhow::Result<Connection> {
    let found = match fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => anyhow::bail!("does not exist"),
        found => found?,
    };
    anyhow::ensure!(found.is_file() && found.len() > 0, "is no SQLite database");
    let is_served = super::find_lock_holder(path)?.is_some();
    anyhow::ensure!(!is_served, "a server uses it: make a copy with `hooktrail backup`");
    let conn = if super::wal_bytes(path) > 0 {
        let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        conn
    } else {
        let path = path.canonicalize()?;
        let encoded = percent_encode(path.as_os_str().as_bytes(), URI_ESCAPES);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        Connection::open_with_flags(format!("file:{encoded}?immutable=1"), flags)?
    };
    let opened = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
    opened.context("is no complete SQLite database")?;
    Ok(conn)
}

/// Checks that a database is one of Hooktrail, of a version that this program reads, and undamaged.
pub(super) fn check_backup(conn: &Connection) -> anyhow::Result<()> {
    check_is_ours(conn)?;
    if let Some(damage) = database_copy::find_damage(conn) {
        anyhow::bail!("is damaged: name another backup ({damage})");
    }
    Ok(())
}

/// Checks that a database is one of Hooktrail, of a version that this program reads.
pub(super) fn check_is_ours(conn: &Connection) -> anyhow::Result<()> {
    if let Some(reason) = find_unreadable(conn, VERSION)? {
        anyhow::bail!("{}: name a backup that this program reads", reason.finding());
    }
    anyhow::ensure!(version_of(conn)? > 0, "is an empty database: name a backup");
    Ok(())
}

/// The characters that have a meaning in a `file:` URI (<https://www.sqlite.org/uri.html>).
const URI_ESCAPES: &AsciiSet = &CONTROLS.add(b'%').add(b'?').add(b'#');

/// Opens an existing database, and leaves its WAL to the server when the connection closes.
fn open_without_checkpoint(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.busy_timeout(super::BUSY_TIMEOUT)?;
    Ok(conn)
}

/// Inspects the file through a connection that leaves no trace. Returns whether this user can only read
/// it.
fn check_application_id(path: &Path, max_version: i64) -> anyhow::Result<bool> {
    let conn = open_without_checkpoint(path)?;
    if let Some(reason) = find_unreadable(&conn, max_version)? {
        anyhow::bail!("{}: {}", reason.finding(), reason.remedy(path));
    }
    Ok(conn.is_readonly("main")?)
}

/// Returns why this version does not read a database.
fn find_unreadable(conn: &Connection, max_version: i64) -> rusqlite::Result<Option<Unreadable>> {
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let id: i64 = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version = version_of(conn)?;
    if id == PRE_RELEASE_APPLICATION_ID {
        return Ok(Some(Unreadable::PreRelease));
    }
    if id != APPLICATION_ID && (id != 0 || tables > 0) {
        return Ok(Some(Unreadable::OtherProgram));
    }
    // Builds before 0.1.0 changed the schema without a new version.
    let is_early = version == 1
        && conn.query_row(
            "SELECT NOT EXISTS (SELECT 1 FROM meta WHERE name = 'database_id')
               OR NOT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'job_blocks')
               OR NOT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'deferred_events_dedupe')
               OR NOT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'failure_groups')",
            [],
            |row| row.get(0),
        )?;
    if is_early {
        return Ok(Some(Unreadable::PreRelease));
    }
    Ok((version > max_version).then_some(Unreadable::Newer { version, known: max_version }))
}

/// Creates the views of this version. They hold no data.
fn recreate_views(conn: &Connection) -> rusqlite::Result<()> {
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

/// Creates the database in one transaction, and syncs its folder.
fn create(conn: &Connection, path: &Path) -> anyhow::Result<()> {
    for (pragma, value) in FIXED {
        conn.pragma_update(None, pragma, value)?;
    }
    use_wal(conn)?;
    conn.pragma_update(None, "synchronous", 2)?;
    let database_id = hex::encode(clock::random::<8>()?);
    conn.execute_batch("BEGIN IMMEDIATE")?;
    conn.execute_batch(SCHEMA)?;
    conn.pragma_update(None, "application_id", APPLICATION_ID)?;
    conn.pragma_update(None, "user_version", VERSION)?;
    meta::set(conn, "database_id", &database_id)?;
    write_anchor(conn, &ClockAnchor::first())?;
    conn.execute_batch("COMMIT")?;
    check_fixed(conn)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    fs::File::open(folder.unwrap_or(Path::new(".")))?
        .sync_all()
        .context("its folder cannot be synced")
}

fn use_wal(conn: &Connection) -> anyhow::Result<()> {
    let mode: String = conn.query_row("PRAGMA journal_mode = wal", [], |row| row.get(0))?;
    anyhow::ensure!(mode == "wal", "can't be used in WAL mode here (it stayed {mode:?})");
    Ok(())
}

fn check_fixed(conn: &Connection) -> anyhow::Result<()> {
    for (pragma, expected) in FIXED {
        let found: i64 = conn.pragma_query_value(None, pragma, |row| row.get(0))?;
        anyhow::ensure!(found == expected, "PRAGMA {pragma} is {found}: expected {expected}");
    }
    Ok(())
}

fn migrate(conn: &Connection, path: &Path, steps: &[Migration]) -> anyhow::Result<()> {
    check_fixed(conn)?;
    let version = version_of(conn)?;
    if version == version_after(steps) {
        return Ok(());
    }
    // The lock is tested before the copy: while another program holds it, each attempt would make
    // one.
    conn.execute_batch("BEGIN IMMEDIATE; ROLLBACK")?;
    let copy = back_up(conn, path, version)?;
    let migrated = run_steps(conn, path, version, steps);
    if let Err(e) = &migrated
        && matches!(open_error_text(path, e), OpenError::Transient(_))
        && let Some(copy) = copy
    {
        if !conn.is_autocommit() {
            let _ = conn.execute_batch("ROLLBACK");
        }
        // If the file is unchanged, the next attempt needs the space more than the copy.
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
        (step.change)(conn)
            .and_then(|()| {
                step.backfill.iter().try_for_each(|backfill| backfill::register(conn, backfill))
            })
            .and_then(|()| recreate_views(conn))
            .with_context(|| format!("the migration from schema version {from} failed"))?;
        conn.pragma_update(None, "user_version", from + 1)?;
        conn.execute_batch("COMMIT")?;
        log::info!("{}: migrated from schema version {from} to {}", path.display(), from + 1);
    }
    Ok(())
}

/// The copy of a database that a migration from `version` makes first.
fn copy_before_migration(path: &Path, version: i64) -> PathBuf {
    open_files::with_suffix(path, &format!(".v{version}"))
}

/// Copies the file before the first migration, if there is space for two copies.
fn back_up(conn: &Connection, path: &Path, version: i64) -> anyhow::Result<Option<PathBuf>> {
    let copy = copy_before_migration(path, version);
    let needed = fs::metadata(path)?.len() + super::wal_bytes(path);
    if super::free_bytes(path)? < needed * 2 {
        log::warn!("{}: not enough free space for a copy before the migration", path.display());
        return Ok(None);
    }
    database_copy::create_complete(&copy, database_copy::Replace::Allowed, |part| {
        database_copy::copy_pages(conn, part, &mut |_| Ok(()))?;
        database_copy::leave_wal_mode(part)
    })
    .with_context(|| format!("{} could not be written", copy.display()))?;
    log::info!("{}: copied to {} before the migration", path.display(), copy.display());
    Ok(Some(copy))
}

/// Reads the id of the database, and the anchor of its clock.
pub(super) fn read_meta(conn: &Connection) -> anyhow::Result<(String, ClockAnchor)> {
    let mut value = conn.prepare("SELECT value FROM meta WHERE name = ?1")?;
    let database_id = value.query_row(["database_id"], |row| row.get(0))?;
    let anchor = ClockAnchor {
        database_ms: value.query_row(["clock_database_ms"], |row| row.get(0))?,
        wall_ms: value.query_row(["clock_wall_ms"], |row| row.get(0))?,
        boot_ms: value.query_row(["clock_boot_ms"], |row| row.get(0))?,
        boot_id: value.query_row(["clock_boot_id"], |row| row.get(0))?,
    };
    Ok((database_id, anchor))
}

/// Loads the point in time that a server saved last.
///
/// # Errors
/// The read failed.
pub fn load_anchor(conn: &Connection) -> anyhow::Result<ClockAnchor> {
    read_meta(conn).map(|(_, anchor)| anchor)
}

/// Saves a point in time on all clocks. The next process continues from it.
///
/// # Errors
/// The write failed.
pub fn write_anchor(conn: &Connection, anchor: &ClockAnchor) -> rusqlite::Result<()> {
    meta::set(conn, "clock_database_ms", anchor.database_ms)?;
    meta::set(conn, "clock_wall_ms", anchor.wall_ms)?;
    meta::set(conn, "clock_boot_ms", anchor.boot_ms)?;
    meta::set(conn, "clock_boot_id", &anchor.boot_id)
}

/// Formats why a database cannot be served, as `path: finding: remedy`, and classifies the error.
pub fn open_error_text(path: &Path, error: &anyhow::Error) -> OpenError {
    use rusqlite::ErrorCode as Code;
    if let Some(known) = error.downcast_ref::<OpenError>() {
        return known.clone();
    }
    let io = error.chain().find_map(|e| e.downcast_ref::<std::io::Error>());
    if let Some(passing @ OpenError::Transient(_)) = io.map(|e| super::io_error(path, "", e)) {
        return passing;
    }
    let failure = find_failure(error);
    if let Some(failure) = failure
        && let Some(text) = transient_text(path, failure)
    {
        return OpenError::Transient(format!("{}: {text} ({error:#})", path.display()));
    }
    let remedy = match failure.map(|failure| failure.code) {
        Some(Code::NotADatabase) => {
            let text = "is not an SQLite database: name another file in store.path";
            return OpenError::Other(format!("{}: {text}", path.display()));
        }
        Some(Code::DatabaseCorrupt) => {
            "is damaged: put a copy in its place and remove its -wal and -shm, or save what can \
             be read with `sqlite3 FILE .recover`"
        }
        Some(Code::ReadOnly) => {
            "can't be written: make the file, its -wal and -shm and their folder writable for \
             this user"
        }
        Some(Code::CannotOpen) => {
            "cannot be opened: check that it is a file, and that this user may read and write it and \
             its folder"
        }
        _ => return OpenError::Other(format!("{}: {error:#}", path.display())),
    };
    OpenError::Other(format!("{}: {remedy} ({error:#})", path.display()))
}

/// Returns the failure of SQLite that caused an error.
fn find_failure(error: &anyhow::Error) -> Option<rusqlite::ffi::Error> {
    error.chain().find_map(|e| match e.downcast_ref::<rusqlite::Error>() {
        Some(rusqlite::Error::SqliteFailure(failure, _)) => Some(*failure),
        _ => None,
    })
}

/// Returns the text for a failure that ends without a change of the file or the configuration, with
/// the remedy.
fn transient_text(path: &Path, failure: rusqlite::ffi::Error) -> Option<String> {
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
        Some("cannot be written: check the free space, and quotas and limits".to_owned())
    } else {
        None
    }
}
