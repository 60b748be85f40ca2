//! The server under test: its configuration, its process, and its database as a user reads it.
//!
//! A test waits for a condition, with a deadline (`until`). It never waits for a fixed time.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::types::Value;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::support::client::{Response, send_request};

/// How long a test waits for anything before it fails.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Whether tests that repeat something do so more often: `tests/run --long` sets this.
pub fn is_long() -> bool {
    std::env::var_os("HOOKTRAIL_TEST_LONG").is_some()
}

/// The binary under test.
pub const HOOKTRAIL: &str = env!("CARGO_BIN_EXE_hooktrail");

/// The user `nobody`, and the words before a command that root runs as this user.
pub const NOBODY: u32 = 65_534;
pub const AS_NOBODY: [&str; 6] =
    ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];

/// Waits until the condition holds. `condition` names it in the message of a failure.
pub fn until(condition: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "timed out waiting until {condition}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Builds a configuration in a temporary folder.
pub struct Scenario {
    folder: TempDir,
    /// The keys of `[server]`.
    server: String,
    /// All other tables.
    tables: String,
    /// The words of a command that starts the server.
    wrapper: Vec<String>,
}

/// A server that listens on a free port. It has no sources and no handlers yet.
pub fn scenario() -> Scenario {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tables =
        "[admin]\nlisten = []\n[store]\npath = \"t.db\"\nmin_free_space = 1024\n".to_owned();
    let server = "listen = [\"127.0.0.1:0\"]\n".to_owned();
    Scenario { folder, server, tables, wrapper: Vec::new() }
}

impl Scenario {
    /// Adds keys of `[server]`.
    pub fn server(mut self, keys: &str) -> Self {
        let _ = writeln!(self.server, "{keys}");
        self
    }

    /// Adds an address of `server.listen`.
    pub fn listen(mut self, address: &str) -> Self {
        let first = "listen = [\"127.0.0.1:0\"";
        self.server = self.server.replace(first, &format!("{first}, \"{address}\""));
        self
    }

    /// Sets the keys of `[admin]`. Without a call there is no admin listener.
    pub fn admin(mut self, keys: &str) -> Self {
        self.tables = self.tables.replace("[admin]\nlisten = []\n", &format!("[admin]\n{keys}\n"));
        self
    }

    /// Adds a table as it is.
    pub fn raw_config(mut self, text: &str) -> Self {
        let _ = writeln!(self.tables, "{text}");
        self
    }

    /// Adds a source with these keys.
    pub fn source(self, name: &str, keys: &str) -> Self {
        self.raw_config(&format!("[sources.{name}]\n{keys}"))
    }

    /// Adds a handler of source `a` that runs a shell script, with these keys.
    pub fn handler(self, name: &str, keys: &str, script: &str) -> Self {
        self.write_file(&format!("{name}.sh"), &format!("#!/bin/sh\n{script}\n"));
        self.raw_config(&format!(
            "[handlers.{name}]\nsources = [\"a\"]\ncommand = [\"./{name}.sh\"]\n{keys}"
        ))
    }

    /// Replaces source `a` of an earlier handler by another source.
    pub fn handler_source(mut self, name: &str, source: &str) -> Self {
        let table = format!("[handlers.{name}]\nsources = ");
        self.tables =
            self.tables.replace(&format!("{table}[\"a\"]"), &format!("{table}[\"{source}\"]"));
        self
    }

    /// Writes an executable file into the folder.
    pub fn write_file(&self, name: &str, text: &str) -> PathBuf {
        write_executable(self.folder.path(), name, text)
    }

    /// Starts the server by way of another command.
    pub fn wrapped_by(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Puts another command before that of `wrapped_by`.
    pub fn prepend_wrapper(mut self, words: &[&str]) -> Self {
        let outer = words.iter().map(|word| (*word).to_owned());
        self.wrapper = outer.chain(std::mem::take(&mut self.wrapper)).collect();
        self
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes config.toml.
    pub fn write(&self) {
        self.write_file("config.toml", &format!("[server]\n{}{}", self.server, self.tables));
    }

    /// Chooses a port and writes config.toml, but does not start the server.
    pub fn prepare(mut self) -> Server {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("a local address").port();
        self.server = self.server.replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
        self.write();
        Server {
            scenario: self,
            child: None,
            port,
            log: Arc::default(),
            has_altered_rows: AtomicBool::default(),
        }
    }

    /// Starts the server and waits until it listens.
    pub fn start(self) -> Server {
        self.write();
        let mut server = Server {
            scenario: self,
            child: None,
            port: 0,
            log: Arc::default(),
            has_altered_rows: AtomicBool::default(),
        };
        server.start();
        server
    }
}

fn write_executable(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    // A program that is open for writing cannot be run, so the file is written beside and renamed.
    let temporary = folder.join(format!("{name}.new"));
    fs::write(&temporary, text).expect("a file in the temporary folder");
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755)).expect("the mode");
    fs::rename(&temporary, &path).expect("the name");
    path
}

/// The server under test, running or stopped, and its log.
pub struct Server {
    scenario: Scenario,
    child: Option<Child>,
    pub port: u16,
    log: Arc<Mutex<String>>,
    has_altered_rows: AtomicBool,
}

impl Server {
    /// Lets the test change rows as the server never would, which `verify` finds.
    pub fn allow_altered_rows(&self) {
        self.has_altered_rows.store(true, Ordering::Relaxed);
    }

    /// Starts the server and waits until it listens.
    pub fn start(&mut self) {
        self.spawn();
        let port_of = |line: &str| {
            let (_, address) = line.split_once("listening for webhooks on http")?;
            let port = address.trim_start_matches('s').strip_prefix("://127.0.0.1:")?;
            port.trim().parse().ok()
        };
        until("the server listens", || {
            let child = self.child.as_mut().expect("a started server");
            if let Some(code) = child.try_wait().expect("the state") {
                panic!("the server ended with {code}: {}", self.log.lock().expect("the log"));
            }
            let log = self.log.lock().expect("the log");
            log.lines().find_map(port_of).map(|port| self.port = port).is_some()
        });
    }

    /// Starts the server without waiting until it listens.
    pub fn spawn(&mut self) {
        let mut words = self.scenario.wrapper.clone();
        words.extend([HOOKTRAIL, "--config", "config.toml", "serve"].map(str::to_owned));
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .current_dir(self.path())
            .env_remove("HOOKTRAIL_CONFIG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        self.log = Arc::default();
        let (log, stderr) = (Arc::clone(&self.log), child.stderr.take().expect("the stderr"));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = writeln!(log.lock().expect("the log"), "{line}");
            }
        });
        self.child = Some(child);
    }

    pub fn path(&self) -> &Path {
        self.scenario.path()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running server").id()
    }

    /// The log since the last start.
    pub fn log(&self) -> String {
        self.log.lock().expect("the log").clone()
    }

    /// Adds a table to config.toml and reloads. Does not wait for the reload.
    pub fn reload_with(&mut self, table: &str) {
        let _ = writeln!(self.scenario.tables, "{table}");
        self.scenario.write();
        self.signal(Signal::HUP);
    }

    /// Waits until the audit log has this number of reloads.
    pub fn until_reloads(&self, count: usize) {
        let reloads = "select count(*) from audit_log where action = 'reload'";
        self.until(reloads, &count.to_string());
    }

    /// The tables of the configuration other than `[server]`, to be changed.
    pub fn config(&mut self) -> &mut String {
        &mut self.scenario.tables
    }

    pub fn write_config(&self) {
        self.scenario.write();
    }

    /// Replaces a text in the tables other than `[server]` and writes config.toml.
    pub fn replace_in_config(&mut self, old: &str, new: &str) {
        self.scenario.tables = self.scenario.tables.replace(old, new);
        self.scenario.write();
    }

    /// Replaces the keys of `[server]`.
    pub fn set_server(&mut self, keys: &str) {
        self.scenario.server = format!("{keys}\n");
        self.scenario.write();
    }

    /// Replaces `[server]` by one address to listen on, from the next start on.
    pub fn set_listen(&mut self, address: &str) {
        self.scenario.server = format!("listen = [\"{address}\"]\n");
        self.scenario.write();
    }

    /// Writes an executable file into the folder.
    pub fn write_file(&self, name: &str, text: &str) -> PathBuf {
        self.scenario.write_file(name, text)
    }

    /// The text of a file in the folder, empty if there is none.
    pub fn read_file(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap_or_default()
    }

    pub fn signal(&self, signal: Signal) {
        send_signal(self.pid(), signal).expect("a running server");
    }

    /// Sets a resource limit of the running server, in the words of prlimit.
    pub fn set_limit(&self, limit: &str) {
        let pid = format!("--pid={}", self.pid());
        let status = Command::new("prlimit").args([&pid, limit]).status();
        assert!(status.expect("prlimit, of util-linux").success());
    }

    /// Ends the server with SIGKILL, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops the server with SIGTERM and returns its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.wait_for_exit()
    }

    /// The exit code, if the server has ended.
    pub fn exit_code(&mut self) -> Option<i32> {
        self.child.as_mut().and_then(|child| child.try_wait().expect("the state"))?.code()
    }

    /// Whether the server has ended, by itself or by a signal.
    pub fn has_ended(&mut self) -> bool {
        let child = self.child.as_mut().expect("a started server");
        child.try_wait().expect("the state").is_some()
    }

    /// Starts the server itself from now on, without the command of `wrapped_by`.
    pub fn remove_wrapper(&mut self) {
        self.scenario.wrapper.clear();
    }

    /// Waits until the server ends and returns its exit code.
    pub fn wait_for_exit(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("a running server");
        let mut code = None;
        until("the server ends", || {
            code = child.try_wait().expect("the state");
            code.is_some()
        });
        code.and_then(|code| code.code())
    }

    /// Opens a connection to the server.
    pub fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(stream)
    }

    /// Sends bytes as they are and returns everything until the server closes the connection.
    pub fn send_raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().expect("a connection");
        // The server may respond and close before it has read the whole request.
        let _ = stream.write_all(bytes);
        let mut response = Vec::new();
        let _ = stream.read_to_end(&mut response);
        String::from_utf8_lossy(&response).into_owned()
    }

    /// Sends a request; `headers` has one header on each line.
    pub fn request(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Response {
        self.try_request(method, path, headers, body).expect("a response")
    }

    pub fn try_request(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> Option<Response> {
        send_request(self.port, method, path, headers, body)
    }

    pub fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Response {
        self.request("POST", path, "Content-Type: application/json", body.as_ref())
    }

    /// Returns the rows of a query.
    pub fn rows(&self, sql: &str) -> Vec<Vec<Value>> {
        let conn = self.open_database();
        let mut select = conn.prepare(sql).expect("the query");
        let columns = select.column_count();
        let rows = select.query_map([], |row| (0..columns).map(|at| row.get(at)).collect());
        rows.expect("rows").map(|row| row.expect("a row")).collect()
    }

    /// Returns the first column of a query as text.
    pub fn column(&self, sql: &str) -> Vec<String> {
        self.rows(sql).into_iter().map(|row| display_value(&row[0])).collect()
    }

    /// Returns the first value of a query as text.
    pub fn value(&self, sql: &str) -> String {
        self.column(sql).into_iter().next().unwrap_or_default()
    }

    /// Returns the IDs of all stored events.
    pub fn event_ids(&self) -> Vec<i64> {
        let rows = self.column("select id from events order by id");
        rows.iter().map(|id| id.parse().expect("an event ID")).collect()
    }

    pub fn open_database(&self) -> Connection {
        let conn = Connection::open(self.path().join("t.db")).expect("the database");
        conn.busy_timeout(DEADLINE).expect("a busy timeout");
        conn
    }

    /// Keeps the server from writing until the connection is dropped.
    pub fn lock_database(&self) -> Connection {
        let conn = self.open_database();
        conn.execute_batch("BEGIN IMMEDIATE").expect("the write lock");
        conn
    }

    /// Waits until the first column of a query, joined by spaces, is this.
    pub fn until(&self, sql: &str, expected: &str) {
        let mut found = String::new();
        let deadline = Instant::now() + DEADLINE;
        while found != expected {
            let log = self.log();
            assert!(Instant::now() < deadline, "{sql}: {found:?}, expected {expected:?}\n{log}");
            std::thread::park_timeout(Duration::from_millis(5));
            found = self.column(sql).join(" ");
        }
    }

    /// Runs the command line in the server's folder.
    pub fn cli(&self, args: &[&str]) -> Output {
        cli(self.path(), args)
    }

    /// Runs the command line in the server's folder. Returns its exit code, and what it prints.
    pub fn cli_text(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = self.cli(args);
        (output.status.code(), format!("{}{}", stdout(&output), stderr(&output)))
    }

    /// Runs the command line in the server's folder on a terminal with this number of columns. Returns its text.
    pub fn cli_on_terminal(&self, columns: usize, args: &[&str]) -> String {
        let command = format!("stty cols {columns}; {HOOKTRAIL} {}", args.join(" "));
        let output = Command::new("script")
            .args(["-qec", &command, "/dev/null"])
            .current_dir(self.path())
            .env_remove("HOOKTRAIL_CONFIG")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output()
            .expect("script, of util-linux");
        stdout(&output).replace("\r\n", "\n")
    }

    /// Runs the command line in the server's folder. Returns the JSON objects that it prints, one per line.
    pub fn json_lines(&self, args: &[&str]) -> Vec<serde_json::Value> {
        let output = self.cli(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        let text = stdout(&output);
        text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
    }

    /// Starts a command that goes on, such as `tail -f`. It is killed when it is dropped.
    pub fn start_cli(&self, args: &[&str], stdout: Stdio) -> RunningCommand {
        let mut command = Command::new(HOOKTRAIL);
        let command = command.args(args).current_dir(self.path()).stdout(stdout);
        RunningCommand(command.spawn().expect("the command"))
    }
}

/// A stopped server with a paused handler, and events with the text `event N` and one job each. `state` is
/// that of the jobs in the table `jobs`.
pub fn stopped_server_with_jobs(events: usize, state: i64) -> Server {
    let mut server = scenario().source("a", "").handler("h", "paused = true", "true").start();
    assert_eq!(server.stop(), Some(0));
    server
        .open_database()
        .execute_batch(&format!(
            "BEGIN;
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {events})
             INSERT INTO events (id, uid, source, received_at, method, path, ip, headers, first_job,
               last_job, body)
             SELECT i, randomblob(16), 1, 1790000000000 + i, 'POST', '/hooks/a', '127.0.0.1', x'',
               i, i, CAST('event ' || i AS BLOB) FROM n;
             INSERT INTO jobs (id, event, handler, source, state, created_at, age_start, ended_at, reason)
               SELECT id, id, 1, 1, {state}, received_at, 0, received_at,
                 CASE {state} WHEN 4 THEN 'exit 1' END FROM events;
             UPDATE counters SET event = {events}, job = {events};
             COMMIT;"
        ))
        .expect("events");
    server.allow_altered_rows();
    server
}

/// A command that is killed when it is dropped, also by a test that fails.
pub struct RunningCommand(pub Child);

impl Drop for RunningCommand {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn send_signal(pid: u32, signal: Signal) -> rustix::io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(rustix::io::Errno::SRCH)?;
    rustix::process::kill_process(pid, signal)
}

/// Runs the command line in a folder.
pub fn cli(folder: &Path, args: &[&str]) -> Output {
    Command::new(HOOKTRAIL)
        .args(args)
        .current_dir(folder)
        .env_remove("HOOKTRAIL_CONFIG")
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()
        .expect("the command line")
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether a process runs. A zombie does not.
pub fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with('Z'))
}

/// Formats a value as the sqlite3 program prints it; a null is `-`.
pub fn display_value(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Text(text) => text.clone(),
        Value::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
    }
}

impl Drop for Server {
    /// Stops the server, and verifies its database, which follows all rules after any test. The second signal ends
    /// running handlers at once.
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let deadline = Instant::now() + Duration::from_secs(10);
        let _ = send_signal(child.id(), Signal::TERM);
        while child.try_wait().is_ok_and(|code| code.is_none()) && Instant::now() < deadline {
            std::thread::park_timeout(Duration::from_millis(5));
            let _ = send_signal(child.id(), Signal::INT);
        }
        let _ = child.kill();
        let _ = child.wait();
        if !std::thread::panicking() && !self.has_altered_rows.load(Ordering::Relaxed) {
            let output = self.cli(&["verify"]);
            // Without a database or a valid configuration there is only an error.
            let has_problems = output.status.code() == Some(1) && !output.stdout.is_empty();
            assert!(!has_problems, "verify: {}", stdout(&output));
        }
    }
}
