//! The queue of requests that wait for an evaluator process. It is bounded in number, bytes and
//! time. No source ever has all processes, and those for intake never wait for requests that can
//! wait.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::EvaluationResult;
use super::pending::PendingRequest;
use super::process_counters::ProcessCounters;

/// Limits of all requests of one priority. No process can read more bytes than these in time.
const MAX_REQUESTS: usize = 4096;
const MAX_BYTES: usize = 16 << 20;

/// One source gets half of that at most. A single request fits, however large.
const MAX_KEY_REQUESTS: usize = MAX_REQUESTS / 2;
const MAX_KEY_BYTES: usize = MAX_BYTES / 2;

/// Limits of a group. A larger group costs less for each request, as long as the pipe holds it.
const MAX_GROUP_REQUESTS: usize = 8;
const MAX_GROUP_BYTES: usize = 60 << 10;

/// Maximum time that a response waits for `dedupe` or `handshake.respond`.
pub const DEDUPE_TIMEOUT: Duration = Duration::from_millis(250);

/// Maximum time that a response waits for the expressions of handlers.
const HANDLERS_TIMEOUT: Duration = Duration::from_millis(50);

/// The priority of a request. It depends on who waits for the result, and decides how long the
/// evaluation may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// A sender waits for a key or a handshake.
    Intake,
    /// A sender waits, but only briefly: then the event is deferred.
    Handlers,
    /// A worker waits.
    Transform,
    /// Nobody waits: the event is stored.
    Deferred,
}

impl Priority {
    const ALL: [Self; 4] = [Self::Intake, Self::Handlers, Self::Transform, Self::Deferred];

    pub fn name(self) -> &'static str {
        match self {
            Self::Intake => "intake",
            Self::Handlers => "handlers",
            Self::Transform => "transform",
            Self::Deferred => "deferred",
        }
    }

    /// How long a request may wait for a process.
    pub fn max_wait(self) -> Duration {
        match self {
            Self::Intake => DEDUPE_TIMEOUT,
            Self::Handlers => HANDLERS_TIMEOUT,
            Self::Transform | Self::Deferred => Duration::from_secs(30),
        }
    }
}

/// No process was free in time, or too many requests wait. The response is 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// The evaluator processes for requests of one priority, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvaluatorCounts {
    pub priority: Priority,
    /// Processes that run.
    pub evaluators: usize,
    /// Processes that work on requests.
    pub busy: usize,
    /// Requests that wait for a process.
    pub waiting: usize,
    /// Requests that a process has answered since the start.
    pub evaluations: u64,
    /// Processes that ended, or were killed, while they had requests, since the start.
    pub killed: u64,
}

/// Called once with the result of a request.
pub type ResultCallback = Box<dyn FnOnce(Result<EvaluationResult, Busy>) + Send>;

/// A request that waits for, or is with, an evaluator process. Dropping it calls the callback: with
/// the results, or as busy if an expression is still pending.
pub(super) struct QueuedRequest {
    pub fairness_key: u64,
    pub priority: Priority,
    pub pending: PendingRequest,
    /// The event as the protocol encodes it.
    pub encoded_event: Vec<u8>,
    pub queued_at: Instant,
    /// When a process first got it.
    pub started_at: Option<Instant>,
    /// Number of processes that ended before they began with it.
    pub startup_failures: u32,
    /// Number of processes that were killed from outside while they evaluated it, or got no
    /// processor.
    pub external_kills: u32,
    pub callback: Option<ResultCallback>,
}

impl Drop for QueuedRequest {
    fn drop(&mut self) {
        if let Some(callback) = self.callback.take() {
            callback(self.pending.finish().ok_or(Busy));
        }
    }
}

/// The next step of an evaluator thread.
pub(super) enum QueueEvent {
    /// Requests of one source. The source holds one more process until `release`.
    Group(VecDeque<QueuedRequest>),
    /// Nothing came in time.
    Idle,
    Closed,
}

pub(super) struct EvaluationQueue {
    waiting: [Mutex<WaitingRequests>; Priority::ALL.len()],
    condvars: [Condvar; Priority::ALL.len()],
    counters: [Arc<ProcessCounters>; Priority::ALL.len()],
    /// Maximum number of processes for each priority.
    pub max_processes: usize,
    /// Why the last process could not be started; `None` once one has started.
    start_error: Mutex<Option<String>>,
}

#[derive(Default)]
struct WaitingRequests {
    requests: HashMap<u64, VecDeque<QueuedRequest>>,
    /// The bytes that wait, by source.
    bytes_by_key: HashMap<u64, usize>,
    /// The sources that have requests waiting, in the order of their turn.
    round_robin: VecDeque<u64>,
    /// The number of processes that work for a source.
    processes_by_key: HashMap<u64, usize>,
    count: usize,
    bytes: usize,
    idle_threads: usize,
    threads: usize,
    is_closed: bool,
}

