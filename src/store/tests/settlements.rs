//! Jobs that reached a final state: recorded in the transaction that changes the state, and reported once.

use std::time::Instant;

use super::alerts::store_with_alerts;
use super::*;
use crate::domain::version_value::VersionValue;
use crate::store::backlog_task::BacklogTask;
use crate::store::jobs::reevaluate::Reevaluation;
use crate::store::operation::{self, Operation};
use crate::store::retention::{
    RemovedPart, continue_removal, find_settled, remove_logged_quotes, start_removal,
};
use crate::store::row_budget::RowBudget;
use crate::store::settlements::{self, PendingSettlement, SettlementEvent, load_pending};

/// The source `hooktrail`.
const OWN: SourceId = SourceId(2);

/// A store in which the handler `other` takes events of type `job.settled`.
pub(super) fn store_with_subscriber() -> TestStore {
    let mut db = store_with_alerts();
    db.change(|tx| {
        settlements::set_subscriber(tx.conn, Some(OWN))?;
        tx.cache.reload_config_tables(tx.conn)
    });
    db
}

fn settlement_event(pending: &PendingSettlement, is_wanted: bool) -> SettlementEvent {
    let event = is_wanted.then(|| {
        let event = NewEvent {
            source: OWN,
            method: "POST".into(),
            body: b"{}".to_vec(),
            plan: JobPlan::Plain([HandlerId(2)].into()),
            ..NewEvent::default()
        };
        event.with_seal(crate::domain::INTERNAL_SOURCE, [9; 16], b"{}")
    });
    SettlementEvent { settlement: pending.id, event }
}

impl TestStore {
    fn pending_settlements(&self) -> Vec<PendingSettlement> {
        load_pending(self.conn(), 1000).unwrap()
    }

    /// The job, state and detail of each settlement.
    fn settled_lines(&self) -> Vec<String> {
        let line = |settled: &PendingSettlement| {
            let PendingSettlement { job, state, attempts, detail, .. } = settled;
            format!("{job} {state} {attempts}: {}", detail.as_deref().unwrap_or("-"))
        };
        self.pending_settlements().iter().map(line).collect()
    }

    fn report(&mut self, events: Vec<SettlementEvent>) {
        let (reply, _) = crossbeam_channel::bounded(1);
        let report = Operation::ReportSettlements { events, reply };
        self.change(|tx| operation::apply(tx, &report));
    }

    fn report_all(&mut self) {
        let events = self.pending_settlements();
        self.report(events.iter().map(|pending| settlement_event(pending, true)).collect());
    }

    /// Ends a job with this result.
    fn settle(&mut self, next: NextStep) -> i64 {
        self.insert_event(vec![(H, JobSpec::Event(JobKeys::default()))]);
        self.run_next(next)
    }
}

#[test]
fn a_settled_job_is_recorded_with_its_details() {
    let mut db = store_with_subscriber();
    db.origin_key = Some("there".into());
    db.insert_event(vec![(H, items(&["1", "2"], vec![]))]);
    db.run_next(retry_after(0));
    assert_eq!(db.settled_lines(), [""; 0], "an attempt that is retried");
    db.run_next(dead());
    let expected = PendingSettlement {
        id: 1,
        job: 1,
        event: 1,
        source: "a".into(),
        handler: "h".into(),
        item: Some(1),
        replay: 0,
        attempts: 2,
        state: "dead",
        at_ms: db.cache.wall_ms,
        detail: Some("exit 1".into()),
        uid: [7; 16],
        origin_key: Some("there".into()),
    };
    assert_eq!(db.pending_settlements(), [expected]);
    db.run_next(NextStep::Succeeded);
    assert_eq!(db.settled_lines(), ["1 dead 2: exit 1", "2 succeeded 1: exit 1"]);
    db.assert_verified();
}

