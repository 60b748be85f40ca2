//! `show`: prints one event with its request, its jobs, their attempts and outputs. An event with many jobs
//! gets a summary. For an idempotency key, it prints the job and the events that other machines know by the key.

use std::collections::HashMap;
use std::io::{BufWriter, IsTerminal, Write};

use clap::Args;
use serde_json::{Value as Json, json};

use super::event_origin::describe_origin;
use super::id_list::{IdList, parse_id, parse_id_list};
use super::output::{self, escape_line};
use super::selector_args::parse_state;
use super::selector_checks::{check_event, check_ranges, reject_if_any};
use super::{ExitError, table, usage_error, user_error};
use crate::clock;
use crate::domain::failure_reason::failure_pattern;
use crate::domain::idempotency_key::IdempotencyKey;
use crate::domain::job::PublicState;
use crate::domain::{Event, EventId, JobId};
use crate::numbers::{format_count, group_digits};
use crate::row_json::row_object;
use crate::store::event_jobs::{self, HandlerJobs, JobReason};
use crate::store::queries::{self, Rows, Selector};
use crate::store::{self, Store, Value, deferred, event_reads, key_lookup};

/// An event with more jobs gets a summary.
const MAX_JOBS_IN_FULL: i64 = 10;

/// The maximum number of rows of a table of jobs.
const MAX_ROWS: usize = 50;

/// The reasons of a state that a summary lists.
const MAX_REASONS: usize = 5;

/// The distinct reasons that a summary counts.
const MAX_GROUPS: usize = 10_000;

/// How many jobs are read at once.
const JOBS_PER_READ: usize = 500;

/// How many attempts are read at once. Each may have 128 KiB of output, or more by `max_output_size`.
const ATTEMPTS_PER_READ: i64 = 10;

/// How many events with one origin key are printed as text.
const MAX_EVENTS_OF_KEY: i64 = 10;

/// How many events with one origin key are read at once.
const EVENTS_PER_READ: i64 = 500;

/// What an argument of `show` names.
#[derive(Clone, Debug)]
enum ShowTarget {
    Events(IdList),
    Key(String),
}

/// Parses numbers of events. Any other text is a key.
fn parse_target(text: &str) -> Result<ShowTarget, String> {
    let is_number = |c: char| c.is_ascii_digit() || matches!(c, ',' | '-' | '–' | ' ');
    match text.trim() {
        trimmed if trimmed.chars().all(is_number) => parse_id_list(text).map(ShowTarget::Events),
        trimmed => Ok(ShowTarget::Key(trimmed.to_owned())),
    }
}

/// Arguments of `show`.
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    /// Numbers of the events, such as 12, 4,5 or 4-6. Or an idempotency key: prints the job that has it, and the events
    /// that other machines know by it
    #[arg(required = true, value_name = "EVENT|KEY", value_parser = parse_target, allow_negative_numbers = true)]
    targets: Vec<ShowTarget>,
    /// The event that is printed now.
    #[arg(skip)]
    event: i64,
    /// Print only this job, with all of its attempts and outputs
    #[arg(long, value_name = "JOB", value_parser = parse_id, allow_negative_numbers = true)]
    job: Option<i64>,
    /// Print only the jobs in this state: queued, running, succeeded, dead or cancelled
    #[arg(long, value_name = "STATE", value_parser = parse_state, conflicts_with = "job")]
    state: Option<PublicState>,
    /// Print only the bytes of the body. With --job: of the job's item
    #[arg(long, conflicts_with = "state")]
    body: bool,
    /// Print one JSON object with all jobs and attempts
    #[arg(long, conflicts_with = "body")]
    json: bool,
}

/// How much of an event is printed. A pipe or a file gets everything.
#[derive(Clone, Copy)]
struct Limits {
    body_bytes: usize,
    body_lines: usize,
    output_bytes: usize,
    output_lines: usize,
    /// Attempts of each job.
    attempts: i64,
}

impl Limits {
    const NONE: Self = Self {
        body_bytes: usize::MAX,
        body_lines: usize::MAX,
        output_bytes: usize::MAX,
        output_lines: usize::MAX,
        attempts: i64::MAX,
    };

    const TERMINAL: Self = Self {
        body_bytes: 4000,
        body_lines: 50,
        output_bytes: 2000,
        output_lines: 20,
        attempts: 5,
    };
}

