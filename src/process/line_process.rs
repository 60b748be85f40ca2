//! A process that reads lines on its stdin and responds with lines on its stdout. A `ProcessPool`
//! keeps it between two exchanges, or it is used for one exchange only.
//!
//! Its run id contains its own number. So its orphans are distinguished from those of other
//! processes, even after the server was killed.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::child::{
    ChildProcess, Deadline, Directive, EndReason, InputSource, OutputEvent, StopSignal,
};
use super::pipes::LineSplitter;
use super::{CancelToken, CommandSpec, ExitReason, StartError, Supervisor};

/// The maximum length of a response line.
pub const MAX_RESPONSE_BYTES: usize = 1 << 20;

/// A line from the process.
#[derive(Clone, Copy, Debug)]
pub enum ProtocolEvent<'a> {
    /// A line on its stdout.
    Response(&'a [u8]),
    /// A line on its stdout that is longer than `MAX_RESPONSE_BYTES`.
    TooLong,
    /// A line on file descriptor 3.
    ControlLine(&'a [u8]),
}

/// The end of a process's stderr.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StderrCapture {
    pub bytes: Vec<u8>,
    /// Where the output of the current job starts. The process wrote the bytes before it while it
    /// held no job.
    pub job_start: usize,
}

impl StderrCapture {
    pub fn during_job(&self) -> &[u8] {
        &self.bytes[self.job_start..]
    }
}

/// Whether an idle process can take a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdleCheck {
    Ready,
    /// It has ended, or closed its stdin or its stdout.
    Exited,
    /// It wrote to its stdout although it held no job.
    UnexpectedOutput,
}

/// The exit of a process and its last output.
#[derive(Clone, Debug)]
pub struct ExitReport {
    pub exit: ExitReason,
    pub stderr: StderrCapture,
    /// The process read nothing of its last input, so it can't have started that job.
    pub input_unread: bool,
}

/// A running process. It is killed if it is dropped.
pub struct LineProcess {
    child: ChildProcess,
    responses: LineSplitter,
    /// The text that the process wrote to stderr while it held no job.
    idle_stderr: Vec<u8>,
    max_output_bytes: usize,
    pub(super) started_at: Instant,
    /// An earlier exchange with the process succeeded.
    pub has_succeeded: bool,
}

impl LineProcess {
    /// Starts the process. Its run id is `command.run_id` followed by the number of the process.
    ///
    /// # Errors
    /// The reason why it did not start, and what to do.
    pub fn start(mut command: CommandSpec, max_output_bytes: usize) -> Result<Self, StartError> {
        let number = command.supervisor.table.lock().next_number();
        command.run_id = format!("{}.{number}", command.run_id);
        Ok(Self {
            child: ChildProcess::start(&command, max_output_bytes)?,
            // A line that is too long is recognised by the extra byte.
            responses: LineSplitter::new(MAX_RESPONSE_BYTES + 1),
            idle_stderr: Vec::new(),
            max_output_bytes,
            started_at: Instant::now(),
            has_succeeded: false,
        })
    }

    pub(super) fn number(&self) -> u64 {
        self.child.run.number
    }

    pub(super) fn supervisor(&self) -> &Arc<Supervisor> {
        &self.child.run.supervisor
    }

    /// Returns the pidfd of the process, readable when the process has ended.
    pub(super) fn pidfd(&self) -> &OwnedFd {
        self.child.pidfd()
    }

    /// Writes `input` and passes the lines of the process to `on_event`, until a callback returns
    /// `Finish` or the exchange can't continue. With `closes_input`, the input of the process ends
    /// after `input`.
    pub fn communicate(
        &mut self,
        input: &mut dyn InputSource,
        closes_input: bool,
        deadline: &mut Deadline,
        stop: &CancelToken,
        on_event: &mut dyn FnMut(ProtocolEvent<'_>) -> Directive,
    ) -> EndReason {
        let responses = &mut self.responses;
        self.child.communicate(input, closes_input, deadline, stop, &mut |event| {
            dispatch_output(responses, event, on_event)
        })
    }

    /// Checks, without waiting, whether the idle process can take a job.
    pub(super) fn poll_idle(&mut self) -> IdleCheck {
        let mut has_output = self.responses.is_mid_line();
        let responses = &mut self.responses;
        let is_running = self.child.poll_idle(&mut |event| {
            dispatch_output(responses, event, &mut |event| {
                has_output |= !matches!(event, ProtocolEvent::ControlLine(_));
                Directive::Continue
            })
        });
        self.idle_stderr.extend(self.child.stderr_tail.take().1);
        match is_running {
            _ if has_output || self.responses.is_mid_line() => IdleCheck::UnexpectedOutput,
            true => IdleCheck::Ready,
            false => IdleCheck::Exited,
        }
    }

    /// Takes what the process wrote to stderr. Later output belongs to the next job.
    pub fn take_stderr(&mut self) -> StderrCapture {
        let current = self.child.stderr_tail.take().1;
        let mut bytes = std::mem::take(&mut self.idle_stderr);
        let excess = (bytes.len() + current.len()).saturating_sub(self.max_output_bytes);
        bytes.drain(..excess.min(bytes.len()));
        let job_start = bytes.len();
        bytes.extend(current);
        StderrCapture { bytes, job_start }
    }

    /// Returns a copy of what the process wrote to stderr so far.
    pub fn stderr_so_far(&self) -> StderrCapture {
        StderrCapture { bytes: self.child.stderr_tail.tail(), job_start: 0 }
    }

    /// Ends the process. `on_event` still gets a response that the process wrote before.
    pub fn terminate(
        mut self,
        signal: Option<StopSignal>,
        grace: Duration,
        on_event: &mut dyn FnMut(ProtocolEvent<'_>) -> Directive,
    ) -> ExitReport {
        let responses = &mut self.responses;
        let exit = self
            .child
            .terminate(signal, grace, &mut |event| dispatch_output(responses, event, on_event));
        self.responses.finish(&mut |line| {
            on_event(ProtocolEvent::Response(line));
        });
        ExitReport { exit, stderr: self.take_stderr(), input_unread: self.child.input_is_unread() }
    }
}

/// Splits stdout into lines and passes each event on.
fn dispatch_output(
    responses: &mut LineSplitter,
    event: OutputEvent<'_>,
    on_event: &mut dyn FnMut(ProtocolEvent<'_>) -> Directive,
) -> Directive {
    let bytes = match event {
        OutputEvent::ControlLine(line) => return on_event(ProtocolEvent::ControlLine(line)),
        OutputEvent::Stdout(bytes) => bytes,
    };
    let mut directive = Directive::Continue;
    responses.add(bytes, &mut |line| {
        if !line.trim_ascii().is_empty() {
            let is_too_long = line.len() > MAX_RESPONSE_BYTES;
            directive = directive.max(on_event(if is_too_long {
                ProtocolEvent::TooLong
            } else {
                ProtocolEvent::Response(line)
            }));
        }
    });
    if responses.is_full() {
        directive = directive.max(on_event(ProtocolEvent::TooLong));
    }
    directive
}
