//! Sends requests to one evaluator process and receives its responses. Large items go to an unnamed
//! file while they arrive.

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

/// Items beyond this size go to a file.
const MAX_MEMORY_BYTES: usize = 4 << 20;

/// Limit of the head of a response, which holds no items.
const MAX_HEAD_BYTES: usize = 16 << 20;

/// The capacity of a pipe.
const BUFFER_BYTES: usize = 64 << 10;

/// How often the thread checks the queue while it waits for a response.
const TICK_INTERVAL: Duration = Duration::from_millis(30);

/// Minimum time for receiving a response whose head has arrived, so that a large result is not
/// lost.
const MIN_RECEIVE_TIME: Duration = Duration::from_secs(5);

/// A response with its items.
pub(super) enum ReceivedResponse {
    Expressions { dedupe: Result<Option<String>, String>, handlers: Vec<ReceivedResult> },
    Outputs(Result<Items, String>),
}

/// Why no response came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ConnectionError {
    TimedOut,
    /// The process has ended.
    Exited,
    /// The response does not follow the protocol.
    Malformed,
    /// Items could not be written to their file.
    Disk(String),
    Cancelled,
}

/// The deadline of a wait, and the work to do meanwhile.
pub(super) struct WaitPolicy<'a> {
    pub deadline: Instant,
    /// Called on each tick; `false` stops the wait.
    pub tick: &'a mut dyn FnMut(&EvaluatorConnection) -> bool,
}

/// The connection to one evaluator process, with bytes received but not yet read.
pub(super) struct EvaluatorConnection {
    pub process: SandboxedProcess,
    /// Number of responses received.
    responses_received: u32,
    buffer: Box<[u8]>,
    /// The part of `buffer` that is not yet read.
    unread: Range<usize>,
}

impl EvaluatorConnection {
    pub fn new(process: SandboxedProcess) -> Self {
        Self { process, responses_received: 0, buffer: vec![0; BUFFER_BYTES].into(), unread: 0..0 }
    }

    /// The request that the process is evaluating, as an index into the unanswered ones, and its
    /// stage; `None`: it evaluates none.
    pub fn current_request(&self) -> Option<(usize, u32)> {
        let (begun_count, stage) = self.process.progress();
        let index = begun_count.wrapping_sub(self.responses_received).checked_sub(1)?;
        (stage != 0).then_some((index as usize, stage))
    }

