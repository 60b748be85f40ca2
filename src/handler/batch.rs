//! `mode = "batch"`: one process for many jobs, a line each, then the end of its input.
//!
//! What it answers for a job is that job's outcome, at once; jobs that it does not answer for follow
//! its exit code. Where it does what no process may (see `held`), those that were not answered for
//! have failed.

use std::time::Duration;

use super::control_fd::ControlMessages;
use super::line_protocol::PendingAnswers;
use super::{HandlerRunner, Task, command, command_spec, job_line};
use crate::domain::{AttemptResult, Outcome};
use crate::process::{
    self, CancelToken, Deadline, Directive, EndReason, ExitReason, ExitReport, GRACE, LineProcess,
    StderrCapture, StopSignal,
};

#[cfg(test)]
mod tests;

/// What runs batches.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// Between SIGTERM, or the last answer, and SIGKILL.
    pub grace: Duration,
}

impl Default for Batch {
    fn default() -> Self {
        Self { grace: GRACE }
    }
}

impl HandlerRunner for Batch {
    fn run(&self, task: &Task, stop: &CancelToken) -> AttemptResult {
        let mut found = None;
        self.run_all(std::slice::from_ref(task), stop, &mut |_, ended| found = Some(ended));
        found.unwrap_or_else(|| AttemptResult::new(Outcome::Failed, "it gave no outcome"))
    }

    fn run_all(
        &self,
        tasks: &[Task],
        stop: &CancelToken,
        over: &mut dyn FnMut(usize, AttemptResult),
    ) {
        let Some(first) = tasks.first() else { return };
        let mut all =
            |ended: &AttemptResult| (0..tasks.len()).for_each(|at| over(at, ended.clone()));
        let started = process::start_when_possible(stop, || {
            let program = command_spec::for_long_lived(first, "batch")?;
            LineProcess::start(program, first.handler.max_output_bytes)
        });
        match started {
            Ok(kept) => self.run_on(kept, tasks, stop, over),
            Err(ExitReason::Stopped) => all(&AttemptResult::new(Outcome::Interrupted, "stopped")),
            Err(ExitReason::NotNow(why)) => all(&super::not_now(&why)),
            Err(exit) => {
                let (outcome, _, how) = command::outcome(&exit);
                all(&AttemptResult::new(outcome, how));
            }
        }
    }
}

impl Batch {
    fn run_on(
        &self,
        mut kept: LineProcess,
        tasks: &[Task],
        stop: &CancelToken,
        over: &mut dyn FnMut(usize, AttemptResult),
    ) {
        let timeout = tasks[0].handler.timeout;
        let (mut input, mut deadline) = (job_line::JobLines::new(tasks), Deadline::new(timeout));
        let mut held = PendingAnswers::new(tasks);
        let came = loop {
            let came = kept.communicate(&mut input, true, &mut deadline, stop, &mut |heard| {
                held.on_output(heard)
            });
            report_answers(&mut held, &|| kept.errors(), over);
            if came != EndReason::Enough || held.protocol_error.is_some() || held.is_done() {
                break came;
            }
        };
        let tell = match came {
            EndReason::Ended => None,
            // All is answered for: what it does besides has its grace.
            EndReason::Enough if held.protocol_error.is_none() => Some(StopSignal::Close),
            _ => Some(StopSignal::Term),
        };
        let ExitReport { exit, errors, .. } = kept.end(tell, self.grace, &mut |heard| match came {
            EndReason::Ended => held.on_output(heard),
            _ => Directive::More,
        });
        report_answers(&mut held, &|| errors.clone(), over);
        let by_itself = command::outcome(&exit);
        for at in held.unanswered_indices() {
            over(at, held.result_without_answer(came, by_itself.clone(), &errors, timeout));
        }
    }
}

/// Reports what was answered. What the process wrote to stderr is of all its jobs: it is kept with
/// those that did not succeed.
fn report_answers(
    held: &mut PendingAnswers<'_>,
    errors: &dyn Fn() -> StderrCapture,
    over: &mut dyn FnMut(usize, AttemptResult),
) {
    for (at, answer) in std::mem::take(&mut held.answers) {
        let errors = if answer.is_success() { StderrCapture::default() } else { errors() };
        over(at, answer.ended(errors, &ControlMessages::default()));
    }
}
