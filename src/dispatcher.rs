//! The dispatcher: connects the store, the scheduler and the workers.
//!
//! Most decisions are made on the writer's thread between two commits ([`WriterListener`]), so that a
//! claim commits together with other work. The dispatcher's own thread does what takes longer or
//! depends on time: it reads changes that another process made, counts the ready jobs of batches,
//! promotes due jobs, and plans claims when a rate limit or a circuit breaker allows the next start.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::domain::{AttemptResult, HandlerId, NextStep, Outcome};
use crate::handler::HandlerRuntime;
use crate::scheduler::handler_schedule::HandlerLimits;
use crate::store::handle::WriterHandle;
use crate::store::jobs::{self, ClaimedJob};
use crate::store::operation::Operation;
use crate::store::{ReadPool, registry};
use crate::worker::RunningJobs;

mod handle;
mod state;

pub use handle::{DispatcherHandle, WriterListener};

use state::PendingWork;

/// The handlers of the current configuration.
pub type HandlerMap = Arc<HashMap<HandlerId, Arc<HandlerRuntime>>>;

/// The dispatcher's thread and its connections.
pub struct Dispatcher {
    pub handle: Arc<DispatcherHandle>,
    pub writer: WriterHandle,
    pub readers: ReadPool,
    pub running: Arc<RunningJobs>,
}

/// Starts the dispatcher's thread with these handlers. [`DispatcherHandle::shut_down`] ends it.
///
/// # Errors
/// The thread cannot be created.
pub fn start(dispatcher: Dispatcher, handlers: HandlerMap) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("dispatcher".into()).spawn(move || {
        dispatcher.handle.configure(handlers);
        dispatcher.handle.request_refresh();
        dispatcher.run();
    })
}

impl Dispatcher {
    fn run(&self) {
        loop {
            let mut state = self.handle.wait_for_work();
            let PendingWork { configure, refresh, unstartable } =
                std::mem::take(&mut state.pending);
            let is_closed = state.is_closed();
            let (to_count, promote) = (state.scheduler.begin_count(), state.should_promote());
            drop(state);
            for (claimed, reason) in &unstartable {
                self.requeue(claimed, reason);
            }
            if is_closed {
                return;
            }
            if let Some(handlers) = configure
                && let Err(e) = self.configure(&handlers)
            {
                log::error!(
                    "the rate limits and pauses of handlers cannot be read, retrying: {e:#}"
                );
                self.handle
                    .lock()
                    .retry_later(|pending| _ = pending.configure.get_or_insert(handlers));
            }
            if refresh && let Err(e) = self.refresh_from_db() {
                log::error!("the queue cannot be read, retrying: {e:#}");
                self.handle.lock().retry_later(|pending| pending.refresh = true);
            }
            if promote {
                self.writer.send(Operation::Promote);
            }
            for (handler, max) in to_count {
                self.count(handler, max);
            }
            let requests = self.handle.lock().plan();
            for request in requests {
                self.writer.send(Operation::Claim(request));
            }
        }
    }

    /// Applies a configuration. A rate limit continues from the last start that the database knows: of
    /// an earlier process, or of this one before a reload removed and restored the limit.
    fn configure(&self, handlers: &HandlerMap) -> anyhow::Result<()> {
        let limits =
            handlers.iter().map(|(&id, ready)| (id, HandlerLimits::from_config(&ready.settings)));
        let limits: HashMap<HandlerId, HandlerLimits> = limits.collect();
        let conn = self.readers.get()?;
        let (rates, paused) =
            (registry::next_rate_starts(&conn)?, registry::paused_handlers(&conn)?);
        let mut state = self.handle.lock();
        state.handlers = Arc::clone(handlers);
        state.scheduler.configure(&limits);
        state.scheduler.set_paused(&paused);
        let now_us = state.now_us();
        for (handler, next_ms) in rates {
            state.scheduler.restore_rate_limit(handler, next_ms.saturating_mul(1000), now_us);
        }
        Ok(())
    }

    /// Reads what another process may have changed: pauses, due times, cancellations.
    fn refresh_from_db(&self) -> anyhow::Result<()> {
        let conn = self.readers.get()?;
        let (paused, due_ms) = (registry::paused_handlers(&conn)?, jobs::next_due(&conn)?);
        self.running.cancel(&jobs::pending_cancellations(&conn)?);
        let mut state = self.handle.lock();
        state.scheduler.set_paused(&paused);
        state.note_due_at(due_ms);
        state.scheduler.wake_all();
        Ok(())
    }

    /// Counts the ready jobs of a handler that gathers a batch.
    fn count(&self, handler: HandlerId, max: usize) {
        let found = self.readers.get().map_err(anyhow::Error::from);
        let found = found.and_then(|conn| Ok(jobs::count_ready(&conn, handler, max)?));
        let count = found.unwrap_or_else(|e| {
            log::error!("the ready jobs of a batch cannot be counted: {e:#}");
            max
        });
        let mut state = self.handle.lock();
        let now_us = state.now_us();
        state.scheduler.set_counted(handler, count, now_us);
    }

    /// Puts a claimed job that cannot start back into the queue.
    fn requeue(&self, claimed: &ClaimedJob, reason: &str) {
        let result = AttemptResult::new(Outcome::Interrupted, reason);
        let next = NextStep::Retry { delay: Duration::ZERO, failures: claimed.failures };
        let at_ms = crate::clock::wall_ms();
        let record =
            crate::worker::build_attempt_record(claimed, result, next, at_ms, Duration::ZERO, 0);
        self.writer.send(Operation::Finish(Box::new(record)));
    }
}
