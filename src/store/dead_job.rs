//! A job that became dead in a transaction, as the log reports it after the commit.

use std::fmt;

use rusqlite::Connection;

use super::statements::Statements;
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
        let sql = "SELECT j.event, s.name, h.name, j.attempt, coalesce(j.reason, '') FROM jobs j
          JOIN sources s ON s.id = j.source JOIN handlers h ON h.id = j.handler WHERE j.id = ?1";
        conn.find(sql, [job], |row| {
            let (event, source, handler, attempts, detail) = row.try_into()?;
            Ok(Self { job, event, source, handler, attempts, detail })
        })
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
