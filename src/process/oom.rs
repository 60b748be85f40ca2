//! The order in which the kernel kills processes when memory runs out: evaluators first, then
//! handlers, the server last. Evaluators and handlers have a higher `oom_score_adj` than the server
//! (proc_pid_oom_score_adj(5)).
//!
//! The server is not dumpable, so its own files in /proc belong to root. It can write the files of
//! its child processes, which are dumpable since their `exec`.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Pid;

use super::Supervisor;

/// How much higher the score of an evaluator and of a handler is than the server's.
const EVALUATOR_OFFSET: i32 = 500;
pub(super) const HANDLER_OFFSET: i32 = 250;

/// The greatest score that the kernel accepts.
const MAX_SCORE: i32 = 1000;

/// How often a write is retried if permission is denied, and how long to wait between two attempts.
const WRITE_ATTEMPTS: usize = 100;
const WRITE_RETRY_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000 };

/// After this many consecutive processes whose score could not be written, each start tries only
/// once.
const MAX_DENIED: u32 = 3;

/// Returns a score that is higher by `offset` than that of this process.
pub(super) fn raised_score(offset: i32) -> String {
    let text = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    (text.trim().parse().unwrap_or(0) + offset).min(MAX_SCORE).to_string()
}

impl Supervisor {
    /// Raises the score of a handler that was just started. If this user may not read the program,
    /// the score stays, because the files in /proc belong to root.
    ///
    /// `posix_spawn` returns shortly before the program is dumpable, so a denied write may succeed a
    /// moment later. Where writes always fail, as under a security policy that forbids them, starts
    /// do not wait.
    pub(super) fn raise_handler_score(&self, pid: Pid, pidfd: &OwnedFd) {
        let path = format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero());
        let is_denied = self.denied_scores.load(Ordering::Relaxed) >= MAX_DENIED;
        for _ in 0..if is_denied { 1 } else { WRITE_ATTEMPTS } {
            match fs::write(&path, &self.handler_score) {
                Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                    let mut exit_poll = [PollFd::new(pidfd, PollFlags::IN)];
                    // After its end, the files of a process belong to root too.
                    if poll(&mut exit_poll, Some(&WRITE_RETRY_WAIT)) != Ok(0) {
                        return;
                    }
                }
                Ok(()) => return self.denied_scores.store(0, Ordering::Relaxed),
                Err(_) => return,
            }
        }
        self.denied_scores.fetch_add(1, Ordering::Relaxed);
    }
}

/// Raises the score of this process, an evaluator that inherited the score of the server.
pub(super) fn raise_evaluator_score() {
    let _ = fs::write("/proc/self/oom_score_adj", raised_score(EVALUATOR_OFFSET));
}
