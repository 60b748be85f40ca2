//! `backup` and `restore`: copies of the database, and their way back.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde_json::json;

use super::output;
use super::progress::{Interruption, ProgressLine};
use super::{ExitError, open_store, open_store_to_write, user_error};
use crate::config::LoadedConfig;
use crate::store::backup::{self, Backup};
use crate::store::database_copy::CopyProgress;
use crate::store::files;
use crate::store::restore::{self, SKIPPED_IDS};

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
    let database = &loaded.config.store.path;
    let target = match (&args.file, &args.folder) {
        (Some(file), _) => file.clone(),
        (None, Some(folder)) => {
            files::create_folder(folder).with_context(|| format!("{}", folder.display()))?;
            backup::path_in(folder, database)
        }
        // clap requires one of them.
        (None, None) => return Err(super::usage_error("name a file")),
    };
    if target.exists() && !args.force {
        let path = target.display();
        return Err(user_error(format!("{path}: exists: name another file, or give --force")));
    }
    let store = open_store(loaded)?;
    let interruption = Interruption::watch()?;
    let copied = with_progress("copied", &interruption, |on_step| {
        backup::back_up(&store, &target, loaded.config.store.min_free_bytes, on_step)
    });
    let copied = copied.with_context(|| format!("{}", target.display()));
    if let Err(error) = &copied
        && interruption.control_flow().is_continue()
    {
        // A command of another user may be allowed to read only.
        let writable = open_store_to_write(loaded, false).ok();
        let detail = format!("{error:#}");
        let _ = writable.map(|store| backup::record_failure(&store, detail));
    }
    let done = copied?;
    let removed = match (&args.folder, args.keep) {
        (Some(folder), Some(keep)) => backup::remove_old(folder, database, keep.get())
            .with_context(|| format!("{}", folder.display()))?,
        _ => Vec::new(),
    };
    print_backup(&done, &removed, args.json)
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
        let size = output::format_megabytes(done.bytes);
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
    let next_event = done.last_event + SKIPPED_IDS + 1;
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
