//! Queries of the command line: lists with the columns of the views. Selectors are combined with
//! "and".

use const_format::formatcp;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::jobs::transition::{
    IS_BLOCKED, IS_CANCELLED, IS_DEAD, IS_QUEUED, IS_RUNNING, IS_SUCCEEDED, IS_UNFINISHED,
    IS_UNRELEASED, IS_WAITING, STATE_NAME, is_public,
};
use super::statements::Statements;
use crate::domain::job::{JobState, PublicState};
use crate::domain::{EventId, JobId};

/// Rows, with the names of their columns.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Value>>,
}

/// Selects jobs, or events and rejections as far as its fields apply to them.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    /// A few jobs. Empty: all.
    pub jobs: Vec<i64>,
    pub event: Option<i64>,
    pub handler: Option<String>,
    pub source: Option<String>,
    /// Wall clock, of the event's `received_at`.
    pub since_ms: Option<i64>,
    pub until_ms: Option<i64>,
    pub state: Option<PublicState>,
    /// Text that the last attempt's detail, or the job's reason, contains.
    pub detail: Option<String>,
    /// Text that the event's body contains. Upper and lower case of ASCII letters are the same.
    pub text: Option<String>,
    /// A group of failures.
    pub failure: Option<i64>,
}

/// True for a job that views show: one whose event has all of its jobs.
pub(super) const VISIBLE: &str = formatcp!(
    "(NOT {IS_UNRELEASED} OR EXISTS (SELECT 1 FROM expansions x
       WHERE x.first_job <= j.id AND j.id <= x.last_job AND x.is_visible))"
);

pub(super) const ISO: &str = "'%Y-%m-%dT%H:%M:%fZ'";

/// Conditions that are joined with "and", and the values of their placeholders.
pub(super) struct SqlFilter {
    pub(super) parts: Vec<String>,
    pub(super) values: Vec<Value>,
}

impl SqlFilter {
    pub(super) fn new() -> Self {
        Self { parts: vec!["1".to_owned()], values: Vec::new() }
    }

    /// Adds a condition. Every `?` in it stands for `value`.
    pub(super) fn and(&mut self, condition: &str, value: impl Into<Value>) {
        self.values.push(value.into());
        let number = format!("?{}", self.values.len());
        self.parts.push(format!("({})", condition.replace('?', &number)));
    }

    pub(super) fn to_sql(&self) -> String {
        self.parts.join(" AND ")
    }
}

impl Selector {
    /// Whether some condition is about jobs, and not about their events.
    pub fn has_job_conditions(&self) -> bool {
        self.state.is_some() || self.detail.is_some() || self.failure.is_some()
    }

    pub(super) fn job_filter(&self) -> SqlFilter {
        let mut filter = SqlFilter::new();
        filter.parts.push(VISIBLE.to_owned());
        if !self.jobs.is_empty() {
            filter.parts.push(format!("j.id IN ({})", id_list(&self.jobs)));
        }
        if let Some(event) = self.event {
            // The range of the event's own jobs is found without reading all jobs.
            filter.and(
                "j.id IN (SELECT o.id FROM events e JOIN jobs o
                   ON o.id BETWEEN e.first_job AND e.last_job OR o.appended_to = e.id WHERE e.id = ?)",
                event,
            );
        }
        if let Some(handler) = &self.handler {
            filter.and("j.handler = (SELECT id FROM handlers WHERE name = ?)", handler.clone());
        }
        self.add_common_conditions(
            &mut filter,
            "j.source = (SELECT id FROM sources WHERE name = ?)",
            "j.created_at",
        );
        filter.parts.extend(self.state.map(|state| is_public(state).to_owned()));
        if let Some(group) = self.failure {
            filter.and("j.failure = ?", group);
        }
        if let Some(text) = &self.text {
            filter.and(
                "EXISTS (SELECT 1 FROM events e WHERE e.id = j.event AND body_contains(e.body, ?))",
                text.clone(),
            );
        }
        if let Some(detail) = &self.detail {
            filter.and(
                "instr(coalesce(j.reason, ''), ?) OR EXISTS (SELECT 1 FROM attempts a
                   WHERE a.job = j.id AND a.attempt = j.attempt AND instr(a.detail, ?))",
                detail.clone(),
            );
        }
        filter
    }

    pub(super) fn event_filter(&self) -> SqlFilter {
        let mut filter = SqlFilter::new();
        if let Some(event) = self.event {
            filter.and("e.id = ?", event);
        }
        self.add_common_conditions(
            &mut filter,
            "e.source = (SELECT id FROM sources WHERE name = ?)",
            "e.received_at",
        );
        if let Some(text) = &self.text {
            filter.and("body_contains(e.body, ?)", text.clone());
        }
        filter
    }

    /// The conditions for the newest of an event's jobs that match, so that each event is found once.
    pub(super) fn newest_job_filter(&self) -> SqlFilter {
        let mut filter = self.job_filter();
        // `+` keeps SQLite from reading a whole group of failures for each job.
        let newer = filter.to_sql().replace("j.", "k.").replace("k.failure", "+k.failure");
        filter.parts.push(format!(
            "NOT EXISTS (SELECT 1 FROM events o JOIN jobs k
               ON k.id BETWEEN j.id + 1 AND o.last_job OR k.appended_to = o.id AND k.id > j.id
             WHERE o.id = j.event AND {newer})"
        ));
        filter
    }

    pub(super) fn rejection_filter(&self) -> SqlFilter {
        let mut filter = SqlFilter::new();
        self.add_common_conditions(&mut filter, "r.source = ?", "r.at");
        if let Some(detail) = &self.detail {
            filter.and("instr(r.reason, ?)", detail.clone());
        }
        filter
    }

    fn add_common_conditions(&self, filter: &mut SqlFilter, source: &str, time: &str) {
        if let Some(name) = &self.source {
            filter.and(source, name.clone());
        }
        if let Some(since) = self.since_ms {
            filter.and(&format!("{time} >= ?"), since);
        }
        if let Some(until) = self.until_ms {
            filter.and(&format!("{time} < ?"), until);
        }
    }
}

