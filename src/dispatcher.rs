//! Between the store and the workers: which jobs are claimed, and who runs what was claimed.
//!
//! What is decided at each commit is decided on the writer's thread, with which a claim commits
//! (`Hear::plan`, the desk). This thread does what takes a while or is a matter of time: reads what
//! others changed, counts batches, makes ready what is due, starts what a `rate` or a rest held back.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::domain::{AttemptResult, HandlerId, Outcome};
use crate::handler::HandlerRuntime;
use crate::scheduler::handler_schedule::HandlerLimits;
use crate::scheduler::retry::NextStep;
use crate::store::handle::WriterHandle;
use crate::store::jobs::{self, ClaimedJob};
use crate::store::operation::Operation;
use crate::store::{ReadPool, registry};
use crate::worker::RunningJobs;

mod handle;
mod state;

pub use handle::{Scheduler, WriterListener};

use state::PendingWork;

/// The handlers as they are configured now.
pub type HandlerMap = Arc<HashMap<HandlerId, Arc<HandlerRuntime>>>;

/// What the thread needs.
pub struct Dispatcher {
    pub hub: Arc<Scheduler>,
    pub writer: WriterHandle,
    pub readers: ReadPool,
    pub running: Arc<RunningJobs>,
}

/// Starts the thread, which begins with what is configured; it ends by `Hub::leave`.
///
/// # Errors
/// The thread can't be made.
pub fn start(it: Dispatcher, handlers: HandlerMap) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("dispatcher".into()).spawn(move || {
        it.hub.configure(handlers);
        it.hub.look();
        it.run();
    })
}

impl Dispatcher {
    fn run(&self) {
        loop {
            let mut desk = self.hub.wait_for_work();
            let PendingWork { configure, look, put_back } = std::mem::take(&mut desk.todo);
            let is_left = desk.is_closed();
            let (to_count, promote) = (desk.dispatch.begin_count(), desk.should_promote());
            drop(desk);
            for (claimed, why) in &put_back {
                self.requeue(claimed, why);
            }
            if is_left {
                return;
            }
            if let Some(handlers) = configure
                && let Err(e) = self.configure(&handlers)
            {
                log::error!("rates and pauses could not be read: {e:#}");
                self.hub.lock().retry_later(|todo| _ = todo.configure.get_or_insert(handlers));
            }
            if look && let Err(e) = self.refresh_from_db() {
                log::error!("the queue could not be read: {e:#}");
                self.hub.lock().retry_later(|todo| todo.look = true);
            }
            if promote {
                self.writer.send(Operation::Promote);
            }
            for (handler, max) in to_count {
                self.count(handler, max);
            }
            let asks = self.hub.lock().plan();
            for ask in asks {
                self.writer.send(Operation::Claim(ask));
            }
        }
    }

    /// Takes over a configuration. With a `rate` the next start may be when an earlier process left
    /// it, or this one before the rate was taken out and put back.
    fn configure(&self, handlers: &HandlerMap) -> anyhow::Result<()> {
        let limits = handlers.iter().map(|(&id, ready)| (id, HandlerLimits::of(&ready.settings)));
        let limits: HashMap<HandlerId, HandlerLimits> = limits.collect();
        let conn = self.readers.get()?;
        let (rates, paused) = (registry::rates(&conn)?, registry::paused(&conn)?);
        let mut desk = self.hub.lock();
        desk.handlers = Arc::clone(handlers);
        desk.dispatch.configure(&limits);
        desk.dispatch.set_paused(&paused);
        let now_us = desk.now_us();
        for (handler, next_ms) in rates {
            desk.dispatch.restore_rate_limit(handler, next_ms.saturating_mul(1000), now_us);
        }
        Ok(())
    }

    /// Looks at what others may have changed.
    fn refresh_from_db(&self) -> anyhow::Result<()> {
        let conn = self.readers.get()?;
        let (paused, due_ms) = (registry::paused(&conn)?, jobs::next_due(&conn)?);
        self.running.cancel(&jobs::pending_cancellations(&conn)?);
        let mut desk = self.hub.lock();
        desk.dispatch.set_paused(&paused);
        desk.note_due_at(due_ms);
        desk.dispatch.wake_all();
        Ok(())
    }

    /// Counts the ready jobs of one that gathers a batch.
    fn count(&self, handler: HandlerId, max: usize) {
        let found = self.readers.get().map_err(anyhow::Error::from);
        let found = found.and_then(|conn| Ok(jobs::count_ready(&conn, handler, max)?));
        let count = found.unwrap_or_else(|e| {
            log::error!("the queue could not be counted: {e:#}");
            max
        });
        let mut desk = self.hub.lock();
        let now_us = desk.now_us();
        desk.dispatch.set_counted(handler, count, now_us);
    }

    /// A claimed job that can't be started waits again.
    fn requeue(&self, claimed: &ClaimedJob, why: &str) {
        let ended = AttemptResult::new(Outcome::Interrupted, why);
        let next = NextStep::Again { wait: Duration::ZERO, failures: claimed.failures };
        let at_ms = crate::clock::wall_ms();
        let finish =
            crate::worker::build_attempt_record(claimed, ended, next, at_ms, Duration::ZERO, 0);
        self.writer.send(Operation::Finish(Box::new(finish)));
    }
}
