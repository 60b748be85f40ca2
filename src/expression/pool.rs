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
use super::protocol::Encoder;
use super::queue::{EvaluationOutcome, EvaluationQueue, EvaluationRequest, Priority, RequestKind};
use super::{EvaluationResult, EventContext, Expression, ExpressionSet, NO_OUTPUT, evaluator_main};
use crate::process::{CommandSpec, Supervisor};

/// No process was free in time, or too many requests wait. The response is 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

const BUSY_REASON: &str = "no evaluator process was free in time";

/// Maximum number of outputs that `eval` shows.
const MAX_OUTPUTS: u32 = 10_000;

/// Called once with the result of a request.
pub type ResultCallback = Box<dyn FnOnce(Result<EvaluationResult, Busy>) + Send>;

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
        fairness_key: u64,
        expressions: &ExpressionSet,
        event: &EventContext<'_>,
        callback: ResultCallback,
    ) {
        self.submit(Priority::Intake, fairness_key, expressions, event, callback);
    }

    /// Like [`Self::evaluate_async`], for the expressions of handlers at intake. Keys and handshakes do not
    /// wait behind them. It gives up after [`HANDLERS_TIMEOUT`](super::HANDLERS_TIMEOUT), unless a process
    /// has begun.
    pub fn evaluate_handlers(
        &self,
        fairness_key: u64,
        expressions: &ExpressionSet,
        event: &EventContext<'_>,
        callback: ResultCallback,
    ) {
        self.submit(Priority::Handlers, fairness_key, expressions, event, callback);
    }

    /// Like [`Self::evaluate_async`], for a stored event: no sender waits for the result, and
    /// intake does not wait behind it.
    pub fn evaluate_deferred(
        &self,
        fairness_key: u64,
        expressions: &ExpressionSet,
        event: &EventContext<'_>,
        callback: ResultCallback,
    ) {
        self.submit(Priority::Deferred, fairness_key, expressions, event, callback);
    }

    fn submit(
        &self,
        priority: Priority,
        fairness_key: u64,
        expressions: &ExpressionSet,
        event: &EventContext<'_>,
        callback: ResultCallback,
    ) {
        let pending = PendingRequest::new(expressions, event);
        let complete: Box<dyn FnOnce(EvaluationOutcome) + Send> =
            Box::new(move |outcome| match outcome {
                EvaluationOutcome::Expressions(result) => callback(Ok(result)),
                EvaluationOutcome::Busy | EvaluationOutcome::Outputs(_) => callback(Err(Busy)),
            });
        if pending.is_empty() {
            complete(
                pending.finish().map_or(EvaluationOutcome::Busy, EvaluationOutcome::Expressions),
            );
            return;
        }
        self.0.enqueue(fairness_key, priority, RequestKind::Expressions(pending), event, complete);
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
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let callback = Box::new(move |result| drop(sender.send(result)));
        self.evaluate_deferred(fairness_key, expressions, event, callback);
        receiver.recv().unwrap_or(Err(Busy))
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
        let outputs = self.0.outputs(fairness_key, Priority::Transform, expression, event, 1)?;
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
            self.0.outputs(fairness_key, Priority::Intake, expression, event, MAX_OUTPUTS);
        outputs.unwrap_or_else(|Busy| Err(self.busy_reason()))
    }

    /// Why requests are busy, as far as it is known.
    pub fn busy_reason(&self) -> String {
        self.0.queue.start_error().unwrap_or_else(|| BUSY_REASON.to_owned())
    }
}

impl EvaluatorPoolInner {
    fn outputs(
        &self,
        fairness_key: u64,
        priority: Priority,
        expression: &Expression,
        event: &EventContext<'_>,
        max: u32,
    ) -> Result<Result<Vec<Vec<u8>>, String>, Busy> {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let kind = RequestKind::Outputs { expression: expression.clone(), max };
        self.enqueue(
            fairness_key,
            priority,
            kind,
            event,
            Box::new(move |outcome| drop(sender.send(outcome))),
        );
        let items = match receiver.recv() {
            Ok(EvaluationOutcome::Outputs(outputs)) => outputs,
            Ok(EvaluationOutcome::Expressions(_) | EvaluationOutcome::Busy) | Err(_) => {
                return Err(Busy);
            }
        };
        Ok(items.and_then(|items| {
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

    fn enqueue(
        &self,
        fairness_key: u64,
        priority: Priority,
        kind: RequestKind,
        event: &EventContext<'_>,
        callback: Box<dyn FnOnce(EvaluationOutcome) + Send>,
    ) {
        let mut encoder = Encoder::default();
        encoder.event(event);
        let (queued_at, callback) = (Instant::now(), Some(callback));
        let request = EvaluationRequest {
            fairness_key,
            priority,
            kind,
            encoded_event: encoder.0,
            queued_at,
            started_at: None,
            startup_failures: 0,
            external_kills: 0,
            callback,
        };
        if self.queue.enqueue(request) && !self.start_thread(priority) {
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
