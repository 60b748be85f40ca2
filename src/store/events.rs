//! Tables `events`, `dedupe` and `duplicates`. The writer's transaction inserts an accepted webhook
//! together with its jobs, or records it as a duplicate.

use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::insert::{self, JobOrigin, OriginKind};
use super::source_counters::QueueLimit;
use super::writer_state::WriterState;
use super::{alerts, deferred, sources};
use crate::domain::job_plan::{JobPlan, KeyHash};
use crate::domain::reservation::Reservation;
use crate::domain::{EventId, SourceId};

/// How many duplicates of one event keep their bodies.
const MAX_DUPLICATE_BODIES: i64 = 10;

/// An accepted request, encoded for its rows by the intake thread.
#[derive(Debug)]
pub struct NewEvent {
    /// The place of the waiting request in the intake thread's reply queue.
    pub reply_slot: usize,
    pub source: SourceId,
    pub uid: [u8; 16],
    /// Wall clock.
    pub received_at_ms: i64,
    pub method: String,
    pub path: String,
    pub query: Option<String>,
    pub ip: String,
    /// One `name: value` per line.
    pub headers: Vec<u8>,
    pub body: Vec<u8>,
    pub dedupe: DedupeCheck,
    /// Errors of optional expressions, recorded on the event.
    pub expression_errors: Option<String>,
    /// The jobs to create for the event.
    pub plan: JobPlan,
    /// The `max_queued` of the source, if it has one.
    pub queue_limit: Option<QueueLimit>,
    /// The memory that `body` counts as.
    pub body_memory: Option<Reservation>,
}

impl NewEvent {
    /// Creates a request that looks up whether an event with this key is stored, and stores
    /// nothing.
    pub fn look_up(source: SourceId, delivery_key: DedupeKey) -> Self {
        let dedupe = DedupeCheck {
            delivery_key: Some(delivery_key),
            mode: InsertMode::LookUp,
            ..DedupeCheck::default()
        };
        Self {
            reply_slot: 0,
            source,
            uid: [0; 16],
            received_at_ms: 0,
            method: String::new(),
            path: String::new(),
            query: None,
            ip: String::new(),
            headers: Vec::new(),
            body: Vec::new(),
            dedupe,
            expression_errors: None,
            plan: JobPlan::Evaluated(Vec::new()),
            queue_limit: None,
            body_memory: None,
        }
    }
}

/// The number of bytes that cost the writer as much as one row.
const ROW_BYTES: usize = 4096;

impl NewEvent {
    /// Returns the cost of the event for the writer, in rows.
    pub fn weight(&self) -> usize {
        if self.plan.is_large() || matches!(self.plan, JobPlan::Unevaluated(_)) {
            return 2 + self.body.len() / ROW_BYTES;
        }
        let items = usize::try_from(self.plan.bytes()).unwrap_or(usize::MAX);
        1 + self.plan.job_count() + (self.body.len() + items) / ROW_BYTES
    }
}

/// The keys that identify duplicates of an event. One matching key is enough.
#[derive(Clone, Copy, Debug, Default)]
pub struct DedupeCheck {
    /// The key of the source's own `dedupe`.
    pub source_key: Option<DedupeKey>,
    /// The sender's own key of the delivery.
    pub delivery_key: Option<DedupeKey>,
    /// A duplicate retries the dead jobs of its event.
    pub retry_dead: bool,
    pub mode: InsertMode,
}

/// A key and its window.
#[derive(Clone, Copy, Debug)]
pub struct DedupeKey {
    pub key: KeyHash,
    pub window_ms: i64,
}

/// How the writer handles a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InsertMode {
    /// Store it, or record it as a duplicate.
    #[default]
    Store,
    /// Report whether it is a duplicate. Only deletes expired keys.
    LookUp,
    /// Record it if it is a duplicate. Otherwise only deletes expired keys.
    RecordDuplicate,
}

/// The writer's reply to an accepted request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertReply {
    Stored(EventId),
    /// Stored; the jobs are inserted later. Intake receives `Stored` instead.
    Deferred(EventId),
    Duplicate(EventId),
    /// Not stored: the source's queue has reached `max_queued`.
    QueueFull,
    /// Not stored: no duplicate, and the caller records only duplicates.
    NotDuplicate,
    /// Not stored: the response is 503.
    Unavailable,
}

