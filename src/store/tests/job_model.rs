//! Random sequences of changes, compared with a plain model of the job's life cycle after each: states, queue
//! lengths, wake-ups, ordering keys, alerts and settled jobs. Some changes are rolled back in the middle.

use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;
use crate::domain::job::{JobState, Transition};
use crate::store::jobs::queue;
use crate::store::operation::{Isolation, OperationResult};

const HANDLERS: [HandlerId; 2] = [HandlerId(1), HandlerId(2)];

/// A change, as a person, a sender or a worker causes it. Jobs are named by an index that wraps around.
#[derive(Clone, Debug)]
enum Change {
    Insert(NewModelJob),
    /// Inserts a job, and is rolled back alone.
    RollBackInsert(NewModelJob),
    /// Claims up to this many jobs.
    Claim(HandlerId, usize),
    /// Claims, and is rolled back alone.
    RollBackClaim(HandlerId, usize),
    Finish(usize, ModelOutcome),
    /// Time passes, in milliseconds.
    Advance(i64),
    Retry(usize),
    Cancel(usize),
}

#[derive(Clone, Copy, Debug)]
enum ModelOutcome {
    Succeeded,
    Dead,
    RetryNow,
    RetryLater,
}

#[derive(Clone, Debug)]
struct NewModelJob {
    handler: HandlerId,
    order: Option<u8>,
    /// A debounce key and its time.
    debounce: Option<(u8, i64)>,
    /// An expression failed.
    is_dead: bool,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let handler = || prop_oneof![Just(HANDLERS[0]), Just(HANDLERS[1])];
    let new_job = move || {
        let order = prop::option::weighted(0.6, 0..2_u8);
        let time = prop_oneof![Just(0_i64), Just(5_000)];
        let debounce = prop::option::weighted(0.3, (0..2_u8, time));
        (handler(), order, debounce, prop::bool::weighted(0.1)).prop_map(
            |(handler, order, debounce, is_dead)| NewModelJob { handler, order, debounce, is_dead },
        )
    };
    let outcome = prop_oneof![
        Just(ModelOutcome::Succeeded),
        Just(ModelOutcome::Dead),
        Just(ModelOutcome::RetryNow),
        Just(ModelOutcome::RetryLater),
    ];
    let change = prop_oneof![
        6 => new_job().prop_map(Change::Insert),
        1 => new_job().prop_map(Change::RollBackInsert),
        5 => (handler(), 1..4_usize).prop_map(|(handler, jobs)| Change::Claim(handler, jobs)),
        1 => (handler(), 1..4_usize).prop_map(|(handler, jobs)| Change::RollBackClaim(handler, jobs)),
        6 => (any::<usize>(), outcome).prop_map(|(job, outcome)| Change::Finish(job, outcome)),
        2 => (1..6_000_i64).prop_map(Change::Advance),
        2 => any::<usize>().prop_map(Change::Retry),
        2 => any::<usize>().prop_map(Change::Cancel),
    ];
    prop::collection::vec(change, 1..60)
}

#[derive(Clone, Debug)]
struct ModelJob {
    handler: HandlerId,
    order: Option<u8>,
    debounce: Option<u8>,
    burst_started_ms: Option<i64>,
    /// The state that the job must have.
    expected: JobState,
    due_ms: Option<i64>,
    has_run: bool,
    is_cancelled: bool,
}

/// The state of the rest of the server after the effects so far.
#[derive(Debug, Default)]
struct Believed {
    queued: i64,
    may_have_ready: HashMap<HandlerId, bool>,
    due_ms: Option<i64>,
}

struct Model {
    db: TestStore,
    jobs: Vec<ModelJob>,
    claims: HashMap<usize, ClaimedJob>,
    believed: Believed,
    dead: i64,
    /// How often a job reached a final state.
    settled: i64,
}

impl Model {
    fn new() -> Self {
        let db = super::settlements::store_with_subscriber();
        let (jobs, claims, believed) = Default::default();
        Self { db, jobs, claims, believed, dead: 0, settled: 0 }
    }

