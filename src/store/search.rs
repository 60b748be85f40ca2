//! Searches of `list` and `tail`: the newest rows that match, and how many match. A search reads the
//! blocks that the block index names, or the index of a job state, newest first. So it costs the same
//! for any number of stored rows, unless text has to be compared.
//!
//! The time of a search is limited. A search that ends early returns how far back it has read.

use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use const_format::formatcp;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use super::block_index::{block_of, ids_of_block, minute_of};
use super::jobs::transition::{IS_IN_STATE_1, IS_INDEXED, IS_UNRELEASED, indexed_states};
use super::queries::{self, Rows, Selector, SqlFilter, TailFilter};
use crate::domain::job::PublicState;

/// The time that a search may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct SearchTime {
    /// To find the rows that it returns.
    pub find: Duration,
    /// To also count the others.
    pub count: Duration,
}

impl SearchTime {
    pub const UNLIMITED: Self = Self { find: Duration::MAX, count: Duration::MAX };

    /// For a search that the indexes serve. Reaching it takes an unusual combination of filters.
    const INDEXED: Self = Self { find: Duration::from_millis(150), ..Self::TEXT };

    /// For text, which no index serves.
    const TEXT: Self = Self { find: Duration::from_secs(1), count: Duration::from_millis(100) };

    /// For outcomes, before the search looks up the attempts of all jobs in a state.
    const OUTCOMES: Self = Self { find: Duration::from_millis(50), ..Self::TEXT };
}

/// Additional time for each row that was found.
const FOUND_ROW_TIME: Duration = Duration::from_micros(50);

/// The largest number of rows that is counted.
const MAX_COUNT: i64 = 1_000_000;

/// Maximum number of jobs whose attempts `tail --state` looks up.
const MAX_JOBS_WITH_ATTEMPTS: usize = 20_000;

/// The rows that a search found.
#[derive(Clone, Debug, Default)]
pub struct SearchResult {
    pub rows: Rows,
    /// How many rows match. `None` if the search did not find as many as it may return.
    pub total: Option<Total>,
    /// Where the search ended, if it has not read all rows.
    pub end: Option<SearchEnd>,
}

impl SearchResult {
    /// The result of a query that reads all rows.
    pub fn complete(rows: Rows) -> Self {
        Self { rows, total: None, end: None }
    }
}

/// A number of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Total {
    Exact(i64),
    /// The time was too short to count them all.
    AtLeast(i64),
}

/// The oldest row that a search has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SearchEnd {
    pub id: i64,
    /// Wall clock.
    pub at_ms: Option<i64>,
}

/// The time that a search has.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    started_at: Instant,
    time: SearchTime,
}

impl Deadline {
    fn new(time: SearchTime) -> Self {
        Self { started_at: Instant::now(), time }
    }

    fn is_past(&self, matches: &Matches) -> bool {
        let time = if matches.is_full() { self.time.count } else { self.time.find };
        let found = u32::try_from(matches.ids.len()).unwrap_or(u32::MAX);
        self.started_at.elapsed() > time.saturating_add(FOUND_ROW_TIME.saturating_mul(found))
    }
}

/// The matches so far, newest first.
#[derive(Debug)]
struct Matches {
    ids: Vec<i64>,
    limit: usize,
    /// Whether the search goes on when it has found as many rows as it may return, to count the others.
    should_count: bool,
    count: i64,
    /// The oldest id that was read, if the search ended early.
    end: Option<i64>,
}

impl Matches {
    fn new(limit: i64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self { ids: Vec::new(), limit, should_count: true, count: 0, end: None }
    }

    fn without_count(limit: i64) -> Self {
        Self { should_count: false, ..Self::new(limit) }
    }

    fn add(&mut self, id: i64) {
        self.count += 1;
        if !self.is_full() {
            self.ids.push(id);
        }
    }

    fn is_full(&self) -> bool {
        self.ids.len() >= self.limit
    }

    /// Returns true if the search must not go on. `read_from` is the oldest id that was read.
    fn should_end(&mut self, deadline: Deadline, read_from: i64) -> bool {
        let should_end = deadline.is_past(self) || self.count >= MAX_COUNT;
        if should_end {
            self.end = Some(read_from);
        }
        should_end
    }

    fn total(&self) -> Option<Total> {
        match (self.is_full(), self.end) {
            (false, _) => None,
            (true, None) => Some(Total::Exact(self.count)),
            (true, Some(_)) => Some(Total::AtLeast(self.count)),
        }
    }

