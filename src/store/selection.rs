//! Selects the jobs and events of `retry`, `cancel` and `replay`: in many short reads, because SQLite's
//! log cannot start over while a read goes on, and grows with each event that arrives meanwhile.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, RangeInclusive};
use std::time::{Duration, Instant};

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};

use super::queries::{Selector, SqlFilter};
use crate::domain::id_set::{IdRanges, IdSet};
use crate::domain::{HandlerId, SourceId};

/// A read should take about this long.
const READ_TIME: Duration = Duration::from_millis(10);

/// Number of ids that one read covers. It doubles while reads are short, and halves when they are long.
const FIRST_WINDOW: i64 = 4096;
const MAX_WINDOW: i64 = 1 << 18;

/// The progress of a bulk command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BulkProgress {
    /// Jobs or events done, of `total`. While jobs or events are selected: those that were read.
    pub done: u64,
    pub total: u64,
    /// Jobs that were selected, changed or created.
    pub jobs: u64,
}

/// Gets the progress between two transactions, and stops the command there by `Break`.
pub type OnProgress<'a> = dyn FnMut(BulkProgress) -> ControlFlow<()> + 'a;

/// Events to replay: for each source and handler a set. Without a handler, the handlers are those that
/// take events of the source now.
pub type SelectedEvents = BTreeMap<(SourceId, Option<HandlerId>), IdSet>;

/// Selects the jobs among `ids` that meet an SQL condition. If `ids` is empty: among all jobs that
/// exist now. Stops early if `on_progress` breaks.
///
/// # Errors
/// The read failed.
pub fn select_jobs(
    conn: &Connection,
    selector: &Selector,
    ids: &IdRanges,
    condition: &str,
    on_progress: &mut OnProgress<'_>,
) -> rusqlite::Result<IdSet> {
    let filter = selector.job_filter();
    let reader = WindowReader {
        conn,
        sql: select_in_window("j.id", "jobs j", "j.id", &filter, &format!(" AND {condition}")),
        values: filter.values,
        bounds: "SELECT (SELECT min(id) FROM jobs), (SELECT max(id) FROM jobs)",
    };
    let mut jobs = IdSet::default();
    reader.read(ids, on_progress, &mut |row| {
        jobs.insert(row.get(0)?);
        Ok(jobs.len())
    })?;
    Ok(jobs)
}

/// Selects the events among `ids`, or if `ids` is empty, among all events that exist now. If the selector
/// has conditions for jobs, an event is selected for the handler of each job that matches.
///
/// # Errors
/// The read failed.
pub fn select_events(
    conn: &Connection,
    selector: &Selector,
    ids: &IdRanges,
    on_progress: &mut OnProgress<'_>,
) -> rusqlite::Result<SelectedEvents> {
    const EVENT_BOUNDS: &str = "SELECT (SELECT min(id) FROM events), (SELECT max(id) FROM events)";
    let (sql, values, bounds) = if !selector.has_job_conditions() {
        let filter = selector.event_filter();
        let columns = "e.id, e.source, NULL";
        (select_in_window(columns, "events e", "e.id", &filter, ""), filter.values, EVENT_BOUNDS)
    } else {
        let filter = selector.job_filter();
        let columns = "j.event, j.source, j.handler";
        if ids.is_empty() {
            let sql = select_in_window(columns, "jobs j", "j.id", &filter, "");
            (sql, filter.values, "SELECT (SELECT min(id) FROM jobs), (SELECT max(id) FROM jobs)")
        } else {
            let jobs = "events e JOIN jobs j ON j.id BETWEEN e.first_job AND e.last_job OR j.appended_to = e.id";
            (select_in_window(columns, jobs, "e.id", &filter, ""), filter.values, EVENT_BOUNDS)
        }
    };
    let mut events = SelectedEvents::new();
    let mut count = 0;
    WindowReader { conn, sql, values, bounds }.read(ids, on_progress, &mut |row| {
        events.entry((row.get(1)?, row.get(2)?)).or_default().insert(row.get(0)?);
        count += 1;
        Ok(count)
    })?;
    Ok(events)
}

/// Builds a query for the rows whose `id` is in a window. The window is the last two values.
fn select_in_window(columns: &str, from: &str, id: &str, filter: &SqlFilter, more: &str) -> String {
    let first = filter.values.len() + 1;
    format!(
        "SELECT {columns} FROM {from} WHERE {id} BETWEEN ?{first} AND ?{} AND {}{more}",
        first + 1,
        filter.to_sql()
    )
}

/// Reads a table window by window.
struct WindowReader<'c> {
    conn: &'c Connection,
    sql: String,
    values: Vec<Value>,
    /// A query for the lowest and the highest id of the table.
    bounds: &'static str,
}

impl WindowReader<'_> {
    /// Calls `on_row` for each row. It returns how many were selected so far.
    fn read(
        &self,
        ids: &IdRanges,
        on_progress: &mut OnProgress<'_>,
        on_row: &mut dyn FnMut(&Row<'_>) -> rusqlite::Result<u64>,
    ) -> rusqlite::Result<()> {
        let bounds = self.conn.query_row(self.bounds, [], |row| row.try_into())?;
        let (Some(lowest), Some(highest)) = bounds else { return Ok(()) };
        let ranges: Vec<RangeInclusive<i64>> = match ids.is_empty() {
            true => vec![lowest..=highest],
            false => ids
                .iter()
                .map(|range| lowest.max(*range.start())..=highest.min(*range.end()))
                .filter(|range| !range.is_empty())
                .collect(),
        };
        let total = ranges.iter().map(|range| range.end() - range.start() + 1).sum::<i64>();
        let mut progress = BulkProgress { total: total.unsigned_abs(), ..BulkProgress::default() };
        let mut select = self.conn.prepare(&self.sql)?;
        let mut window = FIRST_WINDOW;
        for range in ranges {
            let mut next = *range.start();
            while next <= *range.end() {
                let last = next.saturating_add(window - 1).min(*range.end());
                let started_at = Instant::now();
                let bounds = [next, last].map(Value::from);
                let mut rows = select.query(params_from_iter(self.values.iter().chain(&bounds)))?;
                while let Some(row) = rows.next()? {
                    progress.jobs = on_row(row)?;
                }
                drop(rows);
                let took = started_at.elapsed();
                progress.done += (last - next + 1).unsigned_abs();
                if on_progress(progress).is_break() {
                    return Ok(());
                }
                if took < READ_TIME / 2 {
                    window = (window * 2).min(MAX_WINDOW);
                } else if took > READ_TIME {
                    window = (window / 2).max(1);
                }
                next = last + 1;
            }
        }
        Ok(())
    }
}
