//! Tables `deferred_events`, `expansions` and `revivals`: jobs that are too many, or come too late, for
//! the transaction of their event. They are inserted in transactions that are short (`writer/backlog.rs`).
//!
//! An event whose jobs come later has a row in `deferred_events`, and no jobs. Its jobs are inserted
//! hidden (state 6), in a range of numbers that is reserved before the first of them. The last
//! transaction of these deletes the row and makes the range visible, so that an event has all of its
//! jobs or none. From then on they count as queued; further transactions release them one after another,
//! each placed by its keys as if it was inserted then. A crash before that step leaves hidden rows, which
//! are deleted, and an event that is evaluated again; after it, rows that are released.

use std::time::Instant;

use crossbeam_channel::Sender;
use rusqlite::{Connection, params};

use super::events::{self, DedupeKey};
use super::insert::{self, JobOrigin, Origin};
use super::reevaluate::{self, Reevaluation};
use super::writer_state::WriterState;
use super::{alerts, job_keys, jobs};
use crate::domain::job_plan::{DebounceKey, JobKeys, JobPlan, JobSpec, KeyHash, UniqueKey};
use crate::domain::{EventId, HandlerId, JobId, SourceId};

/// The state of a job that is not released yet.
const HIDDEN: i64 = 6;

/// At most this number of dead jobs comes back to life in a transaction of duplicates.
const REVIVED_AT_ONCE: usize = 100;

/// Rows are deleted this many at a time.
const REMOVED_AT_ONCE: i64 = 50;

/// What one transaction may still write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub rows: usize,
    pub bytes: usize,
    pub until: Instant,
}

impl Budget {
    fn spend(&mut self, rows: usize, bytes: usize) {
        self.rows = self.rows.saturating_sub(rows);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    pub fn is_spent(&self) -> bool {
        self.rows == 0 || self.bytes == 0 || Instant::now() >= self.until
    }
}

/// Work that is done in short transactions, one after another.
#[derive(Debug)]
pub struct Work {
    subject: Subject,
    progress: Progress,
}

/// An event's own jobs, which come after it.
#[derive(Debug)]
pub struct EventJobs {
    pub event: EventId,
    pub source: SourceId,
    pub received_at_ms: i64,
    pub owed: Vec<(HandlerId, JobSpec)>,
    pub note: Option<String>,
    /// The key that was still to be evaluated when the event was stored.
    pub dedupe: Option<DedupeKey>,
}

#[derive(Debug)]
enum Subject {
    Event(EventJobs),
    /// The jobs that `retry` makes of a job. The sender is dropped when they are there.
    Retry(Box<Reevaluation>, #[expect(dead_code)] Option<Sender<()>>),
    /// Rows that an earlier process inserted.
    Stored(Expanded),
    /// Dead jobs of an event come back to life.
    Revival(Revival),
    /// Keys whose window is over are deleted.
    Keys,
}

/// A row of `revivals`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Revival {
    pub source: SourceId,
    pub event: EventId,
    /// Jobs up to this one had their turn.
    pub after_job: i64,
}

/// A row of `expansions`.
#[derive(Clone, Copy, Debug)]
struct Expanded {
    event: EventId,
    source: SourceId,
    /// The job whose expressions were evaluated again; else the jobs are the event's own.
    job: Option<i64>,
    duplicate_of: Option<i64>,
}

/// How far a work is. It moves on when its transaction is committed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    stage: Stage,
    first: i64,
    last: i64,
    /// The next job, in each stage.
    next: i64,
    /// The handler and the item that the next job is for.
    handler: usize,
    item: usize,
    duplicate_of: Option<i64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Begin,
    Insert,
    Release,
    Remove,
    Over,
}

impl Progress {
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }
}

/// What is left to do of a work that the database refused.
pub(super) enum Failed {
    /// Events are to be evaluated again: this one, unless it has its jobs, and those behind it.
    Event,
    /// The job failed.
    Retry(Box<Reevaluation>),
    Other,
}

