//! The jobs of one event, for `show`. An event may have 100,000 jobs with 128 KiB of output for each attempt,
//! so these queries count jobs or read a bounded part.

use const_format::formatcp;
use rusqlite::Connection;

use super::jobs::transition::{IS_QUEUED, IS_RUNNING, IS_SUCCEEDED, STATE_NAME, is_public};
use super::queries::{ISO, Rows, VISIBLE, query, waiting_reason};
use super::statements::Statements;
use crate::domain::job::PublicState;
use crate::domain::{EventId, JobId};

/// An event `?1` with its jobs.
const JOBS: &str =
    "events e JOIN jobs j ON j.id BETWEEN e.first_job AND e.last_job OR j.appended_to = e.id
  JOIN handlers h ON h.id = j.handler";

/// The jobs of an event for one handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandlerJobs {
    pub handler: String,
    pub is_paused: bool,
    /// The end of the cooldown of an open circuit breaker, by the wall clock.
    pub breaker_open_until_ms: Option<i64>,
    /// The number of jobs in each state, as in [`PublicState::ALL`].
    pub counts: [i64; PublicState::ALL.len()],
}

impl HandlerJobs {
    /// Returns the number of jobs in a state, or in all states.
    pub fn count(&self, state: Option<PublicState>) -> i64 {
        let counts = PublicState::ALL.iter().zip(self.counts);
        counts.filter(|(of, _)| state.is_none_or(|only| only == **of)).map(|(_, n)| n).sum()
    }
}

/// Counts the jobs of an event by handler and state. `to_wall_ms` converts the database clock.
///
/// # Errors
/// The read failed.
pub fn count_by_handler(
    conn: &Connection,
    event: EventId,
    to_wall_ms: i64,
) -> rusqlite::Result<Vec<HandlerJobs>> {
    let sums = PublicState::ALL.map(|state| format!("sum({})", is_public(state)));
    let sql = format!(
        "SELECT h.name, h.paused, h.breaker_open_until, {} FROM {JOBS}
         WHERE e.id = ?1 AND {VISIBLE} GROUP BY j.handler ORDER BY h.name",
        sums.join(", ")
    );
    conn.list(&sql, [event], |row| {
        let mut counts = [0; PublicState::ALL.len()];
        for (index, count) in counts.iter_mut().enumerate() {
            *count = row.get(3 + index)?;
        }
        let (handler, is_paused) = (row.get(0)?, row.get(1)?);
        let breaker_open_until_ms = row.get::<_, Option<i64>>(2)?.map(|until| until + to_wall_ms);
        Ok(HandlerJobs { handler, is_paused, breaker_open_until_ms, counts })
    })
}

/// A job with the reason why it is dead, cancelled or waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobReason {
    pub job: i64,
    pub handler: String,
    pub state: String,
    pub reason: String,
}

/// Calls `visit` for each job of an event that has a reason, in the order of their numbers.
///
/// # Errors
/// The read failed.
pub fn for_each_reason(
    conn: &Connection,
    event: EventId,
    to_wall_ms: i64,
    mut visit: impl FnMut(JobReason),
) -> rusqlite::Result<()> {
    let waiting = waiting_reason(2);
    let sql = format!(
        "SELECT j.id, h.name, {STATE_NAME}, CASE WHEN {IS_QUEUED} THEN {waiting} ELSE j.reason END
           AS why FROM {JOBS} WHERE e.id = ?1 AND {VISIBLE} AND NOT {IS_RUNNING} AND NOT {IS_SUCCEEDED}"
    );
    let mut select = conn.prepare(&sql)?;
    let mut rows = select.query((event, to_wall_ms))?;
    while let Some(row) = rows.next()? {
        if let Some(reason) = row.get(3)? {
            visit(JobReason { job: row.get(0)?, handler: row.get(1)?, state: row.get(2)?, reason });
        }
    }
    Ok(())
}

/// Returns the numbers of an event's jobs, or of those in a state, the lowest first.
///
/// # Errors
/// The read failed.
pub fn list_jobs(
    conn: &Connection,
    event: EventId,
    state: Option<PublicState>,
) -> rusqlite::Result<Vec<JobId>> {
    let condition = state.map_or("1", is_public);
    let sql = format!(
        "SELECT j.id FROM {JOBS} WHERE e.id = ?1 AND {VISIBLE} AND {condition} ORDER BY j.id"
    );
    conn.list(&sql, [event], |row| row.get(0))
}

/// Returns the parts of a job's idempotency key besides the event's id: the name of the handler, the item and the number of the
/// replay, each 0 if it does not apply.
///
/// # Errors
/// The read failed, or there is no such job.
pub fn load_key_parts(conn: &Connection, job: JobId) -> rusqlite::Result<(String, u32, u32)> {
    let sql = "SELECT h.name, coalesce(j.item, 0), coalesce(j.replay, 0)
       FROM jobs j JOIN handlers h ON h.id = j.handler WHERE j.id = ?1";
    conn.prepare_cached(sql)?.query_row([job], |row| row.try_into())
}

/// Returns the number of a job's item and its first `max_bytes`, or `None` if the job has no item.
///
/// # Errors
/// The read failed.
pub fn load_item_start(
    conn: &Connection,
    job: JobId,
    max_bytes: usize,
) -> rusqlite::Result<Option<(i64, Vec<u8>)>> {
    let sql = "SELECT j.item, substr(i.body, 1, ?2) FROM items i JOIN jobs j ON j.id = i.job
               WHERE i.job = ?1";
    let max_bytes = i64::try_from(max_bytes).unwrap_or(i64::MAX);
    conn.find(sql, (job, max_bytes), |row| row.try_into())
}

/// Returns the number of attempts of a job that have ended.
///
/// # Errors
/// The read failed.
pub fn count_attempts(conn: &Connection, job: JobId) -> rusqlite::Result<i64> {
    conn.value("SELECT count(*) FROM attempts WHERE job = ?1", [job])
}

/// Returns up to `limit` attempts of a job with their outputs: those whose number is above `after`, the
/// lowest first.
///
/// # Errors
/// The read failed.
pub fn load_attempts(
    conn: &Connection,
    job: JobId,
    after: i64,
    limit: i64,
) -> rusqlite::Result<Rows> {
    let sql = formatcp!(
        "{SELECT_ATTEMPTS} WHERE a.job = ?1 AND a.attempt > ?2 ORDER BY a.attempt LIMIT ?3"
    );
    query(conn, sql, &[job.0.into(), after.into(), limit.into()])
}

/// Returns the last attempt of a job that has ended, with its outputs.
///
/// # Errors
/// The read failed.
pub fn load_last_attempt(conn: &Connection, job: JobId) -> rusqlite::Result<Rows> {
    let sql = formatcp!("{SELECT_ATTEMPTS} WHERE a.job = ?1 ORDER BY a.attempt DESC LIMIT 1");
    query(conn, sql, &[job.0.into()])
}

/// Attempts with their outputs.
const SELECT_ATTEMPTS: &str = formatcp!(
    "SELECT a.job, a.attempt, a.outcome, strftime({ISO}, a.ended_at / 1000.0, 'unixepoch') AS at,
       a.detail, a.duration_ms, strftime({ISO}, a.next_at / 1000.0, 'unixepoch') AS next_at,
       a.stdout, a.stderr
     FROM attempts a"
);
