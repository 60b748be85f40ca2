//! The sealed trail.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use super::super::rejections::{self, RejectionKind, RejectionRow};
use super::super::retention::{RemovedPart, continue_removal, find_settled, start_removal};
use super::super::row_budget::RowBudget;
use super::super::seal::{self, AttemptSeal, SealHead};
use super::*;

/// The problems that `verify` finds: each with the rows that it names.
fn problems(store: &TestStore) -> Vec<String> {
    problems_with(store, &[])
}

/// The problems that `verify --against` finds.
fn problems_with(store: &TestStore, heads: &[SealHead]) -> Vec<String> {
    let found = seal::check_seals(store.conn(), heads, &|| false).unwrap();
    found.iter().map(|problem| format!("{}: {}", problem.text, problem.rows.join(", "))).collect()
}

fn rejection(ip: &str) -> RejectionRow {
    RejectionRow {
        at_ms: 1,
        source: Some("a".into()),
        method: "POST".into(),
        path: "/hooks/a".into(),
        ip: ip.into(),
        status: 401,
        reason: "signature does not match".into(),
        bytes: 2,
        count: 1,
        row_id: Arc::new(AtomicI64::new(0)),
        kind: RejectionKind::New,
    }
}

impl TestStore {
    /// Stores an event with one job, which fails or succeeds with outputs. Returns the id of the event.
    fn settle_event(&mut self, detail: &str, stdout: &[u8]) -> i64 {
        self.insert_event(vec![(H, JobSpec::Event(JobKeys::default()))]);
        let job = self.claim(1).remove(0);
        let mut record =
            self.attempt_record(&job, (Outcome::Succeeded, false), NextStep::Succeeded);
        (record.detail, record.stdout) = (detail.into(), stdout.to_vec());
        record.seal = AttemptSeal::new(&record.detail, &record.stdout, &record.stderr);
        self.change(|tx| finish::finish_single(tx, &record));
        job.event.0
    }

    fn reject(&mut self, row: &RejectionRow) {
        self.change(|tx| rejections::write(tx, std::slice::from_ref(row)));
    }

    /// Repeats a rejection, for the last time.
    fn repeat(&mut self, row: &RejectionRow, count: i64) {
        self.reject(&RejectionRow { count, kind: RejectionKind::LastRepeat, ..row.clone() });
    }

    fn remove(&mut self, part: RemovedPart, event: i64) {
        let found = find_settled(self.conn(), event).unwrap().unwrap();
        self.change(|tx| start_removal(tx.conn, part, &found));
        // On a busy machine the time of one transaction may not be enough.
        while !self.change(|tx| continue_removal(tx, event, &mut RowBudget::of_command())).is_done {
        }
    }

    /// Changes the database as a person with `sqlite3` would, and returns the problems.
    fn tamper(&self, sql: &str) -> Vec<String> {
        self.conn().execute_batch(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
        problems(self)
    }
}

/// An event of each kind: with outputs, with a client certificate and a quoting detail, with an origin key and nothing
/// that can be removed; and rejections.
fn sealed_store() -> TestStore {
    let mut store = test_store();
    store.settle_event("exit 0", b"out");
    store.client = Some("CN=a".into());
    store.settle_event("exit 0: bob is unknown", b"");
    store.client = None;
    store.origin_key = Some("key".into());
    store.settle_event("exit 0", b"");
    store.origin_key = None;
    store.insert_event(vec![(H, JobSpec::Dead("when: cannot index".into()))]);
    let row = rejection("192.0.2.9");
    store.reject(&row);
    store.repeat(&row, 7);
    store.reject(&rejection("192.0.2.10"));
    store
}

#[test]
fn stored_rows_agree_with_their_seals() {
    assert_eq!(problems(&test_store()), [""; 0]);
    let mut store = sealed_store();
    assert_eq!(problems(&store), [""; 0]);
    for event in 1..=3 {
        store.remove(RemovedPart::Body, event);
        assert_eq!(problems(&store), [""; 0]);
    }
    for event in 1..=3 {
        store.remove(RemovedPart::Quotes, event);
        assert_eq!(problems(&store), [""; 0]);
    }
    let salts =
        "SELECT (SELECT count(salt) FROM events WHERE id <= 3) + (SELECT count(salt) FROM attempts
        WHERE id = 2)";
    assert_eq!(store.query_number(salts), 0);
    let details = "SELECT group_concat(detail, '|') FROM attempts";
    let details: String = store.conn().query_row(details, [], |row| row.get(0)).unwrap();
    assert_eq!(details, "exit 0|exit 0|exit 0|when: cannot index");
}