impl Work {
    fn new(subject: Subject) -> Self {
        Self { subject, progress: Progress::default() }
    }

    /// Inserts the jobs of a deferred event.
    pub fn insert_event_jobs(jobs: EventJobs) -> Self {
        Self::new(Subject::Event(jobs))
    }

    /// Inserts the jobs that a retried job is expanded into. `done` is dropped afterwards.
    pub fn expand_job(expansion: Box<Reevaluation>, done: Sender<()>) -> Self {
        Self::new(Subject::Retry(expansion, Some(done)))
    }

    pub(super) fn revive_jobs(revival: Revival) -> Self {
        let progress = Progress { next: revival.after_job, ..Progress::default() };
        Self { subject: Subject::Revival(revival), progress }
    }

    pub(super) fn forget_keys() -> Self {
        Self::new(Subject::Keys)
    }

    /// The source that it is done for.
    pub(super) fn source(&self) -> SourceId {
        match &self.subject {
            Subject::Event(jobs) => jobs.source,
            Subject::Retry(expansion, _) => expansion.claimed.source,
            Subject::Stored(expanded) => expanded.source,
            Subject::Revival(revival) => revival.source,
            Subject::Keys => SourceId(0),
        }
    }

    /// Whether it ends with the jobs of a deferred event.
    pub(super) fn is_of_deferred_event(&self) -> bool {
        match &self.subject {
            Subject::Event(_) => self.progress.stage != Stage::Remove,
            Subject::Stored(expanded) => {
                expanded.job.is_none() && self.progress.stage == Stage::Release
            }
            _ => false,
        }
    }

    /// Whether the event has its jobs only when it is done.
    pub(super) fn is_before_release(&self) -> bool {
        matches!(self.subject, Subject::Event(_))
            && matches!(self.progress.stage, Stage::Begin | Stage::Insert)
    }

    /// Takes over how far it is. What was needed to insert the jobs is given free once they are there.
    pub(super) fn advance(&mut self, progress: Progress) {
        self.progress = progress;
        if let (Subject::Event(jobs), Stage::Release) = (&mut self.subject, progress.stage) {
            jobs.owed = Vec::new();
        }
        if let (Subject::Retry(expansion, _), Stage::Release) = (&mut self.subject, progress.stage)
        {
            expansion.owed = None;
        }
    }

    /// What is left of it where the database refused it: the removal of hidden rows, and who is to hear
    /// of it.
    pub(super) fn fail(self) -> (Option<Work>, Failed) {
        let Progress { stage, first, last, .. } = self.progress;
        let expanded =
            Expanded { event: EventId(0), source: self.source(), job: Some(0), duplicate_of: None };
        let removal = (stage == Stage::Insert).then_some(Work {
            subject: Subject::Stored(expanded),
            progress: Progress {
                stage: Stage::Remove,
                first,
                last,
                next: first,
                ..Progress::default()
            },
        });
        let failed = match self.subject {
            Subject::Event(_) => Failed::Event,
            // What came behind it is given back with it.
            Subject::Stored(expanded) if expanded.job.is_none() => Failed::Event,
            Subject::Retry(expansion, _) if stage != Stage::Release => Failed::Retry(expansion),
            _ => Failed::Other,
        };
        (removal, failed)
    }

    /// The retried job, where its jobs are not there yet.
    pub(super) fn unfinished_retry(self) -> Option<Box<Reevaluation>> {
        match self.subject {
            Subject::Retry(expansion, _)
                if matches!(self.progress.stage, Stage::Begin | Stage::Insert) =>
            {
                Some(expansion)
            }
            _ => None,
        }
    }

