//! The server: starts its parts in order, reloads the configuration, and stops the parts in reverse.
//!
//! Start: lock, database, recovery, listeners; then writer, workers, maintenance and intake.
//! Stop: no new jobs, running jobs end, intake ends; then the other threads end because the senders of
//! their channels are dropped.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use arc_swap::ArcSwap;
use crossbeam_channel::{Sender, bounded};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::admin::{self, AdminInputs};
use crate::clock::MonotonicClock;
use crate::config::{self, Config, ConfigErrors, LoadedConfig, Secrets, ValidityProblem};
use crate::expander::{self, Expander, Planners};
use crate::expression::EvaluatorPool;
use crate::handler::LookupLimit;
use crate::jetstream::{NATS_THREAD, NatsThread, ReaderStates};
use crate::maintenance::alerts::{AlertSubscribers, AlertSubscription};
use crate::maintenance::failure_log::FailureLog;
use crate::maintenance::retention::{self, RetentionInputs};
use crate::maintenance::settlements::SettlementSignal;
use crate::metrics::Metrics;
use crate::process::{self, GRACE, Supervisor};
use crate::redact::Redactor;
use crate::store::deferrals::Deferrals;
use crate::store::handle::{Health, WriterHandle, WriterHealth};
use crate::store::registry::Registry;
use crate::store::source_counters::SourceCounters;
use crate::store::writer::{WorkerLink, WriterInputs};
use crate::store::{
    self, ReadPool, ReloadRecord, RunState, ServerInfo, Store, audit, checkpoint, open_files,
    operation::Operation, writer,
};
use crate::web::{self, IntakeState};
use crate::worker::task_builder::{SourcePaths, TaskBuilder};
use crate::worker::{self, HandlerMap, RunningJobs, StopReason, WorkerContext};
use crate::{clock, notify};

mod certificates;
mod consumers;
mod exit_error;
mod files;
mod handlers;
mod listeners;
mod maintenance;
mod metrics;
mod start;
mod start_check;

use certificates::{Certificates, FileStamps, LoadedCertificate};
use consumers::Consumers;
pub use exit_error::ExitError;
pub use handlers::build_handler;
use handlers::{
    build_handlers, close_replaced, deferred_planners, handler_table, registration_names,
    source_paths,
};
use listeners::Listeners;
use maintenance::SettlementThread;
use start::{EarlySignals, Owner, PreparedStart};
pub use start_check::check_start;

/// Runs the server until a signal ends it.
///
/// # Errors
/// The server cannot start.
pub fn serve(file: &Path) -> Result<(), ExitError> {
    let owner = Owner::default();
    abort_on_thread_panic(owner.clone());
    // Before all that takes time: a SIGHUP without its handler would end the process.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(ExitError::other)?;
    let files = load(file).map_err(|e| ExitError { code: 78, ..ExitError::other(e) })?;
    if let Err(e) = files.check_validity() {
        // Handlers run, and senders that do not check the certificate are heard.
        log::error!("{e:#}");
    }
    process::ignore_file_size_signal();
    let files_max = process::raise_file_limit();
    let served = serve_until_signal(files, files_max, &mut signals, &owner);
    owner.record(if served.is_ok() { RunState::Stopped } else { RunState::Failed });
    served
}

