//! How statements are executed, which is visible only in the time that they take.

use rusqlite::StatementStatus;
use rusqlite::ffi::SQLITE_CONSTRAINT_CHECK;

use super::*;
use crate::store::jobs::transition::SET_RUNNING;
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
        SET_RUNNING,
    ] {
        let mut explain = db.conn().prepare(&format!("EXPLAIN {sql}")).unwrap();
        let program = explain.raw_query().mapped(|row| Ok((row.get(1)?, row.get(2)?)));
        let program: Vec<(String, i32)> = program.map(Result::unwrap).collect();
        // Each condition has one `Halt`, and its first operand is the error.
        let is_check = |(opcode, operand): &(String, i32)| {
            opcode == "Halt" && *operand == SQLITE_CONSTRAINT_CHECK
        };
        assert!(program.iter().any(is_check), "{sql}");
        assert!(!program.iter().any(|(opcode, _)| opcode.starts_with("OpenEphemeral")), "{sql}");
    }
}

#[test]
fn claims_and_successes_do_not_open_the_index_of_scheduled_jobs() {
    let db = test_store();
    let root = db.query_number("SELECT rootpage FROM sqlite_schema WHERE name = 'jobs_waiting'");
    let opens_index = |sql: &str| {
        let mut explain = db.conn().prepare(&format!("EXPLAIN {sql}")).unwrap();
        let program = explain.raw_query().mapped(|row| Ok((row.get(1)?, row.get(3)?)));
        let program: Vec<(String, i64)> = program.map(Result::unwrap).collect();
        program.contains(&("OpenWrite".to_owned(), root))
    };
    for sql in
        [SET_RUNNING, "UPDATE jobs SET state = 3, ended_at = 1, started_at = NULL WHERE id = 1"]
    {
        assert!(!opens_index(sql), "{sql}");
    }
    assert!(opens_index("UPDATE jobs SET due_at = NULL WHERE id = 1"));
}

#[test]
fn due_jobs_are_found_in_the_index_of_scheduled_jobs() {
    let db = test_store();
    for sql in [
        format!("SELECT min(due_at) FROM jobs WHERE {IS_SCHEDULED}"),
        format!("SELECT id FROM jobs WHERE {IS_SCHEDULED} AND due_at <= ?1 ORDER BY due_at"),
    ] {
        let mut explain = db.conn().prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let mut steps = explain.raw_query();
        let plan: String = steps.next().unwrap().unwrap().get(3).unwrap();
        assert!(plan.starts_with("SEARCH jobs USING COVERING INDEX jobs_waiting"), "{plan}");
    }
}

#[test]
fn a_job_has_the_columns_of_its_state_and_no_others() {
    let db = test_store();
    let mut insert = db
        .conn()
        .prepare(
            "INSERT INTO jobs (event, handler, source, created_at, age_start, state, due_at, wait_ms,
               started_at, cancel_reason, ended_at, reason) VALUES (1, 1, 1, 1, 1, ?, ?, ?, ?, ?, ?, ?)",
        )
        .unwrap();
    for state in -2..=7 {
        for columns in 0..64 {
            let has = |column: u32| columns >> column & 1 == 1;
            let [due, wait, started, cancel, ended, reason] = [0, 1, 2, 3, 4, 5].map(has);
            let is_allowed = (-1..=6).contains(&state)
                && due == (state == 1)
                && wait == (state == 1)
                && started == (state == 2)
                && (!cancel || state == 2)
                && ended == (3..=5).contains(&state)
                && (reason || !(4..=5).contains(&state));
            let value = |column| has(column).then_some(1);
            let values = (state, value(0), value(1), value(2), value(3), value(4), value(5));
            let inserted = insert.execute(values).is_ok();
            assert_eq!(inserted, is_allowed, "state {state}, columns {columns:06b}");
        }
    }
}
