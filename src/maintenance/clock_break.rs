//! Clock jumps, and times in which no server ran.
//!
//! Ages are differences of the wall clock. If the clock of the machine is wrong, they are wrong too, and removed events
//! don't come back. So the rules of `retention` rest for a day, in which somebody may notice and correct the clock.

use std::time::Duration;

use crate::clock::ClockAnchor;
use crate::config::duration_text;

/// A longer jump or gap lets the rules rest.
const MAX_BREAK_MS: i64 = 86_400_000;

/// Returns what happened to the clock between two moments, if that makes the ages of events doubtful.
pub fn find_clock_break(before: &ClockAnchor, now: &ClockAnchor) -> Option<String> {
    let wall_ms = now.wall_ms - before.wall_ms;
    let text = |ms: i64| {
        // The two clocks are not read at the same moment.
        let minutes = (ms.unsigned_abs() + 30_000) / 60_000;
        duration_text(Duration::from_secs(minutes * 60))
    };
    let is_same_boot = before.boot_id == now.boot_id && !now.boot_id.is_empty();
    if is_same_boot {
        let boot_ms = now.boot_ms - before.boot_ms;
        let jump_ms = wall_ms - boot_ms;
        if jump_ms.abs() > MAX_BREAK_MS {
            let direction = if jump_ms > 0 { "forward" } else { "back" };
            return Some(format!("the clock jumped {direction} by {}", text(jump_ms)));
        }
        return (boot_ms > MAX_BREAK_MS)
            .then(|| format!("the trail has a gap of {}", text(boot_ms)));
    }
    if wall_ms > MAX_BREAK_MS {
        return Some(format!("the trail has a gap of {}", text(wall_ms)));
    }
    (wall_ms < -MAX_BREAK_MS).then(|| format!("the clock jumped back by {}", text(wall_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    fn at(wall_ms: i64, boot_ms: i64, boot_id: &str) -> ClockAnchor {
        ClockAnchor { database_ms: 0, wall_ms, boot_ms, boot_id: boot_id.into() }
    }

    fn after(wall_ms: i64, boot_ms: i64, boot_id: &str) -> Option<String> {
        find_clock_break(&at(1000 * DAY, 0, "a"), &at(1000 * DAY + wall_ms, boot_ms, boot_id))
    }

    #[test]
    fn a_clock_that_runs_on_is_no_break() {
        assert_eq!(after(DAY, DAY, "a"), None);
        assert_eq!(after(DAY, 5000, "b"), None);
        assert_eq!(after(3_600_000, 1000, "a"), None);
    }

    #[test]
    fn a_jump_in_either_direction_is_a_break() {
        assert_eq!(after(366 * DAY, DAY, "a").unwrap(), "the clock jumped forward by 365d");
        assert_eq!(after(365 * DAY - 1, 0, "a").unwrap(), "the clock jumped forward by 365d");
        assert_eq!(after(-365 * DAY, 0, "a").unwrap(), "the clock jumped back by 365d");
        assert_eq!(after(-365 * DAY, 5000, "b").unwrap(), "the clock jumped back by 365d");
    }

    #[test]
    fn a_gap_is_a_break_whether_or_not_the_machine_ran() {
        assert_eq!(after(2 * DAY, 2 * DAY, "a").unwrap(), "the trail has a gap of 2d");
        assert_eq!(after(2 * DAY, 5000, "b").unwrap(), "the trail has a gap of 2d");
    }
}
