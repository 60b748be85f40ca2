//! Many runs at once, over and over: nothing is left behind.

use std::fs;

use super::{ExitReason, alone, sh};

#[test]
fn two_hundred_runs_leave_no_process_and_no_descriptor() {
    alone("concurrency::two_hundred_runs_leave_no_process_and_no_descriptor", two_hundred_runs);
}

fn two_hundred_runs() {
    // The first run opens what stays open.
    assert_eq!(sh("exit 0").exit(), ExitReason::Code(0));
    let before = open();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || (0..25).for_each(|round| one(thread * 25 + round)));
        }
    });
    assert_eq!(open(), before);
    assert_eq!(children(), "");
}

/// Each ends in another way.
fn one(number: i32) {
    let (trial, exit) = match number % 5 {
        0 => (sh("cat > /dev/null; exit 3").input(&[b'x'; 100_000]), ExitReason::Code(3)),
        1 => (sh("sleep 1000 & exit 0"), ExitReason::Code(0)),
        2 => (sh("(setsid sleep 1000 &); exit 0"), ExitReason::Code(0)),
        3 => (sh("exec sleep 1000").timeout_ms(20), ExitReason::TimedOut),
        _ => {
            let mut trial = sh("exit 0");
            trial.program.directory = "/no/such".into();
            let why = "/no/such: there is no such directory".to_owned();
            (trial, ExitReason::NotStarted(why))
        }
    };
    assert_eq!(trial.exit(), exit);
}

/// Open descriptors.
fn open() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Children of all threads.
fn children() -> String {
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let lists = threads.map(|thread| thread.unwrap().path().join("children"));
    lists.map(|list| fs::read_to_string(list).unwrap_or_default()).collect()
}
