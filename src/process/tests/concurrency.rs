//! Concurrent runs leave no processes and no descriptors behind.

use std::fs;
use std::sync::Arc;

use super::{ExitReason, Supervisor, in_own_process, sh};

#[test]
fn two_hundred_runs_leave_no_process_and_no_descriptor() {
    in_own_process(
        "concurrency::two_hundred_runs_leave_no_process_and_no_descriptor",
        two_hundred_runs,
    );
}

fn two_hundred_runs() {
    // The first run opens descriptors that stay open.
    assert_eq!(sh("exit 0").exit(), ExitReason::Code(0));
    let supervisor = &Supervisor::new("concurrency");
    let before = open_descriptors();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let run_all = move || {
                (0..25).for_each(|round| run_one(supervisor, thread * 25 + round));
            };
            scope.spawn(run_all);
        }
    });
    assert_eq!(open_descriptors(), before);
    assert_eq!(children(), "");
}

/// Runs one process. Consecutive numbers end in different ways.
fn run_one(supervisor: &Arc<Supervisor>, number: i32) {
    let (test_run, exit) = match number % 5 {
        0 => (sh("cat > /dev/null; exit 3").input(&[b'x'; 100_000]), ExitReason::Code(3)),
        1 => (sh("sleep 1000 & exit 0"), ExitReason::Code(0)),
        2 => (sh("(setsid sleep 1000 &); exit 0"), ExitReason::Code(0)),
        3 => (sh("exec sleep 1000").timeout_ms(20), ExitReason::TimedOut),
        _ => {
            let mut test_run = sh("exit 0");
            test_run.command.directory = "/no/such".into();
            let reason = "/no/such: there is no such directory".to_owned();
            (test_run, ExitReason::NotStarted(reason))
        }
    };
    assert_eq!(test_run.owner(supervisor).exit(), exit);
}

/// Returns the number of open descriptors.
fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Returns the children of all threads.
fn children() -> String {
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let lists = threads.map(|thread| thread.unwrap().path().join("children"));
    lists.map(|list| fs::read_to_string(list).unwrap_or_default()).collect()
}
