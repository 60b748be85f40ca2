//! What a run leaves behind: nothing.

use std::sync::mpsc::channel;

use super::proc::{Mark, children, children_among_all, mark_of, wait_for_ends};
use super::reap::Entered;
use super::*;

/// In a session of its own, says its number and stays.
const STRAY: &str = r#"setsid -f sh -c 'echo $$; exec sleep 1000 >/dev/null 2>&1 3>&1'"#;

/// Runs a script that prints the numbers of processes, which must be gone after it.
fn leaves_nothing(script: &str, count: usize) {
    let program = sh(script);
    let over = run_of(&program);
    assert_eq!(over.exit, Exit::Code(0), "{script}: {}", text(&over.stderr));
    let said = text(&over.stdout);
    let pids: Vec<_> = said.split_whitespace().collect();
    assert_eq!(pids.len(), count, "{script}: {said}");
    let left: Vec<_> = pids.iter().filter(|pid| exists(pid)).collect();
    assert!(left.is_empty(), "{script}: {left:?} still there");
}

#[test]
fn a_child_that_holds_the_pipes_ends_with_its_group() {
    leaves_nothing("sleep 1000 & echo $!; sleep 1000 & echo $!", 2);
}

#[test]
fn a_child_with_a_session_of_its_own_is_ended() {
    leaves_nothing(&format!("x=$({STRAY}); echo $x"), 1);
}

#[test]
fn a_child_with_a_session_of_its_own_that_holds_the_pipes_is_ended() {
    leaves_nothing("x=$(setsid -f sh -c 'echo $$; exec sleep 1000 >/dev/null'); echo $x", 1);
}

#[test]
fn a_child_that_forked_twice_is_ended() {
    let inner = r#"(sh -c "echo \$\$; exec sleep 1000 >/dev/null 2>&1 3>&1" &) & exit"#;
    leaves_nothing(&format!("x=$(setsid -f sh -c '{inner}'); echo $x"), 1);
}

#[test]
fn children_of_a_child_with_a_session_of_its_own_are_ended() {
    let inner = r#"setsid -f sh -c "echo \$\$; exec sleep 1000 >/dev/null 2>&1 3>&1""#;
    let outer = format!("setsid -f sh -c '{inner}; echo $$; exec sleep 1000 >/dev/null 2>&1 3>&1'");
    leaves_nothing(&format!("x=$({outer}); echo $x"), 2);
}

#[test]
fn what_left_its_group_is_ended_after_a_stop() {
    let program = sh(&format!("x=$({STRAY}); echo $x; echo ready >&3; sleep 1000"));
    let over = stopped_when_ready(&program, BOUNDS.grace);
    assert_eq!(over.exit, Exit::Stopped);
    assert!(!exists(&text(&over.stdout)));
}

#[test]
fn the_end_of_one_run_leaves_the_strays_of_another_alone() {
    let program = sh(&format!("x=$({STRAY}); echo $x >&3; exec sleep 1000"));
    become_subreaper().unwrap();
    let stop = Stop::new().unwrap();
    let (said, pid) = channel();
    let (of_run, mark) = (stop.clone(), program.mark.clone());
    let running = std::thread::spawn(move || {
        run(&program, b"", BOUNDS, &of_run, &mut |line| {
            said.send(text(line)).unwrap();
            Note::Noted
        })
    });
    let pid = pid.recv().unwrap();
    leaves_nothing(&format!("x=$({STRAY}); echo $x"), 1);
    let raw = Pid::from_raw(pid.parse().unwrap()).unwrap();
    until("its mark is seen", || mark_of(raw) == Mark::Is(mark.clone()));
    stop.set();
    running.join().unwrap();
    assert!(!exists(&pid));
}

#[test]
fn a_stray_without_a_mark_is_ended_when_nobody_else_can_have_left_it() {
    alone("strays::a_stray_without_a_mark_is_ended_when_nobody_else_can_have_left_it", || {
        leaves_nothing(&format!("x=$(env -i {STRAY}); echo $x"), 1);
        // While another run goes on it may be that one's.
        let stop = Stop::new().unwrap();
        let of_run = stop.clone();
        let running = std::thread::spawn(move || {
            run(&sh("exec sleep 1000"), b"", BOUNDS, &of_run, &mut |_| Note::Noted)
        });
        until("the other run has begun", || children_among_all().len() == 1);
        let stray = text(&run_of(&sh(&format!("x=$(env -i {STRAY}); echo $x"))).stdout);
        assert!(exists(&stray));
        stop.set();
        running.join().unwrap();
        assert!(!exists(&stray));
    });
}

#[test]
fn without_a_list_of_children_they_are_found_among_all() {
    alone("strays::without_a_list_of_children_they_are_found_among_all", || {
        become_subreaper().unwrap();
        let over = run_of(&sh("exit 0"));
        assert_eq!((over.exit, children_among_all()), (Exit::Code(0), Vec::new()));
        let program = sh(&format!("x=$({STRAY}); echo ready >&3; exec sleep 1000 3>&-"));
        let entered = Entered::new(&program.mark);
        let child = spawn::spawn(&program, &entered).unwrap();
        until("the stray is ours", || children_among_all().len() == 2);
        let stray = children();
        assert_eq!(stray.len(), 1);
        assert!(children_among_all().contains(&stray[0]));
        assert!(children_among_all().contains(&child.pid));
        kill_process_group(child.pid, Signal::KILL).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        assert!(wait_for_ends(&[(child.pid, child.process)], deadline));
        entered.end_strays(child.pid);
        entered.reap(child.pid).unwrap();
        assert_eq!(children_among_all(), []);
    });
}

#[test]
fn what_an_earlier_server_left_is_ended_with_its_group() {
    become_subreaper().unwrap();
    let program = sh("env -i sleep 1000 & echo $!; exec sleep 1000");
    let entered = Entered::new(&program.mark);
    let child = spawn::spawn(&program, &entered).unwrap();
    let said = std::cell::RefCell::new(Stream::new(child.stdout, 100));
    until("the number of its child is said", || {
        said.borrow_mut().read();
        said.borrow().kept.back() == Some(&b'\n')
    });
    let said: Vec<u8> = said.into_inner().kept.into();
    let number = program.mark.rsplit_once('.').unwrap().0;
    // Its child carries the mark too until it is `sleep`.
    assert!((1..=2).contains(&end_marked(&format!("{number}."))));
    assert_eq!(end_marked(&format!("{number}.")), 0);
    entered.end_strays(child.pid);
    assert_eq!(entered.reap(child.pid).unwrap().terminating_signal(), Some(9));
    until("its child has ended", || !exists(&text(&said)));
}

#[test]
fn many_runs_leave_no_process_and_no_file_behind() {
    alone("strays::many_runs_leave_no_process_and_no_file_behind", || {
        let scripts = [
            "exit 0".to_owned(),
            "sleep 1000 & exit 1".to_owned(),
            format!("x=$({STRAY}); kill -9 $$"),
            "exec <&- >&- 2>&- 3>&-".to_owned(),
        ];
        run_of(&sh("exit 0"));
        let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = files();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for at in 0..25 {
                        run_of(&sh(&scripts[at % scripts.len()]));
                        let missing = Program { path: "/no/such".into(), ..sh("") };
                        assert!(matches!(run_of(&missing).exit, Exit::NotStarted(_)));
                    }
                });
            }
        });
        assert_eq!(files(), before);
        assert_eq!(children_among_all(), []);
    });
}
