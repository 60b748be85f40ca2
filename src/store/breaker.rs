//! The breaker: a handler that failed too often in a row rests, then has one job on trial, and
//! recovers or rests again. Decided in the transaction of the outcome, kept over restarts; each change
//! is a row of the view `rests`.
//!
//! While it rests only the trial counts: what ran before ends as it may. A handler's own clock stands
//! still from the rest's beginning to the recovery, as it does while it is paused.

use std::collections::HashMap;

use rusqlite::{Connection, Row, params};

use super::alerts;
use super::jobs::AttemptRecord;
use super::writer_state::WriterState;
use crate::clock;
use crate::domain::{HandlerId, Outcome};

/// `breaker = { … }`, as an outcome brings it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// So many in a row; 0: never.
    pub failures: u32,
    pub pause_ms: i64,
}

impl BreakerPolicy {
    pub const NEVER: Self = Self { failures: 0, pause_ms: 0 };
}

/// How a handler's breaker stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BreakerState {
    /// What failed or timed out in a row.
    pub consecutive_failures: u32,
    /// On the trail's clock; `None`: it does not rest.
    pub until_ms: Option<i64>,
    /// Whoever takes alerts was told that it rests, and is to be told of its recovery.
    is_alerted: bool,
}

/// How each handler's stands.
///
/// # Errors
/// The read failed.
pub fn all(conn: &Connection) -> rusqlite::Result<HashMap<HandlerId, BreakerState>> {
    let mut select = conn
        .prepare_cached("SELECT streak, breaker_open_until, breaker_alerted, id FROM handlers")?;
    select.query_map([], |row| Ok((HandlerId(row.get(3)?), read(row)?)))?.collect()
}

fn read(row: &Row<'_>) -> rusqlite::Result<BreakerState> {
    Ok(BreakerState {
        consecutive_failures: row.get(0)?,
        until_ms: row.get(1)?,
        is_alerted: row.get(2)?,
    })
}

/// Who began to rest, rests for another time, or rests no more.
pub(super) fn diff(
    before: &HashMap<HandlerId, BreakerState>,
    after: &HashMap<HandlerId, BreakerState>,
) -> Vec<HandlerId> {
    let of = |handler| before.get(handler).and_then(|rest| rest.until_ms);
    let changed = after.iter().filter(|(handler, rest)| of(handler) != rest.until_ms);
    changed.map(|(&handler, _)| handler).collect()
}

/// Takes an outcome into account.
pub(super) fn on_attempt(
    conn: &Connection,
    state: &mut WriterState,
    f: &AttemptRecord,
) -> rusqlite::Result<()> {
    let before = state.rests.get(&f.handler).copied().unwrap_or_default();
    let failed = matches!(f.outcome, Outcome::Failed | Outcome::TimedOut) && !f.is_permanent;
    let after = match (before.until_ms, f.outcome) {
        // Not of the trial, but of what ran before it.
        (Some(_), _) if !f.on_trial => return Ok(()),
        (_, Outcome::Succeeded) => BreakerState::default(),
        (Some(_), _) if failed => open_breaker(state, f, before),
        // It tells nothing: another job is on trial.
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
    let what = match (before.until_ms, after.until_ms) {
        (_, Some(_)) => "opened",
        (Some(_), None) => "closed",
        (None, None) => return Ok(()),
    };
    let job = f.claim.job;
    let detail = match what {
        "opened" if f.on_trial => format!("job {job} failed on trial: {}", f.detail),
        "opened" => {
            format!("{} in a row, the last was job {job}: {}", after.consecutive_failures, f.detail)
        }
        _ => format!("job {job}: {}", f.detail),
    };
    log(conn, state.wall_ms, f.handler, what, &detail)?;
    if tells {
        alerts::breaker(
            conn,
            state.wall_ms,
            f.handler,
            alerts::BreakerTransition::Resting,
            &detail,
        )?;
    }
    if before.is_alerted && after.until_ms.is_none() {
        alerts::breaker(
            conn,
            state.wall_ms,
            f.handler,
            alerts::BreakerTransition::Recovered,
            &detail,
        )?;
    }
    Ok(())
}

/// It rests (again). That is told once, by the first failure that is not of an alert's own job: so that
/// a handler that can't even tell alerts makes none.
fn open_breaker(state: &WriterState, f: &AttemptRecord, before: BreakerState) -> BreakerState {
    BreakerState {
        consecutive_failures: before.consecutive_failures.saturating_add(1),
        until_ms: Some(state.now_ms.saturating_add(f.breaker.pause_ms)),
        is_alerted: before.is_alerted || alerts::should_alert(state, f.source),
    }
}

fn set(
    conn: &Connection,
    state: &mut WriterState,
    handler: HandlerId,
    rest: BreakerState,
) -> rusqlite::Result<()> {
    let changes = state.rests.insert(handler, rest).and_then(|rest| rest.until_ms) != rest.until_ms;
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
        "UPDATE handlers SET streak = ?2, breaker_open_until = ?3, breaker_alerted = ?5,
           idle_ms = idle_ms + CASE WHEN ?3 IS NULL AND paused = 0
             THEN max(0, ?4 - coalesce(idle_since, ?4)) ELSE 0 END,
           idle_since = CASE WHEN ?3 IS NOT NULL THEN coalesce(idle_since, ?4)
             WHEN paused = 1 THEN idle_since END
         WHERE id = ?1",
    )?
    .execute(params![
        handler.0,
        rest.consecutive_failures,
        rest.until_ms,
        now_ms,
        rest.is_alerted
    ])?;
    Ok(())
}

/// Takes over what config.toml says now: where it says never, a rest is over; no rest is longer than
/// `pause` from now on, whatever the clock did.
pub(super) fn apply_config(
    conn: &Connection,
    handler: HandlerId,
    breaker: BreakerPolicy,
    now_ms: i64,
) -> rusqlite::Result<()> {
    let sql = "SELECT streak, breaker_open_until, breaker_alerted FROM handlers WHERE id = ?1";
    let before = conn.query_row(sql, [handler.0], read)?;
    let latest_ms = now_ms.saturating_add(breaker.pause_ms);
    let after = match breaker.failures {
        0 => BreakerState::default(),
        _ => BreakerState {
            until_ms: before.until_ms.map(|until_ms| until_ms.min(latest_ms)),
            ..before
        },
    };
    if after == before {
        return Ok(());
    }
    write(conn, handler, after, now_ms)?;
    if before.until_ms.is_some() && after.until_ms.is_none() {
        let (wall_ms, why) = (clock::wall_ms(), "its breaker was turned off");
        log(conn, wall_ms, handler, "closed", why)?;
        if before.is_alerted {
            alerts::breaker(conn, wall_ms, handler, alerts::BreakerTransition::Recovered, why)?;
        }
    }
    Ok(())
}

/// A job on trial is over and told nothing: another is next.
pub(super) fn probe_inconclusive(state: &mut WriterState, handler: HandlerId, on_trial: bool) {
    if on_trial {
        state.changed_breakers.push(handler);
    }
}

/// A job is on trial.
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
