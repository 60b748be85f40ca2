//! The workers: OS threads that each take an assignment, run it and report its outcomes. And the list of
//! running jobs, by which they can be stopped.
//!
//! A worker never waits for the store. It sends the outcome to the writer, which commits it together
//! with the claim of the next job for this thread. If that job was prefetched, it starts at once.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use parking_lot::Mutex;

use crate::clock;
use crate::config;
use crate::domain::breaker::BreakerPolicy;
use crate::domain::{AttemptResult, Claim, HandlerId, JobId, NextStep, Outcome};
use crate::handler::{self, HandlerRuntime, Task};
use crate::metrics::Metrics;
use crate::planner::settled_jobs::takes_settled_jobs;
use crate::process::{CancelToken, LiveOutput, ShortageBackoff};
use crate::scheduler::retry::{self, JobHistory};
use crate::store::backlog_task::BacklogTask;
use crate::store::event_reads::JobInput;
use crate::store::handle::WriterHandle;
use crate::store::jobs::reevaluate::Reevaluation;
use crate::store::jobs::{AttemptRecord, ClaimedJob};
use crate::store::operation::Operation;
use crate::store::registry::HandlerRegistration;
use crate::store::seal::AttemptSeal;
use crate::store::writer::Assignment;

pub mod task_builder;

use task_builder::TaskBuilder;

/// The handlers of the current configuration. A reload replaces them.
pub type HandlerMap = HashMap<HandlerId, Arc<HandlerRuntime>>;

/// Why a running job is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    Cancelled,
    /// This other job of the same batch was cancelled.
    CancelledWith(JobId),
    Shutdown,
}

/// An attempt that a worker runs now, as a cancel or a stop finds it.
#[derive(Debug)]
struct RunningAttempt {
    attempt: u32,
    /// The first job of its assignment.
    first_job: JobId,
    stop: CancelToken,
    reason: Option<StopReason>,
}

impl RunningAttempt {
    /// Stops the attempt. The first reason counts, but a reason for this job replaces one for its whole batch.
    fn stop(&mut self, reason: StopReason) {
        if matches!(self.reason, None | Some(StopReason::CancelledWith(_))) {
            self.reason = Some(reason);
        }
        self.stop.cancel();
    }
}

/// The running attempts, and cancellations of attempts that have not begun.
#[derive(Debug, Default)]
struct RunningAttempts {
    jobs: HashMap<JobId, RunningAttempt>,
    /// Cancelled attempts that are on their way to a worker, or have ended.
    pending_cancellations: HashSet<Claim>,
}

impl RunningAttempts {
    fn cancel(&mut self, claim: Claim) {
        let run = self.jobs.get_mut(&claim.job).filter(|run| run.attempt == claim.attempt);
        let Some(run) = run else {
            self.pending_cancellations.insert(claim);
            return;
        };
        run.stop(StopReason::Cancelled);
        let first_job = run.first_job;
        for (_, other) in self.jobs.iter_mut().filter(|(_, run)| run.first_job == first_job) {
            other.reason.get_or_insert(StopReason::CancelledWith(claim.job));
        }
    }
}

/// The list of running jobs.
#[derive(Debug, Default)]
pub struct RunningJobs {
    runs: Mutex<RunningAttempts>,
}

impl RunningJobs {
    /// Stops these attempts and all others of their batches. An attempt that has not begun stops as it
    /// begins.
    pub fn cancel(&self, claims: &[Claim]) {
        let mut runs = self.runs.lock();
        runs.pending_cancellations.clear();
        claims.iter().for_each(|&claim| runs.cancel(claim));
    }

    /// Stops all attempts.
    pub fn stop_all(&self, reason: StopReason) {
        for run in self.runs.lock().jobs.values_mut() {
            run.stop(reason);
        }
    }

    /// Returns the number of the attempt that a job runs now, and what its processes have written so far. The jobs of a
    /// batch share one process.
    pub fn output(&self, job: JobId) -> Option<(u32, Arc<LiveOutput>)> {
        let runs = self.runs.lock();
        let run = runs.jobs.get(&job)?;
        Some((run.attempt, Arc::clone(run.stop.output())))
    }

    /// Returns whether this job was told to stop.
    fn is_stopped(&self, job: JobId) -> bool {
        self.runs.lock().jobs.get(&job).is_some_and(|run| run.stop.is_cancelled())
    }

    /// The number of running jobs.
    pub fn count(&self) -> usize {
        self.runs.lock().jobs.len()
    }

