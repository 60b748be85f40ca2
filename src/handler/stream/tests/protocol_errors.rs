//! What a process may not say: its attempt has failed, and it is replaced.

use super::*;

/// For job 2 a process does this; it is replaced, and no other job is harmed.
#[track_caller]
fn check(script: &str, detail: &str) {
    let trial = each(&format!("[ $job != 2 ] || {{ {script}; continue; }}; ok"));
    let first = trial.process(1);
    trial.check(2, Outcome::Failed, detail);
    assert!(!is_alive(&first), "{script}: it goes on");
    assert_ne!(trial.process(3), first, "{script}");
}

#[test]
fn garbage_is_no_answer() {
    let no_answer = |shown: &str| format!("answered with what is no answer: {shown}");
    for line in [
        "done",
        "{\"job\":2}",
        "{\"outcome\":\"succeeded\"}",
        "{\"job\":2,\"outcome\":\"timed_out\"}",
        "{\"job\":\"2\",\"outcome\":\"succeeded\"}",
        "[2,\"succeeded\",null,null]",
        "{\"job\":2,\"outcome\":\"succeeded\"} {}",
        "{\"job\":2,\"job\":3,\"outcome\":\"succeeded\"}",
    ] {
        check(&format!("echo '{line}'"), &no_answer(line));
    }
    check("echo garbage; ok", &no_answer("garbage"));
    check("printf '\\033[1m\\377\\n'; ok", &no_answer("[1m\u{fffd}"));
    let answer = "{\"job\":2,\"outcome\":\"succeeded\"}";
    check(&format!("printf '{answer}\\0\\n'"), &no_answer(answer));
    check("echo why >&2; echo x", &format!("{}: why", no_answer("x")));
}

#[test]
fn an_answer_for_another_job_is_none() {
    check("job=1; ok", "answered for job 1, which it does not hold");
    check("job=9; ok", "answered for job 9, which it does not hold");
    check("job=-2; ok", "answered for job -2, which it does not hold");
    check("job=9; echo \"$(ok; job=2; ok)\"", "answered for job 9, which it does not hold");
}

#[test]
fn who_answers_before_it_has_read_its_line_is_replaced() {
    let trial = whole(
        "got=$(dd bs=2000 count=1 2>&-); job=${got#*\\\"job\\\":}; job=${job%%,*}
        echo \"{\\\"job\\\":$job,\\\"outcome\\\":\\\"succeeded\\\",\\\"detail\\\":\\\"$$\\\"}\"; exec sleep 1000",
    )
    .body(&[b'x'; 1 << 20]);
    let first = trial.process(1);
    assert!(!is_alive(&first), "it goes on");
    assert_ne!(trial.process(2), first);
}

#[test]
fn two_answers_are_none() {
    check("x=$(ok; ok); echo \"$x\"", "answered twice for job 2");
    check("x=$(ok; answer failed); echo \"$x\"", "answered twice for job 2");
    check("x=$(ok; echo x); echo \"$x\"", "answered with what is no answer: x");
}

#[test]
fn a_flood_on_stdout_is_no_answer() {
    let long = "answered with a line of over 1 MiB";
    check("tr '\\0' x < /dev/zero", long);
    check(
        "{ printf '{\"job\":2,\"detail\":\"'; head -c 2000000 /dev/zero | tr '\\0' x
           echo '\",\"outcome\":\"succeeded\"}'; }",
        long,
    );
    check("yes", "answered with what is no answer: y");
}

#[test]
fn an_answer_of_1_mib_is_one_and_a_byte_more_is_too_long() {
    let (start, end) = (r#"{"job":1,"detail":""#, r#"","outcome":"succeeded"}"#);
    let answer = |bytes: usize| {
        let detail = bytes - start.len() - end.len();
        format!(
            "printf '{{\"job\":'$job',\"detail\":\"'; head -c {detail} /dev/zero | tr '\\0' x
             echo '{end}'"
        )
    };
    check(&answer((1 << 20) + 1), "answered with a line of over 1 MiB");
    let trial = each(&answer(1 << 20));
    for job in 1..3 {
        let ended = trial.run(job);
        assert_eq!((ended.outcome, ended.detail.len()), (Outcome::Succeeded, 500));
    }
}

#[test]
fn a_flood_on_stderr_or_descriptor_3_is_no_fault() {
    let flood = "head -c 10000000 /dev/zero | tr '\\0' x";
    let trial = each(&format!("{flood} >&2; {flood} >&3; echo end >&2; ok"));
    for job in 1..3 {
        let ended = trial.run(job);
        assert_eq!(ended.outcome, Outcome::Succeeded);
        assert_eq!(ended.stderr.len(), trial.handler.max_output_bytes);
        assert!(ended.stderr.ends_with(b"xend\n"));
    }
}
