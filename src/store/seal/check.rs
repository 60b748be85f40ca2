//! Compares rows with their seals.

use std::collections::HashMap;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};

use super::super::problem::Problem;
use super::super::statements::Statements;
use super::chain::{COUNT_ENTRY_BYTES, ENTRY_BYTES, SealRow, SealTotals, genesis};
use super::digest::{
    AttemptContent, AttemptFields, AttemptSeal, Digest, EventFields, RejectionFields,
    attempt_digest, count_digest, event_content_digest, event_digest, rejection_digest,
};
use super::removal::RemovedEntries;
use crate::clock;

/// What disagrees with the chain, in its order.
struct SealProblems {
    changed: Problem,
    missing: Problem,
    unsealed: Problem,
    broken: Problem,
    uncounted: Problem,
}

/// Compares all rows with their seals, and the seals with each other, in one snapshot. `is_ended` ends that before it is
/// complete.
///
/// # Errors
/// The read failed.
pub(in crate::store) fn check_seals(
    conn: &Connection,
    is_ended: &dyn Fn() -> bool,
) -> rusqlite::Result<Vec<Problem>> {
    let problems = SealProblems {
        changed: Problem::new("a row was changed after it was sealed"),
        missing: Problem::new(
            "a sealed row is missing, and neither retention nor a bound removed it",
        ),
        unsealed: Problem::new("a row has no seal, or its seal says that it was removed"),
        broken: Problem::new("a seal does not follow from the one before it"),
        uncounted: Problem::new("the number of removed rows is not the one in the chain"),
    };
    let snapshot = conn.unchecked_transaction()?;
    let names = Names::load(&snapshot)?;
    let mut check = SealCheck { conn, names, removed: [0; 3], problems };
    check.run(is_ended)?;
    let SealProblems { changed, missing, unsealed, broken, uncounted } = check.problems;
    let problems = [changed, missing, unsealed, broken, uncounted];
    Ok(problems.into_iter().filter(|problem| problem.count > 0).collect())
}

/// The names of sources and handlers by their ids.
pub(super) struct Names {
    sources: HashMap<i64, String>,
    handlers: HashMap<i64, String>,
}

impl Names {
    pub fn load(conn: &Connection) -> rusqlite::Result<Self> {
        let (sources, handlers) = ("SELECT id, name FROM sources", "SELECT id, name FROM handlers");
        Ok(Self {
            sources: conn.list(sources, [], |row| row.try_into())?,
            handlers: conn.list(handlers, [], |row| row.try_into())?,
        })
    }
}

struct SealCheck<'c> {
    conn: &'c Connection,
    names: Names,
    /// How many rows are marked as removed, or belong to a seal without entries.
    removed: [i64; 3],
    problems: SealProblems,
}

/// A table whose rows are compared.
pub(super) struct TableCheck {
    /// What a row is called.
    pub name: &'static str,
    /// Selects the rows between two ids, each with its id first.
    pub sql: &'static str,
    /// Returns the digest of a row. `None`: it contradicts itself.
    pub digest: fn(&Names, &Row<'_>) -> rusqlite::Result<Option<Digest>>,
}

/// In the order of `SealedTable`.
pub(super) const TABLES: [TableCheck; 3] = [
    TableCheck {
        name: "event",
        sql: "SELECT id, uid, source, received_at, method, path, ip, query, headers, salt, content_digest,
                removed_bytes, body FROM events WHERE id BETWEEN ?1 AND ?2 ORDER BY id",
        digest: read_event,
    },
    TableCheck {
        name: "outcome",
        sql: "SELECT a.id, j.event, j.item, j.handler, a.job, a.attempt, a.outcome, a.ended_at, a.duration_ms,
                a.next_at, a.detail, a.salt, a.content_digest, a.stdout, a.stderr
              FROM attempts a LEFT JOIN jobs j ON j.id = a.job WHERE a.id BETWEEN ?1 AND ?2 ORDER BY a.id",
        digest: read_attempt,
    },
    TableCheck {
        name: "rejection",
        sql: "SELECT id, at, source, method, path, ip, status, reason, bytes FROM rejected_requests
              WHERE id BETWEEN ?1 AND ?2 ORDER BY id",
        digest: read_rejection,
    },
];

/// The entries of one table in a seal.
struct TableEntries<'e> {
    first_id: i64,
    last_id: i64,
    digests: &'e [[u8; ENTRY_BYTES]],
    /// The index of the first one among all entries of the seal.
    offset: usize,
}

