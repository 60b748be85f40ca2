//! Tests of the store alone: a database, a clock that the test sets, and jobs with given outcomes.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use super::effects::Effects;
use super::events::{self, InsertReply, NewEvent};
use super::jobs::claim::claim;
use super::jobs::transition::{
    IS_BLOCKED, IS_CANCELLED, IS_DEAD, IS_READY, IS_RUNNING, IS_SCHEDULED, IS_UNFINISHED,
    IS_WAITING,
};
use super::jobs::{self, AttemptRecord, ClaimedJob, finish, reevaluate, transition};
use super::minute_counts::MinuteCounts;
use super::source_counters::QueueLimit;
use super::statements::Statements;
use super::transaction_end::{write_directly, write_last};
use super::write_transaction::WriteTransaction;
use super::writer_cache::WriterCache;
use super::{Store, audit, open, registry, verify};
use crate::config::Durability;
use crate::domain::breaker::BreakerPolicy;
use crate::domain::claim_request::ClaimRequest;
use crate::domain::job::JobState;
use crate::domain::job_plan::{
    DebounceKey, ItemSource, JobKeys, JobPlan, JobSpec, KeyHash, UniqueKey,
};
use crate::domain::version_value::VersionValue;
use crate::domain::{EventId, HandlerId, JobId, NextStep, Outcome, SourceId};

mod alerts;
mod bounded_log;
mod breaker;
mod cost;
mod dedupe;
mod deferred;
mod failure_groups;
mod groups;
mod job_keys;
mod job_model;
mod key_lookup;
mod migration;
mod minute_counts;
mod query_plans;
mod queue_limit;
mod replay;
mod retention;
mod retries;
mod seals;
mod search;
mod selection;
mod settlements;

const H: HandlerId = HandlerId(1);
const S: SourceId = SourceId(1);
const NONE: [i64; 0] = [];

struct TestStore {
    _folder: tempfile::TempDir,
    store: Store,
    cache: WriterCache,
    /// The source of new events.
    source: SourceId,
    /// The body of new events.
    body: Vec<u8>,
    /// The uid of new events.
    uid: [u8; 16],
    /// The subject of the client certificate of new events.
    client: Option<Arc<str>>,
    /// The origin key of new events.
    origin_key: Option<Arc<str>>,
    /// The effects of all changes.
    effects: Effects,
    breaker: BreakerPolicy,
    queue_limit: Option<QueueLimit>,
}

fn test_store() -> TestStore {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("t.db"), Durability::Normal).unwrap();
    let handlers = ["h", "other"].map(|name| registration(name, BreakerPolicy::NEVER));
    let (_, _) = write_directly(&store, |tx, _| {
        tx.cache.now_ms = 0;
        Ok(registry::register(tx, &["a".into()], &handlers)?)
    })
    .unwrap();
    let mut cache = WriterCache::read(&store.conn, store.clock).unwrap();
    cache.now_ms = 1_000_000;
    TestStore {
        _folder: folder,
        store,
        cache,
        source: S,
        body: b"{}".to_vec(),
        uid: [7; 16],
        client: None,
        origin_key: None,
        effects: Effects::default(),
        breaker: BreakerPolicy::NEVER,
        queue_limit: None,
    }
}

fn registration(name: &str, breaker: BreakerPolicy) -> registry::HandlerRegistration {
    let name = name.into();
    registry::HandlerRegistration { name, is_paused: false, breaker, takes_settled_jobs: false }
}

fn key(name: &str) -> KeyHash {
    let mut key = [0; 16];
    key[..name.len()].copy_from_slice(name.as_bytes());
    key
}

/// A job with this ordering key.
fn ordered_job(name: &str) -> JobSpec {
    JobSpec::Event(JobKeys { ordering: Some(key(name)), ..JobKeys::default() })
}

impl TestStore {
    fn conn(&self) -> &Connection {
        &self.store.conn
    }

    fn insert_event(&mut self, specs: Vec<(HandlerId, JobSpec)>) -> InsertReply {
        self.insert_plan(JobPlan::Evaluated(specs), None)
    }

    fn insert_plan(&mut self, plan: JobPlan, dedupe: Option<events::DedupeCheck>) -> InsertReply {
        let new_event = NewEvent {
            source: self.source,
            uid: self.uid,
            received_at_ms: self.cache.wall_ms,
            method: "POST".into(),
            path: "/hooks/a".into(),
            ip: "192.0.2.1".into(),
            client: self.client.clone(),
            origin_key: self.origin_key.clone(),
            body: self.body.clone(),
            dedupe: dedupe.unwrap_or_default(),
            plan,
            queue_limit: self.queue_limit.clone(),
            ..NewEvent::default()
        };
        let sql = "SELECT name FROM sources WHERE id = ?1";
        let name: String =
            self.conn().query_row(sql, [self.source], |row| row.get(0)).unwrap_or_default();
        let new_event = new_event.with_seal(&name, [9; 16], &self.body);
        self.change(|tx| events::insert_single_event(tx, &new_event))
    }

