//! Adds the seal of a transaction to the chain.

use rusqlite::{Connection, params};

use super::super::statements::Statements;
use super::chain::{ChainValue, NewEntries, SealRow, SealTotals, genesis};
use super::removal;

/// The newest seal, as the writer caches it.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct SealChain {
    pub(super) id: i64,
    pub(super) value: ChainValue,
    pub(super) totals: SealTotals,
    /// Its transaction only removed rows.
    is_empty: bool,
}

impl SealChain {
    /// Loads the newest seal.
    pub fn load(conn: &Connection) -> rusqlite::Result<Self> {
        let sql = const_format::formatcp!(
            "SELECT id, chain, entries = x'', {} FROM seals ORDER BY id DESC LIMIT 1",
            SealTotals::COLUMNS
        );
        let newest = conn.find(sql, [], |row| {
            let is_empty = row.get::<_, Option<bool>>(2)?.unwrap_or(false);
            let totals = SealTotals::read(row, 3)?;
            Ok(Self { id: row.get(0)?, value: row.get(1)?, totals, is_empty })
        })?;
        match newest {
            Some(newest) => Ok(newest),
            None => Ok(Self {
                id: 0,
                value: genesis(conn)?,
                totals: SealTotals::default(),
                is_empty: false,
            }),
        }
    }

    /// The id of the seal that the open transaction adds.
    pub fn next_id(&self) -> i64 {
        self.id + 1
    }

    /// Inserts the seal with this id. `sealed_at_ms`: wall clock.
    fn extend(
        &mut self,
        conn: &Connection,
        id: i64,
        new: &NewEntries,
        sealed_at_ms: i64,
    ) -> rusqlite::Result<()> {
        if self.is_empty {
            removal::drop_entries(conn, self.id)?;
        }
        let mut totals = self.totals;
        for (table, digests) in new.digests.iter().enumerate() {
            if !digests.is_empty() {
                totals.last[table] = new.last[table];
                totals.sealed[table] += i64::try_from(digests.len()).unwrap_or(i64::MAX);
            }
            totals.removed[table] += new.removed[table];
        }
        let row = SealRow { id, sealed_at_ms, totals };
        let entries = new.to_bytes();
        let value = row.chain_value(&self.value, &entries);
        let SealTotals { last, sealed, removed } = totals;
        conn.change(
            "INSERT INTO seals (id, sealed_at, last_event, last_attempt, last_rejection, events, attempts,
               rejections, removed_events, removed_attempts, removed_rejections, chain, entries)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            params![
                id, sealed_at_ms, last[0], last[1], last[2], sealed[0], sealed[1], sealed[2],
                removed[0], removed[1], removed[2], value, entries
            ],
        )?;
        *self = Self { id, value, totals, is_empty: entries.is_empty() };
        Ok(())
    }
}

/// Seals what the transaction added and removed since it began or since the last call. `wall_ms`: wall clock.
///
/// # Errors
/// The write failed. The caller rolls the transaction back.
pub(in crate::store) fn write_pending(
    conn: &Connection,
    chain: &mut SealChain,
    new: &mut NewEntries,
    wall_ms: i64,
) -> rusqlite::Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    chain.extend(conn, chain.next_id(), new, wall_ms)?;
    *new = NewEntries::default();
    Ok(())
}

/// Lets the ids of seals continue above those that a lost database may have given.
///
/// # Errors
/// The write failed.
pub(in crate::store) fn skip_ids(
    conn: &Connection,
    count: i64,
    wall_ms: i64,
) -> rusqlite::Result<()> {
    let mut chain = SealChain::load(conn)?;
    chain.extend(conn, chain.id + count, &NewEntries::default(), wall_ms)
}
