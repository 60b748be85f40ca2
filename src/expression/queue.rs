//! What waits for a process. Bounded in number, bytes and time; one party never has all processes,
//! and those of intake are never held by what can wait.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::pending::PendingRequest;
use super::protocol::Encoder;
use super::{EvaluationResult, Expression, Items};

/// Waiting together in a lane. More bytes than these no process reads in the time that there is.
const JOBS_MAX: usize = 4096;
const BYTES_MAX: usize = 16 << 20;

/// Half of that is one party's at most. A single job fits, however large.
const PARTY_JOBS_MAX: usize = JOBS_MAX / 2;
const PARTY_BYTES_MAX: usize = BYTES_MAX / 2;

/// Handed over together, as long as a pipe holds them: more of them cost less each.
const GROUP_MAX: usize = 8;
const GROUP_BYTES_MAX: usize = 60 << 10;

/// Who asks, and so how long it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Priority {
    /// A sender waits.
    Intake,
    /// A worker waits.
    Later,
    /// Nobody waits: the event is stored.
    Deferred,
}

impl Priority {
    /// How long a question may wait for a process.
    pub fn max_wait(self) -> Duration {
        match self {
            // A response waits no longer.
            Self::Intake => Duration::from_millis(250),
            Self::Later | Self::Deferred => Duration::from_secs(30),
        }
    }
}

/// A question on its way.
pub(super) struct EvaluationRequest {
    pub party: u64,
    pub lane: Priority,
    pub what: RequestKind,
    /// The event.
    pub scene: Vec<u8>,
    pub since: Instant,
    /// When a process first had it.
    pub began: Option<Instant>,
    /// Processes that ended before they had looked at it.
    pub lost: u32,
    /// Processes that evaluated it and were killed from outside, or got no processor.
    pub killed: u32,
    pub tell: Option<Box<dyn FnOnce(EvaluationOutcome) + Send>>,
}

pub(super) enum RequestKind {
    Questions(PendingRequest),
    Outputs { expression: Expression, max: u32 },
    Done,
}

/// What became of it.
pub(super) enum EvaluationOutcome {
    Answers(EvaluationResult),
    Outputs(Result<Items, String>),
    Busy,
}

impl EvaluationRequest {
    pub fn tell(mut self, done: EvaluationOutcome) {
        if let Some(tell) = self.tell.take() {
            tell(done);
        }
    }

    /// As a process reads it, but for the event.
    pub fn head(&self) -> Vec<u8> {
        let mut put = Encoder(vec![0; 4]);
        match &self.what {
            RequestKind::Questions(open) => open.encode(&mut put),
            RequestKind::Outputs { expression, max } => put.outputs(expression.text(), *max),
            RequestKind::Done => {}
        }
        let length = u32::try_from(put.0.len() - 4 + self.scene.len()).unwrap_or(u32::MAX);
        put.0[..4].copy_from_slice(&length.to_le_bytes());
        put.0
    }
}

