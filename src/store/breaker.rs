//! The circuit breaker of a handler. It opens after too many failures in a row. Later it runs one
//! job as a probe, and closes if the probe succeeds or opens again if it fails. The state changes
//! in the transaction of the outcome and survives restarts. Each change is a row of the view
//! `breaker_log`.
//!
//! While the breaker is open, only the probe counts: jobs that were already running end without an
//! effect on it. The handler's clock stops until the breaker closes, as it does while the handler
//! is paused.

use std::collections::HashMap;

use rusqlite::{Connection, Row, params};

use super::alerts;
use super::jobs::AttemptRecord;
use super::writer_state::WriterState;
use crate::clock;
use crate::domain::{HandlerId, Outcome};

/// The key `breaker` of a handler, as each outcome carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Number of failures in a row that open the breaker; 0 disables it.
    pub failures: u32,
    pub pause_ms: i64,
}

impl BreakerPolicy {
    pub const NEVER: Self = Self { failures: 0, pause_ms: 0 };
}

/// The state of a handler's circuit breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BreakerState {
    /// Failures and timeouts in a row.
    pub consecutive_failures: u32,
    /// Open until this time, when a probe may run (database clock). `None`: closed.
    pub open_until_ms: Option<i64>,
    /// An alert was recorded when the breaker opened, so another one follows when it closes.
    is_alerted: bool,
}

/// Loads the state of each handler's breaker.
///
/// # Errors
/// The read failed.
pub fn load_breakers(conn: &Connection) -> rusqlite::Result<HashMap<HandlerId, BreakerState>> {
    let mut select = conn.prepare_cached(
        "SELECT consecutive_failures, breaker_open_until, breaker_alerted, id FROM handlers",
    )?;
    select.query_map([], |row| Ok((HandlerId(row.get(3)?), read(row)?)))?.collect()
}

fn read(row: &Row<'_>) -> rusqlite::Result<BreakerState> {
    Ok(BreakerState {
        consecutive_failures: row.get(0)?,
        open_until_ms: row.get(1)?,
        is_alerted: row.get(2)?,
    })
}

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
    conn: &Connection,
    state: &mut WriterState,
    record: &AttemptRecord,
) -> rusqlite::Result<()> {
    let before = state.breakers.get(&record.handler).copied().unwrap_or_default();
    let is_failure =
        matches!(record.outcome, Outcome::Failed | Outcome::TimedOut) && !record.is_permanent;
    let after = match (before.open_until_ms, record.outcome) {
        // The job was running before the breaker opened.
        (Some(_), _) if !record.is_probe => return Ok(()),
        (_, Outcome::Succeeded) => BreakerState::default(),
        (Some(_), _) if is_failure => open_breaker(state, record, before),
        // The probe is inconclusive: another job is the next probe.
        (Some(_), _) => {
            probe_inconclusive(state, record.handler, true);
            return Ok(());
        }
        (None, _) if is_failure => {
            let failures_in_row = before.consecutive_failures.saturating_add(1);
            match record.breaker.failures {
                0 => BreakerState::default(),
                failures if failures_in_row < failures => {
                    BreakerState { consecutive_failures: failures_in_row, ..before }
                }
                _ => open_breaker(state, record, before),
            }
        }
        (None, _) => return Ok(()),
    };
    if after == before {
        return Ok(());
    }
    let should_alert = after.is_alerted && !before.is_alerted;
    save(conn, state, record.handler, after)?;
    let change = match (before.open_until_ms, after.open_until_ms) {
        (_, Some(_)) => "opened",
        (Some(_), None) => "closed",
        (None, None) => return Ok(()),
    };
    let job = record.claim.job;
    let detail = match change {
        "opened" if record.is_probe => format!("probe job {job} failed: {}", record.detail),
        "opened" => {
            format!(
                "{} in a row, the last was job {job}: {}",
                after.consecutive_failures, record.detail
            )
        }
        _ => format!("job {job}: {}", record.detail),
    };
    log(conn, state.wall_ms, record.handler, change, &detail)?;
    if should_alert {
        alerts::record_breaker_change(
            conn,
            state.wall_ms,
            record.handler,
            alerts::BreakerTransition::Opened,
            &detail,
        )?;
    }
    if before.is_alerted && after.open_until_ms.is_none() {
        alerts::record_breaker_change(
            conn,
            state.wall_ms,
            record.handler,
            alerts::BreakerTransition::Closed,
            &detail,
        )?;
    }
    Ok(())
}

