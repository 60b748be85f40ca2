//! What a job costs the store, from its claim to its outcome, with many queued and with few.
//! `claims FOLDER JOBS SECONDS` prints one line of JSON: microseconds a job with so many jobs queued
//! over 100 handlers, and with a thousand. Of the handlers 30 are paused, 30 ordered by one key and 30
//! rest; the others have all threads. In turn, so that what else the machine does is shared.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use hooktrail::config::Durability;
use hooktrail::domain::job_plan::{JobKeys, JobPlan, JobSpec};
use hooktrail::domain::{HandlerId, Outcome, SourceId};
use hooktrail::scheduler::Scheduler;
use hooktrail::scheduler::handler_schedule::HandlerLimits;
use hooktrail::store::breaker::BreakerPolicy;
use hooktrail::store::events::{self, Dedupe, InsertStatements, NewEvent};
use hooktrail::store::jobs::{self, AttemptRecord, ClaimedJob, Next};
use hooktrail::store::registry::{self, HandlerRegistration};
use hooktrail::store::writer_state::WriterState;
use hooktrail::store::{Store, checkpoint, claim, in_transaction, open};

const USAGE: &str = "usage: claims FOLDER JOBS SECONDS";
const HANDLERS: i64 = 100;
const PAUSED: std::ops::RangeInclusive<i64> = 1..=30;
const ORDERED: std::ops::RangeInclusive<i64> = 31..=60;
const RESTING: std::ops::RangeInclusive<i64> = 61..=90;
const ACTIVE: usize = 10;
const THREADS: usize = 16;
const FEW: usize = 1_000;
/// So many transactions of the one trail, then of the other.
const TURN: usize = 100;
const HOUR_MS: i64 = 3_600_000;

struct Trail {
    store: Store,
    state: WriterState,
    dispatch: Scheduler,
    running: VecDeque<ClaimedJob>,
}

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().context(USAGE);
    let (folder, count, seconds) = (next()?, next()?.parse()?, next()?.parse()?);
    let mut trails = [
        Trail::filled(&Path::new(&folder).join("many.db"), count)?,
        Trail::filled(&Path::new(&folder).join("few.db"), FEW)?,
    ];
    let (began, length) = (Instant::now(), Duration::from_secs_f64(seconds));
    let mut us: [Vec<f64>; 2] = Default::default();
    while began.elapsed() < length {
        for (trail, us) in trails.iter_mut().zip(&mut us) {
            us.push(trail.turn()?);
        }
    }
    let [many, few] = us.map(|mut us| {
        us.sort_by(f64::total_cmp);
        us[us.len() / 2]
    });
    println!(r#"{{"many_us": {many:.2}, "few_us": {few:.2}}}"#);
    Ok(())
}

/// One for its event, or of the one key.
fn owed(handler: i64) -> (HandlerId, JobSpec) {
    let order = ORDERED.contains(&handler).then_some([7; 16]);
    (HandlerId(handler), JobSpec::Event(JobKeys { order, ..JobKeys::default() }))
}

impl Trail {
    fn filled(path: &Path, count: usize) -> anyhow::Result<Self> {
        let store = open(path, Durability::Normal)?;
        let named = |handler: i64| HandlerRegistration {
            name: format!("h{handler}"),
            paused: PAUSED.contains(&handler),
            breaker: BreakerPolicy { failures: 1, pause_ms: HOUR_MS },
        };
        let handlers: Vec<HandlerRegistration> = (1..=HANDLERS).map(named).collect();
        in_transaction(&store.conn, |conn| {
            let now_ms = store.clock.now_ms();
            registry::register(conn, &["a".to_owned()], &handlers, now_ms)?;
            conn.execute(
                "UPDATE handlers SET breaker_open_until = ?1 WHERE id BETWEEN ?2 AND ?3",
                [now_ms + HOUR_MS, *RESTING.start(), *RESTING.end()],
            )?;
            Ok(())
        })?;
        let mut dispatch = Scheduler::new(THREADS);
        let limits = HandlerLimits { priority: 0, concurrency: THREADS, rate: None, batch: None };
        let limits = (1..=HANDLERS).map(|handler| (HandlerId(handler), limits));
        dispatch.configure(&limits.collect::<HashMap<_, _>>());
        dispatch.set_paused(&PAUSED.map(HandlerId).collect::<Vec<_>>());
        RESTING.for_each(|handler| dispatch.set_breaker(HandlerId(handler), Some(i64::MAX)));
        let state = WriterState::read(&store.conn, store.clock)?;
        let mut trail = Self { store, state, dispatch, running: VecDeque::new() };
        let all: Vec<i64> = (1..=HANDLERS).collect();
        for _ in 0..count.div_ceil(all.len() * 100) {
            let events = 100.min(count / all.len());
            trail.change(|conn, state, _| (0..events).try_for_each(|_| take(conn, state, &all)))?;
        }
        checkpoint::truncate(&trail.store.conn)?;
        Ok(trail)
    }

