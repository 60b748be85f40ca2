//! Who gets a thread: by priority, by fairness, by rate, in batches, after a rest.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::Rate;
use crate::scheduler::handler_schedule::BatchPolicy;

const A: HandlerId = HandlerId(1);
const B: HandlerId = HandlerId(2);
const SECOND_US: i64 = 1_000_000;

fn plain(priority: i64, concurrency: usize) -> HandlerLimits {
    HandlerLimits { priority, concurrency, rate: None, batch: None }
}

fn dispatch(threads: usize, limits: &[(HandlerId, HandlerLimits)]) -> Scheduler {
    let mut dispatch = Scheduler::new(threads);
    dispatch.configure(&limits.iter().copied().collect());
    dispatch
}

/// What is asked for at a moment, in the order of handlers.
fn asked(it: &mut Scheduler, now_us: i64) -> Vec<(HandlerId, usize)> {
    let mut asked: Vec<_> = it.plan(now_us).iter().map(|ask| (ask.handler, ask.jobs)).collect();
    asked.sort();
    asked
}

fn ask(handler: HandlerId, jobs: usize) -> ClaimRequest {
    ClaimRequest { handler, jobs, as_one_batch: false, is_probe: false, min_interval_ms: None }
}

#[test]
fn equals_share_the_threads() {
    let mut it = dispatch(4, &[(A, plain(0, 9)), (B, plain(0, 9))]);
    assert_eq!(asked(&mut it, 0), [(A, 2), (B, 2)]);
    assert_eq!(asked(&mut it, 0), []);
}

#[test]
fn a_free_thread_goes_to_the_handler_with_the_fewest_running() {
    let mut it = dispatch(4, &[(A, plain(0, 9)), (B, plain(0, 9))]);
    it.plan(0);
    it.release_thread(B);
    assert_eq!(asked(&mut it, 0), [(B, 1)]);
}

#[test]
fn the_highest_priority_comes_first_up_to_its_concurrency() {
    let mut it = dispatch(4, &[(A, plain(0, 9)), (B, plain(5, 3))]);
    assert_eq!(asked(&mut it, 0), [(A, 1), (B, 3)]);
}

#[test]
fn a_claim_that_got_fewer_frees_the_rest_and_waits_to_be_woken() {
    let mut it = dispatch(2, &[(A, plain(0, 9))]);
    assert_eq!(asked(&mut it, 0), [(A, 2)]);
    it.claimed(&ask(A, 2), 0, 0);
    assert_eq!((asked(&mut it, 0), it.busy()), (vec![], 0));
    it.add_ready(A, 1, 0);
    assert_eq!(asked(&mut it, 0), [(A, 2)]);
}

#[test]
fn a_claim_that_was_not_written_is_asked_for_again() {
    let mut it = dispatch(2, &[(A, plain(0, 9))]);
    it.plan(0);
    it.claim_failed(&ask(A, 2));
    assert_eq!(asked(&mut it, 0), [(A, 2)]);
}

#[test]
fn a_paused_handler_gets_no_thread() {
    let mut it = dispatch(2, &[(A, plain(0, 9))]);
    it.set_paused(&[A]);
    assert_eq!(asked(&mut it, 0), []);
    it.set_paused(&[]);
    assert_eq!(asked(&mut it, 0), [(A, 2)]);
}

#[test]
fn a_handler_that_is_gone_keeps_its_running_jobs_and_starts_none() {
    let mut it = dispatch(3, &[(A, plain(0, 1)), (B, plain(0, 1))]);
    it.plan(0);
    it.configure(&HashMap::from([(A, plain(0, 3))]));
    it.release_thread(B);
    assert_eq!(asked(&mut it, 0), [(A, 2)]);
}

#[test]
fn a_stock_and_a_slow_command_do_not_hold_another_handlers_fresh_job() {
    let mut it = dispatch(4, &[(A, plain(0, 3)), (B, plain(0, 3))]);
    assert_eq!(asked(&mut it, 0), [(A, 2), (B, 2)]);
    it.claimed(&ask(A, 2), 2, 0);
    it.claimed(&ask(B, 2), 0, 0);
    assert_eq!(asked(&mut it, 0), [(A, 1)]);
    it.claimed(&ask(A, 1), 1, 0);
    it.add_ready(B, 1, 0);
    assert_eq!(asked(&mut it, 0), [(B, 1)], "a thread is free, as A has its concurrency");
}

