//! How statements are executed, which is visible only in the time that they take.

use rusqlite::StatementStatus;

use super::*;
use crate::store::read_pool;

#[test]
fn a_statement_keeps_its_plan_when_other_values_are_bound() {
    let db = test_store();
    let readers = read_pool(&db.store, 1).unwrap();
    for conn in [db.conn(), &*readers.get().unwrap()] {
        let sql =
            format!("SELECT id FROM jobs WHERE {IS_READY} AND handler = ?1 ORDER BY id LIMIT ?2");
        let mut select = conn.prepare(&sql).unwrap();
        for limit in [1, 16, 100] {
            assert!(!select.exists([H.0, limit]).unwrap());
        }
        assert_eq!(select.get_status(StatementStatus::RePrepare), 0);
    }
}
