//! `backup` and `restore`: copies of the database, and their way back.

use std::io::Write;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::json;

use super::output;
use super::progress::{Interruption, ProgressLine};
use super::{ExitError, open_store, open_store_to_write};
use crate::config::{LoadedConfig, parse_duration};
use crate::numbers;
use crate::store::Store;
use crate::store::backup::{self, Backup};
use crate::store::backup_schedule::{BackupSchedule, ScheduleChange};
use crate::store::database_copy::CopyProgress;
use crate::store::files;
use crate::store::restore;

/// The periods that `--every` takes.
const PERIODS: RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(36_500 * 86_400);

/// Arguments of `backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// Write the backup to this file
    #[arg(value_name = "FILE", required_unless_present = "folder", conflicts_with = "folder")]
    file: Option<PathBuf>,
    /// Replace FILE if it exists
    #[arg(long, conflicts_with = "folder")]
    force: bool,
    /// Write the backup into this folder, under a name with the time
    #[arg(long = "to", value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Then remove all backups in that folder but the newest N
    #[arg(long, value_name = "N", conflicts_with = "file")]
    keep: Option<NonZeroUsize>,
    /// Expect a backup in each period, such as 1d. A missing one raises the alert backup.failed. off: expect none
    #[arg(long, value_name = "DURATION", conflicts_with = "file", value_parser = parse_every)]
    every: Option<ScheduleChange>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Arguments of `restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace an existing database, which is kept beside the new one
    #[arg(long)]
    force: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Copies the database to a file, and checks the copy.
pub fn backup(loaded: &LoadedConfig, args: &BackupArgs) -> Result<(), ExitError> {
    let store = open_store(loaded)?;
    let interruption = Interruption::watch()?;
    if let Some(ScheduleChange::Every { period_ms }) = args.every {
        // A failure to write is reported after the backup, which matters more.
        let writable = open_store_to_write(loaded, false).ok();
        let _ = writable.map(|store| backup::expect_backups(&store, period_ms));
    }
    let began_at_ms = store.clock.now_ms();
    let made = make_backup(loaded, &store, args, &interruption);
    if let Err(error) = &made
        && interruption.control_flow().is_continue()
    {
        // The user of this command may be allowed to read only.
        let writable = open_store_to_write(loaded, false).ok();
        let _ = writable.map(|store| backup::record_failure(&store, format!("{error:#}")));
    }
    let (done, removed) = made?;
    record_backup(loaded, &store, args, began_at_ms)
        .with_context(|| format!("{} was made, but not recorded", done.file.display()))?;
    print_backup(&done, &removed, args.json)
}

/// Parses the value of `--every`.
fn parse_every(text: &str) -> Result<ScheduleChange, String> {
    if text == "off" {
        return Ok(ScheduleChange::Off);
    }
    let period = parse_duration(text).filter(|period| PERIODS.contains(period));
    let period_ms = period.and_then(|period| i64::try_from(period.as_millis()).ok());
    let period_ms = period_ms
        .ok_or("expected a duration from 1m to 36500d, such as 1d or \"1d 12h\", or off")?;
    Ok(ScheduleChange::Every { period_ms })
}

/// Records a backup in a folder, if backups are expected.
fn record_backup(
    loaded: &LoadedConfig,
    store: &Store,
    args: &BackupArgs,
    began_at_ms: i64,
) -> anyhow::Result<()> {
    let is_expected = BackupSchedule::load(&store.conn)?.is_some();
    let Some(change) = args.every.or(is_expected.then_some(ScheduleChange::Keep)) else {
        return Ok(());
    };
    // A single file may be a copy for another purpose, anywhere.
    if args.folder.is_none() {
        return Ok(());
    }
    let store = open_store_to_write(loaded, false).map_err(|error| anyhow::anyhow!(error.text))?;
    backup::record_backup(&store, began_at_ms, change)
}

fn make_backup(
    loaded: &LoadedConfig,
    store: &Store,
    args: &BackupArgs,
    interruption: &Interruption,
) -> anyhow::Result<(Backup, Vec<PathBuf>)> {
    let target = match (&args.file, &args.folder) {
        (Some(file), _) => file.clone(),
        (None, Some(folder)) => {
            files::create_folder(folder).with_context(|| format!("{}", folder.display()))?;
            backup::path_in(folder, &store.path)
        }
        (None, None) => anyhow::bail!("name a file"), // clap requires one of them.
    };
    let min_free_bytes = loaded.config.store.min_free_bytes;
    let done = with_progress("copied", interruption, |on_step| {
        backup::back_up(store, &target, args.force, min_free_bytes, on_step)
    });
    let done = done.with_context(|| format!("{}", target.display()))?;
    let (Some(folder), Some(keep)) = (&args.folder, args.keep) else {
        return Ok((done, Vec::new()));
    };
    let removed = backup::remove_old(folder, store, &done.file, keep.get()).with_context(|| {
        let (done, folder) = (done.file.display(), folder.display());
        format!("{done} was made, but older backups in {folder} could not be removed")
    })?;
    Ok((done, removed))
}

fn print_backup(done: &Backup, removed: &[PathBuf], as_json: bool) -> Result<(), ExitError> {
    let mut out = output::stdout();
    let file = done.file.display();
    if as_json {
        let removed: Vec<String> = removed.iter().map(|file| file.display().to_string()).collect();
        let line = json!({"file": file.to_string(), "bytes": done.bytes,
            "last_event": done.last_event, "removed": removed});
        writeln!(out, "{}", output::json_line(&line))?;
    } else {
        let size = numbers::format_megabytes(done.bytes);
        writeln!(
            out,
            "{file}: {size}, up to event {}, read back without an error",
            done.last_event
        )?;
        for file in removed {
            writeln!(out, "removed {}", file.display())?;
        }
    }
    Ok(out.flush()?)
}

/// Puts a backup in the place of the database.
pub fn restore(loaded: &LoadedConfig, args: &RestoreArgs) -> Result<(), ExitError> {
    let database = &loaded.config.store.path;
    let interruption = Interruption::watch()?;
    let done = with_progress("restored", &interruption, |on_step| {
        restore::restore(&args.file, database, args.force, on_step)
    })?;
    let next_event = done.next_event;
    let replaced = done.replaced.as_deref().map(Path::display);
    let mut out = output::stdout();
    if args.json {
        let line = json!({"database": done.database.display().to_string(),
            "last_event": done.last_event, "next_event": next_event,
            "replaced": replaced.map(|file| file.to_string())});
        writeln!(out, "{}", output::json_line(&line))?;
    } else {
        let path = done.database.display();
        writeln!(
            out,
            "{path}: restored up to event {}; the next one is {next_event}",
            done.last_event
        )?;
        if let Some(replaced) = replaced {
            writeln!(
                out,
                "{replaced}: the earlier database; remove it when you no longer need it"
            )?;
        }
    }
    Ok(out.flush()?)
}

/// Copies while a line shows how far that is. Ctrl-C ends the copy.
fn with_progress<T>(
    verb: &str,
    interruption: &Interruption,
    copy: impl FnOnce(&mut dyn FnMut(CopyProgress) -> anyhow::Result<()>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut line = ProgressLine::new();
    let copied = copy(&mut |progress| {
        anyhow::ensure!(
            interruption.control_flow().is_continue(),
            "interrupted: nothing has changed"
        );
        let CopyProgress { copied_pages, pages } = progress;
        line.update(|| format!("{verb} {} %", 100 * copied_pages / pages.max(1)));
        Ok(())
    });
    line.clear();
    copied
}
