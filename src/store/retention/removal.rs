//! Removes bodies and events.

use const_format::formatcp;
use rusqlite::Connection;

use super::super::jobs::failures;
use super::super::jobs::transition::{IS_DEAD, IS_NOT_GIVEN_UP};
use super::super::row_budget::RowBudget;
use super::super::seal::{AttemptSeal, SealedTable, record_removal};
use super::super::statements::Statements;
use super::super::write_transaction::WriteTransaction;
use super::RemovedPart;
use super::assessment::RemovableEvent;
use crate::domain::HandlerId;
use crate::domain::job::JobState;
use crate::domain::quote::without_quote;

/// An event with more jobs is removed in several transactions.
const MAX_JOBS_AT_ONCE: usize = 200;

/// Returns whether an event is removed by `start_removal` and `continue_removal`.
pub(super) fn is_large(event: &RemovableEvent) -> bool {
    event.jobs > MAX_JOBS_AT_ONCE || event.has_appended
}

/// Removes events whose ids, and whose jobs, follow each other. Returns how many jobs it deleted.
pub(super) fn remove_run(
    tx: &mut WriteTransaction<'_>,
    part: RemovedPart,
    run: &[RemovableEvent],
) -> rusqlite::Result<u64> {
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(0) };
    let mut jobs = 0;
    if first.first_job <= last.last_job {
        let has_given_up = run.iter().any(|event| event.has_given_up);
        jobs = remove_jobs(tx, part, [first.first_job, last.last_job], has_given_up)?;
    }
    remove_events(tx, part, [first.id, last.id])?;
    Ok(jobs)
}

/// Removes what belongs to a range of jobs. Returns how many jobs it deleted.
fn remove_jobs(
    tx: &mut WriteTransaction<'_>,
    part: RemovedPart,
    range: [i64; 2],
    has_given_up: bool,
) -> rusqlite::Result<u64> {
    let conn = tx.conn;
    conn.change("DELETE FROM items WHERE job BETWEEN ?1 AND ?2", range)?;
    match part {
        RemovedPart::Quotes => {
            remove_quotes(conn, range)?;
            failures::remove_quotes(tx, range)?;
            Ok(0)
        }
        RemovedPart::Body => {
            remove_outputs(conn, range)?;
            Ok(0)
        }
        RemovedPart::Event => {
            if has_given_up {
                count_deleted_jobs(tx, range)?;
                // A key without a job counts as one whose job succeeded.
                conn.change(
                    formatcp!(
                        "DELETE FROM unique_keys WHERE job BETWEEN ?1 AND ?2 AND NOT
                           (SELECT {IS_NOT_GIVEN_UP} FROM jobs j WHERE j.id = unique_keys.job)"
                    ),
                    range,
                )?;
            }
            let sql = "DELETE FROM attempts WHERE job BETWEEN ?1 AND ?2 RETURNING id";
            let attempts = conn.list(sql, range, |row| row.get(0))?;
            let sealed = &mut tx.effects.sealed;
            record_removal(conn, &tx.cache.seals, sealed, SealedTable::Attempts, attempts)?;
            let deleted = conn.change("DELETE FROM jobs WHERE id BETWEEN ?1 AND ?2", range)?;
            Ok(deleted as u64)
        }
    }
}

/// Records that the jobs in a range of ids are about to be deleted.
fn count_deleted_jobs(tx: &mut WriteTransaction<'_>, range: [i64; 2]) -> rusqlite::Result<()> {
    let sql =
        formatcp!("SELECT handler, failure FROM jobs WHERE id BETWEEN ?1 AND ?2 AND {IS_DEAD}");
    let dead: Vec<(HandlerId, Option<i64>)> = tx.conn.list(sql, range, |row| row.try_into())?;
    for (handler, group) in dead {
        tx.effects.count_job(handler, Some(JobState::Dead), None);
        tx.effects.failure_groups.leave(group.map(|group| (group, true)));
    }
    Ok(())
}

/// Removes the outputs of attempts. Their digest takes the place of their salt.
fn remove_outputs(conn: &Connection, range: [i64; 2]) -> rusqlite::Result<()> {
    conn.change(
        "UPDATE attempts SET content_digest = attempt_outputs_digest(salt, stdout, stderr),
           salt = substr(salt, 1, 16), stdout = NULL, stderr = NULL
         WHERE job BETWEEN ?1 AND ?2 AND (stdout IS NOT NULL OR stderr IS NOT NULL)",
        range,
    )?;
    Ok(())
}

