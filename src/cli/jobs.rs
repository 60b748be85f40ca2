//! `retry`, `cancel`, `pause`, `resume`: acts on the file itself, beside a server or without one. A
//! running server notices within a second.

use std::io::{BufRead, IsTerminal, Write};

use clap::Args;

use super::selector_args::SelectArgs;
use super::{ExitError, output, runtime_error, user_error};
use crate::clock;
use crate::domain::{EventId, JobId, JobState};
use crate::store::audit::{self, AuditEntry, JobCommand};
use crate::store::{Store, deferred, queries, registry};

/// `retry`
#[derive(Debug, Args)]
pub struct RetryArgs {
    /// These jobs; or a selection by the options
    jobs: Vec<i64>,
    #[command(flatten)]
    select: SelectArgs,
    /// All dead, cancelled and waiting jobs
    #[arg(long)]
    all: bool,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
}

/// `cancel`
#[derive(Debug, Args)]
pub struct CancelArgs {
    /// These jobs; or a selection by the options
    jobs: Vec<i64>,
    #[command(flatten)]
    select: SelectArgs,
    /// All queued, running and dead jobs
    #[arg(long)]
    all: bool,
    /// Kept with each job
    #[arg(long, value_name = "TEXT", default_value = "cancelled")]
    reason: String,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
}

/// Which jobs, and whether to ask.
struct Selection<'a> {
    jobs: &'a [i64],
    select: &'a SelectArgs,
    all: bool,
    yes: bool,
}

/// Dead, cancelled or waiting jobs run again now.
pub fn retry(store: &Store, args: &RetryArgs) -> Result<(), ExitError> {
    let RetryArgs { jobs, select, all, yes } = args;
    let wanted = Selection { jobs, select, all: *all, yes: *yes };
    apply(store, &wanted, &JobCommand::Retry, ("retry", "1, 4, 5"))
}

/// Queued jobs never run, running ones are ended, dead ones are dismissed.
pub fn cancel(store: &Store, args: &CancelArgs) -> Result<(), ExitError> {
    let CancelArgs { jobs, select, all, reason, yes } = args;
    let wanted = Selection { jobs, select, all: *all, yes: *yes };
    let change = JobCommand::Cancel { reason: reason.clone() };
    apply(store, &wanted, &change, ("cancel", "-1, 0, 1, 2, 4, 6"))
}

fn apply(
    store: &Store,
    wanted: &Selection<'_>,
    change: &JobCommand,
    (verb, states): (&str, &str),
) -> Result<(), ExitError> {
    let by_selection = !wanted.select.is_empty() || wanted.all;
    if wanted.jobs.is_empty() && !by_selection {
        let text =
            format!("{verb}: which jobs? Name them, or select by --handler, --all and others");
        return Err(ExitError { code: 2, text });
    }
    check_named(store, wanted, verb)?;
    let selector = wanted.select.selector(wanted.jobs);
    let ids = queries::list_job_ids(&store.conn, &selector, states).map_err(runtime_error)?;
    if by_selection && !ids.is_empty() && !wanted.yes && !confirmed(verb, ids.len())? {
        return Err(user_error("nothing was changed"));
    }
    let reason = match change {
        JobCommand::Cancel { reason } => Some(reason.clone()),
        JobCommand::Retry => None,
    };
    let changed =
        audit::apply_to_jobs(store, &ids, change, &audit_entry(verb, target(&ids), reason))
            .map_err(runtime_error)?;
    let (jobs, done) = (if changed == 1 { "job" } else { "jobs" }, past_tense(verb));
    writeln!(output::stdout(), "{done} {changed} {jobs}").map_err(runtime_error)
}

/// The target in the audit log: `job 7`, or none for a selection.
fn target(ids: &[JobId]) -> Option<String> {
    match ids {
        [job] => Some(format!("job {job}")),
        _ => None,
    }
}

fn past_tense(verb: &str) -> &'static str {
    if verb == "retry" { "retried" } else { "cancelled" }
}

