//! Puts the server together and takes it apart in reverse.
//!
//! Start: lock, file, what was left behind, listeners, then writer, dispatcher, workers, upkeep,
//! intake. Stop: no new jobs, running ones end, intake ends, then the rest by dropping senders.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use arc_swap::ArcSwap;
use crossbeam_channel::{Sender, bounded};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::config::{self, Config, LoadedConfig, Secrets};
use crate::dispatcher::{self, Dispatcher, HandlerMap, Scheduler, WriterListener};
use crate::domain::HandlerId;
use crate::expander::{self, Expander, Judges};
use crate::expression::EvaluatorPool;
use crate::handler::HandlerRuntime;
use crate::maintenance::alerts::{AlertSubscribers, AlertSubscription};
use crate::process::{self, GRACE};
use crate::redact::Redactor;
use crate::store::deferrals::Deferrals;
use crate::store::handle::{Health, WriterHandle, WriterHealth};
use crate::store::registry::Registry;
use crate::store::source_counters::SourceCounters;
use crate::store::{
    self, OpenError, ReadPool, RunState, Store, audit, checkpoint, open_files,
    operation::Operation, writer,
};
use crate::web::{self, IntakeState};
use crate::worker::task_builder::{SourcePaths, TaskBuilder};
use crate::worker::{self, RunningJobs, StopReason, WorkerContext};
use crate::{clock, notify};

mod files;
mod handlers;
mod maintenance;
mod start;

pub use handlers::build_handler;
use handlers::{build_handlers, close_replaced, judges, registration_names, source_paths};
use start::{Arrived, Owner, Prepared};

/// A server that can't start, or could not end well: the text is for its owner.
#[derive(Debug)]
pub struct ExitError {
    pub code: u8,
    pub text: String,
}

impl ExitError {
    fn other(error: impl std::fmt::Display) -> Self {
        Self { code: 1, text: format!("{error:#}") }
    }

    fn config(text: impl std::fmt::Display) -> Self {
        Self { code: 78, text: text.to_string() }
    }
}

impl From<OpenError> for ExitError {
    fn from(error: OpenError) -> Self {
        let code = if matches!(error, OpenError::Owned(_)) { 75 } else { 1 };
        Self { code, text: error.to_string() }
    }
}

/// Serves until a signal ends it.
///
/// # Errors
/// Why it could not start.
pub fn serve(file: &Path) -> Result<(), ExitError> {
    let owner = Owner::default();
    abort_on_thread_panic(owner.clone());
    let (loaded, secrets, redactor) = load(file).map_err(ExitError::config)?;
    // A file-size limit is a full disk to us, not a reason to die.
    ignore_sigxfsz();
    let files_max = process::raise_file_limit();
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(ExitError::other)?;
    let served = serve_until_signal(loaded, (&secrets, redactor), files_max, &mut signals, &owner);
    owner.record(if served.is_ok() { RunState::Stopped } else { RunState::Failed });
    served
}

fn serve_until_signal(
    loaded: LoadedConfig,
    secrets: (&Secrets, Arc<Redactor>),
    files_max: u64,
    signals: &mut Signals,
    owner: &Owner,
) -> Result<(), ExitError> {
    let mut arrived = Arrived::default();
    let config = loaded.config;
    let Some(prepared) = start::prepare(&config, &mut arrived, signals, owner)? else {
        log::info!("stopped before it could start");
        return Ok(());
    };
    let server = Server::start(config, secrets, files_max, prepared, owner)?;
    owner.record(RunState::Ready);
    if arrived.reload {
        server.reload();
    }
    for signal in signals.forever() {
        if signal != SIGHUP {
            break;
        }
        server.reload();
    }
    server.stop(signals);
    Ok(())
}

