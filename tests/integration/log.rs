//! The log: the server runs although nothing reads it, and requests cannot flood it.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::support::client::send_request;
use crate::support::server::{DEADLINE, HOOKTRAIL, Scenario, Server, scenario, send_signal, until};

/// A server whose stderr is a pipe that nothing reads, unless a test does. The server takes the pipe for the
/// journal.
struct ServerWithPipe {
    scenario: Scenario,
    child: Child,
    log: File,
    pipe: OwnedFd,
    /// Receives the notifications to systemd.
    manager: UnixDatagram,
}

impl ServerWithPipe {
    fn start(scenario: Scenario) -> Self {
        scenario.write();
        let (log, pipe) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let socket = scenario.path().join("notify");
        let manager = UnixDatagram::bind(&socket).unwrap();
        manager.set_read_timeout(Some(DEADLINE)).unwrap();
        let found = rustix::fs::fstat(&pipe).unwrap();
        let child = Command::new(HOOKTRAIL)
            .args(["--config", "config.toml", "serve"])
            .current_dir(scenario.path())
            .env("NOTIFY_SOCKET", socket)
            .env("JOURNAL_STREAM", format!("{}:{}", found.st_dev, found.st_ino))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(pipe.try_clone().unwrap())
            .spawn()
            .unwrap();
        Self { scenario, child, log: log.into(), pipe, manager }
    }

    /// Waits for a notification to systemd that contains this text.
    fn wait_for_notification(&self, text: &str) {
        let mut buffer = [0; 4096];
        loop {
            let length = self.manager.recv(&mut buffer).unwrap();
            if String::from_utf8_lossy(&buffer[..length]).contains(text) {
                return;
            }
        }
    }

    /// Reads the log up to this text.
    fn read_until(&mut self, text: &str) -> String {
        let mut log = Vec::new();
        while !log.ends_with(text.as_bytes()) {
            let mut byte = [0];
            self.log.read_exact(&mut byte).unwrap();
            log.push(byte[0]);
        }
        String::from_utf8(log).unwrap()
    }

    fn port(&mut self) -> u16 {
        self.read_until("listening for webhooks on http://127.0.0.1:");
        self.read_until("\n").trim().parse().unwrap()
    }

    /// Fills the pipe, as a paused terminal does.
    fn fill_pipe(&self) {
        // A new open file description: the one of the server must stay in blocking mode.
        let mut pipe = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(format!("/proc/self/fd/{}", self.pipe.as_raw_fd()))
            .unwrap();
        // After whole pages, single bytes fill the rest of the last page.
        for size in [4096, 1] {
            while !matches!(pipe.write(&vec![b'\n'; size]), Err(e) if e.kind() == ErrorKind::WouldBlock)
            {
            }
        }
    }

    fn wait_for_exit(&mut self) -> Option<i32> {
        let mut code = None;
        until("the server ends", || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        code.and_then(|code| code.code())
    }

    fn signal(&self, signal: Signal) {
        send_signal(self.child.id(), signal).unwrap();
    }

    fn database(&self) -> std::path::PathBuf {
        self.scenario.path().join("t.db")
    }
}

impl Drop for ServerWithPipe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn reloads(database: &Path) -> i64 {
    let conn = rusqlite::Connection::open(database).unwrap();
    let count = "select count(*) from audit_log where action = 'reload'";
    conn.query_row(count, [], |row| row.get(0)).unwrap()
}

#[test]
fn a_full_log_pipe_blocks_neither_requests_nor_reloads_nor_a_stop() {
    let mut server = ServerWithPipe::start(scenario().source("a", ""));
    let port = server.port();
    server.fill_pipe();
    for count in 1..=3 {
        let no_http = send_request(port, "GET", "no path", "", b"");
        assert!(no_http.is_none_or(|response| response.status == 400));
        server.signal(Signal::HUP);
        let database = server.database();
        until("the configuration is reloaded", || reloads(&database) == count);
        assert_eq!(send_request(port, "POST", "/hooks/a", "", b"x").unwrap().status, 202);
    }
    server.signal(Signal::TERM);
    assert_eq!(server.wait_for_exit(), Some(0));
}

#[test]
fn dropped_log_lines_are_counted_and_reported() {
    let mut server = ServerWithPipe::start(scenario().source("a", ""));
    let port = server.port();
    server.fill_pipe();
    let unknown: String = (0..6000).map(|number| format!("unknown_{number} = 1\n")).collect();
    let config = server.scenario.path().join("config.toml");
    let before = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{before}\n[sources.b]\n{unknown}")).unwrap();
    server.signal(Signal::HUP);
    server.wait_for_notification("STATUS=config.toml was not reloaded");
    let log = server.read_until("log lines were dropped");
    assert!(log.contains("unknown_0") && !log.contains("unknown_5999"));
    assert_eq!(send_request(port, "POST", "/hooks/a", "", b"x").unwrap().status, 202);
}

#[test]
fn a_server_that_cannot_start_ends_despite_a_full_log_pipe() {
    let mut server = ServerWithPipe::start(scenario().server("no_such_key = 1"));
    server.fill_pipe();
    assert_eq!(server.wait_for_exit(), Some(78));
}

#[test]
fn malformed_requests_log_few_lines_and_no_errors() {
    let server = scenario().source("a", "").handler("h", "", "true").start();
    for _ in 0..200 {
        let mut stream = server.connect().unwrap();
        stream.write_all(b"GET http://[ HTTP/1.1\r\n\r\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 400"), "{response}");
    }
    let log = stop(server);
    let lines = log.lines().filter(|line| line.contains("a connection is closed")).count();
    assert!((1..=2).contains(&lines), "{log}");
    assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
}

