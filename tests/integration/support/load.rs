//! Senders that post webhooks all the time, some on new connections and some on kept ones.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::server::{DEADLINE, until};

/// The pause of a sender between two requests. Eight senders together then send 200 requests a second.
const PAUSE: Duration = Duration::from_millis(40);

/// Senders that run until they are stopped.
pub struct Load {
    is_over: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    senders: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts eight senders to this path on a port: half of them make a connection for each request.
    pub fn start(port: u16, path: &str) -> Self {
        let (is_over, accepted) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let failures = Arc::<Mutex<Vec<String>>>::default();
        let sender = |number: usize| {
            let (is_over, accepted) = (Arc::clone(&is_over), Arc::clone(&accepted));
            let (failures, path) = (Arc::clone(&failures), path.to_owned());
            std::thread::spawn(move || {
                let mut kept = None;
                while !is_over.load(Ordering::Relaxed) {
                    match send(port, &path, &mut kept, number % 2 == 0) {
                        Ok(202) => drop(accepted.fetch_add(1, Ordering::Relaxed)),
                        Ok(status) => failures.lock().unwrap().push(format!("status {status}")),
                        Err(e) => {
                            kept = None;
                            failures.lock().unwrap().push(e.to_string());
                        }
                    }
                    std::thread::park_timeout(PAUSE);
                }
            })
        };
        let senders = (0..8).map(sender).collect();
        Self { is_over, accepted, failures, senders }
    }

    /// How many requests were accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Waits until so many more requests were accepted.
    pub fn until_accepted(&self, more: usize) {
        let before = self.accepted();
        until("requests are accepted", || self.accepted() >= before + more);
    }

    /// Stops the senders, and checks that no request failed.
    #[track_caller]
    pub fn stop_without_failure(self) {
        self.is_over.store(true, Ordering::Relaxed);
        for sender in self.senders {
            sender.join().unwrap();
        }
        let failures = self.failures.lock().unwrap();
        let accepted = self.accepted.load(Ordering::Relaxed);
        assert!(failures.is_empty(), "{} of {accepted}: {failures:?}", failures.len());
    }
}

/// Sends one request and returns the status of the response.
fn send(
    port: u16,
    path: &str,
    kept: &mut Option<BufReader<TcpStream>>,
    is_kept: bool,
) -> io::Result<u16> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => {
            let stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.set_read_timeout(Some(DEADLINE))?;
            BufReader::new(stream)
        }
    };
    let request =
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{{}}");
    connection.get_mut().write_all(request.as_bytes())?;
    let (mut status, mut length, mut is_last) = (0, 0, !is_kept);
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(rest) = line.strip_prefix("http/1.1 ") {
            status = rest.get(..3).and_then(|text| text.parse().ok()).unwrap_or(0);
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        is_last |= line == "connection: close";
    }
    io::copy(&mut connection.by_ref().take(length), &mut io::sink())?;
    *kept = Some(connection).filter(|_| !is_last);
    Ok(status)
}
