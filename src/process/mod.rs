//! The only place where a process starts, and where it is seen to its end.
//!
//! `run` is called by a worker thread and waits on one `poll`: the process, its three streams, file
//! descriptor 3, and `Stop`. Nothing that the process does can hold it: not reading its input,
//! flooding or closing its pipes, handing them to children. When it has ended its group is killed
//! before it is reaped (so that the group's number can't be another's yet), and `reap` ends what left
//! the group. Process numbers are waited for one by one, never all.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process_group, waitpid};

mod reap;
mod spawn;

#[cfg(test)]
mod tests;

pub use reap::{become_subreaper, end_marked};
pub use spawn::{MARK, Program};

/// Between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(5);

/// A line on file descriptor 3 is read up to this length, and so many lines in all.
const NOTE_BYTES_MAX: usize = 64 << 10;
const NOTES_MAX: usize = 10_000;

/// Ends a run from another thread.
#[derive(Clone, Debug)]
pub struct Stop {
    is_set: Arc<AtomicBool>,
    wake: Arc<OwnedFd>,
}

impl Stop {
    /// # Errors
    /// No file descriptor is to be had.
    pub fn new() -> std::io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { is_set: Arc::default(), wake: Arc::new(wake) })
    }

    /// From here on what runs under it is ended.
    pub fn set(&self) {
        self.is_set.store(true, Ordering::SeqCst);
        // A full counter wakes too.
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
    }

    pub fn is_set(&self) -> bool {
        self.is_set.load(Ordering::SeqCst)
    }
}

/// What bounds a run.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub timeout: Duration,
    pub grace: Duration,
    /// Kept of stdout and of stderr, their ends.
    pub output_bytes_max: usize,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    TimedOut,
    Stopped,
    /// Why, with what to do about it.
    NotStarted(String),
}

/// A run that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Over {
    pub exit: Exit,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// What a line on file descriptor 3 asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The timeout starts anew.
    Alive,
    Noted,
}

/// Runs `program` to its end with `input` on its stdin; `note` gets each line of descriptor 3.
pub fn run(
    program: &Program,
    input: &[u8],
    bounds: Bounds,
    stop: &Stop,
    note: &mut dyn FnMut(&[u8]) -> Note,
) -> Over {
    let not_started = |why: String| {
        let exit = if stop.is_set() { Exit::Stopped } else { Exit::NotStarted(why) };
        Over { exit, stdout: Vec::new(), stderr: Vec::new() }
    };
    if stop.is_set() {
        return not_started(String::new());
    }
    let child = match spawn::spawn(program) {
        Ok(child) => child,
        Err(why) => return not_started(why),
    };
    let mut run = Run {
        pid: child.pid,
        process: child.process,
        stdin: Some(child.stdin),
        streams: [
            Stream::new(child.stdout, bounds.output_bytes_max),
            Stream::new(child.stderr, bounds.output_bytes_max),
        ],
        notes: Notes { from: Some(child.notes), line: Vec::new(), taken: 0 },
        input,
        ending: None,
        deadline: Instant::now() + bounds.timeout,
    };
    run.until_it_ends(bounds, stop, note);
    // Before it is reaped: until then no other group can have its number.
    let _ = kill_process_group(run.pid, Signal::KILL);
    for stream in &mut run.streams {
        stream.read();
    }
    run.notes.read(note);
    let status = wait(run.pid);
    reap::end_strays(&program.mark);
    let exit = match (&run.ending, status) {
        (Some(Ending { why, .. }), _) => why.clone(),
        (None, Some(status)) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::NotStarted("it ended in a way that is not known".into()),
        },
        (None, None) => Exit::NotStarted("its end was reported to somebody else".into()),
    };
    let [stdout, stderr] = run.streams.map(|stream| stream.kept.into());
    Over { exit, stdout, stderr }
}

fn wait(pid: Pid) -> Option<WaitStatus> {
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(found) => return found.map(|(_, status)| status),
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

struct Ending {
    why: Exit,
    killed: bool,
}

struct Run<'a> {
    pid: Pid,
    /// Readable when the process has ended.
    process: OwnedFd,
    stdin: Option<OwnedFd>,
    streams: [Stream; 2],
    notes: Notes,
    input: &'a [u8],
    ending: Option<Ending>,
    deadline: Instant,
}

