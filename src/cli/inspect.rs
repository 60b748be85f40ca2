//! `tail`, `list`, `stats`: they read the database and print tables, or JSON with `--json`.

use std::collections::HashMap;
use std::io::{BufWriter, IsTerminal, Write};
use std::time::Duration;

use clap::Args;

use super::id_list::parse_id;
use super::output;
use super::selector_args::{SelectorArgs, parse_state};
use super::selector_checks::{check_handler_and_source, check_selectors, reject_if_any};
use super::table::{self, TableWriter};
use super::tail_job::tail_job;
use super::{ExitError, usage_error};
use crate::clock;
use crate::config::LoadedConfig;
use crate::domain::job::PublicState;
use crate::numbers::group_digits;
use crate::problems::orphaned_queue_warnings;
use crate::store::queries::{self, Rows, Selector};
use crate::store::search::{self, SearchEnd, SearchResult, TailView, Total};
use crate::store::{self, Store, Value, stats};

/// How often `tail -f` checks for new rows.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

/// The maximum number of rows of `list` without `--limit`.
const DEFAULT_LIMIT: i64 = 50;

/// Arguments of `tail`.
#[derive(Debug, Args)]
pub struct TailArgs {
    /// Print what this job has written, instead of outcomes
    #[arg(value_name = "JOB", value_parser = parse_id, allow_negative_numbers = true,
          conflicts_with_all = ["rejected", "lines", "handler", "source", "state", "json"])]
    job: Option<i64>,
    /// Print new rows as they are written. With JOB: what its attempts write, until it has ended
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
    state: Option<PublicState>,
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
    let wrong = wrong.join(" and ");
    Err(usage_error(format!("{command}: {wrong} {verb} not apply: expected {expected}")))
}

/// Says on stderr that a list is empty. The empty output of `--json` needs no words.
fn report_empty(rows: &str, has_filter: bool) -> Result<(), ExitError> {
    let text = if has_filter { format!("no {rows} match") } else { format!("no {rows} yet") };
    Ok(writeln!(output::stderr(), "{text}")?)
}

