//! Tests of stdin, stdout and stderr: no behaviour of a process blocks the run.

use rustix::time::{ClockId, clock_gettime};

use super::{ExitReason, process_exists, sh};

#[test]
fn the_end_of_a_flood_is_kept() {
    let flood = "head -c 10000000 /dev/zero | tr '\\0' x; echo the end";
    let result = sh(&format!("{flood}; {{ {flood}; }} >&2")).keep_output_bytes(1000).run();
    assert_eq!(result.exit, ExitReason::Code(0));
    for stream in [result.stdout, result.stderr] {
        assert_eq!(stream.len(), 1000);
        assert!(stream.starts_with(b"xxx") && stream.ends_with(b"xthe end\n"));
    }
}

#[test]
fn the_start_of_a_flood_is_kept_on_request() {
    let mut test_run =
        sh("echo the start; head -c 1000000 /dev/zero; echo the end").keep_output_bytes(8);
    assert!(test_run.run().stdout_start.is_empty());
    test_run.limits.max_stdout_start_bytes = 11;
    let result = test_run.run();
    assert_eq!(
        (result.stdout_start, result.stdout),
        (b"the start\n\0".to_vec(), b"the end\n".to_vec())
    );
}

#[test]
fn output_up_to_the_limit_is_kept_completely() {
    let result = sh("printf 1234567890; printf 12345678901 >&2").keep_output_bytes(10).run();
    assert_eq!((result.stdout, result.stderr), (b"1234567890".to_vec(), b"2345678901".to_vec()));
}

#[test]
fn with_a_limit_of_0_no_output_is_kept() {
    let result = sh("head -c 1000000 /dev/zero; echo out; echo err >&2").keep_output_bytes(0).run();
    assert_eq!((result.exit, result.stdout, result.stderr), (ExitReason::Code(0), vec![], vec![]));
}

#[test]
fn input_arrives_complete_and_then_ends() {
    let input: Vec<u8> = (0..5_000_000_u32).map(|at| (at % 251) as u8).collect();
    let test_run = sh("cat > got").input(&input);
    assert_eq!(test_run.exit(), ExitReason::Code(0));
    assert!(std::fs::read(test_run.path().join("got")).unwrap() == input, "it is not the same");
    assert_eq!(sh("cat | wc -c").run().stdout, b"0\n");
}

#[test]
fn unread_input_does_not_change_the_exit_code() {
    let input = vec![b'x'; 5_000_000];
    for (script, exit) in [
        ("exit 0", ExitReason::Code(0)),
        ("head -c 1 > /dev/null; exit 7", ExitReason::Code(7)),
        ("exec 0<&-; sleep 0.05; exit 0", ExitReason::Code(0)),
        ("sleep 0.05; exit 0", ExitReason::Code(0)),
    ] {
        assert_eq!(sh(script).input(&input).exit(), exit, "{script}");
    }
}

#[test]
fn a_process_that_fills_stdout_before_it_reads_is_not_a_deadlock() {
    let input = vec![b'x'; 5_000_000];
    let result =
        sh("head -c 3000000 /dev/zero; cat | wc -c").input(&input).keep_output_bytes(8).run();
    assert_eq!((result.exit, result.stdout), (ExitReason::Code(0), b"5000000\n".to_vec()));
}

#[test]
fn a_process_that_closes_its_pipes_continues_without_busy_waiting() {
    let test_run =
        sh("exec 0<&- 1>&- 2>&- 3>&-; sleep 1; : > ran; exit 7").input(&[b'x'; 1_000_000]);
    let (exit, took) = std::thread::scope(|scope| {
        let run = || {
            let mut ignore = |_: &[u8]| super::ControlLine::Message;
            let result = super::run(
                &test_run.command,
                &test_run.input,
                test_run.limits,
                &test_run.stop,
                &mut ignore,
            );
            (result.exit, clock_gettime(ClockId::ThreadCPUTime))
        };
        scope.spawn(run).join().unwrap()
    });
    assert_eq!(exit, ExitReason::Code(7));
    assert!(test_run.path().join("ran").exists());
    // Busy waiting would use the whole second.
    assert!(took.tv_sec == 0 && took.tv_nsec < 500_000_000, "{took:?}");
}

#[test]
fn a_flood_without_an_end_times_out() {
    for script in ["yes", "yes >&2", "yes >&3", "yes | tr -d '\\n' >&3"] {
        assert_eq!(sh(script).timeout_ms(300).exit(), ExitReason::TimedOut, "{script}");
    }
}

#[test]
fn a_background_child_that_holds_the_pipes_is_killed_without_waiting() {
    let test_run = sh("sleep 1000 & echo $! > pid; echo done; exit 0");
    let result = test_run.run();
    assert_eq!((result.exit, result.stdout), (ExitReason::Code(0), b"done\n".to_vec()));
    assert!(!process_exists(&test_run.file("pid")));
}

#[test]
fn output_right_before_the_exit_is_kept() {
    for _ in 0..20 {
        let result = sh("echo out; echo err >&2; kill -KILL $$").run();
        assert_eq!((result.stdout, result.stderr), (b"out\n".to_vec(), b"err\n".to_vec()));
    }
}
