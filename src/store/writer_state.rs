//! What the writer knows between transactions, so that an event costs no reads: the counters, how long
//! handlers stood still, addresses that are on file.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, params};

use super::breaker::{self, BreakerState};
use super::deferred::Revival;
use super::registry::{self, IdleTime};
use super::sources::{self, SourceStatus};
use super::{alerts, rejections};
use crate::clock::MonotonicClock;
use crate::domain::{self, HandlerId, SourceId};

/// The highest numbers given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub event: i64,
    pub job: i64,
    pub attempt: i64,
    pub replay: i64,
}

/// What the writer knows between transactions; re-read when somebody else changed the file.
#[derive(Debug)]
pub struct WriterState {
    pub clock: MonotonicClock,
    /// Trail's clock, as of this group.
    pub now_ms: i64,
    /// Wall clock, as of this group.
    pub wall_ms: i64,
    pub counters: Counters,
    idle: HashMap<HandlerId, IdleTime>,
    pub ready_counts: HashMap<HandlerId, usize>,
    /// How each handler's breaker stands.
    pub(super) rests: HashMap<HandlerId, BreakerState>,
    /// Whose breaker changed in this group.
    pub(super) changed_breakers: Vec<HandlerId>,
    /// When the next of those that began to wait is due, on the trail's clock.
    pub(super) due_ms: Option<i64>,
    /// How many more jobs of each source are queued than before.
    pub(super) queued: Vec<(SourceId, i64)>,
    known_ips: HashSet<String>,
    pub(super) refusals: i64,
    /// The source `hooktrail`, where a handler takes its events.
    pub alerts: Option<SourceId>,
    pub(super) standing: HashMap<SourceId, SourceStatus>,
    /// Sources that had an event.
    pub(super) active_sources: Vec<SourceId>,
    /// How many events of a source have jobs that are still to be inserted or released: while there
    /// are any, the jobs of its newer events come after those. Sources without are not in it.
    pub(super) deferred: HashMap<SourceId, usize>,
    /// The same before the transaction.
    deferred_before: HashMap<SourceId, usize>,
    /// Events that a duplicate brings back to life, whose dead jobs are too many for one transaction.
    pub(super) revivals: Vec<Revival>,
    /// How many jobs duplicates brought back to life in this transaction.
    pub(super) revived: usize,
}

/// So many accepted addresses are remembered, to spare the question whether they are on file.
const KNOWN_IPS_MAX: usize = 10_000;

impl WriterState {
    /// Reads what has to be known before the first operation.
    ///
    /// # Errors
    /// The read failed.
    pub fn read(conn: &Connection, clock: MonotonicClock) -> rusqlite::Result<Self> {
        let mut state = Self {
            clock,
            now_ms: clock.now_ms(),
            wall_ms: crate::clock::wall_ms(),
            counters: Counters::default(),
            idle: HashMap::new(),
            ready_counts: HashMap::new(),
            rests: HashMap::new(),
            changed_breakers: Vec::new(),
            due_ms: None,
            queued: Vec::new(),
            known_ips: HashSet::new(),
            refusals: 0,
            alerts: None,
            standing: HashMap::new(),
            active_sources: Vec::new(),
            deferred: HashMap::new(),
            deferred_before: HashMap::new(),
            revivals: Vec::new(),
            revived: 0,
        };
        state.reload(conn)?;
        Ok(state)
    }

    /// Reads again what others may have changed.
    ///
    /// # Errors
    /// The read failed.
    pub fn reload(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        self.counters = conn
            .prepare_cached("SELECT event, job, attempt, replay FROM counters")?
            .query_row([], |row| {
                let (event, job) = (row.get(0)?, row.get(1)?);
                Ok(Counters { event, job, attempt: row.get(2)?, replay: row.get(3)? })
            })?;
        self.refusals = rejections::count(conn)?;
        self.reload_config_tables(conn)
    }

    /// Reads again what a new configuration may have changed.
    ///
    /// # Errors
    /// The read failed.
    pub(super) fn reload_config_tables(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        self.read_idle(conn)?;
        self.alerts = alerts::subscriber(conn)?;
        self.standing = sources::load_status(conn)?;
        Ok(())
    }