    /// Does as much of it as the budget allows, and at least a part; gives how far it is then.
    ///
    /// # Errors
    /// The write failed, or items cannot be read.
    pub(super) fn step(
        &self,
        conn: &Connection,
        state: &mut WriterState,
        budget: &mut Budget,
    ) -> rusqlite::Result<Progress> {
        let mut progress = self.progress;
        loop {
            match progress.stage {
                Stage::Begin => self.begin(conn, state, &mut progress, budget)?,
                Stage::Insert => self.insert(conn, state, &mut progress, budget)?,
                Stage::Release => self.release(conn, state, &mut progress, budget)?,
                Stage::Remove => remove(conn, &mut progress, budget)?,
                Stage::Over => return Ok(progress),
            }
            if budget.is_spent() {
                return Ok(progress);
            }
        }
    }

    fn begin(
        &self,
        conn: &Connection,
        state: &mut WriterState,
        progress: &mut Progress,
        budget: &mut Budget,
    ) -> rusqlite::Result<()> {
        match &self.subject {
            Subject::Event(jobs) => begin_event(conn, state, jobs, progress, budget),
            Subject::Retry(expansion, _) => {
                let current = jobs::load_current_claim(conn, expansion.claimed.claim)?;
                let is_wanted = current.is_some_and(|current| current.cancel.is_none());
                match &expansion.owed {
                    Some(owed) if is_wanted => {
                        let claimed = &expansion.claimed;
                        let (event, source) = (claimed.event, claimed.source);
                        let job = Some(claimed.claim.job.0);
                        let expanded = Expanded { event, source, job, duplicate_of: None };
                        reserve(conn, state, expanded, owed.job_count(), progress)
                    }
                    // The job was cancelled, or is over.
                    _ => {
                        reevaluate::apply_reevaluation(conn, state, expansion)?;
                        progress.stage = Stage::Over;
                        Ok(())
                    }
                }
            }
            Subject::Revival(Revival { event, .. }) => {
                let (revived, last) =
                    revive_dead_jobs(conn, state, *event, progress.next, REVIVED_AT_ONCE)?;
                budget.spend(revived.max(1), 0);
                progress.next = last;
                if revived < REVIVED_AT_ONCE {
                    conn.prepare_cached("DELETE FROM revivals WHERE event = ?1")?
                        .execute([event.0])?;
                    progress.stage = Stage::Over;
                } else {
                    conn.prepare_cached("UPDATE revivals SET after_job = ?2 WHERE event = ?1")?
                        .execute([event.0, last])?;
                }
                Ok(())
            }
            Subject::Keys => {
                let forgotten = events::purge_expired_keys(conn, state.now_ms)?;
                budget.spend(forgotten.max(1), 0);
                if forgotten == 0 {
                    progress.stage = Stage::Over;
                }
                Ok(())
            }
            Subject::Stored(_) => {
                progress.stage = Stage::Over;
                Ok(())
            }
        }
    }

    /// Inserts hidden jobs; the last of them makes all of them visible.
    fn insert(
        &self,
        conn: &Connection,
        state: &mut WriterState,
        progress: &mut Progress,
        budget: &mut Budget,
    ) -> rusqlite::Result<()> {
        let retried;
        let (owed, of) = match &self.subject {
            Subject::Event(jobs) => (&jobs.owed[..], of_event(jobs)),
            Subject::Retry(expansion, _) => {
                let handler = expansion.claimed.handler;
                retried = expansion.owed.clone().map(|owed| (handler, owed));
                (retried.as_slice(), of_retry(expansion))
            }
            _ => {
                progress.stage = Stage::Over;
                return Ok(());
            }
        };
        let mut body = Vec::new();
        while let Some((handler, owed)) = owed.get(progress.handler) {
            if owed.job_count() == 0 {
                progress.handler += 1;
                continue;
            }
            let of = JobOrigin { handler: *handler, ..of };
            insert_hidden_job(conn, of, owed, progress, &mut body)?;
            budget.spend(1, body.len());
            progress.next += 1;
            progress.item += 1;
            if progress.item >= owed.job_count() {
                (progress.handler, progress.item) = (progress.handler + 1, 0);
            }
            if budget.is_spent() && progress.handler < self.handlers() {
                return Ok(());
            }
        }
        self.reveal(conn, state, progress)
    }