fn id_list(numbers: &[i64]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

pub(super) fn query(conn: &Connection, sql: &str, values: &[Value]) -> rusqlite::Result<Rows> {
    query_each(conn, sql, std::iter::once(values.to_vec()))
}

/// Runs a query for each of these values.
pub(super) fn query_each(
    conn: &Connection,
    sql: &str,
    each: impl Iterator<Item = Vec<Value>>,
) -> rusqlite::Result<Rows> {
    let mut select = conn.prepare(sql)?;
    let columns: Vec<String> = select.column_names().into_iter().map(str::to_owned).collect();
    let mut rows = Vec::new();
    for values in each {
        let found = select.query_map(params_from_iter(values), |row| {
            (0..columns.len()).map(|at| row.get(at)).collect()
        })?;
        rows.append(&mut found.collect::<rusqlite::Result<_>>()?);
    }
    Ok(Rows { columns, rows })
}

/// The reason why a queued job waits: the handler's open circuit breaker or pause, an earlier job with
/// its ordering key, and how its last attempt ended. NULL if it is only waiting for a free thread.
pub(super) fn waiting_reason(to_wall: usize) -> String {
    format!(
        "nullif(concat_ws('; ',
           CASE WHEN h.breaker_open_until + ?{to_wall} > unixepoch('subsec') * 1000
             THEN 'circuit breaker open until '
               || strftime({ISO}, (h.breaker_open_until + ?{to_wall}) / 1000.0, 'unixepoch')
             WHEN h.breaker_open_until IS NOT NULL
             THEN 'circuit breaker open until a job succeeds as its probe' END,
           CASE WHEN h.paused THEN 'handler is paused' END,
           CASE WHEN {IS_BLOCKED} THEN 'waits for an earlier job with its ordering key' END,
           j.reason,
           (SELECT a.detail FROM attempts a WHERE a.job = j.id ORDER BY a.attempt DESC LIMIT 1)), '')"
    )
}

/// The row of the view `trail` of one event. It reads the event's jobs once, where the view reads them for each
/// column.
pub(super) const TRAIL_ROW: &str = formatcp!(
    "WITH c AS MATERIALIZED (SELECT j.state, count(*) AS jobs, max(j.ended_at) AS ended_at
       FROM events e JOIN jobs j ON j.id BETWEEN e.first_job AND e.last_job OR j.appended_to = e.id
       WHERE e.id = ?1 GROUP BY j.state),
     u AS MATERIALIZED (SELECT coalesce((SELECT sum(jobs) FROM c WHERE {IS_UNRELEASED} AND EXISTS
         (SELECT 1 FROM expansions x WHERE x.event = ?1 AND x.is_visible)), 0)
       + coalesce((SELECT json_array_length(d.handlers) FROM deferred_events d WHERE d.event = ?1), 0) AS jobs)
     SELECT e.id AS event, strftime({ISO}, e.received_at / 1000.0, 'unixepoch') AS received_at,
       s.name AS source, nullif(e.ip, '') AS remote_ip, coalesce(e.removed_bytes, length(e.body)) AS bytes,
       (SELECT count(*) FROM duplicates d WHERE d.event = e.id) AS duplicates,
       u.jobs + coalesce((SELECT sum(jobs) FROM c WHERE NOT {IS_UNRELEASED}), 0) AS jobs,
       u.jobs + coalesce((SELECT sum(jobs) FROM c WHERE {IS_WAITING}), 0) AS queued,
       coalesce((SELECT jobs FROM c WHERE {IS_RUNNING}), 0) AS running,
       coalesce((SELECT jobs FROM c WHERE {IS_SUCCEEDED}), 0) AS succeeded,
       coalesce((SELECT jobs FROM c WHERE {IS_DEAD}), 0) AS dead,
       coalesce((SELECT jobs FROM c WHERE {IS_CANCELLED}), 0) AS cancelled,
       CASE WHEN EXISTS (SELECT 1 FROM c WHERE {IS_UNFINISHED} OR {IS_UNRELEASED})
           OR EXISTS (SELECT 1 FROM deferred_events d WHERE d.event = e.id) THEN NULL ELSE
         strftime({ISO}, coalesce((SELECT max(ended_at) FROM c), e.received_at) / 1000.0, 'unixepoch')
         END AS settled_at, e.client, e.origin_key
     FROM events e JOIN sources s ON s.id = e.source CROSS JOIN u WHERE e.id = ?1"
);

