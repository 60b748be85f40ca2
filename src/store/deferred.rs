//! Table `deferred_events`: events that are stored without jobs, because their jobs are too much work for the
//! transaction of the event. A task of the backlog inserts them later (`backlog_task.rs`).

use rusqlite::{Connection, params};

use super::dead_job_retries;
use super::dedupe::{self, DedupeCheck, DedupeKey};
use super::effects::{AlertCondition, Effects};
use super::jobs::transition::Placement;
use super::jobs::{JobOrigin, OriginKind, insert};
use super::row_budget::RowBudget;
use super::statements::Statements;
use super::write_transaction::WriteTransaction;
use super::writer_cache::WriterCache;
use crate::domain::job_plan::{JobPlan, JobSpec, LateDedupe};
use crate::domain::{EventId, HandlerId, SourceId};

/// The own jobs of a deferred event.
#[derive(Debug)]
pub struct EventJobs {
    pub event: EventId,
    pub source: SourceId,
    pub received_at_ms: i64,
    pub specs: Vec<(HandlerId, JobSpec)>,
    pub expression_errors: Option<String>,
    /// The keys of an event that was stored before its `dedupe` was evaluated.
    pub late_dedupe: LateDedupe,
}

impl EventJobs {
    /// Returns the properties of the jobs. Each handler's jobs have another handler.
    pub(super) fn job_origin(&self) -> JobOrigin {
        JobOrigin {
            event: self.event.0,
            source: self.source,
            handler: HandlerId(0),
            created_at_ms: self.received_at_ms,
            kind: OriginKind::DeferredEvent,
        }
    }
}

/// Returns true if jobs of earlier events of this source are not inserted yet. `group` are the effects of the
/// transaction so far.
pub(super) fn is_deferring(cache: &WriterCache, group: &Effects, source: SourceId) -> bool {
    let committed = cache.deferred.get(&source).copied().unwrap_or(0);
    group.deferred_change(source).saturating_add_unsigned(committed as u64) > 0
}

/// Marks an event that was just stored as deferred.
pub(super) fn defer_event(
    tx: &mut WriteTransaction<'_>,
    event: i64,
    source: SourceId,
    (plan, late_since_ms): (&JobPlan, Option<i64>),
) -> rusqlite::Result<()> {
    let handlers = plan.event_handlers().iter().map(|handler| handler.0).collect::<Vec<_>>();
    let handlers = format!("{handlers:?}"); // a JSON array
    let jobs = i64::try_from(plan.job_count()).unwrap_or(i64::MAX);
    tx.conn.change(
        "INSERT INTO deferred_events (event, source, handlers, job_count, dedupe_at)
         VALUES (?1, ?2, ?3, ?4, ?5)",
        params![event, source, handlers, jobs, late_since_ms],
    )?;
    tx.effects.adjust_deferred(source, 1);
    tx.effects.adjust_queued(source, jobs);
    Ok(())
}

/// Returns the number of deferred events of each source that has some.
pub(super) fn count_by_source(conn: &Connection) -> rusqlite::Result<Vec<(SourceId, usize)>> {
    let sql = "SELECT source, count(*) FROM deferred_events GROUP BY source";
    conn.list(sql, [], |row| Ok((row.get(0)?, usize::try_from(row.get::<_, i64>(1)?).unwrap_or(0))))
}

/// Returns the next deferred events of a source, oldest first, and whether their `dedupe` must be evaluated.
///
/// # Errors
/// The read failed.
pub fn list_events(
    conn: &Connection,
    source: SourceId,
    after: EventId,
    limit: usize,
) -> rusqlite::Result<Vec<(EventId, bool)>> {
    let sql = "SELECT event, dedupe_at IS NOT NULL FROM deferred_events
               WHERE source = ?1 AND event > ?2 ORDER BY event LIMIT ?3";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    conn.list(sql, (source, after, limit), |row| row.try_into())
}

/// Inserts the jobs of a deferred event if they are few. Otherwise returns their number.
pub(super) fn insert_event_jobs(
    tx: &mut WriteTransaction<'_>,
    jobs: &EventJobs,
    budget: &mut RowBudget,
) -> rusqlite::Result<Option<usize>> {
    // After the database rejected a task, the expander may send an event twice.
    let sql = "SELECT dedupe_at FROM deferred_events WHERE event = ?1";
    let Some(dedupe_at_ms) = tx.conn.find(sql, [jobs.event], |row| row.get(0))? else {
        return Ok(None);
    };
    if let Some(at_ms) = dedupe_at_ms
        && let Some(original) = apply_late_dedupe(tx.conn, jobs, at_ms)?
    {
        return cancel_duplicate(tx, jobs, original, budget).map(|()| None);
    }
    let count: usize = jobs.specs.iter().map(|(_, spec)| spec.job_count()).sum();
    if jobs.specs.iter().any(|(_, spec)| spec.is_large()) || count > budget.rows {
        return Ok(Some(count));
    }
    for (handler, spec) in &jobs.specs {
        insert::insert_jobs(tx, JobOrigin { handler: *handler, ..jobs.job_origin() }, spec)?;
        budget.spend(spec.job_count(), usize::try_from(spec.bytes()).unwrap_or(usize::MAX));
    }
    budget.spend(1, 0);
    if jobs.specs.is_empty() {
        tx.effects.alerts.push(AlertCondition::UnhandledEvent(jobs.event, jobs.source));
    }
    end_deferral(tx, jobs).map(|()| None)
}