    fn handlers(&self) -> usize {
        match &self.subject {
            Subject::Event(jobs) => jobs.owed.len(),
            _ => 1,
        }
    }

    /// The step after which the jobs are there.
    fn reveal(
        &self,
        conn: &Connection,
        state: &mut WriterState,
        progress: &mut Progress,
    ) -> rusqlite::Result<()> {
        let Progress { first, last, .. } = *progress;
        let count = last + 1 - first;
        progress.next = first;
        progress.stage = Stage::Release;
        match &self.subject {
            Subject::Event(jobs) => {
                let counted = settle_event(conn, jobs)?;
                state.adjust_queued(jobs.source, count - counted);
            }
            Subject::Retry(expansion, _) => {
                let into = format!("jobs {first}–{last}");
                if !reevaluate::replace(conn, state, expansion, &into)? {
                    progress.stage = Stage::Remove;
                    return Ok(());
                }
                state.adjust_queued(expansion.claimed.source, count);
            }
            _ => {}
        }
        conn.prepare_cached("UPDATE expansions SET is_visible = 1 WHERE first_job = ?1")?
            .execute([first])?;
        Ok(())
    }

    /// Releases jobs in their order.
    fn release(
        &self,
        conn: &Connection,
        state: &mut WriterState,
        progress: &mut Progress,
        budget: &mut Budget,
    ) -> rusqlite::Result<()> {
        let expanded = match &self.subject {
            Subject::Event(jobs) => Expanded {
                event: jobs.event,
                source: jobs.source,
                job: None,
                duplicate_of: progress.duplicate_of,
            },
            Subject::Retry(expansion, _) => Expanded {
                event: expansion.claimed.event,
                source: expansion.claimed.source,
                job: Some(expansion.claimed.claim.job.0),
                duplicate_of: None,
            },
            Subject::Stored(expanded) => *expanded,
            Subject::Revival(_) | Subject::Keys => {
                progress.stage = Stage::Over;
                return Ok(());
            }
        };
        let rows = hidden_jobs(conn, progress, budget.rows)?;
        let is_rest = rows.len() < budget.rows;
        for row in &rows {
            release_job(conn, state, expanded, row)?;
            progress.next = row.id + 1;
            budget.spend(1, 1);
            if budget.is_spent() {
                break;
            }
        }
        if is_rest && rows.last().is_none_or(|row| row.id < progress.next) {
            conn.prepare_cached("DELETE FROM expansion_keys WHERE job BETWEEN ?1 AND ?2")?
                .execute([progress.first, progress.last])?;
            delete_expansion(conn, progress.first)?;
            if expanded.job.is_none() {
                state.settle_deferred(expanded.source);
            }
            progress.stage = Stage::Over;
        } else {
            conn.prepare_cached("UPDATE expansions SET next_job = ?2 WHERE first_job = ?1")?
                .execute([progress.first, progress.next])?;
        }
        Ok(())
    }
}

