//! The writer: the one thread that writes. It takes operations from a bounded channel, commits them
//! in groups, and replies after the commit.
//!
//! If an operation of a group fails by itself, the group is repeated with a savepoint for each
//! operation, so that only the failing one is lost. If a group cannot be written, the reply is
//! `Unavailable`; outcomes in it are kept and retried.
//!
//! After a failed sync the writer confirms nothing more, because the content of the disk is
//! unknown. The process exits without a checkpoint, and the next one syncs the whole file before it
//! listens.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use rusqlite::{Connection, ErrorCode};

use super::backlog_task::{self, BacklogTask, FailedTask};
use super::checkpoint::{self, CheckpointSignal};
use super::chunked_writes;
use super::dead_job::DeadJob;
use super::deferrals::Deferrals;
use super::effects::Effects;
use super::events::{self, EventInserts};
use super::handle::{
    CHANNEL_MESSAGES, Health, WriteRequest, WriterHandle, WriterHealth, WriterMessage,
};
use super::jobs::finish::AttemptInserts;
use super::operation::{Isolation, Operation, OperationResult};
use super::prefetched_jobs::PrefetchedJobs;
use super::source_counters::{QueueRecount, SourceCounters};
use super::statements::Statements;
use super::transaction_end::write_last;
use super::write_transaction::WriteTransaction;
use super::writer_cache::{Counters, WriterCache};
use super::{BUSY_TIMEOUT, ErrorKind, Store, classify, reserve, sources};
use crate::metrics::Metrics;
use crate::scheduler::HandlerTable;

mod backlog;
mod database_loss;
mod job_dispatch;
mod replies;

use backlog::Backlog;
pub use job_dispatch::{Assignment, WorkerLink};

use job_dispatch::JobDispatch;

/// Maximum number of operations in one commit.
const MAX_GROUP_OPS: usize = 1024;

/// Approximate maximum number of rows in one commit. A single operation may exceed it.
const MAX_GROUP_ROWS: usize = 4096;

/// A group is committed after this time. The next group takes the rest.
const MAX_GROUP_TIME: Duration = Duration::from_millis(20);

/// How often the writer reads `data_version` while it writes nothing.
const IDLE_INTERVAL: Duration = Duration::from_millis(500);

/// How long each further attempt waits while another process holds the write lock.
const BLOCKED_BUSY_TIMEOUT: Duration = Duration::from_millis(100);

/// The parts of the server that the writer works with.
pub struct WriterInputs {
    pub checkpoint_signal: CheckpointSignal,
    pub health: Arc<WriterHealth>,
    pub deferrals: Arc<Deferrals>,
    pub metrics: Arc<Metrics>,
    /// Called for each job that became dead. It must not block.
    pub on_dead_job: Box<dyn Fn(&DeadJob) + Send>,
    /// Called when jobs may have been recorded that reached a final state. It must not block.
    pub on_settled_jobs: Box<dyn Fn() + Send>,
    /// Called with the reason when this process can confirm nothing more and must exit.
    pub on_broken: Box<dyn Fn(&str) + Send>,
}

/// Starts the thread. It ends after a last checkpoint, when all `WriterHandle`s are dropped.
///
/// # Errors
/// The thread cannot be started, or the database cannot be read.
pub fn start(
    store: Store,
    counters: Arc<SourceCounters>,
    workers: WorkerLink,
    handlers: HandlerTable,
    inputs: WriterInputs,
) -> anyhow::Result<(WriterHandle, JoinHandle<()>)> {
    let WriterInputs { health, deferrals, .. } = &inputs;
    let (sender, receiver) = bounded(CHANNEL_MESSAGES);
    let mut cache = WriterCache::read(&store.conn, store.clock)?;
    let mut backlog = Backlog::new();
    for task in backlog_task::load_tasks(&store.conn, &mut cache)? {
        if task.is_event_task() {
            deferrals.set_counts(&cache.deferred);
            deferrals.mark_sent(task.source(), 1);
        }
        backlog.push(task);
    }
    store.backfills.iter().for_each(|backfill| backlog.push(BacklogTask::backfill(*backfill)));
    deferrals.set_counts(&cache.deferred);
    let version = data_version(&store.conn)?;
    counters.recount(&store.conn)?;
    counters.set_last_seen(
        sources::load_last_seen(&store.conn, cache.now_ms, cache.wall_ms)?.into_iter(),
    );
    let busy_threads = Arc::<AtomicUsize>::default();
    let prefetched = Arc::<PrefetchedJobs>::default();
    let handle = WriterHandle { sender, health: Arc::clone(health), busy_threads, prefetched };
    let jobs = JobDispatch::new(store.clock, workers, handlers, &cache.breakers, &handle);
    let mut writer = Writer {
        store,
        cache,
        jobs,
        recount: QueueRecount::new(counters),
        version,
        retry_queue: Vec::new(),
        backlog,
        inputs,
    };
    chunked_writes::wait_as_writer(&writer.store.conn)?;
    let thread =
        std::thread::Builder::new().name("writer".into()).spawn(move || writer.run(&receiver))?;
    Ok((handle, thread))
}

