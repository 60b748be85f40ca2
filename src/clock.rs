//! Clocks and random numbers. Only this module asks the system for either; all other code gets them from
//! here.
//!
//! There are three clocks: the wall clock for display (`received_at`, `at`), `Instant` for durations, and
//! the database clock for due times and job ages. The database clock continues with CLOCK_BOOTTIME from an
//! anchor in the database, so that a wall clock that jumps by a year delays and loses nothing. Across a
//! reboot only the wall clock knows how long the machine was off: it is used there, but never backwards.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use rustix::time::{ClockId, clock_gettime};

/// Returns the wall clock: milliseconds since 1970 in UTC.
#[expect(clippy::disallowed_methods, reason = "the wall clock is read here alone")]
pub fn wall_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
    }
}

/// Returns the milliseconds since the machine booted, including suspends. Nothing sets this clock.
#[expect(clippy::disallowed_methods, reason = "the boot clock is read here alone")]
pub fn boot_ms() -> i64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

/// Returns the random id that the kernel gave this boot.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Formats a time as ISO 8601 in UTC with milliseconds: `2026-11-23T10:00:00.123Z`.
pub fn format_rfc3339(ms: i64) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(at) => at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(),
        Err(_) => ms.to_string(),
    }
}

/// Formats a time for the name of a file, in UTC: `20261123T100000Z`.
pub fn format_compact(ms: i64) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(at) => at.strftime("%Y%m%dT%H%M%SZ").to_string(),
        Err(_) => ms.to_string(),
    }
}

/// Formats a time for people: the local date and time to the second, and the zone.
pub fn format_local(ms: i64) -> String {
    LocalTime::new(ms).map_or_else(|| ms.to_string(), |at| format!("{} {}", at.long(), at.zone()))
}

/// A time in the local zone, for people. If the system names no zone that it knows, this is UTC.
#[derive(Clone, Debug)]
pub struct LocalTime(Zoned);

impl LocalTime {
    /// Converts Unix milliseconds. Returns none if no calendar has such a year.
    pub fn new(ms: i64) -> Option<Self> {
        let zone = TimeZone::system();
        let zone = if zone.is_unknown() { TimeZone::UTC } else { zone };
        Some(Self(Timestamp::from_millisecond(ms).ok()?.to_zoned(zone)))
    }

    /// Parses a time as the views have it: `2026-11-23T10:00:00.123Z`.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 24 || !text.ends_with('Z') {
            return None;
        }
        Self::new(text.parse::<Timestamp>().ok()?.as_millisecond())
    }

    /// Unix milliseconds.
    pub fn unix_ms(&self) -> i64 {
        self.0.timestamp().as_millisecond()
    }

    /// The zone's abbreviation, or its offset if it has none: `CET`, `+03`.
    pub fn zone(&self) -> String {
        self.0.strftime("%Z").to_string()
    }

    /// The date and time to the second: `2026-11-23 10:00:00`.
    pub fn long(&self) -> String {
        self.0.strftime("%Y-%m-%d %H:%M:%S").to_string()
    }

    /// The date and time without the year, as journalctl prints them: `Nov 23 10:00:00`.
    pub fn short(&self) -> String {
        self.0.strftime("%b %d %H:%M:%S").to_string()
    }

    /// The time without the date: `10:00:00`.
    pub fn time(&self) -> String {
        self.0.strftime("%H:%M:%S").to_string()
    }

    pub fn is_same_day(&self, other: &Self) -> bool {
        self.0.date() == other.0.date()
    }

    pub fn is_same_year(&self, other: &Self) -> bool {
        self.0.year() == other.0.year()
    }
}

/// Parses an HTTP date (RFC 9110 section 5.6.7) into milliseconds since 1970.
pub fn http_date_ms(text: &str) -> Option<i64> {
    let since = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok()
}

/// Returns random bytes that cannot be guessed.
///
/// # Errors
/// The system has none. The caller must not continue without them.
#[expect(clippy::disallowed_methods, reason = "random bytes are drawn here alone")]
pub fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|e| anyhow::anyhow!("the system returned no random bytes: {e}"))?;
    Ok(bytes)
}

/// The number of ids that one system call draws. One call for each id would add a tenth to the cost of a
/// request.
const IDS_PER_DRAW: usize = 64;

/// Returns a random id of sixteen bytes.
///
/// # Errors
/// The system returned no random bytes.
pub fn random_id() -> anyhow::Result<[u8; 16]> {
    thread_local! {
        static IDS: RefCell<Vec<[u8; 16]>> = const { RefCell::new(Vec::new()) };
    }
    IDS.with_borrow_mut(|ids| {
        if ids.is_empty() {
            let drawn = random::<{ 16 * IDS_PER_DRAW }>()?;
            ids.extend_from_slice(drawn.as_chunks().0);
        }
        ids.pop().ok_or_else(|| anyhow::anyhow!("the system returned no random bytes"))
    })
}

/// Returns an id that begins with a time (UUIDv7, RFC 9562 section 5.7), so that what it belongs to can be found
/// without an index.
///
/// # Errors
/// The system returned no random bytes.
pub fn time_ordered_id(wall_ms: i64) -> anyhow::Result<[u8; 16]> {
    random_id().map(|random| with_time(wall_ms, random))
}

