//! The only place where a process starts, and where it is seen to its end.
//!
//! `run` is called by a worker thread and waits on one `poll`: the process, its three streams, file
//! descriptor 3, and `Stop`. Nothing that the process does can hold it: not reading its input,
//! flooding or closing its pipes, handing them to children. When it has ended its group is killed
//! before it is reaped (so that the group's number can't be another's yet), and `reap` ends what left
//! the group. Process numbers are waited for one by one, never all.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};

mod proc;
mod reap;
mod spawn;
#[cfg(test)]
mod tests;

pub use proc::end_marked;
pub use reap::become_subreaper;
pub use spawn::{MARK, Program};

/// Between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(5);

/// A line on file descriptor 3 is read up to this length. How many there are has no limit, as a long
/// run may say `alive` for days; whoever takes them keeps only so much.
const NOTE_BYTES_MAX: usize = 64 << 10;

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

/// Readable from when it is set on: for whoever waits for something else too.
impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// What bounds a run.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub timeout: Duration,
    pub grace: Duration,
    /// Kept of stdout and of stderr, their ends.
    pub output_bytes_max: usize,
    /// Kept of stdout's start besides.
    pub start_bytes_max: usize,
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
    /// The first bytes of stdout, at most `start_bytes_max`.
    pub start: Vec<u8>,
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
        Over { exit, start: Vec::new(), stdout: Vec::new(), stderr: Vec::new() }
    };
    if stop.is_set() {
        return not_started(String::new());
    }
    let entered = reap::Entered::new(&program.mark);
    let child = match spawn::spawn(program, &entered) {
        Ok(child) => child,
        Err(why) => return not_started(why),
    };
    let mut run = Run {
        pid: child.pid,
        process: child.process,
        stdin: Some(child.stdin),
        streams: [
            Stream::new(child.stdout, bounds.start_bytes_max, bounds.output_bytes_max),
            Stream::new(child.stderr, 0, bounds.output_bytes_max),
        ],
        notes: Notes { from: Some(child.notes), line: Vec::new() },
        input,
        ending: None,
        deadline: Instant::now() + bounds.timeout,
    };
    run.feed();
    run.until_it_ends(bounds, stop, note);
    // Before it is reaped: until then no other group can have its number.
    let _ = kill_process_group(run.pid, Signal::KILL);
    entered.end_strays(run.pid);
    // What still holds a pipe open can't be seen: what is there now is taken, and no more.
    for stream in &mut run.streams {
        stream.read();
    }
    run.notes.read(note);
    run.notes.end_of_line(note);
    let status = entered.reap(run.pid);
    let exit = match (&run.ending, status) {
        (Some(why), _) => why.clone(),
        (None, Some(status)) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::NotStarted("it ended in a way that is not known".into()),
        },
        (None, None) => Exit::NotStarted("its end was reported to somebody else".into()),
    };
    let [stdout, stderr] = run.streams;
    Over { exit, start: stdout.start, stdout: stdout.kept.into(), stderr: stderr.kept.into() }
}

struct Run<'a> {
    pid: Pid,
    /// Readable when the process has ended.
    process: OwnedFd,
    stdin: Option<OwnedFd>,
    streams: [Stream; 2],
    notes: Notes,
    input: &'a [u8],
    /// Why it was told to end.
    ending: Option<Exit>,
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
        // What is suspended must go on to be told.
        let _ = kill_process_group(self.pid, Signal::CONT);
        self.ending = Some(why);
        self.deadline = Instant::now() + grace;
    }

    fn time_is_up(&mut self, grace: Duration) {
        if self.ending.is_none() {
            return self.end(Exit::TimedOut, grace);
        }
        let _ = kill_process_group(self.pid, Signal::KILL);
        // It ends by itself now, unless the system holds it; asked again once a grace.
        self.deadline = Instant::now() + grace.max(Duration::from_millis(100));
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

/// An output stream, of which the start and the end are kept.
struct Stream {
    from: Option<OwnedFd>,
    start: Vec<u8>,
    start_max: usize,
    kept: VecDeque<u8>,
    max: usize,
}

impl Stream {
    fn new(from: OwnedFd, start_max: usize, max: usize) -> Self {
        Self { from: Some(from), start: Vec::new(), start_max, kept: VecDeque::new(), max }
    }

    fn read(&mut self) {
        let (kept, max) = (&mut self.kept, self.max);
        let (start, start_max) = (&mut self.start, self.start_max);
        read_some(&mut self.from, |bytes| {
            let wanted = start_max.saturating_sub(start.len()).min(bytes.len());
            start.extend_from_slice(&bytes[..wanted]);
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
}

impl Notes {
    /// Whether one of the lines asked for more time.
    fn read(&mut self, note: &mut dyn FnMut(&[u8]) -> Note) -> bool {
        let (mut alive, line) = (false, &mut self.line);
        read_some(&mut self.from, |bytes| {
            for &byte in bytes {
                match byte {
                    b'\n' => alive |= take_line(line, note),
                    _ if line.len() < NOTE_BYTES_MAX => line.push(byte),
                    _ => {}
                }
            }
        });
        alive
    }

    /// A last line may lack its end.
    fn end_of_line(&mut self, note: &mut dyn FnMut(&[u8]) -> Note) {
        take_line(&mut self.line, note);
    }
}

fn take_line(line: &mut Vec<u8>, note: &mut dyn FnMut(&[u8]) -> Note) -> bool {
    let alive = !line.is_empty() && note(line) == Note::Alive;
    line.clear();
    alive
}

/// Reads what is there, without waiting; gives up its end once the other one is closed.
fn read_some(from: &mut Option<OwnedFd>, mut take: impl FnMut(&[u8])) {
    let Some(fd) = from else { return };
    let mut buffer = [0_u8; 16 << 10];
    let mut left = TURN_BYTES;
    while left > 0 {
        match rustix::io::read(&*fd, &mut buffer[..]) {
            Ok(count) if count > 0 => {
                take(&buffer[..count]);
                left = left.saturating_sub(count);
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return,
            Ok(_) | Err(_) => {
                *from = None;
                return;
            }
        }
    }
}
