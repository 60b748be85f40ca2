//! Claims and outcomes that a group writes with few statements.

use super::*;
use crate::store::jobs::finish::AttemptInserts;
use crate::store::operation::{Isolation, Operation};

fn plain_job() -> JobSpec {
    JobSpec::Event(JobKeys::default())
}

fn success(db: &TestStore, job: &ClaimedJob) -> AttemptRecord {
    db.attempt_record(job, (Outcome::Succeeded, false), NextStep::Succeeded)
}

#[test]
fn jobs_are_claimed_across_jobs_of_other_handlers() {
    let mut db = test_store();
    for count in [1, 2, 1] {
        db.insert_event(vec![(H, plain_job()); count]);
        db.insert_event(vec![(HandlerId(2), plain_job())]);
    }
    assert_eq!(db.claim_ids(3), [1, 3, 4]);
    let states = ["running", "ready", "running", "running", "ready", "ready", "ready"];
    let states = (1..).zip(states).map(|(job, state)| format!("{job} {state}"));
    assert_eq!(db.job_lines(), states.collect::<Vec<_>>());
    assert_eq!(db.query_number("SELECT sum(attempt) FROM jobs"), 3);
}

#[test]
fn a_success_changes_nothing_if_its_claim_is_no_longer_current() {
    let mut db = test_store();
    db.insert_event(vec![(H, plain_job())]);
    let first = db.claim(1).remove(0);
    let retry = NextStep::Retry { delay: Duration::ZERO, failures: 1 };
    assert_eq!(db.finish(&first, retry), Some(JobState::Ready));
    let second = db.claim(1).remove(0);
    assert_eq!(db.finish(&first, NextStep::Succeeded), None);
    assert_eq!(db.job_lines(), ["1 running"]);
    assert_eq!(db.finish(&second, NextStep::Succeeded), Some(JobState::Succeeded));
    assert_eq!(db.finish(&second, NextStep::Succeeded), None);
    assert_eq!(db.query_number("SELECT count(*) FROM attempts"), 2);
}

#[test]
fn a_cancelled_job_that_succeeds_has_succeeded() {
    let mut db = test_store();
    db.insert_event(vec![(H, plain_job())]);
    let job = db.claim(1).remove(0);
    assert!(db.change(|tx| transition::cancel(tx, JobId(1), "no longer wanted")));
    assert_eq!(db.finish(&job, NextStep::Succeeded), Some(JobState::Succeeded));
    let reasons = "SELECT count(*) FROM jobs WHERE coalesce(reason, cancel_reason) IS NOT NULL";
    assert_eq!(db.query_number(reasons), 0);
}

#[test]
fn attempts_are_inserted_before_an_operation_that_may_read_them() {
    let mut db = test_store();
    db.insert_event(vec![(H, plain_job()); 3]);
    let outcomes: Vec<Operation> =
        db.claim(2).iter().map(|job| Operation::Finish(Box::new(success(&db, job)))).collect();
    db.change(|tx| {
        let mut attempts = AttemptInserts::new(tx.conn);
        for outcome in &outcomes {
            Isolation::Group.apply_operation(tx, &mut attempts, outcome)?;
        }
        Isolation::Group.apply_operation(tx, &mut attempts, &Operation::Promote).map(|_| ())
    });
    assert_eq!(db.query_number("SELECT count(*) FROM outcomes WHERE outcome = 'succeeded'"), 2);
    assert_eq!(db.job_lines(), ["1 succeeded", "2 succeeded", "3 ready"]);
}

#[test]
fn an_outcome_with_much_output_is_inserted_in_its_place() {
    let mut db = test_store();
    db.insert_event(vec![(H, plain_job()); 3]);
    let mut records: Vec<_> = db.claim(3).iter().map(|job| success(&db, job)).collect();
    records[1].stdout = vec![b'x'; 100_000];
    db.change(|tx| {
        let mut attempts = AttemptInserts::new(tx.conn);
        for record in &records {
            finish::finish(tx, &mut attempts, record)?;
        }
        attempts.flush()
    });
    let order = "SELECT group_concat(job || ':' || coalesce(length(stdout), 0), ' ') FROM attempts";
    let order: String = db.conn().query_row(order, [], |row| row.get(0)).unwrap();
    assert_eq!(order, "1:0 2:100000 3:0");
}
