//! The start, from the lock to a recovered database. The server waits for conditions that can pass: another
//! program's lock, a full disk, a file system that is mounted read-only.
//!
//! While it waits or recovers for long, senders get 503, and systemd is asked for more time.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context;
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use sd_notify::NotifyState;
use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;

use super::handlers::registration_names;
use super::{ExitError, StoppableThread};
use crate::config::Config;
use crate::process::Supervisor;
use crate::store::registry::Registry;
use crate::store::transaction_end::write_directly;
use crate::store::{
    self, Lock, OpenError, RunState, ServerInfo, Store, checkpoint, operation, rescue, reserve,
};
use crate::web::connections::TimeLimits;
use crate::web::standby::Standby;
use crate::web::{self, Sockets, TlsSlot};
use crate::{notify, recovery};

/// A start that takes longer than this answers 503. A usual start lets connections wait.
const STANDBY_AFTER: Duration = Duration::from_secs(1);

/// The delay between two tries.
const RETRY: Duration = Duration::from_secs(1);

/// How often the same reason is logged again.
const LOG_INTERVAL: Duration = Duration::from_secs(600);

/// How often the wait checks for a signal.
const SIGNAL_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The time that each request to systemd adds to the start, and the interval of these requests.
const EXTENSION: Duration = Duration::from_secs(60);
const EXTEND_EVERY: Duration = Duration::from_secs(10);

/// The database lock of this process, once it has one. It is held until the process ends.
#[derive(Clone, Default)]
pub(super) struct Owner {
    lock: Arc<OnceLock<Lock>>,
}

impl Owner {
    /// Records what `hooktrail status` shows of this server.
    pub fn describe(&self, change: impl FnOnce(&mut ServerInfo)) {
        if let Some(lock) = self.lock.get() {
            lock.describe(change);
        }
    }

    /// Records problems that only this server knows.
    pub fn record_problems(&self, problems: Vec<String>) {
        if let Some(lock) = self.lock.get() {
            lock.record_problems(problems);
        }
    }

    /// Records how far this run got. A process without the lock records nothing.
    pub fn record(&self, state: RunState) {
        if let Some(lock) = self.lock.get() {
            lock.record(state);
        }
    }
}

/// Signals that arrived during the start.
#[derive(Default)]
pub(super) struct EarlySignals {
    pub reload: bool,
}

impl EarlySignals {
    /// Waits for `duration`. Returns early, and true, if a signal asks the server to stop.
    fn wait(&mut self, signals: &mut Signals, duration: Duration) -> bool {
        let deadline = Instant::now() + duration;
        loop {
            for signal in signals.pending() {
                if signal != SIGHUP {
                    return true;
                }
                self.reload = true;
            }
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return false;
            }
            std::thread::sleep(remaining.min(SIGNAL_CHECK_INTERVAL));
        }
    }
}

/// The parts of the server that the start has prepared.
pub(super) struct PreparedStart {
    pub started_at: Instant,
    pub store: Store,
    pub registry: Registry,
    pub sockets: Sockets,
    pub supervisor: Arc<Supervisor>,
}

/// Locks, opens and recovers the database. Returns `None` if a signal ended the wait.
///
/// # Errors
/// Another server owns the database, or the start needs a person's help.
pub(super) fn prepare(
    config: &Config,
    tls: &Arc<TlsSlot>,
    early_signals: &mut EarlySignals,
    signals: &mut Signals,
    owner: &Owner,
) -> Result<Option<PreparedStart>, ExitError> {
    let started_at = Instant::now();
    // Before anything is bound or changed: a second server ends here.
    let mut locked = lock(config, owner);
    let sockets = match locked {
        Ok(()) | Err(OpenError::Transient(_)) => web::bind(config).map_err(ExitError::other)?,
        Err(e) => return Err(e.into()),
    };
    let limits = TimeLimits::of(&config.server);
    let standby = start_standby(&sockets, limits, tls).map_err(ExitError::other)?;
    let mut wait_log = WaitLog::default();
    while let Err(error) = locked {
        wait_log.log(error)?;
        if early_signals.wait(signals, RETRY) {
            return Ok(None);
        }
        locked = lock(config, owner);
    }
    if delay_after_failures(owner, early_signals, signals) {
        return Ok(None);
    }
    loop {
        match open(config, owner) {
            Ok((store, registry, supervisor)) => {
                standby.stop();
                let prepared = PreparedStart { started_at, store, registry, sockets, supervisor };
                return Ok(Some(prepared));
            }
            Err(error) => wait_log.log(error)?,
        }
        if let Some(lock) = owner.lock.get() {
            reserve::release_if_full(lock.path());
        }
        if early_signals.wait(signals, RETRY) {
            return Ok(None);
        }
    }
}

