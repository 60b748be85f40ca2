//! Senders' own libraries: their signers sign and we let it in, we sign and their verifiers let it in.
//! tests/run installs them (tests/senders/ says which); without them there is nothing to try.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rusqlite::types::Value as Sql;
use serde_json::{Value, json};

use crate::support::server::{Scenario, Server, err, out, scenario, text};

/// A script of tests/senders and what runs it.
pub struct Library {
    program: &'static str,
    script: &'static str,
    /// Where it finds the libraries.
    variable: &'static str,
    folder: &'static str,
    /// Those that it can judge.
    judges: &'static [&'static str],
}

pub const LIBRARIES: [Library; 2] = [
    Library {
        program: "python3",
        script: "libraries.py",
        variable: "PYTHONPATH",
        folder: "test-python",
        judges: &["standard", "stripe", "slack", "twilio"],
    },
    Library {
        program: "node",
        script: "libraries.mjs",
        variable: "HOOKTRAIL_TEST_NODE",
        folder: "test-node",
        judges: &["github", "hubspot", "paddle"],
    },
];

impl Library {
    /// `None` where it was not installed.
    pub fn folder(&self) -> Option<PathBuf> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(self.folder);
        let is_there = target.join(".installed").exists();
        if !is_there {
            eprintln!("left out: {} is not installed, tests/run does that", target.display());
        }
        is_there.then_some(target)
    }

    pub fn run(&self, folder: &Path, what: &str, input: &str) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/senders").join(self.script);
        let mut child = Command::new(self.program)
            .arg(script)
            .arg(what)
            .env(self.variable, folder)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut stdin = child.stdin.take().expect("its stdin");
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let done = child.wait_with_output().expect("its end");
        assert!(done.status.success(), "{}: {}", self.script, err(&done));
        out(&done)
    }
}

/// A source for each secret, whose sender was told to call hooks.example.com.
fn server(secrets: &Value) -> Server {
    let mut scenario: Scenario = scenario();
    for (name, secret) in secrets.as_object().expect("secrets") {
        let scheme = match name.as_str() {
            "svix" | "public" => "standard",
            name => name,
        };
        scenario.file(&format!("{name}.key"), secret.as_str().expect("text"));
        let url = format!("url = \"https://hooks.example.com/hooks/{name}\"");
        let secret = format!("secret = {{ file = \"{name}.key\" }}");
        let verify = format!("verify = {{ scheme = \"{scheme}\", {secret}, {url} }}");
        scenario = scenario.source(name, &format!("{verify}\ndedupe = false"));
    }
    let mut server = scenario.start();
    server.set_listen(&format!("127.0.0.1:{}", server.port));
    server
}

/// What the libraries sign is let in, and nothing that was changed after.
fn taken(server: &Server, requests: &Value) {
    for request in requests.as_array().expect("requests") {
        let path = format!("/hooks/{}", request["path"].as_str().expect("a path"));
        let headers: Vec<String> = request["headers"]
            .as_object()
            .expect("headers")
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.as_str().expect("text")))
            .collect();
        let body = request["body"].as_str().expect("a body");
        let changed =
            body.replacen("ż", "z", 1).replacen("%C5%BC", "z", 1).replacen("\\u017c", "z", 1);
        assert_ne!(changed, body, "{path}");
        for (body, statuses) in [(body, 200..300), (&changed, 401..402)] {
            let answer = server.request("POST", &path, &headers.join("\n"), body.as_bytes());
            assert!(statuses.contains(&answer.status), "{path}: {answer:?}");
        }
    }
}

/// An event as its sender would have read it, to be judged by a library.
fn event(server: &Server, name: &str) -> Value {
    let sql =
        "select cast(headers as text), cast(body as text) from events order by id desc limit 1";
    let row: Vec<Sql> = server.rows(sql).remove(0);
    let headers: serde_json::Map<String, Value> = text(&row[0])
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .collect();
    json!({ "path": name, "headers": headers, "body": text(&row[1]) })
}

#[test]
fn what_senders_libraries_sign_is_let_in_and_what_we_sign_they_let_in() {
    for library in LIBRARIES {
        let Some(folder) = library.folder() else { continue };
        let signed: Value =
            serde_json::from_str(&library.run(&folder, "sign", "")).expect("its JSON");
        let server = server(&signed["secrets"]);
        taken(&server, &signed["requests"]);
        let mut events = String::new();
        for name in library.judges {
            let sent = server.cli(&["send", name]);
            assert!(sent.status.success(), "{name}: {}{}", out(&sent), err(&sent));
            events += &format!("{}\n", event(&server, name));
        }
        let said = library.run(&folder, "check", &events);
        let expected: Vec<String> =
            library.judges.iter().map(|name| format!("ok {name}")).collect();
        assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    }
}
