//! What an event owes to its handlers: decided at intake, written with the event in one transaction.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::HandlerId;
use super::stamp::Stamp;

/// A key of `dedupe`, or of one of the `…_by`: SHA-256, cut.
pub type Key = [u8; 16];

/// What `split` gave: items in their order, wherever their bytes are kept meanwhile.
pub trait Items: fmt::Debug + Send + Sync {
    fn count(&self) -> usize;

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
pub struct InMemory(pub Vec<Vec<u8>>, pub Vec<JobKeys>);

impl Items for InMemory {
    fn count(&self) -> usize {
        self.0.len()
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
    pub order: Option<Key>,
    /// With `order`.
    pub newest: Option<Stamp>,
    pub once: Option<Once>,
    pub collapse: Option<Collapse>,
}

/// `once_by`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Once {
    pub key: Key,
    pub window_ms: i64,
}

/// `collapse_by` and `settle`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collapse {
    pub key: Key,
    /// 0: it starts at once.
    pub settle_ms: i64,
}

/// What one handler is owed.
#[derive(Clone, Debug)]
pub enum Owed {
    /// A job for the event itself.
    Event(JobKeys),
    /// A job an item.
    Items(Arc<dyn Items>),
    /// An expression failed: a job that is dead, and why.
    Dead(String),
}

impl Owed {
    /// How many jobs that is.
    pub fn jobs(&self) -> usize {
        match self {
            Self::Event(_) | Self::Dead(_) => 1,
            Self::Items(items) => items.count(),
        }
    }
}

/// What an event owes to all of them.
#[derive(Clone, Debug)]
pub enum Plan {
    /// One job each, without keys.
    Plain(Arc<[HandlerId]>),
    Judged(Vec<(HandlerId, Owed)>),
}

impl Plan {
    /// Whether no handler takes it.
    pub fn is_nobodys(&self) -> bool {
        match self {
            Self::Plain(handlers) => handlers.is_empty(),
            Self::Judged(all) => all.is_empty(),
        }
    }

    /// How many jobs that is.
    pub fn jobs(&self) -> usize {
        match self {
            Self::Plain(handlers) => handlers.len(),
            Self::Judged(all) => all.iter().map(|(_, owed)| owed.jobs()).sum(),
        }
    }
}
