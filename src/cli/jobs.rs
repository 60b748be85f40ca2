//! `retry`, `cancel`, `pause`, `resume`. They write to the database directly, with or without a running
//! server. The server notices the change within a second.

use std::io::{BufRead, IsTerminal, Write};

use clap::Args;

use super::audit::audit_entry;
use super::output::format_count;
use super::selector_args::SelectorArgs;
use super::{ExitError, output, runtime_error, user_error};
use crate::domain::{EventId, JobId, JobState};
use crate::store::audit::{self, JobCommand};
use crate::store::{Store, deferred, queries, registry};

/// Maximum number of jobs that `--dry-run` lists.
const DRY_RUN_ROWS: usize = 50;

/// Arguments of `retry`.
#[derive(Debug, Args)]
pub struct RetryArgs {
    /// Job numbers. Without them, jobs are selected by the options
    jobs: Vec<i64>,
    #[command(flatten)]
    selectors: SelectorArgs,
    /// Select all dead, cancelled and waiting jobs
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
    /// Job numbers. Without them, jobs are selected by the options
    jobs: Vec<i64>,
    #[command(flatten)]
    selectors: SelectorArgs,
    /// Select all queued, running and dead jobs
    #[arg(long)]
    all: bool,
    /// Reason to store with each job
    #[arg(long, value_name = "TEXT", default_value = "cancelled")]
    reason: String,
    /// Print the jobs and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
}

/// The jobs that a command names or selects.
struct JobSelection<'a> {
    jobs: &'a [i64],
    selectors: &'a SelectorArgs,
    is_all: bool,
    is_dry_run: bool,
    should_confirm: bool,
}

/// Retries dead, cancelled or waiting jobs now.
pub fn retry(store: &Store, args: &RetryArgs) -> Result<(), ExitError> {
    let RetryArgs { jobs, selectors, all, dry_run, yes } = args;
    let (is_all, is_dry_run, should_confirm) = (*all, *dry_run, !*yes);
    let selection = JobSelection { jobs, selectors, is_all, is_dry_run, should_confirm };
    apply(store, &selection, &JobCommand::Retry, ("retry", "1, 4, 5"))
}

/// Cancels queued jobs, stops running ones, dismisses dead ones.
pub fn cancel(store: &Store, args: &CancelArgs) -> Result<(), ExitError> {
    let CancelArgs { jobs, selectors, all, reason, dry_run, yes } = args;
    let (is_all, is_dry_run, should_confirm) = (*all, *dry_run, !*yes);
    let selection = JobSelection { jobs, selectors, is_all, is_dry_run, should_confirm };
    let command = JobCommand::Cancel { reason: reason.clone() };
    apply(store, &selection, &command, ("cancel", "-1, 0, 1, 2, 4, 6"))
}

/// Applies a command to the jobs of a selection that are in one of `states`, the numbers of `jobs.state`.
fn apply(
    store: &Store,
    selection: &JobSelection<'_>,
    command: &JobCommand,
    (verb, states): (&str, &str),
) -> Result<(), ExitError> {
    let has_selectors = !selection.selectors.is_empty() || selection.is_all;
    if selection.jobs.is_empty() && !has_selectors {
        let text = format!(
            "{verb}: no jobs are given: expected job numbers, or selectors such as --event, \
             --handler or --all"
        );
        return Err(ExitError { code: 2, text });
    }
    check_jobs(store, selection, verb)?;
    let selector = selection.selectors.to_selector(selection.jobs);
    let ids = queries::list_job_ids(&store.conn, &selector, states).map_err(runtime_error)?;
    if selection.is_dry_run {
        return print_dry_run(store, verb, &ids);
    }
    let question = format!("{verb} {}?", format_count(ids.len(), "job"));
    if has_selectors && selection.should_confirm && !confirm(&question, ids.len())? {
        return Err(user_error("nothing was changed"));
    }
    let reason = match command {
        JobCommand::Cancel { reason } => Some(reason.clone()),
        JobCommand::Retry => None,
    };
    let count =
        audit::apply_to_jobs(store, &ids, command, &audit_entry(verb, target(&ids), reason))
            .map_err(runtime_error)?;
    let jobs = format_count(usize::try_from(count).unwrap_or(0), "job");
    writeln!(output::stdout(), "{} {jobs}", past_tense(verb)).map_err(runtime_error)
}

/// Prints the newest of the jobs that a command would change, and their number.
fn print_dry_run(store: &Store, verb: &str, ids: &[JobId]) -> Result<(), ExitError> {
    let shown = ids.len().saturating_sub(DRY_RUN_ROWS);
    let jobs: Vec<i64> = ids[shown..].iter().map(|job| job.0).collect();
    let mut out = output::stdout();
    if !jobs.is_empty() {
        let selector = queries::Selector { jobs, ..queries::Selector::default() };
        let offset_ms = store.clock.to_wall_ms(0);
        let rows = queries::list_jobs(&store.conn, &selector, i64::MAX, offset_ms)
            .map_err(runtime_error)?;
        output::print_table(&mut out, &rows, true).map_err(runtime_error)?;
    }
    let jobs = format_count(ids.len(), "job");
    let newest =
        if shown > 0 { format!(", the newest {DRY_RUN_ROWS} are listed") } else { String::new() };
    writeln!(out, "would {verb} {jobs}{newest}").map_err(runtime_error)
}

