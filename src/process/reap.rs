//! Ends what left its process group: children with a session of their own.
//!
//! The server is their reaper (PR_SET_CHILD_SUBREAPER): when their parents are gone they become
//! children of its main thread, which starts no process itself, so that what is listed there are
//! strays alone. Whose they are is told by the mark in their environment. After a crash nobody is
//! their reaper, and all of /proc is looked through.

use std::fs;
use std::io::Read;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, kill_process, kill_process_group, pidfd_open, waitpid,
};

use super::MARK;

/// Strays of strays turn up only when their parents are gone; so many generations are followed.
const PASSES_MAX: usize = 100;

/// How long a killed process may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait for a process that is just becoming another program.
const START: Duration = Duration::from_millis(1);

/// More than an environment usually has.
const ENVIRON_BYTES: usize = 256 << 10;

/// How often the list of children is read for one that is the same twice.
const LISTS_MAX: usize = 10;

/// Makes this process the reaper of what its children leave behind.
///
/// # Errors
/// The system does not know how.
pub fn become_subreaper() -> std::io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Ends and reaps strays that carry `mark`.
pub(super) fn end_strays(mark: &str) {
    for _ in 0..PASSES_MAX {
        let mut found = false;
        for pid in strays() {
            match mark_of(pid) {
                Marked::As(its) if its == mark => {
                    found = true;
                    let _ = kill_process(pid, Signal::KILL);
                    wait_for_end(pid, Instant::now() + PATIENCE);
                    let _ = waitpid(Some(pid), WaitOptions::NOHANG);
                }
                // It has ended, or is about to: whoever's it was, it only waits to be reaped.
                Marked::Empty if is_ending(pid) => {
                    found = true;
                    wait_for_end(pid, Instant::now() + PATIENCE);
                    let _ = waitpid(Some(pid), WaitOptions::NOHANG);
                }
                Marked::NotYet => {
                    found = true;
                    std::thread::sleep(START);
                }
                Marked::Empty | Marked::As(_) | Marked::No => {}
            }
        }
        if !found {
            return;
        }
    }
}

/// Children of the main thread.
fn strays() -> Vec<Pid> {
    let own = std::process::id();
    let list = || fs::read_to_string(format!("/proc/self/task/{own}/children"));
    let Ok(mut found) = list() else {
        // A kernel without the list: children are found by looking at all.
        return all().into_iter().filter(|&pid| parent_of(pid) == Some(own.into())).collect();
    };
    // Where another thread reaps one meanwhile, the kernel leaves out the next; a list that is the
    // same twice had no such gap, nor has an empty one.
    for _ in 0..LISTS_MAX {
        match list() {
            _ if found.is_empty() => break,
            Ok(again) if again != found => found = again,
            _ => break,
        }
    }
    pids(found.split_whitespace())
}

fn pids<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<Pid> {
    texts.filter_map(|text| Pid::from_raw(text.parse().ok()?)).collect()
}

fn all() -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    pids(names.iter().map(String::as_str))
}

/// A field of /proc/PID/stat, counted from the one after the name, which is in brackets and may hold
/// anything: 0 is the state, 1 the parent, 6 the flags, 48 where the environment ends
/// (proc_pid_stat(5)).
fn stat(pid: Pid, field: usize) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(field)?.parse().ok()
}

fn parent_of(pid: Pid) -> Option<u64> {
    stat(pid, 1)
}

const PF_EXITING: u64 = 4;
const PF_KTHREAD: u64 = 0x0020_0000;

fn is_ending(pid: Pid) -> bool {
    stat(pid, 6).is_none_or(|flags| flags & PF_EXITING != 0)
}

/// Within `exec`: between the old program's memory and the new one's environment. Looked at in this
/// order, as the memory of one that ends goes after it was said to.
fn is_starting(pid: Pid) -> bool {
    stat(pid, 48) == Some(0)
        && stat(pid, 6).is_some_and(|flags| flags & (PF_EXITING | PF_KTHREAD) == 0)
}

enum Marked {
    As(String),
    No,
    /// No environment: it has none, or no memory any more.
    Empty,
    /// It is becoming another program just now.
    NotYet,
}

fn mark_of(pid: Pid) -> Marked {
    match environ_of(pid) {
        // What was asked first may be of the old program: so it is read again.
        Ok(environ) if environ.is_empty() => match is_starting(pid) || has_environ(pid) {
            true => Marked::NotYet,
            false => Marked::Empty,
        },
        Ok(environ) => environ
            .split(|&byte| byte == 0)
            .find_map(|line| line.strip_prefix(MARK.as_bytes())?.strip_prefix(b"="))
            .map_or(Marked::No, |mark| Marked::As(String::from_utf8_lossy(mark).into_owned())),
        // Without memory any more (newer kernels say so by an error), or not ours to look at.
        Err(_) => Marked::Empty,
    }
}

/// In one read: between two it may become another program, and the rest be missing.
fn environ_of(pid: Pid) -> std::io::Result<Vec<u8>> {
    let mut file = fs::File::open(format!("/proc/{}/environ", pid.as_raw_nonzero()))?;
    let mut environ = vec![0; ENVIRON_BYTES];
    let length = file.read(&mut environ)?;
    environ.truncate(length);
    if length == ENVIRON_BYTES {
        file.read_to_end(&mut environ)?;
    }
    Ok(environ)
}

fn has_environ(pid: Pid) -> bool {
    environ_of(pid).is_ok_and(|environ| !environ.is_empty())
}

/// Ends every process whose mark begins with `prefix`, with its group; says how many.
pub fn end_marked(prefix: &str) -> usize {
    let mut ended = 0;
    for _ in 0..PASSES_MAX {
        let (found, unsure) = marked(prefix);
        if found.is_empty() && !unsure {
            break;
        }
        let deadline = Instant::now() + PATIENCE;
        for &pid in &found {
            if rustix::process::getpgid(Some(pid)) == Ok(pid) {
                let _ = kill_process_group(pid, Signal::KILL);
            }
            let _ = kill_process(pid, Signal::KILL);
        }
        for &pid in &found {
            ended += usize::from(wait_for_end(pid, deadline));
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
        if found.is_empty() {
            std::thread::sleep(START);
        }
    }
    ended
}

/// Processes whose mark begins with `prefix`; whether there are some that can't be told yet.
fn marked(prefix: &str) -> (Vec<Pid>, bool) {
    let mut unsure = false;
    let found = all().into_iter().filter(|&pid| match mark_of(pid) {
        Marked::As(mark) => mark.starts_with(prefix),
        Marked::NotYet => {
            unsure = true;
            false
        }
        Marked::Empty | Marked::No => false,
    });
    (found.collect(), unsure)
}

fn wait_for_end(pid: Pid, deadline: Instant) -> bool {
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return true };
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).ok();
    matches!(poll(&mut [PollFd::new(&process, PollFlags::IN)], left.as_ref()), Ok(1))
}
