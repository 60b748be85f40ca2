//! Processes that stay: those of one handler that hold nothing now, and what watches over them.
//!
//! A process is taken for one exchange and given back, the one that was used last first. Whichever
//! ends while nobody holds it is seen to by a thread of its own (one for all pools), so that nothing
//! in its group outlives it. Started on first need; where processes end without ever having been of
//! use, the next is started later and later, and whoever needs it waits.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

use super::child::{Directive, StopSignal};
use super::line_process::{IdleCheck, LineProcess};
use super::{CancelToken, CommandSpec, ExitReason, GRACE, Shortage, StartError};

/// Between two starts, once a process was of no use; then doubled each time.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);

/// No longer: whoever waits for the start holds a thread meanwhile.
const BACKOFF_LONGEST: Duration = Duration::from_secs(5);

/// The processes of one handler that are kept warm. Dropped, it ends them.
pub struct ProcessPool {
    /// Whose they are, for the log.
    name: String,
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner(Mutex<State>);

#[derive(Default)]
struct State {
    idle: Vec<LineProcess>,
    /// Whom somebody holds; whether it has ended all the same.
    held: HashMap<u64, bool>,
    backoff: Backoff,
    /// Nothing is kept any more.
    is_closed: bool,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread that watches saw the process end.
    fn on_exit(&self, number: u64) {
        let mut state = self.state();
        if let Some(has_ended) = state.held.get_mut(&number) {
            *has_ended = true;
            return;
        }
        let at = state.idle.iter().position(|kept| kept.number() == number);
        let ended = at.map(|at| state.idle.remove(at));
        drop(state);
        if let Some(kept) = ended {
            retire(kept);
        }
    }
}

/// When the next process may be started.
#[derive(Debug, Default)]
struct Backoff {
    /// Processes in a row that were of no use.
    lost: u32,
    last_at: Option<Instant>,
}

impl Backoff {
    fn wait(&self, now: Instant) -> Duration {
        let Some(at) = self.last_at.filter(|_| self.lost > 0) else { return Duration::ZERO };
        let factor = 1_u32.checked_shl(self.lost - 1).filter(|&it| it > 0).unwrap_or(u32::MAX);
        let wait = BACKOFF_FIRST.saturating_mul(factor).min(BACKOFF_LONGEST);
        (at + wait).saturating_duration_since(now)
    }

    /// One that was started at `started_at` ended without having been of use. Those that were started
    /// together count as one.
    fn discard_failed(&mut self, started_at: Instant, now: Instant) {
        if self.last_at.is_none_or(|last_at| started_at >= last_at) {
            self.lost = self.lost.saturating_add(1);
        }
        self.last_at = Some(now);
    }
}

impl ProcessPool {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), inner: Arc::default() }
    }

    /// A process that can be asked: one that is there, or a new one.
    ///
    /// # Errors
    /// `Stopped`, `NotStarted` or `NotNow`.
    pub fn acquire(
        &self,
        stop: &CancelToken,
        max_output_bytes: usize,
        program: &dyn Fn() -> Result<CommandSpec, String>,
    ) -> Result<LineProcess, ExitReason> {
        let mut shortage = Shortage::default();
        loop {
            if stop.is_set() {
                return Err(ExitReason::Stopped);
            }
            let mut state = self.inner.state();
            if let Some(kept) = state.idle.pop() {
                state.held.insert(kept.number(), false);
                drop(state);
                if let Some(kept) = self.health_checked(kept) {
                    return Ok(kept);
                }
                continue;
            }
            let wait = state.backoff.wait(Instant::now());
            drop(state);
            if wait.is_zero() {
                match self.start(max_output_bytes, program) {
                    Ok(kept) => return Ok(kept),
                    Err(e) if !e.is_passing => return Err(ExitReason::NotStarted(e.reason)),
                    Err(e) if !shortage.wait(stop, &e.reason) => {
                        return Err(ExitReason::NotNow(e.reason));
                    }
                    // Meanwhile another may have been given back.
                    Err(_) => continue,
                }
            }
            let wait = Timespec::try_from(wait).ok();
            let _ = poll(&mut [PollFd::new(stop, PollFlags::IN)], wait.as_ref());
        }
    }

    /// The process, unless it is to be replaced.
    fn health_checked(&self, mut kept: LineProcess) -> Option<LineProcess> {
        match kept.look() {
            IdleCheck::Yes => return Some(kept),
            IdleCheck::Gone => log::info!(
                "handler {}: a process ended, or closed a pipe, while it held no job",
                self.name
            ),
            IdleCheck::Spoke => self.warn_unexpected_output(),
        }
        self.discard(&kept);
        retire(kept);
        None
    }

    /// Says in the log what otherwise harms nobody, and so would never be known.
    pub fn warn_unexpected_output(&self) {
        log::warn!(
            "handler {}: a process wrote to stdout while it held no job, and is replaced: expected \
             one line a job, and no other",
            self.name
        );
    }

    fn start(
        &self,
        max_output_bytes: usize,
        program: &dyn Fn() -> Result<CommandSpec, String>,
    ) -> Result<LineProcess, StartError> {
        let began = Instant::now();
        let program = program().map_err(StartError::from);
        let kept = program.and_then(|program| LineProcess::start(program, max_output_bytes));
        let kept = match kept {
            Ok(kept) => kept,
            Err(e) => {
                if !e.is_passing {
                    self.inner.state().backoff.discard_failed(began, Instant::now());
                }
                return Err(e);
            }
        };
        self.inner.state().held.insert(kept.number(), false);
        if let Err(e) = watch(&kept, &self.inner) {
            self.discard(&kept);
            return Err(StartError::of_io(&e, format!("it can't be watched: {e}")));
        }
        Ok(kept)
    }

    /// Gives a process back that did what it was asked for.
    pub fn release(&self, mut kept: LineProcess) {
        kept.is_proven = true;
        let number = kept.number();
        let mut state = self.inner.state();
        state.backoff.lost = 0;
        let has_ended = state.held.remove(&number) == Some(true);
        if state.is_closed || has_ended {
            drop(state);
            return retire(kept);
        }
        state.idle.push(kept);
    }

    /// Says that a process that was taken will not come back. Where it ended by itself, or did not do
    /// what it was asked for, `lost` says so.
    pub fn discard(&self, kept: &LineProcess) {
        unwatch(kept.number());
        self.inner.state().held.remove(&kept.number());
    }

    /// As `let_go`; the next start waits, if this process has never been of use.
    pub fn lost(&self, kept: &LineProcess) {
        self.discard(kept);
        if !kept.is_proven {
            self.inner.state().backoff.discard_failed(kept.started_at, Instant::now());
        }
    }

    /// Ends what is idle by closing its input, without waiting for it, and keeps nothing from here
    /// on.
    pub fn close(&self) {
        let mut state = self.inner.state();
        state.is_closed = true;
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        idle.into_iter().for_each(retire);
    }
}

