//! `sql`: runs a query of the user that can only read.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::{BufWriter, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;

use super::ExitError;
use super::output;
use super::table::TableWriter;
use super::user_error;
use crate::config::{LoadedConfig, duration_text, parse_duration};
use crate::process;
use crate::store::Value;
use crate::store::queries::Rows;
use crate::store::user_query::{self, QueryLimits};

/// The maximum number of rows without `--limit`.
const DEFAULT_MAX_ROWS: usize = 100_000;

/// The longest query. Its read transaction keeps the write-ahead log from starting over.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// Arguments of `sql`.
#[derive(Debug, Args)]
pub struct SqlArgs {
    /// One statement that reads: SELECT, VALUES, WITH or EXPLAIN
    query: String,
    /// Maximum time of the query, up to 1h
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_timeout)]
    timeout: Duration,
    /// Print at most this many rows. Without it, more than 100000 rows are an error
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|timeout| !timeout.is_zero() && *timeout <= MAX_TIMEOUT)
        .ok_or_else(|| "expected a duration up to 1h, such as 30s".to_owned())
}

/// Runs the query and prints its rows.
pub fn sql(loaded: &LoadedConfig, args: &SqlArgs) -> Result<(), ExitError> {
    let max_rows = args.limit.and_then(|limit| usize::try_from(limit).ok());
    let limits = QueryLimits {
        timeout: args.timeout,
        max_rows: max_rows.unwrap_or(DEFAULT_MAX_ROWS),
        is_cut: max_rows.is_some(),
    };
    process::limit_file_size(user_query::MAX_TEMPORARY_FILE_BYTES)?;
    let has_ended = end_after(args.timeout)?;
    let rows = user_query::run(&loaded.config.store.path, &args.query, limits)?;
    has_ended.store(true, Ordering::Relaxed);
    if args.json {
        check_names(&rows)?;
    }
    let mut out = BufWriter::new(output::stdout());
    if args.json {
        output::print_json(&mut out, &rows)?;
    } else if output::raw_stdout().is_terminal() {
        TableWriter::new().with_all_columns().print(&mut out, &rows)?;
    } else {
        print_tsv(&mut out, &rows)?;
    }
    Ok(out.flush()?)
}

/// How much longer than its time a query may take before the process ends. SQLite looks at the time between its steps, and
/// one step may compute for long.
const GRACE: Duration = Duration::from_secs(2);

/// Ends the process if the query still runs then. Set the flag when it has ended.
fn end_after(timeout: Duration) -> std::io::Result<Arc<AtomicBool>> {
    let has_ended = Arc::<AtomicBool>::default();
    let of_thread = Arc::clone(&has_ended);
    let end = move || {
        std::thread::sleep(timeout + GRACE);
        if of_thread.load(Ordering::Relaxed) {
            return;
        }
        let _ = writeln!(
            output::stderr(),
            "the query took longer than {}: read fewer rows, or set --timeout",
            duration_text(timeout)
        );
        crate::log::exit(1);
    };
    std::thread::Builder::new().name("timeout".into()).spawn(end)?;
    Ok(has_ended)
}

/// Checks that each column becomes a field of its name.
fn check_names(rows: &Rows) -> Result<(), ExitError> {
    let mut names = BTreeSet::new();
    match rows.columns.iter().find(|name| !names.insert(name.as_str())) {
        Some(name) => {
            Err(user_error(format!("two columns have the name {name}: rename one with AS")))
        }
        None => Ok(()),
    }
}

/// Prints a header and the rows as tab-separated values, in the text format of PostgreSQL's `COPY`: NULL is `\N`, and
/// a tab, a line end or a backslash in a value is escaped by a backslash.
fn print_tsv(out: &mut impl Write, rows: &Rows) -> std::io::Result<()> {
    print_line(out, rows.columns.iter().map(|name| escape_tsv(name)))?;
    rows.rows.iter().try_for_each(|row| print_line(out, row.iter().map(format_tsv)))
}

fn print_line<'a>(
    out: &mut impl Write,
    cells: impl Iterator<Item = Cow<'a, str>>,
) -> std::io::Result<()> {
    for (index, cell) in cells.enumerate() {
        let separator = if index > 0 { "\t" } else { "" };
        write!(out, "{separator}{cell}")?;
    }
    writeln!(out)
}

fn format_tsv(value: &Value) -> Cow<'_, str> {
    match value {
        Value::Null => Cow::Borrowed("\\N"),
        Value::Integer(number) => Cow::Owned(number.to_string()),
        Value::Real(number) => Cow::Owned(number.to_string()),
        Value::Text(text) => escape_tsv(text),
        Value::Blob(bytes) => Cow::Owned(escape_tsv(&String::from_utf8_lossy(bytes)).into_owned()),
    }
}

fn escape_tsv(text: &str) -> Cow<'_, str> {
    if !text.contains(['\t', '\n', '\r', '\\']) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '\t' => escaped.push_str("\\t"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\\' => escaped.push_str("\\\\"),
            other => escaped.push(other),
        }
    }
    Cow::Owned(escaped)
}
