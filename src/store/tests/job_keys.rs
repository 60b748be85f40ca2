//! Tests of `ordering_key`, `version_by`, `unique_by`, `debounce_by` and `settle`.

use super::*;

#[test]
fn jobs_of_one_ordering_key_run_one_after_another_oldest_first() {
    let mut trail = trail();
    for name in ["k", "k", "other", "k"] {
        trail.owe(vec![(H, ordered(name))]);
    }
    let first = trail.claim(9);
    assert_eq!(first.iter().map(|one| one.claim.job.0).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(trail.claimed(9), NONE);
    trail.finish(&first[0], NextState::Succeeded);
    assert_eq!(trail.claimed(9), [2]);
    assert_eq!(trail.jobs(), ["1 succeeded", "2 running", "3 running", "4 held"]);
}

#[test]
fn a_job_that_waits_for_its_retry_blocks_its_key_and_a_dead_or_cancelled_one_releases_it() {
    let mut trail = trail();
    for _ in 0..4 {
        trail.owe(vec![(H, ordered("k"))]);
    }
    assert_eq!(trail.run(again(5_000)), 1);
    assert_eq!(trail.claimed(9), NONE);
    trail.wait_for(5_000);
    assert_eq!(trail.run(died()), 1);
    trail.cancel(2);
    assert_eq!(trail.run(died()), 3);
    assert_eq!(trail.claimed(9), [4]);
}

#[test]
fn a_retried_job_goes_before_younger_ones_but_stops_none() {
    let mut trail = trail();
    for _ in 0..3 {
        trail.owe(vec![(H, ordered("k"))]);
    }
    assert_eq!(trail.run(died()), 1);
    let second = trail.claim(1).remove(0);
    assert!(trail.retry(1));
    assert_eq!(trail.claimed(9), NONE);
    trail.finish(&second, again(60_000));
    assert_eq!(trail.run(NextState::Succeeded), 1);
    assert_eq!(trail.claimed(9), NONE, "job 2 waits for its retry and blocks the key");
    trail.wait_for(60_000);
    assert_eq!(trail.claimed(9), [2]);
}

#[test]
fn in_any_sequence_of_transitions_one_job_of_a_key_runs_at_a_time_and_none_is_stuck() {
    // A pseudo-random run with a fixed seed.
    let mut trail = trail();
    let (mut seed, mut running): (u64, Vec<ClaimedJob>) = (7, Vec::new());
    let mut choose = |of: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % of
    };
    let keys = ["a", "b", "c"];
    for _ in 0..2_000 {
        match choose(6) {
            0 | 1 => {
                trail.owe(vec![(H, ordered(keys[choose(3) as usize]))]);
            }
            2 => running.extend(trail.claim(2)),
            3 if !running.is_empty() => {
                let one = running.remove(choose(running.len() as u64) as usize);
                let next = [NextState::Succeeded, died(), again(0), again(50)];
                trail.finish(&one, next[choose(4) as usize].clone());
            }
            4 => {
                let job = 1 + choose(trail.state.counters.job.max(1) as u64) as i64;
                match choose(2) {
                    0 => trail.cancel(job),
                    _ => _ = trail.retry(job),
                }
            }
            _ => trail.wait_for(20),
        }
        let double = "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE state IN (0, 2)
                      GROUP BY ordering_key HAVING count(*) > 1)";
        let stuck = "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE state < 3
                     GROUP BY ordering_key HAVING max(state) = -1)";
        let late = "SELECT count(*) FROM jobs r JOIN jobs o USING (ordering_key)
                    WHERE r.state = 0 AND o.state < 2 AND o.id < r.id";
        for broken in [double, stuck, late] {
            let found: i64 = trail.conn().query_row(broken, [], |row| row.get(0)).unwrap();
            assert_eq!(found, 0, "{broken}: {:?}", trail.jobs());
        }
    }
}

