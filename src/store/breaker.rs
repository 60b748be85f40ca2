//! The circuit breaker of a handler. It opens after too many failures in a row. Later it runs one
//! job as a probe, and closes if the probe succeeds or opens again if it fails. The state changes
//! in the transaction of the outcome and survives restarts. Each change is a row of the view
//! `breaker_log`.
//!
//! While the breaker is open, only the probe counts: jobs that were already running end without an
//! effect on it. The handler's clock stops until the breaker closes, as it does while the handler
//! is paused.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use super::bounded_log::{self, BoundedLog};
use super::effects::{AlertCondition, Effects};
use super::jobs::AttemptRecord;
use super::statements::Statements;
use super::write_transaction::WriteTransaction;
use super::writer_cache::{WriterCache, read_breaker};
use crate::clock;
use crate::domain::breaker::{BreakerPolicy, BreakerState};
use crate::domain::{HandlerId, JobId, Outcome};

/// Returns the handlers whose breaker opened, closed, or changed its time.
pub(super) fn changed_handlers(
    before: &HashMap<HandlerId, BreakerState>,
    after: &HashMap<HandlerId, BreakerState>,
) -> Vec<HandlerId> {
    let open_until = |handler| before.get(handler).and_then(|breaker| breaker.open_until_ms);
    let changed =
        after.iter().filter(|(handler, breaker)| open_until(handler) != breaker.open_until_ms);
    changed.map(|(&handler, _)| handler).collect()
}

/// Updates the breaker for an outcome.
pub(super) fn on_attempt(
    tx: &mut WriteTransaction<'_>,
    record: &AttemptRecord,
) -> rusqlite::Result<()> {
    let before = tx.cache.breaker(record.handler);
    let is_failure =
        matches!(record.outcome, Outcome::Failed | Outcome::TimedOut) && !record.is_permanent;
    let after = match (before.open_until_ms, record.outcome) {
        // The job was running before the breaker opened.
        (Some(_), _) if !record.is_probe => return Ok(()),
        (_, Outcome::Succeeded) => BreakerState::default(),
        (Some(_), _) if is_failure => open_breaker(tx.cache, record, before),
        // The probe is inconclusive: another job is the next probe.
        (Some(_), _) => {
            end_probe(tx.cache, record.handler, true, tx.effects);
            return Ok(());
        }
        (None, _) if is_failure => {
            let failures_in_row = before.consecutive_failures.saturating_add(1);
            match record.breaker.failures {
                0 => BreakerState::default(),
                failures if failures_in_row < failures => {
                    BreakerState { consecutive_failures: failures_in_row, ..before }
                }
                _ => open_breaker(tx.cache, record, before),
            }
        }
        (None, _) => return Ok(()),
    };
    if after == before {
        return Ok(());
    }
    write(tx.conn, record.handler, after, tx.cache.now_ms)?;
    tx.cache.breakers.insert(record.handler, after);
    if after.open_until_ms == before.open_until_ms {
        return Ok(());
    }
    // The handler's clock stops or continues.
    tx.cache.reload_handlers(tx.conn)?;
    tx.effects.breakers.push((record.handler, after));
    let is_open = after.open_until_ms.is_some();
    let job = record.claim.job;
    let detail = match is_open {
        true if record.is_probe => format!("probe job {job} failed: {}", record.detail),
        true => format!(
            "{} in a row, the last was job {job}: {}",
            after.consecutive_failures, record.detail
        ),
        false => format!("job {job}: {}", record.detail),
    };
    let change = if is_open { "opened" } else { "closed" };
    log(tx.conn, tx.cache.wall_ms, record.handler, change, &detail)?;
    let is_reported = match is_open {
        true => after.is_alerted && !before.is_alerted,
        false => before.is_alerted,
    };
    if is_reported {
        let handler = record.handler;
        tx.effects.alerts.push(AlertCondition::Breaker { handler, is_open, detail });
    }
    Ok(())
}

