//! `retention`: removes bodies and events some time after they settled.
//!
//! `Scanner` finds what a rule removes, without a lock. `apply_batch` removes it, in short transactions between
//! those of the server. It looks at each event again in the transaction that removes it, because a command may
//! have retried a job meanwhile.
//!
//! A rule sees each event once, in the order of ids (`retention_cursors`). An event that it could not remove then is
//! recorded in `retention_waiting`, and seen again later. So a rule reads what it removes, however much stays.

use rusqlite::Connection;

use super::row_budget::RowBudget;
use super::statements::Statements;
use super::write_transaction::WriteTransaction;
use crate::domain::SourceId;
use crate::domain::retention::Retention;

mod assessment;
mod free_pages;
mod removal;
mod rest;
mod scanner;

pub(super) use assessment::find_settled;
pub use free_pages::has_excess_free_pages;
pub(super) use free_pages::{cut_free_pages, return_free_pages};
pub(super) use removal::{continue_removal, remove_logged_quotes, start_removal};
pub use rest::{RetentionRest, load_rest, save_rest};
pub use scanner::Scanner;

use assessment::{Assessment, assess, assess_again};
use removal::{begun_part, is_large, remove_run};

/// Events that one batch has at most.
pub const MAX_BATCH_EVENTS: usize = 64;

/// Events and jobs that are removed between two looks at the clock.
const MAX_RUN_ROWS: usize = 100;

/// The part of an event that a rule removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovedPart {
    /// Body, headers, query, items and outputs.
    Body,
    /// The event with all that belongs to it.
    Event,
    /// The body, and all that may quote it: notes, details and reasons beyond their first words, keys. `erase` does that.
    Quotes,
}

impl RemovedPart {
    /// Returns the number of the rule in the tables.
    pub(super) const fn code(self) -> i64 {
        match self {
            Self::Body => 0,
            Self::Event => 1,
            Self::Quotes => 2,
        }
    }

    const fn from_code(code: i64) -> Self {
        match code {
            0 => Self::Body,
            1 => Self::Event,
            _ => Self::Quotes,
        }
    }
}

/// A rule for the events of one source. Durations are in milliseconds of the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionRule {
    pub source: SourceId,
    pub part: RemovedPart,
    /// How long after an event settled the part is kept.
    pub keep_ms: i64,
    /// How long a dead job protects its event. `None`: as long as the job is dead.
    pub keep_dead_ms: Option<i64>,
}

/// Returns the rules of all sources that are in the database. `find` returns the retention of a configured source,
/// or the store's.
///
/// # Errors
/// The read failed.
pub fn load_rules(
    conn: &Connection,
    find: impl Fn(&str) -> Retention,
) -> rusqlite::Result<Vec<RetentionRule>> {
    let sources: Vec<(SourceId, String)> =
        conn.list("SELECT id, name FROM sources ORDER BY id", [], |row| row.try_into())?;
    let milliseconds =
        |duration: std::time::Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    let mut rules = Vec::new();
    for (source, name) in sources {
        let Retention { bodies, events, dead_jobs } = find(&name);
        let keep_dead_ms = dead_jobs.map(milliseconds);
        for (part, keep) in [(RemovedPart::Event, events), (RemovedPart::Body, bodies)] {
            let keep_ms = keep.map(milliseconds);
            rules.extend(keep_ms.map(|keep_ms| RetentionRule {
                source,
                part,
                keep_ms,
                keep_dead_ms,
            }));
        }
    }
    Ok(rules)
}

/// An event that a rule has looked at.
#[derive(Clone, Copy, Debug)]
struct SeenEvent {
    event: i64,
    /// The `since` of its row in `retention_waiting`, if it has one.
    waiting_since_ms: Option<i64>,
    assessment: Assessment,
}

/// Events for one rule, in the order of their ids or of their waits.
#[derive(Clone, Debug)]
pub struct RetentionBatch {
    rule: RetentionRule,
    /// The time for which the events were assessed (wall clock).
    now_ms: i64,
    seen: Vec<SeenEvent>,
    /// The new value of `next_event`.
    next_event: Option<i64>,
    /// Whether the progress of the rule is recorded. It is not if a person names the time.
    is_recorded: bool,
}

impl RetentionBatch {
    /// Returns how many events the batch is going to remove, or to remove the bodies of.
    pub fn removals(&self) -> usize {
        self.seen.iter().filter(|seen| matches!(seen.assessment, Assessment::Remove(_))).count()
    }

    pub fn part(&self) -> RemovedPart {
        self.rule.part
    }

    /// Returns how many of these events another rule removes too.
    ///
    /// # Errors
    /// The read failed.
    pub fn count_removed_by(
        &self,
        conn: &Connection,
        other: &RetentionRule,
    ) -> rusqlite::Result<usize> {
        let mut count = 0;
        for seen in &self.seen {
            if let Assessment::Remove(event) = seen.assessment {
                let by_other = assess(conn, other, event.id, self.now_ms)?;
                count += usize::from(matches!(by_other, Assessment::Remove(_)));
            }
        }
        Ok(count)
    }

    /// Returns how many events the rule looks at again later.
    pub fn waits(&self) -> usize {
        self.seen.iter().filter(|seen| matches!(seen.assessment, Assessment::Wait { .. })).count()
    }

    /// Returns the number of the last event.
    pub fn last_event(&self) -> i64 {
        self.seen.iter().map(|seen| seen.event).max().unwrap_or(0)
    }
}