/// Returns the number of rows that [`list_jobs`] would return without a limit.
///
/// # Errors
/// The read failed.
pub fn count_jobs(conn: &Connection, selector: &Selector) -> rusqlite::Result<i64> {
    count(conn, "jobs j", &selector.job_filter())
}

/// Returns the number of rows that [`list_rejections`] would return without a limit. There are at most
/// [`rejections::MAX_ROWS`](super::rejections::MAX_ROWS).
///
/// # Errors
/// The read failed.
pub fn count_rejections(conn: &Connection, selector: &Selector) -> rusqlite::Result<i64> {
    count(conn, "rejected_requests r", &selector.rejection_filter())
}

fn count(conn: &Connection, table: &str, filter: &SqlFilter) -> rusqlite::Result<i64> {
    let sql = format!("SELECT count(*) FROM {table} WHERE {}", filter.to_sql());
    conn.query_row(&sql, params_from_iter(&filter.values), |row| row.get(0))
}

/// The columns of a job in a list. Placeholder `to_wall` is the difference between the wall clock and the
/// database clock.
pub(super) fn select_jobs(to_wall: usize) -> String {
    let waiting = waiting_reason(to_wall);
    format!(
        "SELECT j.id AS job, j.event, s.name AS source, h.name AS handler, j.item,
           {STATE_NAME} AS state, j.attempt AS attempts,
           CASE WHEN {IS_QUEUED} THEN {waiting} ELSE j.reason END AS reason,
           strftime({ISO}, (j.due_at + ?{to_wall}) / 1000.0, 'unixepoch') AS due_at
         FROM jobs j JOIN sources s ON s.id = j.source JOIN handlers h ON h.id = j.handler"
    )
}

/// Returns jobs, newest first. `to_wall_ms` is the difference between the wall clock and the
/// database clock.
///
/// # Errors
/// The read failed.
pub fn list_jobs(
    conn: &Connection,
    selector: &Selector,
    limit: i64,
    to_wall_ms: i64,
) -> rusqlite::Result<Rows> {
    let mut filter = selector.job_filter();
    filter.values.push(limit.into());
    filter.values.push(to_wall_ms.into());
    let (limit, wall) = (filter.values.len() - 1, filter.values.len());
    let sql = format!(
        "{} WHERE {} ORDER BY j.id DESC LIMIT ?{limit}",
        select_jobs(wall),
        filter.to_sql()
    );
    query(conn, &sql, &filter.values)
}

/// Returns the state of a job, or `None` if it does not exist.
///
/// # Errors
/// The read failed.
pub fn load_job_state(conn: &Connection, job: i64) -> rusqlite::Result<Option<JobState>> {
    let sql = formatcp!("SELECT state FROM jobs j WHERE j.id = ?1 AND {VISIBLE}");
    conn.find(sql, [job], |row| row.get(0))
}

/// Returns the event of a job, or `None` if there is no such job.
///
/// # Errors
/// The read failed.
pub fn find_event_of_job(conn: &Connection, job: i64) -> rusqlite::Result<Option<i64>> {
    let sql = formatcp!("SELECT j.event FROM jobs j WHERE j.id = ?1 AND {VISIBLE}");
    conn.find(sql, [job], |row| row.get(0))
}

/// Returns whether a job has an id from `first` to `last`.
///
/// # Errors
/// The read failed.
pub fn has_jobs_between(conn: &Connection, first: i64, last: i64) -> rusqlite::Result<bool> {
    let sql = formatcp!(
        "SELECT EXISTS (SELECT 1 FROM jobs j WHERE j.id BETWEEN ?1 AND ?2 AND {VISIBLE})"
    );
    conn.value(sql, [first, last])
}

