//! Kills orphans: processes that left the group of their run, such as children in another
//! session.
//!
//! The server is the subreaper of its descendants (PR_SET_CHILD_SUBREAPER). When the parent of a
//! process ends, the process becomes a child of the server's main thread. A child that the server
//! did not start is an orphan. Its process group or its run id shows which run it belongs to.
//! Without both, the time at which it was first seen decides.
//!
//! Every run kills its own orphans at its end, and those of runs that are over. A pidfd is opened
//! before a process is checked, so exactly the process that was checked is killed or reaped. Orphans
//! are reaped under one lock, so no id that a sweep has listed is used again meanwhile.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpgid, getpgrp, getpid, kill_process_group,
    pidfd_open, pidfd_send_signal, waitid,
};

use super::Supervisor;
use super::procfs::{
    RunId, SUPERVISOR_COUNT, TRANSITION_RETRY_WAIT, TRANSITION_TIMEOUT, all_pids, parent_pid,
    read_children, read_run_id, wait_for_exits,
};

/// The maximum number of sweeps. An orphan's children become orphans only after its end, so each
/// generation takes one sweep.
const MAX_SWEEPS: usize = 100;

/// How long to wait for killed processes of an earlier server to end.
const EARLIER_KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for killed processes to end.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// The processes that a supervisor started, and the data that assigns orphans to runs.
#[derive(Debug, Default)]
pub(super) struct ProcessTable {
    /// Processes that were started and are not reaped yet.
    pub own_children: HashSet<Pid>,
    /// Each start in progress holds a clone. It may have a child that `own_children` does not contain
    /// yet. An `Arc` counts correctly even if a start panics.
    pub start_guard: Arc<()>,
    /// The number of runs whose process has not been reaped.
    pub run_count: usize,
    /// The run ids of the runs that have not begun to kill their orphans, by number. Numbers
    /// increase.
    active_runs: BTreeMap<u64, String>,
    last_number: u64,
    /// Orphans without a run id. The value is the last run that began before the orphan was first
    /// seen.
    untagged: HashMap<Pid, u64>,
    /// Orphans that did not end after SIGKILL. No run waits for them again.
    unkillable: HashSet<Pid>,
    /// Only runs of this process can have left orphans.
    pub all_orphans_are_ours: bool,
}

impl ProcessTable {
    /// Returns a number for a run or a process.
    pub fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Returns whether all runs that may have left this untagged orphan are over.
    fn untagged_is_orphan(&mut self, pid: Pid) -> bool {
        let last_run_when_seen = *self.untagged.entry(pid).or_insert(self.last_number);
        self.all_orphans_are_ours
            && self.active_runs.first_key_value().is_none_or(|(&run, _)| run > last_run_when_seen)
    }
}

/// Registers a run until it is dropped.
#[derive(Debug)]
pub(super) struct RunGuard {
    pub supervisor: Arc<Supervisor>,
    pub number: u64,
    run_id: String,
}

impl RunGuard {
    pub fn new(supervisor: &Arc<Supervisor>, run_id: &str) -> Self {
        let mut table = supervisor.table.lock();
        let number = table.next_number();
        table.run_count += 1;
        table.active_runs.insert(number, run_id.to_owned());
        Self { supervisor: Arc::clone(supervisor), number, run_id: run_id.to_owned() }
    }

