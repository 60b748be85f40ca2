//! `replay`, for whoever asks for it: which stored events for which handlers, what each of them owes
//! by the configuration as it is now, and their jobs, some at a time.
//!
//! Events are read and judged outside of any transaction; only the new rows are written in one.

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

/// So many events, jobs and bytes of bodies are in memory at most.
const EVENTS_AT_ONCE: usize = 10_000;
const JOBS_AT_ONCE: usize = 20_000;
const BODIES_BYTES_AT_ONCE: usize = 8 << 20;

/// So many are asked about before the first answer is waited for.
const ASKED_AT_ONCE: usize = 32;

/// For so long a free process is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct ReplayRequest<'a> {
    pub selector: Selector,
    /// For this one alone, which is configured.
    pub handler: Option<&'a str>,
}

impl ReplayRequest<'_> {
    /// Whether jobs are selected: then only their handlers get their events.
    fn is_of_jobs(&self) -> bool {
        self.selector.state.is_some() || self.selector.detail.is_some()
    }
}

/// Which events, and who takes them.
pub struct ReplaySelection<'a> {
    maker: &'a TaskBuilder,
    /// Those that take some of them, each set of handlers once.
    judges: Vec<JobPlanner>,
    /// Event, source, place of its judge.
    due: Vec<(i64, SourceId, usize)>,
    /// How many events each handler takes.
    counts: BTreeMap<HandlerId, usize>,
    names: HashMap<HandlerId, String>,
    /// Events that no handler takes.
    untaken: Vec<i64>,
}

/// How far a replay is.
#[derive(Clone, Copy, Debug)]
pub struct ReplayProgress {
    pub events: usize,
    pub of: usize,
    pub jobs: i64,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct ReplaySummary {
    pub jobs: i64,
    /// Events that were not there any more, or had no body.
    pub missing_events: Vec<i64>,
}

/// The numbers of configured handlers. One that the trail does not know yet gets a number of its own,
/// below 0, until its jobs are made.
fn handlers_with_ids<'c>(
    store: &Store,
    config: &'c Config,
) -> rusqlite::Result<Vec<(&'c Handler, HandlerId)>> {
    let number = |(handler, unknown): (&'c Handler, i64)| {
        let known = registry::handler_named(&store.conn, &handler.name)?;
        Ok((handler, known.unwrap_or(HandlerId(-unknown))))
    };
    config.handlers.iter().zip(1..).map(number).collect()
}

/// Finds the events and who takes them, with the configuration as it is now.
///
/// # Errors
/// The read failed.
pub fn select_events<'a>(
    store: &Store,
    config: &Config,
    asked: &ReplayRequest<'_>,
    maker: &'a TaskBuilder,
) -> anyhow::Result<ReplaySelection<'a>> {
    let meant = if asked.is_of_jobs() {
        replay::events_of_jobs(&store.conn, &asked.selector)?
    } else {
        // The handler says who gets them, and not who had them.
        let selector = Selector { handler: None, ..asked.selector.clone() };
        replay::events(&store.conn, &selector)?
    };
    let handlers = handlers_with_ids(store, config)?;
    let sources = registry::source_names(&store.conn)?;
    let takes = |(handler, id): &&(&Handler, HandlerId), one: &SelectedEvent| {
        asked.handler.is_none_or(|name| name == handler.name)
            && one.handler.is_none_or(|had| had == *id)
            && sources.get(&one.source).is_some_and(|name| handler.sources.contains(name))
    };
    let mut chosen = ReplaySelection {
        maker,
        judges: Vec::new(),
        due: Vec::new(),
        counts: BTreeMap::new(),
        names: handlers.iter().map(|(handler, id)| (*id, handler.name.clone())).collect(),
        untaken: Vec::new(),
    };
    let mut judges: HashMap<Vec<HandlerId>, usize> = HashMap::new();
    // One event may be meant more than once, for a handler each time.
    for of_event in meant.chunk_by(|a, b| a.event == b.event) {
        let takers: Vec<&(&Handler, HandlerId)> =
            handlers.iter().filter(|one| of_event.iter().any(|meant| takes(one, meant))).collect();
        let ids: Vec<HandlerId> = takers.iter().map(|(_, id)| *id).collect();
        let SelectedEvent { event, source, .. } = of_event[0];
        if ids.is_empty() {
            chosen.untaken.push(event);
            continue;
        }
        for id in &ids {
            *chosen.counts.entry(*id).or_default() += 1;
        }
        let judge = *judges.entry(ids).or_insert_with(|| {
            chosen.judges.push(JobPlanner::for_handlers(takers.into_iter().copied()));
            chosen.judges.len() - 1
        });
        chosen.due.push((event, source, judge));
    }
    Ok(chosen)
}

