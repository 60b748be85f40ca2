//! From the lock to a database that may be served. What passes by itself is waited for: another program's
//! lock, a full disk, a file system that is mounted read-only.
//!
//! While the server waits, or is busy for long, senders get 503, and systemd is asked for more time.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use sd_notify::NotifyState;
use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;

use super::ExitError;
use super::handlers::registration_names;
use crate::config::{self, Config};
use crate::store::registry::{self, Registry};
use crate::store::{self, Lock, OpenError, RunState, Store, alerts, checkpoint, rescue, reserve};
use crate::web::standby::Standby;
use crate::web::{self, Sockets};
use crate::{notify, process, recovery};

/// A start that takes longer than this answers 503 meanwhile. A usual one lets connections wait.
const STANDBY_AFTER: Duration = Duration::from_secs(1);

/// Between two tries.
const RETRY: Duration = Duration::from_secs(1);

/// How often the same reason is logged.
const SAID_AGAIN: Duration = Duration::from_secs(600);

/// How often a signal is looked for.
const SIGNAL_LOOK: Duration = Duration::from_millis(50);

/// What systemd is asked for each time, and how often.
const EXTENSION: Duration = Duration::from_secs(60);
const EXTEND_EVERY: Duration = Duration::from_secs(10);

/// The lock of this process, once it has one: kept until the process ends.
#[derive(Clone, Default)]
pub(super) struct Owner {
    lock: Arc<OnceLock<Lock>>,
}

impl Owner {
    /// Records how far this run got. A process without the lock records nothing.
    pub fn record(&self, state: RunState) {
        if let Some(lock) = self.lock.get() {
            lock.record(state);
        }
    }
}

/// Signals that arrived before the server could follow them.
#[derive(Default)]
pub(super) struct Arrived {
    pub reload: bool,
}

impl Arrived {
    /// Waits; whether a signal asks for the end.
    fn wait(&mut self, signals: &mut Signals, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            for signal in signals.pending() {
                if signal != SIGHUP {
                    return true;
                }
                self.reload = true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            std::thread::sleep(left.min(SIGNAL_LOOK));
        }
    }
}

/// What a server is made of once nothing stands in its way.
pub(super) struct Prepared {
    pub began: Instant,
    pub store: Store,
    pub registry: Registry,
    pub sockets: Sockets,
}

/// Locks, opens and settles the database; nothing where a signal ended the wait.
///
/// # Errors
/// Another server owns it; or what a person has to do.
pub(super) fn prepare(
    config: &Config,
    arrived: &mut Arrived,
    signals: &mut Signals,
    owner: &Owner,
) -> Result<Option<Prepared>, ExitError> {
    let began = Instant::now();
    // Before anything is bound or touched: a second server ends here.
    let mut locked = lock(config, owner);
    let sockets = match locked {
        Ok(()) | Err(OpenError::Passing(_)) => web::bind(config).map_err(ExitError::other)?,
        Err(e) => return Err(e.into()),
    };
    let standby =
        start_standby(&sockets, config.server.request_timeout).map_err(ExitError::other)?;
    let mut reasons = Reasons::default();
    while let Err(error) = locked {
        reasons.tell(error)?;
        if arrived.wait(signals, RETRY) {
            return Ok(None);
        }
        locked = lock(config, owner);
    }
    if delay(owner, arrived, signals) {
        return Ok(None);
    }
    loop {
        match open(config, owner) {
            Ok((store, registry)) => {
                standby.stop();
                return Ok(Some(Prepared { began, store, registry, sockets }));
            }
            Err(error) => reasons.tell(error)?,
        }
        if let Some(lock) = owner.lock.get() {
            reserve::release_if_full(lock.path());
        }
        if arrived.wait(signals, RETRY) {
            return Ok(None);
        }
    }
}

/// Why the server waits, logged at first, when it changes, and then rarely.
#[derive(Default)]
struct Reasons {
    last: Option<(String, Instant)>,
}

impl Reasons {
    /// # Errors
    /// It does not pass.
    fn tell(&mut self, error: OpenError) -> Result<(), ExitError> {
        let OpenError::Passing(text) = error else { return Err(error.into()) };
        let is_old = |(last, at): &(String, Instant)| *last == text && at.elapsed() < SAID_AGAIN;
        if !self.last.as_ref().is_some_and(is_old) {
            log::error!("{text}: the server waits for that, and senders get 503");
            notify::send(&[NotifyState::Status(&format!("waiting: {text}"))]);
            self.last = Some((text, Instant::now()));
        }
        Ok(())
    }
}

