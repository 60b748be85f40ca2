//! The thread `retention`: removes bodies and events by `retention`, and lets the file shrink.
//!
//! It looks for events to remove on its own connection. The writer removes them, a few in each transaction. After each
//! batch the thread waits as long as the batch took, so that intake gets at least every second turn.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded, select};

use super::clock_break::find_clock_break;
use crate::clock::{self, ClockAnchor, MonotonicClock};
use crate::config::Config;
use crate::store::backlog_task::{BacklogTask, RetentionStep};
use crate::store::handle::WriterHandle;
use crate::store::operation::Operation;
use crate::store::retention::{self, RemovedPart, RetentionRest, RetentionRule, Scanner};
use crate::store::{self, ReadPool};

/// The interval of the scans.
const INTERVAL: Duration = Duration::from_secs(1);

/// The shortest wait after a batch.
const MIN_PAUSE: Duration = Duration::from_millis(2);

/// The log names the removed events at most once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(3600);

/// The thread's connections to the other parts.
pub struct RetentionInputs {
    pub config: Arc<ArcSwap<Config>>,
    pub readers: ReadPool,
    pub clock: MonotonicClock,
    pub writer: WriterHandle,
}

/// Starts the thread. It ends when the sender of `stop` is dropped.
///
/// # Errors
/// The thread cannot be created.
pub fn start(inputs: RetentionInputs, stop: Receiver<()>) -> std::io::Result<JoinHandle<()>> {
    let anchor = inputs.clock.anchor();
    let mut worker = RetentionWorker {
        inputs,
        stop,
        anchor,
        is_first_look: true,
        rest: None,
        log: RemovalLog::default(),
    };
    std::thread::Builder::new().name("retention".into()).spawn(move || worker.run())
}

/// The server stops.
struct Stopped;

struct RetentionWorker {
    inputs: RetentionInputs,
    stop: Receiver<()>,
    /// All clocks, as of the last look at them.
    anchor: ClockAnchor,
    /// No scan was made yet.
    is_first_look: bool,
    rest: Option<RetentionRest>,
    log: RemovalLog,
}

impl RetentionWorker {
    fn run(&mut self) {
        while self.stop.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
            match self.scan_all() {
                Ok(Ok(())) => self.log.log(),
                Ok(Err(Stopped)) => return,
                Err(e) => log::debug!("retention: the database cannot be read: {e:#}"),
            }
        }
    }

    /// Applies all rules once.
    fn scan_all(&mut self) -> anyhow::Result<Result<(), Stopped>> {
        let rules = {
            let conn = self.inputs.readers.get()?;
            let config = self.inputs.config.load();
            let rules = retention::load_rules(&conn, |source| config.retention_of(source))?;
            if self.is_first_look {
                self.anchor = store::load_anchor(&conn)?;
                self.rest = retention::load_rest(&conn, self.inputs.clock.now_ms())?;
                self.is_first_look = false;
                if let (Some(rest), false) = (&self.rest, rules.is_empty()) {
                    self.log_rest(rest);
                }
            }
            rules
        };
        self.check_clock(!rules.is_empty());
        if retention::has_unfinished_removals(&*self.inputs.readers.get()?)?
            && self.write(RetentionStep::Unfinished).is_err()
        {
            return Ok(Err(Stopped));
        }
        if rules.is_empty() || self.is_resting() {
            return Ok(Ok(()));
        }
        for rule in rules {
            if self.apply(rule)?.is_err() {
                return Ok(Err(Stopped));
            }
        }
        if retention::has_excess_free_pages(&*self.inputs.readers.get()?)?
            && self.write(RetentionStep::FreePages).is_err()
        {
            return Ok(Err(Stopped));
        }
        Ok(Ok(()))
    }

    /// Lets the rules rest if the clock jumped, or no server ran for long. A rest is saved: it lasts over restarts.
    fn check_clock(&mut self, has_rules: bool) {
        let now = self.inputs.clock.anchor();
        let reason = find_clock_break(&self.anchor, &now);
        self.anchor = now;
        let Some(reason) = reason else { return };
        let rest = RetentionRest::new(self.inputs.clock.now_ms(), reason);
        self.inputs.writer.send(Operation::RestRetention(rest.clone()));
        // A reload may bring a rule during the rest.
        if has_rules {
            self.log_rest(&rest);
        }
        self.rest = Some(rest);
    }

    fn log_rest(&self, rest: &RetentionRest) {
        let until = clock::format_rfc3339(self.inputs.clock.to_wall_ms(rest.until_ms));
        log::warn!(
            "retention removes nothing until {until}, because {}: check the clock of this machine",
            rest.reason
        );
    }

    fn is_resting(&mut self) -> bool {
        let now_ms = self.inputs.clock.now_ms();
        self.rest = self.rest.take().filter(|rest| rest.until_ms > now_ms);
        self.rest.is_some()
    }

    /// Applies a rule to all events that it applies to now.
    fn apply(&mut self, rule: RetentionRule) -> anyhow::Result<Result<(), Stopped>> {
        let mut scanner = Scanner::resume(&*self.inputs.readers.get()?, rule)?;
        loop {
            self.check_clock(true);
            if self.is_resting() {
                return Ok(Ok(()));
            }
            let batch = scanner.next_batch(&*self.inputs.readers.get()?, clock::wall_ms())?;
            let Some(batch) = batch else { return Ok(Ok(())) };
            let (part, removals) = (batch.part(), batch.removals());
            if self.write(RetentionStep::Batch(batch)).is_err() {
                return Ok(Err(Stopped));
            }
            self.log.add(part, removals);
        }
    }

    /// Lets the writer do a step, and waits as long as that took.
    fn write(&self, step: RetentionStep) -> Result<(), Stopped> {
        let started_at = Instant::now();
        let (done, is_done) = bounded(0);
        self.inputs.writer.send_backlog(vec![BacklogTask::retain(step, done)]);
        select! {
            recv(is_done) -> _ => {}
            recv(self.stop) -> _ => return Err(Stopped),
        }
        let pause = started_at.elapsed().max(MIN_PAUSE);
        match self.stop.recv_timeout(pause) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            _ => Err(Stopped),
        }
    }
}

/// Counts removed events and bodies for the log.
#[derive(Default)]
struct RemovalLog {
    removed: HashMap<&'static str, usize>,
    logged_at: Option<Instant>,
}

impl RemovalLog {
    fn add(&mut self, part: RemovedPart, count: usize) {
        if count > 0 {
            let noun = match part {
                RemovedPart::Body | RemovedPart::Quotes => "bodies",
                RemovedPart::Event => "events",
            };
            *self.removed.entry(noun).or_default() += count;
        }
    }

    /// Logs the counts, if there are any and the last line is old enough.
    fn log(&mut self) {
        let is_due = self.logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL);
        if is_due && !self.removed.is_empty() {
            let mut counts: Vec<String> =
                self.removed.drain().map(|(noun, count)| format!("{count} {noun}")).collect();
            counts.sort();
            log::info!("retention removed {}", counts.join(" and "));
            self.logged_at = Some(Instant::now());
        }
    }
}