/// Stops the server and returns its whole log.
fn stop(mut server: Server) -> String {
    assert_eq!(server.stop(), Some(0));
    until("the log is complete", || server.log().contains("stopped"));
    server.log()
}

/// The lines of the log that begin with `start` after their time and level.
fn lines_that_begin_with(log: &str, start: &str) -> Vec<String> {
    let texts = log.lines().filter_map(|line| line.splitn(3, ' ').nth(2));
    texts.map(|text| text.trim_start().to_owned()).filter(|text| text.starts_with(start)).collect()
}

/// The addresses that fail2ban finds in lines, by the filter of docs/operations.md.
fn banned_addresses(lines: &[String]) -> Vec<String> {
    let page = std::fs::read_to_string("docs/operations.md").unwrap();
    let pattern = page.split("failregex = ").nth(1).unwrap().lines().next().unwrap();
    // The addresses that fail2ban finds in them.
    let pattern = pattern.replace("%(__prefix_line)s", "");
    let pattern = pattern.replace("<ADDR>", "(?P<ip>[0-9a-fA-F:.]+)");
    let script = "import re, sys\nfor line in sys.argv[2:]:\n    found = re.search(sys.argv[1], line)\n    \
                  print(found['ip'] if found else '')";
    let python = Command::new("python3").args(["-c", script, &pattern]).args(lines).output();
    let output = String::from_utf8(python.unwrap().stdout).unwrap();
    output.lines().map(str::to_owned).collect()
}

#[test]
fn a_rejection_has_a_line_that_fail2ban_reads() {
    let mut server = scenario()
        .server("trusted_proxies = [\"127.0.0.1\"]")
        .source("a", "verify = { scheme = \"bearer\", secret = { file = \"secret\" } }")
        .prepare();
    server.write_file("secret", "0123456789abcdef");
    server.start();
    for (path, ip) in [("/hooks/a", "203.0.113.7"), ("/x", "2001:db8::7"), ("/hooks/a", "no\" ip")]
    {
        server.request("POST", path, &format!("X-Forwarded-For: {ip}"), b"x");
    }
    let lines = lines_that_begin_with(&stop(server), "rejected ");
    let expected = [
        "rejected 401 source=a ip=203.0.113.7 reason=\"no authorization header\" count=1",
        "rejected 404 source=- ip=2001:db8::7 reason=\"no source at this path\" count=1",
        "rejected 401 source=a ip=- reason=\"no authorization header\" count=1",
    ];
    assert_eq!(lines, expected);
    assert_eq!(banned_addresses(&lines), ["203.0.113.7", "2001:db8::7", ""]);
}

#[test]
fn a_flood_of_rejections_is_few_lines_and_a_count() {
    let server = scenario().source("a", "").start();
    for _ in 0..300 {
        assert_eq!(server.post("/nowhere", "x").status, 404);
    }
    let lines = lines_that_begin_with(&stop(server), "rejected 404 ");
    assert!(lines.len() <= 6, "{lines:?}");
    let count = |line: &String| line.rsplit_once("count=").unwrap().1.parse::<u32>().unwrap();
    assert_eq!(lines.iter().map(count).sum::<u32>(), 300, "{lines:?}");
}

#[test]
fn a_dead_job_is_one_warning_whatever_its_handler_prints() {
    let forged = "rejected 401 source=a ip=198.51.100.1 reason=\"x\" count=1";
    let server = scenario()
        .source("a", "")
        .handler("bad", "", &format!("printf '%s\\r\\033[2Jno \"luck\"' '{forged}' >&2; exit 65"))
        .start();
    server.post("/hooks/a", "x");
    server.until("select count(*) from dead_jobs", "1");
    let log = stop(server);
    let line = r#"dead job=1 event=1 source=a handler=bad attempts=1 detail="exit 65: [2Jno \"luck\"" count=1"#;
    assert_eq!(lines_that_begin_with(&log, "dead "), [line]);
    assert!(log.contains(&format!("WARN  {line}\n")), "{log}");
    assert_eq!(banned_addresses(&lines_that_begin_with(&log, "")).concat(), "");
}

#[test]
fn a_day_without_problems_logs_nothing_at_warning() {
    let mut server = ServerWithPipe::start(scenario().source("a", "").handler(
        "ok",
        "mode = \"stream\"",
        STREAM_HANDLER,
    ));
    let port = server.port();
    for round in 1..=3 {
        for _ in 0..20 {
            assert_eq!(send_request(port, "POST", "/hooks/a", "", b"{}").unwrap().status, 202);
        }
        assert_eq!(send_request(port, "GET", "/wp-login.php", "", b"").unwrap().status, 404);
        server.signal(Signal::HUP);
        until("the configuration is reloaded", || reloads(&server.database()) == round);
    }
    server.signal(Signal::TERM);
    let log = server.read_until("stopped\n");
    assert_eq!(server.wait_for_exit(), Some(0));
    assert!(log.contains("<5>rejected 404 source=- ip=127.0.0.1 "), "{log}");
    let is_warning = |line: &&str| !line.starts_with("<5>") && !line.starts_with("<6>");
    let warnings: Vec<&str> = log.lines().skip(1).filter(is_warning).collect();
    assert_eq!(warnings, Vec::<&str>::new());
}

/// Answers each job.
const STREAM_HANDLER: &str = r#"while read -r line; do
    job=${line#*\"job\":}
    echo "{\"job\":${job%%,*},\"outcome\":\"succeeded\"}"
done"#;
