//! The state that the writer caches between transactions, so that inserting an event needs no
//! reads: counters, pauses, circuit breakers and known addresses. It also collects the effects of
//! the current transaction.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, params};

use super::block_index::BlockIndex;
use super::breaker::{self, BreakerState};
use super::dead_job::DeadJob;
use super::deferred::DeadJobRetry;
use super::minute_counts::{self, MinuteCounts};
use super::registry::{self, IdleTime};
use super::sources::{self, SourceStatus};
use super::{alerts, rejections};
use crate::clock::MonotonicClock;
use crate::domain::{self, HandlerId, SourceId};

/// The highest ids assigned so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub event: i64,
    pub job: i64,
    pub attempt: i64,
    pub replay: i64,
}

/// The writer's cache, and the effects of the current transaction. It is reloaded when another
/// process has changed the database.
#[derive(Debug)]
pub struct WriterState {
    pub clock: MonotonicClock,
    /// Database clock, as of this group.
    pub now_ms: i64,
    /// Wall clock, as of this group.
    pub wall_ms: i64,
    pub counters: Counters,
    idle: HashMap<HandlerId, IdleTime>,
    pub ready_counts: HashMap<HandlerId, usize>,
    /// The state of each handler's circuit breaker.
    pub(super) breakers: HashMap<HandlerId, BreakerState>,
    /// Handlers whose circuit breaker changed in this group.
    pub(super) changed_breakers: Vec<HandlerId>,
    /// When the next of the jobs scheduled in this group is due (database clock).
    pub(super) next_due_ms: Option<i64>,
    /// The jobs that became dead in this transaction.
    pub dead_jobs: Vec<DeadJob>,
    /// The change in the number of queued jobs of each source since the last commit.
    pub(super) queued_changes: Vec<(SourceId, i64)>,
    known_ips: HashSet<String>,
    pub(super) rejection_rows: i64,
    /// The source `hooktrail`, if a handler subscribes to it.
    pub alert_source: Option<SourceId>,
    pub(super) source_status: HashMap<SourceId, SourceStatus>,
    /// Sources with an event in this group.
    pub(super) active_sources: Vec<SourceId>,
    /// The number of events of each source whose jobs are not all inserted and released. While it
    /// is not zero, the jobs of the source's newer events come after those. Other sources have no
    /// entry.
    pub(super) deferred: HashMap<SourceId, usize>,
    /// The value of `deferred` before the transaction.
    deferred_before: HashMap<SourceId, usize>,
    /// Events whose dead jobs a duplicate retries, and that have too many of them for one
    /// transaction.
    pub(super) dead_job_retries: Vec<DeadJobRetry>,
    /// How many dead jobs duplicates retried in this transaction.
    pub(super) retried_dead_jobs: usize,
    pub(super) minute_counts: MinuteCounts,
    pub(super) blocks: BlockIndex,
}

/// How many accepted addresses are cached. The cache saves a write for each event.
const MAX_KNOWN_IPS: usize = 10_000;

