//! What an event and its job cost, from the insert to the outcome, does not depend on how much is stored.
//! The cost is counted and not timed: statements, steps of SQLite's virtual machine, and pages written.

use std::cell::RefCell;
use std::collections::HashMap;

use rusqlite::StatementStatus;
use rusqlite::trace::{TraceEvent, TraceEventCodes};

use super::events::{DedupeCheck, DedupeKey};
use super::*;
use crate::domain::job_plan::hash_key;
use crate::store::checkpoint;

/// Events whose cost is counted.
const MEASURED: usize = 100;
/// Events stored before: settled ones, and as many whose job is queued.
const FEW: i64 = 500;
/// Its next ids have the same place in their block as those of `FEW`, so the block index costs the same.
const MANY: i64 = FEW + 100 * 1024;
/// The share of pages that may be written in addition: pages are divided at other events.
const MORE_PAGES: f64 = 0.03;

thread_local! {
    /// The steps of each statement since its preparation.
    static STEPS: RefCell<HashMap<String, i64>> = RefCell::default();
}

fn record_steps(event: TraceEvent<'_>) {
    if let TraceEvent::Profile(statement, _) = event {
        let steps = i64::from(statement.get_status(StatementStatus::VmStep));
        STEPS.with_borrow_mut(|all| all.insert(statement.sql().into_owned(), steps));
    }
}

/// The cost of `MEASURED` events.
#[derive(Debug, Default)]
struct Cost {
    statements: usize,
    steps: i64,
    pages: i64,
}

impl TestStore {
    /// Stores `count` settled events and `count` events with a queued job, a key of `dedupe` each.
    fn fill(&mut self, count: i64) {
        let sql = "
            WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 2 * ?1)
            INSERT INTO events (id, uid, source, received_at, method, path, ip, headers, first_job, last_job, body)
            SELECT n, randomblob(16), 1, n, 'POST', '/hooks/a', '192.0.2.1', x'', n, n, '{}' FROM numbers;
            INSERT INTO jobs (id, event, handler, source, state, created_at, age_start, attempt, ended_at)
            SELECT id, id, 1, 1, iif(id > ?1, 0, 3), id, 0, id <= ?1, iif(id > ?1, NULL, id) FROM events;
            INSERT INTO attempts (id, job, attempt, outcome, detail, ended_at, duration_ms)
            SELECT id, id, 1, 'succeeded', 'exit 0', id, 1 FROM jobs WHERE state = 3;
            INSERT INTO dedupe SELECT 1, randomblob(16), id, 4000000000000 + id FROM events;
            UPDATE counters SET event = 2 * ?1, job = 2 * ?1, attempt = ?1;";
        self.conn()
            .execute_batch(&format!("BEGIN; {}; COMMIT", sql.replace("?1", &count.to_string())))
            .unwrap();
        self.cache = WriterCache::read(&self.store.conn, self.store.clock).unwrap();
        self.cache.now_ms = 1_000_000;
    }

    /// Stores an event, and claims and ends the oldest job, each in a separate transaction.
    fn cost_of_next_event(&mut self, number: usize) -> Cost {
        let key = hash_key(b't', &[&number.to_le_bytes()]);
        let dedupe = DedupeCheck {
            source_key: Some(DedupeKey { key, window_ms: 1_000_000 }),
            ..DedupeCheck::default()
        };
        let mut cost = Cost::default();
        self.transaction(&mut cost, |store| {
            store.insert_plan(
                JobPlan::Evaluated(vec![(H, JobSpec::Event(JobKeys::default()))]),
                Some(dedupe),
            )
        });
        let job = self.transaction(&mut cost, |store| store.claim(1).remove(0));
        self.transaction(&mut cost, |store| store.finish(&job, NextStep::Succeeded));
        cost
    }

    fn transaction<T>(&mut self, cost: &mut Cost, change: impl FnOnce(&mut Self) -> T) -> T {
        self.conn().flush_prepared_statement_cache();
        assert!(checkpoint::truncate(self.conn()).unwrap());
        STEPS.with_borrow_mut(HashMap::clear);
        self.conn().execute_batch("BEGIN IMMEDIATE").unwrap();
        let result = change(self);
        self.conn().execute_batch("COMMIT").unwrap();
        STEPS.with_borrow(|steps| {
            cost.statements += steps.len();
            cost.steps += steps.values().sum::<i64>();
        });
        cost.pages += checkpoint::passive(self.conn()).unwrap().0;
        result
    }
}

fn cost_with(stored: i64) -> Cost {
    let mut store = test_store();
    store.fill(stored);
    store.conn().trace_v2(TraceEventCodes::SQLITE_TRACE_PROFILE, Some(record_steps));
    let costs = (0..MEASURED).map(|number| store.cost_of_next_event(number));
    costs.fold(Cost::default(), |sum, cost| Cost {
        statements: sum.statements + cost.statements,
        steps: sum.steps + cost.steps,
        pages: sum.pages + cost.pages,
    })
}

#[test]
fn an_event_costs_as_many_statements_steps_and_pages_beside_many_events_as_beside_few() {
    let [few, many] = [FEW, MANY].map(cost_with);
    assert!(few.statements >= 3 * MEASURED && few.pages >= 3 * MEASURED as i64);
    assert_eq!(many.statements, few.statements);
    assert!(many.steps <= few.steps, "{many:?} {few:?}");
    assert!(many.pages as f64 <= few.pages as f64 * (1.0 + MORE_PAGES), "{many:?} {few:?}");
}
