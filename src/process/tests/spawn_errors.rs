//! What a process finds when it starts.

use super::{alone, sh};

#[test]
fn a_process_finds_the_environment_it_is_given_and_its_mark_and_nothing_else() {
    let mut trial = super::program("/usr/bin/env", &["env", "-0"]);
    trial.program.env = vec![
        ("EMPTY".into(), "".into()),
        ("TEXT".into(), "ä = \"'\n$(x)".into()),
        ("NUL".into(), "a\0b".into()),
    ];
    let said = String::from_utf8(trial.run().stdout).unwrap();
    let mut lines: Vec<&str> = said.split_terminator('\0').collect();
    lines.sort_unstable();
    let mark = format!("HOOKTRAIL_RUN_ID={}", trial.program.mark);
    assert_eq!(lines, ["EMPTY=", mark.as_str(), "NUL=a?b", "TEXT=ä = \"'\n$(x)"]);
}

#[test]
fn a_process_starts_in_its_directory() {
    let trial = sh("pwd -P");
    let said = String::from_utf8(trial.run().stdout).unwrap();
    assert_eq!(said.trim_end(), trial.path().canonicalize().unwrap().to_str().unwrap());
}

#[test]
fn arguments_arrive_as_they_are() {
    let args = ["printf", "%s|", "a b", "$HOME", "", "*", "ä"];
    let over = super::program("/usr/bin/printf", &args).run();
    assert_eq!(String::from_utf8(over.stdout).unwrap(), "a b|$HOME||*|ä|");
}

#[test]
fn a_process_leads_a_group_of_its_own() {
    let over = sh("echo $$; ps -o pgid= -p $$").run();
    let said = String::from_utf8(over.stdout).unwrap();
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(words[0], words[1]);
}

#[test]
fn no_signal_is_blocked_or_ignored_in_what_is_started() {
    let over = sh("sed -En 's/^Sig(Blk|Ign):.//p' /proc/self/status").run();
    let said = String::from_utf8(over.stdout).unwrap();
    // 32 and up are the C library's own, and real-time ones.
    let low = |set: &str| u64::from_str_radix(set, 16).unwrap() & 0x7fff_ffff;
    assert_eq!(said.lines().map(low).collect::<Vec<_>>(), [0, 0]);
}

#[test]
fn files_that_the_server_was_given_are_not_handed_on() {
    alone("spawn_errors::files_that_the_server_was_given_are_not_handed_on", || {
        let given = std::fs::File::open("/dev/null").unwrap();
        rustix::io::fcntl_setfd(&given, rustix::io::FdFlags::empty()).unwrap();
        let list = "for file in /proc/$$/fd/*; do [ ! -L $file ] || echo ${file##*/}; done";
        let over = sh(list).run();
        let said = String::from_utf8(over.stdout).unwrap();
        assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    });
}