impl EvaluationQueue {
    pub fn new(max_processes: usize) -> Self {
        let (waiting, condvars, counters, start_error) = Default::default();
        Self { waiting, condvars, counters, max_processes, start_error }
    }

    /// Returns the counters of the processes for one priority.
    pub fn counters(&self, priority: Priority) -> &Arc<ProcessCounters> {
        &self.counters[priority as usize]
    }

    /// Returns what the processes for each priority do.
    pub fn evaluator_counts(&self) -> [EvaluatorCounts; Priority::ALL.len()] {
        Priority::ALL.map(|priority| {
            let (counters, waiting) = (self.counters(priority), self.lock(priority));
            EvaluatorCounts {
                priority,
                evaluators: counters.running(),
                busy: waiting.processes_by_key.values().sum(),
                waiting: waiting.count,
                evaluations: counters.evaluations(),
                killed: counters.killed(),
            }
        })
    }

    pub fn start_error(&self) -> Option<String> {
        self.start_error.lock().clone()
    }

    pub fn set_start_error(&self, start_error: Option<String>) {
        *self.start_error.lock() = start_error;
    }

    fn lock(&self, priority: Priority) -> MutexGuard<'_, WaitingRequests> {
        self.waiting[priority as usize].lock()
    }

    /// Adds a request. Returns whether the caller should start another thread. A request beyond the
    /// limits completes as busy.
    pub fn enqueue(&self, request: QueuedRequest) -> bool {
        let (priority, mut waiting) = (request.priority, self.lock(request.priority));
        if waiting.is_closed || !waiting.fits(&request) {
            drop(waiting);
            drop(request);
            return false;
        }
        waiting.push(request, false);
        let should_start =
            waiting.count > waiting.idle_threads && waiting.threads < self.max_processes;
        waiting.threads += usize::from(should_start);
        let has_idle_thread = waiting.idle_threads > 0;
        drop(waiting);
        if has_idle_thread {
            self.condvars[priority as usize].notify_one();
        }
        should_start
    }

    /// Handles the failed start of a thread that `enqueue` requested. If there is no other thread,
    /// all waiting requests complete as busy, as no thread would take them.
    pub fn on_thread_failed(&self, priority: Priority) {
        let mut waiting = self.lock(priority);
        waiting.threads -= 1;
        let dropped = if waiting.threads == 0 { waiting.take_all() } else { Vec::new() };
        drop(waiting);
        drop(dropped);
    }

    /// Waits for the next group. `idle_after`: how long until [`QueueEvent::Idle`].
    pub fn next(&self, priority: Priority, idle_after: Option<Duration>) -> QueueEvent {
        let idle_at = idle_after.map(|idle_after| Instant::now() + idle_after);
        let mut waiting = self.lock(priority);
        loop {
            let now = Instant::now();
            let expired = waiting.take_expired(now, priority.max_wait());
            if !expired.is_empty() {
                drop(waiting);
                drop(expired);
                waiting = self.lock(priority);
                continue;
            }
            if waiting.is_closed {
                return QueueEvent::Closed;
            }
            if let Some(group) = waiting.take_group(self.max_processes) {
                return QueueEvent::Group(group);
            }
            if idle_at.is_some_and(|at| at <= now) {
                return QueueEvent::Idle;
            }
            let expires_at = waiting.oldest().map(|queued_at| queued_at + priority.max_wait());
            let wake_at = [expires_at, idle_at].into_iter().flatten().min();
            waiting.idle_threads += 1;
            let condvar = &self.condvars[priority as usize];
            match wake_at {
                None => condvar.wait(&mut waiting),
                Some(at) => drop(condvar.wait_until(&mut waiting, at)),
            }
            waiting.idle_threads -= 1;
        }
    }

    /// Completes requests that waited too long as busy; `false`: the queue is closed.
    pub fn expire_waiting(&self, priority: Priority) -> bool {
        let mut waiting = self.lock(priority);
        let expired = waiting.take_expired(Instant::now(), priority.max_wait());
        let is_open = !waiting.is_closed;
        drop(waiting);
        drop(expired);
        is_open
    }

    /// Puts requests back at the front that no process has begun.
    pub fn requeue_front(
        &self,
        priority: Priority,
        requests: impl DoubleEndedIterator<Item = QueuedRequest>,
    ) {
        let mut waiting = self.lock(priority);
        requests.rev().for_each(|request| waiting.push(request, true));
        drop(waiting);
        self.condvars[priority as usize].notify_one();
    }

    /// Whether the source may get another process.
    pub fn may_hold_another(&self, priority: Priority, fairness_key: u64) -> bool {
        let waiting = self.lock(priority);
        waiting.processes_by_key.get(&fairness_key).is_none_or(|held| held + 1 < self.max_processes)
    }

    /// Gives back the process that a source held for a group.
    pub fn release(&self, priority: Priority, fairness_key: u64) {
        let mut waiting = self.lock(priority);
        if let Some(held) = waiting.processes_by_key.get_mut(&fairness_key) {
            *held -= 1;
            if *held == 0 {
                waiting.processes_by_key.remove(&fairness_key);
            }
        }
        drop(waiting);
        self.condvars[priority as usize].notify_one();
    }

    /// Waits until the time is over or the queue is closed.
    pub fn pause(&self, priority: Priority, time: Duration) {
        let resume_at = Instant::now() + time;
        let (mut waiting, condvar) = (self.lock(priority), &self.condvars[priority as usize]);
        condvar.wait_while_until(&mut waiting, |waiting| !waiting.is_closed, resume_at);
    }

    /// Closes the queue and completes all waiting requests as busy.
    pub fn close(&self) {
        for priority in Priority::ALL {
            let mut waiting = self.lock(priority);
            waiting.is_closed = true;
            let requests = waiting.take_all();
            drop(waiting);
            drop(requests);
            self.condvars[priority as usize].notify_all();
        }
    }
}

