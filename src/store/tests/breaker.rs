//! Tests of the circuit breaker, and of the saved state of `rate`.

use super::*;
use crate::store::breaker;
use crate::store::operation::{self, Operation};

fn plain(trail: &mut Trail, jobs: usize) {
    for _ in 0..jobs {
        trail.accept(JobPlan::Plain([H].into()), None);
    }
}

fn resting(failures: u32) -> Trail {
    let mut trail = trail();
    trail.breaker = BreakerPolicy { failures, pause_ms: 60_000 };
    plain(&mut trail, 10);
    trail
}

fn changes(trail: &Trail) -> Vec<String> {
    let sql = "SELECT change || ': ' || detail FROM breaker_log ORDER BY id";
    let mut select = trail.conn().prepare(sql).unwrap();
    select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// Runs the probe with this result.
fn tried(trail: &mut Trail, next: NextState) {
    let one = trail.ask(H, 1, true).remove(0);
    assert!(one.is_probe);
    trail.finish(&one, next);
}

#[test]
fn failures_in_a_row_open_the_breaker_and_a_successful_probe_closes_it() {
    let mut trail = resting(3);
    let all = trail.claim(4);
    trail.finish(&all[0], again(0));
    trail.finish(&all[1], NextState::Succeeded);
    for one in &all[2..] {
        trail.finish(one, again(0));
    }
    trail.run(again(0));
    assert_eq!(trail.claimed(9), NONE, "the breaker is open");
    assert_eq!(trail.ask(H, 1, true).len(), 0, "no probe for a minute");
    trail.state.now_ms += 60_000;
    assert_eq!(trail.claimed(9), NONE, "then only a probe may run");
    tried(&mut trail, again(0));
    assert_eq!(trail.ask(H, 1, true).len(), 0, "the probe failed");
    trail.state.now_ms += 60_000;
    tried(&mut trail, NextState::Succeeded);
    assert_eq!(trail.claim(9).len(), 8);
    let expected = [
        "opened: 3 in a row, the last was job 1: exit 1",
        "probe: job 1",
        "opened: probe job 1 failed: exit 1",
        "probe: job 1",
        "closed: job 1: exit 1",
    ];
    assert_eq!(changes(&trail), expected);
}

#[test]
fn jobs_that_ran_before_the_breaker_opened_do_not_change_it() {
    let mut trail = resting(2);
    let all = trail.claim(4);
    trail.finish(&all[0], again(0));
    trail.finish(&all[1], again(0));
    trail.finish(&all[2], NextState::Succeeded);
    trail.finish(&all[3], again(0));
    assert_eq!(trail.claimed(1), NONE);
    assert_eq!(changes(&trail), ["opened: 2 in a row, the last was job 2: exit 1"]);
}

#[test]
fn a_claim_for_a_paused_handler_gets_no_job() {
    let mut trail = trail();
    plain(&mut trail, 1);
    registry::set_paused(trail.conn(), H, true, 0).unwrap();
    trail.state.reload(&trail.store.conn).unwrap();
    assert_eq!(trail.claimed(1), NONE);
    registry::set_paused(trail.conn(), H, false, 0).unwrap();
    trail.state.reload(&trail.store.conn).unwrap();
    assert_eq!(trail.claimed(1), [1]);
}

#[test]
fn a_job_that_the_handler_reports_dead_is_no_failure_of_the_handler() {
    let mut trail = resting(2);
    let all = trail.claim(3);
    for one in &all {
        trail.end(one, (Outcome::Failed, true), died());
    }
    assert_eq!(trail.claim(1).len(), 1);
}

#[test]
fn an_open_breaker_survives_a_restart_and_stops_the_handlers_clock() {
    let mut trail = resting(1);
    let before_ms = trail.state.handler_time_ms(H);
    trail.run(again(0));
    trail.state.write_counters(&trail.store.conn).unwrap();
    trail.state = WriterState::read(&trail.store.conn, trail.store.clock).unwrap();
    trail.state.now_ms = 1_000_000 + 30_000;
    assert_eq!(trail.claimed(1), NONE);
    assert_eq!(breaker::load_breakers(trail.conn()).unwrap()[&H].open_until_ms, Some(1_060_000));
    registry::set_paused(trail.conn(), H, true, trail.state.now_ms).unwrap();
    trail.state.now_ms += 60_000;
    tried(&mut trail, NextState::Succeeded);
    trail.state.now_ms += 10_000;
    registry::set_paused(trail.conn(), H, false, trail.state.now_ms).unwrap();
    trail.state.read_idle(&trail.store.conn).unwrap();
    assert_eq!(
        trail.state.handler_time_ms(H),
        before_ms,
        "the clock stops while the breaker is open and while the handler is paused"
    );
    trail.state.now_ms += 5;
    assert_eq!(trail.state.handler_time_ms(H), before_ms + 5);
}

#[test]
fn the_next_start_of_a_rate_is_saved() {
    let mut trail = resting(0);
    let ask = ClaimRequest {
        handler: H,
        max_jobs: 2,
        as_one_batch: false,
        is_probe: false,
        min_interval_ms: Some(250),
    };
    assert_eq!(claim(&trail.store.conn, &mut trail.state, &ask).unwrap().len(), 2);
    assert_eq!(registry::next_rate_starts(trail.conn()).unwrap(), [(H, 1_000_500)]);
}

/// Applies this `breaker` as a configuration does.
fn configure(trail: &mut Trail, breaker: BreakerPolicy) {
    let (reply, _) = crossbeam_channel::bounded(1);
    let handlers = vec![named("h", breaker)];
    let op = Operation::Register { sources: Vec::new(), handlers, reply };
    operation::apply(&trail.store.conn, &mut trail.state, &op).unwrap();
}

#[test]
fn disabling_the_breaker_closes_it_and_a_shorter_pause_shortens_the_open_state() {
    let mut trail = resting(1);
    let before_ms = trail.state.handler_time_ms(H);
    trail.run(again(0));
    trail.state.changed_breakers.clear();
    trail.state.now_ms += 10_000;
    configure(&mut trail, BreakerPolicy { failures: 1, pause_ms: 120_000 });
    assert_eq!(trail.state.changed_breakers, [], "a longer pause applies to the next time");
    configure(&mut trail, BreakerPolicy { failures: 1, pause_ms: 5_000 });
    assert_eq!(trail.state.breakers[&H].open_until_ms, Some(trail.state.now_ms + 5_000));
    assert_eq!(trail.state.changed_breakers, [H]);
    configure(&mut trail, BreakerPolicy::NEVER);
    assert_eq!(trail.state.handler_time_ms(H), before_ms);
    assert_eq!(trail.claim(99).len(), 10);
    assert_eq!(changes(&trail)[1..], ["closed: its breaker was disabled"]);
}

#[test]
fn an_inconclusive_probe_is_followed_by_another() {
    let mut trail = resting(1);
    trail.run(again(0));
    trail.state.now_ms += 60_000;
    for ended in
        [(Outcome::Interrupted, false), (Outcome::Deferred, false), (Outcome::Failed, true)]
    {
        let one = trail.ask(H, 1, true).remove(0);
        trail.state.changed_breakers.clear();
        trail.end(&one, ended, if ended.1 { died() } else { again(0) });
        assert_eq!(trail.state.changed_breakers, [H], "the scheduler is notified: {ended:?}");
        assert!(
            trail.state.breakers[&H].open_until_ms.is_some(),
            "the breaker stays open: {ended:?}"
        );
    }
    tried(&mut trail, NextState::Succeeded);
    assert_eq!(trail.claim(9).len(), 8);
}

#[test]
fn a_probe_that_is_replaced_by_other_jobs_is_followed_by_another() {
    let mut trail = resting(1);
    trail.run(died());
    trail.owe(vec![(H, JobSpec::Dead("when: no such thing".into()))]);
    for job in 2..=10 {
        trail.cancel(job);
    }
    assert!(trail.retry(11));
    trail.state.now_ms += 60_000;
    let claimed = trail.ask(H, 1, true).remove(0);
    assert!(claimed.should_reevaluate && claimed.is_probe);
    trail.state.changed_breakers.clear();
    let owed = Some(items(&["1", "2"], Vec::new()));
    let it = reevaluate::Reevaluation { claimed, received_at_ms: 5, spec: owed };
    reevaluate::apply_reevaluation(&trail.store.conn, &mut trail.state, &it).unwrap();
    assert_eq!(trail.state.changed_breakers, [H]);
    assert_eq!(trail.ask(H, 9, true).len(), 2, "the store claims as many jobs as requested");
}
