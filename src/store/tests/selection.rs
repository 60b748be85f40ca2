//! Tests of the selection of jobs and events.

use std::ops::ControlFlow;

use super::*;
use crate::domain::id_set::IdRanges;
use crate::domain::job::PublicState;
use crate::store::audit::JobCommand;
use crate::store::queries::Selector;
use crate::store::selection::{BulkProgress, OnProgress, select_events, select_jobs};

fn plain_job() -> JobSpec {
    JobSpec::Event(JobKeys::default())
}

/// Returns the selected events, each with its handler.
fn events(db: &TestStore, selector: &Selector, ids: &IdRanges) -> Vec<(i64, Option<i64>)> {
    let selected = select_events(db.conn(), selector, ids, &mut |_| ControlFlow::Continue(()));
    let handlers = |handler: Option<HandlerId>| handler.map(|handler| handler.0);
    let mut events: Vec<_> = selected
        .unwrap()
        .iter()
        .flat_map(|((_, handler), ids)| ids.iter().map(|id| (id, handlers(*handler))))
        .collect();
    events.sort_unstable();
    events
}

#[test]
fn events_are_selected_by_their_own_columns_and_by_their_jobs() {
    let mut db = test_store();
    db.insert_event(vec![(H, plain_job()), (HandlerId(2), plain_job())]);
    db.insert_event(vec![(H, plain_job())]);
    db.run_next(dead());
    let (all, every) = (Selector::default(), IdRanges::default());
    let some = |range| IdRanges::from_iter([range]);
    assert_eq!(events(&db, &all, &every), [(1, None), (2, None)]);
    assert_eq!(events(&db, &all, &some(2..=3)), [(2, None)]);
    assert_eq!(events(&db, &all, &some(3..=i64::MAX)), []);
    assert_eq!(events(&db, &Selector { source: Some("x".into()), ..all.clone() }, &every), []);
    let selector_of = |state| Selector { state: Some(state), ..Selector::default() };
    assert_eq!(events(&db, &selector_of(PublicState::Dead), &every), [(1, Some(1))]);
    assert_eq!(
        events(&db, &selector_of(PublicState::Queued), &every),
        [(1, Some(2)), (2, Some(1))]
    );
    assert_eq!(events(&db, &selector_of(PublicState::Queued), &some(1..=1)), [(1, Some(2))]);
}

#[test]
fn jobs_are_selected_in_many_reads_by_id_and_state() {
    const JOBS: i64 = 10_000;
    let db = test_store();
    db.conn()
        .execute_batch(&format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {JOBS})
             INSERT INTO jobs (id, event, handler, source, state, created_at, age_start, ended_at, reason)
               SELECT i, i, 1, 1, CASE i % 100 WHEN 0 THEN 4 ELSE 3 END, 0, 0, 0, '' FROM n"
        ))
        .unwrap();
    let select = |ids: IdRanges, on_progress: &mut OnProgress<'_>| {
        select_jobs(
            db.conn(),
            &Selector::default(),
            &ids,
            JobCommand::Retry.condition(),
            on_progress,
        )
        .unwrap()
    };
    let mut reads = Vec::new();
    let found = select(IdRanges::default(), &mut |progress| {
        reads.push(progress);
        ControlFlow::Continue(())
    });
    assert_eq!(found.iter().collect::<Vec<_>>(), (1..=100).map(|n| n * 100).collect::<Vec<_>>());
    assert!(reads.len() > 1, "{reads:?}");
    assert_eq!(reads.last(), Some(&BulkProgress { done: 10_000, total: 10_000, jobs: 100 }));
    let some = select([50..=150, 9_900..=i64::MAX].into_iter().collect(), &mut |_| {
        ControlFlow::Continue(())
    });
    assert_eq!(some.iter().collect::<Vec<_>>(), [100, 9_900, 10_000]);
    let stopped = select(IdRanges::default(), &mut |_| ControlFlow::Break(()));
    assert!(stopped.len() < 100, "{stopped:?}");
}
