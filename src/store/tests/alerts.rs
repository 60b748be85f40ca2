//! Conditions of the source `hooktrail`: recorded when they occur, and reported by an event once
//! per minute.

use super::*;
use crate::store::alerts::{self, AlertEvent, AlertSignal, PendingAlert};
use crate::store::operation::{self, Operation};
use crate::store::sources;

const OWN: SourceId = SourceId(2);
const NO_ALERTS: [&str; 0] = [];

/// A store whose second source is `hooktrail`, to which the handler `other` subscribes.
pub(super) fn store_with_alerts() -> TestStore {
    let mut db = test_store();
    let sources = [crate::domain::INTERNAL_SOURCE.to_owned()];
    let now_ms = std::mem::take(&mut db.cache.now_ms);
    db.change(|tx| operation::register(tx, &sources, &[]));
    db.cache.now_ms = now_ms;
    db
}

impl TestStore {
    fn apply(&mut self, op: Operation) {
        self.change(|tx| operation::apply(tx, &op));
    }

    fn run_dead_job(&mut self) {
        self.insert_event(vec![(H, JobSpec::Event(JobKeys::default()))]);
        self.run_next(dead());
    }

    fn pending_alerts(&self) -> Vec<PendingAlert> {
        alerts::load_pending(&self.store.conn, self.cache.now_ms).unwrap()
    }

    /// The type and count of each pending alert.
    fn pending_kinds(&self) -> Vec<String> {
        self.pending_alerts().iter().map(|job| format!("{} {}", job.kind, job.count)).collect()
    }

    /// Stores an event for each pending alert.
    fn emit_all(&mut self) {
        for alert in self.pending_alerts() {
            self.apply(Operation::AlertEvent(Box::new(alert_event(alert))));
        }
    }
}

fn alert_event(alert: PendingAlert) -> AlertEvent {
    let event = NewEvent {
        source: OWN,
        uid: [1; 16],
        received_at_ms: 1,
        method: "POST".into(),
        body: b"{}".to_vec(),
        plan: JobPlan::Plain([HandlerId(2)].into()),
        ..NewEvent::default()
    };
    AlertEvent { alert, event: Some(event) }
}

const OWN_EVENTS: &str = "SELECT count(*) FROM events WHERE source = 2";

#[test]
fn a_dead_job_is_recorded_with_its_details() {
    let mut db = store_with_alerts();
    db.run_dead_job();
    db.insert_event(vec![(H, items(&["1"], vec![]))]);
    db.run_next(dead());
    let expected = PendingAlert {
        kind: "job.dead".into(),
        source: "a".into(),
        handler: "h".into(),
        count: 2,
        at_ms: db.cache.wall_ms,
        event: Some(2),
        job: Some(2),
        item: Some(1),
        attempts: Some(1),
        detail: Some("exit 1".into()),
    };
    assert_eq!(db.pending_alerts(), [expected]);
}

#[test]
fn a_job_whose_expression_failed_and_an_event_without_a_handler_are_recorded() {
    let mut db = store_with_alerts();
    db.insert_event(vec![(H, JobSpec::Dead("when: no".into()))]);
    db.insert_event(vec![]);
    db.insert_plan(JobPlan::Plain([].into()), None);
    // A handler takes this event, though it has no items.
    db.insert_event(vec![(H, items(&[], vec![]))]);
    assert_eq!(db.pending_kinds(), ["job.dead 1", "event.unhandled 2"]);
}

#[test]
fn without_a_subscriber_nothing_is_recorded_and_earlier_records_are_discarded() {
    let mut db = store_with_alerts();
    db.run_dead_job();
    alerts::set_subscriber(&db.store.conn, None).unwrap();
    db.cache.reload_config_tables(&db.store.conn).unwrap();
    db.run_dead_job();
    db.apply(Operation::AlertSignal(AlertSignal::DiskLow("full".into())));
    assert_eq!(db.pending_kinds(), Vec::<String>::new());
}

