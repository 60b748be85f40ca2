//! Pages of lists for the console and the API: the newest rows that match and are older than a cursor. New rows
//! never move the rows of a page, because a cursor is an id. The time of a page is limited: a page whose search
//! ends early may have fewer rows, and the next one goes on where it ended.

use std::time::Duration;

use const_format::formatcp;
use rusqlite::Connection;
use rusqlite::types::Value;

use super::super::jobs::transition::indexed_states;
use super::super::queries::{self, ISO, Rows, Selector, SqlFilter, TRAIL_ROW};
use super::super::statements::Statements;
use super::blocks::{self, BlockSearch, add_names};
use super::matches::{Matches, SearchTime};
use super::states::StateSearch;
use super::{find_attempts_by_state, load_rows};

/// The time that a page may take to find its rows.
const PAGE_TIME: SearchTime = SearchTime { find: Duration::from_millis(60), count: Duration::ZERO };

/// Which rows a page has.
#[derive(Clone, Copy, Debug)]
pub struct PageRequest {
    /// Only rows that come after this position, which an earlier page returned.
    pub before: Option<i64>,
    /// The most rows.
    pub limit: i64,
}

/// Rows of a list, newest first.
#[derive(Clone, Debug, Default)]
pub struct Page {
    pub rows: Rows,
    /// Where the next page begins. `None`: there are no more rows.
    pub next: Option<i64>,
    /// When the oldest row that was read is from (wall clock), if the time was too short to fill the page.
    pub searched_to_ms: Option<i64>,
}

impl Page {
    /// Makes a page of the rows that a query returns, newest first. It was asked for one more than the limit.
    /// The first column is the id.
    fn of_rows(mut rows: Rows, limit: i64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let has_more = rows.rows.len() > limit;
        rows.rows.truncate(limit);
        let last = rows.rows.last().and_then(|row| match row.first() {
            Some(Value::Integer(id)) => Some(*id),
            _ => None,
        });
        Self { rows, next: last.filter(|_| has_more), searched_to_ms: None }
    }
}

impl PageRequest {
    /// The ids of a page come before this one.
    fn before(self) -> i64 {
        self.before.unwrap_or(i64::MAX)
    }

    /// A search for one row more than the page has.
    fn matches(self) -> Matches {
        Matches::without_count(self.limit.saturating_add(1), PAGE_TIME)
    }

    /// Returns the ids of the page, and where the next page begins.
    fn cut(self, mut matches: Matches) -> FoundIds {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let has_more = matches.ids.len() > limit;
        matches.ids.truncate(limit);
        let searched_to = matches.end.filter(|_| !has_more);
        let last = matches.ids.last().copied().filter(|_| has_more);
        FoundIds { next: searched_to.or(last), ids: matches.ids, searched_to }
    }
}

struct FoundIds {
    ids: Vec<i64>,
    next: Option<i64>,
    /// The oldest id that was read, if the search ended early.
    searched_to: Option<i64>,
}

impl FoundIds {
    fn into_page(self, conn: &Connection, rows: Rows, time_sql: &str) -> rusqlite::Result<Page> {
        let searched_to_ms = match self.searched_to {
            Some(id) => conn.find(time_sql, [id], |row| row.get(0))?,
            None => None,
        };
        Ok(Page { rows, next: self.next, searched_to_ms })
    }
}

/// Returns events as in the view `trail`. With a handler, a state or another condition on jobs, an event is at
/// the position of its newest job that matches, and positions are ids of jobs.
///
/// # Errors
/// The read failed.
pub fn page_of_events(
    conn: &Connection,
    selector: &Selector,
    page: PageRequest,
) -> rusqlite::Result<Page> {
    let transaction = conn.unchecked_transaction()?;
    let conn = &*transaction;
    if selector.handler.is_some() || selector.has_job_conditions() {
        let found = find_jobs(conn, selector, &selector.newest_job_filter(), false, page)?;
        let event = |job: &i64| conn.value("SELECT event FROM jobs WHERE id = ?1", [*job]);
        let events: Vec<i64> = found.ids.iter().map(event).collect::<rusqlite::Result<_>>()?;
        let rows = load_rows(conn, TRAIL_ROW, events.into_iter(), &[])?;
        return found.into_page(conn, rows, JOB_TIME);
    }
    let mut matches = page.matches();
    let (index, filter) = (selector.block_filter(false), selector.event_filter());
    BlockSearch::new(conn, blocks::EVENTS, index, filter, page.before())?.run(
        conn,
        0,
        &mut matches,
    )?;
    let found = page.cut(matches);
    let rows = load_rows(conn, TRAIL_ROW, found.ids.iter().copied(), &[])?;
    let time_sql = "SELECT received_at FROM events WHERE id >= ?1 ORDER BY id LIMIT 1";
    found.into_page(conn, rows, time_sql)
}

