//! Replay: selects stored events and handlers, evaluates the events with the current configuration, and
//! inserts new jobs in small transactions.
//!
//! Events are read and evaluated outside of any transaction. Only the new rows are written in one.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use crate::config::{Config, Handler};
use crate::domain::{EventId, HandlerId, SourceId};
use crate::expression::{Busy, EvaluationResult, EventContext, ExpressionSet};
use crate::planner::JobPlanner;
use crate::store::audit::AuditEntry;
use crate::store::queries::Selector;
use crate::store::replay::{self, PlannedReplay, SelectedEvent};
use crate::store::{self, Store, event_reads, registry};
use crate::worker::{self, task_builder::TaskBuilder};

/// Maximum number of events and jobs, and maximum size of the bodies, that are in memory at once.
const MAX_CHUNK_EVENTS: usize = 10_000;
const MAX_CHUNK_JOBS: usize = 20_000;
const MAX_CHUNK_BODY_BYTES: usize = 8 << 20;

/// How many events are sent to the evaluator pool before the first result is awaited.
const MAX_EVALUATIONS_AHEAD: usize = 32;

/// How long a replay waits for a free evaluator.
const EVALUATOR_TIMEOUT: Duration = Duration::from_secs(60);

/// The events and the handler of a replay.
#[derive(Clone, Debug)]
pub struct ReplayRequest<'a> {
    pub selector: Selector,
    /// Only this handler, which is configured. `None` means all handlers of the events' sources.
    pub handler: Option<&'a str>,
}

impl ReplayRequest<'_> {
    /// Returns whether the selector selects jobs. Then only the handlers of these jobs get the events.
    fn selects_jobs(&self) -> bool {
        self.selector.state.is_some() || self.selector.detail.is_some()
    }
}

/// The selected events with the handlers that take them.
pub struct ReplaySelection<'a> {
    task_builder: &'a TaskBuilder,
    /// One planner for each distinct set of handlers.
    planners: Vec<JobPlanner>,
    /// The event, its source, and the index of its planner.
    events: Vec<(i64, SourceId, usize)>,
    /// The number of events for each handler.
    counts: BTreeMap<HandlerId, usize>,
    names: HashMap<HandlerId, String>,
    /// Events that no handler takes.
    unmatched: Vec<i64>,
}

/// How many events a replay has gone through, and the jobs that it made.
#[derive(Clone, Copy, Debug)]
pub struct ReplayProgress {
    pub events: usize,
    pub total_events: usize,
    pub jobs: i64,
}

/// The result of a replay.
#[derive(Clone, Debug, Default)]
pub struct ReplaySummary {
    pub jobs: i64,
    /// Events that no longer exist or have no body.
    pub missing_events: Vec<i64>,
}

/// The ids of the configured handlers. A handler that is not in the database yet gets a temporary negative
/// id until its jobs are inserted.
fn handlers_with_ids<'c>(
    store: &Store,
    config: &'c Config,
) -> rusqlite::Result<Vec<(&'c Handler, HandlerId)>> {
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
) -> anyhow::Result<ReplaySelection<'a>> {
    let selected = if request.selects_jobs() {
        replay::select_events_by_job(&store.conn, &request.selector)?
    } else {
        // `--handler` names the handler of the new jobs, not that of earlier ones.
        let selector = Selector { handler: None, ..request.selector.clone() };
        replay::select_events(&store.conn, &selector)?
    };
    let handlers = handlers_with_ids(store, config)?;
    let sources = registry::source_names(&store.conn)?;
    let is_matching = |(handler, id): &&(&Handler, HandlerId), event: &SelectedEvent| {
        request.handler.is_none_or(|name| name == handler.name)
            && event.handler.is_none_or(|handler| handler == *id)
            && sources.get(&event.source).is_some_and(|name| handler.sources.contains(name))
    };
    let mut selection = ReplaySelection {
        task_builder,
        planners: Vec::new(),
        events: Vec::new(),
        counts: BTreeMap::new(),
        names: handlers.iter().map(|(handler, id)| (*id, handler.name.clone())).collect(),
        unmatched: Vec::new(),
    };
    let mut planner_indexes: HashMap<Vec<HandlerId>, usize> = HashMap::new();
    // An event may be selected more than once, each time for another handler.
    for event_selections in selected.chunk_by(|a, b| a.event == b.event) {
        let matching_handlers: Vec<&(&Handler, HandlerId)> = handlers
            .iter()
            .filter(|handler| event_selections.iter().any(|event| is_matching(handler, event)))
            .collect();
        let ids: Vec<HandlerId> = matching_handlers.iter().map(|(_, id)| *id).collect();
        let SelectedEvent { event, source, .. } = event_selections[0];
        if ids.is_empty() {
            selection.unmatched.push(event);
            continue;
        }
        for id in &ids {
            *selection.counts.entry(*id).or_default() += 1;
        }
        let planner = *planner_indexes.entry(ids).or_insert_with(|| {
            selection
                .planners
                .push(JobPlanner::for_handlers(matching_handlers.into_iter().copied()));
            selection.planners.len() - 1
        });
        selection.events.push((event, source, planner));
    }
    Ok(selection)
}

