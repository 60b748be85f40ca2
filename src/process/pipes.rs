//! Buffers for the output of a process: the tail of a stream, and a stream of lines.
//!
//! All reads are non-blocking and read a bounded amount at a time. The buffers are bounded too,
//! for any output of the process.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

/// How much is read of one stream before the other streams are read.
const MAX_READ_BYTES: usize = 1 << 20;

/// An output stream that keeps its first and its last bytes.
#[derive(Debug, Default)]
pub(super) struct TailBuffer {
    start: Vec<u8>,
    start_max: usize,
    end: VecDeque<u8>,
    max: usize,
}

impl TailBuffer {
    pub fn new(start_max: usize, max: usize) -> Self {
        Self { start: Vec::new(), start_max, end: VecDeque::new(), max }
    }

    pub fn add(&mut self, bytes: &[u8]) {
        let missing = self.start_max.saturating_sub(self.start.len()).min(bytes.len());
        self.start.extend_from_slice(&bytes[..missing]);
        let bytes = &bytes[bytes.len().saturating_sub(self.max)..];
        let excess = (self.end.len() + bytes.len()).saturating_sub(self.max);
        self.end.drain(..excess);
        self.end.extend(bytes);
    }

    /// Returns the last bytes so far.
    pub fn tail(&self) -> Vec<u8> {
        self.end.iter().copied().collect()
    }

    /// Takes the first and the last bytes and empties the buffer.
    pub fn take(&mut self) -> (Vec<u8>, Vec<u8>) {
        (std::mem::take(&mut self.start), std::mem::take(&mut self.end).into())
    }
}

/// Splits a stream into lines. A line that is too long is cut, and empty lines are skipped.
#[derive(Debug)]
pub(super) struct LineSplitter {
    partial_line: Vec<u8>,
    max: usize,
}

impl LineSplitter {
    pub fn new(bytes_max: usize) -> Self {
        Self { partial_line: Vec::new(), max: bytes_max }
    }

    pub fn add(&mut self, mut bytes: &[u8], on_line: &mut dyn FnMut(&[u8])) {
        while let Some(at) = bytes.iter().position(|&byte| byte == b'\n') {
            if self.partial_line.is_empty() && at <= self.max {
                // Most lines arrive in one piece and need no copy.
                if at > 0 {
                    on_line(&bytes[..at]);
                }
            } else {
                self.append(&bytes[..at]);
                self.finish(on_line);
            }
            bytes = &bytes[at + 1..];
        }
        self.append(bytes);
    }

    fn append(&mut self, bytes: &[u8]) {
        let space = self.max.saturating_sub(self.partial_line.len());
        self.partial_line.extend_from_slice(&bytes[..bytes.len().min(space)]);
    }

    /// Ends the current line, which may lack a newline.
    pub fn finish(&mut self, on_line: &mut dyn FnMut(&[u8])) {
        if !self.partial_line.is_empty() {
            on_line(&self.partial_line);
        }
        self.partial_line.clear();
    }

    /// Returns whether the current line has reached the maximum length.
    pub fn is_full(&self) -> bool {
        self.partial_line.len() >= self.max
    }

    /// Returns whether a line has begun and not ended.
    pub fn is_mid_line(&self) -> bool {
        !self.partial_line.is_empty()
    }
}

/// Reads the available bytes without waiting. Closes the descriptor once the other end is closed.
pub(super) fn read_some(source: &mut Option<OwnedFd>, on_bytes: &mut dyn FnMut(&[u8])) {
    let Some(fd) = source else { return };
    let mut buffer = [0_u8; 16 << 10];
    let mut remaining = MAX_READ_BYTES;
    while remaining > 0 {
        match rustix::io::read(&*fd, &mut buffer[..]) {
            Ok(count) if count > 0 => {
                on_bytes(&buffer[..count]);
                // A short read means that the pipe is empty.
                if count < buffer.len() {
                    return;
                }
                remaining = remaining.saturating_sub(count);
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return,
            Ok(_) | Err(_) => {
                *source = None;
                return;
            }
        }
    }
}
