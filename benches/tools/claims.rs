//! Measures a job in the store from its claim to its outcome, in microseconds and written pages per job, with
//! JOBS jobs queued and with 1,000. The handlers are one, or 100.
//!
//! Of 100 handlers, 30 are paused, 30 share one ordering key, and 30 have an open circuit breaker. The last
//! ten may use all threads. The databases take turns, forward and backward, so that other load on the machine
//! affects all.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::time::{Duration, Instant};

use hooktrail::internals::config::Durability;
use hooktrail::internals::domain::BreakerPolicy;
use hooktrail::internals::domain::{HandlerId, NextStep, Outcome, SourceId};
use hooktrail::internals::domain::{JobKeys, JobPlan, JobSpec};
use hooktrail::internals::scheduler::HandlerLimits;
use hooktrail::internals::scheduler::Scheduler;
use hooktrail::internals::store::events::{self, NewEvent};
use hooktrail::internals::store::registry::{self, HandlerRegistration};
use hooktrail::internals::store::{AttemptInserts, AttemptRecord, ClaimedJob, claim, finish};
use hooktrail::internals::store::{Effects, WriteTransaction, WriterCache};
use hooktrail::internals::store::{Store, checkpoint, in_transaction, open};
use hooktrail::internals::store::{write_directly, write_last};

use crate::BODY;

const HANDLERS: i64 = 100;
const PAUSED: std::ops::RangeInclusive<i64> = 1..=30;
const ORDERED: std::ops::RangeInclusive<i64> = 31..=60;
const OPEN_BREAKERS: std::ops::RangeInclusive<i64> = 61..=90;
/// Jobs of an event.
const JOBS: i64 = HANDLERS;
const THREADS: usize = 16;
const FEW: usize = 1_000;
/// Transactions of one database before the other has its turn.
const TURN: usize = 120;
/// The first of them are not measured, because the checkpoint before them leaves the processor idle.
const WARM_UP: usize = 20;
const HOUR_MS: i64 = 3_600_000;

struct Database {
    store: Store,
    cache: WriterCache,
    /// How many more jobs of each handler are ready, since that was last reported.
    ready: Vec<(HandlerId, usize)>,
    scheduler: Scheduler,
    running: VecDeque<ClaimedJob>,
    /// The handlers of an event's jobs.
    handlers: Vec<i64>,
}

