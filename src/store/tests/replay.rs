//! Tests of `replay`: the number of a replay, the keys of its jobs, and the state after an
//! interruption.

use std::io;
use std::time::Duration;

use super::*;
use crate::domain::job_plan::ItemSource;
use crate::store::replay::{self, PlannedReplay, Replay};

fn audit_entry() -> audit::AuditEntry {
    audit::AuditEntry {
        at_ms: 1,
        who: "somebody".into(),
        via: "cli",
        action: "replay".into(),
        target: None,
        jobs: 0,
        reason: None,
    }
}

fn planned(event: i64, specs: Vec<(HandlerId, JobSpec)>) -> PlannedReplay {
    PlannedReplay { event, specs }
}

fn query_numbers(db: &TestStore, sql: &str) -> Vec<i64> {
    let mut select = db.conn().prepare(sql).unwrap();
    select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn plain_job() -> JobSpec {
    JobSpec::Event(JobKeys::default())
}

#[test]
fn each_replay_has_its_own_number_and_its_jobs_belong_to_their_events() {
    let mut db = test_store();
    db.insert_event(vec![(H, plain_job())]);
    db.insert_event(vec![]);
    db.cache.write_counters(&db.store.conn).unwrap();
    for _ in 0..2 {
        let mut replay = Replay::new(&db.store, audit_entry());
        replay.insert_jobs(&[planned(1, vec![(H, plain_job())])]).unwrap();
        replay
            .insert_jobs(&[planned(2, vec![(H, plain_job()), (HandlerId(2), plain_job())])])
            .unwrap();
        assert_eq!((replay.jobs(), replay.missing_events()), (3, &[][..]));
    }
    let sql =
        "SELECT replay * 1000 + appended_to * 100 + handler FROM jobs WHERE id > 1 ORDER BY id";
    assert_eq!(query_numbers(&db, sql), [1101, 1201, 1202, 2101, 2201, 2202]);
    assert_eq!(query_numbers(&db, "SELECT jobs FROM audit_entries"), [3, 3]);
    assert_eq!(query_numbers(&db, "SELECT replay FROM counters"), [2]);
}

#[test]
fn between_two_transactions_the_lock_is_free_for_a_while() {
    let mut db = test_store();
    db.insert_event(vec![]);
    db.cache.write_counters(&db.store.conn).unwrap();
    let started_at = std::time::Instant::now();
    let mut replay = Replay::new(&db.store, audit_entry());
    for _ in 0..4 {
        replay.insert_jobs(&[planned(1, vec![(H, plain_job())])]).unwrap();
    }
    assert!(started_at.elapsed() >= 3 * crate::store::chunked_writes::PAUSE);
}

#[test]
fn jobs_of_a_replay_bypass_unique_by_and_neither_supersede_nor_are_superseded() {
    let mut db = test_store();
    let keys = JobKeys {
        unique: Some(UniqueKey { key: key("k"), window_ms: 1_000_000 }),
        debounce: Some(DebounceKey { key: key("k"), debounce_ms: 0 }),
        ..JobKeys::default()
    };
    db.insert_event(vec![(H, JobSpec::Event(keys.clone()))]);
    db.cache.write_counters(&db.store.conn).unwrap();
    let mut replay = Replay::new(&db.store, audit_entry());
    replay.insert_jobs(&[planned(1, vec![(H, JobSpec::Event(keys.clone()))])]).unwrap();
    db.cache.reload(&db.store.conn).unwrap();
    assert_eq!(db.job_lines(), ["1 ready", "2 ready"]);
    db.insert_event(vec![(H, JobSpec::Event(JobKeys { unique: None, ..keys }))]);
    assert_eq!(db.job_lines(), ["1 cancelled: superseded by job 3", "2 ready", "3 ready"]);
}

#[test]
fn a_missing_event_is_reported_and_the_others_are_replayed() {
    let mut db = test_store();
    db.insert_event(vec![]);
    db.cache.write_counters(&db.store.conn).unwrap();
    let mut replay = Replay::new(&db.store, audit_entry());
    replay
        .insert_jobs(&[planned(9, vec![(H, plain_job())]), planned(1, vec![(H, plain_job())])])
        .unwrap();
    assert_eq!((replay.jobs(), replay.missing_events()), (1, &[9][..]));
}

#[test]
fn an_event_without_its_body_counts_as_missing() {
    let mut db = test_store();
    db.insert_event(vec![]);
    db.cache.write_counters(&db.store.conn).unwrap();
    let conn = db.conn();
    conn.execute("UPDATE events SET removed_bytes = length(body), body = NULL", []).unwrap();
    assert_eq!(replay::has_body(conn, 1).unwrap(), Some(false));
    assert_eq!(replay::has_body(conn, 2).unwrap(), None);
    let mut replay = Replay::new(&db.store, audit_entry());
    replay.insert_jobs(&[planned(1, vec![(H, plain_job())])]).unwrap();
    assert_eq!((replay.jobs(), replay.missing_events()), (0, &[1][..]));
}

/// Items that each take longer to read than a transaction may last. The fourth cannot be read.
#[derive(Debug)]
struct Slow;

impl ItemSource for Slow {
    fn bytes(&self) -> u64 {
        0
    }

    fn count(&self) -> usize {
        10
    }

    fn read(&self, at: usize, _: &mut Vec<u8>) -> io::Result<()> {
        std::thread::sleep(Duration::from_millis(21));
        if at == 3 { Err(io::ErrorKind::NotFound.into()) } else { Ok(()) }
    }

    fn keys(&self, _: usize) -> io::Result<JobKeys> {
        Ok(JobKeys::default())
    }
}

#[test]
fn the_lock_is_released_between_items_and_an_interruption_leaves_the_correct_count() {
    let mut db = test_store();
    db.insert_event(vec![]);
    db.cache.write_counters(&db.store.conn).unwrap();
    let mut replay = Replay::new(&db.store, audit_entry());
    assert!(replay.insert_jobs(&[planned(1, vec![(H, JobSpec::Items(Arc::new(Slow)))])]).is_err());
    assert_eq!(query_numbers(&db, "SELECT item FROM jobs"), [1, 2, 3]);
    assert_eq!(query_numbers(&db, "SELECT jobs FROM audit_entries"), [3]);
    assert_eq!(query_numbers(&db, "SELECT job FROM counters"), [3]);
}
