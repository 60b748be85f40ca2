//! Replay: selects stored events and handlers, evaluates the events with the current configuration, and
//! inserts new jobs in small transactions.
//!
//! Events are read and evaluated outside of any transaction. Only the new rows are written in one.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::config::{Config, Handler};
use crate::domain::id_set::{IdRanges, IdSet};
use crate::domain::{HandlerId, INTERNAL_SOURCE, SourceId};
use crate::planner::{JobPlanner, settled_jobs};
use crate::store::audit::AuditEntry;
use crate::store::queries::Selector;
use crate::store::replay::{self, PlannedReplay};
use crate::store::selection::{self, BulkProgress, OnProgress, SelectedEvents};
use crate::store::transaction_end::write_directly;
use crate::store::{self, Store, registry};
use crate::worker::{self, task_builder::TaskBuilder};

pub mod evaluation;

use evaluation::StoredEvent;

/// Maximum number of events and jobs, and maximum size of the bodies, that are in memory at once.
const MAX_CHUNK_EVENTS: usize = 10_000;
const MAX_CHUNK_JOBS: usize = 20_000;
const MAX_CHUNK_BODY_BYTES: usize = 8 << 20;

/// A chunk of events is written after this time, so that a slow expression delays neither the progress nor
/// an interruption.
const MAX_CHUNK_TIME: Duration = Duration::from_millis(200);

/// The events and the handler of a replay.
#[derive(Clone, Debug)]
pub struct ReplayRequest<'a> {
    pub selector: Selector,
    /// Only these events. Empty: all.
    pub events: IdRanges,
    /// Only this handler, which is configured. `None` means all handlers of the events' sources.
    pub handler: Option<&'a str>,
}

/// The selected events with the handlers that take them.
pub struct ReplaySelection<'a> {
    task_builder: &'a TaskBuilder,
    groups: Vec<EventGroup>,
    names: HashMap<HandlerId, String>,
    /// Events that no handler takes.
    unmatched: IdSet,
}

/// Selected events of one source that the same handlers take. Each event is in one group.
struct EventGroup {
    source: SourceId,
    handlers: Vec<HandlerId>,
    planner: JobPlanner,
    events: IdSet,
}

/// The result of a replay.
#[derive(Clone, Debug, Default)]
pub struct ReplaySummary {
    /// At the end, or where the replay was interrupted.
    pub progress: BulkProgress,
    /// Events that no longer exist or have no body.
    pub missing_events: Vec<i64>,
    /// If the replay was interrupted: the first and the last of the events that are not replayed.
    pub remaining: Option<RangeInclusive<i64>>,
}

/// The ids of the configured handlers. A handler that is not in the database yet gets a temporary negative
/// id until its jobs are inserted.
fn handlers_with_ids<'c>(
    store: &Store,
    config: &'c Config,
) -> store::Result<Vec<(&'c Handler, HandlerId)>> {
    let number = |(handler, unknown): (&'c Handler, i64)| {
        let known = registry::find_handler(&store.conn, &handler.name)?;
        Ok((handler, known.unwrap_or(HandlerId(-unknown))))
    };
    config.handlers.iter().zip(1..).map(number).collect()
}

/// Selects the events, and the handlers that take them by the current configuration.
///
/// # Errors
/// The read failed.
pub fn select_events<'a>(
    store: &Store,
    config: &Config,
    request: &ReplayRequest<'_>,
    task_builder: &'a TaskBuilder,
    on_progress: &mut OnProgress<'_>,
) -> anyhow::Result<ReplaySelection<'a>> {
    let mut selector = request.selector.clone();
    if !selector.has_job_conditions() {
        // `--handler` names the handler of the new jobs, not that of earlier ones.
        selector.handler = None;
    }
    let selected = selection::select_events(&store.conn, &selector, &request.events, on_progress)?;
    let handlers = handlers_with_ids(store, config)?;
    let sources = registry::source_names(&store.conn)?;
    let mut result = ReplaySelection {
        task_builder,
        groups: Vec::new(),
        names: handlers.iter().map(|(handler, id)| (*id, handler.name.clone())).collect(),
        unmatched: IdSet::default(),
    };
    for (source, ids, events) in group_by_handlers(&selected, |source, handler| {
        let is_matching = |(candidate, id): &&(&Handler, HandlerId)| {
            request.handler.is_none_or(|name| name == candidate.name)
                && handler.is_none_or(|handler| handler == *id)
                && sources.get(&source).is_some_and(|name| candidate.sources.contains(name))
        };
        handlers.iter().filter(is_matching).map(|(_, id)| *id).collect()
    }) {
        if ids.is_empty() {
            result.unmatched.extend(events.iter());
            continue;
        }
        let matching = handlers.iter().filter(|(_, id)| ids.contains(id)).copied();
        let planner = match sources.get(&source) {
            Some(name) if name == INTERNAL_SOURCE => settled_jobs::stored_alert_planner(matching),
            _ => JobPlanner::for_handlers(matching),
        };
        result.groups.push(EventGroup { source, handlers: ids, planner, events });
    }
    Ok(result)
}

