//! Table `settlements`: jobs that reached a final state and that no event of type `job.settled` has reported yet. The
//! transaction that changes the state records them, unless no handler subscribes. The jobs of the source `hooktrail` are
//! not recorded, so that a report causes no other report.
//!
//! A row has all that its event needs. So the event and the job may be removed, or the job retried, before it is
//! reported.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::events::{self, EventInserts, NewEvent};
use super::meta;
use super::settled_job::SettledJob;
use super::statements::Statements;
use super::write_transaction::WriteTransaction;
use crate::domain::SourceId;
use crate::domain::job::JobState;

/// Sets the source `hooktrail` if a handler takes events of type `job.settled`, or `None`, which also discards the
/// recorded jobs. Must be called within a transaction.
///
/// # Errors
/// The write failed.
pub fn set_subscriber(conn: &Connection, source: Option<SourceId>) -> rusqlite::Result<()> {
    meta::set(conn, "settlements", source)?;
    if source.is_none() {
        conn.execute("DELETE FROM settlements", [])?;
    }
    Ok(())
}

/// Writes the rows of the jobs that this transaction noted.
///
/// # Errors
/// The write failed.
pub(super) fn write(tx: &mut WriteTransaction<'_>) -> rusqlite::Result<()> {
    if tx.effects.settled.is_empty() {
        return Ok(());
    }
    let settled = std::mem::take(&mut tx.effects.settled);
    let insert = tx.held.get(
        "INSERT INTO settlements (job, event, source, handler, item, replay, attempts, ended_as, at, detail, uid,
           origin_key)
         SELECT j.id, j.event, j.source, j.handler, j.item, j.replay, coalesce(?2, j.attempt), ?3, ?4, ?5, e.uid,
           e.origin_key
         FROM jobs j JOIN events e ON e.id = j.event WHERE j.id = ?1",
    )?;
    for SettledJob { job, state, attempts, at_ms, detail } in settled {
        insert.execute(params![job, attempts, state, at_ms, detail])?;
    }
    tx.effects.has_settled_jobs = true;
    Ok(())
}

/// A recorded job that becomes an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingSettlement {
    pub id: i64,
    pub job: i64,
    pub event: i64,
    pub source: String,
    pub handler: String,
    pub item: Option<u32>,
    pub replay: u32,
    pub attempts: i64,
    /// `succeeded`, `dead` or `cancelled`.
    pub state: &'static str,
    /// Wall clock.
    pub at_ms: i64,
    pub detail: Option<String>,
    /// The `uid` of the event.
    pub uid: [u8; 16],
    /// The origin key of the event.
    pub origin_key: Option<Arc<str>>,
}

/// Returns the next recorded jobs, in the order in which they reached their states.
///
/// # Errors
/// The read failed.
pub fn load_pending(conn: &Connection, limit: usize) -> rusqlite::Result<Vec<PendingSettlement>> {
    let sql = "SELECT t.id, t.job, t.event, s.name, h.name, t.item, coalesce(t.replay, 0), t.attempts, t.ended_as, t.at,
                 t.detail, t.uid, t.origin_key
               FROM settlements t JOIN sources s ON s.id = t.source JOIN handlers h ON h.id = t.handler
               ORDER BY t.id LIMIT ?1";
    conn.list(sql, [i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
        let state: JobState = row.get(8)?;
        Ok(PendingSettlement {
            id: row.get(0)?,
            job: row.get(1)?,
            event: row.get(2)?,
            source: row.get(3)?,
            handler: row.get(4)?,
            item: row.get(5)?,
            replay: row.get(6)?,
            attempts: row.get(7)?,
            state: state.public().name(),
            at_ms: row.get(9)?,
            detail: row.get(10)?,
            uid: row.get(11)?,
            origin_key: row.get(12)?,
        })
    })
}

/// A recorded job and its event; the event is `None` if no handler wants it.
#[derive(Debug)]
pub struct SettlementEvent {
    pub settlement: i64,
    pub event: Option<NewEvent>,
}

/// Returns the cost of the events for the writer, in rows.
pub(super) fn weight(reported: &[SettlementEvent]) -> usize {
    reported.iter().map(|report| 1 + report.event.as_ref().map_or(0, NewEvent::weight)).sum()
}

/// Stores the events and deletes their rows, in one transaction. Skips a row that is gone, because the subscription
/// ended or the same events were sent before. `AUTOINCREMENT` never gives its id to another row.
pub(super) fn report(
    tx: &mut WriteTransaction<'_>,
    reported: &[SettlementEvent],
) -> rusqlite::Result<()> {
    let mut inserts = EventInserts::new(tx.conn);
    for SettlementEvent { settlement, event } in reported {
        let delete = tx.held.get("DELETE FROM settlements WHERE id = ?1")?;
        if delete.execute([settlement])? == 1
            && let Some(event) = event
        {
            events::insert_event(tx, &mut inserts, event)?;
        }
    }
    inserts.flush()
}
