//! How statements are executed, which is visible only in the time that they take.

use rusqlite::StatementStatus;

use super::*;
use crate::store::read_pool;

#[test]
fn a_statement_keeps_its_plan_when_other_values_are_bound() {
    let db = test_store();
    let readers = read_pool(&db.store, 1).unwrap();
    for conn in [db.conn(), &*readers.get().unwrap()] {
        let sql = "SELECT id FROM jobs WHERE state = 0 AND handler = ?1 ORDER BY id LIMIT ?2";
        let mut select = conn.prepare(sql).unwrap();
        for limit in [1, 16, 100] {
            assert!(!select.exists([H.0, limit]).unwrap());
        }
        assert_eq!(select.get_status(StatementStatus::RePrepare), 0);
    }
}

#[test]
fn the_statistics_of_the_last_hour_count_each_event_and_attempt() {
    let test = test_store();
    test.conn()
        .execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 250000)
             INSERT INTO events (id, source, uid, received_at, method, path, ip, headers, first_job, last_job, body)
               SELECT i, 1, zeroblob(16), i, 'POST', '/', '', '', 1, 0, '' FROM n WHERE i % 3 > 0",
        )
        .unwrap();
    let events = |hour_ago_ms: i64| -> i64 {
        let rows = crate::store::stats::load_source_stats(test.conn(), hour_ago_ms, 0).unwrap();
        let column = rows.columns.iter().position(|name| name == "events_last_hour").unwrap();
        match rows.rows[0][column] {
            rusqlite::types::Value::Integer(count) => count,
            ref other => panic!("{other:?}"),
        }
    };
    assert_eq!(events(0), 166_667);
    assert_eq!(events(2), 166_666);
    assert_eq!(events(249_999), 1);
    assert_eq!(events(250_001), 0);
}
