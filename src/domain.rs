//! The terms of the project as types: read this first.
//!
//! A webhook becomes an [`Event`]; each handler that wants it is owed jobs (`owed`); each run of one is
//! an attempt, proven by a [`Claim`] and closed by an [`Ended`]. Knows no other room, does no I/O, and
//! none of its types is serialised: how things look outside is decided where they leave.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

pub mod claim_request;
pub mod job_plan;
pub mod reservation;
pub mod version_value;

/// Number of an event: only grows, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EventId(pub i64);
/// Number of a job: only grows, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct JobId(pub i64);
/// Row of a source in the trail; its name is what people see.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SourceId(pub i64);
/// Row of a handler in the trail; its name is what people see.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HandlerId(pub i64);
impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One accepted webhook, byte for byte as it came but for what its source read as its secret.
#[derive(Clone, Debug)]
pub struct Event {
    pub id: EventId,
    /// Sixteen random bytes given when it was accepted: what `HOOKTRAIL_IDEMPOTENCY_KEY` is made of.
    pub uid: [u8; 16],
    pub source: String,
    /// Wall clock, milliseconds since 1970 in UTC.
    pub received_at_ms: i64,
    pub method: String,
    /// The path as sent, without the query.
    pub path: String,
    /// What stood after `?`, as sent; `None` where there was no `?`.
    pub query: Option<String>,
    /// The client's address; empty where it is unknown.
    pub ip: String,
    pub headers: Headers,
    pub body: Arc<[u8]>,
    /// What could not be evaluated at intake and cost no job.
    pub note: Option<String>,
}

/// The network of one subscriber, which an address stands for where addresses are counted: an IPv6
/// subscriber has a /64 at least (RFC 6177), and so any number of addresses.
pub fn network_of(ip: &str) -> Cow<'_, str> {
    match ip.parse::<Ipv6Addr>() {
        Ok(six) => {
            let prefix = Ipv6Addr::from_bits(six.to_bits() & (u128::MAX << 64));
            Cow::Owned(format!("{prefix}/64"))
        }
        Err(_) => Cow::Borrowed(ip),
    }
}

/// Header lines in the order they are kept: lower-case name, value as its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, Vec<u8>)>);

impl Headers {
    /// The first value of `name` (lower case).
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_slice())
    }
}

/// The state of a job.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum JobState {
    Queued,
    Running,
    Succeeded,
    Dead,
    Cancelled,
}

impl JobState {
    pub const ALL: [JobState; 5] =
        [Self::Queued, Self::Running, Self::Succeeded, Self::Dead, Self::Cancelled];

    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How one attempt ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    Succeeded,
    Failed,
    TimedOut,
    Interrupted,
    Deferred,
}

impl Outcome {
    pub const ALL: [Outcome; 5] =
        [Self::Succeeded, Self::Failed, Self::TimedOut, Self::Interrupted, Self::Deferred];

    pub fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Interrupted => "interrupted",
            Self::Deferred => "deferred",
        }
    }
}

/// The right to run one attempt: given by the store when it claims a job, taken back with its
/// outcome. A finish whose claim is no longer current changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Claim {
    pub job: JobId,
    pub attempt: u32,
}

/// What a run of an attempt came to: data, whatever went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptResult {
    pub outcome: Outcome,
    /// The handler said that trying again is useless (with `Outcome::Failed`).
    pub is_permanent: bool,
    /// Begins with `exit 7`, `signal 11`, `timeout 30s`, `not started`; then the last line of stderr.
    pub detail: String,
    /// The wait that the handler asked for, or that a start waits which the system lacks something for.
    pub retry_after: Option<Duration>,
    /// The last bytes of each stream, at most `max_output_size`.
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl AttemptResult {
    /// An end without output.
    pub fn new(outcome: Outcome, detail: impl Into<String>) -> Self {
        let (stdout, stderr) = (Vec::new(), Vec::new());
        Self {
            outcome,
            is_permanent: false,
            detail: detail.into(),
            retry_after: None,
            stdout,
            stderr,
        }
    }
}
