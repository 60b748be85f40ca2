//! Inserts many rows of one table by few statements. An `INSERT` opens the table and each of its indexes
//! whenever it runs, which costs about as much as the row itself (benches/README.md).

use rusqlite::{CachedStatement, Connection, Statement, ToSql};

/// How many rows the statements for a table insert, the largest first. The last one takes the rows that are
/// left, so it is 1.
pub(super) const SIZES: [usize; 5] = [32, 16, 8, 4, 1];

/// A row with more bytes is inserted alone, which bounds the memory that the statements keep.
const MAX_BATCHED_BYTES: usize = 16 << 10;

/// The texts of the statements, for each of `SIZES`.
pub type StatementTexts = [&'static str; SIZES.len()];

/// Makes the texts of the statements from the table with its columns, and the values of one row. `OR FAIL`:
/// after an error, the caller rolls back its transaction or savepoint, so SQLite does not have to be able to
/// undo the statement alone.
macro_rules! statement_texts {
    ($columns:expr, $row:expr) => {{
        use const_format::{concatcp, str_repeat};
        use $crate::store::batch_insert::SIZES;
        const FIRST: &str = concatcp!("INSERT OR FAIL INTO ", $columns, " VALUES ", $row);
        const NEXT: &str = concatcp!(", ", $row);
        [
            concatcp!(FIRST, str_repeat!(NEXT, SIZES[0] - 1)),
            concatcp!(FIRST, str_repeat!(NEXT, SIZES[1] - 1)),
            concatcp!(FIRST, str_repeat!(NEXT, SIZES[2] - 1)),
            concatcp!(FIRST, str_repeat!(NEXT, SIZES[3] - 1)),
            concatcp!(FIRST, str_repeat!(NEXT, SIZES[4] - 1)),
        ]
    }};
}
pub(super) use statement_texts;

/// A row of a table whose rows are inserted in batches.
pub trait BatchRow {
    /// From `statement_texts`.
    const STATEMENTS: StatementTexts;

    /// The number of bytes of its values that may be large.
    fn byte_count(&self) -> usize {
        0
    }

    /// Binds the values of the row.
    fn bind(&self, values: &mut RowValues<'_, '_>) -> rusqlite::Result<()>;
}

/// Binds the values of one row after the other.
pub struct RowValues<'s, 'c> {
    statement: &'s mut Statement<'c>,
    bound: usize,
}

impl RowValues<'_, '_> {
    /// Binds the values of one row, in the order of its columns.
    pub fn bind(&mut self, values: &[&dyn ToSql]) -> rusqlite::Result<()> {
        for value in values {
            self.bound += 1;
            self.statement.raw_bind_parameter(self.bound, value)?;
        }
        Ok(())
    }
}

/// Rows that are inserted together. They are in the table after `flush`. A caller that reads the table calls
/// that first.
pub struct BatchInsert<'c, R> {
    conn: &'c Connection,
    rows: Vec<R>,
    statements: [Option<CachedStatement<'c>>; SIZES.len()],
}

impl<'c, R: BatchRow> BatchInsert<'c, R> {
    pub fn new(conn: &'c Connection) -> Self {
        Self { conn, rows: Vec::with_capacity(SIZES[0]), statements: Default::default() }
    }

    /// Adds a row. Inserts the rows so far if they are as many as the largest statement takes.
    pub fn push(&mut self, row: R) -> rusqlite::Result<()> {
        // A statement keeps its values until it is dropped.
        let is_large = row.byte_count() > MAX_BATCHED_BYTES;
        if is_large {
            self.flush()?;
        }
        self.rows.push(row);
        if is_large || self.rows.len() == SIZES[0] { self.flush() } else { Ok(()) }
    }

    /// Inserts the rows that are not inserted yet, in their order.
    ///
    /// # Errors
    /// The write failed. The caller rolls the transaction back.
    pub fn flush(&mut self) -> rusqlite::Result<()> {
        let mut rows = self.rows.as_slice();
        let texts = R::STATEMENTS;
        for (index, size) in SIZES.into_iter().enumerate() {
            while rows.len() >= size {
                let statement = match &mut self.statements[index] {
                    Some(statement) => statement,
                    unprepared => unprepared.insert(self.conn.prepare_cached(texts[index])?),
                };
                let (batch, rest) = rows.split_at(size);
                let mut values = RowValues { statement: &mut *statement, bound: 0 };
                batch.iter().try_for_each(|row| row.bind(&mut values))?;
                statement.raw_execute()?;
                rows = rest;
            }
        }
        self.rows.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::params;

    use super::*;

    struct Row(i64);

    impl BatchRow for Row {
        const STATEMENTS: StatementTexts =
            statement_texts!("numbers (number, square)", "(?, 7 + ?)");

        fn bind(&self, values: &mut RowValues<'_, '_>) -> rusqlite::Result<()> {
            values.bind(params![self.0, self.0 * self.0])
        }
    }

    fn table() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE numbers (number INTEGER PRIMARY KEY, square)").unwrap();
        conn
    }

    fn insert(conn: &Connection, numbers: impl Iterator<Item = i64>) -> rusqlite::Result<()> {
        let mut rows = BatchInsert::new(conn);
        numbers.into_iter().try_for_each(|number| rows.push(Row(number)))?;
        rows.flush()
    }

    #[test]
    fn any_number_of_rows_is_inserted() {
        for count in [0, 1, 3, 4, 31, 32, 33, 70] {
            let conn = table();
            insert(&conn, 0..count).unwrap();
            let wrong = "SELECT count(*), total(square <> 7 + number * number) FROM numbers";
            let found: (i64, f64) =
                conn.query_row(wrong, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            assert_eq!(found, (count, 0.0));
        }
    }

    #[test]
    fn a_row_that_is_not_allowed_is_an_error() {
        assert!(insert(&table(), [1, 2, 3, 4, 4].into_iter()).is_err());
    }
}
