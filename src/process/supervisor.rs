//! The owner of all processes of one server.
//!
//! If this process has several supervisors, each touches only processes whose group or run id is its
//! own. The others wait, as zombies if they end, until one supervisor is left.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;
use rustix::process::{
    Pid, WaitId, WaitIdOptions, WaitOptions, WaitStatus, getpid, set_child_subreaper, waitid,
    waitpid,
};
use rustix::thread::gettid;

use super::orphans::ProcessTable;
use super::pool::ExitWatcher;
use super::procfs::{SUPERVISOR_COUNT, has_children_list, scan_children};
use super::{StartError, oom};

/// Owns the processes of one server, and all that they share. Each process keeps it alive.
#[derive(Debug)]
pub struct Supervisor {
    /// The run ids of its processes begin with it.
    pub(super) run_prefix: String,
    pub(super) table: Mutex<ProcessTable>,
    /// The `oom_score_adj` of handlers, and the number of consecutive ones that could not be given it.
    pub(super) handler_score: String,
    pub(super) denied_scores: AtomicU32,
    pub(super) exit_watcher: Mutex<Option<Arc<ExitWatcher>>>,
    pub(super) run_ended: Condvar,
}

impl Supervisor {
    /// Creates a supervisor whose run ids begin with `id`, such as the id of the database.
    pub fn new(id: &str) -> Arc<Self> {
        *SUPERVISOR_COUNT.lock() += 1;
        Arc::new(Self {
            run_prefix: format!("{id}."),
            table: Mutex::default(),
            handler_score: oom::raised_score(oom::HANDLER_OFFSET),
            denied_scores: AtomicU32::new(0),
            exit_watcher: Mutex::default(),
            run_ended: Condvar::new(),
        })
    }

    /// Makes this process the subreaper of its descendants. Marks inherited descriptors, such as a
    /// listening socket, as close-on-exec, so that children don't get them. Call it before the first
    /// run.
    ///
    /// # Errors
    /// The system does not support it.
    pub fn become_subreaper(&self) -> io::Result<()> {
        let own_pid = getpid();
        // Process 1 inherits orphans from all processes. Children that existed before this call may
        // leave orphans, too.
        let is_only_parent = own_pid.as_raw_nonzero().get() != 1 && scan_children().is_empty();
        set_child_subreaper(Some(own_pid))?;
        self.table.lock().all_orphans_are_ours = is_only_parent;
        // If SIGCHLD is ignored, which is inherited, the kernel reaps children and `waitpid` can't
        // report how they ended (wait(2)).
        // SAFETY: SIG_DFL runs no code of ours; nothing else sets this signal's disposition.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        // SAFETY: takes three numbers and only sets a flag on descriptors. It fails before Linux
        // 5.11, where inherited descriptors stay inheritable.
        unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        Ok(())
    }

    /// Returns a run id. `rest` identifies the run among those of this supervisor.
    pub fn run_id(&self, rest: &str) -> String {
        format!("{}{rest}", self.run_prefix)
    }

    /// Starts a process, of a run or not, and registers it. Until then, no run takes it for an
    /// orphan.
    pub(super) fn start(
        &self,
        start: impl FnOnce() -> Result<Pid, StartError>,
    ) -> Result<Pid, StartError> {
        // The children of other threads are in another list than orphans.
        let is_listed = !has_children_list() || gettid() == getpid();
        let _guard = is_listed.then(|| Arc::clone(&self.table.lock().start_guard));
        let pid = start()?;
        self.table.lock().own_children.insert(pid);
        Ok(pid)
    }

    /// Waits until all runs have ended, including idle processes that end in the background. Returns
    /// `false` if some have not after `max_wait`.
    pub fn wait_for_runs(&self, max_wait: Duration) -> bool {
        let mut table = self.table.lock();
        let has_runs = |table: &mut ProcessTable| table.run_count > 0;
        !self.run_ended.wait_while_for(&mut table, has_runs, max_wait).timed_out()
    }

    /// Waits for the end of a started process and reaps it.
    pub(super) fn reap(&self, pid: Pid) -> Option<WaitStatus> {
        // The long wait needs no lock. The later `waitpid` takes the locks and does not wait.
        let exited = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while matches!(waitid(WaitId::Pid(pid), exited), Err(Errno::INTR)) {}
        let (_count, mut table) = (SUPERVISOR_COUNT.lock(), self.table.lock());
        table.own_children.remove(&pid);
        waitpid(Some(pid), WaitOptions::NOHANG).ok().flatten().map(|(_, status)| status)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        *SUPERVISOR_COUNT.lock() -= 1;
        if let Some(watcher) = self.exit_watcher.get_mut() {
            watcher.stop.cancel();
        }
    }
}
