//! How a run ends, and what it cannot do to the one who waits for it.

use super::*;

#[test]
fn a_process_ends_as_its_exit_says() {
    let check = |script, exit| assert_eq!(run_of(&sh(script)).exit, exit, "{script}");
    check("exit 0", Exit::Code(0));
    check("exit 7", Exit::Code(7));
    check("exit 255", Exit::Code(255));
    check("kill -SEGV $$", Exit::Signal(11));
    check("kill -KILL $$", Exit::Signal(9));
}

#[test]
fn signals_that_the_server_ignores_do_their_default_in_a_process() {
    // Rust ignores SIGPIPE.
    assert_eq!(run_of(&sh("kill -PIPE $$; exit 0")).exit, Exit::Signal(13));
}

#[test]
fn input_arrives_whole_and_ends() {
    let input = vec![b'x'; 5_000_000];
    let stop = Stop::new().unwrap();
    let over = run(&sh("wc -c"), &input, BOUNDS, &stop, &mut |_| Note::Noted);
    assert_eq!((over.exit, text(&over.stdout)), (Exit::Code(0), "5000000".into()));
    assert_eq!(text(&run_of(&sh("wc -c")).stdout), "0");
}

#[test]
fn a_process_that_does_not_read_its_input_ends_all_the_same() {
    let input = vec![b'x'; 5_000_000];
    for script in ["exit 3", "exec <&-; echo done; exit 3", "read -r line <&1; exit 3"] {
        let stop = Stop::new().unwrap();
        let over = run(&sh(script), &input, BOUNDS, &stop, &mut |_| Note::Noted);
        assert_eq!(over.exit, Exit::Code(3), "{script}");
    }
}

#[test]
fn of_a_flood_the_end_is_kept() {
    let flood = "head -c 10000000 /dev/zero | tr '\\0' a; printf END";
    let over = run_of(&sh(&format!("({flood}); ({flood}) >&2")));
    assert_eq!(over.exit, Exit::Code(0));
    for kept in [over.stdout, over.stderr] {
        assert_eq!(kept.len(), BOUNDS.output_bytes_max);
        assert!(kept.ends_with(b"aaaEND"));
    }
}

#[test]
fn nothing_is_kept_where_nothing_may_be() {
    let bounds = Bounds { output_bytes_max: 0, ..BOUNDS };
    let stop = Stop::new().unwrap();
    let over = run(&sh("echo a; echo b >&2"), b"", bounds, &stop, &mut |_| Note::Noted);
    assert_eq!((over.stdout.len(), over.stderr.len()), (0, 0));
}

#[test]
fn a_process_that_closes_its_pipes_is_waited_for() {
    let over = run_of(&sh("exec <&- >&- 2>&- 3>&-; sleep 0.2; exit 4"));
    assert_eq!(over.exit, Exit::Code(4));
}

#[test]
fn a_process_that_closes_its_pipes_and_runs_on_times_out() {
    let bounds = Bounds { timeout: Duration::from_millis(300), ..BOUNDS };
    let program = sh("exec <&- >&- 2>&- 3>&-; exec sleep 1000");
    let over = run(&program, b"xx", bounds, &Stop::new().unwrap(), &mut |_| Note::Noted);
    assert_eq!(over.exit, Exit::TimedOut);
}

#[test]
fn a_flood_without_end_times_out() {
    let bounds = Bounds { timeout: Duration::from_millis(300), ..BOUNDS };
    for script in ["yes", "yes >&2", "yes >&3", "yes | tr -d '\\n' >&3"] {
        let over = run(&sh(script), b"", bounds, &Stop::new().unwrap(), &mut |_| Note::Noted);
        assert_eq!(over.exit, Exit::TimedOut, "{script}");
    }
}

#[test]
fn sigterm_comes_first() {
    let script =
        "trap 'echo bye; exit 0' TERM; echo ready >&3; while :; do sleep 1000 & wait; done";
    let over = stopped_when_ready(&sh(script), BOUNDS.grace);
    assert_eq!((over.exit, text(&over.stdout)), (Exit::Stopped, "bye".into()));
}

#[test]
fn a_suspended_process_hears_sigterm() {
    let script = "trap 'echo bye; exit 0' TERM; echo ready >&3; kill -STOP $$; sleep 1000 & wait";
    let over = stopped_when_ready(&sh(script), BOUNDS.grace);
    assert_eq!((over.exit, text(&over.stdout)), (Exit::Stopped, "bye".into()));
}

#[test]
fn a_process_that_ignores_sigterm_is_killed() {
    let script = "trap '' TERM; echo ready >&3; while :; do sleep 1000; done";
    let over = stopped_when_ready(&sh(script), Duration::from_millis(100));
    assert_eq!(over.exit, Exit::Stopped);
}

