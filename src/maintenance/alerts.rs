//! What the source `hooktrail` has to tell: sources that are silent or only refuse, a disk without
//! room, a log that is held are noticed here; what was noted in the trail becomes events, by the
//! expressions of the handlers that take them, as if somebody had sent them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use crossbeam_channel::Receiver;
use serde_json::Value;

use crate::clock::{self, MonotonicClock};
use crate::config::{Config, duration_text};
use crate::domain::SourceId;
use crate::expression::{EvaluatorPool, EventContext};
use crate::planner::{JobPlanner, PlannedEvent};
use crate::store::ReadPool;
use crate::store::alerts::{self, AlertEvent, AlertSignal, PendingAlert, SOURCE};
use crate::store::events::{Dedupe, NewEvent};
use crate::store::handle::WriterHandle;
use crate::store::operation::Operation;
use crate::store::registry::Registry;
use crate::store::source_counters::SourceCounters;

/// Who is told, by the configuration as it is now; nothing where no handler takes that source.
pub type AlertSubscription = Arc<ArcSwapOption<AlertSubscribers>>;

/// The handlers that take the source `hooktrail`, and what is to be watched for them.
#[derive(Debug)]
pub struct AlertSubscribers {
    source: SourceId,
    judge: JobPlanner,
    /// Sources with a `alert_if_silent_for`.
    alert_if_silent_for: Vec<(SourceId, Duration)>,
}

impl AlertSubscribers {
    /// `None`: nobody is to be told.
    pub fn new(config: &Config, registry: &Registry) -> Option<Self> {
        let source = *registry.sources.get(SOURCE)?;
        let takes = |one: &&crate::config::Handler| one.sources.iter().any(|name| name == SOURCE);
        let handlers = config.handlers.iter().filter(takes);
        let handlers = handlers.filter_map(|one| Some((one, *registry.handlers.get(&one.name)?)));
        let silent = config.sources.iter().filter_map(|source| {
            Some((*registry.sources.get(&source.name)?, source.alert_if_silent_for?))
        });
        let alert_if_silent_for = silent.collect();
        Some(Self { source, judge: JobPlanner::for_handlers(handlers), alert_if_silent_for })
    }
}

/// What is needed to tell.
pub struct AlertMonitor {
    pub told: AlertSubscription,
    pub readers: ReadPool,
    pub expressions: EvaluatorPool,
    pub clock: MonotonicClock,
    pub tally: Arc<SourceCounters>,
    /// Takes the sources that accept nothing any more, and what they said last.
    pub refusing: Box<dyn Fn() -> Vec<(SourceId, String)> + Send>,
    /// What keeps the log from starting over.
    pub wal_blocked: Receiver<String>,
    /// The silences that were noticed: the source, and its last event.
    pub silent: HashMap<SourceId, i64>,
    /// Takes secrets out of what is told.
    pub redact: Box<dyn Fn(&str) -> String + Send>,
    /// Those whose expressions are being evaluated.
    pub asked: Arc<AtomicUsize>,
}

impl AlertMonitor {
    /// One look at everything.
    pub fn tick(&mut self, writer: &WriterHandle) {
        let (refusing, held) = ((self.refusing)(), self.wal_blocked.try_recv().ok());
        let Some(listeners) = self.told.load_full() else { return };
        for (source, why) in refusing {
            writer.send(Operation::Notice(AlertSignal::Refusing(source, why)));
        }
        if let Some(why) = held {
            writer.send(Operation::Notice(AlertSignal::WalHeld(why)));
        }
        self.check_silence(&listeners, writer);
        // Those that are being asked about would only be asked about again.
        if self.asked.load(Ordering::SeqCst) == 0 {
            self.emit_pending(&listeners, writer);
        }
    }

    /// Notices silences, each once.
    fn check_silence(&mut self, listeners: &AlertSubscribers, writer: &WriterHandle) {
        let now_ms = self.clock.now_ms();
        for &(source, after) in &listeners.alert_if_silent_for {
            let seen_at = self.tally.seen_at(source, now_ms);
            let is_silent =
                u128::try_from(now_ms - seen_at).is_ok_and(|it| it >= after.as_millis());
            if is_silent && self.silent.insert(source, seen_at) != Some(seen_at) {
                let since = clock::format_rfc3339(self.clock.to_wall_ms(seen_at));
                let detail = format!("no event for {}, since {since}", duration_text(after));
                writer.send(Operation::Notice(AlertSignal::Silent(source, detail)));
            }
        }
    }

