//! Senders as they come: signed requests of tests/vectors.json and handshakes, against the real
//! server, with what each sender wants to hear; and what is on the trail after.

use crate::support::client::Answer;
use crate::support::server::{Server, scenario, until};

/// A server whose source `a` verifies so; its secret is `s3cret`, its token `t0ken`.
fn server(verify: &str, keys: &str) -> Server {
    let verify = format!(
        "verify = {{ {verify}, secret = [{{ file = \"secret\" }}, {{ file = \"older\" }}] }}"
    );
    let scenario = scenario().source("a", &format!("{verify}\n{keys}"));
    scenario.file("secret", "s3cret");
    scenario.file("older", "0lder");
    scenario.file("token", "t0ken");
    scenario.start()
}

/// Keeps the lines that it gets, and answers each.
const STREAM: &str = r#"while read -r line; do
  printf '%s\n' "$line" >> out
  job=${line#*:}
  printf '{"job":%s,"outcome":"succeeded"}\n' "${job%%,*}"
done"#;

fn hmac(secret: &str, text: &str) -> Vec<u8> {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    ring::hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}

fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs()
}

/// A request of Slack, signed now.
fn slack(server: &Server, secret: &str, body: &str) -> Answer {
    let now = now_s();
    let signature = hex::encode(hmac(secret, &format!("v0:{now}:{body}")));
    let headers = format!("X-Slack-Request-Timestamp: {now}\nX-Slack-Signature: v0={signature}");
    server.request("POST", "/hooks/a", &headers, body.as_bytes())
}

fn github(server: &Server, secret: &str, delivery: &str, body: &str) -> Answer {
    let signature = hex::encode(hmac(secret, body));
    let headers = format!("X-Hub-Signature-256: sha256={signature}\nX-GitHub-Delivery: {delivery}");
    server.request("POST", "/hooks/a", &headers, body.as_bytes())
}

#[test]
fn a_sender_is_answered_as_it_wants_and_its_repeats_are_no_events() {
    let server = server("scheme = \"github\"", "");
    for (secret, delivery, body) in
        [("s3cret", "1", "{}"), ("0lder", "2", "{}"), ("s3cret", "1", "{\"again\":1}")]
    {
        let answer = github(&server, secret, delivery, body);
        assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    }
    assert_eq!(github(&server, "0ther", "3", "{}").status, 401);
    assert_eq!(server.value("select count(*) from trail"), "2");
    assert_eq!(server.value("select duplicates from trail where event = 1"), "1");
    server.until("select reason from rejections", "signature does not match");
}

#[test]
fn a_source_may_have_its_own_answer_and_dedupe_and_no_handshake() {
    let keys = "respond = { status = 202, body = \"ok\", content_type = \"text/plain\" }\n\
                dedupe = false\nhandshake = false";
    let server = server("scheme = \"slack\"", keys);
    for _ in 0..2 {
        let answer = slack(&server, "s3cret", r#"{"event_id":"Ev1"}"#);
        assert_eq!((answer.status, answer.body.as_str()), (202, "ok"));
    }
    let asks = r#"{"type":"url_verification","challenge":"c"}"#;
    assert_eq!(slack(&server, "s3cret", asks).body, "ok");
    assert_eq!(server.value("select count(*) from trail"), "3");
}

#[test]
fn slack_and_bitbucket_may_ask_unsigned_and_are_told_nothing() {
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
        let server = server(verify, "");
        let (method, query) = request.split_once(' ').expect("a method");
        let path = format!("/hooks/a{query}");
        let answer = server.request(method, &path, headers, body.as_bytes());
        assert_eq!(answer.status, status, "{verify} {request} {body}");
        if status == 200 {
            assert_eq!(answer.body, "");
            server.until("select count(*) from handshakes", "1");
        }
        assert_eq!(server.value("select count(*) from trail"), "0");
    }
}

