//! Hears what a process answers. What is large goes to a file without a name while it comes.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::Items;
use super::pending::ReceivedResult;
use super::protocol::{Decoder, HandlerHead, PackedSizes, ResponseHead};
use crate::process::{ConnectionLost, SandboxedProcess};

/// Items are kept in memory up to here.
const MEMORY_BYTES_MAX: usize = 4 << 20;

/// The head of an answer has no items in it.
const HEAD_BYTES_MAX: usize = 16 << 20;

/// What a pipe holds.
const BUFFER_BYTES: usize = 64 << 10;

/// While an answer is waited for, the queue is looked at so often.
const TICK: Duration = Duration::from_millis(30);

/// What was made is not lost because it takes long to be handed over.
const HANDED_OVER: Duration = Duration::from_secs(5);

/// An answer, its items received.
pub(super) enum ReceivedResponse {
    Expressions { dedupe: Result<Option<String>, String>, handlers: Vec<ReceivedResult> },
    Outputs(Result<Items, String>),
}

/// Why there is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ConnectionError {
    TimedOut,
    /// It has ended.
    Exited,
    /// What is said is nothing that is ever said.
    Malformed,
    /// Items can't be kept.
    Disk(String),
    Cancelled,
}

/// How long is waited, and what is done meanwhile.
pub(super) struct WaitPolicy<'a> {
    pub until: Instant,
    /// `false`: nothing more is waited for.
    pub tick: &'a mut dyn FnMut(&EvaluatorConnection) -> bool,
}

/// A process, and what was heard of it but not yet taken.
pub(super) struct EvaluatorConnection {
    pub servant: SandboxedProcess,
    /// Answers that were heard.
    heard: u32,
    buffer: Box<[u8]>,
    /// What of it came and is not yet taken.
    unread: Range<usize>,
}

impl EvaluatorConnection {
    pub fn new(servant: SandboxedProcess) -> Self {
        Self { servant, heard: 0, buffer: vec![0; BUFFER_BYTES].into(), unread: 0..0 }
    }

    /// Of those that are asked and not yet answered, which one it is at, and at which stage; `None`:
    /// at none.
    pub fn current_request(&self) -> Option<(usize, u32)> {
        let (begun, stage) = self.servant.progress();
        let at = begun.wrapping_sub(self.heard).checked_sub(1)?;
        (stage != 0).then_some((at as usize, stage))
    }

