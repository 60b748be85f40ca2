//! Senders that post webhooks all the time, some on new connections and some on kept ones.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::server::{DEADLINE, until};

/// The requests per second of all senders together.
const RATE: u32 = 200;

/// Senders of each kind. Each sends one request at a time, so some are free while others wait for a restart.
const SENDERS: u32 = 10;

/// Senders that run until they are stopped. Half of them make a connection for each request.
pub struct Load {
    senders: Vec<JoinHandle<()>>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    should_stop: AtomicBool,
    accepted: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// Starts the senders to this path on a port. A sender that had to wait for a response catches up.
    pub fn start(port: u16, path: &str) -> Load {
        let state = Arc::<State>::default();
        let interval = Duration::from_secs(1) * (2 * SENDERS) / RATE;
        let senders = (0..2 * SENDERS).map(|number| {
            let (state, path) = (Arc::clone(&state), path.to_owned());
            let is_kept = number % 2 == 1;
            let mut due_at = Instant::now() + interval * number / (2 * SENDERS);
            std::thread::spawn(move || {
                let mut sender = Sender { port, path, is_kept, connection: None };
                while !state.should_stop.load(Ordering::Relaxed) {
                    std::thread::park_timeout(due_at.saturating_duration_since(Instant::now()));
                    match sender.send() {
                        Ok(()) => drop(state.accepted.fetch_add(1, Ordering::Relaxed)),
                        Err(failure) => state.failures.lock().expect("the failures").push(failure),
                    }
                    due_at += interval;
                }
            })
        });
        Load { senders: senders.collect(), state }
    }

    /// The number of requests that got a 202 until now.
    pub fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::Relaxed)
    }

    /// Waits until so many more requests were accepted.
    pub fn until_accepted(&self, more: usize) {
        let before = self.accepted();
        until("requests are accepted", || self.accepted() >= before + more);
    }

    /// Stops the senders, checks that no request failed, and returns how many were accepted.
    #[track_caller]
    pub fn stop_without_failure(mut self) -> usize {
        self.state.should_stop.store(true, Ordering::Relaxed);
        for sender in self.senders.drain(..) {
            sender.join().expect("a sender");
        }
        let (accepted, failures) = (self.accepted(), self.state.failures.lock().expect("a list"));
        let sent = accepted + failures.len();
        assert!(failures.is_empty(), "{} of {sent} requests: {failures:?}", failures.len());
        accepted
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.state.should_stop.store(true, Ordering::Relaxed);
    }
}

struct Sender {
    port: u16,
    path: String,
    is_kept: bool,
    connection: Option<BufReader<TcpStream>>,
}

impl Sender {
    fn send(&mut self) -> Result<(), String> {
        // A client does not use a connection of which it knows that the server has closed it.
        let kept = self.connection.take().filter(|kept| is_open(kept.get_ref()));
        let kind = match (&kept, self.is_kept) {
            (Some(_), _) => "a kept connection",
            (None, true) => "a new connection, to be kept",
            (None, false) => "a new connection",
        };
        let mut connection = match kept {
            Some(kept) => kept,
            None => connect(self.port).map_err(|e| format!("{kind}: connect: {e}"))?,
        };
        let close = if self.is_kept { "" } else { "Connection: close\r\n" };
        let request = format!(
            "POST {} HTTP/1.1\r\nHost: localhost\r\n{close}Content-Length: 2\r\n\r\n{{}}",
            self.path
        );
        connection
            .get_mut()
            .write_all(request.as_bytes())
            .map_err(|e| format!("{kind}: write: {e}"))?;
        let head = read_response(&mut connection).map_err(|e| format!("{kind}: read: {e}"))?;
        if !head.starts_with("HTTP/1.1 202 ") {
            return Err(format!("{kind}: {}", head.lines().next().unwrap_or("no response")));
        }
        if self.is_kept && !head.to_ascii_lowercase().contains("connection: close") {
            self.connection = Some(connection);
        }
        Ok(())
    }
}

fn connect(port: u16) -> std::io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

/// Whether the server has neither closed the connection nor sent anything that nobody asked for.
fn is_open(stream: &TcpStream) -> bool {
    let peeked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
    let is_idle = matches!(&peeked, Err(e) if e.kind() == ErrorKind::WouldBlock);
    is_idle && stream.set_nonblocking(false).is_ok()
}

/// Reads a response with a `Content-Length`, and returns its head.
fn read_response(connection: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if connection.read_line(&mut head)? == 0 {
            let text = format!("closed after {} bytes", head.len());
            return Err(std::io::Error::new(ErrorKind::UnexpectedEof, text));
        }
    }
    let lower = head.to_ascii_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length = length.and_then(|value| value.trim().parse::<usize>().ok()).unwrap_or(0);
    connection.read_exact(&mut vec![0; length])?;
    Ok(head)
}
