//! Checks that what a command names exists in the database, before it does anything.

use super::id_list::IdList;
use super::selector_args::SelectorArgs;
use super::{ExitError, user_error};
use crate::store::{Store, queries, registry};

/// The most errors that a command prints.
const MAX_ERRORS: usize = 20;

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
        && registry::find_handler(&store.conn, name)?.is_none()
    {
        errors.push(unknown_handler(name));
    }
    if let Some(name) = source
        && !registry::source_exists(&store.conn, name)?
    {
        errors.push(format!("source {name}: there is no such source in the database"));
    }
    Ok(())
}

/// Checks that the source and the event of the selectors are in the database, and that their times are in
/// order.
pub fn check_source_and_event(
    store: &Store,
    selectors: &SelectorArgs,
    errors: &mut Vec<String>,
) -> Result<(), ExitError> {
    selectors.check_times()?;
    check_handler_and_source(store, None, selectors.source(), errors)?;
    if let Some(event) = selectors.event() {
        errors.extend(check_event(store, event)?);
    }
    Ok(())
}

/// Returns an error if the event does not exist. If there is a job of that number, the error names it.
pub fn check_event(store: &Store, event: i64) -> Result<Option<String>, ExitError> {
    if registry::event_exists(&store.conn, event)? {
        return Ok(None);
    }
    let text = format!("event {event}: there is no such event");
    let job_event = queries::find_event_of_job(&store.conn, event)?;
    Ok(Some(match job_event {
        Some(other) => format!(
            "{text}; did you mean job {event}, which is of event {other} (`hooktrail show {other} --job {event}`)?"
        ),
        None => text,
    }))
}

/// Returns the error for a job that does not exist. If there is an event of that number, the error names it.
pub fn unknown_job(store: &Store, job: i64, verb: &str) -> Result<String, ExitError> {
    let text = format!("job {job}: there is no such job");
    let is_event = registry::event_exists(&store.conn, job)?;
    Ok(match is_event {
        true => format!(
            "{text}; did you mean the jobs of event {job} (`hooktrail {verb} --event {job}`)?"
        ),
        false => text,
    })
}

pub fn unknown_handler(name: &str) -> String {
    format!("handler {name}: there is no such handler in the database")
}

/// Checks that each given range has a row. `noun` is `job` or `event`.
pub fn check_ranges(
    store: &Store,
    lists: &[IdList],
    noun: &str,
    errors: &mut Vec<String>,
) -> Result<(), ExitError> {
    for range in IdList::given_ranges(lists) {
        let (first, last) = (*range.start(), *range.end());
        let exists = match noun {
            "job" => queries::has_jobs_between(&store.conn, first, last),
            _ => queries::find_event_between(&store.conn, first, last).map(|found| found.is_some()),
        };
        if !exists? {
            errors.push(format!("{noun}s {first}-{last}: there is no such {noun}"));
        }
    }
    Ok(())
}

/// Makes one error of all, with exit code 1. Many errors are cut.
pub fn reject_if_any(mut errors: Vec<String>) -> Result<(), ExitError> {
    if errors.len() > MAX_ERRORS {
        let more = errors.len() - MAX_ERRORS;
        errors.truncate(MAX_ERRORS);
        errors.push(format!("and {more} more"));
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(user_error(errors.join("\n"))),
    }
}
