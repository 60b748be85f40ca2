//! What the writer caches between transactions, so that inserting an event needs no reads: counters,
//! pauses, circuit breakers, conditions of sources and known addresses.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, Row};

use super::block_index::BlockIndex;
use super::seal::SealTree;
use super::statements::Statements;
use crate::clock::MonotonicClock;
use crate::domain::breaker::BreakerState;
use crate::domain::{self, HandlerId, SourceId};

/// The highest ids assigned so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub event: i64,
    pub job: i64,
    pub attempt: i64,
    pub replay: i64,
}

/// How long a handler's clock was stopped. Its jobs do not age meanwhile. Times are on the database
/// clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct IdleTime {
    total_ms: i64,
    since_ms: Option<i64>,
    is_paused: bool,
}

impl IdleTime {
    /// Returns the handler's clock at `now_ms`.
    fn handler_time_ms(self, now_ms: i64) -> i64 {
        now_ms - self.total_ms - self.since_ms.map_or(0, |since_ms| (now_ms - since_ms).max(0))
    }
}

/// Reads the columns `consecutive_failures`, `breaker_open_until` and `breaker_alerted`.
pub(super) fn read_breaker(row: &Row<'_>) -> rusqlite::Result<BreakerState> {
    Ok(BreakerState {
        consecutive_failures: row.get(0)?,
        open_until_ms: row.get(1)?,
        is_alerted: row.get(2)?,
    })
}

/// The alert conditions of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SourceStatus {
    pub has_accepted: bool,
    pub is_silent: bool,
    pub is_rejecting: bool,
}

/// The writer's cache, and the time of its current transaction. It is reloaded when another process has
/// changed the database, and after each rollback.
#[derive(Clone, Debug)]
pub struct WriterCache {
    pub clock: MonotonicClock,
    /// Database clock, as of this transaction.
    pub now_ms: i64,
    /// Wall clock, as of this transaction.
    pub wall_ms: i64,
    pub counters: Counters,
    /// The tree of all seals.
    pub(super) seals: SealTree,
    /// The names of all handlers, for the seals of their outcomes.
    pub(super) handler_names: HashMap<HandlerId, String>,
    idle: HashMap<HandlerId, IdleTime>,
    /// The circuit breaker of each handler.
    pub breakers: HashMap<HandlerId, BreakerState>,
    known_ips: HashSet<String>,
    pub(super) rejection_rows: i64,
    /// Rows that this process inserted into `accepted_ips`.
    inserted_ips: u32,
    /// The source `hooktrail`, if a handler subscribes to it.
    pub(super) alert_source: Option<SourceId>,
    /// The source `hooktrail`, if a handler takes events of type `job.settled`.
    pub(super) settlement_source: Option<SourceId>,
    pub(super) source_status: HashMap<SourceId, SourceStatus>,
    /// The number of events of each source whose jobs are not all inserted and released, as of the last
    /// commit. While it is not zero, the jobs of the source's newer events come after those. Other sources
    /// have no entry.
    pub(super) deferred: HashMap<SourceId, usize>,
    pub(super) blocks: BlockIndex,
    /// The minute whose old counts are deleted.
    pub(super) pruned_minute: i64,
}

/// How many accepted addresses are cached. The cache saves a write for each event.
const MAX_KNOWN_IPS: usize = 10_000;

/// Maximum number of rows of `accepted_ips`, which is checked once for `ACCEPTED_IPS_STEP` new ones.
const MAX_ACCEPTED_IPS: i64 = 100_000;
const ACCEPTED_IPS_STEP: u32 = 1000;

/// Deletes the rows of `accepted_ips` beyond the maximum: those that follow `ip`, and then the first ones, which are as
/// good as any.
fn trim_accepted_ips(conn: &Connection, ip: &str) -> rusqlite::Result<()> {
    let count: i64 = conn.value("SELECT count(*) FROM accepted_ips", [])?;
    let mut excess = count - MAX_ACCEPTED_IPS;
    for sql in [
        "DELETE FROM accepted_ips WHERE ip IN
           (SELECT ip FROM accepted_ips WHERE ip > ?1 ORDER BY ip LIMIT ?2)",
        "DELETE FROM accepted_ips WHERE ip IN
           (SELECT ip FROM accepted_ips WHERE ip < ?1 ORDER BY ip LIMIT ?2)",
    ] {
        if excess > 0 {
            excess -= i64::try_from(conn.change(sql, (ip, excess))?).unwrap_or(excess);
        }
    }
    Ok(())
}

impl WriterCache {
    /// Loads the cache before the first operation.
    ///
    /// # Errors
    /// The read failed.
    pub fn read(conn: &Connection, clock: MonotonicClock) -> rusqlite::Result<Self> {
        let mut cache = Self {
            clock,
            now_ms: clock.now_ms(),
            wall_ms: crate::clock::wall_ms(),
            counters: Counters::default(),
            seals: SealTree::default(),
            handler_names: HashMap::new(),
            idle: HashMap::new(),
            breakers: HashMap::new(),
            known_ips: HashSet::new(),
            rejection_rows: 0,
            inserted_ips: 0,
            alert_source: None,
            settlement_source: None,
            source_status: HashMap::new(),
            deferred: HashMap::new(),
            blocks: BlockIndex::default(),
            pruned_minute: 0,
        };
        cache.reload(conn)?;
        Ok(cache)
    }