/// Prints events with their jobs and attempts.
pub fn show(store: &Store, args: &ShowArgs) -> Result<(), ExitError> {
    let (mut events, mut keys) = (Vec::new(), Vec::new());
    for target in &args.targets {
        match target {
            ShowTarget::Events(list) => events.push(list.clone()),
            ShowTarget::Key(key) => keys.push(key.as_str()),
        }
    }
    let is_one = IdList::singles(&events).count() == 1
        && IdList::given_ranges(&events).next().is_none()
        && keys.is_empty();
    if !is_one && (args.job.is_some() || args.body) {
        return Err(usage_error(
            "show: --job and --body print a part of one event: expected one number",
        ));
    }
    if !keys.is_empty() && args.state.is_some() {
        return Err(usage_error("show: a key names one job: leave out --state"));
    }
    let mut errors = Vec::new();
    for event in IdList::singles(&events) {
        errors.extend(check_event(store, event)?);
    }
    check_ranges(store, &events, "event", &mut errors)?;
    let keys = find_keys(store, &keys, &mut errors)?;
    reject_if_any(errors)?;
    let mut out = BufWriter::new(output::stdout());
    let mut shown = 0;
    for range in IdList::to_ranges(&events).iter() {
        let mut rest = range;
        while let Some(event) =
            queries::find_event_between(&store.conn, *rest.start(), *rest.end())?
        {
            show_event(&mut out, store, &ShowArgs { event, ..args.clone() }, shown > 0)?;
            shown += 1;
            rest = event + 1..=*rest.end();
        }
    }
    for found in keys {
        show_key(&mut out, store, args, &found, &mut shown)?;
    }
    Ok(out.flush()?)
}

/// What was found for a key.
struct FoundKey<'a> {
    key: &'a str,
    /// The job whose idempotency key it is, and its event.
    job: Option<(EventId, JobId)>,
    /// The number of events that other machines know by it.
    origin_count: i64,
}

/// Looks keys up. Adds an error for each unknown one.
fn find_keys<'a>(
    store: &Store,
    keys: &[&'a str],
    errors: &mut Vec<String>,
) -> anyhow::Result<Vec<FoundKey<'a>>> {
    let mut found = Vec::new();
    for key in keys {
        let parsed = IdempotencyKey::parse(key);
        let job = parsed.map(|parsed| key_lookup::find_job(&store.conn, &parsed)).transpose()?;
        let origin_count = key_lookup::count_events_by_origin(&store.conn, key)?;
        match job.flatten() {
            None if origin_count == 0 => errors.push(format!(
                "{}: no job or event has this key; expected the number of an event such as 12, or a key of a job such \
                 as AZrX-wAAcACAAAAAAAAAAA-crm-0-0, as HOOKTRAIL_IDEMPOTENCY_KEY has it",
                escape_line(key)
            )),
            job => found.push(FoundKey { key, job, origin_count }),
        }
    }
    Ok(found)
}

/// Prints the job of a key, and then the events that other machines know by it, oldest first.
fn show_key(
    out: &mut impl Write,
    store: &Store,
    args: &ShowArgs,
    found: &FoundKey<'_>,
    shown: &mut usize,
) -> Result<(), ExitError> {
    let mut print = |out: &mut _, event: EventId, job: Option<JobId>| {
        let job = job.map(|job| job.0);
        show_event(out, store, &ShowArgs { event: event.0, job, ..args.clone() }, *shown > 0)?;
        *shown += 1;
        Ok::<(), ExitError>(())
    };
    if let Some((event, job)) = found.job {
        print(out, event, Some(job))?;
    }
    let limit = if args.json { i64::MAX } else { MAX_EVENTS_OF_KEY };
    let (mut last, mut rest) = (EventId(0), found.origin_count.min(limit));
    while rest > 0 {
        let events = key_lookup::list_events_by_origin(
            &store.conn,
            found.key,
            last,
            rest.min(EVENTS_PER_READ),
        )?;
        let Some(newest) = events.last() else { break };
        last = *newest;
        rest -= i64::try_from(events.len()).unwrap_or(rest);
        for event in events {
            print(out, event, None)?;
        }
    }
    if found.origin_count > limit {
        let more = format_count(found.origin_count - limit, "more event");
        writeln!(out, "\n{more} with this key: `hooktrail show KEY --json` prints all")?;
    }
    Ok(())
}