impl ReplaySelection<'_> {
    /// How many events there are that a handler takes.
    pub fn events(&self) -> usize {
        self.due.len()
    }

    /// Events that are meant, and that no handler takes.
    pub fn unmatched(&self) -> &[i64] {
        &self.untaken
    }

    /// The handlers that take some of them, and how many.
    pub fn counts(&self) -> Vec<(&str, usize)> {
        self.counts.iter().map(|(id, events)| (self.name(*id), *events)).collect()
    }

    /// What a handler is called.
    pub fn name(&self, handler: HandlerId) -> &str {
        self.names.get(&handler).map_or("?", String::as_str)
    }

    /// Makes the jobs.
    ///
    /// # Errors
    /// The trail can't be read or written, or no process was free for the expressions.
    pub fn run(
        &self,
        store: &Store,
        config: &Config,
        act: AuditEntry,
        tell: &mut dyn FnMut(ReplayProgress),
    ) -> anyhow::Result<ReplaySummary> {
        let numbers = self.register(store, config)?;
        let mut replay = replay::Replay::new(store, act);
        let mut at = 0;
        while at < self.due.len() {
            let (mut due, next) = self.evaluate_chunk(store, at)?;
            for (handler, _) in due.iter_mut().flat_map(|one| &mut one.owed) {
                *handler = *numbers.get(handler).unwrap_or(handler);
            }
            replay.make(&due)?;
            at = next;
            tell(ReplayProgress { events: at, of: self.due.len(), jobs: replay.jobs() });
        }
        Ok(ReplaySummary { jobs: replay.jobs(), missing_events: replay.gone().to_vec() })
    }

    /// Says what each event owes, and makes nothing of it.
    ///
    /// # Errors
    /// The trail can't be read, what `tell` gives, or no process was free for the expressions.
    pub fn for_each(
        &self,
        store: &Store,
        tell: &mut dyn FnMut(&str, &PlannedReplay) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let sources = registry::source_names(&store.conn)?;
        let mut at = 0;
        while at < self.due.len() {
            let (due, next) = self.evaluate_chunk(store, at)?;
            for (one, (_, source, _)) in due.iter().zip(&self.due[at..]) {
                tell(sources.get(source).map_or("?", String::as_str), one)?;
            }
            at = next;
        }
        Ok(())
    }

    /// Numbers for those handlers that the trail does not know yet.
    fn register(
        &self,
        store: &Store,
        config: &Config,
    ) -> anyhow::Result<HashMap<HandlerId, HandlerId>> {
        let unknown: Vec<registry::HandlerRegistration> = config
            .handlers
            .iter()
            .filter(|one| self.counts.keys().any(|id| id.0 < 0 && self.name(*id) == one.name))
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

    /// What some events owe, from that place on; where to go on.
    fn evaluate_chunk(
        &self,
        store: &Store,
        from: usize,
    ) -> anyhow::Result<(Vec<PlannedReplay>, usize)> {
        let (mut due, mut at) = (Vec::new(), from);
        let (mut jobs, mut bytes) = (0, 0);
        while at < self.due.len()
            && due.len() < EVENTS_AT_ONCE
            && jobs < JOBS_AT_ONCE
            && bytes < BODIES_BYTES_AT_ONCE
        {
            let end = self.due.len().min(at + ASKED_AT_ONCE);
            let some = &self.due[at..end];
            let (answers, read) = self.evaluate(store, some)?;
            bytes += read;
            for ((event, _, judge), answers) in some.iter().zip(answers) {
                let judge = &self.judges[*judge];
                let judged =
                    answers.map_or_else(|| judge.unconditional_plan(), |it| judge.plan_from(it));
                jobs += judged.plan.jobs();
                due.push(PlannedReplay { event: *event, owed: judged.plan.into_specs() });
            }
            at = end;
        }
        Ok((due, at))
    }

    /// The answers of some events: `None` where nothing is asked; how many bytes were read.
    fn evaluate(
        &self,
        store: &Store,
        some: &[(i64, SourceId, usize)],
    ) -> anyhow::Result<(Vec<Option<EvaluationResult>>, usize)> {
        let (tell, told) = bounded(some.len());
        let (mut answers, mut bytes, mut waiting) = (Vec::new(), 0, 0);
        answers.resize_with(some.len(), || None);
        for (place, &(event, source, judge)) in some.iter().enumerate() {
            let Some(questions) = self.judges[judge].expressions() else { continue };
            if replay::has_body(&store.conn, event)? != Some(true) {
                continue;
            }
            let event = event_reads::event(&store.conn, EventId(event))?;
            bytes += event.body.len();
            self.maker.with_context(&event, None, |scene| {
                let scene = EventContext { event_id: None, ..*scene };
                answers[place] = questions.evaluate_inline(&scene);
                if answers[place].is_none() {
                    let tell = tell.clone();
                    let answer = Box::new(move |answer| drop(tell.send((place, answer))));
                    self.maker.expressions.evaluate_deferred(
                        fairness_key(source),
                        questions,
                        &scene,
                        answer,
                    );
                    waiting += 1;
                }
            });
        }
        for _ in 0..waiting {
            let (place, answer): (usize, Result<EvaluationResult, Busy>) = told.recv()?;
            answers[place] = Some(match answer {
                Ok(answer) => answer,
                Err(Busy) => {
                    let (event, source, judge) = some[place];
                    let questions = self.judges[judge].expressions();
                    let questions = questions.ok_or(anyhow::anyhow!("nothing was asked"))?;
                    self.evaluate_with_retry(store, event, source, questions)?
                }
            });
        }
        Ok((answers, bytes))
    }

    /// Waits for a free process.
    fn evaluate_with_retry(
        &self,
        store: &Store,
        event: i64,
        source: SourceId,
        questions: &ExpressionSet,
    ) -> anyhow::Result<EvaluationResult> {
        let began = Instant::now();
        let event = event_reads::event(&store.conn, EventId(event))?;
        loop {
            let asked = self.maker.with_context(&event, None, |scene| {
                let scene = EventContext { event_id: None, ..*scene };
                self.maker.expressions.evaluate(fairness_key(source), questions, &scene)
            });
            match asked {
                Ok(answers) => return Ok(answers),
                Err(Busy) if began.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(Busy) => {
                    anyhow::bail!("{}: try again", self.maker.expressions.busy_reason())
                }
            }
        }
    }
}

fn fairness_key(source: SourceId) -> u64 {
    u64::try_from(source.0).unwrap_or(0)
}
