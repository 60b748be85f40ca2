//! Processes of the server's own that evaluate expressions, and always end: by their processor time,
//! by their memory, or by the clock. Two at least, four at most, and as many again for `transform` and
//! for events that are stored already; each has a thread here. They are started when there is something to ask.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::evaluator_thread::EvaluatorThread;
use super::pending::PendingRequest;
use super::protocol::Encoder;
use super::queue::{EvaluationOutcome, EvaluationQueue, EvaluationRequest, Priority, RequestKind};
use super::{EvaluationResult, EventContext, Expression, ExpressionSet, NOTHING, evaluator_main};
use crate::process::CommandSpec;

/// No process was free in time, or too much waits already: to be answered 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

const BUSY: &str = "no process was free for its expressions in time";

/// So many outputs are shown.
const OUTPUTS_MAX: u32 = 10_000;

/// Told once what came of a question.
pub type AnswerCallback = Box<dyn FnOnce(Result<EvaluationResult, Busy>) + Send>;

/// Asks processes of this binary; cheap to clone. When the last clone is dropped they are ended.
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
        write!(f, "Pool({})", self.0.program.mark)
    }
}

impl EvaluatorPool {
    /// `folder`: where large items are written, to files without a name. `mark`: by what the
    /// processes are known (`HOOKTRAIL_RUN_ID`).
    pub fn new(folder: &Path, mark: &str) -> Self {
        // What runs now, whatever has become of its file.
        Self::with_program(Path::new("/proc/self/exe"), folder, mark)
    }

    /// The same with a binary of one's choice, for tests.
    pub fn with_program(path: &Path, folder: &Path, mark: &str) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let program = CommandSpec {
            path: path.to_owned(),
            args: vec!["hooktrail".to_owned(), evaluator_main::COMMAND.to_owned()],
            env: Vec::new(),
            directory: PathBuf::from("/"),
            mark: format!("{mark}.expression"),
        };
        Self(Arc::new(EvaluatorPoolInner {
            queue: Arc::new(EvaluationQueue::new(processors.clamp(2, 4))),
            folder: folder.to_owned(),
            program,
            threads: Mutex::default(),
        }))
    }

    /// Asks without waiting; `answer` is called on another thread, or at once where nothing need be
    /// asked or too much waits. `party`: the source's number; none holds all processes.
    pub fn evaluate_async(
        &self,
        fairness_key: u64,
        questions: &ExpressionSet,
        scene: &EventContext<'_>,
        answer: AnswerCallback,
    ) {
        self.submit(Priority::Intake, fairness_key, questions, scene, answer);
    }

    /// The same for an event that is stored: no sender waits for the answer, and none waits behind it.
    pub fn evaluate_deferred(
        &self,
        party: u64,
        questions: &ExpressionSet,
        scene: &EventContext<'_>,
        answer: AnswerCallback,
    ) {
        self.submit(Priority::Deferred, party, questions, scene, answer);
    }

    fn submit(
        &self,
        lane: Priority,
        party: u64,
        questions: &ExpressionSet,
        scene: &EventContext<'_>,
        answer: AnswerCallback,
    ) {
        let open = PendingRequest::new(questions, scene);
        let tell: Box<dyn FnOnce(EvaluationOutcome) + Send> = Box::new(move |done| match done {
            EvaluationOutcome::Expressions(answers) => answer(Ok(answers)),
            EvaluationOutcome::Busy | EvaluationOutcome::Outputs(_) => answer(Err(Busy)),
        });
        if open.is_empty() {
            tell(open.finish().map_or(EvaluationOutcome::Busy, EvaluationOutcome::Expressions));
            return;
        }
        self.0.enqueue(party, lane, RequestKind::Expressions(open), scene, tell);
    }

    /// Asks and waits.
    ///
    /// # Errors
    /// No process was free in time.
    pub fn evaluate(
        &self,
        party: u64,
        questions: &ExpressionSet,
        scene: &EventContext<'_>,
    ) -> Result<EvaluationResult, Busy> {
        let (tell, told) = crossbeam_channel::bounded(1);
        let answer = Box::new(move |answers| drop(tell.send(answers)));
        self.evaluate_deferred(party, questions, scene, answer);
        told.recv().unwrap_or(Err(Busy))
    }

    /// The first output as JSON text, for `transform`; or the reason why there is none. Waits.
    ///
    /// # Errors
    /// No process was free in time: that says nothing of the expression.
    pub fn transform(
        &self,
        party: u64,
        expression: &Expression,
        scene: &EventContext<'_>,
    ) -> Result<Result<Vec<u8>, String>, Busy> {
        if let Some(output) = expression.evaluate_inline(scene) {
            return Ok(output);
        }
        let outputs = self.0.outputs(party, Priority::Transform, expression, scene, 1)?;
        Ok(outputs.and_then(|all| all.into_iter().next().ok_or_else(|| NOTHING.to_owned())))
    }

    /// The first 10,000 outputs, each as JSON text, for `eval`. Waits.
    ///
    /// # Errors
    /// The reason why there are none.
    pub fn outputs(
        &self,
        party: u64,
        expression: &Expression,
        scene: &EventContext<'_>,
    ) -> Result<Vec<Vec<u8>>, String> {
        let outputs = self.0.outputs(party, Priority::Intake, expression, scene, OUTPUTS_MAX);
        outputs.unwrap_or_else(|Busy| Err(self.busy_reason()))
    }

    /// Why nobody answered, as far as it is known.
    pub fn busy_reason(&self) -> String {
        self.0.queue.start_error().unwrap_or_else(|| BUSY.to_owned())
    }
}