    /// Makes the result with the rows of the ids. `time_sql` selects the time of the first row from an id on.
    fn into_result(
        self,
        conn: &Connection,
        rows: Rows,
        time_sql: &str,
    ) -> rusqlite::Result<SearchResult> {
        let end = match self.end.filter(|_| !self.is_full()) {
            Some(id) => {
                let at_ms = conn.query_row(time_sql, [id], |row| row.get(0)).optional()?;
                Some(SearchEnd { id, at_ms })
            }
            None => None,
        };
        Ok(SearchResult { total: self.total(), rows, end })
    }
}

/// Runs a query for each id. Its first placeholder is the id.
fn load_rows(
    conn: &Connection,
    sql: &str,
    ids: impl Iterator<Item = i64>,
    values: &[Value],
) -> rusqlite::Result<Rows> {
    let mut select = conn.prepare(sql)?;
    let columns: Vec<String> = select.column_names().into_iter().map(str::to_owned).collect();
    let mut rows = Vec::new();
    for id in ids {
        let values = std::iter::once(Value::from(id)).chain(values.iter().cloned());
        let mut found = select.query(params_from_iter(values))?;
        while let Some(row) = found.next()? {
            rows.push(
                (0..columns.len())
                    .map(|at| row.get(at))
                    .collect::<rusqlite::Result<Vec<Value>>>()?,
            );
        }
    }
    Ok(Rows { columns, rows })
}

/// A search through blocks of ids.
struct BlockSearch {
    /// Returns blocks, newest first; a block may come several times.
    blocks: SqlFilter,
    blocks_sql: String,
    /// The table with its alias, and the column of the id.
    from: &'static str,
    id: &'static str,
    rows: SqlFilter,
}

impl BlockSearch {
    /// Creates a search of the blocks that match a condition on the index; without one, of all blocks of
    /// `table`.
    fn new(
        conn: &Connection,
        (table, index): (&str, &str),
        (from, id): (&'static str, &'static str),
        blocks: Option<SqlFilter>,
        rows: SqlFilter,
    ) -> rusqlite::Result<Self> {
        let (blocks, blocks_sql) = match blocks {
            Some(blocks) => {
                let sql = format!(
                    "SELECT block FROM {index} WHERE {} ORDER BY block DESC",
                    blocks.to_sql()
                );
                (blocks, sql)
            }
            None => {
                // One query for both would read the whole table.
                let sql = format!(
                    "SELECT coalesce((SELECT min(id) FROM {table}), 1),
                       coalesce((SELECT max(id) FROM {table}), 0)"
                );
                let (first, last): (i64, i64) =
                    conn.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
                let mut all = SqlFilter::new();
                all.values = vec![block_of(first).into(), block_of(last).into()];
                let sql = "WITH RECURSIVE b (block) AS (SELECT ?2 UNION ALL SELECT block - 1 FROM b
                  WHERE block > ?1) SELECT block FROM b WHERE block >= ?1";
                (all, sql.to_owned())
            }
        };
        Ok(Self { blocks, blocks_sql, from, id, rows })
    }

    /// Returns the statements that list and count the matching rows of a block. The bounds of the
    /// block are their last two values.
    fn row_statements(&self) -> [String; 2] {
        let Self { from, id, .. } = self;
        let (first, last) = (self.rows.values.len() + 1, self.rows.values.len() + 2);
        let condition = format!("{id} BETWEEN ?{first} AND ?{last} AND {}", self.rows.to_sql());
        [
            format!("SELECT {id} FROM {from} WHERE {condition} ORDER BY {id} DESC"),
            format!("SELECT count(*) FROM {from} WHERE {condition}"),
        ]
    }

    /// Adds the rows that match and are above `after`, newest first.
    fn run(
        &self,
        conn: &Connection,
        after: i64,
        matches: &mut Matches,
        deadline: Deadline,
    ) -> rusqlite::Result<()> {
        let [select, count] = self.row_statements();
        let (mut select, mut count) = (conn.prepare(&select)?, conn.prepare(&count)?);
        let mut blocks = conn.prepare(&self.blocks_sql)?;
        let mut blocks = blocks.query(params_from_iter(&self.blocks.values))?;
        let mut read_from = None;
        while let Some(row) = blocks.next()? {
            let (first, last) = ids_of_block(row.get(0)?);
            if read_from == Some(first) {
                continue;
            }
            let is_complete = matches.is_full() && !matches.should_count;
            if is_complete
                || last <= after
                || read_from.is_some_and(|id| matches.should_end(deadline, id))
            {
                break;
            }
            let bounds = [first.max(after + 1), last].map(Value::from);
            let values = self.rows.values.iter().cloned().chain(bounds);
            if matches.is_full() {
                matches.count +=
                    count.query_row(params_from_iter(values), |row| row.get::<_, i64>(0))?;
            } else {
                let mut rows = select.query(params_from_iter(values))?;
                while let Some(row) = rows.next()? {
                    matches.add(row.get(0)?);
                }
            }
            read_from = Some(first);
        }
        Ok(())
    }
}

