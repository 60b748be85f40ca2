//! Handlers: one file for each kind, each behind `HandlerRunner`.
//!
//! The worker builds a [`Task`] from its claim and passes it to the runner that the handler's
//! settings select. The runner runs one attempt to its end and returns the result. It uses neither
//! the scheduler nor the store.

use std::ffi::OsString;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{self, HandlerKind, Mode};
use crate::domain::{AttemptResult, Claim, Event, Outcome};
use crate::jetstream::NatsThread;
use crate::process::{CancelToken, ExitReason, Supervisor};

pub mod batch;
pub mod cgi;
pub mod command;
mod command_spec;
mod control_fd;
mod detail_text;
mod error_line;
mod http_outcome;
mod jetstream;
mod job_line;
mod line_protocol;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod url;

pub use command_spec::{FileStamp, command_file_stamps};
pub use jetstream::MessageAddress;
pub use url::{LookupLimit, OWN_USER_AGENT};

/// A configured handler with its secrets read, and its runner. Idle processes and connections live
/// as long as the runner.
pub struct HandlerRuntime {
    pub settings: Arc<config::Handler>,
    pub env: Arc<[(String, OsString)]>,
    /// The `headers` of a URL handler.
    pub headers: Arc<[(String, Vec<u8>)]>,
    /// The secrets of `sign`.
    pub sign: Arc<[Vec<u8>]>,
    /// The `credentials` of `jetstream`.
    pub credentials: Option<Arc<[u8]>>,
    /// The command's files at the time when this was built.
    pub file_stamps: Vec<FileStamp>,
    pub runner: Box<dyn HandlerRunner>,
}

impl HandlerRuntime {
    /// Returns whether replacing this runtime by `other` would change nothing.
    pub fn is_equivalent(&self, other: &Self) -> bool {
        self.settings == other.settings
            && self.env == other.env
            && self.headers == other.headers
            && self.sign == other.sign
            && self.credentials == other.credentials
            && self.file_stamps == other.file_stamps
            && !self.runner.needs_rebuild_on_reload()
    }
}

impl fmt::Debug for HandlerRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HandlerRuntime({})", self.settings.name)
    }
}

/// The input of one attempt.
#[derive(Clone, Debug)]
pub struct Task {
    pub claim: Claim,
    pub handler: Arc<config::Handler>,
    /// The handler's `env` with its secrets read.
    pub env: Arc<[(String, OsString)]>,
    /// The `headers` of a URL handler with their secrets read.
    pub headers: Arc<[(String, Vec<u8>)]>,
    /// Standard Webhooks secrets. Each one signs.
    pub sign: Arc<[Vec<u8>]>,
    pub event: Arc<Event>,
    /// The item's number, from 1, if the handler has a `split`.
    pub item: Option<u32>,
    /// The handler's input: the output of `transform`, the item, or the event's body.
    pub input: Arc<[u8]>,
    /// `input` is an item or the output of `transform`. So it is JSON, regardless of the event's content
    /// type is.
    pub is_json_input: bool,
    /// The number of the last attempt of this series (`HOOKTRAIL_MAX_ATTEMPTS`).
    pub max_attempts: u32,
    /// The idempotency key (`HOOKTRAIL_IDEMPOTENCY_KEY`): the same for every attempt of a job.
    pub idempotency_key: String,
    /// The address of its message, if the handler publishes to a stream.
    pub message: Option<MessageAddress>,
    /// The owner of the processes that the attempt starts.
    pub supervisor: Arc<Supervisor>,
    /// The bound on the DNS lookups of all handlers.
    pub lookups: LookupLimit,
}

/// The delay of a job that did not start because of a shortage.
const SHORTAGE_RETRY_DELAY: Duration = Duration::from_secs(10);

/// Makes the result of an attempt that did not begin because of a shortage in the server: of file
/// descriptors, processes, memory or places in a queue. It does not count as an
/// attempt.
pub fn shortage_result(reason: &str) -> AttemptResult {
    let detail = detail_text::join(&["not started", reason]);
    AttemptResult {
        retry_after: Some(SHORTAGE_RETRY_DELAY),
        ..AttemptResult::new(Outcome::Interrupted, detail)
    }
}

/// Makes the result of an attempt whose process did not start.
fn start_failure(exit: ExitReason) -> AttemptResult {
    if let ExitReason::Shortage(reason) = &exit {
        return shortage_result(reason);
    }
    let (outcome, _, exit_text) = command::map_exit(&exit);
    AttemptResult::new(outcome, exit_text)
}

/// Runs the attempts of one kind of handler.
pub trait HandlerRunner: Send + Sync {
    /// Runs one attempt to its end. It never panics. It exceeds its `timeout` only by the time that
    /// ending its process takes. It leaves no process behind except idle ones in its pool.
    fn run(&self, task: &Task, stop: &CancelToken) -> AttemptResult;

    /// Returns whether a reload must rebuild the runner although its settings are the same, because
    /// it read files that are not among them.
    fn needs_rebuild_on_reload(&self) -> bool {
        false
    }

    /// Runs attempts that were claimed together. `on_result` gets the result of each attempt
    /// exactly once, with its index. There is more than one attempt only with `mode = "batch"` and with `jetstream`.
    fn run_all(
        &self,
        tasks: &[Task],
        stop: &CancelToken,
        on_result: &mut dyn FnMut(usize, AttemptResult),
    ) {
        for (index, task) in tasks.iter().enumerate() {
            on_result(index, self.run(task, stop));
        }
    }

    /// Ends idle processes without waiting for them (`Supervisor::wait_for_runs` waits). Called
    /// when a reload replaces the handler and when the server stops. Running attempts continue.
    fn close(&self) {}
}

/// Builds the runner of a handler. `credentials`: those of `jetstream`.
pub fn runner_for(
    settings: &config::Handler,
    credentials: Option<Arc<[u8]>>,
    nats: &NatsThread,
) -> Box<dyn HandlerRunner> {
    match &settings.kind {
        HandlerKind::JetStream(target) => {
            Box::new(jetstream::JetStreamRunner::new(settings, target, credentials, nats.clone()))
        }
        HandlerKind::Url(_) => Box::new(url::UrlRunner::new(settings)),
        HandlerKind::Command(command) => match command.mode {
            Mode::Each => Box::new(command::CommandRunner),
            Mode::Stream => Box::new(stream::StreamRunner::new(settings)),
            Mode::Batch(_) => Box::new(batch::BatchRunner::default()),
            Mode::Cgi => Box::new(cgi::CgiRunner),
        },
    }
}
