//! What the connections of one listener share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::config::Listener;

/// How often the same kind of problem of connections is logged.
const LOG_INTERVAL_MS: u64 = 60_000;

/// What the connections of a listener share.
pub struct ListenerState {
    pub listener: Listener,
    created_at: Instant,
    closing_since: OnceLock<Instant>,
    stop_accepting: Notify,
    has_stopped_accepting: AtomicBool,
    leaves_queue: AtomicBool,
    /// When a problem of its connections was last logged, in ms since `created_at`, plus one.
    logged_at_ms: AtomicU64,
}

impl ListenerState {
    pub fn new(listener: Listener) -> Arc<Self> {
        Arc::new(Self {
            listener,
            created_at: Instant::now(),
            closing_since: OnceLock::new(),
            stop_accepting: Notify::new(),
            has_stopped_accepting: AtomicBool::new(false),
            leaves_queue: AtomicBool::new(false),
            logged_at_ms: AtomicU64::new(0),
        })
    }

    /// From now on, each response is the last on its connection.
    pub fn begin_closing(&self) {
        self.closing_since.get_or_init(Instant::now);
    }

    pub fn is_closing(&self) -> bool {
        self.closing_since.get().is_some()
    }

    /// How long the listener has been closing; `None` if it is not.
    pub fn closing_for(&self) -> Option<Duration> {
        self.closing_since.get().map(Instant::elapsed)
    }

    /// Ends the acceptor. `leaves_queue`: what waits in the queue of the socket is for another listener.
    pub fn stop_accepting(&self, leaves_queue: bool) {
        self.leaves_queue.store(leaves_queue, Ordering::SeqCst);
        self.has_stopped_accepting.store(true, Ordering::SeqCst);
        self.stop_accepting.notify_one();
    }

    pub fn leaves_queue(&self) -> bool {
        self.leaves_queue.load(Ordering::SeqCst)
    }

    pub fn has_stopped_accepting(&self) -> bool {
        self.has_stopped_accepting.load(Ordering::SeqCst)
    }

    /// Waits for `stop_accepting`.
    pub async fn until_stopped(&self) {
        self.stop_accepting.notified().await;
    }

    /// Logs a problem of a connection, at most once per minute: strangers cause them.
    pub fn warn(&self, text: impl FnOnce() -> String) {
        let now_ms =
            u64::try_from(self.created_at.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1;
        let logged_at_ms = self.logged_at_ms.load(Ordering::Relaxed);
        let is_recent = logged_at_ms > 0 && now_ms - logged_at_ms < LOG_INTERVAL_MS;
        let (ordering, current) = (Ordering::Relaxed, logged_at_ms);
        if !is_recent
            && self.logged_at_ms.compare_exchange(current, now_ms, ordering, ordering).is_ok()
        {
            log::warn!("{}", text());
        }
    }
}
