//! The pool of evaluator processes. Each always ends: by its processor time, its memory or the
//! clock.
//!
//! The pool has two to four for `dedupe` and handshakes, as many for the handlers' expressions at intake, as
//! many for `transform`, and as many for deferred events. A thread drives each of them. They start when the
//! first request comes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::Mutex;

use super::evaluator_thread::EvaluatorThread;
use super::pending::PendingRequest;
use super::queue::{
    Busy, EvaluationQueue, EvaluatorCounts, Priority, QueuedRequest, ResultCallback,
};
use super::{
    EvaluationResult, EventContext, Expression, ExpressionSet, NO_OUTPUT, evaluator_main, protocol,
};
use crate::process::{CommandSpec, Supervisor};

const BUSY_REASON: &str = "no evaluator process was free in time";

/// Maximum number of outputs that `eval` shows.
const MAX_OUTPUTS: u32 = 10_000;

/// Evaluates expressions in processes of this binary. It is cheap to clone. Dropping the last clone
/// ends the processes.
#[derive(Clone)]
pub struct EvaluatorPool(Arc<EvaluatorPoolInner>);

struct EvaluatorPoolInner {
    queue: Arc<EvaluationQueue>,
    folder: PathBuf,
    program: CommandSpec,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for EvaluatorPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EvaluatorPool({})", self.0.program.run_id)
    }
}

impl EvaluatorPool {
    /// Creates a pool. `folder`: for the unnamed files of large items. `supervisor`: owns the
    /// processes.
    pub fn new(folder: &Path, supervisor: &Arc<Supervisor>) -> Self {
        // The running binary, even if its file was replaced.
        Self::with_program(Path::new("/proc/self/exe"), folder, supervisor)
    }

    /// Creates a pool of another binary, for tests.
    pub fn with_program(path: &Path, folder: &Path, supervisor: &Arc<Supervisor>) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let program = CommandSpec {
            path: path.to_owned(),
            args: vec!["hooktrail".to_owned(), evaluator_main::COMMAND.to_owned()],
            env: Vec::new(),
            directory: PathBuf::from("/"),
            run_id: supervisor.run_id("expression"),
            supervisor: Arc::clone(supervisor),
        };
        Self(Arc::new(EvaluatorPoolInner {
            queue: Arc::new(EvaluationQueue::new(processors.clamp(2, 4))),
            folder: folder.to_owned(),
            program,
            threads: Mutex::default(),
        }))
    }

    /// Evaluates expressions without blocking. `callback` runs on another thread. It runs at once
    /// if all results are inline, or if too many requests wait. `fairness_key`: the source's
    /// number. No source gets all processes.
    pub fn evaluate_async(
        &self,
        priority: Priority,
        fairness_key: u64,
        expressions: &ExpressionSet,
        event: &EventContext<'_>,
        callback: ResultCallback,
    ) {
        let pending = PendingRequest::new(expressions, event);
        self.0.enqueue(priority, fairness_key, pending, event, callback);
    }

    /// Evaluates expressions of a stored event and blocks until the result is there.
    ///
    /// # Errors
    /// No process was free in time.
    pub fn evaluate(
        &self,
        fairness_key: u64,
        expressions: &ExpressionSet,
        event: &EventContext<'_>,
    ) -> Result<EvaluationResult, Busy> {
        let pending = PendingRequest::new(expressions, event);
        self.0.evaluate(Priority::Deferred, fairness_key, pending, event)
    }

    /// Evaluates `transform` and returns the first output as JSON text, or the reason why there is
    /// none. Blocks.
    ///
    /// # Errors
    /// No process was free in time, which says nothing about the expression.
    pub fn transform(
        &self,
        fairness_key: u64,
        expression: &Expression,
        event: &EventContext<'_>,
    ) -> Result<Result<Vec<u8>, String>, Busy> {
        if let Some(output) = expression.evaluate_inline(event) {
            return Ok(output);
        }
        let outputs = self.0.outputs(Priority::Transform, fairness_key, expression, event, 1)?;
        Ok(outputs.and_then(|all| all.into_iter().next().ok_or_else(|| NO_OUTPUT.to_owned())))
    }

    /// Evaluates an expression for `eval` and returns the first 10,000 outputs as JSON text.
    /// Blocks.
    ///
    /// # Errors
    /// The reason why there are none.
    pub fn outputs(
        &self,
        fairness_key: u64,
        expression: &Expression,
        event: &EventContext<'_>,
    ) -> Result<Vec<Vec<u8>>, String> {
        let outputs =
            self.0.outputs(Priority::Intake, fairness_key, expression, event, MAX_OUTPUTS);
        outputs.unwrap_or_else(|Busy| Err(self.busy_reason()))
    }

    /// Returns what the evaluator processes for each priority do, for metrics.
    pub fn counts(&self) -> impl IntoIterator<Item = EvaluatorCounts> + use<> {
        self.0.queue.evaluator_counts()
    }

    /// Why requests are busy, as far as it is known.
    pub fn busy_reason(&self) -> String {
        self.0.queue.start_error().unwrap_or_else(|| BUSY_REASON.to_owned())
    }
}

