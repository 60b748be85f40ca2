//! Deduplication: `dedupe` of a source, and the effect of a duplicate on jobs.

use crate::support::server::scenario;
use crate::support::signature::hmac_sha256;

const FORM: &[u8] = include_bytes!("../payloads/paminga-form.json");
const CAMPAIGN: &[u8] = include_bytes!("../payloads/paminga-campaign.json");

#[test]
fn a_duplicate_is_recorded_and_accepted_without_new_jobs() {
    let server = scenario()
        .source("a", "dedupe = { header = \"X-Id\" }")
        .handler("h", "paused = true", "true")
        .start();
    let post = |id: &str, body: &str| {
        let response = server.request("POST", "/hooks/a", &format!("X-Id: {id}"), body.as_bytes());
        (response.status, response.body)
    };
    assert_eq!(post("1", "a"), (202, r#"{"event":1}"#.to_owned()));
    assert_eq!(post("1", "a"), (202, r#"{"event":1,"duplicate":true}"#.to_owned()));
    assert_eq!(post("1", "b"), (202, r#"{"event":1,"duplicate":true}"#.to_owned()));
    assert_eq!(post("2", "a"), (202, r#"{"event":2}"#.to_owned()));
    // A request without a key is never a duplicate.
    assert_eq!(post("", "a").1, r#"{"event":3}"#);
    assert_eq!(post("", "a").1, r#"{"event":4}"#);
    assert_eq!(server.column("select duplicates || ' ' || jobs from trail")[0], "2 1");
    assert_eq!(server.column("select body from duplicates"), ["-", "b"]);
}

#[test]
fn a_duplicate_retries_dead_jobs_unless_on_duplicate_is_ignore() {
    for (keys, state) in [("", "succeeded"), ("on_duplicate = \"ignore\"", "dead")] {
        let server = scenario()
            .source("a", &format!("dedupe = {{ body = true }}\n{keys}"))
            .handler("h", "retry = { max_attempts = 1 }", "test -e ok")
            .start();
        server.post("/hooks/a", "x");
        server.until("select count(*) from dead_jobs", "1");
        server.write_file("ok", "");
        server.post("/hooks/a", "x");
        server.post("/hooks/a", "y");
        server.until("select state from jobs where id = 2", "3");
        let listed = server.cli(&["list", "--event", "1", "--json"]);
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        if state == "succeeded" {
            server.until("select job_state from outcomes where job = 1 and attempt = 2", state);
        } else {
            assert!(listed.contains("\"dead\""), "{listed}");
        }
    }
}

#[test]
fn paminga_forms_are_deduplicated_by_completion_and_campaigns_by_body() {
    let source = r#"verify = { scheme = "paminga", secret = { file = "secret" } }"#;
    let server = scenario().source("a", source);
    server.write_file("secret", "key");
    let server = server.start();
    let post = |body: &[u8]| {
        let signature = hex::encode(hmac_sha256("key", body));
        let response =
            server.request("POST", "/hooks/a", &format!("X-Paminga-Signature: {signature}"), body);
        (response.status, response.body)
    };
    let changed = String::from_utf8_lossy(FORM).replace("Daniel", "Dan");
    let empty = String::from_utf8_lossy(FORM).replace("4453534", "");
    let alert = br#"{"alert":"x"}"#;
    let bodies = [FORM, changed.as_bytes(), CAMPAIGN, CAMPAIGN, empty.as_bytes(), empty.as_bytes()];
    for body in bodies.into_iter().chain([&alert[..], alert]) {
        assert_eq!(post(body), (200, String::new()));
    }
    let counts = server.column("select event || ' ' || duplicates from trail order by event");
    assert_eq!(counts, ["1 1", "2 1", "3 0", "4 0", "5 0", "6 0"]);
}

#[test]
fn duplicates_by_expression_are_one_event_concurrently_and_after_a_restart() {
    let keys = "dedupe = { jq = '.id' }";
    let mut server = scenario().source("a", keys).handler("h", "", "cat").start();
    std::thread::scope(|scope| {
        for n in 0..16 {
            let server = &server;
            scope.spawn(move || server.post("/hooks/a", format!(r#"{{"id":"x","n":{n}}}"#)));
        }
    });
    server.kill();
    server.start();
    let response = server.post("/hooks/a", r#"{"id":"x"}"#);
    assert_eq!(response.body, r#"{"event":1,"duplicate":true}"#);
    assert_eq!(server.value("select count(*) || ' ' || max(duplicates) from trail"), "1 16");
    for no_key in [r#"{"id":""}"#, r#"{"id":null}"#, r#"{"id":false}"#, r#"{"id":""}"#, "{}"] {
        assert!(!server.post("/hooks/a", no_key).body.contains("duplicate"), "{no_key}");
    }
    let failed = server.post("/hooks/a", r#"{"id":1,"n":[}"#);
    assert_eq!(failed.status, 202);
}