/// Marks an event that was just stored: its jobs are inserted later.
pub(super) fn defer_event(
    conn: &Connection,
    state: &mut WriterState,
    event: i64,
    source: SourceId,
    plan: &JobPlan,
) -> rusqlite::Result<()> {
    let handlers = plan.handlers_of_event().iter().map(|handler| handler.0).collect::<Vec<_>>();
    let handlers = format!("{handlers:?}"); // a JSON array
    let jobs = i64::try_from(plan.jobs()).unwrap_or(i64::MAX);
    conn.prepare_cached(
        "INSERT INTO deferred_events (event, source, handlers, jobs) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![event, source.0, handlers, jobs])?;
    state.defer(source);
    state.adjust_queued(source, jobs);
    Ok(())
}

/// What an earlier process left: how many events of each source are deferred, and works that were
/// begun.
pub(super) fn read_left(conn: &Connection, state: &mut WriterState) -> rusqlite::Result<Vec<Work>> {
    let mut select =
        conn.prepare("SELECT source, count(*) FROM deferred_events GROUP BY source")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let events = usize::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
        state.deferred.insert(SourceId(row.get(0)?), events);
    }
    let mut select = conn.prepare(
        "SELECT first_job, last_job, next_job, event, source, job, is_visible, duplicate_of
         FROM expansions ORDER BY first_job",
    )?;
    let mut works = Vec::new();
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let expanded = Expanded {
            event: EventId(row.get(3)?),
            source: SourceId(row.get(4)?),
            job: row.get(5)?,
            duplicate_of: row.get(7)?,
        };
        let (first, last, next) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let stage = if row.get(6)? { Stage::Release } else { Stage::Remove };
        let progress = Progress { stage, first, last, next, ..Progress::default() };
        if stage == Stage::Release && expanded.job.is_none() {
            state.defer(expanded.source);
        }
        works.push(Work { subject: Subject::Stored(expanded), progress });
    }
    let mut select = conn.prepare(
        "SELECT e.source, e.id, r.after_job FROM revivals r JOIN events e ON e.id = r.event",
    )?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (source, event) = (SourceId(row.get(0)?), EventId(row.get(1)?));
        works.push(Work::revive_jobs(Revival { source, event, after_job: row.get(2)? }));
    }
    state.begin();
    Ok(works)
}

/// The next deferred events of a source, oldest first.
///
/// # Errors
/// The read failed.
pub fn list_events(
    conn: &Connection,
    source: SourceId,
    after: EventId,
    limit: usize,
) -> rusqlite::Result<Vec<EventId>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    conn.prepare_cached(
        "SELECT event FROM deferred_events WHERE source = ?1 AND event > ?2 ORDER BY event LIMIT ?3",
    )?
    .query_map([source.0, after.0, limit], |row| row.get(0).map(EventId))?
    .collect()
}

fn of_event(jobs: &EventJobs) -> JobOrigin {
    JobOrigin {
        event: jobs.event.0,
        source: jobs.source,
        handler: HandlerId(0),
        created_at_ms: jobs.received_at_ms,
        origin: Origin::DeferredEvent,
    }
}

fn of_retry(expansion: &Reevaluation) -> JobOrigin {
    JobOrigin {
        event: expansion.claimed.event.0,
        source: expansion.claimed.source,
        handler: expansion.claimed.handler,
        created_at_ms: expansion.received_at_ms,
        origin: Origin::Replay(i64::from(expansion.claimed.replay)),
    }
}

/// Inserts the jobs of a deferred event where they are few, else reserves their numbers.
fn begin_event(
    conn: &Connection,
    state: &mut WriterState,
    jobs: &EventJobs,
    progress: &mut Progress,
    budget: &mut Budget,
) -> rusqlite::Result<()> {
    // After a refusal an event may have been sent twice.
    if !is_deferred(conn, jobs.event)? {
        progress.stage = Stage::Over;
        return Ok(());
    }
    let count: usize = jobs.owed.iter().map(|(_, owed)| owed.job_count()).sum();
    let is_large = jobs.owed.iter().any(|(_, owed)| owed.is_large()) || count > budget.rows;
    if is_large {
        let (event, source) = (jobs.event, jobs.source);
        let expanded = Expanded { event, source, job: None, duplicate_of: progress.duplicate_of };
        return reserve(conn, state, expanded, count, progress);
    }
    for (handler, owed) in &jobs.owed {
        insert::insert_jobs(conn, state, JobOrigin { handler: *handler, ..of_event(jobs) }, owed)?;
        budget.spend(owed.job_count(), usize::try_from(owed.bytes()).unwrap_or(usize::MAX));
    }
    budget.spend(1, 0);
    if jobs.owed.is_empty() {
        alerts::unhandled(conn, state, jobs.event, jobs.source)?;
    }
    let counted = settle_event(conn, jobs)?;
    state.adjust_queued(jobs.source, -counted);
    state.settle_deferred(jobs.source);
    progress.stage = Stage::Over;
    Ok(())
}

