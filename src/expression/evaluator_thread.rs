//! A thread with one process: takes questions from the queue, hands them over, hears the answers.
//! Where the process ends, it knows by the stage that was written down which expression did it; that
//! one has failed, and the rest is asked again of a new process.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connection::{ConnectionError, EvaluatorConnection, ReceivedResponse, WaitPolicy};
use super::queue::{
    EvaluationOutcome, EvaluationQueue, EvaluationRequest, Priority, QueueEvent, RequestKind,
};
use crate::process::{CommandSpec, End, ExitStatus, SandboxedProcess, StartError};

/// A process that had nothing to do for so long is ended.
const IDLE: Duration = Duration::from_secs(60);

/// What is behind one that takes so long is given to others.
const STALL_THRESHOLD: Duration = Duration::from_millis(30);

/// Less time than this is not worth to ask again.
const MIN_RETRY_BUDGET: Duration = Duration::from_millis(50);

/// A process may be ended by others; so often it is taken for that.
const LOST_MAX: u32 = 2;

/// So often an event is asked again whose process was killed from outside, such as by the kernel for want
/// of memory, or got no processor. That says nothing of the expression.
const KILLED_MAX: u32 = 5;

/// Before it is asked again, doubled each time.
const KILLED_WAIT: Duration = Duration::from_millis(50);

/// After one has ended badly, so many answers are handed over one by one: others like that may come.
const ONE_BY_ONE: u32 = 1000;

/// Between starts that fail, doubled each time.
const BACKOFF: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What a process is good for after it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProcessFate {
    Reusable,
    /// It is to be replaced.
    Discarded,
    /// It has ended, and the first job left was in its hand.
    Exited,
}

pub(super) struct EvaluatorThread {
    pub queue: Arc<EvaluationQueue>,
    pub lane: Priority,
    pub program: CommandSpec,
    /// Where large items go.
    pub folder: PathBuf,
}

impl Priority {
    /// Processor time of an event, which the process itself keeps to.
    fn processor_ms(self) -> u32 {
        match self {
            Self::Intake | Self::Deferred => 2000,
            Self::Transform => 1000,
        }
    }

    /// From when it was asked: a sender is answered within 3 s.
    fn total_limit(self) -> Option<Duration> {
        match self {
            Self::Intake => Some(Duration::from_millis(2900)),
            Self::Transform | Self::Deferred => None,
        }
    }

    /// By the clock, in case the machine is busy.
    fn per_event_limit(self) -> Duration {
        match self {
            Self::Intake => Duration::from_millis(2400),
            Self::Transform => Duration::from_secs(10),
            Self::Deferred => Duration::from_secs(30),
        }
    }
}

impl EvaluatorThread {
    /// Until the queue is closed.
    pub fn run(self) {
        let (mut child, mut failures) = (None, 0_u32);
        loop {
            match self.queue.next(self.lane, child.as_ref().map(|_| IDLE)) {
                QueueEvent::Closed => return,
                QueueEvent::Idle => child = None,
                QueueEvent::Group(jobs) => {
                    let party = jobs.front().map_or(0, |job| job.fairness_key);
                    let begun = self.group(jobs, &mut child);
                    self.queue.release(self.lane, party);
                    failures = if begun { 0 } else { failures + 1 };
                    if failures > 0 {
                        let wait = BACKOFF.saturating_mul(1 << failures.min(10));
                        self.queue.pause(self.lane, wait.min(BACKOFF_MAX));
                    }
                }
            }
        }
    }

    /// `false`: processes can't be had.
    fn group(
        &self,
        mut jobs: VecDeque<EvaluationRequest>,
        child: &mut Option<EvaluatorConnection>,
    ) -> bool {
        let mut one_by_one = 0;
        loop {
            // Those that others held up for too long are told.
            jobs.retain(|job| self.left(job) >= MIN_RETRY_BUDGET);
            if jobs.is_empty() {
                return true;
            }
            let mut ears = match child.take().map_or_else(|| self.start(one_by_one), Ok) {
                Ok(ears) => ears,
                Err(e) => {
                    let trouble = format!("no process to evaluate them: {}", e.reason);
                    log::warn!("expressions: {trouble}");
                    self.queue.set_start_error(Some(trouble));
                    if e.is_passing {
                        // They wait as long as they may.
                        self.queue.requeue_front(self.lane, jobs.into_iter());
                    }
                    return false;
                }
            };
            match self.ask(&mut ears, &mut jobs) {
                ProcessFate::Reusable => *child = Some(ears),
                ProcessFate::Discarded => drop(ears),
                ProcessFate::Exited => {
                    let at_hand = ears.current_request();
                    if !self.on_process_exit(at_hand, ears.servant.end(), &mut jobs) {
                        return false;
                    }
                    one_by_one = ONE_BY_ONE;
                }
            }
        }
    }

    fn start(&self, one_by_one: u32) -> Result<EvaluatorConnection, StartError> {
        let mut program = self.program.clone();
        program.args.extend([self.lane.processor_ms(), one_by_one].map(|it| it.to_string()));
        let servant = SandboxedProcess::start(&program)?;
        self.queue.set_start_error(None);
        Ok(EvaluatorConnection::new(servant))
    }