#[test]
fn a_handshake_of_a_sources_own_leaves_its_presets_on() {
    let keys = "handshake = { methods = [\"GET\", \"POST\"], respond = '.ask // $query.ask' }";
    let server = server("scheme = \"slack\"", keys);
    assert_eq!(slack(&server, "s3cret", r#"{"ask":"own"}"#).body, "own");
    let asks = r#"{"type":"url_verification","challenge":"c"}"#;
    assert_eq!(slack(&server, "s3cret", asks).body, "c");
    assert_eq!(server.request("GET", "/hooks/a?ssl_check=1", "", b"").status, 200);
    assert_eq!(server.request("GET", "/hooks/a?ask=1", "", b"").status, 401);
    assert_eq!(slack(&server, "0ther", asks).status, 401);
    assert_eq!(slack(&server, "s3cret", r#"{"event_id":"Ev1"}"#).status, 200);
    server.until("select count(*) from handshakes", "3");
    assert_eq!(server.value("select count(*) from trail"), "1");
}

#[test]
fn a_handshake_that_gives_empty_text_is_answered_without_a_body() {
    // Not simple, and longer than what is around it leaves of the limit.
    let long = format!("def f: $query.c; # {}\nf, error", "x".repeat(4060));
    for respond in ["$query.c", "[$query.c] | .[]", &long] {
        let keys = format!("handshake = {{ respond = '''{respond}''', signed = false }}");
        let server = scenario().source("a", &keys).start();
        let get = |query: &str| {
            let answer = server.request("GET", &format!("/hooks/a{query}"), "", b"");
            (answer.status, answer.body)
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
fn one_byte_order_mark_is_skipped_wherever_a_body_is_read_and_stored_as_it_came() {
    let keys = "accept = \"json\"\ndedupe = { jq = '.id' }";
    let server = scenario()
        .source("a", keys)
        .handler("h", "mode = \"stream\"\nwhen = '.id == 1'", STREAM)
        .start();
    let body = b"\xef\xbb\xbf{\"id\":1}";
    let first = server.post("/hooks/a", body);
    assert_eq!(first.status, 202, "{}", first.body);
    assert!(server.post("/hooks/a", b"{\"id\":1}").body.contains("duplicate"));
    assert_eq!(server.post("/hooks/a", b"\xef\xbb\xbf\xef\xbb\xbf{\"id\":1}").status, 400);
    server.until("select job_state from outcomes", "succeeded");
    assert!(server.text_of("out").contains("\"body\":{\"id\":1}}"), "{}", server.text_of("out"));
    assert_eq!(server.value("select hex(body) from events"), hex::encode_upper(body));
}

#[test]
fn a_public_url_has_the_segments_of_the_requests_own_path() {
    let url = "url = \"https://h.example/shops/{shop}\"";
    let server = server(&format!("scheme = \"square\", {url}"), "path = \"/shops/{shop}\"");
    let post = |path: &str, signed: &str| {
        use base64::Engine;
        let signature = hmac("s3cret", &format!("https://h.example{signed}{{}}"));
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
fn a_handshake_is_answered_recorded_and_no_event() {
    let server = server("scheme = \"slack\"", "");
    let asks = r#"{"type":"url_verification","challenge":"<b>3eZ"}"#;
    let answer = slack(&server, "0lder", asks);
    assert_eq!((answer.status, answer.body.as_str()), (200, "<b>3eZ"));
    assert_eq!(answer.header("content-type"), Some("text/plain"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(slack(&server, "0ther", asks).status, 401);
    let seen =
        "select source || ' ' || method || ' ' || remote_ip || ' ' || detail from handshakes";
    server.until(seen, "a POST 127.0.0.1 url_verification");
    assert_eq!(server.value("select count(*) from trail"), "0");
}

#[test]
fn a_handshake_is_answered_whatever_methods_says_and_nothing_else_is() {
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
        let server = server(verify, "");
        let (method, query) = request.split_once(' ').expect("a method");
        let answer = server.request(method, &format!("/hooks/a{query}"), "", b"");
        assert_eq!((answer.status, answer.body.as_str()), expected, "{verify} {request}");
        let count = if expected.0 == 200 { "1" } else { "0" };
        server.until("select count(*) from handshakes", count);
        assert_eq!(server.value("select count(*) from trail"), "0", "{verify} {request}");
        let hidden = "select count(*) from rejections where reason like '%t0ken%'";
        assert_eq!(server.value(hidden), "0");
    }
}

#[test]
fn mandrill_is_answered_before_its_key_is_known_and_nothing_is_let_in() {
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
fn handshakes_count_for_the_rate_and_a_flood_of_them_leaves_few_rows() {
    let server = server("scheme = \"trello\"", "rate_limit = \"2/h\"");
    let statuses: Vec<u16> =
        (0..3).map(|_| server.request("HEAD", "/hooks/a", "", b"").status).collect();
    assert_eq!(statuses, [200, 200, 429]);
    server.until("select count(*) from handshakes", "2");
}

#[test]
fn the_secret_of_gitlab_and_mailchimp_is_kept_nowhere() {
    let gitlab = server("scheme = \"gitlab\"", "");
    assert_eq!(gitlab.request("POST", "/hooks/a", "X-Gitlab-Token: s3cret", b"{}").status, 200);
    assert_eq!(gitlab.request("POST", "/hooks/a", "X-Gitlab-Token: wr0ng", b"{}").status, 401);
    let mailchimp = server("scheme = \"mailchimp\", path_token = true", "");
    assert_eq!(mailchimp.request("POST", "/hooks/a/s3cret", "", b"type=x").status, 200);
    assert_eq!(mailchimp.request("POST", "/hooks/a/wr0ng", "", b"type=x").status, 401);
    for server in [&gitlab, &mailchimp] {
        server.until("select count(*) from rejections", "1");
        let kept = server.value(
            "select cast(headers as text) || path || (select reason || path from rejections) from events",
        );
        assert!(kept.contains("[redacted]"), "{kept}");
        assert!(!kept.contains("s3cret") && !kept.contains("wr0ng"), "{kept}");
    }
}

#[test]
fn a_subscription_of_sns_is_told_to_a_person_and_nothing_is_fetched() {
    let all: serde_json::Value =
        serde_json::from_str(include_str!("../sns.json")).expect("the vectors");
    let asks = all.as_array().expect("a list").iter().find(|it| it["handshake"] == true);
    let asks = asks.expect("a subscription");
    let keys =
        "verify = { scheme = \"sns\", secret = { file = \"cert\" }, tolerance = \"36500d\" }";
    let scenario = scenario().source("a", keys);
    scenario.file("cert", asks["secret"].as_str().expect("a certificate"));
    let server = scenario.start();
    use base64::Engine;
    let body = asks["body_base64"].as_str().expect("a body");
    let body = base64::engine::general_purpose::STANDARD.decode(body).expect("base64");
    assert_eq!(server.post("/hooks/a", &body).status, 200);
    let url = "https://sns.us-west-2.amazonaws.com/?Action=ConfirmSubscription&Token=2336412f37";
    until("a person is told", || server.log().contains("SNS asks to confirm a subscription"));
    assert!(!server.log().contains("amazonaws"), "{}", server.log());
    let topic = "arn:aws:sns:us-west-2:123456789012:MyTopic";
    server.until("select detail from handshakes", &format!("subscription to {topic}: {url}"));
    assert_eq!(server.value("select count(*) from trail"), "0");
}
#[test]
fn a_repeat_is_known_by_what_the_sender_makes_unique_in_the_body() {
    let server = server("scheme = \"slack\"", "");
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
    // What has no id is known by its bytes.
    assert_eq!(server.value("select count(*) from trail"), "4");
    assert_eq!(server.value("select group_concat(duplicates, ' ') from trail"), "1 0 1 1");
}

#[test]
fn a_source_may_shake_hands_in_its_own_way() {
    let keys = "handshake = { methods = [\"GET\"], respond = '$query.challenge', signed = false }";
    let server = scenario().source("a", keys).start();
    let get = |query: &str| server.request("GET", &format!("/hooks/a{query}"), "", b"");
    let answer = get("?challenge=a%20b");
    assert_eq!((answer.status, answer.body.as_str()), (200, "a b"));
    assert_eq!(answer.header("content-type"), Some("text/plain"));
    assert_eq!(get("").status, 405);
    assert_eq!(get(&format!("?challenge={}", "x".repeat(1025))).status, 405);
    assert_eq!(server.post("/hooks/a", "{}").status, 202);
    server.until("select count(*) from handshakes", "1");
    assert_eq!(server.value("select count(*) from trail"), "1");

    let keys = "handshake = { methods = [\"POST\"], respond = '.challenge' }";
    let server = self::server("scheme = \"hmac\", header = \"X-Sig\"", keys);
    let post = |body: &str, secret: &str| {
        let signature = format!("X-Sig: {}", hex::encode(hmac(secret, body)));
        server.request("POST", "/hooks/a", &signature, body.as_bytes())
    };
    let asks = r#"{"challenge":"c"}"#;
    assert_eq!(post(asks, "s3cret").body, "c");
    assert_eq!(post(asks, "0ther").status, 401);
    assert_eq!(post("{}", "s3cret").status, 202);
    assert_eq!(post("[]", "s3cret").status, 202);
    until("the log says so", || server.log().contains("handshake.respond fails"));
    assert_eq!(server.value("select count(*) from trail"), "2");
}
