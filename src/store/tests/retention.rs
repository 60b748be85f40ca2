//! Tests of `retention`, with a wall clock that the test sets.

use std::collections::BTreeSet;
use std::time::Instant;

use const_format::formatcp;

use super::*;
use crate::store::dedupe::insert_duplicate;
use crate::store::retention::{
    RemovedPart, RetentionRule, Scanner, apply_batch, find_settled, finish_removals,
    has_unfinished_removals, return_free_pages, start_removal,
};
use crate::store::row_budget::RowBudget;
use crate::store::seal::AttemptSeal;

const DAY: i64 = 86_400_000;

const EVENTS: RetentionRule =
    RetentionRule { source: S, part: RemovedPart::Event, keep_ms: 7 * DAY, keep_dead_ms: None };
const BODIES: RetentionRule =
    RetentionRule { source: S, part: RemovedPart::Body, keep_ms: 7 * DAY, keep_dead_ms: None };

/// All that a rule may change.
const TABLES: [&str; 6] =
    ["events", "jobs", "attempts", "items", "duplicates", "retention_waiting"];

fn budget(rows: usize) -> RowBudget {
    RowBudget { rows, bytes: usize::MAX, deadline: Instant::now() + Duration::from_secs(60) }
}

impl TestStore {
    /// Applies a rule to all events that it applies to now, `rows` rows in each transaction.
    fn apply_rule(&mut self, rule: RetentionRule, rows: usize) {
        let mut scanner = Scanner::resume(self.conn(), rule).unwrap();
        while let Some(batch) = scanner.next_batch(self.conn(), self.cache.wall_ms).unwrap() {
            let mut progress = Default::default();
            for transactions in 0.. {
                progress = self.change(|tx| apply_batch(tx, &batch, progress, &mut budget(rows)));
                if progress.is_done {
                    break;
                }
                assert!(transactions < 10_000, "the batch makes no progress");
            }
        }
    }

    fn counts(&self) -> Vec<(&'static str, i64)> {
        let count = |table| self.query_number(&format!("SELECT count(*) FROM {table}"));
        TABLES.map(|table| (table, count(table))).into_iter().filter(|(_, n)| *n > 0).collect()
    }

    /// The row of the view `trail`.
    fn trail(&self, event: i64) -> Vec<Option<String>> {
        let sql = "SELECT * FROM trail WHERE event = ?1";
        self.conn()
            .query_row(sql, [event], |row| {
                let text = |index| {
                    row.get::<_, rusqlite::types::Value>(index).map(|value| format!("{value:?}"))
                };
                (0..12).map(|index| text(index).map(Some)).collect()
            })
            .unwrap()
    }

    fn wait_days(&mut self, days: i64) {
        self.cache.wall_ms += days * DAY;
    }

    fn events(&self) -> BTreeSet<i64> {
        let mut select = self.conn().prepare("SELECT id FROM events").unwrap();
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }
}

/// A store with one event, whose two items succeeded with output.
fn store_with_settled_event() -> TestStore {
    let mut store = test_store();
    store.insert_event(vec![(H, items(&["first", "second"], vec![]))]);
    for job in store.claim(2) {
        let mut record =
            store.attempt_record(&job, (Outcome::Succeeded, false), NextStep::Succeeded);
        (record.stdout, record.stderr) = (b"out".to_vec(), b"err".to_vec());
        record.seal = AttemptSeal::new(&record.detail, &record.stdout, &record.stderr);
        store.change(|tx| finish::finish_single(tx, &record));
    }
    store
}

#[test]
fn a_body_is_removed_and_the_trail_stays() {
    let mut store = store_with_settled_event();
    let original = EventId(1);
    store.change(|tx| insert_duplicate(tx.conn, original, 5, "::1", b"other"));
    let before = store.trail(1);
    store.wait_days(6);
    store.apply_rule(BODIES, 1);
    assert_eq!(store.query_number("SELECT count(*) FROM items"), 2);
    store.wait_days(1);
    store.apply_rule(BODIES, 1);
    assert_eq!(store.trail(1), before);
    let left = "SELECT (SELECT count(*) FROM items)
        + (SELECT count(*) FROM attempts WHERE stdout IS NOT NULL OR stderr IS NOT NULL)
        + (SELECT count(*) FROM duplicates WHERE body IS NOT NULL)
        + (SELECT count(*) FROM events WHERE body IS NOT NULL OR headers <> x'' OR query IS NOT NULL)";
    assert_eq!(store.query_number(left), 0);
    store.assert_verified();
}

