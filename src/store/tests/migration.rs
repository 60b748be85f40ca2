//! A file of an older version becomes one of this version, with all that is in it.

use std::os::unix::fs::PermissionsExt;

use rusqlite::Connection;

use crate::config::Durability;
use crate::store::open;

fn schema(conn: &Connection) -> Vec<String> {
    let sql = "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY 1, 2";
    let mut select = conn.prepare(sql).unwrap();
    let row = |row: &rusqlite::Row<'_>| {
        let (kind, name, sql): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let plain = |c: char| c.is_whitespace() || c == '"';
        Ok(format!("{kind} {name} {}", sql.replace(plain, "")))
    };
    select.query_map([], row).unwrap().map(Result::unwrap).collect()
}

#[test]
fn a_file_of_version_1_becomes_what_a_new_one_is() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old.db"), folder.path().join("new.db"));
    let conn = Connection::open(&old).unwrap();
    conn.execute_batch(
        "PRAGMA page_size = 4096; PRAGMA auto_vacuum = 2; PRAGMA journal_mode = wal",
    )
    .unwrap();
    conn.execute_batch(include_str!("../../../tests/schema-v1.sql")).unwrap();
    conn.execute_batch(
        "PRAGMA application_id = 0x486b5472; PRAGMA user_version = 1;
         INSERT INTO meta VALUES ('trail', '0011223344556677'), ('clock_trail_ms', 1),
           ('clock_wall_ms', 1), ('clock_boot_ms', 1), ('clock_boot_id', 'x');
         INSERT INTO sources VALUES (1, 'a');
         INSERT INTO handlers (id, name) VALUES (1, 'h');
         INSERT INTO dedupe VALUES (7, 1, x'00112233445566778899aabbccddeeff', 9);
         INSERT INTO events VALUES (7, x'00', 1, 5, 'POST', '/', NULL, '::1', x'', 1, 1, NULL, x'7b7d');
         INSERT INTO jobs (id, event, handler, source, state, created_at, since)
           VALUES (1, 7, 1, 1, 0, 5, 5);
         UPDATE counters SET event = 7, job = 1;",
    )
    .unwrap();
    drop(conn);
    let migrated = open(&old, Durability::Full).unwrap();
    let made = open(&new, Durability::Full).unwrap();
    let old_columns = |conn: &Connection| -> Vec<String> {
        let sql = "SELECT t.name || '.' || c.name || ' ' || c.type FROM sqlite_schema t,
                   pragma_table_info(t.name) c WHERE t.type = 'table' ORDER BY 1";
        let mut select = conn.prepare(sql).unwrap();
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(old_columns(&migrated.conn), old_columns(&made.conn));
    let others = |conn: &Connection| {
        let mut all = schema(conn);
        all.retain(|one| !one.starts_with("table"));
        all
    };
    assert_eq!(others(&migrated.conn), others(&made.conn));
    let queued: (i64, i64) = migrated
        .conn
        .query_row("SELECT event, queued FROM trail", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    assert_eq!(queued, (7, 1));
    let known: (i64, i64, Vec<u8>) = migrated
        .conn
        .query_row("SELECT event, until, key FROM dedupe WHERE source = 1", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .unwrap();
    assert_eq!((known.0, known.1, known.2[15]), (7, 9, 0xff));
    let copy = std::fs::metadata(folder.path().join("old.db.v1")).expect("kept as it was");
    assert_eq!(copy.permissions().mode() & 0o777, 0o640);
}
