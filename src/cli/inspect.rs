//! `tail`, `list`, `show`, `stats`: they read the database and print tables, or JSON with `--json`.

use std::io::{BufWriter, Write};
use std::time::Duration;

use clap::Args;
use rusqlite::types::Value;
use serde_json::{Value as Json, json};

use super::id_list::parse_id;
use super::output::{self, escape_line, group_digits};
use super::selector_args::{SelectorArgs, parse_state};
use super::selector_checks::{check_event, check_handler_and_source, check_selectors};
use super::setup::orphaned_queue_warnings;
use super::{ExitError, runtime_error, user_error};
use crate::clock;
use crate::config::LoadedConfig;
use crate::domain::{Event, EventId, JobState};
use crate::store::queries::{self, Rows, TailFilter, TailView};
use crate::store::{Store, event_reads, stats};

/// How often `tail -f` checks for new rows.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

const HOUR_MS: i64 = 3_600_000;

/// Arguments of `tail`.
#[derive(Debug, Args)]
pub struct TailArgs {
    /// Print new rows as they are written
    #[arg(long, short)]
    follow: bool,
    /// Print rejected requests instead of outcomes
    #[arg(long, conflicts_with_all = ["handler", "state"])]
    rejected: bool,
    /// Number of rows to begin with
    #[arg(long, short = 'n', default_value_t = 20, value_name = "COUNT",
          value_parser = clap::value_parser!(i64).range(0..))]
    lines: i64,
    /// Print only outcomes of this handler
    #[arg(long, value_name = "NAME")]
    handler: Option<String>,
    /// Print only rows of this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Print only outcomes of jobs that are in this state now: queued, running, succeeded, dead or
    /// cancelled
    #[arg(long, value_name = "STATE", value_parser = parse_state)]
    state: Option<JobState>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// List events
    #[arg(long, group = "what")]
    events: bool,
    /// List rejected requests
    #[arg(long, group = "what")]
    rejected: bool,
    /// List handlers
    #[arg(long, group = "what")]
    handlers: bool,
    /// List sources
    #[arg(long, group = "what")]
    sources: bool,
    #[command(flatten)]
    selectors: SelectorArgs,
    /// Maximum number of rows
    #[arg(long, default_value_t = 50, value_name = "COUNT",
          value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
    /// List all rows, without a maximum
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Arguments of `show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Number of the event
    #[arg(value_parser = parse_id, allow_negative_numbers = true)]
    event: i64,
    /// Print only the bytes of the body
    #[arg(long)]
    body: bool,
    /// Print one JSON object
    #[arg(long, conflicts_with = "body")]
    json: bool,
}

/// Prints the last outcomes or rejections, and with `-f` new ones until a signal ends the command.
pub fn tail(store: &Store, args: &TailArgs) -> Result<(), ExitError> {
    let view = if args.rejected { TailView::Rejections } else { TailView::Outcomes };
    let conn = &store.conn;
    let mut errors = Vec::new();
    check_handler_and_source(store, args.handler.as_deref(), args.source.as_deref(), &mut errors)?;
    if !errors.is_empty() {
        return Err(user_error(errors.join("\n")));
    }
    let filter = TailFilter {
        handler: args.handler.clone(),
        source: args.source.clone(),
        state: args.state.map(|state| state.name().to_owned()),
    };
    let mut out = output::stdout();
    let mut version = queries::data_version(conn).map_err(runtime_error)?;
    let (mut rows, mut last) =
        queries::read_tail(conn, view, &filter, 0, args.lines).map_err(runtime_error)?;
    output::print(&mut out, &rows, args.json).map_err(runtime_error)?;
    loop {
        if !args.follow {
            return Ok(());
        }
        out.flush().map_err(runtime_error)?;
        loop {
            std::thread::sleep(FOLLOW_INTERVAL);
            let now = queries::data_version(conn).map_err(runtime_error)?;
            if std::mem::replace(&mut version, now) != now {
                break;
            }
        }
        (rows, last) =
            queries::read_tail(conn, view, &filter, last, i64::MAX).map_err(runtime_error)?;
        if args.json {
            output::print(&mut out, &rows, true).map_err(runtime_error)?;
        } else {
            output::print_table(&mut out, &rows, false).map_err(runtime_error)?;
        }
    }
}

/// Lists jobs, or the rows that an option such as `--events` names.
pub fn list(store: &Store, args: &ListArgs) -> Result<(), ExitError> {
    let mut errors = Vec::new();
    check_selectors(store, &args.selectors, &mut errors)?;
    if !errors.is_empty() {
        return Err(user_error(errors.join("\n")));
    }
    let conn = &store.conn;
    let selector = args.selectors.to_selector();
    let limit = if args.all { i64::MAX } else { args.limit };
    let hour_ago_ms = clock::wall_ms() - HOUR_MS;
    let rows = if args.events {
        queries::list_events(conn, &selector, limit)
    } else if args.rejected {
        queries::list_rejections(conn, &selector, limit)
    } else if args.handlers {
        stats::load_handler_stats(conn, hour_ago_ms, store.clock.to_wall_ms(0))
    } else if args.sources {
        stats::load_source_stats(conn, hour_ago_ms, store.clock.to_wall_ms(0))
    } else {
        queries::list_jobs(conn, &selector, limit, store.clock.to_wall_ms(0))
    };
    let rows = rows.map_err(runtime_error)?;
    let mut out = BufWriter::new(output::stdout());
    output::print(&mut out, &rows, args.json).map_err(runtime_error)?;
    let shown = i64::try_from(rows.rows.len()).unwrap_or(i64::MAX);
    let has_limit = !args.all && !args.handlers && !args.sources;
    if has_limit && shown == limit && !args.json {
        let total = if args.events {
            queries::count_events(conn, &selector)
        } else if args.rejected {
            queries::count_rejections(conn, &selector)
        } else {
            queries::count_jobs(conn, &selector)
        };
        let total = match total.map_err(runtime_error)? {
            Some(total) if total <= shown => None,
            Some(total) => Some(group_digits(total.unsigned_abs())),
            None => Some(format!("more than {}", group_digits(queries::MAX_COUNT.unsigned_abs()))),
        };
        if let Some(total) = total {
            writeln!(out, "{shown} of {total} (--limit COUNT or --all prints more)")
                .map_err(runtime_error)?;
        }
    }
    out.flush().map_err(runtime_error)
}

/// Prints one event with its jobs and their attempts.
pub fn show(store: &Store, args: &ShowArgs) -> Result<(), ExitError> {
    if let Some(error) = check_event(store, args.event)? {
        return Err(user_error(error));
    }
    let event = event_reads::load_event(&store.conn, EventId(args.event)).map_err(runtime_error)?;
    let mut out = BufWriter::new(output::stdout());
    if args.body {
        out.write_all(&event.body).map_err(runtime_error)?;
        return out.flush().map_err(runtime_error);
    }
    let (jobs, attempts) =
        queries::load_event_jobs(&store.conn, event.id, store.clock.to_wall_ms(0))
            .map_err(runtime_error)?;
    let items = queries::load_items(&store.conn, event.id).map_err(runtime_error)?;
    let result = if args.json {
        writeln!(out, "{}", output::json_line(&event_json(&event, &jobs, &attempts)))
    } else {
        print_event(&mut out, &event, (&jobs, &items, &attempts))
    };
    result.and_then(|()| out.flush()).map_err(runtime_error)
}

fn event_json(event: &Event, jobs: &Rows, attempts: &Rows) -> Json {
    let objects = |rows: &Rows| -> Vec<Json> {
        let to_object = |row: &Vec<Value>| Json::Object(output::row_object(&rows.columns, row));
        rows.rows.iter().map(to_object).collect()
    };
    let headers: Vec<Json> = event
        .headers
        .0
        .iter()
        .map(|(name, value)| json!([name, String::from_utf8_lossy(value)]))
        .collect();
    json!({
        "event": event.id.0,
        "source": event.source,
        "received_at": clock::format_rfc3339(event.received_at_ms),
        "method": event.method,
        "path": event.path,
        "query": event.query,
        "remote_ip": Some(&event.ip).filter(|ip| !ip.is_empty()),
        "bytes": event.body.len(),
        "headers": headers,
        "body": std::str::from_utf8(&event.body).ok(),
        "note": event.expression_errors,
        "jobs": objects(jobs),
        "attempts": objects(attempts),
    })
}

fn print_event(
    out: &mut impl Write,
    event: &Event,
    (jobs, items, attempts): (&Rows, &Rows, &Rows),
) -> std::io::Result<()> {
    let query = event.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    let at = clock::format_local(event.received_at_ms);
    let ip = if event.ip.is_empty() { "an unknown address" } else { &event.ip };
    writeln!(out, "event {} of {} from {ip} at {at}", event.id, event.source)?;
    writeln!(out, "\n{} {}{}", event.method, escape_line(&event.path), escape_line(&query))?;
    for (name, value) in &event.headers.0 {
        writeln!(out, "{name}: {}", escape_line(&String::from_utf8_lossy(value)))?;
    }
    match std::str::from_utf8(&event.body) {
        Ok("") => writeln!(out, "\n(no body)")?,
        Ok(text) => writeln!(out, "\n{}", escape_lines(text))?,
        Err(_) => {
            let bytes = event.body.len();
            writeln!(
                out,
                "\n({bytes} bytes that are not UTF-8: `hooktrail show {} --body`)",
                event.id
            )?;
        }
    }
    if let Some(errors) = &event.expression_errors {
        writeln!(out, "\nnote: {}", escape_line(errors))?;
    }
    writeln!(out)?;
    output::print_table(out, jobs, true)?;
    for row in &items.rows {
        if let [Value::Integer(job), Value::Integer(number), Value::Text(start)] = &row[..] {
            writeln!(out, "item {number} (job {job}): {}", escape_line(start))?;
        }
    }
    for row in &attempts.rows {
        let [job, attempt, outcome, at, detail, duration_ms, next_at, stdout, stderr] = &row[..]
        else {
            continue;
        };
        let text = |value: &Value| match value {
            Value::Text(_) => output::format_cell(value),
            Value::Integer(number) => number.to_string(),
            _ => String::new(),
        };
        writeln!(
            out,
            "\njob {} attempt {}: {} at {} after {} ms: {}",
            text(job),
            text(attempt),
            text(outcome),
            text(at),
            text(duration_ms),
            text(detail)
        )?;
        if let Value::Text(_) = next_at {
            writeln!(out, "  next attempt at {}", text(next_at))?;
        }
        for (name, bytes) in [("stdout", stdout), ("stderr", stderr)] {
            if let Value::Blob(bytes) = bytes {
                writeln!(out, "  {name}:")?;
                for line in String::from_utf8_lossy(bytes).lines() {
                    writeln!(out, "    {}", escape_line(line))?;
                }
            }
        }
    }
    Ok(())
}

/// Escapes the control characters of each line, and keeps the line ends.
fn escape_lines(text: &str) -> String {
    text.lines().map(escape_line).collect::<Vec<_>>().join("\n")
}

/// Prints queue depths, rates and ages of each handler and source.
pub fn stats(store: &Store, loaded: &LoadedConfig, json: bool) -> Result<(), ExitError> {
    let hour_ago_ms = clock::wall_ms() - HOUR_MS;
    let mut handlers =
        stats::load_handler_stats(&store.conn, hour_ago_ms, store.clock.to_wall_ms(0))
            .map_err(runtime_error)?;
    let sources = stats::load_source_stats(&store.conn, hour_ago_ms, store.clock.to_wall_ms(0))
        .map_err(runtime_error)?;
    // Jobs of a removed handler stay queued, and this output should show that.
    handlers.columns.push("configured".to_owned());
    for row in &mut handlers.rows {
        let is_configured = matches!(&row[0], Value::Text(name)
            if loaded.config.handlers.iter().any(|handler| handler.name == *name));
        row.push(Value::Integer(i64::from(is_configured)));
    }
    let mut out = BufWriter::new(output::stdout());
    output::print(&mut out, &handlers, json).map_err(runtime_error)?;
    if !json {
        writeln!(out).map_err(runtime_error)?;
    }
    output::print(&mut out, &sources, json).map_err(runtime_error)?;
    if !json {
        for (index, line) in orphaned_queue_warnings(store, &loaded.config)?.iter().enumerate() {
            let space = if index == 0 { "\n" } else { "" };
            writeln!(out, "{space}warning: {line}").map_err(runtime_error)?;
        }
    }
    out.flush().map_err(runtime_error)
}
