//! Tests of jobs that are inserted after their event, in several transactions. After a crash
//! between any two of them, the result is that of one transaction.

use std::time::{Duration, Instant};

use super::*;
use crate::domain::job_plan::LateDedupe;
use crate::store::backlog_task::{self, BacklogTask};
use crate::store::deferred::{self, EventJobs};
use crate::store::jobs::{JobOrigin, OriginKind, insert};
use crate::store::row_budget::RowBudget;

/// More jobs than one transaction inserts, with keys of all kinds.
fn large_spec(seed: usize) -> JobSpec {
    let names = ["k", "l", "m", "n", "o"];
    let keys = (0..300).map(|at| JobKeys {
        ordering: (at % 3 == 0).then(|| key(names[(at + seed) % 5])),
        version: None,
        unique: (at % 7 == 0)
            .then(|| UniqueKey { key: key(&format!("{}", (at + seed) % 40)), window_ms: 60_000 }),
        debounce: (at % 11 == 0).then(|| DebounceKey {
            key: key(names[(at * seed) % 5]),
            debounce_ms: if at % 2 == 0 { 5_000 } else { 0 },
        }),
    });
    let bodies = vec![b"{}".to_vec(); 300];
    JobSpec::Items(Arc::new(VecItems(bodies, keys.collect())))
}

fn budget(rows: usize) -> RowBudget {
    RowBudget { rows, bytes: usize::MAX, deadline: Instant::now() + Duration::from_secs(60) }
}

impl TestStore {
    /// Stores a deferred event.
    fn defer(&mut self, specs: Vec<(HandlerId, JobSpec)>) -> EventJobs {
        let reply = self.insert_plan(JobPlan::Evaluated(specs.clone()), None);
        let InsertReply::Deferred(event) = reply else { panic!("{reply:?}") };
        let received_at_ms = self.cache.wall_ms;
        EventJobs {
            event,
            source: S,
            received_at_ms,
            specs,
            expression_errors: None,
            late_dedupe: LateDedupe::default(),
        }
    }

    /// Runs one transaction with this row budget. Returns whether the task has ended.
    fn step(&mut self, task: &mut BacklogTask, rows: usize) -> bool {
        let progress = self.change(|tx| task.step(tx, &mut budget(rows)));
        task.advance(progress);
        self.cache.write_counters(&self.store.conn).unwrap();
        progress.has_ended()
    }

    /// Loads the tasks that the next process finds after a crash.
    fn restart_after_crash(&mut self) -> Vec<BacklogTask> {
        let (now_ms, wall_ms) = (self.cache.now_ms, self.cache.wall_ms);
        self.cache = WriterCache::read(&self.store.conn, self.store.clock).unwrap();
        (self.cache.now_ms, self.cache.wall_ms) = (now_ms, wall_ms);
        backlog_task::load_tasks(&self.store.conn, &mut self.cache).unwrap()
    }

