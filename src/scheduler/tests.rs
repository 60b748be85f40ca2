//! Which handler gets a free thread: priority, fairness, rate limits, batches, circuit breakers.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::Rate;
use crate::scheduler::handler_schedule::BatchPolicy;

const A: HandlerId = HandlerId(1);
const B: HandlerId = HandlerId(2);
const SECOND_US: i64 = 1_000_000;

fn plain(priority: i64, concurrency: usize) -> HandlerLimits {
    HandlerLimits { priority, concurrency, rate: None, batch: None, should_prefetch: true }
}

fn scheduler_of(threads: usize, limits: &[(HandlerId, HandlerLimits)]) -> Scheduler {
    let mut scheduler = Scheduler::new(threads);
    scheduler.configure(&limits.iter().copied().collect());
    scheduler
}

/// The claims of a plan: the handler and its number of jobs, ordered by handler.
fn planned(scheduler: &mut Scheduler, now_us: i64) -> Vec<(HandlerId, usize)> {
    let mut planned: Vec<_> =
        scheduler.plan(now_us).iter().map(|request| (request.handler, request.max_jobs)).collect();
    planned.sort();
    planned
}

fn request(handler: HandlerId, jobs: usize) -> ClaimRequest {
    ClaimRequest {
        handler,
        max_jobs: jobs,
        is_one_batch: false,
        is_prefetch: false,
        is_probe: false,
        min_interval_ms: None,
    }
}

#[test]
fn handlers_of_equal_priority_share_the_threads() {
    let mut scheduler = scheduler_of(4, &[(A, plain(0, 9)), (B, plain(0, 9))]);
    assert_eq!(planned(&mut scheduler, 0), [(A, 2), (B, 2)]);
    assert_eq!(planned(&mut scheduler, 0), []);
}

#[test]
fn a_free_thread_goes_to_the_handler_with_the_fewest_running() {
    let mut scheduler = scheduler_of(4, &[(A, plain(0, 9)), (B, plain(0, 9))]);
    scheduler.plan(0);
    scheduler.release_thread(B);
    assert_eq!(planned(&mut scheduler, 0), [(B, 1)]);
}

#[test]
fn the_highest_priority_comes_first_up_to_its_concurrency() {
    let mut scheduler = scheduler_of(4, &[(A, plain(0, 9)), (B, plain(5, 3))]);
    assert_eq!(planned(&mut scheduler, 0), [(A, 1), (B, 3)]);
}

#[test]
fn a_claim_that_got_fewer_jobs_frees_the_other_threads_until_a_job_is_ready() {
    let mut scheduler = scheduler_of(2, &[(A, plain(0, 9))]);
    assert_eq!(planned(&mut scheduler, 0), [(A, 2)]);
    scheduler.record_claim(&request(A, 2), 0, 0);
    assert_eq!((planned(&mut scheduler, 0), scheduler.busy()), (vec![], 0));
    scheduler.add_ready(A, 1, 0);
    assert_eq!(planned(&mut scheduler, 0), [(A, 2)]);
}

#[test]
fn a_claim_that_was_not_written_is_made_again() {
    let mut scheduler = scheduler_of(2, &[(A, plain(0, 9))]);
    scheduler.plan(0);
    scheduler.record_failed_claim(&request(A, 2), 0);
    assert_eq!(planned(&mut scheduler, 0), [(A, 2)]);
}

#[test]
fn a_paused_handler_gets_no_thread() {
    let mut scheduler = scheduler_of(2, &[(A, plain(0, 9))]);
    scheduler.set_paused(&[A]);
    assert_eq!(planned(&mut scheduler, 0), []);
    scheduler.set_paused(&[]);
    assert_eq!(planned(&mut scheduler, 0), [(A, 2)]);
}

#[test]
fn a_handler_that_is_gone_keeps_its_running_jobs_and_starts_none() {
    let mut scheduler = scheduler_of(3, &[(A, plain(0, 1)), (B, plain(0, 1))]);
    scheduler.plan(0);
    scheduler.configure(&HashMap::from([(A, plain(0, 3))]));
    scheduler.release_thread(B);
    assert_eq!(planned(&mut scheduler, 0), [(A, 2)]);
}