#[test]
fn one_condition_makes_at_most_one_event_per_minute_with_the_count() {
    let mut db = store_with_alerts();
    db.run_dead_job();
    db.emit_all();
    for _ in 0..3 {
        db.run_dead_job();
    }
    db.advance(59_999);
    assert_eq!(db.pending_kinds(), Vec::<String>::new());
    db.apply(Operation::AlertSignal(AlertSignal::DiskLow("full".into())));
    assert_eq!(db.pending_kinds(), ["disk.low 1"], "of another type at once");
    db.emit_all();
    db.advance(1);
    assert_eq!(db.pending_kinds(), ["job.dead 3"]);
    db.emit_all();
    assert_eq!(db.query_number(OWN_EVENTS), 3);
    assert_eq!(db.query_number("SELECT sum(count) FROM alerts"), 0);
}

#[test]
fn an_alert_that_is_sent_twice_makes_one_event_and_keeps_the_count_of_later_occurrences() {
    let mut db = store_with_alerts();
    db.run_dead_job();
    let alert = db.pending_alerts().remove(0);
    db.run_dead_job();
    for _ in 0..2 {
        db.apply(Operation::AlertEvent(Box::new(alert_event(alert.clone()))));
    }
    assert_eq!(db.query_number(OWN_EVENTS), 1);
    assert_eq!(db.query_number("SELECT count FROM alerts"), 1);
}

#[test]
fn an_alert_that_no_handler_wants_delays_no_other() {
    let mut db = store_with_alerts();
    db.run_dead_job();
    let alert = db.pending_alerts().remove(0);
    db.apply(Operation::AlertEvent(Box::new(AlertEvent { alert, event: None })));
    assert_eq!(db.query_number(OWN_EVENTS), 0);
    db.run_dead_job();
    assert_eq!(db.pending_kinds(), ["job.dead 1"]);
}

#[test]
fn an_alert_that_is_rolled_back_makes_no_event_and_stays_pending() {
    let mut db = store_with_alerts();
    db.run_dead_job();
    let alert = db.pending_alerts().remove(0);
    db.conn().execute_batch("BEGIN IMMEDIATE").unwrap();
    db.apply(Operation::AlertEvent(Box::new(alert_event(alert.clone()))));
    db.conn().execute_batch("ROLLBACK").unwrap();
    assert_eq!((db.query_number(OWN_EVENTS), db.pending_alerts()), (0, vec![alert]));
}

#[test]
fn a_dead_job_of_an_alert_makes_no_alert() {
    let mut db = store_with_alerts();
    db.run_dead_job();
    db.emit_all();
    let job = db.claim_for(HandlerId(2), 1, false).remove(0);
    db.finish(&job, dead());
    db.advance(60_000);
    assert_eq!(db.pending_kinds(), Vec::<String>::new());
}

/// A store on which the circuit breaker of `h` is open after two failures in a row, by jobs of
/// these sources.
fn store_with_open_breaker(sources: [SourceId; 2]) -> TestStore {
    let mut db = store_with_alerts();
    db.breaker = BreakerPolicy { failures: 2, pause_ms: 60_000 };
    for source in sources {
        run_job(&mut db, source, retry_after(3_600_000));
    }
    assert_eq!(db.query_number("SELECT count(*) FROM breaker_log WHERE change = 'opened'"), 1);
    db
}

/// Runs a job of this source, as the probe if the circuit breaker of `h` is open.
fn run_job(db: &mut TestStore, source: SourceId, next: NextStep) {
    let is_probe = db.cache.breakers.get(&H).is_some_and(|rest| rest.open_until_ms.is_some());
    db.cache.now_ms += if is_probe { 60_000 } else { 0 };
    db.insert_event(vec![(H, JobSpec::Event(JobKeys::default()))]);
    let job = ClaimedJob { source, ..db.claim_for(H, 1, is_probe).remove(0) };
    db.finish(&job, next);
}

#[test]
fn an_opened_and_a_closed_breaker_make_one_alert_each() {
    let mut db = store_with_open_breaker([S, S]);
    run_job(&mut db, S, retry_after(3_600_000));
    run_job(&mut db, S, NextStep::Succeeded);
    assert_eq!(db.pending_kinds(), ["handler.breaker_opened 1", "handler.breaker_closed 1"]);
    assert!(db.pending_alerts().iter().all(|job| job.handler == "h" && job.source.is_empty()));
    db.emit_all();
}

