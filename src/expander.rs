//! The expander: evaluates the expressions of deferred events and lets the writer insert their jobs. It is
//! one thread that waits neither for an evaluation nor for a commit.
//!
//! The events of one source are evaluated in order, some of them ahead, and their jobs are inserted in
//! that order. Sources do not wait for each other: the evaluator pool and the writer serve them in turn.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::domain::job_plan::LateDedupe;
use crate::domain::{EventId, SourceId};
use crate::expression::{Busy, EvaluationResult, EventContext, Priority};
use crate::planner::{DeferredPlanner, PlannedEvent};
use crate::store::backlog_task::BacklogTask;
use crate::store::deferrals::{DeferralCounts, Deferrals};
use crate::store::deferred::{self as deferred_events, EventJobs};
use crate::store::event_reads;
use crate::store::handle::WriterHandle;
use crate::worker::task_builder::TaskBuilder;

/// Maximum number of events of one source that are evaluated ahead. One evaluator takes as many at once.
const MAX_EVENTS_AHEAD: usize = 8;

/// Maximum number of events of one source in the writer's backlog.
const MAX_SENT_EVENTS: usize = 128;

/// Maximum total size of the bodies that are evaluated ahead for one source.
const MAX_BYTES_AHEAD: usize = 4 << 20;

/// The delay before the next try if an event cannot be read or no evaluator is free.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// The planners of the current configuration. A reload replaces them.
pub type Planners = Arc<ArcSwap<PlannersBySource>>;

type PlannersBySource = HashMap<SourceId, DeferredPlanner>;

/// The expander's connections to the other parts.
pub struct Expander {
    pub deferrals: Arc<Deferrals>,
    pub writer: WriterHandle,
    pub task_builder: TaskBuilder,
    pub planners: Planners,
}

/// Starts the expander's thread. `Deferrals::close` ends it.
///
/// # Errors
/// The thread cannot be created.
pub fn start(expander: Expander) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("expander".into()).spawn(move || expander.run())
}

/// A result of the evaluator pool.
struct EvaluatedEvent {
    source: SourceId,
    event: EventId,
    resets: u64,
    result: Result<EvaluationResult, Busy>,
}

/// The results that the pool has delivered and the expander has not yet taken.
type ResultQueue = Arc<Mutex<Vec<EvaluatedEvent>>>;

/// The next deferred events of one source.
#[derive(Default)]
struct SourceQueue {
    resets: u64,
    /// The newest event that was read from the database.
    last: Option<EventId>,
    ahead: VecDeque<AheadEvent>,
    /// The writer's backlog has the jobs of a large event.
    has_sent_large: bool,
}

/// An event that is evaluated ahead.
struct AheadEvent {
    event: EventId,
    bytes: usize,
    /// Whether `dedupe` is evaluated too.
    is_late: bool,
    /// The keys, except that of the expression. Valid while the event is being evaluated.
    late_dedupe: LateDedupe,
    stage: EvaluationStage,
}

enum EvaluationStage {
    /// Waits to be evaluated, not before this time.
    Waiting(Instant),
    /// Is being evaluated with the expressions of this configuration.
    Evaluating(Arc<PlannersBySource>),
    Evaluated(Box<EventJobs>),
    /// The event no longer exists.
    Deleted,
}

impl Expander {
    fn run(&self) {
        let results = ResultQueue::default();
        let mut queues: HashMap<SourceId, SourceQueue> = HashMap::new();
        let mut wake_at = None;
        while self.deferrals.wait(wake_at) {
            let sources = self.deferrals.list();
            queues.retain(|source, _| sources.iter().any(|deferred| deferred.source == *source));
            for evaluated in std::mem::take(&mut *results.lock()) {
                if let Some(queue) = queues.get_mut(&evaluated.source) {
                    self.store_result(queue, evaluated);
                }
            }
            wake_at = None;
            for source in sources {
                let queue = queues.entry(source.source).or_default();
                let retry_at = self.advance(queue, source, &results).unwrap_or_else(|e| {
                    log::error!("deferred events cannot be read, retrying: {e:#}");
                    Some(Instant::now() + RETRY_DELAY * 20)
                });
                wake_at = wake_at.into_iter().chain(retry_at).min();
            }
        }
    }

