//! The matches of a search, and the time that it may take.

use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension};

use super::super::queries::Rows;

/// The time that a search may take.
#[derive(Clone, Copy, Debug)]
pub struct SearchTime {
    /// To find the rows that it returns.
    pub find: Duration,
    /// To also count the others.
    pub count: Duration,
}

impl SearchTime {
    pub const UNLIMITED: Self = Self { find: Duration::MAX, count: Duration::MAX };

    /// For a search that the indexes serve. Reaching it takes an unusual combination of filters.
    pub(super) const INDEXED: Self = Self { find: Duration::from_millis(150), ..Self::TEXT };

    /// For text, which no index serves.
    pub(super) const TEXT: Self =
        Self { find: Duration::from_secs(1), count: Duration::from_millis(100) };

    /// For outcomes, before the search looks up the attempts of all jobs in a state.
    pub(super) const OUTCOMES: Self = Self { find: Duration::from_millis(50), ..Self::TEXT };
}

/// Additional time for each row that was found.
const FOUND_ROW_TIME: Duration = Duration::from_micros(50);

/// The largest number of rows that is counted.
const MAX_COUNT: i64 = 1_000_000;

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

/// The matches so far, newest first.
#[derive(Debug)]
pub(in crate::store) struct Matches {
    pub ids: Vec<i64>,
    limit: usize,
    /// Whether the search goes on when it has found as many rows as it may return, to count the others.
    should_count: bool,
    pub count: i64,
    /// The oldest id that was read, if the search ended early.
    pub end: Option<i64>,
    started_at: Instant,
    time: SearchTime,
}

impl Matches {
    pub fn new(limit: i64, time: SearchTime) -> Self {
        Self {
            ids: Vec::new(),
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            should_count: true,
            count: 0,
            end: None,
            started_at: Instant::now(),
            time,
        }
    }

    pub fn without_count(limit: i64, time: SearchTime) -> Self {
        Self { should_count: false, ..Self::new(limit, time) }
    }

    pub fn add(&mut self, id: i64) {
        self.count += 1;
        if !self.is_full() {
            self.ids.push(id);
        }
    }

    pub fn is_full(&self) -> bool {
        self.ids.len() >= self.limit
    }

    /// Returns true if no further row can change the result.
    pub fn is_complete(&self) -> bool {
        self.is_full() && !self.should_count
    }

    /// Returns true if the search must not go on. `read_from` is the oldest id that was read.
    pub fn should_end(&mut self, read_from: i64) -> bool {
        let time = if self.is_full() { self.time.count } else { self.time.find };
        let found = u32::try_from(self.ids.len()).unwrap_or(u32::MAX);
        let time = time.saturating_add(FOUND_ROW_TIME.saturating_mul(found));
        let should_end = self.started_at.elapsed() > time || self.count >= MAX_COUNT;
        if should_end {
            self.end = Some(read_from);
        }
        should_end
    }

    /// Makes the result with the rows of the ids. `time_sql` selects the time of the first row from an id on.
    pub fn into_result(
        self,
        conn: &Connection,
        rows: Rows,
        time_sql: &str,
    ) -> rusqlite::Result<SearchResult> {
        let (end, total) = match (self.is_full(), self.end) {
            (true, None) => (None, Some(Total::Exact(self.count))),
            (true, Some(_)) => (None, Some(Total::AtLeast(self.count))),
            (false, None) => (None, None),
            (false, Some(id)) => {
                let at_ms = conn.query_row(time_sql, [id], |row| row.get(0)).optional()?;
                (Some(SearchEnd { id, at_ms }), None)
            }
        };
        Ok(SearchResult { rows, total, end })
    }
}
