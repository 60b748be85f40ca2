//! A client of the API of the server under test.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::support::client::{Response, parse_response, send_request};
use crate::support::server::{DEADLINE, Scenario, Server, scenario, until};

/// A server with an admin listener, source `a` and handler `h`, which succeeds.
pub fn admin_scenario() -> Scenario {
    admin_scenario_with("")
}

/// The same, with further keys of `[admin]`.
pub fn admin_scenario_with(keys: &str) -> Scenario {
    let admin = format!("listen = [\"127.0.0.1:0\"]\n{keys}");
    scenario().admin(&admin).source("a", "").handler("h", "", "true")
}

/// The API of a server, with its token.
pub struct Api {
    pub port: u16,
    pub token: String,
}

impl Api {
    /// Reads the port from the log, and the token from the file `admin.token`.
    pub fn of(server: &Server) -> Self {
        let mut port = None;
        until("the log names the admin listener", || {
            let log = server.log();
            let rest = log.split("the console is at http://127.0.0.1:").nth(1);
            port = rest.and_then(|rest| rest.split(' ').next()?.trim().parse().ok());
            port.is_some()
        });
        Self {
            port: port.expect("a port"),
            token: server.read_file("admin.token").trim().to_owned(),
        }
    }

    /// Sends a request with the token.
    pub fn request(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Response {
        let headers = format!("Authorization: Bearer {}\n{headers}", self.token);
        send_request(self.port, method, path, &headers, body).expect("a response")
    }

    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, "", b"")
    }

    /// Returns the JSON of a response with 200.
    pub fn json(&self, path: &str) -> Value {
        let response = self.get(path);
        assert_eq!(response.status, 200, "{path}: {response:?}");
        parse(&response)
    }

    /// Returns the items of a list.
    pub fn items(&self, path: &str) -> Vec<Value> {
        let mut page = self.json(path);
        serde_json::from_value(page["items"].take()).expect("items")
    }

    /// Returns one field of each item of a list.
    pub fn numbers(&self, path: &str, field: &str) -> Vec<i64> {
        let items = self.items(path);
        items.iter().map(|item| item[field].as_i64().expect("a number")).collect()
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        let json = "Content-Type: application/json";
        self.request("POST", path, json, body.to_string().as_bytes())
    }

    /// Returns the JSON of a response with 200 or 202.
    pub fn act(&self, path: &str, body: &Value) -> Value {
        let response = self.post(path, body);
        assert!([200, 202].contains(&response.status), "{path} {body}: {response:?}");
        parse(&response)
    }

    /// Waits until an operation has ended, and returns it.
    pub fn until_ended(&self, operation: &Value) -> Value {
        let path = format!("/api/v1/operations/{}", operation["operation"]);
        let mut found = Value::Null;
        until("the operation ends", || {
            found = self.json(&path);
            ["done", "stopped", "failed"].contains(&found["state"].as_str().expect("a state"))
        });
        found
    }

    /// Opens a stream of outcomes. `query`: further parameters. `headers` has one header on each line.
    pub fn follow(&self, query: &str, headers: &str) -> OutcomeStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let head = format!(
            "GET /api/v1/outcomes?follow=1{query} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n{}\r\n",
            self.token,
            headers.lines().map(|line| format!("{line}\r\n")).collect::<String>()
        );
        stream.write_all(head.as_bytes()).expect("a request");
        OutcomeStream { lines: BufReader::new(stream) }
    }
}

/// The events of a stream, as a browser's `EventSource` reads them.
pub struct OutcomeStream {
    lines: BufReader<TcpStream>,
}

impl OutcomeStream {
    /// The lines of the response up to an empty line.
    fn block(&mut self) -> Option<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            match self.lines.read_line(&mut line) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("no end in time"),
                Err(_) => return None,
            }
            match line.trim_end() {
                "" => return Some(lines),
                // The size of a chunk stands on a separate line.
                text => lines.push(text.to_owned()),
            }
        }
    }

    /// The head of the response.
    pub fn head(&mut self) -> String {
        self.block().expect("a response").join("\n")
    }

    /// Waits until the stream is open: outcomes after this call are sent.
    pub fn until_open(mut self) -> Self {
        let head = self.head();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        let first = self.block().expect("a comment");
        assert!(first.contains(&"retry: 2000".to_owned()), "{first:?}");
        self
    }

    /// The next outcome: the `id` of its event, and its row. `None`: the stream has ended.
    pub fn next(&mut self) -> Option<(i64, Value)> {
        loop {
            let block = self.block()?;
            let field = |name: &str| block.iter().find_map(|line| line.strip_prefix(name));
            if let (Some(id), Some(data)) = (field("id: "), field("data: ")) {
                let row = serde_json::from_str(data).expect("a row");
                return Some((id.parse().expect("an id"), row));
            }
        }
    }
}

/// Parses the body of a response.
pub fn parse(response: &Response) -> Value {
    serde_json::from_str(&response.body).unwrap_or_else(|e| panic!("{e}: {response:?}"))
}

/// Checks that a response is a problem (RFC 9457) with this status and detail.
#[track_caller]
pub fn assert_problem(response: &Response, status: u16, detail: &str) {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.header("content-type"), Some("application/problem+json"), "{response:?}");
    let problem = parse(response);
    assert_eq!(problem["status"], json!(status), "{problem}");
    assert!(problem["title"].is_string(), "{problem}");
    assert_eq!(problem["detail"], json!(detail), "{problem}");
}

/// Sends bytes as they are, and returns the response.
pub fn send_bytes(mut stream: impl Read + Write, bytes: &[u8]) -> Response {
    // The server may respond and close before it has read the whole request.
    let _ = stream.write_all(bytes);
    let mut response = Vec::new();
    let _ = stream.read_to_end(&mut response);
    let text = String::from_utf8_lossy(&response);
    parse_response(&text).unwrap_or_else(|| panic!("no response: {text:?}"))
}
