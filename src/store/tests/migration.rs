//! An older database is migrated with all its rows; other files are rejected.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::config::Durability;
use crate::store::backfill::Backfill;
use crate::store::backlog_task::BacklogTask;
use crate::store::migrate::{MIGRATIONS, Migration, open_with_steps};
use crate::store::row_budget::RowBudget;
use crate::store::transaction_end::write_directly;
use crate::store::{Store, open};

/// The version of a database that this program makes.
const PRESENT: i64 = MIGRATIONS.len() as i64 + 1;

/// Opens a database as a later release would, which has `steps` more.
fn open_with_more(path: &Path, steps: &[Migration]) -> anyhow::Result<Store> {
    open_with_steps(path, Durability::Full, &[MIGRATIONS, steps].concat())
}

/// A migration as a release would add it: a table, and a column that is filled from existing rows.
fn add_column(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(
        "ALTER TABLE sources ADD COLUMN owner TEXT;
         UPDATE sources SET owner = 'of ' || name;
         CREATE TABLE owners (name TEXT PRIMARY KEY);",
    )
}

fn step(change: fn(&Connection) -> rusqlite::Result<()>) -> Migration {
    Migration { change, backfill: None }
}

fn fail(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch("UPDATE sources SET owner = 'half'; INSERT INTO no_such_table VALUES (1);")
}

#[test]
fn an_older_database_keeps_its_rows_in_each_migration_and_a_copy_is_made_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.db");
    let made = open(&path, Durability::Full).unwrap();
    made.conn.execute_batch("INSERT INTO sources (id, name) VALUES (1, 'a')").unwrap();
    drop(made);
    let migrated = open_with_more(&path, &[step(add_column)]).unwrap();
    let owner = "SELECT owner FROM sources WHERE id = 1";
    let owner: String = migrated.conn.query_row(owner, [], |row| row.get(0)).unwrap();
    assert_eq!(owner, "of a");
    let version =
        migrated.conn.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    assert_eq!(version.unwrap(), PRESENT + 1);
    let views = "SELECT count(*) FROM outcomes, trail, queue_depth";
    assert!(migrated.conn.query_row(views, [], |row| row.get::<_, i64>(0)).is_ok());
    let copy = std::fs::metadata(folder.path().join(format!("old.db.v{PRESENT}"))).expect("a copy");
    assert_eq!(copy.permissions().mode() & 0o777, 0o640);
    drop(migrated);
    let newer = open(&path, Durability::Full).unwrap_err().to_string();
    let (found, known) = (PRESENT + 1, PRESENT);
    let reason = format!("is of schema version {found}, and this program knows up to {known}");
    assert!(newer.contains(&reason), "{newer}");
}

#[test]
fn a_migration_that_fails_leaves_the_previous_version() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.db");
    let made = open(&path, Durability::Full).unwrap();
    made.conn.execute_batch("INSERT INTO sources (id, name) VALUES (1, 'a')").unwrap();
    drop(made);
    let failed = open_with_more(&path, &[step(add_column), step(fail)]).unwrap_err();
    assert!(
        format!("{failed:#}")
            .contains(&format!("the migration from schema version {} failed", PRESENT + 1)),
        "{failed:#}"
    );
    let kept = open_with_more(&path, &[step(add_column)]).unwrap();
    let owner = "SELECT owner FROM sources WHERE id = 1";
    let owner: String = kept.conn.query_row(owner, [], |row| row.get(0)).unwrap();
    assert_eq!(owner, "of a");
}

#[test]
fn a_database_of_a_pre_release_build_is_rejected_and_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.db");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("CREATE TABLE events (id); PRAGMA application_id = 0x486b5472").unwrap();
    drop(conn);
    let before = std::fs::read(&path).unwrap();
    let rejected = open(&path, Durability::Full).unwrap_err().to_string();
    assert!(rejected.contains("was created by a pre-release build of Hooktrail"), "{rejected}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_database_of_an_early_build_of_version_1_is_rejected_as_pre_release() {
    for change in
        ["UPDATE meta SET name = 'trail' WHERE name = 'database_id'", "DROP TABLE job_blocks"]
    {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("early.db");
        let made = open(&path, Durability::Full).unwrap();
        made.conn.execute_batch("PRAGMA user_version = 1").unwrap();
        made.conn.execute_batch(change).unwrap();
        drop(made);
        let error = open(&path, Durability::Full).unwrap_err().to_string();
        assert!(error.contains("was created by a pre-release build"), "{error}");
        let error =
            crate::store::open_for_cli(&path, crate::store::Access::Read).unwrap_err().to_string();
        assert!(error.contains("was created by a pre-release build"), "{error}");
    }
}

/// A migration that changes all events, each once.
const WITH_BACKFILL: Migration = Migration {
    change: |conn| {
        conn.execute_batch("ALTER TABLE events ADD COLUMN changes INTEGER NOT NULL DEFAULT 0")
    },
    backfill: Some(Backfill {
        name: "changes of events",
        table: "events",
        change: |conn, range| {
            let sql = "UPDATE events SET changes = changes + 1 WHERE id BETWEEN ?1 AND ?2";
            conn.execute(sql, range).map(|_| ())
        },
    }),
};

/// Does some of the tasks that migrations left. Returns whether there are none left.
fn continue_backfills(store: &Store, transactions: usize) -> bool {
    let mut tasks: Vec<BacklogTask> =
        store.backfills.iter().map(|backfill| BacklogTask::backfill(*backfill)).collect();
    for _ in 0..transactions {
        let Some(task) = tasks.first_mut() else { return true };
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut budget = RowBudget { rows: 300, bytes: usize::MAX, deadline };
        let (progress, _) = write_directly(store, |tx, _| Ok(task.step(tx, &mut budget)?)).unwrap();
        if progress.has_ended() {
            tasks.remove(0);
        }
    }
    tasks.is_empty()
}

#[test]
fn the_rows_of_a_large_table_are_migrated_later_each_once_and_go_on_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.db");
    let made = open(&path, Durability::Full).unwrap();
    let insert = "WITH RECURSIVE n (i) AS (SELECT 11 UNION ALL SELECT i + 1 FROM n WHERE i < 1010)
        INSERT INTO events (id, uid, source, received_at, method, path, ip, headers, first_job, last_job, body)
        SELECT i, x'', 1, 0, 'POST', '/', '', x'', 1, 0, x'' FROM n";
    made.conn.execute(insert, []).unwrap();
    drop(made);
    let count = |store: &Store, changes: i64| -> i64 {
        let sql = "SELECT count(*) FROM events WHERE changes = ?1";
        store.conn.query_row(sql, [changes], |row| row.get(0)).unwrap()
    };
    let steps = &[WITH_BACKFILL];
    let store = open_with_more(&path, steps).unwrap();
    assert_eq!(count(&store, 0), 1000);
    assert!(!continue_backfills(&store, 2));
    assert_eq!(count(&store, 1), 600);
    drop(store);
    let store = open_with_more(&path, steps).unwrap();
    assert!(continue_backfills(&store, 3));
    assert_eq!(count(&store, 1), 1000);
    drop(store);
    let store = open_with_more(&path, steps).unwrap();
    assert!(store.backfills.is_empty());
}