#[test]
fn an_event_is_removed_with_all_that_belongs_to_it_and_its_ids_are_not_given_again() {
    let mut store = store_with_settled_event();
    store.change(|tx| insert_duplicate(tx.conn, EventId(1), 5, "::1", b"other"));
    store.wait_days(7);
    store.apply_rule(EVENTS, 1);
    assert_eq!(store.counts(), []);
    assert_eq!(
        store.insert_event(vec![(H, JobSpec::Event(JobKeys::default()))]),
        InsertReply::Stored(EventId(2))
    );
    assert_eq!(store.claim_ids(1), [3]);
    store.assert_verified();
}

#[test]
fn an_event_without_jobs_is_settled_when_it_is_received() {
    let mut store = test_store();
    store.insert_event(vec![]);
    store.wait_days(7);
    store.apply_rule(EVENTS, 100);
    assert_eq!(store.counts(), []);
}

#[test]
fn an_unsettled_event_stays_until_the_duration_after_its_end() {
    let mut store = test_store();
    store.insert_event(vec![(H, JobSpec::Event(JobKeys::default()))]);
    store.wait_days(10);
    store.apply_rule(EVENTS, 100);
    store.run_next(NextStep::Succeeded);
    store.wait_days(6);
    store.apply_rule(EVENTS, 100);
    assert_eq!(store.events().len(), 1);
    store.wait_days(1);
    store.apply_rule(EVENTS, 100);
    assert_eq!(store.counts(), []);
}

#[test]
fn a_dead_job_protects_its_event_until_it_is_dismissed_or_its_duration_is_over() {
    for is_dismissed in [false, true] {
        let mut store = test_store();
        store.insert_event(vec![(H, JobSpec::Event(JobKeys::default()))]);
        store.run_next(dead());
        let keep_dead_ms = Some(30 * DAY).filter(|_| !is_dismissed);
        let rules = [BODIES, EVENTS].map(|rule| RetentionRule { keep_dead_ms, ..rule });
        store.wait_days(29);
        rules.into_iter().for_each(|rule| store.apply_rule(rule, 100));
        assert_eq!(store.query_number("SELECT count(*) FROM events WHERE body IS NOT NULL"), 1);
        if is_dismissed {
            store.cancel(1);
            store.wait_days(6);
        }
        store.wait_days(1);
        rules.into_iter().for_each(|rule| store.apply_rule(rule, 100));
        assert_eq!(
            store.counts().len(),
            if keep_dead_ms.is_some() || is_dismissed { 0 } else { 3 }
        );
    }
}

#[test]
fn a_job_of_an_event_without_body_is_not_retried() {
    let mut store = test_store();
    store.insert_event(vec![(H, JobSpec::Event(JobKeys::default()))]);
    store.run_next(dead());
    store.wait_days(7);
    store.apply_rule(RetentionRule { keep_dead_ms: Some(0), ..BODIES }, 100);
    assert!(!store.retry(1));
    assert_eq!(store.job_lines(), ["1 dead: exit 1"]);
}

#[test]
fn a_retry_between_the_scan_and_the_removal_keeps_the_event() {
    let mut store = test_store();
    store.insert_event(vec![(H, JobSpec::Event(JobKeys::default()))]);
    store.run_next(dead());
    store.wait_days(7);
    let rule = RetentionRule { keep_dead_ms: Some(0), ..EVENTS };
    let mut scanner = Scanner::resume(store.conn(), rule).unwrap();
    let batch = scanner.next_batch(store.conn(), store.cache.wall_ms).unwrap().unwrap();
    assert_eq!(batch.removals(), 1);
    assert!(store.retry(1));
    let progress = store.change(|tx| apply_batch(tx, &batch, Default::default(), &mut budget(9)));
    assert!(progress.is_done);
    assert_eq!(store.counts().len(), 4);
    store.run_next(NextStep::Succeeded);
    store.wait_days(7);
    store.apply_rule(rule, 9);
    assert_eq!(store.counts(), []);
}