    fn emit_pending(&self, listeners: &Arc<AlertSubscribers>, writer: &WriterHandle) {
        let found = self.readers.get().map_err(anyhow::Error::from);
        let found = found.and_then(|conn| Ok(alerts::waiting(&conn, self.clock.now_ms())?));
        match found {
            Ok(waiting) => waiting.into_iter().for_each(|one| self.emit(listeners, one, writer)),
            Err(e) => log::debug!("alerts could not be read: {e:#}"),
        }
    }

    /// Asks what the handlers want of it, and has it stored. What comes to nothing stays noted.
    fn emit(&self, listeners: &Arc<AlertSubscribers>, mut of: PendingAlert, writer: &WriterHandle) {
        of.detail = of.detail.map(|detail| (self.redact)(&detail));
        let body = body(&of);
        let Some(questions) = listeners.judge.expressions() else {
            return store(listeners, of, body, listeners.judge.unconditional_plan(), writer);
        };
        let text = body.clone();
        let scene = EventContext {
            body: &text,
            content_type: Some("application/json"),
            source: SOURCE,
            headers: &[("content-type", b"application/json")],
            received_at_ms: clock::wall_ms(),
            ..EventContext::default()
        };
        let (asked, writer) = (InFlightGuard::new(&self.asked), writer.clone());
        let whose = Arc::clone(listeners);
        let party = u64::try_from(listeners.source.0).unwrap_or(0);
        let answer = Box::new(move |answers| {
            if let Ok(answers) = answers {
                store(&whose, of, body, whose.judge.plan_from(answers), &writer);
            }
            drop(asked);
        });
        self.expressions.evaluate_deferred(party, questions, &scene, answer);
    }
}

/// One that is being asked about, until it is answered or given up.
struct InFlightGuard(Arc<AtomicUsize>);

impl InFlightGuard {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Has the event stored, or what was noted taken for told where no handler wants it.
fn store(
    listeners: &AlertSubscribers,
    of: PendingAlert,
    body: Vec<u8>,
    judged: PlannedEvent,
    writer: &WriterHandle,
) {
    // Without a name there is no event: it stays noted.
    let Ok(uid) = clock::random_id() else { return };
    let accept = (!judged.plan.is_empty()).then(|| NewEvent {
        reply_slot: 0,
        source: listeners.source,
        uid,
        received_at_ms: clock::wall_ms(),
        method: "POST".to_owned(),
        path: String::new(),
        query: None,
        ip: String::new(),
        headers: b"content-type: application/json".to_vec(),
        body,
        dedupe: Dedupe::default(),
        note: judged.note,
        owed: judged.plan,
        queue_limit: None,
        body_memory: None,
    });
    writer.send(Operation::Alert(Box::new(AlertEvent { of, accept })));
}

/// The keys in the documented order; null where one does not apply.
fn body(of: &PendingAlert) -> Vec<u8> {
    let text = |text: &str| match text {
        "" => Value::Null,
        text => Value::from(text),
    };
    let number = |number: Option<i64>| number.map_or(Value::Null, Value::from);
    let fields = [
        ("type", text(&of.kind)),
        ("at", Value::from(clock::format_rfc3339(of.at_ms))),
        ("source", text(&of.source)),
        ("handler", text(&of.handler)),
        ("event", number(of.event)),
        ("job", number(of.job)),
        ("item", number(of.item)),
        ("attempts", number(of.attempts)),
        ("detail", of.detail.as_deref().map_or(Value::Null, Value::from)),
        ("count", Value::from(of.count)),
    ];
    let fields = fields.map(|(name, value)| format!("\"{name}\":{value}"));
    format!("{{{}}}", fields.join(",")).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_is_an_object_with_null_where_something_does_not_apply() {
        let of = PendingAlert {
            kind: "job.dead".into(),
            source: "a".into(),
            handler: String::new(),
            count: 3,
            at_ms: 1_795_000_000_123,
            event: Some(7),
            job: Some(9),
            item: None,
            attempts: Some(40),
            detail: Some("exit 1: \"no\"".into()),
        };
        let expected = r#"{"type":"job.dead","at":"2026-11-18T11:06:40.123Z","source":"a","handler":null,"event":7,"job":9,"item":null,"attempts":40,"detail":"exit 1: \"no\"","count":3}"#;
        assert_eq!(String::from_utf8(body(&of)).unwrap(), expected);
    }
}