#[test]
fn a_backlog_of_slow_jobs_does_not_delay_the_new_job_of_another_handler() {
    let mut scheduler = scheduler_of(4, &[(A, plain(0, 3)), (B, plain(0, 3))]);
    assert_eq!(planned(&mut scheduler, 0), [(A, 2), (B, 2)]);
    scheduler.record_claim(&request(A, 2), 2, 0);
    scheduler.record_claim(&request(B, 2), 0, 0);
    assert_eq!(planned(&mut scheduler, 0), [(A, 1)]);
    scheduler.record_claim(&request(A, 1), 1, 0);
    scheduler.add_ready(B, 1, 0);
    assert_eq!(planned(&mut scheduler, 0), [(B, 1)], "a thread is free, as A has its concurrency");
}

#[test]
fn an_open_circuit_breaker_admits_one_probe_after_its_cooldown() {
    let mut scheduler = scheduler_of(8, &[(A, plain(0, 8))]);
    scheduler.set_breaker(A, Some(SECOND_US));
    assert_eq!(planned(&mut scheduler, SECOND_US - 1), []);
    assert_eq!(scheduler.next_us(), Some(SECOND_US));
    let plan = scheduler.plan(SECOND_US);
    assert_eq!((plan.len(), plan[0].max_jobs, plan[0].is_probe), (1, 1, true));
    scheduler.record_claim(&plan[0], 1, SECOND_US);
    scheduler.add_ready(A, 9, SECOND_US);
    assert_eq!(planned(&mut scheduler, 9 * SECOND_US), [], "until the probe has ended");
    scheduler.release_thread(A);
    scheduler.set_breaker(A, Some(20 * SECOND_US));
    assert_eq!(planned(&mut scheduler, 19 * SECOND_US), [], "the probe failed");
    let plan = scheduler.plan(20 * SECOND_US);
    scheduler.record_claim(&plan[0], 1, 20 * SECOND_US);
    scheduler.release_thread(A);
    scheduler.set_breaker(A, None);
    assert_eq!(planned(&mut scheduler, 20 * SECOND_US), [(A, 8)], "the circuit breaker is closed");
}

#[test]
fn a_claim_that_got_nothing_because_of_an_open_circuit_breaker_uses_up_no_probe() {
    let mut scheduler = scheduler_of(8, &[(A, plain(0, 8))]);
    let plan = scheduler.plan(0);
    scheduler.set_breaker(A, Some(SECOND_US));
    scheduler.record_claim(&plan[0], 0, 0);
    assert_eq!(planned(&mut scheduler, SECOND_US), [(A, 1)]);
}

#[test]
fn a_rate_limit_spreads_the_starts() {
    let rate = Some(Rate { count: 10, period: Duration::from_secs(1) });
    let mut scheduler = scheduler_of(8, &[(A, HandlerLimits { rate, ..plain(0, 8) })]);
    let (mut now_us, mut starts) = (0, Vec::new());
    while starts.len() < 30 {
        for request in scheduler.plan(now_us) {
            scheduler.record_claim(&request, request.max_jobs, now_us);
            starts.extend(std::iter::repeat_n(now_us, request.max_jobs));
            (0..request.max_jobs).for_each(|_| scheduler.release_thread(A));
        }
        now_us = scheduler.next_us().unwrap().max(now_us + 1);
    }
    for (at, start_us) in starts.iter().enumerate() {
        let within =
            starts[at..].iter().filter(|later_us| *later_us - start_us < SECOND_US).count();
        assert!(within <= 10, "{starts:?}");
    }
    assert!(starts[29] < 3 * SECOND_US + SECOND_US / 5, "{starts:?}");
}

