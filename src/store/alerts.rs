//! Table `alerts`: what the source `hooktrail` has to tell. It is noted in the transaction in which it
//! happened, and made an event later: of one type, source and handler at most one a minute, with the
//! count. Only where a handler takes that source; what happens to its own jobs is not noted, so that
//! an alert that fails makes none.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::events::{self, InsertStatements, NewEvent};
use super::sources::{self, SourceStatus};
use super::writer_state::WriterState;
use crate::domain::{EventId, HandlerId, JobId, SourceId};

/// Its name.
pub const SOURCE: &str = "hooktrail";

/// Between two events of one type, source and handler.
const MIN_INTERVAL_MS: i64 = 60_000;

/// What somebody noticed who does not write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlertSignal {
    /// No event for so long.
    Silent(SourceId, String),
    /// Nothing but refusals for so many.
    Refusing(SourceId, String),
    DiskLow(String),
    WalHeld(String),
}

/// What is known of it, but for its type.
#[derive(Default)]
struct AlertDetails<'a> {
    source: Option<SourceId>,
    handler: Option<HandlerId>,
    event: Option<i64>,
    job: Option<i64>,
    item: Option<i64>,
    attempts: Option<i64>,
    detail: Option<&'a str>,
}

/// Whether anybody is to be told: the source's number. Within a transaction. What was noted for
/// nobody is forgotten.
///
/// # Errors
/// The write failed.
pub fn set_subscriber(conn: &Connection, source: Option<SourceId>) -> rusqlite::Result<()> {
    conn.execute(
        "INSERT INTO meta VALUES ('alerts', ?1) ON CONFLICT DO UPDATE SET value = excluded.value",
        [source.map(|source| source.0)],
    )?;
    if source.is_none() {
        conn.execute("UPDATE alerts SET count = 0 WHERE count > 0", [])?;
    }
    Ok(())
}

/// The source's number, where anybody is to be told.
pub(super) fn subscriber(conn: &Connection) -> rusqlite::Result<Option<SourceId>> {
    let found = conn
        .prepare_cached("SELECT value FROM meta WHERE name = 'alerts'")?
        .query_row([], |row| row.get::<_, Option<i64>>(0))
        .optional()?;
    Ok(found.flatten().map(SourceId))
}

/// One more of its kind; of several the last is what is told.
fn record(
    conn: &Connection,
    wall_ms: i64,
    kind: &str,
    fact: &AlertDetails<'_>,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO alerts (type, source, handler, count, at, event, job, item, attempts, detail)
         VALUES (?1, coalesce((SELECT name FROM sources WHERE id = ?2), ''),
           coalesce((SELECT name FROM handlers WHERE id = ?3), ''), 1, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT DO UPDATE SET count = count + 1, at = excluded.at, event = excluded.event,
           job = excluded.job, item = excluded.item, attempts = excluded.attempts,
           detail = excluded.detail",
    )?
    .execute(params![
        kind,
        fact.source.map(|source| source.0),
        fact.handler.map(|handler| handler.0),
        wall_ms,
        fact.event,
        fact.job,
        fact.item,
        fact.attempts,
        fact.detail,
    ])?;
    Ok(())
}

/// Whether what happens to the jobs of `source` is told.
pub(super) fn should_alert(state: &WriterState, source: SourceId) -> bool {
    state.alerts.is_some_and(|own| own != source)
}

/// A job died.
pub(super) fn job_dead(
    conn: &Connection,
    state: &WriterState,
    job: JobId,
    source: SourceId,
) -> rusqlite::Result<()> {
    if !should_alert(state, source) {
        return Ok(());
    }
    let mut select = conn
        .prepare_cached("SELECT event, handler, item, attempt, reason FROM jobs WHERE id = ?1")?;
    let mut rows = select.query([job.0])?;
    let Some(row) = rows.next()? else { return Ok(()) };
    let reason: Option<String> = row.get(4)?;
    let fact = AlertDetails {
        source: Some(source),
        handler: Some(HandlerId(row.get(1)?)),
        event: row.get(0)?,
        job: Some(job.0),
        item: row.get(2)?,
        attempts: row.get(3)?,
        detail: reason.as_deref(),
    };
    record(conn, state.wall_ms, "job.dead", &fact)
}

/// No handler took an event.
pub(super) fn unhandled(
    conn: &Connection,
    state: &WriterState,
    event: EventId,
    source: SourceId,
) -> rusqlite::Result<()> {
    if !should_alert(state, source) {
        return Ok(());
    }
    let fact =
        AlertDetails { source: Some(source), event: Some(event.0), ..AlertDetails::default() };
    record(conn, state.wall_ms, "event.unhandled", &fact)
}