/// Looks up the keys of an event whose `dedupe` was late, and returns the event that it repeats. Otherwise
/// saves the keys. They are valid from the moment at which the event was stored.
fn apply_late_dedupe(
    conn: &Connection,
    jobs: &EventJobs,
    stored_at_ms: i64,
) -> rusqlite::Result<Option<EventId>> {
    let LateDedupe { source_key, body_key, window_ms, .. } = jobs.late_dedupe;
    let with_window = |key| DedupeKey { key, window_ms };
    let (source_key, delivery_key) = (source_key.map(with_window), body_key.map(with_window));
    let keys = DedupeCheck { source_key, delivery_key, ..DedupeCheck::default() };
    if let Some(original) = dedupe::find_original(conn, jobs.source, &keys, stored_at_ms)? {
        return Ok(Some(original));
    }
    if source_key.is_some() {
        dedupe::save_keys(conn, jobs.source, &keys, jobs.event, stored_at_ms)?;
    }
    // An event with many jobs stays deferred. After a crash it must not find its own key.
    conn.change("UPDATE deferred_events SET dedupe_at = NULL WHERE event = ?1", [jobs.event])?;
    Ok(None)
}

/// Records that an event turned out to be a duplicate. Inserts a cancelled job for each of its handlers.
fn cancel_duplicate(
    tx: &mut WriteTransaction<'_>,
    jobs: &EventJobs,
    original: EventId,
    budget: &mut RowBudget,
) -> rusqlite::Result<()> {
    budget.spend(2 + jobs.specs.len(), 0);
    if jobs.late_dedupe.retry_dead {
        let limit = dead_job_retries::MAX_RETRIED.min(budget.rows);
        let retried = dead_job_retries::retry_dead_jobs(tx, limit, jobs.source, original)?;
        budget.spend(retried, 0);
    }
    let sql = "SELECT ip, body FROM events WHERE id = ?1";
    tx.conn.find(sql, [jobs.event], |row| {
        let (ip, body) = (row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_bytes()?);
        dedupe::insert_duplicate(tx.conn, original, jobs.received_at_ms, ip, body)
    })?;
    tx.effects.minute_counts.add_duplicate(jobs.source);
    for (handler, _) in jobs.specs.iter().filter(|(_, spec)| spec.job_count() > 0) {
        let reason = format!("duplicate of event {original}");
        let origin = JobOrigin { handler: *handler, ..jobs.job_origin() };
        insert::insert_ended(tx, origin, Placement::Cancelled(reason))?;
    }
    end_deferral(tx, jobs)
}

/// Returns true if the jobs of an event are not inserted yet.
///
/// # Errors
/// The read failed.
pub fn is_deferred(conn: &Connection, event: EventId) -> rusqlite::Result<bool> {
    conn.value("SELECT EXISTS (SELECT 1 FROM deferred_events WHERE event = ?1)", [event])
}

/// Records that an event has all of its jobs, and that they are released.
fn end_deferral(tx: &mut WriteTransaction<'_>, jobs: &EventJobs) -> rusqlite::Result<()> {
    let counted = settle_event(tx.conn, jobs)?;
    tx.effects.adjust_queued(jobs.source, -counted);
    tx.effects.adjust_deferred(jobs.source, -1);
    Ok(())
}

/// Deletes the row of a deferred event, because its jobs are inserted. Returns how many queued jobs
/// the event counted as.
pub(super) fn settle_event(conn: &Connection, jobs: &EventJobs) -> rusqlite::Result<i64> {
    let sql = "DELETE FROM deferred_events WHERE event = ?1 RETURNING job_count";
    let counted = conn.value(sql, [jobs.event])?;
    if let Some(errors) = &jobs.expression_errors {
        // The body moves to other pages. No copy may be left in the old ones: `erase` could not reach the rest of a
        // page that another body fills in part.
        conn.execute_batch("PRAGMA secure_delete = ON")?;
        let written =
            conn.change("UPDATE events SET note = ?2 WHERE id = ?1", (jobs.event, errors));
        conn.execute_batch("PRAGMA secure_delete = OFF")?;
        written?;
    }
    Ok(counted)
}
