//! The idle processes of a handler, and the thread that watches for their end.
//!
//! A worker acquires a process for one exchange and releases it afterwards. The process that was
//! released last is acquired first. Processes are started when they are needed. If processes end
//! before their first success, the next start is delayed by a growing backoff, and the worker
//! waits.
//!
//! One thread watches the processes of all pools of a supervisor. When an idle process ends, its group is killed at
//! once.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

use super::child::{Directive, StopSignal};
use super::line_process::{IdleCheck, LineProcess};
use super::{CancelToken, CommandSpec, ExitReason, GRACE, ShortageBackoff, StartError};

/// The first wait of the backoff. Each next wait is twice as long.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);

/// The longest wait of the backoff. The worker that waits is blocked, so it is short.
const BACKOFF_LONGEST: Duration = Duration::from_secs(5);

/// The process pool of one handler. Dropping it ends the idle processes.
pub struct ProcessPool {
    /// The handler's name, for the log.
    name: String,
    shared: Arc<Mutex<PoolState>>,
}

#[derive(Default)]
struct PoolState {
    idle: Vec<LineProcess>,
    /// The numbers of acquired processes, and whether each has ended.
    in_use: HashMap<u64, bool>,
    backoff: Backoff,
    /// Released processes are ended instead of kept.
    is_closed: bool,
}

/// The wait before the next start after failed starts or processes.
#[derive(Debug, Default)]
struct Backoff {
    /// Consecutive failures: starts that failed, and processes that ended before their first
    /// success.
    failures: u32,
    last_failure_at: Option<Instant>,
}

impl Backoff {
    fn remaining_wait(&self, now: Instant) -> Duration {
        let Some(last_failure_at) = self.last_failure_at.filter(|_| self.failures > 0) else {
            return Duration::ZERO;
        };
        let wait = (BACKOFF_FIRST * (1 << (self.failures - 1).min(10))).min(BACKOFF_LONGEST);
        (last_failure_at + wait).saturating_duration_since(now)
    }

    /// Records a failure. Processes that were started at the same time count as one.
    fn record_failure(&mut self, started_at: Instant, now: Instant) {
        if self.last_failure_at.is_none_or(|last_failure_at| started_at >= last_failure_at) {
            self.failures = self.failures.saturating_add(1);
        }
        self.last_failure_at = Some(now);
    }
}

impl ProcessPool {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), shared: Arc::default() }
    }

    /// Acquires an idle process, or starts one.
    ///
    /// # Errors
    /// `Stopped`, `NotStarted` or `Shortage`.
    pub fn acquire(
        &self,
        stop: &CancelToken,
        max_output_bytes: usize,
        command: &dyn Fn() -> Result<CommandSpec, StartError>,
    ) -> Result<LineProcess, ExitReason> {
        let mut shortage = ShortageBackoff::default();
        loop {
            if stop.is_cancelled() {
                return Err(ExitReason::Stopped);
            }
            let mut pool = self.shared.lock();
            if let Some(process) = pool.idle.pop() {
                pool.in_use.insert(process.number(), false);
                drop(pool);
                if let Some(process) = self.check_idle(process) {
                    return Ok(process);
                }
                continue;
            }
            let wait = pool.backoff.remaining_wait(Instant::now());
            drop(pool);
            if wait.is_zero() {
                match self.start(max_output_bytes, command) {
                    Ok(process) => return Ok(process),
                    Err(e) if !e.is_transient || !shortage.wait(stop, &e.reason) => {
                        return Err(e.into());
                    }
                    // Another process may have been released during the wait.
                    Err(_) => continue,
                }
            }
            let wait = Timespec::try_from(wait).ok();
            let _ = poll(&mut [PollFd::new(stop, PollFlags::IN)], wait.as_ref());
        }
    }

    /// Returns the process if it is ready for a job. Otherwise ends it.
    fn check_idle(&self, mut process: LineProcess) -> Option<LineProcess> {
        match process.poll_idle() {
            IdleCheck::Ready => return Some(process),
            IdleCheck::Exited => {
                log::info!("handler {}: an idle process ended, or closed a pipe", self.name)
            }
            IdleCheck::UnexpectedOutput => self.warn_unexpected_output(),
        }
        self.discard(&process);
        drain(process);
        None
    }

    /// Logs unexpected output. It harms no job, so no attempt would show it.
    pub fn warn_unexpected_output(&self) {
        log::warn!(
            "handler {}: a process wrote to stdout while it held no job, and is replaced: expected \
             one line for each job, and no other",
            self.name
        );
    }

    fn start(
        &self,
        max_output_bytes: usize,
        command: &dyn Fn() -> Result<CommandSpec, StartError>,
    ) -> Result<LineProcess, StartError> {
        let started_at = Instant::now();
        let process = command().and_then(|command| LineProcess::start(command, max_output_bytes));
        let process = process.inspect_err(|e| {
            if !e.is_transient {
                self.shared.lock().backoff.record_failure(started_at, Instant::now());
            }
        })?;
        self.shared.lock().in_use.insert(process.number(), false);
        if let Err(e) = ExitWatcher::register(&process, &self.shared) {
            self.discard(&process);
            return Err(StartError::from_io(&e, format!("its end can't be watched: {e}")));
        }
        Ok(process)
    }

    /// Releases a process after a successful exchange.
    pub fn release(&self, mut process: LineProcess) {
        process.has_succeeded = true;
        let number = process.number();
        let mut pool = self.shared.lock();
        pool.backoff.failures = 0;
        let has_ended = pool.in_use.remove(&number) == Some(true);
        if pool.is_closed || has_ended {
            drop(pool);
            return drain(process);
        }
        pool.idle.push(process);
    }

    /// Removes a process that will not be released. If the process itself failed, call
    /// `discard_failed`.
    pub fn discard(&self, process: &LineProcess) {
        ExitWatcher::unregister(process);
        self.shared.lock().in_use.remove(&process.number());
    }

    /// Removes a process that failed. If it never succeeded, the backoff delays the next start.
    pub fn discard_failed(&self, process: &LineProcess) {
        self.discard(process);
        if !process.has_succeeded {
            self.shared.lock().backoff.record_failure(process.started_at, Instant::now());
        }
    }

    /// Closes the input of idle processes without waiting for their end. Processes that are
    /// released later are ended too.
    pub fn close(&self) {
        let mut pool = self.shared.lock();
        pool.is_closed = true;
        let idle = std::mem::take(&mut pool.idle);
        drop(pool);
        idle.into_iter().for_each(drain);
    }
}

