//! Removed rows: their marks, and seals without any rows.
//!
//! The digest of a removed row stays in its seal, because the digest of the seal depends on it. When all rows of a seal
//! are removed, only that digest stays, in `seal_subtrees`. When the seals of both halves of a subtree are removed, the
//! digest of the subtree takes the place of theirs. So the tables do not grow while rows come and go.

use rusqlite::Connection;

use super::super::statements::Statements;
use super::append::{COUNT_ENTRY_BYTES, Entries, NewEntries, SealRow, SealTree, SealedTable};
use super::digest::{TreeDigest, parent_digest};
use super::tree::MAX_LEVEL;

/// A row of `seals`.
struct StoredSeal {
    row: SealRow,
    entries: Vec<u8>,
}

impl StoredSeal {
    /// Loads the first seal from `id` on.
    fn load_from(conn: &Connection, id: i64) -> rusqlite::Result<Option<Self>> {
        const SQL: &str = const_format::formatcp!(
            "SELECT {}, entries FROM seals WHERE id >= ?1 ORDER BY id LIMIT 1",
            SealRow::COLUMNS
        );
        conn.find(SQL, [id], |row| Ok(Self { row: SealRow::read(row)?, entries: row.get(8)? }))
    }

    /// Finds the seal of a row.
    fn find(conn: &Connection, table: SealedTable, id: i64) -> rusqlite::Result<Option<Self>> {
        let next = match table {
            SealedTable::Events => {
                "SELECT id, last_event FROM seals WHERE id >= ?1 ORDER BY id LIMIT 1"
            }
            SealedTable::Attempts => {
                "SELECT id, last_attempt FROM seals WHERE id >= ?1 ORDER BY id LIMIT 1"
            }
            SealedTable::Rejections => {
                "SELECT id, last_rejection FROM seals WHERE id >= ?1 ORDER BY id LIMIT 1"
            }
        };
        let ends = "SELECT (SELECT min(id) FROM seals), (SELECT max(id) FROM seals)";
        let ends: (Option<i64>, Option<i64>) =
            conn.statement(ends)?.query_row([], |row| row.try_into())?;
        let (Some(mut from), Some(mut to)) = ends else { return Ok(None) };
        // The last ids of seals increase with their own.
        while from < to {
            let middle = from + (to - from) / 2;
            let (seal, last): (i64, i64) =
                conn.statement(next)?.query_row([middle], |row| row.try_into())?;
            if last < id {
                from = seal + 1;
            } else {
                to = middle;
            }
        }
        Self::load_from(conn, from)
    }
}

/// Which entries of a seal belong to removed rows.
#[derive(Clone, Debug)]
pub(super) struct RemovedEntries(Vec<u8>);

impl RemovedEntries {
    pub fn load(conn: &Connection, seal: i64, entries: usize) -> rusqlite::Result<Self> {
        let sql = "SELECT entries FROM seal_removals WHERE seal = ?1";
        let mut bits: Vec<u8> = conn.find(sql, [seal], |row| row.get(0))?.unwrap_or_default();
        bits.resize(entries.div_ceil(8), 0);
        Ok(Self(bits))
    }

    pub fn contains(&self, index: usize) -> bool {
        self.0.get(index / 8).is_some_and(|byte| byte & (1 << (index % 8)) != 0)
    }

    /// Returns whether the entry was not marked before.
    fn insert(&mut self, index: usize) -> bool {
        let is_new = !self.contains(index);
        if let Some(byte) = self.0.get_mut(index / 8) {
            *byte |= 1 << (index % 8);
        }
        is_new
    }

    fn len(&self) -> usize {
        self.0.iter().map(|byte| byte.count_ones() as usize).sum()
    }
}

/// A seal whose entries are being marked.
struct OpenSeal {
    row: SealRow,
    entries: Vec<u8>,
    /// How many rows each table has.
    rows: [usize; 3],
    entry_count: usize,
    removed: RemovedEntries,
}

impl OpenSeal {
    /// `None`: the seal is damaged, which `verify` finds.
    fn open(conn: &Connection, seal: StoredSeal) -> rusqlite::Result<Option<Self>> {
        let Some(parsed) = Entries::parse(&seal.entries) else { return Ok(None) };
        let (rows, entry_count) = (parsed.rows, parsed.len());
        let removed = RemovedEntries::load(conn, seal.row.id, entry_count)?;
        Ok(Some(Self { row: seal.row, entries: seal.entries, rows, entry_count, removed }))
    }

    /// Opens the seal of a row. It is tried first whether that is the first seal from `near` on, because the rows of
    /// neighbouring seals are most often removed together.
    fn find(
        conn: &Connection,
        table: SealedTable,
        id: i64,
        near: Option<i64>,
    ) -> rusqlite::Result<Option<Self>> {
        let near = near.map(|near| StoredSeal::load_from(conn, near)).transpose()?.flatten();
        let seal = match near.filter(|seal| seal.row.last[table as usize] >= id) {
            Some(seal) => Some(seal),
            None => StoredSeal::find(conn, table, id)?,
        };
        seal.map_or(Ok(None), |seal| Self::open(conn, seal))
    }

