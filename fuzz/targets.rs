//! Fuzz targets: each parses bytes from outside, and panics if the result breaks a guarantee.
//!
//! `cargo fuzz` runs them (fuzz_targets/), and tests/integration/fuzzing.rs runs a limited number of inputs.

use std::cell::OnceCell;

use hooktrail::internals::expression::{EventContext, Expression, unsandboxed};
use serde_json::Value;

mod intake;

/// A fuzz target, with its first inputs and the pieces that a generator inserts into them.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    pub seeds: &'static [&'static [u8]],
    pub parts: &'static [&'static [u8]],
}

/// All fuzz targets. A new one needs an element here, a file in fuzz_targets/ and a `[[bin]]` in
/// fuzz/Cargo.toml.
pub const TARGETS: [Target; 6] = [
    Target {
        name: "expression",
        run: expression,
        seeds: &[
            b".items[] | {id: .contact_id, name: \"\\(.first) \\(.last)\"}",
            b"if .a? // false then [.b, -1.5e3] else $headers[\"x-y\"] == null end",
            b"def f($x; g): reduce g as [$a, {b: $c}] ($x; . + $a); try f(1; .[]) catch .",
        ],
        parts: &[
            b"(",
            b")",
            b"[",
            b"]",
            b"{",
            b"}",
            b"\"",
            b"\\(",
            b".",
            b"..",
            b"|",
            b",",
            b";",
            b":",
            b"?",
            b"//",
            b"as ",
            b"$x",
            b"def ",
            b"if ",
            b"then ",
            b"end",
            b"@base64",
            b"#",
            b"1e9",
            b"import ",
            b"include ",
            b"debug",
            b"label $x",
            b"try ",
            b"-",
            b"and ",
            b"not",
        ],
    },
    Target {
        name: "form",
        run: form,
        seeds: &[b"a=1&b[]=2&b[]=3&c[d][e]=4", b"a%5Bb%5D=%C3%BC+%&=x&a[0]=1&a[5]=2&a[]"],
        parts: &[
            b"&", b"=", b"[", b"]", b"[]", b"%", b"%5B", b"%ff", b"+", b"a", b"0", b"-1", b" ",
        ],
    },
    Target { name: "intake", run: intake::intake, seeds: REQUEST_SEEDS, parts: REQUEST_PARTS },
    Target { name: "inline", run: inline, seeds: JSON_SEEDS, parts: JSON_PARTS },
    Target { name: "json", run: json, seeds: JSON_SEEDS, parts: JSON_PARTS },
    Target {
        name: "multipart",
        run: multipart,
        seeds: &[
            b"--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--x--\r\n",
            b"--x\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.bin\"\r\n\
              Content-Type: image/png\r\n\r\n\0\x01\r\n--x--\r\n",
        ],
        parts: &[
            b"--x",
            b"--x--",
            b"\r\n",
            b"\r\n\r\n",
            b"Content-Disposition: form-data; name=\"a[b]\"",
            b"; filename=\"",
            b"\"",
            b"Content-Type: ",
            b"; filename*=UTF-8''%e2",
            b":",
            b"\xff",
        ],
    },
];

/// Requests in the format of [`intake::intake`].
const REQUEST_SEEDS: &[&[u8]] = &[
    b"\x00x-a:1\ncontent-type:a/b\n\n{\"a\":[1,{\"b\":\"\\u00e4\\ud83d\\ude00\"}],\"id\":1e999,\"at\":-0.0}",
    b"\x01x-hub-signature-256:sha256=00ff\nx:=&%\n\na[b][]=1&a[b][]=%C3%A4&c=+%4&=&d[",
    b"\x02stripe-signature:t=1795000000,v1=00,v1=zz,v0=\n\n--x\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a\"\r\n\r\nbytes\r\n--x--\r\n",
    b"\x06webhook-id:a\nwebhook-timestamp:9223372036854775807\nwebhook-signature:v1,AAAA v1a,===\n\n{\"type\":1}",
    b"\x1cx:y\n\n{\"Type\":\"Notification\",\"Message\":\"\",\"MessageId\":\"1\",\"Timestamp\":\"+2026\",\"TopicArn\":\"\",\"Signature\":\"=\",\"SignatureVersion\":\"1\"}",
    include_bytes!("../tests/payloads/paminga-campaign.json"),
    include_bytes!("../tests/payloads/paminga-form.json"),
];

