//! A request as it is kept: byte for byte but for secrets. What the source reads as its secret,
//! `Authorization` and `Cookie` stand as `[redacted]`, and so does every known secret wherever it
//! stands in a path, a query or a header's value.

use std::borrow::Cow;

use crate::redact::{REDACTED, Redactor};
use crate::verify::{Verifier, param_name_matches};

/// Header lines: lower-case name, value.
pub type Lines<'a> = Vec<(&'a str, Cow<'a, [u8]>)>;

/// How secrets are taken out of the requests of one source, or of those that belong to none.
#[derive(Clone, Copy)]
pub struct Redaction<'r> {
    /// Knows where the source reads its secret.
    pub verifier: Option<&'r Verifier>,
    pub redactor: &'r Redactor,
}

impl Redaction<'_> {
    /// Header lines as they are kept, passed on, and seen by expressions.
    pub fn redact_headers<'a>(&self, lines: &[(&'a str, &'a [u8])]) -> Lines<'a> {
        let own = self.verifier.and_then(Verifier::secret_header);
        let line = |&(name, value): &(&'a str, &'a [u8])| {
            let is_secret = matches!(name, "authorization" | "cookie" | "proxy-authorization")
                || own == Some(name);
            let redacted = match is_secret {
                true => Cow::Borrowed(REDACTED.as_bytes()),
                false => self.redactor.redact_bytes(value),
            };
            (name, redacted)
        };
        lines.iter().map(line).collect()
    }

    /// The query; the value of the token's parameter is redacted wherever its name stands.
    pub fn redact_query(&self, query: &str) -> String {
        let Some(secret) = self.verifier.and_then(Verifier::secret_parameter) else {
            return self.redactor.redact(query).into_owned();
        };
        let pair = |pair: &str| match pair.split_once('=') {
            Some((name, _)) if param_name_matches(name, secret) => format!("{name}={REDACTED}"),
            _ => self.redactor.redact(pair).into_owned(),
        };
        query.split('&').map(pair).collect::<Vec<_>>().join("&")
    }

    /// The path; its last segment is redacted where it is the token.
    pub fn redact_path(&self, path: &str) -> String {
        if !self.verifier.is_some_and(Verifier::secret_segment) {
            return self.redactor.redact(path).into_owned();
        }
        let (bare, slash) = match path.strip_suffix('/') {
            Some(bare) => (bare, "/"),
            None => (path, ""),
        };
        match bare.rsplit_once('/') {
            Some((own, _)) => format!("{}/{REDACTED}{slash}", self.redactor.redact(own)),
            None => self.redactor.redact(path).into_owned(),
        }
    }
}

/// Kept lines as expressions read them.
pub fn borrowed<'a>(lines: &'a Lines<'_>) -> Vec<(&'a str, &'a [u8])> {
    lines.iter().map(|(name, value)| (*name, &**value)).collect()
}

/// Kept lines, `name: value` each.
pub fn encode_headers(lines: &Lines<'_>) -> Vec<u8> {
    let size = lines.iter().map(|(name, value)| name.len() + value.len() + 3).sum();
    let mut kept = Vec::with_capacity(size);
    for (name, value) in lines {
        kept.extend_from_slice(name.as_bytes());
        kept.extend_from_slice(b": ");
        kept.extend_from_slice(value);
        kept.push(b'\n');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::verifier_of;

    fn token(place: &str) -> Verifier {
        verifier_of(&format!("scheme = \"token\", {place}"), &["s3cret"])
    }

    /// With a secret of another source, and the token too short to be looked for.
    fn check(verifier: Option<&Verifier>, run: impl FnOnce(&Redaction<'_>)) {
        let redactor = Redactor::default().with(["other-secret", "s3cret"]).unwrap();
        run(&Redaction { verifier, redactor: &redactor });
    }

    #[test]
    fn header_lines_are_kept_as_they_came_but_for_secrets() {
        let came: [(&str, &[u8]); 6] = [
            ("x-t", b"s3cret"),
            ("x-two", b"1\xff"),
            ("x-two", b""),
            ("cookie", b"a=b"),
            ("authorization", b"Bearer s3cret"),
            ("x-original-uri", b"/hooks/b/%6fther-secret?\xff"),
        ];
        check(Some(&token("header = \"X-T\"")), |redaction| {
            let expected = b"x-t: [redacted]\nx-two: 1\xff\nx-two: \ncookie: [redacted]\n\
                             authorization: [redacted]\nx-original-uri: /hooks/b/[redacted]?\xff\n";
            assert_eq!(encode_headers(&redaction.redact_headers(&came)), expected);
        });
        check(Some(&token("path_token = true")), |redaction| {
            assert_eq!(encode_headers(&redaction.redact_headers(&came[..1])), b"x-t: s3cret\n");
        });
    }

    #[test]
    fn a_query_keeps_everything_but_secrets() {
        for (sent, expected) in [
            ("a=%20b&key=s3cret&&c", "a=%20b&key=[redacted]&&c"),
            ("k%65y=s3cret=", "k%65y=[redacted]"),
            ("key=1&key=s3cret", "key=[redacted]&key=[redacted]"),
            ("akey=1&Key=2&%ff=3&key", "akey=1&Key=2&%ff=3&key"),
            ("to=other-secret", "to=[redacted]"),
            ("", ""),
        ] {
            check(Some(&token("query = \"key\"")), |it| {
                assert_eq!(it.redact_query(sent), expected)
            });
        }
        for (sent, expected) in [("key=s3cret", "key=s3cret"), ("&other-secret", "&[redacted]")] {
            check(Some(&token("header = \"X-T\"")), |it| {
                assert_eq!(it.redact_query(sent), expected)
            });
            check(None, |it| assert_eq!(it.redact_query(sent), expected));
        }
    }

    #[test]
    fn a_path_keeps_everything_but_secrets() {
        for (sent, expected) in [
            ("/%61//s3%63ret", "/%61//[redacted]"),
            ("/a/s3cret/", "/a/[redacted]/"),
            ("/other-secret/s3cret", "/[redacted]/[redacted]"),
            ("/", "/"),
        ] {
            check(Some(&token("path_token = true")), |it| {
                assert_eq!(it.redact_path(sent), expected)
            });
        }
        for (sent, expected) in
            [("/a/s3cret", "/a/s3cret"), ("/a/other-secret/b", "/a/[redacted]/b")]
        {
            check(Some(&token("query = \"key\"")), |it| assert_eq!(it.redact_path(sent), expected));
            check(None, |it| assert_eq!(it.redact_path(sent), expected));
        }
    }
}
