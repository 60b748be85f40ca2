//! `replay`: creates new jobs with new keys from stored events, also for handlers that are newer than the
//! events. It writes to the database directly, with or without a running server.

use std::io::{BufWriter, Write};
use std::ops::ControlFlow;

use clap::Args;
use serde_json::json;

use super::audit::audit_entry;
use super::id_list::{IdList, parse_id_list};
use super::jobs::{confirm, describe_selection};
use super::progress::{Interruption, ProgressLine};
use super::selector_args::SelectorArgs;
use super::selector_checks::{check_event, check_ranges, check_source_and_event, reject_if_any};
use super::{
    ExitError, dry_run, open_store_to_write, output, print_without_server, usage_error, user_error,
};
use crate::config::LoadedConfig;
use crate::domain::job_plan::JobSpec;
use crate::domain::{HandlerId, missing_body};
use crate::numbers::{format_count, group_digits};
use crate::replay::{self, ReplayRequest, ReplaySelection};
use crate::store::Store;
use crate::store::replay::{self as replay_store, PlannedReplay};
use crate::store::selection::BulkProgress;

/// The most events that an error message lists.
const MAX_LISTED_EVENTS: usize = 20;

/// Arguments of `replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Event numbers, such as 4 or 4,5 or 4-6. Without them, events are selected by the options. With --handler, only that
    /// handler gets new jobs, even if it is newer than the events. With --state or --detail: for each
    /// job that matches, its event is replayed for the handler of that job
    #[arg(value_parser = parse_id_list, allow_negative_numbers = true)]
    events: Vec<IdList>,
    #[command(flatten)]
    selectors: SelectorArgs,
    /// Select all events
    #[arg(long)]
    all: bool,
    /// Print the events and the jobs they would get, without creating any
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: print one JSON object per line
    #[arg(long, requires = "dry_run")]
    json: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
}

/// Creates the jobs. With `--dry-run`, it only prints them.
pub fn replay(loaded: &LoadedConfig, args: &ReplayArgs) -> Result<(), ExitError> {
    let has_selectors = !args.selectors.is_empty() || args.all;
    if args.events.is_empty() && !has_selectors {
        return Err(usage_error(
            "replay: no events are given: expected event numbers, or selectors such as --source, \
             --since or --all",
        ));
    }
    let store = open_store_to_write(loaded, args.dry_run)?;
    check(&store, loaded, args)?;
    let request = ReplayRequest {
        selector: args.selectors.to_selector(),
        events: IdList::to_ranges(&args.events),
        handler: args.selectors.handler(),
    };
    let builder = dry_run::task_builder(loaded, &store)?;
    let mut line = ProgressLine::new();
    let mut show = |progress: BulkProgress| {
        line.update(|| describe_selection(progress, "event"));
        ControlFlow::Continue(())
    };
    let selection = replay::select_events(&store, &loaded.config, &request, &builder, &mut show)?;
    drop(line);
    check_matched(args, &selection)?;
    if args.dry_run {
        return print_plan(&store, &selection, args.json);
    }
    let events = format_count(selection.events(), "event");
    let question = format!("replay {events} for {}?", describe_handlers(&selection));
    if has_selectors && !args.yes && !confirm(&question, selection.events())? {
        return Err(user_error("nothing was changed"));
    }
    run(loaded, &store, args, &selection)
}

fn run(
    loaded: &LoadedConfig,
    store: &Store,
    args: &ReplayArgs,
    selection: &ReplaySelection<'_>,
) -> Result<(), ExitError> {
    let singles: Vec<i64> = IdList::singles(&args.events).collect();
    let target = match singles[..] {
        [event] if selection.events() == 1 => Some(format!("event {event}")),
        _ => None,
    };
    let interruption = Interruption::watch()?;
    let mut line = ProgressLine::new();
    let mut show = |progress: BulkProgress| {
        line.update(|| {
            let (events, jobs) = (format_count(progress.total, "event"), progress.jobs);
            let done = group_digits(progress.done);
            format!("replayed {done} of {events}: {}", format_count(jobs, "job"))
        });
        interruption.control_flow()
    };
    let audit = audit_entry("replay", target, None);
    let result = selection.run(store, &loaded.config, audit, &mut show);
    drop(line);
    let summary = result?;
    let BulkProgress { done, total, jobs } = summary.progress;
    let missing = u64::try_from(summary.missing_events.len()).unwrap_or(0);
    let (replayed, jobs_text) = (done.saturating_sub(missing), format_count(jobs, "job"));
    let mut out = output::stdout();
    if let Some(remaining) = summary.remaining {
        let (replayed, events) = (group_digits(replayed), format_count(total, "event"));
        writeln!(out, "replayed {replayed} of {events}: {jobs_text}")?;
        return Err(user_error(format!(
            "interrupted: for the rest, run the command with the events {}-{} and the same options",
            remaining.start(),
            remaining.end()
        )));
    }
    writeln!(out, "replayed {}: {jobs_text}", format_count(replayed, "event"))?;
    if jobs > 0 {
        print_without_server(&store.path, "the jobs start when the server does")?;
    }
    match summary.missing_events.is_empty() {
        true => Ok(()),
        false => Err(user_error(missing_body_message(&summary.missing_events))),
    }
}