/// Returns the state of an open breaker. The first failure of a job that is no alert records the
/// alert, once until the breaker closes. Thus a handler that fails on alerts alone causes no more
/// of them.
fn open_breaker(cache: &WriterCache, record: &AttemptRecord, before: BreakerState) -> BreakerState {
    BreakerState {
        consecutive_failures: before.consecutive_failures.saturating_add(1),
        open_until_ms: Some(cache.now_ms.saturating_add(record.breaker.pause_ms)),
        is_alerted: before.is_alerted || cache.should_alert(record.source),
    }
}

fn write(
    conn: &Connection,
    handler: HandlerId,
    breaker: BreakerState,
    now_ms: i64,
) -> rusqlite::Result<()> {
    conn.change(
        "UPDATE handlers SET consecutive_failures = ?2, breaker_open_until = ?3, breaker_alerted = ?5,
           idle_ms = idle_ms + CASE WHEN ?3 IS NULL AND paused = 0
             THEN max(0, ?4 - coalesce(idle_since, ?4)) ELSE 0 END,
           idle_since = CASE WHEN ?3 IS NOT NULL THEN coalesce(idle_since, ?4)
             WHEN paused = 1 THEN idle_since END
         WHERE id = ?1",
        params![
            handler,
            breaker.consecutive_failures,
            breaker.open_until_ms,
            now_ms,
            breaker.is_alerted
        ],
    )?;
    Ok(())
}

/// Applies the `breaker` of config.toml: closes the breaker if it is disabled now, and shortens an
/// open state that is longer than `pause`, such as after a change of the clock. Returns the condition of
/// an alert.
pub(super) fn apply_config(
    conn: &Connection,
    handler: HandlerId,
    breaker: BreakerPolicy,
    now_ms: i64,
) -> rusqlite::Result<Option<AlertCondition>> {
    let sql = "SELECT consecutive_failures, breaker_open_until, breaker_alerted FROM handlers WHERE id = ?1";
    let before = conn.query_row(sql, [handler], read_breaker)?;
    let latest_ms = now_ms.saturating_add(breaker.pause_ms);
    let after = match breaker.failures {
        0 => BreakerState::default(),
        _ => BreakerState {
            open_until_ms: before.open_until_ms.map(|until_ms| until_ms.min(latest_ms)),
            ..before
        },
    };
    if after == before {
        return Ok(None);
    }
    write(conn, handler, after, now_ms)?;
    if before.open_until_ms.is_none() || after.open_until_ms.is_some() {
        return Ok(None);
    }
    let reason = "its breaker was disabled";
    log(conn, clock::wall_ms(), handler, "closed", reason)?;
    let condition = AlertCondition::Breaker { handler, is_open: false, detail: reason.to_owned() };
    Ok(before.is_alerted.then_some(condition))
}

/// Reports that a probe ended without a result: the next job is the probe.
pub(super) fn end_probe(
    cache: &WriterCache,
    handler: HandlerId,
    is_probe: bool,
    effects: &mut Effects,
) {
    if is_probe {
        effects.breakers.push((handler, cache.breaker(handler)));
    }
}

/// Records that a job runs as the probe.
pub(super) fn log_probe(
    tx: &WriteTransaction<'_>,
    handler: HandlerId,
    job: JobId,
) -> rusqlite::Result<()> {
    log(tx.conn, tx.cache.wall_ms, handler, "probe", &format!("job {job}"))
}

fn log(
    conn: &Connection,
    wall_ms: i64,
    handler: HandlerId,
    change: &str,
    detail: &str,
) -> rusqlite::Result<()> {
    let sql = "INSERT INTO breaker_changes (at, handler, change, detail) VALUES (?1, ?2, ?3, ?4)";
    conn.change(sql, (wall_ms, handler, change, detail))?;
    bounded_log::trim(conn, BoundedLog::BreakerChanges)
}
