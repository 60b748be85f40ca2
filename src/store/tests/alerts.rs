//! Conditions of the source `hooktrail`: recorded when they occur, and reported by an event once
//! per minute.

use super::*;
use crate::store::alerts::{self, AlertEvent, AlertSignal, PendingAlert};
use crate::store::operation::{self, Operation};
use crate::store::sources;

const OWN: SourceId = SourceId(2);
const NONE_TOLD: [&str; 0] = [];

/// A store whose second source is `hooktrail`, to which the handler `other` subscribes.
fn told() -> Trail {
    let mut trail = trail();
    let conn = &trail.store.conn;
    registry::register(conn, &[alerts::SOURCE.to_owned()], &[], 0).unwrap();
    alerts::set_subscriber(conn, Some(OWN)).unwrap();
    trail.state.reload_config_tables(conn).unwrap();
    trail
}

impl Trail {
    fn apply(&mut self, op: Operation) {
        operation::apply(&self.store.conn, &mut self.state, &op).unwrap();
    }

    fn die(&mut self) {
        self.owe(vec![(H, JobSpec::Event(JobKeys::default()))]);
        self.run(died());
    }

    fn waiting(&self) -> Vec<PendingAlert> {
        alerts::load_pending(&self.store.conn, self.state.now_ms).unwrap()
    }

    /// The type and count of each pending alert.
    fn kinds(&self) -> Vec<String> {
        self.waiting().iter().map(|one| format!("{} {}", one.kind, one.count)).collect()
    }

    /// Stores an event for each pending alert.
    fn make(&mut self) {
        for of in self.waiting() {
            self.apply(Operation::AlertEvent(Box::new(made(of))));
        }
    }

