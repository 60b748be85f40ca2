//! What the source `hooktrail` has to tell: noted with what happened, made an event once a minute.

use super::*;
use crate::store::alerts::{self, AlertEvent, AlertSignal, PendingAlert};
use crate::store::operation::{self, Operation};
use crate::store::sources;

const OWN: SourceId = SourceId(2);
const NONE_TOLD: [&str; 0] = [];

/// A trail whose second source is the server's own, which handler `other` takes.
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
        alerts::waiting(&self.store.conn, self.state.now_ms).unwrap()
    }

    /// Type and count of each.
    fn kinds(&self) -> Vec<String> {
        self.waiting().iter().map(|one| format!("{} {}", one.kind, one.count)).collect()
    }

    /// Makes events of what waits.
    fn make(&mut self) {
        for of in self.waiting() {
            self.apply(Operation::Alert(Box::new(made(of))));
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
        dedupe: events::Dedupe::default(),
        note: None,
        owed: JobPlan::Plain([HandlerId(2)].into()),
        queue_limit: None,
        body_memory: None,
    };
    AlertEvent { of, accept: Some(accept) }
}

const OWN_EVENTS: &str = "SELECT count(*) FROM events WHERE source = 2";

#[test]
fn a_dead_job_is_noted_with_what_is_known_of_it() {
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
fn a_job_that_is_dead_at_once_and_an_event_that_nobody_takes_are_noted() {
    let mut trail = told();
    trail.owe(vec![(H, JobSpec::Dead("when: no".into()))]);
    trail.owe(vec![]);
    trail.accept(JobPlan::Plain([].into()), None);
    // A handler takes it, though there is nothing to do.
    trail.owe(vec![(H, items(&[], vec![]))]);
    assert_eq!(trail.kinds(), ["job.dead 1", "event.unhandled 2"]);
}

#[test]
fn nothing_is_noted_where_nobody_is_told_and_what_was_is_forgotten() {
    let mut trail = told();
    trail.die();
    alerts::set_subscriber(&trail.store.conn, None).unwrap();
    trail.state.reload_config_tables(&trail.store.conn).unwrap();
    trail.die();
    trail.apply(Operation::Notice(AlertSignal::DiskLow("full".into())));
    assert_eq!(trail.kinds(), Vec::<String>::new());
}

#[test]
fn of_one_kind_at_most_one_a_minute_is_made_with_the_count() {
    let mut trail = told();
    trail.die();
    trail.make();
    for _ in 0..3 {
        trail.die();
    }
    trail.wait_for(59_999);
    assert_eq!(trail.kinds(), Vec::<String>::new());
    trail.apply(Operation::Notice(AlertSignal::DiskLow("full".into())));
    assert_eq!(trail.kinds(), ["disk.low 1"], "of another type at once");
    trail.make();
    trail.wait_for(1);
    assert_eq!(trail.kinds(), ["job.dead 3"]);
    trail.make();
    assert_eq!(trail.value(OWN_EVENTS), 3);
    assert_eq!(trail.value("SELECT sum(count) FROM alerts"), 0);
}

#[test]
fn an_alert_that_is_asked_for_twice_is_made_once_and_counts_what_came_meanwhile() {
    let mut trail = told();
    trail.die();
    let of = trail.waiting().remove(0);
    trail.die();
    for _ in 0..2 {
        trail.apply(Operation::Alert(Box::new(made(of.clone()))));
    }
    assert_eq!(trail.value(OWN_EVENTS), 1);
    assert_eq!(trail.value("SELECT count FROM alerts"), 1);
}

#[test]
fn an_alert_that_no_handler_wants_holds_none_back() {
    let mut trail = told();
    trail.die();
    let of = trail.waiting().remove(0);
    trail.apply(Operation::Alert(Box::new(AlertEvent { of, accept: None })));
    assert_eq!(trail.value(OWN_EVENTS), 0);
    trail.die();
    assert_eq!(trail.kinds(), ["job.dead 1"]);
}

#[test]
fn what_is_cut_off_before_its_commit_neither_tells_nor_forgets() {
    let mut trail = told();
    trail.die();
    let of = trail.waiting().remove(0);
    trail.conn().execute_batch("BEGIN IMMEDIATE").unwrap();
    trail.apply(Operation::Alert(Box::new(made(of.clone()))));
    trail.conn().execute_batch("ROLLBACK").unwrap();
    assert_eq!((trail.value(OWN_EVENTS), trail.waiting()), (0, vec![of]));
}

#[test]
fn what_happens_to_its_own_jobs_makes_none() {
    let mut trail = told();
    trail.die();
    trail.make();
    let job = trail.ask(HandlerId(2), 1, false).remove(0);
    trail.finish(&job, died());
    trail.wait_for(60_000);
    assert_eq!(trail.kinds(), Vec::<String>::new());
}

/// A trail on which `h` rests after two failures in a row, by jobs of these sources.
fn rested(sources: [SourceId; 2]) -> Trail {
    let mut trail = told();
    trail.breaker = BreakerPolicy { failures: 2, pause_ms: 60_000 };
    for source in sources {
        tried(&mut trail, source, again(3_600_000));
    }
    assert_eq!(trail.value("SELECT count(*) FROM breaker_log WHERE change = 'opened'"), 1);
    trail
}

/// Runs a job of this source to this end, on trial where `h` rests.
fn tried(trail: &mut Trail, source: SourceId, next: Next) {
    let on_trial = trail.state.rests.get(&H).is_some_and(|rest| rest.until_ms.is_some());
    trail.state.now_ms += if on_trial { 60_000 } else { 0 };
    trail.owe(vec![(H, JobSpec::Event(JobKeys::default()))]);
    let one = ClaimedJob { source, ..trail.ask(H, 1, on_trial).remove(0) };
    trail.finish(&one, next);
}

#[test]
fn a_handler_that_rests_and_one_that_recovers_are_told_once() {
    let mut trail = rested([S, S]);
    tried(&mut trail, S, again(3_600_000));
    tried(&mut trail, S, Next::Succeeded);
    assert_eq!(trail.kinds(), ["handler.breaker_opened 1", "handler.breaker_closed 1"]);
    assert!(trail.waiting().iter().all(|one| one.handler == "h" && one.source.is_empty()));
    trail.make();
}

#[test]
fn a_rest_is_told_by_the_first_failure_that_is_no_alerts_own_and_its_end_by_any_success() {
    let mut trail = rested([S, OWN]);
    assert_eq!(trail.kinds(), NONE_TOLD, "an alert's own job was the last");
    tried(&mut trail, OWN, again(3_600_000));
    assert_eq!(trail.kinds(), NONE_TOLD);
    tried(&mut trail, S, again(3_600_000));
    assert_eq!(trail.kinds(), ["handler.breaker_opened 1"]);
    tried(&mut trail, OWN, Next::Succeeded);
    assert_eq!(trail.kinds(), ["handler.breaker_opened 1", "handler.breaker_closed 1"]);
}

#[test]
fn what_was_not_told_to_rest_is_not_told_to_recover() {
    let mut trail = rested([OWN, OWN]);
    tried(&mut trail, S, Next::Succeeded);
    assert_eq!(trail.kinds(), NONE_TOLD);
}

#[test]
fn a_recovery_is_not_kept_for_those_who_take_alerts_later() {
    let mut trail = rested([S, S]);
    alerts::set_subscriber(trail.conn(), None).unwrap();
    trail.state.reload_config_tables(&trail.store.conn).unwrap();
    tried(&mut trail, S, Next::Succeeded);
    assert_eq!(trail.kinds(), NONE_TOLD);
}

#[test]
fn a_breaker_that_is_turned_off_is_a_recovery_that_is_told() {
    let trail = rested([S, S]);
    registry::register(trail.conn(), &[], &[named("h", BreakerPolicy::NEVER)], 0).unwrap();
    assert_eq!(trail.kinds(), ["handler.breaker_opened 1", "handler.breaker_closed 1"]);
}

#[test]
fn a_silence_is_told_once_until_an_event_ends_it() {
    let mut trail = told();
    let silent = || Operation::Notice(AlertSignal::Silent(S, "no event".into()));
    for _ in 0..2 {
        trail.apply(silent());
    }
    assert_eq!(trail.kinds(), ["source.silent 1"]);
    // It is known after a restart too.
    trail.state = WriterState::read(&trail.store.conn, trail.store.clock).unwrap();
    trail.apply(silent());
    assert_eq!(trail.value("SELECT count FROM alerts"), 1);
    trail.owe(vec![(H, JobSpec::Event(JobKeys::default()))]);
    trail.apply(silent());
    assert_eq!(trail.value("SELECT count FROM alerts"), 2);
}

#[test]
fn a_source_that_only_refuses_is_told_once_if_it_ever_accepted() {
    let mut trail = told();
    let refusing = || Operation::Notice(AlertSignal::Refusing(S, "20 refused".into()));
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
fn after_a_crash_the_last_event_of_a_source_is_known_by_its_events() {
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
    // A clock that was set back, or leapt ahead, makes it no earlier than what was kept.
    assert_eq!(seen(&trail, wall_ms - 3_000), (0, 5));
    assert_eq!(seen(&trail, wall_ms + 9_000_000), (500_000, 5));
}
