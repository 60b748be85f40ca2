//! A command, one process a job: the body on stdin, the outcome by its exit.
//!
//! Exit 0: succeeded. 65: dead at once. Anything else: failed. File descriptor 3 takes lines:
//! `{"alive":true}` starts the timeout anew, `{"outcome":"deferred","retry_after":"10m"}` decides
//! whatever the exit code; others go into `detail`.

use std::env::var_os;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Kind, Task};
use crate::clock;
use crate::config::{self, duration_text};
use crate::domain::{Ended, Headers, Outcome};
use crate::process::{self, Bounds, Exit, GRACE, Note, Program, Stop};

#[cfg(test)]
mod tests;

/// Exit code of a handler that says: useless to try again (EX_DATAERR of sysexits.h).
const EXIT_DEAD: i32 = 65;

/// `detail` is for a line on a screen.
const DETAIL_CHARS_MAX: usize = 500;

/// Where programs are looked up when the server itself has no PATH.
const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";

/// `mode = "each"`.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// Between SIGTERM and SIGKILL.
    pub grace: Duration,
}

impl Default for Command {
    fn default() -> Self {
        Self { grace: GRACE }
    }
}

impl Kind for Command {
    fn run(&self, task: &Task, stop: &Stop) -> Ended {
        let env = environment(task);
        let (name, args) = match task.handler.command.split_first() {
            Some((name, _)) => (name, task.handler.command.clone()),
            None => return Ended::new(Outcome::Failed, "not started: no command"),
        };
        let path = match look_up(name, &env, &task.handler.directory) {
            Ok(path) => path,
            Err(why) => return Ended::new(Outcome::Failed, format!("not started: {why}")),
        };
        let directory = task.handler.directory.clone();
        let program = Program { path, args, env, directory, mark: task.mark.clone() };
        let bounds = Bounds {
            timeout: task.handler.timeout,
            grace: self.grace,
            output_bytes_max: task.handler.output_bytes_max,
        };
        let mut notes = Notes::default();
        let over = process::run(&program, &task.input, bounds, stop, &mut |line| notes.take(line));
        ended(over, notes, task.handler.timeout)
    }
}

/// What a handler said on file descriptor 3.
#[derive(Debug, Default)]
struct Notes {
    deferred: Option<Option<Duration>>,
    others: String,
}

impl Notes {
    fn take(&mut self, line: &[u8]) -> Note {
        let said: Map<String, Value> = serde_json::from_slice(line).unwrap_or_default();
        let alive = said.get("alive") == Some(&json!(true));
        let deferred = said.get("outcome") == Some(&json!("deferred"));
        let asked = said.get("retry_after").filter(|asked| !asked.is_null());
        let wait = asked.and_then(wait);
        if deferred {
            self.deferred = Some(wait);
        }
        // A wait that is none is shown to whoever wrote it; the backoff's own is taken.
        if (alive || deferred) && !(deferred && asked.is_some() && wait.is_none()) {
            return if alive { Note::Alive } else { Note::Noted };
        }
        if self.others.len() < DETAIL_CHARS_MAX {
            let gap = if self.others.is_empty() { "" } else { " " };
            self.others.push_str(gap);
            self.others.push_str(&one_line(line));
        }
        if alive { Note::Alive } else { Note::Noted }
    }
}

/// `"10m"`, or a number of seconds.
fn wait(asked: &Value) -> Option<Duration> {
    match asked {
        Value::String(text) => config::parse_duration(text),
        Value::Number(secs) => Duration::try_from_secs_f64(secs.as_f64()?).ok(),
        _ => None,
    }
}

/// How the attempt ended: exit, last line of stderr, what was said on descriptor 3.
fn ended(over: process::Over, notes: Notes, timeout: Duration) -> Ended {
    let (outcome, dead, how) = match over.exit {
        Exit::TimedOut => (Outcome::TimedOut, false, format!("timeout {}", duration_text(timeout))),
        Exit::Stopped => (Outcome::Interrupted, false, "stopped".to_owned()),
        Exit::NotStarted(why) => (Outcome::Failed, false, format!("not started: {why}")),
        Exit::Code(_) | Exit::Signal(_) if notes.deferred.is_some() => {
            (Outcome::Deferred, false, "deferred".to_owned())
        }
        Exit::Code(0) => (Outcome::Succeeded, false, "exit 0".to_owned()),
        Exit::Code(code) => (Outcome::Failed, code == EXIT_DEAD, format!("exit {code}")),
        Exit::Signal(signal) => (Outcome::Failed, false, format!("signal {signal}")),
    };
    let wait = notes.deferred.flatten().filter(|_| outcome == Outcome::Deferred);
    let last = last_line(&over.stderr);
    let said = [how, last, notes.others].into_iter().filter(|part| !part.is_empty());
    let detail = said.collect::<Vec<_>>().join(": ");
    let detail = detail.chars().take(DETAIL_CHARS_MAX).collect();
    Ended { outcome, dead, detail, wait, stdout: over.stdout, stderr: over.stderr }
}

fn last_line(stderr: &[u8]) -> String {
    let lines = stderr.split(|&byte| byte == b'\n' || byte == b'\r');
    lines.rev().map(one_line).find(|line| !line.is_empty()).unwrap_or_default()
}

/// Text without anything that could move a cursor or end a line.
fn one_line(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(DETAIL_CHARS_MAX * 4)];
    let text = String::from_utf8_lossy(bytes);
    text.replace(char::is_control, " ").trim().to_owned()
}

/// Everything that the process finds in its environment; nothing else is inherited.
fn environment(task: &Task) -> Vec<(String, OsString)> {
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
    let event = &task.event;
    let content_type = event.headers.get("content-type").unwrap_or_default();
    let mut put = |name: &str, value: String| env.push((format!("HOOKTRAIL_{name}"), value.into()));
    put("EVENT", event.id.to_string());
    put("JOB", task.claim.job.to_string());
    if let Some(number) = task.item {
        put("ITEM", number.to_string());
    }
    put("ATTEMPT", task.claim.attempt.to_string());
    put("ATTEMPTS_MAX", task.attempts_max.to_string());
    put("SOURCE", event.source.clone());
    put("HANDLER", task.handler.name.clone());
    put("RECEIVED_AT", clock::iso(event.received_at_ms));
    put("METHOD", event.method.clone());
    put("PATH", event.path.clone());
    put("QUERY", event.query.clone().unwrap_or_default());
    put("IP", event.ip.clone());
    put("CONTENT_TYPE", String::from_utf8_lossy(content_type).into_owned());
    put("HEADERS", headers_json(&event.headers));
    put("KEY", task.key.clone());
    env
}

/// Names in lower case, repeated ones joined with `", "`.
fn headers_json(headers: &Headers) -> String {
    let mut object = Map::new();
    for (name, value) in &headers.0 {
        let value = String::from_utf8_lossy(value);
        match object.get_mut(name) {
            Some(Value::String(before)) => {
                before.push_str(", ");
                before.push_str(&value);
            }
            _ => {
                object.insert(name.clone(), Value::String(value.into_owned()));
            }
        }
    }
    Value::Object(object).to_string()
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
