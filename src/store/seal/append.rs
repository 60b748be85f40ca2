//! Seals what a transaction adds.

use rusqlite::{Connection, Row, params};

use super::super::statements::Statements;
use super::digest::{Digest, TreeDigest, ValueHasher};
use super::tree::Peaks;

/// The bytes of a row's entry in `seals.entries`.
pub(super) const ENTRY_BYTES: usize = size_of::<Digest>();

/// The bytes of the entry of a count: the id of the rejection, and the digest.
pub(super) const COUNT_ENTRY_BYTES: usize = size_of::<i64>() + ENTRY_BYTES;

/// The bytes before the first entry: how many rows each table has.
const HEADER_BYTES: usize = 3 * size_of::<u32>();

/// A table whose rows are sealed, by its place in a `PerTable` and in `seals.entries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum SealedTable {
    Events,
    Attempts,
    Rejections,
}

/// A number for each sealed table.
pub(super) type PerTable = [i64; 3];

/// A row of `seals` without its entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct SealRow {
    pub id: i64,
    pub sealed_at_ms: i64,
    /// The highest id that is sealed.
    pub last: PerTable,
    /// How many sealed rows there are.
    pub kept: PerTable,
}

impl SealRow {
    pub const COLUMNS: &str =
        "id, sealed_at, last_event, last_attempt, last_rejection, kept_events, kept_attempts,
      kept_rejections";

    /// Reads a row that begins with `COLUMNS`.
    pub fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            sealed_at_ms: row.get(1)?,
            last: [row.get(2)?, row.get(3)?, row.get(4)?],
            kept: [row.get(5)?, row.get(6)?, row.get(7)?],
        })
    }

    /// Returns the digest of the seal, a leaf of the tree.
    pub fn digest(&self, database: &TreeDigest, entries: &[u8]) -> TreeDigest {
        let mut hasher = ValueHasher::new("seal");
        hasher.bytes(database).number(self.id).number(self.sealed_at_ms);
        for number in [self.last, self.kept].as_flattened() {
            hasher.number(*number);
        }
        hasher.bytes(entries);
        hasher.tree_digest()
    }
}

/// The parts of `seals.entries`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entries<'e> {
    /// How many rows each table has.
    pub rows: [usize; 3],
    /// Those of all rows, table by table.
    pub digests: &'e [Digest],
    /// Those of counts, each `COUNT_ENTRY_BYTES`.
    pub counts: &'e [u8],
}

impl<'e> Entries<'e> {
    /// `None`: the bytes are not those of entries.
    pub fn parse(bytes: &'e [u8]) -> Option<Self> {
        let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
        let [events, attempts, rejections] = header.as_chunks().0 else { return None };
        let rows = [events, attempts, rejections].map(|count| u32::from_be_bytes(*count) as usize);
        let row_bytes = rows.iter().sum::<usize>().checked_mul(ENTRY_BYTES)?;
        let (digests, counts) = rest.split_at_checked(row_bytes)?;
        let is_whole = counts.len().is_multiple_of(COUNT_ENTRY_BYTES);
        is_whole.then_some(Self { rows, digests: digests.as_chunks().0, counts })
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.digests.len() + self.counts.len() / COUNT_ENTRY_BYTES
    }
}

/// What the seal at the end of a transaction contains.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct NewEntries {
    digests: [Vec<Digest>; 3],
    last: PerTable,
    counts: Vec<(i64, Digest)>,
    /// How many sealed rows the transaction removed.
    pub(super) removed: PerTable,
}

impl NewEntries {
    /// Adds a row. Its id follows that of the row before.
    pub fn add(&mut self, table: SealedTable, id: i64, digest: Digest) {
        let (digests, last) = (&mut self.digests[table as usize], &mut self.last[table as usize]);
        debug_assert!(digests.is_empty() || id == *last + 1, "{table:?} {id} after {last}");
        digests.push(digest);
        *last = id;
    }

    /// Adds the final count of a rejection.
    pub fn add_count(&mut self, rejection: i64, digest: Digest) {
        self.counts.push((rejection, digest));
    }

    fn has_entries(&self) -> bool {
        self.digests.iter().any(|digests| !digests.is_empty()) || !self.counts.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.has_entries() && self.removed == [0; 3]
    }

