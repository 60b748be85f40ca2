//! Parses durations, sizes, rates, addresses, networks and names, and words the errors about them.
//!
//! These are pure functions. Each returns a value or the remedy that the error ends with;
//! `toml_reader` adds the location.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use toml::de::DeValue;

use super::{Listen, Rate};

pub(super) const DURATION: &str = r#"expected a duration such as "30s""#;
pub(super) const SIZE: &str = r#"expected a size such as "1 MiB", or a number of bytes"#;
pub(super) const RATE: &str = r#"expected a rate such as "100/s", "100/m" or "100/h""#;
pub(super) const NETWORK: &str = r#"expected a network such as "10.0.0.0/8" or "2001:db8::/32""#;
pub(super) const LISTEN: &str =
    r#"expected an address such as "127.0.0.1:8080", "[::1]:8080" or "unix:/run/hooktrail.sock""#;
const NAME: &str = "expected a name of a-z, 0-9, _ and -, that begins with a letter or digit, \
                    at most 64 long";

/// Number of characters that an error quotes; more would bury the error.
const SHOWN_CHARS: usize = 60;
/// A socket's path has 108 bytes, the last of which is NUL (unix(7)).
const MAX_UNIX_PATH_BYTES: usize = 107;

pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// The shortest and the longest duration that a key allows.
#[derive(Clone, Copy)]
pub(super) struct DurationRange {
    pub min: Duration,
    pub max: Duration,
}

/// A hundred years, far below the limit of milliseconds in 64 bits.
const MAX_DURATION: Duration = Duration::from_secs(36_500 * 86_400);
/// Includes zero.
pub(super) const ANY_DURATION: DurationRange =
    DurationRange { min: Duration::ZERO, max: MAX_DURATION };
pub(super) const POSITIVE_DURATION: DurationRange =
    DurationRange { min: Duration::from_millis(1), max: MAX_DURATION };
pub(super) const TIMEOUT_RANGE: DurationRange =
    DurationRange { min: Duration::from_millis(1), max: Duration::from_secs(7 * 86_400) };
/// The range of a wait, which may be zero.
pub(super) const WAIT_RANGE: DurationRange =
    DurationRange { min: Duration::ZERO, max: TIMEOUT_RANGE.max };

const DURATION_UNITS: [(&str, u128); 6] = [
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
    ("w", 604_800_000_000_000),
];

const SIZE_UNITS: [(&str, u128); 10] = [
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Parses one quantity such as `1.5 h` at the start of a text. Returns it in the smallest unit, the
/// name of its unit, and the rest.
fn parse_quantity<'t>(text: &'t str, units: &[(&str, u128)]) -> Option<(u128, &'t str, &'t str)> {
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, rest) = text.split_at(number_end);
    let rest = rest.trim_start_matches(' ');
    let unit_end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (name, rest) = rest.split_at(unit_end);
    let unit = units.iter().find(|unit| unit.0 == name)?.1;
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    // Eighteen digits times the largest unit fit in 128 bits.
    let digits = |text: &str| (1..=18).contains(&text.len()).then(|| text.parse::<u128>().ok());
    let (whole, fraction) = (digits(whole)??, digits(part)??);
    let fraction = fraction * unit / 10u128.pow(u32::try_from(part.len()).ok()?);
    Some((whole * unit + fraction, name, rest))
}

/// Parses `"30s"`, `"1h 30m"`, `"500ms"` or `"1.5d"`: each unit at most once.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (mut nanos, mut used_units, mut rest) = (0u128, Vec::new(), text.trim());
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (value, unit, after) = parse_quantity(rest, &DURATION_UNITS)?;
        if used_units.contains(&unit) {
            return None;
        }
        used_units.push(unit);
        nanos += value;
        rest = after.trim_start();
    }
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    Some(Duration::new(seconds, u32::try_from(nanos % 1_000_000_000).ok()?))
}

pub(super) fn parse_duration_in(text: &str, range: DurationRange) -> Result<Duration, String> {
    let value = parse_duration(text).ok_or(DURATION)?;
    if value < range.min {
        return Err(format!("expected at least {}", duration_text(range.min)));
    }
    if value > range.max {
        return Err(format!("expected at most {} days", range.max.as_secs() / 86_400));
    }
    Ok(value)
}

/// Formats a duration as in config.toml: `1h 30m`.
pub fn duration_text(duration: Duration) -> String {
    let (mut rest, mut text) = (duration.as_millis(), String::new());
    for (unit, millis) in
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)]
    {
        if rest >= millis {
            let space = if text.is_empty() { "" } else { " " };
            // Writing to a String does not fail.
            let _ = write!(text, "{space}{}{unit}", rest / millis);
            rest %= millis;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Parses `"1 MiB"`, `"64 KiB"` or `"100 B"`.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let (bytes, _, rest) = parse_quantity(text.trim(), &SIZE_UNITS)?;
    if rest.is_empty() { u64::try_from(bytes).ok() } else { None }
}

pub(super) fn size_text(bytes: u64) -> String {
    for (unit, factor) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{} {unit}", bytes / factor);
        }
    }
    format!("{bytes} B")
}

pub(super) fn size_range(range: &RangeInclusive<u64>) -> String {
    match *range.end() {
        u64::MAX => format!("expected at least {}", size_text(*range.start())),
        end => format!("expected {} to {}", size_text(*range.start()), size_text(end)),
    }
}

