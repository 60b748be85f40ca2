//! A process that is spoken to in lines: some are written to its stdin, it answers with lines on its
//! stdout. Kept by a `Pool` from one exchange to the next, or used for one alone.
//!
//! Its mark holds its own number, so that what it left is known from what others left: also what it
//! left when the server was killed.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::child::{
    ChildProcess, Deadline, Directive, EndReason, InputSource, OutputEvent, StopSignal,
};
use super::pipes::LineSplitter;
use super::{CancelToken, CommandSpec, ExitReason, StartError};

/// No answer is longer.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;

/// What is heard from it.
#[derive(Clone, Copy, Debug)]
pub enum ProtocolEvent<'a> {
    /// A line on its stdout.
    Answer(&'a [u8]),
    /// A line on its stdout without an end.
    TooLong,
    /// A line on file descriptor 3.
    Note(&'a [u8]),
}

/// The end of what a process wrote to stderr.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StderrCapture {
    pub all: Vec<u8>,
    /// What stands before it was written while the process held nothing.
    pub own_from: usize,
}

impl StderrCapture {
    pub fn during_job(&self) -> &[u8] {
        &self.all[self.own_from..]
    }
}

/// Whether a process can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdleCheck {
    Yes,
    /// It has ended, or closed one of its pipes.
    Gone,
    /// It has said what it was not asked for.
    Spoke,
}

/// What a process leaves behind.
#[derive(Clone, Debug)]
pub struct ExitReport {
    pub exit: ExitReason,
    pub errors: StderrCapture,
    /// It has read nothing of what was written to it last: so it can't have begun with it.
    pub input_unread: bool,
}

/// A process that runs; dropped, it is killed.
pub struct LineProcess {
    live: ChildProcess,
    answers: LineSplitter,
    /// What it wrote to stderr while it held nothing.
    idle_stderr: Vec<u8>,
    max_output_bytes: usize,
    number: u64,
    pub(super) started_at: Instant,
    /// It was of use: an exchange with it went well.
    pub(super) is_proven: bool,
}

impl LineProcess {
    /// Starts it, its mark being `program.mark` and its number.
    ///
    /// # Errors
    /// Why it could not be started, with what to do about it.
    pub fn start(mut program: CommandSpec, max_output_bytes: usize) -> Result<Self, StartError> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        program.mark = format!("{}.{number}", program.mark);
        Ok(Self {
            live: ChildProcess::start(&program, max_output_bytes)?,
            // One more: by it a line that is too long is known.
            answers: LineSplitter::new(ANSWER_BYTES_MAX + 1),
            idle_stderr: Vec::new(),
            max_output_bytes,
            number,
            started_at: Instant::now(),
            is_proven: false,
        })
    }

    /// Whether an exchange with it has gone well before.
    pub fn has_succeeded(&self) -> bool {
        self.is_proven
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Readable when it has ended.
    pub(super) fn process(&self) -> &OwnedFd {
        self.live.process()
    }

    /// Writes `input`, as its `last` or not, and hears what it says, until that is enough or it can't
    /// go on.
    pub fn communicate(
        &mut self,
        input: &mut dyn InputSource,
        last: bool,
        deadline: &mut Deadline,
        stop: &CancelToken,
        hear: &mut dyn FnMut(ProtocolEvent<'_>) -> Directive,
    ) -> EndReason {
        let answers = &mut self.answers;
        self.live.communicate(input, last, deadline, stop, &mut |said| line(answers, said, hear))
    }

    /// Whether it can be asked.
    pub(super) fn look(&mut self) -> IdleCheck {
        let mut spoke = self.answers.is_mid_line();
        let answers = &mut self.answers;
        let runs = self.live.look(&mut |said| {
            line(answers, said, &mut |heard| {
                spoke |= !matches!(heard, ProtocolEvent::Note(_));
                Directive::More
            })
        });
        self.idle_stderr.extend(self.live.errors.take().1);
        match runs {
            _ if spoke || self.answers.is_mid_line() => IdleCheck::Spoke,
            true => IdleCheck::Yes,
            false => IdleCheck::Gone,
        }
    }

    /// What it wrote to stderr; what it writes from here on is another's.
    pub fn take_errors(&mut self) -> StderrCapture {
        let own = self.live.errors.take().1;
        let mut all = std::mem::take(&mut self.idle_stderr);
        let over = (all.len() + own.len()).saturating_sub(self.max_output_bytes);
        all.drain(..over.min(all.len()));
        let own_from = all.len();
        all.extend(own);
        StderrCapture { all, own_from }
    }

    /// The same, and it stays.
    pub fn errors(&self) -> StderrCapture {
        StderrCapture { all: self.live.errors.end(), own_from: 0 }
    }

    /// Sees it to its end; an answer that it gave before is still heard.
    pub fn end(
        mut self,
        tell: Option<StopSignal>,
        grace: Duration,
        hear: &mut dyn FnMut(ProtocolEvent<'_>) -> Directive,
    ) -> ExitReport {
        let answers = &mut self.answers;
        let exit = self.live.terminate(tell, grace, &mut |said| line(answers, said, hear));
        self.answers.end(&mut |line| {
            hear(ProtocolEvent::Answer(line));
        });
        ExitReport { exit, errors: self.take_errors(), input_unread: self.live.is_untouched() }
    }
}

/// What is said, in lines.
fn line(
    answers: &mut LineSplitter,
    said: OutputEvent<'_>,
    hear: &mut dyn FnMut(ProtocolEvent<'_>) -> Directive,
) -> Directive {
    let bytes = match said {
        OutputEvent::Note(line) => return hear(ProtocolEvent::Note(line)),
        OutputEvent::Out(bytes) => bytes,
    };
    let mut then = Directive::More;
    answers.add(bytes, &mut |line| {
        if !line.trim_ascii().is_empty() {
            let is_cut = line.len() > ANSWER_BYTES_MAX;
            then = then.max(hear(if is_cut {
                ProtocolEvent::TooLong
            } else {
                ProtocolEvent::Answer(line)
            }));
        }
    });
    if answers.is_full() {
        then = then.max(hear(ProtocolEvent::TooLong));
    }
    then
}
