//! Searches of `list` and `tail`: the newest rows that match, and how many match. A search reads the
//! blocks that the block index names, or the index of a job state, newest first. So it costs the same
//! for any number of stored rows, unless text has to be compared.
//!
//! The time of a search is limited. A search that ends early returns how far back it has read. Without a
//! given time, it has the usual time.

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use self::blocks::{BlockSearch, add_names};
use self::matches::Matches;
pub use self::matches::{SearchEnd, SearchResult, SearchTime, Total};
use self::states::StateSearch;
use super::jobs::transition::{IS_IN_STATE_1, IS_INDEXED, indexed_states};
use super::queries::{self, Rows, Selector, SqlFilter, TRAIL_ROW};
use super::statements::Statements;

pub(super) mod blocks;
mod matches;
pub mod pages;
pub(super) mod states;

/// Maximum number of jobs whose attempts `tail --state` looks up.
const MAX_JOBS_WITH_ATTEMPTS: usize = 20_000;

/// Runs a query for each id. Its first placeholder is the id.
fn load_rows(
    conn: &Connection,
    sql: &str,
    ids: impl Iterator<Item = i64>,
    more: &[Value],
) -> rusqlite::Result<Rows> {
    queries::query_each(conn, sql, ids.map(|id| [&[id.into()], more].concat()))
}

/// Finds the newest events that match, and counts all that do.
///
/// # Errors
/// The read failed.
pub fn search_events(
    conn: &Connection,
    selector: &Selector,
    limit: i64,
    time: Option<SearchTime>,
) -> rusqlite::Result<SearchResult> {
    let transaction = conn.unchecked_transaction()?;
    let mut matches = Matches::new(limit, time.unwrap_or(SearchTime::INDEXED));
    let filter = selector.block_filter(false);
    BlockSearch::new(&transaction, blocks::EVENTS, filter, selector.event_filter(), i64::MAX)?
        .run(&transaction, 0, &mut matches)?;
    let rows = load_rows(&transaction, TRAIL_ROW, matches.ids.iter().copied(), &[])?;
    let time_sql = "SELECT received_at FROM events WHERE id >= ?1 ORDER BY id LIMIT 1";
    matches.into_result(&transaction, rows, time_sql)
}

/// Finds the newest jobs that match, and counts all that do. `to_wall_ms` is the difference between the
/// wall clock and the database clock.
///
/// # Errors
/// The read failed.
pub fn search_jobs(
    conn: &Connection,
    selector: &Selector,
    limit: i64,
    to_wall_ms: i64,
    time: Option<SearchTime>,
) -> rusqlite::Result<SearchResult> {
    let has_text = selector.detail.is_some();
    let usual_time = if has_text { SearchTime::TEXT } else { SearchTime::INDEXED };
    let transaction = conn.unchecked_transaction()?;
    let mut matches = Matches::new(limit, time.unwrap_or(usual_time));
    if let Some(states) = selector.state.and_then(indexed_states) {
        let rows = selector.job_filter();
        StateSearch::new(&transaction, selector, &states, i64::MAX)?.run(
            selector,
            &rows,
            selector.is_exact_by_state(),
            &mut matches,
        )?;
    } else {
        let filter = selector.block_filter(true);
        BlockSearch::new(&transaction, blocks::JOBS, filter, selector.job_filter(), i64::MAX)?
            .run(&transaction, 0, &mut matches)?;
    }
    let sql = format!("{} WHERE j.id = ?1", queries::select_jobs(2));
    let rows = load_rows(&transaction, &sql, matches.ids.iter().copied(), &[to_wall_ms.into()])?;
    let time_sql = "SELECT created_at FROM jobs WHERE id >= ?1 ORDER BY id LIMIT 1";
    matches.into_result(&transaction, rows, time_sql)
}

