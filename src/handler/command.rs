//! `mode = "each"`: one process for each job. The body is on its stdin, and its exit code decides
//! the outcome.
//!
//! Exit 0 succeeds. Exit 65 makes the job dead at once. All other exits fail. File descriptor 3
//! takes lines: `{"alive":true}` restarts the timeout, `{"outcome":"deferred","retry_after":"10m"}`
//! decides regardless of the exit code. Other lines become part of `detail`.

use std::time::Duration;

use super::control_fd::ControlMessages;
use super::detail_text::{self, stderr_line};
use super::{HandlerRunner, Task, command_spec};
use crate::config::duration_text;
use crate::domain::{AttemptResult, Outcome};
use crate::process::{self, CancelToken, ExitReason, GRACE, RunLimits, RunResult};

#[cfg(test)]
mod tests;

/// The exit code of a permanent failure, which a retry can't help (EX_DATAERR of sysexits.h).
const EXIT_DEAD: i32 = 65;

/// Runs commands with one process for each job.
#[derive(Clone, Copy, Debug)]
pub struct CommandRunner;

impl HandlerRunner for CommandRunner {
    fn run(&self, task: &Task, stop: &CancelToken) -> AttemptResult {
        let command = match command_spec::for_task(task, command_spec::build_environment(task)) {
            Ok(command) => command,
            Err(e) => return super::start_failure(e.into()),
        };
        let limits = RunLimits {
            timeout: task.handler.timeout,
            grace: GRACE,
            max_output_bytes: task.handler.max_output_bytes,
            max_stdout_start_bytes: 0,
        };
        let mut control = ControlMessages::default();
        let run =
            process::run(&command, &task.input, limits, stop, &mut |line| control.on_line(line));
        attempt_result(run, control, task.handler.timeout)
    }
}

/// Makes the result of the attempt from the exit, the error on stderr and the control messages.
fn attempt_result(run: RunResult, control: ControlMessages, timeout: Duration) -> AttemptResult {
    let (outcome, is_permanent, exit_text) = match run.exit {
        ExitReason::Shortage(reason) => return super::shortage_result(&reason),
        ExitReason::TimedOut => {
            (Outcome::TimedOut, false, format!("timeout {}", duration_text(timeout)))
        }
        ExitReason::Code(_) | ExitReason::Signal(_) if control.deferred.is_some() => {
            (Outcome::Deferred, false, "deferred".to_owned())
        }
        exit => map_exit(&exit),
    };
    let wait = control.deferred.flatten().filter(|_| outcome == Outcome::Deferred);
    let stderr_line = stderr_line(&run.stderr, outcome);
    let detail = detail_text::join(&[&exit_text, &stderr_line, &control.free_text]);
    AttemptResult {
        outcome,
        is_permanent,
        detail,
        retry_after: wait,
        stdout: run.stdout,
        stderr: run.stderr,
    }
}

/// Maps an exit to the outcome, whether it is permanent, and its text.
pub(super) fn map_exit(exit: &ExitReason) -> (Outcome, bool, String) {
    match exit {
        ExitReason::Code(0) => (Outcome::Succeeded, false, "exit 0".to_owned()),
        ExitReason::Code(code) => (Outcome::Failed, *code == EXIT_DEAD, format!("exit {code}")),
        ExitReason::Signal(signal) => (Outcome::Failed, false, format!("signal {signal}")),
        ExitReason::NotStarted(reason) | ExitReason::Shortage(reason) => {
            (Outcome::Failed, false, format!("not started: {reason}"))
        }
        ExitReason::Unknown(reason) => (Outcome::Failed, false, format!("exit unknown: {reason}")),
        ExitReason::TimedOut => (Outcome::TimedOut, false, "timeout".to_owned()),
        ExitReason::Stopped => (Outcome::Interrupted, false, "stopped".to_owned()),
    }
}