    /// Sends bytes of a request.
    pub fn send(
        &self,
        mut bytes: &[u8],
        policy: &mut WaitPolicy<'_>,
    ) -> Result<(), ConnectionError> {
        while !bytes.is_empty() {
            let written = policy
                .wait(self, |connection, deadline| connection.process.write(bytes, deadline))?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// Receives the next response. `folder`: for the file of large items.
    pub fn receive(
        &mut self,
        folder: &Path,
        policy: &mut WaitPolicy<'_>,
    ) -> Result<ReceivedResponse, ConnectionError> {
        let mut length = [0; 4];
        self.read_exact(&mut length, policy)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_HEAD_BYTES {
            return Err(ConnectionError::Malformed);
        }
        let mut head = vec![0; length];
        self.read_exact(&mut head, policy)?;
        let head = Decoder(&head).head().ok_or(ConnectionError::Malformed)?;
        policy.deadline = policy.deadline.max(Instant::now() + MIN_RECEIVE_TIME);
        let response = match head {
            ResponseHead::Outputs(Err(reason)) => ReceivedResponse::Outputs(Err(reason)),
            ResponseHead::Outputs(Ok(sizes)) => {
                ReceivedResponse::Outputs(Ok(self.receive_items(sizes, folder, policy)?))
            }
            ResponseHead::Expressions { dedupe, handlers } => {
                let mut received = Vec::with_capacity(handlers.len());
                for head in handlers {
                    received.push(self.receive_handler(head, folder, policy)?);
                }
                ReceivedResponse::Expressions { dedupe, handlers: received }
            }
        };
        self.responses_received = self.responses_received.wrapping_add(1);
        Ok(response)
    }

    fn receive_handler(
        &mut self,
        head: HandlerHead,
        folder: &Path,
        policy: &mut WaitPolicy<'_>,
    ) -> Result<ReceivedResult, ConnectionError> {
        let (items, keys, key_errors) = match head {
            HandlerHead::Skip => return Ok(ReceivedResult::Skip),
            HandlerHead::Failed { key_index, reason } => {
                return Ok(ReceivedResult::Failed { key_index, reason });
            }
            HandlerHead::Run { items, keys, key_errors } => (items, keys, key_errors),
        };
        let mut receive = |sizes: Option<PackedSizes>| {
            sizes.map(|sizes| self.receive_items(sizes, folder, policy)).transpose()
        };
        Ok(ReceivedResult::Run { items: receive(items)?, keys: receive(keys)?, key_errors })
    }

    fn receive_items(
        &mut self,
        sizes: PackedSizes,
        folder: &Path,
        policy: &mut WaitPolicy<'_>,
    ) -> Result<Items, ConnectionError> {
        let mut ends = Vec::with_capacity(sizes.count as usize);
        let mut end = 0_u64;
        for _ in 0..sizes.count {
            let mut length = [0; 4];
            self.read_exact(&mut length, policy)?;
            end += u64::from(u32::from_le_bytes(length));
            ends.push(end);
        }
        if end != u64::from(sizes.bytes) {
            return Err(ConnectionError::Malformed);
        }
        let mut bytes_left = sizes.bytes as usize;
        if bytes_left <= MAX_MEMORY_BYTES {
            let mut bytes = vec![0; bytes_left];
            self.read_exact(&mut bytes, policy)?;
            return Ok(Items::new(bytes, ends));
        }
        let disk_error =
            |e: std::io::Error| ConnectionError::Disk(format!("{}: {e}", folder.display()));
        let mut file = open_unnamed_file(folder).map_err(disk_error)?;
        while bytes_left > 0 {
            self.fill_buffer(policy)?;
            let chunk = self.read_buffered(bytes_left);
            file.write_all(chunk).map_err(disk_error)?;
            bytes_left -= chunk.len();
        }
        Ok(Items::in_file(file, ends))
    }

    fn read_exact(
        &mut self,
        mut to: &mut [u8],
        policy: &mut WaitPolicy<'_>,
    ) -> Result<(), ConnectionError> {
        while !to.is_empty() {
            self.fill_buffer(policy)?;
            let chunk = self.read_buffered(to.len());
            let (filled, rest) = to.split_at_mut(chunk.len());
            filled.copy_from_slice(chunk);
            to = rest;
        }
        Ok(())
    }

    /// Waits until `buffer` has unread bytes.
    fn fill_buffer(&mut self, policy: &mut WaitPolicy<'_>) -> Result<(), ConnectionError> {
        if !self.unread.is_empty() {
            return Ok(());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let count = policy
            .wait(self, |connection, deadline| connection.process.read(&mut buffer, deadline));
        self.buffer = buffer;
        self.unread = 0..count?;
        Ok(())
    }

    /// Reads at most `max` bytes of the buffer.
    fn read_buffered(&mut self, max: usize) -> &[u8] {
        let start = self.unread.start;
        let end = self.unread.end.min(start + max);
        self.unread.start = end;
        &self.buffer[start..end]
    }
}

impl WaitPolicy<'_> {
    fn wait(
        &mut self,
        connection: &EvaluatorConnection,
        mut operation: impl FnMut(&EvaluatorConnection, Instant) -> Result<usize, ConnectionLost>,
    ) -> Result<usize, ConnectionError> {
        loop {
            let now = Instant::now();
            match operation(connection, self.deadline.min(now + TICK_INTERVAL)) {
                Ok(count) => return Ok(count),
                Err(ConnectionLost::Closed) => return Err(ConnectionError::Exited),
                Err(ConnectionLost::Timeout) if Instant::now() >= self.deadline => {
                    return Err(ConnectionError::TimedOut);
                }
                Err(ConnectionLost::Timeout) if !(self.tick)(connection) => {
                    return Err(ConnectionError::Cancelled);
                }
                Err(ConnectionLost::Timeout) => {}
            }
        }
    }
}

/// Opens a temporary file that disappears when it is closed. On a file system without unnamed files
/// it has a name for a moment.
fn open_unnamed_file(folder: &Path) -> std::io::Result<File> {
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