/// An attempt whose detail may quote an event.
struct QuotingAttempt {
    id: i64,
    detail: String,
    salt: Vec<u8>,
    outputs_digest: Option<Vec<u8>>,
}

/// Removes what may quote a body from jobs and their attempts. The texts of cancelled jobs and of interrupted attempts
/// are those of the program or of a person.
fn remove_quotes(conn: &Connection, range: [i64; 2]) -> rusqlite::Result<()> {
    remove_outputs(conn, range)?;
    let quoting: Vec<QuotingAttempt> = conn.list(
        "SELECT id, detail, salt, content_digest FROM attempts
         WHERE job BETWEEN ?1 AND ?2 AND salt IS NOT NULL AND outcome <> 'interrupted'",
        range,
        |row| {
            let (id, detail, salt, outputs_digest) = row.try_into()?;
            Ok(QuotingAttempt { id, detail, salt, outputs_digest })
        },
    )?;
    for QuotingAttempt { id, detail, salt, outputs_digest } in quoting {
        let rest = without_quote(&detail);
        if rest != detail {
            let digest = AttemptSeal::removed_digest(salt, &detail, outputs_digest.as_deref());
            let sql =
                "UPDATE attempts SET detail = ?2, content_digest = ?3, salt = NULL WHERE id = ?1";
            conn.change(sql, (id, rest, digest))?;
        }
    }
    let sql = formatcp!("SELECT id, reason FROM jobs WHERE id BETWEEN ?1 AND ?2 AND {IS_DEAD}");
    let reasons: Vec<(i64, String)> = conn.list(sql, range, |row| row.try_into())?;
    for (id, reason) in reasons {
        conn.change("UPDATE jobs SET reason = ?2 WHERE id = ?1", (id, without_quote(&reason)))?;
    }
    let sql = "UPDATE jobs SET ordering_key = NULL, debounce_key = NULL, version = NULL
               WHERE id BETWEEN ?1 AND ?2";
    conn.change(sql, range).map(|_| ())
}

/// Removes quotes of bodies that are removed from the log of circuit breakers, from recorded alerts and from settled
/// jobs that are not reported yet: all may name the reason of a job.
pub(in crate::store) fn remove_logged_quotes(conn: &Connection) -> rusqlite::Result<()> {
    const QUOTED_JOB: &str = "EXISTS (SELECT 1 FROM jobs j JOIN events e ON e.id = j.event
        WHERE e.removed_bytes IS NOT NULL AND instr(detail, ' job ')
          AND j.id = CAST(substr(detail, instr(detail, ' job ') + 5) AS INTEGER))";
    const CUT: &str = "SET detail = substr(detail, 1, instr(detail, ': ') - 1)
        WHERE instr(detail, ': ') > 0";
    conn.execute(&format!("UPDATE breaker_changes {CUT} AND {QUOTED_JOB}"), [])?;
    conn.execute(&format!("UPDATE alerts {CUT} AND {QUOTED_JOB}"), [])?;
    let sql = "UPDATE alerts SET detail = NULL WHERE detail IS NOT NULL AND EXISTS
               (SELECT 1 FROM events e WHERE e.id = alerts.event AND e.removed_bytes IS NOT NULL)";
    conn.execute(sql, [])?;
    let sql = "UPDATE settlements SET detail = NULL WHERE detail IS NOT NULL AND EXISTS
               (SELECT 1 FROM events e WHERE e.id = settlements.event AND e.removed_bytes IS NOT NULL)";
    conn.execute(sql, []).map(|_| ())
}

/// Removes a range of events without what belongs to their jobs.
fn remove_events(
    tx: &mut WriteTransaction<'_>,
    part: RemovedPart,
    range: [i64; 2],
) -> rusqlite::Result<()> {
    let conn = tx.conn;
    match part {
        RemovedPart::Body | RemovedPart::Quotes => {
            if part == RemovedPart::Quotes {
                conn.change("UPDATE events SET note = NULL WHERE id BETWEEN ?1 AND ?2", range)?;
            }
            let sql = "UPDATE duplicates SET body = NULL WHERE event BETWEEN ?1 AND ?2 AND body IS NOT NULL";
            conn.change(sql, range)?;
            remove_bodies(conn, range)
        }
        RemovedPart::Event => {
            conn.change("DELETE FROM partial_removals WHERE event BETWEEN ?1 AND ?2", range)?;
            conn.change("DELETE FROM duplicates WHERE event BETWEEN ?1 AND ?2", range)?;
            let sql = "DELETE FROM events WHERE id BETWEEN ?1 AND ?2 RETURNING id";
            let events = conn.list(sql, range, |row| row.get(0))?;
            let sealed = &mut tx.effects.sealed;
            record_removal(conn, &tx.cache.seals, sealed, SealedTable::Events, events)
        }
    }
}

