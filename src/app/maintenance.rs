//! Starts the threads for periodic work and for settled jobs, with their connections to the other parts.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded};

use super::StoppableThread;
use super::certificates::Certificates;
use super::start::Owner;
use crate::clock::MonotonicClock;
use crate::config::Config;
use crate::jetstream::ReaderStates;
use crate::maintenance::alerts::{AlertMonitor, AlertSubscription};
use crate::maintenance::failure_log::FailureLog;
use crate::maintenance::settlements::{
    SettlementReporter, SettlementSignal, SettlementSubscribers, SettlementSubscription,
};
use crate::maintenance::{self, Maintenance};
use crate::store::ReadPool;
use crate::store::registry::Registry;
use crate::store::source_counters::SourceCounters;
use crate::web::IntakeState;
use crate::worker::RunningJobs;

/// The parts of the store that maintenance uses.
pub(super) struct MaintenanceInputs {
    pub database: PathBuf,
    pub readers: ReadPool,
    pub clock: MonotonicClock,
    pub failure_log: Arc<FailureLog>,
    /// Reports the reader that keeps the write-ahead log from being reset.
    pub blocked_wal: Receiver<String>,
    pub certificates: Arc<Certificates>,
    pub reader_states: Arc<ReaderStates>,
    pub owner: Owner,
}

/// Starts the maintenance thread.
pub(super) fn start_maintenance(
    intake: &Arc<IntakeState>,
    config: &Config,
    (alert_subscribers, source_counters): (&AlertSubscription, &Arc<SourceCounters>),
    running: &Arc<RunningJobs>,
    inputs: MaintenanceInputs,
) -> std::io::Result<StoppableThread> {
    let (stop, stopped) = bounded(0);
    let MaintenanceInputs { database, readers, clock, failure_log, blocked_wal, .. } = inputs;
    let MaintenanceInputs { certificates, reader_states, owner, .. } = inputs;
    let [rejections, handshakes, rejecting, redacting] = [(); 4].map(|()| Arc::clone(intake));
    let alerts = AlertMonitor {
        subscribers: Arc::clone(alert_subscribers),
        readers,
        expressions: intake.expressions.clone(),
        clock,
        source_counters: Arc::clone(source_counters),
        rejecting: Box::new(move || rejecting.drain_rejecting_sources()),
        blocked_wal,
        redact: Box::new(move |text| redacting.config.load().redactor.redact(text).into_owned()),
        silent: HashMap::new(),
        in_flight: Arc::default(),
    };
    let maintenance = Maintenance {
        alerts,
        source_counters: Arc::clone(source_counters),
        database,
        min_free_bytes: config.store.min_free_bytes,
        disk_low: Arc::clone(&intake.is_disk_low),
        writer: intake.writer.clone(),
        running: Arc::clone(running),
        failure_log,
        rejections: Box::new(move || rejections.drain_rejections()),
        handshakes: Box::new(move || handshakes.drain_handshakes()),
        check_certificate: Box::new(move || certificates.tick()),
        record_problems: Box::new(move || owner.record_problems(reader_states.problems())),
    };
    Ok(StoppableThread { stop, thread: maintenance::start(maintenance, stopped)? })
}

/// The thread that makes events of settled jobs.
pub(super) struct SettlementThread {
    subscription: SettlementSubscription,
    signal: SettlementSignal,
    thread: StoppableThread,
}

impl SettlementThread {
    pub fn start(
        intake: &Arc<IntakeState>,
        (config, registry): (&Config, &Registry),
        readers: ReadPool,
        (signal, wake): (SettlementSignal, Receiver<()>),
    ) -> std::io::Result<Self> {
        let subscribers = SettlementSubscribers::new(config, registry).map(Arc::new);
        let subscription = SettlementSubscription::new(subscribers.into());
        let redacting = Arc::clone(intake);
        let reporter = SettlementReporter {
            subscription: Arc::clone(&subscription),
            readers,
            expressions: intake.expressions.clone(),
            writer: intake.writer.clone(),
            wake,
            redact: Box::new(move |text| {
                redacting.config.load().redactor.redact(text).into_owned()
            }),
        };
        let (stop, stopped) = bounded(0);
        let thread = StoppableThread { stop, thread: reporter.start(stopped)? };
        Ok(Self { subscription, signal, thread })
    }

    /// Applies a new configuration.
    pub fn configure(&self, config: &Config, registry: &Registry) {
        self.subscription.store(SettlementSubscribers::new(config, registry).map(Arc::new));
        self.signal.wake();
    }

    pub fn stop(self) {
        self.thread.stop();
    }
}
