//! The workers: OS threads that each take a job, run it, and report its outcome; and the list of
//! what runs now, by which it can be ended.
//!
//! `step` is one job. A worker never waits for the store: it sends its outcome, and the claim of its
//! next job stands behind that in the writer's channel, so that both are one commit.

use std::collections::HashMap;
use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crossbeam_channel::Receiver;

use crate::clock;
use crate::config;
use crate::domain::{Claim, Ended, Event, HandlerId, JobId, Outcome};
use crate::handler::command::Command;
use crate::handler::{Kind, Task};
use crate::process::Stop;
use crate::queue::retry::{self, Record};
use crate::store::channel::Handle;
use crate::store::jobs::{Claimed, Finish, Next};
use crate::store::op::Op;
use crate::store::{Readers, read};

/// A handler as it is configured now, its secrets read.
#[derive(Debug)]
pub struct Ready {
    pub settings: Arc<config::Handler>,
    pub env: Arc<[(String, OsString)]>,
}

/// A claimed job on its way to a worker.
#[derive(Debug)]
pub struct Start {
    pub claimed: Claimed,
    pub handler: Arc<Ready>,
}

/// Why a running job is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Cancelled,
    Shutdown,
}

/// An attempt that runs now.
#[derive(Debug)]
struct Run {
    attempt: u32,
    stop: Stop,
    why: Option<Why>,
}

impl Run {
    /// The first reason is the one that counts.
    fn end(&mut self, why: Why) {
        self.why.get_or_insert(why);
        self.stop.set();
    }
}

/// What runs now.
#[derive(Debug, Default)]
pub struct Running {
    jobs: Mutex<HashMap<JobId, Run>>,
}

impl Running {
    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, Run>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends one attempt, if it still runs.
    pub fn end(&self, claim: Claim, why: Why) {
        if let Some(run) = self.jobs().get_mut(&claim.job)
            && run.attempt == claim.attempt
        {
            run.end(why);
        }
    }

    /// Ends all.
    pub fn end_all(&self, why: Why) {
        for run in self.jobs().values_mut() {
            run.end(why);
        }
    }

    pub fn count(&self) -> usize {
        self.jobs().len()
    }
}

/// What all workers share.
#[derive(Clone)]
pub struct Shared {
    pub from: Receiver<Start>,
    pub readers: Readers,
    pub writer: Handle,
    pub running: Arc<Running>,
    /// Told when a worker has sent its outcome.
    pub freed: Arc<dyn Fn(HandlerId) + Send + Sync>,
    /// The file's own random name: the first part of every mark.
    pub trail: String,
}

/// Starts `threads` workers; each ends when nobody can send it a job any more.
///
/// # Errors
/// A thread can't be made.
pub fn start(threads: usize, shared: &Shared) -> std::io::Result<Vec<JoinHandle<()>>> {
    let worker = |number: usize| {
        let shared = shared.clone();
        std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            while let Ok(start) = shared.from.recv() {
                let handler = start.claimed.handler;
                let finish = step(&shared, start);
                shared.writer.op(Op::Finish(Box::new(finish)));
                (shared.freed)(handler);
            }
        })
    };
    (1..=threads).map(worker).collect()
}

/// Runs one job to its end.
fn step(shared: &Shared, start: Start) -> Finish {
    let Start { claimed, handler } = start;
    let began = Instant::now();
    let (ended, why) = match Stop::new() {
        Ok(stop) => {
            let run = Run { attempt: claimed.claim.attempt, stop: stop.clone(), why: None };
            shared.running.jobs().insert(claimed.claim.job, run);
            let ended = attempt(shared, &claimed, &handler, &stop);
            let run = shared.running.jobs().remove(&claimed.claim.job);
            (ended, run.and_then(|run| run.why))
        }
        Err(e) => (Ended::new(Outcome::Failed, format!("not started: {e}")), None),
    };
    let ended = explained(ended, why);
    let took = began.elapsed();
    let age = Duration::from_millis(u64::try_from(claimed.age_ms).unwrap_or(0)) + took;
    let record = Record { failures: claimed.failures, age, crashes: 0 };
    let next = retry::next(&handler.settings.retry, record, &ended, clock::chance());
    finish(&claimed, ended, next, clock::wall_ms(), took, 0)
}

fn attempt(shared: &Shared, claimed: &Claimed, handler: &Ready, stop: &Stop) -> Ended {
    let found = shared.readers.get().map_err(anyhow::Error::from);
    let event = match found.and_then(|conn| Ok(read::event(&conn, claimed.event)?)) {
        Ok(event) => Arc::new(event),
        Err(e) => {
            return Ended::new(
                Outcome::Failed,
                format!("not started: the event was not read: {e}"),
            );
        }
    };
    let retry = &handler.settings.retry;
    let task = Task {
        claim: claimed.claim,
        handler: Arc::clone(&handler.settings),
        env: Arc::clone(&handler.env),
        item: None,
        attempts_max: retry::attempts_max(retry, claimed.claim.attempt, claimed.failures),
        key: key(&event, &handler.settings.name, claimed),
        mark: format!("{}.{}.{}", shared.trail, claimed.claim.job, claimed.claim.attempt),
        event,
    };
    let run = AssertUnwindSafe(|| Command::default().run(&task, stop));
    catch_unwind(run).unwrap_or_else(|_| {
        Ended::new(Outcome::Failed, "not started: a fault in hooktrail, see its log")
    })
}

/// An idempotency key: the event's random id, the handler, the item, the replay; the last two are
/// always there, so that no two jobs share one. At most 100 characters.
pub fn key(event: &Event, handler: &str, claimed: &Claimed) -> String {
    let uid = URL_SAFE_NO_PAD.encode(event.uid);
    format!("{uid}-{handler}-{}-{}", claimed.item.unwrap_or(0), claimed.replay)
}

/// An interruption says whose doing it was.
fn explained(mut ended: Ended, why: Option<Why>) -> Ended {
    if ended.outcome == Outcome::Interrupted {
        ended.detail = match why {
            Some(Why::Cancelled) => "cancelled".to_owned(),
            Some(Why::Shutdown) | None => "the server was stopped".to_owned(),
        };
    }
    ended
}

/// The outcome as it is written.
pub fn finish(
    claimed: &Claimed,
    ended: Ended,
    next: retry::Next,
    ended_at_ms: i64,
    took: Duration,
    crashes: u32,
) -> Finish {
    let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    Finish {
        claim: claimed.claim,
        handler: claimed.handler,
        source: claimed.source,
        outcome: ended.outcome,
        detail: ended.detail,
        ended_at_ms,
        duration_ms: ms(took),
        stdout: ended.stdout,
        stderr: ended.stderr,
        next: match next {
            retry::Next::Succeeded => Next::Succeeded,
            retry::Next::Dead(reason) => Next::Dead { reason },
            retry::Next::Again { wait, failures } => Next::Again { wait_ms: ms(wait), failures },
        },
        crashes,
    }
}
