//! Tests of the logs that keep their newest rows.

use super::*;
use crate::store::bounded_log::MAX_ROWS;
use crate::store::handshakes::{self, HandshakeRecord};

impl TestStore {
    /// Inserts five rows into a log by `insert`, with more ids than the log keeps between the second and the third.
    /// Returns how many are left.
    fn rows_left_of(&mut self, table: &str, insert: impl Fn(&mut Self)) -> i64 {
        for number in 0..5 {
            insert(self);
            if number == 2 {
                let sql = format!("UPDATE {table} SET id = id + ?1 WHERE id = 3");
                self.conn().execute(&sql, [MAX_ROWS]).unwrap();
            }
        }
        self.query_number(&format!("SELECT count(*) FROM {table}"))
    }
}

#[test]
fn the_oldest_rows_of_a_log_beyond_the_maximum_are_deleted() {
    let mut store = test_store();
    let handshake = HandshakeRecord {
        at_ms: 0,
        source: "a".into(),
        method: "GET".into(),
        ip: "::1".into(),
        detail: String::new(),
    };
    let left = store.rows_left_of("handshake_log", |store| {
        handshakes::write(store.conn(), std::slice::from_ref(&handshake)).unwrap();
    });
    assert_eq!(left, 3);
    let left = store.rows_left_of("audit_entries", |store| {
        audit::record(store.conn(), &audit_entry()).unwrap();
    });
    assert_eq!(left, 3);
    let left = store.rows_left_of("breaker_changes", |store| {
        store.change(|tx| crate::store::breaker::log_probe(tx, H, JobId(1)));
    });
    assert_eq!(left, 3);
}

#[test]
fn the_addresses_that_had_an_event_accepted_are_bounded() {
    let mut store = test_store();
    let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100005)
      INSERT INTO accepted_ips SELECT '10.' || i FROM n";
    store.conn().execute_batch(sql).unwrap();
    store.change(|tx| tx.cache.remember_ip(tx.conn, "192.0.2.1"));
    assert_eq!(store.query_number("SELECT count(*) FROM accepted_ips"), 100_000);
    let kept = "SELECT count(*) FROM accepted_ips WHERE ip = '192.0.2.1'";
    assert_eq!(store.query_number(kept), 1);
}

fn audit_entry() -> audit::AuditEntry {
    audit::AuditEntry {
        at_ms: 0,
        who: "ada".into(),
        via: "cli",
        action: "retry".into(),
        target: None,
        jobs: 1,
        reason: None,
    }
}
