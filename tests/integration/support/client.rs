//! A sender: HTTP over a plain socket, so that a test can send anything at all.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;

use crate::support::server::DEADLINE;

/// What a sender gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The number in `{"event":7}`.
    pub fn event(&self) -> i64 {
        let json: serde_json::Value = serde_json::from_str(&self.body).expect("a JSON answer");
        json["event"].as_i64().expect("an event's number")
    }
}

/// One request to whoever listens there; nothing where nobody does or the answer breaks off.
pub fn request_to(
    port: u16,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> Option<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
    for line in headers.lines() {
        let _ = write!(head, "{line}\r\n");
    }
    let _ = write!(head, "Connection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    // It may answer, and close, before it has read all.
    let _ = stream.write_all(&[head.as_bytes(), body].concat());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    parse(&String::from_utf8_lossy(&answer))
}

/// A POST to whoever listens there.
pub fn post_to(port: u16, path: &str, body: &[u8]) -> Option<Answer> {
    request_to(port, "POST", path, "", body)
}

/// An answer as it came over the wire.
pub fn parse(answer: &str) -> Option<Answer> {
    let answer = answer.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}