#[test]
fn a_changed_value_is_named_with_its_row() {
    for removed in [None, Some(RemovedPart::Body), Some(RemovedPart::Quotes)] {
        let changes = [
            ("UPDATE events SET uid = x'00' WHERE id = 2", "event 2"),
            ("UPDATE events SET received_at = received_at + 1 WHERE id = 2", "event 2"),
            ("UPDATE events SET received_at = 'never' WHERE id = 2", "event 2"),
            ("UPDATE events SET source = 2 WHERE id = 2", "event 2"),
            ("UPDATE events SET method = 'PUT' WHERE id = 2", "event 2"),
            ("UPDATE events SET path = '/hooks/b' WHERE id = 2", "event 2"),
            ("UPDATE events SET ip = '::1' WHERE id = 2", "event 2"),
            ("UPDATE events SET client = NULL WHERE id = 2", "event 2"),
            ("UPDATE events SET client = 'CN=b' WHERE id = 2", "event 2"),
            ("UPDATE events SET client = x'00' WHERE id = 2", "event 2"),
            ("UPDATE events SET client = '' WHERE id = 1", "event 1"),
            ("UPDATE events SET origin_key = NULL WHERE id = 3", "event 3"),
            ("UPDATE events SET origin_key = 'other' WHERE id = 3", "event 3"),
            ("UPDATE events SET origin_key = x'00' WHERE id = 3", "event 3"),
            ("UPDATE events SET origin_key = '' WHERE id = 1", "event 1"),
            ("UPDATE events SET origin_key = client, client = NULL WHERE id = 2", "event 2"),
            ("UPDATE events SET client = origin_key, origin_key = NULL WHERE id = 3", "event 3"),
            ("UPDATE events SET salt = x'00' WHERE id = 2 AND body IS NOT NULL", "event 2"),
            ("UPDATE events SET query = 'q' WHERE id = 2 AND body IS NOT NULL", "event 2"),
            ("UPDATE events SET headers = 'a: b' WHERE id = 2 AND body IS NOT NULL", "event 2"),
            ("UPDATE events SET body = x'7b' WHERE id = 2 AND body IS NOT NULL", "event 2"),
            ("UPDATE events SET removed_bytes = 9 WHERE id = 2 AND body IS NULL", "event 2"),
            ("UPDATE events SET content_digest = x'00' WHERE id = 2 AND body IS NULL", "event 2"),
            (
                "UPDATE sources SET name = 'other' WHERE id = 1",
                "event 1, event 2, event 3, event 4",
            ),
            ("UPDATE attempts SET job = 3 WHERE id = 1", "outcome 1"),
            ("UPDATE attempts SET attempt = 2 WHERE id = 1", "outcome 1"),
            ("UPDATE attempts SET outcome = 'failed' WHERE id = 1", "outcome 1"),
            ("UPDATE attempts SET detail = 'exit 1' WHERE id = 1", "outcome 1"),
            ("UPDATE attempts SET detail = 'exit 1' WHERE id = 3", "outcome 3"),
            ("UPDATE attempts SET ended_at = 1 WHERE id = 1", "outcome 1"),
            ("UPDATE attempts SET duration_ms = 9 WHERE id = 1", "outcome 1"),
            ("UPDATE attempts SET next_at = 9 WHERE id = 1", "outcome 1"),
            ("UPDATE attempts SET stdout = 'other' WHERE id = 1", "outcome 1"),
            ("UPDATE attempts SET stderr = 'other' WHERE id = 1", "outcome 1"),
            ("UPDATE attempts SET stderr = 'other' WHERE id = 3", "outcome 3"),
            ("UPDATE attempts SET salt = NULL WHERE id = 1", "outcome 1"),
            ("UPDATE jobs SET event = 2 WHERE id = 1", "outcome 1"),
            ("UPDATE jobs SET handler = 2 WHERE id = 1", "outcome 1"),
            ("UPDATE jobs SET item = 2 WHERE id = 1", "outcome 1"),
            (
                "UPDATE handlers SET name = 'x' WHERE id = 1",
                "outcome 1, outcome 2, outcome 3, outcome 4",
            ),
            ("UPDATE rejected_requests SET at = 9 WHERE id = 1", "rejection 1"),
            ("UPDATE rejected_requests SET source = NULL WHERE id = 1", "rejection 1"),
            ("UPDATE rejected_requests SET method = 'PUT' WHERE id = 1", "rejection 1"),
            ("UPDATE rejected_requests SET path = '/' WHERE id = 1", "rejection 1"),
            ("UPDATE rejected_requests SET ip = '' WHERE id = 1", "rejection 1"),
            ("UPDATE rejected_requests SET status = 403 WHERE id = 1", "rejection 1"),
            ("UPDATE rejected_requests SET reason = '' WHERE id = 1", "rejection 1"),
            ("UPDATE rejected_requests SET bytes = 9 WHERE id = 1", "rejection 1"),
            ("UPDATE rejected_requests SET count = 9 WHERE id = 1", "count of rejection 1"),
        ];
        for (sql, rows) in changes {
            let mut store = sealed_store();
            if let Some(part) = removed {
                (1..=3).for_each(|event| store.remove(part, event));
            }
            let found = store.tamper(sql);
            if store.conn().changes() > 0 {
                assert_eq!(
                    found,
                    [format!("a row was changed after it was sealed: {rows}")],
                    "{sql} {removed:?}"
                );
            }
        }
    }
}