struct Writer {
    store: Store,
    cache: WriterCache,
    jobs: JobDispatch,
    recount: QueueRecount,
    /// `PRAGMA data_version`, which changes when another connection writes.
    version: i64,
    /// Operations that could not be written yet. The outcomes are bounded, because no job starts
    /// meanwhile: one for each job that runs. Of other operations, such as rejections and audit
    /// entries, at most `MAX_GROUP_OPS` are kept.
    retry_queue: Vec<Operation>,
    /// Tasks that run between groups.
    backlog: Backlog,
    inputs: WriterInputs,
}

/// The state of the database when a transaction began.
struct OpenTransaction {
    version: i64,
    /// Another connection wrote since the last transaction.
    has_external_write: bool,
    counters: Counters,
}

fn data_version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.value("PRAGMA data_version", [])
}

/// Returns the reply channel of a recount.
fn recount_reply(write: &WriteRequest) -> Option<Sender<()>> {
    match write {
        WriteRequest::Operation(Operation::Recount(reply)) => Some(reply.clone()),
        _ => None,
    }
}

impl Writer {
    fn run(&mut self, receiver: &Receiver<WriterMessage>) {
        let mut group = Vec::new();
        let mut next_idle = Instant::now() + IDLE_INTERVAL;
        'running: loop {
            self.inputs.health.heartbeat();
            if let Some(change) = self.store.files.change().cloned() {
                return self.save_database(&change, receiver);
            }
            self.add_claims(&mut group);
            let (mut ops, mut rows) = (0, 0);
            let mut add = |(more_ops, more_rows)| {
                (ops, rows) = (ops + more_ops, rows + more_rows);
                ops < MAX_GROUP_OPS && rows < MAX_GROUP_ROWS
            };
            let mut has_room = group.iter().map(WriteRequest::weight).all(&mut add);
            if group.is_empty() && !self.can_run_backlog() && !self.should_write_retries() {
                match receiver.recv_deadline(self.wakeup(next_idle)) {
                    Ok(message) => has_room = add(self.collect(message, &mut group)),
                    Err(RecvTimeoutError::Timeout) => {
                        if next_idle <= Instant::now() {
                            self.on_idle();
                            next_idle = Instant::now() + IDLE_INTERVAL;
                        }
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            while has_room {
                match receiver.try_recv() {
                    Ok(message) => has_room = add(self.collect(message, &mut group)),
                    Err(TryRecvError::Disconnected) if group.is_empty() => break 'running,
                    Err(_) => break,
                }
            }
            self.add_claims(&mut group);
            if !group.is_empty() || self.should_write_retries() {
                self.write_group(&mut group);
                next_idle = Instant::now() + IDLE_INTERVAL;
            }
            if self.can_run_backlog() {
                self.run_backlog();
            }
            if self.inputs.checkpoint_signal.should_restart_wal()
                && let Err(e) = checkpoint::passive(&self.store.conn)
                && classify(&e) == ErrorKind::Sync
            {
                self.mark_broken(&format!("a checkpoint could not be synced ({e})"));
            }
        }
        match self.store.files.check().cloned() {
            Some(change) => self.save_database(&change, receiver),
            None => self.shut_down(),
        }
    }

    /// Adds a message to the group. Returns its cost, in operations and in rows.
    fn collect(&mut self, message: WriterMessage, group: &mut Vec<WriteRequest>) -> (usize, usize) {
        let write = match message {
            WriterMessage::Write(write) => Some(write),
            WriterMessage::JobsEnded { last, handler, has_next } => {
                self.jobs.record_end(handler, last.as_ref(), has_next);
                last.map(WriteRequest::Operation)
            }
            WriterMessage::Configure(handlers) => {
                self.jobs.configure(handlers);
                None
            }
            WriterMessage::StopJobs(reply) => {
                self.jobs.stop();
                let _ = reply.try_send(());
                None
            }
            WriterMessage::CloseWorkers => {
                self.jobs.close();
                None
            }
            WriterMessage::Backlog(tasks) => {
                tasks.into_iter().for_each(|task| self.backlog.push(task));
                None
            }
        };
        let weight = write.as_ref().map_or((0, 0), WriteRequest::weight);
        group.extend(write);
        weight
    }

    /// Returns true if the backlog has tasks and the database can be written.
    fn can_run_backlog(&self) -> bool {
        !self.backlog.is_empty() && self.inputs.health.get() == Health::Healthy
    }

    /// Returns true if operations wait that can be written now. While the database is blocked, `on_idle` tries
    /// to write them.
    fn should_write_retries(&self) -> bool {
        !self.retry_queue.is_empty() && self.inputs.health.get() == Health::Healthy
    }

    /// Returns when the writer has work without any message.
    fn wakeup(&self, next_idle: Instant) -> Instant {
        let wait_ms = self.jobs.next_wakeup_ms().map(|at_ms| at_ms - self.store.clock.now_ms());
        let wait = wait_ms.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
        wait.and_then(|wait| Instant::now().checked_add(wait))
            .map_or(next_idle, |at| at.min(next_idle))
    }

    /// Adds claims for free threads behind the outcomes of those threads, so that both are in one
    /// commit.
    fn add_claims(&mut self, group: &mut Vec<WriteRequest>) {
        let operations = self.jobs.plan(&self.store.conn, group.is_empty());
        group.extend(operations.into_iter().map(WriteRequest::Operation));
    }

    /// Writes a group and sends the replies. Messages that did not fit into the time limit stay in
    /// `group`.
    fn write_group(&mut self, group: &mut Vec<WriteRequest>) {
        if self.inputs.health.get() == Health::Broken {
            self.fail_group(group);
            return;
        }
        let started_at = Instant::now();
        let retried = self.retry_queue.len();
        let mut results = Vec::with_capacity(group.len() + retried);
        let mut effects = Effects::default();
        let mut result = self.transaction(group, &mut results, &mut effects, Isolation::Group);
        if let Err(e) = &result
            && classify(e) == ErrorKind::Operation
        {
            // One operation fails by itself: repeat the group with a savepoint for each.
            self.roll_back();
            results.clear();
            effects = Effects::default();
            result = self.transaction(group, &mut results, &mut effects, Isolation::Savepoints);
        }
        match result {
            Ok((has_external_write, written)) => {
                self.inputs.metrics.count_commit(results.len(), started_at.elapsed());
                let retried = std::mem::take(&mut self.retry_queue);
                let unwritten = group.split_off(written);
                self.after_commit(has_external_write);
                let recounts: Vec<Sender<()>> = group.iter().filter_map(recount_reply).collect();
                if group
                    .iter()
                    .any(|write| matches!(write, WriteRequest::Operation(Operation::SaveState(_))))
                {
                    self.backlog.push(BacklogTask::purge_keys());
                }
                self.send_replies(retried, group, results, &effects);
                *group = unwritten;
                if self.recount.count(&self.store.conn, !recounts.is_empty()) {
                    recounts.iter().for_each(|reply| _ = reply.try_send(()));
                }
            }
            Err(e) => {
                self.inputs.metrics.count_failed_commit();
                self.roll_back();
                self.handle_error(&e);
                self.fail_group(group);
            }
        }
    }

    /// Does what follows each commit, before any reply.
    fn after_commit(&mut self, has_external_write: bool) {
        self.inputs.checkpoint_signal.notify_commit();
        self.mark_healthy();
        if has_external_write {
            // This comes first: a pause by the command line applies to this group's jobs too.
            self.jobs.request_refresh();
            self.report_external_settlements();
        }
    }

    /// Reports that another process wrote, which may have cancelled jobs.
    fn report_external_settlements(&self) {
        if self.cache.settlement_source.is_some() {
            (self.inputs.on_settled_jobs)();
        }
    }

    /// Does a part of the backlog in a separate transaction.
    fn run_backlog(&mut self) {
        let started_at = Instant::now();
        let step = self.begin().and_then(|transaction| {
            let mut effects = Effects::default();
            let conn = &self.store.conn;
            let mut tx = WriteTransaction::new(conn, &mut self.cache, &mut effects);
            self.backlog.step(&mut tx)?;
            drop(tx);
            self.commit(&transaction, &mut effects)?;
            Ok((transaction.has_external_write, effects))
        });
        match step {
            Ok((has_external_write, effects)) => {
                self.after_commit(has_external_write);
                self.cache.apply_deferred(&effects.deferred);
                if let Some((source, events)) = self.backlog.commit(started_at.elapsed()) {
                    self.inputs.deferrals.mark_settled(source, events);
                    self.inputs.deferrals.set_counts(&self.cache.deferred);
                }
                self.publish_counts(&effects);
                self.publish_job_changes(&effects);
                self.recount.count(&self.store.conn, false);
            }
            Err(e) => {
                self.roll_back();
                if classify(&e) != ErrorKind::Operation {
                    self.backlog.roll_back();
                    return self.handle_error(&e);
                }
                let Some(failed) = self.backlog.fail_task() else { return };
                log::error!("{}: {e}", failed.problem);
                match failed.follow_up {
                    FailedTask::Event => {
                        self.inputs.deferrals.reset(failed.source, failed.remaining)
                    }
                    FailedTask::ReplaceJob(reevaluation) => {
                        let record = reevaluation.write_failed_record(self.cache.wall_ms);
                        self.retry_queue.push(Operation::Finish(Box::new(record)));
                    }
                    FailedTask::Other => {}
                }
            }
        }
    }

    /// Rolls back the transaction and the state in memory.
    fn roll_back(&mut self) {
        if !self.store.conn.is_autocommit() {
            let _ = self.store.conn.execute_batch("ROLLBACK");
        }
        self.cache.forget_known_rows();
        if let Err(e) = self.cache.reload(&self.store.conn) {
            log::debug!("the counters could not be read again: {e}");
            self.version = -1;
        }
    }

    /// Begins a transaction.
    fn begin(&mut self) -> rusqlite::Result<OpenTransaction> {
        let conn = &self.store.conn;
        conn.change("BEGIN IMMEDIATE", [])?;
        let version = data_version(conn)?;
        let has_external_write = version != self.version;
        if has_external_write {
            self.cache.reload(conn)?;
            // The recount comes before the group, so that `max_queued` applies to it.
            self.recount.is_stale = true;
            self.recount.count(conn, false);
        }
        self.cache.now_ms = self.store.clock.now_ms();
        self.cache.wall_ms = crate::clock::wall_ms();
        Ok(OpenTransaction { version, has_external_write, counters: self.cache.counters })
    }

    fn commit(
        &mut self,
        transaction: &OpenTransaction,
        effects: &mut Effects,
    ) -> rusqlite::Result<()> {
        let conn = &self.store.conn;
        let mut tx = WriteTransaction::new(conn, &mut self.cache, effects);
        write_last(&mut tx, transaction.counters)?;
        conn.change("COMMIT", [])?;
        self.version = transaction.version;
        Ok(())
    }

    /// Writes a group in one transaction. Returns whether another connection wrote before it, and
    /// how many messages of the group were written.
    fn transaction(
        &mut self,
        group: &[WriteRequest],
        results: &mut Vec<OperationResult>,
        effects: &mut Effects,
        isolation: Isolation,
    ) -> rusqlite::Result<(bool, usize)> {
        let transaction = self.begin()?;
        let started_at = Instant::now();
        let conn = &self.store.conn;
        let mut tx = WriteTransaction::new(conn, &mut self.cache, effects);
        let (mut events, mut attempts) = (EventInserts::new(conn), AttemptInserts::new(conn));
        for op in &self.retry_queue {
            results.push(isolation.apply_operation(&mut tx, &mut attempts, op)?);
        }
        let mut written = 0;
        for message in group {
            if written > 0 && started_at.elapsed() > MAX_GROUP_TIME {
                break;
            }
            written += 1;
            match message {
                WriteRequest::NewEvents(new_events, _) => {
                    for new_event in new_events {
                        results.push(isolation.apply(&mut tx, |tx| {
                            let reply = match isolation {
                                Isolation::Group => {
                                    events::insert_event(tx, &mut events, new_event)
                                }
                                Isolation::Savepoints => events::insert_single_event(tx, new_event),
                            };
                            reply.map(OperationResult::Inserted)
                        })?);
                    }
                }
                WriteRequest::Operation(op) => {
                    // An outcome reads no rows of a new event.
                    if !matches!(op, Operation::Finish(_)) {
                        events.flush()?;
                    }
                    results.push(isolation.apply_operation(&mut tx, &mut attempts, op)?);
                }
            }
        }
        events.flush()?;
        attempts.flush()?;
        drop((tx, events, attempts));
        self.commit(&transaction, effects)?;
        Ok((transaction.has_external_write, written))
    }

    fn handle_error(&mut self, error: &rusqlite::Error) {
        self.jobs.block();
        if error.sqlite_error_code() == Some(ErrorCode::DiskFull) {
            reserve::release(&self.store.path);
        }
        let path = self.store.path.display();
        let before = self.inputs.health.get();
        match classify(error) {
            ErrorKind::Sync => {
                return self.mark_broken(&format!("a commit could not be synced ({error})"));
            }
            ErrorKind::Damaged => {
                return self.mark_broken(&format!(
                    "{path} is damaged ({error}): put a copy in its place and remove its -wal and \
                     -shm, or save what can be read with `sqlite3 FILE .recover`"
                ));
            }
            ErrorKind::Busy if before == Health::Healthy => {
                let holder = super::write_lock_holder(&self.store.path);
                log::error!(
                    "{path}: {} has held it for writing for over {BUSY_TIMEOUT:?}: \
                     senders get 503 until it releases the lock",
                    holder.as_deref().unwrap_or("another program"),
                );
                let _ = self.store.conn.busy_timeout(BLOCKED_BUSY_TIMEOUT);
            }
            _ if before == Health::Healthy => {
                log::error!("{path}: can't be written ({error}): senders get 503 until it can");
            }
            _ => {}
        }
        self.inputs.health.set(Health::Blocked);
    }

    fn mark_healthy(&mut self) {
        if self.inputs.health.get() == Health::Blocked {
            log::info!("{}: can be written again", self.store.path.display());
            let _ = chunked_writes::wait_as_writer(&self.store.conn);
            self.inputs.health.set(Health::Healthy);
            self.jobs.resume();
        }
    }

    fn mark_broken(&self, reason: &str) {
        self.inputs.health.set(Health::Broken);
        (self.inputs.on_broken)(reason);
    }

    /// Called when no message arrives for a while. Retries what could not be written, notices
    /// writes of other processes, and cuts a long WAL.
    fn on_idle(&mut self) {
        match self.inputs.health.get() {
            Health::Broken => return,
            Health::Blocked => return self.save_state(),
            Health::Healthy => {}
        }
        match data_version(&self.store.conn) {
            Ok(version) if version != self.version => {
                self.version = version;
                if let Err(e) = self.cache.reload(&self.store.conn) {
                    self.version = -1;
                    log::debug!("changes by another process could not be read: {e}");
                }
                self.jobs.request_refresh();
                self.report_external_settlements();
                self.recount.is_stale = true;
            }
            Ok(_) => {}
            Err(e) => self.handle_error(&e),
        }
        self.recount.count(&self.store.conn, false);
        let max_bytes = u64::try_from(checkpoint::WAL_BYTES_KEPT).unwrap_or(u64::MAX);
        if super::wal_bytes(&self.store.path) > max_bytes {
            let _ = self.store.conn.busy_timeout(Duration::ZERO);
            if let Err(e) = checkpoint::truncate(&self.store.conn)
                && classify(&e) == ErrorKind::Sync
            {
                self.mark_broken(&format!("a checkpoint could not be synced ({e})"));
            }
            let _ = chunked_writes::wait_as_writer(&self.store.conn);
        }
    }

    fn save_state(&mut self) {
        let operation = Operation::SaveState(self.recount.counters.last_seen_all());
        self.write_group(&mut vec![WriteRequest::Operation(operation)]);
    }

    /// Called when all handles are dropped: writes the last outcomes and the clock, and runs a last
    /// checkpoint.
    fn shut_down(&mut self) {
        let deadline = Instant::now() + BUSY_TIMEOUT;
        // The next process restarts a retry whose jobs are not all inserted.
        for reevaluation in
            self.backlog.drain().filter_map(BacklogTask::into_unfinished_replacement)
        {
            self.retry_queue.push(Operation::Finish(Box::new(
                reevaluation.interrupted_record(self.cache.wall_ms),
            )));
        }
        loop {
            self.save_state();
            match self.inputs.health.get() {
                Health::Healthy => break,
                Health::Broken => return,
                Health::Blocked if Instant::now() > deadline => {
                    let lost = self.retry_queue.len();
                    log::error!("{lost} outcomes could not be written: their jobs will run again");
                    break;
                }
                Health::Blocked => std::thread::sleep(BLOCKED_BUSY_TIMEOUT),
            }
        }
        if let Err(e) = checkpoint::truncate(&self.store.conn) {
            log::warn!("{}: the last checkpoint failed: {e}", self.store.path.display());
        }
    }
}
