//! Tests of processes that end while they hold a job: by exit, timeout or cancellation.

use super::*;

#[test]
fn a_process_that_exits_fails_its_job_and_is_replaced() {
    for (script, detail) in [
        ("exit 7", "exit 7"),
        ("echo why >&2; exit 7", "exit 7: why"),
        ("echo why >&2; exit 65", "exit 65: why"),
        ("exit 0", "exit 0 without a response"),
        ("kill -SEGV $$", "signal 11"),
        ("kill -KILL $$", "signal 9"),
        ("printf '{\"job\":2,\"outc'; exit 1", "exit 1"),
        ("echo said >&3; exit 1", "exit 1: said"),
    ] {
        let harness = handler_per_line(&format!("[ $job != 2 ] || {{ {script}; }}; ok"));
        let first = harness.process_of(1);
        let result = harness.run(2);
        assert_eq!((result.outcome, result.is_permanent), (Outcome::Failed, false), "{script}");
        assert_eq!(result.detail, detail, "{script}");
        assert_ne!(harness.process_of(3), first);
        assert!(!process_exists(&first));
    }
}

#[test]
fn a_response_counts_even_if_the_process_exits_right_after_it() {
    let harness = handler_per_line("ok; exit 7");
    let processes: Vec<String> = (1..=5).map(|job| harness.process_of(job)).collect();
    assert!(processes.windows(2).all(|two| two[0] != two[1]), "{processes:?}");
    // The last line may lack its newline.
    let harness = handler_per_line("printf %s \"$(ok)\"; exit 1");
    harness.process_of(1);
    harness.process_of(2);
}

#[test]
fn a_job_that_was_not_read_runs_on_another_process() {
    // The unread bytes in the pipe show this, even if the line does not fit into the pipe.
    let large = format!("{:?}", "x".repeat(200_000));
    for body in ["{}", large.as_str()] {
        let harness =
            handler_per_line("ok; until [ -e 2 ]; do :; done; rm 2; exit 7").body(body.as_bytes());
        harness.process_of(1);
        for job in 2..6 {
            harness.write("2");
            harness.process_of(job);
        }
    }
    // A process that never responded may have caused the failure itself, so the job fails.
    handler_script("exit 7").check(1, Outcome::Failed, "exit 7");
}

#[test]
fn the_backoff_delays_starts_after_processes_that_never_responded() {
    let began = Instant::now();
    let harness = handler_per_line("exit 7");
    for _ in 0..3 {
        harness.check(1, Outcome::Failed, "exit 7");
    }
    // 0.1 s before the second, 0.2 s before the third.
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
}

#[test]
fn a_command_that_can_not_be_started_fails_and_can_start_later() {
    let mut harness = handler_per_line("ok");
    let command = std::mem::replace(
        &mut command_of(&mut harness.handler).args,
        vec!["no-such-program".into()],
    );
    let result = harness.run(1);
    assert_eq!(result.outcome, Outcome::Failed);
    assert!(
        result.detail.starts_with("not started: no-such-program: no such"),
        "{}",
        result.detail
    );
    command_of(&mut harness.handler).args = command;
    harness.process_of(1);
}

#[test]
fn a_process_without_a_response_times_out_and_is_killed() {
    let harness = handler_per_line("[ $job != 2 ] || { echo stuck >&2; exec sleep 1000; }; ok")
        .timeout_ms(700);
    let first = harness.process_of(1);
    let result = harness.run(2);
    assert_eq!((result.outcome, result.stderr), (Outcome::TimedOut, b"stuck\n".to_vec()));
    assert_eq!(result.detail, "timeout 700ms: stuck");
    assert!(!process_exists(&first));
    harness.process_of(3);
}

#[test]
fn a_response_after_the_timeout_does_not_count() {
    let harness =
        handler_per_line("trap 'ok; exit 0' TERM; while :; do sleep 0.01; done").timeout_ms(500);
    assert_eq!(harness.run(1).outcome, Outcome::TimedOut);
}

#[test]
fn a_process_that_ignores_sigterm_is_killed_after_the_grace() {
    let began = Instant::now();
    let mut harness = handler_per_line("trap '' TERM; echo $$ > pid; while :; do sleep 0.01; done");
    harness.runner.grace = Duration::from_millis(200);
    let harness = harness.timeout_ms(300);
    harness.check(1, Outcome::TimedOut, "timeout 300ms");
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
    assert!(!process_exists(&harness.file("pid")));
}

#[test]
fn a_process_that_never_reads_its_input_times_out() {
    let large = format!("{:?}", "x".repeat(1_000_000));
    for body in ["{}", large.as_str()] {
        let harness = handler_script("exec sleep 1000").body(body.as_bytes()).timeout_ms(300);
        harness.check(1, Outcome::TimedOut, "timeout 300ms");
    }
}

#[test]
fn a_process_that_closes_stdin_or_stdout_fails_its_job_soon() {
    let pipe_closed = "closed its stdin or its stdout before it responded";
    let large = format!("{:?}", "x".repeat(1_000_000));
    for script in ["exec 1>&-; exec sleep 1000", "exec 0<&-; exec sleep 1000"] {
        let harness = handler_script(script).body(large.as_bytes());
        harness.check(1, Outcome::Failed, pipe_closed);
    }
    handler_per_line("exec 1>&-; exec sleep 1000").check(1, Outcome::Failed, pipe_closed);
}

#[test]
fn a_cancelled_job_is_interrupted_and_all_its_processes_are_killed() {
    let harness = handler_per_line(
        "sleep 1000 & echo $! >> pids; setsid sh -c 'echo $$ >> pids; exec sleep 1000' &
         echo $$ >> pids; until [ $(wc -l < pids) -ge 3 ]; do sleep 0.01; done; : > up; wait",
    );
    let result = std::thread::scope(|scope| {
        let run = scope.spawn(|| harness.run(1));
        until("it runs", || harness.path().join("up").exists());
        harness.stop.cancel();
        run.join().unwrap()
    });
    assert_eq!((result.outcome, result.detail.as_str()), (Outcome::Interrupted, "stopped"));
    for pid in harness.file("pids").lines() {
        assert!(!process_exists(pid), "{pid} is still there");
    }
    assert_eq!(harness.run(2).outcome, Outcome::Interrupted);
}

#[test]
fn a_job_that_waits_for_the_backoff_can_be_cancelled() {
    let harness = handler_per_line("exit 7");
    // The wait grows with each failure.
    for _ in 0..4 {
        harness.check(1, Outcome::Failed, "exit 7");
    }
    std::thread::scope(|scope| {
        let run = scope.spawn(|| harness.run(1));
        harness.stop.cancel();
        assert_eq!(run.join().unwrap().outcome, Outcome::Interrupted);
    });
}

#[test]
fn children_live_as_long_as_their_own_process() {
    let script = "(setsid sh -c 'echo $$ > orphan; exec sleep 1000' &)
                  sleep 1000 & echo $! > child
                  until [ -s orphan ]; do sleep 0.01; done; ok";
    let harness =
        handler_per_line(&format!("[ -e child ] || {{ {script}; continue; }}; ok; exit 0"));
    harness.process_of(1);
    let other = handler_per_line("exit 7");
    other.check(1, Outcome::Failed, "exit 7");
    let (orphan, child) = (harness.file("orphan"), harness.file("child"));
    assert!(process_exists(&orphan) && process_exists(&child), "another process's end ended them");
    harness.process_of(2);
    until("they are gone", || !process_exists(&orphan) && !process_exists(&child));
}
