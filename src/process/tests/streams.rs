//! Whatever a process does with its pipes, nothing waits for it.

use rustix::time::{ClockId, clock_gettime};

use super::{ExitReason, exists, sh};

#[test]
fn a_flood_keeps_its_end() {
    let flood = "head -c 10000000 /dev/zero | tr '\\0' x; echo the end";
    let over = sh(&format!("{flood}; {{ {flood}; }} >&2")).keep(1000).run();
    assert_eq!(over.exit, ExitReason::Code(0));
    for stream in [over.stdout, over.stderr] {
        assert_eq!(stream.len(), 1000);
        assert!(stream.starts_with(b"xxx") && stream.ends_with(b"xthe end\n"));
    }
}

#[test]
fn a_flood_keeps_its_start_where_that_is_asked_for() {
    let mut trial = sh("echo the start; head -c 1000000 /dev/zero; echo the end").keep(8);
    assert!(trial.run().start.is_empty());
    trial.bounds.start_bytes_max = 11;
    let over = trial.run();
    assert_eq!((over.start, over.stdout), (b"the start\n\0".to_vec(), b"the end\n".to_vec()));
}

#[test]
fn output_up_to_the_limit_is_kept_whole() {
    let over = sh("printf 1234567890; printf 12345678901 >&2").keep(10).run();
    assert_eq!((over.stdout, over.stderr), (b"1234567890".to_vec(), b"2345678901".to_vec()));
}

#[test]
fn where_no_output_is_to_be_kept_none_is() {
    let over = sh("head -c 1000000 /dev/zero; echo out; echo err >&2").keep(0).run();
    assert_eq!((over.exit, over.stdout, over.stderr), (ExitReason::Code(0), vec![], vec![]));
}

#[test]
fn input_arrives_whole_and_then_ends() {
    let input: Vec<u8> = (0..5_000_000_u32).map(|at| (at % 251) as u8).collect();
    let trial = sh("cat > got").input(&input);
    assert_eq!(trial.exit(), ExitReason::Code(0));
    assert!(std::fs::read(trial.path().join("got")).unwrap() == input, "it is not the same");
    assert_eq!(sh("cat | wc -c").run().stdout, b"0\n");
}

#[test]
fn a_process_that_does_not_read_its_input_ends_as_it_likes() {
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
fn a_process_that_answers_more_than_a_pipe_holds_before_it_reads_is_no_deadlock() {
    let input = vec![b'x'; 5_000_000];
    let over = sh("head -c 3000000 /dev/zero; cat | wc -c").input(&input).keep(8).run();
    assert_eq!((over.exit, over.stdout), (ExitReason::Code(0), b"5000000\n".to_vec()));
}

#[test]
fn a_process_that_closes_its_pipes_runs_on_and_costs_nothing_meanwhile() {
    let trial = sh("exec 0<&- 1>&- 2>&- 3>&-; sleep 1; : > ran; exit 7").input(&[b'x'; 1_000_000]);
    super::become_subreaper().unwrap();
    let (exit, took) = std::thread::scope(|scope| {
        let run = || {
            let mut ignore = |_: &[u8]| super::ControlLine::Noted;
            let over =
                super::run(&trial.program, &trial.input, trial.bounds, &trial.stop, &mut ignore);
            (over.exit, clock_gettime(ClockId::ThreadCPUTime))
        };
        scope.spawn(run).join().unwrap()
    });
    assert_eq!(exit, ExitReason::Code(7));
    assert!(trial.path().join("ran").exists());
    // Waiting by asking again and again would take the whole second.
    assert!(took.tv_sec == 0 && took.tv_nsec < 500_000_000, "{took:?}");
}

#[test]
fn a_flood_without_an_end_times_out() {
    for script in ["yes", "yes >&2", "yes >&3", "yes | tr -d '\\n' >&3"] {
        assert_eq!(sh(script).timeout_ms(300).exit(), ExitReason::TimedOut, "{script}");
    }
}

#[test]
fn a_child_in_the_background_that_holds_the_pipes_holds_nobody_up_and_is_ended() {
    let trial = sh("sleep 1000 & echo $! > pid; echo done; exit 0");
    let over = trial.run();
    assert_eq!((over.exit, over.stdout), (ExitReason::Code(0), b"done\n".to_vec()));
    assert!(!exists(&trial.file("pid")));
}

#[test]
fn what_was_said_just_before_the_end_is_kept() {
    for _ in 0..20 {
        let over = sh("echo out; echo err >&2; kill -KILL $$").run();
        assert_eq!((over.stdout, over.stderr), (b"out\n".to_vec(), b"err\n".to_vec()));
    }
}