fn serve_until_signal(
    files: ConfigFiles,
    files_max: u64,
    signals: &mut Signals,
    owner: &Owner,
) -> Result<(), ExitError> {
    let mut early_signals = EarlySignals::default();
    let ConfigFiles { loaded, secrets, redactor, tls } = files;
    let config = loaded.config;
    let certificates = Arc::new(Certificates::new(tls));
    let prepared = start::prepare(&config, &certificates.slot, &mut early_signals, signals, owner)?;
    let Some(prepared) = prepared else {
        log::info!("stopped by a signal before the start was complete");
        return Ok(());
    };
    let secrets = (&secrets, redactor);
    let server = Server::start(config, secrets, (files_max, certificates), prepared, owner)?;
    owner.record(RunState::Ready);
    owner.describe(|info| {
        let now_ms = clock::wall_ms();
        let addresses = server.listeners.addresses();
        *info = ServerInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config: server.file.display().to_string(),
            ready_at_ms: now_ms,
            loaded_at_ms: now_ms,
            reload_rejected_at_ms: None,
            last_reload: None,
            problems: Vec::new(),
            intake: addresses.intake,
            admin: addresses.admin,
        };
    });
    if early_signals.reload {
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

/// Why a reload fails that can't be written down.
const UNWRITABLE: &str = "the database can't be written now: the log says why: try again";

/// config.toml and the files that it names.
struct ConfigFiles {
    loaded: LoadedConfig,
    secrets: Secrets,
    redactor: Arc<Redactor>,
    tls: Option<LoadedCertificate>,
}

impl ConfigFiles {
    /// Whether the certificate of `server.tls` is valid now.
    ///
    /// # Errors
    /// It has expired, or is not valid yet.
    fn check_validity(&self) -> anyhow::Result<()> {
        let Some(tls) = &self.tls else { return Ok(()) };
        match config::validity_problem(&tls.config, &tls.identity, clock::wall_ms()) {
            Some(ValidityProblem::Invalid(text)) => {
                anyhow::bail!(config::at_certificate(&self.loaded, &text))
            }
            Some(ValidityProblem::Expiring(_)) | None => Ok(()),
        }
    }
}

/// Reads config.toml and its secrets and reports all errors at once. From here on the log redacts these
/// secrets and those of the configuration before.
fn load(file: &Path) -> anyhow::Result<ConfigFiles> {
    let loaded = config::load(file)?;
    let (secrets, missing) = config::read_secrets(&loaded);
    let redactor = crate::log::redactor().with(secrets.texts_to_redact(&loaded.config));
    let redactor = Arc::new(redactor.context("secrets cannot be redacted from the log")?);
    crate::log::redact_by(Arc::clone(&redactor));
    let stamps = loaded.config.server.tls.as_ref().map(FileStamps::of);
    let (mut errors, tls) = (missing, config::read_tls(&loaded));
    if let Err(ConfigErrors(of_tls)) = &tls {
        errors.extend(of_tls.iter().cloned());
    }
    anyhow::ensure!(errors.is_empty(), ConfigErrors(errors));
    for warning in &loaded.warnings {
        log::warn!("{warning}");
    }
    let warnings = config::secret_warnings(&loaded, &secrets);
    for warning in warnings.iter().chain(&start_check::machine_warnings(&loaded)) {
        log::warn!("{warning}");
    }
    let tls = loaded.config.server.tls.clone().zip(tls?).zip(stamps);
    let tls =
        tls.map(|((config, identity), stamps)| LoadedCertificate { config, identity, stamps });
    Ok(ConfigFiles { loaded, secrets, redactor, tls })
}

/// Ends the process when a thread of the server panics, so that systemd restarts it: a server without
/// its writer would only look alive. A worker catches its panics, and the job fails. The runtime of the thread of NATS catches
/// them too: async-nats panics at a header that has a control character, which any publisher can send.
fn abort_on_thread_panic(owner: Owner) {
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("?");
        log::error!("internal error in thread {name}: {}", panic_text(panic));
        if !name.starts_with("worker-") && name != NATS_THREAD {
            owner.record(RunState::Failed);
            crate::log::exit(1);
        }
    }));
}

/// The place of a panic, and its message if that is a literal. Any other message may quote a request:
/// the panic of a string that is cut within a character does.
fn panic_text(panic: &std::panic::PanicHookInfo<'_>) -> String {
    let at = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    match panic.payload().downcast_ref::<&'static str>() {
        Some(text) => format!("panicked at {at}: {text}"),
        None => format!("panicked at {at}"),
    }
}

