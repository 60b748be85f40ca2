//! How headers and their parts are read: strictly, and never with a panic. What can't be read is
//! told the trail in one of few fixed sentences, none of which shows what was sent.
//!
//! A sender that rotates its secret may send several signatures, separated by commas (RFC 9110
//! section 5.3 lets a proxy join repeated lines like that) or in several lines. Any valid one is enough.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::SignedRequest;
use crate::config::{self, Encoding, TimestampUnit};

/// The one sentence for every signature that is well formed and wrong.
pub(super) const MISMATCH: &str = "signature does not match";

/// Signatures of one request that are looked at. A sender that rotates its secret sends two or three.
pub(super) const SIGNATURES_MAX: usize = 32;

/// Pairs of a signature and a key that are looked at.
pub(super) const PAIRS_MAX: usize = 64;

/// Pairs that are looked at however large the body is: two signatures by two keys.
const PAIRS_MIN: usize = 4;

/// Bytes that the pairs of one request may hash together, beyond `PAIRS_MIN`.
const HASHED_BYTES_MAX: usize = 64 << 20;

/// A check by a public key takes about as long as hashing so many bytes: 0.1 ms.
const PUBLIC_KEY_BYTES: usize = 16 << 10;

/// The number of pairs that are looked at where each pair hashes a text of this size.
pub(super) fn max_pairs(text_bytes: usize) -> usize {
    (HASHED_BYTES_MAX / text_bytes.max(1)).clamp(PAIRS_MIN, PAIRS_MAX)
}

/// The work of looking at so many pairs by a public key, as that of hashing so many bytes.
pub(super) fn public_key_work(signatures: usize, keys: usize, text_bytes: usize) -> usize {
    let pairs = (signatures.min(SIGNATURES_MAX) * keys).min(max_pairs(text_bytes));
    pairs * (PUBLIC_KEY_BYTES + text_bytes)
}

/// Pairs each signature with each key, as many as are looked at where each pair hashes `text`.
pub(super) fn pairs<'a, S: AsRef<[u8]>, K>(
    signatures: &'a [S],
    keys: &'a [K],
    text: &[u8],
) -> impl Iterator<Item = (&'a [u8], &'a K)> {
    let with_each = move |signature: &'a S| keys.iter().map(move |key| (signature.as_ref(), key));
    signatures.iter().flat_map(with_each).take(max_pairs(text.len()))
}

/// Lists the values of a header over all its lines, split at commas, without the blanks around them.
pub(super) fn elements<'a>(
    asked: &SignedRequest<'a>,
    header: &str,
) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let lines: Vec<&'a [u8]> = asked.lines(header).collect();
    let elements = lines.into_iter().flat_map(|value| value.split(|&byte| byte == b','));
    elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// Reads the signatures among `elements` by `read`. Unreadable ones are skipped unless all are.
///
/// # Errors
/// There is none, or the first is unreadable and so are the others.
pub(super) fn signatures<'a>(
    elements: impl Iterator<Item = &'a [u8]>,
    header: &str,
    read: impl Fn(&'a [u8]) -> Result<Vec<u8>, String>,
) -> Result<Vec<Vec<u8>>, String> {
    let (mut found, mut first_error) = (Vec::new(), None);
    for element in elements.take(SIGNATURES_MAX) {
        match read(element) {
            Ok(signature) => found.push(signature),
            Err(reason) => first_error = first_error.or(Some(reason)),
        }
    }
    match first_error {
        _ if !found.is_empty() => Ok(found),
        Some(reason) => Err(reason),
        None => Err(format!("no signature in {header}")),
    }
}

/// Reads the signatures of a header that has nothing else in it.
///
/// # Errors
/// The header is missing, or all its signatures are unreadable.
pub(super) fn bare_signatures(
    asked: &SignedRequest<'_>,
    header: &str,
    encoding: Encoding,
) -> Result<Vec<Vec<u8>>, String> {
    asked.require(header)?;
    let read = |element: &[u8]| Ok(decode_signature(encoding, element)?);
    signatures(elements(asked, header), header, read)
}

/// Hex, or canonical base64 with its padding.
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

/// The value in `name=value`.
pub(super) fn value_of<'v>(part: &'v [u8], name: &str) -> Option<&'v [u8]> {
    part.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

/// How far a time stamp may be off, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tolerance {
    back_ms: i64,
    ahead_ms: i64,
}

impl Tolerance {
    /// Beyond a few hundred million years, the end of them.
    pub fn new(tolerance: config::Tolerance) -> Self {
        let millis = |it: std::time::Duration| i64::try_from(it.as_millis()).unwrap_or(i64::MAX);
        Self { back_ms: millis(tolerance.back), ahead_ms: millis(tolerance.ahead) }
    }

    /// That of a scheme whose requests all have a time stamp; without one nothing is fresh.
    pub fn of(verify: &config::Verify) -> Self {
        verify.tolerance.map_or(Self { back_ms: 0, ahead_ms: 0 }, Self::new)
    }

    /// Why a time stamp is outside it, if it is.
    ///
    /// # Errors
    /// It is not a number.
    pub fn stale(
        self,
        timestamp: &[u8],
        unit: TimestampUnit,
        now_ms: i64,
    ) -> Result<Option<String>, String> {
        // Digits alone: nothing beside them may count as part of what stands next to it.
        let digits = Some(timestamp).filter(|text| text.iter().all(u8::is_ascii_digit));
        let number = digits.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        let number: i64 = number.ok_or("timestamp is not a number")?;
        let at_ms = match unit {
            TimestampUnit::Seconds => number.saturating_mul(1000),
            TimestampUnit::Milliseconds => number,
        };
        Ok(self.stale_moment(at_ms, now_ms))
    }

    /// Why a moment is outside it, if it is.
    pub fn stale_moment(self, at_ms: i64, now_ms: i64) -> Option<String> {
        let age_ms = now_ms.saturating_sub(at_ms);
        let (off_ms, max_ms, way) = match age_ms {
            0.. => (age_ms, self.back_ms, "old"),
            _ => (age_ms.saturating_neg(), self.ahead_ms, "ahead"),
        };
        let (off, max) = (off_ms / 1000, max_ms / 1000);
        (off_ms > max_ms).then(|| format!("timestamp is {off} s {way}: at most {max} s"))
    }
}

/// Seconds or milliseconds, as a sender writes them.
pub(super) fn format_timestamp(unit: TimestampUnit, now_ms: i64) -> String {
    match unit {
        TimestampUnit::Seconds => now_ms.div_euclid(1000).to_string(),
        TimestampUnit::Milliseconds => now_ms.to_string(),
    }
}

/// A value of one element of `Forwarded` (RFC 7239, section 4), without its quotes.
pub fn forwarded_pair<'a>(element: &'a str, wanted: &str) -> Option<&'a str> {
    let value = element.split(';').find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.trim().eq_ignore_ascii_case(wanted).then(|| value.trim())
    })?;
    Some(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
}
