//! Tests of the circuit breaker, and of the saved state of `rate_limit`.

use super::*;
use crate::store::operation::{self, Operation};

fn insert_plain_events(db: &mut TestStore, jobs: usize) {
    for _ in 0..jobs {
        db.insert_plan(JobPlan::Plain([H].into()), None);
    }
}

fn store_with_breaker(failures: u32) -> TestStore {
    let mut db = test_store();
    db.breaker = BreakerPolicy { failures, pause_ms: 60_000 };
    insert_plain_events(&mut db, 10);
    db
}

fn breaker_changes(db: &TestStore) -> Vec<String> {
    let sql = "SELECT change || ': ' || detail FROM breaker_log ORDER BY id";
    let mut select = db.conn().prepare(sql).unwrap();
    select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// Runs the probe with this result.
fn run_probe(db: &mut TestStore, next: NextStep) {
    let job = db.claim_for(H, 1, true).remove(0);
    assert!(job.is_probe);
    db.finish(&job, next);
}

#[test]
fn failures_in_a_row_open_the_breaker_and_a_successful_probe_closes_it() {
    let mut db = store_with_breaker(3);
    let jobs = db.claim(4);
    db.finish(&jobs[0], retry_after(0));
    db.finish(&jobs[1], NextStep::Succeeded);
    for job in &jobs[2..] {
        db.finish(job, retry_after(0));
    }
    db.run_next(retry_after(0));
    assert_eq!(db.claim_ids(9), NONE, "the breaker is open");
    assert_eq!(db.claim_for(H, 1, true).len(), 0, "no probe for a minute");
    db.cache.now_ms += 60_000;
    assert_eq!(db.claim_ids(9), NONE, "then only a probe may run");
    run_probe(&mut db, retry_after(0));
    assert_eq!(db.claim_for(H, 1, true).len(), 0, "the probe failed");
    db.cache.now_ms += 60_000;
    run_probe(&mut db, NextStep::Succeeded);
    assert_eq!(db.claim(9).len(), 8);
    let expected = [
        "opened: 3 in a row, the last was job 1: exit 1",
        "probe: job 1",
        "opened: probe job 1 failed: exit 1",
        "probe: job 1",
        "closed: job 1: exit 1",
    ];
    assert_eq!(breaker_changes(&db), expected);
}

#[test]
fn jobs_that_ran_before_the_breaker_opened_do_not_change_it() {
    let mut db = store_with_breaker(2);
    let jobs = db.claim(4);
    db.finish(&jobs[0], retry_after(0));
    db.finish(&jobs[1], retry_after(0));
    db.finish(&jobs[2], NextStep::Succeeded);
    db.finish(&jobs[3], retry_after(0));
    assert_eq!(db.claim_ids(1), NONE);
    assert_eq!(breaker_changes(&db), ["opened: 2 in a row, the last was job 2: exit 1"]);
}

#[test]
fn a_claim_for_a_paused_handler_gets_no_job() {
    let mut db = test_store();
    insert_plain_events(&mut db, 1);
    registry::set_paused(db.conn(), H, true, 0).unwrap();
    db.cache.reload(&db.store.conn).unwrap();
    assert_eq!(db.claim_ids(1), NONE);
    registry::set_paused(db.conn(), H, false, 0).unwrap();
    db.cache.reload(&db.store.conn).unwrap();
    assert_eq!(db.claim_ids(1), [1]);
}

#[test]
fn a_job_that_the_handler_reports_dead_is_no_failure_of_the_handler() {
    let mut db = store_with_breaker(2);
    let jobs = db.claim(3);
    for job in &jobs {
        db.finish_with(job, (Outcome::Failed, true), dead());
    }
    assert_eq!(db.claim(1).len(), 1);
}

#[test]
fn an_open_breaker_survives_a_restart_and_stops_the_handlers_clock() {
    let mut db = store_with_breaker(1);
    let before_ms = db.cache.handler_time_ms(H);
    db.run_next(retry_after(0));
    db.cache.write_counters(&db.store.conn).unwrap();
    db.cache = WriterCache::read(&db.store.conn, db.store.clock).unwrap();
    db.cache.now_ms = 1_000_000 + 30_000;
    assert_eq!(db.claim_ids(1), NONE);
    assert_eq!(
        WriterCache::read(db.conn(), db.store.clock).unwrap().breakers[&H].open_until_ms,
        Some(1_060_000)
    );
    registry::set_paused(db.conn(), H, true, db.cache.now_ms).unwrap();
    db.cache.now_ms += 60_000;
    run_probe(&mut db, NextStep::Succeeded);
    db.cache.now_ms += 10_000;
    registry::set_paused(db.conn(), H, false, db.cache.now_ms).unwrap();
    db.cache.reload_handlers(&db.store.conn).unwrap();
    assert_eq!(
        db.cache.handler_time_ms(H),
        before_ms,
        "the clock stops while the breaker is open and while the handler is paused"
    );
    db.cache.now_ms += 5;
    assert_eq!(db.cache.handler_time_ms(H), before_ms + 5);
}

#[test]
fn the_next_start_of_a_rate_is_saved() {
    let mut db = store_with_breaker(0);
    let claim_for = ClaimRequest {
        handler: H,
        max_jobs: 2,
        is_one_batch: false,
        is_prefetch: false,
        is_probe: false,
        min_interval_ms: Some(250),
    };
    assert_eq!(db.change(|tx| claim(tx, &claim_for)).len(), 2);
    assert_eq!(registry::next_rate_starts(db.conn()).unwrap(), [(H, 1_000_500)]);
}

fn changed_breakers(db: &TestStore) -> Vec<HandlerId> {
    db.effects.breakers.iter().map(|(handler, _)| *handler).collect()
}

/// Applies this `breaker` as a configuration does.
fn configure(db: &mut TestStore, breaker: BreakerPolicy) {
    let (reply, _) = crossbeam_channel::bounded(1);
    let handlers = vec![registration("h", breaker)];
    let op = Operation::Register { sources: Vec::new(), handlers, reply };
    db.change(|tx| operation::apply(tx, &op));
}

#[test]
fn disabling_the_breaker_closes_it_and_a_shorter_pause_shortens_the_open_state() {
    let mut db = store_with_breaker(1);
    let before_ms = db.cache.handler_time_ms(H);
    db.run_next(retry_after(0));
    db.effects = Effects::default();
    db.cache.now_ms += 10_000;
    configure(&mut db, BreakerPolicy { failures: 1, pause_ms: 120_000 });
    assert_eq!(changed_breakers(&db), [], "a longer pause applies to the next time");
    configure(&mut db, BreakerPolicy { failures: 1, pause_ms: 5_000 });
    assert_eq!(db.cache.breakers[&H].open_until_ms, Some(db.cache.now_ms + 5_000));
    assert_eq!(changed_breakers(&db), [H]);
    configure(&mut db, BreakerPolicy::NEVER);
    assert_eq!(db.cache.handler_time_ms(H), before_ms);
    assert_eq!(db.claim(99).len(), 10);
    assert_eq!(breaker_changes(&db)[1..], ["closed: its breaker was disabled"]);
}

#[test]
fn an_inconclusive_probe_is_followed_by_another() {
    let mut db = store_with_breaker(1);
    db.run_next(retry_after(0));
    db.cache.now_ms += 60_000;
    for result in
        [(Outcome::Interrupted, false), (Outcome::Deferred, false), (Outcome::Failed, true)]
    {
        let job = db.claim_for(H, 1, true).remove(0);
        db.effects = Effects::default();
        db.finish_with(&job, result, if result.1 { dead() } else { retry_after(0) });
        assert_eq!(changed_breakers(&db), [H], "the scheduler is notified: {result:?}");
        assert!(
            db.cache.breakers[&H].open_until_ms.is_some(),
            "the breaker stays open: {result:?}"
        );
    }
    run_probe(&mut db, NextStep::Succeeded);
    assert_eq!(db.claim(9).len(), 8);
}

#[test]
fn a_probe_that_is_replaced_by_other_jobs_is_followed_by_another() {
    let mut db = store_with_breaker(1);
    db.run_next(dead());
    db.insert_event(vec![(H, JobSpec::Dead("when: no such thing".into()))]);
    for job in 2..=10 {
        db.cancel(job);
    }
    assert!(db.retry(11));
    db.cache.now_ms += 60_000;
    let claimed = db.claim_for(H, 1, true).remove(0);
    assert!(claimed.should_reevaluate && claimed.is_probe);
    db.effects = Effects::default();
    let specs = Some(items(&["1", "2"], Vec::new()));
    let reevaluation = reevaluate::Reevaluation { claimed, received_at_ms: 5, spec: specs };
    db.change(|tx| reevaluate::apply_reevaluation(tx, &reevaluation));
    assert_eq!(changed_breakers(&db), [H]);
    assert_eq!(db.claim_for(H, 9, true).len(), 2, "the store claims as many jobs as requested");
}
