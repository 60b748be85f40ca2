//! A query that a user wrote. It can read the database and nothing else: SQLite opens the file for reading only, an
//! authorizer rejects all that a read does not need, and its time, its result and its temporary files are bounded.
//!
//! All rows are read before one is printed, so a reader of the output that waits keeps no transaction open.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::Value;
use rusqlite::{Connection, Statement};

use super::open_files::with_suffix;
use super::queries::Rows;
use super::read_limit::{ReadLimit, is_over_limit};
use super::{OpenError, find_lock_holder, migrate};

/// Maximum size of a result. A larger one would not fit the memory of a small machine beside the server.
const MAX_RESULT_BYTES: usize = 64 << 20;

/// Maximum size of one value. It also bounds the time of one call of a function, which the timeout does not end.
const MAX_VALUE_BYTES: i32 = 128 << 20;

/// Maximum size of each temporary file of SQLite, in which it sorts and groups many rows. More could fill the disk that
/// has the database.
pub const MAX_TEMPORARY_FILE_BYTES: u64 = 256 << 20;

/// Functions that reach beyond the database. Not all of them are in this build of SQLite.
const FORBIDDEN_FUNCTIONS: [&str; 4] =
    ["load_extension", "fts3_tokenizer", "readfile", "writefile"];

/// The pragmas that only describe the database.
const READING_PRAGMAS: [&str; 15] = [
    "application_id",
    "collation_list",
    "compile_options",
    "database_list",
    "encoding",
    "foreign_key_list",
    "freelist_count",
    "function_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "page_count",
    "page_size",
    "schema_version",
    "user_version",
];

/// The pragmas that describe the table they are given.
const TABLE_PRAGMAS: [&str; 7] = [
    "foreign_key_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "table_info",
    "table_list",
    "table_xinfo",
];

/// Commands for the help of `sql`, each below its comment.
pub const EXAMPLES: [&str; 4] = [
    "# Print the last failures",
    "hooktrail sql \"select at, event, detail from outcomes where outcome = 'failed' order by id desc limit 20\"",
    "# Print one JSON object per line",
    "hooktrail sql --json 'select * from queue_depth'",
];

/// The bounds of a query.
#[derive(Clone, Copy, Debug)]
pub struct QueryLimits {
    pub timeout: Duration,
    pub max_rows: usize,
    /// Whether the rows after `max_rows` are left out. Otherwise they are an error.
    pub is_cut: bool,
}

/// Runs a query on the database at `path`, beside a server or without one. Also works for a user who may only read its
/// files.
///
/// # Errors
/// The database cannot be read, the query is not one that only reads, or it goes beyond its limits.
pub fn run(path: &Path, sql: &str, limits: QueryLimits) -> anyhow::Result<Rows> {
    let QueryConnection { conn, snapshot } = open(path)?;
    restrict(&conn).with_context(|| path.display().to_string())?;
    let deadline = Instant::now() + limits.timeout;
    let limit = ReadLimit { deadline, is_cancelled: Arc::new(AtomicBool::new(false)) };
    let rows = limit.run(&conn, |conn| read_rows(conn, sql, limits))?;
    if let Some(snapshot) = snapshot {
        snapshot.check_unchanged(path)?;
    }
    rows.map_err(|error| explain(error, limits.timeout))
}

/// A connection that can only read.
struct QueryConnection {
    conn: Connection,
    /// Set if the connection takes no locks, because SQLite cannot create its files here.
    snapshot: Option<UnlockedSnapshot>,
}

fn open(path: &Path) -> Result<QueryConnection, OpenError> {
    let files = UnlockedSnapshot::of(path);
    match migrate::open_to_query(path) {
        Ok(conn) => Ok(QueryConnection { conn, snapshot: None }),
        Err(error) => {
            // No server runs, and the last program that used the database has removed its -wal.
            let is_closed = super::wal_bytes(path) == 0
                && matches!(find_lock_holder(path), Ok(None))
                && migrate::is_readable(path);
            match is_closed.then(|| migrate::open_unused(path)) {
                Some(Ok(conn)) if is_own_version(&conn) => {
                    Ok(QueryConnection { conn, snapshot: Some(files) })
                }
                _ => Err(error),
            }
        }
    }
}

fn is_own_version(conn: &Connection) -> bool {
    migrate::check_is_ours(conn).and_then(|()| migrate::check_version(conn)).is_ok()
}

/// The state of the files of a database that is read without locks.
#[derive(Debug, PartialEq, Eq)]
struct UnlockedSnapshot([Option<(u64, SystemTime)>; 2]);

