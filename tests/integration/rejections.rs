//! Rejected requests: their responses and their rows in the view `rejections`.

use crate::support::client::parse_response;
use crate::support::server::scenario;

/// Sends each request and compares its status. A case is a method, path, headers, body and the status.
fn check(keys: &str, cases: &[(&str, &str, &str, &str, u16)]) {
    let server = scenario().source("a", keys);
    server.write_file("secret", "0123456789abcdef0123456789abcdef");
    let server = server.start();
    for (number, (method, path, headers, body, status)) in cases.iter().enumerate() {
        let response = server.request(method, path, headers, body.as_bytes());
        assert_eq!(response.status, *status, "{method} {path} {headers}");
        if *method != "HEAD" {
            let json: serde_json::Value = serde_json::from_str(&response.body).expect("JSON");
            assert!(json["error"].is_string(), "{}", response.body);
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
    let response = server.request("GET", "/hooks/a", "", b"");
    assert_eq!(response.header("allow"), Some("POST, PUT"));
}

#[test]
fn a_wrong_content_type_is_415_and_an_invalid_body_400() {
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
fn a_content_encoding_other_than_identity_is_415() {
    let headers = "Content-Encoding: identity\nContent-Encoding: gzip";
    check("", &[("POST", "/hooks/a", headers, "x", 415)]);
    let server = scenario().source("a", "").start();
    let headers = "Content-Encoding: identity\nContent-Encoding: Identity";
    assert_eq!(server.request("POST", "/hooks/a", headers, b"x").status, 202);
}

#[test]
fn wrong_signatures_get_the_same_response_and_different_reasons() {
    let keys = r#"verify = { scheme = "hmac", header = "X-Sig", secret = { file = "secret" } }"#;
    let server = scenario().source("a", keys);
    server.write_file("secret", "0123456789abcdef0123456789abcdef");
    let server = server.start();
    let wrong = ["", "X-Sig: zz", "X-Sig: 00ff", "X-Sig: 00\nX-Sig: 00", "X-Sig:"];
    let responses: Vec<_> =
        wrong.iter().map(|line| server.request("POST", "/hooks/a", line, b"x").body).collect();
    assert!(responses.iter().all(|response| *response == responses[0]), "{responses:?}");
    server.until("select sum(count) from rejections", "5");
    assert_eq!(
        server.column("select reason from rejections order by id"),
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
fn basic_and_bearer_send_www_authenticate() {
    for (scheme, user, right, challenge) in [
        ("basic", "user = \"u\",", "Basic dTowMTIz", r#"Basic realm="hooktrail""#),
        ("bearer", "", "Bearer 0123", "Bearer"),
    ] {
        let keys = format!(
            "verify = {{ scheme = \"{scheme}\", {user} secret = {{ file = \"secret\" }} }}"
        );
        let server = scenario().source("a", &keys);
        server.write_file("secret", "0123");
        let server = server.start();
        let wrong = server.request("POST", "/hooks/a", "Authorization: Basic x", b"x");
        assert_eq!((wrong.status, wrong.header("www-authenticate")), (401, Some(challenge)));
        let response = server.request("POST", "/hooks/a", &format!("Authorization: {right}"), b"x");
        assert_eq!(response.status, 202);
    }
}

#[test]
fn the_first_failed_check_decides_the_status() {
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
fn a_body_over_the_limit_is_413_before_it_is_complete() {
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
    assert_eq!(
        parse_response(&server.send_raw(&chunked)).map(|response| response.status),
        Some(413)
    );
}

#[test]
fn invalid_http_and_endless_headers_leave_no_row() {
    let server = scenario().source("a", "").start();
    let garbage = server.send_raw(b"\x16\x03\x01 hello\r\n\r\n");
    assert!(garbage.starts_with("HTTP/1.1 400"), "{garbage}");
    let long_garbage = [b"\x16\x03\x01 hello\r\n\r\n", vec![b'x'; 2 << 20].as_slice()].concat();
    assert!(
        server.send_raw(&long_garbage).starts_with("HTTP/1.1 400"),
        "although more bytes follow"
    );
    let long_header = format!("X-Long: {}", "x".repeat(33 << 10));
    let response = server.request("POST", "/hooks/a", &long_header, b"x");
    assert_eq!((response.status, response.body.as_str()), (431, ""));
    let endless = format!("POST /hooks/a HTTP/1.1\r\nX: {}", "x".repeat(300 << 10));
    let response = parse_response(&server.send_raw(endless.as_bytes())).expect("a response");
    assert_eq!((response.status, response.body.as_str()), (431, ""));
    let lines: String = (0..97).map(|number| format!("X-{number}: x\n")).collect();
    assert_eq!(server.request("POST", "/hooks/a", &lines, &[b'x'; 2 << 20]).status, 431);
    assert_eq!(server.post("/hooks/a", "x").status, 202);
    assert_eq!(server.value("select count(*) from rejections"), "0");
}

#[test]
fn many_rejections_are_counted_in_at_most_a_hundred_rows() {
    let server = scenario().source("a", "").start();
    for _ in 0..300 {
        assert_eq!(server.request("GET", "/hooks/a", "", b"").status, 405);
    }
    server.until("select sum(count) from rejections", "300");
    assert_eq!(server.value("select count(*) from rejections"), "100");
}
