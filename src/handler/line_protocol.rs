//! The responses of a process for the jobs that it holds, in the modes `stream` and `batch`.
//!
//! A response is one line: `{"job":7,"outcome":"succeeded","detail":"…","retry_after":"30s"}`.
//! Three lines are protocol errors: one that is not a response, one for a job that the process does
//! not hold, and a second one for the same job. After a protocol error, no further line of the
//! process counts.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::Task;
use super::control_fd::{self, ControlMessages};
use super::detail_text::{self, one_line, stderr_line};
use crate::config::duration_text;
use crate::domain::{AttemptResult, Outcome};
use crate::process::{ControlLine, Directive, EndReason, ProtocolEvent, StderrCapture};

/// How much of an invalid line is shown.
const SHOWN_BYTES: usize = 80;

/// The response of a handler for one job.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct JobResponse {
    job: i64,
    outcome: ResponseOutcome,
    #[serde(default)]
    detail: Value,
    #[serde(default)]
    retry_after: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ResponseOutcome {
    Succeeded,
    Failed,
    Dead,
    Deferred,
}

impl JobResponse {
    pub fn is_success(&self) -> bool {
        self.outcome == ResponseOutcome::Succeeded
    }

    /// Makes the result of the attempt. `stderr` is what the process wrote to stderr during it.
    pub fn attempt_result(
        &self,
        stderr: StderrCapture,
        control: &ControlMessages,
    ) -> AttemptResult {
        let outcome = match self.outcome {
            ResponseOutcome::Succeeded => Outcome::Succeeded,
            ResponseOutcome::Failed | ResponseOutcome::Dead => Outcome::Failed,
            ResponseOutcome::Deferred => Outcome::Deferred,
        };
        let wait = control_fd::parse_retry_after(&self.retry_after)
            .filter(|_| outcome != Outcome::Succeeded);
        let retry_after_error = match &self.retry_after {
            Value::Null => String::new(),
            value if control_fd::parse_retry_after(value).is_none() => {
                format!("retry_after is not a duration: {value}")
            }
            _ => String::new(),
        };
        // A detail from the handler is used as it is.
        let (prefix, text) = match &self.detail {
            Value::Null => ("answered", stderr_line(stderr.during_job(), outcome)),
            Value::String(text) => ("", one_line(text.as_bytes())),
            other => ("", one_line(other.to_string().as_bytes())),
        };
        let prefix = if text.is_empty() { "answered" } else { prefix };
        let detail = detail_text::join(&[prefix, &text, &retry_after_error, &control.free_text]);
        let (is_permanent, stdout) = (self.outcome == ResponseOutcome::Dead, Vec::new());
        AttemptResult {
            outcome,
            is_permanent,
            detail,
            retry_after: wait,
            stdout,
            stderr: stderr.bytes,
        }
    }
}

/// The jobs that a process holds, and its responses so far.
#[derive(Debug)]
pub struct PendingResponses<'a> {
    tasks: &'a [Task],
    is_answered: Vec<bool>,
    answered_count: usize,
    /// The index at which the search for the next response's job starts.
    next: usize,
    /// Responses that the caller has not taken yet, with the index of their job.
    pub responses: Vec<(usize, JobResponse)>,
    /// The first protocol error.
    pub protocol_error: Option<String>,
    pub control: ControlMessages,
}

impl<'a> PendingResponses<'a> {
    pub fn new(tasks: &'a [Task]) -> Self {
        Self {
            tasks,
            is_answered: vec![false; tasks.len()],
            answered_count: 0,
            next: 0,
            responses: Vec::new(),
            protocol_error: None,
            control: ControlMessages::default(),
        }
    }

    /// Returns the indices of the jobs without a response.
    pub fn unanswered_indices(&self) -> impl Iterator<Item = usize> {
        (0..self.tasks.len()).filter(|&index| !self.is_answered[index])
    }

    pub fn is_done(&self) -> bool {
        self.answered_count == self.tasks.len()
    }

    /// Handles a line of the process.
    pub fn on_output(&mut self, event: ProtocolEvent<'_>) -> Directive {
        let line = match event {
            ProtocolEvent::ControlLine(line)
                if self.control.on_line_without_deferral(line) == ControlLine::Heartbeat =>
            {
                return Directive::RestartTimeout;
            }
            ProtocolEvent::ControlLine(_) => return Directive::Continue,
            ProtocolEvent::TooLong => {
                return self.fail_protocol("wrote a line of over 1 MiB".to_owned());
            }
            ProtocolEvent::Response(line) => line,
        };
        let response = serde_json::from_slice::<JobResponse>(line).ok();
        let Some(response) = response.filter(|_| line.trim_ascii_start().starts_with(b"{")) else {
            let shown = one_line(&line[..line.len().min(SHOWN_BYTES)]);
            return self.fail_protocol(format!("wrote a line that is not a response: {shown}"));
        };
        let job = response.job;
        match self.index_of(job) {
            None => self.fail_protocol(format!("answered for job {job}, which it does not hold")),
            Some(index) if self.is_answered[index] => {
                self.fail_protocol(format!("answered twice for job {job}"))
            }
            Some(index) => {
                self.is_answered[index] = true;
                self.answered_count += 1;
                self.next = index + 1;
                self.responses.push((index, response));
                Directive::Finish
            }
        }
    }

    /// Finds the index of a job. Most processes respond in the order of the jobs.
    fn index_of(&self, job: i64) -> Option<usize> {
        let (before, after) = self.tasks.split_at(self.next);
        let matches = |task: &Task| task.claim.job.0 == job;
        let found = after.iter().position(matches).map(|index| index + self.next);
        found.or_else(|| before.iter().position(matches))
    }

    fn fail_protocol(&mut self, reason: String) -> Directive {
        self.protocol_error.get_or_insert(reason);
        Directive::Finish
    }

    /// Makes the result of an attempt without a response. `own_exit` is the result if the process
    /// ended without being stopped.
    pub fn result_without_response(
        &self,
        end_reason: EndReason,
        own_exit: (Outcome, bool, String),
        stderr: &StderrCapture,
        timeout: Duration,
    ) -> AttemptResult {
        let failed = |reason: &str| (Outcome::Failed, false, reason.to_owned());
        let (outcome, is_permanent, summary) = match (end_reason, &self.protocol_error) {
            (EndReason::Stopped, _) => (Outcome::Interrupted, false, "stopped".to_owned()),
            (_, Some(reason)) => failed(reason),
            (EndReason::TimedOut, _) => {
                (Outcome::TimedOut, false, format!("timeout {}", duration_text(timeout)))
            }
            (EndReason::PipeClosed, _) => {
                failed("closed its stdin or its stdout before it responded")
            }
            (EndReason::Exited | EndReason::Finished, _) => own_exit,
        };
        let detail = detail_text::join(&[
            &summary,
            &stderr_line(stderr.during_job(), outcome),
            &self.control.free_text,
        ]);
        let stderr = if outcome == Outcome::Succeeded { Vec::new() } else { stderr.bytes.clone() };
        AttemptResult { is_permanent, stderr, ..AttemptResult::new(outcome, detail) }
    }
}
