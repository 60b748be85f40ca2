//! Tests of supervisors in one process: they share nothing, and their threads end with them.

use std::fs;

use super::{
    DEADLINE, Duration, ExitReason, Supervisor, in_own_process, process_exists, sh, until,
};
use crate::process::child::ChildProcess;
use crate::process::{Directive, ProcessPool, RUN_ID_VARIABLE, StopSignal};
use crate::test_support::is_running;

#[test]
fn supervisors_leave_each_others_processes_alone() {
    in_own_process("supervisors::supervisors_leave_each_others_processes_alone", || {
        let [first, second] = ["first", "second"].map(Supervisor::new);
        first.become_subreaper().unwrap();
        second.become_subreaper().unwrap();
        let stay = |name: &str| format!("setsid sh -c 'echo $$ > {name}; exec sleep 1000'");
        let script = format!(
            "({} &); (env -u {RUN_ID_VARIABLE} {} &); exec sleep 1000",
            stay("tagged"),
            stay("untagged")
        );
        let (long, short) = (sh(&script).owner(&first), sh("echo $$ > pid; exit 7").owner(&first));
        // The children of a thread that has ended are in the same list as orphans.
        let [mut running, mut ended] = std::thread::scope(|scope| {
            let start =
                || [&long, &short].map(|test_run| ChildProcess::start(&test_run.command, 0));
            scope.spawn(start).join().unwrap().map(Result::unwrap)
        });
        assert_eq!(first.table.lock().own_children.len(), 2);
        assert_eq!(second.table.lock().own_children.len(), 0);
        until("one process has ended", || {
            let pid = short.file("pid");
            !pid.is_empty() && !is_running(&pid)
        });
        let orphans = || [long.file("tagged"), long.file("untagged")];
        until("the orphans run", || orphans().iter().all(|pid| !pid.is_empty()));

        assert_eq!(sh("exit 0").owner(&second).exit(), ExitReason::Code(0));
        assert!(orphans().iter().all(|pid| is_running(pid)), "an orphan of the first was killed");
        let terminate = |child: &mut ChildProcess, signal| {
            child.terminate(signal, DEADLINE, &mut |_| Directive::Continue)
        };
        assert_eq!(terminate(&mut ended, None), ExitReason::Code(7));
        assert_eq!(terminate(&mut running, Some(StopSignal::Term)), ExitReason::Signal(15));
        assert!(!process_exists(&long.file("tagged")));

        // It may be an orphan of the second until that is gone.
        assert!(process_exists(&long.file("untagged")));
        drop(second);
        assert_eq!(sh("exit 0").owner(&first).exit(), ExitReason::Code(0));
        assert!(!process_exists(&long.file("untagged")));
    });
}

/// Returns the number of threads of this process that watch for the end of idle processes.
fn watch_threads() -> usize {
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let names = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("comm")));
    names.filter(|name| name.as_ref().is_ok_and(|name| name == "watch\n")).count()
}

#[test]
fn a_supervisor_waits_for_its_own_processes_and_ends_its_thread() {
    in_own_process(
        "supervisors::a_supervisor_waits_for_its_own_processes_and_ends_its_thread",
        || {
            let other = Supervisor::new("other");
            let test_run = sh("until [ -e go ]; do sleep 0.01; done");
            let supervisor = &test_run.command.supervisor;
            let pool = ProcessPool::new("crm");
            let command = || Ok(test_run.command.clone());
            pool.release(pool.acquire(&test_run.stop, 0, &command).unwrap());
            pool.close();
            assert!(!supervisor.wait_for_runs(Duration::ZERO));
            assert!(other.wait_for_runs(Duration::ZERO), "another's process counts");
            fs::write(test_run.path().join("go"), "").unwrap();
            assert!(supervisor.wait_for_runs(DEADLINE));
            assert_eq!(watch_threads(), 1);
            drop(test_run);
            until("the thread has ended", || watch_threads() == 0);
        },
    );
}