impl WriterState {
    /// Loads the state before the first operation.
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
            breakers: HashMap::new(),
            changed_breakers: Vec::new(),
            next_due_ms: None,
            dead_jobs: Vec::new(),
            queued_changes: Vec::new(),
            known_ips: HashSet::new(),
            rejection_rows: 0,
            alert_source: None,
            source_status: HashMap::new(),
            active_sources: Vec::new(),
            deferred: HashMap::new(),
            deferred_before: HashMap::new(),
            dead_job_retries: Vec::new(),
            retried_dead_jobs: 0,
            minute_counts: MinuteCounts::default(),
            blocks: BlockIndex::default(),
        };
        state.reload(conn)?;
        Ok(state)
    }

    /// Reloads everything that another process may have changed.
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
        self.rejection_rows = rejections::count(conn)?;
        self.reload_config_tables(conn)
    }

    /// Reloads everything that a new configuration may have changed.
    ///
    /// # Errors
    /// The read failed.
    pub(super) fn reload_config_tables(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        self.reload_handlers(conn)?;
        self.alert_source = alerts::subscriber(conn)?;
        self.source_status = sources::load_status(conn)?;
        Ok(())
    }

    /// Reloads how long handlers were paused, and the state of their circuit breakers.
    ///
    /// # Errors
    /// The read failed.
    pub(super) fn reload_handlers(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        self.idle = registry::load_idle_times(conn)?;
        self.breakers = breaker::load_breakers(conn)?;
        Ok(())
    }

    /// Saves the counters. Called once for each transaction.
    ///
    /// # Errors
    /// The write failed.
    pub fn write_counters(&self, conn: &Connection) -> rusqlite::Result<()> {
        let Counters { event, job, attempt, replay } = self.counters;
        conn.prepare_cached("UPDATE counters SET event = ?1, job = ?2, attempt = ?3, replay = ?4")?
            .execute(params![event, job, attempt, replay])?;
        Ok(())
    }

    /// Saves what this transaction counted for the rates. Called once for each transaction, before its
    /// commit.
    ///
    /// # Errors
    /// The write failed.
    pub fn write_minute_counts(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        minute_counts::write(conn, self)
    }

    /// Returns the handler's clock. It stops while the handler is paused or its circuit breaker is
    /// open.
    pub fn handler_time_ms(&self, handler: HandlerId) -> i64 {
        self.idle.get(&handler).copied().unwrap_or_default().handler_time_ms(self.now_ms)
    }

    pub(super) fn is_paused(&self, handler: HandlerId) -> bool {
        self.idle.get(&handler).is_some_and(|idle| idle.is_paused)
    }

    /// Counts one more ready job, for the notification after the commit.
    pub fn mark_ready(&mut self, handler: HandlerId) {
        *self.ready_counts.entry(handler).or_default() += 1;
    }

    /// Changes the number of queued jobs of a source.
    pub(super) fn adjust_queued(&mut self, source: SourceId, jobs: i64) {
        match self.queued_changes.iter_mut().find(|(known, _)| *known == source) {
            Some((_, count)) => *count += jobs,
            None => self.queued_changes.push((source, jobs)),
        }
    }

    /// Returns the change in the number of queued jobs of a source since the last commit.
    pub(super) fn queue_change(&self, source: SourceId) -> i64 {
        self.queued_changes.iter().find(|(known, _)| *known == source).map_or(0, |(_, jobs)| *jobs)
    }

    /// Records that a job was scheduled for `due_at`.
    pub(super) fn mark_due(&mut self, due_at: Option<i64>) {
        self.next_due_ms = self.next_due_ms.into_iter().chain(due_at).min();
    }

    /// Remembers that an address had an event accepted.
    pub(super) fn remember_ip(&mut self, conn: &Connection, ip: &str) -> rusqlite::Result<()> {
        // Events of the source `hooktrail` have no address.
        let network = domain::client_network(ip);
        if ip.is_empty() || self.known_ips.contains(&*network) {
            return Ok(());
        }
        conn.prepare_cached("INSERT OR IGNORE INTO accepted_ips VALUES (?1)")?
            .execute([&*network])?;
        if self.known_ips.len() >= MAX_KNOWN_IPS {
            self.known_ips.clear();
        }
        self.known_ips.insert(network.into_owned());
        Ok(())
    }

    /// Discards the effects after a rollback. The cached addresses may not be in the database.
    pub fn discard_effects(&mut self) {
        self.known_ips.clear();
        self.ready_counts.clear();
        self.next_due_ms = None;
        self.queued_changes.clear();
        self.changed_breakers.clear();
        self.dead_jobs.clear();
        self.active_sources.clear();
        self.dead_job_retries.clear();
        self.minute_counts.clear();
        self.blocks.clear();
        self.deferred.clone_from(&self.deferred_before);
    }

    /// Remembers the state to which a rollback returns. Called when a transaction begins.
    pub(super) fn begin(&mut self) {
        self.retried_dead_jobs = 0;
        if self.deferred != self.deferred_before {
            self.deferred_before.clone_from(&self.deferred);
        }
    }

    /// Returns true if this transaction deferred events, or completed deferred ones.
    pub(super) fn has_deferral_changed(&self) -> bool {
        self.deferred != self.deferred_before
    }

    /// Returns true if jobs of earlier events of this source are not inserted yet.
    pub(super) fn is_deferring(&self, source: SourceId) -> bool {
        !self.deferred.is_empty() && self.deferred.contains_key(&source)
    }

    /// Counts one more deferred event.
    pub(super) fn defer(&mut self, source: SourceId) {
        *self.deferred.entry(source).or_default() += 1;
    }

    /// Counts one deferred event less: all its jobs are inserted and released.
    pub(super) fn settle_deferred(&mut self, source: SourceId) {
        if let Some(count) = self.deferred.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.deferred.remove(&source);
            }
        }
    }
}
