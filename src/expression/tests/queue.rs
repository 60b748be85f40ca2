//! Who is next, and who is told to come again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::expression::queue::{
    EvaluationQueue, EvaluationRequest, Priority, QueueEvent, RequestKind,
};

/// A job whose `told` counts when it is told that all are busy.
fn job(party: u64, bytes: usize, told: &Arc<AtomicUsize>) -> EvaluationRequest {
    let told = Arc::clone(told);
    let tell = Box::new(move |_| {
        told.fetch_add(1, Ordering::SeqCst);
    });
    let (lane, since) = (Priority::Intake, Instant::now());
    let (began, lost, killed, scene, what) = (None, 0, 0, vec![0; bytes], RequestKind::Finished);
    EvaluationRequest {
        fairness_key: party,
        priority: lane,
        kind: what,
        encoded_event: scene,
        queued_at: since,
        started_at: began,
        lost_processes: lost,
        killed_processes: killed,
        callback: Some(tell),
    }
}

/// The party and the number of jobs of the next group, if there is one at once.
fn next(queue: &EvaluationQueue) -> Option<(u64, usize)> {
    match queue.next(Priority::Intake, Some(Duration::ZERO)) {
        QueueEvent::Group(jobs) => Some((jobs[0].fairness_key, jobs.len())),
        QueueEvent::Idle | QueueEvent::Closed => None,
    }
}

#[test]
fn a_group_is_of_one_party_and_parties_take_turns() {
    let (queue, told) = (EvaluationQueue::new(4), Arc::default());
    for party in [1, 1, 2].repeat(10) {
        queue.enqueue(job(party, 10, &told));
    }
    assert_eq!(next(&queue), Some((1, 8)));
    assert_eq!(next(&queue), Some((2, 8)));
    assert_eq!(next(&queue), Some((1, 8)));
    assert_eq!(next(&queue), Some((2, 2)));
    // It holds two of four: one more, and no further.
    assert_eq!(next(&queue), Some((1, 4)));
    queue.enqueue(job(1, 10, &told));
    assert_eq!(next(&queue), None);
    queue.release(Priority::Intake, 1);
    assert_eq!(next(&queue), Some((1, 1)));
}

#[test]
fn what_is_large_goes_alone_and_what_is_too_much_is_told_at_once() {
    let (queue, told) = (EvaluationQueue::new(2), Arc::default());
    for _ in 0..20 {
        queue.enqueue(job(1, 1 << 20, &told));
    }
    assert_eq!(told.load(Ordering::SeqCst), 12, "half of it is left to others");
    queue.enqueue(job(3, 100 << 20, &told));
    assert_eq!(told.load(Ordering::SeqCst), 12, "one fits, however large");
    assert_eq!(next(&queue), Some((1, 1)));
    assert_eq!(next(&queue), Some((3, 1)));
    queue.enqueue(job(2, 50 << 10, &told));
    queue.enqueue(job(2, 50 << 10, &told));
    assert_eq!(next(&queue), Some((2, 1)));
}

#[test]
fn who_waits_for_too_long_is_told() {
    let (queue, told) = (EvaluationQueue::new(2), Arc::default());
    let mut old = job(1, 1, &told);
    old.queued_at -= Priority::Intake.max_wait();
    queue.enqueue(old);
    queue.enqueue(job(1, 1, &told));
    assert!(queue.expire_waiting(Priority::Intake));
    assert_eq!(told.load(Ordering::SeqCst), 1);
    assert_eq!(next(&queue), Some((1, 1)));
    queue.enqueue(job(2, 1, &told));
    queue.close();
    queue.enqueue(job(2, 1, &told));
    assert!(!queue.expire_waiting(Priority::Intake));
    // The one that was taken was dropped, and so told.
    assert_eq!(told.load(Ordering::SeqCst), 4);
}

#[test]
fn where_no_thread_can_be_had_what_waits_is_told() {
    let (queue, told) = (EvaluationQueue::new(2), Arc::default());
    assert!(queue.enqueue(job(1, 1, &told)), "it asks for a thread");
    assert!(queue.enqueue(job(2, 1, &told)), "and for another");
    queue.on_thread_failed(Priority::Intake);
    assert_eq!(told.load(Ordering::SeqCst), 0, "the other may come");
    queue.on_thread_failed(Priority::Intake);
    assert_eq!(told.load(Ordering::SeqCst), 2);
    assert!(queue.enqueue(job(1, 1, &told)), "it is asked for again");
    assert_eq!(next(&queue), Some((1, 1)));
}
