//! Table `events`, and `dedupe` and `duplicates` with it: an accepted webhook goes in here together
//! with its jobs, or is recognised as a repeat, in the writer's transaction.

use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::insert::{self, JobOrigin, Origin};
use super::source_counters::QueueLimit;
use super::writer_state::WriterState;
use super::{alerts, deferred, sources};
use crate::domain::job_plan::{JobPlan, KeyHash};
use crate::domain::reservation::Reservation;
use crate::domain::{EventId, SourceId};

/// A repeat keeps its bytes so many times an event.
const DUPLICATE_BODIES_MAX: i64 = 10;

/// An accepted request, encoded for its rows by whoever took it.
#[derive(Debug)]
pub struct NewEvent {
    /// Who is waiting: the place in the intake thread's mailbox.
    pub reply_slot: usize,
    pub source: SourceId,
    pub uid: [u8; 16],
    /// Wall clock.
    pub received_at_ms: i64,
    pub method: String,
    pub path: String,
    pub query: Option<String>,
    pub ip: String,
    /// One `name: value` a line.
    pub headers: Vec<u8>,
    pub body: Vec<u8>,
    pub dedupe: Dedupe,
    /// What could not be evaluated, for whoever looks at the event.
    pub note: Option<String>,
    /// Who wants it, and what of it.
    pub owed: JobPlan,
    /// Its source's, where it has one.
    pub queue_limit: Option<QueueLimit>,
    /// What the memory of `body` counts as.
    pub body_memory: Option<Reservation>,
}

impl NewEvent {
    /// Asks whether an event with this key is stored, and stores nothing.
    pub fn look_up(source: SourceId, delivery: DedupeKey) -> Self {
        let dedupe = Dedupe { delivery: Some(delivery), aim: Aim::LookUp, ..Dedupe::default() };
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
            note: None,
            owed: JobPlan::Judged(Vec::new()),
            queue_limit: None,
            body_memory: None,
        }
    }
}

/// One row costs the writer as much as so many bytes more or less.
const ROW_BYTES: usize = 4096;

impl NewEvent {
    /// What it costs the writer, in rows.
    pub fn weight(&self) -> usize {
        if self.owed.is_large() || matches!(self.owed, JobPlan::Unevaluated(_)) {
            return 2 + self.body.len() / ROW_BYTES;
        }
        let items = usize::try_from(self.owed.bytes()).unwrap_or(usize::MAX);
        1 + self.owed.jobs() + (self.body.len() + items) / ROW_BYTES
    }
}

/// What repeats of an event are recognised by. Either key is enough.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dedupe {
    /// Of the source's own `dedupe`.
    pub own: Option<DedupeKey>,
    /// The sender's own key of the delivery.
    pub delivery: Option<DedupeKey>,
    /// A repeat brings dead jobs back to life.
    pub retry_dead: bool,
    pub aim: Aim,
}

/// A key and how long it is kept.
#[derive(Clone, Copy, Debug)]
pub struct DedupeKey {
    pub key: KeyHash,
    pub window_ms: i64,
}

/// What is wanted for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aim {
    /// Store it, or record it as a repeat.
    #[default]
    Store,
    /// Say whether it is a repeat, and write nothing.
    LookUp,
    /// Record it as a repeat, or write nothing.
    RecordRepeat,
}

/// What became of an accepted request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertReply {
    Stored(EventId),
    /// Stored, its jobs are inserted later. Intake hears `Stored`.
    Deferred(EventId),
    Duplicate(EventId),
    /// Not stored: the source's queue is at its limit.
    QueueFull,
    /// Repeats nothing, and was to be stored only as a repeat.
    NoRepeat,
    /// Not stored: to be answered 503.
    Unavailable,
}

/// The statements of an event and its jobs, looked up once a group: for each event it costs as much
/// as a tenth of its insert.
pub struct InsertStatements<'c> {
    event: CachedStatement<'c>,
    job: CachedStatement<'c>,
}

impl<'c> InsertStatements<'c> {
    /// # Errors
    /// The read of the schema failed.
    pub fn new(conn: &'c Connection) -> rusqlite::Result<Self> {
        let event = conn.prepare_cached(
            "INSERT INTO events (id, uid, source, received_at, method, path, query, ip, headers,
               first_job, last_job, note, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        )?;
        let job = conn.prepare_cached(
            "INSERT INTO jobs (id, event, handler, source, state, created_at, since)
             VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6)",
        )?;
        Ok(Self { event, job })
    }
}

