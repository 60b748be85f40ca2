//! `mode = "stream"`: processes that stay, each holding one job at a time.
//!
//! A job is a line on a process's stdin, its outcome a line on its stdout. Whatever a process does
//! but answer fails the attempt that it holds, and it is ended before that is reported: so a job never
//! runs twice at once.

use std::time::Duration;

use super::line_protocol::PendingAnswers;
use super::{HandlerRunner, Task, command, command_spec, job_line};
use crate::config;
use crate::domain::{AttemptResult, Outcome};
use crate::process::{
    CancelToken, Deadline, Directive, EndReason, ExitReason, GRACE, LineProcess, ProcessPool,
    ProtocolEvent, StopSignal,
};

#[cfg(test)]
mod tests;

/// The processes of one handler.
pub struct Stream {
    pool: ProcessPool,
    /// Between SIGTERM and SIGKILL.
    pub grace: Duration,
}

impl Stream {
    pub fn new(settings: &config::Handler) -> Self {
        Self { pool: ProcessPool::new(&settings.name), grace: GRACE }
    }
}

impl HandlerRunner for Stream {
    fn run(&self, task: &Task, stop: &CancelToken) -> AttemptResult {
        let program = || command_spec::for_long_lived(task, "stream");
        loop {
            let kept = match self.pool.acquire(stop, task.handler.max_output_bytes, &program) {
                Ok(kept) => kept,
                Err(ExitReason::NotStarted(why)) => {
                    return AttemptResult::new(Outcome::Failed, format!("not started: {why}"));
                }
                Err(ExitReason::NotNow(why)) => return super::not_now(&why),
                Err(_) => return AttemptResult::new(Outcome::Interrupted, "stopped"),
            };
            if let Some(ended) = self.run_on(kept, task, stop) {
                return ended;
            }
        }
    }

    fn close(&self) {
        self.pool.close();
    }
}

impl Stream {
    /// Hands it the job. `None`: the process had done with it all before it read the line, so that
    /// the job is another's to do.
    fn run_on(
        &self,
        mut kept: LineProcess,
        task: &Task,
        stop: &CancelToken,
    ) -> Option<AttemptResult> {
        let line = job_line::encode(task);
        let timeout = task.handler.timeout;
        let mut held = PendingAnswers::new(std::slice::from_ref(task));
        let mut hear = |heard: ProtocolEvent<'_>| held.on_output(heard);
        let mut deadline = Deadline::new(timeout);
        let mut unread = line.as_slice();
        let came = kept.communicate(&mut unread, false, &mut deadline, stop, &mut hear);
        if held.protocol_error.is_none()
            && let Some((_, answer)) = held.answers.pop()
        {
            let errors = kept.take_errors();
            if unread.is_empty() {
                self.pool.release(kept);
            } else {
                // It answered before it had read its line: the next one would be glued to the rest.
                self.pool.discard(&kept);
                kept.end(Some(StopSignal::Term), self.grace, &mut |_| Directive::More);
            }
            return Some(answer.ended(errors, &held.notes));
        }
        let is_its_own =
            matches!(came, EndReason::Stopped | EndReason::TimedOut) || !kept.has_succeeded();
        if came == EndReason::Stopped {
            self.pool.discard(&kept);
        } else {
            self.pool.lost(&kept);
        }
        let tell = (came != EndReason::Ended).then_some(StopSignal::Term);
        let left = kept.end(tell, self.grace, &mut |heard| match came {
            EndReason::Ended => held.on_output(heard),
            _ => Directive::More,
        });
        if came == EndReason::Ended {
            // A line that it could not end says less than how it ended.
            held.protocol_error = None;
        }
        if left.input_unread && !is_its_own {
            if held.protocol_error.is_some() {
                self.pool.warn_unexpected_output();
            }
            return None;
        }
        Some(match held.answers.pop().filter(|_| came == EndReason::Ended) {
            // Its last line, without an end.
            Some((_, answer)) => answer.ended(left.errors, &held.notes),
            None => {
                let how = match command::outcome(&left.exit) {
                    (Outcome::Succeeded, _, how) => format!("{how} without an answer"),
                    (_, _, how) => how,
                };
                held.result_without_answer(
                    came,
                    (Outcome::Failed, false, how),
                    &left.errors,
                    timeout,
                )
            }
        })
    }
}
