//! What `run` promises, with real processes: `sh("exit 7").run()` reads as what it does.
//!
//! Waiting is on a condition with a deadline (`until`), never for a time.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{
    CancelToken, CommandSpec, ControlLine, ExitReason, RunLimits, RunResult, become_subreaper, run,
};

mod concurrency;
mod control_lines;
mod orphan_ownership;
mod orphans;
mod spawn_errors;
mod streams;
mod termination;

/// How long anything may take before a test gives up on it.
const DEADLINE: Duration = Duration::from_secs(60);

/// For runs that are not to end by it.
const LONG: Duration = Duration::from_secs(600);

/// Asks until it is so.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// A run in the making, in a folder of its own.
struct Trial {
    folder: TempDir,
    program: CommandSpec,
    input: Vec<u8>,
    bounds: RunLimits,
    stop: CancelToken,
}

/// A shell script.
fn sh(script: &str) -> Trial {
    program("/bin/sh", &["sh", "-c", script])
}

fn program(path: impl Into<PathBuf>, args: &[&str]) -> Trial {
    let folder = tempfile::tempdir().unwrap();
    let program = CommandSpec {
        path: path.into(),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        env: vec![("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".into())],
        directory: folder.path().to_owned(),
        // No other run's.
        mark: format!("test{}.1.1", folder.path().display()),
    };
    let bounds =
        RunLimits { timeout: LONG, grace: LONG, max_output_bytes: 64 << 10, start_bytes_max: 0 };
    Trial { folder, program, input: Vec::new(), bounds, stop: CancelToken::new().unwrap() }
}

impl Trial {
    fn input(mut self, bytes: &[u8]) -> Self {
        self.input = bytes.to_vec();
        self
    }

    fn timeout_ms(mut self, ms: u64) -> Self {
        self.bounds.timeout = Duration::from_millis(ms);
        self
    }

    fn grace_ms(mut self, ms: u64) -> Self {
        self.bounds.grace = Duration::from_millis(ms);
        self
    }

    fn keep(mut self, bytes: usize) -> Self {
        self.bounds.max_output_bytes = bytes;
        self
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A file in its folder; nothing where there is none.
    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap_or_default()
    }

    fn run(&self) -> RunResult {
        self.run_with(&mut |_| ControlLine::Noted)
    }

    fn run_with(&self, note: &mut dyn FnMut(&[u8]) -> ControlLine) -> RunResult {
        become_subreaper().unwrap();
        run(&self.program, &self.input, self.bounds, &self.stop, note)
    }

    fn exit(&self) -> ExitReason {
        self.run().exit
    }

    /// Runs it, and stops it when `name` is there.
    fn stopped_when(&self, name: &str) -> RunResult {
        std::thread::scope(|scope| {
            let over = scope.spawn(|| self.run());
            until(&format!("{name} is there"), || self.path().join(name).exists());
            self.stop.set();
            over.join().unwrap()
        })
    }
}

/// Whether there is such a process, ended ones that wait to be reaped included.
fn exists(pid: &str) -> bool {
    assert!(pid.trim().parse::<u32>().is_ok(), "{pid:?} is no process's number");
    Path::new("/proc").join(pid.trim()).exists()
}

/// Runs the test `name` in a process of its own, where no other test opens or starts anything.
fn alone(name: &str, test: impl FnOnce()) {
    const ALONE: &str = "HOOKTRAIL_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return test();
    }
    let name = format!("process::tests::{name}");
    let mut own = std::process::Command::new(std::env::current_exe().unwrap());
    let output = own.args(["--exact", &name]).env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}
