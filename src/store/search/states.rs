//! Searches through the index of a job state.

use std::collections::BinaryHeap;

use const_format::formatcp;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::super::block_index::{block_of, ids_of_block};
use super::super::jobs::transition::{IS_IN_STATE_1, IS_INDEXED, IS_UNRELEASED};
use super::super::queries::{Selector, SqlFilter};
use super::super::statements::Statements;
use super::blocks::BlockCheck;
use super::matches::Matches;
use crate::domain::job::PublicState;

/// The jobs of a state and a handler up to an id, and of a source if it is given.
const IN_STATE: &str = formatcp!(
    "jobs INDEXED BY jobs_by_state WHERE {IS_IN_STATE_1} AND handler = ?2 AND id <= ?3
       AND (?4 IS NULL OR source = ?4) AND {IS_INDEXED}"
);

/// The jobs in a range of ids that are not released yet, of a handler and a source if they are given.
const NOT_RELEASED: &str = formatcp!(
    "jobs WHERE id BETWEEN ?1 AND ?3 AND {IS_UNRELEASED} AND (?2 IS NULL OR handler = ?2)
       AND (?4 IS NULL OR source = ?4)"
);

/// The statements that find the newest of these jobs, and count them.
pub(in crate::store) const STATE_STATEMENTS: [&str; 2] = [
    formatcp!("SELECT id FROM {IN_STATE} ORDER BY id DESC LIMIT 1"),
    formatcp!("SELECT count(*) FROM {IN_STATE}"),
];
const UNRELEASED_STATEMENTS: [&str; 2] = [
    formatcp!("SELECT id FROM {NOT_RELEASED} ORDER BY id DESC LIMIT 1"),
    formatcp!("SELECT count(*) FROM {NOT_RELEASED}"),
];

/// Jobs of one state and handler, or jobs that are not released yet, in descending order of their ids.
struct JobStream {
    statements: [&'static str; 2],
    /// The state, or the first id.
    first_value: i64,
    handler: Option<i64>,
    source: Option<i64>,
    last_id: i64,
}

impl JobStream {
    /// Returns the newest job below `before`.
    fn next(&self, conn: &Connection, before: i64) -> rusqlite::Result<Option<i64>> {
        let last_id = self.last_id.min(before - 1);
        let values = (self.first_value, self.handler, last_id, self.source);
        conn.find(self.statements[0], values, |row| row.get(0))
    }

    /// Counts the jobs.
    fn count(&self, conn: &Connection) -> rusqlite::Result<i64> {
        let values = (self.first_value, self.handler, self.last_id, self.source);
        conn.value(self.statements[1], values)
    }
}

/// A search through the indexes of a state, merged by the ids of the jobs.
pub(super) struct StateSearch<'c> {
    conn: &'c Connection,
    streams: Vec<JobStream>,
    /// The newest job of each stream that was not read yet.
    heads: BinaryHeap<(i64, usize)>,
}

impl<'c> StateSearch<'c> {
    pub fn new(
        conn: &'c Connection,
        selector: &Selector,
        states: &[i64],
        before: i64,
    ) -> rusqlite::Result<Self> {
        // An unknown name has id 0, which no row has.
        let find_id = |table: &str, name: &Option<String>| {
            let sql = format!("SELECT coalesce((SELECT id FROM {table} WHERE name = ?1), 0)");
            name.as_ref().map(|name| conn.query_row(&sql, [name], |row| row.get(0))).transpose()
        };
        let handler: Option<i64> = find_id("handlers", &selector.handler)?;
        let source: Option<i64> = find_id("sources", &selector.source)?;
        let sql = "SELECT id FROM handlers WHERE ?1 IS NULL OR id = ?1";
        let handlers: Vec<i64> = conn.list(sql, [handler], |row| row.get(0))?;
        let to_stream = |(&first_value, &handler): (&i64, &i64)| JobStream {
            statements: STATE_STATEMENTS,
            first_value,
            handler: Some(handler),
            source,
            last_id: i64::MAX,
        };
        let pairs = states.iter().flat_map(|state| handlers.iter().map(move |id| (state, id)));
        let mut streams: Vec<JobStream> = pairs.map(to_stream).collect();
        if matches!(selector.state, Some(PublicState::Queued)) {
            let sql = "SELECT next_job, last_job FROM expansions WHERE is_visible";
            let ranges: Vec<(i64, i64)> = conn.list(sql, [], |row| row.try_into())?;
            streams.extend(ranges.into_iter().map(|(first_value, last_id)| {
                let statements = UNRELEASED_STATEMENTS;
                JobStream { statements, first_value, handler, source, last_id }
            }));
        }
        let mut search = Self { conn, streams, heads: BinaryHeap::new() };
        (0..search.streams.len()).try_for_each(|stream| search.read_next(stream, before))?;
        Ok(search)
    }

    /// Reads the newest job of a stream below `before`.
    fn read_next(&mut self, stream: usize, before: i64) -> rusqlite::Result<()> {
        let next = self.streams[stream].next(self.conn, before)?;
        self.heads.extend(next.map(|id| (id, stream)));
        Ok(())
    }

    /// Adds the jobs that meet the conditions `rows`, newest first. `is_exact`: all jobs in the streams meet them.
    pub fn run(
        &mut self,
        selector: &Selector,
        rows: &SqlFilter,
        is_exact: bool,
        matches: &mut Matches,
    ) -> rusqlite::Result<()> {
        let has_times = selector.since_ms.is_some() || selector.until_ms.is_some();
        let id = rows.values.len() + 1;
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM jobs j WHERE j.id = ?{id} AND {})",
            rows.to_sql()
        );
        let mut check = self.conn.prepare(&sql)?;
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
            if matches.is_complete() {
                return Ok(());
            }
            if matches.is_full() && is_exact {
                let counts = self.streams.iter().map(|stream| stream.count(self.conn));
                matches.count = counts.sum::<rusqlite::Result<i64>>()?;
                return Ok(());
            }
            if !self.heads.is_empty() && matches.should_end(job) {
                return Ok(());
            }
        }
        Ok(())
    }
}
