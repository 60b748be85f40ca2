//! The SDKs of senders: Hooktrail accepts requests that they sign, and they accept requests that Hooktrail
//! signs. `tests/run` installs the versions of tests/senders/, and runs these tests.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use rusqlite::types::Value as Sql;
use serde_json::{Value, json};

use crate::support::http_server::{empty_response, stub_server};
use crate::support::server::{Scenario, Server, display_value, scenario, stderr, stdout};

/// A script of tests/senders and the program that runs it.
struct SdkScript {
    program: &'static str,
    script: &'static str,
    /// The environment variable for the folder of the SDKs.
    variable: &'static str,
    folder: &'static str,
    /// The sources whose SDK can verify a signature.
    verifies: &'static [&'static str],
}

const SDK_SCRIPTS: [SdkScript; 2] = [
    SdkScript {
        program: "python3",
        script: "sdks.py",
        variable: "PYTHONPATH",
        folder: "test-python",
        verifies: &["standard", "stripe", "slack", "twilio"],
    },
    SdkScript {
        program: "node",
        script: "sdks.mjs",
        variable: "HOOKTRAIL_TEST_NODE",
        folder: "test-node",
        verifies: &["github", "hubspot", "paddle"],
    },
];

impl SdkScript {
    fn run(&self, command: &str, input: &str) -> String {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = repository.join("target").join(self.folder);
        assert!(folder.exists(), "no {}: tests/run installs it", folder.display());
        let mut child = Command::new(self.program)
            .arg(repository.join("tests/senders").join(self.script))
            .arg(command)
            .env(self.variable, folder)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the script starts");
        let mut stdin = child.stdin.take().expect("the stdin");
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().expect("the end of the script");
        assert!(output.status.success(), "{}: {}", self.script, stderr(&output));
        stdout(&output)
    }
}

/// A server with a source for each secret. Its public URL is at hooks.example.com.
fn server_with_secrets(secrets: &Value) -> Server {
    let mut scenario: Scenario = scenario();
    for (name, secret) in secrets.as_object().expect("secrets") {
        let scheme = match name.as_str() {
            "svix" | "public" => "standard",
            name => name,
        };
        scenario.write_file(&format!("{name}.key"), secret.as_str().expect("text"));
        let url = format!("url = \"https://hooks.example.com/hooks/{name}\"");
        let secret = format!("secret = {{ file = \"{name}.key\" }}");
        let verify = format!("verify = {{ scheme = \"{scheme}\", {secret}, {url} }}");
        scenario = scenario.source(name, &format!("{verify}\ndedupe = false"));
    }
    let mut server = scenario.start();
    server.set_listen(&format!("127.0.0.1:{}", server.port));
    server
}

/// Checks that the server accepts each request and rejects it with a changed body.
fn check_acceptance(server: &Server, requests: &Value) {
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
            let response = server.request("POST", &path, &headers.join("\n"), body.as_bytes());
            assert!(statuses.contains(&response.status), "{path}: {response:?}");
        }
    }
}

/// The newest event as JSON, for an SDK to verify.
fn newest_event(server: &Server, name: &str) -> Value {
    let sql =
        "select cast(headers as text), cast(body as text) from events order by id desc limit 1";
    let row: Vec<Sql> = server.rows(sql).remove(0);
    let headers: serde_json::Map<String, Value> = display_value(&row[0])
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .collect();
    json!({ "path": name, "headers": headers, "body": display_value(&row[1]) })
}

#[test]
#[ignore = "needs the SDKs that tests/run installs"]
fn hooktrail_and_the_sdks_of_senders_accept_each_others_signatures() {
    for sdk in SDK_SCRIPTS {
        let signed: Value = serde_json::from_str(&sdk.run("sign", "")).expect("the JSON");
        let server = server_with_secrets(&signed["secrets"]);
        check_acceptance(&server, &signed["requests"]);
        let mut events = String::new();
        for name in sdk.verifies {
            let sent = server.cli(&["send", name]);
            assert!(sent.status.success(), "{name}: {}{}", stdout(&sent), stderr(&sent));
            events += &format!("{}\n", newest_event(&server, name));
        }
        let output = sdk.run("check", &events);
        let expected: Vec<String> = sdk.verifies.iter().map(|name| format!("ok {name}")).collect();
        assert_eq!(output.lines().collect::<Vec<_>>(), expected);
    }
}

#[test]
#[ignore = "needs the SDKs that tests/run installs"]
fn standard_webhooks_and_svix_verify_the_signature() {
    let crm = stub_server(|_| Some(empty_response(200, "")));
    let keys = "sign = [{ file = \"new\" }, { file = \"old\" }]";
    let scenario = scenario().source("a", "").raw_config(&crm.handler_table("crm", keys));
    scenario.write_file("new", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n");
    scenario.write_file("old", "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    let server = scenario.start();
    let body = r#"{"name":"Zażółć 🚀","n":12345678901234567890}"#;
    server.post("/hooks/a", body);
    server.until("select detail from outcomes", "status 200");
    let request = &crm.requests()[0];
    assert_eq!(request.header("webhook-id"), request.header("idempotency-key"));
    let mut headers = serde_json::Map::new();
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        headers.insert(name.to_owned(), request.header(name).expect("a signature").into());
    }
    for (sdk, name) in SDK_SCRIPTS.iter().zip(["standard", "svix"]) {
        let request_json = json!({ "path": name, "headers": headers, "body": body });
        let output = sdk.run("check", &format!("{request_json}\n"));
        assert_eq!(output, format!("ok {name}\n"));
    }
}
