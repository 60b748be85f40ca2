//! The shipped units under a live systemd, in a machine that `systemd-nspawn` boots.

use std::fs;
use std::path::Path;

use crate::support::client::post;
use crate::support::machine::{Machine, free_port};
use crate::support::server::{HOOKTRAIL, until};

const CONFIG: &str = "/etc/hooktrail/config.toml";

/// A machine with the units, the user and the folders of the service. `tables` is config.toml, except that
/// `[server]` has no `listen` yet, and that the database is in `data/`. The service has not started.
fn machine_with(port: u16, tables: &str) -> Machine {
    let machine = Machine::boot(&[(Path::new(HOOKTRAIL), "/usr/local/bin/hooktrail")]);
    let folders = [
        ("service", "system"),
        ("socket", "system"),
        ("sysusers", "sysusers.d"),
        ("tmpfiles", "tmpfiles.d"),
    ];
    for (extension, folder) in folders {
        let file = format!("hooktrail.{extension}");
        let name = if folder == "system" { &file } else { "hooktrail.conf" };
        let folder = if folder == "system" { "systemd/system" } else { folder };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(&file);
        machine.write(&format!("/usr/lib/{folder}/{name}"), fs::read(source).unwrap());
    }
    machine.run(
        "systemd-sysusers && systemd-tmpfiles --create hooktrail.conf && systemctl daemon-reload",
    );
    let server = format!("[server]\nlisten = [\"127.0.0.1:{port}\"]\n[admin]\nlisten = []\n");
    machine.write(CONFIG, format!("{server}[store]\npath = \"data/hooktrail.db\"\n{tables}"));
    machine
}

/// The text that a query of the database prints in the machine.
fn query(machine: &Machine, sql: &str) -> String {
    let command = format!("sqlite3 -readonly /var/lib/hooktrail/hooktrail.db \"{sql}\"");
    machine.run(&command).trim_end().to_owned()
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn the_unit_counts_as_started_when_the_server_accepts_webhooks() {
    let port = free_port();
    let machine = machine_with(port, "[sources.a]\n");
    machine.run("systemctl start hooktrail");
    assert_eq!(post(port, "/hooks/a", b"{}").expect("a response").status, 202);
    assert_eq!(query(&machine, "select count(*) from events"), "1");
    let line = format!("listening for webhooks on http://127.0.0.1:{port}");
    until("the journal has the line", || machine.journal("hooktrail").contains(&line));
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
