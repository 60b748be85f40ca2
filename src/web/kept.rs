//! A request as it is kept: byte for byte, but for what its source read as its secret, and
//! `Authorization` and `Cookie`, which stand as `[secret]`.

use super::verify::{Verifier, is_named};

const SECRET: &str = "[secret]";

/// Header lines as they are kept, passed on, and seen by expressions.
pub fn lines<'a>(verifier: &Verifier, lines: &[(&'a str, &'a [u8])]) -> Vec<(&'a str, &'a [u8])> {
    let line = |&(name, value): &(&'a str, &'a [u8])| {
        let secret = matches!(name, "authorization" | "cookie" | "proxy-authorization")
            || verifier.secret_header() == Some(name);
        (name, if secret { SECRET.as_bytes() } else { value })
    };
    lines.iter().map(line).collect()
}

/// Kept lines, `name: value` each.
pub fn headers(lines: &[(&str, &[u8])]) -> Vec<u8> {
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

/// The query, the token's value replaced wherever its name stands.
pub fn query(verifier: &Verifier, query: &str) -> String {
    let Some(secret) = verifier.secret_parameter() else { return query.to_owned() };
    let pair = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if is_named(name, secret) => format!("{name}={SECRET}"),
        _ => pair.to_owned(),
    };
    query.split('&').map(pair).collect::<Vec<_>>().join("&")
}

/// The path, its last segment replaced where it is the token.
pub fn path(verifier: Option<&Verifier>, path: &str) -> String {
    match path.rsplit_once('/') {
        Some((own, _)) if verifier.is_some_and(Verifier::secret_segment) => {
            format!("{own}/{SECRET}")
        }
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::verify::verifier_of;

    fn token(place: &str) -> Verifier {
        verifier_of(&format!("scheme = \"token\", {place}"), &["s3cret"])
    }

    #[test]
    fn header_lines_are_kept_as_they_came_but_for_secrets() {
        let came: [(&str, &[u8]); 5] = [
            ("x-t", b"s3cret"),
            ("x-two", b"1\xff"),
            ("x-two", b""),
            ("cookie", b"a=b"),
            ("authorization", b"Bearer s3cret"),
        ];
        let kept = headers(&lines(&token("header = \"X-T\""), &came));
        let expected = b"x-t: [secret]\nx-two: 1\xff\nx-two: \ncookie: [secret]\n\
                         authorization: [secret]\n";
        assert_eq!(kept, expected);
        let kept = headers(&lines(&token("segment = true"), &came[..1]));
        assert_eq!(kept, b"x-t: s3cret\n");
    }

    #[test]
    fn a_query_keeps_everything_but_its_token() {
        let by_query = token("query = \"key\"");
        for (sent, expected) in [
            ("a=%20b&key=s3cret&&c", "a=%20b&key=[secret]&&c"),
            ("k%65y=s3cret=", "k%65y=[secret]"),
            ("key=1&key=s3cret", "key=[secret]&key=[secret]"),
            ("akey=1&Key=2&%ff=3&key", "akey=1&Key=2&%ff=3&key"),
            ("", ""),
        ] {
            assert_eq!(query(&by_query, sent), expected);
            assert_eq!(query(&token("header = \"X-T\""), sent), sent);
        }
    }

    #[test]
    fn a_path_keeps_everything_but_its_token() {
        let by_segment = token("segment = true");
        assert_eq!(path(Some(&by_segment), "/%61//s3%63ret"), "/%61//[secret]");
        assert_eq!(path(Some(&token("query = \"key\"")), "/a/b"), "/a/b");
        assert_eq!(path(None, "/a/b"), "/a/b");
    }
}