#[test]
fn a_batch_waits_for_more_and_takes_one_thread() {
    let batch = Some(BatchPolicy { max_jobs: 3, wait: Duration::from_secs(2) });
    let mut scheduler = scheduler_of(2, &[(A, HandlerLimits { batch, ..plain(0, 2) })]);
    let count = |scheduler: &mut Scheduler, jobs: usize, now_us: i64| {
        assert_eq!(scheduler.counts_needed(), [(A, 3)]);
        scheduler.set_counted(A, jobs, now_us);
    };
    count(&mut scheduler, 1, 0);
    assert_eq!(planned(&mut scheduler, 2 * SECOND_US - 1), []);
    let plan = scheduler.plan(2 * SECOND_US);
    assert_eq!((plan.len(), plan[0].max_jobs, plan[0].is_one_batch), (1, 3, true));
    scheduler.record_claim(&plan[0], 1, 2 * SECOND_US);
    assert_eq!(scheduler.busy(), 1);
    scheduler.add_ready(A, 1, 3 * SECOND_US);
    count(&mut scheduler, 1, 3 * SECOND_US);
    scheduler.add_ready(A, 2, 3 * SECOND_US);
    count(&mut scheduler, 3, 3 * SECOND_US);
    assert_eq!(planned(&mut scheduler, 3 * SECOND_US), [(A, 3)], "the batch is full");
}

#[test]
fn batch_wait_begins_with_the_first_job() {
    let batch = Some(BatchPolicy { max_jobs: 3, wait: Duration::from_secs(2) });
    let mut scheduler = scheduler_of(1, &[(A, HandlerLimits { batch, ..plain(0, 1) })]);
    scheduler.add_ready(A, 1, 0);
    scheduler.set_counted(A, 1, SECOND_US);
    assert_eq!(scheduler.next_us(), Some(2 * SECOND_US));
    assert_eq!(planned(&mut scheduler, 2 * SECOND_US), [(A, 3)]);
}

#[test]
fn a_batch_that_new_jobs_fill_is_counted_again() {
    let batch = Some(BatchPolicy { max_jobs: 3, wait: Duration::from_secs(2) });
    let mut scheduler = scheduler_of(1, &[(A, HandlerLimits { batch, ..plain(0, 1) })]);
    scheduler.set_counted(A, 2, 0);
    scheduler.add_ready(A, 1, 0);
    assert_eq!(scheduler.counts_needed(), [(A, 3)], "some of the jobs may be cancelled by now");
    assert_eq!(planned(&mut scheduler, 0), []);
    scheduler.set_counted(A, 3, 0);
    assert_eq!(planned(&mut scheduler, 0), [(A, 3)]);
}

/// A scheduler with two threads that are busy with short jobs of A, of which more are ready.
fn scheduler_with_short_jobs(limits: &[(HandlerId, HandlerLimits)]) -> Scheduler {
    let mut scheduler = scheduler_of(2, limits);
    (0..50).for_each(|_| scheduler.record_duration(A, 0));
    scheduler.schedule(B).set_counted(0, 0);
    assert_eq!(planned(&mut scheduler, 0), [(A, 2)]);
    scheduler
}

/// The handlers whose threads may go on with prefetched jobs, and the numbers of jobs to prefetch.
fn prefetched(scheduler: &mut Scheduler, now_us: i64) -> (Vec<HandlerId>, Vec<usize>) {
    let (open, requests) = scheduler.plan_prefetch(now_us);
    assert!(requests.iter().all(|request| request.is_prefetch && open.contains(&request.handler)));
    (open, requests.iter().map(|request| request.max_jobs).collect())
}

#[test]
fn jobs_are_prefetched_for_each_busy_thread_up_to_a_limit() {
    let mut scheduler = scheduler_with_short_jobs(&[(A, plain(0, 9))]);
    assert_eq!(prefetched(&mut scheduler, 0), (vec![A], vec![8]));
    assert_eq!(prefetched(&mut scheduler, 0), (vec![A], vec![]));
    scheduler.remove_prefetched(A, 1, 0);
    assert_eq!(prefetched(&mut scheduler, 0), (vec![A], vec![1]));
    assert_eq!(scheduler.busy(), 2, "prefetched jobs take no thread");
}

#[test]
fn only_a_handler_with_prefetch_prefetches() {
    let limits = HandlerLimits { should_prefetch: false, ..plain(0, 9) };
    let mut scheduler = scheduler_with_short_jobs(&[(A, limits)]);
    assert_eq!(prefetched(&mut scheduler, 0), (vec![], vec![]));
}