#[test]
fn the_first_failure_of_another_source_alerts_of_the_open_breaker_and_any_success_of_the_closed_one()
 {
    let mut db = store_with_open_breaker([S, OWN]);
    assert_eq!(db.pending_kinds(), NO_ALERTS, "an alert's own job was the last");
    run_job(&mut db, OWN, retry_after(3_600_000));
    assert_eq!(db.pending_kinds(), NO_ALERTS);
    run_job(&mut db, S, retry_after(3_600_000));
    assert_eq!(db.pending_kinds(), ["handler.breaker_opened 1"]);
    run_job(&mut db, OWN, NextStep::Succeeded);
    assert_eq!(db.pending_kinds(), ["handler.breaker_opened 1", "handler.breaker_closed 1"]);
}

#[test]
fn a_breaker_that_opened_without_an_alert_closes_without_one() {
    let mut db = store_with_open_breaker([OWN, OWN]);
    run_job(&mut db, S, NextStep::Succeeded);
    assert_eq!(db.pending_kinds(), NO_ALERTS);
}

#[test]
fn a_closed_breaker_is_not_recorded_for_later_subscribers() {
    let mut db = store_with_open_breaker([S, S]);
    alerts::set_subscriber(db.conn(), None).unwrap();
    db.cache.reload_config_tables(&db.store.conn).unwrap();
    run_job(&mut db, S, NextStep::Succeeded);
    assert_eq!(db.pending_kinds(), NO_ALERTS);
}

#[test]
fn disabling_an_open_breaker_makes_the_closed_alert() {
    let mut db = store_with_open_breaker([S, S]);
    let handlers = [registration("h", BreakerPolicy::NEVER)];
    db.change(|tx| registry::register(tx, &[], &handlers));
    assert_eq!(db.pending_kinds(), ["handler.breaker_opened 1", "handler.breaker_closed 1"]);
}

#[test]
fn a_silence_makes_one_alert_until_an_event_ends_it() {
    let mut db = store_with_alerts();
    let silent = || Operation::AlertSignal(AlertSignal::Silent(S, "no event".into()));
    for _ in 0..2 {
        db.apply(silent());
    }
    assert_eq!(db.pending_kinds(), ["source.silent 1"]);
    // The condition survives a restart.
    db.cache = WriterCache::read(&db.store.conn, db.store.clock).unwrap();
    db.apply(silent());
    assert_eq!(db.query_number("SELECT count FROM alerts"), 1);
    db.insert_event(vec![(H, JobSpec::Event(JobKeys::default()))]);
    db.apply(silent());
    assert_eq!(db.query_number("SELECT count FROM alerts"), 2);
}

#[test]
fn a_rejecting_source_makes_one_alert_if_it_has_accepted_before() {
    let mut db = store_with_alerts();
    let rejecting = || Operation::AlertSignal(AlertSignal::Rejecting(S, "20 refused".into()));
    db.apply(rejecting());
    assert_eq!(db.pending_kinds(), Vec::<String>::new());
    db.insert_event(vec![(H, JobSpec::Event(JobKeys::default()))]);
    for _ in 0..2 {
        db.apply(rejecting());
    }
    assert_eq!(db.pending_kinds(), ["source.rejecting 1"]);
    db.insert_event(vec![(H, JobSpec::Event(JobKeys::default()))]);
    db.apply(rejecting());
    assert_eq!(db.pending_kinds(), ["source.rejecting 2"]);
}

#[test]
fn after_a_crash_the_last_activity_of_a_source_comes_from_the_counts_of_its_events() {
    let mut db = store_with_alerts();
    let (conn, now_ms) = (&db.store.conn, db.cache.now_ms);
    sources::save_last_seen(conn, &[(S, now_ms - 500_000), (OWN, now_ms - 5)]).unwrap();
    let last_seen = |db: &TestStore, wall_ms| {
        let last_seen = sources::load_last_seen(&db.store.conn, now_ms, wall_ms).unwrap();
        (now_ms - last_seen[&S], now_ms - last_seen[&OWN])
    };
    let wall_ms = db.cache.wall_ms;
    assert_eq!(last_seen(&db, wall_ms), (500_000, 5));
    db.insert_event(vec![(H, JobSpec::Event(JobKeys::default()))]);
    assert_eq!(last_seen(&db, wall_ms + 3_000), (3_000, 5));
    // A wall clock that was set back or ahead makes the time no earlier than the saved one.
    assert_eq!(last_seen(&db, wall_ms - 3_000), (0, 5));
    assert_eq!(last_seen(&db, wall_ms + 9_000_000), (500_000, 5));
}
