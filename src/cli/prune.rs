//! `prune`: removes old events and bodies.

use std::io::Write;
use std::ops::ControlFlow;

use clap::Args;
use serde_json::json;

use super::audit::audit_entry;
use super::jobs::confirm;
use super::output;
use super::progress::{Interruption, ProgressLine};
use super::{ExitError, open_store_to_write, usage_error, user_error};
use crate::clock;
use crate::config::{LoadedConfig, Retention};
use crate::numbers::{format_count, group_digits};
use crate::store::prune::Prune;
use crate::store::retention::{self, RemovedPart, RetentionRule, Scanner};
use crate::store::{Store, queries};
use crate::time_input::parse_time;

/// Arguments of `prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Remove the events that settled before this time: 2026-11-23, 30d or "6 months ago"
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    before: Option<i64>,
    /// Print what would be removed and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The numbers of removed events and bodies, or in a dry run of those to remove.
#[derive(Clone, Copy, Default)]
struct PruneCounts {
    events: u64,
    jobs: u64,
    /// Events of which the body alone is removed.
    bodies: u64,
    /// Events that were received early enough and stay.
    waiting: u64,
}

impl PruneCounts {
    fn describe(&self) -> String {
        match (self.events, self.bodies) {
            (events, 0) => format_count(events, "event"),
            (0, bodies) => format!("the bodies of {}", format_count(bodies, "event")),
            (events, bodies) => format!(
                "{} and the bodies of {}",
                format_count(events, "event"),
                format_count(bodies, "other event")
            ),
        }
    }
}

/// Removes old events and bodies.
pub fn prune(loaded: &LoadedConfig, args: &PruneArgs) -> Result<(), ExitError> {
    let store = &open_store_to_write(loaded, args.dry_run)?;
    let now_ms = clock::wall_ms();
    let rules = find_rules(store, loaded, args.before, now_ms)?;
    let interruption = Interruption::watch()?;
    let planned = count(store, &rules, args, now_ms, &interruption)?;
    if args.dry_run {
        return print(args, &planned, "would remove");
    }
    let question = format!("remove {}?", planned.describe());
    if !args.yes && !confirm(&question, planned.events + planned.bodies)? {
        return Err(user_error("nothing was changed"));
    }
    let removed = remove(store, &rules, args, now_ms, &interruption)?;
    print(args, &PruneCounts { waiting: planned.waiting, ..removed }, "removed")?;
    if interruption.control_flow().is_break() {
        return Err(user_error("interrupted: run the same command again for the rest"));
    }
    Ok(())
}

/// Returns the rules of the configuration, or for `--before` a rule for each source.
fn find_rules(
    store: &Store,
    loaded: &LoadedConfig,
    before_ms: Option<i64>,
    now_ms: i64,
) -> Result<Vec<RetentionRule>, ExitError> {
    let Some(before_ms) = before_ms else {
        let find = |source: &str| loaded.config.retention_of(source);
        let rules = retention::load_rules(&store.conn, find)?;
        if rules.is_empty() {
            return Err(usage_error(
                "prune: config.toml keeps everything forever: set `retention` of [store] or of a source, or \
                 name a time with --before",
            ));
        }
        return Ok(rules);
    };
    let age_ms = u64::try_from(now_ms - before_ms).map_err(|_| {
        let before = clock::format_local(before_ms);
        usage_error(format!(
            "prune: --before {before} is in the future: expected a time before now"
        ))
    })?;
    let events = Some(std::time::Duration::from_millis(age_ms));
    let find = |source: &str| {
        let dead_jobs = loaded.config.retention_of(source).dead_jobs;
        Retention { bodies: None, events, dead_jobs }
    };
    Ok(retention::load_rules(&store.conn, find)?)
}

fn scanner(store: &Store, rule: RetentionRule, args: &PruneArgs) -> Result<Scanner, ExitError> {
    match args.before {
        Some(_) => Ok(Scanner::from_first_event(rule)),
        None => Ok(Scanner::resume(&store.conn, rule)?),
    }
}

/// PruneCounts what the rules would remove.
fn count(
    store: &Store,
    rules: &[RetentionRule],
    args: &PruneArgs,
    now_ms: i64,
    interruption: &Interruption,
) -> Result<PruneCounts, ExitError> {
    let mut counts = PruneCounts::default();
    let mut line = ProgressLine::new();
    for rule in rules {
        let of_event = rules
            .iter()
            .find(|other| other.source == rule.source && other.part == RemovedPart::Event);
        let mut scanner = scanner(store, *rule, args)?;
        while let Some(batch) = scanner.next_batch(&store.conn, now_ms)? {
            let mut removals = batch.removals();
            match (rule.part, of_event) {
                (RemovedPart::Event, _) => {
                    counts.events += removals as u64;
                    counts.waiting += batch.waits() as u64;
                }
                (RemovedPart::Body | RemovedPart::Quotes, of_event) => {
                    if let Some(of_event) = of_event {
                        removals -= batch.count_removed_by(&store.conn, of_event)?;
                    }
                    counts.bodies += removals as u64;
                }
            }
            line.update(|| format!("found {}", counts.describe()));
            if interruption.control_flow().is_break() {
                line.clear();
                return Err(user_error("interrupted: nothing was changed"));
            }
        }
    }
    Ok(counts)
}

/// Applies the rules. Ctrl-C ends it after the current batch.
fn remove(
    store: &Store,
    rules: &[RetentionRule],
    args: &PruneArgs,
    now_ms: i64,
    interruption: &Interruption,
) -> Result<PruneCounts, ExitError> {
    let reason = match args.before {
        Some(before_ms) => format!("settled before {}", clock::format_rfc3339(before_ms)),
        None => "by retention".to_owned(),
    };
    let mut prune = Prune::new(store, audit_entry("prune", None, Some(reason)));
    prune.finish_removals()?;
    let newest = queries::find_newest_event(&store.conn)?.unwrap_or(0).max(1);
    let mut counts = PruneCounts::default();
    let mut line = ProgressLine::new();
    let has_ended = || interruption.control_flow() == ControlFlow::Break(());
    for rule in rules {
        let mut scanner = scanner(store, *rule, args)?;
        while !has_ended()
            && let Some(batch) = scanner.next_batch(&store.conn, now_ms)?
        {
            let done = prune.apply(&batch)?;
            match rule.part {
                RemovedPart::Event => counts.events += done.events,
                RemovedPart::Body | RemovedPart::Quotes => counts.bodies += done.events,
            }
            counts.jobs += done.jobs;
            let event = batch.last_event();
            line.update(|| format!("removed {}, {} %", counts.describe(), 100 * event / newest));
        }
    }
    while !has_ended() && !prune.return_free_pages()? {
        line.update(|| format!("removed {}, shrinking the file", counts.describe()));
    }
    Ok(counts)
}

fn print(args: &PruneArgs, counts: &PruneCounts, verb: &str) -> Result<(), ExitError> {
    let mut out = output::stdout();
    let PruneCounts { events, jobs, bodies, waiting } = *counts;
    if args.json {
        let jobs = Some(jobs).filter(|_| !args.dry_run);
        let line = json!({"events": events, "bodies": bodies, "jobs": jobs, "kept": waiting,
            "dry_run": args.dry_run});
        writeln!(out, "{}", output::json_line(&line))?;
    } else {
        writeln!(out, "{verb} {}", counts.describe())?;
        if waiting > 0 && args.before.is_some() {
            let waiting = group_digits(waiting);
            writeln!(
                out,
                "kept {waiting} that settled later or have not, or that a dead job protects"
            )?;
        }
    }
    Ok(out.flush()?)
}