/// Logs why the server waits: at first, when the reason changes, and then rarely.
#[derive(Default)]
struct WaitLog {
    last: Option<(String, Instant)>,
}

impl WaitLog {
    /// Logs an error that can pass.
    ///
    /// # Errors
    /// The error cannot pass by itself.
    fn log(&mut self, error: OpenError) -> Result<(), ExitError> {
        let OpenError::Transient(text) = error else { return Err(error.into()) };
        let is_recent =
            |(last, at): &(String, Instant)| *last == text && at.elapsed() < LOG_INTERVAL;
        if !self.last.as_ref().is_some_and(is_recent) {
            log::error!("{text}: waiting until this changes, senders get 503");
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
            .map_err(|e| store::io_error(folder, "cannot be created: change store.path", &e))?;
    }
    let lock = Lock::acquire(path)?;
    let _ = owner.lock.set(lock);
    Ok(())
}

/// Waits before the start if the runs before failed soon after theirs, because systemd restarts the server
/// at once each time. Returns whether a signal ended the wait.
fn delay_after_failures(
    owner: &Owner,
    early_signals: &mut EarlySignals,
    signals: &mut Signals,
) -> bool {
    let Some(run) = owner.lock.get().map(Lock::run) else { return false };
    let delay = run.delay();
    if delay.is_zero() {
        return false;
    }
    let text = format!(
        "the last {} runs of this server ended soon after their start: waiting {delay:?} before this \
         start, senders get 503",
        run.failures
    );
    log::error!("{text}");
    notify::send(&[NotifyState::Status(&text)]);
    let is_stopped = early_signals.wait(signals, delay);
    // The wait does not count as a run.
    if let Some(lock) = owner.lock.get() {
        lock.restart_run();
    }
    is_stopped
}

/// Opens, checks and recovers the database. The write-ahead log is copied into the file and synced first:
/// after a failed sync of an earlier process, the log's pages may not be on disk until then.
fn open(config: &Config, owner: &Owner) -> Result<(Store, Registry, Arc<Supervisor>), OpenError> {
    let lock = owner.lock.get().ok_or_else(|| OpenError::Other("there is no lock".to_owned()))?;
    let path = lock.path();
    let store = store::open(&config.store.path, config.store.durability)?;
    if store.files.database() != lock.id() {
        let text = "was replaced during the start: find out which program does that";
        return Err(OpenError::Other(format!("{}: {text}", path.display())));
    }
    let recover = || {
        if !checkpoint::truncate(&store.conn)? {
            log::warn!(
                "{}: a reader keeps the write-ahead log from being truncated",
                path.display()
            );
        }
        let supervisor = Supervisor::new(&store.database_id);
        supervisor.become_subreaper()?;
        let registry = register(&store, config)?;
        let interrupted = recovery::recover_after_crash(&store, config, &registry, &supervisor)?;
        if interrupted > 0 {
            log::warn!("{interrupted} jobs were running when the server ended: they are retried");
        }
        Ok((registry, supervisor))
    };
    let (registry, supervisor) = recover().map_err(|e| store::open_error_text(path, &e))?;
    warn_about_rescued(path);
    Ok((store, registry, supervisor))
}

fn warn_about_rescued(path: &Path) {
    for rescued in rescue::find_rescued(path) {
        log::warn!(
            "{}: an earlier server saved its events here when its database was removed or replaced: remove \
             this file when you no longer need it",
            rescued.display()
        );
    }
}

fn register(store: &Store, config: &Config) -> anyhow::Result<Registry> {
    let (sources, handlers) = registration_names(config);
    let (registry, _) =
        write_directly(store, |tx, _| Ok(operation::register(tx, &sources, &handlers)?))?;
    Ok(registry)
}

/// Starts the thread that answers senders when the start takes long, and asks systemd for more time.
fn start_standby(
    sockets: &Sockets,
    limits: TimeLimits,
    tls: &Arc<TlsSlot>,
) -> anyhow::Result<StoppableThread> {
    let sockets = sockets.try_clone().context("the sockets cannot be duplicated")?;
    let (stop, stopped) = bounded(0);
    let tls = Arc::clone(tls);
    let run = move || stand_by(&sockets, limits, tls, &stopped);
    let thread = std::thread::Builder::new().name("start".into()).spawn(run)?;
    Ok(StoppableThread { stop, thread })
}

fn stand_by(sockets: &Sockets, limits: TimeLimits, tls: Arc<TlsSlot>, stopped: &Receiver<()>) {
    if stopped.recv_timeout(STANDBY_AFTER) != Err(RecvTimeoutError::Timeout) {
        return;
    }
    let standby = Standby::start(sockets, limits, tls);
    if let Err(e) = &standby {
        log::error!("senders get no response while the server waits: {e:#}");
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
