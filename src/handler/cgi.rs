//! A receiver written for the web, run as CGI/1.1 (RFC 3875): the body on stdin, the request in the
//! environment, the outcome by the status that it answers.
//!
//! php-cgi runs a sender's own example unchanged. Nothing of the query becomes an argument, which
//! the RFC's section 4.4 would have. No header block, or an exit other than 0, is failed. Descriptor
//! 3 is not listened to: such a script does not know of it.

use std::ffi::OsString;
use std::time::Duration;

use super::detail_text::{self, DETAIL_CHARS_MAX, last_line};
use super::{HandlerRunner, Task, command_spec};
use crate::clock;
use crate::config::duration_text;
use crate::domain::{AttemptResult, Outcome};
use crate::process::{self, CancelToken, ControlLine, ExitReason, GRACE, RunLimits, RunResult};

mod head;
mod meta;
#[cfg(test)]
mod tests;

/// `mode = "cgi"`.
#[derive(Clone, Copy, Debug)]
pub struct Cgi {
    /// Between SIGTERM and SIGKILL.
    pub grace: Duration,
}

impl Default for Cgi {
    fn default() -> Self {
        Self { grace: GRACE }
    }
}

impl HandlerRunner for Cgi {
    fn run(&self, task: &Task, stop: &CancelToken) -> AttemptResult {
        let program = match command_spec::for_task(task, command_spec::environment(task)) {
            Ok(mut program) => {
                let script = meta::script(task, &program.path);
                program.env.extend(without_overridden(task, meta::variables(task, &script)));
                program
            }
            Err(why) => return AttemptResult::new(Outcome::Failed, format!("not started: {why}")),
        };
        let bounds = RunLimits {
            timeout: task.handler.timeout,
            grace: self.grace,
            max_output_bytes: task.handler.max_output_bytes,
            start_bytes_max: head::BYTES_MAX + DETAIL_CHARS_MAX * 4,
        };
        let over = process::run(&program, &task.input, bounds, stop, &mut |_| ControlLine::Noted);
        ended(over, task.handler.timeout)
    }
}

/// What the handler's `env` sets comes before the request's variables: `HTTPS = "on"`.
fn without_overridden(
    task: &Task,
    variables: Vec<(String, OsString)>,
) -> impl Iterator<Item = (String, OsString)> {
    let set = |name: &str| task.env.iter().any(|(own, _)| own == name);
    variables.into_iter().filter(move |(name, _)| !set(name))
}

/// How the attempt ended: status, else exit; then the last line of stderr, else what it answered.
fn ended(over: RunResult, timeout: Duration) -> AttemptResult {
    let last = last_line(&over.stderr);
    let because =
        |outcome, how: String| AttemptResult::new(outcome, detail_text::join(&[&how, &last]));
    let ended = match over.exit {
        ExitReason::Code(0) => match head::read(&over.start) {
            Ok((answer, body)) => {
                let said = if last.is_empty() { detail_text::first_words(body) } else { last };
                answer.ended(&said, clock::wall_ms())
            }
            Err(why) => because(Outcome::Failed, format!("exit 0: no header block: {why}")),
        },
        ExitReason::Code(code) => because(Outcome::Failed, format!("exit {code}")),
        ExitReason::Signal(signal) => because(Outcome::Failed, format!("signal {signal}")),
        ExitReason::TimedOut => {
            because(Outcome::TimedOut, format!("timeout {}", duration_text(timeout)))
        }
        ExitReason::Stopped => because(Outcome::Interrupted, "stopped".to_owned()),
        ExitReason::NotStarted(why) => because(Outcome::Failed, format!("not started: {why}")),
        ExitReason::NotNow(why) => super::not_now(&why),
        ExitReason::Unknown(why) => because(Outcome::Failed, format!("exit unknown: {why}")),
    };
    AttemptResult { stdout: over.stdout, stderr: over.stderr, ..ended }
}