    /// Asks.
    pub fn send(
        &self,
        mut bytes: &[u8],
        patience: &mut WaitPolicy<'_>,
    ) -> Result<(), ConnectionError> {
        while !bytes.is_empty() {
            let written = patience.wait(self, |ears, until| ears.servant.write(bytes, until))?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// The next answer. `folder`: for what is large.
    pub fn receive(
        &mut self,
        folder: &Path,
        patience: &mut WaitPolicy<'_>,
    ) -> Result<ReceivedResponse, ConnectionError> {
        let mut length = [0; 4];
        self.take_all(&mut length, patience)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > HEAD_BYTES_MAX {
            return Err(ConnectionError::Malformed);
        }
        let mut head = vec![0; length];
        self.take_all(&mut head, patience)?;
        let head = Decoder(&head).head().ok_or(ConnectionError::Malformed)?;
        patience.until = patience.until.max(Instant::now() + HANDED_OVER);
        let heard = match head {
            ResponseHead::Outputs(Err(reason)) => ReceivedResponse::Outputs(Err(reason)),
            ResponseHead::Outputs(Ok(sizes)) => {
                ReceivedResponse::Outputs(Ok(self.items(sizes, folder, patience)?))
            }
            ResponseHead::Expressions { dedupe, handlers: takers } => {
                let mut received = Vec::with_capacity(takers.len());
                for taken in takers {
                    received.push(self.receive_handler(taken, folder, patience)?);
                }
                ReceivedResponse::Expressions { dedupe, handlers: received }
            }
        };
        self.heard = self.heard.wrapping_add(1);
        Ok(heard)
    }

    fn receive_handler(
        &mut self,
        taken: HandlerHead,
        folder: &Path,
        patience: &mut WaitPolicy<'_>,
    ) -> Result<ReceivedResult, ConnectionError> {
        let (items, keys, faults) = match taken {
            HandlerHead::Skip => return Ok(ReceivedResult::Skip),
            HandlerHead::Failed { which, reason } => {
                return Ok(ReceivedResult::Failed { which, reason });
            }
            HandlerHead::Run { items, keys, faults } => (items, keys, faults),
        };
        let mut receive = |sizes: Option<PackedSizes>| {
            sizes.map(|sizes| self.items(sizes, folder, patience)).transpose()
        };
        Ok(ReceivedResult::Run { items: receive(items)?, keys: receive(keys)?, faults })
    }

    fn items(
        &mut self,
        sizes: PackedSizes,
        folder: &Path,
        patience: &mut WaitPolicy<'_>,
    ) -> Result<Items, ConnectionError> {
        let mut ends = Vec::with_capacity(sizes.count as usize);
        let mut end = 0_u64;
        for _ in 0..sizes.count {
            let mut length = [0; 4];
            self.take_all(&mut length, patience)?;
            end += u64::from(u32::from_le_bytes(length));
            ends.push(end);
        }
        if end != u64::from(sizes.bytes) {
            return Err(ConnectionError::Malformed);
        }
        let mut left = sizes.bytes as usize;
        if left <= MEMORY_BYTES_MAX {
            let mut bytes = vec![0; left];
            self.take_all(&mut bytes, patience)?;
            return Ok(Items::new(bytes, ends));
        }
        let disk = |e: std::io::Error| ConnectionError::Disk(format!("{}: {e}", folder.display()));
        let mut file = unnamed_temp_file(folder).map_err(disk)?;
        while left > 0 {
            self.fill(patience)?;
            let some = self.some(left);
            file.write_all(some).map_err(disk)?;
            left -= some.len();
        }
        Ok(Items::in_file(file, ends))
    }

    fn take_all(
        &mut self,
        mut to: &mut [u8],
        patience: &mut WaitPolicy<'_>,
    ) -> Result<(), ConnectionError> {
        while !to.is_empty() {
            self.fill(patience)?;
            let some = self.some(to.len());
            let (now, later) = to.split_at_mut(some.len());
            now.copy_from_slice(some);
            to = later;
        }
        Ok(())
    }

    /// Something is there.
    fn fill(&mut self, patience: &mut WaitPolicy<'_>) -> Result<(), ConnectionError> {
        if !self.unread.is_empty() {
            return Ok(());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let came = patience.wait(self, |ears, until| ears.servant.read(&mut buffer, until));
        self.buffer = buffer;
        self.unread = 0..came?;
        Ok(())
    }

    /// Takes at most so much of what is there.
    fn some(&mut self, max: usize) -> &[u8] {
        let start = self.unread.start;
        let end = self.unread.end.min(start + max);
        self.unread.start = end;
        &self.buffer[start..end]
    }
}

impl WaitPolicy<'_> {
    fn wait(
        &mut self,
        ears: &EvaluatorConnection,
        mut does: impl FnMut(&EvaluatorConnection, Instant) -> Result<usize, ConnectionLost>,
    ) -> Result<usize, ConnectionError> {
        loop {
            let now = Instant::now();
            match does(ears, self.until.min(now + TICK)) {
                Ok(count) => return Ok(count),
                Err(ConnectionLost::Ended) => return Err(ConnectionError::Exited),
                Err(ConnectionLost::NotYet) if Instant::now() >= self.until => {
                    return Err(ConnectionError::TimedOut);
                }
                Err(ConnectionLost::NotYet) if !(self.tick)(ears) => {
                    return Err(ConnectionError::Cancelled);
                }
                Err(ConnectionLost::NotYet) => {}
            }
        }
    }
}

/// A file that is gone when it is closed. Where the file system knows none without a name, it has one
/// for a moment.
fn unnamed_temp_file(folder: &Path) -> std::io::Result<File> {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let (flags, mode) = (OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
    if let Ok(file) = rustix::fs::open(folder, OFlags::TMPFILE | flags, mode) {
        return Ok(file.into());
    }
    let number = LAST.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!(".items-{}-{number}", std::process::id()));
    let file = rustix::fs::open(&path, OFlags::CREATE | OFlags::EXCL | flags, mode)?;
    std::fs::remove_file(&path)?;
    Ok(file.into())
}
