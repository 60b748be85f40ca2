//! The admin console in a real browser: Debian's Chromium, driven by the scripts of tests/browser. `tests/run` installs
//! both, and runs these tests.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use parking_lot::Mutex;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::client::send_request;
use crate::support::server::{Scenario, Server, scenario, until};

mod hostile;
mod pages;
mod pictures;

/// One browser at a time: a browser keeps a small machine busy.
static BROWSER: Mutex<()> = Mutex::new(());

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A server with its console.
struct Console {
    server: Server,
    port: u16,
}

impl Console {
    /// Starts the server and finds the port of its console.
    fn start(scenario: Scenario) -> Self {
        let server = scenario.start();
        let mut port = None;
        until("the console listens", || {
            let log = server.log();
            let rest = log.split("the console is at http://127.0.0.1:").nth(1);
            port = rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
            port.is_some()
        });
        Self { server, port: port.expect("a port") }
    }

    /// The token that the server has created.
    fn token(&self) -> String {
        self.server.read_file("admin.token").trim().to_owned()
    }

    /// Posts JSON to a path. Returns the number of the event.
    fn post(&self, path: &str, body: impl AsRef<[u8]>) -> i64 {
        self.server.post(path, body).event_id()
    }

    /// Calls the API with the token.
    fn call(&self, path: &str, body: &Value) {
        let headers =
            format!("Authorization: Bearer {}\nContent-Type: application/json", self.token());
        let path = format!("/api/v1{path}");
        let body = body.to_string();
        let response = send_request(self.port, "POST", &path, &headers, body.as_bytes());
        let response = response.expect("a response");
        assert!((200..300).contains(&response.status), "{path}: {response:?}");
    }

    /// Runs a scenario of tests/browser. `data` is what it needs to know, besides addresses and tokens.
    fn run(&self, topic: &str, name: &str, data: Value) {
        self.run_with_token(topic, name, &self.token(), data);
    }

    fn run_with_token(&self, topic: &str, name: &str, token: &str, mut data: Value) {
        let folder = repository().join("target/test-browser");
        assert!(folder.exists(), "no {}: tests/run installs it", folder.display());
        let known = json!({
            "console": format!("http://127.0.0.1:{}", self.port),
            "intake": format!("http://127.0.0.1:{}", self.server.port),
            "token": token,
            "readToken": READ_TOKEN,
            "folder": self.server.path(),
            "screenshots": repository().join("target/browser-screenshots"),
            "chromium": chromium(),
        });
        let fields = data.as_object_mut().expect("an object");
        fields.extend(known.as_object().expect("an object").clone());
        let _one_at_a_time = BROWSER.lock();
        let mut child = Command::new("node")
            .arg(repository().join("tests/browser/run.mjs"))
            .args([topic, name])
            .env("HOOKTRAIL_TEST_BROWSER", folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("node starts");
        let mut stdin = child.stdin.take().expect("the stdin");
        let _ = stdin.write_all(data.to_string().as_bytes());
        drop(stdin);
        let output = child.wait_with_output().expect("the end of the script");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{topic}.mjs, {name}:\n{}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
    }
}

/// A token that may only read.
const READ_TOKEN: &str = "a-token-that-reads";

/// The browser: the first of its names that `PATH` has.
fn chromium() -> PathBuf {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&paths).collect();
    let candidates = ["chromium", "chromium-browser", "google-chrome"];
    let mut found =
        candidates.into_iter().flat_map(|name| folders.iter().map(move |f| f.join(name)));
    found.find(|path| path.exists()).expect("chromium: tests/run installs it")
}

/// A server with a console.
fn console_scenario() -> Scenario {
    let scenario =
        scenario().admin("listen = [\"127.0.0.1:0\"]\nread_token = { file = \"reader.token\" }");
    let path = scenario.write_file("reader.token", READ_TOKEN);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(path, mode).expect("the mode");
    scenario
}

/// A handler `crm` whose jobs are dead until the file `repaired` exists, and a handler `mail` that succeeds.
fn operator_console() -> Console {
    let crm = "read body; [ -e repaired ] && exit 0; \
               echo \"no contact $(echo \"$body\" | cut -d'\"' -f4)\" >&2; exit 65";
    let scenario = console_scenario().source("a", "").handler("crm", "", crm);
    Console::start(scenario.handler("mail", "", "cat > /dev/null; echo sent"))
}

#[test]
#[ignore = "needs the browser that tests/run installs"]
fn an_operator_finds_an_event_by_its_text_and_retries_its_job() {
    operator_console().run("actions", "find_and_retry", json!({}));
}

