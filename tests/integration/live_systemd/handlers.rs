//! What handlers may do in the sandbox of the unit, and what a drop-in allows.

use super::{Installation, shipped};
use crate::support::client::post;
use crate::support::http_server::stub_server;
use crate::support::server::until;

/// Threads, processes, `/dev/shm`, SQLite and TLS.
const PYTHON: &str = r#"#!/usr/bin/env python3
import json, multiprocessing, sqlite3, ssl, sys, tempfile, threading

if __name__ == "__main__":
    event = json.load(sys.stdin)
    with multiprocessing.Pool(2) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]
    thread = threading.Thread(target=ssl.create_default_context)
    thread.start()
    thread.join()
    sqlite3.connect("data/python.db").execute("create table if not exists t (x)")
    with tempfile.NamedTemporaryFile(dir="/tmp") as file:
        file.write(b"x")
    open("/var/cache/hooktrail/python", "w").write("x")
"#;

/// Code generated at run time, worker threads, and the list of network interfaces.
const NODE: &str = r#"#!/usr/bin/env node
const { Worker } = require("worker_threads");
if (!require("os").networkInterfaces().lo) throw new Error("no interface");
let sum = 0;
for (let i = 0; i < 5e6; i++) sum += Math.sqrt(i);
const wasm = Uint8Array.from([0, 97, 115, 109, 1, 0, 0, 0]);
new WebAssembly.Instance(new WebAssembly.Module(wasm));
new Worker("require('fs').writeFileSync('data/node', 'x')", { eval: true });
"#;

/// Regular expressions that PCRE compiles at run time, as PHP does by default.
const PHP: &str = r#"<?php
if (ini_get('pcre.jit') !== '1') throw new Exception('no just-in-time compiler');
$event = json_decode(file_get_contents('php://input'), true);
if (!preg_match('/^(a|b)+$/', $event['letters'])) throw new Exception('no match');
if (!file_put_contents($_SERVER['DOCUMENT_ROOT'] . '/data/php', $event['letters'])) exit(1);
"#;

const GIT: &str = "#!/bin/sh
set -e
rm -rf data/site
git clone -q data/origin.git data/site
cd data/site
git -c user.name=a -c user.email=a@example.com commit -q --allow-empty -m x
git push -q
git pull -q
";

/// Tools of shell scripts.
const SHELL: &str = "#!/bin/sh
set -e
sqlite3 data/shell.db 'create table if not exists t (x); insert into t values (1)'
nice -n 5 true
test \"$(nproc)\" -ge 1
free >/dev/null
ps -o pid= $$ >/dev/null
cat /etc/os-release >/dev/null
(ulimit -n 256; true)
";

/// Names what it was allowed to do. Without the sandbox, that is all of it.
const DENIED: &str = r#"#!/bin/sh
failed=0
expect_denied() {
    ! "$@" >/dev/null 2>&1 || { echo "allowed: $*" >&2; failed=1; }
}
expect_denied touch /srv/www/x
expect_denied touch /home/deploy/site/x
expect_denied cat /home/deploy/site/page
expect_denied cat /tmp/of-another-service
expect_denied /usr/local/bin/setuid-cat /root/secret
expect_denied chmod u+s data/file
expect_denied unshare --user true
expect_denied setarch --addr-no-randomize true
expect_denied test -e /dev/console
expect_denied test -e /proc/1/status
expect_denied python3 -c 'import ctypes, os; os._exit(ctypes.CDLL(None).ptrace(0, 0, 0, 0) != 0)'
exit $failed
"#;