/// Whether the jobs of an event are still to be inserted.
///
/// # Errors
/// The read failed.
pub fn is_deferred(conn: &Connection, event: EventId) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM deferred_events WHERE event = ?1)")?
        .query_row([event.0], |row| row.get(0))
}

/// Deletes the mark of a deferred event, as it has its jobs; how many queued jobs it counted as.
fn settle_event(conn: &Connection, jobs: &EventJobs) -> rusqlite::Result<i64> {
    let counted = conn
        .prepare_cached("DELETE FROM deferred_events WHERE event = ?1 RETURNING jobs")?
        .query_row([jobs.event.0], |row| row.get(0))?;
    if let Some(note) = &jobs.note {
        conn.prepare_cached("UPDATE events SET note = ?2 WHERE id = ?1")?
            .execute(params![jobs.event.0, note])?;
    }
    Ok(counted)
}

fn reserve(
    conn: &Connection,
    state: &mut WriterState,
    expanded: Expanded,
    count: usize,
    progress: &mut Progress,
) -> rusqlite::Result<()> {
    let first = state.counters.job + 1;
    let last = state.counters.job.saturating_add(i64::try_from(count).unwrap_or(i64::MAX));
    conn.prepare_cached(
        "INSERT INTO expansions (first_job, last_job, next_job, event, source, job, duplicate_of)
         VALUES (?1, ?2, ?1, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        first,
        last,
        expanded.event.0,
        expanded.source.0,
        expanded.job,
        expanded.duplicate_of
    ])?;
    state.counters.job = last;
    (progress.first, progress.last, progress.next) = (first, last, first);
    progress.stage = Stage::Insert;
    Ok(())
}

/// Inserts the job with the number `progress.next`. `body` holds its item afterwards.
fn insert_hidden_job(
    conn: &Connection,
    of: JobOrigin,
    owed: &JobSpec,
    progress: &Progress,
    body: &mut Vec<u8>,
) -> rusqlite::Result<()> {
    let unread = |e| rusqlite::Error::ToSqlConversionFailure(Box::new(e));
    let id = progress.next;
    body.clear();
    let (keys, failure) = match owed {
        JobSpec::Event(keys) => (keys.clone(), None),
        JobSpec::Dead(why) => (JobKeys::default(), Some(why)),
        JobSpec::Items(items) => {
            items.read(progress.item, body).map_err(unread)?;
            conn.prepare_cached("INSERT INTO items (job, body) VALUES (?1, ?2)")?
                .execute(params![id, &*body])?;
            (items.keys(progress.item).map_err(unread)?, None)
        }
    };
    let is_item = matches!(owed, JobSpec::Items(_));
    let is_replay = matches!(of.origin, Origin::Replay(_));
    let collapse = keys.collapse.filter(|_| !is_replay);
    let once = keys.once.filter(|_| !is_replay);
    let is_failed = i64::from(failure.is_some());
    conn.prepare_cached(
        "INSERT INTO jobs (id, event, handler, source, state, created_at, since, attempt, failures,
           reason, item, replay, later, ordering_key, newest, debounce_key, expand)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
    )?
    .execute(params![
        id,
        of.event,
        of.handler.0,
        of.source.0,
        HIDDEN,
        of.created_at_ms,
        is_failed,
        failure,
        is_item.then(|| i64::try_from(progress.item + 1).unwrap_or(i64::MAX)),
        of.replay(),
        of.later(),
        keys.order,
        keys.newest.as_ref().filter(|_| keys.order.is_some()).map(job_keys::encode_version),
        collapse.map(|collapse| collapse.key),
        failure.map(|_| 1),
    ])?;
    if once.is_some() || collapse.is_some_and(|collapse| collapse.settle_ms > 0) {
        conn.prepare_cached(
            "INSERT INTO expansion_keys (job, once_key, once_ms, settle_ms) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            id,
            once.map(|once| once.key),
            once.map(|once| once.window_ms),
            collapse.map(|collapse| collapse.settle_ms)
        ])?;
    }
    Ok(())
}