impl Run<'_> {
    fn until_it_ends(&mut self, bounds: Bounds, stop: &Stop, note: &mut dyn FnMut(&[u8]) -> Note) {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.time_is_up(bounds.grace);
                continue;
            }
            if stop.is_set() && self.ending.is_none() {
                self.end(Exit::Stopped, bounds.grace);
                continue;
            }
            let Some(ready) = self.poll(stop, left) else { continue };
            if ready.stdin {
                self.feed();
            }
            for stream in &mut self.streams {
                stream.read();
            }
            if self.notes.read(note) && self.ending.is_none() {
                self.deadline = Instant::now() + bounds.timeout;
            }
            if ready.ended {
                return;
            }
        }
    }

    fn end(&mut self, why: Exit, grace: Duration) {
        let _ = kill_process_group(self.pid, Signal::TERM);
        self.ending = Some(Ending { why, killed: false });
        self.deadline = Instant::now() + grace;
    }

    fn time_is_up(&mut self, grace: Duration) {
        match &mut self.ending {
            None => self.end(Exit::TimedOut, grace),
            Some(ending) => {
                ending.killed = true;
                let _ = kill_process_group(self.pid, Signal::KILL);
                // It ends by itself now; asked again once a grace, in case it has to.
                self.deadline = Instant::now() + grace.max(Duration::from_millis(100));
            }
        }
    }

    fn poll(&self, stop: &Stop, left: Duration) -> Option<Ready> {
        let mut fds = Vec::with_capacity(6);
        fds.push(PollFd::new(&self.process, PollFlags::IN));
        let input = self.stdin.as_ref().map(|stdin| {
            fds.push(PollFd::new(stdin, PollFlags::OUT));
            fds.len() - 1
        });
        if self.ending.is_none() {
            fds.push(PollFd::new(&*stop.wake, PollFlags::IN));
        }
        let open = self.streams.iter().filter_map(|stream| stream.from.as_ref());
        for from in open.chain(self.notes.from.as_ref()) {
            fds.push(PollFd::from_borrowed_fd(from.as_fd(), PollFlags::IN));
        }
        // Longer waits than poll knows are cut; the loop looks at the clock again.
        let left = Timespec::try_from(left.min(Duration::from_secs(86_400))).ok();
        match poll(&mut fds, left.as_ref()) {
            Ok(_) => Some(Ready {
                ended: !fds[0].revents().is_empty(),
                stdin: input.is_some_and(|at| !fds[at].revents().is_empty()),
            }),
            Err(_) => None,
        }
    }

    /// Writes what the pipe takes; a process that does not read its input is no fault.
    fn feed(&mut self) {
        let Some(stdin) = &self.stdin else { return };
        while !self.input.is_empty() {
            match rustix::io::write(stdin, self.input) {
                Ok(written) => self.input = &self.input[written..],
                Err(Errno::INTR) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => break,
            }
        }
        self.stdin = None;
    }
}

struct Ready {
    ended: bool,
    stdin: bool,
}

/// So much is read of one stream before the others have their turn.
const TURN_BYTES: usize = 1 << 20;

/// An output stream, of which the end is kept.
struct Stream {
    from: Option<OwnedFd>,
    kept: VecDeque<u8>,
    max: usize,
}

impl Stream {
    fn new(from: OwnedFd, max: usize) -> Self {
        Self { from: Some(from), kept: VecDeque::new(), max }
    }

    fn read(&mut self) {
        let (kept, max) = (&mut self.kept, self.max);
        read_some(&mut self.from, |bytes| {
            let bytes = &bytes[bytes.len().saturating_sub(max)..];
            let over = (kept.len() + bytes.len()).saturating_sub(max);
            kept.drain(..over);
            kept.extend(bytes);
        });
    }
}

/// File descriptor 3, line by line.
struct Notes {
    from: Option<OwnedFd>,
    line: Vec<u8>,
    taken: usize,
}

impl Notes {
    /// Whether one of the lines asked for more time.
    fn read(&mut self, note: &mut dyn FnMut(&[u8]) -> Note) -> bool {
        let mut alive = false;
        let (line, taken) = (&mut self.line, &mut self.taken);
        let mut end_of_line = |line: &mut Vec<u8>| {
            if !line.is_empty() && *taken < NOTES_MAX {
                *taken += 1;
                alive |= note(line) == Note::Alive;
            }
            line.clear();
        };
        let open = read_some(&mut self.from, |bytes| {
            for &byte in bytes {
                match byte {
                    b'\n' => end_of_line(line),
                    _ if line.len() < NOTE_BYTES_MAX => line.push(byte),
                    _ => {}
                }
            }
        });
        if !open {
            end_of_line(line);
        }
        alive
    }
}

/// Reads what is there, without waiting; `false` once the other end is closed.
fn read_some(from: &mut Option<OwnedFd>, mut take: impl FnMut(&[u8])) -> bool {
    let Some(fd) = from else { return false };
    let mut buffer = [0_u8; 16 << 10];
    let mut left = TURN_BYTES;
    while left > 0 {
        match rustix::io::read(&*fd, &mut buffer[..]) {
            Ok(0) => break,
            Ok(count) => {
                take(&buffer[..count]);
                left = left.saturating_sub(count);
                continue;
            }
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => return true,
            Err(_) => break,
        }
    }
    if left == 0 {
        return true;
    }
    *from = None;
    false
}