    /// All jobs, by their position in their event.
    fn job_positions(&self) -> Vec<String> {
        let sql =
            "SELECT e.id || ' ' || j.handler || ' ' || coalesce(j.item, 0) || ' ' || j.state || ' '
                     || coalesce(j.due_at, '') || ' ' || coalesce(o.event || ' ' || o.item, '')
                   FROM jobs j JOIN events e ON e.id = j.event
                   LEFT JOIN jobs o ON j.reason LIKE '% job ' || o.id
                   ORDER BY e.id, j.handler, j.item";
        let mut select = self.conn().prepare(sql).unwrap();
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    fn check_views(&self, event: EventId, count: i64) -> bool {
        let jobs = self.query_number(&format!("SELECT jobs FROM trail WHERE event = {}", event.0));
        assert!(jobs == 0 || jobs == count, "{jobs} of {count} jobs can be seen");
        let sum =
            "SELECT queued + running + succeeded + dead + cancelled FROM trail WHERE event = ";
        assert_eq!(self.query_number(&format!("{sum}{}", event.0)), jobs);
        let depth = self.query_number("SELECT coalesce(sum(jobs), 0) FROM queue_depth");
        assert_eq!(depth, self.query_number("SELECT sum(queued + running) FROM trail"));
        jobs > 0
    }
}

/// The result of one transaction for each event.
fn lines_of_one_transaction(seeds: std::ops::Range<usize>) -> Vec<String> {
    let mut db = test_store();
    for seed in seeds {
        let source = S;
        let event = db.cache.counters.event + 1;
        db.insert_event(vec![]);
        for handler in [H, HandlerId(2)] {
            let origin = JobOrigin {
                event,
                source,
                handler,
                created_at_ms: 0,
                kind: OriginKind::DeferredEvent,
            };
            db.change(|tx| insert::insert_jobs(tx, origin, &large_spec(seed)));
        }
    }
    db.job_positions()
}

#[test]
fn jobs_inserted_in_many_transactions_equal_those_of_one() {
    let mut db = test_store();
    for seed in 1..4 {
        let jobs = db.defer(vec![(H, large_spec(seed)), (HandlerId(2), large_spec(seed))]);
        let event = jobs.event;
        let mut task = BacklogTask::insert_event_jobs(jobs);
        let mut was_visible = false;
        while !db.step(&mut task, 37) {
            let is_visible = db.check_views(event, 600);
            assert!(is_visible || !was_visible, "visible jobs stay visible");
            was_visible = is_visible;
        }
        assert!(was_visible);
    }
    assert!(db.job_positions() == lines_of_one_transaction(1..4));
    assert!(db.cache.deferred.is_empty());
    for table in ["deferred_events", "expansions", "expansion_keys"] {
        assert_eq!(db.query_number(&format!("SELECT count(*) FROM {table}")), 0, "{table}");
    }
    let queued: i64 = db.effects.queued.iter().map(|(_, jobs)| jobs).sum();
    assert_eq!(queued, db.query_number("SELECT sum(queued) FROM trail"));
}

#[test]
fn after_a_crash_between_any_two_transactions_an_event_has_all_its_jobs_once() {
    let mut transactions = 0;
    loop {
        let mut db = test_store();
        let specs = vec![(H, large_spec(1)), (HandlerId(2), large_spec(1))];
        let jobs = db.defer(specs.clone());
        let event = jobs.event;
        let mut task = BacklogTask::insert_event_jobs(jobs);
        let mut is_over = false;
        for _ in 0..transactions {
            is_over = is_over || db.step(&mut task, 150);
        }
        let was_visible = db.check_views(event, 600);
        drop(task);
        let tasks = db.restart_after_crash();
        assert_eq!(db.check_views(event, 600), was_visible);
        for mut task in tasks {
            while !db.step(&mut task, 150) {}
        }
        let deferred = deferred::list_events(db.conn(), S, EventId(0), 9).unwrap();
        assert_eq!(
            deferred.len(),
            usize::from(!was_visible),
            "evaluated again unless it has its jobs"
        );
        if !was_visible {
            let hidden = db.query_number("SELECT count(*) FROM jobs")
                + db.query_number("SELECT count(*) FROM items");
            assert_eq!(hidden, 0);
            let (received_at_ms, expression_errors) = (db.cache.wall_ms, None);
            let jobs = EventJobs {
                event,
                source: S,
                received_at_ms,
                specs,
                expression_errors,
                late_dedupe: LateDedupe::default(),
            };
            let mut task = BacklogTask::insert_event_jobs(jobs);
            while !db.step(&mut task, 150) {}
        }
        assert!(db.cache.deferred.is_empty());
        assert!(db.job_positions() == lines_of_one_transaction(1..2));
        if is_over {
            return;
        }
        transactions += 1;
    }
}

#[test]
fn only_while_a_source_has_deferred_events_its_newer_events_are_deferred() {
    let mut db = test_store();
    let first = db.defer(vec![(H, large_spec(1))]);
    let second = db.defer(vec![(H, JobSpec::Event(JobKeys::default()))]);
    assert_eq!(db.query_number("SELECT count(*) FROM jobs"), 0);
    let settled = "SELECT count(*) FROM trail WHERE settled_at IS NOT NULL";
    assert_eq!(db.query_number(settled), 0);
    let queued: i64 = db.effects.queued.iter().map(|(_, jobs)| jobs).sum();
    assert_eq!(queued, 301, "deferred events count as the jobs that they will have");
    assert_eq!(jobs::queue::queued_count(db.conn(), S).unwrap(), 301);
    for jobs in [first, second] {
        let mut task = BacklogTask::insert_event_jobs(jobs);
        while !db.step(&mut task, 100) {}
    }
    let first_of_second = db.query_number("SELECT min(id) FROM jobs WHERE event = 2");
    assert!(first_of_second > db.query_number("SELECT max(id) FROM jobs WHERE event = 1"));
    assert_eq!(db.insert_plan(JobPlan::Plain([H].into()), None), InsertReply::Stored(EventId(3)));
}

#[test]
fn an_event_whose_jobs_are_sent_twice_has_them_once() {
    let mut db = test_store();
    let all = [large_spec(1), JobSpec::Event(JobKeys::default()), large_spec(2)]
        .map(|specs| vec![(H, specs)]);
    let mut sent: Vec<EventJobs> = all.iter().map(|specs| db.defer(specs.clone())).collect();
    sent.pop();
    for at in [0, 1] {
        let (event, received_at_ms, specs) = (sent[at].event, 0, all[at].clone());
        sent.push(EventJobs {
            event,
            source: S,
            received_at_ms,
            specs,
            expression_errors: None,
            late_dedupe: LateDedupe::default(),
        });
    }
    for jobs in sent {
        let mut task = BacklogTask::insert_event_jobs(jobs);
        while !db.step(&mut task, 100) {}
    }
    assert_eq!(db.query_number("SELECT count(*) FROM jobs"), 301);
    assert_eq!(db.cache.deferred.get(&S), Some(&1), "the third event is still deferred");
    let queued: i64 = db.effects.queued.iter().map(|(_, jobs)| jobs).sum();
    assert_eq!(jobs::queue::queued_count(db.conn(), S).unwrap(), queued);
}

#[test]
fn a_deferred_event_that_no_handler_wants_has_no_jobs() {
    let mut db = test_store();
    let reply = db.insert_plan(JobPlan::Unevaluated([H].into()), None);
    assert_eq!(reply, InsertReply::Deferred(EventId(1)));
    let event = EventId(1);
    let expression_errors = Some("h: ordering_key: no".to_owned());
    let jobs = EventJobs {
        event,
        source: S,
        received_at_ms: 1,
        specs: vec![],
        expression_errors,
        late_dedupe: LateDedupe::default(),
    };
    assert!(db.step(&mut BacklogTask::insert_event_jobs(jobs), 100));
    assert_eq!(db.query_number("SELECT count(*) FROM jobs"), 0);
    assert_eq!(db.query_number("SELECT count(*) FROM trail WHERE settled_at IS NOT NULL"), 1);
    assert_eq!(
        db.query_number("SELECT count(*) FROM events WHERE note = 'h: ordering_key: no'"),
        1
    );
    assert_eq!(jobs::queue::queued_count(db.conn(), S).unwrap(), 0);
}

#[test]
fn a_job_that_is_cancelled_before_its_release_stays_cancelled() {
    let mut db = test_store();
    let jobs = db.defer(vec![(H, large_spec(1))]);
    let mut task = BacklogTask::insert_event_jobs(jobs);
    while db.query_number("SELECT jobs FROM trail") == 0 {
        assert!(!db.step(&mut task, 100));
    }
    db.cancel(299);
    while !db.step(&mut task, 100) {}
    assert_eq!(db.job_lines()[298], "299 cancelled: no more");
    let queued: i64 = db.query_number("SELECT queued FROM trail");
    assert_eq!(jobs::queue::queued_count(db.conn(), S).unwrap(), queued);
}

#[test]
fn an_older_job_that_is_released_later_goes_before_younger_ones_of_its_ordering_key() {
    let mut db = test_store();
    let keys = vec![JobKeys { ordering: Some(key("k")), ..JobKeys::default() }; 300];
    let specs = JobSpec::Items(Arc::new(VecItems(vec![b"1".to_vec(); 300], keys)));
    let jobs = db.defer(vec![(H, specs)]);
    let mut task = BacklogTask::insert_event_jobs(jobs);
    db.step(&mut task, 10);
    // A job of another source.
    let origin = JobOrigin {
        event: 1,
        source: SourceId(2),
        handler: H,
        created_at_ms: 0,
        kind: OriginKind::Event,
    };
    db.change(|tx| insert::insert_jobs(tx, origin, &ordered_job("k")));
    while !db.step(&mut task, 100) {}
    assert_eq!(db.claim_ids(9), [1]);
    assert_eq!(db.count_jobs(IS_BLOCKED), 300);
}

#[test]
fn an_older_job_that_is_released_later_is_superseded_by_a_younger_one_of_its_debounce_key() {
    let mut db = test_store();
    let collapse = Some(DebounceKey { key: key("k"), debounce_ms: 5_000 });
    let keys = JobKeys { debounce: collapse, ..JobKeys::default() };
    let bodies = vec![b"1".to_vec(); 300];
    let specs = JobSpec::Items(Arc::new(VecItems(bodies, vec![keys.clone(); 300])));
    let mut task = BacklogTask::insert_event_jobs(db.defer(vec![(H, specs)]));
    db.step(&mut task, 10);
    let (event, source, handler) = (1, SourceId(2), H);
    let kind = OriginKind::Event;
    let origin = JobOrigin { event, source, handler, created_at_ms: 0, kind };
    let spec = JobSpec::Event(keys);
    db.change(|tx| insert::insert_jobs(tx, origin, &spec));
    while !db.step(&mut task, 100) {}
    assert_eq!(db.count_jobs(IS_SCHEDULED), 1);
    assert_eq!(db.query_number(&format!("SELECT id FROM jobs WHERE {IS_SCHEDULED}")), 301);
    assert_eq!(db.job_lines()[299], "300 cancelled: superseded by job 301");
}

#[test]
fn a_failed_expression_beside_many_items_makes_an_attempt_and_a_dead_job() {
    let mut db = test_store();
    let specs = vec![(H, JobSpec::Dead("when: no".into())), (HandlerId(2), large_spec(1))];
    let mut task = BacklogTask::insert_event_jobs(db.defer(specs));
    while db.query_number("SELECT jobs FROM trail") == 0 {
        assert_eq!(
            db.query_number("SELECT count(*) FROM outcomes"),
            0,
            "no outcome before its job"
        );
        assert!(!db.step(&mut task, 100));
    }
    while !db.step(&mut task, 100) {}
    assert_eq!(db.job_lines()[0], "1 dead: when: no");
    assert_eq!(db.query_number("SELECT count(*) FROM outcomes WHERE detail = 'when: no'"), 1);
}

#[test]
fn a_duplicate_retries_dead_jobs_in_several_transactions_and_each_once() {
    let mut db = test_store();
    let own = Some(events::DedupeKey { key: key("x"), window_ms: 60_000 });
    let dedupe = events::DedupeCheck { source_key: own, retry_dead: true, ..Default::default() };
    let specs = (0..250).map(|_| (H, JobSpec::Event(JobKeys::default()))).collect();
    db.insert_plan(JobPlan::Evaluated(specs), Some(dedupe));
    for _ in 0..250 {
        db.run_next(dead());
    }
    db.insert_plan(JobPlan::Plain([].into()), Some(dedupe));
    let dead_count = "SELECT count(*) FROM dead_jobs";
    assert_eq!(db.query_number(dead_count), 150);
    db.cache.write_counters(&db.store.conn).unwrap();
    let mut tasks = db.restart_after_crash();
    let mut task = tasks.remove(0);
    db.run_next(dead());
    while !db.step(&mut task, 60) {}
    assert_eq!(db.query_number(dead_count), 1, "a job that died meanwhile is not retried again");
    assert_eq!(db.query_number("SELECT count(*) FROM dead_job_retries"), 0);
    assert!(tasks.is_empty());
}

#[test]
fn duplicates_of_one_transaction_retry_some_dead_jobs_and_later_transactions_the_others() {
    let mut db = test_store();
    let dedupe = |name| {
        let own = Some(events::DedupeKey { key: key(name), window_ms: 60_000 });
        Some(events::DedupeCheck { source_key: own, retry_dead: true, ..Default::default() })
    };
    for name in ["x", "y", "z"] {
        let specs = (0..80).map(|_| (H, JobSpec::Event(JobKeys::default()))).collect();
        db.insert_plan(JobPlan::Evaluated(specs), dedupe(name));
    }
    for _ in 0..240 {
        db.run_next(dead());
    }
    db.effects = Effects::default();
    for name in ["x", "y", "z"] {
        db.insert_plan(JobPlan::Plain([].into()), dedupe(name));
    }
    let dead_count = "SELECT count(*) FROM dead_jobs";
    assert_eq!(db.query_number(dead_count), 140);
    for mut task in db.restart_after_crash() {
        while !db.step(&mut task, 60) {}
    }
    assert_eq!(db.query_number(dead_count), 0);
    assert_eq!(db.query_number("SELECT count(*) FROM dead_job_retries"), 0);
}

#[test]
fn a_retried_job_is_replaced_by_many_jobs_in_many_transactions_and_by_none_if_cancelled() {
    for is_cancelled in [false, true] {
        let mut db = test_store();
        db.insert_event(vec![(H, JobSpec::Dead("split: no".into()))]);
        assert!(db.retry(1));
        let claimed = db.claim(1).remove(0);
        let specs = Some(large_spec(1));
        let reevaluation =
            Box::new(reevaluate::Reevaluation { claimed, received_at_ms: 0, spec: specs });
        let (done, _) = crossbeam_channel::bounded(1);
        let mut task = BacklogTask::replace_job(reevaluation, done);
        db.step(&mut task, 100);
        assert_eq!(db.query_number("SELECT jobs FROM trail"), 1);
        if is_cancelled {
            db.cancel(1);
        }
        while !db.step(&mut task, 100) {}
        let (first, count) = (db.job_lines().remove(0), db.query_number("SELECT jobs FROM trail"));
        if is_cancelled {
            assert_eq!((first.as_str(), count), ("1 cancelled: no more", 1));
        } else {
            assert_eq!((first.as_str(), count), ("1 cancelled: expanded into jobs 2–301", 301));
        }
        assert_eq!(db.query_number("SELECT count(*) FROM expansions"), 0);
    }
}

/// Stores an event whose `dedupe` is late, and returns its jobs with this key.
fn defer_late(db: &mut TestStore, name: Option<&str>, spec: JobSpec) -> EventJobs {
    let dedupe = events::DedupeCheck { is_late: true, ..Default::default() };
    let InsertReply::Deferred(event) =
        db.insert_plan(JobPlan::Unevaluated([H].into()), Some(dedupe))
    else {
        panic!("the event is not deferred")
    };
    let late_dedupe = LateDedupe {
        source_key: name.map(key),
        body_key: None,
        window_ms: 60_000,
        retry_dead: true,
    };
    let (received_at_ms, specs) = (db.cache.wall_ms, vec![(H, spec)]);
    EventJobs { event, source: S, received_at_ms, specs, expression_errors: None, late_dedupe }
}

#[test]
fn the_jobs_of_a_late_duplicate_are_cancelled_and_the_first_ones_dead_jobs_are_retried() {
    let mut db = test_store();
    let known = Some(events::DedupeKey { key: key("x"), window_ms: 60_000 });
    let dedupe = events::DedupeCheck { source_key: known, ..Default::default() };
    db.insert_plan(JobPlan::Plain([H].into()), Some(dedupe));
    db.run_next(dead());
    let all = [
        defer_late(&mut db, Some("x"), large_spec(1)),
        defer_late(&mut db, Some("y"), JobSpec::Event(JobKeys::default())),
        defer_late(&mut db, Some("y"), JobSpec::Dead("when: no".into())),
        defer_late(&mut db, None, JobSpec::Event(JobKeys::default())),
    ];
    for jobs in all {
        let mut task = BacklogTask::insert_event_jobs(jobs);
        while !db.step(&mut task, 100) {}
    }
    let reasons = "SELECT group_concat(event || ' ' || state || coalesce(' ' || reason, ''), ', ')
                     FROM (SELECT * FROM jobs ORDER BY id)";
    let reasons: String = db.conn().query_row(reasons, [], |row| row.get(0)).unwrap();
    assert_eq!(reasons, "1 0, 2 5 duplicate of event 1, 3 0, 4 5 duplicate of event 3, 5 0");
    assert_eq!(
        db.query_number(&format!(
            "SELECT count(*) FROM jobs WHERE reevaluation = 1 AND {IS_CANCELLED}"
        )),
        2
    );
    let same = events::DedupeKey { key: key("y"), window_ms: 60_000 };
    let repeated = events::DedupeCheck { source_key: Some(same), ..Default::default() };
    let reply = db.insert_plan(JobPlan::Plain([H].into()), Some(repeated));
    assert_eq!(reply, InsertReply::Duplicate(EventId(3)));
    let queued: i64 = db.effects.queued.iter().map(|(_, jobs)| jobs).sum();
    assert_eq!(jobs::queue::queued_count(db.conn(), S).unwrap(), queued);
    assert!(db.cache.deferred.is_empty());
}

#[test]
fn a_late_duplicate_is_recorded_as_an_immediate_one() {
    let recorded = |is_late: bool| {
        let mut db = test_store();
        let known = Some(events::DedupeKey { key: key("x"), window_ms: 60_000 });
        let dedupe = events::DedupeCheck { source_key: known, ..Default::default() };
        db.insert_plan(JobPlan::Plain([].into()), Some(dedupe));
        for body in ["{}", "other"] {
            db.body = body.into();
            if is_late {
                let jobs = defer_late(&mut db, Some("x"), JobSpec::Event(JobKeys::default()));
                assert!(db.step(&mut BacklogTask::insert_event_jobs(jobs), 100));
            } else {
                db.insert_plan(JobPlan::Plain([].into()), Some(dedupe));
            }
        }
        let sql = "SELECT group_concat(d.event || ' ' || d.ip || ' ' || coalesce(CAST(d.body AS TEXT), '-')
                     || ' ' || (d.received_at - e.received_at) || ' ' || t.duplicates || ' '
                     || (SELECT sum(duplicates) FROM minute_counts), ', ')
                   FROM duplicates d JOIN events e ON e.id = d.event JOIN trail t ON t.event = d.event";
        let rows: String = db.conn().query_row(sql, [], |row| row.get(0)).unwrap();
        rows
    };
    assert_eq!(recorded(false), "1 192.0.2.1 - 0 2 2, 1 192.0.2.1 other 0 2 2");
    assert_eq!(recorded(true), recorded(false));
}