impl WaitingRequests {
    fn fits(&self, request: &QueuedRequest) -> bool {
        let Some(requests) = self.requests.get(&request.fairness_key) else {
            return self.count < MAX_REQUESTS;
        };
        let bytes = self.bytes_by_key.get(&request.fairness_key).copied().unwrap_or(0);
        self.count < MAX_REQUESTS
            && self.bytes + request.encoded_event.len() <= MAX_BYTES
            && requests.len() < MAX_KEY_REQUESTS
            && bytes + request.encoded_event.len() <= MAX_KEY_BYTES
    }

    /// Updates the counts for requests that were added or removed.
    fn adjust_sizes(&mut self, fairness_key: u64, requests: &[&QueuedRequest], is_added: bool) {
        let bytes: usize = requests.iter().map(|request| request.encoded_event.len()).sum();
        let size = self.bytes_by_key.entry(fairness_key).or_default();
        if is_added {
            (self.count, self.bytes, *size) =
                (self.count + requests.len(), self.bytes + bytes, *size + bytes);
        } else {
            (self.count, self.bytes, *size) =
                (self.count - requests.len(), self.bytes - bytes, *size - bytes);
        }
        if *size == 0 {
            self.bytes_by_key.remove(&fairness_key);
        }
    }

    fn push(&mut self, request: QueuedRequest, at_front: bool) {
        let fairness_key = request.fairness_key;
        self.adjust_sizes(fairness_key, &[&request], true);
        let requests = self.requests.entry(fairness_key).or_default();
        if requests.is_empty() {
            self.round_robin.push_back(fairness_key);
        }
        if at_front {
            requests.push_front(request);
        } else {
            requests.push_back(request);
        }
    }

    /// Takes a group of the next source that does not already hold all processes but one.
    fn take_group(&mut self, max_processes: usize) -> Option<VecDeque<QueuedRequest>> {
        let may_hold_another = |fairness_key: &u64| {
            self.processes_by_key.get(fairness_key).is_none_or(|held| held + 1 < max_processes)
        };
        let index = self.round_robin.iter().position(may_hold_another)?;
        let fairness_key = self.round_robin.remove(index)?;
        let requests = self.requests.get_mut(&fairness_key)?;
        let (mut group, mut bytes) = (VecDeque::new(), 0);
        while let Some(request) = requests.front() {
            bytes +=
                request.pending.encode(&request.encoded_event).len() + request.encoded_event.len();
            if !group.is_empty() && (group.len() >= MAX_GROUP_REQUESTS || bytes > MAX_GROUP_BYTES) {
                break;
            }
            group.extend(requests.pop_front());
        }
        if requests.is_empty() {
            self.requests.remove(&fairness_key);
        } else {
            self.round_robin.push_back(fairness_key);
        }
        self.adjust_sizes(fairness_key, &group.iter().collect::<Vec<_>>(), false);
        *self.processes_by_key.entry(fairness_key).or_default() += 1;
        Some(group)
    }

    fn take_all(&mut self) -> Vec<QueuedRequest> {
        (self.count, self.bytes) = (0, 0);
        self.round_robin.clear();
        self.requests.drain().flat_map(|(_, requests)| requests).collect()
    }

    /// When the oldest request was queued.
    fn oldest(&self) -> Option<Instant> {
        self.requests
            .values()
            .filter_map(|requests| requests.front())
            .map(|request| request.queued_at)
            .min()
    }

    /// Removes the requests that waited too long.
    fn take_expired(&mut self, now: Instant, max_wait: Duration) -> Vec<QueuedRequest> {
        let mut expired = Vec::new();
        for requests in self.requests.values_mut() {
            while requests.front().is_some_and(|request| request.queued_at + max_wait <= now) {
                expired.extend(requests.pop_front());
            }
        }
        if !expired.is_empty() {
            expired
                .iter()
                .for_each(|request| self.adjust_sizes(request.fairness_key, &[request], false));
            self.requests.retain(|_, requests| !requests.is_empty());
            let requests = &self.requests;
            self.round_robin.retain(|fairness_key| requests.contains_key(fairness_key));
        }
        expired
    }
}
