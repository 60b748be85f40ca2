//! Starts processes and waits for their end. No other module does either.
//!
//! `run` runs one process from its start to its end. A `LineProcess` exchanges lines with its
//! caller, and a `ProcessPool` keeps such processes warm. Both use a `ChildProcess`. A worker
//! thread calls them, and nothing that the process does can block that thread. A `SandboxedProcess`
//! is this binary with limits that it sets on itself. Each process is waited for by its own id,
//! never all of them at once. A `Supervisor` owns what the processes of one server share.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior};
use tokio_util::sync::CancellationToken;

use child::{ChildProcess, OutputEvent};
use pipes::TailBuffer;

mod browser;
mod child;
mod file_limit;
mod line_process;
mod live_output;
mod oom;
mod orphans;
mod pipes;
mod pool;
mod procfs;
mod sandbox;
mod shortage;
mod spawn;
mod supervisor;
#[cfg(test)]
mod tests;

pub use browser::open_in_browser;
pub use child::{Deadline, Directive, EndReason, InputSource, StopSignal};
pub use file_limit::raise_file_limit;
pub use line_process::{ExitReport, LineProcess, ProtocolEvent, StderrCapture};
pub use live_output::{LiveOutput, OutputStream};
pub use pool::ProcessPool;
pub use sandbox::{
    ConnectionLost, ExitStatus, Sandbox, SandboxExit, SandboxedProcess, apply_limits,
    enter_sandbox_early,
};
pub use shortage::{ShortageBackoff, StartError, is_shortage, start_when_possible};
pub use spawn::{CommandSpec, RUN_ID_VARIABLE};
pub use supervisor::Supervisor;

/// Prevents other processes of the same user, such as handlers, from reading the memory, the
/// environment and the open files of this process (PR_SET_DUMPABLE). It also prevents core dumps.
///
/// # Errors
/// The system rejects the call.
pub fn forbid_inspection() -> std::io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Lets a server on the same machine have precedence over this command.
pub fn lower_priority() {
    // If the system refuses, the command only takes its share.
    let _ = rustix::process::nice(COMMAND_NICE);
}

/// Lets a write beyond a limit on the size of files fail like one on a full disk. Otherwise it ends the process.
pub fn ignore_file_size_signal() {
    // SAFETY: SIG_IGN runs no code of ours; nothing else sets this signal's disposition.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Limits the size of each file that this process writes, such as SQLite's temporary files.
///
/// # Errors
/// The system rejects the limit.
pub fn limit_file_size(bytes: u64) -> std::io::Result<()> {
    ignore_file_size_signal();
    let maximum = rustix::process::getrlimit(Resource::Fsize).maximum;
    let current = Some(maximum.map_or(bytes, |maximum| maximum.min(bytes)));
    Ok(rustix::process::setrlimit(Resource::Fsize, Rlimit { current, maximum })?)
}

/// Added to the nice value of a command that takes long.
const COMMAND_NICE: i32 = 10;

/// The time between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(5);

/// Cancels a run from another thread, and shows its output there. As a file descriptor, it becomes readable when it is
/// cancelled: child processes are waited for with `poll`, and calls of URLs with `cancelled`.
#[derive(Clone, Debug)]
pub struct CancelToken {
    token: CancellationToken,
    event_fd: Arc<OwnedFd>,
    output: Arc<LiveOutput>,
}

impl CancelToken {
    /// # Errors
    /// No file descriptor is available.
    pub fn new() -> std::io::Result<Self> {
        let event_fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (token, output) = (CancellationToken::new(), Arc::default());
        Ok(Self { token, event_fd: Arc::new(event_fd), output })
    }

    /// Cancels the runs that use this token, now and later.
    pub fn cancel(&self) {
        self.token.cancel();
        // A write fails only if the counter is full, and a full counter is readable too.
        let _ = rustix::io::write(&*self.event_fd, &1_u64.to_ne_bytes());
    }

    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// What the processes of the runs that use this token have written so far.
    pub fn output(&self) -> &Arc<LiveOutput> {
        &self.output
    }

    /// Prepares a token that was not cancelled for other runs.
    pub fn reuse(mut self) -> Self {
        self.output = Arc::default();
        self
    }

    /// Waits until the token is cancelled, on any async runtime.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }
}

impl AsFd for CancelToken {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event_fd.as_fd()
    }
}

/// How long a process may run, and how much of its output is kept.
#[derive(Clone, Copy, Debug)]
pub struct RunLimits {
    pub timeout: Duration,
    pub grace: Duration,
    /// How much of stdout and of stderr is kept, from their ends.
    pub max_output_bytes: usize,
    /// How much of the start of stdout is kept in addition.
    pub max_stdout_start_bytes: usize,
}

/// How a process ended, or why it did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitReason {
    Code(i32),
    Signal(i32),
    TimedOut,
    Stopped,
    /// The program can't be started. The text says why and what to do.
    NotStarted(String),
    /// The system lacks descriptors, processes or memory. The text says which and what to do.
    Shortage(String),
    /// The process ran, but the system does not report how it ended. The text says why.
    Unknown(String),
}

/// The exit and the output of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunResult {
    pub exit: ExitReason,
    /// The first bytes of stdout, at most `max_stdout_start_bytes`.
    pub stdout_start: Vec<u8>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// The effect of a line on file descriptor 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlLine {
    /// The timeout starts again.
    Heartbeat,
    Message,
}

/// Runs `command` until it ends and writes `input` to its stdin. `on_control_line` gets each line of
/// descriptor 3.
pub fn run(
    command: &CommandSpec,
    input: &[u8],
    limits: RunLimits,
    stop: &CancelToken,
    on_control_line: &mut dyn FnMut(&[u8]) -> ControlLine,
) -> RunResult {
    let start_child = || ChildProcess::start(command, limits.max_output_bytes);
    let mut child = match start_when_possible(stop, start_child) {
        Ok(child) => child,
        Err(exit) => {
            return RunResult { exit, stdout_start: vec![], stdout: vec![], stderr: vec![] };
        }
    };
    let mut stdout = TailBuffer::new(limits.max_stdout_start_bytes, limits.max_output_bytes);
    let mut on_output = |event: OutputEvent<'_>| match event {
        OutputEvent::Stdout(bytes) => {
            stdout.add(bytes);
            Directive::Continue
        }
        OutputEvent::ControlLine(line) => match on_control_line(line) {
            ControlLine::Heartbeat => Directive::RestartTimeout,
            ControlLine::Message => Directive::Continue,
        },
    };
    let (mut input, mut deadline) = (input, Deadline::new(limits.timeout));
    let reason = child.communicate(&mut input, true, &mut deadline, stop, &mut on_output);
    let signal = (reason != EndReason::Exited).then_some(StopSignal::Term);
    let exit = child.terminate(signal, limits.grace, &mut on_output);
    let exit = match reason {
        EndReason::Stopped => ExitReason::Stopped,
        EndReason::Exited => exit,
        EndReason::TimedOut | EndReason::Finished | EndReason::PipeClosed => ExitReason::TimedOut,
    };
    let ((stdout_start, stdout), (_, stderr)) = (stdout.take(), child.stderr_tail.take());
    RunResult { exit, stdout_start, stdout, stderr }
}