/// How far a batch is, and what it removed so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemovalProgress {
    /// Index of the next event.
    next: usize,
    /// Events that were removed, or whose bodies were.
    pub events: u64,
    /// Jobs that were removed with their events.
    pub jobs: u64,
    /// The database has no more of the batch to remove.
    pub is_done: bool,
}

/// Removes as much of a batch as the budget allows, but at least one part. Returns the new progress.
///
/// # Errors
/// The write failed. The caller rolls the transaction back.
pub(super) fn apply_batch(
    tx: &mut WriteTransaction<'_>,
    batch: &RetentionBatch,
    mut progress: RemovalProgress,
    budget: &mut RowBudget,
) -> rusqlite::Result<RemovalProgress> {
    let (conn, rule) = (tx.conn, &batch.rule);
    while let Some(seen) = batch.seen.get(progress.next) {
        // This batch, another rule or a command has begun to remove a part of it. That comes first.
        if let Some(part) = begun_part(conn, seen.event)? {
            let removed = continue_removal(tx, seen.event, budget)?;
            progress.jobs += removed.jobs;
            if !removed.is_done {
                return Ok(progress);
            }
            if part == rule.part {
                progress.events += 1;
                forget_waiting(conn, rule, seen, Assessment::Forget)?;
                progress.next += 1;
            }
            if budget.is_spent() && progress.next < batch.seen.len() {
                return Ok(progress);
            }
            continue;
        }
        let assessment = assess_again(conn, rule, seen, batch.now_ms)?;
        let mut done = 1;
        match assessment {
            Assessment::Forget => {}
            Assessment::Wait { since_ms } => {
                if batch.is_recorded && seen.waiting_since_ms != Some(since_ms) {
                    insert_waiting(conn, rule, since_ms, seen.event)?;
                }
                budget.spend(1, 0);
            }
            Assessment::Remove(event) if is_large(&event) => {
                start_removal(conn, rule.part, &event)?;
                continue;
            }
            Assessment::Remove(event) => {
                let mut run = vec![event];
                for next in &batch.seen[progress.next + 1..] {
                    let Assessment::Remove(next) = assess_again(conn, rule, next, batch.now_ms)?
                    else {
                        break;
                    };
                    if is_large(&next) || !run[run.len() - 1].is_followed_by(&next) {
                        break;
                    }
                    run.push(next);
                    let rows: usize = run.iter().map(|event| 2 + event.jobs).sum();
                    if rows > budget.rows.min(MAX_RUN_ROWS) {
                        break;
                    }
                }
                done = run.len();
                let jobs = remove_run(tx, rule.part, &run)?;
                progress.jobs += jobs;
                progress.events += done as u64;
                budget.spend(run.iter().map(|event| 2 + event.jobs).sum(), 0);
            }
        }
        for seen in &batch.seen[progress.next..progress.next + done] {
            forget_waiting(conn, rule, seen, assessment)?;
        }
        progress.next += done;
        if budget.is_spent() && progress.next < batch.seen.len() {
            return Ok(progress);
        }
    }
    if let (true, Some(next_event)) = (batch.is_recorded, batch.next_event) {
        conn.change(
            "INSERT INTO retention_cursors (source, rule, next_event) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET next_event = max(next_event, excluded.next_event)",
            (rule.source, rule.part.code(), next_event),
        )?;
    }
    progress.is_done = true;
    Ok(progress)
}

fn insert_waiting(
    conn: &Connection,
    rule: &RetentionRule,
    since_ms: i64,
    event: i64,
) -> rusqlite::Result<()> {
    let sql = "INSERT OR IGNORE INTO retention_waiting (source, rule, since, event) VALUES (?1, ?2, ?3, ?4)";
    conn.change(sql, (rule.source, rule.part.code(), since_ms, event)).map(|_| ())
}

/// Deletes the row in `retention_waiting` of an event that was seen, unless it still says when to look again.
fn forget_waiting(
    conn: &Connection,
    rule: &RetentionRule,
    seen: &SeenEvent,
    assessment: Assessment,
) -> rusqlite::Result<()> {
    let Some(since_ms) = seen.waiting_since_ms else { return Ok(()) };
    if matches!(assessment, Assessment::Wait { since_ms: again } if again == since_ms) {
        return Ok(());
    }
    let sql = "DELETE FROM retention_waiting WHERE source = ?1 AND rule = ?2 AND since = ?3 AND event = ?4";
    conn.change(sql, (rule.source, rule.part.code(), since_ms, seen.event)).map(|_| ())
}

/// Removes more of the events whose removal an earlier process began. Returns whether there are none left.
///
/// # Errors
/// The write failed.
pub(super) fn finish_removals(
    tx: &mut WriteTransaction<'_>,
    budget: &mut RowBudget,
) -> rusqlite::Result<bool> {
    let conn = tx.conn;
    let sql = "SELECT event FROM partial_removals ORDER BY event LIMIT 1";
    while let Some(event) = conn.find(sql, [], |row| row.get(0))? {
        continue_removal(tx, event, budget)?;
        if budget.is_spent() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns whether an earlier process began a removal that is not complete.
///
/// # Errors
/// The read failed.
pub fn has_unfinished_removals(conn: &Connection) -> rusqlite::Result<bool> {
    conn.value("SELECT EXISTS (SELECT 1 FROM partial_removals)", [])
}