fn lock(config: &Config, owner: &Owner) -> Result<(), OpenError> {
    let path = &config.store.path;
    if let Some(folder) = path.parent() {
        store::files::create_folder(folder)
            .map_err(|e| store::io_error(folder, "can't be made: change store.path", &e))?;
    }
    let lock = Lock::take(path)?;
    let _ = owner.lock.set(lock);
    Ok(())
}

/// After failures in a row the server waits itself: systemd starts it again at once, each time.
/// Whether a signal ended the wait.
fn delay(owner: &Owner, arrived: &mut Arrived, signals: &mut Signals) -> bool {
    let Some(run) = owner.lock.get().map(Lock::run) else { return false };
    let delay = run.delay();
    if delay.is_zero() {
        return false;
    }
    let text = format!(
        "the last {} runs of this server ended soon after their start: it waits {delay:?} before it \
         starts, and senders get 503",
        run.failures
    );
    log::error!("{text}");
    notify::send(&[NotifyState::Status(&text)]);
    let is_ended = arrived.wait(signals, delay);
    // The wait does not count as a run.
    if let Some(lock) = owner.lock.get() {
        lock.begin_again();
    }
    is_ended
}

/// The file, owned and checked, with a log that is copied and synced: after a failed sync of an
/// earlier process what the log says may not be on disk, until it is in the file.
fn open(config: &Config, owner: &Owner) -> Result<(Store, Registry), OpenError> {
    let lock = owner.lock.get().ok_or_else(|| OpenError::Other("there is no lock".to_owned()))?;
    let path = lock.path();
    let store = store::open(&config.store.path, config.store.durability)?;
    if store.files.database() != lock.id() {
        let text = "was replaced while the server started: see who does that";
        return Err(OpenError::Other(format!("{}: {text}", path.display())));
    }
    let settle = || {
        if !checkpoint::truncate(&store.conn)? {
            log::warn!("{}: a reader keeps the log from being cut", path.display());
        }
        process::become_subreaper()?;
        let registry = register(&store, config)?;
        let interrupted = recovery::recover_after_crash(&store, config, &registry)?;
        if interrupted > 0 {
            log::warn!("{interrupted} jobs were running when the server ended: they run again");
        }
        Ok(registry)
    };
    let registry = settle().map_err(|e| store::open_error_text(path, &e))?;
    warn_of_rescued(path);
    Ok((store, registry))
}

fn warn_of_rescued(path: &Path) {
    for rescued in rescue::find(path) {
        log::warn!(
            "{}: an earlier server saved its events there when its file was removed or replaced: remove \
             it when you no longer need it",
            rescued.display()
        );
    }
}

fn register(store: &Store, config: &Config) -> anyhow::Result<Registry> {
    let (sources, handlers) = registration_names(config);
    store::in_transaction(&store.conn, |conn| {
        let registry = registry::register(conn, &sources, &handlers, store.clock.now_ms())?;
        alerts::set_subscriber(conn, registry.sources.get(config::INTERNAL_SOURCE).copied())?;
        Ok(registry)
    })
}

/// Answers in place of the server when the start takes long, and asks systemd for more time. The sockets
/// are given back when it is stopped or dropped.
struct StandbyThread {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl StandbyThread {
    fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

fn start_standby(sockets: &Sockets, timeout: Duration) -> anyhow::Result<StandbyThread> {
    let sockets = sockets.try_clone().context("the sockets cannot be duplicated")?;
    let (stop, stopped) = bounded(0);
    let run = move || stand_by(&sockets, timeout, &stopped);
    let thread = std::thread::Builder::new().name("start".into()).spawn(run)?;
    Ok(StandbyThread { stop, thread })
}

fn stand_by(sockets: &Sockets, timeout: Duration, stopped: &Receiver<()>) {
    if stopped.recv_timeout(STANDBY_AFTER) != Err(RecvTimeoutError::Timeout) {
        return;
    }
    let standby = Standby::start(sockets, timeout);
    if let Err(e) = &standby {
        log::error!("nothing answers senders while the server waits: {e:#}");
    }
    let microseconds = u32::try_from(EXTENSION.as_micros()).unwrap_or(u32::MAX);
    loop {
        notify::send(&[NotifyState::ExtendTimeoutUsec(microseconds)]);
        if stopped.recv_timeout(EXTEND_EVERY) != Err(RecvTimeoutError::Timeout) {
            break;
        }
    }
    if let Ok(standby) = standby {
        standby.stop();
    }
}
