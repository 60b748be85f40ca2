//! How statements are executed, which is visible only in the time that they take.

use rusqlite::StatementStatus;
use rusqlite::ffi::SQLITE_CONSTRAINT_CHECK;

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

#[test]
fn the_conditions_of_a_job_make_no_temporary_table() {
    let db = test_store();
    for sql in [
        "INSERT INTO jobs (id, event, handler, source, state, created_at, age_start)
         VALUES (1, 1, 1, 1, 0, 1, 1)",
        "UPDATE jobs SET state = 2, due_at = NULL, ended_at = NULL, reason = NULL WHERE id = 1",
    ] {
        let mut explain = db.conn().prepare(&format!("EXPLAIN {sql}")).unwrap();
        let program = explain.raw_query().mapped(|row| Ok((row.get(1)?, row.get(2)?)));
        let program: Vec<(String, i32)> = program.map(Result::unwrap).collect();
        // Each condition has one `Halt`, and its first operand is the error.
        let is_check = |(opcode, operand): &&(String, i32)| {
            opcode == "Halt" && *operand == SQLITE_CONSTRAINT_CHECK
        };
        assert!(program.iter().filter(is_check).count() > 1, "{sql}");
        assert!(!program.iter().any(|(opcode, _)| opcode.starts_with("OpenEphemeral")), "{sql}");
    }
}