    /// Returns the index of the entry of a row, if it is in this seal.
    fn index_of(&self, table: SealedTable, id: i64) -> Option<usize> {
        let (rows, last) = (self.rows[table as usize], self.row.last[table as usize]);
        let from_end = usize::try_from(last.checked_sub(id)?).ok().filter(|&place| place < rows)?;
        let before: usize = self.rows[..table as usize].iter().sum();
        Some(before + rows - 1 - from_end)
    }

    /// Marks the final count of a rejection.
    fn mark_count(&mut self, rejection: i64) {
        let Some(parsed) = Entries::parse(&self.entries) else { return };
        let is_its = |entry: &[u8]| entry.starts_with(&rejection.to_be_bytes());
        let place = parsed.counts.chunks_exact(COUNT_ENTRY_BYTES).position(is_its);
        if let Some(place) = place {
            self.removed.insert(parsed.digests.len() + place);
        }
    }

    fn save(self, conn: &Connection, tree: &SealTree) -> rusqlite::Result<()> {
        if self.removed.len() == self.entry_count {
            let digest = self.row.digest(&tree.database, &self.entries);
            return remove_seal(conn, self.row.id, digest);
        }
        let sql = "INSERT INTO seal_removals (seal, entries) VALUES (?1, ?2)
                   ON CONFLICT (seal) DO UPDATE SET entries = excluded.entries";
        conn.change(sql, (self.row.id, self.removed.0)).map(|_| ())
    }
}

/// Marks rows that the transaction removes, and counts them. A row that was never sealed is left out.
///
/// # Errors
/// The write failed. The caller rolls the transaction back.
pub(in crate::store) fn record_removal(
    conn: &Connection,
    tree: &SealTree,
    new: &mut NewEntries,
    table: SealedTable,
    mut ids: Vec<i64>,
) -> rusqlite::Result<()> {
    ids.sort_unstable();
    let mut open: Option<OpenSeal> = None;
    for id in ids {
        if open.as_ref().and_then(|open| open.index_of(table, id)).is_none() {
            let next_seal = open.as_ref().map(|open| open.row.id + 1);
            if let Some(open) = open.take() {
                open.save(conn, tree)?;
            }
            open = OpenSeal::find(conn, table, id, next_seal)?;
        }
        if let Some(open) = &mut open
            && let Some(index) = open.index_of(table, id)
            && open.removed.insert(index)
        {
            new.removed[table as usize] += 1;
        }
    }
    open.map_or(Ok(()), |open| open.save(conn, tree))
}

/// Marks the final counts of rejections that the transaction removes: pairs of a seal and the id of a rejection.
///
/// # Errors
/// The write failed. The caller rolls the transaction back.
pub(in crate::store) fn record_count_removal(
    conn: &Connection,
    tree: &SealTree,
    mut counts: Vec<(i64, i64)>,
) -> rusqlite::Result<()> {
    counts.sort_unstable();
    for of_one_seal in counts.chunk_by(|(seal, _), (next, _)| seal == next) {
        let seal = of_one_seal[0].0;
        let stored = StoredSeal::load_from(conn, seal)?.filter(|stored| stored.row.id == seal);
        let Some(stored) = stored else { continue };
        let Some(mut open) = OpenSeal::open(conn, stored)? else { continue };
        of_one_seal.iter().for_each(|(_, rejection)| open.mark_count(*rejection));
        open.save(conn, tree)?;
    }
    Ok(())
}

/// Replaces a seal, whose rows are all removed, by its digest.
fn remove_seal(conn: &Connection, id: i64, mut digest: TreeDigest) -> rusqlite::Result<()> {
    conn.change("DELETE FROM seal_removals WHERE seal = ?1", [id])?;
    conn.change("DELETE FROM seals WHERE id = ?1", [id])?;
    let (mut first, mut level) = (id - 1, 0_u32);
    let take = "DELETE FROM seal_subtrees WHERE first = ?1 AND level = ?2 RETURNING digest";
    while level < MAX_LEVEL {
        let sibling = first ^ (1 << level);
        let Some(other) = conn.find(take, (sibling, level), |row| row.get(0))? else { break };
        digest = match sibling < first {
            true => parent_digest(&other, &digest),
            false => parent_digest(&digest, &other),
        };
        first = first.min(sibling);
        level += 1;
    }
    let sql = "INSERT INTO seal_subtrees (first, level, digest) VALUES (?1, ?2, ?3)";
    conn.change(sql, (first, level, digest)).map(|_| ())
}