/// Reads config.toml and its secrets; all faults at once. From here on no log line shows one of them,
/// nor one of those before.
fn load(file: &Path) -> Result<(LoadedConfig, Secrets, Arc<Redactor>), String> {
    let loaded = config::load(file).map_err(|faults| faults.to_string())?;
    let (secrets, missing) = config::read_secrets(&loaded);
    let redactor =
        crate::log::redactor().with(secrets.texts_to_redact(&loaded.config)).map(Arc::new);
    let redactor = redactor.map_err(|e| format!("secrets can't be kept out of the log: {e:#}"))?;
    crate::log::redact_by(Arc::clone(&redactor));
    if !missing.is_empty() {
        let lines: Vec<String> = missing.iter().map(ToString::to_string).collect();
        return Err(lines.join("\n"));
    }
    for warning in &loaded.warnings {
        log::warn!("{warning}");
    }
    for warning in config::secret_warnings(&loaded, &secrets) {
        log::warn!("{warning}");
    }
    Ok((loaded, secrets, redactor))
}

/// A fault in one of the server's own threads ends the process, which systemd starts again: a server
/// without its writer would only look alive. Workers catch theirs, and the job fails.
fn abort_on_thread_panic(owner: Owner) {
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("?");
        log::error!("a fault in hooktrail, thread {name}: {}", fault(panic));
        if !name.starts_with("worker-") {
            owner.record(RunState::Failed);
            crate::log::exit(1);
        }
    }));
}

/// Where a thread panicked, and its message where that is a literal: any other may quote a request, as
/// that of a string cut within a letter does.
fn fault(panic: &std::panic::PanicHookInfo<'_>) -> String {
    let at = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    match panic.payload().downcast_ref::<&'static str>() {
        Some(text) => format!("panicked at {at}: {text}"),
        None => format!("panicked at {at}"),
    }
}