fn show_event(
    out: &mut impl Write,
    store: &Store,
    args: &ShowArgs,
    has_predecessor: bool,
) -> Result<(), ExitError> {
    if let Some(job) = args.job {
        check_job(store, EventId(args.event), job)?;
    }
    let printed = match args {
        ShowArgs { body: true, .. } => print_body(out, store, args),
        ShowArgs { json: true, .. } => print_json(out, store, args),
        _ if has_predecessor => {
            writeln!(out).map_err(Into::into).and_then(|()| print_text(out, store, args))
        }
        _ => print_text(out, store, args),
    };
    Ok(printed?)
}

/// Checks that a job exists and belongs to the event.
fn check_job(store: &Store, event: EventId, job: i64) -> Result<(), ExitError> {
    match queries::find_event_of_job(&store.conn, job)? {
        Some(owner) if owner == event.0 => Ok(()),
        Some(owner) => Err(user_error(format!(
            "job {job}: it belongs to event {owner}: `hooktrail show {owner} --job {job}`"
        ))),
        None => Err(user_error(format!("job {job}: there is no such job"))),
    }
}

/// Prints the bytes of the body, or of the item of the job that is named.
fn print_body(out: &mut impl Write, store: &Store, args: &ShowArgs) -> anyhow::Result<()> {
    let item = args.job.map(|job| event_jobs::load_item_start(&store.conn, JobId(job), usize::MAX));
    if let Some((_, item)) = item.transpose()?.flatten() {
        return Ok(out.write_all(&item)?);
    }
    let event = event_reads::load_event(&store.conn, EventId(args.event))?;
    if let Some(error) = event.obstacle() {
        anyhow::bail!(error);
    }
    Ok(out.write_all(&event.body)?)
}

/// Returns the numbers of the event's jobs that the arguments name, the lowest first.
fn select_jobs(store: &Store, args: &ShowArgs) -> store::Result<Vec<JobId>> {
    if let Some(job) = args.job {
        return Ok(vec![JobId(job)]);
    }
    event_jobs::list_jobs(&store.conn, EventId(args.event), args.state)
}

/// Loads jobs as `list` has them, the lowest number first.
fn load_jobs(store: &Store, jobs: &[JobId]) -> store::Result<Rows> {
    let jobs: Vec<i64> = jobs.iter().map(|job| job.0).collect();
    if jobs.is_empty() {
        return Ok(Rows::default());
    }
    let selector = Selector { jobs, ..Selector::default() };
    let mut rows = queries::list_jobs(&store.conn, &selector, i64::MAX, store.clock.to_wall_ms(0))?;
    rows.rows.reverse();
    Ok(rows)
}

/// Calls `visit` for each attempt of a job after the attempt `after`, with its outputs. It reads a few at a
/// time, and no read lasts while `visit` writes: a pager that waits does not hold back the checkpoint.
fn for_each_attempt(
    store: &Store,
    job: JobId,
    mut after: i64,
    mut visit: impl FnMut(&[String], &[Value]) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    loop {
        let rows = event_jobs::load_attempts(&store.conn, job, after, ATTEMPTS_PER_READ)?;
        for row in &rows.rows {
            visit(&rows.columns, row)?;
            if let Value::Integer(attempt) = row[1] {
                after = attempt;
            }
        }
        if i64::try_from(rows.rows.len())? < ATTEMPTS_PER_READ {
            return Ok(());
        }
    }
}

/// Prints one object, piece by piece, because the jobs and outputs of an event can be larger than memory.
fn print_json(out: &mut impl Write, store: &Store, args: &ShowArgs) -> anyhow::Result<()> {
    let event = event_reads::load_event(&store.conn, EventId(args.event))?;
    let jobs = select_jobs(store, args)?;
    let fields = output::json_line(&event_fields(&event));
    write!(out, "{},\"jobs\":[", fields.strip_suffix('}').unwrap_or(&fields))?;
    let mut separator = "";
    for part in jobs.chunks(JOBS_PER_READ) {
        let rows = load_jobs(store, part)?;
        for row in &rows.rows {
            let object = Json::Object(row_object(&rows.columns, row));
            write!(out, "{separator}{}", output::json_line(&object))?;
            separator = ",";
        }
    }
    write!(out, "],\"attempts\":[")?;
    separator = "";
    for job in jobs {
        for_each_attempt(store, job, 0, |columns, row| {
            let object = Json::Object(row_object(columns, row));
            write!(out, "{separator}{}", output::json_line(&object))?;
            separator = ",";
            Ok(())
        })?;
    }
    Ok(writeln!(out, "]}}")?)
}

