//! `mode = "batch"`: one process for several jobs. It reads one line for each job, then the end of
//! its input.
//!
//! A response for a job is reported as its outcome at once. Jobs without a response follow the exit
//! code. After a protocol error (`line_protocol`), the jobs without a response have failed.

use std::time::Duration;

use super::control_fd::ControlMessages;
use super::line_protocol::PendingResponses;
use super::{HandlerRunner, Task, command, command_spec, job_line};
use crate::domain::{AttemptResult, Outcome};
use crate::process::{
    self, CancelToken, Deadline, Directive, EndReason, ExitReport, GRACE, LineProcess,
    StderrCapture, StopSignal,
};

#[cfg(test)]
mod tests;

/// Runs batches of jobs.
#[derive(Clone, Copy, Debug)]
pub struct BatchRunner {
    /// The time between SIGTERM, or the last response, and SIGKILL.
    pub grace: Duration,
}

impl Default for BatchRunner {
    fn default() -> Self {
        Self { grace: GRACE }
    }
}

impl HandlerRunner for BatchRunner {
    fn run(&self, task: &Task, stop: &CancelToken) -> AttemptResult {
        let mut result = None;
        self.run_all(std::slice::from_ref(task), stop, &mut |_, found| result = Some(found));
        result
            .unwrap_or_else(|| AttemptResult::new(Outcome::Failed, "the batch reported no outcome"))
    }

    fn run_all(
        &self,
        tasks: &[Task],
        stop: &CancelToken,
        on_result: &mut dyn FnMut(usize, AttemptResult),
    ) {
        let Some(first) = tasks.first() else { return };
        let started = process::start_when_possible(stop, || {
            let command = command_spec::for_long_lived(first, "batch")?;
            LineProcess::start(command, first.handler.max_output_bytes)
        });
        match started {
            Ok(process) => self.run_on(process, tasks, stop, on_result),
            Err(exit) => {
                let result = super::start_failure(exit);
                (0..tasks.len()).for_each(|index| on_result(index, result.clone()));
            }
        }
    }
}

impl BatchRunner {
    fn run_on(
        &self,
        mut process: LineProcess,
        tasks: &[Task],
        stop: &CancelToken,
        on_result: &mut dyn FnMut(usize, AttemptResult),
    ) {
        let timeout = tasks[0].handler.timeout;
        let (mut input, mut deadline) = (job_line::JobLines::new(tasks), Deadline::new(timeout));
        let mut pending = PendingResponses::new(tasks);
        let end_reason = loop {
            let end_reason =
                process.communicate(&mut input, true, &mut deadline, stop, &mut |event| {
                    pending.on_output(event)
                });
            report_responses(&mut pending, &|| process.stderr_so_far(), on_result);
            if end_reason != EndReason::Finished
                || pending.protocol_error.is_some()
                || pending.is_done()
            {
                break end_reason;
            }
        };
        let signal = match end_reason {
            EndReason::Exited => None,
            // All jobs have a response. The process gets the grace period to end.
            EndReason::Finished if pending.protocol_error.is_none() => Some(StopSignal::Close),
            _ => Some(StopSignal::Term),
        };
        let ExitReport { exit, stderr, .. } =
            process.terminate(signal, self.grace, &mut |event| match end_reason {
                EndReason::Exited => pending.on_output(event),
                _ => Directive::Continue,
            });
        report_responses(&mut pending, &|| stderr.clone(), on_result);
        let own_exit = command::map_exit(&exit);
        for index in pending.unanswered_indices() {
            on_result(
                index,
                pending.result_without_response(end_reason, own_exit.clone(), &stderr, timeout),
            );
        }
    }
}

/// Reports new responses. The stderr of the process belongs to all its jobs, and it is kept with
/// those that did not succeed.
fn report_responses(
    pending: &mut PendingResponses<'_>,
    stderr: &dyn Fn() -> StderrCapture,
    on_result: &mut dyn FnMut(usize, AttemptResult),
) {
    for (index, response) in std::mem::take(&mut pending.responses) {
        let stderr = if response.is_success() { StderrCapture::default() } else { stderr() };
        on_result(index, response.attempt_result(stderr, &ControlMessages::default()));
    }
}
