//! Parses signatures, timestamps and header lists: strictly and without a panic. An error is one of
//! a few fixed sentences, and none quotes the request.
//!
//! A sender that rotates its secret may send several signatures, in several lines or separated by
//! commas (RFC 9110 section 5.3 allows a proxy to join lines like that). Any valid one is enough.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::SignedRequest;
use super::hmac_spec::{Encoding, TimestampUnit};
use super::proof::Reason;

/// The reason for every well-formed signature that does not match.
pub(super) const MISMATCH: &str = "signature does not match";

/// Maximum number of signatures of one request that are checked. A sender that rotates its secret
/// sends two or three.
pub(super) const MAX_SIGNATURES: usize = 32;

/// Maximum number of pairs of a signature and a key that are checked.
pub(super) const MAX_CHECKED_PAIRS: usize = 64;

/// Pairs that are checked however large the body is: two signatures with two keys.
const MIN_CHECKED_PAIRS: usize = 4;

/// Maximum number of bytes that the pairs of one request hash together, beyond `MIN_CHECKED_PAIRS`.
const MAX_HASHED_BYTES: usize = 64 << 20;

/// A check with a public key takes 0.1 ms, about as long as hashing this number of bytes.
const PUBLIC_KEY_BYTES: usize = 16 << 10;

/// Returns how many pairs are checked if each hashes a text of this size.
pub(super) fn max_pairs(text_bytes: usize) -> usize {
    (MAX_HASHED_BYTES / text_bytes.max(1)).clamp(MIN_CHECKED_PAIRS, MAX_CHECKED_PAIRS)
}

/// Returns the cost of checking pairs with public keys, expressed as a number of bytes to hash.
pub(super) fn public_key_cost(signatures: usize, keys: usize, text_bytes: usize) -> usize {
    let pairs = (signatures.min(MAX_SIGNATURES) * keys).min(max_pairs(text_bytes));
    pairs * (PUBLIC_KEY_BYTES + text_bytes)
}

/// Pairs each signature with each key, up to `max_pairs` for this text.
pub(super) fn pair_signatures<'a, S: AsRef<[u8]>, K>(
    signatures: &'a [S],
    keys: &'a [K],
    text: &[u8],
) -> impl Iterator<Item = (&'a [u8], &'a K)> {
    let pair_with_keys =
        move |signature: &'a S| keys.iter().map(move |key| (signature.as_ref(), key));
    signatures.iter().flat_map(pair_with_keys).take(max_pairs(text.len()))
}

/// Lists the values of a header over all its lines, split at commas and trimmed.
pub(super) fn header_elements<'a>(
    request: &SignedRequest<'a>,
    header: &str,
) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let lines: Vec<&'a [u8]> = request.header_values(header).collect();
    let elements = lines.into_iter().flat_map(|value| value.split(|&byte| byte == b','));
    elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// Parses the signatures among `elements` with `read`. Unreadable ones are skipped unless all are.
///
/// # Errors
/// There is no signature, or none is readable: then the first error.
pub(super) fn parse_signatures<'a>(
    elements: impl Iterator<Item = &'a [u8]>,
    header: &str,
    read: impl Fn(&'a [u8]) -> Result<Vec<u8>, Reason>,
) -> Result<Vec<Vec<u8>>, Reason> {
    let (mut signatures, mut first_error) = (Vec::new(), None);
    for element in elements.take(MAX_SIGNATURES) {
        match read(element) {
            Ok(signature) => signatures.push(signature),
            Err(reason) => first_error = first_error.or(Some(reason)),
        }
    }
    match first_error {
        _ if !signatures.is_empty() => Ok(signatures),
        Some(reason) => Err(reason),
        None => Err(format!("no signature in {header}").into()),
    }
}

/// Parses the signatures of a header that contains nothing else.
///
/// # Errors
/// The header is missing, or no signature in it is readable.
pub(super) fn header_signatures(
    request: &SignedRequest<'_>,
    header: &str,
    encoding: Encoding,
) -> Result<Vec<Vec<u8>>, Reason> {
    request.require_header(header)?;
    let read = |element: &[u8]| Ok(decode_signature(encoding, element)?);
    parse_signatures(header_elements(request, header), header, read)
}

/// Decodes hex, or canonical base64 with its padding.
pub(super) fn decode_signature(encoding: Encoding, text: &[u8]) -> Result<Vec<u8>, &'static str> {
    match encoding {
        Encoding::Hex => hex::decode(text).map_err(|_| "signature is not hex"),
        Encoding::Base64 => STANDARD.decode(text).map_err(|_| "signature is not base64"),
    }
}

pub(super) fn encode_signature(encoding: Encoding, bytes: &[u8]) -> String {
    match encoding {
        Encoding::Hex => hex::encode(bytes),
        Encoding::Base64 => STANDARD.encode(bytes),
    }
}

/// Returns the value in `name=value`.
pub(super) fn named_value<'v>(part: &'v [u8], name: &str) -> Option<&'v [u8]> {
    part.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

/// How far a time stamp may be in the past and in the future.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tolerance {
    pub back: Duration,
    pub ahead: Duration,
}

impl Tolerance {
    /// Returns why a timestamp is outside the tolerance, if it is.
    ///
    /// # Errors
    /// The timestamp is not a number.
    pub(super) fn check_timestamp_text(
        self,
        timestamp: &[u8],
        unit: TimestampUnit,
        now_ms: i64,
    ) -> Result<Option<Reason>, Reason> {
        // Digits only: another byte could belong to the signed part beside the timestamp.
        let digits = Some(timestamp).filter(|text| text.iter().all(u8::is_ascii_digit));
        let number = digits.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        let number: i64 = number.ok_or("timestamp is not a number")?;
        let at_ms = match unit {
            TimestampUnit::Seconds => number.saturating_mul(1000),
            TimestampUnit::Milliseconds => number,
        };
        Ok(self.check_timestamp(at_ms, now_ms))
    }

    /// Returns why a moment is outside the tolerance, if it is.
    pub(super) fn check_timestamp(self, at_ms: i64, now_ms: i64) -> Option<Reason> {
        let age_ms = now_ms.saturating_sub(at_ms);
        let (max, direction) = if age_ms >= 0 { (self.back, "old") } else { (self.ahead, "ahead") };
        let off = Duration::from_millis(age_ms.unsigned_abs());
        let (off_s, max_s) = (off.as_secs(), max.as_secs());
        (off > max).then(|| format!("timestamp is {off_s} s {direction}: at most {max_s} s").into())
    }
}

/// Formats a timestamp as a sender writes it.
pub(super) fn format_timestamp(unit: TimestampUnit, now_ms: i64) -> String {
    match unit {
        TimestampUnit::Seconds => now_ms.div_euclid(1000).to_string(),
        TimestampUnit::Milliseconds => now_ms.to_string(),
    }
}

/// Returns the value of a name in one element of `Forwarded` (RFC 7239, section 4), without its
/// quotes.
pub fn forwarded_pair<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    let value = element.split(';').find_map(|pair| {
        let (other, value) = pair.trim().split_once('=')?;
        other.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })?;
    Some(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
}
