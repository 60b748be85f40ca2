//! What is done with events: a kind of handler a file, each behind [`Kind`].
//!
//! The worker builds a [`Task`] from its claim and hands it to the kind that the handler's settings
//! name. A kind runs it to its end and says how it ended; it knows neither the queue nor the store.

use std::ffi::OsString;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{self, Mode};
use crate::domain::{AttemptResult, Claim, Event, Outcome};
use crate::process::CancelToken;

pub mod batch;
pub mod cgi;
pub mod command;
mod command_spec;
mod control_fd;
mod detail_text;
mod http_outcome;
mod job_line;
mod line_protocol;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod url;

pub use command_spec::{FileStamp, command_file_stamps};

/// A handler as it is configured now, its secrets read; what it keeps warm lives as long as this.
pub struct HandlerRuntime {
    pub settings: Arc<config::Handler>,
    pub env: Arc<[(String, OsString)]>,
    /// `headers` of a URL.
    pub headers: Arc<[(String, Vec<u8>)]>,
    /// Secrets of `sign`.
    pub sign: Arc<[Vec<u8>]>,
    /// The command's files as they were when this was made.
    pub files: Vec<FileStamp>,
    pub kind: Box<dyn HandlerRunner>,
}

impl HandlerRuntime {
    /// Whether nothing would change if it stood for the other.
    pub fn is_equivalent(&self, other: &Self) -> bool {
        self.settings == other.settings
            && self.env == other.env
            && self.headers == other.headers
            && self.sign == other.sign
            && self.files == other.files
            && !self.kind.needs_rebuild_on_reload()
    }
}

impl fmt::Debug for HandlerRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ready({})", self.settings.name)
    }
}

/// Everything that one attempt needs.
#[derive(Clone, Debug)]
pub struct Task {
    pub claim: Claim,
    pub handler: Arc<config::Handler>,
    /// The handler's own environment, its secrets read.
    pub env: Arc<[(String, OsString)]>,
    /// Headers of a URL, secrets read.
    pub headers: Arc<[(String, Vec<u8>)]>,
    /// Standard Webhooks secrets, each of which signs.
    pub sign: Arc<[Vec<u8>]>,
    pub event: Arc<Event>,
    /// With `split`: the item's number, from 1.
    pub item: Option<u32>,
    /// What the handler reads: what `transform` gave, the item, or the event's bytes.
    pub input: Arc<[u8]>,
    /// `input` is an item or was transformed: JSON, whatever the event's type was.
    pub is_json_input: bool,
    /// The number after which this run of attempts ends (`HOOKTRAIL_MAX_ATTEMPTS`).
    pub max_attempts: u32,
    /// The idempotency key (`HOOKTRAIL_IDEMPOTENCY_KEY`): the same for every attempt of a job.
    pub key: String,
    /// Put into the environment of what is started (`HOOKTRAIL_RUN_ID`), so that it can be found
    /// again and ended: the trail's own id, the job and the attempt.
    pub run_id: String,
}

/// How long a job waits that could not be started because the system lacked something.
const NOT_NOW_WAIT: Duration = Duration::from_secs(10);

/// The end of an attempt that did not begin because the server itself lacks something: file descriptors,
/// processes, memory, a place in one of its own queues. It counts for nobody.
pub fn not_now(reason: &str) -> AttemptResult {
    let detail = detail_text::join(&["not started", reason]);
    AttemptResult {
        retry_after: Some(NOT_NOW_WAIT),
        ..AttemptResult::new(Outcome::Interrupted, detail)
    }
}

/// A kind of handler.
pub trait HandlerRunner: Send + Sync {
    /// Runs one attempt to its end. Never panics, never outlives its `timeout` by more than the
    /// time it takes to end what it started, and leaves no process behind but those it keeps warm.
    fn run(&self, task: &Task, stop: &CancelToken) -> AttemptResult;

    /// At a reload it is made anew although its settings are the same: it read what is not in them.
    fn needs_rebuild_on_reload(&self) -> bool {
        false
    }

    /// Runs attempts that were claimed together; `over` hears of each, by its place, exactly once.
    /// More than one comes only where `mode = "batch"`.
    fn run_all(
        &self,
        tasks: &[Task],
        stop: &CancelToken,
        over: &mut dyn FnMut(usize, AttemptResult),
    ) {
        for (at, task) in tasks.iter().enumerate() {
            over(at, self.run(task, stop));
        }
    }

    /// Lets go of what it keeps warm, without waiting for it (`process::wait_for_retired` does):
    /// other settings have taken its place, or the server stops. What still runs runs on.
    fn close(&self) {}
}

/// A row of the table: whether it is these settings' kind, and what makes it.
type RunnerEntry = (fn(&config::Handler) -> bool, fn(&config::Handler) -> Box<dyn HandlerRunner>);

/// One process a job: what a command is run by where its mode says nothing else.
const PER_JOB: RunnerEntry =
    (|it| it.mode == Mode::Each, |_| Box::new(command::Command::default()));

/// The table of kinds; the first that takes the settings is theirs.
const RUNNERS: &[RunnerEntry] = &[
    (|it| it.target.is_some(), |it| Box::new(url::Url::new(it))),
    PER_JOB,
    (|it| it.mode == Mode::Cgi, |_| Box::new(cgi::Cgi::default())),
    (|it| it.mode == Mode::Stream, |it| Box::new(stream::Stream::new(it))),
    (|it| it.mode == Mode::Batch, |_| Box::new(batch::Batch::default())),
];

/// The kind that a handler's settings name.
pub fn kind(settings: &config::Handler) -> Box<dyn HandlerRunner> {
    let (_, make) = RUNNERS.iter().find(|(takes, _)| takes(settings)).unwrap_or(&PER_JOB);
    make(settings)
}
