//! The breaker, and what is kept of rates.

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

/// Runs the trial to this end.
fn tried(trail: &mut Trail, next: Next) {
    let one = trail.ask(H, 1, true).remove(0);
    assert!(one.on_trial);
    trail.finish(&one, next);
}

#[test]
fn so_many_failures_in_a_row_are_a_rest_then_one_trial_and_recovery() {
    let mut trail = resting(3);
    let all = trail.claim(4);
    trail.finish(&all[0], again(0));
    trail.finish(&all[1], Next::Succeeded);
    for one in &all[2..] {
        trail.finish(one, again(0));
    }
    trail.run(again(0));
    assert_eq!(trail.claimed(9), NONE, "it rests");
    assert_eq!(trail.ask(H, 1, true).len(), 0, "for a minute");
    trail.state.now_ms += 60_000;
    assert_eq!(trail.claimed(9), NONE, "and then one job is on trial");
    tried(&mut trail, again(0));
    assert_eq!(trail.ask(H, 1, true).len(), 0, "which failed");
    trail.state.now_ms += 60_000;
    tried(&mut trail, Next::Succeeded);
    assert_eq!(trail.claim(9).len(), 8);
    let expected = [
        "opened: 3 in a row, the last was job 1: exit 1",
        "probe: job 1",
        "opened: job 1 failed on trial: exit 1",
        "probe: job 1",
        "closed: job 1: exit 1",
    ];
    assert_eq!(changes(&trail), expected);
}

#[test]
fn what_ran_before_the_rest_ends_as_it_may_and_changes_nothing() {
    let mut trail = resting(2);
    let all = trail.claim(4);
    trail.finish(&all[0], again(0));
    trail.finish(&all[1], again(0));
    trail.finish(&all[2], Next::Succeeded);
    trail.finish(&all[3], again(0));
    assert_eq!(trail.claimed(1), NONE);
    assert_eq!(changes(&trail), ["opened: 2 in a row, the last was job 2: exit 1"]);
}

#[test]
fn of_a_paused_handler_nothing_is_claimed_by_who_has_not_heard_of_it() {
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
fn dead_at_once_is_no_failure_of_the_handler() {
    let mut trail = resting(2);
    let all = trail.claim(3);
    for one in &all {
        trail.end(one, (Outcome::Failed, true), died());
    }
    assert_eq!(trail.claim(1).len(), 1);
}

#[test]
fn a_rest_is_kept_over_a_restart_and_a_handlers_clock_stands_still_meanwhile() {
    let mut trail = resting(1);
    let before_ms = trail.state.active_ms(H);
    trail.run(again(0));
    trail.state.write_counters(&trail.store.conn).unwrap();
    trail.state = WriterState::read(&trail.store.conn, trail.store.clock).unwrap();
    trail.state.now_ms = 1_000_000 + 30_000;
    assert_eq!(trail.claimed(1), NONE);
    assert_eq!(breaker::all(trail.conn()).unwrap()[&H].until_ms, Some(1_060_000));
    registry::set_paused(trail.conn(), H, true, trail.state.now_ms).unwrap();
    trail.state.now_ms += 60_000;
    tried(&mut trail, Next::Succeeded);
    trail.state.now_ms += 10_000;
    registry::set_paused(trail.conn(), H, false, trail.state.now_ms).unwrap();
    trail.state.read_idle(&trail.store.conn).unwrap();
    assert_eq!(trail.state.active_ms(H), before_ms, "it rested, and then it was paused");
    trail.state.now_ms += 5;
    assert_eq!(trail.state.active_ms(H), before_ms + 5);
}

#[test]
fn when_the_next_of_a_rate_may_start_is_kept() {
    let mut trail = resting(0);
    let ask = ClaimRequest {
        handler: H,
        jobs: 2,
        as_one_batch: false,
        is_probe: false,
        min_interval_ms: Some(250),
    };
    assert_eq!(claim(&trail.store.conn, &mut trail.state, &ask).unwrap().len(), 2);
    assert_eq!(registry::rates(trail.conn()).unwrap(), [(H, 1_000_500)]);
}

/// Has this breaker taken over from config.toml.
fn configure(trail: &mut Trail, breaker: BreakerPolicy) {
    let (reply, _) = crossbeam_channel::bounded(1);
    let handlers = vec![named("h", breaker)];
    let op = Operation::Register { sources: Vec::new(), handlers, reply };
    operation::apply(&trail.store.conn, &mut trail.state, &op).unwrap();
}

#[test]
fn a_breaker_that_is_turned_off_ends_the_rest_and_a_shorter_pause_shortens_it() {
    let mut trail = resting(1);
    let before_ms = trail.state.active_ms(H);
    trail.run(again(0));
    trail.state.changed_breakers.clear();
    trail.state.now_ms += 10_000;
    configure(&mut trail, BreakerPolicy { failures: 1, pause_ms: 120_000 });
    assert_eq!(trail.state.changed_breakers, [], "a longer pause is for the next rest");
    configure(&mut trail, BreakerPolicy { failures: 1, pause_ms: 5_000 });
    assert_eq!(trail.state.rests[&H].until_ms, Some(trail.state.now_ms + 5_000));
    assert_eq!(trail.state.changed_breakers, [H]);
    configure(&mut trail, BreakerPolicy::NEVER);
    assert_eq!(trail.state.active_ms(H), before_ms);
    assert_eq!(trail.claim(99).len(), 10);
    assert_eq!(changes(&trail)[1..], ["closed: its breaker was turned off"]);
}

#[test]
fn a_trial_that_tells_nothing_is_followed_by_another() {
    let mut trail = resting(1);
    trail.run(again(0));
    trail.state.now_ms += 60_000;
    for ended in
        [(Outcome::Interrupted, false), (Outcome::Deferred, false), (Outcome::Failed, true)]
    {
        let one = trail.ask(H, 1, true).remove(0);
        trail.state.changed_breakers.clear();
        trail.end(&one, ended, if ended.1 { died() } else { again(0) });
        assert_eq!(
            trail.state.changed_breakers,
            [H],
            "the dispatcher hears that it is over: {ended:?}"
        );
        assert!(trail.state.rests[&H].until_ms.is_some(), "it rests still: {ended:?}");
    }
    tried(&mut trail, Next::Succeeded);
    assert_eq!(trail.claim(9).len(), 8);
}

#[test]
fn a_trial_that_made_other_jobs_is_followed_by_another() {
    let mut trail = resting(1);
    trail.run(died());
    trail.owe(vec![(H, JobSpec::Dead("when: no such thing".into()))]);
    for job in 2..=10 {
        trail.cancel(job);
    }
    assert!(trail.retry(11));
    trail.state.now_ms += 60_000;
    let claimed = trail.ask(H, 1, true).remove(0);
    assert!(claimed.expand && claimed.on_trial);
    trail.state.changed_breakers.clear();
    let owed = Some(items(&["1", "2"], Vec::new()));
    let it = reevaluate::Reevaluation { claimed, received_at_ms: 5, owed };
    reevaluate::apply_reevaluation(&trail.store.conn, &mut trail.state, &it).unwrap();
    assert_eq!(trail.state.changed_breakers, [H]);
    assert_eq!(trail.ask(H, 9, true).len(), 2, "the store gives what is asked for");
}
