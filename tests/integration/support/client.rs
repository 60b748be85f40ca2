//! An HTTP client over a plain socket, so that a test can also send what no HTTP library would.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use crate::support::server::DEADLINE;

/// A response as the sender of a webhook sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The number in `{"event":7}`.
    pub fn event_id(&self) -> i64 {
        let json: serde_json::Value = serde_json::from_str(&self.body).expect("a JSON response");
        json["event"].as_i64().expect("an event ID")
    }
}

/// Sends a request on a new connection. `None` if nothing listens on the port or the response is
/// incomplete.
pub fn send_request(
    port: u16,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> Option<Response> {
    send_request_to((Ipv4Addr::LOCALHOST, port).into(), method, path, headers, body)
}

/// Sends a request to another address than that of the loopback interface.
pub fn send_request_to(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> Option<Response> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    // The server may respond and close before it has read the whole request.
    let _ = stream.write_all(&request_bytes(method, path, headers, body));
    let mut response = Vec::new();
    let _ = stream.read_to_end(&mut response);
    parse_response(&String::from_utf8_lossy(&response))
}

/// The bytes of a request after which the server closes the connection.
pub fn request_bytes(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
    for line in headers.lines() {
        let _ = write!(head, "{line}\r\n");
    }
    let _ = write!(head, "Connection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Sends a POST without headers.
pub fn post(port: u16, path: &str, body: &[u8]) -> Option<Response> {
    send_request(port, "POST", path, "", body)
}

/// Parses the bytes of a response.
pub fn parse_response(text: &str) -> Option<Response> {
    let text = text.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(text);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Response { status, head: head.to_owned(), body: body.to_owned() })
}
