//! Tests of processes that hold no job.

use super::*;

#[test]
fn an_idle_process_that_ends_is_replaced_without_a_failed_job() {
    let harness = handler_per_line("ok; until [ -e end ]; do sleep 0.01; done; exit 7");
    let first = harness.process_of(1);
    harness.write("end");
    until("it has ended and was reaped", || !process_exists(&first));
    assert_ne!(harness.process_of(2), first);
}

#[test]
fn children_of_an_idle_process_that_ends_are_killed() {
    let harness = handler_per_line(
        "sleep 1000 & echo $! > pids; setsid sh -c 'echo $$ >> pids; exec sleep 1000' &
         until [ $(wc -l < pids) = 2 ]; do sleep 0.01; done; ok; exit 7",
    );
    harness.process_of(1);
    let pids = harness.file("pids");
    assert_eq!(pids.lines().count(), 2);
    until("they are gone", || !pids.lines().any(process_exists));
}

#[test]
fn an_idle_process_that_writes_to_stdout_is_replaced_without_a_failed_job() {
    for extra in ["ok", "echo garbage", "printf part", "exec 1>&-"] {
        let harness = handler_per_line(&format!(
            "[ $job != 1 ] || {{ ok; until [ -e more ]; do sleep 0.01; done; {extra}; : > written
               read -r line; }}; ok"
        ));
        let first = harness.process_of(1);
        harness.write("more");
        until("it wrote its output", || harness.path().join("written").exists());
        assert_ne!(harness.process_of(2), first, "{extra}");
        until("it is gone", || !process_exists(&first));
    }
}

#[test]
fn an_idle_process_that_closes_stdin_is_replaced_without_a_failed_job() {
    let harness =
        handler_per_line("ok; [ $job != 1 ] || { exec 0<&-; : > closed; exec sleep 1000; }");
    let first = harness.process_of(1);
    until("it is closed", || harness.path().join("closed").exists());
    assert_ne!(harness.process_of(2), first);
}

#[test]
fn an_idle_process_that_floods_stderr_runs_the_next_job() {
    let harness =
        handler_per_line("ok; [ $job != 1 ] || head -c 1000000 /dev/zero | tr '\\0' x >&2");
    let first = harness.process_of(1);
    assert_eq!(harness.process_of(2), first);
}

#[test]
fn closing_the_handler_ends_idle_processes_by_the_end_of_their_input() {
    let harness = handler_script("while read -r line; do of_line; ok; done; echo $$ > bye");
    let first = harness.process_of(1);
    harness.runner.close();
    until("it saw the end of its input", || harness.file("bye").trim() == first);
    assert!(harness.supervisor.wait_for_runs(Duration::from_secs(60)));
    until("it is gone", || !process_exists(&first));
    // A job that was claimed before still runs, and its process is not kept.
    let second = harness.process_of(2);
    until("it is gone", || !process_exists(&second));
}

#[test]
fn a_process_that_ignores_the_end_of_its_input_is_killed_with_its_group() {
    let harness = handler_script(
        "sleep 1000 & echo $! > child; trap '' TERM
         while :; do if read -r line; then of_line; ok; else sleep 0.1; fi; done",
    );
    let first = harness.process_of(1);
    let child = harness.file("child");
    let began = Instant::now();
    harness.runner.close();
    // `close` does not wait for the process.
    assert!(began.elapsed() < crate::process::GRACE, "{:?}", began.elapsed());
    until("they are gone", || !process_exists(&first) && !process_exists(&child));
    assert!(began.elapsed() >= crate::process::GRACE, "{:?}", began.elapsed());
}
