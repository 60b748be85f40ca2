//! The public URL: the URL that the sender calls, and signs.

use std::borrow::Cow;

use actix_web::http::Uri;

use super::SignedRequest;
use super::parse::forwarded_pair;

/// `verify.url`: a URL in which `{name}` stands for the segment of that name in `path`.
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

/// `server.proxy_header`: the header in which a trusted proxy names the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    XForwardedFor,
    Forwarded,
}

/// Returns `verify.url`, with the request's query unless it has its own. Without `verify.url` it is
/// the URL in the configured header of a trusted proxy, else that of the request.
pub(super) fn public_url(configured: Option<&PublicUrl>, request: &SignedRequest<'_>) -> String {
    let query = request.query.map(|query| format!("?{query}")).unwrap_or_default();
    if let Some(url) = configured {
        let url = url.for_path(request.path);
        return if url.contains('?') { url.into_owned() } else { format!("{url}{query}") };
    }
    // A proxy may pass on the other header as the client sent it, so only the configured one is
    // read.
    let (scheme, host) = match request.trusted_proxy_header {
        None => (None, None),
        Some(ProxyHeader::XForwardedFor) => (
            request.last_list_item("x-forwarded-proto"),
            request.last_list_item("x-forwarded-host"),
        ),
        Some(ProxyHeader::Forwarded) => {
            let element = request.last_list_item("forwarded").unwrap_or("");
            (forwarded_pair(element, "proto"), forwarded_pair(element, "host"))
        }
    };
    let host_header =
        || request.required_header("host").ok().and_then(|host| std::str::from_utf8(host).ok());
    let host = host.or_else(host_header).unwrap_or("").trim();
    format!("{}://{host}{}{query}", scheme.unwrap_or("http"), request.path)
}

/// Returns the URL without a port and with its port.
pub(super) fn with_and_without_port(url: &str) -> Vec<String> {
    let parsed: Option<Uri> = url.parse().ok();
    let parts = parsed.as_ref().and_then(|uri| {
        let authority = uri.authority()?;
        Some((authority, uri.scheme_str()?, url.split_once(authority.as_str())?))
    });
    let Some((authority, scheme, (before, after))) = parts else { return vec![url.to_owned()] };
    let text = authority.as_str();
    let (without_port, port) = match authority.port() {
        Some(port) => {
            let port = port.as_str().to_owned();
            (&text[..text.len() - port.len() - 1], port)
        }
        None if scheme.eq_ignore_ascii_case("https") => (text, "443".to_owned()),
        None => (text, "80".to_owned()),
    };
    vec![format!("{before}{without_port}{after}"), format!("{before}{without_port}:{port}{after}")]
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

    #[test]
    fn a_url_is_tried_with_and_without_its_port() {
        for (url, without_port, with_port) in [
            ("https://a.example/x?y=1", "https://a.example/x?y=1", "https://a.example:443/x?y=1"),
            ("http://a.example:8080/", "http://a.example/", "http://a.example:8080/"),
            ("http://a.example", "http://a.example", "http://a.example:80"),
            ("https://[::1]:9/x", "https://[::1]/x", "https://[::1]:9/x"),
            ("https://u:p@h/x", "https://u:p@h/x", "https://u:p@h:443/x"),
        ] {
            assert_eq!(with_and_without_port(url), [without_port, with_port]);
        }
        for unchanged in ["", "/x", "::", "http://", "https://a b/"] {
            assert_eq!(with_and_without_port(unchanged), [unchanged]);
        }
    }
}