    fn to_bytes(&self) -> Vec<u8> {
        let rows: usize = self.digests.iter().map(Vec::len).sum();
        let length = HEADER_BYTES + rows * ENTRY_BYTES + self.counts.len() * COUNT_ENTRY_BYTES;
        let mut bytes = Vec::with_capacity(length);
        for digests in &self.digests {
            let count = u32::try_from(digests.len()).unwrap_or(u32::MAX);
            bytes.extend_from_slice(&count.to_be_bytes());
        }
        for digests in &self.digests {
            bytes.extend_from_slice(digests.as_flattened());
        }
        for (rejection, digest) in &self.counts {
            bytes.extend_from_slice(&rejection.to_be_bytes());
            bytes.extend_from_slice(digest);
        }
        bytes
    }
}

/// The tree of all seals, as the writer caches it. It is stored in the row of `counters`, which each transaction
/// writes anyway.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct SealTree {
    /// Different for each database, so that a root is never that of another one.
    pub(super) database: TreeDigest,
    pub(super) peaks: Peaks,
    pub(super) last: PerTable,
    pub(super) kept: PerTable,
}

impl SealTree {
    /// Loads the tree.
    pub fn load(conn: &Connection) -> rusqlite::Result<Self> {
        let sql = "SELECT event, attempt, rejection, kept_events, kept_attempts, kept_rejections, seals, peaks,
                     (SELECT value FROM meta WHERE name = 'database_id'),
                     (SELECT max(id) FROM seals) FROM counters";
        conn.statement(sql)?.query_row([], |row| {
            let database_id: Option<String> = row.get(8)?;
            let mut hasher = ValueHasher::new("database");
            hasher.bytes(database_id.unwrap_or_default().as_bytes());
            let (size, bytes): (i64, Vec<u8>) = (row.get(6)?, row.get(7)?);
            // `verify` finds a damaged tree. The server goes on with free ids, because events come first.
            let last_seal = row.get::<_, Option<i64>>(9)?.unwrap_or(0).max(0);
            Ok(Self {
                database: hasher.tree_digest(),
                peaks: Peaks::from_bytes(size, &bytes)
                    .filter(|_| size >= last_seal)
                    .unwrap_or_else(|| Peaks::unknown(size.max(last_seal))),
                last: [row.get(0)?, row.get(1)?, row.get(2)?],
                kept: [row.get(3)?, row.get(4)?, row.get(5)?],
            })
        })
    }

    /// The id of the seal that the open transaction adds.
    pub fn next_id(&self) -> i64 {
        self.peaks.size() + 1
    }
}

/// Seals what the transaction added since it began or since the last call, and records what it removed. `wall_ms`:
/// wall clock.
///
/// # Errors
/// The write failed. The caller rolls the transaction back.
pub(in crate::store) fn write_pending(
    conn: &Connection,
    tree: &mut SealTree,
    new: &mut NewEntries,
    wall_ms: i64,
) -> rusqlite::Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    for (table, digests) in new.digests.iter().enumerate() {
        if !digests.is_empty() {
            tree.last[table] = new.last[table];
        }
        let added = i64::try_from(digests.len()).unwrap_or(i64::MAX);
        tree.kept[table] += added - new.removed[table];
    }
    if new.has_entries() {
        insert_seal(conn, tree, &new.to_bytes(), wall_ms)?;
    }
    let SealTree { peaks, last, kept, .. } = tree;
    conn.change(
        "UPDATE counters SET rejection = ?1, kept_events = ?2, kept_attempts = ?3, kept_rejections = ?4,
           seals = ?5, peaks = ?6",
        params![last[2], kept[0], kept[1], kept[2], peaks.size(), peaks.to_bytes()],
    )?;
    *new = NewEntries::default();
    Ok(())
}

fn insert_seal(
    conn: &Connection,
    tree: &mut SealTree,
    entries: &[u8],
    wall_ms: i64,
) -> rusqlite::Result<()> {
    let (last, kept) = (tree.last, tree.kept);
    let row = SealRow { id: tree.next_id(), sealed_at_ms: wall_ms, last, kept };
    conn.change(
        "INSERT INTO seals (id, sealed_at, last_event, last_attempt, last_rejection, kept_events,
           kept_attempts, kept_rejections, entries) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![row.id, wall_ms, last[0], last[1], last[2], kept[0], kept[1], kept[2], entries],
    )?;
    tree.peaks.push(0, row.digest(&tree.database, entries));
    Ok(())
}
