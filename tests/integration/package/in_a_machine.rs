//! The package in a machine under a live systemd: install, upgrade, remove, purge, and the commands of the pages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::OnceLock;

use super::{package, printed, repository};
use crate::docs::{blocks, page};
use crate::support::machine::Machine;
use crate::support::server::until;

/// The folder of the packages in a machine.
const PACKAGES: &str = "/packages";

/// Posts webhooks, each on a new connection, until the file /stop exists. Prints their number, then each failure.
const LOAD: &str = r#"
import http.client, os
count, failures = 0, []
while not os.path.exists("/stop"):
    count += 1
    try:
        connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=60)
        connection.request("POST", "/hooks/paminga", "x")
        status = connection.getresponse().status
        if status != 202:
            failures.append(str(status))
    except OSError as error:
        failures.append(repr(error))
    except http.client.HTTPException as error:
        failures.append(repr(error))
    finally:
        connection.close()
    if count == 1:
        open("/started", "w").close()
print(count, *failures, sep="\n")
"#;

/// A folder with the package as `this.deb`, and under an older and a newer version number as `VERSION.deb`.
fn packages() -> &'static Path {
    static WRITTEN: OnceLock<PathBuf> = OnceLock::new();
    WRITTEN.get_or_init(|| {
        let folder = package().parent().unwrap().join("versions");
        fs::create_dir_all(&folder).unwrap();
        fs::copy(package(), folder.join("this.deb")).unwrap();
        for version in ["0.0.1", "99.0.0"] {
            write_version(&folder, version);
        }
        folder
    })
}

fn write_version(folder: &Path, version: &str) {
    let contents = tempfile::tempdir().unwrap();
    let paths = [package(), contents.path()].map(|path| path.to_str().unwrap());
    printed("dpkg-deb", &["--raw-extract", paths[0], paths[1]]);
    let control = contents.path().join("DEBIAN/control");
    let fields = fs::read_to_string(&control).unwrap();
    let own = format!("\nVersion: {}\n", env!("CARGO_PKG_VERSION"));
    assert!(fields.contains(&own), "{fields}");
    fs::write(&control, fields.replace(&own, &format!("\nVersion: {version}\n"))).unwrap();
    let deb = folder.join(format!("{version}.deb"));
    printed("dpkg-deb", &["-Znone", "--build", paths[1], deb.to_str().unwrap()]);
}

/// A machine that can install the packages.
fn machine() -> Machine {
    Machine::boot_isolated(&[(packages(), PACKAGES)])
}

/// Runs apt, and returns what it prints.
#[track_caller]
fn apt(machine: &Machine, command: &str) -> String {
    let quiet = "DEBIAN_FRONTEND=noninteractive apt-get --quiet=2 --yes";
    machine.run(&format!("{quiet} {command} 2>&1"))
}

#[track_caller]
fn install(machine: &Machine, name: &str) -> String {
    apt(machine, &format!("install {PACKAGES}/{name}.deb"))
}

#[track_caller]
fn post(machine: &Machine, body: &str) -> String {
    let url = "http://127.0.0.1:8080/hooks/paminga";
    machine.run(&format!(
        "curl --silent --show-error --write-out ' %{{http_code}}' --data '{body}' {url}"
    ))
}

fn query(machine: &Machine, sql: &str) -> String {
    let command = "runuser -u hooktrail -- sqlite3 /var/lib/hooktrail/hooktrail.db";
    machine.run(&format!("{command} \"{sql}\"")).trim_end().to_owned()
}

fn main_process(machine: &Machine) -> String {
    machine.run("systemctl show --property=MainPID --value hooktrail")
}

/// Starts to post webhooks, and waits for the first response.
fn start_load(machine: &Machine) -> Child {
    let mut load = machine.command("python3");
    load.args(["-c", LOAD]).stdout(Stdio::piped());
    let load = load.spawn().unwrap();
    until("the first webhook has its response", || {
        machine.try_run("test -e /started").status.success()
    });
    load
}