/// The prepared statements for an event and its jobs, looked up once for each group. Looking them
/// up for each event adds a tenth to the insert.
pub struct InsertStatements<'c> {
    event: CachedStatement<'c>,
    job: CachedStatement<'c>,
}

impl<'c> InsertStatements<'c> {
    /// # Errors
    /// The schema cannot be read.
    pub fn new(conn: &'c Connection) -> rusqlite::Result<Self> {
        let event = conn.prepare_cached(
            "INSERT INTO events (id, uid, source, received_at, method, path, query, ip, headers,
               first_job, last_job, note, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        )?;
        let job = conn.prepare_cached(
            "INSERT INTO jobs (id, event, handler, source, state, created_at, age_start)
             VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6)",
        )?;
        Ok(Self { event, job })
    }
}

/// Stores `new_event` with its jobs, or records it as a duplicate. An event without jobs is stored
/// even if the queue is full.
///
/// # Errors
/// The write failed. The caller rolls the transaction back.
pub fn insert_event(
    conn: &Connection,
    state: &mut WriterState,
    inserts: &mut InsertStatements<'_>,
    new_event: &NewEvent,
) -> rusqlite::Result<InsertReply> {
    if let Some(limit) = &new_event.queue_limit
        && new_event.plan.job_count() > 0
        && limit.is_reached(state.queue_change(new_event.source))
    {
        return Ok(InsertReply::QueueFull);
    }
    let now_ms = state.now_ms;
    let dedupe = &new_event.dedupe;
    if let Some(original) = find_original(conn, new_event.source, dedupe, now_ms)? {
        if dedupe.mode != InsertMode::LookUp {
            record_duplicate(conn, state, new_event, original, dedupe.retry_dead)?;
            sources::record_activity(conn, state, new_event.source, false)?;
            state.minute_counts.add_duplicate(new_event.source);
        }
        return Ok(InsertReply::Duplicate(original));
    }
    if dedupe.mode != InsertMode::Store {
        return Ok(InsertReply::NotDuplicate);
    }
    let event = state.counters.event + 1;
    let first_job = state.counters.job + 1;
    let is_deferred = state.is_deferring(new_event.source)
        || matches!(new_event.plan, JobPlan::Unevaluated(_))
        || new_event.plan.is_large();
    let jobs = if is_deferred { 0 } else { new_event.plan.job_count() };
    let count = i64::try_from(jobs).unwrap_or(i64::MAX);
    inserts.event.execute(params![
        event,
        new_event.uid,
        new_event.source.0,
        new_event.received_at_ms,
        new_event.method,
        new_event.path,
        new_event.query,
        new_event.ip,
        new_event.headers,
        first_job,
        first_job + count - 1,
        new_event.expression_errors,
        new_event.body,
    ])?;
    for key in dedupe.source_key.iter().chain(&dedupe.delivery_key) {
        save_key(conn, new_event.source, key, event, now_ms)?;
    }
    state.blocks.add_event(conn, new_event.source, event, new_event.received_at_ms)?;
    state.minute_counts.add_event(new_event.source, new_event.received_at_ms);
    state.counters.event = event;
    if is_deferred {
        deferred::defer_event(conn, state, event, new_event.source, &new_event.plan)?;
    } else {
        insert_event_jobs(conn, state, inserts, new_event)?;
        if new_event.plan.is_empty() {
            alerts::record_unhandled_event(conn, state, EventId(event), new_event.source)?;
        }
    }
    state.remember_ip(conn, &new_event.ip)?;
    sources::record_activity(conn, state, new_event.source, true)?;
    debug_assert_eq!(state.counters.job, first_job + count - 1);
    let event = EventId(event);
    Ok(if is_deferred { InsertReply::Deferred(event) } else { InsertReply::Stored(event) })
}