impl EvaluatorPoolInner {
    fn outputs(
        &self,
        party: u64,
        lane: Priority,
        expression: &Expression,
        scene: &EventContext<'_>,
        max: u32,
    ) -> Result<Result<Vec<Vec<u8>>, String>, Busy> {
        let (tell, told) = crossbeam_channel::bounded(1);
        let what = RequestKind::Outputs { expression: expression.clone(), max };
        self.enqueue(party, lane, what, scene, Box::new(move |done| drop(tell.send(done))));
        let items = match told.recv() {
            Ok(EvaluationOutcome::Outputs(outputs)) => outputs,
            Ok(EvaluationOutcome::Expressions(_) | EvaluationOutcome::Busy) | Err(_) => {
                return Err(Busy);
            }
        };
        Ok(items.and_then(|items| {
            let output = |at| {
                let mut item = Vec::new();
                items.get(at, &mut item).map_err(|e| format!("its output can't be read: {e}"))?;
                Ok(item)
            };
            (0..items.len()).map(output).collect()
        }))
    }

    fn enqueue(
        &self,
        party: u64,
        lane: Priority,
        what: RequestKind,
        scene: &EventContext<'_>,
        tell: Box<dyn FnOnce(EvaluationOutcome) + Send>,
    ) {
        let mut put = Encoder::default();
        put.scene(scene);
        let (since, tell) = (Instant::now(), Some(tell));
        let job = EvaluationRequest {
            fairness_key: party,
            priority: lane,
            kind: what,
            encoded_event: put.0,
            queued_at: since,
            started_at: None,
            lost_processes: 0,
            killed_processes: 0,
            callback: tell,
        };
        if self.queue.enqueue(job) && !self.start_thread(lane) {
            self.queue.on_thread_failed(lane);
        }
    }

    fn start_thread(&self, lane: Priority) -> bool {
        let (program, queue, folder) =
            (self.program.clone(), Arc::clone(&self.queue), self.folder.clone());
        let slot = EvaluatorThread { queue, lane, program, folder };
        let thread = std::thread::Builder::new().name("expression".into());
        match thread.spawn(move || slot.run()) {
            Ok(thread) => {
                self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
                true
            }
            Err(e) => {
                log::warn!("expressions: no thread to be had: {e}");
                false
            }
        }
    }
}

impl Drop for EvaluatorPoolInner {
    fn drop(&mut self) {
        self.queue.close();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // The last clone may be dropped by who was told something, on one of them.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}
