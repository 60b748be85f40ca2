//! Tests of `ordering_key`, `version_by`, `unique_by`, `debounce_by` and `debounce`.

use super::*;

#[test]
fn jobs_of_one_ordering_key_run_one_after_another_oldest_first() {
    let mut db = test_store();
    for name in ["k", "k", "other", "k"] {
        db.insert_event(vec![(H, ordered_job(name))]);
    }
    let first = db.claim(9);
    assert_eq!(first.iter().map(|job| job.claim.job.0).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(db.claim_ids(9), NONE);
    db.finish(&first[0], NextStep::Succeeded);
    assert_eq!(db.claim_ids(9), [2]);
    assert_eq!(db.job_lines(), ["1 succeeded", "2 running", "3 running", "4 blocked"]);
}

#[test]
fn a_job_that_waits_for_its_retry_blocks_its_key_and_a_dead_or_cancelled_one_releases_it() {
    let mut db = test_store();
    for _ in 0..4 {
        db.insert_event(vec![(H, ordered_job("k"))]);
    }
    assert_eq!(db.run_next(retry_after(5_000)), 1);
    assert_eq!(db.claim_ids(9), NONE);
    db.advance(5_000);
    assert_eq!(db.run_next(dead()), 1);
    db.cancel(2);
    assert_eq!(db.run_next(dead()), 3);
    assert_eq!(db.claim_ids(9), [4]);
}

#[test]
fn a_retried_job_goes_before_younger_ones_but_stops_none() {
    let mut db = test_store();
    for _ in 0..3 {
        db.insert_event(vec![(H, ordered_job("k"))]);
    }
    assert_eq!(db.run_next(dead()), 1);
    let second = db.claim(1).remove(0);
    assert!(db.retry(1));
    assert_eq!(db.claim_ids(9), NONE);
    db.finish(&second, retry_after(60_000));
    assert_eq!(db.run_next(NextStep::Succeeded), 1);
    assert_eq!(db.claim_ids(9), NONE, "job 2 waits for its retry and blocks the key");
    db.advance(60_000);
    assert_eq!(db.claim_ids(9), [2]);
}

#[test]
fn in_any_sequence_of_transitions_one_job_of_a_key_runs_at_a_time_and_none_is_stuck() {
    // A pseudo-random run with a fixed seed.
    let mut db = test_store();
    let (mut seed, mut running): (u64, Vec<ClaimedJob>) = (7, Vec::new());
    let mut choose = |limit: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % limit
    };
    let keys = ["a", "b", "c"];
    for _ in 0..2_000 {
        match choose(6) {
            0 | 1 => {
                db.insert_event(vec![(H, ordered_job(keys[choose(3) as usize]))]);
            }
            2 => running.extend(db.claim(2)),
            3 if !running.is_empty() => {
                let job = running.remove(choose(running.len() as u64) as usize);
                let next = [NextStep::Succeeded, dead(), retry_after(0), retry_after(50)];
                db.finish(&job, next[choose(4) as usize].clone());
            }
            4 => {
                let job = 1 + choose(db.cache.counters.job.max(1) as u64) as i64;
                match choose(2) {
                    0 => db.cancel(job),
                    _ => _ = db.retry(job),
                }
            }
            _ => db.advance(20),
        }
        let double = format!(
            "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE {IS_READY} OR {IS_RUNNING}
             GROUP BY ordering_key HAVING count(*) > 1)"
        );
        let stuck = format!(
            "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE {IS_UNFINISHED}
             GROUP BY ordering_key HAVING count(*) = count(*) FILTER (WHERE {IS_BLOCKED}))"
        );
        let late = format!(
            "SELECT count(*) FROM jobs r JOIN jobs o USING (ordering_key)
             WHERE r.{IS_READY} AND o.{IS_WAITING} AND o.id < r.id"
        );
        for violation in [double, stuck, late] {
            let found: i64 = db.conn().query_row(&violation, [], |row| row.get(0)).unwrap();
            assert_eq!(found, 0, "{violation}: {:?}", db.job_lines());
        }
    }
}

