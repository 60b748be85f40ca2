//! Table `dead_job_retries`: the dead jobs of an event that duplicates retry, some in each transaction.

use const_format::formatcp;

use super::effects::DeadJobRetry;
use super::jobs::transition::{self, IS_DEAD};
use super::row_budget::RowBudget;
use super::statements::Statements;
use super::write_transaction::WriteTransaction;
use crate::domain::{EventId, JobId, SourceId};

/// Maximum number of dead jobs that duplicates retry in one transaction.
pub(super) const MAX_RETRIED: usize = 100;

/// Retries the dead jobs of an event with fresh attempts: `limit` now, the others in later
/// transactions. Returns how many it retried.
pub(super) fn retry_dead_jobs(
    tx: &mut WriteTransaction<'_>,
    limit: usize,
    source: SourceId,
    event: EventId,
) -> rusqlite::Result<usize> {
    let (count, after_job) = retry_some(tx, event, 0, limit)?;
    tx.effects.retried_dead_jobs += count;
    if count == limit {
        let sql = "INSERT OR IGNORE INTO dead_job_retries (event, after_job) VALUES (?1, ?2)";
        if tx.conn.change(sql, (event, after_job))? == 1 {
            tx.effects.dead_job_retries.push(DeadJobRetry { source, event, after_job });
        }
    }
    Ok(count)
}

/// Retries more dead jobs of an event: those above `after_job`. Returns true if there are no others.
pub(super) fn continue_retry(
    tx: &mut WriteTransaction<'_>,
    event: EventId,
    after_job: &mut i64,
    budget: &mut RowBudget,
) -> rusqlite::Result<bool> {
    let limit = MAX_RETRIED.min(budget.rows);
    let (count, last) = retry_some(tx, event, *after_job, limit)?;
    budget.spend(count.max(1), 0);
    *after_job = last;
    if count < limit {
        tx.conn.change("DELETE FROM dead_job_retries WHERE event = ?1", [event])?;
    } else {
        let sql = "UPDATE dead_job_retries SET after_job = ?2 WHERE event = ?1";
        tx.conn.change(sql, (event, last))?;
    }
    Ok(count < limit)
}

/// Retries the dead jobs of an event whose ids are above `after`, at most `limit`. Returns their number and
/// the id of the last one.
fn retry_some(
    tx: &mut WriteTransaction<'_>,
    event: EventId,
    after: i64,
    limit: usize,
) -> rusqlite::Result<(usize, i64)> {
    let sql = formatcp!(
        "SELECT id FROM (
           SELECT j.id FROM events e CROSS JOIN jobs j INDEXED BY jobs_dead
             WHERE e.id = ?1 AND {IS_DEAD} AND j.id > ?2 AND j.id BETWEEN e.first_job AND e.last_job
           UNION ALL
           SELECT id FROM jobs WHERE appended_to = ?1 AND {IS_DEAD} AND id > ?2)
         ORDER BY id LIMIT ?3"
    );
    let values = (event, after, i64::try_from(limit).unwrap_or(i64::MAX));
    let dead: Vec<JobId> = tx.conn.list(sql, values, |row| row.get(0))?;
    for &job in &dead {
        transition::retry(tx, job)?;
    }
    Ok((dead.len(), dead.last().map_or(after, |job| job.0)))
}

/// Returns the retries that an earlier process had begun.
pub(super) fn load_all(conn: &rusqlite::Connection) -> rusqlite::Result<Vec<DeadJobRetry>> {
    let sql = "SELECT e.source, e.id, r.after_job FROM dead_job_retries r JOIN events e ON e.id = r.event";
    conn.list(sql, [], |row| {
        let (source, event, after_job) = row.try_into()?;
        Ok(DeadJobRetry { source, event, after_job })
    })
}
