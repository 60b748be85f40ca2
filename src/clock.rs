//! Time and chance, the only place that asks for either; everything else is given them.
//!
//! Three clocks. The wall clock is for people (`received_at`, `at`). `Instant` measures lengths. The
//! trail's clock decides what is due and how old a job is: it runs on with CLOCK_BOOTTIME, anchored
//! in the file, so that a wall clock that leaps a year either way delays nothing and loses nothing.
//! Across a reboot only the wall clock knows how long the machine was off: there it is believed,
//! but never backwards.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustix::time::{ClockId, clock_gettime};

/// The wall clock, milliseconds since 1970 in UTC.
#[expect(clippy::disallowed_methods, reason = "the wall clock is read here alone")]
pub fn wall_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
    }
}

/// Milliseconds since the machine was started, sleep included; never set by anybody.
#[expect(clippy::disallowed_methods, reason = "the boot clock is read here alone")]
pub fn boot_ms() -> i64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

/// The random name that the kernel gave this run of the machine.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// ISO 8601 in UTC with milliseconds: `2026-11-23T10:00:00.123Z`.
pub fn format_rfc3339(ms: i64) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(at) => at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(),
        Err(_) => ms.to_string(),
    }
}

/// For people: the local date and time to the second.
pub fn format_local(ms: i64) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(at) => at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => ms.to_string(),
    }
}

/// A moment as HTTP writes it (RFC 9110 section 5.6.7), in milliseconds since 1970.
pub fn http_date_ms(text: &str) -> Option<i64> {
    let since = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok()
}

/// Bytes nobody can guess.
///
/// # Errors
/// The system gave none; what needs them must not go on without.
#[expect(clippy::disallowed_methods, reason = "random bytes are drawn here alone")]
pub fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| anyhow::anyhow!("no random bytes to be had: {e}"))?;
    Ok(bytes)
}

/// Names are drawn this many at a time: a system call for each would cost intake as much as a tenth
/// of a request.
const NAMES_AT_ONCE: usize = 64;

/// Sixteen bytes nobody can guess, for a name.
///
/// # Errors
/// The system gave none.
pub fn random_id() -> anyhow::Result<[u8; 16]> {
    thread_local! {
        static NAMES: RefCell<Vec<[u8; 16]>> = const { RefCell::new(Vec::new()) };
    }
    NAMES.with_borrow_mut(|names| {
        if names.is_empty() {
            let drawn = random::<{ 16 * NAMES_AT_ONCE }>()?;
            names.extend_from_slice(drawn.as_chunks().0);
        }
        names.pop().ok_or_else(|| anyhow::anyhow!("no random bytes to be had"))
    })
}

/// A number from 0 up to 1, for jitter: one half where the system gives no chance.
pub fn random_unit_f64() -> f64 {
    match random::<4>() {
        Ok(bytes) => f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
        Err(_) => 0.5,
    }
}

/// A moment by all three clocks, as the file keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockAnchor {
    pub logical_ms: i64,
    pub wall_ms: i64,
    pub boot_ms: i64,
    pub boot_id: String,
}

impl ClockAnchor {
    /// This moment, before there was a trail.
    pub fn first() -> Self {
        let wall_ms = wall_ms();
        Self { logical_ms: wall_ms, wall_ms, boot_ms: boot_ms(), boot_id: boot_id() }
    }

    /// What the trail's clock shows when the others show these.
    pub fn advance(&self, wall_ms: i64, boot_ms: i64, boot_id: &str) -> i64 {
        let passed = if self.boot_id == boot_id && !boot_id.is_empty() {
            boot_ms - self.boot_ms
        } else {
            wall_ms - self.wall_ms
        };
        self.logical_ms + passed.max(0)
    }
}

/// The trail's clock.
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock {
    /// Trail time less boot time.
    offset_ms: i64,
}

impl MonotonicClock {
    /// Goes on from where the file's anchor stood.
    pub fn from_anchor(anchor: &ClockAnchor) -> Self {
        let boot = boot_ms();
        Self { offset_ms: anchor.advance(wall_ms(), boot, &boot_id()) - boot }
    }

    /// Now, in milliseconds on the trail's clock.
    pub fn now_ms(self) -> i64 {
        boot_ms() + self.offset_ms
    }

    /// This moment, to be kept in the file.
    pub fn anchor(self) -> ClockAnchor {
        let boot = boot_ms();
        let trail_ms = boot + self.offset_ms;
        ClockAnchor { logical_ms: trail_ms, wall_ms: wall_ms(), boot_ms: boot, boot_id: boot_id() }
    }

    /// What the wall clock will show when the trail's clock shows `trail_ms`.
    pub fn to_wall_ms(self, trail_ms: i64) -> i64 {
        wall_ms().saturating_add(trail_ms.saturating_sub(self.now_ms()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR_MS: i64 = 365 * 86_400_000;

    fn anchor() -> ClockAnchor {
        ClockAnchor { logical_ms: 1000, wall_ms: 50_000, boot_ms: 700, boot_id: "a".into() }
    }

    #[test]
    fn a_leap_of_the_wall_clock_does_not_move_the_trails_clock() {
        for leap in [-YEAR_MS, 0, YEAR_MS] {
            assert_eq!(anchor().advance(50_000 + leap, 900, "a"), 1200);
        }
    }

    #[test]
    fn after_a_reboot_the_wall_clock_says_how_long_the_machine_was_off() {
        assert_eq!(anchor().advance(53_000, 5, "b"), 4000);
    }

    #[test]
    fn the_trails_clock_never_goes_back() {
        assert_eq!(anchor().advance(50_000 - YEAR_MS, 5, "b"), 1000);
        assert_eq!(anchor().advance(50_000 - YEAR_MS, 5, ""), 1000);
    }

    #[test]
    fn a_moment_is_written_with_milliseconds() {
        assert_eq!(format_rfc3339(1_795_000_000_123), "2026-11-18T11:06:40.123Z");
    }
}
