//! What comes out of a process: streams of which the ends are kept, and lines.
//!
//! All is read without waiting, so much at a time, and kept within bounds whatever is written.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

/// So much is read of one stream before the others have their turn.
const TURN_BYTES: usize = 1 << 20;

/// An output stream, of which the start and the end are kept.
#[derive(Debug, Default)]
pub(super) struct TailBuffer {
    start: Vec<u8>,
    start_max: usize,
    kept: VecDeque<u8>,
    max: usize,
}

impl TailBuffer {
    pub fn new(start_max: usize, max: usize) -> Self {
        Self { start: Vec::new(), start_max, kept: VecDeque::new(), max }
    }

    pub fn add(&mut self, bytes: &[u8]) {
        let wanted = self.start_max.saturating_sub(self.start.len()).min(bytes.len());
        self.start.extend_from_slice(&bytes[..wanted]);
        let bytes = &bytes[bytes.len().saturating_sub(self.max)..];
        let over = (self.kept.len() + bytes.len()).saturating_sub(self.max);
        self.kept.drain(..over);
        self.kept.extend(bytes);
    }

    /// Its end so far.
    pub fn end(&self) -> Vec<u8> {
        self.kept.iter().copied().collect()
    }

    /// Gives its start and its end away, and is as new.
    pub fn take(&mut self) -> (Vec<u8>, Vec<u8>) {
        (std::mem::take(&mut self.start), std::mem::take(&mut self.kept).into())
    }
}

/// A stream of lines, each cut where it is too long; empty ones are none.
#[derive(Debug)]
pub(super) struct LineSplitter {
    begun: Vec<u8>,
    max: usize,
}

impl LineSplitter {
    pub fn new(bytes_max: usize) -> Self {
        Self { begun: Vec::new(), max: bytes_max }
    }

    pub fn add(&mut self, mut bytes: &[u8], each: &mut dyn FnMut(&[u8])) {
        while let Some(at) = bytes.iter().position(|&byte| byte == b'\n') {
            if self.begun.is_empty() && at <= self.max {
                // As a rule a line arrives whole.
                if at > 0 {
                    each(&bytes[..at]);
                }
            } else {
                self.begin(&bytes[..at]);
                self.end(each);
            }
            bytes = &bytes[at + 1..];
        }
        self.begin(bytes);
    }

    fn begin(&mut self, bytes: &[u8]) {
        let room = self.max.saturating_sub(self.begun.len());
        self.begun.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// A last line may lack its end.
    pub fn end(&mut self, each: &mut dyn FnMut(&[u8])) {
        if !self.begun.is_empty() {
            each(&self.begun);
        }
        self.begun.clear();
    }

    /// The line that is being written is already longer than any may be.
    pub fn is_full(&self) -> bool {
        self.begun.len() >= self.max
    }

    /// A line was begun.
    pub fn is_mid_line(&self) -> bool {
        !self.begun.is_empty()
    }
}

/// Reads what is there, without waiting; gives up its end once the other one is closed.
pub(super) fn read_some(from: &mut Option<OwnedFd>, take: &mut dyn FnMut(&[u8])) {
    let Some(fd) = from else { return };
    let mut buffer = [0_u8; 16 << 10];
    let mut left = TURN_BYTES;
    while left > 0 {
        match rustix::io::read(&*fd, &mut buffer[..]) {
            Ok(count) if count > 0 => {
                take(&buffer[..count]);
                // A pipe that gives less has no more.
                if count < buffer.len() {
                    return;
                }
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
