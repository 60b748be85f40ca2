//! How headers and their parts are read: strictly, and never with a panic. What can't be read is
//! told the trail in one of few fixed sentences, none of which shows what was sent.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::config::{Encoding, TimestampUnit};

/// The one sentence for every signature that is well formed and wrong.
pub(super) const MISMATCH: &str = "signature does not match";

/// Hex, or canonical base64 with its padding.
pub(super) fn decoded(encoding: Encoding, text: &[u8]) -> Result<Vec<u8>, &'static str> {
    match encoding {
        Encoding::Hex => hex::decode(text).map_err(|_| "signature is not hex"),
        Encoding::Base64 => STANDARD.decode(text).map_err(|_| "signature is not base64"),
    }
}

pub(super) fn encoded(encoding: Encoding, bytes: &[u8]) -> String {
    match encoding {
        Encoding::Hex => hex::encode(bytes),
        Encoding::Base64 => STANDARD.encode(bytes),
    }
}

/// What stands in `name=value` pairs, split at `separator`: those called `name`.
pub(super) fn named<'v>(
    value: &'v [u8],
    separator: u8,
    name: &str,
) -> impl Iterator<Item = &'v [u8]> {
    let name = format!("{name}=");
    value
        .split(move |&byte| byte == separator)
        .filter_map(move |part| part.strip_prefix(name.as_bytes()))
}

/// Both ways: a sender's clock may be ahead too.
pub(super) fn check_age(
    timestamp: &[u8],
    unit: TimestampUnit,
    tolerance_ms: i64,
    now_ms: i64,
) -> Result<(), String> {
    let number = std::str::from_utf8(timestamp).ok().and_then(|text| text.trim().parse().ok());
    let number: i64 = number.ok_or("timestamp is not a number")?;
    let at_ms = match unit {
        TimestampUnit::Seconds => number.saturating_mul(1000),
        TimestampUnit::Milliseconds => number,
    };
    check_moment(at_ms, tolerance_ms, now_ms)
}

pub(super) fn check_moment(at_ms: i64, tolerance_ms: i64, now_ms: i64) -> Result<(), String> {
    let age_ms = now_ms.saturating_sub(at_ms);
    let (off, max) = (age_ms.saturating_abs() / 1000, tolerance_ms / 1000);
    match age_ms {
        _ if age_ms.saturating_abs() <= tolerance_ms => Ok(()),
        1.. => Err(format!("timestamp is {off} s old: at most {max} s")),
        _ => Err(format!("timestamp is {off} s ahead: at most {max} s")),
    }
}

/// Seconds or milliseconds, as a sender writes them.
pub(super) fn stamp(unit: TimestampUnit, now_ms: i64) -> String {
    match unit {
        TimestampUnit::Seconds => now_ms.div_euclid(1000).to_string(),
        TimestampUnit::Milliseconds => now_ms.to_string(),
    }
}

/// As milliseconds; beyond a few hundred million years, the end of them.
pub(super) fn millis(tolerance: Option<std::time::Duration>) -> Option<i64> {
    tolerance.map(|it| i64::try_from(it.as_millis()).unwrap_or(i64::MAX))
}
