//! Sends requests to servers that don't speak HTTP, as wrk does: one thread, `epoll`, and each client
//! sends its next request when it has its response. Prints the same line of JSON as post.lua.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;
use rustix::buffer::spare_capacity;
use rustix::event::epoll;

use crate::BODY;

/// A server to send requests to.
#[derive(Clone, Copy, ValueEnum)]
pub enum Peer {
    Redis,
    Beanstalkd,
}

/// The request, how a good response begins, and how many lines the response has.
struct Protocol {
    request: Vec<u8>,
    good: &'static [u8],
    lines: usize,
}

impl Protocol {
    fn new(peer: Peer) -> Self {
        let (before, good, lines): (_, &[u8], _) = match peer {
            // XADD hooks * body BODY
            Peer::Redis => {
                ("*5\r\n$4\r\nXADD\r\n$5\r\nhooks\r\n$1\r\n*\r\n$4\r\nbody\r\n$", b"$", 2)
            }
            // put PRIORITY DELAY TIME-TO-RUN BYTES
            Peer::Beanstalkd => ("put 0 0 60 ", b"INSERTED", 1),
        };
        let bytes = BODY.len().to_string();
        let request = [before.as_bytes(), bytes.as_bytes(), b"\r\n", BODY, b"\r\n"];
        Self { request: request.concat(), good, lines }
    }
}

struct Client {
    socket: TcpStream,
    response: Vec<u8>,
    sent_at: Instant,
}

impl Client {
    fn send(&mut self, protocol: &Protocol) -> std::io::Result<()> {
        self.response.clear();
        self.sent_at = Instant::now();
        self.socket.write_all(&protocol.request)
    }

    /// Reads the bytes that have arrived; true if the response is complete.
    fn read_response(&mut self, protocol: &Protocol) -> anyhow::Result<bool> {
        let mut bytes = [0; 4096];
        let count = self.socket.read(&mut bytes)?;
        anyhow::ensure!(count > 0, "the peer closed a connection");
        self.response.extend_from_slice(&bytes[..count]);
        let lines = self.response.iter().filter(|&&byte| byte == b'\n').count();
        anyhow::ensure!(
            lines == 0 || self.response.starts_with(protocol.good),
            "the peer responded {:?}",
            String::from_utf8_lossy(&self.response)
        );
        Ok(lines == protocol.lines)
    }
}

pub fn run(peer: Peer, address: &str, count: usize, seconds: f64) -> anyhow::Result<()> {
    let protocol = Protocol::new(peer);
    let length = Duration::from_secs_f64(seconds);
    let ready = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut clients = Vec::with_capacity(count);
    for number in 0..count {
        let socket = TcpStream::connect(address).with_context(|| address.to_owned())?;
        socket.set_nodelay(true)?;
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&ready, &socket, data, epoll::EventFlags::IN)?;
        clients.push(Client { socket, response: Vec::new(), sent_at: Instant::now() });
    }
    let took_us = measure(&ready, &mut clients, &protocol, length)?;
    let percentile =
        |share: f64| took_us.get((took_us.len() as f64 * share) as usize).unwrap_or(&0.0);
    println!(
        r#"{{"rate": {:.1}, "p50_us": {:.1}, "p99_us": {:.1}, "good": {}, "bad": 0}}"#,
        took_us.len() as f64 / length.as_secs_f64(),
        percentile(0.5),
        percentile(0.99),
        took_us.len()
    );
    Ok(())
}

/// Sends requests until the time is over, and returns the sorted times of the responses.
fn measure(
    ready: &impl std::os::fd::AsFd,
    clients: &mut [Client],
    protocol: &Protocol,
    length: Duration,
) -> anyhow::Result<Vec<f64>> {
    let end = Instant::now() + length;
    for client in clients.iter_mut() {
        client.send(protocol)?;
    }
    let mut took_us = Vec::new();
    let mut events = Vec::with_capacity(clients.len());
    let timeout = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    while Instant::now() < end {
        events.clear();
        let ready_count = epoll::wait(ready, spare_capacity(&mut events), Some(&timeout))?;
        anyhow::ensure!(ready_count > 0, "the peer was silent for {} s", timeout.tv_sec);
        for event in &events {
            let client = &mut clients[usize::try_from(event.data.u64())?];
            if client.read_response(protocol)? {
                took_us.push(client.sent_at.elapsed().as_secs_f64() * 1e6);
                client.send(protocol)?;
            }
        }
    }
    took_us.sort_by(f64::total_cmp);
    Ok(took_us)
}
