//! A job that became dead in a transaction, as the log reports it after the commit.

use std::fmt;

use rusqlite::{Connection, OptionalExtension};

use crate::domain::{EventId, JobId};

/// A job that became dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadJob {
    pub job: JobId,
    pub event: EventId,
    pub source: String,
    pub handler: String,
    pub attempts: u32,
    pub detail: String,
}

impl DeadJob {
    pub(super) fn load(conn: &Connection, job: JobId) -> rusqlite::Result<Option<Self>> {
        conn.prepare_cached(
            "SELECT j.event, s.name, h.name, j.attempt, coalesce(j.reason, '') FROM jobs j
             JOIN sources s ON s.id = j.source JOIN handlers h ON h.id = j.handler WHERE j.id = ?1",
        )?
        .query_row([job.0], |row| {
            Ok(Self {
                job,
                event: EventId(row.get(0)?),
                source: row.get(1)?,
                handler: row.get(2)?,
                attempts: row.get(3)?,
                detail: row.get(4)?,
            })
        })
        .optional()
    }
}

/// The log line in the form that docs/operations.md gives, without its count.
impl fmt::Display for DeadJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { job, event, source, handler, attempts, detail } = self;
        write!(
            f,
            "dead job={job} event={event} source={source} handler={handler} attempts={attempts} \
             detail={detail:?}"
        )
    }
}