#[test]
fn a_rested_handler_has_one_job_on_trial_and_no_other() {
    let mut it = dispatch(8, &[(A, plain(0, 8))]);
    it.set_breaker(A, Some(SECOND_US));
    assert_eq!(asked(&mut it, SECOND_US - 1), []);
    assert_eq!(it.next_us(), Some(SECOND_US));
    let plan = it.plan(SECOND_US);
    assert_eq!((plan.len(), plan[0].jobs, plan[0].is_probe), (1, 1, true));
    it.claimed(&plan[0], 1, SECOND_US);
    it.add_ready(A, 9, SECOND_US);
    assert_eq!(asked(&mut it, 9 * SECOND_US), [], "until the trial is over");
    it.release_thread(A);
    it.set_breaker(A, Some(20 * SECOND_US));
    assert_eq!(asked(&mut it, 19 * SECOND_US), [], "it failed");
    let plan = it.plan(20 * SECOND_US);
    it.claimed(&plan[0], 1, 20 * SECOND_US);
    it.release_thread(A);
    it.set_breaker(A, None);
    assert_eq!(asked(&mut it, 20 * SECOND_US), [(A, 8)], "it has recovered");
}

#[test]
fn a_claim_that_was_refused_since_its_handler_rests_takes_no_trial_away() {
    let mut it = dispatch(8, &[(A, plain(0, 8))]);
    let plan = it.plan(0);
    it.set_breaker(A, Some(SECOND_US));
    it.claimed(&plan[0], 0, 0);
    assert_eq!(asked(&mut it, SECOND_US), [(A, 1)]);
}

#[test]
fn a_rate_gives_one_start_after_another() {
    let rate = Some(Rate { count: 10, period: Duration::from_secs(1) });
    let mut it = dispatch(8, &[(A, HandlerLimits { rate, ..plain(0, 8) })]);
    let (mut now_us, mut starts) = (0, Vec::new());
    while starts.len() < 30 {
        for ask in it.plan(now_us) {
            it.claimed(&ask, ask.jobs, now_us);
            starts.extend(std::iter::repeat_n(now_us, ask.jobs));
            (0..ask.jobs).for_each(|_| it.release_thread(A));
        }
        now_us = it.next_us().unwrap().max(now_us + 1);
    }
    for (at, start_us) in starts.iter().enumerate() {
        let within = starts[at..].iter().filter(|it| *it - start_us < SECOND_US).count();
        assert!(within <= 10, "{starts:?}");
    }
    assert!(starts[29] < 3 * SECOND_US + SECOND_US / 5, "{starts:?}");
}

#[test]
fn a_batch_waits_for_more_and_takes_one_thread() {
    let batch = Some(BatchPolicy { jobs_max: 3, wait: Duration::from_secs(2) });
    let mut it = dispatch(2, &[(A, HandlerLimits { batch, ..plain(0, 2) })]);
    let count = |it: &mut Scheduler, jobs: usize, now_us: i64| {
        assert_eq!(it.begin_count(), [(A, 3)]);
        it.set_counted(A, jobs, now_us);
    };
    count(&mut it, 1, 0);
    assert_eq!(asked(&mut it, 2 * SECOND_US - 1), []);
    let plan = it.plan(2 * SECOND_US);
    assert_eq!((plan.len(), plan[0].jobs, plan[0].as_one_batch), (1, 3, true));
    it.claimed(&plan[0], 1, 2 * SECOND_US);
    assert_eq!(it.busy(), 1);
    it.add_ready(A, 1, 3 * SECOND_US);
    count(&mut it, 1, 3 * SECOND_US);
    it.add_ready(A, 2, 3 * SECOND_US);
    count(&mut it, 3, 3 * SECOND_US);
    assert_eq!(asked(&mut it, 3 * SECOND_US), [(A, 3)], "it is full");
}

#[test]
fn what_comes_while_a_batch_is_counted_is_not_forgotten() {
    let batch = Some(BatchPolicy { jobs_max: 3, wait: Duration::from_secs(2) });
    let mut it = dispatch(1, &[(A, HandlerLimits { batch, ..plain(0, 1) })]);
    it.begin_count();
    it.add_ready(A, 1, 0);
    it.set_counted(A, 0, SECOND_US);
    assert_eq!(it.next_us(), Some(2 * SECOND_US), "it waits from when the first came");
    assert_eq!(asked(&mut it, 2 * SECOND_US), [(A, 3)]);
}

