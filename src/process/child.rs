//! A child process from its start to its end. `run` and `LineProcess` use it.
//!
//! One `poll` waits for the process, its streams, file descriptor 3 and the `CancelToken`. Nothing
//! that the process does can block the caller: it may ignore its input, flood or close its pipes,
//! or pass them to children. After the process has ended, its group is killed before the process is
//! reaped. Until then, no other group can get the group's id. The `orphans` module then kills
//! processes that left the group.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionread};
use rustix::process::{Pid, Signal, WaitStatus, getpgid, kill_process_group, pidfd_send_signal};

use super::live_output::{LiveOutput, OutputStream};
use super::orphans::RunGuard;
use super::pipes::{LineSplitter, TailBuffer, read_some};
use super::{CancelToken, CommandSpec, ExitReason, StartError, spawn};

/// The length at which a line on file descriptor 3 is cut. The number of lines has no limit,
/// because a long run may send heartbeats for days. The caller limits how much it keeps.
const MAX_CONTROL_LINE_BYTES: usize = 64 << 10;

/// How long to wait before SIGKILL is sent again. A killed process ends at once unless the kernel
/// holds it.
const KILL_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// How long a process has to end after it closed its stdin or its stdout.
const CLOSED_PIPE_GRACE: Duration = Duration::from_secs(1);

/// Output of a running process.
#[derive(Clone, Copy, Debug)]
pub(super) enum OutputEvent<'a> {
    /// Bytes of stdout.
    Stdout(&'a [u8]),
    /// A line on file descriptor 3.
    ControlLine(&'a [u8]),
}

/// The next step after an output event. If several events are read at once, the greatest value wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Directive {
    Continue,
    /// The timeout starts again.
    RestartTimeout,
    /// The exchange is complete.
    Finish,
}

/// Why `communicate` returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// A callback returned `Directive::Finish`.
    Finished,
    /// The process has ended.
    Exited,
    TimedOut,
    Stopped,
    /// The process still runs, but it closed its stdin or its stdout.
    PipeClosed,
}

/// The time at which `communicate` gives up. `Directive::RestartTimeout` moves it.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    timeout: Duration,
    at: Instant,
}

impl Deadline {
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, at: Instant::now() + timeout }
    }

    fn remaining(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }
}

/// A source of input that is written to a process in parts.
pub trait InputSource {
    /// Returns the bytes to write next. They are empty at the end of the input.
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

/// How a process is asked to end. It is killed if it does not end within the grace period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// Close its stdin.
    Close,
    /// Send SIGTERM to its group.
    Term,
}

/// A running process. If it is dropped before its end, it is killed.
pub(super) struct ChildProcess {
    pid: Pid,
    /// The pidfd of the process, readable when the process has ended.
    pidfd: OwnedFd,
    pub run: RunGuard,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    pub stderr_tail: TailBuffer,
    control: Option<OwnedFd>,
    control_lines: LineSplitter,
    /// How much the last `communicate` wrote to stdin.
    written_bytes: u64,
    /// How much of its input was unread when the process closed its stdin.
    unread_bytes: Option<u64>,
    /// Where the output of the current exchange is shown. `None`: the process is idle.
    live: Option<Arc<LiveOutput>>,
    is_finished: bool,
}

impl ChildProcess {
    /// Starts the process.
    pub fn start(command: &CommandSpec, max_output_bytes: usize) -> Result<Self, StartError> {
        let run = RunGuard::new(&command.supervisor, &command.run_id);
        let child = spawn::spawn(command, &run)?;
        Ok(Self {
            pid: child.pid,
            pidfd: child.pidfd,
            run,
            stdin: Some(child.stdin),
            stdout: Some(child.stdout),
            stderr: Some(child.stderr),
            stderr_tail: TailBuffer::new(0, max_output_bytes),
            control: Some(child.control),
            control_lines: LineSplitter::new(MAX_CONTROL_LINE_BYTES),
            written_bytes: 0,
            unread_bytes: None,
            live: None,
            is_finished: false,
        })
    }

