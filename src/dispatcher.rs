//! The thread between the writer and the workers: asks for claims when threads are free, and hands
//! out what was claimed.
//!
//! It sleeps until it is told of something (`Hub`) or the next waiting job is due; what it decides
//! is `queue::dispatch`.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::clock::TrailClock;
use crate::domain::HandlerId;
use crate::handler::Ready;
use crate::queue::dispatch::{Dispatch, Limits};
use crate::store::channel::Handle;
use crate::store::jobs::{self, Claimed, Finished};
use crate::store::op::{Hear, Op};
use crate::store::{Readers, registry};
use crate::worker::{Running, Start, Why};

/// How often a promotion that got no answer is asked for again.
const PROMOTION_PATIENCE: Duration = Duration::from_secs(5);

/// The handlers as they are configured now.
pub type Handlers = Arc<HashMap<HandlerId, Arc<Ready>>>;

/// What the dispatcher was told since it last looked; bounded by the number of handlers and threads.
#[derive(Debug, Default)]
struct Told {
    claimed: Vec<(HandlerId, usize, Vec<Claimed>)>,
    failed: Vec<(HandlerId, usize)>,
    freed: Vec<HandlerId>,
    woken: HashSet<HandlerId>,
    due_ms: Option<i64>,
    promoted: Option<Option<i64>>,
    foreign: bool,
    writable: bool,
    handlers: Option<Handlers>,
    stopping: bool,
    leaving: bool,
    /// Known to have jobs ready: waking the dispatcher for these again would tell it nothing. Stays
    /// over its looks; ends where a claim gets fewer than it asked for.
    ready: HashSet<HandlerId>,
}

impl Told {
    fn is_nothing(&self) -> bool {
        self.claimed.is_empty()
            && self.failed.is_empty()
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
    busy: AtomicUsize,
}

impl Hub {
    fn tell(&self, change: impl FnOnce(&mut Told)) {
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
        self.tell(|told| told.handlers = Some(handlers));
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

    fn wait(&self, timeout: Duration) -> Told {
        let told = self.lock();
        let waited = self.wake.wait_timeout_while(told, timeout, |told| told.is_nothing());
        let (mut told, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let ready = std::mem::take(&mut told.ready);
        let taken = std::mem::take(&mut *told);
        told.ready = ready;
        taken
    }
}

/// The writer's way to the dispatcher.
pub struct Ear {
    pub hub: Arc<Hub>,
    /// Called when the process must end.
    pub broken: Box<dyn Fn(&str) + Send>,
}

impl Hear for Ear {
    fn claimed(&self, handler: HandlerId, asked: usize, jobs: Vec<Claimed>) {
        self.hub.tell(|told| {
            if jobs.len() < asked {
                told.ready.remove(&handler);
            }
            told.claimed.push((handler, asked, jobs));
        });
    }

    fn claim_failed(&self, handler: HandlerId, asked: usize) {
        self.hub.tell(|told| told.failed.push((handler, asked)));
    }

    fn finished(&self, handler: HandlerId, how: Finished) {
        match how {
            Finished::Ready => self.hub.tell(|told| {
                told.ready.insert(handler);
                told.woken.insert(handler);
            }),
            Finished::Waiting(at) => self.waits(at),
            Finished::Settled | Finished::Stale => {}
        }
    }

    fn woken(&self, handlers: &HashSet<HandlerId>) {
        let mut told = self.hub.lock();
        let fresh = handlers.iter().filter(|&&handler| told.ready.insert(handler)).copied();
        let fresh: Vec<HandlerId> = fresh.collect();
        if !fresh.is_empty() {
            told.woken.extend(fresh);
            drop(told);
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
        self.look();
        loop {
            self.promote();
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
        for (handler, asked, claimed) in told.claimed {
            self.dispatch.claimed(handler, asked, claimed.len());
            for claimed in claimed {
                self.start(claimed);
            }
        }
        for (handler, asked) in told.failed {
            self.dispatch.claim_failed(handler, asked);
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
        for handler in told.woken {
            self.dispatch.woken(handler);
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
        let limits = |ready: &Arc<Ready>| Limits {
            priority: ready.settings.priority,
            concurrency: ready.settings.concurrency,
        };
        let all = self.it.handlers.iter().map(|(&id, ready)| (id, limits(ready))).collect();
        self.dispatch.configure(&all);
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
                    self.it.running.end(claim, Why::Cancelled);
                }
                self.dispatch.wake_all();
            }
            Err(e) => log::error!("the queue could not be read: {e:#}"),
        }
    }

    /// Hands a claimed job to a worker: there is always one free, as no more are asked for.
    fn start(&mut self, claimed: Claimed) {
        let Some(handler) = self.it.handlers.get(&claimed.handler) else {
            // Removed by a reload between the claim and here: put back.
            self.put_back(&claimed);
            return;
        };
        let start = Start { claimed: vec![claimed], handler: Arc::clone(handler) };
        if let Err(e) = self.it.to.try_send(start) {
            log::error!("no worker was free for a claimed job, which is put back");
            for claimed in &e.into_inner().claimed {
                self.put_back(claimed);
            }
        }
    }

    fn put_back(&mut self, claimed: &Claimed) {
        let ended = crate::domain::Ended::new(
            crate::domain::Outcome::Interrupted,
            "its handler was taken out of the configuration",
        );
        let next =
            crate::queue::retry::Next::Again { wait: Duration::ZERO, failures: claimed.failures };
        let at_ms = crate::clock::wall_ms();
        let finish = crate::worker::finish(claimed, ended, next, at_ms, Duration::ZERO, 0);
        self.it.writer.op(Op::Finish(Box::new(finish)));
        self.dispatch.finished(claimed.handler);
    }

    fn claim(&mut self) {
        if self.stopping || self.blocked {
            return;
        }
        let plan = self.dispatch.plan();
        self.it.hub.busy.store(self.dispatch.busy(), Ordering::SeqCst);
        for (handler, asked) in plan {
            self.it.writer.op(Op::Claim { handler, asked });
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
        let left = self.due_ms.map_or(i64::MAX, |due_ms| due_ms - self.it.clock.now_ms());
        Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(Duration::from_secs(3600))
    }
}