impl ReplaySelection<'_> {
    /// The number of events that a handler takes.
    pub fn events(&self) -> usize {
        self.events.len()
    }

    /// The selected events that no handler takes.
    pub fn unmatched(&self) -> &[i64] {
        &self.unmatched
    }

    /// The handlers, each with the number of events that it takes.
    pub fn counts(&self) -> Vec<(&str, usize)> {
        self.counts.iter().map(|(id, events)| (self.name(*id), *events)).collect()
    }

    /// The name of a handler.
    pub fn name(&self, handler: HandlerId) -> &str {
        self.names.get(&handler).map_or("?", String::as_str)
    }

    /// Inserts the jobs, and reports the progress after each chunk.
    ///
    /// # Errors
    /// The database cannot be read or written, or no evaluator was free.
    pub fn run(
        &self,
        store: &Store,
        config: &Config,
        audit: AuditEntry,
        report: &mut dyn FnMut(ReplayProgress),
    ) -> anyhow::Result<ReplaySummary> {
        let real_ids = self.register(store, config)?;
        let mut replay = replay::Replay::new(store, audit);
        let mut at = 0;
        while at < self.events.len() {
            let (mut replays, next) = self.evaluate_chunk(store, at)?;
            for (handler, _) in replays.iter_mut().flat_map(|planned| &mut planned.specs) {
                *handler = *real_ids.get(handler).unwrap_or(handler);
            }
            replay.insert_jobs(&replays)?;
            at = next;
            report(ReplayProgress {
                events: at,
                total_events: self.events.len(),
                jobs: replay.jobs(),
            });
        }
        Ok(ReplaySummary { jobs: replay.jobs(), missing_events: replay.missing_events().to_vec() })
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
        let mut at = 0;
        while at < self.events.len() {
            let (replays, next) = self.evaluate_chunk(store, at)?;
            for (planned, (_, source, _)) in replays.iter().zip(&self.events[at..]) {
                visit(sources.get(source).map_or("?", String::as_str), planned)?;
            }
            at = next;
        }
        Ok(())
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
                self.counts.keys().any(|id| id.0 < 0 && self.name(*id) == handler.name)
            })
            .map(worker::registration_of)
            .collect();
        if unknown.is_empty() {
            return Ok(HashMap::new());
        }
        let now_ms = store.clock.now_ms();
        let known = store::in_transaction(&store.conn, |conn| {
            Ok(registry::register(conn, &[], &unknown, now_ms)?.handlers)
        })?;
        let real = |(id, name): (&HandlerId, &String)| Some((*id, *known.get(name)?));
        Ok(self.names.iter().filter_map(real).collect())
    }

    /// Plans the jobs of the next chunk of events. Returns them and the index of the next event.
    fn evaluate_chunk(
        &self,
        store: &Store,
        from: usize,
    ) -> anyhow::Result<(Vec<PlannedReplay>, usize)> {
        let (mut replays, mut at) = (Vec::new(), from);
        let (mut jobs, mut bytes) = (0, 0);
        while at < self.events.len()
            && replays.len() < MAX_CHUNK_EVENTS
            && jobs < MAX_CHUNK_JOBS
            && bytes < MAX_CHUNK_BODY_BYTES
        {
            let end = self.events.len().min(at + MAX_EVALUATIONS_AHEAD);
            let chunk = &self.events[at..end];
            let (results, read) = self.evaluate(store, chunk)?;
            bytes += read;
            for ((event, _, planner), result) in chunk.iter().zip(results) {
                let planner = &self.planners[*planner];
                let planned = match result {
                    Some(result) => planner.plan_from(result),
                    None => planner.unconditional_plan(),
                };
                jobs += planned.plan.job_count();
                replays.push(PlannedReplay { event: *event, specs: planned.plan.into_specs() });
            }
            at = end;
        }
        Ok((replays, at))
    }

    /// Evaluates a chunk of events. Returns a result for each (`None` if no expression applies), and the
    /// total size of the bodies.
    fn evaluate(
        &self,
        store: &Store,
        chunk: &[(i64, SourceId, usize)],
    ) -> anyhow::Result<(Vec<Option<EvaluationResult>>, usize)> {
        let (send_result, receive_result) = bounded(chunk.len());
        let (mut results, mut bytes, mut in_flight) = (Vec::new(), 0, 0);
        results.resize_with(chunk.len(), || None);
        for (index, &(event, source, planner)) in chunk.iter().enumerate() {
            let Some(expressions) = self.planners[planner].expressions() else { continue };
            if replay::has_body(&store.conn, event)? != Some(true) {
                continue;
            }
            let event = event_reads::load_event(&store.conn, EventId(event))?;
            bytes += event.body.len();
            self.task_builder.with_context(&event, None, |context| {
                let context = EventContext { event_id: None, ..*context };
                results[index] = expressions.evaluate_inline(&context);
                if results[index].is_none() {
                    let send_result = send_result.clone();
                    let on_result = Box::new(move |result| drop(send_result.send((index, result))));
                    self.task_builder.expressions.evaluate_deferred(
                        fairness_key(source),
                        expressions,
                        &context,
                        on_result,
                    );
                    in_flight += 1;
                }
            });
        }
        for _ in 0..in_flight {
            let (index, result): (usize, Result<EvaluationResult, Busy>) = receive_result.recv()?;
            results[index] = Some(match result {
                Ok(result) => result,
                Err(Busy) => {
                    let (event, source, planner) = chunk[index];
                    let expressions = self.planners[planner].expressions();
                    let expressions =
                        expressions.ok_or(anyhow::anyhow!("no expression applies"))?;
                    self.evaluate_with_retry(store, event, source, expressions)?
                }
            });
        }
        Ok((results, bytes))
    }

    /// Evaluates one event, and waits for a free evaluator.
    fn evaluate_with_retry(
        &self,
        store: &Store,
        event: i64,
        source: SourceId,
        expressions: &ExpressionSet,
    ) -> anyhow::Result<EvaluationResult> {
        let started = Instant::now();
        let event = event_reads::load_event(&store.conn, EventId(event))?;
        loop {
            let result = self.task_builder.with_context(&event, None, |context| {
                let context = EventContext { event_id: None, ..*context };
                let pool = &self.task_builder.expressions;
                pool.evaluate(fairness_key(source), expressions, &context)
            });
            match result {
                Ok(result) => return Ok(result),
                Err(Busy) if started.elapsed() < EVALUATOR_TIMEOUT => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(Busy) => {
                    anyhow::bail!("{}: try again", self.task_builder.expressions.busy_reason())
                }
            }
        }
    }
}

/// The key by which the evaluator pool shares its processes between sources.
fn fairness_key(source: SourceId) -> u64 {
    u64::try_from(source.0).unwrap_or(0)
}