/// Finds the newest outcomes after `after` whose jobs match, oldest first. A search from an earlier outcome
/// on reads all of them.
///
/// # Errors
/// The read failed.
pub fn search_outcomes(
    conn: &Connection,
    selector: &Selector,
    after: i64,
    limit: i64,
    time: Option<SearchTime>,
) -> rusqlite::Result<SearchResult> {
    let usual_time = if after > 0 { SearchTime::UNLIMITED } else { SearchTime::OUTCOMES };
    let time = time.unwrap_or(usual_time);
    let Selector { handler, source, state, .. } = selector;
    let mut filter = SqlFilter::new();
    add_names(&mut filter, handler.as_ref(), source.as_ref());
    let mut matches = Matches::without_count(limit, time);
    let is_filtered = handler.is_some() || source.is_some() || state.is_some();
    let (table, rows) = match is_filtered {
        true => (blocks::ATTEMPTS_WITH_JOBS, selector.job_filter()),
        false => (blocks::ATTEMPTS, SqlFilter::new()),
    };
    BlockSearch::new(conn, table, (filter.parts.len() > 1).then_some(filter), rows, i64::MAX)?
        .run(conn, after, &mut matches)?;
    if matches.end.is_some()
        && let Some(states) = state.and_then(indexed_states)
        && let Some(ids) = find_attempts_by_state(conn, selector, &states)?
    {
        // The jobs of the state have few attempts: these are all of them.
        matches = Matches::without_count(limit, time);
        ids.into_iter().rev().for_each(|id| matches.add(id));
    }
    let sql = "SELECT * FROM outcomes WHERE id = ?1";
    let rows = load_rows(conn, sql, matches.ids.iter().rev().copied(), &[])?;
    let time_sql = "SELECT ended_at FROM attempts WHERE id >= ?1 ORDER BY id LIMIT 1";
    matches.into_result(conn, rows, time_sql)
}

/// Returns the ids of all attempts of the jobs in a state, in ascending order. Returns `None` if too many
/// jobs have attempts.
fn find_attempts_by_state(
    conn: &Connection,
    selector: &Selector,
    states: &[i64],
) -> rusqlite::Result<Option<Vec<i64>>> {
    let mut jobs: Vec<i64> = Vec::new();
    for &state in states {
        let mut filter = SqlFilter::new();
        filter.values.push(state.into());
        add_names(&mut filter, selector.handler.as_ref(), selector.source.as_ref());
        let mut select = conn.prepare(&format!(
            "SELECT id FROM jobs INDEXED BY jobs_by_state
             WHERE {IS_IN_STATE_1} AND {IS_INDEXED} AND attempt > 0 AND {} LIMIT {}",
            filter.to_sql(),
            MAX_JOBS_WITH_ATTEMPTS + 1
        ))?;
        let found = select.query_map(params_from_iter(&filter.values), |row| row.get(0))?;
        jobs.extend(found.collect::<rusqlite::Result<Vec<i64>>>()?);
        if jobs.len() > MAX_JOBS_WITH_ATTEMPTS {
            return Ok(None);
        }
    }
    let mut attempts: Vec<i64> = Vec::new();
    for job in jobs {
        let sql = "SELECT id FROM attempts WHERE job = ?1";
        attempts.extend(conn.list::<i64, Vec<i64>>(sql, [job], |row| row.get(0))?);
    }
    attempts.sort_unstable();
    Ok(Some(attempts))
}

/// The view that `tail` follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TailView {
    Outcomes,
    Rejections,
}

/// Returns rows of the view after `id`, oldest first: the last `limit` of those that match. Rejections have no
/// handler and no state. And the id of the view's newest row, whether it matches or not: a later call that
/// begins there misses no row and reads none twice.
///
/// # Errors
/// The read failed.
pub fn read_tail(
    conn: &Connection,
    view: TailView,
    selector: &Selector,
    id: i64,
    limit: i64,
) -> rusqlite::Result<(SearchResult, i64)> {
    // One snapshot for both reads.
    let transaction = conn.unchecked_transaction()?;
    let newest = newest_id(&transaction, view)?;
    let found = match view {
        TailView::Outcomes => search_outcomes(&transaction, selector, id, limit, None)?,
        TailView::Rejections => {
            let sql = "SELECT * FROM (SELECT * FROM rejections WHERE id > ?1 AND (?2 IS NULL OR source = ?2)
              ORDER BY id DESC LIMIT ?3) ORDER BY id";
            let values = [id.into(), selector.source.clone().into(), limit.into()];
            SearchResult::complete(queries::query(&transaction, sql, &values)?)
        }
    };
    transaction.commit()?;
    Ok((found, newest.max(id)))
}

/// Returns the id of the newest row of a view, or 0.
///
/// # Errors
/// The read failed.
pub fn newest_id(conn: &Connection, view: TailView) -> rusqlite::Result<i64> {
    conn.value(
        match view {
            TailView::Outcomes => "SELECT coalesce(max(id), 0) FROM attempts",
            TailView::Rejections => "SELECT coalesce(max(id), 0) FROM rejected_requests",
        },
        [],
    )
}

/// Returns up to `limit` outcomes after an id, oldest first.
///
/// # Errors
/// The read failed.
pub fn read_after(conn: &Connection, after: i64, limit: i64) -> rusqlite::Result<Rows> {
    let sql = "SELECT * FROM outcomes WHERE id > ?1 ORDER BY id LIMIT ?2";
    queries::query(conn, sql, &[after.into(), limit.into()])
}