/// Groups events by their source and by the handlers that take them. `match_handlers` returns those for a
/// source and a selected handler. An event may be selected more than once, each time for another handler.
fn group_by_handlers(
    selected: &SelectedEvents,
    match_handlers: impl Fn(SourceId, Option<HandlerId>) -> Vec<HandlerId>,
) -> Vec<(SourceId, Vec<HandlerId>, IdSet)> {
    let entries: Vec<(SourceId, Vec<HandlerId>, &IdSet)> = selected
        .iter()
        .map(|((source, handler), events)| (*source, match_handlers(*source, *handler), events))
        .collect();
    let mut groups = Vec::new();
    for of_source in entries.chunk_by(|a, b| a.0 == b.0) {
        if let [(source, handlers, events)] = of_source {
            groups.push((*source, handlers.clone(), (*events).clone()));
            continue;
        }
        let mut by_handlers: BTreeMap<Vec<HandlerId>, IdSet> = BTreeMap::new();
        let mut events = IdSet::default();
        of_source.iter().for_each(|(_, _, selected)| events.extend(selected.iter()));
        for event in events.iter() {
            let matching = of_source.iter().filter(|(_, _, selected)| selected.contains(event));
            let mut handlers: Vec<HandlerId> =
                matching.flat_map(|(_, handlers, _)| handlers.iter().copied()).collect();
            handlers.sort_unstable();
            by_handlers.entry(handlers).or_default().insert(event);
        }
        let source = of_source[0].0;
        groups.extend(by_handlers.into_iter().map(|(handlers, events)| (source, handlers, events)));
    }
    groups
}

