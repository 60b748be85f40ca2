//! This binary started anew to do what may not end well, under limits that it sets itself before it
//! reads anything (`confine`): processor time, memory, no file, no further process.
//!
//! It has three pipes and one page of memory that the server sees too, where it writes down what it
//! is at: so that whoever finds it dead knows what killed it. It starts no process, so that there are
//! no strays of it, and it is no run: it may live as long as the server.

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
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
use super::orphans::{reap, track_start};
use super::procfs::processor_ticks;
use super::spawn::{pipe, start};
use super::{CommandSpec, StartError};

const PAGE_BYTES: usize = 4096;

/// What is read of the reason for an abort.
const SAID_BYTES: usize = 4096;

/// Senders are answered first, but handlers must not starve it.
const NICE: i32 = 5;

/// A process that serves this one; dropped, it is killed.
#[derive(Debug)]
pub struct SandboxedProcess {
    pid: Pid,
    to: OwnedFd,
    from: OwnedFd,
    /// Where its runtime says why it aborts.
    errors: OwnedFd,
    page: SharedPage,
    is_reaped: bool,
}

/// Why it can't be talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionLost {
    /// It may still come.
    NotYet,
    /// It has ended, or closed its pipes.
    Ended,
}

/// How it ended, and what its runtime said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    pub gone: ExitStatus,
    pub said: String,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    Code(i32),
    Signal(i32),
    Unknown,
}

impl SandboxedProcess {
    /// # Errors
    /// Why it could not be started, with what to do about it.
    pub fn start(program: &CommandSpec) -> Result<Self, StartError> {
        let no_memory = |e| StartError::of_errno(e, format!("no memory to be shared: {e}"));
        let no_pipes = |e| StartError::of_errno(e, format!("no pipes to be had: {e}"));
        let (page, memory) = SharedPage::new().map_err(no_memory)?;
        let (their_in, to) = pipe(false).map_err(no_pipes)?;
        let (from, their_out) = pipe(true).map_err(no_pipes)?;
        let (errors, their_errors) = pipe(true).map_err(no_pipes)?;
        let ends = [their_in, their_out, their_errors, memory];
        let pid = track_start(|| start(program, &ends))?;
        Ok(Self { pid, to, from, errors, page, is_reaped: false })
    }

    /// What it last wrote down: how much it has begun, and what it is at.
    pub fn progress(&self) -> (u32, u32) {
        let [begun, stage] = self.page.numbers();
        (begun.load(Ordering::Acquire), stage.load(Ordering::Acquire))
    }

    /// Writes some of `bytes`, until a moment; how many it took.
    ///
    /// # Errors
    /// It takes nothing now, or never again.
    pub fn write(&self, bytes: &[u8], until: Instant) -> Result<usize, ConnectionLost> {
        ready(&self.to, PollFlags::OUT, until, || rustix::io::write(&self.to, bytes))
    }

    /// Reads some into `buffer`, until a moment; how many they are, at least one.
    ///
    /// # Errors
    /// There is nothing now, or never again.
    pub fn read(&self, buffer: &mut [u8], until: Instant) -> Result<usize, ConnectionLost> {
        match ready(&self.from, PollFlags::IN, until, || {
            rustix::io::read(&self.from, &mut *buffer)
        })? {
            0 => Err(ConnectionLost::Ended),
            count => Ok(count),
        }
    }

    /// Processor time that it has used in all; `None` where the system does not say.
    pub fn processor_ms(&self) -> Option<u64> {
        let ticks = processor_ticks(self.pid)?;
        Some(ticks * 1000 / rustix::param::clock_ticks_per_second().max(1))
    }

    /// Sees it to its end. What ended it before stays the reason.
    pub fn end(mut self) -> End {
        let gone = self.kill();
        let mut said = [0; SAID_BYTES];
        let length = rustix::io::read(&self.errors, &mut said[..]).unwrap_or(0);
        End { gone, said: String::from_utf8_lossy(&said[..length]).into_owned() }
    }

