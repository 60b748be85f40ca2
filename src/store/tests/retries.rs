//! Tests of jobs whose expressions failed and that are retried, of items, and of the number of
//! queued jobs.

use super::*;
use crate::store::event_reads;
use crate::store::reevaluate::Reevaluation;

fn expand(trail: &mut Trail, owed: Option<JobSpec>) {
    let claimed = trail.claim(1).remove(0);
    assert!(claimed.should_reevaluate);
    let it = Reevaluation { claimed, received_at_ms: 5, spec: owed };
    reevaluate::apply_reevaluation(&trail.store.conn, &mut trail.state, &it).unwrap();
}

fn failed(trail: &mut Trail) {
    trail.owe(vec![(H, JobSpec::Dead("when: no such thing".into()))]);
}

#[test]
fn a_failed_expression_makes_an_attempt_and_a_dead_job() {
    let mut trail = trail();
    failed(&mut trail);
    assert_eq!(trail.jobs(), ["1 dead: when: no such thing"]);
    let row = "SELECT attempt, outcome, detail, job_state FROM outcomes";
    let found: (i64, String, String, String) = trail
        .conn()
        .query_row(row, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .unwrap();
    assert_eq!(found, (1, "failed".into(), "when: no such thing".into(), "dead".into()));
}

#[test]
fn a_retried_job_runs_once_its_expression_succeeds() {
    let mut trail = trail();
    failed(&mut trail);
    assert!(trail.retry(1));
    expand(&mut trail, Some(ordered("k")));
    trail.owe(vec![(H, ordered("k"))]);
    let claimed = trail.claim(9);
    assert_eq!((claimed.len(), claimed[0].claim.attempt), (1, 2));
    assert!(!claimed[0].should_reevaluate);
    assert_eq!(trail.jobs(), ["1 running", "2 held"]);
}

#[test]
fn a_retried_job_that_when_does_not_want_is_cancelled_and_may_be_retried() {
    let mut trail = trail();
    failed(&mut trail);
    assert!(trail.retry(1));
    expand(&mut trail, None);
    assert_eq!(trail.jobs(), ["1 cancelled: not wanted by when"]);
    assert!(trail.retry(1));
    assert!(trail.claim(1)[0].should_reevaluate);
}

#[test]
fn a_retried_job_is_replaced_by_its_items_once() {
    let mut trail = trail();
    failed(&mut trail);
    trail.owe(vec![(H, ordered("k"))]);
    assert!(trail.retry(1));
    expand(&mut trail, Some(items(&["1", "2"], Vec::new())));
    assert_eq!(trail.jobs()[0], "1 cancelled: expanded into jobs 3–4");
    assert!(!trail.retry(1), "a second retry would insert the items twice");
    let jobs = "SELECT jobs, cancelled, queued FROM trail WHERE event = 1";
    let found: (i64, i64, i64) = trail
        .conn()
        .query_row(jobs, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap();
    assert_eq!(found, (3, 1, 2));
}

#[test]
fn an_item_is_stored_with_its_job_and_numbered_from_1() {
    let mut trail = trail();
    trail.owe(vec![(H, items(&["{\"a\":1}", "2"], Vec::new()))]);
    let claimed = trail.claim(9);
    let numbers: Vec<_> = claimed.iter().map(|one| one.item).collect();
    assert_eq!(numbers, [Some(1), Some(2)]);
    let body = event_reads::load_item(trail.conn(), claimed[0].claim.job).unwrap();
    assert_eq!(&*body, b"{\"a\":1}");
}

#[test]
fn queued_jobs_are_counted() {
    let mut trail = trail();
    let total =
        |trail: &Trail| trail.state.queued_changes.iter().map(|(_, jobs)| jobs).sum::<i64>();
    trail.accept(JobPlan::Plain([H].into()), None);
    trail.owe(vec![(H, ordered("k"))]);
    trail.owe(vec![(H, ordered("k"))]);
    failed(&mut trail);
    assert_eq!(total(&trail), 3);
    let claimed = trail.claim(9);
    assert_eq!(total(&trail), 1);
    trail.finish(&claimed[0], again(1));
    trail.finish(&claimed[1], died());
    assert_eq!(total(&trail), 2);
    let counted = jobs::queued_count(trail.conn(), S).unwrap();
    assert_eq!(counted, 2, "the count of the database agrees");
}

#[test]
fn a_duplicate_retries_a_dead_job() {
    let mut trail = trail();
    let own = Some(events::DedupeKey { key: key("id"), window_ms: 1_000 });
    let dedupe = || events::DedupeCheck { own, retry_dead: true, ..events::DedupeCheck::default() };
    let plan = JobPlan::Evaluated(vec![(H, ordered("k"))]);
    assert_eq!(trail.accept(plan.clone(), Some(dedupe())), InsertReply::Stored(EventId(1)));
    trail.run(died());
    assert_eq!(trail.accept(plan, Some(dedupe())), InsertReply::Duplicate(EventId(1)));
    assert_eq!(trail.claimed(9), [1]);
}
