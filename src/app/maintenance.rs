//! What upkeep is given by those that it looks after.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::clock::MonotonicClock;
use crate::config::Config;
use crate::maintenance::alerts::{AlertMonitor, AlertSubscription};
use crate::maintenance::{self, Maintenance};
use crate::store::ReadPool;
use crate::store::source_counters::SourceCounters;
use crate::web::IntakeState;
use crate::worker::RunningJobs;

/// What it needs of the trail.
pub(super) struct MaintenanceInputs {
    pub database: PathBuf,
    pub readers: ReadPool,
    pub clock: MonotonicClock,
    /// What keeps the log from starting over.
    pub held: Receiver<String>,
}

/// Starts upkeep; it ends when the sender is dropped.
pub(super) fn start_maintenance(
    gate: &Arc<IntakeState>,
    config: &Config,
    (told, tally): (&AlertSubscription, &Arc<SourceCounters>),
    running: &Arc<RunningJobs>,
    trail: MaintenanceInputs,
) -> std::io::Result<(Sender<()>, JoinHandle<()>)> {
    let (stop, stopped) = bounded(0);
    let MaintenanceInputs { database, readers, clock, held } = trail;
    let gates = [(); 4].map(|()| Arc::clone(gate));
    let [refusals, handshakes, refusing, settings] = gates;
    let alerts = AlertMonitor {
        told: Arc::clone(told),
        readers,
        expressions: gate.expressions.clone(),
        clock,
        tally: Arc::clone(tally),
        refusing: Box::new(move || refusing.drain_rejecting_sources()),
        wal_blocked: held,
        redact: Box::new(move |text| settings.settings.load().redactor.redact(text).into_owned()),
        silent: HashMap::new(),
        asked: Arc::default(),
    };
    let upkeep = Maintenance {
        alerts,
        tally: Arc::clone(tally),
        database,
        min_free_bytes: config.store.min_free_bytes,
        disk_low: Arc::clone(&gate.disk_low),
        writer: gate.writer.clone(),
        running: Arc::clone(running),
        refusals: Box::new(move || refusals.drain_rejections()),
        handshakes: Box::new(move || handshakes.drain_handshakes()),
    };
    Ok((stop, maintenance::start(upkeep, stopped)?))
}
