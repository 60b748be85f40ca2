//! Redacts known secrets in text that is stored, passed on or logged, wherever they occur in it.
//!
//! One search finds all secrets at once: raw, percent-encoded, or a mix of both, in upper or lower case.
//! Bodies are never redacted here: they are stored byte for byte.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use memchr::memchr;

/// The text that replaces a secret.
pub const REDACTED: &str = "[redacted]";

/// Minimum length of a secret that is searched for. A shorter one may occur in ordinary text by chance: it is
/// redacted only in the place from which it is read.
const MIN_SECRET_BYTES: usize = 8;

/// The number of bytes of each secret that the search uses, so that a certificate costs no more than a token. The bytes
/// after them are compared.
const MAX_SEARCHED_BYTES: usize = 64;

/// Maximum number of times that nested percent-encoding is decoded.
const MAX_DECODE_PASSES: usize = 3;

/// Finds and replaces known secrets.
#[derive(Clone, Default)]
pub struct Redactor {
    /// Each form in which a secret may occur.
    forms: Vec<Vec<u8>>,
    /// Finds the beginnings of `forms`; a pattern id is an index of `forms`.
    search: Option<AhoCorasick>,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({} forms)", self.forms.len())
    }
}

impl Redactor {
    /// Returns a redactor that knows these secrets and those of `self`.
    ///
    /// # Errors
    /// There are too many secrets for one search.
    pub fn with<S: AsRef<[u8]>>(
        &self,
        secrets: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<Self> {
        let mut forms = self.forms.clone();
        for secret in secrets {
            forms.extend(forms_of(secret.as_ref()));
        }
        forms.sort_unstable();
        forms.dedup();
        let searched = forms.iter().map(|form| &form[..form.len().min(MAX_SEARCHED_BYTES)]);
        let search = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            // Finds all of several overlapping secrets.
            .match_kind(MatchKind::Standard)
            .build(searched)?;
        Ok(Self { search: (!forms.is_empty()).then_some(search), forms })
    }

    /// Redacts a text.
    pub fn redact<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.redact_bytes(text.as_bytes()) {
            Cow::Borrowed(_) => Cow::Borrowed(text),
            // A secret that is not UTF-8 may end within a character.
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    /// As `redact`, for text that may be invalid UTF-8.
    pub fn redact_bytes<'t>(&self, text: &'t [u8]) -> Cow<'t, [u8]> {
        let Some(search) = &self.search else { return Cow::Borrowed(text) };
        if text.len() < MIN_SECRET_BYTES || (memchr(b'%', text).is_none() && !search.is_match(text))
        {
            return Cow::Borrowed(text);
        }
        let ranges = self.find(search, text);
        if ranges.is_empty() {
            return Cow::Borrowed(text);
        }
        let (mut redacted, mut end) = (Vec::with_capacity(text.len()), 0);
        for range in ranges {
            // Overlapping secrets become one replacement.
            if range.start >= end {
                redacted.extend_from_slice(&text[end..range.start]);
                redacted.extend_from_slice(REDACTED.as_bytes());
            }
            end = end.max(range.end);
        }
        redacted.extend_from_slice(&text[end..]);
        Cow::Owned(redacted)
    }

    /// Returns the ranges of all secrets, ordered by their start.
    fn find(&self, search: &AhoCorasick, text: &[u8]) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = self.find_raw(search, text).collect();
        let mut decoded = Decoded::raw(text);
        for _ in 0..MAX_DECODE_PASSES {
            if !decoded.decode() {
                break;
            }
            let found = self.find_raw(search, &decoded.bytes);
            ranges
                .extend(found.map(|range| decoded.starts[range.start]..decoded.starts[range.end]));
        }
        ranges.sort_unstable_by_key(|range| range.start);
        ranges
    }

    fn find_raw<'s>(
        &'s self,
        search: &'s AhoCorasick,
        text: &'s [u8],
    ) -> impl Iterator<Item = Range<usize>> + 's {
        search.find_overlapping_iter(text).filter_map(|found| {
            let form = &self.forms[found.pattern().as_usize()];
            let range = found.start()..found.start() + form.len();
            text.get(range.clone())?.eq_ignore_ascii_case(form).then_some(range)
        })
    }
}

/// Percent-decoded text that remembers where each byte came from.
struct Decoded {
    bytes: Vec<u8>,
    /// The offset of each byte in the original text, followed by the length of that text.
    starts: Vec<usize>,
}

impl Decoded {
    fn raw(text: &[u8]) -> Self {
        Self { bytes: text.to_vec(), starts: (0..=text.len()).collect() }
    }

    /// Decodes once. Returns whether anything was encoded.
    fn decode(&mut self) -> bool {
        let (mut bytes, mut starts) = (Vec::with_capacity(self.bytes.len()), Vec::new());
        let mut at = 0;
        while let Some(&byte) = self.bytes.get(at) {
            starts.push(self.starts[at]);
            match percent_decode(&self.bytes[at..]) {
                Some(decoded) => {
                    bytes.push(decoded);
                    at += 3;
                }
                None => {
                    bytes.push(byte);
                    at += 1;
                }
            }
        }
        starts.push(self.starts[self.bytes.len()]);
        let is_shorter = bytes.len() < self.bytes.len();
        *self = Self { bytes, starts };
        is_shorter
    }
}

