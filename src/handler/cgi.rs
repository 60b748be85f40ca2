//! `mode = "cgi"`: runs a receiver that was written for the web as a CGI/1.1 script (RFC 3875). The
//! body is on stdin and the request is in the environment. The status in the output decides the
//! outcome.
//!
//! php-cgi runs a sender's PHP example unchanged. No part of the query becomes an argument, unlike
//! in section 4.4 of the RFC. An attempt without a header block, or with an exit other than 0,
//! fails. Descriptor 3 is ignored, because such scripts don't know it.

use std::ffi::OsString;
use std::time::Duration;

use super::detail_text::{self, MAX_DETAIL_CHARS, stderr_line};
use super::{HandlerRunner, Task, command, command_spec};
use crate::clock;
use crate::config::duration_text;
use crate::domain::{AttemptResult, Outcome};
use crate::process::{self, CancelToken, ControlLine, ExitReason, GRACE, RunLimits, RunResult};

mod head;
mod meta;
#[cfg(test)]
mod tests;

/// Runs CGI scripts.
#[derive(Clone, Copy, Debug)]
pub struct CgiRunner;

impl HandlerRunner for CgiRunner {
    fn run(&self, task: &Task, stop: &CancelToken) -> AttemptResult {
        let command = match command_spec::for_task(task, command_spec::build_environment(task)) {
            Ok(mut command) => {
                let variables = meta::build_variables(task, &command);
                command.env.extend(without_overridden(task, variables));
                command
            }
            Err(e) => return super::start_failure(e.into()),
        };
        let limits = RunLimits {
            timeout: task.handler.timeout,
            grace: GRACE,
            max_output_bytes: task.handler.max_output_bytes,
            max_stdout_start_bytes: head::MAX_HEAD_BYTES + MAX_DETAIL_CHARS * 4,
        };
        let run = process::run(&command, &task.input, limits, stop, &mut |_| ControlLine::Message);
        attempt_result(run, task.handler.timeout)
    }
}

/// Leaves out variables of the request that the handler's `env` sets, such as `HTTPS = "on"`.
fn without_overridden(
    task: &Task,
    variables: Vec<(String, OsString)>,
) -> impl Iterator<Item = (String, OsString)> {
    let is_set = |name: &str| task.env.iter().any(|(set, _)| set == name);
    variables.into_iter().filter(move |(name, _)| !is_set(name))
}

/// Makes the result of the attempt from the status or the exit. The detail shows the error on
/// stderr, else the start of the response body.
fn attempt_result(run: RunResult, timeout: Duration) -> AttemptResult {
    let stderr_line = stderr_line(&run.stderr, Outcome::Failed);
    let result_with_stderr = |outcome, exit_text: String| {
        AttemptResult::new(outcome, detail_text::join(&[&exit_text, &stderr_line]))
    };
    let result = match run.exit {
        ExitReason::Code(0) => match head::parse_head(&run.stdout_start) {
            Ok((response, body)) => {
                let text = if stderr_line.is_empty() {
                    detail_text::first_words(body)
                } else {
                    stderr_line
                };
                response.attempt_result(&text, clock::wall_ms())
            }
            Err(reason) => {
                result_with_stderr(Outcome::Failed, format!("exit 0: no header block: {reason}"))
            }
        },
        ExitReason::TimedOut => {
            result_with_stderr(Outcome::TimedOut, format!("timeout {}", duration_text(timeout)))
        }
        ExitReason::Shortage(reason) => super::shortage_result(&reason),
        exit => {
            let (outcome, _, exit_text) = command::map_exit(&exit);
            result_with_stderr(outcome, exit_text)
        }
    };
    AttemptResult { stdout: run.stdout, stderr: run.stderr, ..result }
}