fn remove_bodies(conn: &Connection, range: [i64; 2]) -> rusqlite::Result<()> {
    conn.change(
        "UPDATE events SET removed_bytes = length(body),
           content_digest = event_content_digest(salt, query, headers, body), salt = NULL, body = NULL,
           headers = x'', query = NULL
         WHERE id BETWEEN ?1 AND ?2 AND removed_bytes IS NULL",
        range,
    )?;
    Ok(())
}

/// Begins the removal of an event with many jobs, unless it has begun. From then on the event has no body, so no
/// command retries or replays it.
pub(in crate::store) fn start_removal(
    conn: &Connection,
    part: RemovedPart,
    event: &RemovableEvent,
) -> rusqlite::Result<()> {
    remove_bodies(conn, [event.id, event.id])?;
    let sql = "INSERT OR IGNORE INTO partial_removals (event, rule, next_job) VALUES (?1, ?2, ?3)";
    conn.change(sql, (event.id, part.code(), event.first_job)).map(|_| ())
}

/// Returns the part of an event whose removal has begun and is not complete.
pub(super) fn begun_part(conn: &Connection, event: i64) -> rusqlite::Result<Option<RemovedPart>> {
    let sql = "SELECT rule FROM partial_removals WHERE event = ?1";
    conn.find(sql, [event], |row| row.get(0).map(RemovedPart::from_code))
}

/// What `continue_removal` did.
pub(in crate::store) struct RemovedJobs {
    pub jobs: u64,
    /// The event is removed.
    pub is_done: bool,
}

/// Removes more of an event whose removal has begun.
pub(in crate::store) fn continue_removal(
    tx: &mut WriteTransaction<'_>,
    event: i64,
    budget: &mut RowBudget,
) -> rusqlite::Result<RemovedJobs> {
    let conn = tx.conn;
    let mut removed = RemovedJobs { jobs: 0, is_done: true };
    let sql = "SELECT p.rule, p.next_job, e.last_job FROM partial_removals p JOIN events e ON e.id = p.event
               WHERE p.event = ?1";
    let found: Option<(i64, i64, i64)> = conn.find(sql, [event], |row| row.try_into())?;
    let Some((rule, mut next_job, last_job)) = found else {
        conn.change("DELETE FROM partial_removals WHERE event = ?1", [event])?;
        budget.spend(1, 0);
        return Ok(removed);
    };
    let part = RemovedPart::from_code(rule);
    loop {
        let jobs = next_jobs(conn, event, next_job, last_job)?;
        let Some((&first, &last)) = jobs.first().zip(jobs.last()) else { break };
        if last <= last_job {
            removed.jobs += remove_jobs(tx, part, [first, last], true)?;
        } else {
            // The jobs between appended ones belong to other events.
            for &job in &jobs {
                removed.jobs += remove_jobs(tx, part, [job, job], true)?;
            }
        }
        next_job = last + 1;
        budget.spend(jobs.len(), 0);
        if budget.is_spent() {
            let sql = "UPDATE partial_removals SET next_job = ?2 WHERE event = ?1";
            conn.change(sql, [event, next_job])?;
            removed.is_done = false;
            return Ok(removed);
        }
    }
    remove_events(tx, part, [event, event])?;
    conn.change("DELETE FROM partial_removals WHERE event = ?1", [event])?;
    Ok(removed)
}

/// Jobs that one statement of `continue_removal` reaches.
const JOBS_PER_STEP: i64 = 100;

/// Returns the next jobs of an event: those that were inserted with it, then those that were appended.
fn next_jobs(
    conn: &Connection,
    event: i64,
    next_job: i64,
    last_job: i64,
) -> rusqlite::Result<Vec<i64>> {
    let id = |row: &rusqlite::Row<'_>| row.get(0);
    if next_job <= last_job {
        let sql = "SELECT id FROM jobs WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT ?3";
        let own: Vec<i64> = conn.list(sql, [next_job, last_job, JOBS_PER_STEP], id)?;
        if !own.is_empty() {
            return Ok(own);
        }
    }
    let sql = "SELECT id FROM jobs WHERE appended_to = ?1 AND id >= ?2 ORDER BY id LIMIT ?3";
    conn.list(sql, [event, next_job.max(last_job + 1), JOBS_PER_STEP], id)
}
