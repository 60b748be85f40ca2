//! A server with its configuration, a sender, and someone who looks at the trail.
//!
//! Waiting is on a condition with a deadline (`until`), never for a time.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::types::Value;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::support::client::{Answer, request_to};

/// How long anything may take before a test gives up on it.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The binary under test.
pub const HOOKTRAIL: &str = env!("CARGO_BIN_EXE_hooktrail");

/// Asks until it is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A configuration in the making.
pub struct Scenario {
    folder: TempDir,
    server: String,
    rest: String,
    wrap: Vec<String>,
}

/// A server that listens on a free port, without handlers or sources yet.
pub fn scenario() -> Scenario {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rest = "[admin]\nlisten = []\n[store]\npath = \"t.db\"\nmin_free_space = 1024\n".to_owned();
    Scenario { folder, server: "listen = [\"127.0.0.1:0\"]\n".to_owned(), rest, wrap: Vec::new() }
}

impl Scenario {
    /// Keys of `[server]`.
    pub fn server(mut self, keys: &str) -> Self {
        let _ = writeln!(self.server, "{keys}");
        self
    }

    /// Listens there too.
    pub fn listen(mut self, address: &str) -> Self {
        let first = "listen = [\"127.0.0.1:0\"";
        self.server = self.server.replace(first, &format!("{first}, \"{address}\""));
        self
    }

    /// Keys of `[admin]`, which listens nowhere without them.
    pub fn admin(mut self, keys: &str) -> Self {
        self.rest = self.rest.replace("[admin]\nlisten = []\n", &format!("[admin]\n{keys}\n"));
        self
    }

    /// Any other table.
    pub fn with(mut self, text: &str) -> Self {
        let _ = writeln!(self.rest, "{text}");
        self
    }

    /// A source with these keys.
    pub fn source(self, name: &str, keys: &str) -> Self {
        self.with(&format!("[sources.{name}]\n{keys}"))
    }

    /// A handler of source `a` that runs a shell script, with these keys.
    pub fn handler(self, name: &str, keys: &str, script: &str) -> Self {
        self.file(&format!("{name}.sh"), &format!("#!/bin/sh\n{script}\n"));
        self.with(&format!(
            "[handlers.{name}]\nsources = [\"a\"]\ncommand = [\"./{name}.sh\"]\n{keys}"
        ))
    }

    /// The handler `name`, which is there, takes another source instead of `a`.
    pub fn from(mut self, name: &str, source: &str) -> Self {
        let table = format!("[handlers.{name}]\nsources = ");
        self.rest =
            self.rest.replace(&format!("{table}[\"a\"]"), &format!("{table}[\"{source}\"]"));
        self
    }

    /// A file in its folder, executable.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        write_file(self.folder.path(), name, text)
    }

    /// Started by another program.
    pub fn under(mut self, words: &[&str]) -> Self {
        self.wrap = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Started by another program, before those of `under`.
    pub fn wrapped_in(mut self, words: &[&str]) -> Self {
        let outer = words.iter().map(|word| (*word).to_owned());
        self.wrap = outer.chain(std::mem::take(&mut self.wrap)).collect();
        self
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes config.toml.
    pub fn write(&self) {
        self.file("config.toml", &format!("[server]\n{}{}", self.server, self.rest));
    }

    /// A server on a port of its own that is yet to be started.
    pub fn prepare(mut self) -> Server {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("its address").port();
        self.server = self.server.replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
        self.write();
        Server { scenario: self, child: None, port, log: Arc::default() }
    }

    /// Starts the server and waits until it listens.
    pub fn start(self) -> Server {
        self.write();
        let mut server = Server { scenario: self, child: None, port: 0, log: Arc::default() };
        server.start();
        server
    }
}

fn write_file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    // Written beside and moved: a program that is being written can't be run.
    let beside = folder.join(format!("{name}.new"));
    fs::write(&beside, text).expect("a file in the temporary folder");
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)).expect("its mode");
    fs::rename(&beside, &path).expect("its name");
    path
}

/// A server that runs, and what it said.
pub struct Server {
    scenario: Scenario,
    child: Option<Child>,
    pub port: u16,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// Starts it (again), and waits until it listens.
    pub fn start(&mut self) {
        self.spawn();
        let listening = "listening for webhooks on http://127.0.0.1:";
        until("the server listens", || {
            let child = self.child.as_mut().expect("it was started");
            if let Some(code) = child.try_wait().expect("its state") {
                panic!("it ended with {code}: {}", self.log.lock().expect("its log"));
            }
            let log = self.log.lock().expect("its log");
            let port = log.split(listening).nth(1).and_then(|rest| rest.lines().next());
            port.and_then(|port| port.trim().parse().ok()).map(|port| self.port = port).is_some()
        });
    }

