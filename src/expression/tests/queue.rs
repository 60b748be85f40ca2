//! Tests of the queue: which request is next, and which is busy.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use crate::expression::pending::PendingRequest;
use crate::expression::queue::{EvaluationQueue, Priority, QueueEvent, QueuedRequest};
use crate::expression::{Busy, Expression};

/// A request that counts in `busy_count` when it completes as busy.
fn request(source: u64, bytes: usize, busy_count: &Arc<AtomicUsize>) -> QueuedRequest {
    let busy_count = Arc::clone(busy_count);
    let callback = Box::new(move |result| {
        assert!(matches!(result, Err(Busy)));
        busy_count.fetch_add(1, Ordering::SeqCst);
    });
    static EXPRESSION: LazyLock<Expression> = LazyLock::new(|| Expression::new("length").unwrap());
    QueuedRequest {
        fairness_key: source,
        priority: Priority::Intake,
        pending: PendingRequest::outputs(&EXPRESSION, 1),
        encoded_event: vec![0; bytes],
        queued_at: Instant::now(),
        started_at: None,
        startup_failures: 0,
        external_kills: 0,
        callback: Some(callback),
    }
}

/// The source and the number of requests of the next group, if there is one at once.
fn next(queue: &EvaluationQueue) -> Option<(u64, usize)> {
    match queue.next(Priority::Intake, Some(Duration::ZERO)) {
        QueueEvent::Group(requests) => Some((requests[0].fairness_key, requests.len())),
        QueueEvent::Idle | QueueEvent::Closed => None,
    }
}

#[test]
fn a_group_has_requests_of_one_source_and_sources_take_turns() {
    let (queue, busy_count) = (EvaluationQueue::new(4), Arc::default());
    for source in [1, 1, 2].repeat(10) {
        queue.enqueue(request(source, 10, &busy_count));
    }
    assert_eq!(next(&queue), Some((1, 8)));
    assert_eq!(next(&queue), Some((2, 8)));
    assert_eq!(next(&queue), Some((1, 8)));
    assert_eq!(next(&queue), Some((2, 2)));
    // Source 1 holds two of four processes: it gets one more and no further.
    assert_eq!(next(&queue), Some((1, 4)));
    queue.enqueue(request(1, 10, &busy_count));
    assert_eq!(next(&queue), None);
    queue.release(Priority::Intake, 1);
    assert_eq!(next(&queue), Some((1, 1)));
}

#[test]
fn a_large_request_is_alone_in_its_group_and_one_beyond_the_limits_is_busy_at_once() {
    let (queue, busy_count) = (EvaluationQueue::new(2), Arc::default());
    for _ in 0..20 {
        queue.enqueue(request(1, 1 << 20, &busy_count));
    }
    assert_eq!(busy_count.load(Ordering::SeqCst), 12, "half of the bytes is left to others");
    queue.enqueue(request(3, 100 << 20, &busy_count));
    assert_eq!(busy_count.load(Ordering::SeqCst), 12, "one request fits, however large");
    assert_eq!(next(&queue), Some((1, 1)));
    assert_eq!(next(&queue), Some((3, 1)));
    queue.enqueue(request(2, 50 << 10, &busy_count));
    queue.enqueue(request(2, 50 << 10, &busy_count));
    assert_eq!(next(&queue), Some((2, 1)));
}

#[test]
fn a_request_that_waits_too_long_is_busy() {
    let (queue, busy_count) = (EvaluationQueue::new(2), Arc::default());
    let mut old = request(1, 1, &busy_count);
    old.queued_at -= Priority::Intake.max_wait();
    queue.enqueue(old);
    queue.enqueue(request(1, 1, &busy_count));
    assert!(queue.expire_waiting(Priority::Intake));
    assert_eq!(busy_count.load(Ordering::SeqCst), 1);
    assert_eq!(next(&queue), Some((1, 1)));
    queue.enqueue(request(2, 1, &busy_count));
    queue.close();
    queue.enqueue(request(2, 1, &busy_count));
    assert!(!queue.expire_waiting(Priority::Intake));
    // The request of the last group was dropped, and so completed.
    assert_eq!(busy_count.load(Ordering::SeqCst), 4);
}

#[test]
fn requests_are_busy_if_no_thread_starts() {
    let (queue, busy_count) = (EvaluationQueue::new(2), Arc::default());
    assert!(queue.enqueue(request(1, 1, &busy_count)), "it requests a thread");
    assert!(queue.enqueue(request(2, 1, &busy_count)), "and another");
    queue.on_thread_failed(Priority::Intake);
    assert_eq!(busy_count.load(Ordering::SeqCst), 0, "the other thread may come");
    queue.on_thread_failed(Priority::Intake);
    assert_eq!(busy_count.load(Ordering::SeqCst), 2);
    assert!(queue.enqueue(request(1, 1, &busy_count)), "it requests a thread again");
    assert_eq!(next(&queue), Some((1, 1)));
}
