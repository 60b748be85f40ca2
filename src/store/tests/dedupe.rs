//! Keys that repeats are recognised by.

use super::events::{Aim, Dedupe, DedupeKey};
use super::*;

const WINDOW_MS: i64 = 1_000;

fn one(name: &str) -> Option<DedupeKey> {
    Some(DedupeKey { key: key(name), window_ms: WINDOW_MS })
}

/// Keys of a request: of the source's own `dedupe`, and of the delivery.
fn keys(own: &str, delivery: &str) -> Dedupe {
    Dedupe { own: one(own), delivery: one(delivery), retry_dead: true, aim: Aim::Store }
}

fn of_delivery(name: &str, aim: Aim) -> Dedupe {
    Dedupe { delivery: one(name), retry_dead: aim == Aim::Store, aim, ..Dedupe::default() }
}

impl Trail {
    fn dedupe(&mut self, dedupe: Dedupe) -> InsertReply {
        self.accept(JobPlan::Judged(vec![(H, ordered("k"))]), Some(dedupe))
    }
}

#[test]
fn either_of_two_keys_makes_a_repeat() {
    let mut trail = trail();
    assert_eq!(trail.dedupe(keys("a", "1")), InsertReply::Stored(EventId(1)));
    assert_eq!(trail.dedupe(keys("b", "1")), InsertReply::Duplicate(EventId(1)));
    assert_eq!(trail.dedupe(keys("a", "2")), InsertReply::Duplicate(EventId(1)));
    // A repeat by the delivery's key brings no other key in: its body may be a stranger's.
    assert_eq!(trail.dedupe(keys("b", "3")), InsertReply::Stored(EventId(2)));
    assert_eq!(trail.number("SELECT count(*) FROM duplicates WHERE event = 1"), 2);
}

#[test]
fn a_repeat_by_the_sources_own_key_is_none_the_less_known_by_its_delivery() {
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
fn a_key_whose_window_is_over_is_free_again_and_forgotten() {
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
fn what_may_only_repeat_is_never_stored_and_heals_nothing() {
    let mut trail = trail();
    for aim in [Aim::LookUp, Aim::RecordRepeat] {
        assert_eq!(trail.dedupe(of_delivery("1", aim)), InsertReply::NoRepeat);
    }
    assert_eq!(trail.dedupe(of_delivery("1", Aim::Store)), InsertReply::Stored(EventId(1)));
    trail.run(died());
    assert_eq!(trail.dedupe(of_delivery("1", Aim::LookUp)), InsertReply::Duplicate(EventId(1)));
    assert_eq!(trail.number("SELECT count(*) FROM duplicates"), 0);
    assert_eq!(
        trail.dedupe(of_delivery("1", Aim::RecordRepeat)),
        InsertReply::Duplicate(EventId(1))
    );
    assert_eq!(trail.number("SELECT count(*) FROM duplicates"), 1);
    assert_eq!(trail.number("SELECT state FROM jobs"), 4);
    assert_eq!(trail.dedupe(of_delivery("1", Aim::Store)), InsertReply::Duplicate(EventId(1)));
    assert_eq!(trail.number("SELECT state FROM jobs"), 0);
}
