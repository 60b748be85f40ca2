//! A request as it is stored: byte for byte, except secrets and what `redact` names. The place from which
//! the source reads its secret, `Authorization`, `Cookie` and `redact.headers` become `[redacted]`. So
//! does every known secret in a path, a query or the value of a header.

use std::borrow::Cow;

use crate::redact::{REDACTED, Redactor};
use crate::verify::{CredentialLocation, Verifier, param_name_matches};

/// Header lines: lower-case name, value.
pub type StoredHeaders<'a> = Vec<(&'a str, Cow<'a, [u8]>)>;

/// Redacts secrets in the requests of one source, or in those that belong to none.
#[derive(Clone, Copy)]
pub struct Redaction<'r> {
    /// Knows the place from which the source reads its secret.
    pub verifier: Option<&'r Verifier>,
    pub redactor: &'r Redactor,
    /// The source's `redact.headers`.
    pub headers: &'r [String],
}

impl Redaction<'_> {
    fn secret_location(&self) -> Option<&CredentialLocation> {
        self.verifier?.secret_location()
    }

    /// Returns header lines as they are stored, passed on, and visible to expressions.
    pub fn redact_headers<'a>(&self, lines: &[(&'a str, &'a [u8])]) -> StoredHeaders<'a> {
        let secret_header = match self.secret_location() {
            Some(CredentialLocation::Header(name)) => Some(name.as_str()),
            _ => None,
        };
        let redact_line = |&(name, value): &(&'a str, &'a [u8])| {
            let is_secret = matches!(name, "authorization" | "cookie" | "proxy-authorization")
                || secret_header == Some(name)
                || self.headers.iter().any(|redacted| redacted == name);
            let redacted = match is_secret {
                true => Cow::Borrowed(REDACTED.as_bytes()),
                false => self.redactor.redact_bytes(value),
            };
            (name, redacted)
        };
        lines.iter().map(redact_line).collect()
    }

    /// Redacts a query. The value of the token's parameter is redacted each time its name occurs.
    pub fn redact_query(&self, query: &str) -> String {
        let Some(CredentialLocation::Query(secret)) = self.secret_location() else {
            return self.redactor.redact(query).into_owned();
        };
        let redact_pair = |pair: &str| match pair.split_once('=') {
            Some((name, _)) if param_name_matches(name, secret) => format!("{name}={REDACTED}"),
            _ => self.redactor.redact(pair).into_owned(),
        };
        query.split('&').map(redact_pair).collect::<Vec<_>>().join("&")
    }

    /// Redacts a path. Its last segment is redacted if it is the token.
    pub fn redact_path(&self, path: &str) -> String {
        if self.secret_location() != Some(&CredentialLocation::PathSegment) {
            return self.redactor.redact(path).into_owned();
        }
        let (trimmed, slash) = match path.strip_suffix('/') {
            Some(trimmed) => (trimmed, "/"),
            None => (path, ""),
        };
        match trimmed.rsplit_once('/') {
            Some((parent, _)) => format!("{}/{REDACTED}{slash}", self.redactor.redact(parent)),
            None => self.redactor.redact(path).into_owned(),
        }
    }
}

/// Returns stored header lines in the form that expressions read.
pub fn borrow_headers<'a>(lines: &'a StoredHeaders<'_>) -> Vec<(&'a str, &'a [u8])> {
    lines.iter().map(|(name, value)| (*name, &**value)).collect()
}

/// Encodes stored header lines, each as `name: value`.
pub fn encode_headers(lines: &StoredHeaders<'_>) -> Vec<u8> {
    let size = lines.iter().map(|(name, value)| name.len() + value.len() + 3).sum();
    let mut encoded = Vec::with_capacity(size);
    for (name, value) in lines {
        encoded.extend_from_slice(name.as_bytes());
        encoded.extend_from_slice(b": ");
        encoded.extend_from_slice(value);
        encoded.push(b'\n');
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::test_verifier;

    fn token(place: &str) -> Verifier {
        test_verifier(&format!("scheme = \"token\", {place}"), &["s3cret"])
    }

    /// The redactor knows a secret of another source. The token is too short to be searched for.
    fn check(verifier: Option<&Verifier>, run: impl FnOnce(&Redaction<'_>)) {
        let redactor = Redactor::default().with(["other-secret", "s3cret"]).unwrap();
        run(&Redaction { verifier, redactor: &redactor, headers: &["x-card".to_owned()] });
    }

    #[test]
    fn each_line_of_a_header_to_redact_is_redacted() {
        let received: [(&str, &[u8]); 4] =
            [("x-card", b"4111"), ("x-cards", b"1"), ("x-card", b"\xff"), ("x-card", b"")];
        check(None, |redaction| {
            let expected =
                b"x-card: [redacted]\nx-cards: 1\nx-card: [redacted]\nx-card: [redacted]\n";
            assert_eq!(encode_headers(&redaction.redact_headers(&received)), expected);
        });
    }

    #[test]
    fn header_lines_are_stored_byte_for_byte_except_secrets() {
        let received: [(&str, &[u8]); 6] = [
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
            assert_eq!(encode_headers(&redaction.redact_headers(&received)), expected);
        });
        check(Some(&token("path_token = true")), |redaction| {
            assert_eq!(encode_headers(&redaction.redact_headers(&received[..1])), b"x-t: s3cret\n");
        });
    }

    #[test]
    fn a_query_is_stored_byte_for_byte_except_secrets() {
        for (input, expected) in [
            ("a=%20b&key=s3cret&&c", "a=%20b&key=[redacted]&&c"),
            ("k%65y=s3cret=", "k%65y=[redacted]"),
            ("key=1&key=s3cret", "key=[redacted]&key=[redacted]"),
            ("akey=1&Key=2&%ff=3&key", "akey=1&Key=2&%ff=3&key"),
            ("to=other-secret", "to=[redacted]"),
            ("", ""),
        ] {
            check(Some(&token("query = \"key\"")), |redaction| {
                assert_eq!(redaction.redact_query(input), expected)
            });
        }
        for (input, expected) in [("key=s3cret", "key=s3cret"), ("&other-secret", "&[redacted]")] {
            check(Some(&token("header = \"X-T\"")), |redaction| {
                assert_eq!(redaction.redact_query(input), expected)
            });
            check(None, |redaction| assert_eq!(redaction.redact_query(input), expected));
        }
    }

    #[test]
    fn a_path_is_stored_byte_for_byte_except_secrets() {
        for (input, expected) in [
            ("/%61//s3%63ret", "/%61//[redacted]"),
            ("/a/s3cret/", "/a/[redacted]/"),
            ("/other-secret/s3cret", "/[redacted]/[redacted]"),
            ("/", "/"),
        ] {
            check(Some(&token("path_token = true")), |redaction| {
                assert_eq!(redaction.redact_path(input), expected)
            });
        }
        for (input, expected) in
            [("/a/s3cret", "/a/s3cret"), ("/a/other-secret/b", "/a/[redacted]/b")]
        {
            check(Some(&token("query = \"key\"")), |redaction| {
                assert_eq!(redaction.redact_path(input), expected)
            });
            check(None, |redaction| assert_eq!(redaction.redact_path(input), expected));
        }
    }
}
