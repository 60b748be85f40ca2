//! A process from its start to its end: what `run` and `Kept` have in common.
//!
//! Everything waits on one `poll`: the process, its streams, file descriptor 3, and `Stop`. Nothing
//! that the process does can hold it: not reading its input, flooding or closing its pipes, handing
//! them to children. When it has ended its group is killed before it is reaped (so that the group's
//! number can't be another's yet), and `reap` ends what left the group.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionread};
use rustix::process::{Pid, Signal, WaitStatus, getpgid, kill_process_group, pidfd_send_signal};

use super::orphans::RunGuard;
use super::pipes::{LineSplitter, TailBuffer, read_some};
use super::{CancelToken, CommandSpec, ExitReason, StartError, spawn};

/// A line on file descriptor 3 is read up to this length. How many there are has no limit, as a long
/// run may say `alive` for days; whoever takes them keeps only so much.
const NOTE_BYTES_MAX: usize = 64 << 10;

/// What is killed ends by itself, unless the system holds it; it is asked again after so long.
const AGAIN: Duration = Duration::from_millis(100);

/// How long what closed the pipe that it answers by, or is asked by, has until it ends by itself.
const CLOSED_PIPE_GRACE: Duration = Duration::from_secs(1);

/// What a process says while it runs.
#[derive(Clone, Copy, Debug)]
pub(super) enum OutputEvent<'a> {
    /// Bytes of its stdout.
    Out(&'a [u8]),
    /// A line on file descriptor 3.
    Note(&'a [u8]),
}

/// What follows from what was said; the last is the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Directive {
    More,
    /// The timeout starts anew.
    Alive,
    /// Nothing more is waited for.
    Enough,
}

/// Why a talk with it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    Enough,
    /// It has ended.
    Ended,
    TimedOut,
    Stopped,
    /// It runs, but can't be asked or can't answer: it closed that pipe.
    Deaf,
}

/// When a talk is over at the latest.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    timeout: Duration,
    at: Instant,
}

impl Deadline {
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, at: Instant::now() + timeout }
    }

    fn left(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }
}

/// What is written to a process, bit by bit.
pub trait InputSource {
    /// What is to be written next; empty at the end.
    fn remaining(&mut self) -> &[u8];

    fn advance(&mut self, count: usize);
}

impl InputSource for &[u8] {
    fn remaining(&mut self) -> &[u8] {
        self
    }

    fn advance(&mut self, count: usize) {
        *self = &self[count..];
    }
}

/// How a process is told to end; it is killed when it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// By the end of its input.
    Close,
    /// By SIGTERM.
    Term,
}

/// A process that runs. Dropped before its end was seen to, it is killed.
pub(super) struct ChildProcess {
    pid: Pid,
    /// Readable when the process has ended.
    process: OwnedFd,
    entered: RunGuard,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    pub errors: TailBuffer,
    notes: Option<OwnedFd>,
    lines: LineSplitter,
    /// How much was written to its stdin last, and how much of it was never read.
    written: u64,
    unread: Option<u64>,
    is_over: bool,
}

impl ChildProcess {
    /// Starts it, or says why not.
    pub fn start(program: &CommandSpec, max_output_bytes: usize) -> Result<Self, StartError> {
        let entered = RunGuard::new(&program.mark);
        let child = spawn::spawn(program, &entered)?;
        Ok(Self {
            pid: child.pid,
            process: child.process,
            entered,
            stdin: Some(child.stdin),
            stdout: Some(child.stdout),
            stderr: Some(child.stderr),
            errors: TailBuffer::new(0, max_output_bytes),
            notes: Some(child.notes),
            lines: LineSplitter::new(NOTE_BYTES_MAX),
            written: 0,
            unread: None,
            is_over: false,
        })
    }

    pub fn process(&self) -> &OwnedFd {
        &self.process
    }

