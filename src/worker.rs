//! The workers: OS threads that each take a job, run it, and report its outcome; and the list of
//! what runs now, by which it can be ended.
//!
//! `step` is one job. A worker never waits for the store: it sends its outcome, with which the writer
//! claims what it runs next, so that both are one commit.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::clock;
use crate::config;
use crate::domain::{AttemptResult, Claim, JobId, Outcome};
use crate::handler::{self, HandlerRuntime, Task};
use crate::process::{CancelToken, Shortage};
use crate::scheduler::retry::{self, JobHistory};
use crate::store::breaker::BreakerPolicy;
use crate::store::deferred::Work;
use crate::store::handle::WriterHandle;
use crate::store::jobs::{AttemptRecord, ClaimedJob, Next};
use crate::store::operation::Operation;
use crate::store::reevaluate::Reevaluation;
use crate::store::registry::HandlerRegistration;

pub mod task_builder;

use task_builder::TaskBuilder;

/// Claimed jobs on their way to a worker: one, or with `mode = "batch"` some of one handler.
#[derive(Debug)]
pub struct Assignment {
    pub claimed: Vec<ClaimedJob>,
    pub handler: Arc<HandlerRuntime>,
}

/// Why a running job is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    Cancelled,
    /// This one was, which runs in the same batch.
    CancelledWith(JobId),
    Shutdown,
}

/// An attempt that runs now.
#[derive(Debug)]
struct RunningAttempt {
    attempt: u32,
    /// The first of those that were started with it.
    first: JobId,
    stop: CancelToken,
    why: Option<StopReason>,
}

impl RunningAttempt {
    /// The first reason of its own is the one that counts.
    fn end(&mut self, why: StopReason) {
        if matches!(self.why, None | Some(StopReason::CancelledWith(_))) {
            self.why = Some(why);
        }
        self.stop.set();
    }
}

#[derive(Debug, Default)]
struct RunningAttempts {
    jobs: HashMap<JobId, RunningAttempt>,
    /// To be cancelled, and on their way to a worker, or over.
    pending_cancellations: HashSet<Claim>,
}

impl RunningAttempts {
    fn cancel(&mut self, claim: Claim) {
        let run = self.jobs.get_mut(&claim.job).filter(|run| run.attempt == claim.attempt);
        let Some(run) = run else {
            self.pending_cancellations.insert(claim);
            return;
        };
        run.end(StopReason::Cancelled);
        let first = run.first;
        for (_, other) in self.jobs.iter_mut().filter(|(_, run)| run.first == first) {
            other.why.get_or_insert(StopReason::CancelledWith(claim.job));
        }
    }
}

/// What runs now.
#[derive(Debug, Default)]
pub struct RunningJobs {
    runs: Mutex<RunningAttempts>,
}

impl RunningJobs {
    fn lock(&self) -> MutexGuard<'_, RunningAttempts> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends these attempts, and with each those of its batch. One that has not begun ends as it begins.
    pub fn cancel(&self, claims: &[Claim]) {
        let mut runs = self.lock();
        runs.pending_cancellations.clear();
        claims.iter().for_each(|&claim| runs.cancel(claim));
    }

    /// Ends all.
    pub fn end_all(&self, why: StopReason) {
        for run in self.lock().jobs.values_mut() {
            run.end(why);
        }
    }

    /// Whether this job is to end.
    fn is_stopped(&self, job: JobId) -> bool {
        self.lock().jobs.get(&job).is_some_and(|run| run.stop.is_set())
    }

    pub fn count(&self) -> usize {
        self.lock().jobs.len()
    }

    /// These begin, to be ended together by `stop`.
    fn begin(&self, claimed: &[ClaimedJob], stop: &CancelToken) {
        let Some(first) = claimed.first().map(|one| one.claim.job) else { return };
        let mut runs = self.lock();
        runs.jobs.extend(claimed.iter().map(|one| {
            let Claim { job, attempt } = one.claim;
            (job, RunningAttempt { attempt, first, stop: stop.clone(), why: None })
        }));
        for one in claimed {
            if runs.pending_cancellations.remove(&one.claim) {
                runs.cancel(one.claim);
            }
        }
    }

    fn end(&self, job: JobId) -> Option<StopReason> {
        self.lock().jobs.remove(&job)?.why
    }
}

/// What all workers share.
#[derive(Clone)]
pub struct WorkerContext {
    pub from: Receiver<Assignment>,
    pub maker: TaskBuilder,
    pub writer: WriterHandle,
    pub running: Arc<RunningJobs>,
}

/// While the jobs of an expanded one are inserted, its worker looks so often whether it is stopped.
const EXPANSION_LOOK: Duration = Duration::from_millis(50);

impl WorkerContext {
    /// Has the jobs inserted that a job is expanded into, and waits for them, so that no more items are
    /// in memory than there are workers.
    fn expand(&self, expansion: Box<Reevaluation>) {
        let (done, inserted) = bounded(1);
        let job = expansion.claimed.claim.job;
        self.writer.work(vec![Work::expand_job(expansion, done)]);
        while inserted.recv_timeout(EXPANSION_LOOK) == Err(RecvTimeoutError::Timeout) {
            if self.running.is_stopped(job) {
                return;
            }
        }
    }
}

