//! What a seal consists of, and how its chain value follows from the one before.

use rusqlite::{Connection, Row};

use super::super::statements::Statements;
use super::digest::{Digest, ValueHasher};

pub(super) use super::digest::ChainValue;

/// The bytes of a row's entry in `seals.entries`.
pub(super) const ENTRY_BYTES: usize = size_of::<Digest>();

/// The bytes of the entry of a count: the id of the rejection, and the digest.
pub(super) const COUNT_ENTRY_BYTES: usize = size_of::<i64>() + ENTRY_BYTES;

/// A table whose rows are sealed, by its place in a `PerTable` and in `seals.entries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum SealedTable {
    Events,
    Attempts,
    Rejections,
}

/// A number for each sealed table.
pub(super) type PerTable = [i64; 3];

/// The numbers of a seal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SealTotals {
    /// The highest id that is sealed.
    pub last: PerTable,
    /// How many rows were sealed so far.
    pub sealed: PerTable,
    /// How many of them were removed so far.
    pub removed: PerTable,
}

impl SealTotals {
    pub const COLUMNS: &str =
        "last_event, last_attempt, last_rejection, events, attempts, rejections,
      removed_events, removed_attempts, removed_rejections";

    /// Reads `COLUMNS`, the first of which has this index.
    pub fn read(row: &Row<'_>, first: usize) -> rusqlite::Result<Self> {
        let numbers = |from: usize| -> rusqlite::Result<PerTable> {
            Ok([row.get(from)?, row.get(from + 1)?, row.get(from + 2)?])
        };
        Ok(Self {
            last: numbers(first)?,
            sealed: numbers(first + 3)?,
            removed: numbers(first + 6)?,
        })
    }

    /// Returns how many rows each table has in the seal that follows `before`.
    pub fn sealed_since(&self, before: &Self) -> PerTable {
        std::array::from_fn(|table| self.sealed[table] - before.sealed[table])
    }
}

/// A row of `seals` without its entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct SealRow {
    pub id: i64,
    pub sealed_at_ms: i64,
    pub totals: SealTotals,
}

impl SealRow {
    /// Returns the chain value, which follows from the one before.
    pub fn chain_value(&self, before: &[u8], entries: &[u8]) -> ChainValue {
        let mut hasher = ValueHasher::new("seal");
        hasher.bytes(before).number(self.id).number(self.sealed_at_ms);
        let SealTotals { last, sealed, removed } = self.totals;
        for number in [last, sealed, removed].as_flattened() {
            hasher.number(*number);
        }
        hasher.bytes(entries);
        hasher.chain_value()
    }
}

/// The chain value before the first seal, which is different for each database.
pub(super) fn genesis(conn: &Connection) -> rusqlite::Result<ChainValue> {
    let sql = "SELECT value FROM meta WHERE name = 'database_id'";
    let id: Option<String> = conn.find(sql, [], |row| row.get(0))?.flatten();
    let mut hasher = ValueHasher::new("database");
    hasher.bytes(id.unwrap_or_default().as_bytes());
    Ok(hasher.chain_value())
}

/// The entries of the seal that a transaction ends with.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct NewEntries {
    pub(super) digests: [Vec<Digest>; 3],
    pub(super) last: PerTable,
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

    pub(super) fn is_empty(&self) -> bool {
        self.digests.iter().all(Vec::is_empty) && self.counts.is_empty() && self.removed == [0; 3]
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let rows: usize = self.digests.iter().map(Vec::len).sum();
        let bytes = rows * ENTRY_BYTES + self.counts.len() * COUNT_ENTRY_BYTES;
        let mut bytes = Vec::with_capacity(bytes);
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
