//! The jobs that a process holds, and what it answers for them: what `stream` and `batch` share.
//!
//! One line an answer: `{"job":7,"outcome":"succeeded","detail":"…","retry_after":"30s"}`. A line
//! that is none, or is for a job that the process does not hold, or for one a second time, spoils the
//! exchange: nobody can tell any more what the process means.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::Task;
use super::control_fd::{self, ControlMessages};
use super::detail_text::{self, last_line, one_line};
use crate::config::duration_text;
use crate::domain::{AttemptResult, Outcome};
use crate::process::{ControlLine, Directive, EndReason, ProtocolEvent, StderrCapture};

/// So much of a line that is no answer is shown.
const SHOWN_BYTES: usize = 80;

/// What a process says became of a job.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct JobAnswer {
    job: i64,
    outcome: JobAnswerOutcome,
    #[serde(default)]
    detail: Value,
    #[serde(default)]
    retry_after: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum JobAnswerOutcome {
    Succeeded,
    Failed,
    Dead,
    Deferred,
}

impl JobAnswer {
    pub fn is_success(&self) -> bool {
        self.outcome == JobAnswerOutcome::Succeeded
    }

    /// How the attempt ended; `errors` is what was said on stderr meanwhile.
    pub fn ended(&self, errors: StderrCapture, notes: &ControlMessages) -> AttemptResult {
        let outcome = match self.outcome {
            JobAnswerOutcome::Succeeded => Outcome::Succeeded,
            JobAnswerOutcome::Failed | JobAnswerOutcome::Dead => Outcome::Failed,
            JobAnswerOutcome::Deferred => Outcome::Deferred,
        };
        let wait = control_fd::wait(&self.retry_after).filter(|_| outcome != Outcome::Succeeded);
        let wrong = match &self.retry_after {
            Value::Null => String::new(),
            asked if control_fd::wait(asked).is_none() => {
                format!("retry_after is no wait: {asked}")
            }
            _ => String::new(),
        };
        // What the handler says of itself stands as it said it.
        let (how, said) = match &self.detail {
            Value::Null => ("answered", last_line(errors.during_job())),
            Value::String(text) => ("", one_line(text.as_bytes())),
            other => ("", one_line(other.to_string().as_bytes())),
        };
        let how = if said.is_empty() { "answered" } else { how };
        let detail = detail_text::join(&[how, &said, &wrong, &notes.free_text]);
        let (dead, stdout) = (self.outcome == JobAnswerOutcome::Dead, Vec::new());
        AttemptResult {
            outcome,
            is_permanent: dead,
            detail,
            retry_after: wait,
            stdout,
            stderr: errors.all,
        }
    }
}

/// What a process holds.
#[derive(Debug)]
pub struct PendingAnswers<'a> {
    tasks: &'a [Task],
    is_answered: Vec<bool>,
    answered: usize,
    /// Where the next answer is looked for first.
    next: usize,
    /// Answers since they were last taken, by the place of their job.
    pub answers: Vec<(usize, JobAnswer)>,
    /// Why nothing that the process says counts any more.
    pub protocol_error: Option<String>,
    pub notes: ControlMessages,
}

impl<'a> PendingAnswers<'a> {
    pub fn new(tasks: &'a [Task]) -> Self {
        Self {
            tasks,
            is_answered: vec![false; tasks.len()],
            answered: 0,
            next: 0,
            answers: Vec::new(),
            protocol_error: None,
            notes: ControlMessages::default(),
        }
    }

    /// The places of the jobs that were not answered for.
    pub fn unanswered_indices(&self) -> impl Iterator<Item = usize> {
        (0..self.tasks.len()).filter(|&at| !self.is_answered[at])
    }

    pub fn is_done(&self) -> bool {
        self.answered == self.tasks.len()
    }

    /// Takes what the process said.
    pub fn on_output(&mut self, heard: ProtocolEvent<'_>) -> Directive {
        let line = match heard {
            ProtocolEvent::Note(line)
                if self.notes.on_line_answering_mode(line) == ControlLine::Alive =>
            {
                return Directive::Alive;
            }
            ProtocolEvent::Note(_) => return Directive::More,
            ProtocolEvent::TooLong => {
                return self.fail_protocol("answered with a line of over 1 MiB".to_owned());
            }
            ProtocolEvent::Answer(line) => line,
        };
        let answer = serde_json::from_slice::<JobAnswer>(line).ok();
        let Some(answer) = answer.filter(|_| line.trim_ascii_start().starts_with(b"{")) else {
            let shown = one_line(&line[..line.len().min(SHOWN_BYTES)]);
            return self.fail_protocol(format!("answered with what is no answer: {shown}"));
        };
        let job = answer.job;
        match self.index_of(job) {
            None => self.fail_protocol(format!("answered for job {job}, which it does not hold")),
            Some(at) if self.is_answered[at] => {
                self.fail_protocol(format!("answered twice for job {job}"))
            }
            Some(at) => {
                self.is_answered[at] = true;
                self.answered += 1;
                self.next = at + 1;
                self.answers.push((at, answer));
                Directive::Enough
            }
        }
    }

    /// As a rule they are answered for in their order.
    fn index_of(&self, job: i64) -> Option<usize> {
        let (before, from) = self.tasks.split_at(self.next);
        let is_it = |task: &Task| task.claim.job.0 == job;
        let found = from.iter().position(is_it).map(|at| at + self.next);
        found.or_else(|| before.iter().position(is_it))
    }

    fn fail_protocol(&mut self, why: String) -> Directive {
        self.protocol_error.get_or_insert(why);
        Directive::Enough
    }

    /// How an attempt ended that was not answered for; `by_itself` is what it comes to where the process
    /// came to its end by itself.
    pub fn result_without_answer(
        &self,
        came: EndReason,
        by_itself: (Outcome, bool, String),
        errors: &StderrCapture,
        timeout: Duration,
    ) -> AttemptResult {
        let failed = |why: &str| (Outcome::Failed, false, why.to_owned());
        let (outcome, dead, how) = match (came, &self.protocol_error) {
            (EndReason::Stopped, _) => (Outcome::Interrupted, false, "stopped".to_owned()),
            (_, Some(why)) => failed(why),
            (EndReason::TimedOut, _) => {
                (Outcome::TimedOut, false, format!("timeout {}", duration_text(timeout)))
            }
            (EndReason::Deaf, _) => failed("closed its stdin or its stdout before it answered"),
            (EndReason::Ended | EndReason::Enough, _) => by_itself,
        };
        let detail =
            detail_text::join(&[&how, &last_line(errors.during_job()), &self.notes.free_text]);
        let stderr = if outcome == Outcome::Succeeded { Vec::new() } else { errors.all.clone() };
        AttemptResult { is_permanent: dead, stderr, ..AttemptResult::new(outcome, detail) }
    }
}