/// The target for the audit log: `job 7`, or none for several jobs.
fn target(ids: &[JobId]) -> Option<String> {
    match ids {
        [job] => Some(format!("job {job}")),
        _ => None,
    }
}

fn past_tense(verb: &str) -> &'static str {
    if verb == "retry" { "retried" } else { "cancelled" }
}

/// Checks that each named job exists and is in a state that the command can change.
fn check_jobs(store: &Store, selection: &JobSelection<'_>, verb: &str) -> Result<(), ExitError> {
    let mut errors = Vec::new();
    for &job in selection.jobs {
        let problem = match (
            queries::load_job_state(&store.conn, job).map_err(runtime_error)?,
            verb,
        ) {
            (None, _) => "there is no such job",
            (Some(JobState::Succeeded), "retry") => {
                "it has succeeded and cannot be retried: `hooktrail replay` creates a new job from its event"
            }
            (Some(JobState::Succeeded), _) => "it has succeeded already",
            (Some(JobState::Running), "retry") => "it is running",
            (Some(JobState::Cancelled), "cancel") => "it is cancelled already",
            (Some(JobState::Cancelled), _)
                if queries::is_expanded(&store.conn, job).map_err(runtime_error)? =>
            {
                "it was expanded into other jobs: retry those"
            }
            _ => continue,
        };
        errors.push(format!("job {job}: {problem}"));
    }
    check_selectors(store, selection.selectors, &mut errors)?;
    if verb == "cancel"
        && let Some(event) = selection.selectors.event()
        && deferred::is_deferred(&store.conn, EventId(event)).map_err(runtime_error)?
    {
        errors.push(format!(
            "event {event}: it is deferred, and its jobs do not exist yet: cancel them when \
             `hooktrail show {event}` lists them"
        ));
    }
    if errors.is_empty() { Ok(()) } else { Err(user_error(errors.join("\n"))) }
}

/// Checks that the handler, the source and the event of the selectors are in the database.
pub fn check_selectors(
    store: &Store,
    selectors: &SelectorArgs,
    errors: &mut Vec<String>,
) -> Result<(), ExitError> {
    check_handler_and_source(store, selectors.handler(), None, errors)?;
    check_source_and_event(store, selectors, errors)
}

/// Checks that a handler and a source are in the database.
pub fn check_handler_and_source(
    store: &Store,
    handler: Option<&str>,
    source: Option<&str>,
    errors: &mut Vec<String>,
) -> Result<(), ExitError> {
    if let Some(name) = handler
        && registry::find_handler(&store.conn, name).map_err(runtime_error)?.is_none()
    {
        errors.push(unknown_handler(name));
    }
    if let Some(name) = source
        && !registry::source_exists(&store.conn, name).map_err(runtime_error)?
    {
        errors.push(format!("source {name}: there is no such source in the database"));
    }
    Ok(())
}

/// Checks that the source and the event of the selectors are in the database.
pub fn check_source_and_event(
    store: &Store,
    selectors: &SelectorArgs,
    errors: &mut Vec<String>,
) -> Result<(), ExitError> {
    check_handler_and_source(store, None, selectors.source(), errors)?;
    if let Some(event) = selectors.event()
        && !registry::event_exists(&store.conn, event).map_err(runtime_error)?
    {
        errors.push(format!("event {event}: there is no such event"));
    }
    Ok(())
}

fn unknown_handler(name: &str) -> String {
    format!("handler {name}: there is no such handler in the database")
}

/// Asks on the terminal whether to change `count` jobs or events. If there are none, nothing is asked.
///
/// # Errors
/// Exit code 2: there is no terminal to ask on, however many there are.
pub fn confirm(question: &str, count: usize) -> Result<bool, ExitError> {
    if !std::io::stdin().is_terminal() {
        let text = format!(
            "{question} there is no terminal to ask on, and nothing was changed: add --yes, or \
             --dry-run to see what would be done"
        );
        return Err(ExitError { code: 2, text });
    }
    if count == 0 {
        return Ok(true);
    }
    write!(output::stderr(), "{question} [y/N] ").map_err(runtime_error)?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(runtime_error)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Pauses or resumes a handler.
pub fn set_paused(store: &Store, name: &str, is_paused: bool) -> Result<(), ExitError> {
    let verb = if is_paused { "pause" } else { "resume" };
    let Some(handler) = registry::find_handler(&store.conn, name).map_err(runtime_error)? else {
        return Err(user_error(unknown_handler(name)));
    };
    let is_changed = audit::set_paused(
        store,
        handler,
        is_paused,
        &audit_entry(verb, Some(name.to_owned()), None),
    )
    .map_err(runtime_error)?;
    let text = match (is_paused, is_changed) {
        (true, true) => format!("{name} is paused: its jobs wait until `hooktrail resume {name}`"),
        (true, false) => format!("{name} is already paused"),
        (false, true) => format!("{name} is resumed"),
        (false, false) => format!("{name} is not paused"),
    };
    writeln!(output::stdout(), "{text}").map_err(runtime_error)
}