/// Adds the conditions on a handler and a source to a filter of the block index.
fn add_names(filter: &mut SqlFilter, handler: Option<&String>, source: Option<&String>) {
    if let Some(name) = handler {
        filter.and("handler = (SELECT id FROM handlers WHERE name = ?)", name.clone());
    }
    if let Some(name) = source {
        filter.and("source = (SELECT id FROM sources WHERE name = ?)", name.clone());
    }
}

impl Selector {
    /// The conditions on rows of the block index. `None` if all blocks may have matching rows.
    fn block_filter(&self, has_handlers: bool) -> Option<SqlFilter> {
        let mut filter = SqlFilter::new();
        let handler = self.handler.as_ref().filter(|_| has_handlers);
        add_names(&mut filter, handler, self.source.as_ref());
        if let Some(since_ms) = self.since_ms {
            filter.and("max_minute >= ?", minute_of(since_ms));
        }
        if let Some(until_ms) = self.until_ms {
            filter.and("min_minute <= ?", minute_of(until_ms - 1));
        }
        if has_handlers && matches!(self.state, Some(PublicState::Succeeded)) {
            filter.parts.push("has_succeeded".to_owned());
        }
        (filter.parts.len() > 1).then_some(filter)
    }
}

/// Finds the newest events that match, and counts all that do.
///
/// # Errors
/// The read failed.
pub fn search_events(
    conn: &Connection,
    selector: &Selector,
    limit: i64,
) -> rusqlite::Result<SearchResult> {
    search_events_within(conn, selector, limit, SearchTime::INDEXED)
}

pub(super) fn search_events_within(
    conn: &Connection,
    selector: &Selector,
    limit: i64,
    time: SearchTime,
) -> rusqlite::Result<SearchResult> {
    let transaction = conn.unchecked_transaction()?;
    let mut matches = Matches::new(limit);
    BlockSearch::new(
        &transaction,
        ("events", "event_blocks"),
        ("events e", "e.id"),
        selector.block_filter(false),
        selector.event_filter(),
    )?
    .run(&transaction, 0, &mut matches, Deadline::new(time))?;
    let sql = "SELECT * FROM trail WHERE event = ?1";
    let rows = load_rows(&transaction, sql, matches.ids.iter().copied(), &[])?;
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
) -> rusqlite::Result<SearchResult> {
    let time = if selector.detail.is_some() { SearchTime::TEXT } else { SearchTime::INDEXED };
    search_jobs_within(conn, selector, limit, to_wall_ms, time)
}

pub(super) fn search_jobs_within(
    conn: &Connection,
    selector: &Selector,
    limit: i64,
    to_wall_ms: i64,
    time: SearchTime,
) -> rusqlite::Result<SearchResult> {
    let transaction = conn.unchecked_transaction()?;
    let deadline = Deadline::new(time);
    let mut matches = Matches::new(limit);
    match selector.state.and_then(indexed_states) {
        Some(states) => {
            StateSearch::new(&transaction, selector, &states)?.run(
                selector,
                &mut matches,
                deadline,
            )?;
        }
        None => BlockSearch::new(
            &transaction,
            ("jobs", "job_blocks"),
            ("jobs j", "j.id"),
            selector.block_filter(true),
            selector.job_filter(),
        )?
        .run(&transaction, 0, &mut matches, deadline)?,
    }
    let sql = format!("{} WHERE j.id = ?1", queries::select_jobs(2));
    let rows = load_rows(&transaction, &sql, matches.ids.iter().copied(), &[to_wall_ms.into()])?;
    let time = "SELECT created_at FROM jobs WHERE id >= ?1 ORDER BY id LIMIT 1";
    matches.into_result(&transaction, rows, time)
}

/// The newest job in a state of a handler below an id, and of a source if it is given.
const NEXT_JOB: &str = formatcp!(
    "SELECT id FROM jobs INDEXED BY jobs_by_state
     WHERE {IS_IN_STATE_1} AND handler = ?2 AND id < ?3 AND (?4 IS NULL OR source = ?4) AND {IS_INDEXED}
     ORDER BY id DESC LIMIT 1"
);