    /// How long a process may still take for it.
    fn left(&self, job: &EvaluationRequest) -> Duration {
        let by_itself = job.started_at.map(|began| began + self.lane.per_event_limit());
        let in_all = self.lane.total_limit().map(|in_all| job.queued_at + in_all);
        let until = [by_itself, in_all].into_iter().flatten().min();
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        left.unwrap_or_else(|| self.lane.per_event_limit())
    }

    /// Hands them over and tells what comes.
    fn ask(
        &self,
        ears: &mut EvaluatorConnection,
        jobs: &mut VecDeque<EvaluationRequest>,
    ) -> ProcessFate {
        if let Some(first) = jobs.front_mut() {
            first.started_at.get_or_insert_with(Instant::now);
        }
        match self.say(ears, jobs) {
            Ok(()) => {}
            Err(ConnectionError::Cancelled) => {
                jobs.clear();
                return ProcessFate::Discarded;
            }
            Err(ConnectionError::TimedOut) => return ProcessFate::Discarded,
            Err(_) => return ProcessFate::Exited,
        }
        let mut gave_back = false;
        while let Some(mut job) = jobs.pop_front() {
            let now = Instant::now();
            job.started_at.get_or_insert(now);
            let (until, party) = (now + self.left(&job), job.fairness_key);
            let mut used_before = None;
            let mut tick = |ears: &EvaluatorConnection| {
                used_before = used_before.or_else(|| ears.servant.processor_ms());
                if now.elapsed() >= STALL_THRESHOLD && self.queue.may_hold_another(self.lane, party)
                {
                    let at = ears.current_request().map_or(0, |(at, _)| at).min(jobs.len());
                    // They are on their way to it all the same.
                    gave_back |= at < jobs.len();
                    self.queue.requeue_front(self.lane, jobs.drain(at..));
                }
                self.queue.expire_waiting(self.lane)
            };
            let mut patience = WaitPolicy { until, tick: &mut tick };
            match ears.receive(&self.folder, &mut patience) {
                Ok(heard) => answer(job, heard),
                Err(ConnectionError::Exited) => {
                    jobs.push_front(job);
                    return ProcessFate::Exited;
                }
                // It had little of the processor: that is the machine's doing.
                Err(ConnectionError::TimedOut)
                    if self.is_starved(used_before, ears) && job.killed_processes < KILLED_MAX =>
                {
                    job.killed_processes += 1;
                    job.started_at = None;
                    jobs.push_front(job);
                    return ProcessFate::Discarded;
                }
                Err(deaf) => {
                    self.on_no_answer(job, deaf, jobs);
                    return ProcessFate::Discarded;
                }
            }
        }
        if gave_back { ProcessFate::Discarded } else { ProcessFate::Reusable }
    }

    /// Whether a process got less than half of the processor time that it may use, in all of its time.
    /// Where a sender waits there is no time to ask again.
    fn is_starved(&self, used_before: Option<u64>, ears: &EvaluatorConnection) -> bool {
        if self.lane == Priority::Intake {
            return false;
        }
        let used = used_before.and_then(|before| Some(ears.servant.processor_ms()? - before));
        used.is_some_and(|used_ms| used_ms < u64::from(self.lane.processor_ms()) / 2)
    }

    /// What is large goes alone, so that it need not be copied.
    fn say(
        &self,
        ears: &EvaluatorConnection,
        jobs: &VecDeque<EvaluationRequest>,
    ) -> Result<(), ConnectionError> {
        let until = Instant::now() + self.lane.per_event_limit();
        let mut patience =
            WaitPolicy { until, tick: &mut |_| self.queue.expire_waiting(self.lane) };
        if let ([job], []) | ([], [job]) = jobs.as_slices() {
            ears.send(&job.head(), &mut patience)?;
            return ears.send(&job.encoded_event, &mut patience);
        }
        let mut all = Vec::new();
        for job in jobs {
            all.extend_from_slice(&job.head());
            all.extend_from_slice(&job.encoded_event);
        }
        ears.send(&all, &mut patience)
    }

    /// There is no answer, although its process runs.
    fn on_no_answer(
        &self,
        mut job: EvaluationRequest,
        deaf: ConnectionError,
        jobs: &mut VecDeque<EvaluationRequest>,
    ) {
        match deaf {
            // Others held it up for most of its time.
            ConnectionError::TimedOut
                if job
                    .started_at
                    .is_none_or(|began| began.elapsed() < self.lane.per_event_limit()) => {}
            ConnectionError::TimedOut => {
                let reason =
                    format!("took more than {} s", self.lane.per_event_limit().as_secs_f32());
                if let RequestKind::Expressions(open) = &mut job.kind {
                    open.fail_all(&reason);
                }
                finish(job, &reason);
            }
            ConnectionError::Disk(why) => {
                log::warn!("expressions: large items can't be kept: {why}")
            }
            ConnectionError::Cancelled => jobs.clear(),
            ConnectionError::Malformed | ConnectionError::Exited => {
                log::error!("a fault in hooktrail: {deaf:?}")
            }
        }
    }