    fn set_state(&mut self, job: usize, change: Option<Transition>, target: JobState) {
        if let Some(change) = change {
            let before = self.jobs[job].expected;
            assert!(change.from().contains(&before), "{change:?} from {before:?}");
            assert!(change.to().contains(&target), "{change:?} to {target:?}");
        }
        self.jobs[job].expected = target;
        if target != JobState::Scheduled {
            self.jobs[job].due_ms = None;
        }
        self.dead += i64::from(target == JobState::Dead);
        self.settled += i64::from(target.is_final());
    }

    /// The oldest unfinished job of a key runs first.
    fn release(&mut self, handler: HandlerId, order: Option<u8>) {
        let Some(order) = order else { return };
        let of_key: Vec<usize> = (0..self.jobs.len())
            .filter(|job| {
                let job = &self.jobs[*job];
                job.handler == handler && job.order == Some(order) && !job.expected.is_final()
            })
            .collect();
        if of_key.iter().any(|job| self.jobs[*job].expected == JobState::Running) {
            return;
        }
        for (place, job) in of_key.into_iter().enumerate() {
            match (place, self.jobs[job].expected) {
                (0, JobState::Blocked) => {
                    self.set_state(job, Some(Transition::Release), JobState::Ready);
                }
                (1.., JobState::Ready) => {
                    self.set_state(job, Some(Transition::Block), JobState::Blocked);
                }
                _ => {}
            }
        }
    }

    fn insert(&mut self, new: &NewModelJob) {
        let now_ms = self.db.cache.now_ms;
        let NewModelJob { handler, order, debounce, is_dead } = new.clone();
        let debounce = debounce.filter(|_| !is_dead);
        let mut job = ModelJob {
            handler,
            order: order.filter(|_| !is_dead),
            debounce: debounce.map(|(key, _)| key),
            burst_started_ms: None,
            expected: if is_dead { JobState::Dead } else { JobState::Ready },
            due_ms: None,
            has_run: is_dead,
            is_cancelled: false,
        };
        self.dead += i64::from(is_dead);
        self.settled += i64::from(is_dead);
        if let Some((key, time_ms)) = debounce {
            let mut started_ms = now_ms;
            for older in 0..self.jobs.len() {
                let waiting = &self.jobs[older];
                if waiting.handler != handler
                    || waiting.debounce != Some(key)
                    || !waiting.expected.is_queued()
                {
                    continue;
                }
                if let Some(burst_ms) = waiting.burst_started_ms.filter(|_| !waiting.has_run) {
                    started_ms = started_ms.min(burst_ms);
                }
                let order = waiting.order;
                self.set_state(older, Some(Transition::Supersede), JobState::Cancelled);
                self.release(handler, order);
            }
            if time_ms > 0 {
                job.burst_started_ms = Some(started_ms);
                let due_ms = (now_ms + time_ms).min(started_ms + 10 * time_ms);
                if due_ms > now_ms {
                    (job.expected, job.due_ms) = (JobState::Scheduled, Some(due_ms));
                }
            }
        }
        let is_unfinished = |other: &ModelJob| {
            other.handler == handler && other.order == job.order && !other.expected.is_final()
        };
        if job.expected == JobState::Ready
            && job.order.is_some()
            && self.jobs.iter().any(is_unfinished)
        {
            job.expected = JobState::Blocked;
        }
        self.jobs.push(job);
    }

    fn promote(&mut self) {
        let now_ms = self.db.cache.now_ms;
        let due: Vec<usize> = (0..self.jobs.len())
            .filter(|job| self.jobs[*job].due_ms.is_some_and(|due_ms| due_ms <= now_ms))
            .collect();
        for &job in &due {
            let target = match self.jobs[job].order {
                Some(_) => JobState::Blocked,
                None => JobState::Ready,
            };
            self.set_state(job, Some(Transition::Promote), target);
        }
        for job in due {
            self.release(self.jobs[job].handler, self.jobs[job].order);
        }
    }