const JOB_TIME: &str = "SELECT created_at FROM jobs WHERE id >= ?1 ORDER BY id LIMIT 1";

/// Returns jobs. `to_wall_ms` is the difference between the wall clock and the database clock.
///
/// # Errors
/// The read failed.
pub fn page_of_jobs(
    conn: &Connection,
    selector: &Selector,
    page: PageRequest,
    to_wall_ms: i64,
) -> rusqlite::Result<Page> {
    let transaction = conn.unchecked_transaction()?;
    let conn = &*transaction;
    let is_exact = selector.is_exact_by_state();
    let found = find_jobs(conn, selector, &selector.job_filter(), is_exact, page)?;
    let sql = format!("{} WHERE j.id = ?1", queries::select_jobs(2));
    let rows = load_rows(conn, &sql, found.ids.iter().copied(), &[to_wall_ms.into()])?;
    found.into_page(conn, rows, JOB_TIME)
}

/// Finds jobs that meet the conditions `rows`. `is_exact`: all jobs of the selector's state do.
fn find_jobs(
    conn: &Connection,
    selector: &Selector,
    rows: &SqlFilter,
    is_exact: bool,
    page: PageRequest,
) -> rusqlite::Result<FoundIds> {
    let mut matches = page.matches();
    if let Some(group) = selector.failure {
        search_group(conn, group, rows, page.before(), &mut matches)?;
    } else if let Some(states) = selector.state.and_then(indexed_states) {
        StateSearch::new(conn, selector, &states, page.before())?.run(
            selector,
            rows,
            is_exact,
            &mut matches,
        )?;
    } else if let Some(event) = selector.event {
        let mut filter = SqlFilter { parts: rows.parts.clone(), values: rows.values.clone() };
        filter.and("j.id < ?", page.before());
        filter.values.push(event.into());
        filter.values.push(page.limit.saturating_add(1).into());
        let (event, limit) = (filter.values.len() - 1, filter.values.len());
        let sql = format!(
            "SELECT j.id FROM jobs j WHERE j.id IN (SELECT o.id FROM events e JOIN jobs o
               ON o.id BETWEEN e.first_job AND e.last_job OR o.appended_to = e.id WHERE e.id = ?{event})
             AND {} ORDER BY j.id DESC LIMIT ?{limit}",
            filter.to_sql()
        );
        let found = queries::query(conn, &sql, &filter.values)?;
        for row in &found.rows {
            if let Some(Value::Integer(job)) = row.first() {
                matches.add(*job);
            }
        }
    } else {
        let filter = SqlFilter { parts: rows.parts.clone(), values: rows.values.clone() };
        let index = selector.block_filter(true);
        BlockSearch::new(conn, blocks::JOBS, index, filter, page.before())?.run(
            conn,
            0,
            &mut matches,
        )?;
    }
    Ok(page.cut(matches))
}

/// Adds the jobs of a group of failures that meet the conditions `rows`, newest first.
fn search_group(
    conn: &Connection,
    group: i64,
    rows: &SqlFilter,
    before: i64,
    matches: &mut Matches,
) -> rusqlite::Result<()> {
    let mut jobs = conn.prepare_cached(
        "SELECT id FROM jobs INDEXED BY jobs_failures WHERE failure = ?1 AND failure IS NOT NULL AND id < ?2
         ORDER BY id DESC",
    )?;
    let id = rows.values.len() + 1;
    let sql =
        format!("SELECT EXISTS (SELECT 1 FROM jobs j WHERE j.id = ?{id} AND {})", rows.to_sql());
    let mut check = conn.prepare(&sql)?;
    let mut jobs = jobs.query([group, before])?;
    while let Some(row) = jobs.next()? {
        let job: i64 = row.get(0)?;
        let values = rows.values.iter().cloned().chain([Value::from(job)]);
        if check.query_row(rusqlite::params_from_iter(values), |row| row.get(0))? {
            matches.add(job);
        }
        if matches.is_complete() || matches.should_end(job) {
            return Ok(());
        }
    }
    Ok(())
}

