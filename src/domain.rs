//! The domain types. Read this module first.
//!
//! A webhook becomes an [`Event`]. Each handler that takes the event gets jobs ([`job_plan`]). [`job`] has
//! their states and all changes between them. Each run of a job is an attempt: the store hands out a
//! [`Claim`] for it, and an [`AttemptResult`] ends it.
//!
//! This module imports no other module and does no I/O. None of its types implements serde: the
//! modules at the boundary decide how a value looks outside.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

pub mod breaker;
pub mod claim_request;
pub mod failure_reason;
pub mod id_set;
pub mod idempotency_key;
pub mod job;
pub mod job_plan;
pub mod quote;
pub mod reservation;
pub mod retention;
pub mod version_value;

/// The id of an event. Ids increase and are never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EventId(pub i64);
/// The id of a job. Ids increase and are never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct JobId(pub i64);
/// The id of a source in the database. People see its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SourceId(pub i64);
/// The id of a handler in the database. People see its name.
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

/// An accepted webhook, byte for byte as received, except that secrets which its source reads are
/// redacted.
#[derive(Clone, Debug)]
pub struct Event {
    pub id: EventId,
    /// The time at which the event is accepted and random bytes (UUIDv7, RFC 9562). `HOOKTRAIL_IDEMPOTENCY_KEY` is
    /// derived from them.
    pub uid: [u8; 16],
    pub source: String,
    /// Wall clock, milliseconds since 1970 in UTC.
    pub received_at_ms: i64,
    pub method: String,
    /// The path as sent, without the query.
    pub path: String,
    /// The raw query after `?`; `None` if the URL has no `?`.
    pub query: Option<String>,
    /// The client's IP address; empty if it is unknown.
    pub ip: String,
    /// The subject of the client certificate; `None` if the client showed none.
    pub client: Option<String>,
    /// The key under which the machine that sent the event knows it; `None` if the event arrived by HTTP.
    pub origin_key: Option<String>,
    pub headers: Headers,
    pub body: Arc<[u8]>,
    /// The size of the body before it was removed. `body` is empty then.
    pub removed_bytes: Option<usize>,
    /// Errors of optional expressions, recorded on the event.
    pub expression_errors: Option<String>,
}

impl Event {
    /// Returns the size of the body as it arrived.
    pub fn body_bytes(&self) -> usize {
        self.removed_bytes.unwrap_or(self.body.len())
    }

    /// Returns why nothing can run for the event: its body was removed.
    pub fn obstacle(&self) -> Option<String> {
        self.removed_bytes.map(|_| missing_body(self.id.0))
    }
}

/// The message about an event without a body.
pub fn missing_body(event: i64) -> String {
    format!("event {event}: it has no body any more")
}

/// Returns the network that stands for an address wherever addresses are counted. For IPv6 this is
/// the /64, because one subscriber has at least a /64 (RFC 6177) and can use any address in it.
pub fn client_network(ip: &str) -> Cow<'_, str> {
    match ip.parse::<Ipv6Addr>() {
        Ok(six) => {
            let prefix = Ipv6Addr::from_bits(six.to_bits() & (u128::MAX << 64));
            Cow::Owned(format!("{prefix}/64"))
        }
        Err(_) => Cow::Borrowed(ip),
    }
}

/// Returns the letters by which reasons of one kind are recognised. A reason may contain the sender's own text
/// or a time: digits and everything after the first letters are left out.
pub fn reason_kind(reason: &str) -> impl Iterator<Item = char> {
    reason.chars().filter(|c| !c.is_ascii_digit()).take(60)
}

/// The name of the built-in source, whose events are alerts.
pub const INTERNAL_SOURCE: &str = "hooktrail";

/// The type of an event of the built-in source that reports how a job ended.
pub const JOB_SETTLED: &str = "job.settled";

/// Header lines in stored order: the lower-case name and the bytes of the value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, Vec<u8>)>);

impl Headers {
    /// Returns the first value of `name`, which must be lower-case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_slice())
    }
}

/// The outcome of one attempt.
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

    /// Returns true if the handler failed or took too long.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::TimedOut)
    }
}

/// The right to run one attempt of a job. The store creates it when it claims the job, and the
/// attempt's outcome returns it. An outcome whose claim is no longer current changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Claim {
    pub job: JobId,
    pub attempt: u32,
}

/// The next step of a job after an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextStep {
    Succeeded,
    /// The job is dead, for this reason.
    Dead(String),
    /// Another attempt follows after `delay`. `failures` includes this attempt if it counts.
    Retry {
        delay: Duration,
        failures: u32,
    },
}

/// The result of one attempt. Every failure becomes a value of this type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptResult {
    pub outcome: Outcome,
    /// The handler reported that a retry is useless. Only with `Outcome::Failed`.
    pub is_permanent: bool,
    /// Begins with `exit 7`, `signal 11`, `timeout 30s` or `not started`, followed by the last line
    /// of stderr.
    pub detail: String,
    /// The delay before the retry: requested by the handler, or set because the system lacked a
    /// resource to start it.
    pub retry_after: Option<Duration>,
    /// The last bytes of each stream, at most `max_output_size`.
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl AttemptResult {
    /// Creates a result without output.
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
