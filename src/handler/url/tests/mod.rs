//! URLs as the worker calls them: what is sent, and what each answer, and each lack of one, is.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::*;
use crate::domain::{Event, Headers};
use crate::handler::tests::sample;

mod connections;
mod requests;
mod responses;
mod timeouts;
mod tls;

/// Longer than any test may take.
const LONG: Duration = Duration::from_secs(60);

/// A server that answers as a test likes, and keeps what it was asked.
struct Fake {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// The connection's number, the head, the body.
type Asked = (usize, String, Vec<u8>);

/// `answer` gets each request's number and its connection; false closes that.
fn fake(answer: impl Fn(usize, &mut TcpStream) -> bool + Send + Sync + 'static) -> Fake {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook?a=%20b", listener.local_addr().unwrap());
    let (asked, answer) = (Arc::<Mutex<Vec<_>>>::default(), Arc::new(answer));
    let kept = Arc::clone(&asked);
    std::thread::spawn(move || {
        for (connection, stream) in listener.incoming().map_while(Result::ok).enumerate() {
            let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut stream = stream;
                while let Some((head, body)) = request(&mut reader) {
                    let number = {
                        let mut kept = kept.lock().unwrap();
                        kept.push((connection, head, body));
                        kept.len()
                    };
                    if !answer(number, &mut stream) {
                        break;
                    }
                }
                let _ = stream.shutdown(Shutdown::Both);
            });
        }
    });
    Fake { url, asked }
}

/// A server that says this and goes on.
fn says(answer: &'static str) -> Fake {
    fake(move |_, stream| stream.write_all(answer.as_bytes()).is_ok())
}

/// A server that says this and closes.
fn says_and_closes(answer: &'static [u8]) -> Fake {
    fake(move |_, stream| {
        let _ = stream.write_all(answer);
        false
    })
}

/// One request whole; nothing at the end.
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

impl Fake {
    fn task(&self) -> Task {
        task(&self.url)
    }

    fn run(&self) -> AttemptResult {
        run_of(&self.task())
    }

    /// The lines of the only request's head, sorted, and its body.
    fn only(&self) -> (Vec<String>, Vec<u8>) {
        let asked = self.asked.lock().unwrap();
        assert_eq!(asked.len(), 1);
        let mut lines: Vec<_> = asked[0].1.trim_end().lines().map(str::to_owned).collect();
        lines.sort();
        (lines, asked[0].2.clone())
    }

    fn connections(&self) -> Vec<usize> {
        self.asked.lock().unwrap().iter().map(|(connection, ..)| *connection).collect()
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
    sample(|handler| handler.target = Some(target(url)))
}

fn with(task: &Task, change: impl FnOnce(&mut config::Handler)) -> Task {
    let mut handler = (*task.handler).clone();
    change(&mut handler);
    Task { handler: Arc::new(handler), ..task.clone() }
}

fn run_of(task: &Task) -> AttemptResult {
    let began = Instant::now();
    let ended = Url::new(&task.handler).run(task, &CancelToken::new().unwrap());
    assert!(began.elapsed() < LONG, "{ended:?}");
    ended
}

#[track_caller]
fn check(ended: &AttemptResult, outcome: Outcome, detail: &str) {
    assert_eq!((ended.outcome, ended.detail.as_str()), (outcome, detail));
}
