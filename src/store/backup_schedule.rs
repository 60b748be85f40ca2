//! When backups are expected: rows of the table `meta`. `hooktrail backup --every` sets them, and the server raises
//! an alert when the newest backup is too old.
//!
//! Times are on the database clock, so that a jump of the wall clock makes no backup overdue.

use std::time::Duration;

use rusqlite::Connection;

use super::meta;
use super::statements::Statements;
use crate::clock::MonotonicClock;

const PERIOD: &str = "backup_period_ms";
const MADE_AT: &str = "backup_made_at";
const ALERT_AT: &str = "backup_alert_at";

/// The expected backups of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupSchedule {
    pub period_ms: i64,
    /// When the newest backup began, or since when backups are expected.
    made_at_ms: i64,
    /// When the next alert is due, unless a backup is made before.
    alert_at_ms: i64,
}

/// A change of the schedule after a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleChange {
    /// The next backup is expected after the same period as before, if one is expected at all.
    Keep,
    Every {
        period_ms: i64,
    },
    Off,
}

impl BackupSchedule {
    fn new(period_ms: i64, made_at_ms: i64) -> Self {
        let schedule = Self { period_ms, made_at_ms, alert_at_ms: 0 };
        Self { alert_at_ms: schedule.overdue_at_ms(), ..schedule }
    }

    /// Reads the schedule. `None`: no backup is expected.
    ///
    /// # Errors
    /// The read failed.
    pub fn load(conn: &Connection) -> rusqlite::Result<Option<Self>> {
        let sql = "SELECT (SELECT value FROM meta WHERE name = ?1),
                     (SELECT value FROM meta WHERE name = ?2), (SELECT value FROM meta WHERE name = ?3)";
        let found: Option<(Option<i64>, Option<i64>, Option<i64>)> =
            conn.find(sql, [PERIOD, MADE_AT, ALERT_AT], |row| row.try_into())?;
        let Some((Some(period_ms), Some(made_at_ms), Some(alert_at_ms))) = found else {
            return Ok(None);
        };
        Ok(Some(Self { period_ms, made_at_ms, alert_at_ms }))
    }

    fn save(self, conn: &Connection) -> rusqlite::Result<()> {
        meta::set(conn, PERIOD, self.period_ms)?;
        meta::set(conn, MADE_AT, self.made_at_ms)?;
        meta::set(conn, ALERT_AT, self.alert_at_ms)
    }

    /// A backup may be late by half a period: timers spread their starts, and a backup takes its time.
    fn overdue_at_ms(self) -> i64 {
        self.made_at_ms.saturating_add(self.period_ms).saturating_add(self.period_ms / 2)
    }

    /// Whether the newest backup is older than it should be.
    pub fn is_overdue(self, now_ms: i64) -> bool {
        now_ms >= self.overdue_at_ms()
    }

    /// Whether it is overdue, and no alert of this period was raised.
    pub fn should_alert(self, now_ms: i64) -> bool {
        now_ms >= self.alert_at_ms
    }

    /// The next alert follows after one more period without a backup.
    fn after_alert(self, now_ms: i64) -> Self {
        let periods = (now_ms - self.alert_at_ms).max(0) / self.period_ms.max(1) + 1;
        let alert_at_ms =
            self.alert_at_ms.saturating_add(periods.saturating_mul(self.period_ms.max(1)));
        Self { alert_at_ms, ..self }
    }

    /// Describes an overdue backup: the time of the newest one on the wall clock, and the period.
    pub fn describe(
        self,
        clock: MonotonicClock,
        time_text: impl Fn(i64) -> String,
        period_text: impl Fn(Duration) -> String,
    ) -> String {
        let since = time_text(clock.to_wall_ms(self.made_at_ms));
        let period = Duration::from_millis(u64::try_from(self.period_ms).unwrap_or(0));
        format!("no backup since {since}; expected every {}", period_text(period))
    }
}

