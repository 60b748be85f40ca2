//! What waits for a process. Bounded in number, bytes and time; one party never has all processes,
//! and those of intake are never held by what can wait.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::pending::PendingRequest;
use super::protocol::Encoder;
use super::{EvaluationResult, Expression, Items};

/// Waiting together in a lane. More bytes than these no process reads in the time that there is.
const REQUESTS_MAX: usize = 4096;
const BYTES_MAX: usize = 16 << 20;

/// Half of that is one party's at most. A single job fits, however large.
const KEY_REQUESTS_MAX: usize = REQUESTS_MAX / 2;
const KEY_BYTES_MAX: usize = BYTES_MAX / 2;

/// Handed over together, as long as a pipe holds them: more of them cost less each.
const GROUP_MAX: usize = 8;
const GROUP_BYTES_MAX: usize = 60 << 10;

/// Who asks, and so how long it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Priority {
    /// A sender waits.
    Intake,
    /// A worker waits.
    Transform,
    /// Nobody waits: the event is stored.
    Deferred,
}

impl Priority {
    /// How long a question may wait for a process.
    pub fn max_wait(self) -> Duration {
        match self {
            // A response waits no longer.
            Self::Intake => Duration::from_millis(250),
            Self::Transform | Self::Deferred => Duration::from_secs(30),
        }
    }
}

/// A question on its way.
pub(super) struct EvaluationRequest {
    pub fairness_key: u64,
    pub priority: Priority,
    pub kind: RequestKind,
    /// The event.
    pub encoded_event: Vec<u8>,
    pub queued_at: Instant,
    /// When a process first had it.
    pub started_at: Option<Instant>,
    /// Processes that ended before they had looked at it.
    pub lost_processes: u32,
    /// Processes that evaluated it and were killed from outside, or got no processor.
    pub killed_processes: u32,
    pub callback: Option<Box<dyn FnOnce(EvaluationOutcome) + Send>>,
}

pub(super) enum RequestKind {
    Expressions(PendingRequest),
    Outputs { expression: Expression, max: u32 },
    Finished,
}

/// What became of it.
pub(super) enum EvaluationOutcome {
    Expressions(EvaluationResult),
    Outputs(Result<Items, String>),
    Busy,
}

impl EvaluationRequest {
    pub fn complete(mut self, done: EvaluationOutcome) {
        if let Some(tell) = self.callback.take() {
            tell(done);
        }
    }

    /// As a process reads it, but for the event.
    pub fn head(&self) -> Vec<u8> {
        let mut put = Encoder(vec![0; 4]);
        match &self.kind {
            RequestKind::Expressions(open) => open.encode(&mut put),
            RequestKind::Outputs { expression, max } => put.outputs(expression.text(), *max),
            RequestKind::Finished => {}
        }
        let length = u32::try_from(put.0.len() - 4 + self.encoded_event.len()).unwrap_or(u32::MAX);
        put.0[..4].copy_from_slice(&length.to_le_bytes());
        put.0
    }
}

/// Whoever asked is told, whatever happens.
impl Drop for EvaluationRequest {
    fn drop(&mut self) {
        if let Some(tell) = self.callback.take() {
            tell(EvaluationOutcome::Busy);
        }
    }
}

/// What a process is to do next.
pub(super) enum QueueEvent {
    /// Questions of one party, which now holds one process more: `done` gives it back.
    Group(VecDeque<EvaluationRequest>),
    /// There was nothing for so long.
    Idle,
    Closed,
}

pub(super) struct EvaluationQueue {
    waiting: [Mutex<WaitingRequests>; 3],
    condvars: [Condvar; 3],
    /// Processes of a lane.
    pub processes_max: usize,
    /// Why the last process could not be started; `None` since one could.
    start_error: Mutex<Option<String>>,
}

#[derive(Default)]
struct WaitingRequests {
    requests: HashMap<u64, VecDeque<EvaluationRequest>>,
    /// The size of each party's jobs.
    bytes_by_key: HashMap<u64, usize>,
    /// Parties that have jobs waiting, in the order of their turn.
    round_robin: VecDeque<u64>,
    /// Processes that a party holds.
    processes_by_key: HashMap<u64, usize>,
    count: usize,
    bytes: usize,
    idle_threads: usize,
    threads: usize,
    is_closed: bool,
}

