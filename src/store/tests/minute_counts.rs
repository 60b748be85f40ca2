//! The counts of `stats` are those of the last hour, and a rollback leaves nothing behind.

use super::*;
use crate::store::queries::Rows;
use crate::store::rejections::RejectionKind;
use crate::store::stats::{load_handler_stats, load_source_stats};
use rusqlite::types::Value;

const MINUTE_MS: i64 = 60_000;

fn number(rows: &Rows, column: &str) -> i64 {
    let column = rows.columns.iter().position(|name| name == column).unwrap();
    match rows.rows[0][column] {
        Value::Integer(count) => count,
        ref other => panic!("{other:?}"),
    }
}

/// Events and rejections of the first source, successes and other attempts of the first handler.
fn last_hour(test: &TestStore) -> [i64; 4] {
    let clock = test.store.clock;
    let (sources, handlers) = (
        load_source_stats(test.conn(), clock).unwrap(),
        load_handler_stats(test.conn(), clock).unwrap(),
    );
    [
        number(&sources, "events_last_hour"),
        number(&sources, "rejected_last_hour"),
        number(&handlers, "succeeded_last_hour"),
        number(&handlers, "unsuccessful_last_hour"),
    ]
}

fn reject(test: &mut TestStore, count: i64) {
    let row = crate::store::rejections::RejectionRow {
        at_ms: 1,
        source: Some("a".into()),
        method: "POST".into(),
        path: "/".into(),
        ip: String::new(),
        status: 401,
        reason: "no".into(),
        bytes: 0,
        count,
        row_id: Arc::default(),
        kind: RejectionKind::New,
    };
    test.change(|tx| crate::store::rejections::write(tx, &[row]));
}

/// Writes one event with a job that succeeds, one whose job fails, and three rejections.
fn write_some(test: &mut TestStore, now_ms: i64) {
    test.cache.now_ms = now_ms;
    for next in [NextStep::Succeeded, dead()] {
        test.insert_event(vec![(H, JobSpec::Event(JobKeys::default()))]);
        test.run_next(next);
    }
    reject(test, 3);
}

#[test]
fn the_last_hour_is_the_current_minute_and_the_59_before_it() {
    let mut test = test_store();
    let now_ms = test.store.clock.now_ms();
    // The test may pass into the next minute, so 59 minutes ago is not tested.
    for (minutes_ago, expected) in [(60, [0, 0, 0, 0]), (58, [2, 3, 1, 1]), (0, [4, 6, 2, 2])] {
        write_some(&mut test, now_ms - minutes_ago * MINUTE_MS);
        assert_eq!(last_hour(&test), expected, "{minutes_ago}");
    }
}

#[test]
fn a_rollback_discards_the_counts() {
    let mut test = test_store();
    let now_ms = test.store.clock.now_ms();
    test.conn().execute_batch("BEGIN").unwrap();
    write_some(&mut test, now_ms);
    test.conn().execute_batch("ROLLBACK").unwrap();
    test.cache.forget_known_rows();
    test.cache.reload(&test.store.conn).unwrap();
    assert_eq!(last_hour(&test), [0, 0, 0, 0]);
}

#[test]
fn counts_older_than_a_day_are_deleted() {
    let mut test = test_store();
    let now_ms = test.store.clock.now_ms();
    for minutes_ago in [3000, 1441, 1439, 0] {
        write_some(&mut test, now_ms - minutes_ago * MINUTE_MS);
    }
    assert_eq!(test.query_number("SELECT count(DISTINCT minute) FROM minute_counts"), 2);
}