fn ignore_sigxfsz() {
    // SAFETY: SIG_IGN runs no code of ours; nothing else sets this signal's disposition.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

struct Server {
    file: PathBuf,
    config: ArcSwap<Config>,
    gate: Arc<IntakeState>,
    hub: Arc<Scheduler>,
    running: Arc<RunningJobs>,
    tally: Arc<SourceCounters>,
    paths: SourcePaths,
    handlers: ArcSwap<HashMap<HandlerId, Arc<HandlerRuntime>>>,
    alert_subscribers: AlertSubscription,
    judges: Judges,
    expander: JoinHandle<()>,
    writer: WriterHandle,
    intake: web::RunningServers,
    upkeep: (Sender<()>, JoinHandle<()>),
    /// In the order of their start, but for upkeep.
    threads: Vec<JoinHandle<()>>,
    /// Ends before the writer closes the files, which removes the log.
    file_watch: (Sender<()>, JoinHandle<()>),
}

impl Server {
    fn start(
        config: Config,
        secrets: (&Secrets, Arc<Redactor>),
        files_max: u64,
        prepared: Prepared,
        owner: &Owner,
    ) -> Result<Self, ExitError> {
        let Prepared { began, store, registry, sockets } = prepared;
        let sockets = (sockets, files::connections_max(&config, files_max));
        let server = Self::run(config, store, &registry, secrets, sockets, owner)
            .map_err(ExitError::other)?;
        for line in web::startup_banner(&server.config.load(), &server.intake) {
            log::info!("{line}");
        }
        log::debug!("started in {:?}", began.elapsed());
        notify::send(&[NotifyState::Ready]);
        Ok(server)
    }

    fn run(
        config: Config,
        store: Store,
        registry: &Registry,
        (secrets, redactor): (&Secrets, Arc<Redactor>),
        (sockets, connections_max): (web::Sockets, usize),
        owner: &Owner,
    ) -> anyhow::Result<Self> {
        let health = Arc::<WriterHealth>::default();
        let (running, tally) = (Arc::<RunningJobs>::default(), Arc::<SourceCounters>::default());
        let deferrals = Arc::<Deferrals>::default();
        let of_gate = Arc::clone(&deferrals);
        let workers = config.workers.threads;
        let readers = store::readers(&store, u32::try_from(workers + 3)?)?;
        let (trail, clock, database) = (store.database_id.clone(), store.clock, store.path.clone());
        let counts = tally.set_watched(&web::sources_with_queue_limit(&config, registry));
        let maker = maker(&config, readers.clone(), trail, &database);
        let (paths, expressions) = (Arc::clone(&maker.paths), maker.expressions.clone());

        let (holds, held) = bounded(1);
        let end = on_fatal_store_error(Arc::clone(&health), owner.clone());
        let (nudge, checkpoints) = checkpoint::start(&store, config.store.durability, end, holds)?;
        let of_trail =
            maintenance::MaintenanceInputs { database, readers: readers.clone(), clock, held };
        let (to, from) = bounded(workers);
        let hub = Arc::new(Scheduler::new(workers, clock, to, &store::breaker::all(&store.conn)?));
        let end = on_fatal_store_error(Arc::clone(&health), owner.clone());
        let ear = WriterListener { hub: Arc::clone(&hub), broken: Box::new(end) };
        let (stop_watch, watch_stopped) = bounded(0);
        let watching =
            open_files::watch(Arc::clone(&store.files), Arc::clone(&health), watch_stopped)?;
        let (writer, writing) =
            writer::start(store, nudge, Arc::clone(&tally), Box::new(ear), health, deferrals)?;
        let handlers = build_handlers(&config, registry, secrets, &HandlerMap::default());
        let dispatcher = Dispatcher {
            hub: Arc::clone(&hub),
            writer: writer.clone(),
            readers,
            running: Arc::clone(&running),
        };
        let dispatching = dispatcher::start(dispatcher, Arc::clone(&handlers))?;
        let judges = Judges::new(ArcSwap::from_pointee(judges(&config, registry)));
        let expander = expander::start(Expander {
            deferrals: Arc::clone(&of_gate),
            writer: writer.clone(),
            maker: maker.clone(),
            judges: Arc::clone(&judges),
        })?;
        let shared =
            WorkerContext { from, maker, writer: writer.clone(), running: Arc::clone(&running) };
        let mut threads = vec![checkpoints, writing, dispatching];
        threads.extend(worker::start(workers, &shared)?);

        let secrets = (secrets, &redactor);
        let gate = IntakeState::new(
            writer.clone(),
            &config,
            registry,
            secrets,
            counts,
            expressions,
            of_gate,
        );
        let gate = Arc::new(gate);
        let told =
            AlertSubscription::new(AlertSubscribers::new(&config, registry).map(Arc::new).into());
        let upkeep =
            maintenance::start_maintenance(&gate, &config, (&told, &tally), &running, of_trail)?;
        let intake = web::listen(sockets, connections_max, &gate)?;
        Ok(Self {
            file: config.file.clone(),
            config: ArcSwap::from_pointee(config),
            gate,
            hub,
            running,
            tally,
            paths,
            handlers: ArcSwap::new(Arc::clone(&handlers)),
            alert_subscribers: told,
            judges,
            expander,
            writer,
            intake,
            upkeep,
            threads,
            file_watch: (stop_watch, watching),
        })
    }

    /// Reads config.toml again: all or nothing.
    fn reload(&self) {
        let mut states = vec![NotifyState::Reloading];
        states.extend(NotifyState::monotonic_usec_now());
        notify::send(&states);
        let status = match self.apply_config() {
            Ok(()) => {
                log::info!("{}: read again", self.file.display());
                "read config.toml again".to_owned()
            }
            Err(e) => {
                for line in format!("{e:#}").lines() {
                    log::error!("{line}");
                }
                log::error!("{}: not taken over: the old one stays", self.file.display());
                "config.toml was not taken over, see the log".to_owned()
            }
        };
        notify::send(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    fn apply_config(&self) -> anyhow::Result<()> {
        let (loaded, secrets, redactor) = load(&self.file).map_err(anyhow::Error::msg)?;
        let config = loaded.config;
        let refusals = config::restart_required(&self.config.load(), &config);
        anyhow::ensure!(refusals.is_empty(), "{}", refusals.join("\n"));
        let (reply, registered) = bounded(1);
        let (sources, handlers) = registration_names(&config);
        self.writer.send(Operation::Register { sources, handlers, reply });
        let registry = registered.recv().context("the trail can't be written now")?;
        // A limit that is new holds from its first event on: the queue is counted before.
        let limited = web::sources_with_queue_limit(&config, &registry);
        let counts = self.tally.set_watched(&limited);
        let (reply, counted) = bounded(1);
        self.writer.send(Operation::Recount(reply));
        counted.recv().context("the trail can't be read now")?;
        self.gate.configure(&config, &registry, (&secrets, &redactor), counts);
        self.tally.retain(&limited);
        self.paths.store(Arc::new(source_paths(&config)));
        self.judges.store(Arc::new(judges(&config, &registry)));
        self.gate.deferrals.wake();
        let before = self.handlers.load_full();
        let handlers = build_handlers(&config, &registry, &secrets, &before);
        self.handlers.store(Arc::clone(&handlers));
        self.hub.configure(Arc::clone(&handlers));
        close_replaced(&before, &handlers);
        self.alert_subscribers.store(AlertSubscribers::new(&config, &registry).map(Arc::new));
        self.config.store(Arc::new(config));
        self.writer.send(Operation::Audit(audit::AuditEntry {
            at_ms: clock::wall_ms(),
            who: "SIGHUP".to_owned(),
            via: "signal",
            action: "reload".to_owned(),
            target: None,
            jobs: 0,
            reason: None,
        }));
        Ok(())
    }

    /// No new jobs; running ones get their time; intake ends last.
    fn stop(self, signals: &mut Signals) {
        notify::send(&[NotifyState::Stopping]);
        let patience = self.config.load().workers.shutdown_timeout;
        log::info!("stopping: {} running jobs get {patience:?} to end", self.running.count());
        self.hub.stop();
        self.wait_for_jobs(patience, || signals.pending().any(|signal| signal != SIGHUP));
        if self.hub.busy() > 0 {
            log::warn!("ending {} jobs: they are put back", self.running.count());
            let began = Instant::now();
            while self.hub.busy() > 0 && began.elapsed() < GRACE * 2 {
                self.running.end_all(StopReason::Shutdown);
                self.wait_for_jobs(Duration::from_millis(200), || false);
            }
        }
        // Before intake: what stays until the end of its input may take its time over it.
        self.handlers.load().values().for_each(|ready| ready.kind.close());
        process::wait_for_drained(GRACE * 2);
        self.intake.stop(&self.gate);
        let (stop_upkeep, upkeep) = self.upkeep;
        drop(stop_upkeep);
        let _ = upkeep.join();
        let (stop_watch, watching) = self.file_watch;
        drop(stop_watch);
        let _ = watching.join();
        self.hub.shut_down();
        self.gate.deferrals.close();
        let _ = self.expander.join();
        drop((self.writer, self.gate));
        for thread in self.threads.into_iter().rev() {
            let _ = thread.join();
        }
        process::wait_for_drained(GRACE * 2);
        log::info!("stopped");
    }

    fn wait_for_jobs(&self, patience: Duration, mut hurry: impl FnMut() -> bool) {
        let deadline = Instant::now() + patience;
        while self.hub.busy() > 0 && Instant::now() < deadline && !hurry() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What makes tasks of claims.
fn maker(config: &Config, readers: ReadPool, trail: String, database: &Path) -> TaskBuilder {
    // Large items are written beside the trail: a folder for temporary files may be memory.
    let folder = database.parent().unwrap_or(Path::new("."));
    let expressions = EvaluatorPool::new(folder, &trail);
    let paths = SourcePaths::new(ArcSwap::from_pointee(source_paths(config)));
    TaskBuilder { readers, expressions, paths, trail }
}

/// What is done when nothing more can be promised: senders get 503 for a moment, the log says why,
/// and the process ends without a checkpoint, which would write what may not be on disk.
fn on_fatal_store_error(health: Arc<WriterHealth>, owner: Owner) -> impl Fn(&str) + Send + 'static {
    move |why| {
        health.set(Health::Broken);
        owner.record(RunState::Failed);
        log::error!("{why}: nothing more can be promised by this process, it ends");
        let leave = || {
            std::thread::sleep(Duration::from_millis(300));
            crate::log::exit(1);
        };
        if std::thread::Builder::new().name("leave".into()).spawn(leave).is_err() {
            crate::log::exit(1);
        }
    }
}