#[test]
fn the_dead_jobs_that_late_duplicates_retry_count_against_the_rows_of_their_transaction() {
    let mut db = test_store();
    let known = Some(events::DedupeKey { key: key("x"), window_ms: 60_000 });
    let dedupe = events::DedupeCheck { source_key: known, ..Default::default() };
    let specs = (0..90).map(|_| (H, JobSpec::Event(JobKeys::default()))).collect();
    db.insert_plan(JobPlan::Evaluated(specs), Some(dedupe));
    for _ in 0..90 {
        db.run_next(dead());
    }
    let duplicate = defer_late(&mut db, Some("x"), JobSpec::Event(JobKeys::default()));
    let task = BacklogTask::insert_event_jobs(duplicate);
    let mut budget = budget(40);
    assert!(db.change(|tx| task.step(tx, &mut budget)).has_ended() && budget.is_spent());
    let dead_count = "SELECT count(*) FROM dead_jobs";
    assert_eq!(
        db.query_number(dead_count),
        53,
        "three rows for the event, the duplicate and the job"
    );
    db.cache.write_counters(&db.store.conn).unwrap();
    let mut task = db.restart_after_crash().remove(0);
    let mut transactions = 0;
    while !db.step(&mut task, 40) {
        transactions += 1;
        assert_eq!(db.query_number(dead_count), (53 - 40 * transactions).max(0));
    }
    assert_eq!(db.query_number(dead_count), 0);
}

