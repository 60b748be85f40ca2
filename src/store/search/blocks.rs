//! Searches through the blocks of ids that the block index names.

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::super::block_index::{block_of, ids_of_block, minute_of};
use super::super::queries::{Selector, SqlFilter};
use super::matches::Matches;
use crate::domain::job::PublicState;

/// A table with its block index, and how its rows are read.
#[derive(Clone, Copy)]
pub(in crate::store) struct BlockTable {
    table: &'static str,
    index: &'static str,
    /// The table with its alias.
    from: &'static str,
    id: &'static str,
}

pub(in crate::store) const EVENTS: BlockTable =
    BlockTable { table: "events", index: "event_blocks", from: "events e", id: "e.id" };
pub(in crate::store) const JOBS: BlockTable =
    BlockTable { table: "jobs", index: "job_blocks", from: "jobs j", id: "j.id" };
pub(in crate::store) const ATTEMPTS: BlockTable =
    BlockTable { table: "attempts", index: "attempt_blocks", from: "attempts a", id: "a.id" };
/// The attempts come first, in any plan.
pub(in crate::store) const ATTEMPTS_WITH_JOBS: BlockTable =
    BlockTable { from: "attempts a CROSS JOIN jobs j ON j.id = a.job", ..ATTEMPTS };

/// How many ids one statement reads if it searches bodies.
const IDS_WITH_TEXT: i64 = 8;

/// A search through blocks of ids.
pub(in crate::store) struct BlockSearch {
    /// Returns blocks, newest first; a block may come several times.
    blocks: SqlFilter,
    pub blocks_sql: String,
    table: BlockTable,
    rows: SqlFilter,
    /// Only rows with lower ids.
    before: i64,
    /// How many ids one statement reads.
    step: i64,
}

impl BlockSearch {
    /// Creates a search of the blocks that match a condition on the index; without one, of all blocks of
    /// the table. It finds rows with ids below `before`.
    pub fn new(
        conn: &Connection,
        block_table: BlockTable,
        blocks: Option<SqlFilter>,
        rows: SqlFilter,
        before: i64,
    ) -> rusqlite::Result<Self> {
        let BlockTable { table, index, .. } = block_table;
        let last_block = block_of(before.saturating_sub(1));
        let (blocks, blocks_sql) = match blocks {
            Some(mut blocks) => {
                blocks.and("block <= ?", last_block);
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
                let (first, last): (i64, i64) = conn.query_row(&sql, [], |row| row.try_into())?;
                let mut all = SqlFilter::new();
                all.values = vec![block_of(first).into(), block_of(last).min(last_block).into()];
                let sql = "WITH RECURSIVE b (block) AS (SELECT ?2 UNION ALL SELECT block - 1 FROM b
                  WHERE block > ?1) SELECT block FROM b WHERE block >= ?1";
                (all, sql.to_owned())
            }
        };
        // A body may be large, so that a few of them take the time of a search.
        let has_text = rows.parts.iter().any(|part| part.contains("body_contains"));
        let step = if has_text { IDS_WITH_TEXT } else { i64::MAX };
        Ok(Self { blocks, blocks_sql, table: block_table, rows, before, step })
    }

    /// Returns the statements that list and count the matching rows of a block. The bounds of the
    /// block are their last two values.
    pub fn row_statements(&self) -> [String; 2] {
        let BlockTable { from, id, .. } = self.table;
        let (first, last) = (self.rows.values.len() + 1, self.rows.values.len() + 2);
        let condition = format!("{id} BETWEEN ?{first} AND ?{last} AND {}", self.rows.to_sql());
        [
            format!("SELECT {id} FROM {from} WHERE {condition} ORDER BY {id} DESC"),
            format!("SELECT count(*) FROM {from} WHERE {condition}"),
        ]
    }

    /// Adds the rows that match and are above `after`, newest first.
    pub fn run(
        &self,
        conn: &Connection,
        after: i64,
        matches: &mut Matches,
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
            if matches.is_complete()
                || last <= after
                || read_from.is_some_and(|id| matches.should_end(id))
            {
                break;
            }
            let (first_id, last_id) =
                (first.max(after + 1), last.min(self.before.saturating_sub(1)));
            let mut part_last = last_id;
            while part_last >= first_id {
                let part_first = first_id.max(part_last.saturating_sub(self.step - 1));
                let bounds = [part_first, part_last].map(Value::from);
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
                part_last = part_first - 1;
                if part_last >= first_id
                    && (matches.is_complete() || matches.should_end(part_first))
                {
                    return Ok(());
                }
            }
            read_from = Some(first);
        }
        Ok(())
    }
}

/// Adds the conditions on a handler and a source to a filter of the block index.
pub(super) fn add_names(filter: &mut SqlFilter, handler: Option<&String>, source: Option<&String>) {
    if let Some(name) = handler {
        filter.and("handler = (SELECT id FROM handlers WHERE name = ?)", name.clone());
    }
    if let Some(name) = source {
        filter.and("source = (SELECT id FROM sources WHERE name = ?)", name.clone());
    }
}

impl Selector {
    /// Whether the state, the handler and the source are all conditions.
    pub(super) fn is_exact_by_state(&self) -> bool {
        let Self { since_ms, until_ms, detail, text, failure, event, .. } = self;
        since_ms.or(*until_ms).or(*failure).or(*event).is_none()
            && detail.is_none()
            && text.is_none()
            && self.jobs.is_empty()
    }

    /// The conditions on rows of the block index. `None` if all blocks may have matching rows.
    pub(in crate::store) fn block_filter(&self, has_handlers: bool) -> Option<SqlFilter> {
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

/// Looks up in the block index whether a block may have matching rows, so that the others are skipped.
pub(super) struct BlockCheck<'c> {
    select: Option<rusqlite::Statement<'c>>,
    values: Vec<Value>,
    last: Option<(i64, bool)>,
}

impl<'c> BlockCheck<'c> {
    /// Creates a check that looks up nothing unless it is needed.
    pub fn new(
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

    pub fn may_match(&mut self, block: i64) -> rusqlite::Result<bool> {
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