/// The fields of an event without its jobs and attempts.
fn event_fields(event: &Event) -> Json {
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
        "client": event.client,
        "origin_key": event.origin_key,
        "bytes": event.body_bytes(),
        "headers": headers,
        "body": std::str::from_utf8(&event.body).ok().filter(|_| event.removed_bytes.is_none()),
        "body_removed": event.removed_bytes.is_some(),
        "note": event.expression_errors,
    })
}

fn print_text(out: &mut impl Write, store: &Store, args: &ShowArgs) -> anyhow::Result<()> {
    let is_terminal = output::raw_stdout().is_terminal();
    let limits = if is_terminal { Limits::TERMINAL } else { Limits::NONE };
    let event = event_reads::load_event(&store.conn, EventId(args.event))?;
    print_event_line(out, &event)?;
    let count_jobs =
        || event_jobs::count_by_handler(&store.conn, event.id, store.clock.to_wall_ms(0));
    if args.job.is_some() {
        let jobs = select_jobs(store, args)?;
        let waiting = print_job_fields(out, &load_jobs(store, &jobs)?)?;
        for &job in &jobs {
            let (handler, item, replay) = event_jobs::load_key_parts(&store.conn, job)?;
            let key = IdempotencyKey { uid: event.uid, handler: &handler, item, replay };
            writeln!(out, "key: {key}")?;
        }
        print_attempts(out, store, &event, &jobs, Limits::NONE)?;
        if let Some(handler) = waiting {
            let handlers = count_jobs()?;
            let of_job = handlers.iter().filter(|jobs| jobs.handler == handler);
            print_waiting_handlers(out, of_job)?;
        }
        return Ok(());
    }
    let handlers = count_jobs()?;
    if args.state.is_none() {
        print_request(out, &event, limits)?;
    }
    writeln!(out)?;
    let total: i64 = handlers.iter().map(|jobs| jobs.count(args.state)).sum();
    let command = format!("hooktrail show {}", event.id);
    match total {
        0 => writeln!(out, "{}", describe_missing_jobs(store, &event, args.state, &handlers)?)?,
        total if total > MAX_JOBS_IN_FULL && args.state.is_none() => {
            print_summary(out, store, &event, &handlers)?;
        }
        total if total > MAX_JOBS_IN_FULL => {
            let jobs = select_jobs(store, args)?;
            let rows = load_jobs(store, &jobs[..jobs.len().min(MAX_ROWS)])?;
            table::print(out, &without_event(rows.clone()))?;
            let name = args.state.map(PublicState::name).unwrap_or_default();
            if let Some(shown) = Some(rows.rows.len()).filter(|shown| *shown < jobs.len()) {
                writeln!(
                    out,
                    "{shown} of {} (`hooktrail list --event {} --state {name} --all` prints all)",
                    group_digits(total.unsigned_abs()),
                    event.id
                )?;
            }
            writeln!(out, "\n`{command} --job JOB` prints a job with its attempts and outputs")?;
        }
        _ => {
            let jobs = select_jobs(store, args)?;
            table::print(out, &without_event(load_jobs(store, &jobs)?))?;
            print_attempts(out, store, &event, &jobs, limits)?;
        }
    }
    if matches!(args.state, None | Some(PublicState::Queued)) {
        print_waiting_handlers(out, handlers.iter())?;
    }
    Ok(())
}

/// Removes the columns that are the same for all jobs of an event.
fn without_event(mut rows: Rows) -> Rows {
    for name in ["event", "source"] {
        if let Some(index) = rows.columns.iter().position(|column| column == name) {
            rows.columns.remove(index);
            rows.rows.iter_mut().for_each(|row| drop(row.remove(index)));
        }
    }
    rows
}

