//! Table `rejected_requests`: rejected requests, without their bodies.
//!
//! A flood of rejections never grows the file without bound. `web/rejection_log.rs` combines
//! identical ones into counts. Beyond `MAX_ROWS` rows, the oldest are deleted: first those of
//! addresses that never had an event accepted.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rusqlite::{Connection, OptionalExtension, params};

use super::write_transaction::WriteTransaction;
use crate::domain;

/// Maximum number of rows.
pub const MAX_ROWS: i64 = 100_000;

/// Number of rows that are deleted at once, because finding them costs more than deleting them.
const TRIM_STEP: i64 = 1_000;

/// A new row, or a count to add to an earlier row.
#[derive(Clone, Debug)]
pub struct RejectionRow {
    /// Wall clock.
    pub at_ms: i64,
    pub source: Option<String>,
    pub method: String,
    pub path: String,
    pub ip: String,
    pub status: u16,
    pub reason: String,
    pub bytes: i64,
    /// How many requests the row stands for.
    pub count: i64,
    /// The id of the row. 0 requests a new row, and is replaced by its id.
    pub row_id: Arc<AtomicI64>,
    /// Adds `count` to the row with `row_id`.
    pub is_increment: bool,
}

pub(super) fn write(tx: &mut WriteTransaction<'_>, rows: &[RejectionRow]) -> rusqlite::Result<()> {
    let conn = tx.conn;
    let mut insert = conn.prepare_cached(
        "INSERT INTO rejected_requests (at, source, method, path, ip, status, reason, bytes, count)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    let mut add =
        conn.prepare_cached("UPDATE rejected_requests SET count = count + ?2 WHERE id = ?1")?;
    let mut find_source = conn.prepare_cached("SELECT id FROM sources WHERE name = ?1")?;
    for row in rows {
        if let Some(name) = &row.source
            && let Some(source) = find_source.query_row([name], |row| row.get(0)).optional()?
        {
            tx.effects.minute_counts.add_rejections(source, row.count);
        }
        let row_id = row.row_id.load(Ordering::Relaxed);
        if row.is_increment && row_id != 0 && add.execute([row_id, row.count])? == 1 {
            continue;
        }
        insert.execute(params![
            row.at_ms, row.source, row.method, row.path, row.ip, row.status, row.reason, row.bytes,
            row.count
        ])?;
        row.row_id.store(conn.last_insert_rowid(), Ordering::Relaxed);
        tx.cache.rejection_rows += 1;
    }
    if tx.cache.rejection_rows > MAX_ROWS {
        tx.cache.rejection_rows -= trim(conn, tx.cache.rejection_rows - MAX_ROWS + TRIM_STEP)?;
    }
    Ok(())
}

fn trim(conn: &Connection, count_to_delete: i64) -> rusqlite::Result<i64> {
    let mut deleted = 0;
    {
        let mut known = conn.prepare_cached("SELECT 1 FROM accepted_ips WHERE ip = ?1")?;
        let mut delete = conn.prepare_cached("DELETE FROM rejected_requests WHERE id = ?1")?;
        let mut select = conn.prepare_cached("SELECT id, ip FROM rejected_requests ORDER BY id")?;
        let mut ids = Vec::new();
        let mut rows = select.query([])?;
        while deleted < count_to_delete
            && let Some(row) = rows.next()?
        {
            if !known.exists([&*domain::client_network(row.get_ref(1)?.as_str()?)])? {
                ids.push(row.get::<_, i64>(0)?);
                deleted += 1;
            }
        }
        drop(rows);
        for id in ids {
            delete.execute([id])?;
        }
    }
    let oldest = conn.execute(
        "DELETE FROM rejected_requests WHERE id IN (SELECT id FROM rejected_requests ORDER BY id LIMIT ?1)",
        [count_to_delete - deleted],
    )?;
    Ok(deleted + i64::try_from(oldest).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Durability;

    #[test]
    fn rejections_of_networks_without_an_accepted_event_are_deleted_first() {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::store::open(&folder.path().join("t.db"), Durability::Full).unwrap();
        let conn = &store.conn;
        let accepted = ["2001:db8:1:2::1", "192.0.2.1"];
        let refused = ["2001:db8:1:2::ff", "192.0.2.1", "2001:db8:1:3::1", "192.0.2.2", ""];
        for ip in accepted {
            let network = domain::client_network(ip);
            conn.execute("INSERT INTO accepted_ips VALUES (?1)", [&*network]).unwrap();
        }
        for ip in refused {
            let sql = "INSERT INTO rejected_requests (at, method, path, ip, status, reason, bytes)
                       VALUES (1, 'POST', '/', ?1, 404, '', 0)";
            conn.execute(sql, [ip]).unwrap();
        }
        let kept_ids = || -> String {
            let sql = "SELECT group_concat(id, ' ' ORDER BY id) FROM rejected_requests";
            conn.query_row(sql, [], |row| row.get(0)).unwrap()
        };
        assert_eq!((trim(conn, 2).unwrap(), kept_ids()), (2, "1 2 5".to_owned()));
        assert_eq!((trim(conn, 2).unwrap(), kept_ids()), (2, "2".to_owned()));
    }
}
