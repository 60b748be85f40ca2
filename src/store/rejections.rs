//! Table `refusals`: requests that were not accepted, without their bodies.
//!
//! A flood of them never grows the file without bound: the ledger in front counts (web/rejection_log.rs),
//! and beyond `ROWS_MAX` rows those of addresses that never had an event accepted go first, the
//! oldest first.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rusqlite::{Connection, params};

use super::writer_state::WriterState;
use crate::domain;

/// At most so many rows are kept.
pub const ROWS_MAX: i64 = 100_000;

/// So many go at once when there are too many: looking for them costs more than taking them.
const TRIM_STEP: i64 = 1_000;

/// A row to be written, or a count on one that was.
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
    /// How many requests it stands for.
    pub count: i64,
    /// The number of the row: 0 asks for a new one, and is set to it.
    pub row: Arc<AtomicI64>,
    /// Counts on the row that `row` names rather than being one.
    pub is_increment: bool,
}

pub(super) fn write(
    conn: &Connection,
    state: &mut WriterState,
    rows: &[RejectionRow],
) -> rusqlite::Result<()> {
    let mut insert = conn.prepare_cached(
        "INSERT INTO rejected_requests (at, source, method, path, ip, status, reason, bytes, count)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    let mut add =
        conn.prepare_cached("UPDATE rejected_requests SET count = count + ?2 WHERE id = ?1")?;
    for one in rows {
        let row = one.row.load(Ordering::Relaxed);
        if one.is_increment && row != 0 && add.execute([row, one.count])? == 1 {
            continue;
        }
        insert.execute(params![
            one.at_ms, one.source, one.method, one.path, one.ip, one.status, one.reason, one.bytes,
            one.count
        ])?;
        one.row.store(conn.last_insert_rowid(), Ordering::Relaxed);
        state.refusals += 1;
    }
    if state.refusals > ROWS_MAX {
        state.refusals -= trim(conn, state.refusals - ROWS_MAX + TRIM_STEP)?;
    }
    Ok(())
}

/// How many rows there are.
pub(super) fn count(conn: &Connection) -> rusqlite::Result<i64> {
    conn.prepare_cached("SELECT count(*) FROM rejected_requests")?.query_row([], |row| row.get(0))
}

fn trim(conn: &Connection, wanted: i64) -> rusqlite::Result<i64> {
    let mut gone = 0;
    {
        let mut known = conn.prepare_cached("SELECT 1 FROM accepted_ips WHERE ip = ?1")?;
        let mut delete = conn.prepare_cached("DELETE FROM rejected_requests WHERE id = ?1")?;
        let mut select = conn.prepare_cached("SELECT id, ip FROM rejected_requests ORDER BY id")?;
        let mut strangers = Vec::new();
        let mut rows = select.query([])?;
        while gone < wanted
            && let Some(row) = rows.next()?
        {
            if !known.exists([&*domain::network_of(row.get_ref(1)?.as_str()?)])? {
                strangers.push(row.get::<_, i64>(0)?);
                gone += 1;
            }
        }
        drop(rows);
        for id in strangers {
            delete.execute([id])?;
        }
    }
    let others = conn.execute(
        "DELETE FROM rejected_requests WHERE id IN (SELECT id FROM rejected_requests ORDER BY id LIMIT ?1)",
        [wanted - gone],
    )?;
    Ok(gone + i64::try_from(others).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Durability;

    #[test]
    fn those_of_networks_that_had_no_event_accepted_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::store::open(&folder.path().join("t.db"), Durability::Full).unwrap();
        let conn = &store.conn;
        let accepted = ["2001:db8:1:2::1", "192.0.2.1"];
        let refused = ["2001:db8:1:2::ff", "192.0.2.1", "2001:db8:1:3::1", "192.0.2.2", ""];
        for ip in accepted {
            let network = domain::network_of(ip);
            conn.execute("INSERT INTO accepted_ips VALUES (?1)", [&*network]).unwrap();
        }
        for ip in refused {
            let sql = "INSERT INTO rejected_requests (at, method, path, ip, status, reason, bytes)
                       VALUES (1, 'POST', '/', ?1, 404, '', 0)";
            conn.execute(sql, [ip]).unwrap();
        }
        let kept = || -> String {
            let sql = "SELECT group_concat(id, ' ' ORDER BY id) FROM rejected_requests";
            conn.query_row(sql, [], |row| row.get(0)).unwrap()
        };
        assert_eq!((trim(conn, 2).unwrap(), kept()), (2, "1 2 5".to_owned()));
        assert_eq!((trim(conn, 2).unwrap(), kept()), (2, "2".to_owned()));
    }
}
