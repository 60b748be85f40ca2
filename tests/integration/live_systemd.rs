//! The shipped units under a live systemd, in a machine that `systemd-nspawn` boots.

mod handlers;
mod restarts;

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use crate::support::client::{post, send_request};
use crate::support::machine::{Machine, free_port};
use crate::support::server::{HOOKTRAIL, until};

const CONFIG: &str = "/etc/hooktrail/config.toml";

/// A machine in which Hooktrail is installed. The service has not started.
struct Installation {
    machine: Machine,
    port: u16,
}

impl Installation {
    /// Boots a machine with the units, the user and the folders of the service. `tables` is config.toml without
    /// `[server]`, `[admin]` and `[store]`.
    fn boot(tables: &str) -> Installation {
        let machine = Machine::boot(&[(Path::new(HOOKTRAIL), "/usr/bin/hooktrail")]);
        for (name, path) in [
            ("hooktrail.service", "systemd/system/hooktrail.service"),
            ("hooktrail.socket", "systemd/system/hooktrail.socket"),
            ("hooktrail-backup.service", "systemd/system/hooktrail-backup.service"),
            ("hooktrail.sysusers", "sysusers.d/hooktrail.conf"),
            ("hooktrail.tmpfiles", "tmpfiles.d/hooktrail.conf"),
        ] {
            machine.write(&format!("/usr/lib/{path}"), shipped(name));
        }
        machine.run("systemd-sysusers && systemd-tmpfiles --create hooktrail.conf");
        machine.run("systemctl daemon-reload");
        let installation = Installation { machine, port: free_port() };
        installation.configure(tables);
        installation
    }

    fn configure(&self, tables: &str) {
        let port = self.port;
        let server = format!("[server]\nlisten = [\"127.0.0.1:{port}\"]\n[admin]\nlisten = []\n");
        let text = format!("{server}[store]\npath = \"data/hooktrail.db\"\n{tables}");
        self.machine.write(CONFIG, text);
    }

    /// Adds lines of `[Service]` to the unit.
    fn drop_in(&self, lines: &str) {
        let path = "/etc/systemd/system/hooktrail.service.d/test.conf";
        self.machine.write(path, format!("[Service]\n{lines}\n"));
        self.machine.run("systemctl daemon-reload");
    }

    #[track_caller]
    fn start(&self) {
        let output = self.machine.try_run("systemctl start hooktrail");
        assert!(output.status.success(), "{}", self.journal());
    }

    fn journal(&self) -> String {
        self.machine.journal("hooktrail")
    }

    fn until_journal(&self, line: &str) {
        until(&format!("the journal has {line}"), || self.journal().contains(line));
    }

    /// A property of the unit, as `systemctl show` prints it.
    fn property(&self, name: &str) -> String {
        let command = format!("systemctl show --value --property={name} hooktrail");
        self.machine.run(&command).trim().to_owned()
    }

    /// The text that a query of the database prints.
    fn query(&self, sql: &str) -> String {
        let command = format!("sqlite3 -readonly /var/lib/hooktrail/hooktrail.db \"{sql}\"");
        self.machine.run(&command).trim_end().to_owned()
    }

    /// The status of the response to a webhook for a source.
    fn post(&self, source: &str) -> Option<u16> {
        post(self.port, &format!("/hooks/{source}"), b"{}").map(|response| response.status)
    }
}