impl ReplaySelection<'_> {
    /// The number of events that a handler takes.
    pub fn events(&self) -> u64 {
        self.groups.iter().map(|group| group.events.len()).sum()
    }

    /// The selected events that no handler takes.
    pub fn unmatched(&self) -> &IdSet {
        &self.unmatched
    }

    /// The handlers, each with the number of events that it takes.
    pub fn counts(&self) -> Vec<(&str, u64)> {
        let mut counts: BTreeMap<HandlerId, u64> = BTreeMap::new();
        for group in &self.groups {
            for handler in &group.handlers {
                *counts.entry(*handler).or_default() += group.events.len();
            }
        }
        counts.into_iter().map(|(id, events)| (self.name(id), events)).collect()
    }

    fn last_event(&self) -> i64 {
        self.groups.iter().filter_map(|group| group.events.iter().next_back()).max().unwrap_or(0)
    }

    /// Returns the events that a handler takes, oldest first, each with its group.
    fn iter(&self) -> impl Iterator<Item = (i64, &EventGroup)> {
        let mut groups: Vec<_> =
            self.groups.iter().map(|group| (group, group.events.iter().peekable())).collect();
        std::iter::from_fn(move || {
            let next = |(_, events): &mut (_, std::iter::Peekable<_>)| events.peek().copied();
            let ids =
                groups.iter_mut().enumerate().filter_map(|(at, group)| Some((next(group)?, at)));
            let (_, at) = ids.min()?;
            let (group, events) = &mut groups[at];
            Some((events.next()?, *group))
        })
    }

    /// The name of a handler.
    pub fn name(&self, handler: HandlerId) -> &str {
        self.names.get(&handler).map_or("?", String::as_str)
    }

    /// Inserts the jobs. Reports the progress after each chunk, and stops there if `on_progress` breaks.
    ///
    /// # Errors
    /// The database cannot be read or written, or no evaluator was free.
    pub fn run(
        &self,
        store: &Store,
        config: &Config,
        audit: AuditEntry,
        on_progress: &mut OnProgress<'_>,
    ) -> anyhow::Result<ReplaySummary> {
        let real_ids = self.register(store, config)?;
        let mut replay = replay::Replay::new(store, audit);
        let mut progress = BulkProgress { total: self.events(), ..BulkProgress::default() };
        let mut events = self.iter();
        while progress.done < progress.total {
            let mut replays = self.evaluate_chunk(store, &mut events)?;
            for (handler, _) in replays.iter_mut().flat_map(|(_, planned)| &mut planned.specs) {
                *handler = *real_ids.get(handler).unwrap_or(handler);
            }
            let planned: Vec<PlannedReplay> =
                replays.into_iter().map(|(_, planned)| planned).collect();
            replay.insert_jobs(&planned).with_context(|| {
                format!("stopped after {} of {} events", progress.done, progress.total)
            })?;
            progress.done += u64::try_from(planned.len()).unwrap_or(0);
            progress.jobs = replay.jobs().unsigned_abs();
            if on_progress(progress).is_break() {
                break;
            }
        }
        let remaining = events.next().map(|(event, _)| event..=self.last_event());
        Ok(ReplaySummary { progress, missing_events: replay.missing_events().to_vec(), remaining })
    }

    /// Calls `visit` with the planned jobs of each event and inserts nothing.
    ///
    /// # Errors
    /// The database cannot be read, `visit` failed, or no evaluator was free.
    pub fn for_each(
        &self,
        store: &Store,
        visit: &mut dyn FnMut(&str, &PlannedReplay) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let sources = registry::source_names(&store.conn)?;
        let mut events = self.iter();
        loop {
            let replays = self.evaluate_chunk(store, &mut events)?;
            if replays.is_empty() {
                return Ok(());
            }
            for (group, planned) in &replays {
                visit(sources.get(&group.source).map_or("?", String::as_str), planned)?;
            }
        }
    }

    /// Registers the handlers that the database does not know yet. Maps their temporary ids to real ones.
    fn register(
        &self,
        store: &Store,
        config: &Config,
    ) -> anyhow::Result<HashMap<HandlerId, HandlerId>> {
        let unknown: Vec<registry::HandlerRegistration> = config
            .handlers
            .iter()
            .filter(|handler| {
                let ids = self.groups.iter().flat_map(|group| &group.handlers);
                ids.into_iter().any(|id| id.0 < 0 && self.name(*id) == handler.name)
            })
            .map(worker::registration_of)
            .collect();
        if unknown.is_empty() {
            return Ok(HashMap::new());
        }
        let (known, _) =
            write_directly(store, |tx, _| Ok(registry::register(tx, &[], &unknown)?.handlers))?;
        let real = |(id, name): (&HandlerId, &String)| Some((*id, *known.get(name)?));
        Ok(self.names.iter().filter_map(real).collect())
    }

    /// Plans the jobs of the next chunk of events. Returns nothing if there are no more events.
    fn evaluate_chunk<'g>(
        &self,
        store: &Store,
        events: &mut impl Iterator<Item = (i64, &'g EventGroup)>,
    ) -> anyhow::Result<Vec<(&'g EventGroup, PlannedReplay)>> {
        let started_at = Instant::now();
        let mut replays = Vec::new();
        let (mut jobs, mut bytes) = (0, 0);
        while replays.len() < MAX_CHUNK_EVENTS
            && jobs < MAX_CHUNK_JOBS
            && bytes < MAX_CHUNK_BODY_BYTES
            && (replays.is_empty() || started_at.elapsed() < MAX_CHUNK_TIME)
        {
            let chunk: Vec<(i64, &EventGroup)> = events.take(evaluation::MAX_AHEAD).collect();
            if chunk.is_empty() {
                break;
            }
            let events: Vec<StoredEvent<'_>> = chunk
                .iter()
                .map(|&(event, group)| StoredEvent {
                    event,
                    source: group.source,
                    expressions: group.planner.expressions(),
                })
                .collect();
            let (results, read) = evaluation::evaluate(store, self.task_builder, &events)?;
            bytes += read;
            for ((event, group), result) in chunk.into_iter().zip(results) {
                let planned = match result {
                    Some(result) => group.planner.plan_from(result),
                    None => group.planner.unconditional_plan(),
                };
                jobs += planned.plan.job_count();
                replays.push((group, PlannedReplay { event, specs: planned.plan.into_specs() }));
            }
        }
        Ok(replays)
    }
}