/// Stops the load. Returns the number of requests and the failures.
fn stop_load(machine: &Machine, load: Child) -> (u64, Vec<String>) {
    machine.run("touch /stop");
    let output = load.wait_with_output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let mut lines = printed.lines().map(str::to_owned);
    (lines.next().expect("a number").parse().unwrap(), lines.collect())
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn apt_installs_and_starts_the_service_which_stores_the_first_webhook() {
    let machine = machine();
    let printed = install(&machine, "this");
    assert!(!printed.contains("warning"), "{printed}");
    assert_eq!(machine.run("systemctl is-active hooktrail"), "active\n");
    assert_eq!(post(&machine, r#"{"form_id":"1","name":"Ada"}"#), r#"{"event":1} 202"#);
    until("the example handler has run", || {
        query(&machine, "select handler, outcome from outcomes") == "show-form|succeeded"
    });
    assert!(query(&machine, "select cast(stdout as text) from attempts").contains("name: Ada"));
    let enabled = "for unit in .service .socket -backup.timer; do systemctl is-enabled hooktrail$unit; done; true";
    assert_eq!(machine.run(enabled), "enabled\ndisabled\ndisabled\n");
    // The loopback interface only.
    let sockets = machine.run("cat /proc/net/tcp | awk '$4 == \"0A\" { print $2 }' | sort");
    assert_eq!(sockets, "0100007F:1F90\n0100007F:1F91\n");
    let modes = "stat --format '%a %U %G %n' /etc/hooktrail /etc/hooktrail/config.toml /etc/hooktrail/conf.d \
                 /var/lib/hooktrail /var/backups/hooktrail";
    let expected = "2750 root hooktrail /etc/hooktrail\n640 root hooktrail /etc/hooktrail/config.toml\n\
                    2750 root hooktrail /etc/hooktrail/conf.d\n750 hooktrail hooktrail /var/lib/hooktrail\n\
                    750 hooktrail hooktrail /var/backups/hooktrail\n";
    assert_eq!(machine.run(modes), expected);
    let check = "cd /tmp && runuser -u hooktrail -- hooktrail check --strict";
    let checked = machine.run(check);
    assert!(checked.ends_with("/etc/hooktrail/config.toml: no errors\n"), "{checked}");
    machine
        .run("systemctl enable --now hooktrail-backup.timer && systemctl start hooktrail-backup");
    assert_eq!(machine.run("ls /var/backups/hooktrail | wc -l"), "1\n");
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn an_installation_says_that_the_service_did_not_start_and_that_another_unit_replaces_its_own() {
    let machine = machine();
    let failing =
        "[Service]\nType=oneshot\nExecStart=false\n[Install]\nWantedBy=multi-user.target\n";
    machine.write("/etc/systemd/system/hooktrail.service", failing);
    let printed = install(&machine, "this");
    let replaced = "/etc/systemd/system/hooktrail.service replaces the unit of the package";
    assert!(printed.contains(replaced), "{printed}");
    let failed = "the service did not start: `journalctl -u hooktrail` says why";
    assert!(printed.contains(failed), "{printed}");
    machine.run("rm /etc/systemd/system/hooktrail.service && systemctl daemon-reload");
    machine.run("systemctl restart hooktrail");
    assert_eq!(post(&machine, "x"), r#"{"event":1} 202"#);
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn an_upgrade_under_load_fails_no_request_and_keeps_the_configuration_and_each_event() {
    let machine = machine();
    install(&machine, "0.0.1");
    let table = "[handlers.own]\nsources = [\"paminga\"]\ncommand = [\"true\"]\n";
    machine.write("/etc/hooktrail/conf.d/own.toml", table);
    machine.run("echo '# a comment' >>/etc/hooktrail/config.toml && systemctl reload hooktrail");
    post(&machine, "before the upgrade");
    let before = main_process(&machine);
    let load = start_load(&machine);
    let printed = install(&machine, "this");
    assert_ne!(main_process(&machine), before, "{printed}");
    let version = machine.run("dpkg-query --show --showformat '${Version}' hooktrail");
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    let (count, failures) = stop_load(&machine, load);
    let stored: u64 = query(&machine, "select count(*) - 1 from events").parse().unwrap();
    assert!(failures.is_empty(), "{} of {count} failed: {failures:?}", failures.len());
    assert!(count > 10 && stored >= count, "{stored} of {count}");
    assert_eq!(query(&machine, "select body from events where id = 1"), "before the upgrade");
    assert!(machine.read("/etc/hooktrail/config.toml").ends_with("# a comment\n"));
    assert_eq!(machine.read("/etc/hooktrail/conf.d/own.toml"), table);
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn an_upgrade_leaves_the_old_server_running_if_the_new_version_rejects_the_configuration() {
    let machine = machine();
    install(&machine, "this");
    let before = main_process(&machine);
    machine.write("/etc/hooktrail/conf.d/wrong.toml", "[handlers.wrong]\nsource = []\n");
    let printed = install(&machine, "99.0.0");
    assert!(printed.contains("/etc/hooktrail/conf.d/wrong.toml:2: "), "{printed}");
    assert!(printed.contains("then run `systemctl restart hooktrail`"), "{printed}");
    assert_eq!(main_process(&machine), before);
    assert_eq!(post(&machine, "x"), r#"{"event":1} 202"#);
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn a_service_that_the_administrator_stopped_and_disabled_stays_so_at_an_upgrade() {
    let machine = machine();
    install(&machine, "0.0.1");
    machine.run("systemctl disable --now hooktrail");
    install(&machine, "this");
    machine.run_failing("systemctl is-enabled hooktrail");
    machine.run_failing("systemctl is-active hooktrail");
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn remove_keeps_the_data_and_purge_removes_all_but_the_user_and_the_backups() {
    let machine = machine();
    install(&machine, "this");
    post(&machine, "x");
    machine
        .run("systemctl enable --now hooktrail-backup.timer && systemctl start hooktrail-backup");
    let process = main_process(&machine);
    apt(&machine, "remove hooktrail");
    machine.run_failing(&format!("test -e /proc/{process}"));
    machine.run_failing("test -e /usr/bin/hooktrail");
    machine.run("test -s /etc/hooktrail/config.toml");
    assert_eq!(query(&machine, "select count(*) from events"), "1");
    // What was enabled is enabled and active again.
    install(&machine, "this");
    assert_eq!(
        machine.run("systemctl is-active hooktrail hooktrail-backup.timer"),
        "active\nactive\n"
    );
    assert_eq!(post(&machine, "x"), r#"{"event":2} 202"#);
    apt(&machine, "purge hooktrail");
    let rest = machine
        .run("find / -xdev -name '*hooktrail*' -not -path '/var/log/*' -not -path '/run/*' | sort");
    let is_known =
        |path: &str| path.starts_with("/var/backups/") || path.contains("/timers/stamp-");
    let unknown: Vec<&str> = rest.lines().filter(|path| !is_known(path)).collect();
    assert_eq!(unknown, Vec::<&str>::new());
    assert_eq!(machine.run("ls /var/backups/hooktrail | wc -l"), "1\n");
    machine.run("getent passwd hooktrail");
}

/// What `sudo` and the build are in a machine, where root runs everything and the package is built.
const PREAMBLE: &str = r#"
set -e
sudo() { case $1 in -u) user=$2; shift 2; runuser -u "$user" -- "$@" ;; apt) shift; apt-get -qq -y "$@" ;; *) "$@" ;; esac; }
alias hooktrail='sudo -u hooktrail hooktrail --config /etc/hooktrail/config.toml'
cd /root
"#;

/// Runs the commands of a page in a machine, and returns what they print.
#[track_caller]
fn paste(machine: &Machine, commands: &str) -> String {
    let commands = commands.replace("$(packaging/deb)", &format!("{PACKAGES}/this.deb"));
    machine.write("/root/pasted", format!("{PREAMBLE}{commands}"));
    machine.run("sh /root/pasted")
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn the_commands_of_the_readme_install_the_package_and_add_a_handler() {
    let machine = machine();
    let readme = page("README.md");
    let commands = blocks(&readme, "sh");
    let outcomes = commands.iter().position(|block| block.contains("sqlite3")).unwrap();
    let [installation, _, ..] = &commands[..] else { panic!("{commands:?}") };
    assert!(installation.lines().count() == 3, "{installation}");
    assert!(paste(&machine, installation).ends_with("{\"event\":1}"));
    until("the outcome is there", || {
        paste(&machine, &commands[outcomes]).contains("|1|paminga|show-form||1|succeeded|exit 0|")
    });
    let last = commands.iter().position(|block| block.contains("'Hello'")).unwrap();
    for block in &commands[outcomes + 1..=last] {
        paste(&machine, block);
    }
    until("the handler has run", || {
        paste(&machine, "hooktrail show 2").contains("attempt 1 for event 2 of paminga:")
    });
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn the_commands_of_an_installation_without_a_package_start_the_service_and_keep_its_configuration()
{
    let layout = tempfile::tempdir().unwrap();
    let path = layout.path().to_str().unwrap();
    printed("packaging/layout", &["--profile", "dev", path]);
    let machine = Machine::boot_isolated(&[(layout.path(), "/root/target/installed")]);
    let operations = page("docs/operations.md");
    let commands = blocks(&operations, "sh").into_iter().find(|block| block.contains("layout"));
    let commands = commands.unwrap().replace("packaging/layout target/installed\n", "");
    paste(&machine, &commands);
    assert_eq!(post(&machine, "x"), r#"{"event":1} 202"#);
    machine.run("echo '# a comment' >>/etc/hooktrail/config.toml");
    paste(&machine, &commands);
    assert!(machine.read("/etc/hooktrail/config.toml").ends_with("# a comment\n"));
    assert_eq!(post(&machine, "x"), r#"{"event":2} 202"#);
    let packaged = repository().join("systemd/hooktrail.sysusers");
    assert_eq!(
        machine.read("/usr/lib/sysusers.d/hooktrail.conf"),
        fs::read_to_string(packaged).unwrap()
    );
}
