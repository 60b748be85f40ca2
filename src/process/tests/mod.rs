//! Tests of `run` with real processes: `sh("exit 7").run()` runs a shell script.
//!
//! Tests wait for a condition with a deadline (`until`), never for a fixed time.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{
    CancelToken, CommandSpec, ControlLine, ExitReason, RunLimits, RunResult, Supervisor, run,
};
use crate::test_support::{DEADLINE, process_exists, until};

mod concurrency;
mod control_lines;
mod environment;
mod orphan_ownership;
mod orphans;
mod streams;
mod supervisors;
mod termination;

/// A timeout that no run reaches.
const LONG: Duration = Duration::from_secs(600);

/// The parameters of a run in a temporary folder.
struct TestRun {
    folder: TempDir,
    command: CommandSpec,
    input: Vec<u8>,
    limits: RunLimits,
    stop: CancelToken,
}

/// Prepares a run of a shell script. It has its own supervisor.
fn sh(script: &str) -> TestRun {
    command("/bin/sh", &["sh", "-c", script])
}

fn command(path: impl Into<PathBuf>, args: &[&str]) -> TestRun {
    let folder = tempfile::tempdir().unwrap();
    // The folder makes the run id unique.
    let supervisor = Supervisor::new(&format!("test{}", folder.path().display()));
    supervisor.become_subreaper().unwrap();
    let command = CommandSpec {
        path: path.into(),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        env: vec![("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".into())],
        directory: folder.path().to_owned(),
        run_id: supervisor.run_id("1.1"),
        supervisor,
    };
    let limits = RunLimits {
        timeout: LONG,
        grace: LONG,
        max_output_bytes: 64 << 10,
        max_stdout_start_bytes: 0,
    };
    TestRun { folder, command, input: Vec::new(), limits, stop: CancelToken::new().unwrap() }
}

impl TestRun {
    /// Lets another supervisor own the process.
    fn owner(mut self, supervisor: &Arc<Supervisor>) -> Self {
        let rest = format!("{}.1", self.path().display());
        self.command.run_id = supervisor.run_id(&rest);
        self.command.supervisor = Arc::clone(supervisor);
        self
    }

    fn input(mut self, bytes: &[u8]) -> Self {
        self.input = bytes.to_vec();
        self
    }

    fn timeout_ms(mut self, ms: u64) -> Self {
        self.limits.timeout = Duration::from_millis(ms);
        self
    }

    fn grace_ms(mut self, ms: u64) -> Self {
        self.limits.grace = Duration::from_millis(ms);
        self
    }

    fn keep_output_bytes(mut self, bytes: usize) -> Self {
        self.limits.max_output_bytes = bytes;
        self
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Reads a file in the folder. A missing file is empty.
    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap_or_default()
    }

    fn run(&self) -> RunResult {
        self.run_with(&mut |_| ControlLine::Message)
    }

    fn run_with(&self, on_control_line: &mut dyn FnMut(&[u8]) -> ControlLine) -> RunResult {
        run(&self.command, &self.input, self.limits, &self.stop, on_control_line)
    }

    fn exit(&self) -> ExitReason {
        self.run().exit
    }

    /// Runs it, and cancels it when the file `name` exists.
    fn cancel_when_file(&self, name: &str) -> RunResult {
        std::thread::scope(|scope| {
            let run = scope.spawn(|| self.run());
            until(&format!("{name} is there"), || self.path().join(name).exists());
            self.stop.cancel();
            run.join().unwrap()
        })
    }
}

/// Runs the test `name` in a separate process, where no other test opens files or starts
/// processes.
fn in_own_process(name: &str, test: impl FnOnce()) {
    const ALONE: &str = "HOOKTRAIL_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return test();
    }
    let name = format!("process::tests::{name}");
    let mut own_binary = std::process::Command::new(std::env::current_exe().unwrap());
    let output = own_binary.args(["--exact", &name]).env(ALONE, "1").output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}");
}
