//! Table `rejected_requests`: rejected requests, without their bodies.
//!
//! A flood of rejections never grows the file without bound. `web/rejection_log.rs` combines
//! identical ones into counts. Beyond `MAX_ROWS` rows, the oldest are deleted: first those of
//! addresses that never had an event accepted.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rusqlite::{OptionalExtension, params};

use super::seal::{self, RejectionFields, SealedTable, count_digest, rejection_digest};
use super::statements::Statements;
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
    pub kind: RejectionKind,
}

/// What to do with a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectionKind {
    /// Insert a row.
    New,
    /// Add `count` to the row with `row_id`, which may grow further.
    Repeat,
    /// Add `count` to the row with `row_id`, for the last time.
    LastRepeat,
}

pub(super) fn write(tx: &mut WriteTransaction<'_>, rows: &[RejectionRow]) -> rusqlite::Result<()> {
    let conn = tx.conn;
    let mut add = conn.prepare_cached(
        "UPDATE rejected_requests SET count = count + ?2 WHERE id = ?1 AND count_seal IS NULL",
    )?;
    let mut find_source = conn.prepare_cached("SELECT id FROM sources WHERE name = ?1")?;
    for row in rows {
        if let Some(name) = &row.source
            && let Some(source) = find_source.query_row([name], |row| row.get(0)).optional()?
        {
            tx.effects.minute_counts.add_rejections(source, row.count);
        }
        let row_id = row.row_id.load(Ordering::Relaxed);
        let is_added =
            row.kind != RejectionKind::New && row_id != 0 && add.execute([row_id, row.count])? == 1;
        // The earlier row may be deleted meanwhile.
        if !is_added && row.count > 0 {
            insert(tx, row)?;
        }
        if row.kind == RejectionKind::LastRepeat {
            seal_count(tx, row.row_id.load(Ordering::Relaxed))?;
        }
    }
    if tx.cache.rejection_rows > MAX_ROWS {
        let excess = tx.cache.rejection_rows - MAX_ROWS + TRIM_STEP;
        tx.cache.rejection_rows -= trim(tx, excess)?;
    }
    Ok(())
}

fn insert(tx: &mut WriteTransaction<'_>, row: &RejectionRow) -> rusqlite::Result<()> {
    let fields = RejectionFields {
        at_ms: row.at_ms,
        source: row.source.as_deref(),
        method: &row.method,
        path: &row.path,
        ip: &row.ip,
        status: i64::from(row.status),
        reason: &row.reason,
        bytes: row.bytes,
    };
    tx.conn.change(
        "INSERT INTO rejected_requests (at, source, method, path, ip, status, reason, bytes, count)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            fields.at_ms,
            fields.source,
            fields.method,
            fields.path,
            fields.ip,
            fields.status,
            fields.reason,
            fields.bytes,
            row.count
        ],
    )?;
    let id = tx.conn.last_insert_rowid();
    row.row_id.store(id, Ordering::Relaxed);
    tx.effects.sealed.add(SealedTable::Rejections, id, rejection_digest(&fields));
    tx.cache.rejection_rows += 1;
    Ok(())
}

/// Seals the count of a rejection. A count of 1 needs no seal.
fn seal_count(tx: &mut WriteTransaction<'_>, id: i64) -> rusqlite::Result<()> {
    let sql = "UPDATE rejected_requests SET count_seal = ?2
               WHERE id = ?1 AND count > 1 AND count_seal IS NULL RETURNING count";
    let count = tx.conn.find(sql, [id, tx.cache.seals.next_id()], |row| row.get(0))?;
    if let Some(count) = count {
        tx.effects.sealed.add_count(id, count_digest(id, count));
    }
    Ok(())
}

/// Seals the counts that an earlier process left open.
///
/// # Errors
/// The write failed.
pub fn seal_open_counts(tx: &mut WriteTransaction<'_>) -> rusqlite::Result<()> {
    let sql = "SELECT id FROM rejected_requests WHERE count > 1 AND count_seal IS NULL ORDER BY id";
    let ids: Vec<i64> = tx.conn.list(sql, [], |row| row.get(0))?;
    ids.into_iter().try_for_each(|id| seal_count(tx, id))
}

/// A row that is deleted.
struct TrimmedRow {
    id: i64,
    count_seal: Option<i64>,
}

fn trim(tx: &mut WriteTransaction<'_>, count_to_delete: i64) -> rusqlite::Result<i64> {
    let conn = tx.conn;
    // Rows of this transaction may be among those that go.
    seal::write_pending(conn, &mut tx.cache.seals, &mut tx.effects.sealed, tx.cache.wall_ms)?;
    let limit = usize::try_from(count_to_delete).unwrap_or(0);
    let mut trimmed: Vec<TrimmedRow> = Vec::new();
    let mut known_rows: Vec<TrimmedRow> = Vec::new();
    {
        let mut known = conn.prepare_cached("SELECT 1 FROM accepted_ips WHERE ip = ?1")?;
        let mut select =
            conn.prepare_cached("SELECT id, count_seal, ip FROM rejected_requests ORDER BY id")?;
        let mut rows = select.query([])?;
        while trimmed.len() < limit
            && let Some(row) = rows.next()?
        {
            let found = TrimmedRow { id: row.get(0)?, count_seal: row.get(1)? };
            if !known.exists([&*domain::client_network(row.get_ref(2)?.as_str()?)])? {
                trimmed.push(found);
            } else if known_rows.len() < limit {
                known_rows.push(found);
            }
        }
    }
    let missing = limit - trimmed.len();
    trimmed.extend(known_rows.into_iter().take(missing));
    let mut delete = conn.prepare_cached("DELETE FROM rejected_requests WHERE id = ?1")?;
    for TrimmedRow { id, .. } in &trimmed {
        delete.execute([id])?;
    }
    let counts = trimmed.iter().filter_map(|row| Some((row.count_seal?, row.id))).collect();
    seal::record_count_removal(conn, &tx.cache.seals, counts)?;
    let ids: Vec<i64> = trimmed.iter().map(|row| row.id).collect();
    let deleted = i64::try_from(ids.len()).unwrap_or(i64::MAX);
    let sealed = &mut tx.effects.sealed;
    seal::record_removal(conn, &tx.cache.seals, sealed, SealedTable::Rejections, ids)?;
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    use super::super::transaction_end::write_directly;
    use super::*;
    use crate::config::Durability;

    #[test]
    fn rejections_of_networks_without_an_accepted_event_are_deleted_first() {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::store::open(&folder.path().join("t.db"), Durability::Full).unwrap();
        let conn = &store.conn;
        let trim = |count| write_directly(&store, |tx, _| Ok(trim(tx, count)?)).unwrap().0;
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
        assert_eq!((trim(2), kept_ids()), (2, "1 2 5".to_owned()));
        assert_eq!((trim(2), kept_ids()), (2, "2".to_owned()));
    }
}
