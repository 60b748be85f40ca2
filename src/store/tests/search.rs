//! Searches find what a read of all rows finds, and the block index is complete after everything that
//! writes rows.

use super::*;
use crate::domain::job::PublicState;
use crate::store::block_index::BLOCK_BITS;
use crate::store::queries::{Selector, list_jobs, query};
use crate::store::search::blocks::{self, BlockSearch};
use crate::store::search::pages::{
    Page, PageRequest, page_of_events, page_of_jobs, page_of_outcomes,
};
use crate::store::search::states::STATE_STATEMENTS;
use crate::store::search::{
    SearchResult, SearchTime, Total, search_events, search_jobs, search_outcomes,
};
use rusqlite::types::Value;

const OTHER: HandlerId = HandlerId(2);
const B: SourceId = SourceId(2);
/// Enough for four blocks.
const EVENTS: i64 = 4 << BLOCK_BITS;
const DAY_MS: i64 = 86_400_000;
const UNLIMITED: Option<SearchTime> = Some(SearchTime::UNLIMITED);
/// The time of a search that reads one block.
const NONE_LEFT: Option<SearchTime> =
    Some(SearchTime { find: Duration::ZERO, count: Duration::ZERO });

/// A database with events of two sources over some days, and jobs of two handlers in all states. The
/// source `b` and the handler `other` have few rows. In the middle, the wall clock was a year ahead.
fn filled_store() -> TestStore {
    let mut test = test_store();
    let handlers = ["h", "other", "none"].map(|name| registration(name, BreakerPolicy::NEVER));
    test.change(|tx| registry::register(tx, &["a".into(), "b".into()], &handlers));
    test.conn().execute_batch("BEGIN").unwrap();
    let start_ms = test.cache.wall_ms - 4 * DAY_MS;
    for event in 0..EVENTS {
        let is_ahead = (EVENTS / 2..EVENTS / 2 + 50).contains(&event);
        let jump_ms = if is_ahead { 365 * DAY_MS } else { 0 };
        test.cache.wall_ms = start_ms + event * (4 * DAY_MS / EVENTS) + jump_ms;
        test.source = if event % 1500 == 7 { B } else { S };
        let plain = |handler| (handler, JobSpec::Event(JobKeys::default()));
        let specs = match event % 900 {
            3 => vec![plain(OTHER)],
            4 => vec![plain(H), plain(OTHER)],
            5 | 6 => vec![(H, ordered_job("key"))],
            8 => Vec::new(),
            _ => vec![plain(H)],
        };
        test.insert_event(specs);
    }
    for index in 0..3000 {
        let handler = if index % 700 == 0 { OTHER } else { H };
        let Some(job) = test.claim_for(handler, 1, false).pop() else { continue };
        match index % 500 {
            1 => test.finish(&job, dead()),
            2 | 3 => test.finish(&job, retry_after(DAY_MS as u64)),
            _ if handler == OTHER => test.finish(&job, dead()),
            4 => None,
            _ => test.finish(&job, NextStep::Succeeded),
        };
    }
    let cancelled = test.cache.counters.job - 40;
    test.cancel(cancelled);
    let dead: i64 = test.query_number(&format!("SELECT min(id) FROM jobs WHERE {IS_DEAD}"));
    assert!(test.retry(dead));
    test.conn().execute_batch("COMMIT").unwrap();
    test
}

/// All combinations of the selectors, with a time range that has rows and one that has none.
fn selectors(test: &TestStore) -> Vec<Selector> {
    let names =
        |names: [&str; 3]| names.map(|name| Some(name.to_owned()).filter(|_| !name.is_empty()));
    let start_ms = test.query_number("SELECT min(received_at) FROM events");
    let states = PublicState::ALL.into_iter().map(Some).chain([None]);
    let states: Vec<Option<PublicState>> = states.collect();
    let ranges = [
        (None, None),
        (Some(start_ms + DAY_MS), Some(start_ms + DAY_MS + 3_600_000)),
        (Some(start_ms + 100 * DAY_MS), None),
        (None, Some(start_ms)),
    ];
    let mut all = Vec::new();
    for handler in names(["", "other", "none"]) {
        for source in names(["", "a", "b"]) {
            for (since_ms, until_ms) in ranges {
                for &state in &states {
                    let (handler, source) = (handler.clone(), source.clone());
                    all.push(Selector {
                        handler,
                        source,
                        since_ms,
                        until_ms,
                        state,
                        ..Selector::default()
                    });
                }
            }
        }
    }
    all
}

fn first_column(result: &SearchResult) -> Vec<Value> {
    result.rows.rows.iter().map(|row| row[0].clone()).collect()
}

fn ids(conn: &Connection, sql: &str, values: &[Value]) -> Vec<Value> {
    query(conn, sql, values).unwrap().rows.into_iter().map(|mut row| row.remove(0)).collect()
}

fn assert_same(found: &SearchResult, all: &[Value], limit: usize, context: &str) {
    assert_eq!(first_column(found), all[..limit.min(all.len())], "{context}");
    assert_eq!(found.end, None, "{context}");
    let total = (all.len() >= limit).then(|| Total::Exact(i64::try_from(all.len()).unwrap()));
    assert_eq!(found.total, total, "{context}");
}

