//! Tests of `.` and the variables.

use super::{check, outputs};
use crate::expression::EventContext;

#[track_caller]
fn body(content_type: Option<&str>, body: &[u8], expected: &str) {
    let event = EventContext { body, content_type, ..EventContext::default() };
    let shown = String::from_utf8_lossy(body);
    assert_eq!(outputs(".", &event).join(" "), expected, "{content_type:?} {shown}");
}

const JSON: Option<&str> = Some("application/json");

#[test]
fn a_body_is_json_if_its_content_type_says_so() {
    body(JSON, b" [1] ", "[1]");
    body(Some("Application/JSON; charset=utf-8"), b"[1]", "[1]");
    body(Some("application/cloudevents+json"), b"[1]", "[1]");
    body(JSON, b"[1", r#""[1""#);
    body(JSON, b"[1] 2", r#""[1] 2""#);
    body(JSON, b"NaN", r#""NaN""#);
    body(JSON, b"", "null");
    body(JSON, b"\"\xff\"", "null");
}

#[test]
fn one_byte_order_mark_before_the_body_is_skipped() {
    body(JSON, b"\xef\xbb\xbf{\"a\":[1]}", r#"{"a":[1]}"#);
    body(None, b"\xef\xbb\xbf[1]", "[1]");
    body(Some("application/x-www-form-urlencoded"), b"\xef\xbb\xbfa=1", r#"{"a":"1"}"#);
    body(Some("text/html"), b"\xef\xbb\xbfx", r#""x""#);
    body(Some("text/html"), b"\xef\xbb\xbf", "null");
    body(JSON, b"\xef\xbb\xbf\xef\xbb\xbf[1]", "\"\u{feff}[1]\"");
    let part = "\u{feff}--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--x--\r\n";
    body(Some("multipart/form-data; boundary=x"), part.as_bytes(), r#"{"a":"1"}"#);
    // Inline too.
    let event = EventContext {
        body: b"\xef\xbb\xbf{\"a\":\"b\"}",
        content_type: JSON,
        ..EventContext::default()
    };
    let found = crate::expression::Expression::new(".a").unwrap().evaluate_inline(&event);
    assert_eq!(found, Some(Ok(b"\"b\"".to_vec())));
}

#[test]
fn a_body_of_an_unspecific_type_is_json_if_it_parses() {
    for content_type in [None, Some("text/plain; charset=utf-8"), Some("application/octet-stream")]
    {
        body(content_type, b"{\"a\":1}", r#"{"a":1}"#);
        body(content_type, b"a: 1", r#""a: 1""#);
        body(content_type, b"", "null");
        body(content_type, b"\xff", "null");
    }
    body(Some("text/html"), b"[1]", r#""[1]""#);
    body(Some("text/html"), b"\xff", "null");
    body(Some("application/xml"), b"", "null");
}

#[test]
fn numbers_keep_their_digits() {
    let numbers = "[1.10,1e999,-1E-999,12345678901234567890123,-0,0,9007199254740993,1.0,100000000000000000000e5]";
    body(JSON, numbers.as_bytes(), numbers);
    check(".[0] | fromjson", "[\"[1.10,1e999,[-0]]\"]", "[1.10,1e999,[-0]]");
    let long = "1".repeat(5000);
    body(JSON, long.as_bytes(), &long);
    check(
        ".[0] == .[1], .[0] < .[2]",
        "[9007199254740993,9007199254740992,9007199254740994]",
        "false true",
    );
}

#[test]
fn the_last_value_of_a_repeated_key_counts() {
    body(JSON, br#"{"a":1,"b":2,"a":3}"#, r#"{"a":3,"b":2}"#);
    body(JSON, br#"{"a":1.5,"b":2,"a":3.50}"#, r#"{"a":3.50,"b":2}"#);
}

#[test]
fn a_lone_surrogate_is_not_json() {
    body(JSON, br#"["\ud83d\ude00"]"#, "[\"\u{1f600}\"]");
    body(JSON, br#"["\ud83d"]"#, r#""[\"\\ud83d\"]""#);
    body(JSON, br#"[1.5,"\ude00"]"#, r#""[1.5,\"\\ude00\"]""#);
    body(JSON, br#"{"\ud83d":1.5}"#, r#""{\"\\ud83d\":1.5}""#);
}

#[test]
fn json_is_read_to_a_depth_of_128() {
    let nested = |depth: usize, inner: &str| "[".repeat(depth) + inner + &"]".repeat(depth);
    for inner in ["", "1.5"] {
        body(JSON, nested(127, inner).as_bytes(), &nested(127, inner));
        body(JSON, nested(128, inner).as_bytes(), &nested(128, inner));
        body(JSON, nested(129, inner).as_bytes(), "null");
        body(None, nested(129, inner).as_bytes(), "null");
        body(JSON, nested(100_000, inner).as_bytes(), "null");
    }
    body(JSON, "[".repeat(100_000).as_bytes(), "null");
    body(JSON, "{\"a\":".repeat(200).as_bytes(), "null");
    let text = format!("[\"{}\"", "[".repeat(200));
    body(JSON, text.as_bytes(), &serde_json::to_string(&text).unwrap());
    check("fromjson", &format!("{:?}", nested(129, "")), "error: fromjson: nested deeper than 128");
    check("fromjson", "\"[1\"", "error: fromjson: EOF while parsing a list at line 1 column 2");
}

#[test]
fn forms_are_objects() {
    let form = Some("application/x-www-form-urlencoded");
    body(form, b"a[b]=1&a[c][]=2&d=%C3%BC+%&d=3", r#"{"a":{"b":"1","c":["2"]},"d":["ü %","3"]}"#);
    body(form, b"", "{}");
    let many = "a=1&".repeat(10_001);
    body(form, many.as_bytes(), &format!("{many:?}"));
    let multipart = Some("multipart/form-data; boundary=x");
    let field = b"--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--x--\r\n";
    body(multipart, field, r#"{"a":"1"}"#);
    body(multipart, b"--x\r\n", r#""--x\r\n""#);
    body(multipart, b"--x\r\n\xff", "null");
}

#[test]
fn variables_are_set() {
    let headers: [(&str, &[u8]); 4] =
        [("x-a", b"1"), ("content-type", b"text/plain"), ("x-a", b"2"), ("x-b", b"\xe4")];
    let event = EventContext {
        body: b"x",
        content_type: None,
        source: "shop",
        headers: &headers,
        query: Some("a=1&b[]=2&a=3&c"),
        path: "/hooks/%61",
        params: &[("tenant".to_owned(), "a".to_owned())],
        ip: "192.0.2.1",
        client: Some("CN=a \"b\",O=c"),
        received_at_ms: 1_795_000_000_123,
        event_id: Some(42),
    };
    let expected = [
        r#""shop""#,
        "{\"x-a\":\"1, 2\",\"content-type\":\"text/plain\",\"x-b\":\"\u{fffd}\"}",
        r#"{"a":["1","3"],"b":["2"],"c":""}"#,
        r#""/hooks/%61""#,
        r#"{"tenant":"a"}"#,
        r#""192.0.2.1""#,
        r#""CN=a \"b\",O=c""#,
        r#""2026-11-18T11:06:40.123Z""#,
        "42",
    ];
    let text = "$source, $headers, $query, $path, $params, $ip, $client, $received_at, $event";
    assert_eq!(outputs(text, &event), expected);
    let empty = EventContext::default();
    assert_eq!(
        outputs("$query, $headers, $params, $client, $event", &empty),
        ["{}", "{}", "{}", "null", "null"]
    );
}
