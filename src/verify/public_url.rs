//! `verify.url`: the public URL that a sender calls, and signs.

use std::borrow::Cow;

/// A URL in which `{name}` stands for the segment of that name in `path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl(Vec<UrlPart>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum UrlPart {
    Text(String),
    /// The index of a segment of the request's path.
    Segment(usize),
}

impl PublicUrl {
    /// Parses a URL and returns it with the names in it that `path` lacks, which stay as they are.
    pub fn new(text: &str, path: &str) -> (Self, Vec<String>) {
        let (mut parts, mut unknown) = (Vec::new(), Vec::new());
        let mut before = String::new();
        let mut rest = text;
        while let Some((start, name, after)) = next_name(rest) {
            let braced = format!("{{{name}}}");
            before.push_str(start);
            match path.split('/').position(|segment| segment == braced) {
                Some(number) => {
                    parts.push(UrlPart::Text(std::mem::take(&mut before)));
                    parts.push(UrlPart::Segment(number));
                }
                None => {
                    before.push_str(&braced);
                    unknown.push(braced);
                }
            }
            rest = after;
        }
        before.push_str(rest);
        parts.push(UrlPart::Text(before));
        (Self(parts), unknown)
    }

    /// The URL of a request to this path, with its segments as they were sent.
    pub fn for_path<'a>(&'a self, path: &'a str) -> Cow<'a, str> {
        if let [UrlPart::Text(text)] = &self.0[..] {
            return Cow::Borrowed(text);
        }
        let part = |part: &'a UrlPart| match part {
            UrlPart::Text(text) => text.as_str(),
            UrlPart::Segment(number) => path.split('/').nth(*number).unwrap_or_default(),
        };
        Cow::Owned(self.0.iter().map(part).collect())
    }
}

/// The text before the first `{name}`, the name, and the rest.
pub fn next_name(text: &str) -> Option<(&str, &str, &str)> {
    for (at, _) in text.match_indices('{') {
        let (name, after) = text[at + 1..].split_once('}')?;
        let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if !name.is_empty() && name.bytes().all(is_name_byte) {
            return Some((&text[..at], name, after));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_the_url_is_replaced_by_the_requests_segment() {
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
