//! The public URL: what a sender was told to call, and signs.

use actix_web::http::Uri;

use super::SignedRequest;
use super::parse::forwarded_pair;
use crate::config::{ProxyHeader, PublicUrl};

/// `verify.url`, to which the request's query is added where it has none; else as the configured
/// header of a trusted proxy, or the request itself, says.
pub(super) fn public_url(configured: Option<&PublicUrl>, asked: &SignedRequest<'_>) -> String {
    let query = asked.query.map(|query| format!("?{query}")).unwrap_or_default();
    if let Some(url) = configured {
        let url = url.for_path(asked.path);
        return if url.contains('?') { url.into_owned() } else { format!("{url}{query}") };
    }
    // A proxy hands a stranger's header of the other kind through: it is never looked at.
    let (scheme, host) = match asked.trusted_proxy_header {
        None => (None, None),
        Some(ProxyHeader::XForwardedFor) => {
            (asked.last_list_item("x-forwarded-proto"), asked.last_list_item("x-forwarded-host"))
        }
        Some(ProxyHeader::Forwarded) => {
            let element = asked.last_list_item("forwarded").unwrap_or("");
            (forwarded_pair(element, "proto"), forwarded_pair(element, "host"))
        }
    };
    let own_host =
        || asked.required_header("host").ok().and_then(|host| std::str::from_utf8(host).ok());
    let host = host.or_else(own_host).unwrap_or("").trim();
    format!("{}://{host}{}{query}", scheme.unwrap_or("http"), asked.path)
}

/// The URL with its port written, and without one.
pub(super) fn with_and_without_port(url: &str) -> Vec<String> {
    let parsed: Option<Uri> = url.parse().ok();
    let parts = parsed.as_ref().and_then(|uri| Some((uri.authority()?, uri.scheme_str()?)));
    let Some((authority, scheme)) = parts else { return vec![url.to_owned()] };
    let Some((before, after)) = url.split_once(authority.as_str()) else {
        return vec![url.to_owned()];
    };
    let text = authority.as_str();
    let (bare, port) = match authority.port() {
        Some(port) => {
            let port = port.as_str().to_owned();
            (&text[..text.len() - port.len() - 1], port)
        }
        None if scheme.eq_ignore_ascii_case("https") => (text, "443".to_owned()),
        None => (text, "80".to_owned()),
    };
    vec![format!("{before}{bare}{after}"), format!("{before}{bare}:{port}{after}")]
}

/// The URL with those escapes decoded that HubSpot decodes before it signs.
pub(super) fn decode_hubspot_escapes(url: &str) -> String {
    const MARKS: [(&str, &str); 12] = [
        ("%3A", ":"),
        ("%2F", "/"),
        ("%3F", "?"),
        ("%40", "@"),
        ("%21", "!"),
        ("%24", "$"),
        ("%27", "'"),
        ("%28", "("),
        ("%29", ")"),
        ("%2A", "*"),
        ("%2C", ","),
        ("%3B", ";"),
    ];
    let mut text = url.to_owned();
    for (escape, mark) in MARKS {
        text = text.replace(escape, mark).replace(&escape.to_ascii_lowercase(), mark);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_tried_with_and_without() {
        for (url, bare, full) in [
            ("https://a.example/x?y=1", "https://a.example/x?y=1", "https://a.example:443/x?y=1"),
            ("http://a.example:8080/", "http://a.example/", "http://a.example:8080/"),
            ("http://a.example", "http://a.example", "http://a.example:80"),
            ("https://[::1]:9/x", "https://[::1]/x", "https://[::1]:9/x"),
            ("https://u:p@h/x", "https://u:p@h/x", "https://u:p@h:443/x"),
        ] {
            assert_eq!(with_and_without_port(url), [bare, full]);
        }
        for odd in ["", "/x", "::", "http://", "https://a b/"] {
            assert_eq!(with_and_without_port(odd), [odd]);
        }
    }

    #[test]
    fn marks_are_decoded_once() {
        assert_eq!(
            decode_hubspot_escapes("https://h/a%2fb%2Cc%20d%253A"),
            "https://h/a/b,c%20d%253A"
        );
    }
}