#[test]
fn a_job_with_a_version_older_than_a_succeeded_one_is_cancelled_when_it_would_start() {
    let mut db = test_store();
    let versioned_job = |value: &str| {
        let versioned_job = Some(VersionValue::Number(value.to_owned()));
        JobSpec::Event(JobKeys {
            ordering: Some(key("k")),
            version: versioned_job,
            ..JobKeys::default()
        })
    };
    for value in ["5", "9", "7", "9", "10"] {
        db.insert_event(vec![(H, versioned_job(value))]);
    }
    assert_eq!(db.run_next(dead()), 1, "a dead job does not count");
    assert_eq!(db.run_next(NextStep::Succeeded), 2);
    assert_eq!(db.run_next(NextStep::Succeeded), 4);
    assert_eq!(db.run_next(NextStep::Succeeded), 5);
    assert_eq!(db.job_lines()[2], "3 cancelled: older than job 2");
    assert!(db.retry(1), "a retry by hand is checked too");
    assert_eq!(db.claim_ids(1), NONE);
    assert_eq!(db.job_lines()[0], "1 cancelled: older than job 5");
    let attempts = "SELECT attempt FROM jobs WHERE id IN (1, 3) ORDER BY id";
    let mut select = db.conn().prepare(attempts).unwrap();
    let attempts: Vec<i64> = select.query_map([], |row| row.get(0)).unwrap().flatten().collect();
    assert_eq!(attempts, [1, 0], "a job that never started has no attempt");
}

#[test]
fn a_repeated_unique_key_within_its_window_runs_one_job() {
    let mut db = test_store();
    let unique = |name: &str| JobKeys {
        unique: Some(UniqueKey { key: key(name), window_ms: 1_000 }),
        ..JobKeys::default()
    };
    db.insert_event(vec![(
        H,
        items(&["1", "2", "1"], vec![unique("x"), unique("y"), unique("x")]),
    )]);
    db.insert_event(vec![(H, items(&["2"], vec![unique("y")]))]);
    db.insert_event(vec![(HandlerId(2), items(&["2"], vec![unique("y")]))]);
    let expected =
        ["1 ready", "2 ready", "3 cancelled: same as job 1", "4 cancelled: same as job 2"];
    assert_eq!(db.job_lines()[..4], expected);
    assert_eq!(db.job_lines()[4], "5 ready", "each handler has its own keys");
    db.cancel(2);
    db.insert_event(vec![(H, items(&["2"], vec![unique("y")]))]);
    assert_eq!(db.job_lines()[5], "6 ready", "a cancelled job does not count");
    db.cache.now_ms += 1_000;
    db.insert_event(vec![(H, items(&["1"], vec![unique("x")]))]);
    assert_eq!(db.job_lines()[6], "7 ready", "the window has expired");
}

fn debounced_job(debounce_ms: i64) -> JobSpec {
    let debounce = Some(DebounceKey { key: key("repo"), debounce_ms });
    JobSpec::Event(JobKeys { debounce, ..JobKeys::default() })
}

#[test]
fn a_new_job_supersedes_older_queued_ones_of_its_debounce_key() {
    let mut db = test_store();
    db.insert_event(vec![(H, debounced_job(0))]);
    assert_eq!(db.claim_ids(1), [1]);
    for _ in 0..3 {
        db.insert_event(vec![(H, debounced_job(0))]);
    }
    let expected = [
        "1 running",
        "2 cancelled: superseded by job 3",
        "3 cancelled: superseded by job 4",
        "4 ready",
    ];
    assert_eq!(db.job_lines(), expected);
    assert_eq!(db.effects.queued, [(S, 1)], "queued jobs are counted");
}

#[test]
fn a_burst_runs_one_job_once_its_key_is_quiet_and_at_the_latest_after_ten_times_debounce() {
    let mut db = test_store();
    db.insert_event(vec![(H, debounced_job(5_000))]);
    for _ in 0..2 {
        db.advance(4_000);
        db.insert_event(vec![(H, debounced_job(5_000))]);
    }
    db.advance(4_999);
    assert_eq!(db.claim_ids(1), NONE);
    db.advance(1);
    assert_eq!(db.claim_ids(1), [3]);

    // A key that is never quiet.
    db.insert_event(vec![(H, debounced_job(5_000))]);
    let began_ms = db.cache.now_ms;
    let mut last = 4;
    while db.claim_ids(1).is_empty() {
        db.advance(1_000);
        assert!(db.cache.now_ms <= began_ms + 50_000);
        if db.job_lines()[last - 1].ends_with("scheduled") {
            db.insert_event(vec![(H, debounced_job(5_000))]);
            last += 1;
        }
    }
    assert_eq!(db.cache.now_ms, began_ms + 50_000);
}

#[test]
fn a_retried_job_neither_supersedes_nor_is_superseded() {
    let mut db = test_store();
    db.insert_event(vec![(H, debounced_job(0))]);
    db.run_next(dead());
    assert!(db.retry(1));
    db.insert_event(vec![(H, debounced_job(0))]);
    assert_eq!(db.job_lines(), ["1 ready", "2 ready"]);
}