#[test]
fn keys_last_for_their_window_after_the_event_is_gone() {
    let week = |name| UniqueKey { key: key(name), window_ms: 70 * DAY };
    let with_key =
        |name| JobSpec::Event(JobKeys { unique: Some(week(name)), ..JobKeys::default() });
    let dedupe_key = events::DedupeKey { key: key("delivery"), window_ms: 70 * DAY };
    let dedupe = events::DedupeCheck { source_key: Some(dedupe_key), ..Default::default() };
    let mut store = test_store();
    let plan = |name| JobPlan::Evaluated(vec![(H, with_key(name))]);
    store.insert_plan(plan("done"), Some(dedupe));
    store.insert_plan(plan("given up"), None);
    store.run_next(NextStep::Succeeded);
    store.cancel(2);
    store.wait_days(7);
    store.apply_rule(EVENTS, 100);
    assert_eq!(store.counts(), []);

    assert_eq!(store.insert_plan(plan("done"), Some(dedupe)), InsertReply::Duplicate(EventId(1)));
    assert_eq!(store.counts(), []);
    store.insert_plan(plan("done"), None);
    store.insert_plan(plan("given up"), None);
    assert_eq!(store.job_lines(), ["3 cancelled: same as job 1", "4 ready"]);
    store.assert_verified();
}

#[test]
fn an_event_with_many_jobs_is_removed_in_short_transactions_and_a_later_process_completes_it() {
    for rule in [BODIES, EVENTS] {
        let mut store = test_store();
        let bodies = vec!["item"; 250];
        store.insert_event(vec![(H, items(&bodies, vec![]))]);
        store.insert_event(vec![]);
        for job in store.claim(250) {
            store.finish(&job, NextStep::Succeeded);
        }
        store.wait_days(7);
        let mut scanner = Scanner::resume(store.conn(), rule).unwrap();
        let batch = scanner.next_batch(store.conn(), store.cache.wall_ms).unwrap().unwrap();
        let mut progress = Default::default();
        for _ in 0..2 {
            progress = store.change(|tx| apply_batch(tx, &batch, progress, &mut budget(100)));
            assert!(!progress.is_done);
            store.assert_verified();
        }
        assert_eq!(store.query_number("SELECT count(*) FROM items"), 50);
        assert!(!store.retry(1));

        assert!(has_unfinished_removals(store.conn()).unwrap());
        while !store.change(|tx| finish_removals(tx, &mut budget(100))) {}
        assert!(!has_unfinished_removals(store.conn()).unwrap());
        assert_eq!(store.query_number("SELECT count(*) FROM items"), 0);
        store.apply_rule(rule, 100);
        let left = if rule.part == RemovedPart::Body { 3 } else { 0 };
        assert_eq!(store.counts().len(), left);
        store.assert_verified();
    }
}

#[test]
fn a_rule_completes_what_a_command_has_begun_with_and_then_does_its_own_part() {
    let mut store = test_store();
    for _ in 0..3 {
        store.insert_event(vec![(H, JobSpec::Event(JobKeys::default()))]);
        store.run_next(NextStep::Succeeded);
    }
    // `erase` was killed right after its first transaction for event 2.
    let event = find_settled(store.conn(), 2).unwrap().unwrap();
    store.change(|tx| start_removal(tx.conn, RemovedPart::Quotes, &event));
    store.wait_days(7);
    store.apply_rule(EVENTS, 1);
    assert!(!has_unfinished_removals(store.conn()).unwrap());
    assert_eq!(store.counts(), []);
    store.assert_verified();
}

#[test]
fn a_removal_whose_event_is_gone_is_forgotten() {
    let mut store = test_store();
    store.conn().execute("INSERT INTO partial_removals VALUES (7, 2, 1)", []).unwrap();
    assert!(store.change(|tx| finish_removals(tx, &mut budget(100))));
    assert!(!has_unfinished_removals(store.conn()).unwrap());
}

#[test]
fn a_wrong_time_in_the_future_does_not_hold_up_later_events() {
    let mut store = test_store();
    store.insert_event(vec![]);
    store.cache.wall_ms += 365 * DAY;
    store.insert_event(vec![]);
    store.cache.wall_ms -= 365 * DAY;
    store.insert_event(vec![]);
    store.wait_days(7);
    store.apply_rule(EVENTS, 100);
    assert_eq!(store.events(), BTreeSet::from([2]));
    store.wait_days(400);
    store.apply_rule(EVENTS, 100);
    assert_eq!(store.counts(), []);
}

#[test]
fn the_rule_of_one_source_leaves_the_events_of_others() {
    let mut store = test_store();
    for number in 0..3000 {
        store.source = SourceId(1 + number % 2);
        store.insert_event(vec![]);
    }
    store.wait_days(7);
    store.apply_rule(EVENTS, 100);
    assert_eq!(store.query_number("SELECT count(*) FROM events WHERE source = 2"), 1500);
    assert_eq!(store.query_number("SELECT count(*) FROM events"), 1500);
}

