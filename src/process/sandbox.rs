//! Sandboxed processes: this binary, started again for work that may crash or never end.
//!
//! Before it reads any input, the process sets limits on itself (`apply_limits`): processor time,
//! memory, no files and no new processes. It has three pipes and shares one page of memory with the
//! server. It writes its current stage into this page. After a crash, the server reads there what
//! caused it. A sandboxed process can't start processes, so it leaves no orphans. It is not a run,
//! because it may live as long as the server.

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getpriority_process, getrlimit, kill_process_group,
    set_parent_process_death_signal, setpriority_process, setrlimit,
};

use super::oom;
use super::procfs::processor_ticks;
use super::spawn::{create_pipe, run_posix_spawn};
use super::{CommandSpec, StartError, Supervisor};

const PAGE_BYTES: usize = 4096;

/// How much is read of the message of an abort.
const MAX_STDERR_BYTES: usize = 4096;

/// The nice value. Intake has precedence over it, but handlers must not starve it.
const NICE: i32 = 5;

/// The nice value of a process whose results nobody waits for.
const BACKGROUND_NICE: i32 = 10;

/// A sandboxed process. It is killed if it is dropped.
#[derive(Debug)]
pub struct SandboxedProcess {
    pid: Pid,
    stdin: OwnedFd,
    stdout: OwnedFd,
    /// The stderr of the process, where the Rust runtime reports an abort.
    stderr_pipe: OwnedFd,
    page: SharedPage,
    supervisor: Arc<Supervisor>,
    is_reaped: bool,
}

/// Why a read or a write failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionLost {
    /// The deadline passed. A later call may succeed.
    Timeout,
    /// The process has ended or closed its pipes.
    Closed,
}

/// The end of a sandboxed process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxExit {
    pub status: ExitStatus,
    pub stderr: String,
}

/// How a sandboxed process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    Code(i32),
    Signal(i32),
    Unknown,
}

impl SandboxedProcess {
    /// # Errors
    /// The reason why it did not start, and what to do.
    pub fn start(command: &CommandSpec) -> Result<Self, StartError> {
        let memory_error =
            |e| StartError::from_errno(e, format!("no shared memory is available: {e}"));
        let pipe_error = |e| StartError::from_errno(e, format!("no pipes are available: {e}"));
        let (page, memory) = SharedPage::new().map_err(memory_error)?;
        let (stdin_end, stdin) = create_pipe(false).map_err(pipe_error)?;
        let (stdout, stdout_end) = create_pipe(true).map_err(pipe_error)?;
        let (stderr_pipe, stderr_end) = create_pipe(true).map_err(pipe_error)?;
        let pipe_ends = [stdin_end, stdout_end, stderr_end, memory];
        let supervisor = Arc::clone(&command.supervisor);
        let pid = supervisor.start(|| run_posix_spawn(command, &pipe_ends))?;
        Ok(Self { pid, stdin, stdout, stderr_pipe, page, supervisor, is_reaped: false })
    }

    /// Returns how many pieces of work the process has begun, and its current stage.
    pub fn progress(&self) -> (u32, u32) {
        let [started_count, stage] = self.page.counters();
        (started_count.load(Ordering::Acquire), stage.load(Ordering::Acquire))
    }

    /// Writes some of `bytes` before the deadline and returns how many.
    ///
    /// # Errors
    /// The pipe is full until the deadline, or the process is gone.
    pub fn write(&self, bytes: &[u8], deadline: Instant) -> Result<usize, ConnectionLost> {
        retry_until(&self.stdin, PollFlags::OUT, deadline, || rustix::io::write(&self.stdin, bytes))
    }

    /// Reads some bytes into `buffer` before the deadline and returns how many, at least one.
    ///
    /// # Errors
    /// The pipe is empty until the deadline, or the process is gone.
    pub fn read(&self, buffer: &mut [u8], deadline: Instant) -> Result<usize, ConnectionLost> {
        match retry_until(&self.stdout, PollFlags::IN, deadline, || {
            rustix::io::read(&self.stdout, &mut *buffer)
        })? {
            0 => Err(ConnectionLost::Closed),
            count => Ok(count),
        }
    }

    /// Returns the processor time that the process has used so far, or `None` if the system does
    /// not report it.
    pub fn processor_ms(&self) -> Option<u64> {
        let ticks = processor_ticks(self.pid)?;
        Some(ticks * 1000 / rustix::param::clock_ticks_per_second().max(1))
    }

    /// Kills and reaps the process. If it ended before, the result is its own end.
    pub fn terminate(mut self) -> SandboxExit {
        let status = self.kill();
        let mut stderr = [0; MAX_STDERR_BYTES];
        let length = rustix::io::read(&self.stderr_pipe, &mut stderr[..]).unwrap_or(0);
        SandboxExit { status, stderr: String::from_utf8_lossy(&stderr[..length]).into_owned() }
    }

    fn kill(&mut self) -> ExitStatus {
        let _ = kill_process_group(self.pid, Signal::KILL);
        self.is_reaped = true;
        let Some(status) = self.supervisor.reap(self.pid) else { return ExitStatus::Unknown };
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => ExitStatus::Code(code),
            (None, Some(signal)) => ExitStatus::Signal(signal),
            (None, None) => ExitStatus::Unknown,
        }
    }
}

impl Drop for SandboxedProcess {
    fn drop(&mut self) {
        if !self.is_reaped {
            self.kill();
        }
    }
}