#[test]
fn every_way_to_a_final_state_is_recorded_once() {
    let mut db = store_with_subscriber();
    // An expression failed. Then its job is retried, and not wanted.
    db.insert_event(vec![(H, JobSpec::Dead("when: no".into()))]);
    db.retry(1);
    let claimed = db.claim(1).remove(0);
    let reevaluation = Reevaluation { claimed, received_at_ms: 5, spec: None };
    db.change(|tx| reevaluate::apply_reevaluation(tx, &reevaluation));
    // A duplicate of its unique key, which is cancelled, as the first one is.
    let unique = Some(UniqueKey { key: key("u"), window_ms: 1000 });
    for _ in 0..2 {
        let unique_job = JobSpec::Event(JobKeys { unique, ..JobKeys::default() });
        db.insert_event(vec![(H, unique_job)]);
    }
    db.cancel(2);
    // A job of the same debounce key.
    let debounce = Some(DebounceKey { key: key("d"), debounce_ms: 0 });
    for _ in 0..2 {
        let debounced_job = JobSpec::Event(JobKeys { debounce, ..JobKeys::default() });
        db.insert_event(vec![(H, debounced_job)]);
    }
    db.run_next(dead());
    // An older version.
    for value in ["2", "1"] {
        let version = Some(VersionValue::Number(value.into()));
        let ordering = Some(key("o"));
        db.insert_event(vec![(
            H,
            JobSpec::Event(JobKeys { ordering, version, ..JobKeys::default() }),
        )]);
    }
    db.run_next(NextStep::Succeeded);
    assert_eq!(db.claim_ids(1), NONE);
    // A running job is cancelled when its attempt ends, and a dead one is dismissed.
    db.insert_event(vec![(H, JobSpec::Event(JobKeys::default()))]);
    let running = db.claim(1).remove(0);
    db.cancel(running.claim.job.0);
    db.finish(&running, retry_after(1));
    db.cancel(5);
    let expected = [
        "1 dead 1: when: no",
        "1 cancelled 1: not wanted by when",
        "3 cancelled 0: same as job 2",
        "2 cancelled 0: no more",
        "4 cancelled 0: superseded by job 5",
        "5 dead 1: exit 1",
        "6 succeeded 1: exit 1",
        "7 cancelled 0: older than job 6",
        "8 cancelled 1: no more",
        "5 cancelled 1: no more",
    ];
    assert_eq!(db.settled_lines(), expected);
    db.assert_verified();
}

#[test]
fn jobs_that_end_before_their_release_are_recorded_once() {
    let mut db = store_with_subscriber();
    let specs =
        vec![(H, JobSpec::Dead("when: no".into())), (HandlerId(2), items(&vec!["1"; 600], vec![]))];
    let reply = db.insert_plan(JobPlan::Evaluated(specs.clone()), None);
    let InsertReply::Deferred(event) = reply else { panic!("{reply:?}") };
    let jobs = crate::store::deferred::EventJobs {
        event,
        source: S,
        received_at_ms: db.cache.wall_ms,
        specs,
        expression_errors: None,
        late_dedupe: Default::default(),
    };
    let mut task = BacklogTask::insert_event_jobs(jobs);
    let mut is_cancelled = false;
    loop {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut budget = RowBudget { rows: 100, bytes: usize::MAX, deadline };
        let progress = db.change(|tx| task.step(tx, &mut budget));
        task.advance(progress);
        if progress.has_ended() {
            break;
        }
        if !is_cancelled && db.query_number("SELECT jobs FROM trail") == 601 {
            db.cancel(601);
            is_cancelled = true;
        }
    }
    assert_eq!(db.settled_lines(), ["1 dead 1: when: no", "601 cancelled 0: no more"]);
}

#[test]
fn a_retry_in_the_same_transaction_does_not_hide_the_end_of_the_job() {
    let mut db = store_with_subscriber();
    db.insert_event(vec![(H, JobSpec::Event(JobKeys::default()))]);
    let job = db.claim(1).remove(0);
    let record = db.attempt_record(&job, (Outcome::Failed, false), dead());
    db.change(|tx| {
        finish::finish_single(tx, &record)?;
        transition::retry(tx, JobId(1))
    });
    assert_eq!(db.job_lines(), ["1 ready"]);
    db.run_next(NextStep::Succeeded);
    assert_eq!(db.settled_lines(), ["1 dead 1: exit 1", "1 succeeded 2: exit 1"]);
}