#[test]
fn the_size_of_the_file_stays_level() {
    let mut store = test_store();
    store.body = vec![b'x'; 600];
    let mut pages = Vec::new();
    for hour in 0..30 * 24 {
        for _ in 0..6 {
            store.insert_event(vec![(H, JobSpec::Event(JobKeys::default()))]);
            store.run_next(NextStep::Succeeded);
        }
        store.cache.wall_ms += DAY / 24;
        store.apply_rule(EVENTS, 100);
        if hour % 24 == 0 {
            pages.push(store.query_number("PRAGMA page_count"));
        }
    }
    let (after_9_days, at_end) = (pages[9], pages[29]);
    assert!(at_end <= after_9_days + after_9_days / 20, "{pages:?}");
    store.assert_verified();
}

#[test]
fn free_pages_and_the_block_index_of_removed_rows_are_given_back() {
    let mut store = test_store();
    store.body = vec![b'x'; 3000];
    for _ in 0..3000 {
        store.insert_event(vec![(H, JobSpec::Event(JobKeys::default()))]);
    }
    for job in store.claim(3000) {
        store.finish(&job, NextStep::Succeeded);
    }
    let before = store.query_number("PRAGMA page_count");
    store.wait_days(7);
    store.apply_rule(EVENTS, 100);
    while !store.change(|tx| return_free_pages(tx.conn, &mut budget(100))) {}
    let after = store.query_number("PRAGMA page_count");
    assert!(after < before / 5, "{before} pages before, {after} after");
    for table in ["event_blocks", "job_blocks", "attempt_blocks"] {
        assert_eq!(store.query_number(&format!("SELECT count(*) FROM {table}")), 1, "{table}");
    }
    store.insert_event(vec![(H, JobSpec::Event(JobKeys::default()))]);
    store.assert_verified();
}

/// A random number below `bound`.
fn below(seed: &mut u64, bound: u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % bound
}

#[test]
fn a_rule_removes_exactly_the_events_whose_time_has_come() {
    // What a rule removes, by reading all events. ?1: now, ?2: the duration, ?3: that of dead jobs.
    const DUE: &str = formatcp!(
        "SELECT e.id FROM events e LEFT JOIN jobs j ON j.event = e.id WHERE e.source = 1
        GROUP BY e.id HAVING coalesce(min(iif(j.id IS NULL, NULL, j.ended_at IS NOT NULL)), 1)
          AND coalesce(max(j.ended_at), e.received_at) <= ?1 - ?2
          AND coalesce(max(iif({IS_DEAD}, j.ended_at, NULL)), -1) <= ?1 - ?3"
    );
    for mut seed in 1..12 {
        let mut store = test_store();
        store.conn().execute("INSERT INTO sources (name) VALUES ('b')", []).unwrap();
        let rule = RetentionRule { keep_ms: 1000, keep_dead_ms: Some(3000), ..EVENTS };
        for _ in 0..400 {
            match below(&mut seed, 8) {
                0 => store.cache.wall_ms += 100 * below(&mut seed, 10) as i64,
                1 | 2 => {
                    store.source = SourceId(1 + below(&mut seed, 2) as i64);
                    let specs = 0..below(&mut seed, 3);
                    let spec = |_| (H, JobSpec::Event(JobKeys::default()));
                    store.insert_event(specs.map(spec).collect());
                }
                3 | 4 if store.count_jobs(IS_READY) > 0 => {
                    let next = if below(&mut seed, 3) == 0 { dead() } else { NextStep::Succeeded };
                    store.run_next(next);
                }
                5 if store.cache.counters.job > 0 => {
                    let job = 1 + below(&mut seed, store.cache.counters.job as u64) as i64;
                    match below(&mut seed, 2) {
                        0 => _ = store.retry(job),
                        _ => store.cancel(job),
                    }
                }
                6 => {
                    let now = store.cache.wall_ms;
                    let before = store.events();
                    let mut select = store.conn().prepare(DUE).unwrap();
                    let due: BTreeSet<i64> = select
                        .query_map([now, rule.keep_ms, 3000], |row| row.get(0))
                        .unwrap()
                        .map(Result::unwrap)
                        .collect();
                    drop(select);
                    store.apply_rule(rule, 1 + below(&mut seed, 5) as usize);
                    let removed: BTreeSet<i64> =
                        before.difference(&store.events()).copied().collect();
                    // A cancelled job ends its event's protection when the rule looks at the event again.
                    assert!(removed.is_subset(&due), "{removed:?} of {due:?}");
                    store.cache.wall_ms += 6000;
                    store.apply_rule(rule, 3);
                    assert!(store.events().is_disjoint(&due), "{due:?} is due");
                }
                _ => {}
            }
        }
        store.assert_verified();
    }
}
