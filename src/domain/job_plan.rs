//! The jobs to create for an event. Intake decides them, and one transaction inserts them with the
//! event.

use std::fmt;
use std::io;
use std::sync::Arc;

use ring::digest::{Context, SHA256};

use super::HandlerId;
use super::version_value::VersionValue;

/// A key of `dedupe`, `ordering_key`, `unique_by` or `debounce_by`: the first 16 bytes of its
/// SHA-256.
pub type KeyHash = [u8; 16];

/// Hashes a key for storage. The first byte keeps keys of different kinds apart.
pub fn hash_key(kind: u8, parts: &[&[u8]]) -> KeyHash {
    let mut digest = Context::new(&SHA256);
    digest.update(&[kind]);
    parts.iter().for_each(|part| digest.update(part));
    let mut hash = [0; 16];
    hash.copy_from_slice(&digest.finish().as_ref()[..16]);
    hash
}

/// Hashes the value of a header as a key.
pub fn header_key(kind: u8, headers: &[(&str, &[u8])], name: &str) -> Option<KeyHash> {
    let (_, value) = headers.iter().find(|(found, _)| *found == name)?;
    let value = value.trim_ascii();
    (!value.is_empty()).then(|| hash_key(kind, &[value]))
}

/// The items that `split` produced, in order. Their bytes are in memory or in a file.
pub trait ItemSource: fmt::Debug + Send + Sync {
    fn count(&self) -> usize;

    /// Returns the total size of all items.
    fn bytes(&self) -> u64;

    /// Reads the item at `index` (from 0) into `buffer` and replaces its content.
    ///
    /// # Errors
    /// The items are in a file and reading it fails.
    fn read(&self, index: usize, buffer: &mut Vec<u8>) -> io::Result<()>;

    /// Returns the keys of the job for the item at `index`.
    ///
    /// # Errors
    /// The items are in a file and reading it fails.
    fn keys(&self, index: usize) -> io::Result<JobKeys>;
}

/// The keys of a job: for its order, its version, its uniqueness and its debounce.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobKeys {
    pub ordering: Option<KeyHash>,
    /// The value of `version_by`. It counts only together with `ordering`.
    pub version: Option<VersionValue>,
    pub unique: Option<UniqueKey>,
    pub debounce: Option<DebounceKey>,
}

impl JobKeys {
    /// Returns true if other jobs do not matter to the job.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The key of `unique_by`, and how long it stays unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UniqueKey {
    pub key: KeyHash,
    pub window_ms: i64,
}

/// The key of `debounce_by`, with `debounce`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebounceKey {
    pub key: KeyHash,
    /// 0: the job starts at once.
    pub debounce_ms: i64,
}

/// The keys of an event whose `dedupe` is evaluated after the response, with the source's settings. The
/// writer decides by them whether the event is a duplicate.
#[derive(Clone, Copy, Debug, Default)]
pub struct LateDedupe {
    pub source_key: Option<KeyHash>,
    /// The key of the signed bytes. It is saved only beside a `source_key`.
    pub body_key: Option<KeyHash>,
    pub window_ms: i64,
    /// A duplicate retries the dead jobs of the first event.
    pub retry_dead: bool,
}

/// The jobs to create for one handler.
#[derive(Clone, Debug)]
pub enum JobSpec {
    /// One job for the event itself.
    Event(JobKeys),
    /// One job for each item.
    Items(Arc<dyn ItemSource>),
    /// An expression failed: one dead job with this reason.
    Dead(String),
}

impl JobSpec {
    /// Returns the number of jobs.
    pub fn job_count(&self) -> usize {
        match self {
            Self::Event(_) | Self::Dead(_) => 1,
            Self::Items(items) => items.count(),
        }
    }

    /// Returns the total size of the items.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Event(_) | Self::Dead(_) => 0,
            Self::Items(items) => items.bytes(),
        }
    }

    /// Returns true if the jobs need several transactions, so that other writers do not have to
    /// wait.
    pub fn is_large(&self) -> bool {
        self.job_count() > LARGE_JOBS || self.bytes() > LARGE_BYTES
    }
}

/// Limits for the jobs of one transaction. Above them, the jobs are inserted by later
/// transactions.
const LARGE_JOBS: usize = 256;
const LARGE_BYTES: u64 = 256 << 10;

/// The jobs to create for an event.
#[derive(Clone, Debug)]
pub enum JobPlan {
    /// One job for each handler, without keys.
    Plain(Arc<[HandlerId]>),
    Evaluated(Vec<(HandlerId, JobSpec)>),
    /// The handlers' expressions will be evaluated after the response. Lists the handlers, unless
    /// one of them has a `split`.
    Unevaluated(Arc<[HandlerId]>),
}

impl Default for JobPlan {
    fn default() -> Self {
        Self::Evaluated(Vec::new())
    }
}

impl JobPlan {
    /// Returns true if no handler takes the event.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Plain(handlers) => handlers.is_empty(),
            Self::Evaluated(specs) => specs.is_empty(),
            Self::Unevaluated(_) => false,
        }
    }

    /// Returns the number of jobs. An event that is not evaluated yet counts as one job.
    pub fn job_count(&self) -> usize {
        match self {
            Self::Plain(handlers) => handlers.len(),
            Self::Evaluated(specs) => specs.iter().map(|(_, spec)| spec.job_count()).sum(),
            Self::Unevaluated(_) => 1,
        }
    }

    /// Returns the handlers that get one job each for the event itself. The list is empty if one of
    /// the handlers has a `split`, because the number of jobs is known only after the last insert.
    pub fn event_handlers(&self) -> Vec<HandlerId> {
        match self {
            Self::Plain(handlers) | Self::Unevaluated(handlers) => handlers.to_vec(),
            Self::Evaluated(specs)
                if specs.iter().any(|(_, spec)| matches!(spec, JobSpec::Items(_))) =>
            {
                Vec::new()
            }
            Self::Evaluated(specs) => specs.iter().map(|(handler, _)| *handler).collect(),
        }
    }

    /// Returns the jobs of each handler. The list is empty if the expressions are not evaluated
    /// yet.
    pub fn into_specs(self) -> Vec<(HandlerId, JobSpec)> {
        match self {
            Self::Plain(handlers) => {
                let event_job =
                    |handler: &HandlerId| (*handler, JobSpec::Event(JobKeys::default()));
                handlers.iter().map(event_job).collect()
            }
            Self::Evaluated(specs) => specs,
            Self::Unevaluated(_) => Vec::new(),
        }
    }

    /// Returns the total size of the items of all jobs.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Plain(_) | Self::Unevaluated(_) => 0,
            Self::Evaluated(specs) => specs.iter().map(|(_, spec)| spec.bytes()).sum(),
        }
    }

    /// Returns true if the jobs need several transactions, so that other writers do not have to
    /// wait.
    pub fn is_large(&self) -> bool {
        self.job_count() > LARGE_JOBS || self.bytes() > LARGE_BYTES
    }
}