    /// Runs a change in a savepoint that is rolled back.
    fn roll_back(
        &mut self,
        change: impl FnOnce(&mut WriteTransaction<'_>) -> rusqlite::Result<()>,
    ) {
        let before = format!("{:?}", self.db.cache.counters);
        let mut group = Effects::default();
        let (conn, cache) = (&self.db.store.conn, &mut self.db.cache);
        let mut tx = WriteTransaction::new(conn, cache, &mut group);
        let result = Isolation::Savepoints
            .apply(&mut tx, |tx| {
                change(tx).unwrap();
                Err(tx.conn.execute("INSERT INTO events (id) VALUES (1)", []).unwrap_err())
            })
            .unwrap();
        drop(tx);
        assert!(matches!(result, OperationResult::Rejected));
        assert_eq!(format!("{:?}", self.db.cache.counters), before);
        assert!(group.queued.is_empty() && group.ready.is_empty() && group.settled.is_empty());
    }

    fn apply(&mut self, change: &Change) {
        self.db.effects = Effects::default();
        let mut claimed_all = None;
        match change {
            Change::Insert(new) => {
                self.db.insert_event(vec![(new.handler, job_spec(new))]);
                self.insert(new);
            }
            Change::RollBackInsert(new) => {
                let origin = jobs::JobOrigin {
                    event: 1,
                    source: S,
                    handler: new.handler,
                    created_at_ms: 0,
                    kind: jobs::OriginKind::DeferredEvent,
                };
                let spec = job_spec(new);
                self.roll_back(|tx| jobs::insert::insert_jobs(tx, origin, &spec));
            }
            Change::Claim(handler, max) => {
                let claimed = self.db.claim_for(*handler, *max, false);
                claimed_all = Some((*handler, claimed.len() == *max));
                let expected: Vec<usize> = (0..self.jobs.len())
                    .filter(|job| {
                        let job = &self.jobs[*job];
                        job.handler == *handler && job.expected == JobState::Ready
                    })
                    .take(*max)
                    .collect();
                let found: Vec<usize> = claimed.iter().map(index_of).collect();
                assert_eq!(found, expected, "the oldest ready jobs are claimed");
                for job in claimed {
                    self.set_state(index_of(&job), Some(Transition::Claim), JobState::Running);
                    self.jobs[index_of(&job)].has_run = true;
                    self.claims.insert(index_of(&job), job);
                }
            }
            Change::RollBackClaim(handler, max) => {
                let handler = *handler;
                let max = *max;
                self.roll_back(|tx| transition::claim(tx, handler, max, false).map(|_| ()));
            }
            Change::Finish(index, outcome) => self.finish(*index, *outcome),
            Change::Advance(ms) => {
                self.db.cache.now_ms += ms;
                let now_ms = self.db.cache.now_ms;
                if self.believed.due_ms.is_some_and(|due_ms| due_ms <= now_ms) {
                    self.db.advance(0);
                    self.promote();
                    self.believed.due_ms = queue::next_due(self.db.conn()).unwrap();
                }
            }
            Change::Retry(index) if !self.jobs.is_empty() => {
                let job = index % self.jobs.len();
                let can_retry = Transition::Retry.from().contains(&self.jobs[job].expected);
                assert_eq!(self.db.retry(id_of(job)), can_retry);
                if can_retry {
                    let (handler, order) = (self.jobs[job].handler, self.jobs[job].order);
                    self.jobs[job].debounce = None;
                    let target = if order.is_some() { JobState::Blocked } else { JobState::Ready };
                    self.set_state(job, Some(Transition::Retry), target);
                    self.release(handler, order);
                }
            }
            Change::Cancel(index) if !self.jobs.is_empty() => {
                let job = index % self.jobs.len();
                self.db.cancel(id_of(job));
                let (handler, order) = (self.jobs[job].handler, self.jobs[job].order);
                if self.jobs[job].expected == JobState::Running {
                    self.jobs[job].is_cancelled = true;
                } else if Transition::Cancel.from().contains(&self.jobs[job].expected) {
                    self.set_state(job, Some(Transition::Cancel), JobState::Cancelled);
                    self.release(handler, order);
                }
            }
            Change::Retry(_) | Change::Cancel(_) => {}
        }
        self.check(claimed_all);
    }

    fn finish(&mut self, index: usize, outcome: ModelOutcome) {
        let running: BTreeSet<usize> = self.claims.keys().copied().collect();
        if running.is_empty() {
            return;
        }
        let job = *running.iter().nth(index % running.len()).unwrap();
        let claimed = self.claims.remove(&job).unwrap();
        let next = match outcome {
            ModelOutcome::Succeeded => NextStep::Succeeded,
            ModelOutcome::Dead => dead(),
            ModelOutcome::RetryNow => retry_after(0),
            ModelOutcome::RetryLater => retry_after(3_000),
        };
        self.db.finish(&claimed, next.clone());
        let target = match outcome {
            ModelOutcome::Succeeded => JobState::Succeeded,
            _ if self.jobs[job].is_cancelled => JobState::Cancelled,
            ModelOutcome::Dead => JobState::Dead,
            ModelOutcome::RetryNow => JobState::Ready,
            ModelOutcome::RetryLater => JobState::Scheduled,
        };
        self.set_state(job, Some(Transition::Finish), target);
        if target == JobState::Scheduled {
            self.jobs[job].due_ms = Some(self.db.cache.now_ms + 3_000);
        }
        self.jobs[job].is_cancelled = false;
        self.release(self.jobs[job].handler, self.jobs[job].order);
        assert_eq!(self.db.finish(&claimed, next), None, "a claim ends once");
    }

    /// Compares the database and the effects with the model.
    fn check(&mut self, claimed_all: Option<(HandlerId, bool)>) {
        let mut select = self.db.conn().prepare("SELECT state FROM jobs ORDER BY id").unwrap();
        let states = select.query_map([], |row| row.get(0)).unwrap();
        let states: Vec<JobState> = states.map(Result::unwrap).collect();
        let expected: Vec<JobState> = self.jobs.iter().map(|job| job.expected).collect();
        assert_eq!(states, expected);

        self.believed.queued += self.db.effects.queued_change(S);
        let queued = states.iter().filter(|state| state.is_queued()).count();
        assert_eq!(self.believed.queued, i64::try_from(queued).unwrap());
        assert_eq!(queue::queued_count(self.db.conn(), S).unwrap(), self.believed.queued);

        // Only a claim that got fewer jobs than requested may end the belief that jobs are ready.
        if let Some((handler, false)) = claimed_all {
            self.believed.may_have_ready.insert(handler, false);
        }
        for &(handler, _) in &self.db.effects.ready {
            self.believed.may_have_ready.insert(handler, true);
        }
        for job in self.jobs.iter().filter(|job| job.expected == JobState::Ready) {
            assert_eq!(
                self.believed.may_have_ready.get(&job.handler),
                Some(&true),
                "a lost wake-up"
            );
        }
        let due_ms = self.db.effects.next_due_ms;
        self.believed.due_ms = self.believed.due_ms.into_iter().chain(due_ms).min();
        if let Some(due_ms) = self.jobs.iter().filter_map(|job| job.due_ms).min() {
            assert!(
                self.believed.due_ms.is_some_and(|believed| believed <= due_ms),
                "a lost due time"
            );
        }
        let alerts = self
            .db
            .query_number("SELECT coalesce(sum(count), 0) FROM alerts WHERE type = 'job.dead'");
        assert_eq!(alerts, self.dead);
        let settled = self.db.query_number("SELECT count(*) FROM settlements");
        assert_eq!(settled, self.settled);
        let counts = verify::CHECKS.iter().find(|check| check.name == "numbers of jobs").unwrap();
        assert_eq!(counts.run(self.db.conn(), &[], &|| false).unwrap(), []);
    }
}

fn job_spec(new: &NewModelJob) -> JobSpec {
    if new.is_dead {
        return JobSpec::Dead("when: no".into());
    }
    let name = |number: u8| key(&number.to_string());
    let debounce =
        new.debounce.map(|(number, debounce_ms)| DebounceKey { key: name(number), debounce_ms });
    JobSpec::Event(JobKeys { ordering: new.order.map(name), debounce, ..JobKeys::default() })
}

fn index_of(job: &ClaimedJob) -> usize {
    usize::try_from(job.claim.job.0 - 1).unwrap()
}

fn id_of(index: usize) -> i64 {
    i64::try_from(index).unwrap() + 1
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_sequence_of_changes_agrees_with_the_model(changes in changes()) {
        let mut model = Model::new();
        for change in &changes {
            model.apply(change);
        }
    }
}