impl SealCheck<'_> {
    fn run(&mut self, is_ended: &dyn Fn() -> bool) -> rusqlite::Result<()> {
        let sql = const_format::formatcp!(
            "SELECT id, sealed_at, chain, entries, {} FROM seals ORDER BY id",
            SealTotals::COLUMNS
        );
        let mut statement = self.conn.prepare(sql)?;
        let mut rows = statement.query([])?;
        let mut chain = genesis(self.conn)?.to_vec();
        let mut before = SealTotals::default();
        while let Some(row) = rows.next()? {
            if is_ended() {
                return Ok(());
            }
            let totals = SealTotals::read(row, 4)?;
            let seal = SealRow { id: row.get(0)?, sealed_at_ms: row.get(1)?, totals };
            let value = row.get_ref(2)?.as_bytes().unwrap_or_default();
            match row.get_ref(3)?.as_bytes_or_null().unwrap_or_default() {
                Some(entries) => {
                    if seal.chain_value(&chain, entries) != value {
                        let sealed_at = clock::format_rfc3339(seal.sealed_at_ms);
                        self.problems.broken.add(format!("seal {} ({sealed_at})", seal.id));
                    }
                    self.compare(&seal, &before, entries)?;
                }
                None => self.check_removed(&totals, &before)?,
            }
            chain.clear();
            chain.extend_from_slice(value);
            before = totals;
        }
        for (table, check) in TABLES.iter().enumerate() {
            let from = before.last[table].saturating_add(1);
            self.list_unsealed(check, from, i64::MAX)?;
            if self.removed[table] != before.removed[table] {
                let (found, expected) = (self.removed[table], before.removed[table]);
                let name = check.name;
                self.problems.uncounted.add(format!("{name}s: {found} instead of {expected}"));
            }
        }
        Ok(())
    }

    /// Checks a seal without entries: none of its rows may exist.
    fn check_removed(&mut self, totals: &SealTotals, before: &SealTotals) -> rusqlite::Result<()> {
        let sealed = totals.sealed_since(before);
        for (table, check) in TABLES.iter().enumerate() {
            self.removed[table] += sealed[table];
            self.list_unsealed(check, before.last[table] + 1, totals.last[table])?;
        }
        Ok(())
    }

    /// Compares the rows of a seal with its entries.
    fn compare(
        &mut self,
        seal: &SealRow,
        before: &SealTotals,
        entries: &[u8],
    ) -> rusqlite::Result<()> {
        let sealed = seal.totals.sealed_since(before);
        let rows: usize = sealed.iter().map(|&rows| usize::try_from(rows).unwrap_or(0)).sum();
        let Some((digests, counts)) = entries.split_at_checked(rows * ENTRY_BYTES) else {
            // Its chain value is wrong, too.
            return Ok(());
        };
        let digests = digests.as_chunks().0;
        let count_entries = counts.len() / COUNT_ENTRY_BYTES;
        let removed = RemovedEntries::load(self.conn, seal.id, rows + count_entries)?;
        let mut offset = 0;
        for (table, check) in TABLES.iter().enumerate() {
            let count = usize::try_from(sealed[table]).unwrap_or(0);
            let last_id = seal.totals.last[table];
            let entries = TableEntries {
                first_id: last_id - sealed[table] + 1,
                last_id,
                digests: &digests[offset..offset + count],
                offset,
            };
            self.list_unsealed(check, before.last[table] + 1, entries.first_id - 1)?;
            self.removed[table] += self.compare_table(check, &entries, &removed)?;
            offset += count;
        }
        for entry in counts.chunks_exact(COUNT_ENTRY_BYTES) {
            self.compare_count(entry)?;
        }
        Ok(())
    }

    /// Compares the rows of one table. Returns how many are marked as removed.
    fn compare_table(
        &mut self,
        check: &TableCheck,
        entries: &TableEntries<'_>,
        removed: &RemovedEntries,
    ) -> rusqlite::Result<i64> {
        if entries.digests.is_empty() {
            return Ok(0);
        }
        let conn = self.conn;
        let mut statement = conn.prepare_cached(check.sql)?;
        let mut rows = statement.query([entries.first_id, entries.last_id])?;
        let mut row = rows.next()?;
        let mut removed_rows = 0;
        for (index, (id, digest)) in (entries.first_id..).zip(entries.digests).enumerate() {
            let is_removed = removed.contains(entries.offset + index);
            removed_rows += i64::from(is_removed);
            let found = match row {
                Some(row) if row.get::<_, i64>(0)? == id => {
                    match (check.digest)(&self.names, row) {
                        Err(e) if is_wrong_type(&e) => Some(None),
                        digest => Some(digest?),
                    }
                }
                _ => None,
            };
            let name = || format!("{} {id}", check.name);
            match found {
                Some(_) if is_removed => self.problems.unsealed.add(name()),
                Some(found) if found != Some(*digest) => self.problems.changed.add(name()),
                None if !is_removed => self.problems.missing.add(name()),
                _ => {}
            }
            if found.is_some() {
                row = rows.next()?;
            }
        }
        Ok(removed_rows)
    }

    /// Compares the final count of a rejection.
    fn compare_count(&mut self, entry: &[u8]) -> rusqlite::Result<()> {
        let Some((id, digest)) = entry.split_first_chunk() else { return Ok(()) };
        let id = i64::from_be_bytes(*id);
        let sql = "SELECT count FROM rejected_requests WHERE id = ?1";
        let count = self.conn.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()?;
        if count.is_some_and(|count| count_digest(id, count) != digest) {
            self.problems.changed.add(format!("count of rejection {id}"));
        }
        Ok(())
    }

    /// Lists the rows in a range of ids that no seal has.
    fn list_unsealed(&mut self, check: &TableCheck, first: i64, last: i64) -> rusqlite::Result<()> {
        if first > last {
            return Ok(());
        }
        let sql = match check.name {
            "event" => "SELECT id FROM events WHERE id BETWEEN ?1 AND ?2",
            "outcome" => "SELECT id FROM attempts WHERE id BETWEEN ?1 AND ?2",
            _ => "SELECT id FROM rejected_requests WHERE id BETWEEN ?1 AND ?2",
        };
        let ids: Vec<i64> = self.conn.list(sql, [first, last], |row| row.get(0))?;
        ids.iter().for_each(|id| self.problems.unsealed.add(format!("{} {id}", check.name)));
        Ok(())
    }
}