/// What is named must be there, and in a state that can be changed.
fn check_named(store: &Store, wanted: &Selection<'_>, verb: &str) -> Result<(), ExitError> {
    let mut faults = Vec::new();
    for &job in wanted.jobs {
        let why = match (queries::load_job_state(&store.conn, job).map_err(runtime_error)?, verb) {
            (None, _) => "there is no such job",
            (Some(JobState::Succeeded), "retry") => {
                "it has succeeded, and runs no more: `hooktrail replay` makes a new job of its event"
            }
            (Some(JobState::Succeeded), _) => "it has succeeded already",
            (Some(JobState::Running), "retry") => "it is running",
            (Some(JobState::Cancelled), "cancel") => "it is cancelled already",
            (Some(JobState::Cancelled), _)
                if queries::is_expanded(&store.conn, job).map_err(runtime_error)? =>
            {
                "it was expanded into others: retry those"
            }
            _ => continue,
        };
        faults.push(format!("job {job}: {why}"));
    }
    check_selected(store, wanted.select, &mut faults)?;
    if verb == "cancel"
        && let Some(event) = wanted.select.event()
        && deferred::is_deferred(&store.conn, EventId(event)).map_err(runtime_error)?
    {
        faults.push(format!(
            "event {event}: its jobs are not there yet, so they can't be cancelled: wait until `hooktrail \
             show {event}` lists them"
        ));
    }
    if faults.is_empty() { Ok(()) } else { Err(user_error(faults.join("\n"))) }
}

/// Names and numbers in selectors must be known to the trail.
pub fn check_selected(
    store: &Store,
    select: &SelectArgs,
    faults: &mut Vec<String>,
) -> Result<(), ExitError> {
    if let (Some(name), _) = select.names()
        && registry::find_handler(&store.conn, name).map_err(runtime_error)?.is_none()
    {
        faults.push(format!("handler {name}: the trail knows none of that name"));
    }
    check_origin(store, select, faults)
}

/// The source and the event in selectors must be known to the trail.
pub fn check_origin(
    store: &Store,
    select: &SelectArgs,
    faults: &mut Vec<String>,
) -> Result<(), ExitError> {
    if let (_, Some(name)) = select.names()
        && !registry::source_exists(&store.conn, name).map_err(runtime_error)?
    {
        faults.push(format!("source {name}: the trail knows none of that name"));
    }
    if let Some(event) = select.event()
        && !registry::event_exists(&store.conn, event).map_err(runtime_error)?
    {
        faults.push(format!("event {event}: there is no such event"));
    }
    Ok(())
}

fn confirmed(verb: &str, count: usize) -> Result<bool, ExitError> {
    let jobs = if count == 1 { "job" } else { "jobs" };
    confirm(&format!("{verb} {count} {jobs}?"))
}

/// What a person at a terminal says to a question; without one, yes.
pub fn confirm(question: &str) -> Result<bool, ExitError> {
    if !std::io::stdin().is_terminal() {
        return Ok(true);
    }
    write!(output::stderr(), "{question} [y/N] ").map_err(runtime_error)?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(runtime_error)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Pauses or resumes a handler.
pub fn pause(store: &Store, name: &str, paused: bool) -> Result<(), ExitError> {
    let verb = if paused { "pause" } else { "resume" };
    let Some(handler) = registry::find_handler(&store.conn, name).map_err(runtime_error)? else {
        return Err(user_error(format!("handler {name}: the trail knows none of that name")));
    };
    let changed =
        audit::set_paused(store, handler, paused, &audit_entry(verb, Some(name.to_owned()), None))
            .map_err(runtime_error)?;
    let text = match (paused, changed) {
        (true, true) => format!("{name} is paused: its jobs wait until `hooktrail resume {name}`"),
        (true, false) => format!("{name} was paused already"),
        (false, true) => format!("{name} runs again"),
        (false, false) => format!("{name} was not paused"),
    };
    writeln!(output::stdout(), "{text}").map_err(runtime_error)
}

/// Who did it, as far as that is known.
pub fn audit_entry(action: &str, target: Option<String>, reason: Option<String>) -> AuditEntry {
    let name = |variable: &str| std::env::var(variable).ok().filter(|name| !name.is_empty());
    let who = name("SUDO_USER").or_else(|| name("USER")).or_else(|| name("LOGNAME"));
    let who = who.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    AuditEntry {
        at_ms: clock::wall_ms(),
        who,
        via: "cli",
        action: action.to_owned(),
        target,
        jobs: 0,
        reason,
    }
}