#[test]
fn a_job_with_a_version_older_than_a_succeeded_one_is_cancelled_when_it_would_start() {
    let mut trail = trail();
    let newest = |value: &str| {
        let newest = Some(VersionValue::Number(value.to_owned()));
        JobSpec::Event(JobKeys { ordering: Some(key("k")), version: newest, ..JobKeys::default() })
    };
    for value in ["5", "9", "7", "9", "10"] {
        trail.owe(vec![(H, newest(value))]);
    }
    assert_eq!(trail.run(died()), 1, "a dead job does not count");
    assert_eq!(trail.run(NextState::Succeeded), 2);
    assert_eq!(trail.run(NextState::Succeeded), 4);
    assert_eq!(trail.run(NextState::Succeeded), 5);
    assert_eq!(trail.jobs()[2], "3 cancelled: older than job 2");
    assert!(trail.retry(1), "a retry by hand is checked too");
    assert_eq!(trail.claimed(1), NONE);
    assert_eq!(trail.jobs()[0], "1 cancelled: older than job 5");
    let attempts = "SELECT attempt FROM jobs WHERE id IN (1, 3) ORDER BY id";
    let mut select = trail.conn().prepare(attempts).unwrap();
    let attempts: Vec<i64> = select.query_map([], |row| row.get(0)).unwrap().flatten().collect();
    assert_eq!(attempts, [1, 0], "a job that never started has no attempt");
}

#[test]
fn a_repeated_unique_key_within_its_window_runs_one_job() {
    let mut trail = trail();
    let once = |name: &str| JobKeys {
        unique: Some(UniqueKey { key: key(name), window_ms: 1_000 }),
        ..JobKeys::default()
    };
    trail.owe(vec![(H, items(&["1", "2", "1"], vec![once("x"), once("y"), once("x")]))]);
    trail.owe(vec![(H, items(&["2"], vec![once("y")]))]);
    trail.owe(vec![(HandlerId(2), items(&["2"], vec![once("y")]))]);
    let expected =
        ["1 ready", "2 ready", "3 cancelled: same as job 1", "4 cancelled: same as job 2"];
    assert_eq!(trail.jobs()[..4], expected);
    assert_eq!(trail.jobs()[4], "5 ready", "each handler has its own keys");
    trail.cancel(2);
    trail.owe(vec![(H, items(&["2"], vec![once("y")]))]);
    assert_eq!(trail.jobs()[5], "6 ready", "a cancelled job does not count");
    trail.state.now_ms += 1_000;
    trail.owe(vec![(H, items(&["1"], vec![once("x")]))]);
    assert_eq!(trail.jobs()[6], "7 ready", "the window has expired");
}

fn collapsing(settle_ms: i64) -> JobSpec {
    let collapse = Some(DebounceKey { key: key("repo"), settle_ms });
    JobSpec::Event(JobKeys { debounce: collapse, ..JobKeys::default() })
}

#[test]
fn a_new_job_supersedes_older_queued_ones_of_its_debounce_key() {
    let mut trail = trail();
    trail.owe(vec![(H, collapsing(0))]);
    assert_eq!(trail.claimed(1), [1]);
    for _ in 0..3 {
        trail.owe(vec![(H, collapsing(0))]);
    }
    let expected = [
        "1 running",
        "2 cancelled: superseded by job 3",
        "3 cancelled: superseded by job 4",
        "4 ready",
    ];
    assert_eq!(trail.jobs(), expected);
    let queued = trail.state.queued_changes.clone();
    assert_eq!(queued, [(S, 1)], "queued jobs are counted");
}

#[test]
fn a_burst_runs_one_job_after_settle_without_a_new_job_and_at_the_latest_after_ten_times_settle() {
    let mut trail = trail();
    trail.owe(vec![(H, collapsing(5_000))]);
    for _ in 0..2 {
        trail.wait_for(4_000);
        trail.owe(vec![(H, collapsing(5_000))]);
    }
    trail.wait_for(4_999);
    assert_eq!(trail.claimed(1), NONE);
    trail.wait_for(1);
    assert_eq!(trail.claimed(1), [3]);

    // A key that is never quiet.
    trail.owe(vec![(H, collapsing(5_000))]);
    let began_ms = trail.state.now_ms;
    let mut last = 4;
    while trail.claimed(1).is_empty() {
        trail.wait_for(1_000);
        assert!(trail.state.now_ms <= began_ms + 50_000);
        if trail.jobs()[last - 1].ends_with("waiting") {
            trail.owe(vec![(H, collapsing(5_000))]);
            last += 1;
        }
    }
    assert_eq!(trail.state.now_ms, began_ms + 50_000);
}

#[test]
fn a_retried_job_neither_supersedes_nor_is_superseded() {
    let mut trail = trail();
    trail.owe(vec![(H, collapsing(0))]);
    trail.run(died());
    assert!(trail.retry(1));
    trail.owe(vec![(H, collapsing(0))]);
    assert_eq!(trail.jobs(), ["1 ready", "2 ready"]);
}
