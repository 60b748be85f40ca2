//! `mode = "stream"`: long-lived processes, each of which holds one job at a time.
//!
//! A job is a line on the process's stdin, and its response is a line on stdout. Any other
//! behaviour of the process fails the attempt. The process is ended before the failure is reported,
//! so that a job never runs twice at the same time.

use std::time::Duration;

use super::line_protocol::PendingResponses;
use super::{HandlerRunner, Task, command, command_spec, job_line};
use crate::config;
use crate::domain::{AttemptResult, Outcome};
use crate::process::{
    CancelToken, Deadline, Directive, EndReason, GRACE, LineProcess, ProcessPool, ProtocolEvent,
    StopSignal,
};

#[cfg(test)]
mod tests;

/// Runs the attempts of one handler in a pool of processes.
pub struct StreamRunner {
    pool: ProcessPool,
    /// The time between SIGTERM and SIGKILL.
    pub grace: Duration,
}

impl StreamRunner {
    pub fn new(settings: &config::Handler) -> Self {
        Self { pool: ProcessPool::new(&settings.name), grace: GRACE }
    }
}

impl HandlerRunner for StreamRunner {
    fn run(&self, task: &Task, stop: &CancelToken) -> AttemptResult {
        let command = || command_spec::for_long_lived(task, "stream");
        loop {
            let process = match self.pool.acquire(stop, task.handler.max_output_bytes, &command) {
                Ok(process) => process,
                Err(exit) => return super::start_failure(exit),
            };
            if let Some(result) = self.run_on(process, task, stop) {
                return result;
            }
        }
    }

    fn close(&self) {
        self.pool.close();
    }
}

impl StreamRunner {
    /// Runs the job on a process. Returns `None` if the process ended before it read the line. In
    /// this case another process must run the job.
    fn run_on(
        &self,
        mut process: LineProcess,
        task: &Task,
        stop: &CancelToken,
    ) -> Option<AttemptResult> {
        let line = job_line::encode(task);
        let timeout = task.handler.timeout;
        let mut pending = PendingResponses::new(std::slice::from_ref(task));
        let mut on_event = |event: ProtocolEvent<'_>| pending.on_output(event);
        let mut deadline = Deadline::new(timeout);
        let mut unwritten = line.as_slice();
        let end_reason =
            process.communicate(&mut unwritten, false, &mut deadline, stop, &mut on_event);
        if pending.protocol_error.is_none()
            && let Some((_, response)) = pending.responses.pop()
        {
            let stderr = process.take_stderr();
            if unwritten.is_empty() {
                self.pool.release(process);
            } else {
                // The process responded before it read its whole line. The rest of this line would
                // corrupt the next one.
                self.pool.discard(&process);
                process.terminate(Some(StopSignal::Term), self.grace, &mut |_| Directive::Continue);
            }
            return Some(response.attempt_result(stderr, &pending.control));
        }
        let is_own_failure = matches!(end_reason, EndReason::Stopped | EndReason::TimedOut)
            || !process.has_succeeded;
        if end_reason == EndReason::Stopped {
            self.pool.discard(&process);
        } else {
            self.pool.discard_failed(&process);
        }
        let signal = (end_reason != EndReason::Exited).then_some(StopSignal::Term);
        let exit_report = process.terminate(signal, self.grace, &mut |event| match end_reason {
            EndReason::Exited => pending.on_output(event),
            _ => Directive::Continue,
        });
        if end_reason == EndReason::Exited {
            // The exit of the process says more than an incomplete line.
            pending.protocol_error = None;
        }
        if exit_report.input_unread && !is_own_failure {
            if pending.protocol_error.is_some() {
                self.pool.warn_unexpected_output();
            }
            return None;
        }
        Some(match pending.responses.pop().filter(|_| end_reason == EndReason::Exited) {
            // The last line of the process, without a newline.
            Some((_, response)) => response.attempt_result(exit_report.stderr, &pending.control),
            None => {
                let exit_text = match command::map_exit(&exit_report.exit) {
                    (Outcome::Succeeded, _, exit_text) => format!("{exit_text} without a response"),
                    (_, _, exit_text) => exit_text,
                };
                pending.result_without_response(
                    end_reason,
                    (Outcome::Failed, false, exit_text),
                    &exit_report.stderr,
                    timeout,
                )
            }
        })
    }
}