/// Prints the fields of a job, one on each line. Returns the job's handler if the job is queued.
fn print_job_fields(out: &mut impl Write, rows: &Rows) -> std::io::Result<Option<String>> {
    let Some(row) = rows.rows.first() else { return Ok(None) };
    let (mut handler, mut is_queued) = (None, false);
    writeln!(out)?;
    for (name, value) in rows.columns.iter().zip(row) {
        match (name.as_str(), value) {
            (_, Value::Null) | ("event" | "source", _) => continue,
            ("handler", Value::Text(name)) => handler = Some(name.clone()),
            ("state", Value::Text(name)) => is_queued = name == PublicState::Queued.name(),
            _ => {}
        }
        writeln!(out, "{name:10}{}", table::format_field(name, value))?;
    }
    Ok(handler.filter(|_| is_queued))
}

/// Says why there is no job to print.
fn describe_missing_jobs(
    store: &Store,
    event: &Event,
    state: Option<PublicState>,
    handlers: &[HandlerJobs],
) -> anyhow::Result<String> {
    let all: i64 = handlers.iter().map(|jobs| jobs.count(None)).sum();
    Ok(match state {
        _ if deferred::is_deferred(&store.conn, event.id)? => {
            "the event is deferred: its expressions are evaluated soon, and its jobs do not exist yet"
                .to_owned()
        }
        Some(state) if all > 0 => {
            format!("none of its {} is {}", format_count(all, "job"), state.name())
        }
        _ => "no jobs: no handler wanted the event".to_owned(),
    })
}

fn print_event_line(out: &mut impl Write, event: &Event) -> std::io::Result<()> {
    let at = clock::format_local(event.received_at_ms);
    let ip = if event.ip.is_empty() { "an unknown address" } else { &event.ip };
    writeln!(out, "event {} of {} from {ip} at {at}", event.id, event.source)?;
    if let Some(client) = &event.client {
        writeln!(out, "client certificate: {}", escape_line(client))?;
    }
    describe_origin(event).into_iter().try_for_each(|line| writeln!(out, "{line}"))
}

fn print_request(out: &mut impl Write, event: &Event, limits: Limits) -> std::io::Result<()> {
    let query = event.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    writeln!(out, "\n{} {}{}", event.method, escape_line(&event.path), escape_line(&query))?;
    for (name, value) in &event.headers.0 {
        writeln!(out, "{name}: {}", escape_line(&String::from_utf8_lossy(value)))?;
    }
    writeln!(out)?;
    let command = format!("hooktrail show {} --body", event.id);
    let total = event.body.len();
    match std::str::from_utf8(&event.body) {
        Ok("") if event.removed_bytes.is_some() => {
            let removed = group_bytes(event.body_bytes());
            writeln!(out, "(the headers and the body of {removed} bytes were removed)")?;
        }
        Ok("") => writeln!(out, "(no body)")?,
        Ok(text) => {
            let start = first_lines(text, limits.body_bytes, limits.body_lines);
            for line in start.lines() {
                writeln!(out, "{}", escape_line(line))?;
            }
            if start.len() < total {
                let (start, total) = (group_bytes(start.len()), group_bytes(total));
                writeln!(out, "… ({start} of {total} bytes: `{command}` prints all)")?;
            }
        }
        Err(_) => {
            let total = group_bytes(total);
            writeln!(out, "({total} bytes that are not UTF-8: `{command}` prints them)")?;
        }
    }
    if let Some(errors) = &event.expression_errors {
        writeln!(out, "\nnote: {}", escape_line(errors))?;
    }
    Ok(())
}

/// Prints the item of each job, its attempts and their outputs.
fn print_attempts(
    out: &mut impl Write,
    store: &Store,
    event: &Event,
    jobs: &[JobId],
    limits: Limits,
) -> anyhow::Result<()> {
    for &job in jobs {
        // One byte more shows that there is more.
        let max_bytes = limits.body_bytes.saturating_add(1);
        let item = event_jobs::load_item_start(&store.conn, job, max_bytes)?;
        if let Some((number, item)) = item {
            let text = String::from_utf8_lossy(&item);
            let start = first_lines(&text, limits.body_bytes, limits.body_lines);
            let is_cut = start.len() < text.len();
            let start: Vec<_> = start.lines().map(escape_line).collect();
            write!(out, "\nitem {number} (job {job}): {}", start.join("\n"))?;
            match is_cut {
                true => writeln!(out, "… (`hooktrail show {} --job {job}` prints all)", event.id)?,
                false => writeln!(out)?,
            }
        }
        let count = event_jobs::count_attempts(&store.conn, job)?;
        let skipped = count.saturating_sub(limits.attempts).max(0);
        if skipped > 0 {
            let skipped_attempts = format_count(skipped, "earlier attempt");
            writeln!(
                out,
                "\njob {job}: {skipped_attempts}: `hooktrail show {} --job {job}` prints them",
                event.id
            )?;
        }
        // Attempts are numbered from 1 without gaps.
        for_each_attempt(store, job, skipped, |_, row| print_attempt(out, row, event.id, limits))?;
    }
    Ok(())
}