    /// One transaction, as the writer makes it.
    fn change(
        &mut self,
        change: impl FnOnce(&rusqlite::Connection, &mut WriterState, &Store) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Self { store, state, .. } = self;
        in_transaction(&store.conn, |conn| {
            (state.now_ms, state.wall_ms) = (store.clock.now_ms(), hooktrail::clock::wall_ms());
            change(conn, state, store)?;
            Ok(state.write_counters(conn)?)
        })
    }

    /// Microseconds a job: outcomes, each with the claim that follows, all threads' in a transaction.
    /// What was taken is put in again, and not measured.
    fn turn(&mut self) -> anyhow::Result<f64> {
        let mut taken = Vec::new();
        let began = Instant::now();
        for _ in 0..TURN {
            let ended: Vec<ClaimedJob> = self.running.drain(..).collect();
            taken.extend(ended.iter().map(|one| one.handler.0));
            ended.iter().for_each(|one| self.dispatch.release_thread(one.handler));
            let asks = self.dispatch.plan(self.store.clock.now_ms() * 1000);
            let mut answers = Vec::with_capacity(asks.len());
            self.change(|conn, state, _| {
                for one in &ended {
                    jobs::finish(conn, state, &finish(one))?;
                }
                for ask in asks {
                    answers.push((ask, claim::claim(conn, state, &ask)?));
                }
                Ok(())
            })?;
            for (ask, claimed) in answers {
                self.dispatch.claimed(&ask, claimed.len(), 0);
                self.running.extend(claimed);
            }
            self.wake();
        }
        let us = began.elapsed().as_secs_f64() * 1e6 / taken.len().max(1) as f64;
        self.change(|conn, state, _| put_back(conn, state, &taken))?;
        self.wake();
        checkpoint::passive(&self.store.conn)?;
        Ok(us)
    }

    fn wake(&mut self) {
        for (handler, jobs) in self.state.ready_counts.drain() {
            self.dispatch.add_ready(handler, jobs, 0);
        }
    }
}

/// An event that owes these handlers a job each.
fn take(
    conn: &rusqlite::Connection,
    state: &mut WriterState,
    handlers: &[i64],
) -> anyhow::Result<()> {
    let accept = NewEvent {
        reply_slot: 0,
        source: SourceId(1),
        uid: [7; 16],
        received_at_ms: state.wall_ms,
        method: "POST".to_owned(),
        path: "/hooks/a".to_owned(),
        query: None,
        ip: "127.0.0.1".to_owned(),
        headers: b"content-type: application/json".to_vec(),
        body: include_bytes!("body.json").to_vec(),
        dedupe: Dedupe::default(),
        note: None,
        owed: JobPlan::Judged(handlers.iter().copied().map(owed).collect()),
        queue_limit: None,
        body_memory: None,
    };
    events::insert_event(conn, state, &mut InsertStatements::new(conn)?, &accept)?;
    Ok(())
}

/// Queues as many again, in rows that lie as apart as those of the stock do: among those of handlers
/// that don't run, which are cancelled at once.
fn put_back(
    conn: &rusqlite::Connection,
    state: &mut WriterState,
    taken: &[i64],
) -> anyhow::Result<()> {
    let all: Vec<i64> = (1..=HANDLERS).collect();
    let first = state.counters.job + 1;
    (0..taken.len() / ACTIVE).try_for_each(|_| take(conn, state, &all))?;
    conn.execute(
        "UPDATE jobs SET state = 5 WHERE id >= ?1 AND handler <= ?2 AND state IN (-1, 0)",
        [first, *RESTING.end()],
    )?;
    Ok(())
}

fn finish(claimed: &ClaimedJob) -> AttemptRecord {
    AttemptRecord {
        claim: claimed.claim,
        handler: claimed.handler,
        source: claimed.source,
        outcome: Outcome::Succeeded,
        detail: "answered".to_owned(),
        ended_at_ms: hooktrail::clock::wall_ms(),
        duration_ms: 1,
        stdout: Vec::new(),
        stderr: Vec::new(),
        next: Next::Succeeded,
        is_permanent: false,
        on_trial: false,
        breaker: BreakerPolicy::NEVER,
        crashes: 0,
    }
}