    fn value(&self, sql: &str) -> i64 {
        self.conn().query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

fn made(of: PendingAlert) -> AlertEvent {
    let accept = NewEvent {
        reply_slot: 0,
        source: OWN,
        uid: [1; 16],
        received_at_ms: 1,
        method: "POST".into(),
        path: String::new(),
        query: None,
        ip: String::new(),
        headers: Vec::new(),
        body: b"{}".to_vec(),
        dedupe: events::DedupeCheck::default(),
        note: None,
        plan: JobPlan::Plain([HandlerId(2)].into()),
        queue_limit: None,
        body_memory: None,
    };
    AlertEvent { alert: of, event: Some(accept) }
}

const OWN_EVENTS: &str = "SELECT count(*) FROM events WHERE source = 2";

#[test]
fn a_dead_job_is_recorded_with_its_details() {
    let mut trail = told();
    trail.die();
    trail.owe(vec![(H, items(&["1"], vec![]))]);
    trail.run(died());
    let expected = PendingAlert {
        kind: "job.dead".into(),
        source: "a".into(),
        handler: "h".into(),
        count: 2,
        at_ms: trail.state.wall_ms,
        event: Some(2),
        job: Some(2),
        item: Some(1),
        attempts: Some(1),
        detail: Some("exit 1".into()),
    };
    assert_eq!(trail.waiting(), [expected]);
}

#[test]
fn a_job_whose_expression_failed_and_an_event_without_a_handler_are_recorded() {
    let mut trail = told();
    trail.owe(vec![(H, JobSpec::Dead("when: no".into()))]);
    trail.owe(vec![]);
    trail.accept(JobPlan::Plain([].into()), None);
    // A handler takes this event, though it has no items.
    trail.owe(vec![(H, items(&[], vec![]))]);
    assert_eq!(trail.kinds(), ["job.dead 1", "event.unhandled 2"]);
}

#[test]
fn without_a_subscriber_nothing_is_recorded_and_earlier_records_are_discarded() {
    let mut trail = told();
    trail.die();
    alerts::set_subscriber(&trail.store.conn, None).unwrap();
    trail.state.reload_config_tables(&trail.store.conn).unwrap();
    trail.die();
    trail.apply(Operation::AlertSignal(AlertSignal::DiskLow("full".into())));
    assert_eq!(trail.kinds(), Vec::<String>::new());
}

#[test]
fn one_condition_makes_at_most_one_event_per_minute_with_the_count() {
    let mut trail = told();
    trail.die();
    trail.make();
    for _ in 0..3 {
        trail.die();
    }
    trail.wait_for(59_999);
    assert_eq!(trail.kinds(), Vec::<String>::new());
    trail.apply(Operation::AlertSignal(AlertSignal::DiskLow("full".into())));
    assert_eq!(trail.kinds(), ["disk.low 1"], "of another type at once");
    trail.make();
    trail.wait_for(1);
    assert_eq!(trail.kinds(), ["job.dead 3"]);
    trail.make();
    assert_eq!(trail.value(OWN_EVENTS), 3);
    assert_eq!(trail.value("SELECT sum(count) FROM alerts"), 0);
}

#[test]
fn an_alert_that_is_sent_twice_makes_one_event_and_keeps_the_count_of_later_occurrences() {
    let mut trail = told();
    trail.die();
    let of = trail.waiting().remove(0);
    trail.die();
    for _ in 0..2 {
        trail.apply(Operation::AlertEvent(Box::new(made(of.clone()))));
    }
    assert_eq!(trail.value(OWN_EVENTS), 1);
    assert_eq!(trail.value("SELECT count FROM alerts"), 1);
}

#[test]
fn an_alert_that_no_handler_wants_delays_no_other() {
    let mut trail = told();
    trail.die();
    let of = trail.waiting().remove(0);
    trail.apply(Operation::AlertEvent(Box::new(AlertEvent { alert: of, event: None })));
    assert_eq!(trail.value(OWN_EVENTS), 0);
    trail.die();
    assert_eq!(trail.kinds(), ["job.dead 1"]);
}

#[test]
fn an_alert_that_is_rolled_back_makes_no_event_and_stays_pending() {
    let mut trail = told();
    trail.die();
    let of = trail.waiting().remove(0);
    trail.conn().execute_batch("BEGIN IMMEDIATE").unwrap();
    trail.apply(Operation::AlertEvent(Box::new(made(of.clone()))));
    trail.conn().execute_batch("ROLLBACK").unwrap();
    assert_eq!((trail.value(OWN_EVENTS), trail.waiting()), (0, vec![of]));
}

#[test]
fn a_dead_job_of_an_alert_makes_no_alert() {
    let mut trail = told();
    trail.die();
    trail.make();
    let job = trail.ask(HandlerId(2), 1, false).remove(0);
    trail.finish(&job, died());
    trail.wait_for(60_000);
    assert_eq!(trail.kinds(), Vec::<String>::new());
}

/// A store on which the circuit breaker of `h` is open after two failures in a row, by jobs of
/// these sources.
fn rested(sources: [SourceId; 2]) -> Trail {
    let mut trail = told();
    trail.breaker = BreakerPolicy { failures: 2, pause_ms: 60_000 };
    for source in sources {
        tried(&mut trail, source, again(3_600_000));
    }
    assert_eq!(trail.value("SELECT count(*) FROM breaker_log WHERE change = 'opened'"), 1);
    trail
}

/// Runs a job of this source, as the probe if the circuit breaker of `h` is open.
fn tried(trail: &mut Trail, source: SourceId, next: NextState) {
    let on_trial = trail.state.breakers.get(&H).is_some_and(|rest| rest.open_until_ms.is_some());
    trail.state.now_ms += if on_trial { 60_000 } else { 0 };
    trail.owe(vec![(H, JobSpec::Event(JobKeys::default()))]);
    let one = ClaimedJob { source, ..trail.ask(H, 1, on_trial).remove(0) };
    trail.finish(&one, next);
}

#[test]
fn an_opened_and_a_closed_breaker_make_one_alert_each() {
    let mut trail = rested([S, S]);
    tried(&mut trail, S, again(3_600_000));
    tried(&mut trail, S, NextState::Succeeded);
    assert_eq!(trail.kinds(), ["handler.breaker_opened 1", "handler.breaker_closed 1"]);
    assert!(trail.waiting().iter().all(|one| one.handler == "h" && one.source.is_empty()));
    trail.make();
}

#[test]
fn the_first_failure_of_another_source_alerts_of_the_open_breaker_and_any_success_of_the_closed_one()
 {
    let mut trail = rested([S, OWN]);
    assert_eq!(trail.kinds(), NONE_TOLD, "an alert's own job was the last");
    tried(&mut trail, OWN, again(3_600_000));
    assert_eq!(trail.kinds(), NONE_TOLD);
    tried(&mut trail, S, again(3_600_000));
    assert_eq!(trail.kinds(), ["handler.breaker_opened 1"]);
    tried(&mut trail, OWN, NextState::Succeeded);
    assert_eq!(trail.kinds(), ["handler.breaker_opened 1", "handler.breaker_closed 1"]);
}

#[test]
fn a_breaker_that_opened_without_an_alert_closes_without_one() {
    let mut trail = rested([OWN, OWN]);
    tried(&mut trail, S, NextState::Succeeded);
    assert_eq!(trail.kinds(), NONE_TOLD);
}

#[test]
fn a_closed_breaker_is_not_recorded_for_later_subscribers() {
    let mut trail = rested([S, S]);
    alerts::set_subscriber(trail.conn(), None).unwrap();
    trail.state.reload_config_tables(&trail.store.conn).unwrap();
    tried(&mut trail, S, NextState::Succeeded);
    assert_eq!(trail.kinds(), NONE_TOLD);
}

#[test]
fn disabling_an_open_breaker_makes_the_closed_alert() {
    let trail = rested([S, S]);
    registry::register(trail.conn(), &[], &[named("h", BreakerPolicy::NEVER)], 0).unwrap();
    assert_eq!(trail.kinds(), ["handler.breaker_opened 1", "handler.breaker_closed 1"]);
}

#[test]
fn a_silence_makes_one_alert_until_an_event_ends_it() {
    let mut trail = told();
    let silent = || Operation::AlertSignal(AlertSignal::Silent(S, "no event".into()));
    for _ in 0..2 {
        trail.apply(silent());
    }
    assert_eq!(trail.kinds(), ["source.silent 1"]);
    // The condition survives a restart.
    trail.state = WriterState::read(&trail.store.conn, trail.store.clock).unwrap();
    trail.apply(silent());
    assert_eq!(trail.value("SELECT count FROM alerts"), 1);
    trail.owe(vec![(H, JobSpec::Event(JobKeys::default()))]);
    trail.apply(silent());
    assert_eq!(trail.value("SELECT count FROM alerts"), 2);
}

#[test]
fn a_rejecting_source_makes_one_alert_if_it_has_accepted_before() {
    let mut trail = told();
    let refusing = || Operation::AlertSignal(AlertSignal::Rejecting(S, "20 refused".into()));
    trail.apply(refusing());
    assert_eq!(trail.kinds(), Vec::<String>::new());
    trail.owe(vec![(H, JobSpec::Event(JobKeys::default()))]);
    for _ in 0..2 {
        trail.apply(refusing());
    }
    assert_eq!(trail.kinds(), ["source.rejecting 1"]);
    trail.owe(vec![(H, JobSpec::Event(JobKeys::default()))]);
    trail.apply(refusing());
    assert_eq!(trail.kinds(), ["source.rejecting 2"]);
}

#[test]
fn after_a_crash_the_last_activity_of_a_source_comes_from_its_events() {
    let mut trail = told();
    let (conn, now_ms) = (&trail.store.conn, trail.state.now_ms);
    sources::save_last_seen(conn, &[(S, now_ms - 500_000), (OWN, now_ms - 5)]).unwrap();
    let seen = |trail: &Trail, wall_ms| {
        let seen = sources::load_last_seen(&trail.store.conn, now_ms, wall_ms).unwrap();
        (now_ms - seen[&S], now_ms - seen[&OWN])
    };
    let wall_ms = trail.state.wall_ms;
    assert_eq!(seen(&trail, wall_ms), (500_000, 5));
    trail.owe(vec![(H, JobSpec::Event(JobKeys::default()))]);
    assert_eq!(seen(&trail, wall_ms + 3_000), (3_000, 5));
    // A wall clock that was set back or ahead makes the time no earlier than the saved one.
    assert_eq!(seen(&trail, wall_ms - 3_000), (0, 5));
    assert_eq!(seen(&trail, wall_ms + 9_000_000), (500_000, 5));
}
