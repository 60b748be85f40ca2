//! Puts jobs whose attempts fail into groups, and takes them out (see `store::failure_groups`).

use rusqlite::{Connection, params};

use super::super::failure_groups::Membership;
use super::super::statements::Statements;
use super::super::write_transaction::WriteTransaction;
use crate::domain::failure_reason::failure_pattern;
use crate::domain::quote::without_quote;
use crate::domain::{HandlerId, JobId};

/// The most groups of one handler. Further reasons are in one group.
const MAX_GROUPS: i64 = 500;

/// The reason of the group for all further reasons.
pub(in crate::store) const OTHER_REASONS: &str = "other reasons";

/// Puts a job whose attempt failed into the group of its reason.
pub(in crate::store) fn join(
    tx: &mut WriteTransaction<'_>,
    (job, handler): (JobId, HandlerId),
    before: Membership,
    is_dead: bool,
    reason: &str,
) -> rusqlite::Result<()> {
    let at_ms = tx.cache.wall_ms;
    let group = find_or_create(tx.conn, handler, &failure_pattern(reason), at_ms)?;
    move_job(tx, job, before, (group, is_dead))?;
    tx.effects.failure_groups.add(group, is_dead, 0, Some((job, at_ms)));
    Ok(())
}

/// Moves a job from one group to another.
fn move_job(
    tx: &mut WriteTransaction<'_>,
    job: JobId,
    before: Membership,
    (group, is_dead): (i64, bool),
) -> rusqlite::Result<()> {
    if before.map(|(group, _)| group) != Some(group) {
        tx.conn.change("UPDATE jobs SET failure = ?2 WHERE id = ?1", params![job, group])?;
    }
    tx.effects.failure_groups.leave(before);
    tx.effects.failure_groups.add(group, is_dead, 1, None);
    Ok(())
}

/// Moves the jobs in a range of ids to groups whose reasons quote no event.
pub(in crate::store) fn remove_quotes(
    tx: &mut WriteTransaction<'_>,
    range: [i64; 2],
) -> rusqlite::Result<()> {
    // Of the jobs in a group, only dead ones have ended.
    let sql = "SELECT j.id, j.handler, j.failure, j.ended_at IS NOT NULL, g.reason, g.first_at
         FROM jobs j JOIN failure_groups g ON g.id = j.failure WHERE j.id BETWEEN ?1 AND ?2";
    let members: Vec<(JobId, HandlerId, i64, bool, String, i64)> =
        tx.conn.list(sql, range, |row| row.try_into())?;
    for (job, handler, group, is_dead, reason, first_at_ms) in members {
        let rest = without_quote(&reason);
        if rest != reason && reason != OTHER_REASONS {
            let other = find_or_create(tx.conn, handler, rest, first_at_ms)?;
            move_job(tx, job, Some((group, is_dead)), (other, is_dead))?;
        }
    }
    Ok(())
}

/// Takes a job out of its group.
pub(in crate::store) fn leave(
    tx: &mut WriteTransaction<'_>,
    job: JobId,
    before: Membership,
) -> rusqlite::Result<()> {
    if before.is_some() {
        tx.conn.change("UPDATE jobs SET failure = NULL WHERE id = ?1", [job])?;
        tx.effects.failure_groups.leave(before);
    }
    Ok(())
}

fn find_or_create(
    conn: &Connection,
    handler: HandlerId,
    pattern: &str,
    at_ms: i64,
) -> rusqlite::Result<i64> {
    let find = |pattern: &str| -> rusqlite::Result<Option<i64>> {
        let sql = "SELECT id FROM failure_groups WHERE handler = ?1 AND reason = ?2";
        conn.find(sql, (handler, pattern), |row| row.get(0))
    };
    if let Some(group) = find(pattern)? {
        return Ok(group);
    }
    let sql = "SELECT count(*) FROM failure_groups WHERE handler = ?1";
    let is_full = conn.value::<i64>(sql, [handler])? >= MAX_GROUPS;
    let pattern = if is_full { OTHER_REASONS } else { pattern };
    if is_full && let Some(group) = find(pattern)? {
        return Ok(group);
    }
    conn.change(
        "INSERT INTO failure_groups (handler, reason, failing, dead, first_at, last_at, last_job)
         VALUES (?1, ?2, 0, 0, ?3, ?3, 0)",
        params![handler, pattern, at_ms],
    )?;
    Ok(conn.last_insert_rowid())
}