    /// Kills the orphans of the run. The run's process must have ended but not be reaped, so that
    /// `group` still belongs to it.
    pub fn kill_orphans(&self, group: Pid) {
        let supervisor = &self.supervisor;
        supervisor.table.lock().active_runs.remove(&self.number);
        let deadline = Instant::now() + KILL_TIMEOUT;
        let mut in_transition_since = None;
        let mut kill_rounds = 0;
        while kill_rounds < MAX_SWEEPS && Instant::now() < deadline {
            if read_children().is_empty() {
                return;
            }
            let sweep = supervisor.sweep(&self.run_id, group);
            if !reap_killed(&sweep.killed, deadline) {
                let pids = sweep.killed.iter().map(|(pid, _)| *pid);
                supervisor.table.lock().unkillable.extend(pids);
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
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        let mut table = self.supervisor.table.lock();
        table.active_runs.remove(&self.number);
        table.run_count -= 1;
        self.supervisor.run_ended.notify_all();
    }
}

#[derive(Debug, Default)]
struct Sweep {
    killed: Vec<(Pid, OwnedFd)>,
    /// Processes whose run can't be read yet.
    in_transition: Vec<(Pid, OwnedFd)>,
    reaped: usize,
}

impl Supervisor {
    /// Checks each orphan once: reaps it, kills it or leaves it alone.
    fn sweep(&self, run_id: &str, group: Pid) -> Sweep {
        let mut sweep = Sweep::default();
        let (count, mut table) = (SUPERVISOR_COUNT.lock(), self.table.lock());
        let children = read_children();
        let (is_alone, is_starting) = (*count == 1, Arc::strong_count(&table.start_guard) > 1);
        table.untagged.retain(|pid, _| children.contains(pid));
        table.unkillable.retain(|pid| children.contains(pid));
        for pid in children {
            if table.own_children.contains(&pid) {
                continue;
            }
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            // A process that has ended has no environment. It waits to be reaped.
            if is_alone && !is_starting && reap_exited(&pidfd) {
                sweep.reaped += 1;
                continue;
            }
            let is_orphan = match read_run_id(pid) {
                _ if getpgid(Some(pid)) == Ok(group) => true,
                RunId::Value(orphan_run_id) if orphan_run_id == run_id => true,
                // It may be of this run, even if another run starts.
                RunId::InTransition => {
                    sweep.in_transition.push((pid, pidfd));
                    continue;
                }
                _ if is_starting => false,
                RunId::Value(orphan_run_id) => {
                    (is_alone || orphan_run_id.starts_with(&self.run_prefix))
                        && !table.active_runs.values().any(|active| *active == orphan_run_id)
                }
                RunId::Missing => is_alone && table.untagged_is_orphan(pid),
            };
            let is_killed = is_orphan && pidfd_send_signal(&pidfd, Signal::KILL).is_ok();
            if is_killed && !table.unkillable.contains(&pid) {
                sweep.killed.push((pid, pidfd));
            }
        }
        sweep
    }

    /// Kills all processes that an earlier server with the same id started, together with their
    /// groups, and returns their number. This process and its ancestors are spared, because a
    /// handler may have started this server. Call it before the first run.
    pub fn kill_earlier_runs(&self) -> usize {
        let deadline = Instant::now() + EARLIER_KILL_TIMEOUT;
        let ancestors: Vec<Pid> =
            std::iter::successors(Some(getpid()), |&pid| parent_pid(pid)).collect();
        let (mut killed_count, mut in_transition_since) = (0, None);
        loop {
            let (mut killed, mut in_transition) = (Vec::new(), Vec::new());
            for pid in all_pids().into_iter().filter(|pid| !ancestors.contains(pid)) {
                let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
                match read_run_id(pid) {
                    RunId::Value(run_id) if run_id.starts_with(&self.run_prefix) => {}
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
            let have_exited = reap_killed(&killed, deadline);
            killed_count += killed.len();
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
}

/// Waits until killed processes have ended, and reaps those that are children of this process.
/// Returns `false` if some have not ended by the deadline.
fn reap_killed(killed: &[(Pid, OwnedFd)], deadline: Instant) -> bool {
    let have_exited = wait_for_exits(killed, deadline);
    let _count = SUPERVISOR_COUNT.lock();
    for (_, pidfd) in killed {
        reap_exited(pidfd);
    }
    have_exited
}

/// Reaps a process if it is a child of this process and has ended. Returns whether it was.
fn reap_exited(pidfd: &OwnedFd) -> bool {
    let exited = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    matches!(waitid(WaitId::PidFd(pidfd.as_fd()), exited), Ok(Some(_)))
}
