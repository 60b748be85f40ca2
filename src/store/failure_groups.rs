//! Table `failure_groups`: jobs whose last attempt failed, grouped by handler and reason, so that a person sees
//! each cause once. The transaction that changes a job changes the counts of its group, so nothing counts jobs to
//! show the groups.
//!
//! A job stays in its group until it succeeds, is cancelled or is retried by a person. `jobs.failure` names the
//! group.

use rusqlite::{Connection, params};

use super::statements::Statements;
use super::write_transaction::WriteTransaction;
use crate::domain::failure_reason::failure_pattern;
use crate::domain::quote::without_quote;
use crate::domain::{HandlerId, JobId};

/// The most groups of one handler. Further reasons are in one group.
const MAX_GROUPS: i64 = 500;

/// The pattern of the group for all further reasons.
pub const OTHER_REASONS: &str = "other reasons";

/// The id of a group, and whether the job is dead. Otherwise it will be retried.
pub(super) type Membership = Option<(i64, bool)>;

/// The changes of a transaction in the number of jobs of each group.
#[derive(Clone, Debug, Default)]
pub(super) struct GroupChanges(Vec<GroupChange>);

#[derive(Clone, Copy, Debug)]
struct GroupChange {
    group: i64,
    failing: i64,
    dead: i64,
    /// The last failure: its job and its time.
    last: Option<(JobId, i64)>,
}

impl GroupChanges {
    fn add(&mut self, group: i64, is_dead: bool, jobs: i64, last: Option<(JobId, i64)>) {
        let index = self.0.iter().position(|change| change.group == group).unwrap_or_else(|| {
            self.0.push(GroupChange { group, failing: 0, dead: 0, last: None });
            self.0.len() - 1
        });
        let change = &mut self.0[index];
        match is_dead {
            true => change.dead += jobs,
            false => change.failing += jobs,
        }
        change.last = last.or(change.last);
    }

    /// Records that a job left its group, because it ended or is deleted.
    pub fn leave(&mut self, before: Membership) {
        if let Some((group, was_dead)) = before {
            self.add(group, was_dead, -1, None);
        }
    }
}

/// Puts a job whose attempt failed into the group of its reason.
pub(super) fn join(
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
pub(super) fn remove_quotes(
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
pub(super) fn leave(
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

/// Adds the changes of a transaction, and deletes groups without jobs. Called before each commit.
pub(super) fn write(conn: &Connection, changes: &mut GroupChanges) -> rusqlite::Result<()> {
    for GroupChange { group, failing, dead, last } in changes.0.drain(..) {
        let (last_job, last_at_ms) = last.unzip();
        conn.change(
            "UPDATE failure_groups SET failing = failing + ?2, dead = dead + ?3,
               last_job = coalesce(?4, last_job), last_at = coalesce(?5, last_at) WHERE id = ?1",
            params![group, failing, dead, last_job, last_at_ms],
        )?;
        let sql = "DELETE FROM failure_groups WHERE id = ?1 AND failing = 0 AND dead = 0";
        conn.change(sql, [group])?;
    }
    Ok(())
}