impl Drop for ProcessPool {
    fn drop(&mut self) {
        self.close();
    }
}

/// How many processes are being ended behind everybody's back.
static RETIRING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

fn retiring() -> MutexGuard<'static, usize> {
    RETIRING.0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that is counted as being ended until this is dropped.
struct Retiring(());

impl Retiring {
    fn new() -> Self {
        *retiring() += 1;
        Self(())
    }
}

impl Drop for Retiring {
    fn drop(&mut self) {
        *retiring() -= 1;
        RETIRING.1.notify_all();
    }
}

/// Ends a process that holds nothing, on a thread of its own: by closing its input; what has not
/// ended after the grace is killed, with its group.
fn retire(kept: LineProcess) {
    unwatch(kept.number());
    let retiring = Retiring::new();
    let end = move || {
        let _ = kept.end(Some(StopSignal::Close), GRACE, &mut |_| Directive::More);
        drop(retiring);
    };
    // Without a thread it is dropped with the closure, and so killed.
    let _ = std::thread::Builder::new().name("retiring".into()).spawn(end);
}

/// Waits until all processes that no pool keeps any more have ended; `false` where some have not by
/// then.
pub fn wait_for_drained(patience: Duration) -> bool {
    let waited = RETIRING.1.wait_timeout_while(retiring(), patience, |count| *count > 0);
    let (count, _) = waited.unwrap_or_else(PoisonError::into_inner);
    *count == 0
}

/// What watches over the processes of all pools.
struct ExitWatcher {
    epoll: OwnedFd,
    pools: Mutex<HashMap<u64, Weak<Inner>>>,
}

static WATCH: OnceLock<ExitWatcher> = OnceLock::new();

impl ExitWatcher {
    /// Made on first need. Where there is no descriptor for it now, the next need tries again.
    fn get() -> std::io::Result<&'static Self> {
        if let Some(watch) = WATCH.get() {
            return Ok(watch);
        }
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(WATCH.get_or_init(|| Self { epoll, pools: Mutex::default() }))
    }

    fn pools(&self) -> MutexGuard<'_, HashMap<u64, Weak<Inner>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            // Interrupted by a signal: asked again.
            let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None);
            for event in &events {
                let number = event.data.u64();
                let pool = self.pools().remove(&number).and_then(|pool| pool.upgrade());
                if let Some(pool) = pool {
                    pool.on_exit(number);
                }
            }
        }
    }
}

/// Has the end of a process told to its pool, once.
fn watch(kept: &LineProcess, pool: &Arc<Inner>) -> std::io::Result<()> {
    static THREAD: Mutex<bool> = Mutex::new(false);
    let watch = ExitWatcher::get()?;
    let mut is_there = THREAD.lock().unwrap_or_else(PoisonError::into_inner);
    if !*is_there {
        std::thread::Builder::new().name("watch".into()).spawn(|| watch.run())?;
        *is_there = true;
    }
    drop(is_there);
    watch.pools().insert(kept.number(), Arc::downgrade(pool));
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
    let number = epoll::EventData::new_u64(kept.number());
    epoll::add(&watch.epoll, kept.process(), number, flags)?;
    Ok(())
}

/// Its descriptor leaves the list by being closed.
fn unwatch(number: u64) {
    if let Some(watch) = WATCH.get() {
        watch.pools().remove(&number);
    }
}
