//! Tests of `max_queued` as the writer applies it: within one transaction, as for events that
//! arrive together.

use std::sync::atomic::{AtomicI64, Ordering};

use super::*;

/// A store whose source has a limit, and this many queued jobs.
fn store_with_limit(queued: i64, max_jobs: i64) -> TestStore {
    let queue_limit = Some(QueueLimit { queued: Arc::new(AtomicI64::new(queued)), max_jobs });
    TestStore { queue_limit, ..test_store() }
}

impl TestStore {
    fn is_stored(&mut self, jobs: usize) -> bool {
        let spec = items(&vec!["1"; jobs], Vec::new());
        matches!(self.insert_event(vec![(H, spec)]), InsertReply::Stored(_))
    }
}

#[test]
fn of_events_that_arrive_together_only_one_exceeds_the_limit() {
    let mut db = store_with_limit(9, 10);
    let stored: Vec<bool> = (0..64).map(|_| db.is_stored(5)).collect();
    assert!(stored[0] && !stored[1..].contains(&true), "{stored:?}");
}

#[test]
fn the_limit_is_reached_by_the_last_job_and_not_before() {
    let mut db = store_with_limit(0, 3);
    let stored: Vec<bool> = (0..5).map(|_| db.is_stored(1)).collect();
    assert_eq!(stored, [true, true, true, false, false]);
}

#[test]
fn an_event_without_jobs_is_never_rejected() {
    let mut db = store_with_limit(10, 10);
    assert_eq!(db.insert_event(Vec::new()), InsertReply::Stored(EventId(1)));
    assert!(db.is_stored(0));
    assert!(!db.is_stored(1));
}

#[test]
fn a_claimed_job_frees_its_place_in_the_queue() {
    let mut db = store_with_limit(0, 1);
    assert!(db.is_stored(1) && !db.is_stored(1));
    let claimed = db.claim(1).remove(0);
    assert!(db.is_stored(1) && !db.is_stored(1));
    db.finish(&claimed, retry_after(1));
    db.claim(1);
    assert!(!db.is_stored(1), "a job that waits for its retry is queued");
}

#[test]
fn a_duplicate_at_the_limit_retries_no_dead_job() {
    let mut db = store_with_limit(0, 1);
    let own = Some(events::DedupeKey { key: key("id"), window_ms: 1_000 });
    let dedupe = || events::DedupeCheck {
        source_key: own,
        retry_dead: true,
        ..events::DedupeCheck::default()
    };
    let plan = JobPlan::Evaluated(vec![(H, JobSpec::Event(JobKeys::default()))]);
    db.insert_plan(plan.clone(), Some(dedupe()));
    db.run_next(dead());
    assert!(db.is_stored(1));
    assert_eq!(db.insert_plan(plan.clone(), Some(dedupe())), InsertReply::QueueFull);
    db.queue_limit.as_ref().unwrap().queued.store(-1, Ordering::Relaxed);
    assert_eq!(db.insert_plan(plan, Some(dedupe())), InsertReply::Duplicate(EventId(1)));
}