#[test]
fn a_search_finds_the_same_jobs_and_events_as_a_read_of_all_rows() {
    let test = filled_store();
    let conn = test.conn();
    for selector in selectors(&test) {
        let all = list_jobs(conn, &selector, i64::MAX, 0).unwrap();
        let all: Vec<Value> = all.rows.into_iter().map(|mut row| row.remove(0)).collect();
        let found = search_jobs(conn, &selector, 20, 0, UNLIMITED).unwrap();
        assert_same(&found, &all, 20, &format!("{selector:?}"));
        let filter = selector.event_filter();
        let sql = format!("SELECT e.id FROM events e WHERE {} ORDER BY 1 DESC", filter.to_sql());
        let all = ids(conn, &sql, &filter.values);
        let found = search_events(conn, &selector, 20, UNLIMITED).unwrap();
        assert_same(&found, &all, 20, &format!("events, {selector:?}"));
    }
}

#[test]
fn a_search_finds_the_same_outcomes_as_a_read_of_all_rows() {
    let test = filled_store();
    let conn = test.conn();
    for selector in selectors(&test).into_iter().filter(|selector| selector.since_ms.is_none()) {
        let Selector { handler, source, state, .. } = selector;
        let sql = "SELECT id FROM outcomes WHERE (?1 IS NULL OR handler = ?1)
          AND (?2 IS NULL OR source = ?2) AND (?3 IS NULL OR ?3 = job_state) ORDER BY id DESC LIMIT 20";
        let name = state.map(|state| state.name().to_owned());
        let mut all = ids(conn, sql, &[handler.clone().into(), source.clone().into(), name.into()]);
        all.reverse();
        let filter = Selector { handler, source, state, ..Selector::default() };
        assert_eq!(
            first_column(&search_outcomes(conn, &filter, 0, 20, UNLIMITED).unwrap()),
            all,
            "{filter:?}"
        );
        // Without time, the search reads one block, and then the jobs of the state.
        let found = search_outcomes(conn, &filter, 0, 20, NONE_LEFT).unwrap();
        if !matches!(filter.state, None | Some(PublicState::Succeeded)) {
            assert_eq!((first_column(&found), found.end), (all, None), "{filter:?}");
        }
    }
}

#[test]
fn a_search_that_ends_early_says_how_far_back_it_has_read() {
    let test = filled_store();
    let conn = test.conn();
    let text = Selector { detail: Some("no such text".into()), ..Selector::default() };
    let found = search_jobs(conn, &text, 20, 0, NONE_LEFT).unwrap();
    let end = found.end.unwrap();
    assert_eq!(end.id, test.cache.counters.job >> BLOCK_BITS << BLOCK_BITS);
    assert!(end.at_ms.is_some());
    // A list that is full is complete. Only the number of the other rows may be open.
    let found = search_jobs(conn, &Selector::default(), 1, 0, NONE_LEFT).unwrap();
    assert_eq!((found.rows.rows.len(), found.end), (1, None));
    assert!(found.total.is_some());
    let found = search_jobs(conn, &text, 20, 0, UNLIMITED).unwrap();
    assert_eq!((found.rows.rows.len(), found.end, found.total), (0, None, None));
}

#[test]
fn the_block_index_has_each_row_after_a_rollback() {
    let mut test = test_store();
    for statement in ["BEGIN", "ROLLBACK"] {
        test.conn().execute_batch(statement).unwrap();
        if statement == "ROLLBACK" {
            test.cache.forget_known_rows();
            test.cache.reload(&test.store.conn).unwrap();
        }
        test.insert_event(vec![(H, JobSpec::Event(JobKeys::default()))]);
    }
    test.run_next(NextStep::Succeeded);
    for table in ["event_blocks", "job_blocks WHERE has_succeeded", "attempt_blocks"] {
        assert_eq!(test.query_number(&format!("SELECT count(*) FROM {table}")), 1, "{table}");
    }
}

/// Returns the statements of typical searches.
fn search_statements(conn: &Connection) -> Vec<String> {
    let mut all = STATE_STATEMENTS.map(str::to_owned).to_vec();
    for (handler, since_ms) in [(None, None), (Some("h".to_owned()), Some(1))] {
        let selector =
            Selector { handler, since_ms, source: Some("a".into()), ..Selector::default() };
        for (table, blocks, rows) in [
            (blocks::JOBS, selector.block_filter(true), selector.job_filter()),
            (blocks::EVENTS, selector.block_filter(false), selector.event_filter()),
            (blocks::ATTEMPTS_WITH_JOBS, None, selector.job_filter()),
        ] {
            let search = BlockSearch::new(conn, table, blocks, rows, i64::MAX).unwrap();
            all.extend(search.row_statements());
            all.extend(search.blocks_sql.contains("_blocks").then_some(search.blocks_sql));
        }
    }
    all
}

