//! Fills the gaps of pages with zeros.
//!
//! When SQLite removes a row, or moves rows from one page to another, their bytes may stay in unused parts of the page:
//! in the gap between the pointers and the content, and in free blocks within the content. No statement reaches them, and
//! `PRAGMA secure_delete` leaves copies of rows that move. `erase` looks at all pages by the virtual table `sqlite_dbpage` (<https://www.sqlite.org/dbpage.html>).
//!
//! The format of pages is on <https://www.sqlite.org/fileformat2.html#b_tree_pages>.

use std::ops::Range;

use rusqlite::Connection;

use super::row_budget::RowBudget;
use super::statements::Statements;

/// Pages that one call reads at most.
const MAX_PAGES_READ: i64 = 500;

/// Pages that the content of one pointer map page describes: page_size / 5.
const PAGES_PER_MAP: i64 = 4096 / 5;

/// Bytes of a free block that say where the next one is, and how long this one is.
const FREE_BLOCK_HEADER: usize = 4;

/// The types of a pointer map for pages of a b-tree: its root, or another page.
const ROOT_PAGE: u8 = 1;
const TREE_PAGE: u8 = 5;

/// Returns whether a page is a pointer map. The first one is page 2.
fn is_pointer_map(page: i64) -> bool {
    page >= 2 && (page - 2) % (PAGES_PER_MAP + 1) == 0
}

/// Fills the gaps of some pages from `next_page` on with zeros, and moves `next_page` behind them. Returns whether there
/// are no more pages.
pub(super) fn fill_gaps(
    conn: &Connection,
    next_page: &mut i64,
    budget: &mut RowBudget,
) -> rusqlite::Result<bool> {
    let first = (*next_page).max(1);
    let mut map = Vec::new();
    if first > 2 {
        let map_page = (first - 2) / (PAGES_PER_MAP + 1) * (PAGES_PER_MAP + 1) + 2;
        map = read_page(conn, map_page)?;
    }
    let mut changed = Vec::new();
    let sql = "SELECT pgno, data FROM sqlite_dbpage WHERE pgno BETWEEN ?1 AND ?2 ORDER BY pgno";
    let mut select = conn.prepare_cached(sql)?;
    let mut rows = select.query([first, first + MAX_PAGES_READ - 1])?;
    let mut is_end = true;
    while let Some(row) = rows.next()? {
        let page: i64 = row.get(0)?;
        let data = row.get_ref(1)?.as_blob()?;
        *next_page = page + 1;
        is_end = false;
        if is_pointer_map(page) {
            map = data.to_vec();
        } else if page == 1 || is_tree_page(&map, page) {
            changed.extend(with_zeros(page, data).map(|data| (page, data)));
        }
        if budget.is_spent() {
            break;
        }
    }
    drop(rows);
    drop(select);
    for (page, data) in &changed {
        conn.change("UPDATE sqlite_dbpage SET data = ?2 WHERE pgno = ?1", (page, data))?;
    }
    Ok(is_end)
}

fn read_page(conn: &Connection, page: i64) -> rusqlite::Result<Vec<u8>> {
    conn.value("SELECT data FROM sqlite_dbpage WHERE pgno = ?1", [page])
}

fn is_tree_page(map: &[u8], page: i64) -> bool {
    let index = (page - 3) % (PAGES_PER_MAP + 1);
    let entry = usize::try_from(index * 5).ok().and_then(|at| map.get(at));
    matches!(entry, Some(&(ROOT_PAGE | TREE_PAGE)))
}

/// Returns the page with zeros in its unused parts, or `None` if it has them, or is no page of a b-tree.
fn with_zeros(page: i64, data: &[u8]) -> Option<Vec<u8>> {
    let is_unfilled = |range: &Range<usize>| data[range.clone()].iter().any(|&byte| byte != 0);
    let unfilled: Vec<Range<usize>> =
        unused_parts(page, data)?.into_iter().filter(is_unfilled).collect();
    if unfilled.is_empty() {
        return None;
    }
    let mut filled = data.to_vec();
    unfilled.into_iter().for_each(|range| filled[range].fill(0));
    Some(filled)
}

/// Returns the gap and the free blocks of a page of a b-tree, each without the header of the block.
fn unused_parts(page: i64, data: &[u8]) -> Option<Vec<Range<usize>>> {
    let header = if page == 1 { 100 } else { 0 };
    let number = |at: usize| -> Option<usize> {
        Some(usize::from(u16::from_be_bytes([*data.get(at)?, *data.get(at + 1)?])))
    };
    let header_bytes = match data.get(header)? {
        2 | 5 => 12,
        10 | 13 => 8,
        _ => return None,
    };
    let pointers_end = header + header_bytes + 2 * number(header + 3)?;
    let content = match number(header + 5)? {
        0 => 65_536,
        content => content,
    };
    let mut parts: Vec<Range<usize>> = std::iter::once(pointers_end..content).collect();
    let mut block = number(header + 1)?;
    while block != 0 {
        let (next, bytes) = (number(block)?, number(block + 2)?);
        parts.push(block + FREE_BLOCK_HEADER..block + bytes);
        // The blocks are in ascending order. A damaged page is left to `verify`.
        if next != 0 && next <= block {
            return None;
        }
        block = next;
    }
    let is_valid = |range: &Range<usize>| range.start <= range.end && range.end <= data.len();
    parts.iter().all(is_valid).then_some(parts)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::config::Durability;

    fn contains(path: &std::path::Path, text: &[u8]) -> bool {
        std::fs::read(path).unwrap().windows(text.len()).any(|part| part == text)
    }

    #[test]
    fn what_sqlite_leaves_in_gaps_is_filled_and_all_rows_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        let store = crate::store::open(&path, Durability::Normal).unwrap();
        let conn = &store.conn;
        // Rows in between move others to new pages.
        conn.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT, more TEXT)")
            .unwrap();
        let insert = |id: i64| {
            let values = (id, format!("Secret-{id:06}"), "y".repeat(100 + (id % 7) as usize * 30));
            conn.execute("INSERT INTO t VALUES (?1, ?2, ?3)", values).unwrap();
        };
        (0..2000).map(|n| n * 1000).for_each(insert);
        (0..2000).map(|n| (n * 7919) % 2000 * 1000 + 500).for_each(insert);
        conn.execute("UPDATE t SET more = more || more WHERE id % 3 = 0", []).unwrap();
        conn.execute("UPDATE t SET text = 'none'", []).unwrap();
        conn.execute("DELETE FROM t WHERE id % 7 = 0", []).unwrap();
        let sum = "SELECT group_concat(id || text || more) FROM (SELECT * FROM t ORDER BY id)";
        let before: String = conn.query_row(sum, [], |row| row.get(0)).unwrap();
        crate::store::checkpoint::truncate(conn).unwrap();
        assert!(contains(&path, b"Secret-"), "SQLite leaves no copies: this module has no purpose");

        let mut next_page = 1;
        let fill = |next_page: &mut i64| {
            conn.execute_batch("BEGIN IMMEDIATE").unwrap();
            let deadline = Instant::now() + Duration::from_secs(60);
            let mut budget = RowBudget { rows: 100, bytes: usize::MAX, deadline };
            let is_end = fill_gaps(conn, next_page, &mut budget).unwrap();
            conn.execute_batch("COMMIT").unwrap();
            is_end
        };
        while !fill(&mut next_page) {}
        crate::store::checkpoint::truncate(conn).unwrap();
        assert!(!contains(&path, b"Secret-"));
        let after: String = conn.query_row(sum, [], |row| row.get(0)).unwrap();
        assert_eq!(after, before);
        let check: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
    }
}
