//! Tests of URL handlers against fake servers: requests, responses, connections, timeouts and TLS.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::*;
use crate::config::HandlerKind;
use crate::domain::{Event, Headers};
use crate::handler::tests::sample_task;

mod connections;
mod requests;
mod responses;
mod timeouts;
mod tls;

/// A time that no test may exceed.
const LONG: Duration = Duration::from_secs(60);

/// A server that responds as the test wants and records its requests.
struct FakeServer {
    url: String,
    requests: Arc<Mutex<Vec<RecordedRequest>>>,
}

/// The number of the connection, the head and the body.
type RecordedRequest = (usize, String, Vec<u8>);

/// Starts a server. `response` gets the number of each request and its connection, and returns
/// false to close the connection.
fn fake_server(
    response: impl Fn(usize, &mut TcpStream) -> bool + Send + Sync + 'static,
) -> FakeServer {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook?a=%20b", listener.local_addr().unwrap());
    let (requests, response) = (Arc::<Mutex<Vec<_>>>::default(), Arc::new(response));
    let recorded = Arc::clone(&requests);
    std::thread::spawn(move || {
        for (connection, stream) in listener.incoming().map_while(Result::ok).enumerate() {
            let (recorded, response) = (Arc::clone(&recorded), Arc::clone(&response));
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut stream = stream;
                while let Some((head, body)) = request(&mut reader) {
                    let number = {
                        let mut recorded = recorded.lock();
                        recorded.push((connection, head, body));
                        recorded.len()
                    };
                    if !response(number, &mut stream) {
                        break;
                    }
                }
                let _ = stream.shutdown(Shutdown::Both);
            });
        }
    });
    FakeServer { url, requests }
}

/// Starts a server that writes `response` and keeps the connection.
fn respond_with(response: &'static str) -> FakeServer {
    fake_server(move |_, stream| stream.write_all(response.as_bytes()).is_ok())
}

/// Starts a server that writes `response` and closes the connection.
fn respond_and_close(response: &'static [u8]) -> FakeServer {
    fake_server(move |_, stream| {
        let _ = stream.write_all(response);
        false
    })
}

/// Reads one complete request, or `None` at the end of the stream.
fn request(reader: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut head).ok()? == 0 {
            return None;
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let lower = head.to_ascii_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length?.parse().unwrap()];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}

impl FakeServer {
    fn task(&self) -> Task {
        task(&self.url)
    }

    fn run(&self) -> AttemptResult {
        run_attempt(&self.task())
    }

    /// Returns the sorted lines of the head of the only request, and its body.
    fn only_request(&self) -> (Vec<String>, Vec<u8>) {
        let requests = self.requests.lock();
        assert_eq!(requests.len(), 1);
        let mut lines: Vec<_> = requests[0].1.trim_end().lines().map(str::to_owned).collect();
        lines.sort();
        (lines, requests[0].2.clone())
    }

    fn connections(&self) -> Vec<usize> {
        self.requests.lock().iter().map(|(connection, ..)| *connection).collect()
    }
}

fn target(url: &str) -> UrlTarget {
    UrlTarget {
        url: url.to_owned(),
        headers: Vec::new(),
        forward_headers: Vec::new(),
        sign: Vec::new(),
        proxy: None,
    }
}

fn task(url: &str) -> Task {
    sample_task(|handler| handler.kind = HandlerKind::Url(target(url)))
}

fn with_settings(task: &Task, change: impl FnOnce(&mut config::Handler)) -> Task {
    let mut handler = (*task.handler).clone();
    change(&mut handler);
    Task { handler: Arc::new(handler), ..task.clone() }
}

fn run_attempt(task: &Task) -> AttemptResult {
    let began = Instant::now();
    let result = UrlRunner::new(&task.handler).run(task, &CancelToken::new().unwrap());
    assert!(began.elapsed() < LONG, "{result:?}");
    result
}

#[track_caller]
fn check(result: &AttemptResult, outcome: Outcome, detail: &str) {
    assert_eq!((result.outcome, result.detail.as_str()), (outcome, detail));
}