#[test]
fn searches_and_views_read_no_table_from_end_to_end() {
    let test = filled_store();
    let conn = test.conn();
    let plan = |sql: &str| -> String {
        let mut select = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        // The placeholders stay NULL.
        let lines = select.raw_query().mapped(|row| row.get::<_, String>(3));
        lines.map(Result::unwrap).collect::<Vec<_>>().join("\n")
    };
    for sql in search_statements(conn) {
        let plan = plan(&sql);
        assert!(!plan.contains("TEMP B-TREE"), "{sql}\n{plan}");
        let scans: Vec<&str> = plan.lines().filter(|line| line.starts_with("SCAN")).collect();
        // The block index is small, and a scan of it ends at the limit.
        assert!(scans.iter().all(|line| line.contains("_blocks")), "{sql}\n{plan}");
    }
    for (view, id) in [
        ("outcomes", "id"),
        ("trail", "event"),
        ("dead_jobs", "job"),
        ("rejections", "id"),
        ("handshakes", "id"),
        ("audit_log", "id"),
        ("breaker_log", "id"),
    ] {
        let plan = plan(&format!("SELECT * FROM {view} ORDER BY {id} DESC LIMIT 20"));
        assert!(!plan.contains("TEMP B-TREE"), "{view}\n{plan}");
    }
    let plan = plan("SELECT * FROM queue_depth");
    assert!(!plan.contains("AUTOMATIC"), "{plan}");
    assert!(
        plan.contains("SEARCH c USING COVERING INDEX jobs_by_state (state=? AND handler=?)"),
        "{plan}"
    );
}

/// All ids of a list, page by page.
fn walk(mut read: impl FnMut(PageRequest) -> rusqlite::Result<Page>) -> Vec<Value> {
    let (mut ids, mut before) = (Vec::new(), None);
    loop {
        let page = read(PageRequest { before, limit: 7 }).unwrap();
        assert!(page.rows.rows.len() <= 7);
        ids.extend(page.rows.rows.into_iter().map(|mut row| row.remove(0)));
        before = page.next;
        if before.is_none() {
            return ids;
        }
    }
}

#[test]
fn pages_have_each_row_once_whatever_the_filter() {
    let test = filled_store();
    let conn = test.conn();
    for selector in selectors(&test) {
        let all = list_jobs(conn, &selector, i64::MAX, 0).unwrap();
        let event_of = |row: &Vec<Value>| match row[1] {
            Value::Integer(event) => event,
            _ => 0,
        };
        let mut events: Vec<i64> = all.rows.iter().map(event_of).collect();
        let jobs: Vec<Value> = all.rows.into_iter().map(|mut row| row.remove(0)).collect();
        let context = format!("{selector:?}");
        assert_eq!(walk(|page| page_of_jobs(conn, &selector, page, 0)), jobs, "{context}");
        let found = walk(|page| page_of_events(conn, &selector, page));
        if selector.handler.is_none() && selector.state.is_none() {
            let filter = selector.event_filter();
            let sql =
                format!("SELECT e.id FROM events e WHERE {} ORDER BY 1 DESC", filter.to_sql());
            assert_eq!(found, ids(conn, &sql, &filter.values), "{context}");
        } else {
            let mut seen = std::collections::HashSet::new();
            events.retain(|event| seen.insert(*event));
            let events: Vec<Value> = events.into_iter().map(Value::Integer).collect();
            assert_eq!(found, events, "{context}");
        }
        let outcomes = search_outcomes(conn, &selector, 0, i64::MAX, UNLIMITED).unwrap();
        let mut outcomes = first_column(&outcomes);
        outcomes.reverse();
        assert_eq!(walk(|page| page_of_outcomes(conn, &selector, page)), outcomes, "{context}");
    }
}

#[test]
fn an_event_has_the_same_row_in_a_page_as_in_the_view() {
    let test = filled_store();
    let conn = test.conn();
    let view = query(conn, "SELECT * FROM trail ORDER BY event DESC", &[]).unwrap();
    let page = PageRequest { before: None, limit: 100_000 };
    let found = page_of_events(conn, &Selector::default(), page).unwrap();
    assert_eq!(found.rows.columns, view.columns);
    for (found, expected) in found.rows.rows.iter().zip(&view.rows) {
        assert_eq!(found, expected);
    }
}

#[test]
fn events_are_found_by_a_text_of_their_body() {
    let mut test = test_store();
    for body in [r#"{"name":"Ada"}"#, r#"{"name":"Bob"}"#, "\u{0}ADA\u{ff}"] {
        test.body = body.as_bytes().to_vec();
        test.insert_event(vec![(H, JobSpec::Event(JobKeys::default()))]);
    }
    let conn = test.conn();
    let find = |text: &str, handler: Option<&str>| {
        let (text, handler) = (Some(text.to_owned()), handler.map(str::to_owned));
        let selector = Selector { text, handler, ..Selector::default() };
        walk(|page| page_of_events(conn, &selector, page))
    };
    for handler in [None, Some("h")] {
        assert_eq!(find("ada", handler), [3, 1].map(Value::Integer));
        assert_eq!(find("\"bob\"", handler), [Value::Integer(2)]);
        assert_eq!(find("eve", handler), []);
    }
}