/// A job that is to be released.
struct HiddenJob {
    id: i64,
    handler: HandlerId,
    /// Why its expression failed.
    failure: Option<String>,
    keys: JobKeys,
}

fn hidden_jobs(
    conn: &Connection,
    progress: &Progress,
    limit: usize,
) -> rusqlite::Result<Vec<HiddenJob>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    conn.prepare_cached(
        "SELECT j.id, j.handler, CASE WHEN j.expand = 1 THEN j.reason END, j.ordering_key,
           j.debounce_key, k.once_key, k.once_ms, k.settle_ms
         FROM jobs j LEFT JOIN expansion_keys k ON k.job = j.id
         WHERE j.id BETWEEN ?1 AND ?2 AND j.state = ?3 ORDER BY j.id LIMIT ?4",
    )?
    .query_map(params![progress.next, progress.last, HIDDEN, limit], |row| {
        let collapse: Option<KeyHash> = row.get(4)?;
        let once: Option<KeyHash> = row.get(5)?;
        let window_ms = row.get::<_, Option<i64>>(6)?.unwrap_or(0);
        let settle_ms = row.get::<_, Option<i64>>(7)?.unwrap_or(0);
        Ok(HiddenJob {
            id: row.get(0)?,
            handler: HandlerId(row.get(1)?),
            failure: row.get(2)?,
            keys: JobKeys {
                order: row.get(3)?,
                newest: None,
                once: once.map(|key| UniqueKey { key, window_ms }),
                collapse: collapse.map(|key| DebounceKey { key, settle_ms }),
            },
        })
    })?
    .collect()
}

/// Gives a job the state that it would have if it was inserted now.
fn release_job(
    conn: &Connection,
    state: &mut WriterState,
    expanded: Expanded,
    job: &HiddenJob,
) -> rusqlite::Result<()> {
    let of = JobOrigin {
        event: expanded.event.0,
        source: expanded.source,
        handler: job.handler,
        created_at_ms: 0,
        origin: match expanded.job {
            Some(_) => Origin::Replay(0),
            None => Origin::DeferredEvent,
        },
    };
    let mut stand = match (&job.failure, expanded.duplicate_of) {
        (_, Some(first)) => insert::InitialState {
            state: 5,
            reason: Some(format!("duplicate of event {first}")),
            ..Default::default()
        },
        (Some(why), None) => {
            insert::InitialState { state: 4, reason: Some(why.clone()), ..Default::default() }
        }
        (None, None) => insert::place_job(conn, state, of, job.id, &job.keys)?,
    };
    // A younger job of this key may be ready: the older one comes first.
    let order = job.keys.order.as_ref().filter(|_| stand.state <= 0);
    if order.is_some() {
        stand.state = -1;
    }
    conn.prepare_cached(
        "UPDATE jobs SET state = ?2, since = ?3, due_at = ?4, wait_ms = ?5, debounce_since = ?6,
           ended_at = ?7, reason = ?8 WHERE id = ?1",
    )?
    .execute(params![
        job.id,
        stand.state,
        state.active_ms(job.handler),
        stand.due_at,
        stand.wait_ms,
        stand.burst_at,
        (stand.state > 3).then_some(state.wall_ms),
        stand.reason,
    ])?;
    match (stand.state, order) {
        (_, Some(key)) => job_keys::release_next(conn, state, job.handler, key)?,
        (0, None) => state.mark_ready(job.handler),
        (1, _) => state.mark_due(stand.due_at),
        (4, _) => {
            insert::record_failure(conn, state, of, job.id, &stand.reason.unwrap_or_default())?
        }
        _ => {}
    }
    if stand.state > 3 {
        state.adjust_queued(expanded.source, -1);
    }
    Ok(())
}

