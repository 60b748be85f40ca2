//! Returns the pages of removed rows to the file system, and removes the rows of the block index for them.

use rusqlite::Connection;

use super::super::block_index::block_of;
use super::super::row_budget::RowBudget;
use super::super::statements::Statements;

/// The file keeps this many free pages, and one in `KEPT_SHARE` of its pages: later events fill them.
const KEPT_PAGES: i64 = 256;
const KEPT_SHARE: i64 = 20;

/// Rows of the block index that one statement deletes.
const INDEX_ROWS: i64 = 200;

/// Returns whether the file has more free pages than it should keep.
///
/// # Errors
/// The read failed.
pub fn has_excess_free_pages(conn: &Connection) -> rusqlite::Result<bool> {
    let pages: i64 = conn.value("PRAGMA page_count", [])?;
    let free: i64 = conn.value("PRAGMA freelist_count", [])?;
    Ok(free > KEPT_PAGES.max(pages / KEPT_SHARE))
}

/// Cuts free pages off the file, as far as the budget allows, and deletes rows of the block index whose rows are all
/// removed. Returns whether it is done.
///
/// # Errors
/// The write failed.
pub fn return_free_pages(conn: &Connection, budget: &mut RowBudget) -> rusqlite::Result<bool> {
    if trim_block_index(conn)? == 0 && !has_excess_free_pages(conn)? {
        return Ok(true);
    }
    let pages: i64 = conn.value("PRAGMA page_count", [])?;
    cut_free_pages(conn, budget, KEPT_PAGES.max(pages / KEPT_SHARE))
}

/// Cuts free pages off the file until no more than `kept` are left, as far as the budget allows. Returns whether it is
/// done.
pub(in crate::store) fn cut_free_pages(
    conn: &Connection,
    budget: &mut RowBudget,
    kept: i64,
) -> rusqlite::Result<bool> {
    let mut excess = conn.value::<i64>("PRAGMA freelist_count", [])? - kept;
    // The statement returns a row for each page that it moves.
    let mut statement = conn.prepare_cached("PRAGMA incremental_vacuum")?;
    let mut moved = statement.query([])?;
    while excess > 0 {
        if budget.is_spent() {
            return Ok(false);
        }
        if moved.next()?.is_none() {
            break;
        }
        budget.spend(1, 0);
        excess -= 1;
    }
    Ok(true)
}

/// Deletes rows of the block index for blocks before the first row of a table. The newest block stays: the writer
/// remembers that its row exists. Returns how many it deleted.
fn trim_block_index(conn: &Connection) -> rusqlite::Result<usize> {
    let mut deleted = 0;
    for (sql, first_row) in [
        (
            "DELETE FROM event_blocks WHERE (block, source) IN
               (SELECT block, source FROM event_blocks WHERE block < ?1 ORDER BY block LIMIT ?2)",
            "SELECT min(coalesce((SELECT min(id) FROM events), event), event) FROM counters",
        ),
        (
            "DELETE FROM job_blocks WHERE (block, handler, source) IN
               (SELECT block, handler, source FROM job_blocks WHERE block < ?1 ORDER BY block LIMIT ?2)",
            "SELECT min(coalesce((SELECT min(id) FROM jobs), job), job) FROM counters",
        ),
        (
            "DELETE FROM attempt_blocks WHERE (block, handler, source) IN
               (SELECT block, handler, source FROM attempt_blocks WHERE block < ?1 ORDER BY block LIMIT ?2)",
            "SELECT min(coalesce((SELECT min(id) FROM attempts), attempt), attempt) FROM counters",
        ),
    ] {
        let first: i64 = conn.value(first_row, [])?;
        deleted += conn.change(sql, [block_of(first), INDEX_ROWS])?;
    }
    Ok(deleted)
}
