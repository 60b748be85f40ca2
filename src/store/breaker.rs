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
    let of = |handler| before.get(handler).and_then(|rest| rest.open_until_ms);
    let changed = after.iter().filter(|(handler, rest)| of(handler) != rest.open_until_ms);
    changed.map(|(&handler, _)| handler).collect()
}

/// Updates the breaker for an outcome.
pub(super) fn on_attempt(
    conn: &Connection,
    state: &mut WriterState,
    f: &AttemptRecord,
) -> rusqlite::Result<()> {
    let before = state.breakers.get(&f.handler).copied().unwrap_or_default();
    let failed = matches!(f.outcome, Outcome::Failed | Outcome::TimedOut) && !f.is_permanent;
    let after = match (before.open_until_ms, f.outcome) {
        // The job was running before the breaker opened.
        (Some(_), _) if !f.is_probe => return Ok(()),
        (_, Outcome::Succeeded) => BreakerState::default(),
        (Some(_), _) if failed => open_breaker(state, f, before),
        // The probe is inconclusive: another job is the next probe.
        (Some(_), _) => {
            probe_inconclusive(state, f.handler, true);
            return Ok(());
        }
        (None, _) if failed => {
            let streak = before.consecutive_failures.saturating_add(1);
            match f.breaker.failures {
                0 => BreakerState::default(),
                failures if streak < failures => {
                    BreakerState { consecutive_failures: streak, ..before }
                }
                _ => open_breaker(state, f, before),
            }
        }
        (None, _) => return Ok(()),
    };
    if after == before {
        return Ok(());
    }
    let tells = after.is_alerted && !before.is_alerted;
    set(conn, state, f.handler, after)?;
    let what = match (before.open_until_ms, after.open_until_ms) {
        (_, Some(_)) => "opened",
        (Some(_), None) => "closed",
        (None, None) => return Ok(()),
    };
    let job = f.claim.job;
    let detail = match what {
        "opened" if f.is_probe => format!("probe job {job} failed: {}", f.detail),
        "opened" => {
            format!("{} in a row, the last was job {job}: {}", after.consecutive_failures, f.detail)
        }
        _ => format!("job {job}: {}", f.detail),
    };
    log(conn, state.wall_ms, f.handler, what, &detail)?;
    if tells {
        alerts::record_breaker_change(
            conn,
            state.wall_ms,
            f.handler,
            alerts::BreakerTransition::Opened,
            &detail,
        )?;
    }
    if before.is_alerted && after.open_until_ms.is_none() {
        alerts::record_breaker_change(
            conn,
            state.wall_ms,
            f.handler,
            alerts::BreakerTransition::Closed,
            &detail,
        )?;
    }
    Ok(())
}

/// Returns the state of an open breaker. The first failure of a job that is no alert records the
/// alert, once until the breaker closes. Thus a handler that fails on alerts alone causes no more
/// of them.
fn open_breaker(state: &WriterState, f: &AttemptRecord, before: BreakerState) -> BreakerState {
    BreakerState {
        consecutive_failures: before.consecutive_failures.saturating_add(1),
        open_until_ms: Some(state.now_ms.saturating_add(f.breaker.pause_ms)),
        is_alerted: before.is_alerted || alerts::should_alert(state, f.source),
    }
}

fn set(
    conn: &Connection,
    state: &mut WriterState,
    handler: HandlerId,
    rest: BreakerState,
) -> rusqlite::Result<()> {
    let changes = state.breakers.insert(handler, rest).and_then(|rest| rest.open_until_ms)
        != rest.open_until_ms;
    write(conn, handler, rest, state.now_ms)?;
    if changes {
        state.changed_breakers.push(handler);
        state.read_idle(conn)?;
    }
    Ok(())
}

fn write(
    conn: &Connection,
    handler: HandlerId,
    rest: BreakerState,
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
        rest.consecutive_failures,
        rest.open_until_ms,
        now_ms,
        rest.is_alerted
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
        let (wall_ms, why) = (clock::wall_ms(), "its breaker was disabled");
        log(conn, wall_ms, handler, "closed", why)?;
        if before.is_alerted {
            alerts::record_breaker_change(
                conn,
                wall_ms,
                handler,
                alerts::BreakerTransition::Closed,
                why,
            )?;
        }
    }
    Ok(())
}

/// Reports that a probe ended without a result: the next job is the probe.
pub(super) fn probe_inconclusive(state: &mut WriterState, handler: HandlerId, on_trial: bool) {
    if on_trial {
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
    what: &str,
    detail: &str,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO breaker_changes (at, handler, change, detail) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![wall_ms, handler.0, what, detail])?;
    Ok(())
}
