//! What an event owes to its handlers: decided at intake, written with the event in one transaction.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::HandlerId;
use super::version_value::VersionValue;

/// A key of `dedupe`, or of one of the `…_by`: SHA-256, cut.
pub type KeyHash = [u8; 16];

/// What `split` gave: items in their order, wherever their bytes are kept meanwhile.
pub trait ItemSource: fmt::Debug + Send + Sync {
    fn count(&self) -> usize;

    /// The size of all items together.
    fn bytes(&self) -> u64;

    /// Puts the bytes of the item at this place, from 0, into `into`, instead of what is there.
    ///
    /// # Errors
    /// They are in a file, which can't be read.
    fn read(&self, at: usize, into: &mut Vec<u8>) -> io::Result<()>;

    /// The keys of its job.
    ///
    /// # Errors
    /// Likewise.
    fn keys(&self, at: usize) -> io::Result<JobKeys>;
}

/// Items in memory, with keys for as many of them as there are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VecItems(pub Vec<Vec<u8>>, pub Vec<JobKeys>);

impl ItemSource for VecItems {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn bytes(&self) -> u64 {
        self.0.iter().map(|item| item.len() as u64).sum()
    }

    fn read(&self, at: usize, into: &mut Vec<u8>) -> io::Result<()> {
        into.clear();
        into.extend_from_slice(self.0.get(at).map_or(&[], Vec::as_slice));
        Ok(())
    }

    fn keys(&self, at: usize) -> io::Result<JobKeys> {
        Ok(self.1.get(at).cloned().unwrap_or_default())
    }
}

/// By what a job is ordered, recognised and collapsed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobKeys {
    pub order: Option<KeyHash>,
    /// With `order`.
    pub newest: Option<VersionValue>,
    pub once: Option<UniqueKey>,
    pub collapse: Option<DebounceKey>,
}

/// `unique_by`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UniqueKey {
    pub key: KeyHash,
    pub window_ms: i64,
}

/// `debounce_by` and `settle`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebounceKey {
    pub key: KeyHash,
    /// 0: it starts at once.
    pub settle_ms: i64,
}

/// What one handler is owed.
#[derive(Clone, Debug)]
pub enum JobSpec {
    /// A job for the event itself.
    Event(JobKeys),
    /// A job an item.
    Items(Arc<dyn ItemSource>),
    /// An expression failed: a job that is dead, and why.
    Dead(String),
}

impl JobSpec {
    /// How many jobs that is.
    pub fn job_count(&self) -> usize {
        match self {
            Self::Event(_) | Self::Dead(_) => 1,
            Self::Items(items) => items.count(),
        }
    }

    /// The size of its items.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Event(_) | Self::Dead(_) => 0,
            Self::Items(items) => items.bytes(),
        }
    }

    /// Whether its jobs are too many for one transaction that others wait for.
    pub fn is_large(&self) -> bool {
        self.job_count() > LARGE_JOBS || self.bytes() > LARGE_BYTES
    }
}

/// Beyond this number of jobs, or of bytes of items, jobs are inserted in transactions of their own.
const LARGE_JOBS: usize = 256;
const LARGE_BYTES: u64 = 256 << 10;

/// What an event owes to all of them.
#[derive(Clone, Debug)]
pub enum JobPlan {
    /// One job each, without keys.
    Plain(Arc<[HandlerId]>),
    Judged(Vec<(HandlerId, JobSpec)>),
    /// The handlers' expressions are evaluated after the response. Holds the handlers, unless one
    /// of them has a `split`.
    Unevaluated(Arc<[HandlerId]>),
}

impl JobPlan {
    /// Whether no handler takes it.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Plain(handlers) => handlers.is_empty(),
            Self::Judged(all) => all.is_empty(),
            Self::Unevaluated(_) => false,
        }
    }

    /// How many jobs that is; an event that is not evaluated yet counts as one.
    pub fn jobs(&self) -> usize {
        match self {
            Self::Plain(handlers) => handlers.len(),
            Self::Judged(all) => all.iter().map(|(_, owed)| owed.job_count()).sum(),
            Self::Unevaluated(_) => 1,
        }
    }

    /// Handlers that have one job each, for the event itself. None where one of them splits it: how many
    /// jobs there are is then known when all are inserted.
    pub fn handlers_of_event(&self) -> Vec<HandlerId> {
        match self {
            Self::Plain(handlers) | Self::Unevaluated(handlers) => handlers.to_vec(),
            Self::Judged(all) if all.iter().any(|(_, owed)| matches!(owed, JobSpec::Items(_))) => {
                Vec::new()
            }
            Self::Judged(all) => all.iter().map(|(handler, _)| *handler).collect(),
        }
    }

    /// The jobs of each handler; none where the expressions are not evaluated yet.
    pub fn into_specs(self) -> Vec<(HandlerId, JobSpec)> {
        match self {
            Self::Plain(handlers) => {
                let of_event = |handler: &HandlerId| (*handler, JobSpec::Event(JobKeys::default()));
                handlers.iter().map(of_event).collect()
            }
            Self::Judged(all) => all,
            Self::Unevaluated(_) => Vec::new(),
        }
    }

    /// The size of the items of all jobs.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Plain(_) | Self::Unevaluated(_) => 0,
            Self::Judged(all) => all.iter().map(|(_, owed)| owed.bytes()).sum(),
        }
    }

    /// Whether its jobs are too many for one transaction that others wait for.
    pub fn is_large(&self) -> bool {
        self.jobs() > LARGE_JOBS || self.bytes() > LARGE_BYTES
    }
}