pub fn run(folder: &Path, count: usize, seconds: f64) -> anyhow::Result<()> {
    let all: Vec<i64> = (1..=HANDLERS).collect();
    let one = [HANDLERS; JOBS as usize];
    let mut databases = [
        Database::with_queued_jobs(&folder.join("many.db"), count, &all)?,
        Database::with_queued_jobs(&folder.join("few.db"), FEW, &all)?,
        Database::with_queued_jobs(&folder.join("one-many.db"), count, &one)?,
        Database::with_queued_jobs(&folder.join("one-few.db"), FEW, &one)?,
    ];
    let mut turns: [Vec<JobCost>; 4] = Default::default();
    // Of filling the databases, much is not on disk yet.
    rustix::fs::sync();
    let (began, length) = (Instant::now(), Duration::from_secs_f64(seconds));
    while began.elapsed() < length {
        for (database, turns) in databases.iter_mut().zip(&mut turns) {
            turns.push(database.measure_turn()?);
        }
        for (database, turns) in databases.iter_mut().zip(&mut turns).rev() {
            turns.push(database.measure_turn()?);
        }
    }
    let [many, few, one_many, one_few] = turns.map(|turns| {
        format!(
            r#"{{"us": {:.2}, "pages": {:.3}}}"#,
            median(&turns, |cost| cost.us),
            median(&turns, |cost| cost.pages)
        )
    });
    println!(r#"{{"many": {many}, "few": {few}, "one_many": {one_many}, "one_few": {one_few}}}"#);
    Ok(())
}

/// The mean cost of a job in one turn.
struct JobCost {
    us: f64,
    /// Pages written to the WAL.
    pages: f64,
}

fn median(turns: &[JobCost], figure: impl Fn(&JobCost) -> f64) -> f64 {
    let mut figures: Vec<f64> = turns.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// A job of a handler, with an ordering key if the handler has one.
fn job_spec(handler: i64) -> (HandlerId, JobSpec) {
    let order = ORDERED.contains(&handler).then_some([7; 16]);
    (HandlerId(handler), JobSpec::Event(JobKeys { ordering: order, ..JobKeys::default() }))
}

impl Database {
    fn with_queued_jobs(path: &Path, count: usize, handlers: &[i64]) -> anyhow::Result<Self> {
        let store = open(path, Durability::Normal)?;
        let registration = |handler: i64| HandlerRegistration {
            name: format!("h{handler}"),
            is_paused: PAUSED.contains(&handler),
            breaker: BreakerPolicy { failures: 1, pause_ms: HOUR_MS },
            takes_settled_jobs: false,
        };
        let registrations: Vec<HandlerRegistration> = (1..=HANDLERS).map(registration).collect();
        let ((), _) = write_directly(&store, |tx, _| {
            let now_ms = tx.cache.now_ms;
            registry::register(tx, &["a".to_owned()], &registrations)?;
            tx.conn.execute(
                "UPDATE handlers SET breaker_open_until = ?1 WHERE id BETWEEN ?2 AND ?3",
                [now_ms + HOUR_MS, *OPEN_BREAKERS.start(), *OPEN_BREAKERS.end()],
            )?;
            Ok(())
        })?;
        let mut scheduler = Scheduler::new(THREADS);
        let limits = HandlerLimits {
            priority: 0,
            concurrency: THREADS,
            rate: None,
            batch: None,
            should_prefetch: false,
        };
        let limits = (1..=HANDLERS).map(|handler| (HandlerId(handler), limits));
        scheduler.configure(&limits.collect::<HashMap<_, _>>());
        scheduler.set_paused(&PAUSED.map(HandlerId).collect::<Vec<_>>());
        OPEN_BREAKERS.for_each(|handler| scheduler.set_breaker(HandlerId(handler), Some(i64::MAX)));
        let cache = WriterCache::read(&store.conn, store.clock)?;
        let (ready, running) = (Vec::new(), VecDeque::new());
        let handlers = handlers.to_vec();
        let mut database = Self { store, cache, ready, scheduler, running, handlers };
        for _ in 0..count.div_ceil(JOBS as usize) {
            let handlers = database.handlers.clone();
            database.write(|tx| insert_event(tx, &handlers))?;
        }
        checkpoint::truncate(&database.store.conn)?;
        Ok(database)
    }

    /// Runs one transaction as the writer does.
    fn write(
        &mut self,
        write: impl FnOnce(&mut WriteTransaction<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Self { store, cache, ready, .. } = self;
        in_transaction(&store.conn, |conn| {
            (cache.now_ms, cache.wall_ms) = (store.clock.now_ms(), hooktrail::internals::wall_ms());
            let (before, mut effects) = (cache.counters, Effects::default());
            let mut tx = WriteTransaction::new(conn, cache, &mut effects);
            write(&mut tx)?;
            write_last(&mut tx, before)?;
            drop(tx);
            ready.append(&mut effects.ready);
            Ok(())
        })
    }

    /// Each transaction has the outcomes of all threads and the claims that follow. Afterwards, as many jobs are
    /// queued again, outside the measurement.
    fn measure_turn(&mut self) -> anyhow::Result<JobCost> {
        let mut ended_handlers = Vec::new();
        let (mut began, mut unmeasured) = (Instant::now(), 0);
        for number in 0..TURN {
            if number == WARM_UP {
                (began, unmeasured) = (Instant::now(), ended_handlers.len());
            }
            let ended: Vec<ClaimedJob> = self.running.drain(..).collect();
            ended_handlers.extend(ended.iter().map(|job| job.handler.0));
            ended.iter().for_each(|job| self.scheduler.release_thread(job.handler));
            let outcomes: Vec<AttemptRecord> = ended.iter().map(attempt_record).collect();
            let requests = self.scheduler.plan(self.store.clock.now_ms() * 1000);
            let mut claims = Vec::with_capacity(requests.len());
            self.write(|tx| {
                let mut attempts = AttemptInserts::new(tx.conn);
                for record in &outcomes {
                    finish::finish(tx, &mut attempts, record)?;
                }
                attempts.flush()?;
                for request in requests {
                    claims.push((request, claim::claim(tx, &request)?));
                }
                Ok(())
            })?;
            for (request, claimed) in claims {
                self.scheduler.record_claim(&request, claimed.len(), 0);
                self.running.extend(claimed);
            }
            self.report_ready();
        }
        let us = began.elapsed().as_secs_f64() * 1e6 / (ended_handlers.len() - unmeasured) as f64;
        // The WAL starts over after each complete checkpoint.
        let (pages, _) = checkpoint::passive(&self.store.conn)?;
        let pages = pages as f64 / ended_handlers.len() as f64;
        let handlers = self.handlers.clone();
        self.write(|tx| queue_again(tx, ended_handlers.len(), &handlers))?;
        self.report_ready();
        checkpoint::passive(&self.store.conn)?;
        Ok(JobCost { us, pages })
    }

    fn report_ready(&mut self) {
        for (handler, jobs) in std::mem::take(&mut self.ready) {
            self.scheduler.add_ready(handler, jobs, 0);
        }
    }
}

/// Inserts an event with one job for each handler.
fn insert_event(tx: &mut WriteTransaction<'_>, handlers: &[i64]) -> anyhow::Result<()> {
    let event = NewEvent {
        source: SourceId(1),
        uid: [7; 16],
        received_at_ms: tx.cache.wall_ms,
        method: "POST".into(),
        path: "/hooks/a".to_owned(),
        ip: "127.0.0.1".to_owned(),
        headers: b"content-type: application/json".to_vec(),
        body: BODY.to_vec(),
        plan: JobPlan::Evaluated(handlers.iter().copied().map(job_spec).collect()),
        ..NewEvent::default()
    };
    events::insert_single_event(tx, &event)?;
    Ok(())
}

/// Queues as many jobs as have ended. Their rows are as far apart in the file as those of the first jobs:
/// the rows between them are jobs of handlers that can't run, which are cancelled at once.
fn queue_again(
    tx: &mut WriteTransaction<'_>,
    ended: usize,
    handlers: &[i64],
) -> anyhow::Result<()> {
    let first = tx.cache.counters.job + 1;
    let active = handlers.iter().filter(|handler| **handler > *OPEN_BREAKERS.end()).count();
    (0..ended / active).try_for_each(|_| insert_event(tx, handlers))?;
    tx.conn.execute(
        "UPDATE jobs SET state = 5, ended_at = created_at, reason = 'cancelled'
         WHERE id >= ?1 AND handler <= ?2 AND state IN (-1, 0)",
        [first, *OPEN_BREAKERS.end()],
    )?;
    Ok(())
}

fn attempt_record(claimed: &ClaimedJob) -> AttemptRecord {
    AttemptRecord {
        claim: claimed.claim,
        event: claimed.event,
        item: claimed.item,
        handler: claimed.handler,
        source: claimed.source,
        outcome: Outcome::Succeeded,
        detail: "answered".to_owned(),
        ended_at_ms: hooktrail::internals::wall_ms(),
        duration_ms: 1,
        stdout: Vec::new(),
        stderr: Vec::new(),
        seal: None,
        next: NextStep::Succeeded,
        is_permanent: false,
        is_probe: false,
        breaker: BreakerPolicy::NEVER,
        crashes: 0,
    }
}