impl UnlockedSnapshot {
    fn of(path: &Path) -> Self {
        Self(["", "-wal"].map(|suffix| {
            let found = with_suffix(path, suffix).metadata().ok()?;
            Some((found.len(), found.modified().ok()?))
        }))
    }

    /// Checks that no program has written the database meanwhile.
    fn check_unchanged(&self, path: &Path) -> anyhow::Result<()> {
        let is_unchanged = Self::of(path) == *self && matches!(find_lock_holder(path), Ok(None));
        anyhow::ensure!(
            is_unchanged,
            "{}: a server started during the query: run it again",
            path.display()
        );
        Ok(())
    }
}

/// Takes from a connection all that a reading query does not need.
fn restrict(conn: &Connection) -> rusqlite::Result<()> {
    // With temporary files instead of memory, SQLite needs little more than its cache and the values of a row.
    conn.execute_batch(
        "PRAGMA query_only = ON; PRAGMA temp_store = FILE; PRAGMA cache_size = -6144;",
    )?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)?;
    conn.authorizer(Some(authorize))
}

fn authorize(context: AuthContext<'_>) -> Authorization {
    let is_allowed = match context.action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Recursive => true,
        AuthAction::Function { function_name } => !FORBIDDEN_FUNCTIONS
            .iter()
            .any(|forbidden| function_name.eq_ignore_ascii_case(forbidden)),
        AuthAction::Pragma { pragma_name, pragma_value } => {
            let list = if pragma_value.is_some() { &TABLE_PRAGMAS[..] } else { &READING_PRAGMAS };
            list.iter().any(|allowed| pragma_name.eq_ignore_ascii_case(allowed))
        }
        _ => false,
    };
    if is_allowed { Authorization::Allow } else { Authorization::Deny }
}

fn read_rows(conn: &Connection, sql: &str, limits: QueryLimits) -> anyhow::Result<Rows> {
    let mut statement = conn.prepare(sql)?;
    anyhow::ensure!(is_reading_query(&statement), rusqlite::Error::InvalidQuery);
    let columns: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
    let mut found = Rows { columns, rows: Vec::new() };
    let (mut rows, mut bytes) = (statement.query([])?, 0);
    while let Some(row) = rows.next()? {
        if found.rows.len() == limits.max_rows {
            anyhow::ensure!(
                limits.is_cut,
                "the result has more than {} rows: add LIMIT to the query, or give --limit",
                limits.max_rows
            );
            break;
        }
        let values = (0..found.columns.len())
            .map(|column| row.get::<_, Value>(column))
            .collect::<rusqlite::Result<Vec<Value>>>()?;
        bytes += values.iter().map(value_bytes).sum::<usize>();
        anyhow::ensure!(
            bytes <= MAX_RESULT_BYTES,
            "the result is larger than {} MiB: select fewer rows or columns",
            MAX_RESULT_BYTES >> 20
        );
        found.rows.push(values);
    }
    Ok(found)
}

/// Whether a statement returns rows and changes nothing. An empty text is no statement.
fn is_reading_query(statement: &Statement<'_>) -> bool {
    statement.readonly() && statement.column_count() > 0
}

fn value_bytes(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::Text(text) => text.len(),
            Value::Blob(bytes) => bytes.len(),
            Value::Null | Value::Integer(_) | Value::Real(_) => 0,
        }
}

/// Says in the words of this program what SQLite's error codes mean for a query.
fn explain(error: anyhow::Error, timeout: Duration) -> anyhow::Error {
    if is_over_limit(&error) {
        return anyhow::anyhow!(
            "the query took longer than {timeout:?}: bound it by id or event, or give --timeout"
        );
    }
    let Some(failure) = error.downcast_ref::<rusqlite::Error>() else { return error };
    let is_file_full = matches!(
        failure.sqlite_error().map(|error| error.extended_code),
        Some(rusqlite::ffi::SQLITE_FULL | rusqlite::ffi::SQLITE_IOERR_WRITE)
    );
    match (failure, failure.sqlite_error_code()) {
        (rusqlite::Error::MultipleStatement, _) => {
            anyhow::anyhow!("there is more than one statement: run them one by one")
        }
        (rusqlite::Error::InvalidQuery, _) | (_, Some(rusqlite::ErrorCode::ReadOnly)) => {
            anyhow::anyhow!("expected a query that only reads, such as SELECT")
        }
        (_, Some(rusqlite::ErrorCode::AuthorizationForStatementDenied)) => {
            anyhow::anyhow!("{failure}: expected a query that only reads, such as SELECT")
        }
        _ if is_file_full => anyhow::anyhow!(
            "the query needs more than {} MiB for temporary files, or their disk is full: sort or group fewer rows",
            MAX_TEMPORARY_FILE_BYTES >> 20
        ),
        _ => error,
    }
}
