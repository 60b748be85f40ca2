//! What is asked of one event at intake, all at once, and what comes back.

use super::{Expression, Items, Scene};
use crate::domain::stamp::Stamp;

/// What one handler asks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Taker {
    pub when: Option<Expression>,
    pub split: Option<Expression>,
    pub order_by: Option<Expression>,
    pub newest_by: Option<Expression>,
    pub once_by: Option<Expression>,
    pub collapse_by: Option<Expression>,
}

/// What is asked of an event: made once for each source.
#[derive(Clone, Debug, Default)]
pub struct Questions {
    dedupe: Option<Expression>,
    takers: Vec<Taker>,
}

impl Questions {
    /// `takers`: the source's handlers, in the order in which answers are wanted.
    pub fn new(dedupe: Option<Expression>, takers: Vec<Taker>) -> Self {
        Self { dedupe, takers }
    }

    /// Whether there is nothing to be asked.
    pub fn is_empty(&self) -> bool {
        self.dedupe.is_none() && self.takers.iter().all(|taker| *taker == Taker::default())
    }

    pub fn dedupe(&self) -> Option<&Expression> {
        self.dedupe.as_ref()
    }

    pub fn takers(&self) -> &[Taker] {
        &self.takers
    }

    /// Answers in place, where everything that matters is simple and the body plain JSON, with the
    /// result that the pool would give; `None`: ask the pool.
    pub fn at_once(&self, _scene: &Scene<'_>) -> Option<Answers> {
        self.is_empty().then(|| Answers {
            dedupe: Ok(None),
            takers: self.takers.iter().map(|_| Taken::Yes(Wanted::default())).collect(),
        })
    }
}

/// What the questions came to.
#[derive(Debug)]
pub struct Answers {
    /// The key, if any; else the reason why it could not be had.
    pub dedupe: Result<Option<String>, String>,
    /// In the order of the questions' takers.
    pub takers: Vec<Taken>,
}

/// What a handler makes of an event.
#[derive(Debug)]
pub enum Taken {
    No,
    /// The expression `which` (`when` or `split`) failed.
    Failed {
        which: &'static str,
        reason: String,
    },
    Yes(Wanted),
}

/// An event that a handler takes.
#[derive(Debug, Default)]
pub struct Wanted {
    /// With `split`: its outputs, each a job.
    pub items: Option<Items>,
    /// One for each item, without `split` one; empty where the handler has no `…_by` at all.
    pub keys: Vec<Keys>,
    /// `order_by: reason`: a `…_by` that failed is no key. At most so many are kept.
    pub faults: Vec<String>,
}

/// The keys of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    pub order: Option<String>,
    pub newest: Option<Stamp>,
    pub once: Option<String>,
    pub collapse: Option<String>,
}
