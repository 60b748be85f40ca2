//! `replay`: creates new jobs with new keys from stored events, also for handlers that are newer than the
//! events. It writes to the database directly, with or without a running server.

use std::io::{BufWriter, IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::audit::audit_entry;
use super::jobs::{check_source_and_event, confirm};
use super::output::format_count;
use super::selector_args::SelectorArgs;
use super::{ExitError, dry_run, open_store, output, runtime_error, user_error};
use crate::config::LoadedConfig;
use crate::domain::HandlerId;
use crate::domain::job_plan::JobSpec;
use crate::replay::{self, ReplayProgress, ReplayRequest, ReplaySelection};
use crate::store::Store;
use crate::store::replay::{self as replay_store, PlannedReplay};

/// The shortest time between two updates of the progress line.
const UPDATE_INTERVAL: Duration = Duration::from_millis(200);

/// The most events that an error message lists.
const MAX_LISTED_EVENTS: usize = 20;

/// Arguments of `replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Event numbers. Without them, events are selected by the options. With --handler, only that
    /// handler gets new jobs, even if it is newer than the events. With --state or --detail: for each
    /// job that matches, its event is replayed for the handler of that job
    events: Vec<i64>,
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
        let text = "replay: no events are given: expected event numbers, or selectors such as \
                    --source, --since or --all";
        return Err(ExitError { code: 2, text: text.to_owned() });
    }
    let store = open_store(loaded)?;
    check(&store, loaded, args)?;
    let mut selector = args.selectors.to_selector(&[]);
    selector.events = args.events.clone();
    let request = ReplayRequest { selector, handler: args.selectors.handler() };
    let builder = dry_run::task_builder(loaded, &store)?;
    let selection =
        replay::select_events(&store, &loaded.config, &request, &builder).map_err(runtime_error)?;
    check_matched(args, &selection)?;
    if args.dry_run {
        return print_plan(&store, &selection, args.json);
    }
    let events = format_count(selection.events(), "event");
    let question = format!("replay {events} for {}?", describe_handlers(&selection));
    if has_selectors && !args.yes && !confirm(&question, selection.events())? {
        return Err(user_error("nothing was changed"));
    }
    let target = match args.events[..] {
        [event] => Some(format!("event {event}")),
        _ => None,
    };
    let mut line = ProgressLine::new();
    let audit = audit_entry("replay", target, None);
    let result =
        selection.run(&store, &loaded.config, audit, &mut |progress| line.update(progress));
    line.clear();
    let summary = result.map_err(runtime_error)?;
    let replayed = format_count(selection.events() - summary.missing_events.len(), "event");
    let jobs = format_count(usize::try_from(summary.jobs).unwrap_or(0), "job");
    writeln!(output::stdout(), "replayed {replayed}: {jobs}").map_err(runtime_error)?;
    if summary.missing_events.is_empty() {
        Ok(())
    } else {
        Err(user_error(missing_body_message(&summary.missing_events)))
    }
}

/// Lists the handlers. A handler that does not match all events is followed by its number of events.
fn describe_handlers(selection: &ReplaySelection<'_>) -> String {
    let describe = |(name, events): (&str, usize)| match events {
        all if all == selection.events() => name.to_owned(),
        part => format!("{name} ({part})"),
    };
    selection.counts().into_iter().map(describe).collect::<Vec<_>>().join(", ")
}

/// Checks that the named events, the handler and the source exist, and that the events have a body.
fn check(store: &Store, loaded: &LoadedConfig, args: &ReplayArgs) -> Result<(), ExitError> {
    let mut errors = Vec::new();
    for &event in &args.events {
        let problem = match replay_store::has_body(&store.conn, event).map_err(runtime_error)? {
            None => "there is no such event",
            Some(false) => "it has no body any more",
            Some(true) => continue,
        };
        errors.push(format!("event {event}: {problem}"));
    }
    if let Some(name) = args.selectors.handler()
        && loaded.config.handlers.iter().all(|handler| handler.name != name)
    {
        errors.push(format!("handler {name}: there is no such handler in config.toml"));
    }
    check_source_and_event(store, &args.selectors, &mut errors)?;
    if errors.is_empty() { Ok(()) } else { Err(user_error(errors.join("\n"))) }
}

/// Reports events without a matching handler: an error for named events, a line on stderr for selected ones.
fn check_matched(args: &ReplayArgs, selection: &ReplaySelection<'_>) -> Result<(), ExitError> {
    let unmatched = selection.unmatched();
    let message = |event: &i64| match args.selectors.handler() {
        Some(name) => format!("event {event}: handler {name} does not have its source"),
        None => format!("event {event}: no handler has its source"),
    };
    if !args.events.is_empty() && !unmatched.is_empty() {
        let errors: Vec<String> = unmatched.iter().take(MAX_LISTED_EVENTS).map(message).collect();
        return Err(user_error(errors.join("\n")));
    }
    if !unmatched.is_empty() {
        let skipped = format_count(unmatched.len(), "event");
        writeln!(output::stderr(), "skipped {skipped}: no handler has the source")
            .map_err(runtime_error)?;
    }
    Ok(())
}

fn missing_body_message(events: &[i64]) -> String {
    let listed = events.iter().take(MAX_LISTED_EVENTS);
    let mut lines: Vec<String> =
        listed.map(|event| format!("event {event}: it has no body any more")).collect();
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
        jobs += planned.specs.iter().map(|(_, spec)| spec.job_count()).sum::<usize>();
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
    selection.for_each(store, &mut print).map_err(runtime_error)?;
    if !json {
        let (events, jobs) = (format_count(events, "event"), format_count(jobs, "job"));
        writeln!(out, "would replay {events}: {jobs}").map_err(runtime_error)?;
    }
    out.flush().map_err(runtime_error)?;
    if missing.is_empty() { Ok(()) } else { Err(user_error(missing_body_message(&missing))) }
}

fn describe_jobs(handler: &str, spec: &JobSpec) -> String {
    match spec {
        JobSpec::Dead(reason) => format!("{handler} a dead job ({reason})"),
        JobSpec::Event(_) | JobSpec::Items(_) => {
            format!("{handler} {}", format_count(spec.job_count(), "job"))
        }
    }
}

/// A line on the terminal that shows the progress of the command. Without a terminal, it shows nothing.
struct ProgressLine {
    is_terminal: bool,
    updated_at: Instant,
    /// Characters written so far, which the next update overwrites.
    length: usize,
}

impl ProgressLine {
    fn new() -> Self {
        let is_terminal = output::raw_stderr().is_terminal();
        Self { is_terminal, updated_at: Instant::now(), length: 0 }
    }

    fn update(&mut self, progress: ReplayProgress) {
        if self.is_terminal && self.updated_at.elapsed() >= UPDATE_INTERVAL {
            self.updated_at = Instant::now();
            let ReplayProgress { events, total_events, jobs } = progress;
            self.overwrite(&format!("{events} of {total_events} events, {jobs} jobs"));
        }
    }

    fn clear(&mut self) {
        if self.length > 0 {
            self.overwrite("");
            let _ = write!(output::raw_stderr(), "\r");
        }
    }

    fn overwrite(&mut self, text: &str) {
        let _ = write!(output::raw_stderr(), "\r{text:0$}", self.length);
        self.length = text.len().max(self.length);
    }
}
