//! Tests of protocol errors: the attempt fails, and the process is replaced.

use super::*;

/// Runs `script` for job 2. The job must fail with `detail`, and the process must be replaced
/// without harm to other jobs.
#[track_caller]
fn check(script: &str, detail: &str) {
    let harness = handler_per_line(&format!("[ $job != 2 ] || {{ {script}; continue; }}; ok"));
    let first = harness.process_of(1);
    harness.check(2, Outcome::Failed, detail);
    assert!(!process_exists(&first), "{script}: it goes on");
    assert_ne!(harness.process_of(3), first, "{script}");
}

#[test]
fn a_line_that_is_not_a_response_fails_the_job() {
    let invalid_line = |shown: &str| format!("wrote a line that is not a response: {shown}");
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
        check(&format!("echo '{line}'"), &invalid_line(line));
    }
    check("echo garbage; ok", &invalid_line("garbage"));
    check("printf '\\033[1m\\377\\n'; ok", &invalid_line("[1m\u{fffd}"));
    let response = "{\"job\":2,\"outcome\":\"succeeded\"}";
    check(&format!("printf '{response}\\0\\n'"), &invalid_line(response));
    check("echo why >&2; echo x", &format!("{}: why", invalid_line("x")));
}

#[test]
fn a_response_for_another_job_fails_the_job() {
    check("job=1; ok", "answered for job 1, which it does not hold");
    check("job=9; ok", "answered for job 9, which it does not hold");
    check("job=-2; ok", "answered for job -2, which it does not hold");
    check("job=9; echo \"$(ok; job=2; ok)\"", "answered for job 9, which it does not hold");
}

#[test]
fn a_process_that_responds_before_it_read_its_line_is_replaced() {
    let harness = handler_script(
        "got=$(dd bs=2000 count=1 2>&-); job=${got#*\\\"job\\\":}; job=${job%%,*}
        echo \"{\\\"job\\\":$job,\\\"outcome\\\":\\\"succeeded\\\",\\\"detail\\\":\\\"$$\\\"}\"; exec sleep 1000",
    )
    .body(&[b'x'; 1 << 20]);
    let first = harness.process_of(1);
    assert!(!process_exists(&first), "it goes on");
    assert_ne!(harness.process_of(2), first);
}

#[test]
fn a_second_response_fails_the_job() {
    check("x=$(ok; ok); echo \"$x\"", "answered twice for job 2");
    check("x=$(ok; answer failed); echo \"$x\"", "answered twice for job 2");
    check("x=$(ok; echo x); echo \"$x\"", "wrote a line that is not a response: x");
}

#[test]
fn a_flood_on_stdout_fails_the_job() {
    let long = "wrote a line of over 1 MiB";
    check("tr '\\0' x < /dev/zero", long);
    check(
        "{ printf '{\"job\":2,\"detail\":\"'; head -c 2000000 /dev/zero | tr '\\0' x
           echo '\",\"outcome\":\"succeeded\"}'; }",
        long,
    );
    check("yes", "wrote a line that is not a response: y");
}

#[test]
fn a_response_may_have_1_mib_and_no_more() {
    let (start, end) = (r#"{"job":1,"detail":""#, r#"","outcome":"succeeded"}"#);
    let response = |bytes: usize| {
        let detail = bytes - start.len() - end.len();
        format!(
            "printf '{{\"job\":'$job',\"detail\":\"'; head -c {detail} /dev/zero | tr '\\0' x
             echo '{end}'"
        )
    };
    check(&response((1 << 20) + 1), "wrote a line of over 1 MiB");
    let harness = handler_per_line(&response(1 << 20));
    for job in 1..3 {
        let result = harness.run(job);
        assert_eq!((result.outcome, result.detail.len()), (Outcome::Succeeded, 500));
    }
}

#[test]
fn a_flood_on_stderr_or_descriptor_3_is_harmless() {
    let flood = "head -c 10000000 /dev/zero | tr '\\0' x";
    let harness = handler_per_line(&format!("{flood} >&2; {flood} >&3; echo end >&2; ok"));
    for job in 1..3 {
        let result = harness.run(job);
        assert_eq!(result.outcome, Outcome::Succeeded);
        assert_eq!(result.stderr.len(), harness.handler.max_output_bytes);
        assert!(result.stderr.ends_with(b"xend\n"));
    }
}