/// The number of jobs in a state of a handler, and of a source if it is given.
const COUNT_JOBS: &str = formatcp!(
    "SELECT count(*) FROM jobs INDEXED BY jobs_by_state
     WHERE {IS_IN_STATE_1} AND handler = ?2 AND (?3 IS NULL OR source = ?3) AND {IS_INDEXED}"
);

/// Jobs of one state and handler, or jobs that are not released yet, in descending order of their ids.
enum JobStream {
    State { state: i64, handler: i64 },
    Unreleased { first: i64, last: i64 },
}

impl JobStream {
    /// Returns the newest job below `before`.
    fn next(
        &self,
        conn: &Connection,
        before: i64,
        (handler, source): (Option<i64>, Option<i64>),
    ) -> rusqlite::Result<Option<i64>> {
        match self {
            Self::State { state, handler } => conn
                .prepare_cached(NEXT_JOB)?
                .query_row(params![state, handler, before, source], |row| row.get(0))
                .optional(),
            Self::Unreleased { first, last } => conn
                .prepare_cached(formatcp!(
                    "SELECT id FROM jobs WHERE id BETWEEN ?1 AND ?2 AND {IS_UNRELEASED}
                       AND (?3 IS NULL OR handler = ?3) AND (?4 IS NULL OR source = ?4)
                     ORDER BY id DESC LIMIT 1"
                ))?
                .query_row(params![first, last.min(&(before - 1)), handler, source], |row| {
                    row.get(0)
                })
                .optional(),
        }
    }

    /// Counts the jobs.
    fn count(
        &self,
        conn: &Connection,
        (handler, source): (Option<i64>, Option<i64>),
    ) -> rusqlite::Result<i64> {
        match self {
            Self::State { state, handler } => conn
                .prepare_cached(COUNT_JOBS)?
                .query_row(params![state, handler, source], |row| row.get(0)),
            Self::Unreleased { first, last } => conn
                .prepare_cached(formatcp!(
                    "SELECT count(*) FROM jobs WHERE id BETWEEN ?1 AND ?2 AND {IS_UNRELEASED}
                       AND (?3 IS NULL OR handler = ?3) AND (?4 IS NULL OR source = ?4)"
                ))?
                .query_row(params![first, last, handler, source], |row| row.get(0)),
        }
    }
}

/// A search through the indexes of a state, merged by the ids of the jobs.
struct StateSearch<'c> {
    conn: &'c Connection,
    streams: Vec<JobStream>,
    /// The ids of the handler and the source that the jobs must have.
    names: (Option<i64>, Option<i64>),
    /// The newest job of each stream that was not read yet.
    heads: BinaryHeap<(i64, usize)>,
}

