//! Removed rows: their marks, and seals without any rows.
//!
//! The digest of a removed row stays in its seal, because the chain value depends on it. When all rows of a seal are
//! removed, its digests go, and its chain value stays for the next seal. Of neighbouring seals without digests only the
//! last one stays, so the table does not grow while rows come and go.

use rusqlite::Connection;

use super::super::statements::Statements;
use super::chain::{COUNT_ENTRY_BYTES, ENTRY_BYTES, NewEntries, PerTable, SealTotals, SealedTable};

/// Where the entries of a seal are.
#[derive(Clone, Copy, Debug)]
struct SealLayout {
    id: i64,
    first: PerTable,
    last: PerTable,
    rows: PerTable,
    /// The number of entries. `None`: they were removed.
    entries: Option<usize>,
}

impl SealLayout {
    /// Loads the first seal from `id` on.
    fn load_from(conn: &Connection, id: i64) -> rusqlite::Result<Option<Self>> {
        const FIRST: &str = const_format::formatcp!(
            "SELECT id, length(entries), {} FROM seals WHERE id >= ?1 ORDER BY id LIMIT 1",
            SealTotals::COLUMNS
        );
        const BEFORE: &str = const_format::formatcp!(
            "SELECT {} FROM seals WHERE id < ?1 ORDER BY id DESC LIMIT 1",
            SealTotals::COLUMNS
        );
        let found = conn.find(FIRST, [id], |row| {
            Ok((row.get(0)?, row.get::<_, Option<i64>>(1)?, SealTotals::read(row, 2)?))
        })?;
        let Some((id, bytes, totals)) = found else { return Ok(None) };
        let before = conn.find(BEFORE, [id], |row| SealTotals::read(row, 0))?.unwrap_or_default();
        let rows = totals.sealed_since(&before);
        let count = row_count(rows);
        let entries = bytes.map(|bytes| {
            let bytes = usize::try_from(bytes).unwrap_or(0);
            count + bytes.saturating_sub(count * ENTRY_BYTES) / COUNT_ENTRY_BYTES
        });
        let last = totals.last;
        let first = std::array::from_fn(|table| last[table] - rows[table] + 1);
        Ok(Some(Self { id, first, last, rows, entries }))
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
        let ends: (Option<i64>, Option<i64>) = conn
            .statement("SELECT (SELECT min(id) FROM seals), (SELECT max(id) FROM seals)")?
            .query_row([], |row| row.try_into())?;
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
        Ok(Self::load_from(conn, from)?.filter(|seal| seal.contains(table, id)))
    }

    fn contains(&self, table: SealedTable, id: i64) -> bool {
        (self.first[table as usize]..=self.last[table as usize]).contains(&id)
    }

    /// Returns the index of a row's entry.
    fn index_of(&self, table: SealedTable, id: i64) -> usize {
        let before = row_count(self.rows[..table as usize].iter().copied());
        before + usize::try_from(id - self.first[table as usize]).unwrap_or(0)
    }
}

fn row_count(rows: impl IntoIterator<Item = i64>) -> usize {
    rows.into_iter().map(|count| usize::try_from(count).unwrap_or(0)).sum()
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
    layout: SealLayout,
    removed: RemovedEntries,
}

impl OpenSeal {
    fn open(conn: &Connection, layout: SealLayout) -> rusqlite::Result<Self> {
        let removed = RemovedEntries::load(conn, layout.id, layout.entries.unwrap_or(0))?;
        Ok(Self { layout, removed })
    }

    fn save(self, conn: &Connection) -> rusqlite::Result<()> {
        let Self { layout, removed } = self;
        match layout.entries {
            None => Ok(()),
            Some(entries) if removed.len() == entries => drop_entries(conn, layout.id),
            Some(_) => {
                let sql = "INSERT INTO seal_removals (seal, entries) VALUES (?1, ?2)
                           ON CONFLICT (seal) DO UPDATE SET entries = excluded.entries";
                conn.change(sql, (layout.id, removed.0)).map(|_| ())
            }
        }
    }
}

/// Marks rows that the transaction removes, and counts them in its seal. A row that was never sealed is left out.
///
/// # Errors
/// The write failed. The caller rolls the transaction back.
pub(in crate::store) fn record_removal(
    conn: &Connection,
    new: &mut NewEntries,
    table: SealedTable,
    mut ids: Vec<i64>,
) -> rusqlite::Result<()> {
    ids.sort_unstable();
    let mut open: Option<OpenSeal> = None;
    for id in ids {
        if !open.as_ref().is_some_and(|open| open.layout.contains(table, id)) {
            let next = open.as_ref().map(|open| open.layout.id + 1);
            if let Some(open) = open.take() {
                open.save(conn)?;
            }
            // Most often the rows of neighbouring seals are removed together.
            let near = match next {
                Some(next) => {
                    SealLayout::load_from(conn, next)?.filter(|seal| seal.contains(table, id))
                }
                None => None,
            };
            let layout = match near {
                Some(layout) => Some(layout),
                None => SealLayout::find(conn, table, id)?,
            };
            open = match layout {
                Some(layout) => Some(OpenSeal::open(conn, layout)?),
                None => None,
            };
        }
        if let Some(OpenSeal { layout, removed }) = &mut open
            && layout.entries.is_some()
            && removed.insert(layout.index_of(table, id))
        {
            new.removed[table as usize] += 1;
        }
    }
    open.map_or(Ok(()), |open| open.save(conn))
}

/// Marks the final count of a rejection that the transaction removes.
///
/// # Errors
/// The write failed. The caller rolls the transaction back.
pub(in crate::store) fn record_count_removal(
    conn: &Connection,
    seal: i64,
    rejection: i64,
) -> rusqlite::Result<()> {
    let layout = SealLayout::load_from(conn, seal)?.filter(|layout| layout.id == seal);
    let Some(layout) = layout else { return Ok(()) };
    let rows = row_count(layout.rows);
    let sql = "SELECT entries FROM seals WHERE id = ?1";
    let entries: Vec<u8> = conn.find(sql, [seal], |row| row.get(0))?.flatten().unwrap_or_default();
    let counts = entries.get(rows * ENTRY_BYTES..).unwrap_or_default();
    let is_its = |entry: &[u8]| entry.starts_with(&rejection.to_be_bytes());
    let Some(index) = counts.chunks_exact(COUNT_ENTRY_BYTES).position(is_its) else {
        return Ok(());
    };
    let mut open = OpenSeal::open(conn, layout)?;
    open.removed.insert(rows + index);
    open.save(conn)
}

/// Removes the entries of a seal whose rows are all removed, and those of its neighbours without entries that no other
/// seal needs.
///
/// # Errors
/// The write failed. The caller rolls the transaction back.
pub(super) fn drop_entries(conn: &Connection, seal: i64) -> rusqlite::Result<()> {
    conn.change("DELETE FROM seal_removals WHERE seal = ?1", [seal])?;
    // The seal after one without entries does not need the chain value before it.
    conn.change(
        "DELETE FROM seals WHERE id = (SELECT id FROM seals WHERE id < ?1 ORDER BY id DESC LIMIT 1)
           AND entries IS NULL",
        [seal],
    )?;
    let after = "SELECT entries IS NULL FROM seals WHERE id > ?1 ORDER BY id LIMIT 1";
    if conn.find(after, [seal], |row| row.get(0))? == Some(true) {
        conn.change("DELETE FROM seals WHERE id = ?1", [seal])?;
    } else {
        conn.change("UPDATE seals SET entries = NULL WHERE id = ?1", [seal])?;
    }
    Ok(())
}
