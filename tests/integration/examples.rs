//! Every example under examples/ works as its README.md shows it.
//!
//! The `sh` blocks of a README.md are its commands. The last block but one sends webhooks, and the last one
//! prints what the block after it shows. The blocks before them prepare and start the example. A test runs
//! them in a copy of the folder, with another port and another database.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use crate::support::http_server::{empty_response, stub_server};
use crate::support::server::{HOOKTRAIL, Scenario, Server, cli, scenario, stderr, stdout};

const ADDRESS: &str = "127.0.0.1:8080";
const DATABASE: &str = "data/hooktrail.db";

/// Programs that a README.md starts and leaves running. The tests start these in another way.
const LONG_RUNNING: [&str; 2] = ["hooktrail", "stub_crm.py"];

fn source_folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

fn example_names() -> Vec<String> {
    let entries = fs::read_dir(source_folder("")).unwrap().map(Result::unwrap);
    let folders = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    let mut names: Vec<_> = folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The fenced code blocks of a page in a language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fences = page.split("```").skip(1).step_by(2);
    let opening = format!("{language}\n");
    fences.filter_map(|block| block.strip_prefix(&opening)).map(str::to_owned).collect()
}

/// Runs commands in a folder. The search path begins with the folder's bin/, and `hooktrail` is the binary
/// under test.
fn run_commands(folder: &Path, commands: &str) -> Output {
    let mut shell = Command::new("sh");
    // `cargo test` sets these variables, and a build script that depends on them would run a second time.
    for (name, _) in std::env::vars() {
        if name.starts_with("CARGO_MANIFEST_") || name.starts_with("CARGO_PKG_") {
            shell.env_remove(name);
        }
    }
    let ran = shell
        .args(["-euc", commands])
        .current_dir(folder)
        .env("PATH", search_path(folder))
        .env("no_proxy", "127.0.0.1")
        .env_remove("HOOKTRAIL_CONFIG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(ran.status.success(), "{commands}{}{}", stdout(&ran), stderr(&ran));
    ran
}

fn search_path(folder: &Path) -> String {
    let binaries = Path::new(HOOKTRAIL).parent().unwrap();
    let inherited = std::env::var("PATH").unwrap();
    format!("{}:{}:{inherited}", folder.join("bin").display(), binaries.display())
}

/// Copies an example and runs the commands that prepare it.
fn copy_example(name: &str, folder: &Path) {
    let source = source_folder(name);
    for entry in fs::read_dir(&source).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
    }
    // The server creates this folder before it runs a handler.
    fs::create_dir(folder.join("data")).unwrap();
    let commands = blocks(&fs::read_to_string(source.join("README.md")).unwrap(), "sh");
    for line in commands[..commands.len() - 2].iter().flat_map(|block| block.lines()) {
        if line.starts_with("cargo ") {
            run_commands(&source, line);
        } else if !LONG_RUNNING.iter().any(|program| line.ends_with(program)) {
            run_commands(folder, line);
        }
    }
}

/// The text of an example's config.toml, with an absolute path to the build folder, so that it is valid
/// in a copy.
fn config_text(name: &str) -> String {
    let target = Path::new(HOOKTRAIL).ancestors().nth(2).unwrap();
    let text = fs::read_to_string(source_folder(name).join("config.toml")).unwrap();
    text.replace("../../target", target.to_str().unwrap())
}

/// A running example.
struct Example {
    server: Server,
    commands: Vec<String>,
    expected: String,
}

impl Example {
    fn start(name: &str) -> Self {
        Self::start_changed(name, |_| {}, |text| text)
    }

    /// Starts an example after changes to the files of its copy and to its config.toml.
    fn start_changed(
        name: &str,
        change_files: impl FnOnce(&Scenario),
        change_config: impl FnOnce(String) -> String,
    ) -> Self {
        let mut scenario = scenario();
        copy_example(name, scenario.path());
        change_files(&scenario);
        // The test sets another port and another database.
        let header =
            format!("[server]\nlisten = [\"{ADDRESS}\"]\n\n[store]\npath = \"{DATABASE}\"\n");
        let text = change_config(config_text(name));
        let (_, sources_and_handlers) = text.split_once(&header).expect(name);
        let path = format!("PATH={}", search_path(scenario.path()));
        scenario = scenario.raw_config(sources_and_handlers).wrapped_by(&["env", &path]);
        let mut server = scenario.prepare();
        server.start();
        let page = fs::read_to_string(source_folder(name).join("README.md")).unwrap();
        Self { server, commands: blocks(&page, "sh"), expected: blocks(&page, "").concat() }
    }

    fn run(&self, commands: &str) -> String {
        let address = format!("127.0.0.1:{}", self.server.port);
        let commands = commands.replace(ADDRESS, &address).replace(DATABASE, "t.db");
        stdout(&run_commands(self.server.path(), &commands))
    }

