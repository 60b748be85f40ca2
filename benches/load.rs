//! A closed loop of clients for peers that don't speak HTTP, made as wrk is: one thread, `epoll`,
//! each client asks again when its answer is there.
//! `load redis|beanstalkd HOST:PORT CLIENTS SECONDS` prints one line of JSON, as post.lua does.

use std::env::args;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;

const USAGE: &str = "usage: load redis|beanstalkd HOST:PORT CLIENTS SECONDS";

const BODY: &[u8] = include_bytes!("body.json");

/// What is sent, how a good answer begins, and how many lines it has.
struct Protocol {
    request: Vec<u8>,
    good: &'static [u8],
    lines: usize,
}

impl Protocol {
    fn of(peer: &str) -> anyhow::Result<Self> {
        let (before, good, lines): (_, &[u8], _) = match peer {
            // XADD hooks * body BODY
            "redis" => ("*5\r\n$4\r\nXADD\r\n$5\r\nhooks\r\n$1\r\n*\r\n$4\r\nbody\r\n$", b"$", 2),
            // put PRIORITY DELAY TIME-TO-RUN BYTES
            "beanstalkd" => ("put 0 0 60 ", b"INSERTED", 1),
            _ => bail!(USAGE),
        };
        let bytes = BODY.len().to_string();
        let request = [before.as_bytes(), bytes.as_bytes(), b"\r\n", BODY, b"\r\n"];
        Ok(Self { request: request.concat(), good, lines })
    }
}

struct Client {
    socket: TcpStream,
    answer: Vec<u8>,
    asked: Instant,
}

impl Client {
    fn ask(&mut self, protocol: &Protocol) -> std::io::Result<()> {
        self.answer.clear();
        self.asked = Instant::now();
        self.socket.write_all(&protocol.request)
    }

    /// Reads what is there; whether the answer is whole.
    fn hear(&mut self, protocol: &Protocol) -> anyhow::Result<bool> {
        let mut bytes = [0; 4096];
        let count = self.socket.read(&mut bytes)?;
        anyhow::ensure!(count > 0, "the peer closed a connection");
        self.answer.extend_from_slice(&bytes[..count]);
        let lines = self.answer.iter().filter(|&&byte| byte == b'\n').count();
        anyhow::ensure!(
            lines == 0 || self.answer.starts_with(protocol.good),
            "the peer answered {:?}",
            String::from_utf8_lossy(&self.answer)
        );
        Ok(lines == protocol.lines)
    }
}

fn main() -> anyhow::Result<()> {
    let protocol = Protocol::of(&args().nth(1).context(USAGE)?)?;
    let address = args().nth(2).context(USAGE)?;
    let count: usize = args().nth(3).context(USAGE)?.parse()?;
    let length = Duration::from_secs_f64(args().nth(4).context(USAGE)?.parse()?);

    let ready = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut clients = Vec::with_capacity(count);
    for number in 0..count {
        let socket = TcpStream::connect(&address).with_context(|| address.clone())?;
        socket.set_nodelay(true)?;
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&ready, &socket, data, epoll::EventFlags::IN)?;
        clients.push(Client { socket, answer: Vec::new(), asked: Instant::now() });
    }
    let took_us = run(&ready, &mut clients, &protocol, length)?;
    let at = |share: f64| took_us.get((took_us.len() as f64 * share) as usize).unwrap_or(&0.0);
    println!(
        r#"{{"rate": {:.1}, "p50_us": {:.1}, "p99_us": {:.1}, "good": {}, "bad": 0}}"#,
        took_us.len() as f64 / length.as_secs_f64(),
        at(0.5),
        at(0.99),
        took_us.len()
    );
    Ok(())
}

/// Asks and hears until the time is over; how long each answer took, sorted.
fn run(
    ready: &impl std::os::fd::AsFd,
    clients: &mut [Client],
    protocol: &Protocol,
    length: Duration,
) -> anyhow::Result<Vec<f64>> {
    let end = Instant::now() + length;
    for client in clients.iter_mut() {
        client.ask(protocol)?;
    }
    let mut took_us = Vec::new();
    let mut events = Vec::with_capacity(clients.len());
    let patience = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    while Instant::now() < end {
        events.clear();
        let heard = epoll::wait(ready, spare_capacity(&mut events), Some(&patience))?;
        anyhow::ensure!(heard > 0, "the peer was silent for {} s", patience.tv_sec);
        for event in &events {
            let client = &mut clients[usize::try_from(event.data.u64())?];
            if client.hear(protocol)? {
                took_us.push(client.asked.elapsed().as_secs_f64() * 1e6);
                client.ask(protocol)?;
            }
        }
    }
    took_us.sort_by(f64::total_cmp);
    Ok(took_us)
}
