//! Where the dispatcher is told things: by the writer (`Ear`), by workers, by whoever configures and
//! stops it. A set, bounded by the number of handlers and threads.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Handlers;
use crate::config::Mode;
use crate::domain::HandlerId;
use crate::domain::ask::Ask;
use crate::handler::Ready;
use crate::store::jobs::{Claimed, Finished};
use crate::store::op::Hear;

/// What the dispatcher was told since it last looked; bounded by the number of handlers and threads.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub claimed: Vec<(Ask, Vec<Claimed>)>,
    pub failed: Vec<Ask>,
    pub rests: Vec<(HandlerId, Option<i64>)>,
    pub freed: Vec<HandlerId>,
    pub woken: HashMap<HandlerId, usize>,
    pub due_ms: Option<i64>,
    pub promoted: Option<Option<i64>>,
    pub foreign: bool,
    pub writable: bool,
    pub handlers: Option<Handlers>,
    pub stopping: bool,
    pub leaving: bool,
    /// Known to have jobs ready: waking the dispatcher for these again would tell it nothing. Stays
    /// over its looks; ends where a claim gets fewer than it asked for.
    ready: HashSet<HandlerId>,
    /// Those that gather batches, and so have to know how many jobs are ready. Stays too.
    pub gathering: HashSet<HandlerId>,
}

impl Told {
    fn is_nothing(&self) -> bool {
        self.claimed.is_empty()
            && self.failed.is_empty()
            && self.rests.is_empty()
            && self.freed.is_empty()
            && self.woken.is_empty()
            && self.due_ms.is_none()
            && self.promoted.is_none()
            && !self.foreign
            && !self.writable
            && self.handlers.is_none()
            && !self.stopping
            && !self.leaving
    }
}

/// Where the dispatcher is told things.
#[derive(Debug, Default)]
pub struct Hub {
    told: Mutex<Told>,
    wake: Condvar,
    /// Jobs that run, or were asked for, as of the last look.
    pub(super) busy: AtomicUsize,
}

impl Hub {
    pub(super) fn tell(&self, change: impl FnOnce(&mut Told)) {
        change(&mut self.lock());
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker has sent its outcome to the writer and is free. A claim that is asked for from here
    /// on stands behind that outcome in the writer's channel, and commits with it or after it.
    pub fn freed(&self, handler: HandlerId) {
        self.tell(|told| told.freed.push(handler));
    }

    /// Takes over a configuration.
    pub fn configure(&self, handlers: Handlers) {
        self.tell(|told| {
            told.gathering = gathering(&handlers);
            told.handlers = Some(handlers);
        });
    }

    /// Starts no more jobs.
    pub fn stop(&self) {
        self.tell(|told| told.stopping = true);
    }

    /// Ends the dispatcher, and with it the workers.
    pub fn leave(&self) {
        self.tell(|told| told.leaving = true);
    }

    /// Jobs that run, or were asked for.
    pub fn busy(&self) -> usize {
        self.busy.load(Ordering::SeqCst)
    }

    pub(super) fn wait(&self, timeout: Duration) -> Told {
        let told = self.lock();
        let waited = self.wake.wait_timeout_while(told, timeout, |told| told.is_nothing());
        let (mut told, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let (ready, gathering) =
            (std::mem::take(&mut told.ready), std::mem::take(&mut told.gathering));
        let taken = std::mem::take(&mut *told);
        (told.ready, told.gathering) = (ready, gathering);
        taken
    }
}

pub(super) fn gathering(handlers: &Handlers) -> HashSet<HandlerId> {
    let gathers = |(&id, ready): (&HandlerId, &Arc<Ready>)| {
        (ready.settings.mode == Mode::Batch).then_some(id)
    };
    handlers.iter().filter_map(gathers).collect()
}

/// The writer's way to the dispatcher.
pub struct Ear {
    pub hub: Arc<Hub>,
    /// Called when the process must end.
    pub broken: Box<dyn Fn(&str) + Send>,
}

impl Hear for Ear {
    fn claimed(&self, ask: Ask, jobs: Vec<Claimed>) {
        self.hub.tell(|told| {
            if jobs.len() < ask.jobs {
                told.ready.remove(&ask.handler);
            }
            told.claimed.push((ask, jobs));
        });
    }

    fn claim_failed(&self, ask: Ask) {
        self.hub.tell(|told| told.failed.push(ask));
    }

    fn rests(&self, handler: HandlerId, until_ms: Option<i64>) {
        self.hub.tell(|told| told.rests.push((handler, until_ms)));
    }

    fn finished(&self, handler: HandlerId, how: Finished) {
        match how {
            Finished::Ready => self.hub.tell(|told| {
                told.ready.insert(handler);
                *told.woken.entry(handler).or_default() += 1;
            }),
            Finished::Waiting(at) => self.waits(at),
            Finished::Settled | Finished::Stale => {}
        }
    }

    fn woken(&self, handlers: &HashMap<HandlerId, usize>) {
        let mut told = self.hub.lock();
        let mut is_news = false;
        for (&handler, &jobs) in handlers {
            if told.ready.insert(handler) || told.gathering.contains(&handler) {
                *told.woken.entry(handler).or_default() += jobs;
                is_news = true;
            }
        }
        drop(told);
        if is_news {
            self.hub.wake.notify_one();
        }
    }

    fn waits(&self, until_ms: i64) {
        self.hub.tell(|told| told.due_ms = told.due_ms.into_iter().chain([until_ms]).min());
    }

    fn next_due(&self, at_ms: Option<i64>) {
        self.hub.tell(|told| told.promoted = Some(at_ms));
    }

    fn foreign(&self) {
        self.hub.tell(|told| told.foreign = true);
    }

    fn writable(&self) {
        self.hub.tell(|told| told.writable = true);
    }

    fn broken(&self, why: &str) {
        (self.broken)(why);
    }
}