impl<'c> StateSearch<'c> {
    fn new(conn: &'c Connection, selector: &Selector, states: &[i64]) -> rusqlite::Result<Self> {
        let find_id = |table: &str, name: &Option<String>| match name {
            // An unknown name has id 0, which no row has.
            Some(name) => {
                let sql = format!("SELECT coalesce((SELECT id FROM {table} WHERE name = ?1), 0)");
                conn.query_row(&sql, [name], |row| row.get(0)).map(Some)
            }
            None => Ok(None),
        };
        let names =
            (find_id("handlers", &selector.handler)?, find_id("sources", &selector.source)?);
        let mut handlers = conn.prepare("SELECT id FROM handlers WHERE ?1 IS NULL OR id = ?1")?;
        let handlers: Vec<i64> =
            handlers.query_map([names.0], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        let mut streams = Vec::new();
        for &state in states {
            streams.extend(handlers.iter().map(|&handler| JobStream::State { state, handler }));
        }
        if matches!(selector.state, Some(PublicState::Queued)) {
            let mut ranges =
                conn.prepare("SELECT next_job, last_job FROM expansions WHERE is_visible")?;
            let ranges = ranges.query_map([], |row| {
                Ok(JobStream::Unreleased { first: row.get(0)?, last: row.get(1)? })
            })?;
            for range in ranges {
                streams.push(range?);
            }
        }
        let mut search = Self { conn, streams, names, heads: BinaryHeap::new() };
        for stream in 0..search.streams.len() {
            search.read_next(stream, i64::MAX)?;
        }
        Ok(search)
    }

    /// Reads the newest job of a stream below `before`.
    fn read_next(&mut self, stream: usize, before: i64) -> rusqlite::Result<()> {
        if let Some(id) = self.streams[stream].next(self.conn, before, self.names)? {
            self.heads.push((id, stream));
        }
        Ok(())
    }

    /// Counts the jobs of all streams.
    fn count(&self) -> rusqlite::Result<i64> {
        let mut count = 0;
        for stream in &self.streams {
            count += stream.count(self.conn, self.names)?;
        }
        Ok(count)
    }

    fn run(
        &mut self,
        selector: &Selector,
        matches: &mut Matches,
        deadline: Deadline,
    ) -> rusqlite::Result<()> {
        let rows = selector.job_filter();
        let is_exact =
            selector.since_ms.is_none() && selector.until_ms.is_none() && selector.detail.is_none();
        let id = rows.values.len() + 1;
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM jobs j WHERE j.id = ?{id} AND {})",
            rows.to_sql()
        );
        let mut check = self.conn.prepare(&sql)?;
        let has_times = selector.since_ms.is_some() || selector.until_ms.is_some();
        let mut blocks = BlockCheck::new(self.conn, selector.block_filter(true), has_times)?;
        while let Some((job, stream)) = self.heads.pop() {
            if !blocks.may_match(block_of(job))? {
                self.read_next(stream, ids_of_block(block_of(job)).0)?;
            } else {
                let values = rows.values.iter().cloned().chain([Value::from(job)]);
                if is_exact || check.query_row(params_from_iter(values), |row| row.get(0))? {
                    matches.add(job);
                }
                self.read_next(stream, job)?;
            }
            if matches.is_full() && is_exact {
                matches.count = self.count()?;
                return Ok(());
            }
            if !self.heads.is_empty() && matches.should_end(deadline, job) {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Looks up in the block index whether a block may have matching rows, so that the others are skipped.
struct BlockCheck<'c> {
    select: Option<rusqlite::Statement<'c>>,
    values: Vec<Value>,
    last: Option<(i64, bool)>,
}

impl<'c> BlockCheck<'c> {
    /// Creates a check that looks up nothing unless it is needed.
    fn new(
        conn: &'c Connection,
        filter: Option<SqlFilter>,
        is_needed: bool,
    ) -> rusqlite::Result<Self> {
        let Some(filter) = filter.filter(|_| is_needed) else {
            return Ok(Self { select: None, values: Vec::new(), last: None });
        };
        let block = filter.values.len() + 1;
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM job_blocks WHERE block = ?{block} AND {})",
            filter.to_sql()
        );
        Ok(Self { select: Some(conn.prepare(&sql)?), values: filter.values, last: None })
    }

    fn may_match(&mut self, block: i64) -> rusqlite::Result<bool> {
        let Some(select) = &mut self.select else { return Ok(true) };
        match self.last {
            Some((last, may_match)) if last == block => Ok(may_match),
            _ => {
                let values = self.values.iter().cloned().chain([Value::from(block)]);
                let may_match = select.query_row(params_from_iter(values), |row| row.get(0))?;
                self.last = Some((block, may_match));
                Ok(may_match)
            }
        }
    }
}

/// Finds the newest outcomes after `after` that match, oldest first. A search from an earlier outcome on
/// reads all of them.
///
/// # Errors
/// The read failed.
pub fn search_outcomes(
    conn: &Connection,
    matching: &TailFilter,
    after: i64,
    limit: i64,
) -> rusqlite::Result<SearchResult> {
    let time = if after > 0 { SearchTime::UNLIMITED } else { SearchTime::OUTCOMES };
    search_outcomes_within(conn, matching, after, limit, time)
}

/// Attempts with their jobs. The attempts come first, in any plan.
const OUTCOMES: (&str, &str) = ("attempts a CROSS JOIN jobs j ON j.id = a.job", "a.id");