/// Decodes the percent-encoded byte (RFC 3986 section 2.1) at the beginning of `text`, if there is one.
fn percent_decode(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else { return None };
    let digit =
        |byte: &u8| char::from(*byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// The forms of a secret: as it is, with `+` for blanks as in forms
/// (<https://url.spec.whatwg.org/#application/x-www-form-urlencoded>), and escaped as in log lines and in
/// JSON.
fn forms_of(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![secret.to_vec(), secret.trim_ascii().to_vec()];
    if secret.contains(&b' ') {
        let plus = |&byte: &u8| if byte == b' ' { b'+' } else { byte };
        forms.push(secret.iter().map(plus).collect());
    }
    if let Ok(text) = std::str::from_utf8(secret) {
        forms.push(text.escape_debug().to_string().into_bytes());
        if let Ok(json) = serde_json::to_string(text) {
            forms.push(json.as_bytes()[1..json.len() - 1].to_vec());
        }
    }
    forms.retain(|form| secret.len() >= MIN_SECRET_BYTES && form.len() >= MIN_SECRET_BYTES);
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redactor(secrets: &[&str]) -> Redactor {
        Redactor::default().with(secrets).unwrap()
    }

    fn check(secrets: &[&str], text: &str, expected: &str) {
        assert_eq!(redactor(secrets).redact(text), expected, "{text}");
    }

    #[test]
    fn a_secret_is_redacted_wherever_it_occurs() {
        let secret = ["s3cret-token"];
        check(&secret, "s3cret-token", "[redacted]");
        check(&secret, "/hooks//a/s3cret-token/x", "/hooks//a/[redacted]/x");
        check(
            &secret,
            "a=s3cret-token&b=s3cret-tokens3cret-token",
            "a=[redacted]&b=[redacted][redacted]",
        );
        check(&secret, "/HOOKS/A/S3CRET-TOKEN", "/HOOKS/A/[redacted]");
        check(&secret, "s3cret-toke", "s3cret-toke");
        check(
            &["s3cret-token", "other-secret"],
            "other-secret, s3cret-token",
            "[redacted], [redacted]",
        );
    }

    #[test]
    fn a_secret_is_found_however_it_is_percent_encoded() {
        let secret = ["s3cret-tok\u{e9}n /"];
        for text in [
            "s3cret-tok%C3%A9n%20%2F",
            "s3cret-tok%c3%a9n%20/",
            "%733cret%2Dtok%C3%a9n+%2f",
            "%25733cret%252Dtok%25C3%25A9n%2520%252F",
        ] {
            check(&secret, &format!("%61/{text}?%7"), "%61/[redacted]?%7");
        }
        check(&["50%25-secret"], "x=50%25-secret", "x=[redacted]");
        check(&["50%25-secret"], "x=50%2525-secret", "x=[redacted]");
    }

    #[test]
    fn text_without_a_secret_is_unchanged() {
        let redactor = redactor(&["s3cret-token"]);
        for text in ["", "%", "%%%", "%zz%4", "/a%20b?x=%00", "plain text that is long enough"] {
            assert!(matches!(redactor.redact(text), Cow::Borrowed(same) if same == text));
        }
        assert_eq!(
            *redactor.redact_bytes(b"\xff%ff\0s3cret-token\xfe"),
            *b"\xff%ff\0[redacted]\xfe"
        );
        assert_eq!(Redactor::default().redact("s3cret-token"), "s3cret-token");
    }

    #[test]
    fn a_short_secret_is_not_searched_for() {
        check(&["seven-7", ""], "seven-7", "seven-7");
        check(&["eight--8"], "eight--8", "[redacted]");
    }

    #[test]
    fn a_long_secret_is_redacted_as_a_whole_and_not_for_its_beginning() {
        let long = "0123456789".repeat(100);
        let other = format!("{}x", &long[..999]);
        check(&[&long], &format!("<{long}>"), "<[redacted]>");
        check(&[&long], &other, &other);
        check(&[&long, &other], &format!("{other} {long}"), "[redacted] [redacted]");
    }

    #[test]
    fn overlapping_secrets_are_redacted_completely() {
        check(&["abcdefgh", "efghijkl"], "-abcdefghijkl-", "-[redacted]-");
        check(&["abcdefghijkl", "cdefghij"], "-abcdefghijkl-", "-[redacted]-");
        check(&["aaaaaaaa"], &"a".repeat(100), "[redacted]");
    }

    #[test]
    fn a_secret_is_found_as_log_lines_and_json_quote_it() {
        let secret = "a\"b\\c\nd-secret";
        check(&[secret], &format!("{secret:?}"), "\"[redacted]\"");
        check(&[secret], &serde_json::to_string(secret).unwrap(), "\"[redacted]\"");
    }

    #[test]
    fn a_redactor_with_more_secrets_still_knows_the_earlier_ones() {
        let both = redactor(&["first-secret"]).with(["second-secret"]).unwrap();
        assert_eq!(both.redact("first-secret second-secret"), "[redacted] [redacted]");
    }

    #[test]
    fn a_secret_that_is_not_utf_8_is_found_in_bytes() {
        let redactor = Redactor::default().with([&b"\xff\xfe-secret-\x80"[..]]).unwrap();
        assert_eq!(*redactor.redact_bytes(b"a\xff\xfe-secret-\x80b"), *b"a[redacted]b");
        assert_eq!(redactor.redact("a%FF%fe-secret-%80b"), "a[redacted]b");
    }
}
