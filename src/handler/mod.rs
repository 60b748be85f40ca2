//! What is done with events: a kind of handler a file, each behind [`Kind`].
//!
//! The worker builds a [`Task`] from its claim and hands it to the kind that the handler's settings
//! name. A kind runs it to its end and says how it ended; it knows neither the queue nor the store.

use std::ffi::OsString;
use std::sync::Arc;

use crate::config;
use crate::domain::{Claim, Ended, Event};
use crate::process::Stop;

pub mod command;

/// Everything that one attempt needs.
#[derive(Clone, Debug)]
pub struct Task {
    pub claim: Claim,
    pub handler: Arc<config::Handler>,
    /// The handler's own environment, its secrets read.
    pub env: Arc<[(String, OsString)]>,
    pub event: Arc<Event>,
    /// With `split`: the item's number, from 1, and its bytes.
    pub item: Option<(u32, Arc<[u8]>)>,
    /// The number after which this run of attempts ends (`HOOKTRAIL_ATTEMPTS_MAX`).
    pub attempts_max: u32,
    /// The idempotency key (`HOOKTRAIL_KEY`): the same for every attempt of a job.
    pub key: String,
    /// Put into the environment of what is started (`HOOKTRAIL_MARK`), so that it can be found
    /// again and ended: the trail's own id, the job and the attempt.
    pub mark: String,
}

impl Task {
    /// What the handler reads: the item where there is one, else the event's bytes.
    pub fn input(&self) -> &[u8] {
        match &self.item {
            Some((_, bytes)) => bytes,
            None => &self.event.body,
        }
    }
}

/// A kind of handler.
pub trait Kind: Send + Sync {
    /// Runs one attempt to its end. Never panics, never outlives its `timeout` by more than the
    /// time it takes to end what it started, and leaves no process behind.
    fn run(&self, task: &Task, stop: &Stop) -> Ended;
}