/// Returns outcomes as in the view `outcomes`.
///
/// # Errors
/// The read failed.
pub fn page_of_outcomes(
    conn: &Connection,
    selector: &Selector,
    page: PageRequest,
) -> rusqlite::Result<Page> {
    let transaction = conn.unchecked_transaction()?;
    let conn = &*transaction;
    let Selector { handler, source, state, .. } = selector;
    if selector.event.is_some() {
        return page_of_event_outcomes(conn, selector, page);
    }
    let mut filter = SqlFilter::new();
    add_names(&mut filter, handler.as_ref(), source.as_ref());
    let mut matches = page.matches();
    let is_filtered = handler.is_some() || source.is_some() || state.is_some();
    let (table, rows) = match is_filtered {
        true => (blocks::ATTEMPTS_WITH_JOBS, selector.job_filter()),
        false => (blocks::ATTEMPTS, SqlFilter::new()),
    };
    let index = (filter.parts.len() > 1).then_some(filter);
    BlockSearch::new(conn, table, index, rows, page.before())?.run(conn, 0, &mut matches)?;
    if matches.end.is_some()
        && let Some(states) = state.and_then(indexed_states)
        && let Some(ids) = find_attempts_by_state(conn, selector, &states)?
    {
        // The jobs of the state have few attempts: these are all of them.
        matches = page.matches();
        let older = ids.into_iter().rev().filter(|id| *id < page.before());
        older.for_each(|id| matches.add(id));
    }
    let found = page.cut(matches);
    let sql = "SELECT * FROM outcomes WHERE id = ?1";
    let rows = load_rows(conn, sql, found.ids.iter().copied(), &[])?;
    let time_sql = "SELECT ended_at FROM attempts WHERE id >= ?1 ORDER BY id LIMIT 1";
    found.into_page(conn, rows, time_sql)
}

/// Returns outcomes of one event. It has few attempts, which the index finds.
fn page_of_event_outcomes(
    conn: &Connection,
    selector: &Selector,
    page: PageRequest,
) -> rusqlite::Result<Page> {
    let mut filter = selector.job_filter();
    filter.and("a.id < ?", page.before());
    filter.values.push(page.limit.saturating_add(1).into());
    let sql = format!(
        "SELECT o.* FROM (SELECT a.id FROM jobs j JOIN attempts a ON a.job = j.id WHERE {}
           ORDER BY a.id DESC LIMIT ?{}) f JOIN outcomes o ON o.id = f.id ORDER BY o.id DESC",
        filter.to_sql(),
        filter.values.len()
    );
    Ok(Page::of_rows(queries::query(conn, &sql, &filter.values)?, page.limit))
}

/// Returns rejections as in the view `rejections`.
///
/// # Errors
/// The read failed.
pub fn page_of_rejections(
    conn: &Connection,
    selector: &Selector,
    page: PageRequest,
) -> rusqlite::Result<Page> {
    let mut filter = selector.rejection_filter();
    filter.and("r.id < ?", page.before());
    filter.values.push(page.limit.saturating_add(1).into());
    let sql = format!(
        "SELECT v.* FROM rejected_requests r JOIN rejections v ON v.id = r.id WHERE {}
         ORDER BY r.id DESC LIMIT ?{}",
        filter.to_sql(),
        filter.values.len()
    );
    Ok(Page::of_rows(queries::query(conn, &sql, &filter.values)?, page.limit))
}

/// Returns the groups of failures, the one with the last failure first. A position is the time of the last failure
/// with the number of the group.
///
/// # Errors
/// The read failed.
pub fn page_of_failures(
    conn: &Connection,
    handler: Option<&str>,
    page: PageRequest,
) -> rusqlite::Result<Page> {
    let sql = formatcp!(
        "SELECT (g.last_at << 20) | (g.id & 0xfffff) AS position, g.id AS failure, h.name AS handler, g.reason,
           g.failing, g.dead, strftime({ISO}, g.first_at / 1000.0, 'unixepoch') AS first_at,
           strftime({ISO}, g.last_at / 1000.0, 'unixepoch') AS last_at, g.last_job,
           (SELECT j.event FROM jobs j WHERE j.id = g.last_job) AS last_event
         FROM failure_groups g JOIN handlers h ON h.id = g.handler
         WHERE position < ?1 AND (?3 IS NULL OR h.name = ?3) ORDER BY position DESC LIMIT ?2"
    );
    let handler = handler.map(str::to_owned).into();
    let values = [page.before().into(), page.limit.saturating_add(1).into(), handler];
    Ok(Page::of_rows(queries::query(conn, sql, &values)?, page.limit))
}

/// Returns the audit log.
///
/// # Errors
/// The read failed.
pub fn page_of_audit_log(conn: &Connection, page: PageRequest) -> rusqlite::Result<Page> {
    let sql = "SELECT * FROM audit_log WHERE id < ?1 ORDER BY id DESC LIMIT ?2";
    let values = [page.before().into(), page.limit.saturating_add(1).into()];
    Ok(Page::of_rows(queries::query(conn, sql, &values)?, page.limit))
}