#[test]
#[ignore = "needs the browser that tests/run installs"]
fn a_group_of_failures_is_retried_after_a_confirmation() {
    operator_console().run("actions", "retry_group", json!({}));
}

#[test]
#[ignore = "needs the browser that tests/run installs"]
fn a_handler_is_paused_and_resumed() {
    operator_console().run("actions", "pause_and_resume", json!({}));
}

#[test]
#[ignore = "needs the browser that tests/run installs"]
fn a_dead_job_is_dismissed_and_an_event_is_replayed() {
    operator_console().run("actions", "replay_and_dismiss", json!({}));
}

#[test]
#[ignore = "needs the browser that tests/run installs"]
fn everything_but_live_pages_works_without_a_script() {
    let crm = "read body; [ -e repaired ] && exit 0; exit 65";
    let console = Console::start(console_scenario().source("a", "").handler("crm", "", crm));
    let body = |number: i64| format!("{{\"email\":\"contact-{number}@example.com\"}}");
    let events: Vec<i64> = (1..=60).map(|number| console.post("/hooks/a", body(number))).collect();
    console.server.until("select count(*) from trail where dead = 1", "60");
    console.run("no_script", "everything", json!({ "events": events }));
}

/// A handler that fails until the file `repaired` exists, and is retried soon.
fn live_console() -> Console {
    let keys = "retry = { initial_delay = \"50ms\", max_delay = \"100ms\", max_attempts = 100000 }\n\
                breaker = { threshold = 0 }";
    let script = "cat > /dev/null; [ -e repaired ] && exit 0; echo not yet >&2; exit 1";
    Console::start(console_scenario().source("a", "").handler("crm", keys, script))
}

#[test]
#[ignore = "needs the browser that tests/run installs"]
fn new_events_appear_in_the_open_list_and_the_focus_stays_on_its_event() {
    live_console().run("live", "new_events", json!({}));
}

#[test]
#[ignore = "needs the browser that tests/run installs"]
fn new_outcomes_appear_on_the_open_page_of_an_event_which_keeps_its_focus_and_details() {
    live_console().run("live", "new_outcomes", json!({}));
}

#[test]
#[ignore = "needs the browser that tests/run installs"]
fn a_live_page_waits_while_a_person_selects_text() {
    live_console().run("live", "text_selection", json!({}));
}

#[test]
#[ignore = "needs the browser that tests/run installs"]
fn the_open_overview_counts_a_new_event() {
    live_console().run("live", "overview", json!({}));
}

#[test]
#[ignore = "needs the browser that tests/run installs"]
fn a_wrong_token_is_rejected_and_the_right_one_leads_to_the_page_that_was_asked_for() {
    operator_console().run("sign_in", "wrong_token", json!({}));
}

#[test]
#[ignore = "needs the browser that tests/run installs"]
fn an_address_waits_after_ten_wrong_tokens() {
    operator_console().run("sign_in", "attempt_limit", json!({}));
}

#[test]
#[ignore = "needs the browser that tests/run installs"]
fn a_sign_in_leads_only_to_pages_of_this_server() {
    operator_console().run("sign_in", "local_paths", json!({}));
}

#[test]
#[ignore = "needs the browser that tests/run installs"]
fn no_script_and_no_other_site_gets_the_cookie_and_a_sign_out_removes_it() {
    operator_console().run("sign_in", "cookie", json!({}));
}

#[test]
#[ignore = "needs the browser that tests/run installs"]
fn a_forged_form_of_another_site_changes_nothing() {
    operator_console().run("sign_in", "forged_form", json!({}));
}

#[test]
#[ignore = "needs the browser that tests/run installs"]
fn a_token_that_reads_has_no_buttons_and_changes_nothing() {
    operator_console().run("sign_in", "read_token", json!({}));
}

#[test]
#[ignore = "needs the browser that tests/run installs"]
fn a_sign_in_link_works_once() {
    operator_console().run("sign_in", "sign_in_link", json!({}));
}

#[test]
#[ignore = "needs the browser that tests/run installs"]
fn a_reload_with_another_token_ends_the_sessions_of_the_old_one() {
    let console = operator_console();
    console.run("sign_in", "session_before_reload", json!({}));
    console.server.write_file("admin.token", "another-token-that-acts\n");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(console.server.path().join("admin.token"), mode).expect("the mode");
    console.server.signal(Signal::HUP);
    console.server.until_reloads(1);
    console.run("sign_in", "session_after_reload", json!({}));
}
