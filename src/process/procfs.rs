//! Reads /proc: the children of the server, and the run id in the environment of a process.

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, getpid};

use super::RUN_ID_VARIABLE;

/// The maximum length of a list of children or of an environment.
const MAX_LIST_BYTES: u64 = 8 << 20;

/// The size of the first read. Most environments are smaller.
const ENVIRON_BYTES: usize = 256 << 10;

/// The wait before a process in transition is read again.
pub(super) const TRANSITION_RETRY_WAIT: Duration = Duration::from_millis(1);

/// How long a process in transition is read again. On a busy machine, an `exec` may take long.
pub(super) const TRANSITION_TIMEOUT: Duration = Duration::from_secs(1);

/// The number of supervisors in this process. The kernel has one list of children for all of them:
/// it is read under this lock, and its processes are reaped under this lock, because the kernel may
/// leave out children if others are reaped meanwhile (proc(5)).
pub(super) static SUPERVISOR_COUNT: Mutex<usize> = Mutex::new(0);

/// Returns whether the kernel lists the children of a thread (CONFIG_PROC_CHILDREN).
pub(super) fn has_children_list() -> bool {
    static HAS_LIST: OnceLock<bool> = OnceLock::new();
    *HAS_LIST.get_or_init(|| fs::metadata(children_path()).is_ok())
}

fn children_path() -> String {
    let own = getpid().as_raw_nonzero();
    format!("/proc/self/task/{own}/children")
}

/// Returns the children of the main thread. If the kernel has no such list, returns those of all
/// threads.
pub(super) fn read_children() -> Vec<Pid> {
    if !has_children_list() {
        return scan_children();
    }
    let mut text = String::new();
    match fs::File::open(children_path())
        .and_then(|file| file.take(MAX_LIST_BYTES).read_to_string(&mut text))
    {
        Ok(_) => parse_pids(text.split_whitespace()),
        Err(_) => Vec::new(),
    }
}

/// Finds the children of all threads among all processes.
pub(super) fn scan_children() -> Vec<Pid> {
    all_pids().into_iter().filter(|&pid| parent_pid(pid) == Some(getpid())).collect()
}

fn parse_pids<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<Pid> {
    texts.filter_map(|text| Pid::from_raw(text.parse().ok()?)).collect()
}

/// Returns all visible processes.
pub(super) fn all_pids() -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    parse_pids(names.iter().map(String::as_str))
}

/// Reads the fields of /proc/PID/stat after the process name. The name is in brackets and may
/// contain any character.
fn read_stat(pid: Pid) -> Option<Vec<String>> {
    let stat = fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    Some(stat.rsplit(')').next()?.split_whitespace().map(str::to_owned).collect())
}

/// Returns the processor time of a process in clock ticks.
pub(super) fn processor_ticks(pid: Pid) -> Option<u64> {
    let stat = read_stat(pid)?;
    let ticks = |at: usize| stat.get(at)?.parse::<u64>().ok();
    Some(ticks(11)? + ticks(12)?)
}

pub(super) fn parent_pid(pid: Pid) -> Option<Pid> {
    Pid::from_raw(read_stat(pid)?.get(1)?.parse().ok()?)
}

/// The run id in the environment of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RunId {
    Value(String),
    /// The process has none, or this user may not read it.
    Missing,
    /// The process is ending or within `exec`. Read it again later.
    InTransition,
}

pub(super) fn read_run_id(pid: Pid) -> RunId {
    let environ = read_environ(pid);
    match &environ {
        Ok(environ) if !environ.is_empty() => {
            let mut lines = environ.split(|&byte| byte == 0);
            let run_id = lines
                .find_map(|line| line.strip_prefix(RUN_ID_VARIABLE.as_bytes())?.strip_prefix(b"="));
            run_id.map_or(RunId::Missing, |run_id| {
                RunId::Value(String::from_utf8_lossy(run_id).into_owned())
            })
        }
        Err(e) if e.kind() == ErrorKind::PermissionDenied => RunId::Missing,
        Ok(_) | Err(_) if is_in_transition(pid) => RunId::InTransition,
        Ok(_) | Err(_) => RunId::Missing,
    }
}

/// Reads the environment. The first read covers almost all environments. Between two reads, the
/// process may start another program, and the rest would be missing.
fn read_environ(pid: Pid) -> std::io::Result<Vec<u8>> {
    let mut file = fs::File::open(format!("/proc/{}/environ", pid.as_raw_nonzero()))?;
    let mut environ = vec![0; ENVIRON_BYTES];
    let length = file.read(&mut environ)?;
    environ.truncate(length);
    if length == ENVIRON_BYTES {
        file.take(MAX_LIST_BYTES).read_to_end(&mut environ)?;
    }
    Ok(environ)
}

/// Returns whether a process without an environment had one before or will have one. Either it is
/// ending but not yet a zombie, or it is within `exec`, where the end of the environment is 0 for a
/// moment (proc_pid_stat(5), fields 3, 9 and 51).
fn is_in_transition(pid: Pid) -> bool {
    const PF_EXITING: u64 = 4;
    const PF_KTHREAD: u64 = 0x0020_0000;
    let Some(stat) = read_stat(pid) else { return false };
    let number = |at: usize| stat.get(at).and_then(|field| field.parse::<u64>().ok());
    let has_ended = stat.first().is_none_or(|letter| matches!(&**letter, "Z" | "X"));
    match number(6) {
        _ if has_ended => false,
        Some(flags) if flags & PF_KTHREAD != 0 => false,
        Some(flags) if flags & PF_EXITING != 0 => true,
        // The earlier read may have been of the old program, so this reads again. The second `exec`
        // of a process that repeats it moves the environment.
        _ => {
            number(48) == Some(0)
                || read_environ(pid).is_ok_and(|environ| !environ.is_empty())
                || read_stat(pid).is_some_and(|later| later.get(48) != stat.get(48))
        }
    }
}

/// Waits until all processes have ended. Returns `false` if some have not by the deadline.
pub(super) fn wait_for_exits(pidfds: &[(Pid, OwnedFd)], deadline: Instant) -> bool {
    pidfds.iter().all(|(_, pidfd)| {
        loop {
            let remaining = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(remaining).ok();
            match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], timeout.as_ref()) {
                Err(rustix::io::Errno::INTR) => {}
                ready => return ready == Ok(1),
            }
        }
    })
}
