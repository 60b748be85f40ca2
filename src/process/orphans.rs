//! Kills orphans: processes that left the group of their run, such as children in another
//! session.
//!
//! The server is the subreaper of its descendants (PR_SET_CHILD_SUBREAPER). When the parent of a
//! process ends, the process becomes a child of the server's main thread. A child that the server
//! did not start is an orphan. Its process group or its run id shows which run it belongs to.
//! Without both, the time at which it was first seen decides.
//!
//! Every run kills its own orphans at its end, and those of runs that are over. A server calls
//! `kill_run` once, before it runs anything, for those of an earlier server. Only this module reaps
//! orphans, one by one and under one lock, so that no process id is reused in between.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, getpgid, getpgrp,
    getpid, kill_process_group, pidfd_open, pidfd_send_signal, waitid, waitpid,
};
use rustix::thread::gettid;

use super::StartError;
use super::procfs::{
    RunId, TRANSITION_RETRY_WAIT, TRANSITION_TIMEOUT, all_pids, has_children_list, parent_pid,
    read_children, read_run_id, scan_children, wait_for_exits,
};

/// The maximum number of sweeps. An orphan's children become orphans only after its end, so each
/// generation takes one sweep.
const MAX_SWEEPS: usize = 100;

/// How long to wait for killed processes of an earlier server to end.
const EARLIER_KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for killed processes to end.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// The processes that the server started, and the data that assigns orphans to runs.
#[derive(Debug, Default)]
struct ProcessTable {
    /// Processes that the server started and has not reaped yet.
    own_children: HashSet<Pid>,
    /// The number of starts in progress. Each may have a child that `own_children` does not contain
    /// yet.
    starts_in_progress: usize,
    /// The run ids of active runs, by the number of the run. Numbers increase.
    active_runs: BTreeMap<u64, String>,
    last_run_number: u64,
    /// Orphans without a run id. The value is the last run that began before the orphan was first
    /// seen.
    untagged: HashMap<Pid, u64>,
    /// Orphans that did not end after SIGKILL. No run waits for them again.
    unkillable: HashSet<Pid>,
    /// Only runs of this server can have left orphans.
    all_orphans_are_ours: bool,
}

static PROCESS_TABLE: LazyLock<Mutex<ProcessTable>> = LazyLock::new(Mutex::default);

fn process_table() -> MutexGuard<'static, ProcessTable> {
    PROCESS_TABLE.lock()
}

/// Makes this process the subreaper of its descendants. Marks inherited descriptors, such as a
/// listening socket, as close-on-exec, so that children don't get them. Call it before the first
/// run.
///
/// # Errors
/// The system does not support it.
pub fn become_subreaper() -> std::io::Result<()> {
    let own_pid = getpid();
    // Process 1 inherits orphans from all processes. Children that existed before this call may
    // leave orphans, too.
    let is_only_parent = own_pid.as_raw_nonzero().get() != 1 && scan_children().is_empty();
    rustix::process::set_child_subreaper(Some(own_pid))?;
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        process_table().all_orphans_are_ours = is_only_parent;
        // If SIGCHLD is ignored, which is inherited, the kernel reaps children and `waitpid` can't
        // report how they ended (wait(2)).
        // SAFETY: SIG_DFL runs no code of ours; nothing else sets this signal's disposition.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        // SAFETY: takes three numbers and only sets a flag on descriptors. It fails before Linux
        // 5.11, where inherited descriptors stay inheritable.
        unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    });
    Ok(())
}

/// Registers a run until it is dropped.
#[derive(Debug)]
pub(super) struct RunGuard {
    number: u64,
    run_id: String,
}

impl RunGuard {
    pub fn new(run_id: &str) -> Self {
        let mut table = process_table();
        table.last_run_number += 1;
        let number = table.last_run_number;
        table.active_runs.insert(number, run_id.to_owned());
        Self { number, run_id: run_id.to_owned() }
    }

    /// Starts the run's process. Until the process is registered, no other run takes it for an
    /// orphan.
    pub fn start(
        &self,
        start: impl FnOnce() -> Result<Pid, StartError>,
    ) -> Result<Pid, StartError> {
        track_start(start)
    }

    /// Kills the orphans of the run. The run's process must have ended but not be reaped, so that
    /// `group` still belongs to it.
    pub fn kill_orphans(&self, group: Pid) {
        process_table().active_runs.remove(&self.number);
        let deadline = Instant::now() + KILL_TIMEOUT;
        let mut in_transition_since = None;
        let mut kill_rounds = 0;
        while kill_rounds < MAX_SWEEPS && Instant::now() < deadline {
            if read_children().is_empty() {
                return;
            }
            let sweep = process_table().sweep(&self.run_id, group);
            if !wait_for_exits(&sweep.killed, deadline) {
                process_table().unkillable.extend(sweep.killed.iter().map(|(pid, _)| *pid));
                return;
            }
            if sweep.killed.is_empty() && sweep.reaped == 0 {
                let since = *in_transition_since.get_or_insert_with(Instant::now);
                if sweep.in_transition.is_empty() || since.elapsed() > TRANSITION_TIMEOUT {
                    return;
                }
            }
            kill_rounds += usize::from(sweep.in_transition.is_empty());
            wait_for_exits(&sweep.in_transition, Instant::now() + TRANSITION_RETRY_WAIT);
        }
    }

    /// Waits for the end of the run's process and reaps it.
    pub fn reap(&self, pid: Pid) -> Option<WaitStatus> {
        reap(pid)
    }
}