    /// Writes `input` (and closes the process's stdin behind it, if it is the `last`) and hears what
    /// the process says, until that is enough, it ends, the deadline is there, or `stop` is set.
    pub fn communicate(
        &mut self,
        input: &mut dyn InputSource,
        last: bool,
        deadline: &mut Deadline,
        stop: &CancelToken,
        hear: &mut dyn FnMut(OutputEvent<'_>) -> Directive,
    ) -> EndReason {
        let mut is_deaf = false;
        self.written = 0;
        let mut wants = self.write_input(input, last);
        loop {
            let closed = self.stdout.is_none() || self.stdin.is_none();
            if closed && !last && !is_deaf {
                is_deaf = true;
                deadline.at = deadline.at.min(Instant::now() + CLOSED_PIPE_GRACE);
            }
            let left = deadline.left();
            if left.is_zero() {
                return if is_deaf { EndReason::Deaf } else { EndReason::TimedOut };
            }
            if stop.is_set() {
                return EndReason::Stopped;
            }
            let Some(ready) = self.wait(wants, Some(stop), left) else { continue };
            if ready.stdin {
                wants = self.write_input(input, last);
            }
            match self.read_output(ready, hear) {
                Directive::Enough => return EndReason::Enough,
                Directive::Alive => *deadline = Deadline::new(deadline.timeout),
                Directive::More => {}
            }
            if ready.ended {
                return EndReason::Ended;
            }
        }
    }

    /// Writes what the pipe takes; whether there is more. A process that does not read its input is
    /// no fault.
    fn write_input(&mut self, input: &mut dyn InputSource, last: bool) -> bool {
        while let Some(stdin) = &self.stdin {
            let rest = input.remaining();
            if rest.is_empty() {
                break;
            }
            match rustix::io::write(stdin, rest) {
                Ok(count) => {
                    input.advance(count);
                    self.written += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => {
                    // Nobody reads it any more.
                    self.unread = ioctl_fionread(stdin).ok();
                    self.stdin = None;
                }
            }
        }
        if last {
            self.stdin = None;
        }
        false
    }

    /// Whether it has ended without having read anything of what was written to it last. Not known,
    /// and so not said, once its stdin was closed by us.
    pub fn is_untouched(&self) -> bool {
        let now = self.stdin.as_ref().and_then(|stdin| ioctl_fionread(stdin).ok());
        now.or(self.unread).is_some_and(|left| left >= self.written)
    }

    fn wait(&self, feeding: bool, stop: Option<&CancelToken>, left: Duration) -> Option<ReadyFds> {
        let stdin = self.stdin.as_ref().filter(|_| feeding);
        // What it said before it ended, or before it answered, is there when that is seen: so these
        // stand in this order.
        let all = [
            (Some(&self.process), PollFlags::IN),
            (self.stdout.as_ref(), PollFlags::IN),
            (self.stderr.as_ref(), PollFlags::IN),
            (self.notes.as_ref(), PollFlags::IN),
            (stdin, PollFlags::OUT),
            (stop.map(|stop| &*stop.wake), PollFlags::IN),
        ];
        let open = all.iter().filter_map(|(fd, flags)| Some(PollFd::new(fd.as_ref()?, *flags)));
        let mut fds: Vec<PollFd<'_>> = open.collect();
        // Longer waits than poll knows are cut; the loop looks at the clock again.
        let left = Timespec::try_from(left.min(Duration::from_secs(86_400))).ok();
        poll(&mut fds, left.as_ref()).ok()?;
        let mut found = fds.iter().map(PollFd::revents);
        let events = all.map(|(fd, _)| fd.and_then(|_| found.next()).unwrap_or(PollFlags::empty()));
        let [ended, stdout, stderr, notes, stdin, _] = events.map(|events| !events.is_empty());
        let broken = events[4].contains(PollFlags::ERR);
        Some(ReadyFds { ended, stdin, broken, stdout, stderr, notes })
    }

    fn read_output(
        &mut self,
        ready: ReadyFds,
        hear: &mut dyn FnMut(OutputEvent<'_>) -> Directive,
    ) -> Directive {
        let mut then = Directive::More;
        if ready.stderr {
            read_some(&mut self.stderr, &mut |bytes| self.errors.add(bytes));
        }
        if ready.notes {
            let mut each = |line: &[u8]| then = then.max(hear(OutputEvent::Note(line)));
            read_some(&mut self.notes, &mut |bytes| self.lines.add(bytes, &mut each));
        }
        if ready.stdout {
            read_some(&mut self.stdout, &mut |bytes| {
                then = then.max(hear(OutputEvent::Out(bytes)))
            });
        }
        then
    }

    /// Hears what it has said, without waiting; whether it still runs and can be talked to.
    pub fn look(&mut self, hear: &mut dyn FnMut(OutputEvent<'_>) -> Directive) -> bool {
        let Some(ready) = self.wait(true, None, Duration::ZERO) else { return true };
        self.read_output(ready, hear);
        !ready.ended && !ready.broken && self.stdin.is_some() && self.stdout.is_some()
    }

    /// Sees it to its end: it has ended, or is told to, gets its grace, and is killed. All that it
    /// left is ended too.
    pub fn terminate(
        &mut self,
        tell: Option<StopSignal>,
        grace: Duration,
        hear: &mut dyn FnMut(OutputEvent<'_>) -> Directive,
    ) -> ExitReason {
        if let Some(tell) = tell {
            self.send_stop(tell);
            let mut deadline = Instant::now() + grace;
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    self.signal(Signal::KILL);
                    deadline = Instant::now() + grace.max(AGAIN);
                    continue;
                }
                let Some(ready) = self.wait(false, None, left) else { continue };
                self.read_output(ready, hear);
                if ready.ended {
                    break;
                }
            }
        }
        exit(self.finish(hear))
    }

    fn send_stop(&mut self, tell: StopSignal) {
        match tell {
            StopSignal::Close => self.stdin = None,
            StopSignal::Term => {
                self.signal(Signal::TERM);
            }
        }
        // What is suspended must go on to be told.
        self.signal(Signal::CONT);
    }

    /// To its group, and to itself where it has left that for another of its session.
    fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.pid, signal);
        if getpgid(Some(self.pid)) != Ok(self.pid) {
            let _ = pidfd_send_signal(&self.process, signal);
        }
    }

    /// The process has ended, or ends now.
    fn finish(&mut self, hear: &mut dyn FnMut(OutputEvent<'_>) -> Directive) -> Option<WaitStatus> {
        self.is_over = true;
        // Before it is reaped: until then no other group can have its number.
        self.signal(Signal::KILL);
        self.entered.kill_orphans(self.pid);
        // What still holds a pipe open can't be seen: what is there now is taken, and no more.
        self.read_output(
            ReadyFds { stdout: true, stderr: true, notes: true, ..ReadyFds::default() },
            hear,
        );
        self.lines.end(&mut |line| {
            hear(OutputEvent::Note(line));
        });
        self.entered.reap(self.pid)
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        if !self.is_over {
            self.finish(&mut |_| Directive::More);
        }
    }
}

/// What there is to do.
#[derive(Clone, Copy, Default)]
struct ReadyFds {
    ended: bool,
    stdin: bool,
    /// Nobody reads its stdin any more; known where it is waited for.
    broken: bool,
    stdout: bool,
    stderr: bool,
    notes: bool,
}

fn exit(status: Option<WaitStatus>) -> ExitReason {
    let Some(status) = status else {
        return ExitReason::Unknown("its end was reported to another process".into());
    };
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ExitReason::Code(code),
        (None, Some(signal)) => ExitReason::Signal(signal),
        (None, None) => ExitReason::Unknown("it ended neither by itself nor by a signal".into()),
    }
}