    /// Adds the jobs of an assignment, which `stop` stops together.
    fn begin(&self, claimed: &[ClaimedJob], stop: &CancelToken) {
        let Some(first_job) = claimed.first().map(|job| job.claim.job) else { return };
        let mut runs = self.runs.lock();
        runs.jobs.extend(claimed.iter().map(|claimed_job| {
            let Claim { job, attempt } = claimed_job.claim;
            (job, RunningAttempt { attempt, first_job, stop: stop.clone(), reason: None })
        }));
        for claimed_job in claimed {
            if runs.pending_cancellations.remove(&claimed_job.claim) {
                runs.cancel(claimed_job.claim);
            }
        }
    }

    /// Removes a job that has ended, and returns why it was stopped.
    fn remove(&self, job: JobId) -> Option<StopReason> {
        self.runs.lock().jobs.remove(&job)?.reason
    }
}

/// The state that all workers share: their channel, the task builder, the writer, the list of running jobs.
#[derive(Clone)]
pub struct WorkerContext {
    pub assignments: Receiver<Assignment>,
    pub handlers: Arc<ArcSwap<HandlerMap>>,
    pub task_builder: TaskBuilder,
    pub writer: WriterHandle,
    pub running: Arc<RunningJobs>,
    pub metrics: Arc<Metrics>,
}

/// How often a worker that waits for the replacement of a job checks whether that job was stopped.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(50);

impl WorkerContext {
    /// Lets the writer replace a job by other jobs, and waits until it has done so. This bounds the memory
    /// for items: each worker has at most one job that is being replaced.
    fn replace_job(&self, reevaluation: Box<Reevaluation>) {
        let (end_sender, end_receiver) = bounded(1);
        let job = reevaluation.claimed.claim.job;
        self.writer.send_backlog(vec![BacklogTask::replace_job(reevaluation, end_sender)]);
        while end_receiver.recv_timeout(STOP_CHECK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            if self.running.is_stopped(job) {
                return;
            }
        }
    }
}

/// Starts `threads` workers. Each ends when the channel of assignments is closed.
///
/// # Errors
/// A thread cannot be created.
pub fn start(threads: usize, context: &WorkerContext) -> std::io::Result<Vec<JoinHandle<()>>> {
    let worker = |number: usize| {
        let context = context.clone();
        std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            let mut reusable_token = None;
            while let Ok(mut claimed) = context.assignments.recv() {
                while let Some(next) = run_assignment(&context, claimed, &mut reusable_token) {
                    claimed = vec![next];
                }
            }
        })
    };
    (1..=threads).map(worker).collect()
}

/// Time before a job is tried again that a reload has made impossible to start. By then, the scheduler knows
/// the new configuration.
const CHANGED_HANDLER_DELAY: Duration = Duration::from_secs(1);

/// Gives claimed jobs back to the queue: a reload has changed their handler since the claim.
fn give_back(context: &WorkerContext, claimed: &[ClaimedJob], reason: &str) {
    for job in claimed {
        let record = AttemptRecord::not_started(job, reason, clock::wall_ms());
        let next = NextStep::Retry { delay: CHANGED_HANDLER_DELAY, failures: job.failures };
        context.writer.send(Operation::Finish(Box::new(AttemptRecord { next, ..record })));
    }
}

/// Runs an assignment to its end, with the handler's present settings. Returns the thread's next job if one was
/// prefetched.
fn run_assignment(
    context: &WorkerContext,
    mut claimed: Assignment,
    reusable_token: &mut Option<CancelToken>,
) -> Option<ClaimedJob> {
    let id = claimed.first()?.handler;
    let handler = context.handlers.load().get(&id).cloned();
    let Some(handler) = handler else {
        give_back(context, &claimed, "its handler was removed from the configuration");
        return context.writer.release_worker(None, id);
    };
    if handler.settings.batch().is_none() {
        let others = claimed.split_off(1);
        give_back(context, &others, "its handler no longer runs in batch mode");
    }
    if let [job] = claimed.as_slice()
        && let Some(reason) = context.task_builder.start_obstacle(job)
    {
        let record = AttemptRecord::not_started(job, reason, clock::wall_ms());
        return context.writer.release_worker(Some(Operation::Finish(Box::new(record))), id);
    }
    run_jobs(context, &claimed, &handler, reusable_token)
}

