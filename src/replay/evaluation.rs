//! Evaluates expressions on stored events, several at a time.

use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use crate::domain::{EventId, SourceId};
use crate::expression::{Busy, EvaluationResult, EventContext, ExpressionSet, Priority};
use crate::store::{Store, event_reads};
use crate::worker::task_builder::TaskBuilder;

/// How many events are sent to the evaluator pool before the first result is awaited.
pub const MAX_AHEAD: usize = 32;

/// How long an evaluation waits for a free evaluator.
const EVALUATOR_TIMEOUT: Duration = Duration::from_secs(60);

/// An event, and the expressions to evaluate on it.
#[derive(Clone, Copy, Debug)]
pub struct StoredEvent<'e> {
    pub event: i64,
    pub source: SourceId,
    pub expressions: Option<&'e ExpressionSet>,
}

/// Evaluates at most [`MAX_AHEAD`] events. Returns a result for each (`None` if no expression applies, or the event has no
/// body any more), and the total size of the bodies.
///
/// # Errors
/// The database cannot be read, or no evaluator was free.
pub fn evaluate(
    store: &Store,
    task_builder: &TaskBuilder,
    events: &[StoredEvent<'_>],
) -> anyhow::Result<(Vec<Option<EvaluationResult>>, usize)> {
    let (send_result, receive_result) = bounded(events.len().max(1));
    let (mut results, mut bytes, mut in_flight) = (Vec::new(), 0, 0);
    results.resize_with(events.len(), || None);
    for (index, stored) in events.iter().enumerate() {
        let Some(expressions) = stored.expressions else { continue };
        let found = event_reads::find_event(&store.conn, EventId(stored.event))?;
        let Some(event) = found.filter(|event| event.obstacle().is_none()) else { continue };
        bytes += event.body.len();
        task_builder.with_context(&event, None, |context| {
            let context = EventContext { event_id: None, ..*context };
            results[index] = expressions.evaluate_inline(&context);
            if results[index].is_none() {
                let send_result = send_result.clone();
                let on_result = Box::new(move |result| drop(send_result.send((index, result))));
                task_builder.expressions.evaluate_async(
                    Priority::Deferred,
                    fairness_key(stored.source),
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
                let StoredEvent { event, source, expressions } = events[index];
                let expressions = expressions.ok_or(anyhow::anyhow!("no expression applies"))?;
                evaluate_with_retry(store, task_builder, event, source, expressions)?
            }
        });
    }
    Ok((results, bytes))
}

/// Evaluates one event, and waits for a free evaluator.
fn evaluate_with_retry(
    store: &Store,
    task_builder: &TaskBuilder,
    event: i64,
    source: SourceId,
    expressions: &ExpressionSet,
) -> anyhow::Result<EvaluationResult> {
    let started = Instant::now();
    let event = event_reads::load_event(&store.conn, EventId(event))?;
    loop {
        let result = task_builder.with_context(&event, None, |context| {
            let context = EventContext { event_id: None, ..*context };
            task_builder.expressions.evaluate(fairness_key(source), expressions, &context)
        });
        match result {
            Ok(result) => return Ok(result),
            Err(Busy) if started.elapsed() < EVALUATOR_TIMEOUT => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(Busy) => anyhow::bail!("{}: try again", task_builder.expressions.busy_reason()),
        }
    }
}

/// The key by which the evaluator pool shares its processes between sources.
fn fairness_key(source: SourceId) -> u64 {
    u64::try_from(source.0).unwrap_or(0)
}