#[test]
fn a_batch_is_counted_again_that_is_full_only_by_what_came_meanwhile() {
    let batch = Some(BatchPolicy { jobs_max: 3, wait: Duration::from_secs(2) });
    let mut it = dispatch(1, &[(A, HandlerLimits { batch, ..plain(0, 1) })]);
    it.begin_count();
    it.add_ready(A, 2, 0);
    it.set_counted(A, 2, 0);
    assert!(it.needs_count());
    assert_eq!(asked(&mut it, 0), []);
    it.begin_count();
    it.set_counted(A, 3, 0);
    assert_eq!(asked(&mut it, 0), [(A, 3)]);
}

/// Every way that threads come and go, in any order.
#[derive(Clone, Copy, Debug)]
enum Step {
    Plan,
    /// The oldest claim gets a share of what it asked for.
    Claimed(usize),
    ClaimFailed,
    Finished(HandlerId),
    Woken(HandlerId, usize),
    Concurrency(usize),
    Rests(Option<i64>),
    Paused(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let handler = || prop_oneof![Just(A), Just(B)];
    prop_oneof![
        4 => Just(Step::Plan),
        4 => (0..4_usize).prop_map(Step::Claimed),
        1 => Just(Step::ClaimFailed),
        4 => handler().prop_map(Step::Finished),
        2 => (handler(), 1..4_usize).prop_map(|(handler, jobs)| Step::Woken(handler, jobs)),
        1 => (1..5_usize).prop_map(Step::Concurrency),
        1 => prop_oneof![Just(None), Just(Some(0))].prop_map(Step::Rests),
        1 => any::<bool>().prop_map(Step::Paused),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_no_handler_is_given_more_than_its_concurrency_nor_all_more_than_there_are(
        threads in 1..6_usize, is_batch in any::<bool>(), steps in prop::collection::vec(step(), 1..200),
    ) {
        let batch = is_batch.then_some(BatchPolicy { jobs_max: 3, wait: Duration::ZERO });
        let limits = |concurrency: usize| {
            [(A, plain(0, concurrency)), (B, HandlerLimits { batch, ..plain(0, 2) })]
        };
        let (mut concurrency, mut it) = (2, dispatch(threads, &limits(2)));
        let mut running: HashMap<HandlerId, usize> = HashMap::new();
        let mut asks: Vec<ClaimRequest> = Vec::new();
        for step in steps {
            match step {
                Step::Plan => {
                    for (handler, max) in it.begin_count() {
                        it.set_counted(handler, max, 0);
                    }
                    let plan = it.plan(0);
                    asks.extend(&plan);
                    let held = |handler: HandlerId| -> usize {
                        let asked = asks.iter().filter(|ask| ask.handler == handler);
                        let asked: usize = asked.map(|ask| ask.threads(ask.jobs)).sum();
                        asked + running.get(&handler).copied().unwrap_or(0)
                    };
                    for ask in &plan {
                        let max = if ask.handler == A { concurrency } else { 2 };
                        prop_assert!(held(ask.handler) <= max, "{:?}", ask);
                    }
                    prop_assert!(held(A) + held(B) <= threads);
                    prop_assert_eq!(held(A) + held(B), it.busy());
                }
                Step::Claimed(got) if !asks.is_empty() => {
                    let ask = asks.remove(0);
                    let got = got.min(ask.jobs);
                    it.claimed(&ask, got, 0);
                    *running.entry(ask.handler).or_default() += ask.threads(got);
                }
                Step::ClaimFailed if !asks.is_empty() => it.claim_failed(&asks.remove(0)),
                Step::Finished(handler) if running.get(&handler).is_some_and(|&count| count > 0) => {
                    it.release_thread(handler);
                    *running.entry(handler).or_default() -= 1;
                }
                Step::Woken(handler, jobs) => it.add_ready(handler, jobs, 0),
                Step::Concurrency(now) => {
                    concurrency = now;
                    it.configure(&limits(now).into_iter().collect());
                }
                Step::Rests(until_us) => it.set_breaker(A, until_us),
                Step::Paused(is_paused) => it.set_paused(if is_paused { &[A] } else { &[] }),
                Step::Claimed(_) | Step::ClaimFailed | Step::Finished(_) => {}
            }
        }
    }
}