    /// Runs the commands that send webhooks.
    fn send_webhooks(&self) {
        self.run(&self.commands[self.commands.len() - 2]);
    }

    /// Waits until this number of events is settled.
    fn until_settled(&self, events: usize) {
        let settled = "select count(*) from trail where settled_at is not null";
        self.server.until(settled, &events.to_string());
    }

    /// Checks that the last commands print what the README.md shows.
    fn assert_shown(&self) {
        assert_eq!(self.run(&self.commands[self.commands.len() - 1]), self.expected);
    }
}

#[test]
fn every_example_has_a_configuration_a_handler_a_readme_and_a_line_in_the_index() {
    let index = fs::read_to_string(source_folder("README.md")).unwrap();
    let names = example_names();
    let rows = index.lines().filter(|line| line.starts_with("| ["));
    let mut listed: Vec<_> = rows.map(|row| row.split(['[', ']']).nth(1).unwrap()).collect();
    listed.sort_unstable();
    assert_eq!(listed, names);
    for name in &names {
        assert!(index.contains(&format!("[{name}]({name}/)")), "{name}");
        let folder = source_folder(name);
        let page = fs::read_to_string(folder.join("README.md")).unwrap();
        assert!(page.starts_with("# "), "{name}");
        assert!(blocks(&page, "sh").len() >= 3 && blocks(&page, "").len() == 1, "{name}");
        let config = fs::read_to_string(folder.join("config.toml")).unwrap();
        let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
        let files: Vec<_> = files.map(|file| file.into_string().unwrap()).collect();
        let is_handler = |file: &String| config.contains(&format!("{file}\"]"));
        assert!(files.iter().any(|file| is_handler(file) || file == "main.rs"), "{name}");
    }
}

#[test]
fn check_reports_no_problem_in_any_example() {
    for name in example_names() {
        let folder = tempfile::tempdir().unwrap();
        copy_example(&name, folder.path());
        // Another program may use the ports.
        let config =
            config_text(&name).replace(ADDRESS, "127.0.0.1:0") + "\n[admin]\nlisten = []\n";
        fs::write(folder.path().join("config.toml"), config).unwrap();
        let found = cli(folder.path(), &["check", "--strict"]);
        assert!(found.status.success(), "{name}: {}{}", stdout(&found), stderr(&found));
        assert_eq!(stderr(&found), "", "{name}");
    }
}

#[test]
fn php_form_stores_each_submission_once() {
    let example = Example::start("php-form");
    example.send_webhooks();
    example.until_settled(3);
    example.assert_shown();
}

#[test]
fn php_form_is_retried_when_it_cannot_write() {
    let in_the_way = |scenario: &Scenario| drop(scenario.write_file("data/contacts", ""));
    let example = Example::start_changed("php-form", in_the_way, |text| text);
    example.run(&format!("curl -sS -d email=ada@example.com http://{ADDRESS}/hooks/contact"));
    let found = "select outcome || ' ' || job_state || ' ' || substr(detail, 1, 10) from outcomes";
    example.server.until(found, "failed queued status 503");
}

