//! `retry`, `cancel`, `pause`, `resume`. They write to the database directly, with or without a running
//! server. The server notices the change within a second.

use std::io::{BufRead, IsTerminal, Write};
use std::ops::ControlFlow;

use clap::Args;

use super::audit::audit_entry;
use super::id_list::{IdList, parse_id_list};
use super::progress::{Interruption, ProgressLine};
use super::selector_args::SelectorArgs;
use super::selector_checks::{
    check_ranges, check_selectors, reject_if_any, unknown_handler, unknown_job,
};
use super::{
    ExitError, open_store_to_write, output, print_without_server, table, usage_error, user_error,
};
use crate::config::LoadedConfig;
use crate::domain::id_set::IdSet;
use crate::domain::job::JobState;
use crate::domain::{EventId, missing_body};
use crate::numbers::{format_count, group_digits};
use crate::store::audit::{self, JobCommand};
use crate::store::jobs::queue;
use crate::store::selection::{self, BulkProgress};
use crate::store::{Store, deferred, queries, registry};

/// Maximum number of jobs that `--dry-run` lists.
const DRY_RUN_ROWS: usize = 50;

/// Arguments that `retry` and `cancel` share, and the arguments of `retry`.
#[derive(Debug, Args)]
pub struct JobArgs {
    /// Job numbers, such as 4 or 4,5 or 4-6. Without them, jobs are selected by the options
    #[arg(value_parser = parse_id_list, allow_negative_numbers = true)]
    jobs: Vec<IdList>,
    #[command(flatten)]
    selectors: SelectorArgs,
    /// Select all jobs that the command can change
    #[arg(long)]
    all: bool,
    /// Print the jobs and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
}

/// Arguments of `cancel`.
#[derive(Debug, Args)]
pub struct CancelArgs {
    #[command(flatten)]
    jobs: JobArgs,
    /// Reason to store with each job
    #[arg(long, value_name = "TEXT", default_value = "cancelled")]
    reason: String,
}

/// Retries dead, cancelled or waiting jobs now.
pub fn retry(loaded: &LoadedConfig, args: &JobArgs) -> Result<(), ExitError> {
    let store = &open_store_to_write(loaded, args.dry_run)?;
    let is_changed = apply(store, args, &JobCommand::Retry)?;
    if is_changed {
        print_without_server(&store.path, "the jobs start when the server does")?;
    }
    Ok(())
}

/// Cancels queued jobs, stops running ones, dismisses dead ones.
pub fn cancel(loaded: &LoadedConfig, args: &CancelArgs) -> Result<(), ExitError> {
    let store = &open_store_to_write(loaded, args.jobs.dry_run)?;
    let is_changed = apply(store, &args.jobs, &JobCommand::Cancel { reason: args.reason.clone() })?;
    let has_running = || queue::pending_cancellations(&store.conn).map(|jobs| !jobs.is_empty());
    if is_changed && has_running()? {
        let effect = "jobs that ran when it stopped are cancelled when the server starts";
        print_without_server(&store.path, effect)?;
    }
    Ok(())
}

/// Applies a command to jobs. Returns whether it changed any.
fn apply(store: &Store, args: &JobArgs, command: &JobCommand) -> Result<bool, ExitError> {
    let verb = command.name();
    let has_selectors = !args.selectors.is_empty() || args.all;
    if args.jobs.is_empty() && !has_selectors {
        return Err(usage_error(format!(
            "{verb}: no jobs are given: expected job numbers, or selectors such as --event, \
             --handler or --all"
        )));
    }
    check_jobs(store, args, command)?;
    let jobs = select(store, args, command.condition())?;
    let bodyless = match command.missing_body_condition() {
        Some(condition) => select(store, args, condition)?,
        None => IdSet::default(),
    };
    if args.dry_run {
        print_dry_run(store, verb, &jobs)?;
        return reject_bodyless(store, &bodyless).map(|()| false);
    }
    let question = format!("{verb} {}?", format_count(jobs.len(), "job"));
    if has_selectors && !args.yes && !confirm(&question, jobs.len())? {
        return Err(user_error("nothing was changed"));
    }
    let progress = run(store, command, &jobs)?;
    let mut out = output::stdout();
    let done = past_tense(command);
    if progress.done < progress.total {
        let total = format_count(progress.total, "job");
        writeln!(out, "{done} {} of {total}", group_digits(progress.jobs))?;
        return Err(user_error("interrupted: run the same command again for the rest"));
    }
    writeln!(out, "{done} {}", format_count(progress.jobs, "job"))?;
    if jobs.is_empty() && bodyless.is_empty() {
        writeln!(output::stderr(), "no job matches that `{verb}` can change")?;
    }
    reject_bodyless(store, &bodyless)?;
    Ok(progress.jobs > 0)
}

/// Reports jobs that cannot run, because their event has no body any more.
fn reject_bodyless(store: &Store, jobs: &IdSet) -> Result<(), ExitError> {
    let mut errors = Vec::new();
    for job in jobs.iter() {
        let event = queries::find_event_of_job(&store.conn, job)?.unwrap_or(0);
        errors.push(format!("job {job}: {}", missing_body(event)));
    }
    reject_if_any(errors)
}

fn select(store: &Store, args: &JobArgs, condition: &str) -> Result<IdSet, ExitError> {
    let (selector, ids) = (args.selectors.to_selector(), IdList::to_ranges(&args.jobs));
    let mut line = ProgressLine::new();
    let mut show = |progress: BulkProgress| {
        line.update(|| describe_selection(progress, "job"));
        ControlFlow::Continue(())
    };
    Ok(selection::select_jobs(&store.conn, &selector, &ids, condition, &mut show)?)
}