/// The text of a file of `systemd/`.
fn shipped(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)).unwrap()
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn two_machines_do_not_see_each_other() {
    let (first, second) = (Machine::boot(&[]), Machine::boot(&[]));
    let start = "systemd-run --quiet --unit=guest --service-type=exec sleep infinity";
    first.run(start);
    first.write("/etc/guest", "x");
    assert_eq!(first.run("systemctl is-active guest"), "active\n");
    assert_eq!(first.read("/etc/guest"), "x");
    assert_eq!(second.run_failing("systemctl is-active guest"), "inactive\n");
    second.run_failing("test -e /etc/guest");
    second.run(start);
    drop(second);
    assert_eq!(first.run("systemctl is-active guest"), "active\n");
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn the_unit_counts_as_started_when_the_server_accepts_webhooks() {
    let installed = Installation::boot("[sources.a]\n");
    installed.start();
    assert_eq!(installed.post("a"), Some(202));
    assert_eq!(installed.query("select count(*) from events"), "1");
    installed
        .until_journal(&format!("listening for webhooks on http://127.0.0.1:{}", installed.port));
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn a_reload_changes_the_sources_and_the_unit_stays_active() {
    let installed = Installation::boot("[sources.a]\n");
    installed.start();
    let process = installed.property("MainPID");
    installed.configure("[sources.b]\n");
    installed.machine.run("systemctl reload hooktrail");
    // The command has waited for the end of the reload.
    assert_eq!(installed.post("b"), Some(202));
    assert_eq!(installed.post("a"), Some(404));
    until("systemd knows of the end", || installed.property("SubState") == "running");
    assert_eq!(installed.property("MainPID"), process);
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn a_reload_of_an_invalid_file_fails_and_the_old_configuration_stays_in_force() {
    let installed = Installation::boot("[sources.a]\n");
    installed.start();
    installed.configure("[sources.b]\nmethod = [\"POST\"]\n");
    installed.machine.run_failing("systemctl reload hooktrail");
    installed.until_journal("sources.b.method");
    installed.until_journal("not reloaded: the old configuration stays in force");
    until("systemd knows of the end", || installed.property("SubState") == "running");
    assert_eq!(installed.post("a"), Some(202));
    installed.configure("[sources.b]\n");
    installed.machine.run("systemctl reload hooktrail");
    assert_eq!(installed.post("b"), Some(202));
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn a_unit_of_an_earlier_version_starts_reloads_and_restarts_a_new_program() {
    let installed = Installation::boot("[sources.a]\n");
    let is_new = |line: &&str| {
        let keys = ["ExecReload=", "FileDescriptorStoreMax=", "PrivateMounts="];
        keys.iter().any(|key| line.starts_with(key))
    };
    let unit = shipped("hooktrail.service");
    assert_eq!(unit.lines().filter(is_new).count(), 3);
    let mut lines: Vec<&str> = unit.lines().filter(|line| !is_new(line)).collect();
    let service = lines.iter().position(|line| *line == "[Service]").unwrap();
    lines.insert(service + 1, "ExecReload=/bin/kill -HUP $MAINPID");
    installed.machine.write("/usr/lib/systemd/system/hooktrail.service", lines.join("\n"));
    installed.machine.run("systemctl daemon-reload");
    installed.start();
    installed.configure("[sources.b]\n");
    installed.machine.run("systemctl reload hooktrail");
    until("the new source is there", || installed.post("b") == Some(202));
    installed.machine.run("systemctl restart hooktrail");
    assert_eq!(installed.post("b"), Some(202));
    assert_eq!(installed.query("select count(*) from trail where source = 'b'"), "2");
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn a_credential_that_only_root_can_read_verifies_webhooks() {
    let secret = "[sources.a]\nverify = { scheme = \"token\", header = \"X-Token\", \
        secret = { credential = \"paminga\" } }\n";
    let installed = Installation::boot(secret);
    let file = "/etc/hooktrail/secrets/paminga";
    installed.machine.write(file, "s3cret-of-the-sender\n");
    installed.machine.run(&format!("chmod 600 {file} && chown root:root {file}"));
    installed.machine.run_failing(&format!("runuser -u hooktrail -- cat {file}"));
    installed.drop_in(&format!("LoadCredential=paminga:{file}"));
    installed.start();
    let status = |token: &str| {
        let header = format!("X-Token: {token}");
        send_request(installed.port, "POST", "/hooks/a", &header, b"{}").unwrap().status
    };
    assert_eq!(status("s3cret-of-the-sender"), 202);
    assert_eq!(status("another-secret"), 401);
}

/// Stops one thread of a process as a debugger does, until it is killed.
const STOP_THREAD: &str = r#"
import ctypes, os, sys
pid, name = sys.argv[1:]
tasks = f"/proc/{pid}/task"
thread, = [int(t) for t in os.listdir(tasks) if open(f"{tasks}/{t}/comm").read().strip() == name]
libc = ctypes.CDLL(None, use_errno=True)
SEIZE, INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000
for request in (SEIZE, INTERRUPT):
    if libc.ptrace(request, ctypes.c_long(thread), None, None):
        raise OSError(ctypes.get_errno(), "ptrace")
os.waitpid(thread, WALL)
print("stopped", flush=True)
os.waitpid(thread, WALL)
"#;

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn the_watchdog_restarts_a_server_whose_writer_hangs() {
    let installed = Installation::boot("[sources.a]\n");
    installed.drop_in("WatchdogSec=3s");
    installed.machine.write("/root/stop-thread.py", STOP_THREAD);
    installed.start();
    let process = installed.property("MainPID");
    installed.machine.run(&format!(
        "systemd-run --quiet --unit=debugger python3 /root/stop-thread.py {process} writer"
    ));
    until("the writer hangs", || installed.machine.journal("debugger").contains("stopped"));
    let is_running_again =
        || installed.property("MainPID") != process && installed.property("SubState") == "running";
    until("another process runs", is_running_again);
    installed.until_journal("Watchdog timeout");
    until("webhooks are accepted", || installed.post("a") == Some(202));
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn an_invalid_configuration_fails_the_start_without_a_restart() {
    let installed = Installation::boot("[sources.a]\nmethod = [\"POST\"]\n");
    installed.machine.run_failing("systemctl start hooktrail");
    assert_eq!(installed.property("ActiveState"), "failed");
    assert_eq!(installed.property("ExecMainStatus"), "78");
    assert_eq!(installed.property("NRestarts"), "0");
    installed.until_journal("sources.a.method");
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn a_server_whose_port_is_taken_says_so_and_starts_when_it_is_free() {
    let installed = Installation::boot("[sources.a]\n");
    let other = TcpListener::bind(("127.0.0.1", installed.port)).unwrap();
    installed.machine.run("systemctl start --no-block hooktrail");
    installed.until_journal(&format!("can't listen on 127.0.0.1:{}", installed.port));
    drop(other);
    until("the server has started", || installed.post("a") == Some(202));
    assert_eq!(installed.property("ActiveState"), "active");
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn a_server_on_a_read_only_disk_says_so_and_starts_when_it_can_write() {
    let installed = Installation::boot("[sources.a]\n");
    installed.start();
    assert_eq!(installed.post("a"), Some(202));
    let folder = "/var/lib/hooktrail";
    installed.machine.run("systemctl stop hooktrail");
    installed
        .machine
        .run(&format!("mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}"));
    installed.machine.run("systemctl start --no-block hooktrail");
    installed.until_journal("read-only");
    until("senders get a response", || installed.post("a") == Some(503));
    // The mounts of a running service are its alone, so the service starts again.
    installed.machine.run(&format!("systemctl stop hooktrail; umount {folder}"));
    installed.start();
    assert_eq!(installed.post("a"), Some(202));
    assert_eq!(installed.query("select count(*) from events"), "2");
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn the_backup_unit_copies_the_database_while_the_server_runs() {
    let installed = Installation::boot("[sources.a]\n");
    installed.start();
    assert_eq!(installed.post("a"), Some(202));
    installed.machine.run("systemctl start hooktrail-backup");
    let copies = installed.machine.run("ls /var/backups/hooktrail/*.db");
    let copy = copies.trim();
    assert_eq!(
        installed.machine.run(&format!("sqlite3 {copy} 'select count(*) from events'")),
        "1\n"
    );
}