/// Returns the first event with an id from `first` to `last`.
///
/// # Errors
/// The read failed.
pub fn find_event_between(
    conn: &Connection,
    first: i64,
    last: i64,
) -> rusqlite::Result<Option<i64>> {
    conn.value("SELECT min(id) FROM events WHERE id BETWEEN ?1 AND ?2", [first, last])
}

/// Returns true if other jobs have replaced this one, so that it never runs again.
///
/// # Errors
/// The read failed.
pub fn is_expanded(conn: &Connection, job: i64) -> rusqlite::Result<bool> {
    conn.value("SELECT EXISTS (SELECT 1 FROM jobs WHERE id = ?1 AND reevaluation = 2)", [job])
}

/// Returns events, newest first, as in the view `trail`.
///
/// # Errors
/// The read failed.
pub fn list_events(conn: &Connection, selector: &Selector, limit: i64) -> rusqlite::Result<Rows> {
    let mut filter = selector.event_filter();
    filter.values.push(limit.into());
    let sql = format!(
        "SELECT t.* FROM (SELECT e.id FROM events e WHERE {} ORDER BY e.id DESC LIMIT ?{}) f
           JOIN trail t ON t.event = f.id ORDER BY t.event DESC",
        filter.to_sql(),
        filter.values.len()
    );
    query(conn, &sql, &filter.values)
}

/// Returns rejections, newest first, as in the view `rejections`.
///
/// # Errors
/// The read failed.
pub fn list_rejections(
    conn: &Connection,
    selector: &Selector,
    limit: i64,
) -> rusqlite::Result<Rows> {
    let mut filter = selector.rejection_filter();
    filter.values.push(limit.into());
    let sql = format!(
        "SELECT v.* FROM rejected_requests r JOIN rejections v ON v.id = r.id WHERE {} ORDER BY r.id DESC
           LIMIT ?{}",
        filter.to_sql(),
        filter.values.len()
    );
    query(conn, &sql, &filter.values)
}

/// Returns a number that changes when another connection writes.
///
/// # Errors
/// The read failed.
pub fn data_version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.pragma_query_value(None, "data_version", |row| row.get(0))
}

/// Returns the id of the newest event.
///
/// # Errors
/// The read failed.
pub fn find_newest_event(conn: &Connection) -> rusqlite::Result<Option<i64>> {
    conn.value("SELECT max(id) FROM events", [])
}

/// Returns the newest job of an event for a handler, with the number of its last attempt.
///
/// # Errors
/// The read failed.
pub fn find_newest_job(
    conn: &Connection,
    event: EventId,
    handler: &str,
) -> rusqlite::Result<Option<(JobId, u32)>> {
    let sql = formatcp!(
        "SELECT j.id, j.attempt FROM events e JOIN jobs j
           ON j.id BETWEEN e.first_job AND e.last_job OR j.appended_to = e.id
         WHERE e.id = ?1 AND j.handler = (SELECT id FROM handlers WHERE name = ?2) AND {VISIBLE}
         ORDER BY j.id DESC LIMIT 1"
    );
    conn.find(sql, (event, handler), |row| row.try_into())
}
/// Returns the row of the view `trail` of an event, if it exists.
///
/// # Errors
/// The read failed.
pub fn load_trail(conn: &Connection, event: i64) -> rusqlite::Result<Rows> {
    query(conn, TRAIL_ROW, &[event.into()])
}

/// Returns the events before and after an event.
///
/// # Errors
/// The read failed.
pub fn find_neighbours(
    conn: &Connection,
    event: EventId,
) -> rusqlite::Result<(Option<i64>, Option<i64>)> {
    let previous = conn.value("SELECT max(id) FROM events WHERE id < ?1", [event])?;
    let next = conn.value("SELECT min(id) FROM events WHERE id > ?1", [event])?;
    Ok((previous, next))
}

/// The newest rows of rejections that [`group_rejections`] reads.
pub const GROUPED_REJECTIONS: i64 = 10_000;

/// Groups the newest [`GROUPED_REJECTIONS`] rows of rejections by source and reason, the most frequent first.
///
/// # Errors
/// The read failed.
pub fn group_rejections(conn: &Connection) -> rusqlite::Result<Rows> {
    let sql = formatcp!(
        "SELECT source, status, reason, sum(count) AS count,
           strftime({ISO}, min(at) / 1000.0, 'unixepoch') AS first_at,
           strftime({ISO}, max(at) / 1000.0, 'unixepoch') AS last_at,
           count(DISTINCT ip) AS addresses
         FROM (SELECT * FROM rejected_requests ORDER BY id DESC LIMIT {GROUPED_REJECTIONS})
         GROUP BY source, status, reason ORDER BY sum(count) DESC LIMIT 200"
    );
    query(conn, sql, &[])
}
