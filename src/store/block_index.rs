//! Tables `event_blocks`, `job_blocks` and `attempt_blocks`: which blocks of 1024 ids hold rows of a
//! source and a handler, and bounds of their times. `search.rs` reads them.
//!
//! The writer adds a row to the index in the transaction of the first row of a block that needs it, and
//! remembers it. Rows of the index are only added and widened. So a row that this process remembers
//! stays correct when another process writes; only a rollback makes the writer forget.

use std::collections::HashMap;
use std::hash::Hash;

use rusqlite::Connection;

use super::statements::Statements;
use crate::domain::{HandlerId, SourceId};

/// The number of ids in a block, as a power of two. Smaller blocks make the index larger; larger ones make
/// a search for rare rows read more rows.
pub(super) const BLOCK_BITS: u32 = 10;

const MINUTE_MS: i64 = 60_000;

/// Returns the block of an id.
pub(super) fn block_of(id: i64) -> i64 {
    id >> BLOCK_BITS
}

/// Returns the first and the last id of a block.
pub(super) fn ids_of_block(block: i64) -> (i64, i64) {
    (block << BLOCK_BITS, (block << BLOCK_BITS) + (1 << BLOCK_BITS) - 1)
}

/// Returns the minute of a time, as the index has it (wall clock).
pub(super) fn minute_of(at_ms: i64) -> i64 {
    at_ms.div_euclid(MINUTE_MS)
}

/// A row of the index that is in the database: the newest block of a source or a handler.
#[derive(Clone, Copy, Debug)]
struct IndexedBlock {
    block: i64,
    min_minute: i64,
    max_minute: i64,
}

impl IndexedBlock {
    fn contains(&self, block: i64, minute: i64) -> bool {
        self.block == block && self.min_minute <= minute && minute <= self.max_minute
    }

    /// Returns the row with the bounds of both, or the other row if it is of another block.
    fn widen(self, other: Self) -> Self {
        if self.block != other.block {
            return other;
        }
        Self {
            block: self.block,
            min_minute: self.min_minute.min(other.min_minute),
            max_minute: self.max_minute.max(other.max_minute),
        }
    }
}

/// The rows of the index that the writer has written last.
#[derive(Clone, Debug, Default)]
pub(super) struct BlockIndex {
    events: HashMap<SourceId, IndexedBlock>,
    jobs: HashMap<(HandlerId, SourceId), IndexedBlock>,
    attempts: HashMap<(HandlerId, SourceId), i64>,
    /// The blocks whose `has_succeeded` is set.
    succeeded: HashMap<(HandlerId, SourceId), i64>,
}

impl BlockIndex {
    /// Adds an event that is inserted in this transaction.
    pub fn add_event(
        &mut self,
        conn: &Connection,
        source: SourceId,
        id: i64,
        received_at_ms: i64,
    ) -> rusqlite::Result<()> {
        widen(&mut self.events, source, (id, received_at_ms), |block, minute| {
            conn.change(
                "INSERT INTO event_blocks (block, source, min_minute, max_minute) VALUES (?1, ?2, ?3, ?3)
                 ON CONFLICT DO UPDATE SET min_minute = min(min_minute, excluded.min_minute),
                   max_minute = max(max_minute, excluded.max_minute)",
                (block, source, minute),
            )
        })
    }

    /// Adds a job that is inserted in this transaction.
    pub fn add_job(
        &mut self,
        conn: &Connection,
        handler: HandlerId,
        source: SourceId,
        id: i64,
        created_at_ms: i64,
    ) -> rusqlite::Result<()> {
        widen(&mut self.jobs, (handler, source), (id, created_at_ms), |block, minute| {
            conn.change(
                "INSERT INTO job_blocks (block, handler, source, min_minute, max_minute)
                 VALUES (?1, ?2, ?3, ?4, ?4)
                 ON CONFLICT DO UPDATE SET min_minute = min(min_minute, excluded.min_minute),
                   max_minute = max(max_minute, excluded.max_minute)",
                (block, handler, source, minute),
            )
        })
    }

    /// Records that a job succeeds in this transaction.
    pub fn add_success(
        &mut self,
        conn: &Connection,
        handler: HandlerId,
        source: SourceId,
        job: i64,
    ) -> rusqlite::Result<()> {
        let sql = "UPDATE job_blocks SET has_succeeded = 1
                   WHERE block = ?1 AND handler = ?2 AND source = ?3 AND NOT has_succeeded";
        add_once(conn, &mut self.succeeded, (handler, source), block_of(job), sql)
    }

    /// Adds an attempt that is inserted in this transaction.
    pub fn add_attempt(
        &mut self,
        conn: &Connection,
        handler: HandlerId,
        source: SourceId,
        id: i64,
    ) -> rusqlite::Result<()> {
        let sql =
            "INSERT OR IGNORE INTO attempt_blocks (block, handler, source) VALUES (?1, ?2, ?3)";
        add_once(conn, &mut self.attempts, (handler, source), block_of(id), sql)
    }

    /// Forgets all rows after a rollback, because they may not be in the database.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Writes the row of the block of `id`, unless the row is in the database and its bounds include the time.
fn widen<K: Copy + Eq + Hash>(
    known: &mut HashMap<K, IndexedBlock>,
    key: K,
    (id, at_ms): (i64, i64),
    write: impl FnOnce(i64, i64) -> rusqlite::Result<usize>,
) -> rusqlite::Result<()> {
    let (block, minute) = (block_of(id), minute_of(at_ms));
    let indexed = known.get(&key).copied();
    if !indexed.is_some_and(|indexed| indexed.contains(block, minute)) {
        write(block, minute)?;
        let new = IndexedBlock { block, min_minute: minute, max_minute: minute };
        known.insert(key, indexed.map_or(new, |indexed| indexed.widen(new)));
    }
    Ok(())
}

/// Runs a statement for a block, unless it was the last one of the handler and the source.
fn add_once(
    conn: &Connection,
    known: &mut HashMap<(HandlerId, SourceId), i64>,
    (handler, source): (HandlerId, SourceId),
    block: i64,
    sql: &str,
) -> rusqlite::Result<()> {
    if known.get(&(handler, source)) != Some(&block) {
        conn.change(sql, (block, handler, source))?;
        known.insert((handler, source), block);
    }
    Ok(())
}