/// Pieces that are hard to parse.
const REQUEST_PARTS: &[&[u8]] = &[
    b"[",
    b"{\"a\":",
    b"\"",
    b"\\u",
    b"\\ud800",
    b"1e999",
    b"-",
    b"NaN",
    b"\xff",
    b"\0",
    b"%",
    b"%f",
    b"=",
    b"&",
    b"[]",
    b"--x",
    b"\r\n",
    b"\n\n",
    b":",
    b",",
    b"99999999999999999999",
    b"\xc3",
];

const JSON_SEEDS: &[&[u8]] = &[
    br#"{"a":{"b":[1,"x",{"c":null}]},"n":1.50,"big":1e999,"a":2,"t":true}"#,
    br#"[{"a":"\u00fc\ud83d\ude00","b":-0,"c":12345678901234567890}]"#,
    br#""\ud800""#,
];

const JSON_PARTS: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"\"a\":",
    b"\"b\":",
    b"null",
    b"true",
    b"1",
    b"-0",
    b"1.5",
    b"1e999",
    b"\\u00e9",
    b"\\ud83d",
    b"\\",
    b" ",
    b"\xc3\xbc",
    b"\xff",
    b"[[[[[[[[",
];

fn context<'a>(content_type: &'a str, body: &'a [u8]) -> EventContext<'a> {
    EventContext {
        body,
        content_type: Some(content_type),
        query: Some("a=1&b[]=2"),
        ..EventContext::default()
    }
}

fn jq(text: &str) -> Expression {
    Expression::new(text).unwrap_or_else(|error| panic!("{text}: {error:?}"))
}

/// Returns the body as an expression sees it: always JSON, and never an error.
fn input(content_type: &str, body: &[u8]) -> Value {
    thread_local! { static IDENTITY: OnceCell<Expression> = const { OnceCell::new() }; }
    let identity = IDENTITY.with(|cell| cell.get_or_init(|| jq(".")).clone());
    let text = unsandboxed::first_output(&identity, &context(content_type, body));
    let text = text.expect("a body has a value").expect("`.` gives one output");
    // serde_json rejects a body of depth 128, and 1e999.
    serde_json::from_slice(&text).unwrap_or(Value::Null)
}

/// Any text compiles, or gives an error with its position.
pub fn expression(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(error) = Expression::new(text) {
        let lines = text.split('\n').count();
        assert!((1..=lines).contains(&error.line) && error.column >= 1, "{error:?}");
        assert!(!error.text.is_empty());
    }
}

/// A form is an object, or text if it has too many fields.
pub fn form(data: &[u8]) {
    let value = input("application/x-www-form-urlencoded", data);
    assert!(value.is_object() || data.len() > 10_000, "{value}");
}

/// Expressions see the same value as serde_json. A body that is not JSON is text or null.
pub fn json(data: &[u8]) {
    let value = input("application/json", data);
    match serde_json::from_slice::<Value>(data) {
        Ok(expected) => assert_eq!(value, expected),
        Err(_) => assert!(value.is_null() || std::str::from_utf8(data).is_ok()),
    }
}

/// A multipart body is an object of its fields. A broken one is text or null.
pub fn multipart(data: &[u8]) {
    let value = input("multipart/form-data; boundary=x", data);
    assert!(value.is_object() || value.is_string() || value.is_null(), "{value}");
}

/// Inline evaluation gives the same result as jaq.
pub fn inline(data: &[u8]) {
    thread_local! { static EXPRESSIONS: OnceCell<Vec<Expression>> = const { OnceCell::new() }; }
    const TEXTS: [&str; 12] = [
        ".a? != null",
        ".a.b == 1 or .a.b? == \"x\"",
        "[.a.b[0], .n, .t]",
        "if .t then .n else .big end",
        ".[0].a?",
        "{a: .a.b[2].c?, n: (.n // .t)}",
        ".n < .big",
        ".a | not",
        ".a? | test(\"^(a|b)?.*x$\"; \"i\")",
        ".a? | select(startswith(\"x\") or contains(\"y\"))",
        ".a[]? | length",
        ".a?[]?.b[] as $b | $b",
    ];
    let expressions = EXPRESSIONS.with(|cell| cell.get_or_init(|| TEXTS.map(jq).to_vec()).clone());
    let context = context("application/json", data);
    for expression in expressions {
        let Some(output) = expression.evaluate_inline(&context) else { continue };
        let expected = unsandboxed::first_output(&expression, &context);
        let text = expression.text();
        match (&output, &expected) {
            (Ok(output), Ok(Some(expected))) => assert_eq!(output, expected, "{text}"),
            (Err(_), Ok(None)) => {}
            _ => panic!("{text}: {output:?}, but {expected:?}"),
        }
    }
}