pub(super) fn search_outcomes_within(
    conn: &Connection,
    matching: &TailFilter,
    after: i64,
    limit: i64,
    time: SearchTime,
) -> rusqlite::Result<SearchResult> {
    let TailFilter { handler, source, state } = matching;
    let selector = Selector {
        handler: handler.clone(),
        source: source.clone(),
        state: *state,
        ..Selector::default()
    };
    let mut blocks = SqlFilter::new();
    add_names(&mut blocks, handler.as_ref(), source.as_ref());
    let mut matches = Matches::without_count(limit);
    let is_filtered = handler.is_some() || source.is_some() || state.is_some();
    BlockSearch::new(
        conn,
        ("attempts", "attempt_blocks"),
        match is_filtered {
            true => OUTCOMES,
            false => ("attempts a", "a.id"),
        },
        (blocks.parts.len() > 1).then_some(blocks),
        if is_filtered { selector.job_filter() } else { SqlFilter::new() },
    )?
    .run(conn, after, &mut matches, Deadline::new(time))?;
    if matches.end.is_some()
        && let Some(states) = state.and_then(indexed_states)
        && let Some(ids) = find_attempts_by_state(conn, &selector, &states)?
    {
        // The jobs of the state have few attempts: these are all of them.
        matches = Matches::without_count(limit);
        ids.into_iter().rev().for_each(|id| matches.add(id));
    }
    let sql = "SELECT * FROM outcomes WHERE id = ?1";
    let rows = load_rows(conn, sql, matches.ids.iter().rev().copied(), &[])?;
    let time = "SELECT ended_at FROM attempts WHERE id >= ?1 ORDER BY id LIMIT 1";
    matches.into_result(conn, rows, time)
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
        for job in select.query_map(params_from_iter(&filter.values), |row| row.get(0))? {
            jobs.push(job?);
        }
        if jobs.len() > MAX_JOBS_WITH_ATTEMPTS {
            return Ok(None);
        }
    }
    let mut attempts: Vec<i64> = Vec::new();
    let mut select = conn.prepare("SELECT id FROM attempts WHERE job = ?1")?;
    for job in jobs {
        for attempt in select.query_map([job], |row| row.get(0))? {
            attempts.push(attempt?);
        }
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

/// Returns the id of the view's newest row, or 0 if it has none.
fn last_id(conn: &Connection, view: TailView) -> rusqlite::Result<i64> {
    let sql = match view {
        TailView::Outcomes => "SELECT coalesce(max(id), 0) FROM attempts",
        TailView::Rejections => "SELECT coalesce(max(id), 0) FROM rejected_requests",
    };
    conn.query_row(sql, [], |row| row.get(0))
}

/// Returns rows of the view after `id`, oldest first: the last `limit` of those that match. And the id of
/// the view's newest row, whether it matches or not: a later call that begins there misses no row and
/// reads none twice.
///
/// # Errors
/// The read failed.
pub fn read_tail(
    conn: &Connection,
    view: TailView,
    matching: &TailFilter,
    id: i64,
    limit: i64,
) -> rusqlite::Result<(SearchResult, i64)> {
    // One snapshot for both reads.
    let transaction = conn.unchecked_transaction()?;
    let newest = last_id(&transaction, view)?;
    let found = match view {
        TailView::Outcomes => search_outcomes(&transaction, matching, id, limit)?,
        TailView::Rejections => {
            SearchResult::complete(rejections_after(&transaction, matching, id, limit)?)
        }
    };
    transaction.commit()?;
    Ok((found, newest.max(id)))
}

fn rejections_after(
    conn: &Connection,
    matching: &TailFilter,
    id: i64,
    limit: i64,
) -> rusqlite::Result<Rows> {
    let sql =
        "SELECT * FROM (SELECT * FROM rejections WHERE id > ?1 AND (?2 IS NULL OR source = ?2)
      ORDER BY id DESC LIMIT ?3) ORDER BY id";
    queries::query(conn, sql, &[id.into(), matching.source.clone().into(), limit.into()])
}

/// Returns the statements of typical searches.
#[cfg(test)]
pub(super) fn statements(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut all = Vec::new();
    for (handler, since_ms) in [(None, None), (Some("h".to_owned()), Some(1))] {
        let selector =
            Selector { handler, since_ms, source: Some("a".into()), ..Selector::default() };
        for (tables, columns, blocks, rows) in [
            (
                ("jobs", "job_blocks"),
                ("jobs j", "j.id"),
                selector.block_filter(true),
                selector.job_filter(),
            ),
            (
                ("events", "event_blocks"),
                ("events e", "e.id"),
                selector.block_filter(false),
                selector.event_filter(),
            ),
            (("attempts", "attempt_blocks"), OUTCOMES, None, selector.job_filter()),
        ] {
            let search = BlockSearch::new(conn, tables, columns, blocks, rows)?;
            all.extend(search.row_statements());
            all.extend(search.blocks_sql.contains("_blocks").then_some(search.blocks_sql));
        }
    }
    all.extend([NEXT_JOB.to_owned(), COUNT_JOBS.to_owned()]);
    Ok(all)
}
