//! Ends: of a process while it holds a job, by timeout, by a stop; and what it started.

use super::*;

#[test]
fn a_process_that_dies_fails_the_job_it_holds_and_the_next_gets_another() {
    for (script, detail) in [
        ("exit 7", "exit 7"),
        ("echo why >&2; exit 7", "exit 7: why"),
        ("echo why >&2; exit 65", "exit 65: why"),
        ("exit 0", "exit 0 without an answer"),
        ("kill -SEGV $$", "signal 11"),
        ("kill -KILL $$", "signal 9"),
        ("printf '{\"job\":2,\"outc'; exit 1", "exit 1"),
        ("echo said >&3; exit 1", "exit 1: said"),
    ] {
        let trial = each(&format!("[ $job != 2 ] || {{ {script}; }}; ok"));
        let first = trial.process(1);
        let ended = trial.run(2);
        assert_eq!((ended.outcome, ended.is_permanent), (Outcome::Failed, false), "{script}");
        assert_eq!(ended.detail, detail, "{script}");
        assert_ne!(trial.process(3), first);
        assert!(!is_alive(&first));
    }
}

#[test]
fn an_answer_counts_although_the_process_dies_right_after_it() {
    let trial = each("ok; exit 7");
    let processes: Vec<String> = (1..=5).map(|job| trial.process(job)).collect();
    assert!(processes.windows(2).all(|two| two[0] != two[1]), "{processes:?}");
    // The last line may lack its end.
    let trial = each("printf %s \"$(ok)\"; exit 1");
    trial.process(1);
    trial.process(2);
}

#[test]
fn a_process_that_ends_before_it_reads_a_job_has_not_begun_with_it() {
    // Told apart by what is left in the pipe, also where the line does not fit into it.
    let large = format!("{:?}", "x".repeat(200_000));
    for body in ["{}", large.as_str()] {
        let trial = each("ok; until [ -e 2 ]; do :; done; rm 2; exit 7").body(body.as_bytes());
        trial.process(1);
        for job in 2..6 {
            trial.write("2");
            trial.process(job);
        }
    }
    // One that has never been of use may be to blame all the same.
    whole("exit 7").check(1, Outcome::Failed, "exit 7");
}

#[test]
fn a_process_that_was_of_use_is_replaced_at_once_and_another_is_not() {
    let began = Instant::now();
    let trial = each("exit 7");
    for _ in 0..3 {
        trial.check(1, Outcome::Failed, "exit 7");
    }
    // 0.1 s before the second, 0.2 s before the third.
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
}

#[test]
fn what_can_not_be_started_says_why_and_is_tried_again_later() {
    let mut trial = each("ok");
    let command = std::mem::replace(&mut trial.handler.command, vec!["no-such-program".into()]);
    let ended = trial.run(1);
    assert_eq!(ended.outcome, Outcome::Failed);
    assert!(ended.detail.starts_with("not started: no-such-program: no such"), "{}", ended.detail);
    trial.handler.command = command;
    trial.process(1);
}

#[test]
fn silence_past_the_timeout_is_timed_out_and_the_process_is_gone() {
    let trial = each("[ $job != 2 ] || { echo stuck >&2; exec sleep 1000; }; ok").timeout_ms(700);
    let first = trial.process(1);
    let ended = trial.run(2);
    assert_eq!((ended.outcome, ended.stderr), (Outcome::TimedOut, b"stuck\n".to_vec()));
    assert_eq!(ended.detail, "timeout 700ms: stuck");
    assert!(!is_alive(&first));
    trial.process(3);
}

#[test]
fn an_answer_after_the_timeout_does_not_count() {
    let trial = each("trap 'ok; exit 0' TERM; while :; do sleep 0.01; done").timeout_ms(500);
    assert_eq!(trial.run(1).outcome, Outcome::TimedOut);
}

#[test]
fn a_process_that_ignores_sigterm_is_killed_after_the_grace() {
    let began = Instant::now();
    let mut trial = each("trap '' TERM; echo $$ > pid; while :; do sleep 0.01; done");
    trial.stream.grace = Duration::from_millis(200);
    let trial = trial.timeout_ms(300);
    trial.check(1, Outcome::TimedOut, "timeout 300ms");
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
    assert!(!is_alive(&trial.file("pid")));
}

#[test]
fn a_process_that_never_reads_its_input_times_out() {
    let large = format!("{:?}", "x".repeat(1_000_000));
    for body in ["{}", large.as_str()] {
        let trial = whole("exec sleep 1000").body(body.as_bytes()).timeout_ms(300);
        trial.check(1, Outcome::TimedOut, "timeout 300ms");
    }
}

#[test]
fn a_process_that_can_not_be_asked_or_can_not_answer_fails_its_job_without_waiting_for_long() {
    let deaf = "closed its stdin or its stdout before it answered";
    let large = format!("{:?}", "x".repeat(1_000_000));
    for script in ["exec 1>&-; exec sleep 1000", "exec 0<&-; exec sleep 1000"] {
        let trial = whole(script).body(large.as_bytes());
        trial.check(1, Outcome::Failed, deaf);
    }
    each("exec 1>&-; exec sleep 1000").check(1, Outcome::Failed, deaf);
}

#[test]
fn a_stop_ends_all_that_was_started_and_the_job_is_interrupted() {
    let trial = each(
        "sleep 1000 & echo $! >> pids; setsid sh -c 'echo $$ >> pids; exec sleep 1000' &
         echo $$ >> pids; until [ $(wc -l < pids) -ge 3 ]; do sleep 0.01; done; : > up; wait",
    );
    let ended = std::thread::scope(|scope| {
        let run = scope.spawn(|| trial.run(1));
        until("it runs", || trial.path().join("up").exists());
        trial.stop.set();
        run.join().unwrap()
    });
    assert_eq!((ended.outcome, ended.detail.as_str()), (Outcome::Interrupted, "stopped"));
    for pid in trial.file("pids").lines() {
        assert!(!is_alive(pid), "{pid} is still there");
    }
    assert_eq!(trial.run(2).outcome, Outcome::Interrupted);
}

#[test]
fn who_waits_for_a_start_hears_a_stop() {
    let trial = each("exit 7");
    // The more were lost, the longer the wait.
    for _ in 0..4 {
        trial.check(1, Outcome::Failed, "exit 7");
    }
    std::thread::scope(|scope| {
        let run = scope.spawn(|| trial.run(1));
        trial.stop.set();
        assert_eq!(run.join().unwrap().outcome, Outcome::Interrupted);
    });
}

#[test]
fn children_live_as_long_as_their_process_whatever_else_ends() {
    let script = "(setsid sh -c 'echo $$ > stray; exec sleep 1000' &)
                  sleep 1000 & echo $! > child
                  until [ -s stray ]; do sleep 0.01; done; ok";
    let trial = each(&format!("[ -e child ] || {{ {script}; continue; }}; ok; exit 0"));
    trial.process(1);
    let other = each("exit 7");
    other.check(1, Outcome::Failed, "exit 7");
    let (stray, child) = (trial.file("stray"), trial.file("child"));
    assert!(is_alive(&stray) && is_alive(&child), "another process's end ended them");
    trial.process(2);
    until("they are gone", || !is_alive(&stray) && !is_alive(&child));
}
