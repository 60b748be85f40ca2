//! docs/openapi.json: what the server serves, which has every route and agrees with what the server does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::admin::{Api, admin_scenario};

const DOCUMENT: &str = "docs/openapi.json";

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read_document() -> Value {
    serde_json::from_str(&fs::read_to_string(repository().join(DOCUMENT)).unwrap()).unwrap()
}

#[test]
fn the_checked_in_document_is_the_one_that_the_server_serves() {
    let server = admin_scenario().start();
    let served = Api::of(&server).get("/api/v1/openapi.json");
    assert_eq!((served.status, served.header("content-type")), (200, Some("application/json")));
    let text = format!("{}\n", served.body);
    if std::env::var_os("HOOKTRAIL_UPDATE_DOCS").is_some() {
        fs::write(repository().join(DOCUMENT), text).unwrap();
        return;
    }
    let found = fs::read_to_string(repository().join(DOCUMENT)).unwrap_or_default();
    assert!(
        found == text,
        "{DOCUMENT} is not what the server serves. Write it again: HOOKTRAIL_UPDATE_DOCS=1 cargo test \
         admin_openapi"
    );
    assert_eq!(read_document()["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(read_document()["openapi"], "3.1.0");
}

#[test]
fn the_document_has_every_route_and_no_other() {
    let source = fs::read_to_string(repository().join("src/admin/api/mod.rs")).unwrap();
    let calls = source.split(".service(").skip(1).filter_map(|rest| {
        let (method, rest) = rest.split_once('(')?;
        let path = rest.split('"').nth(1)?;
        ["get", "post"].contains(&method).then(|| format!("{method} {path}"))
    });
    let mut calls: Vec<String> = calls.collect();
    calls.sort();
    let document = read_document();
    let paths = document["paths"].as_object().unwrap().iter();
    let mut described: Vec<String> = paths
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(move |method| format!("{method} {path}"))
        })
        .collect();
    described.sort();
    assert_eq!(described, calls);
    assert_eq!(calls.len(), 22);
}

#[test]
fn every_call_and_parameter_is_described_and_has_its_errors() {
    let document = read_document();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let summary = operation["summary"].as_str().or(operation["description"].as_str());
            assert!(summary.is_some_and(|text| !text.is_empty()), "{method} {path}");
            let responses = &operation["responses"];
            for status in ["401", "403", "421", "503"] {
                let content = &responses[status]["content"]["application/problem+json"];
                assert!(content.is_object(), "{method} {path}: {status}");
            }
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            for parameter in parameters.iter().filter(|parameter| parameter["in"] == "query") {
                let text = parameter["description"].as_str().unwrap_or_default();
                assert!(!text.is_empty(), "{method} {path}: {parameter}");
                assert_eq!(parameter["required"], json!(false), "{method} {path}: {parameter}");
            }
        }
    }
}

#[test]
fn the_guide_lists_every_call() {
    let guide = fs::read_to_string(repository().join("docs/api.md")).unwrap();
    let document = read_document();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let path = ["{event}", "{job}", "{operation}"]
                .iter()
                .fold(path.replace("{handler}", "NAME"), |path, id| path.replace(id, "ID"));
            let row = format!("| `{} {path}` |", method.to_uppercase());
            assert!(guide.contains(&row), "docs/api.md has no row {row}");
        }
    }
}

/// Schemathesis makes requests of the document, and checks the responses against it.
#[test]
#[ignore = "needs Schemathesis: tests/run installs it"]
fn schemathesis_finds_no_difference_between_the_document_and_the_server() {
    let packages: PathBuf = repository().join("target/test-api");
    assert!(packages.exists(), "no {}: tests/run installs it", packages.display());
    let server = admin_scenario().handler("dead", "", "exit 65").start();
    for number in 0..5 {
        server.post("/hooks/a", format!("{{\"number\":{number}}}"));
    }
    server.until("select count(*) from outcomes", "10");
    let api = Api::of(&server);
    let output = Command::new("timeout")
        .args(["600", "python3", "-m", "schemathesis.cli"])
        .arg("--config-file")
        .arg(repository().join("tests/api/schemathesis.toml"))
        .arg("run")
        .arg(format!("http://127.0.0.1:{}/api/v1/openapi.json", api.port))
        .args(["--header", &format!("Authorization: Bearer {}", api.token)])
        .current_dir(server.path())
        .env(
            "PYTHONPATH",
            format!("{}:{}", packages.display(), repository().join("tests/api").display()),
        )
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(!server.log().contains("internal error"), "{}", server.log());
}
