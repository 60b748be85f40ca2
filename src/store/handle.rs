//! The handle to the writer: messages to it, replies to the intake threads, and whether the
//! database can be written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use crossbeam_channel::{Sender, bounded};
use parking_lot::Mutex;

use super::backlog_task::BacklogTask;
use super::events::{InsertReply, NewEvent};
use super::jobs::ClaimedJob;
use super::operation::Operation;
use super::prefetched_jobs::PrefetchedJobs;
use crate::domain::HandlerId;
use crate::scheduler::HandlerTable;

/// Capacity of the writer's channel, in messages. When it is full, intake responds 503.
pub(super) const CHANNEL_MESSAGES: usize = 4096;

/// The replies for one intake thread. Each group of replies wakes the thread once.
pub struct ReplyQueue {
    replies: Mutex<Replies>,
    wake: Box<dyn Fn() + Send + Sync>,
}

/// Replies by the slots of their events, and these events. The thread that allocated their memory frees it: the
/// writer would take longer.
#[derive(Default)]
struct Replies {
    by_slot: Vec<(usize, InsertReply)>,
    events: Vec<Vec<NewEvent>>,
}

impl std::fmt::Debug for ReplyQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReplyQueue")
    }
}

impl ReplyQueue {
    /// Creates an empty queue. `wake` is called after replies were added.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self { replies: Mutex::default(), wake: Box::new(wake) }
    }

    /// Moves all replies into `into`, and frees their events.
    pub fn drain_into(&self, into: &mut Vec<(usize, InsertReply)>) {
        let mut replies = self.replies.lock();
        into.append(&mut replies.by_slot);
        let events = std::mem::take(&mut replies.events);
        drop(replies);
        drop(events);
    }

    /// Replies that these events are not stored.
    pub(super) fn reject(&self, new_events: Vec<NewEvent>) {
        self.push(new_events, |_| InsertReply::Unavailable);
    }

    /// Adds the reply to each event.
    pub(super) fn push(
        &self,
        new_events: Vec<NewEvent>,
        mut reply: impl FnMut(&NewEvent) -> InsertReply,
    ) {
        let mut replies = self.replies.lock();
        let by_slot = new_events.iter().map(|new_event| (new_event.reply_slot, reply(new_event)));
        replies.by_slot.extend(by_slot);
        replies.events.push(new_events);
        drop(replies);
        (self.wake)();
    }
}

/// An operation or a notice that the writer receives through its channel.
#[derive(Debug)]
pub enum WriterMessage {
    Write(WriteRequest),
    /// A worker thread has ended its jobs of this handler. Carries the last outcome, unless that was sent before.
    /// The thread is free, unless it has a next job that was prefetched.
    JobsEnded {
        last: Option<Operation>,
        handler: HandlerId,
        has_next: bool,
    },
    /// Tasks that the writer runs in short transactions between groups.
    Backlog(Vec<BacklogTask>),
    /// A new configuration.
    Configure(HandlerTable),
    /// Start no more jobs. The reply is sent when `busy_threads` can only fall.
    StopJobs(Sender<()>),
    /// End the workers.
    CloseWorkers,
}

/// A write that an intake thread or a worker asks for.
#[derive(Debug)]
pub enum WriteRequest {
    /// The events that one intake thread accepted since its last message.
    NewEvents(Vec<NewEvent>, Arc<ReplyQueue>),
    Operation(Operation),
}

impl WriteRequest {
    /// Returns the cost of the request, in operations and in rows.
    pub(super) fn weight(&self) -> (usize, usize) {
        match self {
            Self::NewEvents(accepts, _) => {
                (accepts.len(), accepts.iter().map(NewEvent::weight).sum())
            }
            Self::Operation(op) => (1, op.weight()),
        }
    }
}

/// Whether the database can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Healthy,
    /// The last group could not be written. The writer retries.
    Blocked,
    /// The server confirms nothing more, and the process is about to exit.
    Broken,
}

/// The writer's `Health`, shared by all threads.
#[derive(Debug, Default)]
pub struct WriterHealth {
    health: AtomicU8,
    heartbeat_count: AtomicU64,
}

impl WriterHealth {
    pub fn get(&self) -> Health {
        match self.health.load(Ordering::Acquire) {
            0 => Health::Healthy,
            1 => Health::Blocked,
            _ => Health::Broken,
        }
    }

    /// Returns a counter that grows at least twice per second while the writer is alive.
    pub fn heartbeats(&self) -> u64 {
        self.heartbeat_count.load(Ordering::Relaxed)
    }

    pub(super) fn heartbeat(&self) {
        self.heartbeat_count.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets the health. `Broken` is final.
    pub fn set(&self, health: Health) {
        self.health.fetch_max(health as u8, Ordering::AcqRel);
        if health == Health::Healthy {
            let _ = self.health.compare_exchange(1, 0, Ordering::AcqRel, Ordering::Acquire);
        }
    }
}

/// A handle to the writer, for other threads.
#[derive(Clone, Debug)]
pub struct WriterHandle {
    pub sender: Sender<WriterMessage>,
    pub health: Arc<WriterHealth>,
    pub(super) busy_threads: Arc<AtomicUsize>,
    pub(super) prefetched: Arc<PrefetchedJobs>,
}

impl WriterHandle {
    /// Sends an operation and waits for room in the channel. Returns false if the writer has ended.
    pub fn send(&self, op: Operation) -> bool {
        self.sender.send(WriterMessage::Write(WriteRequest::Operation(op))).is_ok()
    }

    /// Sends tasks that run in short transactions, and waits for room in the channel. Returns false
    /// if the writer has ended.
    pub fn send_backlog(&self, tasks: Vec<BacklogTask>) -> bool {
        self.sender.send(WriterMessage::Backlog(tasks)).is_ok()
    }

    /// Reports that a worker thread has ended its jobs, with the last outcome unless that was sent before.
    /// Returns a prefetched job that the thread runs next, if the last one has succeeded: a failure may open the
    /// circuit breaker. Otherwise the thread is free, and the writer claims its next job in the same commit.
    pub fn release_worker(
        &self,
        last: Option<Operation>,
        handler: HandlerId,
    ) -> Option<ClaimedJob> {
        let next = match &last {
            Some(last) if last.has_succeeded() => self.prefetched.take_next(handler),
            Some(_) => {
                self.prefetched.begin_failure(handler);
                None
            }
            None => None,
        };
        let _ =
            self.sender.send(WriterMessage::JobsEnded { last, handler, has_next: next.is_some() });
        next
    }

    /// Applies a new configuration to the scheduler.
    pub fn configure(&self, handlers: HandlerTable) {
        let _ = self.sender.send(WriterMessage::Configure(handlers));
    }

    /// Starts no more jobs. Running jobs go on.
    pub fn stop_jobs(&self) {
        let (reply, stopped) = bounded(1);
        let _ = self.sender.send(WriterMessage::StopJobs(reply));
        let _ = stopped.recv();
    }

    /// Ends the workers, each after its present jobs.
    pub fn close_workers(&self) {
        let _ = self.sender.send(WriterMessage::CloseWorkers);
    }

    /// Returns how many worker threads run jobs or wait for a claim that is being written.
    pub fn busy_threads(&self) -> usize {
        self.busy_threads.load(Ordering::Relaxed)
    }
}