/// Puts a time into random bytes, or into others that tell ids of one millisecond apart.
pub fn with_time(wall_ms: i64, mut id: [u8; 16]) -> [u8; 16] {
    let ms = u64::try_from(wall_ms).unwrap_or(0).to_be_bytes();
    id[..6].copy_from_slice(&ms[2..]);
    id[6] = 0x70 | id[6] & 0x0f;
    id[8] = 0x80 | id[8] & 0x3f;
    id
}

/// Returns the time in an id of `time_ordered_id`, or `None` for another id.
pub fn time_of_id(id: &[u8; 16]) -> Option<i64> {
    let mut ms = [0; 8];
    ms[2..].copy_from_slice(&id[..6]);
    (id[6] >> 4 == 7 && id[8] >> 6 == 2).then_some(i64::from_be_bytes(ms))
}

/// Returns a random number from 0 up to 1 for jitter, or one half if the system has no random bytes.
pub fn random_unit_f64() -> f64 {
    match random::<4>() {
        Ok(bytes) => f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
        Err(_) => 0.5,
    }
}

/// One point in time on all clocks, as the database stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockAnchor {
    /// The database clock.
    pub database_ms: i64,
    pub wall_ms: i64,
    pub boot_ms: i64,
    pub boot_id: String,
}

impl ClockAnchor {
    /// The anchor of a new database: its clock starts at the wall clock.
    pub fn first() -> Self {
        let wall_ms = wall_ms();
        Self { database_ms: wall_ms, wall_ms, boot_ms: boot_ms(), boot_id: boot_id() }
    }

    /// Returns the database clock at the time that the other clocks show.
    pub fn advance(&self, wall_ms: i64, boot_ms: i64, boot_id: &str) -> i64 {
        let elapsed_ms = if self.boot_id == boot_id && !boot_id.is_empty() {
            boot_ms - self.boot_ms
        } else {
            wall_ms - self.wall_ms
        };
        self.database_ms + elapsed_ms.max(0)
    }
}

/// The database clock.
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock {
    /// Database time minus boot time.
    offset_ms: i64,
}

impl MonotonicClock {
    /// Continues from the anchor in the database.
    pub fn from_anchor(anchor: &ClockAnchor) -> Self {
        let boot = boot_ms();
        Self { offset_ms: anchor.advance(wall_ms(), boot, &boot_id()) - boot }
    }

    /// Returns the database clock in milliseconds.
    pub fn now_ms(self) -> i64 {
        boot_ms() + self.offset_ms
    }

    /// Returns an anchor of this moment, for the database to store.
    pub fn anchor(self) -> ClockAnchor {
        let boot = boot_ms();
        let database_ms = boot + self.offset_ms;
        ClockAnchor { database_ms, wall_ms: wall_ms(), boot_ms: boot, boot_id: boot_id() }
    }

    /// Converts a time of the database clock to the wall clock.
    pub fn to_wall_ms(self, database_ms: i64) -> i64 {
        wall_ms().saturating_add(database_ms.saturating_sub(self.now_ms()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR_MS: i64 = 365 * 86_400_000;

    fn anchor() -> ClockAnchor {
        ClockAnchor { database_ms: 1000, wall_ms: 50_000, boot_ms: 700, boot_id: "a".into() }
    }

    #[test]
    fn a_jump_of_the_wall_clock_does_not_move_the_database_clock() {
        for jump in [-YEAR_MS, 0, YEAR_MS] {
            assert_eq!(anchor().advance(50_000 + jump, 900, "a"), 1200);
        }
    }

    #[test]
    fn after_a_reboot_the_wall_clock_says_how_long_the_machine_was_off() {
        assert_eq!(anchor().advance(53_000, 5, "b"), 4000);
    }

    #[test]
    fn the_database_clock_never_goes_back() {
        assert_eq!(anchor().advance(50_000 - YEAR_MS, 5, "b"), 1000);
        assert_eq!(anchor().advance(50_000 - YEAR_MS, 5, ""), 1000);
    }

    #[test]
    fn an_id_has_the_time_and_the_layout_of_a_uuid_of_version_7() {
        // RFC 9562 appendix A.6.
        let random = 0x0000_0000_0000_0cc3_18c4_dc0c_0c07_398f_u128.to_be_bytes();
        let expected = 0x017f_22e2_79b0_7cc3_98c4_dc0c_0c07_398f_u128.to_be_bytes();
        assert_eq!(with_time(1_645_557_742_000, random), expected);
        assert_eq!(time_of_id(&expected), Some(1_645_557_742_000));
        assert_eq!(time_of_id(&[0; 16]), None);
        let ids = [time_ordered_id(7).unwrap(), time_ordered_id(7).unwrap()];
        assert!(ids[0] != ids[1] && ids.iter().all(|id| time_of_id(id) == Some(7)));
    }

    #[test]
    fn times_are_formatted_with_milliseconds() {
        assert_eq!(format_rfc3339(1_795_000_000_123), "2026-11-18T11:06:40.123Z");
    }
}
