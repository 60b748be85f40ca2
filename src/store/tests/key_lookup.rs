//! The event of an idempotency key is found by the time in its uid, and others by their origin key.

use super::*;
use crate::clock;
use crate::domain::idempotency_key::IdempotencyKey;
use crate::store::block_index::BLOCK_BITS;
use crate::store::key_lookup::{count_events_by_origin, find_job, list_events_by_origin};

const START_MS: i64 = 1_795_000_000_000;

impl TestStore {
    /// Inserts an event that was received at this time, with a job for `h`. Returns the job's key.
    fn insert_event_at(&mut self, wall_ms: i64) -> IdempotencyKey<'static> {
        self.cache.wall_ms = wall_ms;
        self.uid = clock::time_ordered_id(wall_ms).unwrap();
        self.insert_event(vec![(H, JobSpec::Event(JobKeys::default()))]);
        IdempotencyKey { uid: self.uid, handler: "h", item: 0, replay: 0 }
    }
}

fn found(store: &TestStore, key: &IdempotencyKey<'_>) -> Option<i64> {
    find_job(store.conn(), key).unwrap().map(|(event, job)| {
        assert_eq!(event.0, job.0);
        event.0
    })
}

#[test]
fn a_key_finds_its_job_among_the_events_of_its_minute() {
    let mut store = test_store();
    // Three blocks within one minute.
    let keys: Vec<_> =
        (0..(5 << BLOCK_BITS) / 2).map(|n| store.insert_event_at(START_MS + n / 100)).collect();
    for (key, event) in keys.iter().zip(1_i64..).step_by(97) {
        assert_eq!(found(&store, key), Some(event));
        assert_eq!(found(&store, &IdempotencyKey { handler: "other", ..*key }), None);
        assert_eq!(found(&store, &IdempotencyKey { item: 1, ..*key }), None);
        assert_eq!(found(&store, &IdempotencyKey { replay: 1, ..*key }), None);
    }
    let uid = clock::time_ordered_id(START_MS).unwrap();
    assert_eq!(found(&store, &IdempotencyKey { uid, ..keys[0] }), None);
    assert_eq!(found(&store, &IdempotencyKey { uid: [7; 16], ..keys[0] }), None);
}

#[test]
fn a_key_finds_its_job_although_the_wall_clock_jumped() {
    let mut store = test_store();
    let times = [0, 3_600_000, -86_400_000, 60_000, 1].map(|offset_ms| START_MS + offset_ms);
    let keys = times.map(|wall_ms| store.insert_event_at(wall_ms));
    for (key, event) in keys.iter().zip(1..) {
        assert_eq!(found(&store, key), Some(event));
    }
}

#[test]
fn the_key_of_an_event_from_another_machine_is_found_whatever_its_uid() {
    let mut store = test_store();
    store.origin_key = Some("there".into());
    let key = store.insert_event_at(START_MS);
    assert_eq!(found(&store, &key), Some(1));
    for uid in [clock::with_time(1, [5; 16]), [0xff; 16]] {
        store.uid = uid;
        store.insert_event(vec![(H, JobSpec::Event(JobKeys::default()))]);
        let event = store.query_number("SELECT max(id) FROM events");
        assert_eq!(found(&store, &IdempotencyKey { uid, ..key }), Some(event));
    }
}

#[test]
fn events_with_an_origin_key_are_listed_oldest_first() {
    let mut store = test_store();
    for key in [Some("one"), None, Some("two"), Some("one"), Some("one")] {
        store.origin_key = key.map(Into::into);
        store.insert_event(Vec::new());
    }
    let list = |after, limit| -> Vec<i64> {
        let found = list_events_by_origin(store.conn(), "one", EventId(after), limit).unwrap();
        found.into_iter().map(|event| event.0).collect()
    };
    assert_eq!([list(0, 9), list(1, 9), list(1, 1)], [vec![1, 4, 5], vec![4, 5], vec![4]]);
    assert_eq!(count_events_by_origin(store.conn(), "one").unwrap(), 3);
    assert_eq!(count_events_by_origin(store.conn(), "none").unwrap(), 0);
}

#[test]
fn the_lookups_of_origin_keys_use_their_indexes() {
    let store = test_store();
    for (sql, index) in [
        ("SELECT id FROM events WHERE uid = x'00' AND origin_key IS NOT NULL", "events_origin_uid"),
        ("SELECT count(*) FROM events WHERE origin_key = 'k'", "events_origin_key"),
        (
            "SELECT id FROM events WHERE origin_key = 'k' AND id > 1 ORDER BY id",
            "events_origin_key",
        ),
    ] {
        let plan: String = store
            .conn()
            .query_row(&format!("EXPLAIN QUERY PLAN {sql}"), [], |row| row.get(3))
            .unwrap();
        assert!(plan.contains(index), "{sql}: {plan}");
    }
}
