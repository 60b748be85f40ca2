//! Compares rows with their seals.

use std::collections::HashMap;

use const_format::formatcp;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};

use super::super::problem::Problem;
use super::super::statements::Statements;
use super::append::{COUNT_ENTRY_BYTES, Entries, PerTable, SealRow, SealTree};
use super::digest::{
    AttemptContent, AttemptFields, AttemptSeal, Digest, EventFields, RejectionFields, TreeDigest,
    attempt_digest, count_digest, event_content_digest, event_digest, rejection_digest,
};
use super::head::{HeadCheck, SealHead};
use super::removal::RemovedEntries;
use super::tree::Peaks;

/// What disagrees with the seals.
struct SealProblems {
    changed: Problem,
    missing: Problem,
    unsealed: Problem,
    damaged: Problem,
    head: Problem,
    miscounted: Problem,
    not_contained: Problem,
}

/// Compares all rows with their seals, and the tree over the seals with its head and with `heads`, in one snapshot.
/// `is_ended` ends that before it is complete.
///
/// # Errors
/// The read failed.
pub(in crate::store) fn check_seals(
    conn: &Connection,
    heads: &[SealHead],
    is_ended: &dyn Fn() -> bool,
) -> rusqlite::Result<Vec<Problem>> {
    let problems = SealProblems {
        changed: Problem::new("a row was changed after it was sealed"),
        missing: Problem::new(
            "a sealed row is missing, and neither retention nor a bound removed it",
        ),
        unsealed: Problem::new("a row has no seal, or its seal says that it was removed"),
        damaged: Problem::new("a seal is missing or damaged"),
        head: Problem::new("the seals are not those of the head"),
        miscounted: Problem::new("the number of sealed rows is not the one in the seals"),
        not_contained: Problem::new("the trail does not contain a head"),
    };
    let snapshot = conn.unchecked_transaction()?;
    let names = Names::load(&snapshot)?;
    let mut walk = TreeWalk::new(heads);
    let event_rows = select_event_rows(conn)?;
    let mut check = SealCheck { conn, names, event_rows, kept: [0; 3], problems };
    if check.run(&mut walk, is_ended)? {
        for (head, result) in walk.results() {
            if let Some(reason) = reason(head, result) {
                check.problems.not_contained.add(format!("{head} ({reason})"));
            }
        }
    }
    let SealProblems { changed, missing, unsealed, damaged, head, miscounted, not_contained } =
        check.problems;
    let problems = [changed, missing, unsealed, damaged, head, miscounted, not_contained];
    Ok(problems.into_iter().filter(|problem| problem.count > 0).collect())
}

/// Returns why a head is not in the trail. `None`: it is.
fn reason(head: &SealHead, result: HeadCheck) -> Option<String> {
    let seals = head.seals;
    match result {
        HeadCheck::Contained => None,
        HeadCheck::Different => Some(format!(
            "the first {seals} seals have another one: a sealed row was changed, or the database is another one or \
             was restored"
        )),
        HeadCheck::Newer { seals } => Some(format!(
            "there are only {seals} seals: later ones are missing, or the database is another one or was restored"
        )),
        HeadCheck::Gone => Some(
            "it is not known any more, because the rows before and after it are removed".to_owned(),
        ),
    }
}

/// The tree while its leaves are read from left to right, and the heads that it is compared with.
struct TreeWalk<'h> {
    peaks: Peaks,
    heads: Vec<(&'h SealHead, Option<HeadCheck>)>,
}

impl<'h> TreeWalk<'h> {
    fn new(heads: &'h [SealHead]) -> Self {
        let mut walk = Self {
            peaks: Peaks::default(),
            heads: heads.iter().map(|head| (head, None)).collect(),
        };
        walk.compare();
        walk
    }

    /// Adds a subtree. Returns false if it cannot be at this place.
    fn push(&mut self, level: u32, digest: TreeDigest) -> bool {
        let is_pushed = self.peaks.push(level, digest);
        self.compare();
        is_pushed
    }

    fn compare(&mut self) {
        let (size, mut root) = (self.peaks.size(), None);
        for (head, result) in &mut self.heads {
            if head.seals == size {
                let root = *root.get_or_insert_with(|| self.peaks.root());
                *result = Some(match root == head.root {
                    true => HeadCheck::Contained,
                    false => HeadCheck::Different,
                });
            }
        }
    }

    fn results(&self) -> impl Iterator<Item = (&SealHead, HeadCheck)> {
        let seals = self.peaks.size();
        self.heads.iter().map(move |(head, result)| {
            let is_newer = head.seals > seals;
            let missing = if is_newer { HeadCheck::Newer { seals } } else { HeadCheck::Gone };
            (*head, result.unwrap_or(missing))
        })
    }
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
    /// Selects events in the schema of the database.
    event_rows: &'static str,
    /// How many sealed rows are not marked as removed.
    kept: [i64; 3],
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

const EVENT_COLUMNS: &str =
    "id, uid, source, received_at, method, path, ip, query, headers, salt, content_digest,
                removed_bytes, body";
const EVENT_ROWS: &str = "FROM events WHERE id BETWEEN ?1 AND ?2 ORDER BY id";

/// Select events of earlier schema versions, which a backup may still have.
const VERSION_1_EVENTS: &str =
    formatcp!("SELECT {EVENT_COLUMNS}, NULL AS client, NULL AS origin_key {EVENT_ROWS}");
const VERSION_2_EVENTS: &str =
    formatcp!("SELECT {EVENT_COLUMNS}, client, NULL AS origin_key {EVENT_ROWS}");
const PRESENT_EVENTS: &str = formatcp!("SELECT {EVENT_COLUMNS}, client, origin_key {EVENT_ROWS}");

/// Returns the statement that selects events in the schema of the database.
fn select_event_rows(conn: &Connection) -> rusqlite::Result<&'static str> {
    let sql =
        "SELECT count(*) FROM pragma_table_info('events') WHERE name IN ('client', 'origin_key')";
    Ok(match conn.value(sql, [])? {
        0_i64 => VERSION_1_EVENTS,
        1 => VERSION_2_EVENTS,
        _ => PRESENT_EVENTS,
    })
}

