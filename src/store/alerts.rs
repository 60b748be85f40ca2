//! Table `alerts`: conditions that the built-in source `hooktrail` reports. The transaction in
//! which a condition occurs records it. An event about it follows: for one type, source and handler
//! at most one per minute, with the count. Nothing is recorded unless a handler subscribes to that
//! source. The source's own jobs record nothing, so that an alert that fails causes no other alert.

use rusqlite::{Connection, params};

use super::backup_schedule;
use super::dead_job::DeadJob;
use super::effects::AlertCondition;
use super::events::{self, NewEvent};
use super::meta;
use super::sources;
use super::statements::Statements;
use super::write_transaction::WriteTransaction;
use super::writer_cache::SourceStatus;
use crate::domain::{EventId, HandlerId, JobId, SourceId};

/// Minimum time between two events of one type, source and handler.
const MIN_INTERVAL_MS: i64 = 60_000;

/// A condition that a thread other than the writer noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlertSignal {
    /// The source had no event for a long time.
    Silent(SourceId, String),
    /// The source rejected many requests in a row.
    Rejecting(SourceId, String),
    DiskLow(String),
    WalBlocked(String),
    BackupFailed(String),
    /// The newest backup is older than it should be.
    BackupOverdue(String),
    /// The certificate of `server.tls` expires soon, or has expired.
    CertificateExpiring(String),
}

/// The details of a condition, without its type.
#[derive(Default)]
struct AlertDetails<'a> {
    source: Option<SourceId>,
    handler: Option<HandlerId>,
    event: Option<EventId>,
    job: Option<JobId>,
    item: Option<i64>,
    attempts: Option<i64>,
    detail: Option<&'a str>,
}

/// Sets the source `hooktrail` if a handler subscribes to it, or `None`, which also discards
/// recorded conditions. Must be called within a transaction.
///
/// # Errors
/// The write failed.
pub fn set_subscriber(conn: &Connection, source: Option<SourceId>) -> rusqlite::Result<()> {
    meta::set(conn, "alerts", source)?;
    if source.is_none() {
        conn.execute("UPDATE alerts SET count = 0 WHERE count > 0", [])?;
    }
    Ok(())
}