/// What a handler's breaker did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BreakerTransition {
    Resting,
    Recovered,
}

/// A handler rests, or recovered: whoever says so knows that it is to be told, if to anybody.
pub(super) fn breaker(
    conn: &Connection,
    wall_ms: i64,
    handler: HandlerId,
    what: BreakerTransition,
    detail: &str,
) -> rusqlite::Result<()> {
    if subscriber(conn)?.is_none() {
        return Ok(());
    }
    let kind = match what {
        BreakerTransition::Resting => "handler.breaker_opened",
        BreakerTransition::Recovered => "handler.breaker_closed",
    };
    let fact =
        AlertDetails { handler: Some(handler), detail: Some(detail), ..AlertDetails::default() };
    record(conn, wall_ms, kind, &fact)
}

/// What somebody noticed who does not write.
pub(super) fn record_signal(
    conn: &Connection,
    state: &mut WriterState,
    notice: &AlertSignal,
) -> rusqlite::Result<()> {
    if state.alerts.is_none() {
        return Ok(());
    }
    let (kind, source, detail) = match notice {
        AlertSignal::DiskLow(detail) => ("disk.low", None, detail),
        AlertSignal::WalHeld(detail) => ("wal.blocked", None, detail),
        AlertSignal::Silent(source, detail) => ("source.silent", Some(*source), detail),
        AlertSignal::Refusing(source, detail) => ("source.rejecting", Some(*source), detail),
    };
    if let Some(source) = source {
        // Once a silence, once until it accepts again.
        let before = state.standing.get(&source).copied().unwrap_or_default();
        let after = match notice {
            AlertSignal::Silent(..) => SourceStatus { silent: true, ..before },
            _ if before.accepted => SourceStatus { refusing: true, ..before },
            _ => before,
        };
        if before == after {
            return Ok(());
        }
        sources::set(conn, state, source, after)?;
    }
    record(
        conn,
        state.wall_ms,
        kind,
        &AlertDetails { source, detail: Some(detail), ..AlertDetails::default() },
    )
}

/// What is to be made an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingAlert {
    pub kind: String,
    /// Empty where it does not apply, and `handler` likewise.
    pub source: String,
    pub handler: String,
    pub count: i64,
    /// Wall clock: the last of them.
    pub at_ms: i64,
    pub event: Option<i64>,
    pub job: Option<i64>,
    pub item: Option<i64>,
    pub attempts: Option<i64>,
    pub detail: Option<String>,
}

/// What may be made events now, the oldest first.
///
/// # Errors
/// The read failed.
pub fn waiting(conn: &Connection, now_ms: i64) -> rusqlite::Result<Vec<PendingAlert>> {
    let mut select = conn.prepare_cached(
        "SELECT type, source, handler, count, at, event, job, item, attempts, detail FROM alerts
         WHERE count > 0 AND coalesce(made_at, ?1) <= ?1 ORDER BY at, type DESC",
    )?;
    let row = |row: &Row<'_>| {
        let (kind, source, handler) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(PendingAlert {
            kind,
            source,
            handler,
            count: row.get(3)?,
            at_ms: row.get(4)?,
            event: row.get(5)?,
            job: row.get(6)?,
            item: row.get(7)?,
            attempts: row.get(8)?,
            detail: row.get(9)?,
        })
    };
    select.query_map([now_ms - MIN_INTERVAL_MS], row)?.collect()
}

/// What was waiting, and the event of it; `None` where no handler wants it.
#[derive(Debug)]
pub struct AlertEvent {
    pub of: PendingAlert,
    pub accept: Option<NewEvent>,
}

/// Stores the event with its jobs, and takes from the count what it tells: both or neither, and once
/// however often it is asked for.
pub(super) fn emit(
    conn: &Connection,
    state: &mut WriterState,
    made: &AlertEvent,
) -> rusqlite::Result<()> {
    let PendingAlert { kind, source, handler, count, .. } = &made.of;
    let taken = conn
        .prepare_cached(
            "UPDATE alerts SET count = count - ?4, made_at = CASE WHEN ?5 THEN ?6 ELSE made_at END
             WHERE type = ?1 AND source = ?2 AND handler = ?3 AND count >= ?4
               AND coalesce(made_at, ?7) <= ?7",
        )?
        .execute(params![
            kind,
            source,
            handler,
            count,
            made.accept.is_some(),
            state.now_ms,
            state.now_ms - MIN_INTERVAL_MS
        ])?;
    if let Some(accept) = made.accept.as_ref().filter(|_| taken == 1) {
        events::insert_event(conn, state, &mut InsertStatements::new(conn)?, accept)?;
    }
    Ok(())
}
