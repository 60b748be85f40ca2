//! Measures `mode = "stream"` alone: each thread sends one job after another to its process, without a
//! queue and without a database.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use hooktrail::internals::config::{self, CommandTarget, HandlerKind, Mode};
use hooktrail::internals::domain::{Claim, Event, EventId, Headers, JobId, Outcome};
use hooktrail::internals::handler::{LookupLimit, NatsThread, Task, runner_for};
use hooktrail::internals::process::{CancelToken, GRACE, Supervisor};

use crate::BODY;

pub fn run(command: Vec<String>, threads: i64, seconds: f64) -> anyhow::Result<()> {
    let length = Duration::from_secs_f64(seconds);
    let supervisor = Supervisor::new(&format!("bench{}", std::process::id()));
    supervisor.become_subreaper()?;
    let mut settings = config::Handler::with_defaults("stream", Path::new("."));
    settings.kind = HandlerKind::Command(CommandTarget {
        args: command,
        directory: Path::new(".").to_owned(),
        env: Vec::new(),
        mode: Mode::Stream,
    });
    let stream = runner_for(&settings, None, &NatsThread::default());
    let settings = Arc::new(settings);
    let (good, bad) = (AtomicU64::new(0), AtomicU64::new(0));
    let end = Instant::now() + length;
    std::thread::scope(|scope| {
        for thread in 1..=threads {
            let (stream, settings, good, bad) = (&stream, &settings, &good, &bad);
            let supervisor = &supervisor;
            scope.spawn(move || -> std::io::Result<()> {
                let (mut task, stop) = (task(settings, supervisor), CancelToken::new()?);
                while Instant::now() < end {
                    task.claim.job.0 += thread;
                    let succeeded = stream.run(&task, &stop).outcome == Outcome::Succeeded;
                    let done = if succeeded { good } else { bad };
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
        }
    });
    stream.close();
    ensure!(supervisor.wait_for_runs(GRACE * 2), "a process still runs");
    let (good, bad) = (good.into_inner(), bad.into_inner());
    let rate = good as f64 / length.as_secs_f64();
    println!(r#"{{"rate": {rate:.1}, "good": {good}, "bad": {bad}}}"#);
    Ok(())
}

fn task(handler: &Arc<config::Handler>, supervisor: &Arc<Supervisor>) -> Task {
    let line = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    let event = Event {
        id: EventId(1),
        uid: [0; 16],
        source: "work".to_owned(),
        received_at_ms: 0,
        method: "POST".to_owned(),
        path: "/hooks/work".to_owned(),
        query: None,
        ip: "127.0.0.1".to_owned(),
        client: None,
        origin_key: None,
        headers: Headers(vec![
            line("host", "127.0.0.1:8080"),
            line("content-type", "application/json"),
            line("content-length", "600"),
        ]),
        body: Arc::from(BODY),
        expression_errors: None,
        removed_bytes: None,
    };
    Task {
        claim: Claim { job: JobId(1), attempt: 1 },
        handler: Arc::clone(handler),
        env: Arc::new([]),
        headers: Arc::new([]),
        sign: Arc::new([]),
        item: None,
        input: Arc::clone(&event.body),
        is_json_input: false,
        max_attempts: 40,
        message: None,
        idempotency_key: "the-key".to_owned(),
        supervisor: Arc::clone(supervisor),
        lookups: LookupLimit::default(),
        event: Arc::new(event),
    }
}