#[test]
fn a_late_event_with_many_jobs_is_no_duplicate_of_itself_after_a_crash() {
    let mut db = test_store();
    let jobs = defer_late(&mut db, Some("x"), large_spec(1));
    let again = EventJobs { specs: jobs.specs.clone(), expression_errors: None, ..jobs };
    assert!(!db.step(&mut BacklogTask::insert_event_jobs(jobs), 50));
    for mut task in db.restart_after_crash() {
        while !db.step(&mut task, 100) {}
    }
    assert_eq!(deferred::list_events(db.conn(), S, EventId(0), 9).unwrap(), [(again.event, false)]);
    let mut task = BacklogTask::insert_event_jobs(again);
    while !db.step(&mut task, 100) {}
    assert_eq!(db.query_number("SELECT jobs FROM trail"), 300);
    assert_eq!(db.query_number("SELECT count(*) FROM jobs WHERE reason LIKE 'duplicate%'"), 0);
    assert_eq!(db.query_number("SELECT count(*) FROM dedupe"), 1);
}

#[test]
fn a_late_key_counts_from_the_moment_at_which_its_event_was_stored() {
    let mut db = test_store();
    let known = Some(events::DedupeKey { key: key("x"), window_ms: 60_000 });
    let dedupe = events::DedupeCheck { source_key: known, ..Default::default() };
    db.insert_plan(JobPlan::Plain([].into()), Some(dedupe));
    db.cache.now_ms += 50_000;
    let within = defer_late(&mut db, Some("x"), JobSpec::Event(JobKeys::default()));
    db.cache.now_ms += 50_000;
    let mut purge = BacklogTask::purge_keys();
    while !db.step(&mut purge, 100) {}
    let after = defer_late(&mut db, Some("x"), JobSpec::Event(JobKeys::default()));
    db.cache.now_ms += 50_000;
    for jobs in [within, after] {
        assert!(db.step(&mut BacklogTask::insert_event_jobs(jobs), 100));
    }
    assert_eq!(db.query_number("SELECT event FROM jobs WHERE reason = 'duplicate of event 1'"), 2);
    assert_eq!(db.query_number("SELECT event FROM dedupe"), 3);
    let expires_in = db.query_number("SELECT expires_at FROM dedupe") - db.cache.now_ms;
    assert_eq!(expires_in, 10_000);
}