fn print_attempt(
    out: &mut impl Write,
    row: &[Value],
    event: EventId,
    limits: Limits,
) -> std::io::Result<()> {
    let [job, attempt, outcome, at, detail, duration_ms, next_at, stdout, stderr] = row else {
        return Ok(());
    };
    let text = output::format_cell;
    writeln!(
        out,
        "\njob {} attempt {}: {} at {} after {} ms: {}",
        text(job),
        text(attempt),
        text(outcome),
        table::format_field("at", at),
        text(duration_ms),
        text(detail)
    )?;
    if let Value::Text(_) = next_at {
        writeln!(out, "  next attempt at {}", table::format_field("next_at", next_at))?;
    }
    for (name, bytes) in [("stdout", stdout), ("stderr", stderr)] {
        if let Value::Blob(bytes) = bytes {
            writeln!(out, "  {name}:")?;
            let output = String::from_utf8_lossy(bytes);
            let end = last_lines(&output, limits.output_bytes, limits.output_lines);
            if end.len() < output.len() {
                let (end, total) = (group_bytes(end.len()), group_bytes(output.len()));
                let command = format!("hooktrail show {event} --job {}", text(job));
                writeln!(out, "    … (the last {end} of {total} bytes: `{command}` prints all)")?;
            }
            for line in end.lines() {
                writeln!(out, "    {}", escape_line(line))?;
            }
        }
    }
    Ok(())
}

/// Prints how many jobs each handler has in each state, and the most common reasons.
fn print_summary(
    out: &mut impl Write,
    store: &Store,
    event: &Event,
    handlers: &[HandlerJobs],
) -> anyhow::Result<()> {
    let names = ["handler", "jobs"].into_iter().chain(PublicState::ALL.map(PublicState::name));
    let counts = handlers.iter().map(|jobs| {
        let mut row = vec![Value::Text(jobs.handler.clone()), Value::Integer(jobs.count(None))];
        row.extend(jobs.counts.map(Value::Integer));
        row
    });
    let counts = Rows { columns: names.map(str::to_owned).collect(), rows: counts.collect() };
    table::print(out, &counts)?;
    let mut reasons = Reasons::default();
    event_jobs::for_each_reason(&store.conn, event.id, store.clock.to_wall_ms(0), |reason| {
        reasons.add(reason)
    })?;
    let (rows, others) = reasons.most_common();
    if !rows.rows.is_empty() {
        writeln!(out)?;
        table::print(out, &rows)?;
    }
    if others > 0 {
        writeln!(out, "and {} jobs with other reasons", group_digits(others.unsigned_abs()))?;
    }
    let example = match &rows.rows.first().map(|row| &row[3]) {
        Some(Value::Integer(job)) => *job,
        _ => select_first_job(store, event)?,
    };
    let latest = PublicState::ALL.into_iter().rev().find(|state| {
        *state != PublicState::Cancelled && handlers.iter().any(|jobs| jobs.count(Some(*state)) > 0)
    });
    let latest = latest.unwrap_or(PublicState::Cancelled).name();
    writeln!(
        out,
        "\n`hooktrail show {id} --job {example}` prints a job with its attempts and outputs,\n\
         `hooktrail show {id} --state {latest}` the jobs in a state",
        id = event.id
    )?;
    Ok(())
}

fn select_first_job(store: &Store, event: &Event) -> anyhow::Result<i64> {
    let jobs = event_jobs::list_jobs(&store.conn, event.id, None)?;
    Ok(jobs.first().map_or(0, |job| job.0))
}

