//! Real processes, each ending in its own way.

use std::ffi::OsString;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::*;

mod ends;
mod strays;

/// A program that was not started before, under a mark of its own.
fn sh(script: &str) -> Program {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    Program {
        path: "/bin/sh".into(),
        args: ["sh", "-c", script].map(String::from).to_vec(),
        env: vec![("PATH".into(), OsString::from("/usr/local/bin:/usr/bin:/bin"))],
        directory: "/".into(),
        mark: format!("test{}.{number}.1", std::process::id()),
    }
}

/// Longer than any test may take.
const BOUNDS: Bounds = Bounds {
    timeout: Duration::from_secs(120),
    grace: Duration::from_secs(120),
    output_bytes_max: 64 << 10,
};

/// Runs it unhurried, without input.
fn run_of(program: &Program) -> Over {
    become_subreaper().unwrap();
    run(program, b"", BOUNDS, &Stop::new().unwrap(), &mut |_| Note::Noted)
}

/// Runs it until it says something on descriptor 3, then stops it.
fn stopped_when_ready(program: &Program, grace: Duration) -> Over {
    become_subreaper().unwrap();
    let stop = Stop::new().unwrap();
    run(program, b"", Bounds { grace, ..BOUNDS }, &stop, &mut |_| {
        stop.set();
        Note::Noted
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

fn exists(pid: &str) -> bool {
    assert!(pid.parse::<u32>().is_ok(), "not a process number: {pid:?}");
    Path::new("/proc").join(pid).exists()
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        std::thread::yield_now();
    }
}

/// Runs the test `name` in a process of its own, where nobody else opens files or starts anything.
fn alone(name: &str, test: impl FnOnce()) {
    if std::env::var_os("HOOKTRAIL_TEST_ALONE").is_some() {
        return test();
    }
    let test = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("process::tests::{name}"), "--nocapture"])
        .env("HOOKTRAIL_TEST_ALONE", "1")
        .output()
        .unwrap();
    assert!(test.status.success(), "{}{}", text(&test.stdout), text(&test.stderr));
    assert!(text(&test.stdout).contains("1 passed"), "no such test: {name}");
}