/// Sends a webhook, waits until each of its jobs had an attempt, and returns the handlers of those that failed, with
/// their errors.
fn failures(installed: &Installation, jobs: usize, body: &str) -> String {
    let first = installed.query("select coalesce(max(id), 0) from outcomes");
    let response = post(installed.port, "/hooks/a", body.as_bytes());
    assert_eq!(response.expect("a response").status, 202);
    let count = format!("select count(*) from outcomes where id > {first}");
    until("each job had an attempt", || installed.query(&count) == jobs.to_string());
    installed.query(&format!(
        "select handler, outcomes.detail, stderr from outcomes join attempts using (id)
        where id > {first} and outcomes.outcome <> 'succeeded'"
    ))
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn handlers_in_common_languages_succeed_and_the_sandbox_denies_the_rest() {
    let server = stub_server(|_| Some("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned()));
    let mut tables = "[sources.a]\n".to_owned();
    let curl = format!(
        "#!/bin/sh\nexec curl --silent --show-error --fail --data-binary @- http://127.0.0.1:{}/\n",
        server.port
    );
    let scripts = [
        ("python", PYTHON),
        ("node", NODE),
        ("php", PHP),
        ("curl", &curl),
        ("git", GIT),
        ("shell", SHELL),
        ("denied", DENIED),
    ];
    for (name, _) in scripts {
        let command = if name == "php" {
            "mode = \"cgi\"\ncommand = [\"php-cgi\", \"handlers/php\"]".to_owned()
        } else {
            format!("command = [\"handlers/{name}\"]")
        };
        tables += &format!(
            "[handlers.{name}]\nsources = [\"a\"]\n{command}\nretry = {{ max_attempts = 1 }}\n"
        );
    }
    let installed = Installation::boot(&tables);
    let machine = &installed.machine;
    for (name, script) in scripts {
        machine.write(&format!("/etc/hooktrail/handlers/{name}"), script);
    }
    machine.run(
        "cd /var/lib/hooktrail
        runuser -u hooktrail -- git init -q --bare origin.git
        runuser -u hooktrail -- touch file
        mkdir -p /srv/www /home/deploy/site
        chown hooktrail /srv/www /home/deploy/site
        echo x | tee /root/secret /tmp/of-another-service > /home/deploy/site/page
        chmod 600 /root/secret
        install -m 4755 /bin/cat /usr/local/bin/setuid-cat",
    );
    let unrestricted = "cd /etc/hooktrail; runuser -u hooktrail -- handlers/denied";
    let allowed = machine.run_failing(unrestricted).matches("allowed: ").count();
    assert_eq!(allowed, DENIED.matches("\nexpect_denied ").count());
    installed.start();
    assert_eq!(failures(&installed, scripts.len(), r#"{"letters":"abba"}"#), "");
    assert_eq!(machine.read("/var/lib/hooktrail/php"), "abba");
    assert_eq!(server.requests()[0].body, br#"{"letters":"abba"}"#);
    let log = "runuser -u hooktrail -- git -C /var/lib/hooktrail/origin.git log --format=%s";
    assert_eq!(
        machine.run(log),
        "x
"
    );
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn the_examples_of_a_drop_in_allow_what_they_say() {
    let script = "#!/bin/sh
failed=0
fail() { echo no access: $1 >&2; failed=65; }
touch /srv/www/deployed || fail deploy
cat /home/deploy/site/page >/dev/null || fail home
test ! -e /home/other || fail 'another home is visible'
cat /tmp/of-another-service >/dev/null || fail tmp
id -nG | grep -qw dialout || fail group
exit $failed
";
    let handler = "[sources.a]\n[handlers.h]\nsources = [\"a\"]\ncommand = [\"handlers/h\"]\n";
    let installed = Installation::boot(handler);
    let machine = &installed.machine;
    machine.write("/etc/hooktrail/handlers/h", script);
    machine.run(
        "mkdir -p /srv/www /home/deploy/site /home/other
        chown hooktrail /srv/www
        echo x | tee /tmp/of-another-service > /home/deploy/site/page",
    );
    installed.start();
    let denied = failures(&installed, 1, "");
    for access in ["deploy", "home", "tmp", "group"] {
        assert!(denied.contains(&format!("no access: {access}")), "{denied}");
    }
    let examples = shipped("hooktrail-handlers.conf");
    let keys = [
        "ReadWritePaths=",
        "ProtectHome=",
        "BindReadOnlyPaths=",
        "PrivateTmp=",
        "SupplementaryGroups=",
    ];
    let lines: Vec<&str> = examples
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| keys.iter().any(|key| line.starts_with(key)))
        .collect();
    assert_eq!(lines.len(), keys.len());
    installed.drop_in(&lines.join("\n"));
    machine.run("systemctl restart hooktrail");
    assert_eq!(failures(&installed, 1, ""), "");
    machine.run("test -e /srv/www/deployed");
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn a_handler_starts_a_unit_of_root_by_a_rule_of_polkit() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md"));
    let page = page.unwrap();
    let rule = page.split("```js\n").nth(1).and_then(|rest| rest.split("```").next());
    let handlers = "[sources.a]
        [handlers.allowed]
        sources = [\"a\"]
        command = [\"systemctl\", \"start\", \"deploy.service\"]
        retry = { max_attempts = 1 }
        [handlers.denied]
        sources = [\"a\"]
        command = [\"systemctl\", \"start\", \"other.service\"]
        retry = { max_attempts = 1 }
        ";
    let installed = Installation::boot(handlers);
    let machine = &installed.machine;
    machine.write("/etc/polkit-1/rules.d/50-hooktrail.rules", rule.expect("a rule"));
    for name in ["deploy", "other"] {
        let unit = format!("[Service]\nType=oneshot\nExecStart=/usr/bin/touch /root/{name}\n");
        machine.write(&format!("/etc/systemd/system/{name}.service"), unit);
    }
    machine.run("systemctl daemon-reload; systemctl restart polkit");
    installed.start();
    let failures = failures(&installed, 2, "");
    assert!(failures.starts_with("denied|") && !failures.contains("allowed|"), "{failures}");
    machine.run("test -e /root/deploy && test ! -e /root/other");
}
