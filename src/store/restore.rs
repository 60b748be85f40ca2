//! Puts a backup in the place of the database.
//!
//! The database is replaced by one rename, so that there is a complete one at each moment. Before that, the WAL of
//! the old one is copied into it and removed: SQLite would apply it, or a journal, to the new file. The old database
//! stays beside the new one.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::database_copy::{
    OnStep, Replace, copy_pages, create_complete, dated_name, dated_prefix, folder,
    set_journal_mode, sync,
};
use super::lock::Lock;
use super::migrate::{check_backup, open_unused, read_meta};
use super::open_files::{FileId, with_suffix};
use super::{backup_schedule, checkpoint, database_copy, rescue};
use crate::clock::{self, MonotonicClock};

/// The ids of events, jobs, outcomes and replays continue this far above those of the backup. The lost database may
/// have given the ids between, and no id may stand for two things.
const SKIPPED_IDS: i64 = 1_000_000_000;

/// The files that SQLite would apply to a database with this name.
const JOURNALS: [&str; 2] = ["-wal", "-journal"];

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    pub database: PathBuf,
    /// The highest id of an event in the backup, 0 if it has none.
    pub last_event: i64,
    /// The id of the next event.
    pub next_event: i64,
    /// Where the earlier database is now, if there was one.
    pub replaced: Option<PathBuf>,
}

/// The highest ids that were given: of events, jobs, outcomes and replays.
type Counters = [i64; 4];

/// Checks a backup, and puts a copy of it in the place of `database`. `can_replace`: an existing database may be
/// replaced.
///
/// # Errors
/// `InUse` if a server owns the database. It exists and must not be replaced. The backup is damaged, newer, or of
/// another program. A read or a write failed. The database is unchanged.
pub fn restore(
    backup: &Path,
    database: &Path,
    can_replace: bool,
    on_step: OnStep<'_>,
) -> anyhow::Result<Restored> {
    let name = || backup.display().to_string();
    let from = open_unused(backup).with_context(name)?;
    super::files::create_folder(folder(database))?;
    let lock = Lock::acquire_to_restore(database)?;
    let database = lock.path().to_owned();
    let exists = !rescue::is_missing(&database);
    let path = database.display();
    anyhow::ensure!(
        can_replace || !exists,
        "{path}: exists: --force replaces it, and keeps it beside the new one"
    );
    anyhow::ensure!(
        FileId::at(backup).ok() != FileId::at(&database).ok(),
        "{}: is the database itself: name a backup",
        name()
    );
    check_backup(&from).with_context(name)?;
    check_free_space(&from, &database)?;
    let last_event = from
        .query_row("SELECT coalesce(max(id), 0) FROM events", [], |row| row.get(0))
        .with_context(name)?;
    // SQLite would remove the WAL of an empty file.
    let old = if exists { find_counters(&database) } else { None };
    let counters = next_counters(read_counters(&from)?, old);
    // The name of the copy must not be that of a database: it would be opened with the WAL of the old one.
    let copy = with_suffix(&database, ".restored");
    let copied = create_complete(&copy, Replace::Allowed, |part| {
        copy_pages(&from, part, on_step)?;
        prepare(part, &counters)?;
        take_owner(part, &database)
    });
    copied.with_context(|| format!("{path}"))?;
    let replaced = replace(&copy, &database, exists);
    if replaced.is_err() {
        let _ = fs::remove_file(&copy);
    }
    let replaced = replaced?;
    take_owner(&with_suffix(&database, ".lock"), &database)?;
    Ok(Restored { last_event, next_event: counters[0] + 1, replaced, database })
}

fn check_free_space(from: &Connection, database: &Path) -> anyhow::Result<()> {
    let needed = database_copy::needed_bytes(from)?;
    let free = super::free_bytes(folder(database))?;
    anyhow::ensure!(
        free >= needed,
        "{}: the copy needs {} MiB, and {} MiB are free: free some space",
        database.display(),
        (needed >> 20) + 1,
        free >> 20
    );
    Ok(())
}

fn read_counters(conn: &Connection) -> rusqlite::Result<Counters> {
    let sql = "SELECT event, job, attempt, replay FROM counters";
    conn.query_row(sql, [], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]))
}

/// The counters of the database that is replaced, if it can be read.
fn find_counters(database: &Path) -> Option<Counters> {
    read_counters(&open_old(database).ok()?).ok()
}