/// The progress line while jobs or events are selected.
pub fn describe_selection(progress: BulkProgress, noun: &str) -> String {
    let (done, total) = (group_digits(progress.done), group_digits(progress.total));
    format!("read {done} of {total} {noun}s, {} selected", group_digits(progress.jobs))
}

fn run(store: &Store, command: &JobCommand, jobs: &IdSet) -> Result<BulkProgress, ExitError> {
    let target = match (jobs.len(), jobs.iter().next()) {
        (1, Some(job)) => Some(format!("job {job}")),
        _ => None,
    };
    let reason = match command {
        JobCommand::Cancel { reason } => Some(reason.clone()),
        JobCommand::Retry => None,
    };
    let entry = audit_entry(command.name(), target, reason);
    let interruption = Interruption::watch()?;
    let mut line = ProgressLine::new();
    let mut show = |progress: BulkProgress| {
        let done = past_tense(command);
        line.update(|| {
            let total = format_count(progress.total, "job");
            format!("{done} {} of {total}", group_digits(progress.done))
        });
        interruption.control_flow()
    };
    Ok(audit::apply_to_jobs(store, jobs, command, &entry, &mut show)?)
}

/// Prints the newest of the jobs that a command would change, and their number.
fn print_dry_run(store: &Store, verb: &str, jobs: &IdSet) -> Result<(), ExitError> {
    let mut listed: Vec<i64> = jobs.iter().rev().take(DRY_RUN_ROWS).collect();
    listed.reverse();
    let is_cut = jobs.len() > u64::try_from(listed.len()).unwrap_or(u64::MAX);
    let mut out = output::stdout();
    if !listed.is_empty() {
        let selector = queries::Selector { jobs: listed, ..queries::Selector::default() };
        let offset_ms = store.clock.to_wall_ms(0);
        let rows = queries::list_jobs(&store.conn, &selector, i64::MAX, offset_ms)?;
        table::print(&mut out, &rows)?;
    }
    let count = format_count(jobs.len(), "job");
    let newest =
        if is_cut { format!(", the newest {DRY_RUN_ROWS} are listed") } else { String::new() };
    Ok(writeln!(out, "would {verb} {count}{newest}")?)
}

fn past_tense(command: &JobCommand) -> &'static str {
    match command {
        JobCommand::Retry => "retried",
        JobCommand::Cancel { .. } => "cancelled",
    }
}

/// Checks that each named job exists and is in a state that the command can change.
fn check_jobs(store: &Store, args: &JobArgs, command: &JobCommand) -> Result<(), ExitError> {
    let is_retry = *command == JobCommand::Retry;
    let mut errors = Vec::new();
    for job in IdList::singles(&args.jobs) {
        let found = queries::load_job_state(&store.conn, job)?;
        let problem = match found {
            None => {
                errors.push(unknown_job(store, job, command.name())?);
                continue;
            }
            Some(JobState::Succeeded) if is_retry => {
                "it has succeeded and cannot be retried: `hooktrail replay` creates a new job from its event"
            }
            Some(JobState::Succeeded) => "it has succeeded already",
            Some(JobState::Running) if is_retry => "it is running",
            Some(JobState::Cancelled) if !is_retry => "it is cancelled already",
            Some(JobState::Cancelled) if queries::is_expanded(&store.conn, job)? => {
                "it was expanded into other jobs: retry those"
            }
            Some(JobState::Ready | JobState::Blocked | JobState::Unreleased) if is_retry => {
                let text = "it is queued and due already: `hooktrail list` says what it waits for";
                writeln!(output::stderr(), "job {job}: {text}")?;
                continue;
            }
            Some(_) => continue,
        };
        errors.push(format!("job {job}: {problem}"));
    }
    check_ranges(store, &args.jobs, "job", &mut errors)?;
    check_selectors(store, &args.selectors, &mut errors)?;
    if !is_retry
        && let Some(event) = args.selectors.event()
        && deferred::is_deferred(&store.conn, EventId(event))?
    {
        errors.push(format!(
            "event {event}: it is deferred, and its jobs do not exist yet: cancel them when \
             `hooktrail show {event}` lists them"
        ));
    }
    reject_if_any(errors)
}

/// Asks on the terminal whether to change `count` jobs or events. If there are none, nothing is asked.
///
/// # Errors
/// Exit code 2: there is no terminal to ask on, however many there are.
pub fn confirm(question: &str, count: u64) -> Result<bool, ExitError> {
    if !std::io::stdin().is_terminal() {
        return Err(usage_error(format!(
            "{question} there is no terminal to ask on, and nothing was changed: add --yes, or \
             --dry-run to see what would be done"
        )));
    }
    if count == 0 {
        return Ok(true);
    }
    write!(output::stderr(), "{question} [y/N] ")?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Pauses or resumes a handler.
pub fn set_paused(loaded: &LoadedConfig, name: &str, is_paused: bool) -> Result<(), ExitError> {
    let store = &open_store_to_write(loaded, false)?;
    let verb = if is_paused { "pause" } else { "resume" };
    let Some(handler) = registry::find_handler(&store.conn, name)? else {
        return Err(user_error(unknown_handler(name)));
    };
    let is_changed = audit::set_paused(
        store,
        handler,
        is_paused,
        &audit_entry(verb, Some(name.to_owned()), None),
    )?;
    let text = match (is_paused, is_changed) {
        (true, true) => format!("{name} is paused: its jobs wait until `hooktrail resume {name}`"),
        (true, false) => format!("{name} is already paused"),
        (false, true) => format!("{name} is resumed"),
        (false, false) => format!("{name} is not paused"),
    };
    writeln!(output::stdout(), "{text}")?;
    let effect = match is_paused {
        true => "the handler stays paused when the server starts",
        false => "the jobs start when the server does",
    };
    print_without_server(&store.path, effect)
}
