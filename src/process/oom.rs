//! Which process the kernel ends first when memory runs out: an evaluator, then a handler, and the
//! server last. All have a higher `oom_score_adj` than the server (proc_pid_oom_score_adj(5)).
//!
//! The server is not dumpable, so its own files in /proc belong to root. It writes to those of the
//! processes that it started, which are dumpable again since their `exec`.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Pid;

/// What an evaluator and a handler have above the server.
const EVALUATOR: i32 = 500;
const HANDLER: i32 = 250;

/// The kernel accepts no more.
const MAX: i32 = 1000;

/// How often and for how long a refusal is taken for a passing one.
const TRIES: usize = 100;
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000 };

/// After so many final refusals in a row each start tries once.
const REFUSED_MAX: u32 = 3;

static REFUSED: AtomicU32 = AtomicU32::new(0);

/// The value of this process.
fn own() -> i32 {
    let text = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Raises the value of a handler that was just started. A program that this user may not read stays as
/// it is, since its files in /proc belong to root.
///
/// `posix_spawn` returns a little before the program is dumpable, so a refusal may be passing. Where
/// each is final, as under a policy that forbids it, starts do not wait for long.
pub(super) fn raise_of_handler(pid: Pid, process: &OwnedFd) {
    static SERVER: OnceLock<i32> = OnceLock::new();
    let value = (SERVER.get_or_init(own) + HANDLER).min(MAX).to_string();
    let path = format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero());
    let tries = if REFUSED.load(Ordering::Relaxed) < REFUSED_MAX { TRIES } else { 1 };
    for _ in 0..tries {
        match fs::write(&path, &value) {
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                let mut ended = [PollFd::new(process, PollFlags::IN)];
                // The files of one that has ended belong to root too.
                if poll(&mut ended, Some(&WAIT)) != Ok(0) {
                    return;
                }
            }
            Ok(()) => return REFUSED.store(0, Ordering::Relaxed),
            Err(_) => return,
        }
    }
    REFUSED.fetch_add(1, Ordering::Relaxed);
}

/// Raises the value of this process, which is an evaluator that inherited that of the server.
pub(super) fn raise_of_evaluator() {
    let value = (own() + EVALUATOR).min(MAX);
    let _ = fs::write("/proc/self/oom_score_adj", value.to_string());
}