/// Starts `threads` workers; each ends when nobody can send it a job any more.
///
/// # Errors
/// A thread can't be made.
pub fn start(threads: usize, shared: &WorkerContext) -> std::io::Result<Vec<JoinHandle<()>>> {
    let worker = |number: usize| {
        let shared = shared.clone();
        std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            let mut reusable_token = None;
            while let Ok(start) = shared.from.recv() {
                run_assignment(&shared, &start, &mut reusable_token);
            }
        })
    };
    (1..=threads).map(worker).collect()
}

/// Runs what was claimed to its end. Of several each outcome is sent as soon as it is known; that of
/// one goes with the news that this thread is free. `spare` is the `Stop` of what ran before.
fn run_assignment(shared: &WorkerContext, start: &Assignment, spare: &mut Option<CancelToken>) {
    let handler = &start.handler;
    let began = Instant::now();
    let mut left: Vec<Option<&ClaimedJob>> = start.claimed.iter().map(Some).collect();
    let mut last = None;
    let mut on_complete = |at: usize, how: JobCompletion| {
        let Some(claimed) = left.get_mut(at).and_then(Option::take) else { return };
        let op = match how {
            JobCompletion::Expanded(expansion) if expansion.is_large() => {
                shared.expand(expansion);
                shared.running.end(claimed.claim.job);
                return;
            }
            JobCompletion::Expanded(expansion) => {
                shared.running.end(claimed.claim.job);
                Operation::Expand(expansion)
            }
            JobCompletion::Ended(ended) => {
                let why = shared.running.end(claimed.claim.job);
                let ended = with_stop_reason(ended, why);
                Operation::Finish(Box::new(decide_outcome(
                    claimed,
                    handler,
                    ended,
                    began.elapsed(),
                )))
            }
        };
        if start.claimed.len() == 1 {
            last = Some(op);
        } else {
            shared.writer.send(op);
        }
    };
    let run = AssertUnwindSafe(|| attempt(shared, start, spare, &mut on_complete));
    let fault = |what| {
        AttemptResult::new(Outcome::Failed, format!("not started: a fault in hooktrail{what}"))
    };
    let unheard = match catch_unwind(run) {
        Ok(Ok(())) => fault(": it gave no outcome"),
        Ok(Err(ended)) => ended,
        Err(_) => fault(", see its log"),
    };
    for at in 0..start.claimed.len() {
        on_complete(at, JobCompletion::Ended(unheard.clone()));
    }
    if let Some(claimed) = start.claimed.first() {
        shared.writer.release_worker(last, claimed.handler);
    }
}

/// The outcome of an attempt, and what comes next.
fn decide_outcome(
    claimed: &ClaimedJob,
    handler: &HandlerRuntime,
    ended: AttemptResult,
    took: Duration,
) -> AttemptRecord {
    let age = Duration::from_millis(u64::try_from(claimed.age_ms).unwrap_or(0)) + took;
    let record = JobHistory { failures: claimed.failures, age, crashes: 0 };
    let next = retry::next_step(&handler.settings.retry, record, &ended, clock::random_unit_f64);
    let mut finish = build_attempt_record(claimed, ended, next, clock::wall_ms(), took, 0);
    finish.breaker = breaker(&handler.settings);
    finish
}

/// A handler as the store knows it.
pub fn registration_of(handler: &config::Handler) -> HandlerRegistration {
    HandlerRegistration {
        name: handler.name.clone(),
        paused: handler.is_paused,
        breaker: breaker(handler),
    }
}

fn breaker(settings: &config::Handler) -> BreakerPolicy {
    let config::Breaker { threshold: failures, cooldown: pause } = settings.breaker;
    BreakerPolicy { failures, pause_ms: i64::try_from(pause.as_millis()).unwrap_or(i64::MAX / 4) }
}

/// Gives what was claimed to the handler. What `over` did not hear of by its end has ended as is given
/// back.
fn attempt(
    shared: &WorkerContext,
    start: &Assignment,
    spare: &mut Option<CancelToken>,
    over: &mut dyn FnMut(usize, JobCompletion),
) -> Result<(), AttemptResult> {
    // One that was not set is as good as new: it left `Running` with the last attempt.
    let unset = spare.take().filter(|stop| !stop.is_set());
    let stop = unset.map_or_else(stop_when_possible, Ok)?;
    *spare = Some(stop.clone());
    shared.running.begin(&start.claimed, &stop);
    let (mut tasks, mut places) = (Vec::with_capacity(start.claimed.len()), Vec::new());
    for (at, claimed) in start.claimed.iter().enumerate() {
        match prepare(&shared.maker, claimed, &start.handler) {
            Ok(task) => {
                tasks.push(task);
                places.push(at);
            }
            Err(how) => over(at, how),
        }
    }
    if !tasks.is_empty() {
        let mut ended = |at: usize, ended: AttemptResult| {
            if let Some(&place) = places.get(at) {
                over(place, JobCompletion::Ended(ended));
            }
        };
        start.handler.kind.run_all(&tasks, &stop, &mut ended);
    }
    Ok(())
}