/// Lists the handlers. A handler that does not match all events is followed by its number of events.
fn describe_handlers(selection: &ReplaySelection<'_>) -> String {
    let describe = |(name, events): (&str, u64)| match events {
        all if all == selection.events() => name.to_owned(),
        part => format!("{name} ({})", group_digits(part)),
    };
    selection.counts().into_iter().map(describe).collect::<Vec<_>>().join(", ")
}

/// Checks that the named events, the handler and the source exist, and that the events have a body.
fn check(store: &Store, loaded: &LoadedConfig, args: &ReplayArgs) -> Result<(), ExitError> {
    let mut errors = Vec::new();
    for event in IdList::singles(&args.events) {
        match replay_store::has_body(&store.conn, event)? {
            None => errors.extend(check_event(store, event)?),
            Some(false) => errors.push(missing_body(event)),
            Some(true) => {}
        }
    }
    check_ranges(store, &args.events, "event", &mut errors)?;
    if let Some(name) = args.selectors.handler()
        && loaded.config.handlers.iter().all(|handler| handler.name != name)
    {
        errors.push(format!("handler {name}: there is no such handler in config.toml"));
    }
    check_source_and_event(store, &args.selectors, &mut errors)?;
    reject_if_any(errors)
}

/// Reports events without a matching handler: an error for named events, a line on stderr for selected ones.
fn check_matched(args: &ReplayArgs, selection: &ReplaySelection<'_>) -> Result<(), ExitError> {
    let unmatched = selection.unmatched();
    let message = |event: i64| match args.selectors.handler() {
        Some(name) => format!("event {event}: handler {name} does not have its source"),
        None => format!("event {event}: no handler has its source"),
    };
    let has_singles = IdList::singles(&args.events).next().is_some();
    if has_singles && !unmatched.is_empty() {
        let errors: Vec<String> = unmatched.iter().take(MAX_LISTED_EVENTS).map(message).collect();
        return Err(user_error(errors.join("\n")));
    }
    if !unmatched.is_empty() {
        let skipped = format_count(unmatched.len(), "event");
        writeln!(output::stderr(), "skipped {skipped}: no handler has the source")?;
    }
    Ok(())
}

fn missing_body_message(events: &[i64]) -> String {
    let listed = events.iter().take(MAX_LISTED_EVENTS);
    let mut lines: Vec<String> = listed.map(|event| missing_body(*event)).collect();
    if events.len() > MAX_LISTED_EVENTS {
        lines.push(format!("and {} more", events.len() - MAX_LISTED_EVENTS));
    }
    lines.join("\n")
}

/// Prints the jobs that each event would get: one line for each event, or one object for each handler.
fn print_plan(store: &Store, selection: &ReplaySelection<'_>, json: bool) -> Result<(), ExitError> {
    let mut out = BufWriter::new(output::stdout());
    let (mut events, mut jobs) = (0, 0);
    let mut missing = Vec::new();
    let mut print = |source: &str, planned: &PlannedReplay| {
        if replay_store::has_body(&store.conn, planned.event)? != Some(true) {
            missing.push(planned.event);
            return Ok(());
        }
        events += 1;
        jobs += planned.specs.iter().map(|(_, spec)| count_jobs(spec)).sum::<u64>();
        if json {
            for (handler, spec) in &planned.specs {
                let reason = match spec {
                    JobSpec::Dead(reason) => Some(reason),
                    JobSpec::Event(_) | JobSpec::Items(_) => None,
                };
                let line = json!({"event": planned.event, "source": source,
                    "handler": selection.name(*handler), "jobs": spec.job_count(), "reason": reason});
                writeln!(out, "{}", output::json_line(&line))?;
            }
            return Ok(());
        }
        let describe =
            |(handler, spec): &(HandlerId, JobSpec)| describe_jobs(selection.name(*handler), spec);
        let parts: Vec<String> = planned.specs.iter().map(describe).collect();
        let jobs =
            if parts.is_empty() { "not wanted by when".to_owned() } else { parts.join(", ") };
        writeln!(out, "event {} of {source}: {jobs}", planned.event)?;
        Ok(())
    };
    selection.for_each(store, &mut print)?;
    if !json {
        let (events, jobs) = (format_count(events, "event"), format_count(jobs, "job"));
        writeln!(out, "would replay {events}: {jobs}")?;
    }
    out.flush()?;
    if missing.is_empty() { Ok(()) } else { Err(user_error(missing_body_message(&missing))) }
}

fn describe_jobs(handler: &str, spec: &JobSpec) -> String {
    match spec {
        JobSpec::Dead(reason) => format!("{handler} a dead job ({reason})"),
        JobSpec::Event(_) | JobSpec::Items(_) => {
            format!("{handler} {}", format_count(count_jobs(spec), "job"))
        }
    }
}

fn count_jobs(spec: &JobSpec) -> u64 {
    u64::try_from(spec.job_count()).unwrap_or(0)
}