#[test]
fn nothing_is_recorded_without_a_subscriber_or_for_jobs_of_the_own_source() {
    let mut db = store_with_alerts();
    db.settle(dead());
    assert_eq!(db.settled_lines(), [""; 0]);
    let mut db = store_with_subscriber();
    db.settle(NextStep::Succeeded);
    db.report_all();
    let job = db.claim_for(HandlerId(2), 1, false).remove(0);
    db.finish(&job, dead());
    assert_eq!(db.settled_lines(), [""; 0]);
}

#[test]
fn the_end_of_the_subscription_discards_what_was_not_reported() {
    let mut db = store_with_subscriber();
    db.settle(dead());
    let late: Vec<SettlementEvent> =
        db.pending_settlements().iter().map(|pending| settlement_event(pending, true)).collect();
    // A configuration in which no handler takes the events.
    let sources = [crate::domain::INTERNAL_SOURCE.to_owned()];
    db.change(|tx| operation::register(tx, &sources, &[]));
    db.settle(dead());
    assert_eq!(db.settled_lines(), [""; 0]);
    let handler = registry::HandlerRegistration {
        takes_settled_jobs: true,
        ..registration("other", BreakerPolicy::NEVER)
    };
    db.change(|tx| operation::register(tx, &sources, std::slice::from_ref(&handler)));
    db.settle(dead());
    // Its row has another id, so events that were made before do not stand for it.
    db.report(late);
    assert_eq!(db.settled_lines(), ["3 dead 1: exit 1"]);
    assert_eq!(db.query_number("SELECT count(*) FROM events WHERE source = 2"), 0);
}

#[test]
fn events_that_are_sent_twice_are_stored_once_and_unwanted_ones_never() {
    let mut db = store_with_subscriber();
    for _ in 0..3 {
        db.settle(dead());
    }
    let pending = db.pending_settlements();
    for _ in 0..2 {
        let events = pending.iter().zip([true, false, true]);
        db.report(events.map(|(pending, wanted)| settlement_event(pending, wanted)).collect());
        assert_eq!(db.query_number("SELECT count(*) FROM events WHERE source = 2"), 2);
        assert_eq!(db.settled_lines(), [""; 0]);
    }
    assert_eq!(db.query_number("SELECT count(*) FROM jobs WHERE handler = 2"), 2);
    db.assert_verified();
}

#[test]
fn a_report_that_is_rolled_back_is_made_again() {
    let mut db = store_with_subscriber();
    db.settle(dead());
    db.conn().execute_batch("BEGIN IMMEDIATE").unwrap();
    db.report_all();
    db.conn().execute_batch("ROLLBACK").unwrap();
    assert_eq!(db.settled_lines(), ["1 dead 1: exit 1"]);
}

#[test]
fn a_job_is_reported_although_its_event_was_removed() {
    for part in [RemovedPart::Quotes, RemovedPart::Event] {
        let mut db = store_with_subscriber();
        db.settle(NextStep::Dead("exit 1: bob is unknown".into()));
        db.settle(NextStep::Dead("exit 1: eve is unknown".into()));
        let found = find_settled(db.conn(), 1).unwrap().unwrap();
        db.change(|tx| start_removal(tx.conn, part, &found));
        while !db.change(|tx| continue_removal(tx, 1, &mut RowBudget::of_command())).is_done {}
        db.change(|tx| remove_logged_quotes(tx.conn));
        let first = match part {
            RemovedPart::Event => "1 dead 1: exit 1: bob is unknown",
            _ => "1 dead 1: -",
        };
        assert_eq!(db.settled_lines(), [first, "2 dead 1: exit 1: eve is unknown"]);
        db.assert_verified();
        db.report_all();
        assert_eq!(db.query_number("SELECT count(*) FROM events WHERE source = 2"), 2);
    }
}