/// Stores `accept` with its jobs, or records it as a repeat. An event without jobs is never refused.
///
/// # Errors
/// The write failed; the caller takes all of it back.
pub fn insert_event(
    conn: &Connection,
    state: &mut WriterState,
    inserts: &mut InsertStatements<'_>,
    accept: &NewEvent,
) -> rusqlite::Result<InsertReply> {
    if let Some(limit) = &accept.queue_limit
        && accept.owed.jobs() > 0
        && limit.is_reached(state.queue_change(accept.source))
    {
        return Ok(InsertReply::QueueFull);
    }
    let now_ms = state.now_ms;
    let dedupe = &accept.dedupe;
    if let Some(first) = find_original(conn, accept.source, dedupe, now_ms)? {
        if dedupe.aim != Aim::LookUp {
            record_duplicate(conn, state, accept, first, dedupe.retry_dead)?;
            sources::record_activity(conn, state, accept.source, false)?;
        }
        return Ok(InsertReply::Duplicate(first));
    }
    if dedupe.aim != Aim::Store {
        return Ok(InsertReply::NoRepeat);
    }
    let event = state.counters.event + 1;
    let first_job = state.counters.job + 1;
    let is_deferred = state.is_deferring(accept.source)
        || matches!(accept.owed, JobPlan::Unevaluated(_))
        || accept.owed.is_large();
    let jobs = if is_deferred { 0 } else { accept.owed.jobs() };
    let count = i64::try_from(jobs).unwrap_or(i64::MAX);
    inserts.event.execute(params![
        event,
        accept.uid,
        accept.source.0,
        accept.received_at_ms,
        accept.method,
        accept.path,
        accept.query,
        accept.ip,
        accept.headers,
        first_job,
        first_job + count - 1,
        accept.note,
        accept.body,
    ])?;
    for key in dedupe.own.iter().chain(&dedupe.delivery) {
        keep_key(conn, accept.source, key, event, now_ms)?;
    }
    state.counters.event = event;
    if is_deferred {
        deferred::defer_event(conn, state, event, accept.source, &accept.owed)?;
    } else {
        insert_jobs(conn, state, inserts, accept)?;
        if accept.owed.is_empty() {
            alerts::unhandled(conn, state, EventId(event), accept.source)?;
        }
    }
    state.remember_ip(conn, &accept.ip)?;
    sources::record_activity(conn, state, accept.source, true)?;
    debug_assert_eq!(state.counters.job, first_job + count - 1);
    let event = EventId(event);
    Ok(if is_deferred { InsertReply::Deferred(event) } else { InsertReply::Stored(event) })
}

/// The jobs of the event that was just inserted.
fn insert_jobs(
    conn: &Connection,
    state: &mut WriterState,
    inserts: &mut InsertStatements<'_>,
    accept: &NewEvent,
) -> rusqlite::Result<()> {
    let (event, source, created_at_ms) =
        (state.counters.event, accept.source, accept.received_at_ms);
    match &accept.owed {
        JobPlan::Plain(handlers) => {
            for &handler in handlers.iter() {
                let id = state.counters.job + 1;
                let since_ms = state.active_ms(handler);
                let values = params![id, event, handler.0, source.0, created_at_ms, since_ms];
                inserts.job.execute(values)?;
                state.counters.job = id;
                state.adjust_queued(source, 1);
                state.mark_ready(handler);
            }
        }
        JobPlan::Judged(all) => {
            for (handler, owed) in all {
                let (handler, origin) = (*handler, Origin::Event);
                let of = JobOrigin { event, source, handler, created_at_ms, origin };
                insert::insert_jobs(conn, state, of, owed)?;
            }
        }
        JobPlan::Unevaluated(_) => {}
    }
    Ok(())
}

/// The event that a request repeats. One that repeats by the source's own key alone leaves its
/// delivery's key: it must not become an event later, when the own key is forgotten.
fn find_original(
    conn: &Connection,
    source: SourceId,
    dedupe: &Dedupe,
    now_ms: i64,
) -> rusqlite::Result<Option<EventId>> {
    if let Some(delivery) = &dedupe.delivery
        && let Some(first) = event_of(conn, source, delivery, now_ms)?
    {
        return Ok(Some(first));
    }
    let Some(own) = &dedupe.own else { return Ok(None) };
    let Some(first) = event_of(conn, source, own, now_ms)? else { return Ok(None) };
    if let Some(delivery) = &dedupe.delivery {
        keep_key(conn, source, delivery, first.0, now_ms)?;
    }
    Ok(Some(first))
}

/// The event that is within the window of a key; a key whose window is over is forgotten.
fn event_of(
    conn: &Connection,
    source: SourceId,
    key: &DedupeKey,
    now_ms: i64,
) -> rusqlite::Result<Option<EventId>> {
    let found: Option<(i64, i64)> = conn
        .prepare_cached("SELECT event, until FROM dedupe WHERE source = ?1 AND key = ?2")?
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

fn keep_key(
    conn: &Connection,
    source: SourceId,
    key: &DedupeKey,
    event: i64,
    now_ms: i64,
) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT INTO dedupe (source, key, event, until) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![source.0, key.key, event, now_ms.saturating_add(key.window_ms)])?;
    Ok(())
}

fn record_duplicate(
    conn: &Connection,
    state: &mut WriterState,
    accept: &NewEvent,
    first: EventId,
    heal: bool,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO duplicates (event, received_at, ip, body)
         SELECT ?1, ?2, ?3, CASE
           WHEN coalesce((SELECT body = ?4 FROM events WHERE id = ?1), 0) THEN NULL
           WHEN (SELECT count(*) FROM duplicates WHERE event = ?1 AND body IS NOT NULL) >= ?5
           THEN NULL ELSE ?4 END",
    )?
    .execute(params![
        first.0,
        accept.received_at_ms,
        accept.ip,
        accept.body,
        DUPLICATE_BODIES_MAX
    ])?;
    if heal {
        deferred::revive_event(conn, state, accept.source, first)?;
    }
    Ok(())
}

/// Forgets keys whose window is over, a few at a time; says how many.
///
/// # Errors
/// The write failed.
pub fn purge_expired_keys(conn: &Connection, now_ms: i64) -> rusqlite::Result<usize> {
    let forgotten = super::job_keys::purge_expired(conn, now_ms)?;
    conn.prepare_cached(
        "DELETE FROM dedupe WHERE (source, key) IN
           (SELECT source, key FROM dedupe WHERE until <= ?1 ORDER BY until LIMIT 500)",
    )?
    .execute([now_ms])
    .map(|of_events| of_events + forgotten)
}