/// Runs claimed jobs to their end. Each outcome of a batch is sent as soon as it is known. The outcome of
/// a single job is sent together with the message that this thread has ended it. `reusable_token` is the
/// cancel token of the assignment before. Returns the thread's next job if one was prefetched.
fn run_jobs(
    context: &WorkerContext,
    claimed: &[ClaimedJob],
    handler: &Arc<HandlerRuntime>,
    reusable_token: &mut Option<CancelToken>,
) -> Option<ClaimedJob> {
    let started = Instant::now();
    let mut unfinished: Vec<Option<&ClaimedJob>> = claimed.iter().map(Some).collect();
    let mut last = None;
    let mut on_complete = |index: usize, completion: JobCompletion| {
        let Some(job) = unfinished.get_mut(index).and_then(Option::take) else { return };
        let operation = match completion {
            JobCompletion::Reevaluated(reevaluation) if reevaluation.is_large() => {
                context.replace_job(reevaluation);
                context.running.remove(job.claim.job);
                return;
            }
            JobCompletion::Reevaluated(reevaluation) => {
                context.running.remove(job.claim.job);
                Operation::Reevaluate(reevaluation)
            }
            JobCompletion::Ended(result) => {
                let reason = context.running.remove(job.claim.job);
                let (result, duration) = (with_stop_reason(result, reason), started.elapsed());
                context.metrics.count_attempt(job.handler, result.outcome, duration);
                Operation::Finish(Box::new(decide_outcome(job, handler, result, duration)))
            }
        };
        if claimed.len() == 1 {
            last = Some(operation);
        } else {
            context.writer.send(operation);
        }
    };
    let run =
        AssertUnwindSafe(|| attempt(context, (claimed, handler), reusable_token, &mut on_complete));
    let internal_error = |cause| {
        AttemptResult::new(
            Outcome::Failed,
            format!("not started: an internal error of hooktrail{cause}"),
        )
    };
    let missing_result = match catch_unwind(run) {
        Ok(Ok(())) => internal_error(": the handler reported no outcome"),
        Ok(Err(result)) => result,
        Err(_) => internal_error(", see the log"),
    };
    for index in 0..claimed.len() {
        on_complete(index, JobCompletion::Ended(missing_result.clone()));
    }
    context.writer.release_worker(last, claimed.first()?.handler)
}

/// Decides the next step after an attempt, and builds its record.
fn decide_outcome(
    claimed: &ClaimedJob,
    handler: &HandlerRuntime,
    result: AttemptResult,
    duration: Duration,
) -> AttemptRecord {
    let age = Duration::from_millis(u64::try_from(claimed.age_ms).unwrap_or(0)) + duration;
    let history = JobHistory { failures: claimed.failures, age, crashes: 0 };
    let next = retry::next_step(&handler.settings.retry, history, &result, clock::random_unit_f64);
    let mut record = build_attempt_record(claimed, result, next, clock::wall_ms(), duration, 0);
    record.breaker = breaker_policy(&handler.settings);
    record
}

/// The part of a handler's configuration that the store needs.
pub fn registration_of(handler: &config::Handler) -> HandlerRegistration {
    HandlerRegistration {
        name: handler.name.clone(),
        is_paused: handler.is_paused,
        breaker: breaker_policy(handler),
        takes_settled_jobs: takes_settled_jobs(handler),
    }
}

fn breaker_policy(settings: &config::Handler) -> BreakerPolicy {
    let config::Breaker { threshold, cooldown } = settings.breaker;
    BreakerPolicy {
        failures: threshold,
        pause_ms: i64::try_from(cooldown.as_millis()).unwrap_or(i64::MAX / 4),
    }
}

/// Runs the handler for an assignment and reports each job to `on_complete` by its index.
///
/// # Errors
/// The attempt cannot start: returns the result of all jobs that were not reported.
fn attempt(
    context: &WorkerContext,
    (claimed, handler): (&[ClaimedJob], &Arc<HandlerRuntime>),
    reusable_token: &mut Option<CancelToken>,
    on_complete: &mut dyn FnMut(usize, JobCompletion),
) -> Result<(), AttemptResult> {
    // A token that was never set can be used again: no running attempt refers to it any more.
    let unset = reusable_token.take().filter(|stop| !stop.is_cancelled());
    let stop = unset.map(CancelToken::reuse).map_or_else(create_cancel_token, Ok)?;
    *reusable_token = Some(stop.clone());
    context.running.begin(claimed, &stop);
    let (mut tasks, mut indexes) = (Vec::with_capacity(claimed.len()), Vec::new());
    let builder = &context.task_builder;
    let inputs = builder.load_inputs(claimed);
    for (index, (job, input)) in claimed.iter().zip(inputs).enumerate() {
        match prepare(builder, (job, input), handler) {
            Ok(task) => {
                tasks.push(task);
                indexes.push(index);
            }
            Err(completion) => on_complete(index, completion),
        }
    }
    if !tasks.is_empty() {
        let mut on_result = |task: usize, result: AttemptResult| {
            if let Some(&index) = indexes.get(task) {
                on_complete(index, JobCompletion::Ended(result));
            }
        };
        handler.runner.run_all(&tasks, &stop, &mut on_result);
    }
    Ok(())
}

