//! Tests of the keys that identify duplicates.

use super::events::{DedupeCheck, DedupeKey, InsertMode};
use super::*;

const WINDOW_MS: i64 = 1_000;

fn one(name: &str) -> Option<DedupeKey> {
    Some(DedupeKey { key: key(name), window_ms: WINDOW_MS })
}

/// The keys of a request: of the source's own `dedupe`, and of the delivery.
fn keys(own: &str, delivery: &str) -> DedupeCheck {
    DedupeCheck { own: one(own), delivery: one(delivery), retry_dead: true, aim: InsertMode::Store }
}

fn of_delivery(name: &str, aim: InsertMode) -> DedupeCheck {
    DedupeCheck {
        delivery: one(name),
        retry_dead: aim == InsertMode::Store,
        aim,
        ..DedupeCheck::default()
    }
}

impl Trail {
    fn dedupe(&mut self, dedupe: DedupeCheck) -> InsertReply {
        self.accept(JobPlan::Evaluated(vec![(H, ordered("k"))]), Some(dedupe))
    }
}

#[test]
fn either_of_two_keys_identifies_a_duplicate() {
    let mut trail = trail();
    assert_eq!(trail.dedupe(keys("a", "1")), InsertReply::Stored(EventId(1)));
    assert_eq!(trail.dedupe(keys("b", "1")), InsertReply::Duplicate(EventId(1)));
    assert_eq!(trail.dedupe(keys("a", "2")), InsertReply::Duplicate(EventId(1)));
    // A duplicate by the delivery key adds no other key: its body may come from a stranger.
    assert_eq!(trail.dedupe(keys("b", "3")), InsertReply::Stored(EventId(2)));
    assert_eq!(trail.number("SELECT count(*) FROM duplicates WHERE event = 1"), 2);
}

#[test]
fn a_duplicate_by_the_own_key_stays_a_duplicate_by_its_delivery_key() {
    let mut trail = trail();
    let short = |delivery: &str| {
        let mut keys = keys("a", delivery);
        keys.delivery = keys.delivery.map(|it| DedupeKey { window_ms: 9 * WINDOW_MS, ..it });
        keys
    };
    assert_eq!(trail.dedupe(short("1")), InsertReply::Stored(EventId(1)));
    assert_eq!(trail.dedupe(short("2")), InsertReply::Duplicate(EventId(1)));
    trail.state.now_ms += WINDOW_MS;
    assert_eq!(trail.dedupe(short("2")), InsertReply::Duplicate(EventId(1)));
    assert_eq!(trail.dedupe(short("3")), InsertReply::Stored(EventId(2)));
}

#[test]
fn an_expired_key_does_not_match_and_is_deleted() {
    let mut trail = trail();
    assert_eq!(trail.dedupe(keys("a", "1")), InsertReply::Stored(EventId(1)));
    trail.state.now_ms += WINDOW_MS - 1;
    assert_eq!(trail.dedupe(keys("a", "1")), InsertReply::Duplicate(EventId(1)));
    trail.state.now_ms += 1;
    assert_eq!(trail.dedupe(keys("a", "1")), InsertReply::Stored(EventId(2)));
    assert_eq!(trail.number("SELECT count(*) FROM dedupe"), 2);
    trail.state.now_ms += WINDOW_MS;
    events::purge_expired_keys(trail.conn(), trail.state.now_ms).unwrap();
    assert_eq!(trail.number("SELECT count(*) FROM dedupe"), 0);
}

#[test]
fn a_request_that_may_only_be_a_duplicate_is_never_stored_and_retries_no_job() {
    let mut trail = trail();
    for aim in [InsertMode::LookUp, InsertMode::RecordDuplicate] {
        assert_eq!(trail.dedupe(of_delivery("1", aim)), InsertReply::NotDuplicate);
    }
    assert_eq!(trail.dedupe(of_delivery("1", InsertMode::Store)), InsertReply::Stored(EventId(1)));
    trail.run(died());
    assert_eq!(
        trail.dedupe(of_delivery("1", InsertMode::LookUp)),
        InsertReply::Duplicate(EventId(1))
    );
    assert_eq!(trail.number("SELECT count(*) FROM duplicates"), 0);
    assert_eq!(
        trail.dedupe(of_delivery("1", InsertMode::RecordDuplicate)),
        InsertReply::Duplicate(EventId(1))
    );
    assert_eq!(trail.number("SELECT count(*) FROM duplicates"), 1);
    assert_eq!(trail.number("SELECT state FROM jobs"), 4);
    assert_eq!(
        trail.dedupe(of_delivery("1", InsertMode::Store)),
        InsertReply::Duplicate(EventId(1))
    );
    assert_eq!(trail.number("SELECT state FROM jobs"), 0);
}
