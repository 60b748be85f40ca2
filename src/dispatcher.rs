//! The thread between the writer and the workers: asks for claims when threads are free, and hands
//! out what was claimed.
//!
//! It sleeps until it is told of something (`Hub`) or the next waiting job is due; what it decides
//! is `queue::dispatch`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::clock::TrailClock;
use crate::domain::HandlerId;
use crate::handler::Ready;
use crate::queue::dispatch::Dispatch;
use crate::queue::lane::Limits;
use crate::store::channel::Handle;
use crate::store::jobs::{self, Claimed};
use crate::store::op::Op;
use crate::store::{Readers, registry, rest};
use crate::worker::{Running, Start};

mod hub;

pub use hub::{Ear, Hub};
use hub::{Told, gathering};

/// How often a promotion that got no answer is asked for again.
const PROMOTION_PATIENCE: Duration = Duration::from_secs(5);

/// The handlers as they are configured now.
pub type Handlers = Arc<HashMap<HandlerId, Arc<Ready>>>;

/// What the thread needs.
pub struct Dispatcher {
    pub hub: Arc<Hub>,
    pub writer: Handle,
    pub readers: Readers,
    pub running: Arc<Running>,
    pub clock: TrailClock,
    pub to: Sender<Start>,
    pub threads: usize,
    pub handlers: Handlers,
}

/// Starts the thread; it ends by `Hub::leave`.
///
/// # Errors
/// The thread can't be made.
pub fn start(it: Dispatcher) -> std::io::Result<JoinHandle<()>> {
    it.hub.tell(|told| told.gathering = gathering(&it.handlers));
    std::thread::Builder::new().name("dispatcher".into()).spawn(move || {
        let dispatch = Dispatch::new(it.threads);
        Loop { it, dispatch, due_ms: None, promoting: false, blocked: false, stopping: false }
            .run();
    })
}

struct Loop {
    it: Dispatcher,
    dispatch: Dispatch,
    /// When the next waiting job is due, on the trail's clock.
    due_ms: Option<i64>,
    promoting: bool,
    /// A claim was not written; `writable` will be told.
    blocked: bool,
    stopping: bool,
}

impl Loop {
    fn run(&mut self) {
        self.configure();
        self.go_on();
        loop {
            self.promote();
            self.count();
            self.claim();
            let told = self.it.hub.wait(self.patience());
            if told.leaving {
                return;
            }
            self.hear(told);
        }
    }

    fn hear(&mut self, told: Told) {
        self.stopping |= told.stopping;
        self.blocked &= !told.writable;
        let now_us = self.now_us();
        for (ask, claimed) in told.claimed {
            self.dispatch.claimed(&ask, claimed.len(), now_us);
            if ask.together {
                self.start(claimed);
            } else {
                claimed.into_iter().for_each(|one| self.start(vec![one]));
            }
        }
        // What was claimed in an earlier commit was claimed before these were known.
        for (handler, until_ms) in told.rests {
            self.dispatch.rests(handler, until_ms.map(|ms| ms.saturating_mul(1000)));
        }
        for ask in told.failed {
            self.dispatch.claim_failed(&ask);
            self.blocked = true;
            self.promoting = false;
        }
        for handler in told.freed {
            self.dispatch.finished(handler);
        }
        if let Some(due_ms) = told.promoted {
            self.promoting = false;
            self.due_ms = due_ms;
        }
        if let Some(at) = told.due_ms {
            self.due_ms = Some(self.due_ms.map_or(at, |before| before.min(at)));
        }
        // After the claims: what was stored in their group or later may be ready.
        for (handler, jobs) in told.woken {
            self.dispatch.woken(handler, jobs, now_us);
        }
        if let Some(handlers) = told.handlers {
            self.it.handlers = handlers;
            self.configure();
        }
        if told.foreign || told.writable {
            self.promoting = false;
            self.look();
        }
        self.it.hub.busy.store(self.dispatch.busy(), Ordering::SeqCst);
    }

    fn configure(&mut self) {
        let all =
            self.it.handlers.iter().map(|(&id, ready)| (id, Limits::of(&ready.settings))).collect();
        self.dispatch.configure(&all);
        self.hold_rates();
        self.look();
    }

    /// Looks at what others may have changed.
    fn look(&mut self) {
        let found = self.it.readers.get().map_err(anyhow::Error::from).and_then(|conn| {
            Ok((registry::paused(&conn)?, jobs::next_due(&conn)?, jobs::to_cancel(&conn)?))
        });
        match found {
            Ok((paused, due_ms, cancelled)) => {
                self.dispatch.set_paused(&paused);
                self.due_ms = due_ms;
                for claim in cancelled {
                    self.it.running.cancel(claim);
                }
                self.dispatch.wake_all();
            }
            Err(e) => log::error!("the queue could not be read: {e:#}"),
        }
    }

