//! What is taken, and how it is kept.

use rusqlite::types::Value;

use crate::support::client::parse;
use crate::support::server::{Scenario, scenario};

const FORM: &[u8] = include_bytes!("../payloads/paminga-form.json");
const CAMPAIGN: &[u8] = include_bytes!("../payloads/paminga-campaign.json");

/// A source that anybody may use, and a handler that writes what it reads to its stdout.
fn open() -> Scenario {
    scenario().source("a", "").handler("h", "", "cat")
}

#[test]
fn a_real_body_goes_from_the_socket_to_its_outcome_byte_for_byte() {
    let server = open().start();
    for (number, body) in [(1, FORM), (2, CAMPAIGN)] {
        let answer = server.post("/hooks/a", body);
        assert_eq!((answer.status, answer.body), (202, format!(r#"{{"event":{number}}}"#)));
    }
    server.until("select count(*) from outcomes where outcome = 'succeeded'", "2");
    let rows = server.rows(
        "select e.body, a.stdout from events e join attempts a on a.job = e.first_job order by e.id",
    );
    for (row, body) in rows.iter().zip([FORM, CAMPAIGN]) {
        assert_eq!(row[..], [Value::Blob(body.to_vec()), Value::Blob(body.to_vec())]);
    }
}

#[test]
fn any_bytes_are_kept_exactly() {
    let server = open().start();
    for body in [&b""[..], b"\0\xff\xfe{", b"{\"a\":", "ä\r\n".as_bytes()] {
        let event = server.post("/hooks/a?x=%00&&=1", body).event();
        let row = &server.rows(&format!("select body, query from events where id = {event}"))[0];
        assert_eq!(row[0], Value::Blob(body.to_vec()));
        assert_eq!(row[1], Value::Text("x=%00&&=1".into()));
    }
}

#[test]
fn repeated_headers_and_the_method_and_path_are_kept() {
    let server = scenario().source("a", "methods = [\"PUT\", \"POST\"]").start();
    let answer = server.request("PUT", "/hooks/a", "X-Tag: one\nX-Tag: two", b"x");
    assert_eq!(answer.status, 202);
    let row = &server.rows("select method, path, headers from events")[0];
    let Value::Blob(headers) = &row[2] else { panic!("{row:?}") };
    let headers = String::from_utf8_lossy(headers);
    assert!(headers.contains("x-tag: one\n") && headers.contains("x-tag: two\n"), "{headers}");
    assert_eq!(row[..2], [Value::Text("PUT".into()), Value::Text("/hooks/a".into())]);
}

#[test]
fn a_chunked_body_and_one_that_asks_first_are_taken() {
    let server = open().start();
    let chunked = "POST /hooks/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                   Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    assert_eq!(parse(&server.raw(chunked.as_bytes())).map(|answer| answer.status), Some(202));
    let asks = server.request("POST", "/hooks/a", "Expect: 100-continue", b"abcde");
    assert_eq!(asks.status, 202);
    assert_eq!(server.list("select body from events"), ["abcde", "abcde"]);
}

#[test]
fn shared_secrets_are_kept_as_secret_wherever_they_came() {
    let server = scenario().with(
        r#"
            [sources.h]
            verify = { scheme = "token", header = "X-Token", secret = { file = "secret" } }
            [sources.q]
            verify = { scheme = "token", query = "key", secret = { file = "secret" } }
            [sources.s]
            verify = { scheme = "token", path_token = true, secret = { file = "secret" } }
            "#,
    );
    server.file("secret", "s3cret-s3cret-s3cret-s3cret\n");
    let server = server.start();
    let secret = "s3cret-s3cret-s3cret-s3cret";
    let token = format!("X-Token: {secret}\nCookie: {secret}\nAuthorization: Bearer {secret}");
    assert_eq!(server.request("POST", "/hooks/h", &token, b"1").status, 202);
    assert_eq!(server.request("POST", &format!("/hooks/q?a=1&key={secret}"), "", b"2").status, 202);
    assert_eq!(server.request("POST", &format!("/hooks/s/{secret}"), "", b"3").status, 202);
    // Refused ones show it no more than accepted ones.
    assert_eq!(server.request("GET", &format!("/hooks/s/{secret}"), "", b"").status, 405);
    server.until("select count(*) from rejections", "1");
    let kept = server.list("select cast(headers as text) || path || ifnull(query, '') from events");
    let refused = server.list("select path from rejections");
    assert!(
        kept.iter().all(|kept| kept.contains("[redacted]") && !kept.contains(secret)),
        "{kept:?}"
    );
    assert_eq!(refused, ["/hooks/s/[redacted]"]);
}

#[test]
fn a_named_segment_matches_one_and_a_fixed_one_wins() {
    let server = scenario()
        .source("named", "path = \"/t/{tenant}\"")
        .source("fixed", "path = \"/t/us\"")
        .start();
    for (path, status) in [("/t/us", 202), ("/t/a%20b", 202), ("/t/", 404), ("/t/a/b", 404)] {
        assert_eq!(server.post(path, "x").status, status, "{path}");
    }
    assert_eq!(server.list("select source from trail"), ["fixed", "named"]);
}

#[test]
fn the_sources_own_answer_is_given() {
    let keys = r#"respond = { status = 201, body = "ok", content_type = "text/plain" }"#;
    let server = scenario().source("a", keys).start();
    let answer = server.post("/hooks/a", "x");
    assert_eq!((answer.status, answer.body.as_str()), (201, "ok"));
    assert_eq!(answer.header("content-type"), Some("text/plain"));
}

#[test]
fn a_trusted_proxy_says_who_the_sender_is() {
    let server = scenario()
        .server("trusted_proxies = [\"127.0.0.0/8\"]")
        .source("a", "allow_from = [\"192.0.2.0/24\"]")
        .start();
    let from = |ip: &str| {
        server.request("POST", "/hooks/a", &format!("X-Forwarded-For: {ip}"), b"x").status
    };
    assert_eq!((from("192.0.2.7"), from("198.51.100.1")), (202, 403));
    assert_eq!(server.list("select remote_ip from trail"), ["192.0.2.7"]);
}

#[test]
fn a_repeat_is_recorded_answered_like_the_first_and_not_queued_again() {
    let server = scenario()
        .source("a", "dedupe = { header = \"X-Id\" }")
        .handler("h", "paused = true", "true")
        .start();
    let post = |id: &str, body: &str| {
        let answer = server.request("POST", "/hooks/a", &format!("X-Id: {id}"), body.as_bytes());
        (answer.status, answer.body)
    };
    assert_eq!(post("1", "a"), (202, r#"{"event":1}"#.to_owned()));
    assert_eq!(post("1", "a"), (202, r#"{"event":1,"duplicate":true}"#.to_owned()));
    assert_eq!(post("1", "b"), (202, r#"{"event":1,"duplicate":true}"#.to_owned()));
    assert_eq!(post("2", "a"), (202, r#"{"event":2}"#.to_owned()));
    // No key: no repeat.
    assert_eq!(post("", "a").1, r#"{"event":3}"#);
    assert_eq!(post("", "a").1, r#"{"event":4}"#);
    assert_eq!(server.list("select duplicates || ' ' || jobs from trail")[0], "2 1");
    assert_eq!(server.list("select body from duplicates"), ["-", "b"]);
}

#[test]
fn a_repeat_runs_dead_jobs_again_unless_it_is_to_be_ignored() {
    for (keys, state) in [("", "succeeded"), ("on_duplicate = \"ignore\"", "dead")] {
        let server = scenario()
            .source("a", &format!("dedupe = {{ body = true }}\n{keys}"))
            .handler("h", "retry = { max_attempts = 1 }", "test -e ok")
            .start();
        server.post("/hooks/a", "x");
        server.until("select count(*) from dead_jobs", "1");
        server.file("ok", "");
        server.post("/hooks/a", "x");
        server.post("/hooks/a", "y");
        server.until("select state from jobs where id = 2", "3");
        let found = server.cli(&["list", "--event", "1", "--json"]);
        let found = String::from_utf8_lossy(&found.stdout).into_owned();
        if state == "succeeded" {
            server.until("select job_state from outcomes where job = 1 and attempt = 2", state);
        } else {
            assert!(found.contains("\"dead\""), "{found}");
        }
    }
}

#[test]
fn pamingas_form_is_known_by_its_completion_and_a_campaign_by_its_bytes() {
    let source = r#"verify = { scheme = "paminga", secret = { file = "secret" } }"#;
    let server = scenario().source("a", source);
    server.file("secret", "key");
    let server = server.start();
    let post = |body: &[u8]| {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"key");
        let signature = hex::encode(ring::hmac::sign(&key, body));
        let answer =
            server.request("POST", "/hooks/a", &format!("X-Paminga-Signature: {signature}"), body);
        (answer.status, answer.body)
    };
    let changed = String::from_utf8_lossy(FORM).replace("Daniel", "Dan");
    let empty = String::from_utf8_lossy(FORM).replace("4453534", "");
    let alert = br#"{"alert":"x"}"#;
    let bodies = [FORM, changed.as_bytes(), CAMPAIGN, CAMPAIGN, empty.as_bytes(), empty.as_bytes()];
    for body in bodies.into_iter().chain([&alert[..], alert]) {
        assert_eq!(post(body), (200, String::new()));
    }
    let kept = server.list("select event || ' ' || duplicates from trail order by event");
    assert_eq!(kept, ["1 1", "2 1", "3 0", "4 0", "5 0", "6 0"]);
}
