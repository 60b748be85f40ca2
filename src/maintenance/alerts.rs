//! Alerts: events of the built-in source `hooktrail`.
//!
//! This module detects silent sources, sources that reject everything, a blocked write-ahead log, and overdue
//! backups.
//! Transactions record other alerts in the database (`store/alerts.rs`). Here each recorded alert becomes
//! an event: the expressions of the handlers that take it are evaluated as for a webhook.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use crossbeam_channel::Receiver;
use serde_json::Value;

use crate::clock::{self, MonotonicClock};
use crate::config::{Config, duration_text};
use crate::domain::{INTERNAL_SOURCE, SourceId};
use crate::expression::{EvaluatorPool, EventContext, Priority};
use crate::planner::{JobPlanner, PlannedEvent};
use crate::store::ReadPool;
use crate::store::alerts::{self, AlertEvent, AlertSignal, PendingAlert};
use crate::store::backup_schedule::BackupSchedule;
use crate::store::events::NewEvent;
use crate::store::handle::WriterHandle;
use crate::store::operation::Operation;
use crate::store::registry::Registry;
use crate::store::source_counters::SourceCounters;

/// The subscribers of the current configuration. Empty if no handler takes the source `hooktrail`.
pub type AlertSubscription = Arc<ArcSwapOption<AlertSubscribers>>;

/// The handlers that take the source `hooktrail`, and the sources whose silence raises an alert.
#[derive(Debug)]
pub struct AlertSubscribers {
    source: SourceId,
    planner: JobPlanner,
    /// The sources with `alert_if_silent_for`.
    alert_if_silent_for: Vec<(SourceId, Duration)>,
}

impl AlertSubscribers {
    /// Returns `None` if no handler takes the source `hooktrail`.
    pub fn new(config: &Config, registry: &Registry) -> Option<Self> {
        let source = *registry.sources.get(INTERNAL_SOURCE)?;
        let takes_alerts = |handler: &&crate::config::Handler| {
            handler.sources.iter().any(|name| name == INTERNAL_SOURCE)
        };
        let handlers = config.handlers.iter().filter(takes_alerts);
        let handlers =
            handlers.filter_map(|handler| Some((handler, *registry.handlers.get(&handler.name)?)));
        let silent = config.sources.iter().filter_map(|source| {
            Some((*registry.sources.get(&source.name)?, source.alert_if_silent_for?))
        });
        let alert_if_silent_for = silent.collect();
        Some(Self { source, planner: JobPlanner::for_handlers(handlers), alert_if_silent_for })
    }
}

/// Detects alerts, and makes events of the recorded ones.
pub struct AlertMonitor {
    pub subscribers: AlertSubscription,
    pub readers: ReadPool,
    pub expressions: EvaluatorPool,
    pub clock: MonotonicClock,
    pub source_counters: Arc<SourceCounters>,
    /// Drains the sources that reject everything, each with its last reason.
    pub rejecting: Box<dyn Fn() -> Vec<(SourceId, String)> + Send>,
    /// Reports the reader that keeps the write-ahead log from being reset.
    pub blocked_wal: Receiver<String>,
    /// The silences that were reported: the source, and the time of its last event.
    pub silent: HashMap<SourceId, i64>,
    /// Redacts secrets in alert texts.
    pub redact: Box<dyn Fn(&str) -> String + Send>,
    /// The number of alerts whose expressions are being evaluated.
    pub in_flight: Arc<AtomicUsize>,
}

impl AlertMonitor {
    /// Checks all conditions once, and emits recorded alerts.
    pub fn tick(&mut self, writer: &WriterHandle) {
        let (rejecting, blocked_wal) = ((self.rejecting)(), self.blocked_wal.try_recv().ok());
        let Some(subscribers) = self.subscribers.load_full() else { return };
        for (source, reason) in rejecting {
            writer.send(Operation::AlertSignal(AlertSignal::Rejecting(source, reason)));
        }
        if let Some(reason) = blocked_wal {
            writer.send(Operation::AlertSignal(AlertSignal::WalBlocked(reason)));
        }
        self.check_silence(&subscribers, writer);
        self.check_backup(writer);
        // Alerts in flight are still recorded: they would be evaluated twice.
        if self.in_flight.load(Ordering::SeqCst) == 0 {
            self.emit_pending(&subscribers, writer);
        }
    }

    /// Reports each silence of a source once.
    fn check_silence(&mut self, subscribers: &AlertSubscribers, writer: &WriterHandle) {
        let now_ms = self.clock.now_ms();
        for &(source, after) in &subscribers.alert_if_silent_for {
            let seen_at = self.source_counters.last_seen_ms(source, now_ms);
            let is_silent = u128::try_from(now_ms - seen_at)
                .is_ok_and(|silence_ms| silence_ms >= after.as_millis());
            if is_silent && self.silent.insert(source, seen_at) != Some(seen_at) {
                let since = clock::format_rfc3339(self.clock.to_wall_ms(seen_at));
                let detail = format!("no event for {}, since {since}", duration_text(after));
                writer.send(Operation::AlertSignal(AlertSignal::Silent(source, detail)));
            }
        }
    }

