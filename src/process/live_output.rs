//! The end of what running processes have written so far, for a person who watches a job.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// The bytes that are kept of each stream.
const KEPT_BYTES: usize = 16 << 10;

/// An output stream of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    Stdout,
    Stderr,
}

#[derive(Debug, Default)]
struct StreamEnd {
    bytes: VecDeque<u8>,
    /// All bytes so far.
    total: u64,
}

/// The ends of stdout and stderr.
#[derive(Debug, Default)]
pub struct LiveOutput(Mutex<[StreamEnd; 2]>);

/// A part of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputPart {
    /// How many bytes came before it.
    pub offset: u64,
    pub bytes: Vec<u8>,
}

impl OutputPart {
    /// How many bytes the stream has with this part.
    pub fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

impl LiveOutput {
    pub(super) fn add(&self, stream: OutputStream, bytes: &[u8]) {
        let mut streams = self.0.lock();
        let end = &mut streams[stream as usize];
        end.total += bytes.len() as u64;
        let kept = &bytes[bytes.len().saturating_sub(KEPT_BYTES)..];
        let excess = (end.bytes.len() + kept.len()).saturating_sub(KEPT_BYTES);
        end.bytes.drain(..excess);
        end.bytes.extend(kept);
    }

    /// Returns what a stream has from an offset on, as far as it is kept.
    pub fn read(&self, stream: OutputStream, from: u64) -> OutputPart {
        let streams = self.0.lock();
        let end = &streams[stream as usize];
        let first = end.total - end.bytes.len() as u64;
        let offset = from.clamp(first, end.total);
        let skipped = usize::try_from(offset - first).unwrap_or(0);
        OutputPart { offset, bytes: end.bytes.iter().skip(skipped).copied().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_gets_what_is_new_and_at_most_the_end() {
        let output = LiveOutput::default();
        output.add(OutputStream::Stdout, b"one\n");
        let first = output.read(OutputStream::Stdout, 0);
        assert_eq!(first, OutputPart { offset: 0, bytes: b"one\n".to_vec() });
        assert_eq!(output.read(OutputStream::Stdout, first.end()).bytes, b"");
        output.add(OutputStream::Stdout, b"two\n");
        assert_eq!(output.read(OutputStream::Stdout, first.end()).bytes, b"two\n");
        assert_eq!(output.read(OutputStream::Stderr, 0).bytes, b"");
        output.add(OutputStream::Stdout, &vec![b'x'; 3 * KEPT_BYTES]);
        let end = output.read(OutputStream::Stdout, 4);
        assert_eq!(end.bytes.len(), KEPT_BYTES);
        assert_eq!(end.end(), 8 + 3 * KEPT_BYTES as u64);
    }
}
