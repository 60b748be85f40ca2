//! The public URL: the URL that the sender calls, and signs.

use actix_web::http::Uri;

use super::SignedRequest;
use super::parse::forwarded_pair;
use super::public_url::PublicUrl;

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
    let parts = parsed.as_ref().and_then(|uri| Some((uri.authority()?, uri.scheme_str()?)));
    let Some((authority, scheme)) = parts else { return vec![url.to_owned()] };
    let Some((before, after)) = url.split_once(authority.as_str()) else {
        return vec![url.to_owned()];
    };
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