/// Records an occurrence of a condition. The event describes the latest one.
fn record(
    tx: &WriteTransaction<'_>,
    kind: &str,
    details: &AlertDetails<'_>,
) -> rusqlite::Result<()> {
    tx.conn.change(
        "INSERT INTO alerts (type, source, handler, count, at, event, job, item, attempts, detail)
         VALUES (?1, coalesce((SELECT name FROM sources WHERE id = ?2), ''),
           coalesce((SELECT name FROM handlers WHERE id = ?3), ''), 1, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT DO UPDATE SET count = count + 1, at = excluded.at, event = excluded.event,
           job = excluded.job, item = excluded.item, attempts = excluded.attempts,
           detail = excluded.detail",
        params![
            kind,
            details.source,
            details.handler,
            tx.cache.wall_ms,
            details.event,
            details.job,
            details.item,
            details.attempts,
            details.detail,
        ],
    )?;
    Ok(())
}

/// Records the conditions that a change caused, within its transaction. Adds the jobs that became dead to the
/// effects.
///
/// # Errors
/// The write failed.
pub fn record_conditions(tx: &mut WriteTransaction<'_>) -> rusqlite::Result<()> {
    for condition in std::mem::take(&mut tx.effects.alerts) {
        match condition {
            AlertCondition::DeadJob(job, source) => {
                tx.effects.dead_jobs.extend(DeadJob::load(tx.conn, job)?);
                if tx.cache.should_alert(source) {
                    record_dead_job(tx, job, source)?;
                }
            }
            AlertCondition::UnhandledEvent(event, source) if tx.cache.should_alert(source) => {
                let (source, event) = (Some(source), Some(event));
                let details = AlertDetails { source, event, ..AlertDetails::default() };
                record(tx, "event.unhandled", &details)?;
            }
            AlertCondition::Breaker { handler, is_open, detail }
                if tx.cache.alert_source.is_some() =>
            {
                let kind =
                    if is_open { "handler.breaker_opened" } else { "handler.breaker_closed" };
                let (handler, detail) = (Some(handler), Some(&*detail));
                record(tx, kind, &AlertDetails { handler, detail, ..AlertDetails::default() })?;
            }
            AlertCondition::UnhandledEvent(..) | AlertCondition::Breaker { .. } => {}
        }
    }
    Ok(())
}

fn record_dead_job(
    tx: &WriteTransaction<'_>,
    job: JobId,
    source: SourceId,
) -> rusqlite::Result<()> {
    let sql = "SELECT event, handler, item, attempt, reason FROM jobs WHERE id = ?1";
    tx.conn.find(sql, [job], |row| {
        let (event, handler, item, attempts) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let detail = row.get_ref(4)?.as_str_or_null()?;
        let (source, job) = (Some(source), Some(job));
        record(
            tx,
            "job.dead",
            &AlertDetails { source, handler, event, job, item, attempts, detail },
        )
    })?;
    Ok(())
}

/// Records a condition that another thread noticed, if a handler subscribes to alerts.
pub(super) fn record_signal(
    tx: &mut WriteTransaction<'_>,
    signal: &AlertSignal,
) -> rusqlite::Result<()> {
    if tx.cache.alert_source.is_none() {
        return Ok(());
    }
    // A backup may have been made since the signal was sent, or the signal sent twice.
    if matches!(signal, AlertSignal::BackupOverdue(_))
        && !backup_schedule::claim_alert(tx.conn, tx.cache.now_ms)?
    {
        return Ok(());
    }
    let (kind, source, detail) = match signal {
        AlertSignal::DiskLow(detail) => ("disk.low", None, detail),
        AlertSignal::WalBlocked(detail) => ("wal.blocked", None, detail),
        AlertSignal::BackupFailed(detail) | AlertSignal::BackupOverdue(detail) => {
            ("backup.failed", None, detail)
        }
        AlertSignal::CertificateExpiring(detail) => ("certificate.expiring", None, detail),
        AlertSignal::Silent(source, detail) => ("source.silent", Some(*source), detail),
        AlertSignal::Rejecting(source, detail) => ("source.rejecting", Some(*source), detail),
    };
    if let Some(source) = source {
        // Once for each silence, and once until the source accepts a request again.
        let before = tx.cache.source_status.get(&source).copied().unwrap_or_default();
        let after = match signal {
            AlertSignal::Silent(..) => SourceStatus { is_silent: true, ..before },
            _ if before.has_accepted => SourceStatus { is_rejecting: true, ..before },
            _ => before,
        };
        if before == after {
            return Ok(());
        }
        sources::save_status(tx, source, after)?;
    }
    record(tx, kind, &AlertDetails { source, detail: Some(detail), ..AlertDetails::default() })
}

/// A recorded condition that becomes an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingAlert {
    pub kind: String,
    /// Empty if it does not apply, like `handler`.
    pub source: String,
    pub handler: String,
    pub count: i64,
    /// Wall clock, of the latest occurrence.
    pub at_ms: i64,
    pub event: Option<i64>,
    pub job: Option<i64>,
    pub item: Option<i64>,
    pub attempts: Option<i64>,
    pub detail: Option<String>,
}

/// Returns the conditions that may become events now, oldest first.
///
/// # Errors
/// The read failed.
pub fn load_pending(conn: &Connection, now_ms: i64) -> rusqlite::Result<Vec<PendingAlert>> {
    let sql =
        "SELECT type, source, handler, count, at, event, job, item, attempts, detail FROM alerts
               WHERE count > 0 AND coalesce(emitted_at, ?1) <= ?1 ORDER BY at, type DESC";
    conn.list(sql, [now_ms - MIN_INTERVAL_MS], |row| {
        let (kind, source, handler, count, at_ms, event, job, item, attempts, detail) =
            row.try_into()?;
        Ok(PendingAlert { kind, source, handler, count, at_ms, event, job, item, attempts, detail })
    })
}

/// A recorded condition and its event; the event is `None` if no handler wants it.
#[derive(Debug)]
pub struct AlertEvent {
    pub alert: PendingAlert,
    pub event: Option<NewEvent>,
}

/// Stores the event with its jobs and subtracts its count, in one transaction. Does nothing if the
/// same event is sent twice.
pub(super) fn emit(tx: &mut WriteTransaction<'_>, alert: &AlertEvent) -> rusqlite::Result<()> {
    let PendingAlert { kind, source, handler, count, .. } = &alert.alert;
    let now_ms = tx.cache.now_ms;
    let updated = tx.conn.change(
        "UPDATE alerts SET count = count - ?4, emitted_at = CASE WHEN ?5 THEN ?6 ELSE emitted_at END
         WHERE type = ?1 AND source = ?2 AND handler = ?3 AND count >= ?4
           AND coalesce(emitted_at, ?7) <= ?7",
        params![
            kind,
            source,
            handler,
            count,
            alert.event.is_some(),
            now_ms,
            now_ms - MIN_INTERVAL_MS
        ],
    )?;
    if let Some(new_event) = alert.event.as_ref().filter(|_| updated == 1) {
        events::insert_single_event(tx, new_event)?;
    }
    Ok(())
}