    /// Starts it without waiting.
    pub fn spawn(&mut self) {
        let mut words = self.scenario.wrap.clone();
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
        let (log, said) = (Arc::clone(&self.log), child.stderr.take().expect("its stderr"));
        std::thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                let _ = writeln!(log.lock().expect("its log"), "{line}");
            }
        });
        self.child = Some(child);
    }

    pub fn path(&self) -> &Path {
        self.scenario.path()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// What it said so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("its log").clone()
    }

    /// Writes config.toml anew with another table, and has it read.
    pub fn reload_with(&mut self, text: &str) {
        let _ = writeln!(self.scenario.rest, "{text}");
        self.scenario.write();
        self.signal(Signal::HUP);
    }

    /// Takes the last table back.
    pub fn config(&mut self) -> &mut String {
        &mut self.scenario.rest
    }

    pub fn write_config(&self) {
        self.scenario.write();
    }

    /// From its next start on it listens there.
    pub fn set_listen(&mut self, address: &str) {
        self.scenario.server = format!("listen = [\"{address}\"]\n");
        self.scenario.write();
    }

    /// A file in its folder, executable.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        self.scenario.file(name, text)
    }

    /// The text of a file in its folder; nothing where there is none.
    pub fn text_of(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap_or_default()
    }

    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal).expect("it is there");
    }

    /// Ends it as a power cut would, as far as processes go.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks it to end; its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// Its exit code, where it has ended.
    pub fn ended_by_itself(&mut self) -> Option<i32> {
        self.child.as_mut().and_then(|child| child.try_wait().expect("its state"))?.code()
    }

    /// Waits for its end; its exit code.
    pub fn ended(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("it runs");
        let mut code = None;
        until("the server ends", || {
            code = child.try_wait().expect("its state");
            code.is_some()
        });
        code.and_then(|code| code.code())
    }

    /// A connection to it.
    pub fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(stream)
    }

    /// Sends bytes as they are; what comes back until the end.
    pub fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().expect("a connection");
        // It may answer, and close, before it has read all.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// One request, with headers given as lines.
    pub fn request(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        self.try_request(method, path, headers, body).expect("an answer")
    }

    pub fn try_request(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> Option<Answer> {
        request_to(self.port, method, path, headers, body)
    }

    pub fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.request("POST", path, "Content-Type: application/json", body.as_ref())
    }

    /// Reads the trail as a user would.
    pub fn rows(&self, sql: &str) -> Vec<Vec<Value>> {
        let conn = self.trail();
        let mut select = conn.prepare(sql).expect("the query");
        let columns = select.column_count();
        let rows = select.query_map([], |row| (0..columns).map(|at| row.get(at)).collect());
        rows.expect("rows").map(|row| row.expect("a row")).collect()
    }

    /// The first column of each row as text.
    pub fn list(&self, sql: &str) -> Vec<String> {
        self.rows(sql).into_iter().map(|row| text(&row[0])).collect()
    }

    /// The only value.
    pub fn value(&self, sql: &str) -> String {
        self.list(sql).into_iter().next().unwrap_or_default()
    }

    /// A connection to its file.
    pub fn trail(&self) -> Connection {
        let conn = Connection::open(self.path().join("t.db")).expect("the trail");
        conn.busy_timeout(DEADLINE).expect("patience");
        conn
    }

    /// Waits until the query gives this.
    pub fn until(&self, sql: &str, expected: &str) {
        let mut found = String::new();
        let deadline = Instant::now() + DEADLINE;
        while found != expected {
            let log = self.log();
            assert!(Instant::now() < deadline, "{sql}: {found:?}, expected {expected:?}\n{log}");
            std::thread::park_timeout(Duration::from_millis(5));
            found = self.list(sql).join(" ");
        }
    }

    /// The command line beside it.
    pub fn cli(&self, args: &[&str]) -> Output {
        cli(self.path(), args)
    }
}

pub fn send(pid: u32, signal: Signal) -> rustix::io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(rustix::io::Errno::SRCH)?;
    rustix::process::kill_process(pid, signal)
}

/// The command line in a folder.
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

/// What it printed.
pub fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What it complained of.
pub fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether a process runs: what waits to be reaped does not.
pub fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with('Z'))
}

/// A value as it would be printed.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Text(text) => text.clone(),
        Value::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
    }
}

impl Drop for Server {
    /// Twice asked, it ends its handlers too, at once.
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let deadline = Instant::now() + Duration::from_secs(10);
        let _ = send(child.id(), Signal::TERM);
        while child.try_wait().is_ok_and(|code| code.is_none()) && Instant::now() < deadline {
            std::thread::park_timeout(Duration::from_millis(5));
            let _ = send(child.id(), Signal::INT);
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}
