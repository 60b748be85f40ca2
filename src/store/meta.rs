//! Table `meta`: facts about the database, each under a name.

use rusqlite::{Connection, ToSql};

use super::statements::Statements;

/// Sets a fact, new or known.
pub(super) fn set(conn: &Connection, name: &str, value: impl ToSql) -> rusqlite::Result<()> {
    let sql =
        "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    conn.change(sql, (name, value)).map(|_| ())
}
