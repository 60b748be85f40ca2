//! Tests of jobs whose expressions failed and that are retried, of items, and of the number of
//! queued jobs.

use super::*;
use crate::store::event_reads;
use crate::store::jobs::reevaluate::Reevaluation;

fn reevaluate(db: &mut TestStore, specs: Option<JobSpec>) {
    let claimed = db.claim(1).remove(0);
    assert!(claimed.should_reevaluate);
    let reevaluation = Reevaluation { claimed, received_at_ms: 5, spec: specs };
    db.change(|tx| reevaluate::apply_reevaluation(tx, &reevaluation));
}

fn insert_failed_expression(db: &mut TestStore) {
    db.insert_event(vec![(H, JobSpec::Dead("when: no such thing".into()))]);
}

#[test]
fn a_failed_expression_makes_an_attempt_and_a_dead_job() {
    let mut db = test_store();
    insert_failed_expression(&mut db);
    assert_eq!(db.job_lines(), ["1 dead: when: no such thing"]);
    let row = "SELECT attempt, outcome, detail, job_state FROM outcomes";
    let found: (i64, String, String, String) = db
        .conn()
        .query_row(row, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .unwrap();
    assert_eq!(found, (1, "failed".into(), "when: no such thing".into(), "dead".into()));
}

#[test]
fn a_retried_job_runs_once_its_expression_succeeds() {
    let mut db = test_store();
    insert_failed_expression(&mut db);
    assert!(db.retry(1));
    reevaluate(&mut db, Some(ordered_job("k")));
    db.insert_event(vec![(H, ordered_job("k"))]);
    let claimed = db.claim(9);
    assert_eq!((claimed.len(), claimed[0].claim.attempt), (1, 2));
    assert!(!claimed[0].should_reevaluate);
    assert_eq!(db.job_lines(), ["1 running", "2 blocked"]);
}

#[test]
fn a_retried_job_that_when_does_not_want_is_cancelled_and_may_be_retried() {
    let mut db = test_store();
    insert_failed_expression(&mut db);
    assert!(db.retry(1));
    reevaluate(&mut db, None);
    assert_eq!(db.job_lines(), ["1 cancelled: not wanted by when"]);
    assert!(db.retry(1));
    assert!(db.claim(1)[0].should_reevaluate);
}

#[test]
fn a_retried_job_is_replaced_by_its_items_once() {
    let mut db = test_store();
    insert_failed_expression(&mut db);
    db.insert_event(vec![(H, ordered_job("k"))]);
    assert!(db.retry(1));
    reevaluate(&mut db, Some(items(&["1", "2"], Vec::new())));
    assert_eq!(db.job_lines()[0], "1 cancelled: expanded into jobs 3–4");
    assert!(!db.retry(1), "a second retry would insert the items twice");
    let jobs = "SELECT jobs, cancelled, queued FROM trail WHERE event = 1";
    let found: (i64, i64, i64) =
        db.conn().query_row(jobs, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    assert_eq!(found, (3, 1, 2));
}

#[test]
fn an_item_is_stored_with_its_job_and_numbered_from_1() {
    let mut db = test_store();
    db.insert_event(vec![(H, items(&["{\"a\":1}", "2"], Vec::new()))]);
    let claimed = db.claim(9);
    let numbers: Vec<_> = claimed.iter().map(|job| job.item).collect();
    assert_eq!(numbers, [Some(1), Some(2)]);
    let body = event_reads::load_item(db.conn(), claimed[0].claim.job).unwrap();
    assert_eq!(&*body, b"{\"a\":1}");
}

#[test]
fn queued_jobs_are_counted() {
    let mut db = test_store();
    let total = |db: &TestStore| db.effects.queued.iter().map(|(_, jobs)| jobs).sum::<i64>();
    db.insert_plan(JobPlan::Plain([H].into()), None);
    db.insert_event(vec![(H, ordered_job("k"))]);
    db.insert_event(vec![(H, ordered_job("k"))]);
    insert_failed_expression(&mut db);
    assert_eq!(total(&db), 3);
    let claimed = db.claim(9);
    assert_eq!(total(&db), 1);
    db.finish(&claimed[0], retry_after(1));
    db.finish(&claimed[1], dead());
    assert_eq!(total(&db), 2);
    let counted = jobs::queue::queued_count(db.conn(), S).unwrap();
    assert_eq!(counted, 2, "the count of the database agrees");
}

#[test]
fn a_duplicate_retries_a_dead_job() {
    let mut db = test_store();
    let own = Some(events::DedupeKey { key: key("id"), window_ms: 1_000 });
    let dedupe = || events::DedupeCheck {
        source_key: own,
        retry_dead: true,
        ..events::DedupeCheck::default()
    };
    let plan = JobPlan::Evaluated(vec![(H, ordered_job("k"))]);
    assert_eq!(db.insert_plan(plan.clone(), Some(dedupe())), InsertReply::Stored(EventId(1)));
    db.run_next(dead());
    assert_eq!(db.insert_plan(plan, Some(dedupe())), InsertReply::Duplicate(EventId(1)));
    assert_eq!(db.claim_ids(9), [1]);
}