    /// Its process ended: the expression that did it has failed, and what is left is worth asking
    /// while there is time. `false`: it was none of them.
    fn on_process_exit(
        &self,
        at_hand: Option<(usize, u32)>,
        end: End,
        jobs: &mut VecDeque<EvaluationRequest>,
    ) -> bool {
        let (at, stage) = at_hand.unwrap_or_default();
        let Some(mut job) = jobs.remove(at) else { return true };
        if at_hand.is_none() {
            job.lost_processes += 1;
            if job.lost_processes > LOST_MAX {
                let End { gone, said } = end;
                let trouble = format!("processes end before they begin: {gone:?}: {}", said.trim());
                log::warn!("expressions: {trouble}");
                self.queue.set_start_error(Some(trouble));
                return false;
            }
            jobs.push_front(job);
            return true;
        }
        if is_from_outside(end.gone) {
            job.killed_processes += 1;
            if job.killed_processes <= KILLED_MAX {
                self.ask_again(job, jobs);
                return true;
            }
        }
        let reason = self.reason(&end);
        if let RequestKind::Expressions(open) = &mut job.kind {
            open.fail(stage, &reason);
            if open.is_empty() {
                finish(job, &reason);
                return true;
            }
            job.started_at.get_or_insert_with(Instant::now);
            if self.left(&job) >= MIN_RETRY_BUDGET {
                jobs.push_front(job);
                return true;
            }
            if let RequestKind::Expressions(open) = &mut job.kind {
                open.fail_all(&reason);
            }
        }
        finish(job, &reason);
        true
    }

    /// Its process was killed, not by the server: it waits, and is the next here. The others need not
    /// wait for it.
    fn ask_again(&self, mut job: EvaluationRequest, jobs: &mut VecDeque<EvaluationRequest>) {
        let wait = KILLED_WAIT * (1 << (job.killed_processes - 1));
        log::warn!(
            "expressions: a process was killed, not by this server: its event is asked again"
        );
        self.queue.requeue_front(self.lane, jobs.drain(..));
        job.started_at = None;
        if self.left(&job) >= wait + MIN_RETRY_BUDGET {
            self.queue.pause(self.lane, wait);
            jobs.push_front(job);
        }
    }

    /// What is known of the end of a process.
    fn reason(&self, end: &End) -> String {
        const ABRT: i32 = libc::SIGABRT;
        const PROF: i32 = libc::SIGPROF;
        match end.gone {
            ExitStatus::Signal(PROF) => {
                let seconds = self.lane.processor_ms() / 1000;
                format!("took more than {seconds} s of processor time")
            }
            // The words of Rust's runtime.
            ExitStatus::Signal(ABRT) if end.said.contains("memory allocation of") => {
                "took more than 256 MiB".to_owned()
            }
            ExitStatus::Signal(ABRT) if end.said.contains("overflowed its stack") => {
                "nested too deep".to_owned()
            }
            ExitStatus::Signal(signal) if is_from_outside(end.gone) => {
                let times = KILLED_MAX + 1;
                format!(
                    "its process was killed {times} times, not by this server, last by signal {signal}: \
                     does the machine run out of memory?"
                )
            }
            ExitStatus::Signal(signal) => format!("its process ended by signal {signal}"),
            ExitStatus::Code(code) => format!("its process ended with exit {code}"),
            ExitStatus::Unknown => "its process ended in a way that is not known".to_owned(),
        }
    }
}

/// Whether no program ends by this of itself: the kernel wants memory back, or somebody stops processes.
fn is_from_outside(gone: ExitStatus) -> bool {
    use libc::{SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
    matches!(
        gone,
        ExitStatus::Signal(SIGHUP | SIGINT | SIGKILL | SIGQUIT | SIGTERM | SIGUSR1 | SIGUSR2)
    )
}

/// Nothing of it is open any more.
fn finish(mut job: EvaluationRequest, reason: &str) {
    let what = std::mem::replace(&mut job.kind, RequestKind::Finished);
    match what {
        RequestKind::Expressions(open) => match open.finish() {
            Some(answers) => job.complete(EvaluationOutcome::Expressions(answers)),
            None => job.complete(EvaluationOutcome::Busy),
        },
        RequestKind::Outputs { .. } => {
            job.complete(EvaluationOutcome::Outputs(Err(reason.to_owned())))
        }
        RequestKind::Finished => {}
    }
}

fn answer(mut job: EvaluationRequest, heard: ReceivedResponse) {
    match (std::mem::replace(&mut job.kind, RequestKind::Finished), heard) {
        (
            RequestKind::Expressions(mut open),
            ReceivedResponse::Expressions { dedupe, handlers: takers },
        ) => match open.answer(dedupe, takers).and_then(|()| open.finish()) {
            Some(answers) => job.complete(EvaluationOutcome::Expressions(answers)),
            None => job.complete(EvaluationOutcome::Busy),
        },
        (RequestKind::Outputs { .. }, ReceivedResponse::Outputs(outputs)) => {
            job.complete(EvaluationOutcome::Outputs(outputs))
        }
        _ => job.complete(EvaluationOutcome::Busy),
    }
}
