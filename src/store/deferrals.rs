//! Deferred events in memory: how many each source has, and the plans of some of them. The writer
//! updates this state after each commit, intake reads it, and the expander waits for it to change.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::domain::job_plan::JobPlan;
use crate::domain::{EventId, SourceId};

/// Maximum number of plans for each source. The expressions of other events are evaluated again.
const MAX_PLANS: usize = 256;

/// Maximum number of large plans for each source.
const MAX_LARGE_PLANS: usize = 4;

/// The deferred events of one source.
#[derive(Debug, Default)]
struct SourceDeferrals {
    /// Events whose jobs are not all released.
    events: usize,
    /// Those of them that the expander has sent to the writer.
    sent: usize,
    /// Increases when the writer returns events to the expander.
    resets: u64,
    /// The plans of events that were evaluated before they were stored.
    plans: BTreeMap<EventId, JobPlan>,
    large_plans: usize,
}

/// A snapshot of a source with deferred events.
#[derive(Clone, Copy, Debug)]
pub struct DeferralCounts {
    pub source: SourceId,
    pub events: usize,
    pub sent: usize,
    pub resets: u64,
}

#[derive(Debug, Default)]
struct DeferralsState {
    sources: HashMap<SourceId, SourceDeferrals>,
    has_changed: bool,
    is_closed: bool,
}

/// The deferred events of all sources.
#[derive(Debug, Default)]
pub struct Deferrals {
    inner: Mutex<DeferralsState>,
    changed: Condvar,
    /// Whether any source has deferred events. Intake reads this first, without the lock.
    has_any: AtomicBool,
}

impl Deferrals {
    fn change(&self, change: impl FnOnce(&mut DeferralsState)) {
        let mut inner = self.inner.lock();
        change(&mut inner);
        inner.has_changed = true;
        drop(inner);
        self.changed.notify_one();
    }

    /// Returns true if jobs of earlier events of this source are not inserted yet.
    pub fn is_deferring(&self, source: SourceId) -> bool {
        self.has_any.load(Ordering::Relaxed) && self.inner.lock().sources.contains_key(&source)
    }

    /// Waits until the state changes, or until the deadline. Returns false after `close`.
    pub fn wait(&self, until: Option<Instant>) -> bool {
        let mut inner = self.inner.lock();
        while !inner.has_changed && !inner.is_closed {
            match until {
                None => self.changed.wait(&mut inner),
                Some(at) if self.changed.wait_until(&mut inner, at).timed_out() => break,
                Some(_) => {}
            }
        }
        inner.has_changed = false;
        !inner.is_closed
    }

    /// Makes `wait` return.
    pub fn wake(&self) {
        self.change(|_| ());
    }

    /// Makes `wait` return false from now on.
    pub fn close(&self) {
        self.change(|inner| inner.is_closed = true);
    }

    /// Returns the sources that have deferred events.
    pub fn list(&self) -> Vec<DeferralCounts> {
        let inner = self.inner.lock();
        let snapshot = |(&source, deferrals): (&SourceId, &SourceDeferrals)| DeferralCounts {
            source,
            events: deferrals.events,
            sent: deferrals.sent,
            resets: deferrals.resets,
        };
        inner.sources.iter().map(snapshot).collect()
    }

    /// Removes and returns the plan of an event, if it is known.
    pub fn take_plan(&self, source: SourceId, event: EventId) -> Option<JobPlan> {
        let mut inner = self.inner.lock();
        let source = inner.sources.get_mut(&source)?;
        let plan = source.plans.remove(&event)?;
        source.large_plans -= usize::from(plan.is_large());
        Some(plan)
    }

    /// Records that this many more events were sent to the writer.
    pub fn mark_sent(&self, source: SourceId, events: usize) {
        if let Some(source) = self.inner.lock().sources.get_mut(&source) {
            source.sent += events;
        }
    }

    /// Updates the number of deferred events of each source.
    pub(super) fn set_counts(&self, counts: &HashMap<SourceId, usize>) {
        self.change(|inner| {
            inner.sources.retain(|source, _| counts.contains_key(source));
            for (&source, &events) in counts {
                inner.sources.entry(source).or_default().events = events;
            }
            self.has_any.store(!counts.is_empty(), Ordering::Relaxed);
        });
    }

    /// Keeps the plan of an event that was just stored.
    pub(super) fn keep_plan(&self, source: SourceId, event: EventId, plan: &JobPlan) {
        if matches!(plan, JobPlan::Unevaluated(_)) {
            return;
        }
        let mut inner = self.inner.lock();
        let source = inner.sources.entry(source).or_default();
        let is_large = plan.is_large();
        let fits =
            source.plans.len() < MAX_PLANS && (!is_large || source.large_plans < MAX_LARGE_PLANS);
        if fits && source.plans.insert(event, plan.clone()).is_none() {
            source.large_plans += usize::from(is_large);
        }
    }

    /// Records that this many events have their jobs.
    pub(super) fn mark_settled(&self, source: SourceId, events: usize) {
        if let Some(source) = self.inner.lock().sources.get_mut(&source) {
            source.sent = source.sent.saturating_sub(events);
        }
    }

    /// Records that the writer returned all events but `sent`. They are evaluated again.
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