impl Drop for ProcessPool {
    fn drop(&mut self) {
        self.close();
    }
}

/// Handles the end of a process, as the watching thread reports it.
fn on_exit(pool: &Mutex<PoolState>, number: u64) {
    let mut pool = pool.lock();
    if let Some(has_ended) = pool.in_use.get_mut(&number) {
        *has_ended = true;
        return;
    }
    let index = pool.idle.iter().position(|process| process.number() == number);
    let ended = index.map(|index| pool.idle.remove(index));
    drop(pool);
    if let Some(process) = ended {
        drain(process);
    }
}

/// Ends a process that holds no job on a new thread. Its input is closed. If it has not ended after
/// the grace period, its group is killed.
fn drain(process: LineProcess) {
    ExitWatcher::unregister(&process);
    let terminate =
        || process.terminate(Some(StopSignal::Close), GRACE, &mut |_| Directive::Continue);
    // If the thread can't be started, the closure and the process in it are dropped, which kills
    // the process.
    let _ = std::thread::Builder::new().name("drain".into()).spawn(terminate);
}

/// Watches for the end of the processes of all pools of a supervisor, on its own thread.
#[derive(Debug)]
pub(super) struct ExitWatcher {
    epoll: OwnedFd,
    /// Ends the thread.
    pub stop: CancelToken,
    pools: Mutex<HashMap<u64, Weak<Mutex<PoolState>>>>,
}

impl ExitWatcher {
    /// Creates a watcher and starts its thread.
    fn start() -> std::io::Result<Arc<Self>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let watcher = Arc::new(Self { epoll, stop: CancelToken::new()?, pools: Mutex::default() });
        // No process has the number 0.
        let data = epoll::EventData::new_u64(0);
        epoll::add(&watcher.epoll, &watcher.stop, data, epoll::EventFlags::IN)?;
        let shared = Arc::clone(&watcher);
        std::thread::Builder::new().name("watch".into()).spawn(move || shared.run())?;
        Ok(watcher)
    }

    fn run(&self) {
        let mut events = Vec::with_capacity(64);
        while !self.stop.is_cancelled() {
            events.clear();
            // A signal may interrupt the wait. The loop then waits again.
            let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None);
            for event in &events {
                let number = event.data.u64();
                let pool = self.pools.lock().remove(&number).and_then(|pool| pool.upgrade());
                if let Some(pool) = pool {
                    on_exit(&pool, number);
                }
            }
        }
    }

    /// Registers a process, so that its pool is told of its end once. Starts the watcher when it is
    /// first needed. If no descriptor is available, the next call tries again.
    fn register(process: &LineProcess, pool: &Arc<Mutex<PoolState>>) -> std::io::Result<()> {
        let mut started = process.supervisor().exit_watcher.lock();
        let watcher = match &mut *started {
            Some(watcher) => watcher,
            None => started.insert(Self::start()?),
        };
        watcher.pools.lock().insert(process.number(), Arc::downgrade(pool));
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        let number = epoll::EventData::new_u64(process.number());
        Ok(epoll::add(&watcher.epoll, process.pidfd(), number, flags)?)
    }

    /// Unregisters a process. Its descriptor leaves the epoll set when it is closed.
    fn unregister(process: &LineProcess) {
        if let Some(watcher) = &*process.supervisor().exit_watcher.lock() {
            watcher.pools.lock().remove(&process.number());
        }
    }
}