/// A thread that ends when its channel is closed.
struct StoppableThread {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl StoppableThread {
    fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

/// A running server.
struct Server {
    file: PathBuf,
    owner: Owner,
    config: Arc<ArcSwap<Config>>,
    intake_state: Arc<IntakeState>,
    supervisor: Arc<Supervisor>,
    running: Arc<RunningJobs>,
    source_counters: Arc<SourceCounters>,
    paths: SourcePaths,
    handlers: Arc<ArcSwap<HandlerMap>>,
    /// The thread of all connections to NATS.
    nats: NatsThread,
    consumers: Consumers,
    alert_subscribers: AlertSubscription,
    settlements: SettlementThread,
    planners: Planners,
    expander: JoinHandle<()>,
    readers: ReadPool,
    clock: MonotonicClock,
    writer: WriterHandle,
    listeners: Listeners,
    certificates: Arc<Certificates>,
    /// The limit on open files.
    files_max: u64,
    maintenance: StoppableThread,
    retention: StoppableThread,
    failure_log: Arc<FailureLog>,
    /// The other threads in the order of their start.
    threads: Vec<JoinHandle<()>>,
    /// Ends before the writer closes the database, because closing it removes the write-ahead log.
    file_watch: StoppableThread,
}

impl Server {
    fn start(
        config: Config,
        secrets: (&Secrets, Arc<Redactor>),
        (files_max, certificates): (u64, Arc<Certificates>),
        prepared: PreparedStart,
        owner: &Owner,
    ) -> Result<Self, ExitError> {
        let PreparedStart { started_at, store, registry, sockets, supervisor } = prepared;
        let listening = (sockets, certificates, files_max);
        let server = Self::run(config, store, &registry, secrets, listening, owner, supervisor)
            .map_err(ExitError::other)?;
        for line in web::startup_banner(&server.config.load(), &server.listeners.addresses()) {
            log::info!("{line}");
        }
        log::debug!("started in {:?}", started_at.elapsed());
        notify::send(&[NotifyState::Ready]);
        Ok(server)
    }