/// A `Stop`, for which there may be no file descriptor now.
fn stop_when_possible() -> Result<CancelToken, AttemptResult> {
    let mut shortage = Shortage::default();
    loop {
        match CancelToken::new() {
            Ok(stop) => return Ok(stop),
            Err(e) if !shortage.wait_without_stop(&e.to_string()) => {
                return Err(handler::not_now(&e.to_string()));
            }
            Err(_) => {}
        }
    }
}

/// How a claimed job is over.
enum JobCompletion {
    Ended(AttemptResult),
    /// Its expressions were evaluated anew: that was no attempt.
    Expanded(Box<Reevaluation>),
}

/// A task, or how the job is over without one.
fn prepare(
    maker: &TaskBuilder,
    claimed: &ClaimedJob,
    handler: &HandlerRuntime,
) -> Result<Task, JobCompletion> {
    let event = maker.load_event(claimed).map_err(JobCompletion::Ended)?;
    if !claimed.expand {
        let item = maker.load_item(claimed).map_err(JobCompletion::Ended)?;
        return maker
            .build_task(claimed, handler, event, item.as_ref())
            .map_err(JobCompletion::Ended);
    }
    let owed = maker.reevaluate(claimed, handler, &event).map_err(JobCompletion::Ended)?;
    let (claimed, received_at_ms) = (claimed.clone(), event.received_at_ms);
    Err(JobCompletion::Expanded(Box::new(Reevaluation { claimed, received_at_ms, owed })))
}

/// An interruption says whose doing it was.
fn with_stop_reason(mut ended: AttemptResult, why: Option<StopReason>) -> AttemptResult {
    if ended.outcome == Outcome::Interrupted {
        ended.detail = match why {
            // It could not be started now: that is said already.
            None if ended.retry_after.is_some() => return ended,
            Some(StopReason::Cancelled) => "cancelled".to_owned(),
            Some(StopReason::CancelledWith(job)) => format!("job {job} of its batch was cancelled"),
            Some(StopReason::Shutdown) | None => "the server was stopped".to_owned(),
        };
        ended.retry_after = None;
    }
    ended
}

/// The outcome as it is written.
pub fn build_attempt_record(
    claimed: &ClaimedJob,
    ended: AttemptResult,
    next: retry::NextStep,
    ended_at_ms: i64,
    took: Duration,
    crashes: u32,
) -> AttemptRecord {
    let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    AttemptRecord {
        claim: claimed.claim,
        handler: claimed.handler,
        source: claimed.source,
        outcome: ended.outcome,
        is_permanent: ended.is_permanent,
        on_trial: claimed.on_trial,
        breaker: BreakerPolicy::NEVER,
        detail: ended.detail,
        ended_at_ms,
        duration_ms: ms(took),
        stdout: ended.stdout,
        stderr: ended.stderr,
        next: match next {
            retry::NextStep::Succeeded => Next::Succeeded,
            retry::NextStep::Dead(reason) => Next::Dead { reason },
            retry::NextStep::Again { wait, failures } => {
                Next::Again { wait_ms: ms(wait), failures }
            }
        },
        crashes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{EventId, HandlerId, SourceId};

    fn claimed(job: i64, attempt: u32) -> ClaimedJob {
        ClaimedJob {
            claim: Claim { job: JobId(job), attempt },
            event: EventId(1),
            source: SourceId(1),
            handler: HandlerId(1),
            failures: 0,
            age_ms: 0,
            item: None,
            replay: 0,
            expand: false,
            on_trial: false,
        }
    }

    #[test]
    fn a_job_that_is_cancelled_on_its_way_to_a_worker_ends_as_it_begins() {
        let (running, stop) = (RunningJobs::default(), CancelToken::new().unwrap());
        running.cancel(&[claimed(7, 2).claim, claimed(8, 1).claim]);
        running.begin(&[claimed(7, 1)], &stop);
        assert!(!stop.is_set(), "it is another attempt");
        running.end(JobId(7));
        running.begin(&[claimed(6, 1), claimed(7, 2)], &stop);
        assert!(stop.is_set());
        assert_eq!(running.end(JobId(7)), Some(StopReason::Cancelled));
        assert_eq!(running.end(JobId(6)), Some(StopReason::CancelledWith(JobId(7))));
    }

    #[test]
    fn what_is_not_to_be_cancelled_any_more_is_forgotten() {
        let (running, stop) = (RunningJobs::default(), CancelToken::new().unwrap());
        running.cancel(&[claimed(7, 2).claim]);
        running.cancel(&[]);
        running.begin(&[claimed(7, 2)], &stop);
        assert!(!stop.is_set());
    }
}
