//! `replay`: new jobs with new keys from stored events, also for a handler that did not exist when
//! they came. Acts on the file itself, beside a server or without one.

use std::io::{BufWriter, IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::jobs::{audit_entry, check_origin, confirm};
use super::selector_args::SelectArgs;
use super::{ExitError, dry_run, open_store, output, runtime_error, user_error};
use crate::config::LoadedConfig;
use crate::domain::job_plan::JobSpec;
use crate::replay::{self, ReplayProgress, ReplayRequest, ReplaySelection};
use crate::store::{Store, replay as stored};

/// Between two words on how far it is.
const TELL: Duration = Duration::from_millis(200);

/// So many events are named where there is something wrong with them.
const NAMED_MAX: usize = 20;

/// `replay`
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// These events; or a selection by the options. With --handler: for this one alone, also if it
    /// did not exist then. With --state or --detail: events with such a job, for its handler
    events: Vec<i64>,
    #[command(flatten)]
    select: SelectArgs,
    /// All events
    #[arg(long)]
    all: bool,
    /// Say which, and what they would owe; change nothing
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: one object a line
    #[arg(long, requires = "dry_run")]
    json: bool,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
}

/// Makes the jobs, or says which it would make.
pub fn replay(loaded: &LoadedConfig, args: &ReplayArgs) -> Result<(), ExitError> {
    let by_selection = !args.select.is_empty() || args.all;
    if args.events.is_empty() && !by_selection {
        let text = "replay: which events? Name them, or select by --source, --all and others";
        return Err(ExitError { code: 2, text: text.to_owned() });
    }
    let store = open_store(loaded)?;
    check(&store, loaded, args)?;
    let mut selector = args.select.selector(&[]);
    selector.events = args.events.clone();
    let asked_for = ReplayRequest { selector, handler: args.select.names().0 };
    let maker = dry_run::maker(loaded, &store)?;
    let chosen =
        replay::select_events(&store, &loaded.config, &asked_for, &maker).map_err(runtime_error)?;
    check_matched(args, &chosen)?;
    if args.dry_run {
        return print_plan(&store, &chosen, args.json);
    }
    let events = counted(chosen.events(), "event");
    if by_selection
        && chosen.events() > 0
        && !args.yes
        && !confirm(&format!("replay {events} for {}?", describe_handlers(&chosen)))?
    {
        return Err(user_error("nothing was changed"));
    }
    let target = match args.events[..] {
        [event] => Some(format!("event {event}")),
        _ => None,
    };
    let mut progress = ProgressLine::new();
    let made = chosen.run(&store, &loaded.config, audit_entry("replay", target, None), &mut |it| {
        progress.tell(it)
    });
    progress.clear();
    let made = made.map_err(runtime_error)?;
    let replayed = counted(chosen.events() - made.missing_events.len(), "event");
    let jobs = counted(usize::try_from(made.jobs).unwrap_or(0), "job");
    writeln!(output::stdout(), "replayed {replayed}: {jobs}").map_err(runtime_error)?;
    if made.missing_events.is_empty() {
        Ok(())
    } else {
        Err(user_error(missing_body_message(&made.missing_events)))
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Handlers, with how many events each takes where that is not all of them.
fn describe_handlers(chosen: &ReplaySelection<'_>) -> String {
    let one = |(name, events): (&str, usize)| match events {
        all if all == chosen.events() => name.to_owned(),
        some => format!("{name} ({some})"),
    };
    chosen.counts().into_iter().map(one).collect::<Vec<_>>().join(", ")
}

/// What is named must be there.
fn check(store: &Store, loaded: &LoadedConfig, args: &ReplayArgs) -> Result<(), ExitError> {
    let mut faults = Vec::new();
    for &event in &args.events {
        let why = match stored::has_body(&store.conn, event).map_err(runtime_error)? {
            None => "there is no such event",
            Some(false) => "it has no body any more",
            Some(true) => continue,
        };
        faults.push(format!("event {event}: {why}"));
    }
    if let (Some(name), _) = args.select.names()
        && loaded.config.handlers.iter().all(|handler| handler.name != name)
    {
        faults.push(format!("handler {name}: there is none of that name in config.toml"));
    }
    check_origin(store, &args.select, &mut faults)?;
    if faults.is_empty() { Ok(()) } else { Err(user_error(faults.join("\n"))) }
}

/// A named event that nobody takes is a mistake; of others a word is enough.
fn check_matched(args: &ReplayArgs, chosen: &ReplaySelection<'_>) -> Result<(), ExitError> {
    let untaken = chosen.unmatched();
    let fault = |event: &&i64| match args.select.names().0 {
        Some(name) => format!("event {event}: handler {name} does not take it"),
        None => format!("event {event}: no handler takes it"),
    };
    if !args.events.is_empty() && !untaken.is_empty() {
        let faults: Vec<String> = untaken.iter().take(NAMED_MAX).map(|it| fault(&it)).collect();
        return Err(user_error(faults.join("\n")));
    }
    if !untaken.is_empty() {
        let left_out = counted(untaken.len(), "event");
        writeln!(output::stderr(), "left out: {left_out} that no handler takes")
            .map_err(runtime_error)?;
    }
    Ok(())
}

fn missing_body_message(events: &[i64]) -> String {
    let named = events.iter().take(NAMED_MAX);
    let mut lines: Vec<String> =
        named.map(|event| format!("event {event}: it has no body any more")).collect();
    if events.len() > NAMED_MAX {
        lines.push(format!("and {} more", events.len() - NAMED_MAX));
    }
    lines.join("\n")
}

/// What would be done, an event a line.
fn print_plan(store: &Store, chosen: &ReplaySelection<'_>, json: bool) -> Result<(), ExitError> {
    let mut out = BufWriter::new(output::stdout());
    let (mut events, mut jobs) = (0, 0);
    let mut gone = Vec::new();
    chosen
        .for_each(store, &mut |source, due| {
            if stored::has_body(&store.conn, due.event)? != Some(true) {
                gone.push(due.event);
                return Ok(());
            }
            events += 1;
            jobs += due.specs.iter().map(|(_, owed)| owed.job_count()).sum::<usize>();
            let said: Vec<String> =
                due.specs.iter().map(|(handler, owed)| describe_jobs(chosen.name(*handler), owed)).collect();
            if json {
                for (handler, owed) in &due.specs {
                    let reason = match owed {
                        JobSpec::Dead(why) => Some(why),
                        JobSpec::Event(_) | JobSpec::Items(_) => None,
                    };
                    let line = json!({"event": due.event, "source": source,
                        "handler": chosen.name(*handler), "jobs": owed.job_count(), "reason": reason});
                    writeln!(out, "{}", output::json_line(&line))?;
                }
            } else if said.is_empty() {
                writeln!(out, "event {} of {source}: not wanted by when", due.event)?;
            } else {
                writeln!(out, "event {} of {source}: {}", due.event, said.join(", "))?;
            }
            Ok(())
        })
        .map_err(runtime_error)?;
    if !json {
        let (events, jobs) = (counted(events, "event"), counted(jobs, "job"));
        writeln!(out, "would replay {events}: {jobs}").map_err(runtime_error)?;
    }
    out.flush().map_err(runtime_error)?;
    if gone.is_empty() { Ok(()) } else { Err(user_error(missing_body_message(&gone))) }
}

fn describe_jobs(handler: &str, owed: &JobSpec) -> String {
    match owed {
        JobSpec::Dead(why) => format!("{handler} a dead job ({why})"),
        JobSpec::Event(_) | JobSpec::Items(_) => {
            format!("{handler} {}", counted(owed.job_count(), "job"))
        }
    }
}

/// How far it is, on one line of a terminal.
struct ProgressLine {
    is_shown: bool,
    told: Instant,
    length: usize,
}

impl ProgressLine {
    fn new() -> Self {
        Self { is_shown: output::raw_stderr().is_terminal(), told: Instant::now(), length: 0 }
    }

    fn tell(&mut self, it: ReplayProgress) {
        if self.is_shown && self.told.elapsed() >= TELL {
            self.told = Instant::now();
            self.put(&format!("{} of {} events, {} jobs", it.events, it.total_events, it.jobs));
        }
    }

    fn clear(&mut self) {
        if self.length > 0 {
            self.put("");
            let _ = write!(output::raw_stderr(), "\r");
        }
    }

    /// Over what stood there.
    fn put(&mut self, text: &str) {
        let _ = write!(output::raw_stderr(), "\r{text:0$}", self.length);
        self.length = text.len().max(self.length);
    }
}
