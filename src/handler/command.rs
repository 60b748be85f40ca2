//! A command, one process a job: the body on stdin, the outcome by its exit.
//!
//! Exit 0: succeeded. 65: dead at once. Anything else: failed. File descriptor 3 takes lines:
//! `{"alive":true}` starts the timeout anew, `{"outcome":"deferred","retry_after":"10m"}` decides
//! whatever the exit code; others go into `detail`.

use std::time::Duration;

use super::control_fd::ControlMessages;
use super::detail_text::{self, last_line};
use super::{HandlerRunner, Task, command_spec};
use crate::config::duration_text;
use crate::domain::{AttemptResult, Outcome};
use crate::process::{self, CancelToken, ExitReason, GRACE, RunLimits};

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

impl HandlerRunner for Command {
    fn run(&self, task: &Task, stop: &CancelToken) -> AttemptResult {
        let program = match command_spec::for_task(task, command_spec::environment(task)) {
            Ok(program) => program,
            Err(why) => return AttemptResult::new(Outcome::Failed, format!("not started: {why}")),
        };
        let bounds = RunLimits {
            timeout: task.handler.timeout,
            grace: self.grace,
            max_output_bytes: task.handler.max_output_bytes,
            start_bytes_max: 0,
        };
        let mut notes = ControlMessages::default();
        let over =
            process::run(&program, &task.input, bounds, stop, &mut |line| notes.on_line(line));
        ended(over, notes, task.handler.timeout)
    }
}

/// How the attempt ended: exit, last line of stderr, what was said on descriptor 3.
fn ended(over: process::RunResult, notes: ControlMessages, timeout: Duration) -> AttemptResult {
    let (outcome, dead, how) = match over.exit {
        ExitReason::NotNow(why) => return super::not_now(&why),
        ExitReason::TimedOut => {
            (Outcome::TimedOut, false, format!("timeout {}", duration_text(timeout)))
        }
        ExitReason::Stopped => (Outcome::Interrupted, false, "stopped".to_owned()),
        ExitReason::Code(_) | ExitReason::Signal(_) if notes.deferred.is_some() => {
            (Outcome::Deferred, false, "deferred".to_owned())
        }
        exit => outcome(&exit),
    };
    let wait = notes.deferred.flatten().filter(|_| outcome == Outcome::Deferred);
    let last = last_line(&over.stderr);
    let detail = detail_text::join(&[&how, &last, &notes.free_text]);
    AttemptResult {
        outcome,
        is_permanent: dead,
        detail,
        retry_after: wait,
        stdout: over.stdout,
        stderr: over.stderr,
    }
}

/// What the end of a process comes to that was not told to end: the outcome, whether it is useless to
/// try again, and how it is shown.
pub(super) fn outcome(exit: &ExitReason) -> (Outcome, bool, String) {
    match exit {
        ExitReason::Code(0) => (Outcome::Succeeded, false, "exit 0".to_owned()),
        ExitReason::Code(code) => (Outcome::Failed, *code == EXIT_DEAD, format!("exit {code}")),
        ExitReason::Signal(signal) => (Outcome::Failed, false, format!("signal {signal}")),
        ExitReason::NotStarted(why) | ExitReason::NotNow(why) => {
            (Outcome::Failed, false, format!("not started: {why}"))
        }
        ExitReason::Unknown(why) => (Outcome::Failed, false, format!("exit unknown: {why}")),
        ExitReason::TimedOut | ExitReason::Stopped => {
            (Outcome::Failed, false, "told to end".to_owned())
        }
    }
}