/// Whoever asked is told, whatever happens.
impl Drop for EvaluationRequest {
    fn drop(&mut self) {
        if let Some(tell) = self.tell.take() {
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

pub(super) struct Queue {
    lanes: [Mutex<LaneState>; 3],
    condvars: [Condvar; 3],
    /// Processes of a lane.
    pub processes: usize,
    /// Why the last process could not be started; `None` since one could.
    trouble: Mutex<Option<String>>,
}

#[derive(Default)]
struct LaneState {
    jobs: HashMap<u64, VecDeque<EvaluationRequest>>,
    /// The size of each party's jobs.
    sizes: HashMap<u64, usize>,
    /// Parties that have jobs waiting, in the order of their turn.
    round_robin: VecDeque<u64>,
    /// Processes that a party holds.
    held: HashMap<u64, usize>,
    count: usize,
    bytes: usize,
    idle: usize,
    threads: usize,
    is_closed: bool,
}

impl Queue {
    pub fn new(processes: usize) -> Self {
        let (lanes, bells, trouble) = Default::default();
        Self { lanes, condvars: bells, processes, trouble }
    }

    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    fn lane(&self, lane: Priority) -> MutexGuard<'_, LaneState> {
        self.lanes[lane as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another thread should be started for the lane; where too much waits, the job is told.
    pub fn enqueue(&self, job: EvaluationRequest) -> bool {
        let (lane, mut waiting) = (job.lane, self.lane(job.lane));
        if waiting.is_closed || !waiting.fits(&job) {
            drop(waiting);
            drop(job);
            return false;
        }
        waiting.put(job, false);
        let starts = waiting.count > waiting.idle && waiting.threads < self.processes;
        waiting.threads += usize::from(starts);
        let is_heard = waiting.idle > 0;
        drop(waiting);
        if is_heard {
            self.condvars[lane as usize].notify_one();
        }
        starts
    }

    /// A thread that `put` asked for could not be started. Where there is no other, what waits is told:
    /// nobody would look at it.
    pub fn not_started(&self, lane: Priority) {
        let mut waiting = self.lane(lane);
        waiting.threads -= 1;
        let unasked = if waiting.threads == 0 { waiting.take_all() } else { Vec::new() };
        drop(waiting);
        drop(unasked);
    }

    /// Waits for something to do. `patience`: until it is said that there is nothing.
    pub fn next(&self, lane: Priority, patience: Option<Duration>) -> QueueEvent {
        let idle_at = patience.map(|patience| Instant::now() + patience);
        let mut waiting = self.lane(lane);
        loop {
            let now = Instant::now();
            let late = waiting.take_expired(now, lane.max_wait());
            if !late.is_empty() {
                drop(waiting);
                drop(late);
                waiting = self.lane(lane);
                continue;
            }
            if waiting.is_closed {
                return QueueEvent::Closed;
            }
            if let Some(group) = waiting.take(self.processes) {
                return QueueEvent::Group(group);
            }
            if idle_at.is_some_and(|at| at <= now) {
                return QueueEvent::Idle;
            }
            let first = waiting.first().map(|since| since + lane.max_wait());
            let until = [first, idle_at].into_iter().flatten().min();
            waiting.idle += 1;
            let bell = &self.condvars[lane as usize];
            waiting = match until {
                None => bell.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let left = at.saturating_duration_since(now);
                    bell.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
            waiting.idle -= 1;
        }
    }

    /// Tells those that have waited for too long; `false`: nothing is to be done any more.
    pub fn expire_waiting(&self, lane: Priority) -> bool {
        let mut waiting = self.lane(lane);
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
        let mut waiting = self.lane(lane);
        jobs.rev().for_each(|job| waiting.put(job, true));
        drop(waiting);
        self.condvars[lane as usize].notify_one();
    }

    /// Whether the party may have another process.
    pub fn may_have_more(&self, lane: Priority, party: u64) -> bool {
        let waiting = self.lane(lane);
        waiting.held.get(&party).is_none_or(|held| held + 1 < self.processes)
    }

    /// A group is done with.
    pub fn done(&self, lane: Priority, party: u64) {
        let mut waiting = self.lane(lane);
        if let Some(held) = waiting.held.get_mut(&party) {
            *held -= 1;
            if *held == 0 {
                waiting.held.remove(&party);
            }
        }
        drop(waiting);
        self.condvars[lane as usize].notify_one();
    }

    /// Waits, but not past the end.
    pub fn pause(&self, lane: Priority, time: Duration) {
        let until = Instant::now() + time;
        let mut waiting = self.lane(lane);
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
        for lane in [Priority::Intake, Priority::Later, Priority::Deferred] {
            let mut waiting = self.lane(lane);
            waiting.is_closed = true;
            let jobs = waiting.take_all();
            drop(waiting);
            drop(jobs);
            self.condvars[lane as usize].notify_all();
        }
    }
}

impl LaneState {
    fn fits(&self, job: &EvaluationRequest) -> bool {
        let Some(jobs) = self.jobs.get(&job.party) else { return self.count < JOBS_MAX };
        let bytes = self.sizes.get(&job.party).copied().unwrap_or(0);
        self.count < JOBS_MAX
            && self.bytes + job.scene.len() <= BYTES_MAX
            && jobs.len() < PARTY_JOBS_MAX
            && bytes + job.scene.len() <= PARTY_BYTES_MAX
    }

    /// Jobs of a party were put in or taken out.
    fn resize(&mut self, party: u64, jobs: &[&EvaluationRequest], is_more: bool) {
        let bytes: usize = jobs.iter().map(|job| job.scene.len()).sum();
        let size = self.sizes.entry(party).or_default();
        if is_more {
            (self.count, self.bytes, *size) =
                (self.count + jobs.len(), self.bytes + bytes, *size + bytes);
        } else {
            (self.count, self.bytes, *size) =
                (self.count - jobs.len(), self.bytes - bytes, *size - bytes);
        }
        if *size == 0 {
            self.sizes.remove(&party);
        }
    }

    fn put(&mut self, job: EvaluationRequest, first: bool) {
        let party = job.party;
        self.resize(party, &[&job], true);
        let jobs = self.jobs.entry(party).or_default();
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
    fn take(&mut self, processes: usize) -> Option<VecDeque<EvaluationRequest>> {
        let may = |party: &u64| self.held.get(party).is_none_or(|held| held + 1 < processes);
        let at = self.round_robin.iter().position(may)?;
        let party = self.round_robin.remove(at)?;
        let jobs = self.jobs.get_mut(&party)?;
        let (mut group, mut bytes) = (VecDeque::new(), 0);
        while let Some(job) = jobs.front() {
            bytes += job.head().len() + job.scene.len();
            if !group.is_empty() && (group.len() >= GROUP_MAX || bytes > GROUP_BYTES_MAX) {
                break;
            }
            group.extend(jobs.pop_front());
        }
        if jobs.is_empty() {
            self.jobs.remove(&party);
        } else {
            self.round_robin.push_back(party);
        }
        self.resize(party, &group.iter().collect::<Vec<_>>(), false);
        *self.held.entry(party).or_default() += 1;
        Some(group)
    }

    fn take_all(&mut self) -> Vec<EvaluationRequest> {
        (self.count, self.bytes) = (0, 0);
        self.round_robin.clear();
        self.jobs.drain().flat_map(|(_, jobs)| jobs).collect()
    }

    /// Since when the first waits.
    fn first(&self) -> Option<Instant> {
        self.jobs.values().filter_map(|jobs| jobs.front()).map(|job| job.since).min()
    }

    /// Takes out those that have waited for too long.
    fn take_expired(&mut self, now: Instant, patience: Duration) -> Vec<EvaluationRequest> {
        let mut late = Vec::new();
        for jobs in self.jobs.values_mut() {
            while jobs.front().is_some_and(|job| job.since + patience <= now) {
                late.extend(jobs.pop_front());
            }
        }
        if !late.is_empty() {
            late.iter().for_each(|job| self.resize(job.party, &[job], false));
            self.jobs.retain(|_, jobs| !jobs.is_empty());
            let jobs = &self.jobs;
            self.round_robin.retain(|party| jobs.contains_key(party));
        }
        late
    }
}
