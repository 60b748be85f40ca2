//! What becomes of a process while it holds no job.

use super::*;

#[test]
fn one_that_ends_meanwhile_is_replaced_and_no_job_is_harmed() {
    let trial = each("ok; until [ -e end ]; do sleep 0.01; done; exit 7");
    let first = trial.process(1);
    trial.write("end");
    until("it has ended and was reaped", || !is_alive(&first));
    assert_ne!(trial.process(2), first);
}

#[test]
fn what_one_that_ends_meanwhile_had_started_is_ended_too() {
    let trial = each(
        "sleep 1000 & echo $! > pids; setsid sh -c 'echo $$ >> pids; exec sleep 1000' &
         until [ $(wc -l < pids) = 2 ]; do sleep 0.01; done; ok; exit 7",
    );
    trial.process(1);
    let pids = trial.file("pids");
    assert_eq!(pids.lines().count(), 2);
    until("they are gone", || !pids.lines().any(is_alive));
}

#[test]
fn one_that_says_what_it_was_not_asked_for_is_replaced_and_no_job_is_harmed() {
    for extra in ["ok", "echo garbage", "printf part", "exec 1>&-"] {
        let trial = each(&format!(
            "[ $job != 1 ] || {{ ok; until [ -e more ]; do sleep 0.01; done; {extra}; : > said
               read -r line; }}; ok"
        ));
        let first = trial.process(1);
        trial.write("more");
        until("it was said", || trial.path().join("said").exists());
        assert_ne!(trial.process(2), first, "{extra}");
        until("it is gone", || !is_alive(&first));
    }
}

#[test]
fn one_that_closes_its_stdin_is_replaced_and_no_job_is_harmed() {
    let trial = each("ok; [ $job != 1 ] || { exec 0<&-; : > closed; exec sleep 1000; }");
    let first = trial.process(1);
    until("it is closed", || trial.path().join("closed").exists());
    assert_ne!(trial.process(2), first);
}

#[test]
fn one_that_writes_more_than_a_pipe_holds_goes_on_with_the_next_job() {
    let trial = each("ok; [ $job != 1 ] || head -c 1000000 /dev/zero | tr '\\0' x >&2");
    let first = trial.process(1);
    assert_eq!(trial.process(2), first);
}

#[test]
fn when_nothing_is_kept_any_more_all_end_by_the_end_of_their_input() {
    let trial =
        whole(&format!("{ANSWERS}\nwhile read -r line; do of_line; ok; done; echo $$ > bye"));
    let first = trial.process(1);
    trial.stream.close();
    until("it saw the end of its input", || trial.file("bye").trim() == first);
    assert!(wait_for_drained(Duration::from_secs(60)));
    until("it is gone", || !is_alive(&first));
    // A job that was claimed before is still run, and its process not kept.
    let second = trial.process(2);
    until("it is gone", || !is_alive(&second));
}

#[test]
fn what_does_not_end_by_the_end_of_its_input_is_killed_with_its_group() {
    let trial = whole(&format!(
        "{ANSWERS}\nsleep 1000 & echo $! > child; trap '' TERM
         while :; do if read -r line; then of_line; ok; else sleep 0.1; fi; done"
    ));
    let first = trial.process(1);
    let child = trial.file("child");
    let began = Instant::now();
    trial.stream.close();
    // Whoever lets go of it does not wait.
    assert!(began.elapsed() < crate::process::GRACE, "{:?}", began.elapsed());
    until("they are gone", || !is_alive(&first) && !is_alive(&child));
    assert!(began.elapsed() >= crate::process::GRACE, "{:?}", began.elapsed());
}