/// Deletes hidden rows, and then what was known of them.
fn remove(conn: &Connection, progress: &mut Progress, budget: &mut Budget) -> rusqlite::Result<()> {
    while progress.next <= progress.last {
        let to = progress.last.min(progress.next + REMOVED_AT_ONCE - 1);
        let mut removed = 0;
        for sql in [
            "DELETE FROM items WHERE job BETWEEN ?1 AND ?2",
            "DELETE FROM expansion_keys WHERE job BETWEEN ?1 AND ?2",
            "DELETE FROM jobs WHERE id BETWEEN ?1 AND ?2 AND state = 6",
        ] {
            removed += conn.prepare_cached(sql)?.execute([progress.next, to])?;
        }
        budget.spend(removed.max(1), 1);
        progress.next = to + 1;
        if budget.is_spent() && progress.next <= progress.last {
            return Ok(());
        }
    }
    delete_expansion(conn, progress.first)?;
    progress.stage = Stage::Over;
    Ok(())
}

fn delete_expansion(conn: &Connection, first: i64) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM expansions WHERE first_job = ?1")?.execute([first])?;
    Ok(())
}

/// Dead jobs of an event run again, with fresh attempts: some now, and the others in transactions of
/// their own.
pub(super) fn revive_event(
    conn: &Connection,
    state: &mut WriterState,
    source: SourceId,
    event: EventId,
) -> rusqlite::Result<()> {
    // Of all duplicates of a group together: each may have as many.
    let limit = REVIVED_AT_ONCE.saturating_sub(state.revived);
    let (revived, after_job) = revive_dead_jobs(conn, state, event, 0, limit)?;
    state.revived += revived;
    if revived == limit {
        let sql = "INSERT OR IGNORE INTO revivals (event, after_job) VALUES (?1, ?2)";
        if conn.prepare_cached(sql)?.execute([event.0, after_job])? == 1 {
            state.revivals.push(Revival { source, event, after_job });
        }
    }
    Ok(())
}

/// Revives the dead jobs of an event whose numbers are above `after`, at most `limit`; how many, and
/// the last number.
fn revive_dead_jobs(
    conn: &Connection,
    state: &mut WriterState,
    event: EventId,
    after: i64,
    limit: usize,
) -> rusqlite::Result<(usize, i64)> {
    let mut select = conn.prepare_cached(
        "SELECT id, handler, source FROM (
           SELECT j.id, j.handler, j.source FROM events e CROSS JOIN jobs j INDEXED BY jobs_dead
             WHERE e.id = ?1 AND j.state = 4 AND j.id > ?2 AND j.id BETWEEN e.first_job AND e.last_job
           UNION ALL
           SELECT id, handler, source FROM jobs WHERE later = ?1 AND state = 4 AND id > ?2)
         ORDER BY id LIMIT ?3",
    )?;
    let values = params![event.0, after, i64::try_from(limit).unwrap_or(i64::MAX)];
    let dead: Vec<(i64, i64, i64)> = select
        .query_map(values, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for &(job, handler, source) in &dead {
        if jobs::requeue(conn, state, JobId(job), HandlerId(handler))? {
            state.adjust_queued(SourceId(source), 1);
        }
    }
    Ok((dead.len(), dead.last().map_or(after, |(job, _, _)| *job)))
}

/// How many jobs of a source are to be released, and what its deferred events count as.
pub(super) fn count_queued(conn: &Connection, source: SourceId) -> rusqlite::Result<i64> {
    conn.prepare_cached(
        "SELECT (SELECT coalesce(sum(jobs), 0) FROM deferred_events WHERE source = ?1)
           + (SELECT count(*) FROM expansions x JOIN jobs j ON j.id BETWEEN x.next_job AND x.last_job
                WHERE x.source = ?1 AND x.is_visible AND j.state = ?2)",
    )?
    .query_row([source.0, HIDDEN], |row| row.get(0))
}
