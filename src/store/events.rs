//! Tables `events`, `dedupe` and `duplicates`. The writer's transaction inserts an accepted webhook
//! together with its jobs, or records it as a duplicate.

use std::borrow::Cow;
use std::sync::Arc;

use rusqlite::{Connection, params};

use super::batch_insert::{BatchInsert, BatchRow, RowValues, StatementTexts, statement_texts};
use super::effects::AlertCondition;
use super::jobs::transition::{self, PlainJobRow};
use super::jobs::{JobOrigin, OriginKind, insert};
use super::seal::{EventFields, EventSeal, SealedTable, event_content_digest, event_digest};
use super::source_counters::QueueLimit;
use super::write_transaction::WriteTransaction;
use super::{dead_job_retries, dedupe, deferred, sources};

pub use super::dedupe::{DedupeCheck, DedupeKey, InsertMode};
use crate::domain::job_plan::{JobPlan, JobSpec};
use crate::domain::reservation::Reservation;
use crate::domain::{EventId, SourceId};

/// An accepted request, encoded for its rows by the intake thread.
#[derive(Debug, Default)]
pub struct NewEvent {
    /// The place of the waiting request in the intake thread's reply queue.
    pub reply_slot: usize,
    pub source: SourceId,
    pub uid: [u8; 16],
    /// Wall clock.
    pub received_at_ms: i64,
    pub method: Cow<'static, str>,
    pub path: String,
    pub query: Option<String>,
    pub ip: String,
    /// The subject of the client certificate.
    pub client: Option<Arc<str>>,
    /// The key under which the machine that sent the event knows it. `None`: the event arrived by HTTP.
    pub origin_key: Option<Arc<str>>,
    /// One `name: value` per line.
    pub headers: Vec<u8>,
    pub body: Vec<u8>,
    /// From `with_seal`.
    pub seal: EventSeal,
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
        Self { source, dedupe, ..Self::default() }
    }
}

impl NewEvent {
    /// Adds the seal, which covers all columns that never change. `source`: the name. `body` is hashed here, because it
    /// is too slow for the writer.
    #[must_use]
    pub fn with_seal(mut self, source: &str, salt: [u8; 16], body: &[u8]) -> Self {
        let query = self.query.as_deref().map(str::as_bytes);
        let content = event_content_digest(&salt, query, &self.headers, body);
        let fields = EventFields {
            uid: &self.uid,
            source,
            received_at_ms: self.received_at_ms,
            method: &self.method,
            path: &self.path,
            ip: &self.ip,
            client: self.client.as_deref(),
            origin_key: self.origin_key.as_deref(),
            body_bytes: i64::try_from(body.len()).unwrap_or(i64::MAX),
        };
        self.seal = EventSeal { salt, digest: event_digest(&fields, &content) };
        self
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
    /// Not sent to the writer, which has too many requests: the response is 503.
    NoRoom,
    /// Not stored: the response is 503.
    Unavailable,
}

/// Rows of events and of their jobs without keys, which are inserted together. A caller that reads these tables
/// calls `flush` first.
pub struct EventInserts<'c, 'e> {
    events: BatchInsert<'c, EventRow<'e>>,
    jobs: BatchInsert<'c, PlainJobRow>,
}

/// A row of `events`.
struct EventRow<'e> {
    id: EventId,
    new_event: &'e NewEvent,
    first_job: i64,
    last_job: i64,
}

impl BatchRow for EventRow<'_> {
    const STATEMENTS: StatementTexts = statement_texts!(
        "events (id, uid, source, received_at, method, path, query, ip, headers, first_job, last_job, note,
           salt, body, client, origin_key)",
        "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    );

    fn byte_count(&self) -> usize {
        self.new_event.body.len() + self.new_event.headers.len()
    }

    fn bind(&self, values: &mut RowValues<'_, '_>) -> rusqlite::Result<()> {
        let new_event = self.new_event;
        values.bind(params![
            self.id,
            new_event.uid,
            new_event.source,
            new_event.received_at_ms,
            new_event.method,
            new_event.path,
            new_event.query,
            new_event.ip,
            new_event.headers,
            self.first_job,
            self.last_job,
            new_event.expression_errors,
            new_event.seal.salt,
            new_event.body,
            new_event.client,
            new_event.origin_key,
        ])
    }
}

impl<'c> EventInserts<'c, '_> {
    pub fn new(conn: &'c Connection) -> Self {
        Self { events: BatchInsert::new(conn), jobs: BatchInsert::new(conn) }
    }

    /// Inserts the rows that are not inserted yet.
    ///
    /// # Errors
    /// The write failed. The caller rolls the transaction back.
    pub fn flush(&mut self) -> rusqlite::Result<()> {
        self.events.flush()?;
        self.jobs.flush()
    }
}

