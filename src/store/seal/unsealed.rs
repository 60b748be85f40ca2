//! Seals rows that were not inserted by the writer, such as those of a benchmark.

use rusqlite::Connection;

use super::super::statements::Statements;
use super::append::{NewEntries, SealTree, SealedTable, write_pending};
use super::check::{Names, TABLES};
use crate::clock;

/// Seals all events, outcomes and rejections after the last ones that are sealed.
///
/// # Errors
/// A read or a write failed, or a row contradicts itself.
pub fn seal_unsealed_rows(conn: &Connection, rows_per_seal: i64) -> anyhow::Result<()> {
    let names = Names::load(conn)?;
    let mut tree = SealTree::load(conn)?;
    // The counters know the ids of rows that are not sealed yet.
    let sql = "SELECT coalesce(max(last_event), 0), coalesce(max(last_attempt), 0), coalesce(max(last_rejection), 0)
               FROM seals";
    tree.last =
        conn.statement(sql)?.query_row([], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?]))?;
    loop {
        let mut new = NewEntries::default();
        let tables = [SealedTable::Events, SealedTable::Attempts, SealedTable::Rejections];
        for (table, check) in tables.into_iter().zip(&TABLES) {
            let first = tree.last[table as usize] + 1;
            let rows: Vec<_> = conn.list(check.sql, [first, first + rows_per_seal - 1], |row| {
                Ok((row.get(0)?, (check.digest)(&names, row)?))
            })?;
            for (id, digest) in rows {
                let digest =
                    digest.ok_or_else(|| anyhow::anyhow!("{} {id}: is invalid", check.name))?;
                new.add(table, id, digest);
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        write_pending(conn, &mut tree, &mut new, clock::wall_ms())?;
    }
}
