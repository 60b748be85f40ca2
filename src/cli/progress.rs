//! The progress of a command that may take long: a line on the terminal, and the signals that interrupt it.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use super::output;

/// A shorter command shows no progress.
const SHOWN_AFTER: Duration = Duration::from_secs(1);

/// The shortest time between two updates of the line.
const UPDATE_INTERVAL: Duration = Duration::from_millis(200);

/// A line on standard error that shows how far a command is. If standard error is no terminal, it shows
/// nothing.
pub struct ProgressLine {
    is_terminal: bool,
    next_update: Instant,
    /// Number of characters of the text that is shown.
    length: usize,
}

impl ProgressLine {
    pub fn new() -> Self {
        let is_terminal = output::raw_stderr().is_terminal();
        Self { is_terminal, next_update: Instant::now() + SHOWN_AFTER, length: 0 }
    }

    /// Shows a new text, unless the last one is recent.
    pub fn update(&mut self, text: impl FnOnce() -> String) {
        if self.is_terminal && Instant::now() >= self.next_update {
            self.next_update = Instant::now() + UPDATE_INTERVAL;
            self.overwrite(&text());
        }
    }

    /// Removes the text, so that other output can follow.
    pub fn clear(&mut self) {
        if self.length > 0 {
            self.overwrite("");
            let _ = write!(output::raw_stderr(), "\r");
        }
    }

    fn overwrite(&mut self, text: &str) {
        let _ = write!(output::raw_stderr(), "\r{text:0$}", self.length);
        self.length = text.chars().count();
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Notices the signals that end a command, such as Ctrl-C, so that it ends after its current transaction
/// and prints a summary. A second signal ends it at once.
pub struct Interruption(Arc<AtomicBool>);

impl Interruption {
    /// # Errors
    /// The system refused the signal handlers.
    pub fn watch() -> io::Result<Self> {
        let is_interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            flag::register_conditional_default(signal, Arc::clone(&is_interrupted))?;
            flag::register(signal, Arc::clone(&is_interrupted))?;
        }
        Ok(Self(is_interrupted))
    }

    /// Returns `Break` after a signal.
    pub fn control_flow(&self) -> ControlFlow<()> {
        match self.0.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}
