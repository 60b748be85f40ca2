//! What is not taken: the answer, and the row it leaves.

use std::io::{Read, Write};

use crate::support::client::parse;
use crate::support::server::scenario;

/// Each case: method, path, headers, body, then the status.
fn check(keys: &str, cases: &[(&str, &str, &str, &str, u16)]) {
    let server = scenario().source("a", keys);
    server.file("secret", "0123456789abcdef0123456789abcdef");
    let server = server.start();
    for (number, (method, path, headers, body, status)) in cases.iter().enumerate() {
        let answer = server.request(method, path, headers, body.as_bytes());
        assert_eq!(answer.status, *status, "{method} {path} {headers}");
        if *method != "HEAD" {
            let json: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
            assert!(json["error"].is_string(), "{}", answer.body);
        }
        server.until("select coalesce(sum(count), 0) from rejections", &(number + 1).to_string());
        let row = server.value("select status from rejections order by id desc limit 1");
        assert_eq!(row, status.to_string());
    }
    assert_eq!(server.value("select count(*) from events"), "0");
}

#[test]
fn an_unknown_path_is_404_and_a_wrong_method_405() {
    check("", &[("POST", "/hooks/b", "", "x", 404), ("GET", "/hooks/a", "", "", 405)]);
    let server = scenario().source("a", "methods = [\"POST\", \"PUT\"]").start();
    let answer = server.request("GET", "/hooks/a", "", b"");
    assert_eq!(answer.header("allow"), Some("POST, PUT"));
}

#[test]
fn the_wrong_type_is_415_and_a_body_that_does_not_parse_400() {
    check(
        "accept = \"json\"",
        &[
            ("POST", "/hooks/a", "Content-Type: text/plain", "{}", 415),
            ("POST", "/hooks/a", "Content-Type: application/json", "{", 400),
            ("POST", "/hooks/a", "Content-Encoding: gzip", "{}", 415),
        ],
    );
}

#[test]
fn an_encoded_body_is_415_whatever_stands_before_its_encoding() {
    let twice = "Content-Encoding: identity\nContent-Encoding: gzip";
    check("", &[("POST", "/hooks/a", twice, "x", 415)]);
    let server = scenario().source("a", "").start();
    let twice = "Content-Encoding: identity\nContent-Encoding: Identity";
    assert_eq!(server.request("POST", "/hooks/a", twice, b"x").status, 202);
}

#[test]
fn all_wrong_signatures_look_alike_to_the_sender_and_not_to_the_trail() {
    let keys = r#"verify = { scheme = "hmac", header = "X-Sig", secret = { file = "secret" } }"#;
    let server = scenario().source("a", keys);
    server.file("secret", "0123456789abcdef0123456789abcdef");
    let server = server.start();
    let wrong = ["", "X-Sig: zz", "X-Sig: 00ff", "X-Sig: 00\nX-Sig: 00", "X-Sig:"];
    let answers: Vec<_> =
        wrong.iter().map(|line| server.request("POST", "/hooks/a", line, b"x").body).collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    server.until("select sum(count) from rejections", "5");
    assert_eq!(
        server.list("select reason from rejections order by id"),
        [
            "no x-sig header",
            "signature is not hex",
            "signature does not match",
            "signature does not match",
            "no signature in x-sig"
        ]
    );
}

