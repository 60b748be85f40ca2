//! What is known in memory of events whose jobs come later: how many of each source, and what their
//! expressions gave where that is known. The writer changes it after each commit, intake asks it, and
//! the expander waits for it to change.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::domain::job_plan::JobPlan;
use crate::domain::{EventId, SourceId};

/// At most this number of plans is kept for each source; expressions of other events are evaluated
/// again.
const PLANS_MAX: usize = 256;

/// At most this number of large plans is kept for each source.
const LARGE_PLANS_MAX: usize = 4;

/// The deferred events of a source.
#[derive(Debug, Default)]
struct Source {
    /// Events whose jobs are not all released.
    events: usize,
    /// Those of them whose jobs the writer is asked to insert.
    sent: usize,
    /// Grows when the writer gives those back.
    resets: u64,
    /// What events owe, as it was evaluated before they were stored.
    plans: BTreeMap<EventId, JobPlan>,
    large_plans: usize,
}

/// A source that has deferred events.
#[derive(Clone, Copy, Debug)]
pub struct Deferred {
    pub source: SourceId,
    pub events: usize,
    pub sent: usize,
    pub resets: u64,
}

#[derive(Debug, Default)]
struct Inner {
    sources: HashMap<SourceId, Source>,
    has_changed: bool,
    is_closed: bool,
}

/// Deferred events of all sources.
#[derive(Debug, Default)]
pub struct Deferrals {
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Whether any source has such events: what a request asks first.
    has_any: AtomicBool,
}

impl Deferrals {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.lock();
        change(&mut inner);
        inner.has_changed = true;
        drop(inner);
        self.changed.notify_one();
    }

    /// Whether jobs of earlier events of this source are still to come.
    pub fn is_deferring(&self, source: SourceId) -> bool {
        self.has_any.load(Ordering::Relaxed) && self.lock().sources.contains_key(&source)
    }

    /// Waits until something has changed, or until then; `false` when no more is to be done.
    pub fn wait(&self, until: Option<Instant>) -> bool {
        let mut inner = self.lock();
        while !inner.has_changed && !inner.is_closed {
            inner = match until.map(|at| at.saturating_duration_since(Instant::now())) {
                None => self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => break,
                Some(left) => {
                    self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        inner.has_changed = false;
        !inner.is_closed
    }

    /// Lets `wait` return.
    pub fn wake(&self) {
        self.change(|_| ());
    }

    /// Lets `wait` return for the last time.
    pub fn close(&self) {
        self.change(|inner| inner.is_closed = true);
    }

    /// The sources that have deferred events.
    pub fn list(&self) -> Vec<Deferred> {
        let inner = self.lock();
        let of = |(&source, it): (&SourceId, &Source)| Deferred {
            source,
            events: it.events,
            sent: it.sent,
            resets: it.resets,
        };
        inner.sources.iter().map(of).collect()
    }

    /// Takes what the event owes, if that is known.
    pub fn take_plan(&self, source: SourceId, event: EventId) -> Option<JobPlan> {
        let mut inner = self.lock();
        let source = inner.sources.get_mut(&source)?;
        let plan = source.plans.remove(&event)?;
        source.large_plans -= usize::from(plan.is_large());
        Some(plan)
    }

    /// The writer is asked to insert the jobs of that many events.
    pub fn send(&self, source: SourceId, events: usize) {
        if let Some(source) = self.lock().sources.get_mut(&source) {
            source.sent += events;
        }
    }

    /// How many events are deferred now.
    pub(super) fn count(&self, counts: &HashMap<SourceId, usize>) {
        self.change(|inner| {
            inner.sources.retain(|source, _| counts.contains_key(source));
            for (&source, &events) in counts {
                inner.sources.entry(source).or_default().events = events;
            }
            self.has_any.store(!counts.is_empty(), Ordering::Relaxed);
        });
    }

    /// Keeps what an event owes that was just stored.
    pub(super) fn keep_plan(&self, source: SourceId, event: EventId, plan: &JobPlan) {
        if matches!(plan, JobPlan::Unevaluated(_)) {
            return;
        }
        let mut inner = self.lock();
        let source = inner.sources.entry(source).or_default();
        let is_large = plan.is_large();
        let fits =
            source.plans.len() < PLANS_MAX && (!is_large || source.large_plans < LARGE_PLANS_MAX);
        if fits && source.plans.insert(event, plan.clone()).is_none() {
            source.large_plans += usize::from(is_large);
        }
    }

    /// The jobs of so many events are there.
    pub(super) fn settle(&self, source: SourceId, events: usize) {
        if let Some(source) = self.lock().sources.get_mut(&source) {
            source.sent = source.sent.saturating_sub(events);
        }
    }

    /// The writer gives events back, but for that many: they are evaluated again.
    pub(super) fn reset(&self, source: SourceId, sent: usize) {
        self.change(|inner| {
            if let Some(source) = inner.sources.get_mut(&source) {
                source.sent = sent;
                source.resets += 1;
                source.plans.clear();
                source.large_plans = 0;
            }
        });
    }
}