pub(super) fn integer_range(range: &RangeInclusive<i64>) -> String {
    match (*range.start(), *range.end()) {
        (i64::MIN, i64::MAX) => "expected a whole number".to_owned(),
        (start, i64::MAX) => format!("expected a whole number, at least {start}"),
        (start, end) => format!("expected a whole number from {start} to {end}"),
    }
}

/// Parses `"100/s"`, `"100/m"` or `"100/h"`.
pub(super) fn parse_rate(text: &str) -> Result<Rate, String> {
    let (count, period) = text.split_once('/').ok_or(RATE)?;
    let seconds = match period.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err(RATE.to_owned()),
    };
    let count = count.trim();
    let count = count.parse().ok().filter(|n| *n > 0 && !count.starts_with('+')).ok_or(RATE)?;
    Ok(Rate { count, period: Duration::from_secs(seconds) })
}

/// Resolves a path: a relative one by config.toml's folder, without `.` segments.
pub(super) fn resolve_path(text: &str, folder: &Path) -> PathBuf {
    folder.join(text).components().filter(|part| *part != Component::CurDir).collect()
}

pub(super) fn parse_listen(text: &str, folder: &Path) -> Result<Listen, String> {
    let Some(socket) = text.strip_prefix("unix:") else {
        return text.parse::<SocketAddr>().map(Listen::Tcp).map_err(|_| LISTEN.to_owned());
    };
    if socket.is_empty() {
        return Err(LISTEN.to_owned());
    }
    let socket = resolve_path(socket, folder);
    if socket.as_os_str().len() > MAX_UNIX_PATH_BYTES {
        return Err(format!("expected a path of at most {MAX_UNIX_PATH_BYTES} bytes"));
    }
    Ok(Listen::Unix(socket))
}

/// Parses a network or a single address. IPv4-mapped IPv6 becomes IPv4, as peers' addresses do.
pub(super) fn parse_network(text: &str) -> Result<IpNet, String> {
    let single = || text.parse::<IpAddr>().map(IpNet::from);
    let net = text.parse::<IpNet>().or_else(|_| single()).map_err(|_| NETWORK)?.trunc();
    if let IpNet::V6(six) = net
        && let (Some(four), 96..) = (six.addr().to_ipv4_mapped(), six.prefix_len())
        && let Ok(four) = Ipv4Net::new(four, six.prefix_len() - 96)
    {
        return Ok(IpNet::V4(four));
    }
    Ok(net)
}

/// Checks the name of a source or handler.
pub(super) fn check_name(text: &str) -> Result<(), String> {
    let is_letter_or_digit = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_name_byte = |b: &u8| is_letter_or_digit(*b) || matches!(b, b'_' | b'-');
    match text.as_bytes() {
        [first, rest @ ..]
            if is_letter_or_digit(*first) && rest.len() <= 63 && rest.iter().all(is_name_byte) =>
        {
            Ok(())
        }
        _ => Err(NAME.to_owned()),
    }
}

/// Parses a header's name (RFC 9110 section 5.6.2) to lower case.
pub(super) fn parse_header_name(text: &str) -> Result<String, String> {
    let is_token_byte = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.is_empty() || !text.bytes().all(is_token_byte) {
        return Err(r#"expected a header's name such as "X-Signature""#.to_owned());
    }
    Ok(text.to_ascii_lowercase())
}

/// Parses a header's value (RFC 9110 section 5.5), visible ASCII alone.
pub(super) fn parse_header_value(text: &str) -> Result<String, String> {
    let is_visible = |b: u8| (0x20..0x7f).contains(&b);
    if text.is_empty() || text.trim() != text || !text.bytes().all(is_visible) {
        return Err(r#"expected a header's value such as "text/plain""#.to_owned());
    }
    Ok(text.to_owned())
}

/// Quotes a text for an error: escaped and shortened.
pub(super) fn quote(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

pub(super) fn display_value(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quote(text),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Array(items) if items.is_empty() => "[]".to_owned(),
        _ => type_name(value).to_owned(),
    }
}

/// The type of a value, without the value.
pub(super) fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a bare text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The nearest of the names, if one is near enough.
pub fn nearest<'n>(unknown: &str, names: &[&'n str]) -> Option<&'n str> {
    let distance = |name: &str| strsim::damerau_levenshtein(&unknown.to_lowercase(), name);
    let best = names.iter().min_by_key(|name| distance(name))?;
    let is_near = distance(best) <= (best.len().max(unknown.len()) / 3).clamp(1, 4);
    (is_near || strsim::jaro_winkler(unknown, best) >= 0.87).then_some(best)
}

/// `did you mean "timeout"?`, or else the list of the allowed values.
pub(super) fn suggest(unknown: &str, names: &[&str], show: impl Fn(&str) -> String) -> String {
    match nearest(unknown, names) {
        Some(name) => format!("did you mean {}?", show(name)),
        None if names.is_empty() => "nothing is allowed here".to_owned(),
        None => format!("expected {}", join_or(names, show)),
    }
}

/// `expected "any", "json" or "form"`, with a suggestion if a name is near.
pub(super) fn expected_one_of(unknown: &str, names: &[&str]) -> String {
    let expected = format!("expected {}", join_or(names, quote));
    match nearest(unknown, names) {
        Some(name) if !unknown.is_empty() => format!("{expected}: did you mean {name:?}?"),
        _ => expected,
    }
}

fn join_or(names: &[&str], show: impl Fn(&str) -> String) -> String {
    match names {
        [] => String::new(),
        [one] => show(one),
        [others @ .., last] => {
            let others: Vec<String> = others.iter().map(|name| show(name)).collect();
            format!("{} or {}", others.join(", "), show(last))
        }
    }
}
