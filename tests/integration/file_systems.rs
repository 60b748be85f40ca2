//! A database on a network file system, or on one that may be. strace changes the type that the kernel reports to the
//! server, because few machines can mount NFS or SMB. FUSE is mounted for real.

use std::path::PathBuf;
use std::process::Command;

use crate::support::server::{HOOKTRAIL, Scenario, Server, scenario, stderr, until};

/// A command that runs another one, to which every file system has this type, in hexadecimal digits from the lowest
/// byte on.
fn with_file_system_type(digits: &str) -> Vec<String> {
    let inject = format!("inject=statfs:poke_exit=@arg2={digits:0<16}");
    let words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=statfs", "-e", &inject];
    words.map(str::to_owned).to_vec()
}

fn working() -> Scenario {
    scenario().source("a", "").handler("h", "", "true")
}

/// Runs a command of Hooktrail behind `wrapper`, and returns its exit code and its last error.
fn run_behind(wrapper: &[String], server: &Server, command: &str) -> (Option<i32>, String) {
    let output = Command::new(&wrapper[0])
        .args(&wrapper[1..])
        .args([HOOKTRAIL, "--config", "config.toml", command])
        .current_dir(server.path())
        .env_remove("HOOKTRAIL_CONFIG")
        .output()
        .expect("strace, which tests/run installs");
    (output.status.code(), stderr(&output))
}

#[test]
fn no_server_starts_on_a_network_file_system_and_check_says_the_same() {
    let server = working().prepare();
    for (digits, name) in
        [("6969", "NFS"), ("424d53ff", "SMB"), ("424d53fe", "SMB"), ("4f414653", "AFS")]
    {
        let wrapper = with_file_system_type(digits);
        let expected = format!("is on a network file system ({name}), where SQLite's locks");
        for (command, code) in [("serve", 1), ("check", 78)] {
            let (found, errors) = run_behind(&wrapper, &server, command);
            assert_eq!(found, Some(code), "{command} on {name}: {errors}");
            assert!(errors.contains(&expected), "{command}: {errors}");
            assert!(
                errors.contains("set store.path to a file on a local disk"),
                "{command}: {errors}"
            );
        }
        assert!(
            !server.path().join("t.db").exists(),
            "the server has created a database on {name}"
        );
    }
}

#[test]
fn a_server_on_a_file_system_that_may_be_a_folder_of_another_machine_starts_with_a_warning() {
    let wrapper = with_file_system_type("97190201");
    let words: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    let server = working().wrapped_by(&words).start();
    until("the log has the warning", || {
        server.log().contains("is on a file system (9p) that may be")
    });
    assert_eq!(server.post("/hooks/a", "x").status, 202);
    let (code, errors) = run_behind(&wrapper, &server, "check");
    assert_eq!(code, Some(0), "{errors}");
}

/// A mount of bindfs, unmounted at the end.
struct FuseMount(PathBuf);

impl FuseMount {
    /// Mounts the folder `disk` at the folder `mount`, both in the folder of the scenario.
    fn new(scenario: &Scenario, kind: &str) -> Self {
        let [disk, mount] = ["disk", "mount"].map(|name| scenario.path().join(name));
        for folder in [&disk, &mount] {
            std::fs::create_dir(folder).expect("a folder");
        }
        let status = Command::new("bindfs")
            .args(["-o", &format!("subtype={kind}")])
            .args([&disk, &mount])
            .status()
            .expect("bindfs, which tests/run installs");
        assert!(status.success(), "bindfs can't mount");
        Self(mount)
    }
}

impl Drop for FuseMount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn on_mount(scenario: Scenario) -> Server {
    let mut server = scenario.prepare();
    server.replace_in_config("\"t.db\"", "\"mount/t.db\"");
    server
}

#[test]
#[ignore = "needs root and FUSE"]
fn fuse_a_bucket_or_another_machine_is_rejected_by_the_name_of_its_mount() {
    let scenario = working();
    let _mount = FuseMount::new(&scenario, "sshfs");
    let mut server = on_mount(scenario);
    server.spawn();
    assert_eq!(server.wait_for_exit(), Some(1));
    until("the log has the reason", || server.log().contains("network file system (sshfs)"));
    assert!(!server.path().join("disk/t.db").exists());
}

#[test]
#[ignore = "needs root and FUSE"]
fn fuse_that_may_be_local_is_named_in_a_warning() {
    let scenario = working();
    let _mount = FuseMount::new(&scenario, "bindfs");
    let mut server = on_mount(scenario);
    server.start();
    until("the log has the warning", || {
        server.log().contains("is on a file system (FUSE, bindfs)")
    });
    assert_eq!(server.post("/hooks/a", "x").status, 202);
    assert_eq!(server.stop(), Some(0));
}
