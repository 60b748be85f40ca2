//! What /proc says of processes, and the end of those that an earlier server left.
//!
//! Used by `reap` for strays of runs; `end_marked` is called once, before a server runs anything.

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, getpgid, getpgrp, getpid, kill_process_group, pidfd_open,
    pidfd_send_signal,
};

use super::MARK;
use super::orphans::reap_stray;

/// How long an earlier server's processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// No list of children and no environment is longer.
const LIST_BYTES_MAX: u64 = 8 << 20;

/// More than an environment usually has.
const ENVIRON_BYTES: usize = 256 << 10;

/// Pause before a process that shows no environment yet is looked at again.
pub(super) const AGAIN: Duration = Duration::from_millis(1);

/// How long such a process is looked at again: on a busy machine one may be within `exec` for long.
pub(super) const UNCLEAR_PATIENCE: Duration = Duration::from_secs(1);

/// Whether the kernel lists the children of a thread (CONFIG_PROC_CHILDREN).
pub(super) fn lists_children() -> bool {
    static LISTS: OnceLock<bool> = OnceLock::new();
    *LISTS.get_or_init(|| fs::metadata(list()).is_ok())
}

fn list() -> String {
    let own = getpid().as_raw_nonzero();
    format!("/proc/self/task/{own}/children")
}

/// Children of the main thread, and of the others only where the kernel has no such list.
pub(super) fn children() -> Vec<Pid> {
    if !lists_children() {
        return children_among_all();
    }
    let mut text = String::new();
    match fs::File::open(list())
        .and_then(|file| file.take(LIST_BYTES_MAX).read_to_string(&mut text))
    {
        Ok(_) => pids(text.split_whitespace()),
        Err(_) => Vec::new(),
    }
}

/// Children of every thread.
pub(super) fn children_among_all() -> Vec<Pid> {
    all().into_iter().filter(|&pid| parent_of(pid) == Some(getpid())).collect()
}

fn pids<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<Pid> {
    texts.filter_map(|text| Pid::from_raw(text.parse().ok()?)).collect()
}

/// Every process that can be seen.
fn all() -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    pids(names.iter().map(String::as_str))
}

/// The fields of /proc/PID/stat after the name, which is in brackets and may hold anything.
fn stat(pid: Pid) -> Option<Vec<String>> {
    let stat = fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    Some(stat.rsplit(')').next()?.split_whitespace().map(str::to_owned).collect())
}

/// Processor time of a process, in the clock ticks of the system.
pub(super) fn processor_ticks(pid: Pid) -> Option<u64> {
    let stat = stat(pid)?;
    let ticks = |at: usize| stat.get(at)?.parse::<u64>().ok();
    Some(ticks(11)? + ticks(12)?)
}

fn parent_of(pid: Pid) -> Option<Pid> {
    Pid::from_raw(stat(pid)?.get(1)?.parse().ok()?)
}

/// What a process shows of whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RunId {
    Is(String),
    /// It has none, or it is not for us to see.
    None,
    /// It is ending, or just becoming another program: to be asked again.
    NotNow,
}

pub(super) fn read_run_id(pid: Pid) -> RunId {
    let environ = environ_of(pid);
    match &environ {
        Ok(environ) if !environ.is_empty() => {
            let mut lines = environ.split(|&byte| byte == 0);
            let mark =
                lines.find_map(|line| line.strip_prefix(MARK.as_bytes())?.strip_prefix(b"="));
            mark.map_or(RunId::None, |mark| RunId::Is(String::from_utf8_lossy(mark).into_owned()))
        }
        Err(e) if e.kind() == ErrorKind::PermissionDenied => RunId::None,
        Ok(_) | Err(_) if is_in_transition(pid) => RunId::NotNow,
        Ok(_) | Err(_) => RunId::None,
    }
}

/// In one read: between two it may become another program, and the rest be missing.
fn environ_of(pid: Pid) -> std::io::Result<Vec<u8>> {
    let mut file = fs::File::open(format!("/proc/{}/environ", pid.as_raw_nonzero()))?;
    let mut environ = vec![0; ENVIRON_BYTES];
    let length = file.read(&mut environ)?;
    environ.truncate(length);
    if length == ENVIRON_BYTES {
        file.take(LIST_BYTES_MAX).read_to_end(&mut environ)?;
    }
    Ok(environ)
}

/// Whether a process without an environment had one before, or will have one: it is ending, but not
/// yet a zombie, or it is within `exec`, where the end of the environment is 0 for a moment
/// (proc_pid_stat(5), fields 3, 9 and 51).
fn is_in_transition(pid: Pid) -> bool {
    const PF_EXITING: u64 = 4;
    const PF_KTHREAD: u64 = 0x0020_0000;
    let Some(stat) = stat(pid) else { return false };
    let number = |at: usize| stat.get(at).and_then(|field| field.parse::<u64>().ok());
    let state = stat.first().map_or("X", String::as_str);
    match number(6) {
        _ if matches!(state, "Z" | "X") => false,
        Some(flags) if flags & PF_KTHREAD != 0 => false,
        Some(flags) if flags & PF_EXITING != 0 => true,
        // What was read before may be of the old program: so it is read again.
        _ => number(48) == Some(0) || environ_of(pid).is_ok_and(|environ| !environ.is_empty()),
    }
}

/// Ends every process whose mark begins with `prefix`, with its group; says how many. This process
/// and those it came from are spared: a server may have been started by a handler.
pub fn kill_run(prefix: &str) -> usize {
    let deadline = Instant::now() + PATIENCE;
    let line: Vec<Pid> = std::iter::successors(Some(getpid()), |&pid| parent_of(pid)).collect();
    let (mut ended, mut unclear_since) = (0, None);
    loop {
        let (mut killed, mut unclear) = (Vec::new(), Vec::new());
        for pid in all().into_iter().filter(|pid| !line.contains(pid)) {
            // Opened before it is looked at, so that what is killed is what was looked at.
            let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            match read_run_id(pid) {
                RunId::Is(mark) if mark.starts_with(prefix) => {}
                RunId::Is(_) | RunId::None => continue,
                RunId::NotNow => {
                    unclear.push((pid, process));
                    continue;
                }
            }
            if getpgid(Some(pid)) == Ok(pid) && pid != getpgrp() {
                let _ = kill_process_group(pid, Signal::KILL);
            }
            if pidfd_send_signal(&process, Signal::KILL).is_ok() {
                killed.push((pid, process));
            }
        }
        // What was forked meanwhile is found by the next look.
        let gone = wait_for_ends(&killed, deadline);
        ended += killed.len();
        killed.iter().for_each(|(pid, _)| reap_stray(*pid));
        if !killed.is_empty() {
            unclear_since = None;
        }
        let since = *unclear_since.get_or_insert_with(Instant::now);
        let is_settled = unclear.is_empty() || since.elapsed() > UNCLEAR_PATIENCE;
        if !gone || (killed.is_empty() && is_settled) {
            return ended;
        }
        wait_for_ends(&unclear, Instant::now() + AGAIN);
    }
}

/// Waits until all have ended; `false` where some have not by the deadline.
pub(super) fn wait_for_ends(processes: &[(Pid, OwnedFd)], deadline: Instant) -> bool {
    processes.iter().all(|(_, process)| {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).ok();
            match poll(&mut [PollFd::new(process, PollFlags::IN)], timeout.as_ref()) {
                Err(rustix::io::Errno::INTR) => {}
                ready => return ready == Ok(1),
            }
        }
    })
}
