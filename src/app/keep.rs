//! What upkeep is given by those that it looks after.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::clock::TrailClock;
use crate::config::Config;
use crate::store::Readers;
use crate::store::tally::Tally;
use crate::upkeep::alerts::{Alerts, Told};
use crate::upkeep::{self, Upkeep};
use crate::web::Gate;
use crate::worker::Running;

/// What it needs of the trail.
pub(super) struct Trail {
    pub database: PathBuf,
    pub readers: Readers,
    pub clock: TrailClock,
    /// What keeps the log from starting over.
    pub held: Receiver<String>,
}

/// Starts upkeep; it ends when the sender is dropped.
pub(super) fn up(
    gate: &Arc<Gate>,
    config: &Config,
    (told, tally): (&Told, &Arc<Tally>),
    running: &Arc<Running>,
    trail: Trail,
) -> std::io::Result<(Sender<()>, JoinHandle<()>)> {
    let (stop, stopped) = bounded(0);
    let Trail { database, readers, clock, held } = trail;
    let gates = [(); 4].map(|()| Arc::clone(gate));
    let [refusals, handshakes, refusing, settings] = gates;
    let alerts = Alerts {
        told: Arc::clone(told),
        readers,
        expressions: gate.expressions.clone(),
        clock,
        tally: Arc::clone(tally),
        refusing: Box::new(move || refusing.refusing()),
        held,
        redact: Box::new(move |text| settings.settings.load().redactor.redact(text).into_owned()),
        silent: HashMap::new(),
        asked: Arc::default(),
    };
    let upkeep = Upkeep {
        alerts,
        tally: Arc::clone(tally),
        database,
        min_free_bytes: config.store.min_free_bytes,
        disk_low: Arc::clone(&gate.disk_low),
        writer: gate.writer.clone(),
        running: Arc::clone(running),
        refusals: Box::new(move || refusals.refused()),
        handshakes: Box::new(move || handshakes.shaken()),
    };
    Ok((stop, upkeep::start(upkeep, stopped)?))
}