/// Counts the reasons of jobs.
#[derive(Default)]
struct Reasons {
    /// By state, handler and pattern: the number of jobs, and the first of them.
    groups: HashMap<(String, String, String), (i64, JobReason)>,
    /// Jobs whose reason was not counted, because there were too many distinct reasons.
    uncounted: i64,
}

impl Reasons {
    fn add(&mut self, reason: JobReason) {
        let pattern = failure_pattern(&reason.reason);
        let key = (reason.state.clone(), reason.handler.clone(), pattern);
        let has_room = self.groups.len() < MAX_GROUPS;
        match self.groups.get_mut(&key) {
            Some((count, _)) => *count += 1,
            None if has_room => drop(self.groups.insert(key, (1, reason))),
            None => self.uncounted += 1,
        }
    }

    /// Returns the most common reasons of each state, dead jobs first, and the number of jobs with others.
    fn most_common(self) -> (Rows, i64) {
        let mut others = self.uncounted;
        let mut groups: Vec<(i64, JobReason)> = self.groups.into_values().collect();
        groups.sort_by_key(|(count, reason)| (-count, reason.job));
        let columns = ["state", "handler", "jobs", "example", "reason"].map(str::to_owned);
        let mut rows = Rows { columns: columns.to_vec(), rows: Vec::new() };
        for name in
            [PublicState::Dead, PublicState::Queued, PublicState::Cancelled].map(PublicState::name)
        {
            let matching = groups.iter().filter(|(_, reason)| name == reason.state);
            for (index, (count, reason)) in matching.enumerate() {
                if index >= MAX_REASONS {
                    others += count;
                    continue;
                }
                rows.rows.push(vec![
                    Value::Text(reason.state.clone()),
                    Value::Text(reason.handler.clone()),
                    Value::Integer(*count),
                    Value::Integer(reason.job),
                    Value::Text(reason.reason.clone()),
                ]);
            }
        }
        (rows, others)
    }
}

/// Says which handlers with queued jobs of the event start no jobs now.
fn print_waiting_handlers<'a>(
    out: &mut impl Write,
    handlers: impl Iterator<Item = &'a HandlerJobs>,
) -> std::io::Result<()> {
    let mut separator = "\n";
    for jobs in handlers.filter(|jobs| jobs.count(Some(PublicState::Queued)) > 0) {
        let name = &jobs.handler;
        if let Some(until_ms) = jobs.breaker_open_until_ms {
            let until = clock::format_local(until_ms);
            writeln!(out, "{separator}handler {name}: the circuit breaker is open until {until}")?;
            separator = "";
        }
        if jobs.is_paused {
            writeln!(
                out,
                "{separator}handler {name}: paused: `hooktrail resume {name}` resumes it"
            )?;
            separator = "";
        }
    }
    Ok(())
}

fn group_bytes(bytes: usize) -> String {
    group_digits(u64::try_from(bytes).unwrap_or(u64::MAX))
}

/// The start of a text, within a number of bytes and lines.
fn first_lines(text: &str, max_bytes: usize, max_lines: usize) -> &str {
    let text = &text[..text.floor_char_boundary(max_bytes)];
    let end = text.match_indices('\n').nth(max_lines.saturating_sub(1)).map(|(at, _)| at + 1);
    &text[..end.unwrap_or(text.len())]
}

/// The end of a text, within a number of bytes and lines.
fn last_lines(text: &str, max_bytes: usize, max_lines: usize) -> &str {
    let start = text.ceil_char_boundary(text.len().saturating_sub(max_bytes));
    let text = &text[start..];
    let body = text.strip_suffix('\n').unwrap_or(text);
    let cut = body.rmatch_indices('\n').nth(max_lines.saturating_sub(1)).map(|(at, _)| at + 1);
    &text[cut.unwrap_or(0)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_at_a_character_or_a_line() {
        assert_eq!(first_lines("ab\ncd\n", usize::MAX, usize::MAX), "ab\ncd\n");
        assert_eq!(first_lines("ab\ncd\nef\n", 100, 2), "ab\ncd\n");
        assert_eq!(first_lines("連絡", 4, 2), "連");
        assert_eq!(last_lines("ab\ncd\n", usize::MAX, usize::MAX), "ab\ncd\n");
        assert_eq!(last_lines("ab\ncd\nef\n", 100, 2), "cd\nef\n");
        assert_eq!(last_lines("連絡", 4, 2), "絡");
    }
}
