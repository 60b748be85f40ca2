//! `mode = "stream"`: processes that stay, each holding one job at a time.
//!
//! A job is a line on a process's stdin, its outcome a line on its stdout. Whatever a process does
//! but answer fails the attempt that it holds, and it is ended before that is reported: so a job never
//! runs twice at once.

use std::time::Duration;

use super::held::PendingAnswers;
use super::{HandlerRunner, Task, command, line, program};
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
        let program = || program::lasting(task, "stream");
        loop {
            let kept = match self.pool.get(stop, task.handler.max_output_bytes, &program) {
                Ok(kept) => kept,
                Err(ExitReason::NotStarted(why)) => {
                    return AttemptResult::new(Outcome::Failed, format!("not started: {why}"));
                }
                Err(ExitReason::NotNow(why)) => return super::not_now(&why),
                Err(_) => return AttemptResult::new(Outcome::Interrupted, "stopped"),
            };
            if let Some(ended) = self.ask(kept, task, stop) {
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
    fn ask(&self, mut kept: LineProcess, task: &Task, stop: &CancelToken) -> Option<AttemptResult> {
        let line = line::of(task);
        let timeout = task.handler.timeout;
        let mut held = PendingAnswers::new(std::slice::from_ref(task));
        let mut hear = |heard: ProtocolEvent<'_>| held.hear(heard);
        let mut deadline = Deadline::new(timeout);
        let mut unread = line.as_slice();
        let came = kept.talk(&mut unread, false, &mut deadline, stop, &mut hear);
        if held.spoilt.is_none()
            && let Some((_, answer)) = held.given.pop()
        {
            let errors = kept.take_errors();
            if unread.is_empty() {
                self.pool.put(kept);
            } else {
                // It answered before it had read its line: the next one would be glued to the rest.
                self.pool.let_go(&kept);
                kept.end(Some(StopSignal::Term), self.grace, &mut |_| Directive::More);
            }
            return Some(answer.ended(errors, &held.notes));
        }
        let is_its_own =
            matches!(came, EndReason::Stopped | EndReason::TimedOut) || !kept.is_proven();
        if came == EndReason::Stopped {
            self.pool.let_go(&kept);
        } else {
            self.pool.lost(&kept);
        }
        let tell = (came != EndReason::Ended).then_some(StopSignal::Term);
        let left = kept.end(tell, self.grace, &mut |heard| match came {
            EndReason::Ended => held.hear(heard),
            _ => Directive::More,
        });
        if came == EndReason::Ended {
            // A line that it could not end says less than how it ended.
            held.spoilt = None;
        }
        if left.is_untouched && !is_its_own {
            if held.spoilt.is_some() {
                self.pool.warn_of_speech();
            }
            return None;
        }
        Some(match held.given.pop().filter(|_| came == EndReason::Ended) {
            // Its last line, without an end.
            Some((_, answer)) => answer.ended(left.errors, &held.notes),
            None => {
                let how = match command::outcome(&left.exit) {
                    (Outcome::Succeeded, _, how) => format!("{how} without an answer"),
                    (_, _, how) => how,
                };
                held.unanswered(came, (Outcome::Failed, false, how), &left.errors, timeout)
            }
        })
    }
}
