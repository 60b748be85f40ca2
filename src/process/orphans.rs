//! Ends what left its process group: children with a session of their own.
//!
//! The server is their reaper (PR_SET_CHILD_SUBREAPER): when their parents are gone they become
//! children of its main thread. Those that are listed there and were not started here are strays.
//! Whose they are is told by their group, or by the mark in their environment; without either, by
//! when they turned up. A stray is ended once its run is over, by whichever run ends next. Strays
//! are reaped here alone, one by one and under one lock, so that no number is another's meanwhile.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, getpgid, pidfd_open,
    pidfd_send_signal, waitid, waitpid,
};
use rustix::thread::gettid;

use super::StartError;
use super::procfs::{
    AGAIN, RunId, UNCLEAR_PATIENCE, children, children_among_all, lists_children, read_run_id,
    wait_for_ends,
};

/// Strays of strays turn up only when their parents are gone; so many generations are followed.
const PASSES_MAX: usize = 100;

/// How long what was killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// By what a run knows that processes are its own, and which ones must be left alone.
#[derive(Debug, Default)]
struct ProcessTable {
    /// Started here and not yet reaped.
    started: HashSet<Pid>,
    /// So many may be listed as children although `started` does not have them yet.
    starting: usize,
    /// The marks of the runs that are not over, by numbers that grow.
    runs: BTreeMap<u64, String>,
    last_run: u64,
    /// Strays that show no mark, with the last run that began before they were seen.
    untagged: HashMap<Pid, u64>,
    /// Killed in vain: not waited for again.
    stuck: HashSet<Pid>,
    /// Nobody but a run can have left a stray.
    only_ours: bool,
}

static KNOWN: LazyLock<Mutex<ProcessTable>> = LazyLock::new(Mutex::default);

fn known() -> MutexGuard<'static, ProcessTable> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes this process the reaper of what its children leave behind, and keeps the files that it was
/// itself given (a listening socket) from them. To be called before the first run.
///
/// # Errors
/// The system does not know how.
pub fn become_subreaper() -> std::io::Result<()> {
    let own = rustix::process::getpid();
    // Process 1 inherits strays from everywhere; children from before us have their own.
    let alone = own.as_raw_nonzero().get() != 1 && children_among_all().is_empty();
    rustix::process::set_child_subreaper(Some(own))?;
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        known().only_ours = alone;
        // Where it is ignored, which is inherited, the kernel reaps children and nobody learns how they
        // ended (wait(2)).
        // SAFETY: SIG_DFL runs no code of ours; nothing else sets this signal's disposition.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        // SAFETY: takes three numbers and only sets a flag on descriptors. Older systems than Linux
        // 5.11 refuse it, and what was given stays inheritable there.
        unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    });
    Ok(())
}

/// A run that is known here until it is dropped.
#[derive(Debug)]
pub(super) struct RunGuard {
    number: u64,
    mark: String,
}

impl RunGuard {
    pub fn new(mark: &str) -> Self {
        let mut known = known();
        known.last_run += 1;
        let number = known.last_run;
        known.runs.insert(number, mark.to_owned());
        Self { number, mark: mark.to_owned() }
    }

    /// Starts its process: until it is written down nobody takes it for a stray.
    pub fn start(
        &self,
        start: impl FnOnce() -> Result<Pid, StartError>,
    ) -> Result<Pid, StartError> {
        track_start(start)
    }

    /// Ends what the run left, its process having ended, but not being reaped, so that `group` is
    /// still its own.
    pub fn kill_orphans(&self, group: Pid) {
        known().runs.remove(&self.number);
        let deadline = Instant::now() + PATIENCE;
        let mut unclear_since = None;
        let mut generations = 0;
        while generations < PASSES_MAX && Instant::now() < deadline {
            if children().is_empty() {
                return;
            }
            let pass = known().sweep(&self.mark, group);
            if !wait_for_ends(&pass.killed, deadline) {
                known().stuck.extend(pass.killed.iter().map(|(pid, _)| *pid));
                return;
            }
            if pass.killed.is_empty() && pass.reaped == 0 {
                let since = *unclear_since.get_or_insert_with(Instant::now);
                if pass.unclear.is_empty() || since.elapsed() > UNCLEAR_PATIENCE {
                    return;
                }
            }
            generations += usize::from(pass.unclear.is_empty());
            wait_for_ends(&pass.unclear, Instant::now() + AGAIN);
        }
    }

