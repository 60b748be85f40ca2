//! The groups of failures, and the numbers of jobs of each handler.

use super::*;
use crate::store::jobs::failures::{self, OTHER_REASONS};

impl TestStore {
    /// Runs the next job of `H`, which fails for this reason, and returns its id.
    fn fail_next(&mut self, detail: &str, is_dead: bool) -> i64 {
        let job = self.claim(1).remove(0);
        let next = match is_dead {
            true => NextStep::Dead(detail.to_owned()),
            false => retry_after(1000),
        };
        let record = AttemptRecord {
            detail: detail.to_owned(),
            ..self.attempt_record(&job, (Outcome::Failed, false), next)
        };
        self.change(|tx| finish::finish_single(tx, &record));
        job.claim.job.0
    }

    /// Each group: how many of its jobs will be retried, how many are dead, and its reason.
    fn groups(&self) -> Vec<String> {
        let sql = "SELECT failing || ' failing, ' || dead || ' dead: ' || reason FROM failure_groups ORDER BY reason";
        self.conn().list(sql, [], |row| row.get(0)).unwrap()
    }

    /// How many jobs of `H` are queued, running and dead.
    fn numbers(&self) -> (i64, i64, i64) {
        let sql = "SELECT queued, running, dead FROM handlers WHERE id = ?1";
        self.conn().query_row(sql, [H], |row| row.try_into()).unwrap()
    }

    fn insert_jobs_of_h(&mut self, count: usize) {
        for _ in 0..count {
            self.insert_event(vec![(H, JobSpec::Event(JobKeys::default()))]);
        }
    }
}

#[test]
fn failures_with_one_cause_are_one_group_until_their_jobs_succeed() {
    let mut db = test_store();
    db.insert_jobs_of_h(3);
    assert_eq!(db.numbers(), (3, 0, 0));
    db.fail_next("exit 1: contact 7 is unknown", true);
    let job = db.fail_next("exit 1: contact 8 is unknown", false);
    db.fail_next("status 503", false);
    assert_eq!(db.numbers(), (2, 0, 1));
    let unknown = "exit 1: contact # is unknown";
    assert_eq!(
        db.groups(),
        [format!("1 failing, 1 dead: {unknown}"), "1 failing, 0 dead: status 503".to_owned()]
    );
    let last: i64 =
        db.query_number("SELECT last_job FROM failure_groups WHERE reason LIKE 'exit%'");
    assert_eq!(last, job);
    db.advance(1000);
    db.run_next(NextStep::Succeeded);
    db.fail_next("exit 1: contact 9 is unknown", true);
    assert_eq!(db.groups(), [format!("0 failing, 2 dead: {unknown}")]);
    assert_eq!(db.numbers(), (0, 0, 2));
    db.assert_verified();
}

#[test]
fn a_job_that_is_retried_or_cancelled_leaves_its_group() {
    let mut db = test_store();
    db.insert_jobs_of_h(2);
    let jobs = [(); 2].map(|()| db.fail_next("exit 1", true));
    assert_eq!(db.groups(), ["0 failing, 2 dead: exit 1"]);
    db.retry(jobs[0]);
    assert_eq!(
        (db.groups(), db.numbers()),
        (vec!["0 failing, 1 dead: exit 1".to_owned()], (1, 0, 1))
    );
    db.cancel(jobs[1]);
    assert_eq!((db.groups(), db.numbers()), (vec![], (1, 0, 0)));
    db.assert_verified();
}

#[test]
fn the_number_of_groups_is_bounded() {
    let mut db = test_store();
    db.insert_jobs_of_h(1);
    let job = db.claim(1).remove(0);
    db.change(|tx| {
        for index in 0..700_usize {
            // Letters tell the reasons apart, because numbers do not.
            let reason =
                format!("exit 1: {}", "a".repeat(1 + index % 100) + &"b".repeat(index / 100));
            failures::join(tx, (job.claim.job, H), None, true, &reason)?;
        }
        Ok(())
    });
    assert_eq!(db.query_number("SELECT count(*) FROM failure_groups"), 501);
    let others = format!("SELECT dead FROM failure_groups WHERE reason = '{OTHER_REASONS}'");
    assert_eq!(db.query_number(&others), 200);
}