#[test]
fn long_jobs_are_not_prefetched_until_the_average_is_short_again() {
    let mut scheduler = scheduler_with_short_jobs(&[(A, plain(0, 9))]);
    scheduler.record_duration(A, 60 * SECOND_US);
    assert_eq!(prefetched(&mut scheduler, 0), (vec![A], vec![]));
    (0..20).for_each(|_| scheduler.record_duration(A, 100));
    assert_eq!(prefetched(&mut scheduler, 0), (vec![A], vec![8]));
}

#[test]
fn no_job_is_prefetched_while_another_handler_would_get_the_thread() {
    for (priority, is_open) in [(1, false), (0, false), (-1, true)] {
        let limits = [(A, plain(0, 9)), (B, plain(priority, 9))];
        let mut scheduler = scheduler_with_short_jobs(&limits);
        scheduler.add_ready(B, 1, 0);
        let (open, _) = prefetched(&mut scheduler, 0);
        assert_eq!(!open.is_empty(), is_open, "priority {priority}");
    }
}

#[test]
fn a_free_thread_may_start_prefetched_jobs_if_no_other_job_is_ready() {
    let mut scheduler = scheduler_with_short_jobs(&[(A, plain(0, 9))]);
    let (_, requests) = scheduler.plan_prefetch(0);
    scheduler.record_claim(&requests[0], 1, 0);
    scheduler.release_thread(A);
    assert_eq!(planned(&mut scheduler, 0), [(A, 1)]);
}

#[test]
fn prefetched_jobs_are_returned_when_their_handler_may_not_start_them() {
    let rate = Some(Rate { count: 1, period: Duration::from_secs(1) });
    let changes: [fn(&mut Scheduler, Option<Rate>); 4] = [
        |scheduler, _| scheduler.set_paused(&[A]),
        |scheduler, _| scheduler.set_breaker(A, Some(SECOND_US)),
        |scheduler, _| scheduler.configure(&HashMap::new()),
        |scheduler, rate| {
            scheduler.configure(&HashMap::from([(A, HandlerLimits { rate, ..plain(0, 9) })]));
        },
    ];
    for change in changes {
        let mut scheduler = scheduler_with_short_jobs(&[(A, plain(0, 9))]);
        scheduler.plan_prefetch(0);
        assert_eq!(scheduler.prefetches_to_return(0), []);
        change(&mut scheduler, rate);
        assert_eq!(scheduler.prefetches_to_return(0), [A]);
        scheduler.remove_prefetched(A, 8, 0);
        assert_eq!(prefetched(&mut scheduler, 0), (vec![], vec![]));
    }
}

#[test]
fn prefetched_jobs_that_wait_for_a_long_job_are_returned() {
    let mut scheduler = scheduler_with_short_jobs(&[(A, plain(0, 9))]);
    scheduler.plan_prefetch(0);
    assert_eq!(scheduler.prefetches_to_return(SECOND_US - 1), []);
    assert_eq!(scheduler.next_us(), Some(SECOND_US));
    assert_eq!(scheduler.prefetches_to_return(SECOND_US), [A]);
    scheduler.remove_prefetched(A, 8, SECOND_US);
    assert_eq!(prefetched(&mut scheduler, SECOND_US), (vec![A], vec![]), "its jobs are long");
}

#[test]
fn a_lower_concurrency_lets_no_thread_go_on_with_prefetched_jobs() {
    let mut scheduler = scheduler_with_short_jobs(&[(A, plain(0, 9))]);
    scheduler.plan_prefetch(0);
    scheduler.configure(&HashMap::from([(A, plain(0, 1))]));
    assert_eq!(prefetched(&mut scheduler, 0), (vec![], vec![]));
    scheduler.release_thread(A);
    assert_eq!(prefetched(&mut scheduler, 0), (vec![A], vec![]));
}

/// Every event that changes the number of busy threads.
#[derive(Clone, Copy, Debug)]
enum SchedulerEvent {
    Plan,
    /// The maximum number of jobs of the oldest claim.
    Claimed(usize),
    ClaimFailed,
    Finished(HandlerId),
    JobsReady(HandlerId, usize),
    Concurrency(usize),
    Breaker(Option<i64>),
    Paused(bool),
}