/// Starts a process, of a run or not, and registers it.
pub(super) fn track_start(
    start: impl FnOnce() -> Result<Pid, StartError>,
) -> Result<Pid, StartError> {
    // The children of other threads are in another list than orphans.
    let listed = usize::from(!has_children_list() || gettid() == getpid());
    let _guard = StartGuard::new(listed);
    let started = start();
    if let Ok(pid) = started {
        process_table().own_children.insert(pid);
    }
    started
}

/// Counts starts in progress until it is dropped. A panic drops it too. Otherwise no orphan would
/// be reaped afterwards.
struct StartGuard(usize);

impl StartGuard {
    fn new(count: usize) -> Self {
        process_table().starts_in_progress += count;
        Self(count)
    }
}

impl Drop for StartGuard {
    fn drop(&mut self) {
        process_table().starts_in_progress -= self.0;
    }
}

/// Waits for the end of a started process and reaps it.
pub(super) fn reap(pid: Pid) -> Option<WaitStatus> {
    // The long wait needs no lock. The later `waitpid` takes the lock and does not wait.
    let exited = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while matches!(waitid(WaitId::Pid(pid), exited), Err(Errno::INTR)) {}
    let mut table = process_table();
    table.own_children.remove(&pid);
    waitpid(Some(pid), WaitOptions::NOHANG).ok().flatten().map(|(_, status)| status)
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        process_table().active_runs.remove(&self.number);
    }
}

#[derive(Debug, Default)]
struct Sweep {
    killed: Vec<(Pid, OwnedFd)>,
    /// Processes whose run can't be read yet.
    in_transition: Vec<(Pid, OwnedFd)>,
    reaped: usize,
}

impl ProcessTable {
    /// Checks each orphan once: reaps it, kills it or leaves it alone.
    fn sweep(&mut self, run_id: &str, group: Pid) -> Sweep {
        let mut sweep = Sweep::default();
        let children = read_children();
        self.untagged.retain(|pid, _| children.contains(pid));
        self.unkillable.retain(|pid| children.contains(pid));
        for pid in children.into_iter().filter(|&pid| pid != group) {
            if self.own_children.contains(&pid) {
                continue;
            }
            // A process that has ended has no environment. It waits to be reaped.
            if self.starts_in_progress == 0
                && matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(Some(_)))
            {
                sweep.reaped += 1;
                continue;
            }
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            let is_orphan = match read_run_id(pid) {
                _ if getpgid(Some(pid)) == Ok(group) => true,
                RunId::Value(orphan_run_id) if orphan_run_id == run_id => true,
                _ if self.starts_in_progress > 0 => false,
                RunId::Value(orphan_run_id) => {
                    !self.active_runs.values().any(|active| *active == orphan_run_id)
                }
                RunId::Missing => self.untagged_is_orphan(pid),
                RunId::InTransition => {
                    sweep.in_transition.push((pid, pidfd));
                    continue;
                }
            };
            let is_killed = is_orphan && pidfd_send_signal(&pidfd, Signal::KILL).is_ok();
            if is_killed && !self.unkillable.contains(&pid) {
                sweep.killed.push((pid, pidfd));
            }
        }
        sweep
    }

    /// Returns whether all runs that may have left this untagged orphan are over.
    fn untagged_is_orphan(&mut self, pid: Pid) -> bool {
        let last_run_when_seen = *self.untagged.entry(pid).or_insert(self.last_run_number);
        self.all_orphans_are_ours
            && self.active_runs.first_key_value().is_none_or(|(&run, _)| run > last_run_when_seen)
    }
}

/// Kills all processes whose run id begins with `prefix`, together with their groups, and returns
/// their number. This process and its ancestors are spared, because a handler may have started this
/// server.
pub fn kill_run(prefix: &str) -> usize {
    let deadline = Instant::now() + EARLIER_KILL_TIMEOUT;
    let ancestors: Vec<Pid> =
        std::iter::successors(Some(getpid()), |&pid| parent_pid(pid)).collect();
    let (mut killed_count, mut in_transition_since) = (0, None);
    loop {
        let (mut killed, mut in_transition) = (Vec::new(), Vec::new());
        for pid in all_pids().into_iter().filter(|pid| !ancestors.contains(pid)) {
            // The pidfd is opened before the run id is read, so that exactly the process that was
            // read is killed.
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            match read_run_id(pid) {
                RunId::Value(run_id) if run_id.starts_with(prefix) => {}
                RunId::Value(_) | RunId::Missing => continue,
                RunId::InTransition => {
                    in_transition.push((pid, pidfd));
                    continue;
                }
            }
            if getpgid(Some(pid)) == Ok(pid) && pid != getpgrp() {
                let _ = kill_process_group(pid, Signal::KILL);
            }
            if pidfd_send_signal(&pidfd, Signal::KILL).is_ok() {
                killed.push((pid, pidfd));
            }
        }
        // The next loop finds processes that were forked in the meantime.
        let have_exited = wait_for_exits(&killed, deadline);
        killed_count += killed.len();
        killed.iter().for_each(|(pid, _)| reap_orphan(*pid));
        if !killed.is_empty() {
            in_transition_since = None;
        }
        let since = *in_transition_since.get_or_insert_with(Instant::now);
        let is_settled = in_transition.is_empty() || since.elapsed() > TRANSITION_TIMEOUT;
        if !have_exited || (killed.is_empty() && is_settled) {
            return killed_count;
        }
        wait_for_exits(&in_transition, Instant::now() + TRANSITION_RETRY_WAIT);
    }
}

/// Reaps a child that has ended, unless the server started it. In that case its run reaps it.
fn reap_orphan(pid: Pid) {
    let table = process_table();
    if table.starts_in_progress == 0 && !table.own_children.contains(&pid) {
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}