impl EvaluationQueue {
    pub fn new(processes: usize) -> Self {
        let (lanes, bells, trouble) = Default::default();
        Self { waiting: lanes, condvars: bells, processes_max: processes, start_error: trouble }
    }

    pub fn start_error(&self) -> Option<String> {
        self.start_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_start_error(&self, trouble: Option<String>) {
        *self.start_error.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    fn lock(&self, lane: Priority) -> MutexGuard<'_, WaitingRequests> {
        self.waiting[lane as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another thread should be started for the lane; where too much waits, the job is told.
    pub fn enqueue(&self, job: EvaluationRequest) -> bool {
        let (lane, mut waiting) = (job.priority, self.lock(job.priority));
        if waiting.is_closed || !waiting.fits(&job) {
            drop(waiting);
            drop(job);
            return false;
        }
        waiting.push(job, false);
        let starts = waiting.count > waiting.idle_threads && waiting.threads < self.processes_max;
        waiting.threads += usize::from(starts);
        let is_heard = waiting.idle_threads > 0;
        drop(waiting);
        if is_heard {
            self.condvars[lane as usize].notify_one();
        }
        starts
    }

    /// A thread that `put` asked for could not be started. Where there is no other, what waits is told:
    /// nobody would look at it.
    pub fn on_thread_failed(&self, lane: Priority) {
        let mut waiting = self.lock(lane);
        waiting.threads -= 1;
        let unasked = if waiting.threads == 0 { waiting.take_all() } else { Vec::new() };
        drop(waiting);
        drop(unasked);
    }

    /// Waits for something to do. `patience`: until it is said that there is nothing.
    pub fn next(&self, lane: Priority, patience: Option<Duration>) -> QueueEvent {
        let idle_at = patience.map(|patience| Instant::now() + patience);
        let mut waiting = self.lock(lane);
        loop {
            let now = Instant::now();
            let late = waiting.take_expired(now, lane.max_wait());
            if !late.is_empty() {
                drop(waiting);
                drop(late);
                waiting = self.lock(lane);
                continue;
            }
            if waiting.is_closed {
                return QueueEvent::Closed;
            }
            if let Some(group) = waiting.take_group(self.processes_max) {
                return QueueEvent::Group(group);
            }
            if idle_at.is_some_and(|at| at <= now) {
                return QueueEvent::Idle;
            }
            let first = waiting.oldest().map(|since| since + lane.max_wait());
            let until = [first, idle_at].into_iter().flatten().min();
            waiting.idle_threads += 1;
            let bell = &self.condvars[lane as usize];
            waiting = match until {
                None => bell.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let left = at.saturating_duration_since(now);
                    bell.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
            waiting.idle_threads -= 1;
        }
    }

    /// Tells those that have waited for too long; `false`: nothing is to be done any more.
    pub fn expire_waiting(&self, lane: Priority) -> bool {
        let mut waiting = self.lock(lane);
        let late = waiting.take_expired(Instant::now(), lane.max_wait());
        let goes_on = !waiting.is_closed;
        drop(waiting);
        drop(late);
        goes_on
    }

    /// Gives jobs back that are not begun, to be the next.
    pub fn requeue_front(
        &self,
        lane: Priority,
        jobs: impl DoubleEndedIterator<Item = EvaluationRequest>,
    ) {
        let mut waiting = self.lock(lane);
        jobs.rev().for_each(|job| waiting.push(job, true));
        drop(waiting);
        self.condvars[lane as usize].notify_one();
    }

    /// Whether the party may have another process.
    pub fn may_hold_another(&self, lane: Priority, party: u64) -> bool {
        let waiting = self.lock(lane);
        waiting.processes_by_key.get(&party).is_none_or(|held| held + 1 < self.processes_max)
    }

    /// A group is done with.
    pub fn release(&self, lane: Priority, party: u64) {
        let mut waiting = self.lock(lane);
        if let Some(held) = waiting.processes_by_key.get_mut(&party) {
            *held -= 1;
            if *held == 0 {
                waiting.processes_by_key.remove(&party);
            }
        }
        drop(waiting);
        self.condvars[lane as usize].notify_one();
    }

    /// Waits, but not past the end.
    pub fn pause(&self, lane: Priority, time: Duration) {
        let until = Instant::now() + time;
        let mut waiting = self.lock(lane);
        while !waiting.is_closed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let bell = &self.condvars[lane as usize];
            waiting = bell.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// From here on nothing is done; what waits is told.
    pub fn close(&self) {
        for lane in [Priority::Intake, Priority::Transform, Priority::Deferred] {
            let mut waiting = self.lock(lane);
            waiting.is_closed = true;
            let jobs = waiting.take_all();
            drop(waiting);
            drop(jobs);
            self.condvars[lane as usize].notify_all();
        }
    }
}

impl WaitingRequests {
    fn fits(&self, job: &EvaluationRequest) -> bool {
        let Some(jobs) = self.requests.get(&job.fairness_key) else {
            return self.count < REQUESTS_MAX;
        };
        let bytes = self.bytes_by_key.get(&job.fairness_key).copied().unwrap_or(0);
        self.count < REQUESTS_MAX
            && self.bytes + job.encoded_event.len() <= BYTES_MAX
            && jobs.len() < KEY_REQUESTS_MAX
            && bytes + job.encoded_event.len() <= KEY_BYTES_MAX
    }

    /// Jobs of a party were put in or taken out.
    fn adjust_sizes(&mut self, party: u64, jobs: &[&EvaluationRequest], is_more: bool) {
        let bytes: usize = jobs.iter().map(|job| job.encoded_event.len()).sum();
        let size = self.bytes_by_key.entry(party).or_default();
        if is_more {
            (self.count, self.bytes, *size) =
                (self.count + jobs.len(), self.bytes + bytes, *size + bytes);
        } else {
            (self.count, self.bytes, *size) =
                (self.count - jobs.len(), self.bytes - bytes, *size - bytes);
        }
        if *size == 0 {
            self.bytes_by_key.remove(&party);
        }
    }

    fn push(&mut self, job: EvaluationRequest, first: bool) {
        let party = job.fairness_key;
        self.adjust_sizes(party, &[&job], true);
        let jobs = self.requests.entry(party).or_default();
        if jobs.is_empty() {
            self.round_robin.push_back(party);
        }
        if first {
            jobs.push_front(job);
        } else {
            jobs.push_back(job);
        }
    }

    /// A group of whose turn it is and who does not hold all processes but one.
    fn take_group(&mut self, processes: usize) -> Option<VecDeque<EvaluationRequest>> {
        let may =
            |party: &u64| self.processes_by_key.get(party).is_none_or(|held| held + 1 < processes);
        let at = self.round_robin.iter().position(may)?;
        let party = self.round_robin.remove(at)?;
        let jobs = self.requests.get_mut(&party)?;
        let (mut group, mut bytes) = (VecDeque::new(), 0);
        while let Some(job) = jobs.front() {
            bytes += job.head().len() + job.encoded_event.len();
            if !group.is_empty() && (group.len() >= GROUP_MAX || bytes > GROUP_BYTES_MAX) {
                break;
            }
            group.extend(jobs.pop_front());
        }
        if jobs.is_empty() {
            self.requests.remove(&party);
        } else {
            self.round_robin.push_back(party);
        }
        self.adjust_sizes(party, &group.iter().collect::<Vec<_>>(), false);
        *self.processes_by_key.entry(party).or_default() += 1;
        Some(group)
    }

    fn take_all(&mut self) -> Vec<EvaluationRequest> {
        (self.count, self.bytes) = (0, 0);
        self.round_robin.clear();
        self.requests.drain().flat_map(|(_, jobs)| jobs).collect()
    }

    /// Since when the first waits.
    fn oldest(&self) -> Option<Instant> {
        self.requests.values().filter_map(|jobs| jobs.front()).map(|job| job.queued_at).min()
    }

    /// Takes out those that have waited for too long.
    fn take_expired(&mut self, now: Instant, patience: Duration) -> Vec<EvaluationRequest> {
        let mut late = Vec::new();
        for jobs in self.requests.values_mut() {
            while jobs.front().is_some_and(|job| job.queued_at + patience <= now) {
                late.extend(jobs.pop_front());
            }
        }
        if !late.is_empty() {
            late.iter().for_each(|job| self.adjust_sizes(job.fairness_key, &[job], false));
            self.requests.retain(|_, jobs| !jobs.is_empty());
            let jobs = &self.requests;
            self.round_robin.retain(|party| jobs.contains_key(party));
        }
        late
    }
}