fn event() -> impl Strategy<Value = SchedulerEvent> {
    let handler = || prop_oneof![Just(A), Just(B)];
    prop_oneof![
        4 => Just(SchedulerEvent::Plan),
        4 => (0..4_usize).prop_map(SchedulerEvent::Claimed),
        1 => Just(SchedulerEvent::ClaimFailed),
        4 => handler().prop_map(SchedulerEvent::Finished),
        2 => (handler(), 1..4_usize).prop_map(|(handler, jobs)| SchedulerEvent::JobsReady(handler, jobs)),
        1 => (1..5_usize).prop_map(SchedulerEvent::Concurrency),
        1 => prop_oneof![Just(None), Just(Some(0))].prop_map(SchedulerEvent::Breaker),
        1 => any::<bool>().prop_map(SchedulerEvent::Paused),
    ]
}

proptest! {
    #[test]
    fn no_handler_exceeds_its_concurrency_and_all_together_never_exceed_the_threads(
        threads in 1..6_usize, is_batch in any::<bool>(), events in prop::collection::vec(event(), 1..200),
    ) {
        let batch = is_batch.then_some(BatchPolicy { max_jobs: 3, wait: Duration::ZERO });
        let limits = |concurrency: usize| {
            [(A, plain(0, concurrency)), (B, HandlerLimits { batch, ..plain(0, 2) })]
        };
        let (mut concurrency, mut scheduler) = (2, scheduler_of(threads, &limits(2)));
        let (mut running, mut prefetched): (HashMap<HandlerId, usize>, _) = (HashMap::new(), 0);
        (0..50).for_each(|_| scheduler.record_duration(A, 0));
        let mut requests: Vec<ClaimRequest> = Vec::new();
        for event in events {
            match event {
                SchedulerEvent::Plan => {
                    for (handler, max) in scheduler.counts_needed() {
                        scheduler.set_counted(handler, max, 0);
                    }
                    let plan = scheduler.plan(0);
                    requests.extend(&plan);
                    let busy_threads = |handler: HandlerId| -> usize {
                        let planned = requests.iter().filter(|request| request.handler == handler);
                        let planned: usize = planned.map(|request| request.thread_count(request.max_jobs)).sum();
                        planned + running.get(&handler).copied().unwrap_or(0)
                    };
                    for request in &plan {
                        let max = if request.handler == A { concurrency } else { 2 };
                        prop_assert!(busy_threads(request.handler) <= max, "{:?}", request);
                    }
                    prop_assert!(busy_threads(A) + busy_threads(B) <= threads);
                    prop_assert_eq!(busy_threads(A) + busy_threads(B), scheduler.busy());
                    requests.extend(scheduler.plan_prefetch(0).1);
                }
                SchedulerEvent::Claimed(got) if !requests.is_empty() => {
                    let request = requests.remove(0);
                    let got = got.min(request.max_jobs);
                    scheduler.record_claim(&request, got, 0);
                    *running.entry(request.handler).or_default() += request.thread_count(got);
                    prefetched += if request.is_prefetch { got } else { 0 };
                }
                SchedulerEvent::ClaimFailed if !requests.is_empty() => scheduler.record_failed_claim(&requests.remove(0), 0),
                SchedulerEvent::Finished(A) if prefetched > 0 => {
                    scheduler.remove_prefetched(A, 1, 0);
                    prefetched -= 1;
                }
                SchedulerEvent::Finished(handler) if running.get(&handler).is_some_and(|&count| count > 0) => {
                    scheduler.release_thread(handler);
                    *running.entry(handler).or_default() -= 1;
                }
                SchedulerEvent::JobsReady(handler, jobs) => scheduler.add_ready(handler, jobs, 0),
                SchedulerEvent::Concurrency(now) => {
                    concurrency = now;
                    scheduler.configure(&limits(now).into_iter().collect());
                }
                SchedulerEvent::Breaker(until_us) => scheduler.set_breaker(A, until_us),
                SchedulerEvent::Paused(is_paused) => scheduler.set_paused(if is_paused { &[A] } else { &[] }),
                SchedulerEvent::Claimed(_) | SchedulerEvent::ClaimFailed | SchedulerEvent::Finished(_) => {}
            }
        }
    }
}