    pub fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Writes `input` and passes the output of the process to `on_output`. Returns when a callback
    /// returns `Finish`, the process ends, the deadline passes, or `stop` is cancelled. With
    /// `closes_input`, closes the process's stdin after the input.
    pub fn communicate(
        &mut self,
        input: &mut dyn InputSource,
        closes_input: bool,
        deadline: &mut Deadline,
        stop: &CancelToken,
        on_output: &mut dyn FnMut(OutputEvent<'_>) -> Directive,
    ) -> EndReason {
        let mut is_pipe_closed = false;
        self.live = Some(Arc::clone(stop.output()));
        self.written_bytes = 0;
        let mut has_more_input = self.write_input(input, closes_input);
        loop {
            let closed = self.stdout.is_none() || self.stdin.is_none();
            if closed && !closes_input && !is_pipe_closed {
                is_pipe_closed = true;
                deadline.at = deadline.at.min(Instant::now() + CLOSED_PIPE_GRACE);
            }
            let remaining = deadline.remaining();
            if remaining.is_zero() {
                return if is_pipe_closed { EndReason::PipeClosed } else { EndReason::TimedOut };
            }
            if stop.is_cancelled() {
                return EndReason::Stopped;
            }
            let Some(ready) = self.wait(has_more_input, Some(stop), remaining) else { continue };
            if ready.stdin {
                has_more_input = self.write_input(input, closes_input);
            }
            match self.read_output(ready, on_output) {
                Directive::Finish => return EndReason::Finished,
                Directive::RestartTimeout => *deadline = Deadline::new(deadline.timeout),
                Directive::Continue => {}
            }
            if ready.has_exited {
                return EndReason::Exited;
            }
        }
    }

    /// Writes as much as the pipe takes and returns whether more input remains. A process may
    /// ignore its input, so a closed pipe is not an error.
    fn write_input(&mut self, input: &mut dyn InputSource, closes_input: bool) -> bool {
        while let Some(stdin) = &self.stdin {
            let bytes = input.remaining();
            if bytes.is_empty() {
                break;
            }
            match rustix::io::write(stdin, bytes) {
                Ok(count) => {
                    input.advance(count);
                    self.written_bytes += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => {
                    // The process closed its stdin.
                    self.unread_bytes = ioctl_fionread(stdin).ok();
                    self.stdin = None;
                }
            }
        }
        if closes_input {
            self.stdin = None;
        }
        false
    }

    /// Returns whether the process read nothing of the last input. If this side closed stdin, that
    /// is unknown and the result is false.
    pub fn input_is_unread(&self) -> bool {
        let now = self.stdin.as_ref().and_then(|stdin| ioctl_fionread(stdin).ok());
        now.or(self.unread_bytes).is_some_and(|remaining| remaining >= self.written_bytes)
    }

    fn wait(
        &self,
        has_input: bool,
        stop: Option<&CancelToken>,
        remaining: Duration,
    ) -> Option<ReadyFds> {
        let stdin = self.stdin.as_ref().filter(|_| has_input);
        // The order matters, because `poll` checks the descriptors one after the other. If it sees
        // the end of the process, it also sees all of its output. If it sees a response on stdout,
        // it also sees what the process wrote to stderr and descriptor 3 before it.
        let candidates = [
            (Some(&self.pidfd), PollFlags::IN),
            (self.stdout.as_ref(), PollFlags::IN),
            (self.stderr.as_ref(), PollFlags::IN),
            (self.control.as_ref(), PollFlags::IN),
            (stdin, PollFlags::OUT),
            (stop.map(|stop| &*stop.event_fd), PollFlags::IN),
        ];
        let open_fds =
            candidates.iter().filter_map(|(fd, flags)| Some(PollFd::new(fd.as_ref()?, *flags)));
        let mut fds: Vec<PollFd<'_>> = open_fds.collect();
        // `poll` does not accept longer waits. The loop checks the deadline after each one.
        let remaining = Timespec::try_from(remaining.min(Duration::from_secs(86_400))).ok();
        poll(&mut fds, remaining.as_ref()).ok()?;
        let mut ready_events = fds.iter().map(PollFd::revents);
        let events = candidates
            .map(|(fd, _)| fd.and_then(|_| ready_events.next()).unwrap_or(PollFlags::empty()));
        let [has_exited, stdout, stderr, control, stdin, _] =
            events.map(|events| !events.is_empty());
        let is_stdin_broken = events[4].contains(PollFlags::ERR);
        Some(ReadyFds { has_exited, stdin, is_stdin_broken, stdout, stderr, control })
    }

    fn read_output(
        &mut self,
        ready: ReadyFds,
        on_output: &mut dyn FnMut(OutputEvent<'_>) -> Directive,
    ) -> Directive {
        let mut directive = Directive::Continue;
        let live = self.live.clone();
        let show = |stream: OutputStream, bytes: &[u8]| {
            if let Some(live) = &live {
                live.add(stream, bytes);
            }
        };
        if ready.stderr {
            read_some(&mut self.stderr, &mut |bytes| {
                show(OutputStream::Stderr, bytes);
                self.stderr_tail.add(bytes);
            });
        }
        if ready.control {
            let mut on_line =
                |line: &[u8]| directive = directive.max(on_output(OutputEvent::ControlLine(line)));
            read_some(&mut self.control, &mut |bytes| self.control_lines.add(bytes, &mut on_line));
        }
        if ready.stdout {
            read_some(&mut self.stdout, &mut |bytes| {
                show(OutputStream::Stdout, bytes);
                directive = directive.max(on_output(OutputEvent::Stdout(bytes)))
            });
        }
        directive
    }

    /// Reads the available output without waiting. Returns whether the process still runs with its
    /// stdin and stdout open.
    pub fn poll_idle(&mut self, on_output: &mut dyn FnMut(OutputEvent<'_>) -> Directive) -> bool {
        let Some(ready) = self.wait(true, None, Duration::ZERO) else { return true };
        self.live = None;
        self.read_output(ready, on_output);
        !ready.has_exited && !ready.is_stdin_broken && self.stdin.is_some() && self.stdout.is_some()
    }

    /// Waits for the end of the process and kills what it left behind. With a `signal`, the process
    /// is asked to end first, and killed after `grace`.
    pub fn terminate(
        &mut self,
        signal: Option<StopSignal>,
        grace: Duration,
        on_output: &mut dyn FnMut(OutputEvent<'_>) -> Directive,
    ) -> ExitReason {
        if let Some(signal) = signal {
            self.send_stop(signal);
            let mut deadline = Instant::now() + grace;
            loop {
                let remaining = deadline.saturating_duration_since(Instant::now());
                if remaining.is_zero() {
                    self.signal(Signal::KILL);
                    deadline = Instant::now() + grace.max(KILL_RETRY_INTERVAL);
                    continue;
                }
                let Some(ready) = self.wait(false, None, remaining) else { continue };
                self.read_output(ready, on_output);
                if ready.has_exited {
                    break;
                }
            }
        }
        exit_reason(self.finish(on_output))
    }

    fn send_stop(&mut self, signal: StopSignal) {
        match signal {
            StopSignal::Close => self.stdin = None,
            StopSignal::Term => {
                self.signal(Signal::TERM);
            }
        }
        // A stopped process (SIGSTOP) must continue in order to handle the signal.
        self.signal(Signal::CONT);
    }

    /// Sends a signal to the process's group. If the process has moved to another group of its
    /// session, it gets the signal too.
    fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.pid, signal);
        if getpgid(Some(self.pid)) != Ok(self.pid) {
            let _ = pidfd_send_signal(&self.pidfd, signal);
        }
    }

    /// Kills the group, which ends the process too if it still runs, kills its orphans, reads the
    /// last output and reaps the process.
    fn finish(
        &mut self,
        on_output: &mut dyn FnMut(OutputEvent<'_>) -> Directive,
    ) -> Option<WaitStatus> {
        self.is_finished = true;
        // The group must be killed before the process is reaped. Until then, no other group can get
        // its id.
        self.signal(Signal::KILL);
        self.run.kill_orphans(self.pid);
        // A process that was not found may still hold a pipe open. So this reads what is available
        // now and does not wait for the end of the stream.
        self.read_output(
            ReadyFds { stdout: true, stderr: true, control: true, ..ReadyFds::default() },
            on_output,
        );
        self.control_lines.finish(&mut |line| {
            on_output(OutputEvent::ControlLine(line));
        });
        self.run.supervisor.reap(self.pid)
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        if !self.is_finished {
            self.finish(&mut |_| Directive::Continue);
        }
    }
}

/// The file descriptors that are ready.
#[derive(Clone, Copy, Default)]
struct ReadyFds {
    has_exited: bool,
    stdin: bool,
    /// The read end of its stdin is closed. This is known only if `wait` polled stdin.
    is_stdin_broken: bool,
    stdout: bool,
    stderr: bool,
    control: bool,
}

fn exit_reason(status: Option<WaitStatus>) -> ExitReason {
    let Some(status) = status else {
        return ExitReason::Unknown("its end was reported to another process".into());
    };
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ExitReason::Code(code),
        (None, Some(signal)) => ExitReason::Signal(signal),
        (None, None) => ExitReason::Unknown("it ended neither by itself nor by a signal".into()),
    }
}
