//! A thread that drives one evaluator process: it takes requests from the queue, sends them and
//! receives the responses. If the process dies, the stage in shared memory says which expression it
//! was evaluating. That expression has failed, and a new process evaluates the rest.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connection::{ConnectionError, EvaluatorConnection, WaitPolicy};
use super::queue::{EvaluationQueue, Priority, QueueEvent, QueuedRequest};
use crate::process::{CommandSpec, ExitStatus, SandboxExit, SandboxedProcess, StartError};

/// A process that is idle for this long is stopped.
const MAX_IDLE_TIME: Duration = Duration::from_secs(60);

/// After this time the requests behind a slow one go back to the queue.
const STALL_THRESHOLD: Duration = Duration::from_millis(30);

/// A request with less time left than this is not retried.
const MIN_RETRY_BUDGET: Duration = Duration::from_millis(50);

/// How many processes may exit before they begin a request.
const MAX_STARTUP_FAILURES: u32 = 2;

/// How often an event is retried whose process was killed from outside, such as by the kernel when
/// memory runs out, or got too little of the processor. That says nothing about the expression.
const MAX_EXTERNAL_KILLS: u32 = 5;

/// The delay before such a retry. It doubles each time.
const EXTERNAL_KILL_BACKOFF: Duration = Duration::from_millis(50);

/// After a process has died, the next one flushes this many responses one by one, as more requests
/// like that may follow.
const FLUSH_EACH_AFTER_DEATH: u32 = 1000;

/// The delay between failed starts. It doubles each time.
const BACKOFF: Duration = Duration::from_millis(20);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// The fate of a process after a group of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProcessFate {
    Reusable,
    /// It runs, and has to be replaced.
    Discarded,
    /// It has ended, and the first request left is the one that it was evaluating.
    Exited,
}

pub(super) struct EvaluatorThread {
    pub queue: Arc<EvaluationQueue>,
    pub priority: Priority,
    pub program: CommandSpec,
    /// Folder of the files of large items.
    pub folder: PathBuf,
}

impl Priority {
    /// Processor time for each event. The evaluator enforces it itself.
    fn processor_ms(self) -> u32 {
        match self {
            Self::Intake | Self::Handlers | Self::Deferred => 2000,
            Self::Transform => 1000,
        }
    }

    /// Time from when the request was queued: a sender gets its response within 3 s.
    fn total_limit(self) -> Option<Duration> {
        match self {
            Self::Intake | Self::Handlers => Some(Duration::from_millis(2900)),
            Self::Transform | Self::Deferred => None,
        }
    }

    /// Wall-clock time for each event, in case the machine is busy.
    fn per_event_limit(self) -> Duration {
        match self {
            Self::Intake | Self::Handlers => Duration::from_millis(2400),
            Self::Transform => Duration::from_secs(10),
            Self::Deferred => Duration::from_secs(30),
        }
    }
}

impl EvaluatorThread {
    /// Runs until the queue is closed.
    pub fn run(self) {
        let (mut idle, mut failures) = (None, 0_u32);
        loop {
            match self.queue.next(self.priority, idle.as_ref().map(|_| MAX_IDLE_TIME)) {
                QueueEvent::Closed => return,
                QueueEvent::Idle => idle = None,
                QueueEvent::Group(requests) => {
                    let fairness_key = requests.front().map_or(0, |request| request.fairness_key);
                    let has_started = self.run_group(requests, &mut idle);
                    self.queue.release(self.priority, fairness_key);
                    failures = if has_started { 0 } else { failures + 1 };
                    if failures > 0 {
                        let wait = BACKOFF.saturating_mul(1 << failures.min(10));
                        self.queue.pause(self.priority, wait.min(MAX_BACKOFF));
                    }
                }
            }
        }
    }

    /// Evaluates a group of requests. `false`: no process could be started.
    fn run_group(
        &self,
        mut requests: VecDeque<QueuedRequest>,
        idle: &mut Option<EvaluatorConnection>,
    ) -> bool {
        let mut flush_each = 0;
        loop {
            // Requests with too little time left are answered as busy.
            requests.retain(|request| self.time_left(request) >= MIN_RETRY_BUDGET);
            if requests.is_empty() {
                return true;
            }
            let mut connection = match idle.take().map_or_else(|| self.start(flush_each), Ok) {
                Ok(connection) => connection,
                Err(e) => {
                    let reason = format!("no evaluator process could be started: {}", e.reason);
                    log::warn!("expressions: {reason}");
                    self.queue.set_start_error(Some(reason));
                    if e.is_transient {
                        // They wait until their time is over.
                        self.queue.requeue_front(self.priority, requests.into_iter());
                    }
                    return false;
                }
            };
            let fate = self.evaluate(&mut connection, &mut requests);
            if fate != ProcessFate::Reusable {
                self.queue.counters(self.priority).count_killed();
            }
            match fate {
                ProcessFate::Reusable => *idle = Some(connection),
                ProcessFate::Discarded => drop(connection),
                ProcessFate::Exited => {
                    let current = connection.current_request();
                    if !self.on_process_exit(current, connection.process.terminate(), &mut requests)
                    {
                        return false;
                    }
                    flush_each = FLUSH_EACH_AFTER_DEATH;
                }
            }
        }
    }

