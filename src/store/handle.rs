//! How others talk with the writer: messages to it, answers back to the intake threads, and whether
//! the trail can be written.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::Sender;

use super::deferred::Work;
use super::events::{InsertReply, NewEvent};
use super::operation::Operation;
use crate::domain::HandlerId;

/// So many messages wait for the writer; beyond it intake answers 503.
pub(super) const CHANNEL_MESSAGES: usize = 4096;

/// Where answers for one intake thread are put: one wake-up a group.
pub struct ReplyQueue {
    replies: Mutex<Vec<(usize, InsertReply)>>,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for ReplyQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mailbox")
    }
}

impl ReplyQueue {
    /// `wake` is called after answers were put in.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self { replies: Mutex::default(), wake: Box::new(wake) }
    }

    /// Takes all answers that are there.
    pub fn take(&self, into: &mut Vec<(usize, InsertReply)>) {
        into.append(&mut self.replies.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn put(&self, replies: impl Iterator<Item = (usize, InsertReply)>) {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner).extend(replies);
        (self.wake)();
    }
}

/// What is sent to the writer.
#[derive(Debug)]
pub enum WriterMessage {
    Write(WriteRequest),
    /// A worker's thread is free: with the last outcome of what it ran, unless that was told.
    WorkerFreed(Option<Operation>, HandlerId),
    /// To be done in short transactions between others.
    Work(Vec<Work>),
}

/// What is to be written.
#[derive(Debug)]
pub enum WriteRequest {
    /// What one intake thread took since it last looked.
    NewEvents(Vec<NewEvent>, Arc<ReplyQueue>),
    Op(Operation),
}

impl WriteRequest {
    /// What it costs, in operations and in rows.
    pub(super) fn weight(&self) -> (usize, usize) {
        match self {
            Self::NewEvents(accepts, _) => {
                (accepts.len(), accepts.iter().map(NewEvent::weight).sum())
            }
            Self::Op(op) => (1, op.weight()),
        }
    }
}

/// Whether the trail can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Healthy,
    /// The last group could not be written; it is tried again.
    Blocked,
    /// Nothing is promised any more; the process is about to end.
    Broken,
}

/// `Health`, known to all threads.
#[derive(Debug, Default)]
pub struct WriterHealth {
    health: AtomicU8,
    beats: AtomicU64,
}

impl WriterHealth {
    pub fn get(&self) -> Health {
        match self.health.load(Ordering::Acquire) {
            0 => Health::Healthy,
            1 => Health::Blocked,
            _ => Health::Broken,
        }
    }

    /// Grows at least twice a second while the writer is alive.
    pub fn heartbeats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    pub(super) fn heartbeat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// `Broken` stays.
    pub fn set(&self, health: Health) {
        self.health.fetch_max(health as u8, Ordering::AcqRel);
        if health == Health::Healthy {
            let _ = self.health.compare_exchange(1, 0, Ordering::AcqRel, Ordering::Acquire);
        }
    }
}

/// The writer, as others see it.
#[derive(Clone, Debug)]
pub struct WriterHandle {
    pub to: Sender<WriterMessage>,
    pub health: Arc<WriterHealth>,
}

impl WriterHandle {
    /// Sends an operation, waiting for room; `false` when the writer has ended.
    pub fn send(&self, op: Operation) -> bool {
        self.to.send(WriterMessage::Write(WriteRequest::Op(op))).is_ok()
    }

    /// Sends work that is done in short transactions, waiting for room; `false` when the writer has
    /// ended.
    pub fn work(&self, works: Vec<Work>) -> bool {
        self.to.send(WriterMessage::Work(works)).is_ok()
    }

    /// Sends the last outcome of what a worker ran, unless it was sent, with which its thread is free:
    /// what it runs next is claimed in the same commit.
    pub fn release_worker(&self, last: Option<Operation>, handler: HandlerId) {
        let _ = self.to.send(WriterMessage::WorkerFreed(last, handler));
    }
}