#[test]
fn a_deleted_row_is_missing_and_an_inserted_one_has_no_seal() {
    for (sql, row) in [
        ("DELETE FROM events WHERE id = 2", "event 2"),
        ("DELETE FROM attempts WHERE id = 3", "outcome 3"),
        ("DELETE FROM rejected_requests WHERE id = 2", "rejection 2"),
    ] {
        let text = "a sealed row is missing, and neither retention nor a bound removed it";
        assert_eq!(sealed_store().tamper(sql), [format!("{text}: {row}")]);
    }
    let mut store = sealed_store();
    store.remove(RemovedPart::Event, 2);
    let text = "a row has no seal, or its seal says that it was removed";
    for id in [2, 9] {
        let sql = format!(
            "INSERT INTO events SELECT {id}, uid, source, received_at, method, path, query, ip, headers, first_job,
               last_job, note, salt, content_digest, body, removed_bytes, client, origin_key FROM events WHERE id = 1"
        );
        assert_eq!(store.tamper(&sql), [format!("{text}: event {id}")]);
        store.conn().execute("DELETE FROM events WHERE id = ?1", [id]).unwrap();
    }
}

#[test]
fn a_changed_seal_does_not_belong_to_the_head() {
    let found = |sql: &str| sealed_store().tamper(sql).join("\n");
    for sql in [
        "UPDATE seals SET sealed_at = 1 WHERE id = 3",
        "UPDATE seals SET kept_events = 9 WHERE id = 3",
        "UPDATE seals SET entries = x'000000000000000000000000' WHERE id = 3",
        "UPDATE counters SET peaks = zeroblob(length(peaks))",
        "UPDATE counters SET seals = 0, peaks = x''",
        "DELETE FROM seals WHERE id = (SELECT max(id) FROM seals)",
    ] {
        assert!(
            found(sql).contains("the seals are not those of the head: "),
            "{sql}: {}",
            found(sql)
        );
    }
    for (sql, seals) in [
        ("DELETE FROM seals WHERE id = 3", "seals before 4"),
        ("DELETE FROM seals WHERE id <= 3", "seals before 4"),
        ("UPDATE seals SET id = 1000 WHERE id = (SELECT max(id) FROM seals)", "seals before 1000"),
        ("INSERT INTO seal_subtrees VALUES (0, 0, zeroblob(32))", "seals from 2"),
        ("INSERT INTO seal_subtrees VALUES (1000, 0, zeroblob(32))", "seals from 11"),
        ("UPDATE seals SET entries = x'00' WHERE id = 3", "seal 3"),
        ("UPDATE seals SET entries = x'ffffffffffffffffffffffff' WHERE id = 3", "seal 3"),
    ] {
        let text = format!("a seal is missing or damaged: {seals}");
        assert!(found(sql).contains(&text), "{sql}: {}", found(sql));
    }
    for sql in [
        "UPDATE seals SET last_event = 9223372036854775807 WHERE id = 3",
        "UPDATE seals SET last_event = -9223372036854775808 WHERE id = 3",
        "UPDATE counters SET kept_events = 9223372036854775807",
        "UPDATE counters SET seals = -1",
        "INSERT INTO seal_subtrees VALUES (0, 99, zeroblob(32))",
    ] {
        assert_ne!(found(sql), "", "{sql}");
    }
}

