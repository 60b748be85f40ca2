//! Sends requests to one evaluator process and receives its responses. Large items go to an unnamed
//! file while they arrive.

use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::output::{MAX_ITEMS, MAX_OUTPUT_BYTES};
use super::process_counters::RunningGuard;
use super::{EvaluationResult, Items};
use crate::process::{ConnectionLost, SandboxedProcess};

/// Items beyond this size go to a file.
const MAX_MEMORY_BYTES: usize = 4 << 20;

/// Limit of the decision of one handler in a result, and of the key of `dedupe`: five keys or
/// reasons, but no items.
const MAX_DECISION_BYTES: usize = 32 << 10;

/// Limit of the encoded end of an item.
const MAX_END_BYTES: usize = 4;

/// The capacity of a pipe.
const BUFFER_BYTES: usize = 64 << 10;

/// How often the thread checks the queue while it waits for a response.
const TICK_INTERVAL: Duration = Duration::from_millis(30);

/// Minimum time for receiving a response whose head has arrived, so that a large result is not
/// lost.
const MIN_RECEIVE_TIME: Duration = Duration::from_secs(5);

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
    _running: RunningGuard,
}

impl EvaluatorConnection {
    /// Connects to a process, which `running` counts.
    pub fn new(process: SandboxedProcess, running: RunningGuard) -> Self {
        Self {
            process,
            responses_received: 0,
            buffer: vec![0; BUFFER_BYTES].into(),
            unread: 0..0,
            _running: running,
        }
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

    /// Receives the next result, of at most this number of handlers. `folder`: for the file of large
    /// items.
    pub fn receive(
        &mut self,
        max_handlers: usize,
        folder: &Path,
        policy: &mut WaitPolicy<'_>,
    ) -> Result<EvaluationResult, ConnectionError> {
        let max_bytes = (max_handlers + 1) * MAX_DECISION_BYTES;
        let mut result: EvaluationResult = self.receive_message(max_bytes, policy)?;
        policy.deadline = policy.deadline.max(Instant::now() + MIN_RECEIVE_TIME);
        for list in result.lists_mut() {
            self.receive_items(list, folder, policy)?;
        }
        self.responses_received = self.responses_received.wrapping_add(1);
        Ok(result)
    }

    /// Receives a message. It is allocated only if its length is allowed.
    fn receive_message<T: DeserializeOwned>(
        &mut self,
        max_bytes: usize,
        policy: &mut WaitPolicy<'_>,
    ) -> Result<T, ConnectionError> {
        let mut length = [0; 4];
        self.read_exact(&mut length, policy)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > max_bytes {
            return Err(ConnectionError::Malformed);
        }
        let mut message = vec![0; length];
        self.read_exact(&mut message, policy)?;
        postcard::from_bytes(&message).map_err(|_| ConnectionError::Malformed)
    }

    fn receive_items(
        &mut self,
        items: &mut Items,
        folder: &Path,
        policy: &mut WaitPolicy<'_>,
    ) -> Result<(), ConnectionError> {
        items.ends = self.receive_message((MAX_ITEMS + 1) * MAX_END_BYTES, policy)?;
        let mut bytes_left = usize::try_from(items.bytes()).unwrap_or(usize::MAX);
        if !items.ends.is_sorted() || bytes_left > MAX_OUTPUT_BYTES {
            return Err(ConnectionError::Malformed);
        }
        if bytes_left <= MAX_MEMORY_BYTES {
            items.memory.resize(bytes_left, 0);
            return self.read_exact(&mut items.memory, policy);
        }
        let disk_error =
            |e: std::io::Error| ConnectionError::Disk(format!("{}: {e}", folder.display()));
        let mut file = tempfile::tempfile_in(folder).map_err(disk_error)?;
        while bytes_left > 0 {
            self.fill_buffer(policy)?;
            let chunk = self.read_buffered(bytes_left);
            file.write_all(chunk).map_err(disk_error)?;
            bytes_left -= chunk.len();
        }
        items.file = Some(file);
        Ok(())
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