#[test]
fn basic_and_bearer_tell_how_to_authenticate() {
    for (scheme, user, right, challenge) in [
        ("basic", "user = \"u\",", "Basic dTowMTIz", r#"Basic realm="hooktrail""#),
        ("bearer", "", "Bearer 0123", "Bearer"),
    ] {
        let keys = format!(
            "verify = {{ scheme = \"{scheme}\", {user} secret = {{ file = \"secret\" }} }}"
        );
        let server = scenario().source("a", &keys);
        server.file("secret", "0123");
        let server = server.start();
        let wrong = server.request("POST", "/hooks/a", "Authorization: Basic x", b"x");
        assert_eq!((wrong.status, wrong.header("www-authenticate")), (401, Some(challenge)));
        let right = server.request("POST", "/hooks/a", &format!("Authorization: {right}"), b"x");
        assert_eq!(right.status, 202);
    }
}

#[test]
fn the_first_thing_that_is_wrong_decides() {
    let keys = "allow_from = [\"192.0.2.0/24\"]\nmax_body_size = 10";
    check(
        keys,
        &[
            ("GET", "/nowhere", "", "12345678901", 404),
            ("GET", "/hooks/a", "", "12345678901", 405),
            ("POST", "/hooks/a", "", "12345678901", 403),
        ],
    );
    let keys = "accept = \"json\"\nmax_body_size = 10\n\
                verify = { scheme = \"bearer\", secret = { file = \"secret\" } }";
    check(
        keys,
        &[
            ("POST", "/hooks/a", "Content-Encoding: gzip", "12345678901", 413),
            ("POST", "/hooks/a", "Content-Encoding: gzip", "1", 415),
            ("POST", "/hooks/a", "Content-Type: text/plain", "1", 401),
        ],
    );
}

#[test]
fn a_body_over_the_limit_is_answered_though_it_is_still_being_sent() {
    let server = scenario().source("a", "max_body_size = \"64 KiB\"").start();
    let body = vec![b'x'; 2 << 20];
    assert_eq!(server.post("/hooks/a", &body).status, 413);
    let mut chunked = b"POST /hooks/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                        Transfer-Encoding: chunked\r\n\r\n"
        .to_vec();
    for _ in 0..32 {
        chunked.extend_from_slice(b"10000\r\n");
        chunked.extend_from_slice(&body[..0x10000]);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(parse(&server.raw(&chunked)).map(|answer| answer.status), Some(413));
}

#[test]
fn what_is_not_http_and_headers_without_end_leave_no_row() {
    let server = scenario().source("a", "").start();
    let garbage = server.raw(b"\x16\x03\x01 hello\r\n\r\n");
    assert!(garbage.starts_with("HTTP/1.1 400"), "{garbage}");
    let much = [b"\x16\x03\x01 hello\r\n\r\n", vec![b'x'; 2 << 20].as_slice()].concat();
    assert!(server.raw(&much).starts_with("HTTP/1.1 400"), "though more comes behind it");
    let long = format!("X-Long: {}", "x".repeat(33 << 10));
    let answer = server.request("POST", "/hooks/a", &long, b"x");
    assert_eq!((answer.status, answer.body.as_str()), (431, ""));
    let endless = format!("POST /hooks/a HTTP/1.1\r\nX: {}", "x".repeat(300 << 10));
    let answer = parse(&server.raw(endless.as_bytes())).expect("an answer");
    assert_eq!((answer.status, answer.body.as_str()), (431, ""));
    let lines: String = (0..97).map(|number| format!("X-{number}: x\n")).collect();
    assert_eq!(server.request("POST", "/hooks/a", &lines, &[b'x'; 2 << 20]).status, 431);
    assert_eq!(server.post("/hooks/a", "x").status, 202);
    assert_eq!(server.value("select count(*) from rejections"), "0");
}

#[test]
fn a_request_that_does_not_arrive_in_time_is_408_and_the_connection_closed() {
    let server = scenario().server("request_timeout = \"200ms\"").source("a", "").start();
    let mut stream = server.connect().expect("a connection");
    stream
        .write_all(b"POST /hooks/a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        .expect("half a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer, and the end");
    assert_eq!(parse(&answer).map(|answer| answer.status), Some(408));
}

#[test]
fn beyond_its_rate_and_beyond_its_queue_a_source_answers_429() {
    let server = scenario()
        .source("a", "max_queued = 2")
        .source("b", "rate_limit = \"1/h\"")
        .handler("h", "paused = true", "true")
        .start();
    let statuses: Vec<u16> = (0..3).map(|_| server.post("/hooks/a", "x").status).collect();
    assert_eq!(statuses, [202, 202, 429]);
    assert_eq!(server.post("/hooks/b", "x").status, 202);
    let beyond = server.post("/hooks/b", "x");
    assert!(beyond.status == 429 && beyond.header("retry-after").is_some(), "{beyond:?}");
    // Room again: what was cancelled is not queued any more.
    assert!(server.cli(&["cancel", "--all", "--yes"]).status.success());
    crate::support::server::until("there is room", || server.post("/hooks/a", "x").status == 202);
}

#[test]
fn a_flood_of_refusals_is_counted_and_leaves_a_hundred_rows() {
    let server = scenario().source("a", "").start();
    for _ in 0..300 {
        assert_eq!(server.request("GET", "/hooks/a", "", b"").status, 405);
    }
    server.until("select sum(count) from rejections", "300");
    assert_eq!(server.value("select count(*) from rejections"), "100");
}

#[test]
fn a_server_without_disk_space_says_503_and_is_not_ready() {
    let server =
        scenario().with("[workers]\nthreads = 1").source("a", "").server("max_body_size = 100");
    let server = server.start();
    assert_eq!(server.request("GET", "/readyz", "", b"").status, 200);
    assert_eq!(server.request("GET", "/healthz", "", b"").status, 200);
    drop(server);
    let mut low = scenario().source("a", "").start();
    let text = low.config().replace("min_free_space = 1024", "min_free_space = \"1000 TiB\"");
    *low.config() = text;
    low.write_config();
    assert_eq!(low.stop(), Some(0));
    low.start();
    let answer = low.post("/hooks/a", "x");
    assert!(answer.status == 503 && answer.header("retry-after").is_some(), "{answer:?}");
    assert_eq!(low.request("GET", "/readyz", "", b"").status, 503);
    assert_eq!(low.value("select count(*) from rejections"), "0");
}
