//! Builds the command of a handler: its program, arguments and environment.
//!
//! All runners that start processes use it. Data of an event is never part of a path or an
//! argument. It is only in the environment and on stdin.

use std::env::var_os;
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Task, job_line};
use crate::process::{CommandSpec, StartError};
use crate::{clock, config};

/// Builds the handler's command with this environment. The error says why it can't be started.
pub fn for_task(task: &Task, env: Vec<(String, OsString)>) -> Result<CommandSpec, StartError> {
    let command = task.handler.command().filter(|command| !command.args.is_empty());
    let config::CommandTarget { args, directory, .. } =
        command.ok_or_else(|| "no command".to_owned())?;
    let path = look_up(&args[0], &env, directory)?;
    let (args, directory) = (args.clone(), directory.clone());
    let run_id = task.supervisor.run_id(&format!("{}.{}", task.claim.job, task.claim.attempt));
    let supervisor = Arc::clone(&task.supervisor);
    Ok(CommandSpec { path, args, env, directory, run_id, supervisor })
}

/// Builds the command of a process that runs many attempts. Its environment contains no event, and
/// its run id begins with the database id and the mode.
pub fn for_long_lived(task: &Task, mode: &str) -> Result<CommandSpec, StartError> {
    let mut env = base_environment(task);
    env.push(("HOOKTRAIL_HANDLER".to_owned(), task.handler.name.clone().into()));
    Ok(CommandSpec { run_id: task.supervisor.run_id(mode), ..for_task(task, env)? })
}

/// Returns the variables that every process of a handler gets.
fn base_environment(task: &Task) -> Vec<(String, OsString)> {
    let mut env = Vec::with_capacity(32);
    env.push(("PATH".to_owned(), var_os("PATH").unwrap_or_else(|| config::DEFAULT_PATH.into())));
    for name in ["HOME", "LANG", "TZ"] {
        if let Some(value) = var_os(name) {
            env.push((name.to_owned(), value));
        }
    }
    for (name, value) in task.env.iter() {
        env.retain(|(earlier, _)| earlier != name);
        env.push((name.clone(), value.clone()));
    }
    env
}

/// Returns the whole environment of a process that runs one attempt. It inherits nothing else.
pub fn build_environment(task: &Task) -> Vec<(String, OsString)> {
    let mut env = base_environment(task);
    let event = &task.event;
    let content_type = event.headers.get("content-type").unwrap_or_default();
    let mut add = |name: &str, value: String| env.push((format!("HOOKTRAIL_{name}"), value.into()));
    add("EVENT", event.id.to_string());
    add("JOB", task.claim.job.to_string());
    if let Some(number) = task.item {
        add("ITEM", number.to_string());
    }
    add("ATTEMPT", task.claim.attempt.to_string());
    add("MAX_ATTEMPTS", task.max_attempts.to_string());
    add("SOURCE", event.source.clone());
    add("HANDLER", task.handler.name.clone());
    add("RECEIVED_AT", clock::format_rfc3339(event.received_at_ms));
    add("METHOD", event.method.clone());
    add("PATH", event.path.clone());
    add("QUERY", event.query.clone().unwrap_or_default());
    add("IP", event.ip.clone());
    add("CLIENT", event.client.clone().unwrap_or_default());
    add("CONTENT_TYPE", String::from_utf8_lossy(content_type).into_owned());
    let mut headers = Vec::new();
    job_line::write_headers(&mut headers, &event.headers);
    add("HEADERS", String::from_utf8(headers).unwrap_or_default());
    add("IDEMPOTENCY_KEY", task.idempotency_key.clone());
    env
}

/// The identity of a file at one moment. A file that replaces it has another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStamp {
    path: PathBuf,
    device: u64,
    inode: u64,
    bytes: u64,
    changed_at: (i64, i64),
}

/// Returns the stamps of the files in a command, its script included. If one changes, a process
/// that runs the old file must be replaced.
pub fn command_file_stamps(settings: &config::Handler) -> Vec<FileStamp> {
    let Some(command) = settings.command() else { return Vec::new() };
    let stamp = |word: &String| {
        let path = command.directory.join(word);
        let found = path.metadata().ok().filter(Metadata::is_file)?;
        let changed_at = (found.ctime(), found.ctime_nsec());
        Some(FileStamp {
            path,
            device: found.dev(),
            inode: found.ino(),
            bytes: found.len(),
            changed_at,
        })
    };
    command.args.iter().filter_map(stamp).collect()
}

/// Finds a program. A name with a slash is a path. Other names are looked up in PATH, whose
/// relative folders are relative to the handler's directory.
fn look_up(name: &str, env: &[(String, OsString)], directory: &Path) -> Result<PathBuf, String> {
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let path = env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
    let path = path.unwrap_or_default();
    // A file that is not executable is started all the same, because the system then reports the reason.
    config::find_in_path(name, &path, directory)
        .ok_or_else(|| format!("{name}: no such program in PATH ({})", path.to_string_lossy()))
}
