//! Tests of what a new process inherits: environment, directory, arguments, group, signals and
//! descriptors.

use super::{in_own_process, sh};

#[test]
fn a_process_gets_only_its_environment_and_its_run_id() {
    let mut test_run = super::command("/usr/bin/env", &["env", "-0"]);
    test_run.command.env = vec![
        ("EMPTY".into(), "".into()),
        ("TEXT".into(), "ä = \"'\n$(x)".into()),
        ("NUL".into(), "a\0b".into()),
    ];
    let output = String::from_utf8(test_run.run().stdout).unwrap();
    let mut lines: Vec<&str> = output.split_terminator('\0').collect();
    lines.sort_unstable();
    let run_id = format!("HOOKTRAIL_RUN_ID={}", test_run.command.run_id);
    assert_eq!(lines, ["EMPTY=", run_id.as_str(), "NUL=a?b", "TEXT=ä = \"'\n$(x)"]);
}

#[test]
fn a_process_starts_in_its_directory() {
    let test_run = sh("pwd -P");
    let output = String::from_utf8(test_run.run().stdout).unwrap();
    assert_eq!(output.trim_end(), test_run.path().canonicalize().unwrap().to_str().unwrap());
}

#[test]
fn arguments_arrive_unchanged() {
    let args = ["printf", "%s|", "a b", "$HOME", "", "*", "ä"];
    let result = super::command("/usr/bin/printf", &args).run();
    assert_eq!(String::from_utf8(result.stdout).unwrap(), "a b|$HOME||*|ä|");
}

#[test]
fn a_process_leads_its_own_group() {
    let result = sh("echo $$; ps -o pgid= -p $$").run();
    let output = String::from_utf8(result.stdout).unwrap();
    let words: Vec<&str> = output.split_whitespace().collect();
    assert_eq!(words[0], words[1]);
}

#[test]
fn a_process_starts_without_blocked_or_ignored_signals() {
    let result = sh("sed -En 's/^Sig(Blk|Ign):.//p' /proc/self/status").run();
    let output = String::from_utf8(result.stdout).unwrap();
    // Signals from 32 on belong to the C library or are real-time signals.
    let low = |set: &str| u64::from_str_radix(set, 16).unwrap() & 0x7fff_ffff;
    assert_eq!(output.lines().map(low).collect::<Vec<_>>(), [0, 0]);
}

#[test]
fn inherited_descriptors_of_the_server_are_closed_in_its_children() {
    in_own_process(
        "environment::inherited_descriptors_of_the_server_are_closed_in_its_children",
        || {
            let given = std::fs::File::open("/dev/null").unwrap();
            rustix::io::fcntl_setfd(&given, rustix::io::FdFlags::empty()).unwrap();
            let list = "for file in /proc/$$/fd/*; do [ ! -L $file ] || echo ${file##*/}; done";
            let result = sh(list).run();
            let output = String::from_utf8(result.stdout).unwrap();
            assert_eq!(output.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
        },
    );
}
