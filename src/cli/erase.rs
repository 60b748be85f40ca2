//! `erase`: removes the content of events for good.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::audit::audit_entry;
use super::dry_run::{compile, task_builder};
use super::id_list::{IdList, parse_id_list};
use super::jobs::confirm;
use super::output::{self, escape_line};
use super::progress::{Interruption, ProgressLine};
use super::selector_checks::{check_event, check_ranges, reject_if_any};
use super::{ExitError, open_store_to_write, usage_error, user_error};
use crate::config::{Handler, LoadedConfig};
use crate::domain::HandlerId;
use crate::domain::id_set::IdSet;
use crate::domain::job_plan::JobSpec;
use crate::expression::Expression;
use crate::numbers::{format_count, group_digits};
use crate::planner::JobPlanner;
use crate::replay::evaluation::{self, StoredEvent};
use crate::store::Store;
use crate::store::erasure::{self, ErasedEvent, Erasure};

/// Events that a line of output names.
const MAX_NAMED_EVENTS: usize = 20;

/// Arguments of `erase`.
#[derive(Debug, Args)]
pub struct EraseArgs {
    /// Numbers of the events, such as 12, 4,5 or 4-6
    #[arg(value_name = "EVENT", value_parser = parse_id_list, allow_negative_numbers = true)]
    events: Vec<IdList>,
    /// Erase the events for which this jq expression has an output that is neither false nor null. With EVENT: of
    /// these events
    #[arg(long = "where", value_name = "JQ")]
    condition: Option<String>,
    /// Reason for the audit log. The expression is not recorded
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Print what would be erased and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The events that the arguments name.
#[derive(Default)]
struct Selection {
    events: IdSet,
    /// Events on which the expression fails, each with the reason.
    failed: Vec<(i64, String)>,
    /// Events without a body, on which nothing can be evaluated.
    bodyless: u64,
}

/// Removes the content of events for good.
pub fn erase(loaded: &LoadedConfig, args: &EraseArgs) -> Result<(), ExitError> {
    if args.events.is_empty() && args.condition.is_none() {
        return Err(usage_error(
            "erase: no events are given: expected event numbers, or an expression with --where",
        ));
    }
    let condition = args.condition.as_deref().map(|text| compile("--where", text)).transpose()?;
    let store = &open_store_to_write(loaded, args.dry_run)?;
    check_events(store, args)?;
    let interruption = Interruption::watch()?;
    let selection = select(loaded, store, args, condition, &interruption)?;
    let count = format_count(selection.events.len(), "event");
    if args.dry_run {
        print(args, store, &selection, None)?;
        return report(&selection, &[]);
    }
    let question = format!("erase {count} for good?");
    let is_bulk = args.condition.is_some() || IdList::given_ranges(&args.events).next().is_some();
    if is_bulk && !args.yes && !confirm(&question, selection.events.len())? {
        return Err(user_error("nothing was changed"));
    }
    let (erased, unsettled) = run(store, args, &selection.events, &interruption)?;
    print(args, store, &selection, Some(&erased))?;
    if interruption.control_flow().is_break() {
        return Err(user_error("interrupted: run the same command again for the rest"));
    }
    report(&selection, &unsettled)
}

/// Checks that the named events exist.
fn check_events(store: &Store, args: &EraseArgs) -> Result<(), ExitError> {
    let mut errors = Vec::new();
    for event in IdList::singles(&args.events) {
        errors.extend(check_event(store, event)?);
    }
    check_ranges(store, &args.events, "event", &mut errors)?;
    reject_if_any(errors)
}

/// Finds the events. Those for which the expression fails are left.
fn select(
    loaded: &LoadedConfig,
    store: &Store,
    args: &EraseArgs,
    condition: Option<Expression>,
    interruption: &Interruption,
) -> Result<Selection, ExitError> {
    let builder = task_builder(loaded, store)?;
    let has_condition = condition.is_some();
    let handler = Handler { when: condition, ..Handler::with_defaults("where", Path::new(".")) };
    let planner = JobPlanner::for_handlers([(&handler, HandlerId(0))].into_iter());
    let mut ranges: Vec<_> = IdList::to_ranges(&args.events).iter().collect();
    if args.events.is_empty() {
        ranges.push(1..=i64::MAX);
    }
    let mut selection = Selection::default();
    let (mut line, mut read) = (ProgressLine::new(), 0_u64);
    for range in ranges {
        let mut next = *range.start();
        loop {
            let found =
                erasure::list_events(&store.conn, next, *range.end(), evaluation::MAX_AHEAD)?;
            let Some(&(last, ..)) = found.last() else { break };
            read += found.len() as u64;
            let events: Vec<StoredEvent<'_>> = found
                .iter()
                .map(|&(event, source, _)| StoredEvent {
                    event,
                    source,
                    expressions: planner.expressions(),
                })
                .collect();
            let (results, _) = evaluation::evaluate(store, &builder, &events)?;
            for (&(event, _, has_body), result) in found.iter().zip(results) {
                let specs = match result {
                    Some(result) => planner.plan_from(result).plan.into_specs(),
                    None if has_condition && !has_body => {
                        selection.bodyless += 1;
                        continue;
                    }
                    None => planner.unconditional_plan().plan.into_specs(),
                };
                match specs.into_iter().next() {
                    None => {}
                    Some((_, JobSpec::Dead(reason))) => selection.failed.push((event, reason)),
                    Some(_) => selection.events.insert(event),
                }
            }
            if interruption.control_flow().is_break() {
                line.clear();
                return Err(user_error("interrupted: nothing was changed"));
            }
            line.update(|| {
                let (read, found) = (group_digits(read), group_digits(selection.events.len()));
                format!("read {read} events, {found} selected")
            });
            if last == *range.end() {
                break;
            }
            next = last + 1;
        }
    }
    Ok(selection)
}

/// Erases the events. Returns those that are erased, and those that are not settled.
fn run(
    store: &Store,
    args: &EraseArgs,
    events: &IdSet,
    interruption: &Interruption,
) -> Result<(Vec<i64>, Vec<i64>), ExitError> {
    let target = match (events.len(), events.iter().next()) {
        (1, Some(event)) => format!("event {event}"),
        (count, _) => format_count(count, "event"),
    };
    let entry = audit_entry("erase", Some(target), args.reason.clone());
    let mut running = Erasure::new(store, entry)?;
    let (mut erased, mut unsettled) = (Vec::new(), Vec::new());
    let mut line = ProgressLine::new();
    for event in events.iter() {
        if interruption.control_flow().is_break() {
            break;
        }
        match running.erase(event)? {
            ErasedEvent::Erased => erased.push(event),
            ErasedEvent::Unsettled => unsettled.push(event),
            ErasedEvent::Missing => {}
        }
        line.update(|| {
            format!("erased {} of {}", erased.len(), format_count(events.len(), "event"))
        });
    }
    running.remove_logged_quotes()?;
    // Also after Ctrl-C: no bytes of the events erased so far may stay in the files.
    while !running.cut_free_pages()? {
        line.update(|| {
            format!("erased {}, shrinking the file", format_count(erased.len(), "event"))
        });
    }
    while !running.fill_gaps()? {
        line.update(|| format!("erased {}, looking at pages", format_count(erased.len(), "event")));
    }
    running.cut_wal()?;
    Ok((erased, unsettled))
}

fn print(
    args: &EraseArgs,
    store: &Store,
    selection: &Selection,
    erased: Option<&[i64]>,
) -> Result<(), ExitError> {
    let mut out = output::stdout();
    let copies = erasure::find_copies(&store.path);
    let all: Vec<i64> = selection.events.iter().collect();
    let events = erased.unwrap_or(&all);
    if args.json {
        let failed: Vec<i64> = selection.failed.iter().map(|(event, _)| *event).collect();
        let copies: Vec<String> = copies.iter().map(|file| file.display().to_string()).collect();
        let line = json!({"events": events, "failed": failed, "without_body": selection.bodyless,
            "copies": copies, "dry_run": args.dry_run});
        writeln!(out, "{}", output::json_line(&line))?;
        return Ok(out.flush()?);
    }
    let verb = if erased.is_some() { "erased" } else { "would erase" };
    let names: Vec<String> = events.iter().take(MAX_NAMED_EVENTS).map(i64::to_string).collect();
    let more = events.len().saturating_sub(MAX_NAMED_EVENTS);
    let more =
        if more > 0 { format!(" and {} more", group_digits(more as u64)) } else { String::new() };
    let names =
        if names.is_empty() { String::new() } else { format!(": {}{more}", names.join(", ")) };
    writeln!(out, "{verb} {}{names}", format_count(events.len(), "event"))?;
    if selection.bodyless > 0 {
        let bodyless = format_count(selection.bodyless, "event");
        writeln!(out, "not looked at: {bodyless} without a body")?;
    }
    if erased.is_some() {
        print_copies(&mut out, &copies)?;
    }
    Ok(out.flush()?)
}

/// Prints where the content may still be.
fn print_copies(out: &mut impl Write, copies: &[PathBuf]) -> std::io::Result<()> {
    for file in copies {
        writeln!(out, "not changed: {}", escape_line(&file.display().to_string()))?;
    }
    writeln!(out, "not changed: backups and replicas elsewhere, and what handlers passed on")
}

/// Reports the events that were left.
fn report(selection: &Selection, unsettled: &[i64]) -> Result<(), ExitError> {
    let failed = selection.failed.iter().map(|(event, reason)| {
        format!("event {event}: it is left, because the expression fails: {reason}")
    });
    let unsettled = unsettled.iter().map(|event| {
        format!(
            "event {event}: it is left, because a job of it is queued or running: cancel it first"
        )
    });
    reject_if_any(failed.chain(unsettled).collect())
}