/// The stub of the CRM. It ends with its test.
struct StubCrm {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl StubCrm {
    fn start() -> Self {
        let mut child = Command::new("python3")
            .args(["stub_crm.py", "0"])
            .current_dir(source_folder("python-crm"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for StubCrm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn python_crm_creates_contacts_and_gives_up_on_what_the_crm_rejects() {
    let mut crm = StubCrm::start();
    let url = crm.next_line().replace("listening on ", "");
    let with_url = |text: String| text.replace("http://127.0.0.1:9000", &url);
    let example = Example::start_changed("python-crm", |_| {}, with_url);
    example.send_webhooks();
    example.until_settled(2);
    example.assert_shown();
    let mut requests = [crm.next_line(), crm.next_line()];
    requests.sort();
    let expected = [
        r#"201 /contacts {"email": "ada@example.com", "name": null}"#,
        r#"422 /contacts {"email": "nobody", "name": null}"#,
    ];
    assert_eq!(requests, expected);
}

#[test]
fn python_crm_retries_with_the_same_key_and_waits_as_long_as_the_crm_asks() {
    let crm = stub_server(|number| {
        Some(match number {
            1 => empty_response(500, ""),
            2 => empty_response(302, "Location: http://127.0.0.1:1/\r\n"),
            3 => empty_response(401, ""),
            _ => empty_response(429, "Retry-After: 600\r\n"),
        })
    });
    let url = format!("http://127.0.0.1:{}", crm.port);
    let with_url = |text: String| {
        let text = text.replace("http://127.0.0.1:9000", &url).replace("10/s", "1000/s");
        text.replace("[handlers.crm]\n", "[handlers.crm]\nretry = { initial_delay = \"1ms\" }\n")
    };
    let example = Example::start_changed("python-crm", |_| {}, with_url);
    let signup = "Authorization: Bearer your-app-token\nContent-Type: application/json";
    example.server.request("POST", "/hooks/signup", signup, br#"{"email":"ada@example.com"}"#);
    example.server.until("select count(*) from outcomes where outcome = 'deferred'", "1");
    let outcomes =
        example.server.column("select outcome || ' ' || detail from outcomes order by id");
    let expected = [
        "failed exit 75: the CRM responded 500:",
        "failed exit 75: the CRM responded 302:",
        "failed exit 75: the CRM responded 401:",
        "deferred deferred: the CRM responded 429:",
    ];
    assert_eq!(outcomes, expected);
    assert_eq!(example.server.value("select wait_ms from jobs"), "600000");
    let requests = crm.requests();
    let keys: Vec<_> =
        requests.iter().map(|request| request.header("idempotency-key").unwrap()).collect();
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    assert_eq!(requests[0].header("authorization"), Some("Bearer your-crm-token"));
}

#[test]
fn node_stream_stores_each_order_in_one_process() {
    let example = Example::start("node-stream");
    example.send_webhooks();
    example.until_settled(3);
    example.assert_shown();
}

#[test]
fn node_stream_removes_the_half_line_of_a_process_that_was_killed() {
    let complete = r#"{"key":"k","id":"A-1000","total":"1.00"}"#;
    let half_written = |scenario: &Scenario| {
        drop(scenario.write_file("data/orders.ndjson", &format!("{complete}\n{{\"key")))
    };
    let example = Example::start_changed("node-stream", half_written, |text| text);
    example.send_webhooks();
    example.until_settled(3);
    let text = example.server.read_file("data/orders.ndjson");
    assert_eq!(text.lines().next(), Some(complete));
    assert_eq!(text.lines().count(), 3, "{text}");
}

#[test]
fn rust_stream_keeps_the_latest_reading_of_each_sensor() {
    let example = Example::start("rust-stream");
    example.send_webhooks();
    example.until_settled(4);
    example.assert_shown();
}

#[test]
fn github_deploy_deploys_the_last_of_a_burst_of_pushes() {
    let example = Example::start("github-deploy");
    // All pushes arrive before the first deploy, even on a slow machine.
    example.run("hooktrail pause deploy");
    example.send_webhooks();
    example.run("hooktrail resume deploy");
    example.until_settled(3);
    example.assert_shown();
}

#[test]
fn github_deploy_ignores_other_branches_and_rejects_an_invalid_commit_id() {
    let example = Example::start("github-deploy");
    example.run("hooktrail pause deploy");
    let push = |reference: &str, commit: &str| {
        let body = format!(
            r#"{{"ref":"{reference}","after":"{commit}","repository":{{"full_name":"you/site"}}}}"#
        );
        example.server.write_file("data/push.json", &body);
        example.run("hooktrail send github data/push.json");
    };
    push("refs/heads/topic", "0123456789012345678901234567890123456789");
    push("refs/heads/main", "--upload-pack=sh");
    assert_eq!(example.server.column("select jobs from trail order by event"), ["0", "1"]);
    let run = example.server.cli(&["run", "deploy", "2"]);
    let output = stdout(&run) + &stderr(&run);
    assert!(output.contains("exit 65: not a commit's id: --upload-pack=sh"), "{output}");
}

#[test]
fn campaign_split_keeps_the_order_of_each_contact_and_repeats_no_entry() {
    let example = Example::start("campaign-split");
    example.send_webhooks();
    example.until_settled(1);
    example.assert_shown();
    example.run("hooktrail replay 1 --yes");
    example.server.until("select succeeded from trail", "8");
    assert_eq!(example.server.read_file("data/journals/101.txt").lines().count(), 2);
}

#[test]
fn alerts_by_mail_hands_a_dead_job_to_the_mail_program() {
    let example = Example::start("alerts-by-mail");
    example.send_webhooks();
    example.server.until("select outcome from outcomes where handler = 'mail'", "succeeded");
    example.assert_shown();
}

#[test]
fn alerts_by_mail_retries_when_the_mail_program_fails() {
    let failing =
        |scenario: &Scenario| drop(scenario.write_file("bin/msmtp", "#!/bin/sh\nexit 65\n"));
    let example = Example::start_changed("alerts-by-mail", failing, |text| text);
    example.send_webhooks();
    let found =
        "select job_state || ' ' || substr(detail, 1, 7) from outcomes where handler = 'mail'";
    example.server.until(found, "queued exit 75");
}