    fn start(&self, flush_each: u32) -> Result<EvaluatorConnection, StartError> {
        let mut program = self.program.clone();
        let is_background = u32::from(self.priority == Priority::Deferred);
        let numbers = [self.priority.processor_ms(), flush_each, is_background];
        program.args.extend(numbers.map(|number| number.to_string()));
        let process = SandboxedProcess::start(&program)?;
        self.queue.set_start_error(None);
        Ok(EvaluatorConnection::new(process, self.queue.counters(self.priority).start()))
    }

    /// Time that a process may still spend on the request.
    fn time_left(&self, request: &QueuedRequest) -> Duration {
        let event_deadline =
            request.started_at.map(|started_at| started_at + self.priority.per_event_limit());
        let total_deadline = self.priority.total_limit().map(|limit| request.queued_at + limit);
        let deadline = [event_deadline, total_deadline].into_iter().flatten().min();
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        left.unwrap_or_else(|| self.priority.per_event_limit())
    }

    /// Sends the requests and completes each with its response.
    fn evaluate(
        &self,
        connection: &mut EvaluatorConnection,
        requests: &mut VecDeque<QueuedRequest>,
    ) -> ProcessFate {
        if let Some(first) = requests.front_mut() {
            first.started_at.get_or_insert_with(Instant::now);
        }
        match self.send(connection, requests) {
            Ok(()) => {}
            Err(ConnectionError::Cancelled) => {
                requests.clear();
                return ProcessFate::Discarded;
            }
            Err(ConnectionError::TimedOut) => return ProcessFate::Discarded,
            Err(_) => return ProcessFate::Exited,
        }
        let mut has_requeued = false;
        while let Some(mut request) = requests.pop_front() {
            let now = Instant::now();
            request.started_at.get_or_insert(now);
            let (deadline, fairness_key) = (now + self.time_left(&request), request.fairness_key);
            let mut used_before = None;
            let mut tick = |connection: &EvaluatorConnection| {
                used_before = used_before.or_else(|| connection.process.processor_ms());
                if now.elapsed() >= STALL_THRESHOLD
                    && self.queue.may_hold_another(self.priority, fairness_key)
                {
                    let index = connection
                        .current_request()
                        .map_or(0, |(index, _)| index)
                        .min(requests.len());
                    // The process has received them all the same.
                    has_requeued |= index < requests.len();
                    self.queue.requeue_front(self.priority, requests.drain(index..));
                }
                self.queue.expire_waiting(self.priority)
            };
            let mut policy = WaitPolicy { deadline, tick: &mut tick };
            let handler_count = request.pending.handler_count();
            match connection.receive(handler_count, &self.folder, &mut policy) {
                Ok(result) => {
                    self.queue.counters(self.priority).count_evaluation();
                    request.pending.add_result(result);
                }
                Err(ConnectionError::Exited) => {
                    requests.push_front(request);
                    return ProcessFate::Exited;
                }
                // It got little of the processor: the machine is busy.
                Err(ConnectionError::TimedOut)
                    if self.is_starved(used_before, connection)
                        && request.external_kills < MAX_EXTERNAL_KILLS =>
                {
                    request.external_kills += 1;
                    request.started_at = None;
                    requests.push_front(request);
                    return ProcessFate::Discarded;
                }
                Err(error) => {
                    self.on_no_response(request, error, requests);
                    return ProcessFate::Discarded;
                }
            }
        }
        if has_requeued { ProcessFate::Discarded } else { ProcessFate::Reusable }
    }

    /// Whether the process got less than half of its processor time while the request's whole time
    /// passed. Where a sender waits there is no time for a retry.
    fn is_starved(&self, used_before: Option<u64>, connection: &EvaluatorConnection) -> bool {
        if matches!(self.priority, Priority::Intake | Priority::Handlers) {
            return false;
        }
        let used = used_before.and_then(|before| Some(connection.process.processor_ms()? - before));
        used.is_some_and(|used_ms| used_ms < u64::from(self.priority.processor_ms()) / 2)
    }

    /// Sends the requests. A large one is alone in its group, so that it need not be copied.
    fn send(
        &self,
        connection: &EvaluatorConnection,
        requests: &VecDeque<QueuedRequest>,
    ) -> Result<(), ConnectionError> {
        let deadline = Instant::now() + self.priority.per_event_limit();
        let mut policy =
            WaitPolicy { deadline, tick: &mut |_| self.queue.expire_waiting(self.priority) };
        if let ([request], []) | ([], [request]) = requests.as_slices() {
            connection.send(&request.pending.encode(&request.encoded_event), &mut policy)?;
            return connection.send(&request.encoded_event, &mut policy);
        }
        let mut all = Vec::new();
        for request in requests {
            all.extend_from_slice(&request.pending.encode(&request.encoded_event));
            all.extend_from_slice(&request.encoded_event);
        }
        connection.send(&all, &mut policy)
    }