/// Stores one event, or records it as a duplicate, in a transaction without other events.
///
/// # Errors
/// The write failed. The caller rolls the transaction back.
pub fn insert_single_event(
    tx: &mut WriteTransaction<'_>,
    new_event: &NewEvent,
) -> rusqlite::Result<InsertReply> {
    let mut inserts = EventInserts::new(tx.conn);
    let reply = insert_event(tx, &mut inserts, new_event)?;
    inserts.flush()?;
    Ok(reply)
}

/// Stores `new_event` with its jobs, or records it as a duplicate. Some rows are inserted only when the caller
/// flushes `inserts`. An event without jobs is stored even if the queue is full.
///
/// # Errors
/// The write failed. The caller rolls the transaction back.
pub fn insert_event<'e>(
    tx: &mut WriteTransaction<'_>,
    inserts: &mut EventInserts<'_, 'e>,
    new_event: &'e NewEvent,
) -> rusqlite::Result<InsertReply> {
    let (source, now_ms) = (new_event.source, tx.cache.now_ms);
    if let Some(limit) = &new_event.queue_limit
        && new_event.plan.job_count() > 0
        && limit.is_reached(tx.effects.queued_change(source))
    {
        return Ok(InsertReply::QueueFull);
    }
    let keys = &new_event.dedupe;
    if let Some(original) = dedupe::find_original(tx.conn, source, keys, now_ms)? {
        if keys.mode != InsertMode::LookUp {
            inserts.flush()?;
            let NewEvent { received_at_ms, ip, body, .. } = new_event;
            dedupe::insert_duplicate(tx.conn, original, *received_at_ms, ip, body)?;
            if keys.retry_dead {
                // The limit is for all duplicates of a group together, because each may have as many.
                let limit = dead_job_retries::MAX_RETRIED;
                let limit = limit.saturating_sub(tx.effects.retried_dead_jobs);
                dead_job_retries::retry_dead_jobs(tx, limit, source, original)?;
            }
            sources::record_activity(tx, source, false)?;
            tx.effects.minute_counts.add_duplicate(source);
        }
        return Ok(InsertReply::Duplicate(original));
    }
    if keys.mode != InsertMode::Store {
        return Ok(InsertReply::NotDuplicate);
    }
    let event = EventId(tx.cache.counters.event + 1);
    let first_job = tx.cache.counters.job + 1;
    let is_deferred = deferred::is_deferring(tx.cache, tx.effects, source)
        || matches!(new_event.plan, JobPlan::Unevaluated(_))
        || new_event.plan.is_large();
    let jobs = if is_deferred { 0 } else { new_event.plan.job_count() };
    let count = i64::try_from(jobs).unwrap_or(i64::MAX);
    inserts.events.push(EventRow {
        id: event,
        new_event,
        first_job,
        last_job: first_job + count - 1,
    })?;
    tx.effects.sealed.add(SealedTable::Events, event.0, new_event.seal.digest);
    dedupe::save_keys(tx.conn, source, keys, event, now_ms)?;
    tx.cache.blocks.add_event(tx.conn, source, event.0, new_event.received_at_ms)?;
    tx.effects.minute_counts.add_event(source, new_event.received_at_ms);
    tx.cache.counters.event = event.0;
    if is_deferred {
        let late_since_ms = keys.is_late.then_some(now_ms);
        deferred::defer_event(tx, event.0, source, (&new_event.plan, late_since_ms))?;
    } else {
        insert_event_jobs(tx, inserts, new_event)?;
        if new_event.plan.is_empty() {
            tx.effects.alerts.push(AlertCondition::UnhandledEvent(event, source));
        }
    }
    tx.cache.remember_ip(tx.conn, &new_event.ip)?;
    sources::record_activity(tx, source, true)?;
    debug_assert_eq!(tx.cache.counters.job, first_job + count - 1);
    Ok(if is_deferred { InsertReply::Deferred(event) } else { InsertReply::Stored(event) })
}

/// Inserts the jobs of the event that was just inserted.
fn insert_event_jobs(
    tx: &mut WriteTransaction<'_>,
    inserts: &mut EventInserts<'_, '_>,
    new_event: &NewEvent,
) -> rusqlite::Result<()> {
    let event = tx.cache.counters.event;
    let origin = |handler| JobOrigin {
        event,
        source: new_event.source,
        handler,
        created_at_ms: new_event.received_at_ms,
        kind: OriginKind::Event,
    };
    match &new_event.plan {
        JobPlan::Plain(handlers) => handlers.iter().try_for_each(|&handler| {
            transition::create_plain(tx, &mut inserts.jobs, origin(handler))
        }),
        JobPlan::Evaluated(specs) => specs.iter().try_for_each(|(handler, spec)| match spec {
            JobSpec::Event(keys) if keys.is_empty() => {
                transition::create_plain(tx, &mut inserts.jobs, origin(*handler))
            }
            spec => {
                // A job with keys depends on earlier ones.
                inserts.flush()?;
                insert::insert_jobs(tx, origin(*handler), spec)
            }
        }),
        JobPlan::Unevaluated(_) => Ok(()),
    }
}
