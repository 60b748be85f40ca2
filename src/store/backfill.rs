//! Changes to all rows of a large table that a migration leaves for later, so that the start takes the same time for any
//! number of rows.
//!
//! The migration itself changes the schema, and registers the change in its transaction. The writer then changes the
//! rows between its groups, from the lowest id to the highest of that moment; later rows have the new form already. The
//! row in `backfills` tells the next process where to go on. Until the row is gone, queries must read both forms.

use rusqlite::Connection;

use super::row_budget::RowBudget;
use super::statements::Statements;

/// Ids that one call of `change` covers.
const IDS_PER_CALL: i64 = 100;

/// A change to all rows of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backfill {
    /// For the log, and the key in `backfills`: `sizes of events`.
    pub name: &'static str,
    pub table: &'static str,
    /// Changes the rows whose ids are in this range.
    pub change: fn(&Connection, [i64; 2]) -> rusqlite::Result<()>,
}

/// Registers a backfill, in the transaction of its migration.
pub(super) fn register(conn: &Connection, backfill: &Backfill) -> rusqlite::Result<()> {
    let sql = format!(
        "INSERT INTO backfills (name, first_id, next_id, last_id)
         SELECT ?1, coalesce(min(id), 1), coalesce(min(id), 1), coalesce(max(id), 0) FROM {}",
        backfill.table
    );
    conn.execute(&sql, [backfill.name]).map(|_| ())
}

/// Returns those of `known` that are not complete.
pub(super) fn list_pending(
    conn: &Connection,
    known: impl Iterator<Item = Backfill>,
) -> rusqlite::Result<Vec<Backfill>> {
    let names: Vec<String> =
        conn.list("SELECT name FROM backfills ORDER BY name", [], |row| row.get(0))?;
    Ok(known.filter(|backfill| names.iter().any(|name| name == backfill.name)).collect())
}

/// Changes as many rows as the budget allows, but at least some. Returns whether the backfill is complete.
pub(super) fn step(
    conn: &Connection,
    backfill: &Backfill,
    budget: &mut RowBudget,
) -> rusqlite::Result<bool> {
    let sql = "SELECT first_id, next_id, last_id FROM backfills WHERE name = ?1";
    let found: Option<(i64, i64, i64)> = conn.find(sql, [backfill.name], |row| row.try_into())?;
    let Some((first_id, begun_id, last_id)) = found else { return Ok(true) };
    let mut next_id = begun_id;
    while next_id <= last_id {
        let end = last_id.min(next_id + IDS_PER_CALL - 1);
        (backfill.change)(conn, [next_id, end])?;
        budget.spend(usize::try_from(end + 1 - next_id).unwrap_or(usize::MAX), 0);
        next_id = end + 1;
        if budget.is_spent() {
            break;
        }
    }
    let tenths = |id: i64| 10 * (id - first_id) / (last_id + 1 - first_id).max(1);
    if next_id > last_id {
        conn.change("DELETE FROM backfills WHERE name = ?1", [backfill.name])?;
        log::info!("migration of the {}: complete", backfill.name);
        return Ok(true);
    }
    conn.change("UPDATE backfills SET next_id = ?2 WHERE name = ?1", (backfill.name, next_id))?;
    if tenths(next_id) > tenths(begun_id) {
        log::info!("migration of the {}: {} %", backfill.name, 10 * tenths(next_id));
    }
    Ok(false)
}
