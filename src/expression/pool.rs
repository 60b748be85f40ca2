//! Processes of the server's own that evaluate expressions, and always end.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Answers, Expression, Questions, Scene};

/// No process was free in time, or too much waits already: to be answered 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// Told once what came of a question.
pub type Answer = Box<dyn FnOnce(Result<Answers, Busy>) + Send>;

/// Asks processes of this binary; cheap to clone. They are started when there is something to ask,
/// and ended when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Pool {
    _folder: Arc<PathBuf>,
}

impl Pool {
    /// `folder`: where large items are written, to files without a name. `mark`: by what the
    /// processes are known (`HOOKTRAIL_MARK`).
    pub fn new(folder: &Path, _mark: &str) -> Self {
        Self { _folder: Arc::new(folder.to_owned()) }
    }

    /// Asks without waiting; `answer` is called on another thread, or at once where too much waits.
    /// `party`: the source's number; none holds all processes.
    pub fn ask(&self, _party: u64, _questions: &Questions, _scene: &Scene<'_>, answer: Answer) {
        answer(Err(Busy));
    }

    /// Asks and waits, for the command line.
    pub fn ask_and_wait(
        &self,
        party: u64,
        questions: &Questions,
        scene: &Scene<'_>,
    ) -> Result<Answers, Busy> {
        if let Some(answers) = questions.at_once(scene) {
            return Ok(answers);
        }
        let (tell, told) = crossbeam_channel::bounded(1);
        self.ask(party, questions, scene, Box::new(move |answers| drop(tell.send(answers))));
        told.recv().unwrap_or(Err(Busy))
    }

    /// The first output as JSON text, for `transform`. Waits.
    ///
    /// # Errors
    /// The reason why there is none.
    pub fn transform(
        &self,
        party: u64,
        expression: &Expression,
        scene: &Scene<'_>,
    ) -> Result<Vec<u8>, String> {
        let outputs = self.outputs(party, expression, scene)?;
        outputs.into_iter().next().ok_or_else(|| "it gives nothing".to_owned())
    }

    /// All outputs, each as JSON text, for `eval`. Waits.
    ///
    /// # Errors
    /// The reason why there are none.
    pub fn outputs(
        &self,
        _party: u64,
        _expression: &Expression,
        _scene: &Scene<'_>,
    ) -> Result<Vec<Vec<u8>>, String> {
        Err("no process was free for it".to_owned())
    }
}