    /// Advances the queue of one source as far as possible. Returns when to try again, if time alone can
    /// allow more.
    fn advance(
        &self,
        queue: &mut SourceQueue,
        deferred: DeferralCounts,
        results: &ResultQueue,
    ) -> anyhow::Result<Option<Instant>> {
        if queue.resets != deferred.resets {
            *queue = SourceQueue { resets: deferred.resets, ..SourceQueue::default() };
        }
        let planners = self.planners.load_full();
        // The events of a source that is not configured wait until it is.
        if !planners.contains_key(&deferred.source) {
            return Ok(None);
        }
        let sent = self.send(queue, deferred);
        if deferred.events > sent + queue.ahead.len() && queue.ahead.len() < MAX_EVENTS_AHEAD {
            let after = queue.last.unwrap_or(EventId(0));
            let conn = self.task_builder.readers.get()?;
            let count = MAX_EVENTS_AHEAD - queue.ahead.len();
            let listed = deferred_events::list_events(&conn, deferred.source, after, count)?;
            for (event, is_late) in listed {
                queue.last = Some(event);
                let (stage, late_dedupe) =
                    (EvaluationStage::Waiting(Instant::now()), Default::default());
                queue.ahead.push_back(AheadEvent { event, bytes: 0, is_late, late_dedupe, stage });
            }
        }
        let mut bytes: usize = queue.ahead.iter().map(|ahead| ahead.bytes).sum();
        let mut retry_at = None;
        for ahead in &mut queue.ahead {
            match ahead.stage {
                EvaluationStage::Waiting(_) if bytes > MAX_BYTES_AHEAD => break,
                EvaluationStage::Waiting(at) if at > Instant::now() => {
                    retry_at = retry_at.into_iter().chain([at]).min()
                }
                EvaluationStage::Waiting(_) => {
                    self.evaluate(ahead, (deferred.source, queue.resets), &planners, results)?;
                    bytes += ahead.bytes;
                }
                _ => {}
            }
        }
        // Events that were evaluated inline are sent at once, which makes room for the next ones.
        if self.send(queue, DeferralCounts { sent, ..deferred }) > sent {
            retry_at = Some(Instant::now());
        }
        Ok(retry_at)
    }

    /// Sends the jobs of evaluated events to the writer, in order. Returns how many events of this source
    /// the writer has.
    fn send(&self, queue: &mut SourceQueue, deferred: DeferralCounts) -> usize {
        let mut sent = deferred.sent;
        if sent == 0 {
            queue.has_sent_large = false;
        }
        let mut tasks = Vec::new();
        while let Some(ahead) = queue.ahead.front()
            && sent < MAX_SENT_EVENTS
            && !queue.has_sent_large
        {
            let is_large = match &ahead.stage {
                EvaluationStage::Evaluated(jobs) => {
                    jobs.specs.iter().any(|(_, spec)| spec.is_large())
                }
                EvaluationStage::Deleted => false,
                EvaluationStage::Waiting(_) | EvaluationStage::Evaluating(_) => break,
            };
            // One large event of a source at a time, because its items are in memory or in a file.
            if is_large && sent > 0 {
                break;
            }
            if let Some(AheadEvent { stage: EvaluationStage::Evaluated(jobs), .. }) =
                queue.ahead.pop_front()
            {
                queue.has_sent_large = is_large;
                tasks.push(BacklogTask::insert_event_jobs(*jobs));
                sent += 1;
            }
        }
        if !tasks.is_empty() {
            self.deferrals.mark_sent(deferred.source, tasks.len());
            self.writer.send_backlog(tasks);
        }
        sent
    }