/// Expects backups from now on. An earlier schedule with the same period stays as it is.
pub(super) fn expect(conn: &Connection, now_ms: i64, period_ms: i64) -> rusqlite::Result<()> {
    match BackupSchedule::load(conn)? {
        Some(before) if before.period_ms == period_ms => Ok(()),
        before => {
            let made_at_ms = before.map_or(now_ms, |before| before.made_at_ms);
            BackupSchedule::new(period_ms, made_at_ms).save(conn)
        }
    }
}

/// Records a backup that began at this time.
pub(super) fn record(
    conn: &Connection,
    began_at_ms: i64,
    change: ScheduleChange,
) -> rusqlite::Result<()> {
    let before = BackupSchedule::load(conn)?;
    let period_ms = match change {
        ScheduleChange::Every { period_ms } => Some(period_ms),
        ScheduleChange::Keep => before.map(|before| before.period_ms),
        ScheduleChange::Off => {
            let sql = "DELETE FROM meta WHERE name IN (?1, ?2, ?3)";
            conn.change(sql, [PERIOD, MADE_AT, ALERT_AT])?;
            None
        }
    };
    let Some(period_ms) = period_ms else { return Ok(()) };
    // Another backup may have begun later, and ended earlier.
    let made_at_ms = before.map_or(began_at_ms, |before| before.made_at_ms.max(began_at_ms));
    BackupSchedule::new(period_ms, made_at_ms).save(conn)
}

/// Starts the period of a restored database again: the backup in it does not know that it was made.
///
/// # Errors
/// The write failed.
pub(super) fn restart(conn: &Connection, clock: MonotonicClock) -> rusqlite::Result<()> {
    match BackupSchedule::load(conn)? {
        Some(before) => BackupSchedule::new(before.period_ms, clock.now_ms()).save(conn),
        None => Ok(()),
    }
}

/// Returns whether an alert is due now, and records that it was raised.
pub(super) fn claim_alert(conn: &Connection, now_ms: i64) -> rusqlite::Result<bool> {
    let due = BackupSchedule::load(conn)?.filter(|schedule| schedule.should_alert(now_ms));
    due.map_or(Ok(false), |schedule| schedule.after_alert(now_ms).save(conn).map(|()| true))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn a_backup_is_overdue_after_one_and_a_half_periods() {
        let schedule = BackupSchedule::new(24 * HOUR, 100);
        for (hours, is_overdue) in [(0, false), (24, false), (35, false), (36, true), (1000, true)]
        {
            let now_ms = 100 + hours * HOUR;
            assert_eq!(schedule.is_overdue(now_ms), is_overdue, "{hours}");
            assert_eq!(schedule.should_alert(now_ms), is_overdue, "{hours}");
        }
    }

    #[test]
    fn each_further_period_without_a_backup_is_one_alert() {
        let mut schedule = BackupSchedule::new(24 * HOUR, 0);
        let mut alerts = Vec::new();
        for hour in 0..100 {
            if schedule.should_alert(hour * HOUR) {
                alerts.push(hour);
                schedule = schedule.after_alert(hour * HOUR);
            }
        }
        assert_eq!(alerts, [36, 60, 84]);
        // A server that was down for long raises one.
        let late = BackupSchedule::new(24 * HOUR, 0).after_alert(1000 * HOUR);
        assert!(!late.should_alert(1001 * HOUR) && late.should_alert(1024 * HOUR));
        assert!(late.is_overdue(1001 * HOUR));
    }

    #[test]
    fn the_longest_and_the_shortest_period_overflow_nothing() {
        let longest = BackupSchedule::new(i64::MAX, i64::MAX);
        assert!(!longest.after_alert(i64::MAX).should_alert(0));
        let shortest = BackupSchedule { period_ms: 0, ..BackupSchedule::new(0, 0) };
        assert!(shortest.after_alert(5).alert_at_ms > 5);
    }
}
