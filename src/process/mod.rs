//! The only place where a process starts, and where it is seen to its end.
//!
//! `run` is one process from start to end; `Kept` is one that is spoken to in lines, and `Pool` keeps
//! such ones warm. Both are a `Live`: called by a worker thread, which nothing that the process does
//! can hold. A `Servant` is this binary itself, under limits of its own. Process numbers are waited for one by one, never all.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use child::{ChildProcess, OutputEvent};
use pipes::TailBuffer;

mod child;
mod file_limit;
mod line_process;
mod oom;
mod orphans;
mod pipes;
mod pool;
mod procfs;
mod sandbox;
mod shortage;
mod spawn;
#[cfg(test)]
mod tests;

pub use child::{Deadline, Directive, EndReason, InputSource, StopSignal};
pub use file_limit::raise_file_limit;
pub use line_process::{ANSWER_BYTES_MAX, ExitReport, LineProcess, ProtocolEvent, StderrCapture};
pub use orphans::become_subreaper;
pub use pool::{ProcessPool, wait_for_drained};
pub use procfs::kill_run;
pub use sandbox::{
    ConnectionLost, End, ExitStatus, Sandbox, SandboxedProcess, apply_limits, enter_sandbox_early,
};
pub use shortage::{Shortage, StartError, is_shortage, start_when_possible};
pub use spawn::{CommandSpec, MARK};

/// Keeps other processes of the same user, such as handlers, from reading the memory, the environment
/// and the open files of this one (PR_SET_DUMPABLE). It writes no core dump either.
///
/// # Errors
/// The system refuses it.
pub fn forbid_inspection() -> std::io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(5);

/// Ends a run from another thread.
#[derive(Clone, Debug)]
pub struct CancelToken {
    is_set: Arc<AtomicBool>,
    wake: Arc<OwnedFd>,
}

impl CancelToken {
    /// # Errors
    /// No file descriptor is to be had.
    pub fn new() -> std::io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { is_set: Arc::default(), wake: Arc::new(wake) })
    }

    /// From here on what runs under it is ended.
    pub fn set(&self) {
        self.is_set.store(true, Ordering::SeqCst);
        // A full counter wakes too.
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
    }

    pub fn is_set(&self) -> bool {
        self.is_set.load(Ordering::SeqCst)
    }
}

/// Readable from when it is set on: for whoever waits for something else too.
impl AsFd for CancelToken {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// What bounds a run.
#[derive(Clone, Copy, Debug)]
pub struct RunLimits {
    pub timeout: Duration,
    pub grace: Duration,
    /// Kept of stdout and of stderr, their ends.
    pub max_output_bytes: usize,
    /// Kept of stdout's start besides.
    pub start_bytes_max: usize,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitReason {
    Code(i32),
    Signal(i32),
    TimedOut,
    Stopped,
    /// Why, with what to do about it.
    NotStarted(String),
    /// It was not started, because the system lacks something: why, with what to do about it.
    NotNow(String),
    /// It ran, and the system does not say how it ended: why.
    Unknown(String),
}

/// A run that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunResult {
    pub exit: ExitReason,
    /// The first bytes of stdout, at most `start_bytes_max`.
    pub start: Vec<u8>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// What a line on file descriptor 3 asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlLine {
    /// The timeout starts anew.
    Alive,
    Noted,
}

/// Runs `program` to its end with `input` on its stdin; `note` gets each line of descriptor 3.
pub fn run(
    program: &CommandSpec,
    input: &[u8],
    bounds: RunLimits,
    stop: &CancelToken,
    note: &mut dyn FnMut(&[u8]) -> ControlLine,
) -> RunResult {
    let start = || ChildProcess::start(program, bounds.max_output_bytes);
    let mut live = match start_when_possible(stop, start) {
        Ok(live) => live,
        Err(exit) => {
            return RunResult { exit, start: Vec::new(), stdout: Vec::new(), stderr: Vec::new() };
        }
    };
    let mut stdout = TailBuffer::new(bounds.start_bytes_max, bounds.max_output_bytes);
    let mut hear = |said: OutputEvent<'_>| match said {
        OutputEvent::Out(bytes) => {
            stdout.add(bytes);
            Directive::More
        }
        OutputEvent::Note(line) if note(line) == ControlLine::Alive => Directive::Alive,
        OutputEvent::Note(_) => Directive::More,
    };
    let (mut input, mut deadline) = (input, Deadline::new(bounds.timeout));
    let came = live.communicate(&mut input, true, &mut deadline, stop, &mut hear);
    let tell = (came != EndReason::Ended).then_some(StopSignal::Term);
    let exit = live.terminate(tell, bounds.grace, &mut hear);
    let exit = match came {
        EndReason::Stopped => ExitReason::Stopped,
        EndReason::Ended => exit,
        EndReason::TimedOut | EndReason::Enough | EndReason::Deaf => ExitReason::TimedOut,
    };
    let ((start, stdout), (_, stderr)) = (stdout.take(), live.errors.take());
    RunResult { exit, start, stdout, stderr }
}
