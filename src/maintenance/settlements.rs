//! Events of type `job.settled`: one for each time a job succeeds, dies or is cancelled.
//!
//! The transaction that changes the state of a job records it (`store/settlements.rs`). This thread evaluates the
//! handlers' expressions on the recorded jobs. Another transaction stores the events and deletes the rows together. So a
//! crash at any time loses no event and repeats none.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded, select};
use serde_json::Value;

use super::alerts::{alert_fields, json_object};
use crate::clock;
use crate::config::Config;
use crate::domain::idempotency_key::IdempotencyKey;
use crate::domain::{INTERNAL_SOURCE, JOB_SETTLED, SourceId};
use crate::expression::{Busy, EvaluationResult, EvaluatorPool, EventContext, Priority};
use crate::planner::JobPlanner;
use crate::planner::settled_jobs::takes_settled_jobs;
use crate::store::ReadPool;
use crate::store::alerts::PendingAlert;
use crate::store::events::NewEvent;
use crate::store::handle::WriterHandle;
use crate::store::operation::Operation;
use crate::store::registry::Registry;
use crate::store::settlements::{self, PendingSettlement, SettlementEvent};

/// The events of one transaction. More would delay the groups of intake.
const BATCH_EVENTS: usize = 256;

/// How many evaluations in processes are begun before the first result is awaited.
const EVALUATIONS_AHEAD: usize = 32;

/// The delay before the next try if no evaluator is free, or the database cannot be read or written.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// The subscribers of the current configuration. Empty if no handler takes events of type `job.settled`.
pub type SettlementSubscription = Arc<ArcSwapOption<SettlementSubscribers>>;

/// The handlers that take events of type `job.settled`.
#[derive(Debug)]
pub struct SettlementSubscribers {
    source: SourceId,
    planner: JobPlanner,
}

impl SettlementSubscribers {
    /// Returns `None` if no handler takes events of type `job.settled`.
    pub fn new(config: &Config, registry: &Registry) -> Option<Self> {
        let source = *registry.sources.get(INTERNAL_SOURCE)?;
        let handlers = config.handlers.iter().filter(|handler| takes_settled_jobs(handler));
        let ids = &registry.handlers;
        let handlers = handlers.filter_map(|handler| Some((handler, *ids.get(&handler.name)?)));
        let mut handlers = handlers.peekable();
        handlers.peek()?;
        Some(Self { source, planner: JobPlanner::for_handlers(handlers) })
    }
}

/// Wakes the thread. A wake-up that it has not taken yet counts for later ones.
#[derive(Clone, Debug)]
pub struct SettlementSignal(Sender<()>);

impl SettlementSignal {
    /// Creates a signal and its receiver.
    pub fn new() -> (Self, Receiver<()>) {
        let (sender, receiver) = bounded(1);
        (Self(sender), receiver)
    }

    /// Wakes the thread without waiting for it.
    pub fn wake(&self) {
        let _ = self.0.try_send(());
    }
}

/// The thread's connections to the other parts.
pub struct SettlementReporter {
    pub subscription: SettlementSubscription,
    pub readers: ReadPool,
    pub expressions: EvaluatorPool,
    pub writer: WriterHandle,
    pub wake: Receiver<()>,
    /// Redacts secrets in details.
    pub redact: Box<dyn Fn(&str) -> String + Send>,
}

/// What a step has left to do.
enum NextReport {
    Nothing,
    /// More rows may be there.
    Rows,
    /// A step that failed is repeated after a delay.
    Repetition,
}

