//! What all SQL of the store shares: ids and states as columns, and short forms for statements that SQLite
//! keeps prepared.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Params, Row};

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
    /// Returns how many rows the statement changed.
    fn change(&self, sql: &str, values: impl Params) -> rusqlite::Result<usize>;

    /// Returns the first column of the only row.
    fn value<T: FromSql>(&self, sql: &str, values: impl Params) -> rusqlite::Result<T>;

    /// Returns the first row, if there is one.
    fn find<T>(
        &self,
        sql: &str,
        values: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Option<T>>;

    /// Returns all rows.
    fn list<T, L: FromIterator<T>>(
        &self,
        sql: &str,
        values: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<L>;
}

impl Statements for Connection {
    fn change(&self, sql: &str, values: impl Params) -> rusqlite::Result<usize> {
        self.prepare_cached(sql)?.execute(values)
    }

    fn value<T: FromSql>(&self, sql: &str, values: impl Params) -> rusqlite::Result<T> {
        self.prepare_cached(sql)?.query_row(values, |row| row.get(0))
    }

    fn find<T>(
        &self,
        sql: &str,
        values: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Option<T>> {
        self.prepare_cached(sql)?.query_row(values, read).optional()
    }

    fn list<T, L: FromIterator<T>>(
        &self,
        sql: &str,
        values: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<L> {
        self.prepare_cached(sql)?.query_map(values, read)?.collect()
    }
}