    fn run(
        config: Config,
        store: Store,
        registry: &Registry,
        (secrets, redactor): (&Secrets, Arc<Redactor>),
        (sockets, certificates, files_max): (web::Sockets, Arc<Certificates>, u64),
        owner: &Owner,
        supervisor: Arc<Supervisor>,
    ) -> anyhow::Result<Self> {
        let health = Arc::<WriterHealth>::default();
        let running = Arc::<RunningJobs>::default();
        let source_counters = Arc::<SourceCounters>::default();
        let deferrals = Arc::<Deferrals>::default();
        let intake_deferrals = Arc::clone(&deferrals);
        let workers = config.workers.threads;
        let readers = store::read_pool(&store, u32::try_from(workers + 8)?)?;
        let (clock, database) = (store.clock, store.path.clone());
        let counters =
            source_counters.set_watched(&web::sources_with_queue_limit(&config, registry));
        let task_builder = build_task_builder(&config, readers.clone(), &supervisor, &database);
        let paths = Arc::clone(&task_builder.paths);
        let expressions = task_builder.expressions.clone();
        let (admin_database, admin_task_builder) = (database.clone(), task_builder.clone());
        let admin_files = Arc::clone(&store.files);

        let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION"), clock::wall_ms()));
        metrics::configure(&metrics, &config, registry, (&readers, clock));

        let (report_blocked_wal, blocked_wal) = bounded(1);
        let on_broken = on_fatal_store_error(Arc::clone(&health), owner.clone());
        let (checkpoint_signal, checkpoint_thread) =
            checkpoint::start(&store, config.store.durability, on_broken, report_blocked_wal)?;
        let failure_log = Arc::<FailureLog>::default();
        let dead_job_log = Arc::clone(&failure_log);
        let (settlement_signal, woken) = SettlementSignal::new();
        let on_settled_jobs = settlement_signal.clone();
        let reader_states = Arc::<ReaderStates>::default();
        let maintenance_inputs = maintenance::MaintenanceInputs {
            database,
            readers: readers.clone(),
            clock,
            failure_log: Arc::clone(&failure_log),
            blocked_wal,
            certificates: Arc::clone(&certificates),
            reader_states: Arc::clone(&reader_states),
            owner: owner.clone(),
        };
        let (send_assignment, assignments) = bounded(workers);
        let on_broken = on_fatal_store_error(Arc::clone(&health), owner.clone());
        let (stop, stopped) = bounded(0);
        let thread = open_files::watch(Arc::clone(&store.files), Arc::clone(&health), stopped)?;
        let file_watch = StoppableThread { stop, thread };
        let nats = NatsThread::default();
        let handlers = build_handlers(&config, registry, secrets, &nats, &HandlerMap::default());
        let cancelled = Arc::clone(&running);
        let workers_link = WorkerLink {
            threads: workers,
            assignments: send_assignment,
            cancel: Box::new(move |claims| cancelled.cancel(claims)),
        };
        let writer_inputs = WriterInputs {
            checkpoint_signal,
            health,
            deferrals,
            metrics: Arc::clone(&metrics),
            on_dead_job: Box::new(move |dead_job| dead_job_log.log_dead_job(dead_job)),
            on_settled_jobs: Box::new(move || on_settled_jobs.wake()),
            on_broken: Box::new(on_broken),
        };
        let (writer, writer_thread) = writer::start(
            store,
            Arc::clone(&source_counters),
            workers_link,
            handler_table(&handlers),
            writer_inputs,
        )?;
        let handlers = Arc::new(ArcSwap::new(handlers));
        let planners = Planners::new(ArcSwap::from_pointee(deferred_planners(&config, registry)));
        let expander = expander::start(Expander {
            deferrals: Arc::clone(&intake_deferrals),
            writer: writer.clone(),
            task_builder: task_builder.clone(),
            planners: Arc::clone(&planners),
        })?;
        let worker_context = WorkerContext {
            assignments,
            handlers: Arc::clone(&handlers),
            task_builder,
            writer: writer.clone(),
            running: Arc::clone(&running),
            metrics: Arc::clone(&metrics),
        };
        let mut threads = vec![checkpoint_thread, writer_thread];
        threads.extend(worker::start(workers, &worker_context)?);

        let scrape_inputs = metrics::ScrapeInputs {
            readers: readers.clone(),
            expressions: expressions.clone(),
            writer: writer.clone(),
            database: maintenance_inputs.database.clone(),
            worker_threads: workers,
            min_free_disk_bytes: config.store.min_free_bytes,
            reader_states: Arc::clone(&reader_states),
        };
        let exporter = metrics::exporter(&metrics, scrape_inputs);
        let tokens = admin::load_tokens(&config, secrets);
        let redactor = redact_tokens(&redactor, &tokens)?;
        let secrets = (secrets, &redactor);
        let shared_intake = Arc::new(IntakeState::new(
            writer.clone(),
            &config,
            registry,
            secrets,
            counters,
            (expressions, exporter),
            intake_deferrals,
        ));
        let alert_subscribers =
            AlertSubscription::new(AlertSubscribers::new(&config, registry).map(Arc::new).into());
        let maintenance = maintenance::start_maintenance(
            &shared_intake,
            &config,
            (&alert_subscribers, &source_counters),
            &running,
            maintenance_inputs,
        )?;
        let settlements = SettlementThread::start(
            &shared_intake,
            (&config, registry),
            readers.clone(),
            (settlement_signal, woken),
        )?;
        let (file, config) = (config.file.clone(), Arc::new(ArcSwap::from_pointee(config)));
        let (stop, stopped) = bounded(0);
        let admin_config = Arc::clone(&config);
        let admin_readers = readers.clone();
        let admin_inputs = |intake: &Arc<IntakeState>| AdminInputs {
            config: admin_config,
            intake: Arc::clone(intake),
            readers: admin_readers,
            clock,
            database: admin_database,
            files: admin_files,
            task_builder: admin_task_builder,
            running: Arc::clone(&running),
            reader_states: Arc::clone(&reader_states),
        };
        let inputs = RetentionInputs {
            config: Arc::clone(&config),
            readers: readers.clone(),
            clock,
            writer: writer.clone(),
        };
        let retention = StoppableThread { stop, thread: retention::start(inputs, stopped)? };
        let connections_max = files::connections_max(&config.load(), files_max);
        let slot = Arc::clone(&certificates.slot);
        let intake = web::start_intake(connections_max, &shared_intake, slot)?;
        let admin = admin::start(&tokens, admin_inputs(&shared_intake))?;
        let listeners = Listeners::open(intake, admin, sockets)?;
        let consumers =
            Consumers::new(nats.clone(), Arc::clone(&shared_intake), Arc::clone(&reader_states));
        consumers.configure(&config.load(), registry, secrets.0);
        Ok(Self {
            file,
            owner: owner.clone(),
            config,
            intake_state: shared_intake,
            supervisor,
            running,
            source_counters,
            paths,
            handlers,
            nats,
            consumers,
            alert_subscribers,
            settlements,
            planners,
            expander,
            readers,
            clock,
            writer,
            listeners,
            certificates,
            files_max,
            maintenance,
            retention,
            threads,
            failure_log,
            file_watch,
        })
    }