    fn kill(&mut self) -> ExitStatus {
        let _ = kill_process_group(self.pid, Signal::KILL);
        self.is_reaped = true;
        let Some(status) = reap(self.pid) else { return ExitStatus::Unknown };
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

/// Does it, waiting until it can be done.
fn ready(
    fd: &OwnedFd,
    flags: PollFlags,
    until: Instant,
    mut does: impl FnMut() -> Result<usize, Errno>,
) -> Result<usize, ConnectionLost> {
    loop {
        match does() {
            Ok(count) => return Ok(count),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => {}
            Err(_) => return Err(ConnectionLost::Ended),
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ConnectionLost::NotYet);
        }
        let timeout = Timespec::try_from(left).ok();
        let _ = poll(&mut [PollFd::from_borrowed_fd(fd.as_fd(), flags)], timeout.as_ref());
    }
}

/// Memory that both sides see, or one's view of it.
#[derive(Debug)]
struct SharedPage(NonNull<[AtomicU32; 2]>);

// SAFETY: the page is reached by atomic reads and writes alone, from whatever thread.
unsafe impl Send for SharedPage {}

impl SharedPage {
    fn new() -> rustix::io::Result<(Self, OwnedFd)> {
        let memory = memfd_create("hooktrail", MemfdFlags::CLOEXEC)?;
        ftruncate(&memory, PAGE_BYTES as u64)?;
        Ok((Self::of(&memory)?, memory))
    }

    fn of(memory: &OwnedFd) -> rustix::io::Result<Self> {
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the system's choice; nothing else knows it.
        let at =
            unsafe { mmap(std::ptr::null_mut(), PAGE_BYTES, flags, MapFlags::SHARED, memory, 0) }?;
        NonNull::new(at.cast()).map(Self).ok_or(Errno::NOMEM)
    }

    fn numbers(&self) -> &[AtomicU32; 2] {
        // SAFETY: the page is mapped as long as this lives, begins on a page's boundary, and is
        // zeroed when it is made.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: what was mapped, once; no reference to it is left.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), PAGE_BYTES) };
    }
}

/// What a servant may still do: say what it is at, and have its processor time counted anew.
#[derive(Debug)]
pub struct Sandbox {
    page: SharedPage,
    processor_ms: u32,
}

/// Called by a servant, once, before it reads anything, from the thread that does the work: the
/// others' stacks and its own are there already. It may take `memory_bytes` more than it has.
///
/// # Errors
/// A limit can't be set: it must not go on.
pub fn apply_limits(processor_ms: u32, memory_bytes: u64) -> io::Result<Sandbox> {
    // SAFETY: descriptor 3 was handed over by whoever started us, for us alone, and is taken once.
    let memory = unsafe { OwnedFd::from_raw_fd(3) };
    let page = SharedPage::of(&memory)?;
    drop(memory);
    // SAFETY: closes what whoever started us had open by mistake; nothing here owns any of it.
    // Systems before Linux 5.9 refuse it.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    let has = memory_now()?;
    let limits = [
        (Resource::As, has + memory_bytes),
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        (Resource::Nofile, 0),
        (Resource::Nproc, 0),
    ];
    for (resource, limit) in limits {
        // Only root may go beyond a limit that the server was started with.
        let limit = getrlimit(resource).maximum.map_or(limit, |maximum| limit.min(maximum));
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
    }
    Ok(Sandbox { page, processor_ms })
}

/// Address space in use.
fn memory_now() -> io::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split_whitespace().next().and_then(|pages| pages.parse::<u64>().ok());
    let pages = pages.ok_or(io::ErrorKind::InvalidData)?;
    Ok(pages * rustix::param::page_size() as u64)
}

impl Sandbox {
    /// Writes down what it is at; 0: nothing.
    pub fn set_stage(&self, stage: u32) {
        self.page.numbers()[1].store(stage, Ordering::Release);
    }

    /// Writes down that it begins with the next, at a stage of it.
    pub fn begin(&self, stage: u32) {
        self.page.numbers()[0].fetch_add(1, Ordering::Release);
        self.set_stage(stage);
    }

    /// From here on it has its whole processor time again; beyond it, SIGPROF ends it.
    ///
    /// # Errors
    /// The system does not know how.
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

/// Called by a servant first of all, before there is a second thread: it dies with who started it, and
/// all of its memory comes from one heap, as each further one would reserve 64 MiB of the address
/// space that it may use.
///
/// # Errors
/// The system does not know how: it must not go on.
pub fn enter_sandbox_early() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::thread::set_no_new_privs(true)?;
    // A server that was started with a higher nice value keeps it: only root may lower one.
    if getpriority_process(None)? < NICE {
        setpriority_process(None, NICE)?;
    }
    oom::raise_of_evaluator();
    // SAFETY: sets one number of the allocator's; there is no other thread.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    Ok(())
}