#[test]
fn a_damaged_tree_does_not_keep_events_from_being_stored() {
    for damage in [
        "UPDATE counters SET peaks = x'00'",
        "UPDATE counters SET seals = 0, peaks = x''",
        "UPDATE counters SET seals = -7",
    ] {
        let mut store = sealed_store();
        store.conn().execute_batch(damage).unwrap();
        store.cache.reload(&store.store.conn).unwrap();
        let events = store.query_number("SELECT count(*) FROM events");
        store.settle_event("exit 0", b"");
        assert_eq!(store.query_number("SELECT count(*) FROM events"), events + 1, "{damage}");
        let found = problems(&store);
        assert!(found[0].starts_with("the seals are not those of the head: "), "{found:?}");
    }
}

#[test]
fn a_row_before_removed_ones_cannot_be_changed_together_with_its_seal() {
    let mut store = test_store();
    (0..8).for_each(|_| _ = store.settle_event("exit 0", b""));
    for event in [3, 4, 5, 7] {
        store.remove(RemovedPart::Event, event);
    }
    store.settle_event("exit 0", b"");
    let head = seal::load_head(store.conn()).unwrap().head;
    assert_eq!(problems_with(&store, &[head]), [""; 0]);
    // An attacker changes event 1, and puts the new digest into its seal.
    store.conn().execute("UPDATE events SET path = '/hooks/b' WHERE id = 1", []).unwrap();
    let new_entries = "UPDATE seals SET entries = substr(entries, 1, 12) || ?1 WHERE id = 1";
    let digest: Vec<u8> = store
        .conn()
        .query_row(
            "SELECT uid, salt, received_at, method, path, ip, body FROM events WHERE id = 1",
            [],
            |row| {
                let text = |index| row.get::<_, String>(index);
                let (uid, salt, body): (Vec<u8>, Vec<u8>, Vec<u8>) =
                    (row.get(0)?, row.get(1)?, row.get(6)?);
                let (method, path, ip) = (text(3)?, text(4)?, text(5)?);
                let fields = seal::EventFields {
                    uid: &uid,
                    source: "a",
                    received_at_ms: row.get(2)?,
                    method: &method,
                    path: &path,
                    ip: &ip,
                    client: None,
                    origin_key: None,
                    body_bytes: i64::try_from(body.len()).unwrap(),
                };
                let content = seal::event_content_digest(&salt, None, b"", &body);
                Ok(seal::event_digest(&fields, &content).to_vec())
            },
        )
        .unwrap();
    store.conn().execute(new_entries, [digest]).unwrap();
    let found = problems_with(&store, &[head]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("the seals are not those of the head: "), "{found:?}");
    assert!(found[1].starts_with("the trail does not contain a head: "), "{found:?}");
}

#[test]
fn rows_that_are_removed_without_being_counted_are_found() {
    let found = sealed_store().tamper(
        "DELETE FROM events WHERE id = 1; INSERT INTO seal_removals VALUES (1, x'01');
         DELETE FROM attempts WHERE id = 1; INSERT INTO seal_removals VALUES (2, x'01')",
    );
    let text = "the number of sealed rows is not the one in the seals";
    assert_eq!(found, [format!("{text}: events: 3 instead of 4, outcomes: 3 instead of 4")]);
}

#[test]
fn seals_go_with_their_rows_however_these_come_and_go() {
    let mut store = test_store();
    // This one stays.
    store.settle_event("exit 0", b"");
    for round in 0..50 {
        let events: Vec<i64> = (0..4).map(|_| store.settle_event("exit 0", b"out")).collect();
        let order = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]][round % 4];
        for index in order {
            store.remove(RemovedPart::Event, events[index]);
            assert_eq!(problems(&store), [""; 0], "round {round}");
        }
        assert_eq!(store.query_number("SELECT count(*) FROM seals"), 2);
        // Those between the first event and the end: at most two for each level of the tree.
        let subtrees = store.query_number("SELECT count(*) FROM seal_subtrees");
        assert!(subtrees <= 2 * 9, "{subtrees} subtrees");
        assert_eq!(store.query_number("SELECT count(*) FROM seal_removals"), 0);
    }
}