/// Returns the counters of a restored database. An earlier restore of the same backup has given the ids that follow
/// first, so the next ones are above those.
fn next_counters(backup: Counters, old: Option<Counters>) -> Counters {
    let old = old.unwrap_or_default();
    std::array::from_fn(|index| match backup[index] + SKIPPED_IDS {
        next if old[index] >= next => old[index] + SKIPPED_IDS,
        next => next,
    })
}

/// Opens the database that is replaced. SQLite first rolls back what a crash left.
fn open_old(database: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.busy_timeout(super::BUSY_TIMEOUT)?;
    Ok(conn)
}

/// Lets the ids of a copy continue above those of the lost database, and makes it one that a server has opened.
fn prepare(copy: &Path, counters: &Counters) -> anyhow::Result<()> {
    let conn = Connection::open_with_flags(copy, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    set_journal_mode(&conn, "delete")?;
    let sql = "UPDATE counters SET event = ?1, job = ?2, attempt = ?3, replay = ?4";
    conn.execute(sql, *counters)?;
    let (_, anchor) = read_meta(&conn)?;
    backup_schedule::restart(&conn, MonotonicClock::from_anchor(&anchor))?;
    set_journal_mode(&conn, "wal")?;
    conn.close().map_err(|(_, e)| e)?;
    Ok(())
}

/// Gives a file the owner that the database has, and the mode. Without a database, a file that root makes belongs to
/// the owner of the folder: the server runs as that user.
fn take_owner(file: &Path, database: &Path) -> anyhow::Result<()> {
    let is_missing = rescue::is_missing(database);
    let model = fs::metadata(if is_missing { folder(database) } else { database })?;
    if !is_missing {
        fs::set_permissions(file, Permissions::from_mode(model.mode() & 0o777))?;
    }
    if rustix::process::geteuid().is_root() {
        chown(file, Some(model.uid()), Some(model.gid()))?;
    }
    Ok(())
}

/// Puts the copy in the place of the database. Returns where the old one is.
fn replace(copy: &Path, database: &Path, exists: bool) -> anyhow::Result<Option<PathBuf>> {
    let is_whole = exists && empty_wal(database)?;
    let kept = find_name_to_keep(database)?;
    if exists && FileId::at(&kept).is_err() {
        fs::hard_link(database, &kept).with_context(|| {
            format!("{}: cannot be kept as {}", database.display(), kept.display())
        })?;
    }
    for suffix in JOURNALS {
        let journal = with_suffix(database, suffix);
        // It may hold events of a database that was damaged or moved away.
        let moved = match is_whole {
            true => fs::remove_file(&journal),
            false => fs::rename(&journal, with_suffix(&kept, suffix)),
        };
        ignore_missing(moved).with_context(|| format!("{}: is in the way", journal.display()))?;
    }
    ignore_missing(fs::remove_file(with_suffix(database, "-shm")))?;
    sync(folder(database))?;
    fs::rename(copy, database)?;
    sync(folder(database))?;
    Ok(exists.then_some(kept))
}

/// Copies the WAL of the old database into it. Returns false if the database is too damaged for that.
fn empty_wal(database: &Path) -> anyhow::Result<bool> {
    match open_old(database).and_then(|conn| checkpoint::truncate(&conn)) {
        Ok(true) => Ok(true),
        Ok(false) => {
            let path = database.display();
            anyhow::bail!("{path}: another program reads or writes it: end that program first")
        }
        Err(_) => Ok(false),
    }
}

/// Returns the second name of the old database: one that it has already, because a restore was killed, or a new one.
fn find_name_to_keep(database: &Path) -> anyhow::Result<PathBuf> {
    let prefix = dated_prefix(database, ".replaced-");
    let id = FileId::at(database).ok();
    for entry in fs::read_dir(folder(database))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(&prefix) && id.is_some() && FileId::at(&path).ok() == id {
            return Ok(path);
        }
    }
    let mut at_ms = clock::wall_ms();
    loop {
        let path = folder(database).join(dated_name(&prefix, at_ms));
        let is_free = ["", "-wal", "-journal"]
            .iter()
            .all(|suffix| fs::symlink_metadata(with_suffix(&path, suffix)).is_err());
        if is_free {
            return Ok(path);
        }
        at_ms += 1000;
    }
}

fn ignore_missing(done: std::io::Result<()>) -> std::io::Result<()> {
    match done {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