#[test]
fn a_run_is_stopped_by_another_thread() {
    let stop = Stop::new().unwrap();
    let over = std::thread::scope(|scope| {
        let program = sh("exec sleep 1000");
        let of_run = stop.clone();
        let run = scope.spawn(move || run(&program, b"", BOUNDS, &of_run, &mut |_| Note::Noted));
        stop.set();
        run.join().unwrap()
    });
    assert_eq!(over.exit, Exit::Stopped);
}

#[test]
fn what_is_stopped_before_it_starts_does_not_start() {
    let stop = Stop::new().unwrap();
    stop.set();
    let over = run(&sh("echo started"), b"", BOUNDS, &stop, &mut |_| Note::Noted);
    assert_eq!((over.exit, over.stdout), (Exit::Stopped, Vec::new()));
}

#[test]
fn a_line_may_start_the_timeout_anew() {
    let bounds = Bounds { timeout: Duration::from_secs(3), ..BOUNDS };
    let program = sh("for i in 1 2 3 4 5; do sleep 1; echo alive >&3; done; exit 5");
    let over = run(&program, b"", bounds, &Stop::new().unwrap(), &mut |_| Note::Alive);
    assert_eq!(over.exit, Exit::Code(5));
}

#[test]
fn lines_come_one_by_one_and_the_last_may_lack_its_end() {
    let mut lines = Vec::new();
    let program = sh("printf 'a\\n\\nb\\nc' >&3");
    run(&program, b"", BOUNDS, &Stop::new().unwrap(), &mut |line| {
        lines.push(text(line));
        Note::Noted
    });
    assert_eq!(lines, ["a", "b", "c"]);
}

#[test]
fn of_a_long_line_the_beginning_is_read() {
    let mut lengths = Vec::new();
    let program = sh("head -c 300000 /dev/zero >&3; printf '\\nshort\\n' >&3");
    run(&program, b"", BOUNDS, &Stop::new().unwrap(), &mut |line| {
        lengths.push(line.len());
        Note::Noted
    });
    assert_eq!(lengths, [NOTE_BYTES_MAX, 5]);
}

#[test]
fn the_environment_is_what_was_given_and_the_mark() {
    let mut program = sh("");
    program.path = "/usr/bin/env".into();
    program.args.truncate(1);
    program.env = vec![("A".into(), "b\0c=\u{e4}\nd".into())];
    let expected = format!("{MARK}={}\nA=b?c=\u{e4}\nd", program.mark);
    assert_eq!(text(&run_of(&program).stdout), expected);
}

#[test]
fn it_runs_in_its_directory() {
    let program = Program { directory: "/usr".into(), ..sh("pwd") };
    assert_eq!(text(&run_of(&program).stdout), "/usr");
}

#[test]
fn what_can_not_be_started_says_why() {
    let folder = tempfile::tempdir().unwrap();
    // Written by another process: one that is just being started elsewhere would keep ours open.
    let write = |name: &str, content: &str, mode: u32| {
        let path = folder.path().join(name);
        let file = path.display();
        let over = run_of(&sh(&format!("echo '{content}' >{file}; chmod {mode:o} {file}")));
        assert_eq!(over.exit, Exit::Code(0));
        path
    };
    let check = |program: Program, expected: &str| match run_of(&program).exit {
        Exit::NotStarted(why) => assert!(why.contains(expected), "{why:?}: {expected}"),
        other => panic!("{other:?}: {expected}"),
    };
    let with = |path| Program { path, ..sh("") };
    check(with("/no/such".into()), "/no/such: there is no such file");
    check(with("/bin/sh/x".into()), "there is no such file");
    check(with(write("plain", "#!/bin/sh", 0o644)), "chmod +x");
    check(with(folder.path().into()), "not executable");
    check(with(write("lost", "#!/no/such", 0o755)), "interpreter");
    check(with(write("text", "echo hi", 0o755)), "#!/bin/sh");
    let elsewhere = Program { directory: "/no/where".into(), ..sh("") };
    check(elsewhere, "/no/where: there is no such directory");
    let crowded = Program { env: vec![("A".into(), "x".repeat(200_000).into())], ..sh("") };
    check(crowded, "128 KiB");
}

#[test]
fn files_that_the_server_was_given_are_not_handed_on() {
    alone("ends::files_that_the_server_was_given_are_not_handed_on", || {
        let given = std::fs::File::open("/dev/null").unwrap();
        rustix::io::fcntl_setfd(&given, rustix::io::FdFlags::empty()).unwrap();
        let list = "for f in /proc/$$/fd/*; do [ -e $f ] || [ -L $f ] && echo ${f##*/}; done";
        let found = text(&run_of(&sh(list)).stdout);
        assert_eq!(found.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    });
}