#[test]
fn a_seal_keeps_the_digests_of_removed_rows_while_it_has_others() {
    let mut store = test_store();
    // All of them are in one seal.
    let rows: Vec<RejectionRow> = (0..20).map(|ip| rejection(&ip.to_string())).collect();
    store.change(|tx| rejections::write(tx, &rows));
    for ids in [vec![3], vec![1, 2], vec![20], (4..=18).collect()] {
        store.change(|tx| {
            for id in &ids {
                tx.conn.execute("DELETE FROM rejected_requests WHERE id = ?1", [id])?;
            }
            let table = seal::SealedTable::Rejections;
            seal::record_removal(tx.conn, &tx.cache.seals, &mut tx.effects.sealed, table, ids)
        });
        assert_eq!(problems(&store), [""; 0]);
    }
    assert_eq!(store.query_number("SELECT count(*) FROM seal_removals"), 1);
    store.change(|tx| {
        tx.conn.execute("DELETE FROM rejected_requests", [])?;
        let table = seal::SealedTable::Rejections;
        seal::record_removal(tx.conn, &tx.cache.seals, &mut tx.effects.sealed, table, vec![19])
    });
    assert_eq!(problems(&store), [""; 0]);
    assert_eq!(store.query_number("SELECT count(*) FROM seal_removals"), 0);
}

#[test]
fn the_count_of_a_rejection_is_sealed_when_it_is_final() {
    let mut store = test_store();
    let row = rejection("192.0.2.9");
    store.reject(&row);
    store.reject(&RejectionRow { count: 5, kind: RejectionKind::Repeat, ..row.clone() });
    assert_eq!(store.query_number("SELECT count_seal IS NULL FROM rejected_requests"), 1);
    store.repeat(&row, 0);
    assert_eq!(store.query_number("SELECT count_seal FROM rejected_requests"), 2);
    assert_eq!(problems(&store), [""; 0]);
    // A row that is closed does not grow: it gets a successor.
    store.repeat(&row, 3);
    let counts = "SELECT group_concat(count, ' ') FROM rejected_requests";
    let counts: String = store.conn().query_row(counts, [], |row| row.get(0)).unwrap();
    assert_eq!(counts, "6 3");
    assert_eq!(problems(&store), [""; 0]);
}

#[test]
fn counts_that_a_killed_server_left_open_are_sealed_at_the_next_start() {
    let mut store = test_store();
    let row = rejection("192.0.2.9");
    store.reject(&row);
    store.reject(&RejectionRow { count: 5, kind: RejectionKind::Repeat, ..row });
    store.change(rejections::seal_open_counts);
    assert_eq!(store.query_number("SELECT count_seal FROM rejected_requests"), 2);
    let found = store.tamper("UPDATE rejected_requests SET count = 2");
    assert_eq!(found, ["a row was changed after it was sealed: count of rejection 1"]);
}

#[test]
fn a_head_proves_that_the_trail_still_contains_it() {
    let mut store = test_store();
    let head = |store: &TestStore| seal::load_head(store.conn()).unwrap().head;
    let mut heads = vec![head(&store)];
    for _ in 0..9 {
        store.settle_event("exit 0", b"");
        heads.push(head(&store));
    }
    assert_eq!(heads[3].to_string().parse(), Ok(heads[3]));
    assert_eq!(problems_with(&store, &heads), [""; 0]);
    // Events 2 to 4 leave subtrees that begin and end elsewhere than heads 2 and 3.
    (2..=5).for_each(|event| store.remove(RemovedPart::Event, event));
    let reason = |head: SealHead| problems_with(&store, &[head]).pop().unwrap_or_default();
    for contained in [&heads[..2], &heads[5..]].concat() {
        assert_eq!(reason(contained), "", "{contained}");
    }
    assert!(reason(heads[3]).contains("it is not known any more"), "{}", reason(heads[3]));
    let forged = SealHead { root: [7; 32], ..heads[8] };
    assert!(reason(forged).contains("the first 16 seals have another one"), "{}", reason(forged));
    let newer = SealHead { seals: 19, ..heads[8] };
    assert!(reason(newer).contains("there are only 18 seals"), "{}", reason(newer));
    store.settle_event("exit 0", b"");
    assert_eq!(problems_with(&store, &heads[5..]), [""; 0]);
}

#[test]
fn what_is_no_head_is_rejected() {
    for text in ["", "7", "7:", "7:00", "x:00", &format!("-1:{}", "0".repeat(64))] {
        assert!(text.parse::<SealHead>().is_err(), "{text}");
    }
}