    /// Waits for its process and reaps it.
    pub fn reap(&self, pid: Pid) -> Option<WaitStatus> {
        reap(pid)
    }
}

/// Starts a process that is no run's, or a run's.
pub(super) fn track_start(
    start: impl FnOnce() -> Result<Pid, StartError>,
) -> Result<Pid, StartError> {
    // Children of other threads are not listed with the strays.
    let listed = usize::from(!lists_children() || gettid() == rustix::process::getpid());
    let _starting = Starting::new(listed);
    let started = start();
    if let Ok(pid) = started {
        known().started.insert(pid);
    }
    started
}

/// Starts that are counted until they are over, also by a fault: else no stray would be reaped again.
struct Starting(usize);

impl Starting {
    fn new(count: usize) -> Self {
        known().starting += count;
        Self(count)
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        known().starting -= self.0;
    }
}

/// Waits for what was started and reaps it.
pub(super) fn reap(pid: Pid) -> Option<WaitStatus> {
    // Waiting is done without the lock, taking without waiting.
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while matches!(waitid(WaitId::Pid(pid), ended), Err(Errno::INTR)) {}
    let mut known = known();
    known.started.remove(&pid);
    waitpid(Some(pid), WaitOptions::NOHANG).ok().flatten().map(|(_, status)| status)
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        known().runs.remove(&self.number);
    }
}

#[derive(Debug, Default)]
struct Sweep {
    killed: Vec<(Pid, OwnedFd)>,
    /// It can't be told yet whose they are.
    unclear: Vec<(Pid, OwnedFd)>,
    reaped: usize,
}

impl ProcessTable {
    /// Looks once at every stray: reaps it, kills it or leaves it.
    fn sweep(&mut self, mark: &str, group: Pid) -> Sweep {
        let mut pass = Sweep::default();
        let listed = children();
        self.untagged.retain(|pid, _| listed.contains(pid));
        self.stuck.retain(|pid| listed.contains(pid));
        for pid in listed.into_iter().filter(|&pid| pid != group) {
            if self.started.contains(&pid) {
                continue;
            }
            // One that has ended shows nothing any more, and waits for whoever reaps it.
            if self.starting == 0 && matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(Some(_)))
            {
                pass.reaped += 1;
                continue;
            }
            let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            let is_over = match read_run_id(pid) {
                _ if getpgid(Some(pid)) == Ok(group) => true,
                RunId::Is(its) if its == mark => true,
                _ if self.starting > 0 => false,
                RunId::Is(its) => !self.runs.values().any(|running| *running == its),
                RunId::None => self.untagged_is_orphan(pid),
                RunId::NotNow => {
                    pass.unclear.push((pid, process));
                    continue;
                }
            };
            let killed = is_over && pidfd_send_signal(&process, Signal::KILL).is_ok();
            if killed && !self.stuck.contains(&pid) {
                pass.killed.push((pid, process));
            }
        }
        pass
    }

    /// Whether every run that can have left a stray without a mark is over.
    fn untagged_is_orphan(&mut self, pid: Pid) -> bool {
        let seen = *self.untagged.entry(pid).or_insert(self.last_run);
        self.only_ours && self.runs.first_key_value().is_none_or(|(&run, _)| run > seen)
    }
}

/// Reaps a child that has ended, unless it was started here: its run does that.
pub(super) fn reap_stray(pid: Pid) {
    let known = known();
    if known.starting == 0 && !known.started.contains(&pid) {
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}