impl EvaluatorPoolInner {
    fn outputs(
        &self,
        priority: Priority,
        fairness_key: u64,
        expression: &Expression,
        event: &EventContext<'_>,
        max: u32,
    ) -> Result<Result<Vec<Vec<u8>>, String>, Busy> {
        let pending = PendingRequest::outputs(expression, max);
        let outputs = self.evaluate(priority, fairness_key, pending, event)?.into_outputs();
        Ok(outputs.ok_or(Busy)?.and_then(|items| {
            let output = |index| {
                let mut item = Vec::new();
                items
                    .get(index, &mut item)
                    .map_err(|e| format!("its output can't be read: {e}"))?;
                Ok(item)
            };
            (0..items.len()).map(output).collect()
        }))
    }

    /// Evaluates a request and blocks until the result is there.
    fn evaluate(
        &self,
        priority: Priority,
        fairness_key: u64,
        pending: PendingRequest,
        event: &EventContext<'_>,
    ) -> Result<EvaluationResult, Busy> {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let callback = Box::new(move |result| drop(sender.send(result)));
        self.enqueue(priority, fairness_key, pending, event, callback);
        receiver.recv().unwrap_or(Err(Busy))
    }

    fn enqueue(
        &self,
        priority: Priority,
        fairness_key: u64,
        pending: PendingRequest,
        event: &EventContext<'_>,
        callback: ResultCallback,
    ) {
        let is_complete = pending.is_empty();
        let request = QueuedRequest {
            fairness_key,
            priority,
            pending,
            encoded_event: if is_complete { Vec::new() } else { protocol::encode_event(event) },
            queued_at: Instant::now(),
            started_at: None,
            startup_failures: 0,
            external_kills: 0,
            callback: Some(callback),
        };
        if !is_complete && self.queue.enqueue(request) && !self.start_thread(priority) {
            self.queue.on_thread_failed(priority);
        }
    }

    fn start_thread(&self, priority: Priority) -> bool {
        let (program, queue, folder) =
            (self.program.clone(), Arc::clone(&self.queue), self.folder.clone());
        let evaluator_thread = EvaluatorThread { queue, priority, program, folder };
        let builder = std::thread::Builder::new().name("expression".into());
        match builder.spawn(move || evaluator_thread.run()) {
            Ok(thread) => {
                self.threads.lock().push(thread);
                true
            }
            Err(e) => {
                log::warn!("expressions: can't start a thread: {e}");
                false
            }
        }
    }
}

impl Drop for EvaluatorPoolInner {
    fn drop(&mut self) {
        self.queue.close();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            // A callback may drop the last clone on one of these threads.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}