    /// Reports an overdue backup once for each period. The transaction that records the alert decides that.
    fn check_backup(&self, writer: &WriterHandle) {
        let Ok(conn) = self.readers.get() else { return };
        let schedule = BackupSchedule::load(&conn).ok().flatten();
        let due = schedule.filter(|schedule| schedule.should_alert(self.clock.now_ms()));
        if let Some(schedule) = due {
            let detail = schedule.describe(self.clock, clock::format_rfc3339, duration_text);
            writer.send(Operation::AlertSignal(AlertSignal::BackupOverdue(detail)));
        }
    }

    /// Emits the recorded alerts that are due.
    fn emit_pending(&self, subscribers: &Arc<AlertSubscribers>, writer: &WriterHandle) {
        let found = self.readers.get().map_err(anyhow::Error::from);
        let found = found.and_then(|conn| Ok(alerts::load_pending(&conn, self.clock.now_ms())?));
        match found {
            Ok(pending) => {
                pending.into_iter().for_each(|alert| self.emit(subscribers, alert, writer));
            }
            Err(e) => log::debug!("alerts cannot be read: {e:#}"),
        }
    }

    /// Evaluates the handlers' expressions on an alert and stores its event. If that fails, the alert stays
    /// recorded.
    fn emit(
        &self,
        subscribers: &Arc<AlertSubscribers>,
        mut alert: PendingAlert,
        writer: &WriterHandle,
    ) {
        alert.detail = alert.detail.map(|detail| (self.redact)(&detail));
        let body = json_object(alert_fields(&alert));
        let Some(expressions) = subscribers.planner.expressions() else {
            return store_alert(
                subscribers,
                alert,
                body,
                subscribers.planner.unconditional_plan(),
                writer,
            );
        };
        let text = body.clone();
        let context = EventContext {
            body: &text,
            content_type: Some("application/json"),
            source: INTERNAL_SOURCE,
            headers: &[("content-type", b"application/json")],
            received_at_ms: clock::wall_ms(),
            ..EventContext::default()
        };
        let (guard, writer) = (InFlightGuard::new(&self.in_flight), writer.clone());
        let subscribers = Arc::clone(subscribers);
        let fairness_key = u64::try_from(subscribers.source.0).unwrap_or(0);
        let on_result = Box::new(move |result| {
            if let Ok(result) = result {
                let planned = subscribers.planner.plan_from(result);
                store_alert(&subscribers, alert, body, planned, &writer);
            }
            drop(guard);
        });
        let priority = Priority::Deferred;
        self.expressions.evaluate_async(priority, fairness_key, expressions, &context, on_result);
    }
}

/// Counts an alert whose expressions are being evaluated, until it is dropped.
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

/// Stores the event of an alert, or marks the alert as handled if no handler takes it.
fn store_alert(
    subscribers: &AlertSubscribers,
    alert: PendingAlert,
    body: Vec<u8>,
    planned: PlannedEvent,
    writer: &WriterHandle,
) {
    // An event needs a random id. Without one the alert stays recorded.
    let at_ms = clock::wall_ms();
    let (Ok(uid), Ok(salt)) = (clock::time_ordered_id(at_ms), clock::random_id()) else { return };
    let event = (!planned.plan.is_empty()).then(|| {
        let event = NewEvent {
            source: subscribers.source,
            uid,
            received_at_ms: at_ms,
            method: "POST".into(),
            headers: b"content-type: application/json".to_vec(),
            expression_errors: planned.expression_errors,
            plan: planned.plan,
            ..NewEvent::default()
        };
        let event = event.with_seal(INTERNAL_SOURCE, salt, &body);
        NewEvent { body, ..event }
    });
    writer.send(Operation::AlertEvent(Box::new(AlertEvent { alert, event })));
}

/// The keys in the body of an alert's event, in the order of docs/alerts.md. Null: one does not apply.
pub(super) fn alert_fields(alert: &PendingAlert) -> [(&'static str, Value); 10] {
    let text = |text: &str| match text {
        "" => Value::Null,
        text => Value::from(text),
    };
    let number = |number: Option<i64>| number.map_or(Value::Null, Value::from);
    [
        ("type", text(&alert.kind)),
        ("at", Value::from(clock::format_rfc3339(alert.at_ms))),
        ("source", text(&alert.source)),
        ("handler", text(&alert.handler)),
        ("event", number(alert.event)),
        ("job", number(alert.job)),
        ("item", number(alert.item)),
        ("attempts", number(alert.attempts)),
        ("detail", alert.detail.as_deref().map_or(Value::Null, Value::from)),
        ("count", Value::from(alert.count)),
    ]
}

/// Writes an object with its keys in this order.
pub(super) fn json_object(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Vec<u8> {
    let fields = fields.into_iter().map(|(name, value)| format!("\"{name}\":{value}"));
    format!("{{{}}}", fields.collect::<Vec<_>>().join(",")).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_of_an_alert_has_all_keys_and_null_for_those_that_do_not_apply() {
        let alert = PendingAlert {
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
        assert_eq!(String::from_utf8(json_object(alert_fields(&alert))).unwrap(), expected);
    }
}
