//! `replay`: new jobs with new keys, made of stored events. Which events, and the writing of the jobs
//! in transactions that are short; what each event owes is decided by whoever calls.

use rusqlite::{Connection, OptionalExtension, params_from_iter};

use super::Store;
use super::audit::{self, AuditEntry};
use super::chunked_writes::{ChunkedWriter, TimeSlice};
use super::insert::{self, JobOrigin, Origin};
use super::queries::Selector;
use super::writer_state::WriterState;
use crate::domain::job_plan::JobSpec;
use crate::domain::{HandlerId, SourceId};

/// An event that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SelectedEvent {
    pub event: i64,
    pub source: SourceId,
    /// Where jobs were selected: whose.
    pub handler: Option<HandlerId>,
}

/// The events that are meant, oldest first. Of those that come meanwhile none is, nor are jobs that
/// the replay itself makes.
///
/// # Errors
/// The read failed.
pub fn events(conn: &Connection, selector: &Selector) -> rusqlite::Result<Vec<SelectedEvent>> {
    let it = selector.of_events();
    let sql = format!("SELECT e.id, e.source FROM events e WHERE {} ORDER BY e.id", it.to_sql());
    let mut select = conn.prepare(&sql)?;
    let rows = select.query_map(params_from_iter(&it.values), |row| {
        Ok(SelectedEvent { event: row.get(0)?, source: SourceId(row.get(1)?), handler: None })
    })?;
    rows.collect()
}

/// The events that have a job which is meant, oldest first, once for each handler.
///
/// # Errors
/// The read failed.
pub fn events_of_jobs(
    conn: &Connection,
    selector: &Selector,
) -> rusqlite::Result<Vec<SelectedEvent>> {
    let it = selector.of_jobs();
    let sql = format!(
        "SELECT DISTINCT j.event, j.source, j.handler FROM jobs j WHERE {} ORDER BY 1, 3",
        it.to_sql()
    );
    let mut select = conn.prepare(&sql)?;
    let rows = select.query_map(params_from_iter(&it.values), |row| {
        let handler = Some(HandlerId(row.get(2)?));
        Ok(SelectedEvent { event: row.get(0)?, source: SourceId(row.get(1)?), handler })
    })?;
    rows.collect()
}

/// What must be known of an event before its jobs are made.
struct EventFacts {
    source: SourceId,
    received_at_ms: i64,
    has_body: bool,
}

fn stored(conn: &Connection, event: i64) -> rusqlite::Result<Option<EventFacts>> {
    conn.prepare_cached("SELECT source, received_at, body IS NOT NULL FROM events WHERE id = ?1")?
        .query_row([event], |row| {
            Ok(EventFacts {
                source: SourceId(row.get(0)?),
                received_at_ms: row.get(1)?,
                has_body: row.get(2)?,
            })
        })
        .optional()
}

/// Whether the event is there with its body; `None`: it is not there at all.
///
/// # Errors
/// The read failed.
pub fn has_body(conn: &Connection, event: i64) -> rusqlite::Result<Option<bool>> {
    Ok(stored(conn, event)?.map(|stored| stored.has_body))
}

/// An event and what it owes now.
#[derive(Clone, Debug)]
pub struct PlannedReplay {
    pub event: i64,
    pub owed: Vec<(HandlerId, JobSpec)>,
}

/// A replay under way, with the number that makes its keys new.
#[derive(Debug)]
pub struct Replay<'s> {
    turns: ChunkedWriter<'s>,
    act: AuditEntry,
    /// Its own, and the row of its act: once the first transaction is through.
    begun: Option<(i64, i64)>,
    jobs: i64,
    gone: Vec<i64>,
}

/// How far it is: the event, the handler, the job.
#[derive(Clone, Copy, Default)]
struct ReplayCursor {
    event: usize,
    handler: usize,
    job: usize,
}

impl<'s> Replay<'s> {
    /// `act`: how it is written down; how many jobs it made is added.
    pub fn new(store: &'s Store, act: AuditEntry) -> Self {
        Self { turns: ChunkedWriter::new(store), act, begun: None, jobs: 0, gone: Vec::new() }
    }

    /// Jobs that were made so far.
    pub fn jobs(&self) -> i64 {
        self.jobs
    }

    /// Events that were not there any more, or had no body.
    pub fn gone(&self) -> &[i64] {
        &self.gone
    }

    /// Makes the jobs of these events. An end in between leaves whole transactions, and a true
    /// count in `acts`.
    ///
    /// # Errors
    /// The write failed, or items can't be read.
    pub fn make(&mut self, due: &[PlannedReplay]) -> anyhow::Result<()> {
        if due.is_empty() {
            return Ok(());
        }
        let mut place = ReplayCursor::default();
        self.turns.run(|conn, state, hold| {
            let jobs_before = state.counters.job;
            let number = match self.begun {
                Some((number, _)) => number,
                None => state.counters.replay + 1,
            };
            state.counters.replay = state.counters.replay.max(number);
            while hold.has_time()
                && let Some(one) = due.get(place.event)
            {
                let is_there = some_of(conn, state, number, one, &mut place, hold)?;
                if !is_there {
                    self.gone.push(one.event);
                }
            }
            let made = state.counters.job - jobs_before;
            let row = self.begun.map(|(_, row)| row);
            self.begun = Some((number, audit::record_progress(conn, row, &self.act, made)?));
            self.jobs += made;
            Ok(place.event < due.len())
        })
    }
}

/// Makes jobs of one event while there is time, and moves the place on; `false` where the event, or
/// its body, is gone.
fn some_of(
    conn: &Connection,
    state: &mut WriterState,
    number: i64,
    due: &PlannedReplay,
    place: &mut ReplayCursor,
    hold: TimeSlice,
) -> rusqlite::Result<bool> {
    let next = ReplayCursor { event: place.event + 1, ..ReplayCursor::default() };
    let Some(stored) = stored(conn, due.event)?.filter(|stored| stored.has_body) else {
        *place = next;
        return Ok(false);
    };
    while let Some((handler, owed)) = due.owed.get(place.handler) {
        let of = JobOrigin {
            event: due.event,
            source: stored.source,
            handler: *handler,
            created_at_ms: stored.received_at_ms,
            origin: Origin::Replay(number),
        };
        place.job = insert::insert_jobs_from(conn, state, of, owed, place.job, || hold.has_time())?;
        if place.job < owed.job_count() {
            return Ok(true);
        }
        (place.handler, place.job) = (place.handler + 1, 0);
    }
    *place = next;
    Ok(true)
}