/// Creates a cancel token. If the system has no file descriptor left, waits for one for a while.
fn create_cancel_token() -> Result<CancelToken, AttemptResult> {
    let mut shortage = ShortageBackoff::default();
    loop {
        match CancelToken::new() {
            Ok(stop) => return Ok(stop),
            Err(e) if !shortage.wait_uncancellable(&e.to_string()) => {
                return Err(handler::shortage_result(&e.to_string()));
            }
            Err(_) => {}
        }
    }
}

/// How a claimed job ended.
enum JobCompletion {
    Ended(AttemptResult),
    /// Its expressions were evaluated again, which is not an attempt.
    Reevaluated(Box<Reevaluation>),
}

/// Builds the task of a job.
///
/// # Errors
/// There is nothing to run: returns how the job ended.
fn prepare(
    builder: &TaskBuilder,
    (claimed, input): (&ClaimedJob, Result<JobInput, AttemptResult>),
    handler: &HandlerRuntime,
) -> Result<Task, JobCompletion> {
    let JobInput { event, item } = input.map_err(JobCompletion::Ended)?;
    if !claimed.should_reevaluate {
        return builder
            .build_task(claimed, handler, event, item.as_ref())
            .map_err(JobCompletion::Ended);
    }
    let spec = builder.reevaluate(claimed, handler, &event).map_err(JobCompletion::Ended)?;
    let (claimed, received_at_ms) = (claimed.clone(), event.received_at_ms);
    Err(JobCompletion::Reevaluated(Box::new(Reevaluation { claimed, received_at_ms, spec })))
}

/// Adds the reason to an interrupted attempt.
fn with_stop_reason(mut result: AttemptResult, reason: Option<StopReason>) -> AttemptResult {
    if result.outcome == Outcome::Interrupted {
        result.detail = match reason {
            // The attempt could not start. Its detail already says why.
            None if result.retry_after.is_some() => return result,
            Some(StopReason::Cancelled) => "cancelled".to_owned(),
            Some(StopReason::CancelledWith(job)) => format!("job {job} of its batch was cancelled"),
            Some(StopReason::Shutdown) | None => "the server was stopped".to_owned(),
        };
        result.retry_after = None;
    }
    result
}

/// Builds the record of an attempt that the writer stores.
pub fn build_attempt_record(
    claimed: &ClaimedJob,
    result: AttemptResult,
    next: NextStep,
    ended_at_ms: i64,
    duration: Duration,
    crashes: u32,
) -> AttemptRecord {
    let seal = AttemptSeal::new(&result.detail, &result.stdout, &result.stderr);
    AttemptRecord {
        claim: claimed.claim,
        event: claimed.event,
        item: claimed.item,
        handler: claimed.handler,
        source: claimed.source,
        outcome: result.outcome,
        is_permanent: result.is_permanent,
        is_probe: claimed.is_probe,
        breaker: BreakerPolicy::NEVER,
        detail: result.detail,
        ended_at_ms,
        duration_ms: i64::try_from(duration.as_millis()).unwrap_or(i64::MAX),
        stdout: result.stdout,
        stderr: result.stderr,
        seal,
        next,
        crashes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed(job: i64, attempt: u32) -> ClaimedJob {
        ClaimedJob::for_test(Claim { job: JobId(job), attempt })
    }

    #[test]
    fn a_job_that_is_cancelled_on_its_way_to_a_worker_stops_as_it_begins() {
        let (running, stop) = (RunningJobs::default(), CancelToken::new().unwrap());
        running.cancel(&[claimed(7, 2).claim, claimed(8, 1).claim]);
        running.begin(&[claimed(7, 1)], &stop);
        assert!(!stop.is_cancelled(), "the cancellation names another attempt");
        running.remove(JobId(7));
        running.begin(&[claimed(6, 1), claimed(7, 2)], &stop);
        assert!(stop.is_cancelled());
        assert_eq!(running.remove(JobId(7)), Some(StopReason::Cancelled));
        assert_eq!(running.remove(JobId(6)), Some(StopReason::CancelledWith(JobId(7))));
    }

    #[test]
    fn a_new_list_of_cancellations_replaces_the_pending_ones() {
        let (running, stop) = (RunningJobs::default(), CancelToken::new().unwrap());
        running.cancel(&[claimed(7, 2).claim]);
        running.cancel(&[]);
        running.begin(&[claimed(7, 2)], &stop);
        assert!(!stop.is_cancelled());
    }
}
