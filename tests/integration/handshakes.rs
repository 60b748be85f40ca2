//! Handshakes of presets and of `handshake` in the configuration.

use crate::sender_presets::{server_with_verify, slack};
use crate::support::server::{scenario, until};
use crate::support::signature::hmac_sha256;

#[test]
fn a_handshake_is_answered_and_recorded_but_is_no_event() {
    let server = server_with_verify("scheme = \"slack\"", "");
    let handshake = r#"{"type":"url_verification","challenge":"<b>3eZ"}"#;
    let response = slack(&server, "0lder", handshake);
    assert_eq!((response.status, response.body.as_str()), (200, "<b>3eZ"));
    assert_eq!(response.header("content-type"), Some("text/plain"));
    assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(slack(&server, "0ther", handshake).status, 401);
    let seen =
        "select source || ' ' || method || ' ' || remote_ip || ' ' || detail from handshakes";
    server.until(seen, "a POST 127.0.0.1 url_verification");
    assert_eq!(server.value("select count(*) from trail"), "0");
}

#[test]
fn handshakes_are_answered_although_methods_excludes_them() {
    let token = "verify_token = { file = \"token\" }";
    let ask = "hub.mode=subscribe&hub.challenge=115&hub.verify_token";
    for (verify, request, expected) in [
        ("scheme = \"dropbox\"", "GET ?challenge=a%26b", (200, "a&b")),
        ("scheme = \"dropbox\"", "GET ", (405, r#"{"error":"method not allowed"}"#)),
        ("scheme = \"trello\"", "HEAD ", (200, "")),
        ("scheme = \"mandrill\"", "HEAD ", (200, "")),
        ("scheme = \"mailchimp\", query = \"k\"", "GET ", (200, "")),
        ("scheme = \"microsoft-graph\"", "POST ?validationToken=a+b", (200, "a b")),
        ("scheme = \"microsoft-graph\"", "POST ", (401, r#"{"error":"not authenticated"}"#)),
        (&format!("scheme = \"meta\", {token}"), &format!("GET ?{ask}=t0ken"), (200, "115")),
        (
            &format!("scheme = \"meta\", {token}"),
            &format!("GET ?{ask}=other"),
            (401, r#"{"error":"not authenticated"}"#),
        ),
        (
            &format!("scheme = \"meta\", {token}"),
            "GET ",
            (405, r#"{"error":"method not allowed"}"#),
        ),
        ("scheme = \"github\"", "GET ?challenge=a", (405, r#"{"error":"method not allowed"}"#)),
    ] {
        let server = server_with_verify(verify, "");
        let (method, query) = request.split_once(' ').expect("a method");
        let response = server.request(method, &format!("/hooks/a{query}"), "", b"");
        assert_eq!((response.status, response.body.as_str()), expected, "{verify} {request}");
        let count = if expected.0 == 200 { "1" } else { "0" };
        server.until("select count(*) from handshakes", count);
        assert_eq!(server.value("select count(*) from trail"), "0", "{verify} {request}");
        let hidden = "select count(*) from rejections where reason like '%t0ken%'";
        assert_eq!(server.value(hidden), "0");
    }
}

#[test]
fn unsigned_checks_of_slack_and_bitbucket_get_an_empty_response() {
    let form = "Content-Type: application/x-www-form-urlencoded";
    let ping = "X-Event-Key: diagnostics:ping";
    for (verify, request, headers, body, status) in [
        ("scheme = \"slack\"", "POST ", form, "token=x&ssl_check=1", 200),
        ("scheme = \"slack\"", "GET ?ssl_check=1&token=x", "", "", 200),
        ("scheme = \"slack\"", "GET ", "", "", 405),
        ("scheme = \"slack\"", "POST ", form, "ssl_check=1&command=%2Fx", 401),
        ("scheme = \"bitbucket\"", "POST ", ping, "{\"test\":true}", 200),
        ("scheme = \"bitbucket\"", "POST ", ping, "{\"test\":false}", 401),
        ("scheme = \"bitbucket\"", "POST ", "", "{\"test\":true}", 401),
    ] {
        let server = server_with_verify(verify, "");
        let (method, query) = request.split_once(' ').expect("a method");
        let path = format!("/hooks/a{query}");
        let response = server.request(method, &path, headers, body.as_bytes());
        assert_eq!(response.status, status, "{verify} {request} {body}");
        if status == 200 {
            assert_eq!(response.body, "");
            server.until("select count(*) from handshakes", "1");
        }
        assert_eq!(server.value("select count(*) from trail"), "0");
    }
}

#[test]
fn without_a_secret_mandrill_gets_only_its_handshake() {
    let server = scenario().source("a", "verify = { scheme = \"mandrill\" }").start();
    let post = |body: &str| {
        let form = "Content-Type: application/x-www-form-urlencoded\nX-Mandrill-Signature: AAAA";
        server.request("POST", "/hooks/a", form, body.as_bytes()).status
    };
    assert_eq!(post("mandrill_events=%5B%5D"), 200);
    assert_eq!(post("mandrill_events=%5B1%5D"), 401);
    let reason = "no secret is configured yet: only handshakes are answered";
    server.until("select reason from rejections", reason);
    assert_eq!(server.value("select count(*) from trail"), "0");
}

#[test]
fn an_sns_subscription_is_logged_and_no_url_is_fetched() {
    let all: serde_json::Value =
        serde_json::from_str(include_str!("../sns.json")).expect("the vectors");
    let handshake =
        all.as_array().expect("a list").iter().find(|vector| vector["handshake"] == true);
    let handshake = handshake.expect("a subscription");
    let keys =
        "verify = { scheme = \"sns\", secret = { file = \"cert\" }, tolerance = \"36500d\" }";
    let scenario = scenario().source("a", keys);
    scenario.write_file("cert", handshake["secret"].as_str().expect("a certificate"));
    let server = scenario.start();
    use base64::Engine;
    let body = handshake["body_base64"].as_str().expect("a body");
    let body = base64::engine::general_purpose::STANDARD.decode(body).expect("base64");
    assert_eq!(server.post("/hooks/a", &body).status, 200);
    let url = "https://sns.us-west-2.amazonaws.com/?Action=ConfirmSubscription&Token=2336412f37";
    until("the log has the request to confirm", || {
        server.log().contains("SNS asks to confirm a subscription")
    });
    assert!(!server.log().contains("amazonaws"), "{}", server.log());
    let topic = "arn:aws:sns:us-west-2:123456789012:MyTopic";
    server.until("select detail from handshakes", &format!("subscription to {topic}: {url}"));
    assert_eq!(server.value("select count(*) from trail"), "0");
}

#[test]
fn a_configured_handshake_adds_to_that_of_the_preset() {
    let keys = "handshake = { methods = [\"GET\", \"POST\"], respond = '.ask // $query.ask' }";
    let server = server_with_verify("scheme = \"slack\"", keys);
    assert_eq!(slack(&server, "s3cret", r#"{"ask":"own"}"#).body, "own");
    let handshake = r#"{"type":"url_verification","challenge":"c"}"#;
    assert_eq!(slack(&server, "s3cret", handshake).body, "c");
    assert_eq!(server.request("GET", "/hooks/a?ssl_check=1", "", b"").status, 200);
    assert_eq!(server.request("GET", "/hooks/a?ask=1", "", b"").status, 401);
    assert_eq!(slack(&server, "0ther", handshake).status, 401);
    assert_eq!(slack(&server, "s3cret", r#"{"event_id":"Ev1"}"#).status, 200);
    server.until("select count(*) from handshakes", "3");
    assert_eq!(server.value("select count(*) from trail"), "1");
}

#[test]
fn a_configured_handshake_may_be_signed_or_unsigned() {
    let keys = "handshake = { methods = [\"GET\"], respond = '$query.challenge', signed = false }";
    let server = scenario().source("a", keys).start();
    let get = |query: &str| server.request("GET", &format!("/hooks/a{query}"), "", b"");
    let response = get("?challenge=a%20b");
    assert_eq!((response.status, response.body.as_str()), (200, "a b"));
    assert_eq!(response.header("content-type"), Some("text/plain"));
    assert_eq!(get("").status, 405);
    assert_eq!(get(&format!("?challenge={}", "x".repeat(1025))).status, 405);
    assert_eq!(server.post("/hooks/a", "{}").status, 202);
    server.until("select count(*) from handshakes", "1");
    assert_eq!(server.value("select count(*) from trail"), "1");

    let keys = "handshake = { methods = [\"POST\"], respond = '.challenge' }";
    let server = server_with_verify("scheme = \"hmac\", header = \"X-Sig\"", keys);
    let post = |body: &str, secret: &str| {
        let signature = format!("X-Sig: {}", hex::encode(hmac_sha256(secret, body)));
        server.request("POST", "/hooks/a", &signature, body.as_bytes())
    };
    let handshake = r#"{"challenge":"c"}"#;
    assert_eq!(post(handshake, "s3cret").body, "c");
    assert_eq!(post(handshake, "0ther").status, 401);
    assert_eq!(post("{}", "s3cret").status, 202);
    assert_eq!(post("[]", "s3cret").status, 202);
    until("the log has the error", || server.log().contains("handshake.respond fails"));
    assert_eq!(server.value("select count(*) from trail"), "2");
}

#[test]
fn a_handshake_with_an_empty_result_has_no_body() {
    // Not evaluated inline, and so long that the added definitions would exceed the length limit.
    let long_expression = format!("def f: $query.c; # {}\nf, error", "x".repeat(4060));
    for respond in ["$query.c", "[$query.c] | .[]", &long_expression] {
        let keys = format!("handshake = {{ respond = '''{respond}''', signed = false }}");
        let server = scenario().source("a", &keys).start();
        let get = |query: &str| {
            let response = server.request("GET", &format!("/hooks/a{query}"), "", b"");
            (response.status, response.body)
        };
        assert_eq!(get("?c="), (200, String::new()), "{respond}");
        assert_eq!(get("?c=%22%5C%0A"), (200, "\"\\\n".to_owned()));
        assert_eq!(get("?c=null"), (200, "null".to_owned()));
        assert_eq!(get("").0, 405);
        for bytes in [1025, 3000] {
            assert_eq!(get(&format!("?c={}", "x".repeat(bytes))).0, 405, "{respond}");
        }
    }
}

#[test]
fn handshakes_count_for_the_rate_limit() {
    let server = server_with_verify("scheme = \"trello\"", "rate_limit = \"2/h\"");
    let statuses: Vec<u16> =
        (0..3).map(|_| server.request("HEAD", "/hooks/a", "", b"").status).collect();
    assert_eq!(statuses, [200, 200, 429]);
    server.until("select count(*) from handshakes", "2");
}
