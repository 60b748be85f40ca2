//! A command, one process a job: the body on stdin, the outcome by its exit.
//!
//! Exit 0: succeeded. 65: dead at once. Anything else: failed. File descriptor 3 takes lines:
//! `{"alive":true}` starts the timeout anew, `{"outcome":"deferred","retry_after":"10m"}` decides
//! whatever the exit code; others go into `detail`.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::detail::{self, DETAIL_CHARS_MAX, last_line, one_line};
use super::{Kind, Task, program};
use crate::config::{self, duration_text};
use crate::domain::{Ended, Outcome};
use crate::process::{self, Bounds, Exit, GRACE, Note, Stop};

#[cfg(test)]
mod tests;

/// Exit code of a handler that says: useless to try again (EX_DATAERR of sysexits.h).
const EXIT_DEAD: i32 = 65;

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
        let program = match program::of(task, program::environment(task)) {
            Ok(program) => program,
            Err(why) => return Ended::new(Outcome::Failed, format!("not started: {why}")),
        };
        let bounds = Bounds {
            timeout: task.handler.timeout,
            grace: self.grace,
            output_bytes_max: task.handler.output_bytes_max,
            start_bytes_max: 0,
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
    let detail = detail::of(&[&how, &last, &notes.others]);
    Ended { outcome, dead, detail, wait, stdout: over.stdout, stderr: over.stderr }
}
