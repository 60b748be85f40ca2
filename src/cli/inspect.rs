//! `tail`, `list`, `stats`: they read the database and print tables, or JSON with `--json`.

use std::io::{BufWriter, Write};
use std::time::Duration;

use clap::Args;
use rusqlite::types::Value;

use super::output::{self, group_digits};
use super::selector_args::{SelectorArgs, parse_state};
use super::selector_checks::{check_handler_and_source, check_selectors};
use super::setup::orphaned_queue_warnings;
use super::table::TableWriter;
use super::{ExitError, runtime_error, user_error};
use crate::clock;
use crate::config::LoadedConfig;
use crate::domain::JobState;
use crate::store::queries::{self, TailFilter, TailView};
use crate::store::{Store, stats};

/// How often `tail -f` checks for new rows.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

const HOUR_MS: i64 = 3_600_000;

/// The maximum number of rows of `list` without `--limit`.
const DEFAULT_LIMIT: i64 = 50;

/// Arguments of `tail`.
#[derive(Debug, Args)]
pub struct TailArgs {
    /// Print new rows as they are written
    #[arg(long, short)]
    follow: bool,
    /// Print rejected requests instead of outcomes
    #[arg(long)]
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
    /// Maximum number of rows. Default: 50
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(i64).range(1..))]
    limit: Option<i64>,
    /// List all rows, without a maximum
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Fails with exit code 2 if an option is given that does not apply to what a command prints.
fn check_options(command: &str, given: &[&str], applicable: &[&str]) -> Result<(), ExitError> {
    let wrong: Vec<&str> =
        given.iter().copied().filter(|option| !applicable.contains(option)).collect();
    let Some((last, others)) = applicable.split_last().filter(|_| !wrong.is_empty()) else {
        return Ok(());
    };
    let verb = if wrong.len() == 1 { "does" } else { "do" };
    let expected = match others {
        [] => (*last).to_owned(),
        others => format!("{} or {last}", others.join(", ")),
    };
    let text = format!("{command}: {} {verb} not apply: expected {expected}", wrong.join(" and "));
    Err(ExitError { code: 2, text })
}

/// Says on stderr that a list is empty. The empty output of `--json` needs no words.
fn report_empty(rows: &str, has_filter: bool) -> Result<(), ExitError> {
    let text = if has_filter { format!("no {rows} match") } else { format!("no {rows} yet") };
    writeln!(output::stderr(), "{text}").map_err(runtime_error)
}

/// Prints the last outcomes or rejections, and with `-f` new ones until a signal ends the command.
pub fn tail(store: &Store, args: &TailArgs) -> Result<(), ExitError> {
    let options = [
        ("--handler", args.handler.is_some()),
        ("--source", args.source.is_some()),
        ("--state", args.state.is_some()),
    ];
    let given = options.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name);
    let given: Vec<&str> = given.collect();
    if args.rejected {
        let applicable = ["--source", "--lines", "--follow", "--json"];
        check_options("tail --rejected", &given, &applicable)?;
    }
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
    let mut table = TableWriter::new();
    let mut print = |out: &mut _, rows: &_| match args.json {
        true => output::print(out, rows, true),
        false => table.print(out, rows),
    };
    print(&mut out, &rows).map_err(runtime_error)?;
    if rows.rows.is_empty() && args.lines > 0 && !args.json {
        let rows = if args.rejected { "rejections" } else { "outcomes" };
        report_empty(rows, !given.is_empty())?;
    }
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
        print(&mut out, &rows).map_err(runtime_error)?;
    }
}

/// Checks that the options apply to the rows that are listed.
fn check_list_options(args: &ListArgs) -> Result<(), ExitError> {
    let mut given = args.selectors.given();
    given.extend(args.limit.map(|_| "--limit"));
    given.extend(args.all.then_some("--all"));
    let (what, selectors) = if args.events {
        ("--events", &["--event", "--source", "--since", "--until"][..])
    } else if args.rejected {
        ("--rejected", &["--source", "--since", "--until", "--detail"][..])
    } else if args.handlers {
        ("--handlers", &[][..])
    } else if args.sources {
        ("--sources", &[][..])
    } else {
        return Ok(());
    };
    let has_limit = args.events || args.rejected;
    let limits = if has_limit { &["--limit", "--all"][..] } else { &[] };
    check_options(&format!("list {what}"), &given, &[selectors, limits, &["--json"]].concat())
}

/// Lists jobs, or the rows that an option such as `--events` names.
pub fn list(store: &Store, args: &ListArgs) -> Result<(), ExitError> {
    check_list_options(args)?;
    let mut errors = Vec::new();
    check_selectors(store, &args.selectors, &mut errors)?;
    if !errors.is_empty() {
        return Err(user_error(errors.join("\n")));
    }
    let conn = &store.conn;
    let selector = args.selectors.to_selector();
    let limit = if args.all { i64::MAX } else { args.limit.unwrap_or(DEFAULT_LIMIT) };
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
    if rows.rows.is_empty() && !args.json {
        let names = [
            (args.events, "events"),
            (args.rejected, "rejections"),
            (args.handlers, "handlers"),
            (args.sources, "sources"),
        ];
        let name =
            names.into_iter().find(|(is_listed, _)| *is_listed).map_or("jobs", |(_, name)| name);
        report_empty(name, !args.selectors.is_empty())?;
    }
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
