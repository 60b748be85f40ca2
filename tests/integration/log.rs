//! The log: the server runs although nothing reads it, and requests cannot flood it.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::support::client::send_request;
use crate::support::server::{DEADLINE, HOOKTRAIL, Scenario, scenario, send_signal, until};

/// A server whose stderr is a pipe that nothing reads, unless a test does.
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
        let child = Command::new(HOOKTRAIL)
            .args(["--config", "config.toml", "serve"])
            .current_dir(scenario.path())
            .env("NOTIFY_SOCKET", socket)
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
    let mut server = scenario().source("a", "").start();
    for _ in 0..200 {
        server.send_raw(b"no http\r\n\r\n");
    }
    assert_eq!(server.stop(), Some(0));
    until("the log is complete", || server.log().contains("stopped"));
    let log = server.log();
    let lines = log.lines().filter(|line| line.contains("a connection is closed"));
    assert!(lines.count() <= 2, "{log}");
    assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
}
