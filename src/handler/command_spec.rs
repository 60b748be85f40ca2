//! What a command is started with: its program, its arguments, its environment.
//!
//! Shared by the kinds that start processes. Nothing of an event becomes part of a path or of an
//! argument: it stands in the environment and on stdin alone.

use std::env::var_os;
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{Task, job_line};
use crate::process::CommandSpec;
use crate::{clock, config};

/// Where programs are looked up when the server itself has no PATH.
const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";

/// The handler's command with this environment, or why there is none to start.
pub fn for_task(task: &Task, env: Vec<(String, OsString)>) -> Result<CommandSpec, String> {
    let handler = &task.handler;
    let name = handler.command.first().ok_or("no command")?;
    let path = look_up(name, &env, &handler.directory)?;
    let (args, directory) = (handler.command.clone(), handler.directory.clone());
    Ok(CommandSpec { path, args, env, directory, mark: task.run_id.clone() })
}

/// The same for a process that is more than one attempt: of the task it knows the handler alone, and
/// its mark begins with the trail's own id and `sort`.
pub fn for_long_lived(task: &Task, sort: &str) -> Result<CommandSpec, String> {
    let mut env = base_environment(task);
    env.push(("HOOKTRAIL_HANDLER".to_owned(), task.handler.name.clone().into()));
    let trail = task.run_id.split('.').next().unwrap_or_default();
    Ok(CommandSpec { mark: format!("{trail}.{sort}"), ..for_task(task, env)? })
}

/// What every process of a handler finds in its environment.
fn base_environment(task: &Task) -> Vec<(String, OsString)> {
    let mut env = Vec::with_capacity(32);
    env.push(("PATH".to_owned(), var_os("PATH").unwrap_or_else(|| PATH_DEFAULT.into())));
    for name in ["HOME", "LANG", "TZ"] {
        if let Some(value) = var_os(name) {
            env.push((name.to_owned(), value));
        }
    }
    for (name, value) in task.env.iter() {
        env.retain(|(before, _)| before != name);
        env.push((name.clone(), value.clone()));
    }
    env
}

/// Everything that the process finds in its environment; nothing else is inherited.
pub fn environment(task: &Task) -> Vec<(String, OsString)> {
    let mut env = base_environment(task);
    let event = &task.event;
    let content_type = event.headers.get("content-type").unwrap_or_default();
    let mut put = |name: &str, value: String| env.push((format!("HOOKTRAIL_{name}"), value.into()));
    put("EVENT", event.id.to_string());
    put("JOB", task.claim.job.to_string());
    if let Some(number) = task.item {
        put("ITEM", number.to_string());
    }
    put("ATTEMPT", task.claim.attempt.to_string());
    put("MAX_ATTEMPTS", task.max_attempts.to_string());
    put("SOURCE", event.source.clone());
    put("HANDLER", task.handler.name.clone());
    put("RECEIVED_AT", clock::format_rfc3339(event.received_at_ms));
    put("METHOD", event.method.clone());
    put("PATH", event.path.clone());
    put("QUERY", event.query.clone().unwrap_or_default());
    put("IP", event.ip.clone());
    put("CONTENT_TYPE", String::from_utf8_lossy(content_type).into_owned());
    let mut headers = Vec::new();
    job_line::headers(&mut headers, &event.headers);
    put("HEADERS", String::from_utf8(headers).unwrap_or_default());
    put("IDEMPOTENCY_KEY", task.key.clone());
    env
}

/// A file as it is now: what is put in its place is another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStamp {
    path: PathBuf,
    device: u64,
    inode: u64,
    bytes: u64,
    changed_at: (i64, i64),
}

/// The files that a command names, its script among its arguments included: where one has changed, a
/// process that runs the old one is to be replaced.
pub fn command_file_stamps(settings: &config::Handler) -> Vec<FileStamp> {
    let file = |word: &String| {
        let path = settings.directory.join(word);
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
    settings.command.iter().filter_map(file).collect()
}

/// The program of that name: with a slash it is a path, without it is looked up in PATH, whose
/// relative folders are relative to the handler's directory.
fn look_up(name: &str, env: &[(String, OsString)], directory: &Path) -> Result<PathBuf, String> {
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let path = env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
    let path = path.unwrap_or_default();
    let found = || std::env::split_paths(&path).map(|folder| directory.join(folder).join(name));
    match found().find(|file| is_executable(file)).or_else(|| found().find(|file| file.is_file())) {
        // One that can't be executed is tried all the same: the system says why not.
        Some(file) => Ok(file),
        None => Err(format!("{name}: no such program in PATH ({})", path.to_string_lossy())),
    }
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}
