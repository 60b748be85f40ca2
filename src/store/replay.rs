//! Replays: new jobs with new keys for stored events. This module inserts the jobs in short
//! transactions. The caller plans the jobs of each event.

use rusqlite::Connection;

use super::Store;
use super::audit::{self, AuditEntry};
use super::chunked_writes::{ChunkedWriter, TimeSlice};
use super::jobs::{JobOrigin, OriginKind, insert};
use super::statements::Statements;
use super::write_transaction::WriteTransaction;
use crate::domain::job_plan::JobSpec;
use crate::domain::{HandlerId, SourceId};

/// The source of an event and when it was received, which its new jobs need, and whether it has a body.
type EventFacts = (SourceId, i64, bool);

fn load_event_facts(conn: &Connection, event: i64) -> rusqlite::Result<Option<EventFacts>> {
    let sql = "SELECT source, received_at, body IS NOT NULL FROM events WHERE id = ?1";
    conn.find(sql, [event], |row| row.try_into())
}

/// Returns whether the event has a body, or `None` if it does not exist.
///
/// # Errors
/// The read failed.
pub fn has_body(conn: &Connection, event: i64) -> rusqlite::Result<Option<bool>> {
    Ok(load_event_facts(conn, event)?.map(|(_, _, has_body)| has_body))
}

/// An event, and the jobs to create for it.
#[derive(Clone, Debug)]
pub struct PlannedReplay {
    pub event: i64,
    pub specs: Vec<(HandlerId, JobSpec)>,
}

/// A replay in progress, with the number that makes its keys new.
#[derive(Debug)]
pub struct Replay<'s> {
    writer: ChunkedWriter<'s>,
    entry: AuditEntry,
    /// The number of the replay and the row of its audit entry, after the first transaction.
    started: Option<(i64, i64)>,
    jobs: i64,
    missing_events: Vec<i64>,
}

/// The position of the next job: event, handler and job, as indexes.
#[derive(Clone, Copy, Default)]
struct ReplayCursor {
    event: usize,
    handler: usize,
    job: usize,
}

impl<'s> Replay<'s> {
    /// Creates a replay. `entry` is its entry for the audit log, to which the number of jobs is
    /// added.
    pub fn new(store: &'s Store, entry: AuditEntry) -> Self {
        Self {
            writer: ChunkedWriter::new(store),
            entry,
            started: None,
            jobs: 0,
            missing_events: Vec::new(),
        }
    }

    /// Returns how many jobs were inserted so far.
    pub fn jobs(&self) -> i64 {
        self.jobs
    }

    /// Returns the events that do not exist any more, or have no body.
    pub fn missing_events(&self) -> &[i64] {
        &self.missing_events
    }

    /// Inserts the jobs of these events. After an interruption, whole transactions remain, and the
    /// audit log has the correct count.
    ///
    /// # Errors
    /// The write failed, or the items cannot be read.
    pub fn insert_jobs(&mut self, replays: &[PlannedReplay]) -> anyhow::Result<()> {
        let mut cursor = ReplayCursor::default();
        while cursor.event < replays.len() {
            self.writer.write_chunk(|tx, slice| {
                let jobs_before = tx.cache.counters.job;
                let number = match self.started {
                    Some((number, _)) => number,
                    None => tx.cache.counters.replay + 1,
                };
                tx.cache.counters.replay = tx.cache.counters.replay.max(number);
                while slice.has_time()
                    && let Some(replay) = replays.get(cursor.event)
                {
                    if !insert_some_jobs(tx, number, replay, &mut cursor, slice)? {
                        self.missing_events.push(replay.event);
                    }
                }
                let made = tx.cache.counters.job - jobs_before;
                let row = self.started.map(|(_, row)| row);
                let row = audit::record_progress(tx.conn, row, &self.entry, made)?;
                self.started = Some((number, row));
                self.jobs += made;
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// Inserts jobs of one event while there is time, and advances the cursor. Returns false if the
/// event or its body is gone.
fn insert_some_jobs(
    tx: &mut WriteTransaction<'_>,
    number: i64,
    replay: &PlannedReplay,
    cursor: &mut ReplayCursor,
    slice: TimeSlice,
) -> rusqlite::Result<bool> {
    let next = ReplayCursor { event: cursor.event + 1, ..ReplayCursor::default() };
    let Some((source, created_at_ms, true)) = load_event_facts(tx.conn, replay.event)? else {
        *cursor = next;
        return Ok(false);
    };
    while let Some((handler, spec)) = replay.specs.get(cursor.handler) {
        let (event, handler, kind) = (replay.event, *handler, OriginKind::Replay(number));
        let origin = JobOrigin { event, source, handler, created_at_ms, kind };
        cursor.job = insert::insert_jobs_from(tx, origin, spec, cursor.job, || slice.has_time())?;
        if cursor.job < spec.job_count() {
            return Ok(true);
        }
        (cursor.handler, cursor.job) = (cursor.handler + 1, 0);
    }
    *cursor = next;
    Ok(true)
}
