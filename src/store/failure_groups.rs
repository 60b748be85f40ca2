//! Table `failure_groups`: jobs whose last attempt failed, grouped by handler and reason, so that a person sees
//! each cause once. The transaction that changes a job changes the counts of its group, so nothing counts jobs to
//! show the groups.
//!
//! A job stays in its group until it succeeds, is cancelled or is retried by a person. `jobs.failure` names the
//! group.

use rusqlite::{Connection, params};

use super::statements::Statements;
use crate::domain::JobId;

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
    /// Records that jobs joined a group. `last`: the job that failed, and when (wall clock).
    pub fn add(&mut self, group: i64, is_dead: bool, jobs: i64, last: Option<(JobId, i64)>) {
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
