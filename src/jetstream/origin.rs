//! The request of which another machine made a message: what its headers say about it.

use serde_json::{Map, Value};

use super::consumer::Delivery;
use super::headers;

/// Headers of the original request that do not describe the message, whose body a `transform` may have made.
const BODY_HEADERS: [&str; 4] =
    ["content-type", "content-length", "content-encoding", "transfer-encoding"];

/// Headers of the message that are not stored as headers: what they say has a column, or concerned the stream alone.
const CONSUMED_HEADERS: [&str; 7] = [
    headers::METHOD,
    headers::PATH,
    headers::QUERY,
    headers::CLIENT,
    headers::HEADERS,
    headers::KEY,
    headers::EXPECTED_STREAM,
];

/// A request as another machine received it. A message of another program looks like a POST to its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginRequest {
    pub method: String,
    pub path: String,
    pub query: Option<String>,
    /// The client's IP address; empty if it is unknown.
    pub ip: String,
    /// The subject of the client certificate.
    pub client: Option<String>,
    /// The headers of the request, and those of the message. Names are in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The key of the first machine, if the message passed another one in between.
    pub key: Option<String>,
}

impl OriginRequest {
    /// Reads the headers of a message.
    pub fn of(delivery: &Delivery) -> Self {
        Self::new(&delivery.subject, &delivery.headers)
    }

    fn new(subject: &str, lines: &[(String, Vec<u8>)]) -> Self {
        let find = |name: &str| {
            let line = lines.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            let text = std::str::from_utf8(&line?.1).ok()?.trim();
            (!text.is_empty()).then(|| text.to_owned())
        };
        let original = find(headers::HEADERS).and_then(|text| serde_json::from_str(&text).ok());
        let mut all = original.map(original_headers).unwrap_or_default();
        let is_consumed = |name: &str| {
            CONSUMED_HEADERS.iter().any(|consumed| name.eq_ignore_ascii_case(consumed))
        };
        let own = lines.iter().filter(|(name, _)| !is_consumed(name));
        all.extend(own.filter(|(name, value)| is_line(name, value)).cloned());
        let ip = find(headers::IP).and_then(|ip| ip.parse::<std::net::IpAddr>().ok());
        Self {
            method: find(headers::METHOD).unwrap_or_else(|| "POST".to_owned()),
            path: find(headers::PATH).unwrap_or_else(|| subject.to_owned()),
            query: find(headers::QUERY),
            ip: ip.map(|ip| ip.to_string()).unwrap_or_default(),
            client: find(headers::CLIENT),
            headers: all,
            key: find(headers::KEY),
        }
    }
}

/// Returns the headers of the original request that still apply. Those of a message are not among them, as the sender of the
/// request could have chosen them.
fn original_headers(object: Map<String, Value>) -> Vec<(String, Vec<u8>)> {
    let line = |(name, value): (String, Value)| match value {
        Value::String(text) => Some((name.to_ascii_lowercase(), text.into_bytes())),
        _ => None,
    };
    let is_of_message = |name: &str| {
        BODY_HEADERS.contains(&name) || name.starts_with("hooktrail-") || name.starts_with("nats-")
    };
    let lines = object.into_iter().filter_map(line);
    lines.filter(|(name, value)| !is_of_message(name) && is_line(name, value)).collect()
}

/// Whether a header can be stored as one line.
fn is_line(name: &str, value: &[u8]) -> bool {
    let is_name_byte = |byte: u8| byte.is_ascii_graphic() && byte != b':';
    !name.is_empty()
        && name.bytes().all(is_name_byte)
        && !value.iter().any(|b| b"\r\n\0".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(lines: &[(&str, &str)]) -> OriginRequest {
        let line = |(name, value): &(&str, &str)| ((*name).to_owned(), value.as_bytes().to_vec());
        OriginRequest::new("hooks.a", &lines.iter().map(line).collect::<Vec<_>>())
    }

    #[test]
    fn a_message_of_another_program_is_a_post_to_its_subject() {
        let found = request(&[("x-a", "1")]);
        let OriginRequest { method, path, query, ip, client, headers, key } = found;
        assert_eq!(
            (&*method, &*path, query, &*ip, client, key),
            ("POST", "hooks.a", None, "", None, None)
        );
        assert_eq!(headers, [("x-a".to_owned(), b"1".to_vec())]);
    }

    #[test]
    fn the_request_of_the_first_machine_is_restored() {
        let found = request(&[
            ("content-type", "application/json"),
            ("hooktrail-client", "CN=a"),
            (
                "hooktrail-headers",
                r#"{"Content-Type":"text/plain","content-length":"9","x-b":"2, 3"}"#,
            ),
            ("hooktrail-ip", "2001:db8::1"),
            ("hooktrail-key", "k"),
            ("hooktrail-method", "PUT"),
            ("hooktrail-path", "/in/x"),
            ("hooktrail-query", "a=%20"),
        ]);
        assert_eq!(
            (&*found.method, &*found.path, found.query.as_deref()),
            ("PUT", "/in/x", Some("a=%20"))
        );
        assert_eq!(
            (&*found.ip, found.client.as_deref(), found.key.as_deref()),
            ("2001:db8::1", Some("CN=a"), Some("k"))
        );
        let names: Vec<&str> = found.headers.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["x-b", "content-type", "hooktrail-ip"]);
    }

    #[test]
    fn a_sender_can_not_choose_the_headers_of_the_message() {
        let object = r#"{"hooktrail-source":"other","nats-msg-id":"other","x\ny":"1","x":"a\nhooktrail-event: 7","a b":"1","n":1}"#;
        let found = request(&[("hooktrail-headers", object), ("hooktrail-source", "paminga")]);
        assert_eq!(found.headers, [("hooktrail-source".to_owned(), b"paminga".to_vec())]);
        assert_eq!(request(&[("hooktrail-headers", "[1"), ("hooktrail-ip", "x")]).ip, "");
    }
}