    /// Reloads config.toml. If it has an error, the old configuration stays in force.
    fn reload(&self) {
        let mut states = vec![NotifyState::Reloading];
        states.extend(NotifyState::monotonic_usec_now());
        notify::send(&states);
        let started_boot_ms = clock::boot_ms();
        let applied = self.apply_config();
        let now_ms = clock::wall_ms();
        let text = applied.as_ref().err().map(|e| format!("{e:#}")).unwrap_or_default();
        let errors = text.lines().map(str::to_owned).collect();
        self.owner.describe(|info| {
            match &applied {
                Ok(()) => (info.loaded_at_ms, info.reload_rejected_at_ms) = (now_ms, None),
                Err(_) => info.reload_rejected_at_ms = Some(now_ms),
            }
            info.last_reload = Some(ReloadRecord { started_boot_ms, errors });
        });
        let status = match applied {
            Ok(()) => {
                log::info!("{}: reloaded", self.file.display());
                "reloaded config.toml".to_owned()
            }
            Err(_) => {
                text.lines().for_each(|line| log::error!("{line}"));
                log::error!(
                    "{}: not reloaded: the old configuration stays in force",
                    self.file.display()
                );
                "config.toml was not reloaded, see the log".to_owned()
            }
        };
        notify::send(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    /// Applies the file's configuration to all parts of the server, or to none.
    fn apply_config(&self) -> anyhow::Result<()> {
        let files = load(&self.file)?;
        files.check_validity()?;
        let ConfigFiles { loaded, secrets, redactor, tls } = files;
        let config = loaded.config;
        let tokens = admin::load_tokens(&config, &secrets);
        let redactor = redact_tokens(&redactor, &tokens)?;
        let rejected = config::restart_required(&self.config.load(), &config);
        anyhow::ensure!(rejected.is_empty(), "{}", rejected.join("\n"));
        let rebound = self.listeners.rebind(&config)?;
        let (reply, registered) = bounded(1);
        let (sources, handlers) = registration_names(&config);
        self.writer.send(Operation::Register { sources, handlers, reply });
        let registry = registered.recv().map_err(|_| anyhow::anyhow!(UNWRITABLE))?;
        // A new limit holds from the first event on, so the queue is counted before it is set.
        let limited = web::sources_with_queue_limit(&config, &registry);
        let counters = self.source_counters.set_watched(&limited);
        let (reply, counted) = bounded(1);
        self.writer.send(Operation::Recount(reply));
        counted.recv().map_err(|_| anyhow::anyhow!(UNWRITABLE))?;
        let metrics = &self.intake_state.exporter.metrics;
        metrics::configure(metrics, &config, &registry, (&self.readers, self.clock));
        self.intake_state.configure(&config, &registry, (&secrets, &redactor), counters);
        self.source_counters.retain(&limited);
        self.paths.store(Arc::new(source_paths(&config)));
        self.planners.store(Arc::new(deferred_planners(&config, &registry)));
        self.intake_state.deferrals.wake();
        let previous = self.handlers.load_full();
        let handlers = build_handlers(&config, &registry, &secrets, &self.nats, &previous);
        self.handlers.store(Arc::clone(&handlers));
        self.writer.configure(handler_table(&handlers));
        close_replaced(&previous, &handlers);
        self.listeners.admin.configure(&tokens);
        self.certificates.set(tls);
        let connections_max = files::connections_max(&config, self.files_max);
        self.listeners.intake.set_max_connections(connections_max);
        self.consumers.configure(&config, &registry, &secrets);
        let addresses = rebound.apply();
        self.owner.describe(|info| {
            (info.intake, info.admin) = (addresses.intake, addresses.admin);
        });
        self.alert_subscribers.store(AlertSubscribers::new(&config, &registry).map(Arc::new));
        self.settlements.configure(&config, &registry);
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

    /// Stops: no new jobs start, running jobs get `shutdown_timeout`, intake ends last.
    fn stop(self, signals: &mut Signals) {
        notify::send(&[NotifyState::Stopping]);
        let timeout = self.config.load().workers.shutdown_timeout;
        log::info!("stopping: {} running jobs have {timeout:?} to end", self.running.count());
        self.writer.stop_jobs();
        self.wait_for_jobs(timeout, || signals.pending().any(|signal| signal != SIGHUP));
        if self.writer.busy_threads() > 0 {
            // No warning: a stop does this to every job that takes longer.
            log::info!("stopping {} jobs, which return to the queue", self.running.count());
            let stopped_at = Instant::now();
            while self.writer.busy_threads() > 0 && stopped_at.elapsed() < GRACE * 2 {
                self.running.stop_all(StopReason::Shutdown);
                self.wait_for_jobs(Duration::from_millis(200), || false);
            }
        }
        // Before intake: a persistent process may take time to end after its input has ended.
        self.handlers.load().values().for_each(|handler| handler.runner.close());
        self.supervisor.wait_for_runs(GRACE * 2);
        self.intake_state.is_closing.store(true, Ordering::SeqCst);
        self.consumers.stop();
        self.listeners.stop();
        self.maintenance.stop();
        self.settlements.stop();
        self.retention.stop();
        self.file_watch.stop();
        self.writer.close_workers();
        self.intake_state.deferrals.close();
        let _ = self.expander.join();
        drop((self.writer, self.intake_state, self.consumers, self.readers));
        for thread in self.threads.into_iter().rev() {
            let _ = thread.join();
        }
        self.supervisor.wait_for_runs(GRACE * 2);
        self.failure_log.log_counts(true);
        log::info!("stopped");
    }

    /// Waits until no job runs, `timeout` has passed, or `is_hurried` returns true.
    fn wait_for_jobs(&self, timeout: Duration, mut is_hurried: impl FnMut() -> bool) {
        let deadline = Instant::now() + timeout;
        while self.writer.busy_threads() > 0 && Instant::now() < deadline && !is_hurried() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Returns a redactor that also knows the tokens of the admin listener. The log uses it from here on.
fn redact_tokens(
    redactor: &Redactor,
    tokens: &admin::AdminTokens,
) -> anyhow::Result<Arc<Redactor>> {
    let redactor =
        redactor.with(tokens.texts()).context("tokens cannot be redacted from the log")?;
    let redactor = Arc::new(redactor);
    crate::log::redact_by(Arc::clone(&redactor));
    Ok(redactor)
}

/// Creates the builder of tasks with its pool of evaluators.
fn build_task_builder(
    config: &Config,
    readers: ReadPool,
    supervisor: &Arc<Supervisor>,
    database: &Path,
) -> TaskBuilder {
    // Large items are written beside the database: the folder for temporary files may be in memory.
    let folder = database.parent().unwrap_or(Path::new("."));
    let expressions = EvaluatorPool::new(folder, supervisor);
    let paths = SourcePaths::new(ArcSwap::from_pointee(source_paths(config)));
    let (supervisor, lookups) = (Arc::clone(supervisor), LookupLimit::default());
    TaskBuilder { readers, expressions, paths, supervisor, lookups }
}

/// Returns what to do after a fatal error of the store. Senders get 503 for a moment, the log says why,
/// and the process ends without a checkpoint, which would write pages that may not be on disk.
fn on_fatal_store_error(health: Arc<WriterHealth>, owner: Owner) -> impl Fn(&str) + Send + 'static {
    move |reason| {
        health.set(Health::Broken);
        owner.record(RunState::Failed);
        log::error!("{reason}: this process cannot guarantee anything more and exits");
        let exit_later = || {
            std::thread::sleep(Duration::from_millis(300));
            crate::log::exit(1);
        };
        if std::thread::Builder::new().name("exit".into()).spawn(exit_later).is_err() {
            crate::log::exit(1);
        }
    }
}
