//! Tests of the keys that identify duplicates.

use super::events::{DedupeCheck, DedupeKey, InsertMode};
use super::*;

const WINDOW_MS: i64 = 1_000;

fn dedupe_key(name: &str) -> Option<DedupeKey> {
    Some(DedupeKey { key: key(name), window_ms: WINDOW_MS })
}

/// The keys of a request: of the source's own `dedupe`, and of the delivery.
fn request_keys(own: &str, delivery: &str) -> DedupeCheck {
    DedupeCheck {
        is_late: false,
        source_key: dedupe_key(own),
        delivery_key: dedupe_key(delivery),
        retry_dead: true,
        mode: InsertMode::Store,
    }
}

fn delivery_only(name: &str, aim: InsertMode) -> DedupeCheck {
    DedupeCheck {
        delivery_key: dedupe_key(name),
        retry_dead: aim == InsertMode::Store,
        mode: aim,
        ..DedupeCheck::default()
    }
}

impl TestStore {
    fn insert_with_keys(&mut self, insert_with_keys: DedupeCheck) -> InsertReply {
        self.insert_plan(JobPlan::Evaluated(vec![(H, ordered_job("k"))]), Some(insert_with_keys))
    }
}

#[test]
fn either_of_two_keys_identifies_a_duplicate() {
    let mut db = test_store();
    assert_eq!(db.insert_with_keys(request_keys("a", "1")), InsertReply::Stored(EventId(1)));
    assert_eq!(db.insert_with_keys(request_keys("b", "1")), InsertReply::Duplicate(EventId(1)));
    assert_eq!(db.insert_with_keys(request_keys("a", "2")), InsertReply::Duplicate(EventId(1)));
    // A duplicate by the delivery key adds no other key: its body may come from a stranger.
    assert_eq!(db.insert_with_keys(request_keys("b", "3")), InsertReply::Stored(EventId(2)));
    assert_eq!(db.query_number("SELECT count(*) FROM duplicates WHERE event = 1"), 2);
}

#[test]
fn a_duplicate_by_the_own_key_stays_a_duplicate_by_its_delivery_key() {
    let mut db = test_store();
    let short = |delivery: &str| {
        let mut request_keys = request_keys("a", delivery);
        request_keys.delivery_key =
            request_keys.delivery_key.map(|key_| DedupeKey { window_ms: 9 * WINDOW_MS, ..key_ });
        request_keys
    };
    assert_eq!(db.insert_with_keys(short("1")), InsertReply::Stored(EventId(1)));
    assert_eq!(db.insert_with_keys(short("2")), InsertReply::Duplicate(EventId(1)));
    db.cache.now_ms += WINDOW_MS;
    assert_eq!(db.insert_with_keys(short("2")), InsertReply::Duplicate(EventId(1)));
    assert_eq!(db.insert_with_keys(short("3")), InsertReply::Stored(EventId(2)));
}

#[test]
fn an_expired_key_does_not_match_and_is_deleted() {
    let mut db = test_store();
    assert_eq!(db.insert_with_keys(request_keys("a", "1")), InsertReply::Stored(EventId(1)));
    db.cache.now_ms += WINDOW_MS - 1;
    assert_eq!(db.insert_with_keys(request_keys("a", "1")), InsertReply::Duplicate(EventId(1)));
    db.cache.now_ms += 1;
    assert_eq!(db.insert_with_keys(request_keys("a", "1")), InsertReply::Stored(EventId(2)));
    assert_eq!(db.query_number("SELECT count(*) FROM dedupe"), 2);
    db.cache.now_ms += WINDOW_MS;
    crate::store::expired_keys::purge(db.conn(), db.cache.now_ms).unwrap();
    assert_eq!(db.query_number("SELECT count(*) FROM dedupe"), 0);
}

#[test]
fn a_request_that_may_only_be_a_duplicate_is_never_stored_and_retries_no_job() {
    let mut db = test_store();
    for aim in [InsertMode::LookUp, InsertMode::RecordDuplicate] {
        assert_eq!(db.insert_with_keys(delivery_only("1", aim)), InsertReply::NotDuplicate);
    }
    assert_eq!(
        db.insert_with_keys(delivery_only("1", InsertMode::Store)),
        InsertReply::Stored(EventId(1))
    );
    db.run_next(dead());
    assert_eq!(
        db.insert_with_keys(delivery_only("1", InsertMode::LookUp)),
        InsertReply::Duplicate(EventId(1))
    );
    assert_eq!(db.query_number("SELECT count(*) FROM duplicates"), 0);
    assert_eq!(
        db.insert_with_keys(delivery_only("1", InsertMode::RecordDuplicate)),
        InsertReply::Duplicate(EventId(1))
    );
    assert_eq!(db.query_number("SELECT count(*) FROM duplicates"), 1);
    assert_eq!(db.query_number("SELECT state FROM jobs"), 4);
    assert_eq!(
        db.insert_with_keys(delivery_only("1", InsertMode::Store)),
        InsertReply::Duplicate(EventId(1))
    );
    assert_eq!(db.query_number("SELECT state FROM jobs"), 0);
}