    /// Reads again how long handlers stood still, and how their breakers stand.
    ///
    /// # Errors
    /// The read failed.
    pub(super) fn read_idle(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        self.idle = registry::idle(conn)?;
        self.rests = breaker::all(conn)?;
        Ok(())
    }

    /// Keeps the counters; once a transaction.
    ///
    /// # Errors
    /// The write failed.
    pub fn write_counters(&self, conn: &Connection) -> rusqlite::Result<()> {
        let Counters { event, job, attempt, replay } = self.counters;
        conn.prepare_cached("UPDATE counters SET event = ?1, job = ?2, attempt = ?3, replay = ?4")?
            .execute(params![event, job, attempt, replay])?;
        Ok(())
    }

    /// A handler's own time now: it stands still while it is paused.
    pub fn active_ms(&self, handler: HandlerId) -> i64 {
        self.idle.get(&handler).copied().unwrap_or_default().handler_time_ms(self.now_ms)
    }

    pub(super) fn is_paused(&self, handler: HandlerId) -> bool {
        self.idle.get(&handler).is_some_and(|idle| idle.is_paused)
    }

    /// To be told of when the transaction is through.
    pub fn mark_ready(&mut self, handler: HandlerId) {
        *self.ready_counts.entry(handler).or_default() += 1;
    }

    /// Some jobs were queued, or are not any more.
    pub(super) fn adjust_queued(&mut self, source: SourceId, jobs: i64) {
        match self.queued.iter_mut().find(|(one, _)| *one == source) {
            Some((_, count)) => *count += jobs,
            None => self.queued.push((source, jobs)),
        }
    }

    /// How many more jobs of a source are queued than at the last commit.
    pub(super) fn queue_change(&self, source: SourceId) -> i64 {
        self.queued.iter().find(|(one, _)| *one == source).map_or(0, |(_, jobs)| *jobs)
    }

    /// A job began to wait.
    pub(super) fn mark_due(&mut self, due_at: Option<i64>) {
        self.due_ms = self.due_ms.into_iter().chain(due_at).min();
    }

    /// Remembers an address that had an event accepted.
    pub(super) fn remember_ip(&mut self, conn: &Connection, ip: &str) -> rusqlite::Result<()> {
        // What the server itself has to tell comes from nowhere.
        let network = domain::network_of(ip);
        if ip.is_empty() || self.known_ips.contains(&*network) {
            return Ok(());
        }
        conn.prepare_cached("INSERT OR IGNORE INTO accepted_ips VALUES (?1)")?
            .execute([&*network])?;
        if self.known_ips.len() >= KNOWN_IPS_MAX {
            self.known_ips.clear();
        }
        self.known_ips.insert(network.into_owned());
        Ok(())
    }

    /// After a rollback: what was remembered may not be on file.
    pub fn discard_effects(&mut self) {
        self.known_ips.clear();
        self.ready_counts.clear();
        self.due_ms = None;
        self.queued.clear();
        self.changed_breakers.clear();
        self.active_sources.clear();
        self.revivals.clear();
        self.deferred.clone_from(&self.deferred_before);
    }

    /// Remembers what a rollback returns to. To be called when a transaction begins.
    pub(super) fn begin(&mut self) {
        self.revived = 0;
        if self.deferred != self.deferred_before {
            self.deferred_before.clone_from(&self.deferred);
        }
    }

    /// Whether this transaction deferred events or settled some.
    pub(super) fn has_deferral_changed(&self) -> bool {
        self.deferred != self.deferred_before
    }

    /// Whether jobs of earlier events of this source are still to come.
    pub(super) fn is_deferring(&self, source: SourceId) -> bool {
        !self.deferred.is_empty() && self.deferred.contains_key(&source)
    }

    /// One more event whose jobs come later.
    pub(super) fn defer(&mut self, source: SourceId) {
        *self.deferred.entry(source).or_default() += 1;
    }

    /// All jobs of such an event are there.
    pub(super) fn settle_deferred(&mut self, source: SourceId) {
        if let Some(count) = self.deferred.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.deferred.remove(&source);
            }
        }
    }
}