    /// Reloads everything that another process may have changed.
    ///
    /// # Errors
    /// The read failed.
    pub fn reload(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let sql = "SELECT event, job, attempt, replay FROM counters";
        let (event, job, attempt, replay) =
            conn.prepare_cached(sql)?.query_row([], |row| row.try_into())?;
        self.counters = Counters { event, job, attempt, replay };
        self.seals = SealTree::load(conn)?;
        self.rejection_rows = conn.value("SELECT count(*) FROM rejected_requests", [])?;
        self.reload_config_tables(conn)
    }

    /// Reloads everything that a new configuration may have changed.
    ///
    /// # Errors
    /// The read failed.
    pub(super) fn reload_config_tables(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        self.reload_handlers(conn)?;
        let sql = "SELECT value FROM meta WHERE name = 'alerts'";
        self.alert_source = conn.find(sql, [], |row| row.get(0))?.flatten();
        let sql = "SELECT value FROM meta WHERE name = 'settlements'";
        self.settlement_source = conn.find(sql, [], |row| row.get(0))?.flatten();
        let sql =
            "SELECT id, has_accepted IS NOT NULL, is_silent IS NOT NULL, is_rejecting IS NOT NULL
                   FROM sources";
        self.source_status = conn.list(sql, [], |row| {
            let (source, has_accepted, is_silent, is_rejecting) = row.try_into()?;
            Ok((source, SourceStatus { has_accepted, is_silent, is_rejecting }))
        })?;
        Ok(())
    }

    /// Reloads the names of handlers, how long they were paused, and the state of their circuit breakers.
    ///
    /// # Errors
    /// The read failed.
    pub(super) fn reload_handlers(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let mut select = conn.prepare_cached(
            "SELECT consecutive_failures, breaker_open_until, breaker_alerted, id, idle_ms, idle_since,
               paused, name FROM handlers",
        )?;
        let mut rows = select.query([])?;
        self.idle.clear();
        self.handler_names.clear();
        self.breakers.clear();
        while let Some(row) = rows.next()? {
            let handler = row.get(3)?;
            let idle =
                IdleTime { total_ms: row.get(4)?, since_ms: row.get(5)?, is_paused: row.get(6)? };
            self.idle.insert(handler, idle);
            self.breakers.insert(handler, read_breaker(row)?);
            self.handler_names.insert(handler, row.get(7)?);
        }
        Ok(())
    }

    /// Saves the counters. Called once for each transaction.
    ///
    /// # Errors
    /// The write failed.
    pub fn write_counters(&self, conn: &Connection) -> rusqlite::Result<()> {
        let Counters { event, job, attempt, replay } = self.counters;
        let sql = "UPDATE counters SET event = ?1, job = ?2, attempt = ?3, replay = ?4";
        conn.change(sql, [event, job, attempt, replay]).map(|_| ())
    }

    /// Returns the handler's clock. It stops while the handler is paused or its circuit breaker is
    /// open.
    pub fn handler_time_ms(&self, handler: HandlerId) -> i64 {
        self.idle.get(&handler).copied().unwrap_or_default().handler_time_ms(self.now_ms)
    }

    pub(super) fn is_paused(&self, handler: HandlerId) -> bool {
        self.idle.get(&handler).is_some_and(|idle| idle.is_paused)
    }

    pub(super) fn breaker(&self, handler: HandlerId) -> BreakerState {
        self.breakers.get(&handler).copied().unwrap_or_default()
    }

    /// Returns true if jobs of this source cause alerts: a handler subscribes to alerts, and the source is
    /// not the one of the alerts.
    pub(super) fn should_alert(&self, source: SourceId) -> bool {
        self.alert_source.is_some_and(|alert_source| alert_source != source)
    }

    /// Returns true if a handler takes events of type `job.settled`, and the source is not the one of these events.
    pub(super) fn should_report_settled(&self, source: SourceId) -> bool {
        self.settlement_source.is_some_and(|own_source| own_source != source)
    }

    /// Remembers that an address had an event accepted.
    pub(super) fn remember_ip(&mut self, conn: &Connection, ip: &str) -> rusqlite::Result<()> {
        // Events of the source `hooktrail` have no address.
        if ip.is_empty() || self.known_ips.contains(ip) {
            return Ok(());
        }
        let network = domain::client_network(ip);
        let inserted =
            conn.change("INSERT OR IGNORE INTO accepted_ips VALUES (?1)", [&*network])?;
        if inserted > 0 {
            if self.inserted_ips.is_multiple_of(ACCEPTED_IPS_STEP) {
                trim_accepted_ips(conn, &network)?;
            }
            self.inserted_ips = self.inserted_ips.wrapping_add(1);
        }
        if self.known_ips.len() >= MAX_KNOWN_IPS {
            self.known_ips.clear();
        }
        self.known_ips.insert(ip.to_owned());
        Ok(())
    }

    /// Forgets which addresses and blocks are known. After a rollback, they may not be in the database.
    pub(super) fn forget_known_rows(&mut self) {
        self.known_ips.clear();
        self.blocks.clear();
    }

    /// Applies the committed changes in the numbers of deferred events.
    pub(super) fn apply_deferred(&mut self, changes: &[(SourceId, i64)]) {
        for &(source, change) in changes {
            let count = self.deferred.entry(source).or_default();
            *count = count.saturating_add_signed(isize::try_from(change).unwrap_or(0));
            if *count == 0 {
                self.deferred.remove(&source);
            }
        }
    }
}