    /// Makes a change and does what follows it, as the writer does. Earlier changes count as a part of the
    /// same group.
    fn change<T>(
        &mut self,
        change: impl FnOnce(&mut WriteTransaction<'_>) -> rusqlite::Result<T>,
    ) -> T {
        let Self { store, cache, effects, .. } = self;
        let before = cache.counters;
        let mut tx = WriteTransaction::new(&store.conn, cache, effects);
        let result = change(&mut tx).unwrap();
        write_last(&mut tx, before).unwrap();
        drop(tx);
        self.effects.minute_counts = MinuteCounts::default();
        self.cache.apply_deferred(&std::mem::take(&mut self.effects.deferred));
        result
    }

    /// `condition`: one of those in `transition`.
    fn count_jobs(&self, condition: &str) -> i64 {
        self.query_number(&format!("SELECT count(*) FROM jobs WHERE {condition}"))
    }

    fn query_number(&self, sql: &str) -> i64 {
        self.conn().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    fn assert_verified(&self) {
        for check in verify::CHECKS {
            assert_eq!(check.run(self.conn(), &[], &|| false).unwrap(), [], "{}", check.name);
        }
    }

    /// Claims up to `max_jobs` jobs of `H`.
    fn claim(&mut self, max_jobs: usize) -> Vec<ClaimedJob> {
        self.claim_for(H, max_jobs, false)
    }

    fn claim_for(&mut self, handler: HandlerId, jobs: usize, is_probe: bool) -> Vec<ClaimedJob> {
        let request = ClaimRequest {
            handler,
            max_jobs: jobs,
            is_one_batch: false,
            is_prefetch: false,
            is_probe,
            min_interval_ms: None,
        };
        self.change(|tx| claim(tx, &request))
    }

    fn claim_ids(&mut self, max_jobs: usize) -> Vec<i64> {
        self.claim(max_jobs).iter().map(|job| job.claim.job.0).collect()
    }

    fn finish(&mut self, job: &ClaimedJob, next: NextStep) -> Option<JobState> {
        let outcome = match next {
            NextStep::Succeeded => Outcome::Succeeded,
            _ => Outcome::Failed,
        };
        self.finish_with(job, (outcome, false), next)
    }

    /// Finishes an attempt. `result` is the outcome, and whether the handler reported that a retry
    /// is useless.
    fn finish_with(
        &mut self,
        job: &ClaimedJob,
        result: (Outcome, bool),
        next: NextStep,
    ) -> Option<JobState> {
        let record = self.attempt_record(job, result, next);
        self.change(|tx| finish::finish_single(tx, &record))
    }

    fn attempt_record(
        &self,
        job: &ClaimedJob,
        (outcome, is_permanent): (Outcome, bool),
        next: NextStep,
    ) -> AttemptRecord {
        AttemptRecord {
            claim: job.claim,
            event: job.event,
            item: job.item,
            handler: job.handler,
            source: job.source,
            outcome,
            detail: "exit 1".into(),
            ended_at_ms: self.cache.wall_ms,
            duration_ms: 1,
            stdout: Vec::new(),
            stderr: Vec::new(),
            seal: None,
            next,
            is_permanent,
            is_probe: job.is_probe,
            breaker: self.breaker,
            crashes: 0,
        }
    }

    /// Runs the next job with this result and returns its id.
    fn run_next(&mut self, next: NextStep) -> i64 {
        let job = self.claim(1).remove(0);
        self.finish(&job, next);
        job.claim.job.0
    }

    fn advance(&mut self, ms: i64) {
        self.cache.now_ms += ms;
        self.change(transition::promote);
    }

    fn retry(&mut self, job: i64) -> bool {
        self.change(|tx| transition::retry(tx, JobId(job)))
    }

    fn cancel(&mut self, job: i64) {
        let command = audit::JobCommand::Cancel { reason: "no more".into() };
        self.change(|tx| audit::apply_command(tx, JobId(job), &command));
    }

    /// The id, state and reason of each job.
    fn job_lines(&self) -> Vec<String> {
        let mut select =
            self.conn().prepare("SELECT id, state, reason FROM jobs ORDER BY id").unwrap();
        let row = |row: &rusqlite::Row<'_>| {
            let (id, state, reason): (i64, i64, Option<String>) =
                (row.get(0)?, row.get(1)?, row.get(2)?);
            let names =
                ["blocked", "ready", "scheduled", "running", "succeeded", "dead", "cancelled"];
            let name = names[usize::try_from(state + 1).unwrap()];
            Ok(match reason {
                Some(reason) => format!("{id} {name}: {reason}"),
                None => format!("{id} {name}"),
            })
        };
        select.query_map([], row).unwrap().map(Result::unwrap).collect()
    }
}

fn retry_after(delay_ms: u64) -> NextStep {
    NextStep::Retry { delay: Duration::from_millis(delay_ms), failures: 1 }
}

fn dead() -> NextStep {
    NextStep::Dead("exit 1".into())
}

/// Items in memory. The second vector holds the keys of the items, and may be shorter than the
/// first.
#[derive(Clone, Debug, Default, PartialEq)]
struct VecItems(Vec<Vec<u8>>, Vec<JobKeys>);

impl ItemSource for VecItems {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn bytes(&self) -> u64 {
        self.0.iter().map(|item| item.len() as u64).sum()
    }

    fn read(&self, index: usize, buffer: &mut Vec<u8>) -> std::io::Result<()> {
        buffer.clear();
        buffer.extend_from_slice(self.0.get(index).map_or(&[], Vec::as_slice));
        Ok(())
    }

    fn keys(&self, index: usize) -> std::io::Result<JobKeys> {
        Ok(self.1.get(index).cloned().unwrap_or_default())
    }
}

fn items(bodies: &[&str], keys: Vec<JobKeys>) -> JobSpec {
    let bodies = bodies.iter().map(|body| body.as_bytes().to_vec()).collect();
    JobSpec::Items(Arc::new(VecItems(bodies, keys)))
}