    /// Hands a claimed job to a worker: there is always one free, as no more are asked for.
    fn start(&mut self, claimed: Vec<Claimed>) {
        let Some(id) = claimed.first().map(|one| one.handler) else { return };
        let Some(handler) = self.it.handlers.get(&id) else {
            // Removed by a reload between the claim and here.
            return self.put_back(&claimed);
        };
        let start = Start { claimed, handler: Arc::clone(handler) };
        if let Err(e) = self.it.to.try_send(start) {
            log::error!("no worker was free for a claimed job, which is put back");
            self.put_back(&e.into_inner().claimed);
        }
    }

    fn put_back(&mut self, all: &[Claimed]) {
        for claimed in all {
            self.put_one_back(claimed);
        }
        if let Some(first) = all.first() {
            self.dispatch.finished(first.handler);
        }
    }

    fn put_one_back(&self, claimed: &Claimed) {
        let ended = crate::domain::Ended::new(
            crate::domain::Outcome::Interrupted,
            "its handler was taken out of the configuration",
        );
        let next =
            crate::queue::retry::Next::Again { wait: Duration::ZERO, failures: claimed.failures };
        let at_ms = crate::clock::wall_ms();
        let finish = crate::worker::finish(claimed, ended, next, at_ms, Duration::ZERO, 0);
        self.it.writer.op(Op::Finish(Box::new(finish)));
    }

    /// What an earlier process left: handlers that rest.
    fn go_on(&mut self) {
        let found = self.it.readers.get().map_err(anyhow::Error::from);
        match found.and_then(|conn| Ok(rest::all(&conn)?)) {
            Ok(rests) => {
                for (handler, rest) in rests {
                    if let Some(until_ms) = rest.until_ms {
                        self.dispatch.rests(handler, Some(until_ms.saturating_mul(1000)));
                    }
                }
            }
            Err(e) => log::error!("rests could not be read: {e:#}"),
        }
    }

    /// When the next of a rate may start, as an earlier process left it, or this one before the rate
    /// was taken out and put back.
    fn hold_rates(&mut self) {
        let found = self.it.readers.get().map_err(anyhow::Error::from);
        match found.and_then(|conn| Ok(registry::rates(&conn)?)) {
            Ok(rates) => {
                let now_us = self.now_us();
                for (handler, next_ms) in rates {
                    self.dispatch.hold_until(handler, next_ms.saturating_mul(1000), now_us);
                }
            }
            Err(e) => log::error!("rates could not be read: {e:#}"),
        }
    }

    /// Counts the ready jobs of those that gather a batch.
    fn count(&mut self) {
        for (handler, max) in self.dispatch.to_count() {
            let found = self.it.readers.get().map_err(anyhow::Error::from);
            match found.and_then(|conn| Ok(jobs::count_ready(&conn, handler, max)?)) {
                Ok(count) => self.dispatch.counted(handler, count, self.now_us()),
                Err(e) => log::error!("the queue could not be counted: {e:#}"),
            }
        }
    }

    fn now_us(&self) -> i64 {
        self.it.clock.now_ms().saturating_mul(1000)
    }

    fn claim(&mut self) {
        if self.stopping || self.blocked {
            return;
        }
        let plan = self.dispatch.plan(self.now_us());
        self.it.hub.busy.store(self.dispatch.busy(), Ordering::SeqCst);
        for ask in plan {
            self.it.writer.op(Op::Claim(ask));
        }
    }

    fn promote(&mut self) {
        let due = self.due_ms.is_some_and(|due_ms| due_ms <= self.it.clock.now_ms());
        if due && !self.promoting && !self.stopping && !self.blocked {
            self.promoting = self.it.writer.op(Op::Promote);
        }
    }

    fn patience(&self) -> Duration {
        if self.promoting || self.blocked || self.stopping {
            return PROMOTION_PATIENCE;
        }
        // The next whole millisecond: the clock has no finer ones.
        let next_ms = self.dispatch.next_us().map(|us| us.saturating_add(999).div_euclid(1000));
        let due_ms = self.due_ms.into_iter().chain(next_ms).min();
        let left = due_ms.map_or(i64::MAX, |due_ms| due_ms - self.it.clock.now_ms());
        Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(Duration::from_secs(3600))
    }
}
