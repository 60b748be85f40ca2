//! Reads of the server: what a worker needs to run a job.

use std::sync::Arc;

use const_format::formatcp;
use rusqlite::{Connection, OptionalExtension, Row};

use super::jobs::ClaimedJob;
use super::statements::Statements;
use crate::domain::{Event, EventId, Headers, JobId};

/// The columns of an event except its body, in the order of `read_head`, and where they are from.
const HEAD: &str =
    "e.uid, s.name, e.received_at, e.method, e.path, e.query, e.ip, e.headers, e.note, e.removed_bytes,
     e.client, e.origin_key";
const FROM: &str = "FROM events e JOIN sources s ON s.id = e.source WHERE e.id = ?1";

/// The number of columns in `HEAD`.
const HEAD_COLUMNS: usize = 12;

/// Reads the columns of `HEAD`.
fn read_head(id: EventId, row: &Row<'_>) -> rusqlite::Result<Event> {
    let removed_bytes: Option<i64> = row.get(9)?;
    Ok(Event {
        id,
        uid: row.get(0)?,
        source: row.get(1)?,
        received_at_ms: row.get(2)?,
        method: row.get(3)?,
        path: row.get(4)?,
        query: row.get(5)?,
        ip: row.get(6)?,
        client: row.get(10)?,
        origin_key: row.get(11)?,
        headers: decode_headers(row.get_ref(7)?.as_bytes()?),
        body: Arc::from([]),
        expression_errors: row.get(8)?,
        removed_bytes: removed_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
    })
}

/// Loads an event.
///
/// # Errors
/// The read failed, or the event does not exist.
pub fn load_event(conn: &Connection, id: EventId) -> rusqlite::Result<Event> {
    conn.prepare_cached(formatcp!("SELECT {HEAD}, e.body {FROM}"))?.query_row([id], |row| {
        let body = row.get_ref(HEAD_COLUMNS)?.as_bytes_or_null()?.unwrap_or_default();
        Ok(Event { body: Arc::from(body), ..read_head(id, row)? })
    })
}

/// The event of a job, and its item if the job comes from `split`.
#[derive(Debug)]
pub struct JobInput {
    pub event: Event,
    pub item: Option<Arc<[u8]>>,
}

/// Loads the inputs of claimed jobs, in their order. A job that is evaluated again needs no item. Those of a batch are read
/// from one snapshot, because each read by itself takes a lock. The snapshot ends with the iterator: a caller that evaluates expressions, which may take long, collects it first.
pub fn load_inputs<'c>(
    conn: &'c Connection,
    claimed: &'c [ClaimedJob],
) -> impl Iterator<Item = rusqlite::Result<JobInput>> + 'c {
    // Without a snapshot, each job is read by itself.
    let snapshot = (claimed.len() > 1).then(|| conn.unchecked_transaction().ok()).flatten();
    claimed.iter().map(move |job| {
        let conn = snapshot.as_deref().unwrap_or(conn);
        let event = load_event(conn, job.event)?;
        let has_item = job.item.is_some() && !job.should_reevaluate && event.obstacle().is_none();
        let item = has_item.then(|| load_item(conn, job.claim.job)).transpose()?;
        Ok(JobInput { event, item })
    })
}

/// Loads an event without its body, or returns `None` if it does not exist. Its body is empty.
///
/// # Errors
/// The read failed.
pub fn find_event_head(conn: &Connection, id: EventId) -> rusqlite::Result<Option<EventHead>> {
    conn.find(formatcp!("SELECT {HEAD}, coalesce(length(e.body), 0) {FROM}"), [id], |row| {
        let bytes: i64 = row.get(HEAD_COLUMNS)?;
        let body_bytes = usize::try_from(bytes).unwrap_or(0);
        Ok(EventHead { event: read_head(id, row)?, body_bytes })
    })
}

/// An event without its body.
#[derive(Clone, Debug)]
pub struct EventHead {
    pub event: Event,
    /// The size of the stored body; 0 if it was removed.
    pub body_bytes: usize,
}

/// Reads up to `max_bytes` of a body, without the rest of it. Returns `None` if the event does not exist or has no
/// body any more. At the end of the body, returns no bytes.
///
/// # Errors
/// The read failed.
pub fn read_body_part(
    conn: &Connection,
    id: EventId,
    offset: usize,
    max_bytes: usize,
) -> rusqlite::Result<Option<Vec<u8>>> {
    let transaction = conn.unchecked_transaction()?;
    let sql = "SELECT body IS NOT NULL FROM events WHERE id = ?1";
    if transaction.find::<bool>(sql, [id], |row| row.get(0))? != Some(true) {
        return Ok(None);
    }
    let blob = transaction.blob_open("main", "events", "body", id.0, true)?;
    let length = blob.len().saturating_sub(offset).min(max_bytes);
    let mut bytes = vec![0; length];
    blob.read_at_exact(&mut bytes, offset)?;
    Ok(Some(bytes))
}

/// Loads an event, or returns `None` if it does not exist.
///
/// # Errors
/// The read failed.
pub fn find_event(conn: &Connection, id: EventId) -> rusqlite::Result<Option<Event>> {
    load_event(conn, id).optional()
}

/// Returns when an event was received, or `None` if it does not exist.
///
/// # Errors
/// The read failed.
pub fn load_received_at(conn: &Connection, id: EventId) -> rusqlite::Result<Option<i64>> {
    conn.find("SELECT received_at FROM events WHERE id = ?1", [id], |row| row.get(0))
}

/// Loads the item of a job.
///
/// # Errors
/// The read failed, or the job has no item.
pub fn load_item(conn: &Connection, job: JobId) -> rusqlite::Result<Arc<[u8]>> {
    conn.prepare_cached("SELECT body FROM items WHERE job = ?1")?
        .query_row([job], |row| Ok(Arc::from(row.get_ref(0)?.as_bytes()?)))
}

/// Returns true if a read failed for a reason that does not depend on the data: no connection, no
/// file descriptor, an error of the disk.
pub fn is_transient(error: &anyhow::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match error.downcast_ref::<rusqlite::Error>() {
        Some(rusqlite::Error::SqliteFailure(e, _)) => {
            !matches!(e.code, DatabaseCorrupt | NotADatabase)
        }
        Some(_) => false,
        None => error.is::<r2d2::Error>(),
    }
}

/// Decodes stored header lines: `name: value`.
pub fn decode_headers(encoded: &[u8]) -> Headers {
    let line = |line: &[u8]| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        let name = String::from_utf8_lossy(&line[..colon]).into_owned();
        let value = line[colon + 1..].strip_prefix(b" ").unwrap_or(&line[colon + 1..]);
        Some((name, value.to_vec()))
    };
    Headers(encoded.split(|&byte| byte == b'\n').filter_map(line).collect())
}