    /// Evaluates an event inline, or sends it to the evaluator pool.
    fn evaluate(
        &self,
        ahead: &mut AheadEvent,
        (source, resets): (SourceId, u64),
        planners: &Arc<PlannersBySource>,
        results: &ResultQueue,
    ) -> anyhow::Result<()> {
        let Some(planner) = planners.get(&source) else { return Ok(()) };
        let id = ahead.event;
        let stored_plan = self.deferrals.take_plan(source, id);
        let conn = self.task_builder.readers.get()?;
        let Some(received_at_ms) = event_reads::load_received_at(&conn, id)? else {
            ahead.stage = EvaluationStage::Deleted;
            return Ok(());
        };
        if let Some(plan) = stored_plan {
            let planned = PlannedEvent { plan, dedupe: None, expression_errors: None };
            ahead.set_evaluated(source, received_at_ms, planned);
            return Ok(());
        }
        let job_planner = planner.job_planner(ahead.is_late);
        let expressions = job_planner.expressions();
        if expressions.is_none() && !ahead.is_late {
            ahead.set_evaluated(source, received_at_ms, job_planner.unconditional_plan());
            return Ok(());
        }
        let event = event_reads::load_event(&conn, id)?;
        drop(conn);
        self.task_builder.with_context(&event, None, |context| {
            let context = EventContext { event_id: None, ..*context };
            if ahead.is_late {
                ahead.late_dedupe = planner.late_dedupe(context.headers, context.body);
            }
            let Some(expressions) = expressions else {
                ahead.set_evaluated(source, received_at_ms, job_planner.unconditional_plan());
                return;
            };
            if let Some(result) = expressions.evaluate_inline(&context) {
                ahead.set_evaluated(source, received_at_ms, job_planner.plan_from(result));
                return;
            }
            ahead.bytes = event.body.len();
            ahead.stage = EvaluationStage::Evaluating(Arc::clone(planners));
            let (results, deferrals) = (Arc::clone(results), Arc::clone(&self.deferrals));
            let on_result = Box::new(move |result| {
                let evaluated = EvaluatedEvent { source, event: id, resets, result };
                results.lock().push(evaluated);
                deferrals.wake();
            });
            let fairness_key = u64::try_from(source.0).unwrap_or(0);
            self.task_builder.expressions.evaluate_async(
                Priority::Deferred,
                fairness_key,
                expressions,
                &context,
                on_result,
            );
        });
        Ok(())
    }

    /// Stores a result of the evaluator pool in its event.
    fn store_result(&self, queue: &mut SourceQueue, evaluated: EvaluatedEvent) {
        let EvaluatedEvent { source, event, resets, result } = evaluated;
        if queue.resets != resets {
            return;
        }
        let Some(ahead) = queue.ahead.iter_mut().find(|ahead| ahead.event == event) else { return };
        ahead.bytes = 0;
        let planners = self.planners.load();
        // A result of an older configuration belongs to other expressions.
        if !matches!(&ahead.stage, EvaluationStage::Evaluating(used) if Arc::ptr_eq(used, &planners))
        {
            ahead.stage = EvaluationStage::Waiting(Instant::now());
            return;
        }
        let (Ok(result), Some(planner)) = (result, planners.get(&source)) else {
            ahead.stage = EvaluationStage::Waiting(Instant::now() + RETRY_DELAY);
            return;
        };
        let found = self.task_builder.readers.get().map_err(anyhow::Error::from);
        let found = found.and_then(|conn| Ok(event_reads::load_received_at(&conn, event)?));
        match found {
            Ok(Some(at_ms)) => {
                let planned = planner.job_planner(ahead.is_late).plan_from(result);
                ahead.set_evaluated(source, at_ms, planned);
            }
            Ok(None) => ahead.stage = EvaluationStage::Deleted,
            Err(_) => ahead.stage = EvaluationStage::Waiting(Instant::now() + RETRY_DELAY),
        }
    }
}

impl AheadEvent {
    fn set_evaluated(&mut self, source: SourceId, received_at_ms: i64, planned: PlannedEvent) {
        let PlannedEvent { plan, dedupe, expression_errors } = planned;
        let late_dedupe =
            LateDedupe { source_key: dedupe.or(self.late_dedupe.source_key), ..self.late_dedupe };
        let (event, specs) = (self.event, plan.into_specs());
        self.stage = EvaluationStage::Evaluated(Box::new(EventJobs {
            event,
            source,
            received_at_ms,
            specs,
            expression_errors,
            late_dedupe,
        }));
    }
}
