//! `verify.url`: the URL that a sender was told to call, which it signs.

use std::borrow::Cow;

/// A URL in which `{name}` stands for the segment that `path` has under this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl(Vec<UrlPart>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum UrlPart {
    Text(String),
    /// The number of a segment of the request's path.
    Segment(usize),
}

impl PublicUrl {
    /// The URL, and the names in it that `path` does not have: they stay as they are.
    pub(super) fn new(text: &str, path: &str) -> (Self, Vec<String>) {
        let (mut pieces, mut unknown) = (Vec::new(), Vec::new());
        let mut before = String::new();
        let mut rest = text;
        while let Some((start, name, after)) = next_name(rest) {
            let braced = format!("{{{name}}}");
            before.push_str(start);
            match path.split('/').position(|segment| segment == braced) {
                Some(number) => {
                    pieces.push(UrlPart::Text(std::mem::take(&mut before)));
                    pieces.push(UrlPart::Segment(number));
                }
                None => {
                    before.push_str(&braced);
                    unknown.push(braced);
                }
            }
            rest = after;
        }
        before.push_str(rest);
        pieces.push(UrlPart::Text(before));
        (Self(pieces), unknown)
    }

    /// The URL that a request to this path was sent to. Its segments stand there as they were sent.
    pub fn for_path<'a>(&'a self, path: &'a str) -> Cow<'a, str> {
        if let [UrlPart::Text(text)] = &self.0[..] {
            return Cow::Borrowed(text);
        }
        let piece = |piece: &'a UrlPart| match piece {
            UrlPart::Text(text) => text.as_str(),
            UrlPart::Segment(number) => path.split('/').nth(*number).unwrap_or_default(),
        };
        Cow::Owned(self.0.iter().map(piece).collect())
    }
}

/// What stands before the first `{name}`, the name, and what follows.
pub(super) fn next_name(text: &str) -> Option<(&str, &str, &str)> {
    for (at, _) in text.match_indices('{') {
        let (name, after) = text[at + 1..].split_once('}')?;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if !name.is_empty() && name.bytes().all(fits) {
            return Some((&text[..at], name, after));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_the_path_stands_for_the_requests_segment() {
        let path = "/shops/{shop}/{id}";
        for (text, sent, expected, unknown) in [
            ("https://h/x", "/shops/a/b", "https://h/x", &[][..]),
            ("https://h/shops/{shop}", "/shops/a/b", "https://h/shops/a", &[]),
            ("https://{id}.h/{shop}?s={shop}", "/shops/a%20b/c", "https://c.h/a%20b?s=a%20b", &[]),
            ("https://h/{shop}", "/shops/{id}/b", "https://h/{id}", &[]),
            ("https://h/{other}/{id}", "/shops/a/b", "https://h/{other}/b", &["{other}"]),
            ("https://h/{}/{a-b}/{", "/shops/a/b", "https://h/{}/{a-b}/{", &[]),
        ] {
            let (url, found) = PublicUrl::new(text, path);
            assert_eq!(url.for_path(sent), expected, "{text}");
            assert_eq!(found, unknown, "{text}");
        }
    }
}