impl SettlementReporter {
    /// Starts the thread. It ends when the sender of `stop` is dropped.
    ///
    /// # Errors
    /// The thread cannot be created.
    pub fn start(self, stop: Receiver<()>) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("settlements".into()).spawn(move || self.run(&stop))
    }

    fn run(&self, stop: &Receiver<()>) {
        // Rows may be left from before the start.
        let mut rest = NextReport::Rows;
        loop {
            match rest {
                NextReport::Nothing => select! {
                    recv(stop) -> _ => return,
                    recv(self.wake) -> woken => if woken.is_err() { return },
                },
                NextReport::Rows if stop.try_recv() != Err(TryRecvError::Empty) => return,
                NextReport::Rows => {}
                NextReport::Repetition => match stop.recv_timeout(RETRY_DELAY) {
                    Err(RecvTimeoutError::Timeout) => {}
                    _ => return,
                },
            }
            rest = self.report_batch().unwrap_or_else(|e| {
                log::debug!("settled jobs cannot be read: {e:#}");
                NextReport::Repetition
            });
        }
    }

    /// Makes events of the first recorded jobs, and waits until they are stored.
    fn report_batch(&self) -> anyhow::Result<NextReport> {
        let Some(subscribers) = self.subscription.load_full() else {
            return Ok(NextReport::Nothing);
        };
        let pending = settlements::load_pending(&*self.readers.get()?, BATCH_EVENTS)?;
        if pending.is_empty() {
            return Ok(NextReport::Nothing);
        }
        let drafts: Vec<EventDraft> =
            pending.into_iter().map(|settlement| self.draft_event(settlement)).collect();
        let results = self.evaluate(&subscribers, &drafts);
        let is_complete = results.len() == drafts.len();
        let events = drafts.into_iter().zip(results);
        let events: Vec<SettlementEvent> = events
            .map(|(draft, result)| draft.into_event(&subscribers, result))
            .collect::<anyhow::Result<_>>()?;
        if events.is_empty() {
            return Ok(NextReport::Repetition);
        }
        let (reply, is_stored) = bounded(1);
        self.writer.send(Operation::ReportSettlements { events, reply });
        Ok(match is_stored.recv() {
            Ok(()) if is_complete => NextReport::Rows,
            _ => NextReport::Repetition,
        })
    }

    /// Evaluates the handlers' expressions. Returns the results up to the first event for which no evaluator was free,
    /// so that events are stored in the order of the rows.
    fn evaluate(
        &self,
        subscribers: &SettlementSubscribers,
        drafts: &[EventDraft],
    ) -> Vec<EvaluationResult> {
        let Some(expressions) = subscribers.planner.expressions() else { return Vec::new() };
        let fairness_key = u64::try_from(subscribers.source.0).unwrap_or(0);
        let mut all = Vec::with_capacity(drafts.len());
        for part in drafts.chunks(EVALUATIONS_AHEAD) {
            let (send_result, receive_result) = bounded(part.len());
            let mut results: Vec<Option<EvaluationResult>> = Vec::new();
            for (index, draft) in part.iter().enumerate() {
                let context = draft.context();
                let inline = expressions.evaluate_inline(&context);
                if inline.is_none() {
                    let send_result = send_result.clone();
                    let on_result = Box::new(move |result: Result<_, Busy>| {
                        drop(send_result.send((index, result)));
                    });
                    let priority = Priority::Deferred;
                    self.expressions.evaluate_async(
                        priority,
                        fairness_key,
                        expressions,
                        &context,
                        on_result,
                    );
                }
                results.push(inline);
            }
            drop(send_result);
            for (index, result) in receive_result {
                results[index] = result.ok();
            }
            let before = all.len();
            all.extend(results.into_iter().map_while(|result| result));
            if all.len() - before < part.len() {
                break;
            }
        }
        all
    }

    fn draft_event(&self, settlement: PendingSettlement) -> EventDraft {
        let PendingSettlement { handler, item, replay, uid, .. } = &settlement;
        let own_key =
            IdempotencyKey { uid: *uid, handler, item: item.unwrap_or(0), replay: *replay };
        let own_key = own_key.to_string();
        let key = settlement.origin_key.clone().unwrap_or_else(|| own_key.as_str().into());
        let detail = settlement.detail.as_deref().map(&self.redact);
        let body = settlement_body(&settlement, detail, &own_key, &key);
        EventDraft { settlement: settlement.id, key, body, at_ms: clock::wall_ms() }
    }
}

/// An event whose expressions are not evaluated yet.
struct EventDraft {
    /// The row of the recorded job.
    settlement: i64,
    key: Arc<str>,
    body: Vec<u8>,
    at_ms: i64,
}

impl EventDraft {
    fn context(&self) -> EventContext<'_> {
        EventContext {
            body: &self.body,
            content_type: Some("application/json"),
            source: INTERNAL_SOURCE,
            headers: &[("content-type", b"application/json")],
            received_at_ms: self.at_ms,
            ..EventContext::default()
        }
    }

    /// Plans the jobs of the event. There is no event if no handler wants it.
    fn into_event(
        self,
        subscribers: &SettlementSubscribers,
        result: EvaluationResult,
    ) -> anyhow::Result<SettlementEvent> {
        let planned = subscribers.planner.plan_from(result);
        let Self { settlement, key, body, at_ms } = self;
        if planned.plan.is_empty() {
            return Ok(SettlementEvent { settlement, event: None });
        }
        let event = NewEvent {
            source: subscribers.source,
            uid: clock::time_ordered_id(at_ms)?,
            received_at_ms: at_ms,
            method: "POST".into(),
            headers: b"content-type: application/json".to_vec(),
            origin_key: Some(key),
            expression_errors: planned.expression_errors,
            plan: planned.plan,
            ..NewEvent::default()
        };
        let event = event.with_seal(INTERNAL_SOURCE, clock::random_id()?, &body);
        Ok(SettlementEvent { settlement, event: Some(NewEvent { body, ..event }) })
    }
}

/// The body of an event: the keys of all alerts, and then those of this type.
fn settlement_body(
    settlement: &PendingSettlement,
    detail: Option<String>,
    own_key: &str,
    key: &str,
) -> Vec<u8> {
    let alert = PendingAlert {
        kind: JOB_SETTLED.to_owned(),
        source: settlement.source.clone(),
        handler: settlement.handler.clone(),
        count: 1,
        at_ms: settlement.at_ms,
        event: Some(settlement.event),
        job: Some(settlement.job),
        item: settlement.item.map(i64::from),
        attempts: Some(settlement.attempts),
        detail,
    };
    let own = [
        ("state", Value::from(settlement.state)),
        ("idempotency_key", Value::from(own_key)),
        ("key", Value::from(key)),
    ];
    json_object(alert_fields(&alert).into_iter().chain(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_has_the_keys_of_an_alert_and_then_its_own() {
        let settlement = PendingSettlement {
            id: 1,
            job: 12,
            event: 7,
            source: "a".into(),
            handler: "crm".into(),
            item: Some(2),
            replay: 0,
            attempts: 3,
            state: "cancelled",
            at_ms: 1_795_000_000_123,
            detail: None,
            uid: [0; 16],
            origin_key: None,
        };
        let body = settlement_body(&settlement, Some("by \"me\"".into()), "own", "key");
        let expected = r#"{"type":"job.settled","at":"2026-11-18T11:06:40.123Z","source":"a","handler":"crm","event":7,"job":12,"item":2,"attempts":3,"detail":"by \"me\"","count":1,"state":"cancelled","idempotency_key":"own","key":"key"}"#;
        assert_eq!(String::from_utf8(body).unwrap(), expected);
    }
}