/// Prints the last outcomes or rejections, and with `-f` new ones until a signal ends the command.
pub fn tail(loaded: &LoadedConfig, store: &Store, args: &TailArgs) -> Result<(), ExitError> {
    if let Some(job) = args.job {
        return tail_job(loaded, store, job, args.follow);
    }
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
    reject_if_any(errors)?;
    let filter = Selector {
        handler: args.handler.clone(),
        source: args.source.clone(),
        state: args.state,
        ..Selector::default()
    };
    let mut out = output::stdout();
    let mut version = queries::data_version(conn)?;
    let (mut found, mut last) = search::read_tail(conn, view, &filter, 0, args.lines)?;
    let mut table = TableWriter::new();
    let mut print = |out: &mut _, rows: &_| match args.json {
        true => output::print_json(out, rows),
        false => table.print(out, rows),
    };
    print(&mut out, &found.rows)?;
    if let Some(end) = found.end {
        print_search_end("outcome", end, "`hooktrail list` finds older jobs")?;
    } else if found.rows.rows.is_empty() && args.lines > 0 && !args.json {
        let rows = if args.rejected { "rejections" } else { "outcomes" };
        report_empty(rows, !given.is_empty())?;
    }
    loop {
        if !args.follow {
            return Ok(());
        }
        out.flush()?;
        loop {
            std::thread::sleep(FOLLOW_INTERVAL);
            let now = queries::data_version(conn)?;
            if std::mem::replace(&mut version, now) != now {
                break;
            }
        }
        (found, last) = search::read_tail(conn, view, &filter, last, i64::MAX)?;
        print(&mut out, &found.rows)?;
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
    reject_if_any(errors)?;
    let conn = &store.conn;
    let selector = args.selectors.to_selector();
    let limit = if args.all { i64::MAX } else { args.limit.unwrap_or(DEFAULT_LIMIT) };
    let found = if args.events {
        find_events(store, &selector, limit)
    } else if args.rejected {
        find_rejections(store, &selector, limit)
    } else if args.handlers {
        stats::load_handler_stats(conn, store.clock).map(SearchResult::complete)
    } else if args.sources {
        stats::load_source_stats(conn, store.clock).map(SearchResult::complete)
    } else {
        find_jobs(store, &selector, limit)
    };
    let found = found?;
    let mut out = BufWriter::new(output::stdout());
    table::print_rows(&mut out, &found.rows, args.json)?;
    if found.rows.rows.is_empty() && found.end.is_none() && !args.json {
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
    let shown = i64::try_from(found.rows.rows.len()).unwrap_or(i64::MAX);
    let total = match found.total {
        Some(Total::Exact(total)) if total > shown => Some(group_digits(total.unsigned_abs())),
        Some(Total::AtLeast(total)) => {
            let total = round_down(total).max(shown);
            Some(format!("at least {}", group_digits(total.unsigned_abs())))
        }
        _ => None,
    };
    if let Some(total) = total.filter(|_| !args.json) {
        writeln!(out, "{shown} of {total} (--limit COUNT or --all prints more)")?;
    }
    out.flush()?;
    match found.end {
        Some(end) => {
            let row = if args.events { "event" } else { "job" };
            print_search_end(row, end, "--all searches all")
        }
        None => Ok(()),
    }
}

/// Finds jobs. Those of one event, and a list without a maximum, are read without the limit of a search.
fn find_jobs(store: &Store, selector: &Selector, limit: i64) -> store::Result<SearchResult> {
    let (conn, to_wall_ms) = (&store.conn, store.clock.to_wall_ms(0));
    if selector.event.is_none() && limit < i64::MAX {
        return search::search_jobs(conn, selector, limit, to_wall_ms, None);
    }
    let rows = queries::list_jobs(conn, selector, limit, to_wall_ms)?;
    let mut found = SearchResult::complete(rows);
    if limit < i64::MAX {
        found.total = Some(Total::Exact(queries::count_jobs(conn, selector)?));
    }
    Ok(found)
}

/// Finds events. A list without a maximum is read without the limit of a search.
fn find_events(store: &Store, selector: &Selector, limit: i64) -> store::Result<SearchResult> {
    if selector.event.is_none() && limit < i64::MAX {
        return search::search_events(&store.conn, selector, limit, None);
    }
    queries::list_events(&store.conn, selector, limit).map(SearchResult::complete)
}

fn find_rejections(store: &Store, selector: &Selector, limit: i64) -> store::Result<SearchResult> {
    let rows = queries::list_rejections(&store.conn, selector, limit)?;
    let total = Total::Exact(queries::count_rejections(&store.conn, selector)?);
    Ok(SearchResult { total: Some(total), ..SearchResult::complete(rows) })
}

/// Prints how far back a search has read, also with `--json`.
fn print_search_end(row: &str, end: SearchEnd, remedy: &str) -> Result<(), ExitError> {
    let at = end.at_ms.map(|at_ms| format!(" ({})", clock::format_local(at_ms)));
    let (id, at) = (group_digits(end.id.unsigned_abs()), at.unwrap_or_default());
    Ok(writeln!(output::stderr(), "searched back to {row} {id}{at}: {remedy}")?)
}

/// Rounds down to two digits. A number that depends on the speed of the machine should not look exact.
fn round_down(number: i64) -> i64 {
    let mut unit = 1;
    while number / unit >= 100 {
        unit *= 10;
    }
    number / unit * unit
}

/// Arguments of `stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Print them again each second, until a signal ends the command
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// How often `stats --watch` reads the numbers.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Moves the cursor of a terminal to its first line, and clears what follows
/// (<https://www.xfree86.org/current/ctlseqs.html>).
const CLEAR_TERMINAL: &str = "\x1b[H\x1b[J";

/// Prints queue depths, rates and ages of each handler and source.
pub fn stats(store: &Store, loaded: &LoadedConfig, args: &StatsArgs) -> Result<(), ExitError> {
    if !args.watch {
        return print_stats(&mut output::stdout(), store, loaded, args.json);
    }
    let is_terminal = output::raw_stdout().is_terminal();
    loop {
        // The whole page is written at once, so that it does not flicker.
        let mut page = Vec::new();
        writeln!(page, "{}\n", clock::format_local(clock::wall_ms()))?;
        print_stats(&mut page, store, loaded, false)?;
        if is_terminal {
            write!(output::raw_stdout(), "{CLEAR_TERMINAL}")?;
        }
        let mut out = output::stdout();
        out.write_all(&page)?;
        if !is_terminal {
            writeln!(out)?;
        }
        out.flush()?;
        std::thread::sleep(WATCH_INTERVAL);
    }
}

fn print_stats(
    out: &mut impl Write,
    store: &Store,
    loaded: &LoadedConfig,
    json: bool,
) -> Result<(), ExitError> {
    let mut handlers = stats::load_handler_stats(&store.conn, store.clock)?;
    let sources = stats::load_source_stats(&store.conn, store.clock)?;
    // Jobs of a removed handler stay queued, and this output should show that.
    handlers.columns.push("configured".to_owned());
    for row in &mut handlers.rows {
        let is_configured = matches!(&row[0], Value::Text(name)
            if loaded.config.handlers.iter().any(|handler| handler.name == *name));
        row.push(Value::Integer(i64::from(is_configured)));
    }
    let mut out = BufWriter::new(out);
    table::print_rows(&mut out, &handlers, json)?;
    if !json {
        writeln!(out)?;
    }
    table::print_rows(&mut out, &sources, json)?;
    if !json {
        let queued = queued_by_handler(&handlers);
        let warnings = orphaned_queue_warnings(&queued, &loaded.config);
        for (index, line) in warnings.iter().enumerate() {
            let space = if index == 0 { "\n" } else { "" };
            writeln!(out, "{space}warning: {line}")?;
        }
    }
    Ok(out.flush()?)
}

/// Returns how many jobs are queued for each handler, from the statistics of the handlers.
fn queued_by_handler(handlers: &Rows) -> HashMap<String, i64> {
    let column = handlers.columns.iter().position(|name| name == "queued");
    let queued = |row: &Vec<Value>| match (row.first(), column.and_then(|at| row.get(at))) {
        (Some(Value::Text(name)), Some(Value::Integer(jobs))) if *jobs > 0 => {
            Some((name.clone(), *jobs))
        }
        _ => None,
    };
    handlers.rows.iter().filter_map(queued).collect()
}
