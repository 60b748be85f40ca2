//! Presets of `verify`: signed requests of known senders, with the response that each expects.

use crate::support::client::Response;
use crate::support::server::{Server, scenario};
use crate::support::signature::hmac_sha256;

/// A server with keys of `verify` for source `a`. The secrets are `s3cret` and `0lder`, the token is
/// `t0ken`.
pub fn server_with_verify(verify: &str, keys: &str) -> Server {
    let verify = format!(
        "verify = {{ {verify}, secret = [{{ file = \"secret\" }}, {{ file = \"older\" }}] }}"
    );
    let scenario = scenario().source("a", &format!("{verify}\n{keys}"));
    scenario.write_file("secret", "s3cret");
    scenario.write_file("older", "0lder");
    scenario.write_file("token", "t0ken");
    scenario.start()
}

fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs()
}

/// Sends a request that Slack's scheme signs.
pub fn slack(server: &Server, secret: &str, body: &str) -> Response {
    let now = now_s();
    let signature = hex::encode(hmac_sha256(secret, format!("v0:{now}:{body}")));
    let headers = format!("X-Slack-Request-Timestamp: {now}\nX-Slack-Signature: v0={signature}");
    server.request("POST", "/hooks/a", &headers, body.as_bytes())
}

fn github(server: &Server, secret: &str, delivery: &str, body: &str) -> Response {
    let signature = hex::encode(hmac_sha256(secret, body));
    let headers = format!("X-Hub-Signature-256: sha256={signature}\nX-GitHub-Delivery: {delivery}");
    server.request("POST", "/hooks/a", &headers, body.as_bytes())
}

#[test]
fn a_preset_sends_its_response_and_detects_duplicates() {
    let server = server_with_verify("scheme = \"github\"", "");
    for (secret, delivery, body) in
        [("s3cret", "1", "{}"), ("0lder", "2", "{}"), ("s3cret", "1", "{\"again\":1}")]
    {
        let response = github(&server, secret, delivery, body);
        assert_eq!((response.status, response.body.as_str()), (200, ""));
    }
    assert_eq!(github(&server, "0ther", "3", "{}").status, 401);
    assert_eq!(server.value("select count(*) from trail"), "2");
    assert_eq!(server.value("select duplicates from trail where event = 1"), "1");
    server.until("select reason from rejections", "signature does not match");
}

#[test]
fn a_source_may_override_respond_dedupe_and_handshake_of_its_preset() {
    let keys = "respond = { status = 202, body = \"ok\", content_type = \"text/plain\" }\n\
                dedupe = false\nhandshake = false";
    let server = server_with_verify("scheme = \"slack\"", keys);
    for _ in 0..2 {
        let response = slack(&server, "s3cret", r#"{"event_id":"Ev1"}"#);
        assert_eq!((response.status, response.body.as_str()), (202, "ok"));
    }
    let handshake = r#"{"type":"url_verification","challenge":"c"}"#;
    assert_eq!(slack(&server, "s3cret", handshake).body, "ok");
    assert_eq!(server.value("select count(*) from trail"), "3");
}

#[test]
fn the_parameters_of_a_public_url_come_from_the_path() {
    let url = "url = \"https://h.example/shops/{shop}\"";
    let server =
        server_with_verify(&format!("scheme = \"square\", {url}"), "path = \"/shops/{shop}\"");
    let post = |path: &str, signed: &str| {
        use base64::Engine;
        let signature = hmac_sha256("s3cret", format!("https://h.example{signed}{{}}"));
        let signature = base64::engine::general_purpose::STANDARD.encode(signature);
        let headers = format!("X-Square-HmacSha256-Signature: {signature}");
        server.request("POST", path, &headers, b"{}").status
    };
    assert_eq!(post("/shops/one", "/shops/one"), 200);
    assert_eq!(post("/shops/o%6Ee?x=1", "/shops/o%6Ee?x=1"), 200);
    assert_eq!(post("/shops/two", "/shops/one"), 401);
    assert_eq!(post("/shops/one", "/shops/{shop}"), 401);
}

#[test]
fn the_secrets_of_gitlab_and_mailchimp_are_redacted() {
    let gitlab = server_with_verify("scheme = \"gitlab\"", "");
    assert_eq!(gitlab.request("POST", "/hooks/a", "X-Gitlab-Token: s3cret", b"{}").status, 200);
    assert_eq!(gitlab.request("POST", "/hooks/a", "X-Gitlab-Token: wr0ng", b"{}").status, 401);
    let mailchimp = server_with_verify("scheme = \"mailchimp\", path_token = true", "");
    assert_eq!(mailchimp.request("POST", "/hooks/a/s3cret", "", b"type=x").status, 200);
    assert_eq!(mailchimp.request("POST", "/hooks/a/wr0ng", "", b"type=x").status, 401);
    for server in [&gitlab, &mailchimp] {
        server.until("select count(*) from rejections", "1");
        let stored = server.value(
            "select cast(headers as text) || path || (select reason || path from rejections) from events",
        );
        assert!(stored.contains("[redacted]"), "{stored}");
        assert!(!stored.contains("s3cret") && !stored.contains("wr0ng"), "{stored}");
    }
}

#[test]
fn a_preset_finds_the_deduplication_key_in_the_body() {
    let server = server_with_verify("scheme = \"slack\"", "");
    for body in [
        r#"{"type":"event_callback","event_id":"Ev1"}"#,
        r#"{"event_id":"Ev1","type":"event_callback","more":1}"#,
        r#"{"type":"event_callback","event_id":"Ev2"}"#,
        r#"{"type":"event_callback"}"#,
        r#"{"type":"event_callback"}"#,
        "command=%2Fx&text=1",
        "command=%2Fx&text=1",
    ] {
        assert_eq!(slack(&server, "s3cret", body).status, 200, "{body}");
    }
    // Without an ID the body itself is the key.
    assert_eq!(server.value("select count(*) from trail"), "4");
    assert_eq!(server.value("select group_concat(duplicates, ' ') from trail"), "1 0 1 1");
}