/// Tries `operation` and retries it whenever `fd` is ready, until the deadline.
fn retry_until(
    fd: &OwnedFd,
    flags: PollFlags,
    deadline: Instant,
    mut operation: impl FnMut() -> Result<usize, Errno>,
) -> Result<usize, ConnectionLost> {
    loop {
        match operation() {
            Ok(count) => return Ok(count),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => {}
            Err(_) => return Err(ConnectionLost::Closed),
        }
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Err(ConnectionLost::Timeout);
        }
        let timeout = Timespec::try_from(remaining).ok();
        let _ = poll(&mut [PollFd::from_borrowed_fd(fd.as_fd(), flags)], timeout.as_ref());
    }
}

/// One process's mapping of the memory that the server and a sandboxed process share.
#[derive(Debug)]
struct SharedPage(NonNull<[AtomicU32; 2]>);

// SAFETY: the page is reached by atomic reads and writes alone, from any thread.
unsafe impl Send for SharedPage {}

impl SharedPage {
    fn new() -> rustix::io::Result<(Self, OwnedFd)> {
        let memory = memfd_create("hooktrail", MemfdFlags::CLOEXEC)?;
        ftruncate(&memory, PAGE_BYTES as u64)?;
        Ok((Self::map(&memory)?, memory))
    }

    fn map(memory: &OwnedFd) -> rustix::io::Result<Self> {
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the system's choice; nothing else knows it.
        let address =
            unsafe { mmap(std::ptr::null_mut(), PAGE_BYTES, flags, MapFlags::SHARED, memory, 0) }?;
        NonNull::new(address.cast()).map(Self).ok_or(Errno::NOMEM)
    }

    fn counters(&self) -> &[AtomicU32; 2] {
        // SAFETY: the page is mapped as long as this lives, begins on a page's boundary, and is
        // zeroed when it is made.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: unmaps once what `map` mapped; no reference to it is left.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), PAGE_BYTES) };
    }
}

/// The handle of a sandboxed process: it reports its stage and resets its CPU timer.
#[derive(Debug)]
pub struct Sandbox {
    page: SharedPage,
    processor_ms: u32,
}

/// Limits this process. A sandboxed process calls it once, before it reads any input, on the thread
/// that does the work. All threads have started by then, so their stacks are in use already. The
/// process may take `memory_bytes` in addition to what it uses now.
///
/// # Errors
/// A limit can't be set. The process must not continue.
pub fn apply_limits(processor_ms: u32, memory_bytes: u64) -> io::Result<Sandbox> {
    // SAFETY: the parent passed descriptor 3 to this process for this use, and this function takes
    // it once.
    let memory = unsafe { OwnedFd::from_raw_fd(3) };
    let page = SharedPage::map(&memory)?;
    drop(memory);
    // SAFETY: closes the descriptors that the parent left open by mistake; no value in this process
    // owns them. The call fails before Linux 5.9.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    let used_bytes = address_space_bytes()?;
    let limits = [
        (Resource::As, used_bytes + memory_bytes),
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        (Resource::Nofile, 0),
        (Resource::Nproc, 0),
    ];
    for (resource, limit) in limits {
        // Only root may raise a limit above the one that the server was started with.
        let limit = getrlimit(resource).maximum.map_or(limit, |maximum| limit.min(maximum));
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
    }
    Ok(Sandbox { page, processor_ms })
}

/// Returns the address space in use.
fn address_space_bytes() -> io::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split_whitespace().next().and_then(|pages| pages.parse::<u64>().ok());
    let pages = pages.ok_or(io::ErrorKind::InvalidData)?;
    Ok(pages * rustix::param::page_size() as u64)
}

impl Sandbox {
    /// Writes the current stage into the shared page. 0 means none.
    pub fn set_stage(&self, stage: u32) {
        self.page.counters()[1].store(stage, Ordering::Release);
    }

    /// Counts a new piece of work and sets its first stage.
    pub fn begin(&self, stage: u32) {
        self.page.counters()[0].fetch_add(1, Ordering::Release);
        self.set_stage(stage);
    }

    /// Restarts the CPU timer. SIGPROF ends the process when its processor time is used up.
    ///
    /// # Errors
    /// The system does not support it.
    pub fn reset_cpu_timer(&self) -> io::Result<()> {
        let interval = libc::timeval { tv_sec: 0, tv_usec: 0 };
        let value = libc::timeval {
            tv_sec: libc::time_t::from(self.processor_ms / 1000),
            tv_usec: libc::suseconds_t::from(self.processor_ms % 1000 * 1000),
        };
        let timer = libc::itimerval { it_interval: interval, it_value: value };
        // SAFETY: reads one structure that lives through the call, and writes nothing.
        let failed =
            unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const timer, std::ptr::null_mut()) };
        if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// Prepares this process for the sandbox. A sandboxed process calls it first, before it starts a
/// second thread. Afterwards the process dies with its parent, and all threads use one heap. Each
/// further heap would reserve 64 MiB of the limited address space. `is_background`: the process gives way
/// to all others.
///
/// # Errors
/// The system does not support it. The process must not continue.
pub fn enter_sandbox_early(is_background: bool) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::thread::set_no_new_privs(true)?;
    // A higher nice value of the server stays: only root may lower one.
    let nice = if is_background { BACKGROUND_NICE } else { NICE };
    if getpriority_process(None)? < nice {
        setpriority_process(None, nice)?;
    }
    if is_background {
        use_batch_scheduling();
    }
    oom::raise_evaluator_score();
    // SAFETY: sets one number of the allocator's; there is no other thread.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    Ok(())
}

/// Tells the kernel that this process may wait: it interrupts no other process when it wakes up. Without
/// this, the nice value alone decides.
fn use_batch_scheduling() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: reads one structure that lives through the call, and changes this process alone.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) };
}