/// Returns the state of an open breaker. The first failure of a job that is no alert records the
/// alert, once until the breaker closes. Thus a handler that fails on alerts alone causes no more
/// of them.
fn open_breaker(state: &WriterState, record: &AttemptRecord, before: BreakerState) -> BreakerState {
    BreakerState {
        consecutive_failures: before.consecutive_failures.saturating_add(1),
        open_until_ms: Some(state.now_ms.saturating_add(record.breaker.pause_ms)),
        is_alerted: before.is_alerted || alerts::should_alert(state, record.source),
    }
}

fn save(
    conn: &Connection,
    state: &mut WriterState,
    handler: HandlerId,
    breaker: BreakerState,
) -> rusqlite::Result<()> {
    let changes = state.breakers.insert(handler, breaker).and_then(|breaker| breaker.open_until_ms)
        != breaker.open_until_ms;
    write(conn, handler, breaker, state.now_ms)?;
    if changes {
        state.changed_breakers.push(handler);
        state.reload_handlers(conn)?;
    }
    Ok(())
}

fn write(
    conn: &Connection,
    handler: HandlerId,
    breaker: BreakerState,
    now_ms: i64,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE handlers SET consecutive_failures = ?2, breaker_open_until = ?3, breaker_alerted = ?5,
           idle_ms = idle_ms + CASE WHEN ?3 IS NULL AND paused = 0
             THEN max(0, ?4 - coalesce(idle_since, ?4)) ELSE 0 END,
           idle_since = CASE WHEN ?3 IS NOT NULL THEN coalesce(idle_since, ?4)
             WHEN paused = 1 THEN idle_since END
         WHERE id = ?1",
    )?
    .execute(params![
        handler.0,
        breaker.consecutive_failures,
        breaker.open_until_ms,
        now_ms,
        breaker.is_alerted
    ])?;
    Ok(())
}

/// Applies the `breaker` of config.toml: closes the breaker if it is disabled now, and shortens an
/// open state that is longer than `pause`, such as after a change of the clock.
pub(super) fn apply_config(
    conn: &Connection,
    handler: HandlerId,
    breaker: BreakerPolicy,
    now_ms: i64,
) -> rusqlite::Result<()> {
    let sql = "SELECT consecutive_failures, breaker_open_until, breaker_alerted FROM handlers WHERE id = ?1";
    let before = conn.query_row(sql, [handler.0], read)?;
    let latest_ms = now_ms.saturating_add(breaker.pause_ms);
    let after = match breaker.failures {
        0 => BreakerState::default(),
        _ => BreakerState {
            open_until_ms: before.open_until_ms.map(|until_ms| until_ms.min(latest_ms)),
            ..before
        },
    };
    if after == before {
        return Ok(());
    }
    write(conn, handler, after, now_ms)?;
    if before.open_until_ms.is_some() && after.open_until_ms.is_none() {
        let (wall_ms, reason) = (clock::wall_ms(), "its breaker was disabled");
        log(conn, wall_ms, handler, "closed", reason)?;
        if before.is_alerted {
            alerts::record_breaker_change(
                conn,
                wall_ms,
                handler,
                alerts::BreakerTransition::Closed,
                reason,
            )?;
        }
    }
    Ok(())
}

/// Reports that a probe ended without a result: the next job is the probe.
pub(super) fn probe_inconclusive(state: &mut WriterState, handler: HandlerId, is_probe: bool) {
    if is_probe {
        state.changed_breakers.push(handler);
    }
}

/// Records that a job runs as the probe.
pub(super) fn log_probe(
    conn: &Connection,
    state: &WriterState,
    handler: HandlerId,
    job: i64,
) -> rusqlite::Result<()> {
    log(conn, state.wall_ms, handler, "probe", &format!("job {job}"))
}

fn log(
    conn: &Connection,
    wall_ms: i64,
    handler: HandlerId,
    change: &str,
    detail: &str,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO breaker_changes (at, handler, change, detail) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![wall_ms, handler.0, change, detail])?;
    Ok(())
}