/// Inserts the jobs of the event that was just inserted.
fn insert_event_jobs(
    conn: &Connection,
    state: &mut WriterState,
    inserts: &mut InsertStatements<'_>,
    new_event: &NewEvent,
) -> rusqlite::Result<()> {
    let (event, source, created_at_ms) =
        (state.counters.event, new_event.source, new_event.received_at_ms);
    match &new_event.plan {
        JobPlan::Plain(handlers) => {
            for &handler in handlers.iter() {
                let id = state.counters.job + 1;
                let since_ms = state.handler_time_ms(handler);
                let values = params![id, event, handler.0, source.0, created_at_ms, since_ms];
                inserts.job.execute(values)?;
                state.blocks.add_job(conn, handler, source, id, created_at_ms)?;
                state.counters.job = id;
                state.adjust_queued(source, 1);
                state.mark_ready(handler);
            }
        }
        JobPlan::Evaluated(specs) => {
            for (handler, spec) in specs {
                let (handler, kind) = (*handler, OriginKind::Event);
                let origin = JobOrigin { event, source, handler, created_at_ms, kind };
                insert::insert_jobs(conn, state, origin, spec)?;
            }
        }
        JobPlan::Unevaluated(_) => {}
    }
    Ok(())
}

/// Returns the event that a request duplicates. If only the source's own key matches, the delivery
/// key is saved with the event too. Otherwise the same delivery would become a new event when the
/// own key expires.
fn find_original(
    conn: &Connection,
    source: SourceId,
    dedupe: &DedupeCheck,
    now_ms: i64,
) -> rusqlite::Result<Option<EventId>> {
    if let Some(delivery_key) = &dedupe.delivery_key
        && let Some(original) = find_by_key(conn, source, delivery_key, now_ms)?
    {
        return Ok(Some(original));
    }
    let Some(source_key) = &dedupe.source_key else { return Ok(None) };
    let Some(original) = find_by_key(conn, source, source_key, now_ms)? else { return Ok(None) };
    if let Some(delivery_key) = &dedupe.delivery_key {
        save_key(conn, source, delivery_key, original.0, now_ms)?;
    }
    Ok(Some(original))
}

/// Returns the event that has this key within its window. Deletes an expired key.
fn find_by_key(
    conn: &Connection,
    source: SourceId,
    key: &DedupeKey,
    now_ms: i64,
) -> rusqlite::Result<Option<EventId>> {
    let found: Option<(i64, i64)> = conn
        .prepare_cached("SELECT event, expires_at FROM dedupe WHERE source = ?1 AND key = ?2")?
        .query_row(params![source.0, key.key], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match found {
        Some((event, until)) if now_ms < until => Ok(Some(EventId(event))),
        Some(_) => {
            conn.prepare_cached("DELETE FROM dedupe WHERE source = ?1 AND key = ?2")?
                .execute(params![source.0, key.key])?;
            Ok(None)
        }
        None => Ok(None),
    }
}

fn save_key(
    conn: &Connection,
    source: SourceId,
    key: &DedupeKey,
    event: i64,
    now_ms: i64,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO dedupe (source, key, event, expires_at) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![source.0, key.key, event, now_ms.saturating_add(key.window_ms)])?;
    Ok(())
}

fn record_duplicate(
    conn: &Connection,
    state: &mut WriterState,
    new_event: &NewEvent,
    original: EventId,
    retry_dead: bool,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO duplicates (event, received_at, ip, body)
         SELECT ?1, ?2, ?3, CASE
           WHEN coalesce((SELECT body = ?4 FROM events WHERE id = ?1), 0) THEN NULL
           WHEN (SELECT count(*) FROM duplicates WHERE event = ?1 AND body IS NOT NULL) >= ?5
           THEN NULL ELSE ?4 END",
    )?
    .execute(params![
        original.0,
        new_event.received_at_ms,
        new_event.ip,
        new_event.body,
        MAX_DUPLICATE_BODIES
    ])?;
    if retry_dead {
        deferred::retry_dead_jobs_of_event(conn, state, new_event.source, original)?;
    }
    Ok(())
}

/// Deletes some expired keys and returns their number.
///
/// # Errors
/// The write failed.
pub fn purge_expired_keys(conn: &Connection, now_ms: i64) -> rusqlite::Result<usize> {
    let deleted = super::job_keys::purge_expired(conn, now_ms)?;
    conn.prepare_cached(
        "DELETE FROM dedupe WHERE (source, key) IN
           (SELECT source, key FROM dedupe WHERE expires_at <= ?1 ORDER BY expires_at LIMIT 500)",
    )?
    .execute([now_ms])
    .map(|deleted_keys| deleted_keys + deleted)
}