fn read_event(names: &Names, row: &Row<'_>) -> rusqlite::Result<Option<Digest>> {
    let body = row.get_ref(12)?.as_bytes_or_null()?;
    let content = match (row.get_ref(10)?.as_bytes_or_null()?, body) {
        (None, Some(body)) => event_content_digest(
            bytes(row.get_ref(9)?),
            row.get_ref(7)?.as_bytes_or_null()?,
            bytes(row.get_ref(8)?),
            body,
        )
        .to_vec(),
        (Some(content), None) => content.to_vec(),
        _ => return Ok(None),
    };
    let body_bytes = match body {
        Some(body) => i64::try_from(body.len()).unwrap_or(i64::MAX),
        None => row.get::<_, Option<i64>>(11)?.unwrap_or_default(),
    };
    let fields = EventFields {
        uid: bytes(row.get_ref(1)?),
        source: names.sources.get(&row.get(2)?).map_or("", String::as_str),
        received_at_ms: row.get(3)?,
        method: text(row.get_ref(4)?),
        path: text(row.get_ref(5)?),
        ip: text(row.get_ref(6)?),
        body_bytes,
    };
    Ok(Some(event_digest(&fields, &content)))
}

fn read_attempt(names: &Names, row: &Row<'_>) -> rusqlite::Result<Option<Digest>> {
    let Some(event) = row.get(1)? else { return Ok(None) };
    let fields = AttemptFields {
        event,
        item: row.get(2)?,
        job: row.get(4)?,
        attempt: row.get(5)?,
        outcome: text(row.get_ref(6)?),
        ended_at_ms: row.get(7)?,
        duration_ms: row.get(8)?,
        next_at_ms: row.get(9)?,
    };
    let (detail, stdout, stderr) =
        (text(row.get_ref(10)?), bytes(row.get_ref(13)?), bytes(row.get_ref(14)?));
    let has_outputs = !stdout.is_empty() || !stderr.is_empty();
    let salt: Option<Vec<u8>> = row.get(11)?;
    let removed = row.get_ref(12)?.as_bytes_or_null()?;
    let content = match (salt, removed.and_then(|digests| digests.split_first_chunk())) {
        // The detail was removed, too.
        (None, Some((outputs, detail))) if !has_outputs => {
            let Ok(detail) = detail.try_into() else { return Ok(None) };
            AttemptContent::Removable { detail, outputs: *outputs }
        }
        (None, None) if !has_outputs => AttemptContent::Permanent { detail },
        (Some(salt), None) => {
            let seal = AttemptSeal::with_salt(salt, detail, stdout, stderr);
            if has_outputs != seal.has_outputs() {
                return Ok(None);
            }
            seal.content()
        }
        (Some(salt), Some((outputs, []))) if !has_outputs => {
            let detail = AttemptSeal::with_salt(salt, detail, &[], &[]).detail;
            AttemptContent::Removable { detail, outputs: *outputs }
        }
        _ => return Ok(None),
    };
    let handler = names.handlers.get(&row.get(3)?).map_or("", String::as_str);
    Ok(Some(attempt_digest(handler, &fields, &content)))
}

fn read_rejection(_: &Names, row: &Row<'_>) -> rusqlite::Result<Option<Digest>> {
    let fields = RejectionFields {
        at_ms: row.get(1)?,
        source: row.get_ref(2)?.as_str_or_null()?,
        method: text(row.get_ref(3)?),
        path: text(row.get_ref(4)?),
        ip: text(row.get_ref(5)?),
        status: row.get(6)?,
        reason: text(row.get_ref(7)?),
        bytes: row.get(8)?,
    };
    Ok(Some(rejection_digest(&fields)))
}

/// Returns whether a column has a value of a type that Hooktrail never writes there.
fn is_wrong_type(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType};
    matches!(
        error,
        FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..)
    )
}

/// A blob or a text, empty for others.
fn bytes(value: ValueRef<'_>) -> &[u8] {
    value.as_bytes().unwrap_or_default()
}

/// A text, empty for others.
fn text(value: ValueRef<'_>) -> &str {
    value.as_str().unwrap_or_default()
}