/// In the order of `SealedTable`.
pub(super) const TABLES: [TableCheck; 3] = [
    TableCheck { name: "event", sql: PRESENT_EVENTS, digest: read_event },
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
    digests: &'e [Digest],
    /// The index of the first one among all entries of the seal.
    offset: usize,
}

impl SealCheck<'_> {
    /// Returns whether the tree is complete.
    fn run(
        &mut self,
        walk: &mut TreeWalk<'_>,
        is_ended: &dyn Fn() -> bool,
    ) -> rusqlite::Result<bool> {
        let tree = SealTree::load(self.conn)?;
        let sql = formatcp!("SELECT {}, entries FROM seals ORDER BY id", SealRow::COLUMNS);
        let (mut statement, mut subtrees) = (
            self.conn.prepare(sql)?,
            self.conn.prepare("SELECT first, level, digest FROM seal_subtrees ORDER BY first")?,
        );
        let mut rows = statement.query([])?;
        let mut subtrees = subtrees.query_map([], |row| row.try_into())?;
        let mut next_subtree: Option<(i64, u32, TreeDigest)> = subtrees.next().transpose()?;
        let mut is_complete = true;
        let mut last = [0; 3];
        loop {
            if is_ended() {
                return Ok(false);
            }
            let row = rows.next()?;
            let seal = row.map(SealRow::read).transpose()?;
            // Those between two seals.
            while let Some((first, level, digest)) = next_subtree
                && seal.is_none_or(|seal| first < seal.id - 1)
            {
                if is_complete && (walk.peaks.size() != first || !walk.push(level, digest)) {
                    self.problems.damaged.add(format!("seals from {}", walk.peaks.size() + 1));
                    is_complete = false;
                }
                next_subtree = subtrees.next().transpose()?;
            }
            let (Some(row), Some(seal)) = (row, seal) else { break };
            let entries = bytes(row.get_ref(8)?);
            if is_complete
                && (walk.peaks.size() != seal.id - 1
                    || !walk.push(0, seal.digest(&tree.database, entries)))
            {
                self.problems.damaged.add(format!("seals before {}", seal.id));
                is_complete = false;
            }
            match Entries::parse(entries) {
                Some(entries) => self.compare(&seal, &last, &entries)?,
                None => self.problems.damaged.add(format!("seal {}", seal.id)),
            }
            last = seal.last;
        }
        for (table, check) in TABLES.iter().enumerate() {
            self.list_unsealed(check, last[table].saturating_add(1), i64::MAX)?;
            let (found, expected) = (self.kept[table], tree.kept[table]);
            if found != expected {
                let name = check.name;
                self.problems.miscounted.add(format!("{name}s: {found} instead of {expected}"));
            }
        }
        if is_complete && walk.peaks != tree.peaks {
            let seals = walk.peaks.size();
            self.problems.head.add(format!("{seals}:{}", hex::encode(walk.peaks.root())));
        }
        Ok(is_complete)
    }

    /// Compares the rows of a seal with its entries. `before`: the highest ids that are sealed by earlier seals.
    fn compare(
        &mut self,
        seal: &SealRow,
        before: &PerTable,
        entries: &Entries<'_>,
    ) -> rusqlite::Result<()> {
        let removed = RemovedEntries::load(self.conn, seal.id, entries.len())?;
        let mut rest = entries.digests;
        for (table, check) in TABLES.iter().enumerate() {
            let (digests, more) = rest.split_at(entries.rows[table].min(rest.len()));
            let offset = entries.digests.len() - rest.len();
            rest = more;
            let last_id = seal.last[table];
            let count = i64::try_from(digests.len()).unwrap_or(i64::MAX);
            let first_id = last_id.saturating_sub(count).saturating_add(1);
            self.list_unsealed(check, before[table].saturating_add(1), first_id.saturating_sub(1))?;
            let entries = TableEntries { first_id, last_id, digests, offset };
            self.kept[table] += self.compare_table(check, &entries, &removed)?;
        }
        for entry in entries.counts.chunks_exact(COUNT_ENTRY_BYTES) {
            self.compare_count(entry)?;
        }
        Ok(())
    }

    /// Compares the rows of one table. Returns how many are not marked as removed.
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
        let sql = match check.name {
            "event" => self.event_rows,
            _ => check.sql,
        };
        let mut statement = conn.prepare_cached(sql)?;
        let mut rows = statement.query([entries.first_id, entries.last_id])?;
        let mut row = rows.next()?;
        let mut kept_rows = 0;
        for (index, (id, digest)) in
            (entries.first_id..=entries.last_id).zip(entries.digests).enumerate()
        {
            let is_removed = removed.contains(entries.offset + index);
            kept_rows += i64::from(!is_removed);
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
        Ok(kept_rows)
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
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query([first, last])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            self.problems.unsealed.add(format!("{} {id}", check.name));
        }
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
        client: row.get_ref(13)?.as_str_or_null()?,
        origin_key: row.get_ref(14)?.as_str_or_null()?,
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
pub(in crate::store) fn is_wrong_type(error: &rusqlite::Error) -> bool {
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
