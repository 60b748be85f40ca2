//! Measures the HTTP client of `url` handlers alone: each thread sends one POST after another over the
//! keep-alive connections of one agent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ureq::Agent;

use crate::BODY;

pub fn run(url: &str, threads: usize, seconds: f64) -> anyhow::Result<()> {
    let length = Duration::from_secs_f64(seconds);
    let agent: Agent = Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(30)))
        .max_idle_connections(threads)
        .max_idle_connections_per_host(threads)
        .build()
        .into();
    let (good, bad) = (AtomicU64::new(0), AtomicU64::new(0));
    let end = Instant::now() + length;
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while Instant::now() < end {
                    let done = match post(&agent, url) {
                        Ok(()) => &good,
                        Err(_) => &bad,
                    };
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let (good, bad) = (good.into_inner(), bad.into_inner());
    let rate = good as f64 / length.as_secs_f64();
    println!(r#"{{"rate": {rate:.1}, "good": {good}, "bad": {bad}}}"#);
    Ok(())
}

fn post(agent: &Agent, url: &str) -> Result<(), ureq::Error> {
    let request = agent.post(url).header("content-type", "application/json");
    let mut response = request.header("idempotency-key", "the-key").send(BODY)?;
    response.body_mut().read_to_vec().map(drop)
}