    /// Handles a missing response of a process that still runs.
    fn on_no_response(
        &self,
        mut request: QueuedRequest,
        error: ConnectionError,
        requests: &mut VecDeque<QueuedRequest>,
    ) {
        match error {
            // Other requests took most of its time.
            ConnectionError::TimedOut
                if request.started_at.is_none_or(|started_at| {
                    started_at.elapsed() < self.priority.per_event_limit()
                }) => {}
            ConnectionError::TimedOut => {
                let reason =
                    format!("took more than {} s", self.priority.per_event_limit().as_secs_f32());
                request.pending.fail_all(&reason);
            }
            ConnectionError::Disk(reason) => {
                log::warn!("expressions: large items can't be written: {reason}")
            }
            ConnectionError::Cancelled => requests.clear(),
            ConnectionError::Malformed | ConnectionError::Exited => {
                log::error!(
                    "expressions: internal error: an evaluator's response is invalid: {error:?}"
                )
            }
        }
    }

    /// Handles the end of the process: the expression that it was evaluating has failed, and the
    /// rest is retried while there is time. `false`: the process died repeatedly before it began
    /// with a request.
    fn on_process_exit(
        &self,
        current: Option<(usize, u32)>,
        end: SandboxExit,
        requests: &mut VecDeque<QueuedRequest>,
    ) -> bool {
        let (index, stage) = current.unwrap_or_default();
        let Some(mut request) = requests.remove(index) else { return true };
        if current.is_none() {
            request.startup_failures += 1;
            if request.startup_failures > MAX_STARTUP_FAILURES {
                let SandboxExit { status, stderr } = end;
                let reason = format!(
                    "evaluator processes exit while they start: {status:?}: {}",
                    stderr.trim()
                );
                log::warn!("expressions: {reason}");
                self.queue.set_start_error(Some(reason));
                return false;
            }
            requests.push_front(request);
            return true;
        }
        if is_from_outside(end.status) {
            request.external_kills += 1;
            if request.external_kills <= MAX_EXTERNAL_KILLS {
                self.retry_later(request, requests);
                return true;
            }
        }
        let reason = self.reason(&end);
        request.pending.fail(stage, &reason);
        request.started_at.get_or_insert_with(Instant::now);
        if !request.pending.is_empty() && self.time_left(&request) >= MIN_RETRY_BUDGET {
            requests.push_front(request);
        } else {
            request.pending.fail_all(&reason);
        }
        true
    }

    /// Retries a request whose process was killed from outside. It waits and is the next of this
    /// thread. The other requests go back to the queue, so that they need not wait for it.
    fn retry_later(&self, mut request: QueuedRequest, requests: &mut VecDeque<QueuedRequest>) {
        let wait = EXTERNAL_KILL_BACKOFF * (1 << (request.external_kills - 1));
        log::warn!(
            "expressions: an evaluator process was killed, not by this server: retrying its event"
        );
        self.queue.requeue_front(self.priority, requests.drain(..));
        request.started_at = None;
        if self.time_left(&request) >= wait + MIN_RETRY_BUDGET {
            self.queue.pause(self.priority, wait);
            requests.push_front(request);
        }
    }

    /// Why the process ended, as the reason of a failed expression.
    fn reason(&self, end: &SandboxExit) -> String {
        const ABRT: i32 = libc::SIGABRT;
        const PROF: i32 = libc::SIGPROF;
        match end.status {
            ExitStatus::Signal(PROF) => {
                let seconds = self.priority.processor_ms() / 1000;
                format!("took more than {seconds} s of processor time")
            }
            // The message of Rust's runtime.
            ExitStatus::Signal(ABRT) if end.stderr.contains("memory allocation of") => {
                "took more than 256 MiB".to_owned()
            }
            ExitStatus::Signal(ABRT) if end.stderr.contains("overflowed its stack") => {
                "nested too deep".to_owned()
            }
            ExitStatus::Signal(signal) if is_from_outside(end.status) => {
                let times = MAX_EXTERNAL_KILLS + 1;
                format!(
                    "its process was killed {times} times, not by this server, last by signal {signal}: \
                     does the machine run out of memory?"
                )
            }
            ExitStatus::Signal(signal) => format!("its process ended by signal {signal}"),
            ExitStatus::Code(code) => format!("its process ended with exit {code}"),
            ExitStatus::Unknown => "its process ended for an unknown reason".to_owned(),
        }
    }
}

/// Whether only somebody else sends this signal: the kernel that needs memory, or a person who
/// stops processes.
fn is_from_outside(status: ExitStatus) -> bool {
    use libc::{SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
    matches!(
        status,
        ExitStatus::Signal(SIGHUP | SIGINT | SIGKILL | SIGQUIT | SIGTERM | SIGUSR1 | SIGUSR2)
    )
}
