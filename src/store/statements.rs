//! What all SQL of the store shares: ids and states as columns, and short forms for statements that SQLite
//! keeps prepared.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Params, Row};

use crate::domain::job::JobState;
use crate::domain::{EventId, HandlerId, JobId, SourceId};

macro_rules! impl_id_column {
    ($($id:ident),*) => {$(
        impl ToSql for $id {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                self.0.to_sql()
            }
        }

        impl FromSql for $id {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                i64::column_result(value).map(Self)
            }
        }
    )*};
}

impl_id_column!(EventId, HandlerId, JobId, SourceId);

impl ToSql for JobState {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.code().into())
    }
}

impl FromSql for JobState {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let code = i64::column_result(value)?;
        Self::from_code(code).ok_or(FromSqlError::OutOfRange(code))
    }
}

/// Short forms for a statement that the connection keeps prepared.
pub(super) trait Statements {
    /// Returns the statement, prepared at most once for each connection.
    fn statement(&self, sql: &str) -> rusqlite::Result<CachedStatement<'_>>;

    /// Returns how many rows the statement changed.
    fn change(&self, sql: &str, values: impl Params) -> rusqlite::Result<usize> {
        self.statement(sql)?.execute(values)
    }

    /// Returns the first column of the only row.
    fn value<T: FromSql>(&self, sql: &str, values: impl Params) -> rusqlite::Result<T> {
        self.statement(sql)?.query_row(values, |row| row.get(0))
    }

    /// Returns the first row, if there is one.
    fn find<T>(
        &self,
        sql: &str,
        values: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Option<T>> {
        self.statement(sql)?.query_row(values, read).optional()
    }

    /// Returns all rows.
    fn list<T, L: FromIterator<T>>(
        &self,
        sql: &str,
        values: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<L> {
        self.statement(sql)?.query_map(values, read)?.collect()
    }
}

impl Statements for Connection {
    fn statement(&self, sql: &str) -> rusqlite::Result<CachedStatement<'_>> {
        self.prepare_cached(sql)
    }
}
