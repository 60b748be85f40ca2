//! Compares inline results with jaq's.

use proptest::prelude::*;
use proptest::string::string_regex;

use super::super::compiler::with_large_stack;
use super::super::evaluate::Evaluator;
use super::super::protocol::EvaluationRequest;
use crate::expression::{EventContext, Expression, ExpressionSet, HandlerExpressions, unsandboxed};

/// Calls `run` with a fixed event with this body.
fn with_event<T>(body: &[u8], run: impl FnOnce(&EventContext<'_>) -> T) -> T {
    let headers: [(&str, &[u8]); 4] =
        [("x-kind", b"push"), ("x-two", b"1"), ("x-two", b"\xff"), ("content-type", b"")];
    run(&EventContext {
        body,
        content_type: Some("application/json"),
        source: "shop",
        headers: &headers,
        query: Some("q=a%20b&n[]=1&q2"),
        path: "/hooks/shop",
        params: &[("tenant".to_owned(), "a".to_owned())],
        ip: "192.0.2.1",
        received_at_ms: 1_795_000_000_123,
        event_id: None,
    })
}

/// Checks that the inline result, if there is one, is jaq's.
fn compare(text: &str, body: &[u8]) -> bool {
    with_event(body, |event| {
        let expression = Expression::new(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
        let Some(output) = expression.evaluate_inline(event) else { return false };
        let shown = String::from_utf8_lossy(body);
        match unsandboxed::first_output(&expression, event) {
            Ok(Some(expected)) => {
                let output = output.unwrap_or_else(|why| panic!("{text} of {shown}: {why}"));
                let [output, expected] =
                    [output, expected].map(|json| String::from_utf8(json).unwrap());
                assert_eq!(output, expected, "{text} of {shown}");
            }
            Ok(None) => assert!(output.is_err(), "{text} of {shown}: {output:?}"),
            Err(why) => panic!("{text} of {shown}: {output:?}, but {why}"),
        }
        true
    })
}

#[track_caller]
fn check_inline(text: &str, body: &str) {
    assert!(compare(text, body.as_bytes()), "{text} of {body} is left to jaq");
}

#[track_caller]
fn check_left_to_jaq(text: &str, body: &[u8]) {
    assert!(!compare(text, body), "{text}");
}

#[test]
fn common_expressions_are_evaluated_inline() {
    check_inline(".form_id? != null", r#"{"a":[1,{"b":2}],"form_id":"12"}"#);
    check_inline(".form_id? != null", "[1, 2]");
    check_inline(".action == \"opened\" or .action == \"closed\"", r#"{"action":"closed"}"#);
    check_inline(".a.b | . == 1 or . == 2", r#"{"a":{"b":2}}"#);
    check_inline("$headers[\"x-kind\"] == \"push\"", "");
    check_inline("$headers.nothing | not", "");
}

#[test]
fn every_inline_construct_gives_jaqs_result() {
    let body = r#" {"a":{"b":[10,"x",{"c":null}]},"s":"t\u00fcr\n","n":1.50,"big":1e999,
        "neg":-0,"dup":1,"dup":"last","e":{},"l":[],"t":true,"":"empty","i":9007199254740993} "#;
    for text in [
        ".a.b[0]",
        ".a.b[1]",
        ".a.b[7]",
        ".a[\"b\"][2].c",
        ".s",
        ".n",
        ".big",
        ".neg",
        ".dup",
        ".t",
        ".nothing.at.all",
        ".\"\"",
        ".[\"s\"]",
        ".a[0]",
        ".e[0]",
        ".l[0]",
        ".s.x?",
        ".s.x? // 7",
        ".n == 1.5",
        ".n < 1.6",
        ".big > 1e308",
        ".neg == 0",
        ".i == 9007199254740992",
        ".i == 9007199254740993",
        ".i == 9007199254740993.0",
        ".a == null",
        ".a > \"z\"",
        ".l < .e",
        ".t and .n",
        ".t and .nothing",
        ".nothing or .t",
        ".nothing // .s",
        ".a | not",
        ".nothing | not",
        "(.t and true) | not",
        "if .t then .s else .n end",
        "if .nothing then 1 end == 1",
        "if .nothing then 1 elif .t then 2 end",
        "[.n, .s, .nothing, (.s.x?)]",
        "{s, \"k\": .n, $source}",
        "{a: .s, a: .n}",
        "{a: (.s.x?)}",
        "[] == []",
        "[.n] < [.n, 1]",
        "[1, .s] == [1, .s]",
        "-1.50",
        "007",
        "-5 < .neg",
        "\"\\u00fc\\n\"",
        "null",
        "true",
        "false",
        "$source",
        "$path",
        "$ip",
        "$received_at",
        "$event",
        "$headers[\"x-two\"]",
        "$headers[\"content-type\"]",
        "$query.q",
        "$query.q2",
        "$query.x",
        "$params.tenant",
        "$params.x",
        ".s.x? == 1",
        "(.s.x)?",
        "[(.s.x)?]",
    ] {
        check_inline(text, body);
    }
}

#[test]
fn other_expressions_and_bodies_are_left_to_jaq() {
    for text in [
        ".a.b.c",
        ".a",
        ".a == {}",
        ".a == .e",
        "[.e] == [{}]",
        ".s.x",
        ".a.b[-1]",
        ".a.b[0:1]",
        ".[]",
        ".a + 1",
        "length",
        "$query.n",
        "$headers",
        ".b.c.d == 1",
    ] {
        check_left_to_jaq(text, br#"{"a":{"b":"x"},"s":"t","e":{},"b":{"c":[]}}"#);
    }
    let deep = format!("{{\"a\":1,\"b\":{}1{}}}", "[".repeat(125), "]".repeat(125));
    for body in [
        &b"{\"a\":1"[..],
        b"",
        b"{\"a\":1} x",
        b"{\"a\":1,\"b\":\"\xff\"}",
        b"{\"a\":1,\"b\":\"\\ud800\"}",
        b"{\"a\":1,\"b\":\"\x01\"}",
        b"{\"a\":1,\"b\":01}",
        b"{\"a\":12345678901234567890}",
        deep.as_bytes(),
    ] {
        check_left_to_jaq(".a == 1", body);
    }
    with_event(b"a=1", |event| {
        let form =
            EventContext { content_type: Some("application/x-www-form-urlencoded"), ..*event };
        let evaluate = |text: &str| Expression::new(text).unwrap().evaluate_inline(&form);
        assert_eq!(evaluate(".a == 1"), None);
        assert_eq!(evaluate("$source == \"shop\""), Some(Ok(b"true".to_vec())));
    });
}

/// Expressions that may be simple.
fn expressions() -> impl Strategy<Value = String> {
    const LITERALS: [&str; 24] = [
        "null",
        "true",
        "false",
        "0",
        "1",
        "2",
        "-1",
        "1.0",
        "1.50",
        "-0.0",
        "1e2",
        "100",
        "1e999",
        "\"\"",
        "\"a\"",
        "\"b\"",
        "\"\\u00fc\"",
        "[]",
        "{}",
        "$source",
        "$headers.a",
        "$query.q",
        "$event",
        "$headers[\"x-two\"]",
    ];
    const PATHS: [&str; 18] = [
        ".", ".a", ".b", ".a.b", ".a?", ".a.b?", ".a?.b", "(.a.b)?", ".a[0]", ".[0]", ".[1]?",
        ".a[0].b", ".a[1]?", ".[\"a\"]", ".\"b\"", ".a.b.c?", ".c", ".a[0]?.a",
    ];
    let leaf = prop_oneof![
        1 => prop::sample::select(&LITERALS[..]).prop_map(str::to_owned),
        2 => prop::sample::select(&PATHS[..]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let two = || (inner.clone(), inner.clone());
        let ops = prop::sample::select(&["==", "!=", "<", "<=", ">", ">=", "and", "or", "//"][..]);
        prop_oneof![
            4 => (two(), ops).prop_map(|((a, b), op)| format!("({a} {op} {b})")),
            1 => inner.clone().prop_map(|a| format!("({a} | not)")),
            1 => inner.clone().prop_map(|a| format!("({a})?")),
            2 => two().prop_map(|(a, b)| format!("({a} | {b})")),
            1 => (two(), inner.clone())
                .prop_map(|((a, b), c)| format!("if {a} then {b} else {c} end")),
            1 => two().prop_map(|(a, b)| format!("(if {a} then {b} end)")),
            1 => two().prop_map(|(a, b)| format!("[{a}, {b}]")),
            1 => two().prop_map(|(a, b)| format!("{{a: {a}, \"b\": {b}, $source}}")),
            1 => two().prop_map(|(a, b)| format!("{{a: {a}, a: {b}, c}}")),
        ]
    })
}

/// JSON with keys that the expressions use, some of them repeated.
fn bodies() -> impl Strategy<Value = String> {
    const SCALARS: [&str; 22] = [
        "null",
        "true",
        "false",
        "0",
        "1",
        "2",
        "-1",
        "-0",
        "1.0",
        "1.50",
        "100",
        "1E2",
        "1e999",
        "9007199254740993",
        "12345678901234567890",
        "\"\"",
        "\"a\"",
        "\"b\"",
        "\"\\u0061\"",
        "\"\u{fc}\"",
        "\"\\ud83d\\ude00\"",
        "\"x\\\"y\"",
    ];
    let leaf = prop::sample::select(&SCALARS[..]).prop_map(str::to_owned);
    leaf.prop_recursive(4, 32, 4, |inner| {
        let keys = prop::sample::select(&["a", "b", "c", "\\u0061", "d"][..]);
        let members = prop::collection::vec((keys, inner.clone()), 0..4);
        prop_oneof![
            3 => members.prop_map(|all| {
                let all = all.iter().map(|(key, it)| format!("\"{key}\": {it}"));
                format!("{{{}}}", all.collect::<Vec<_>>().join(" , "))
            }),
            1 => prop::collection::vec(inner, 0..4).prop_map(|all| format!("[{}]", all.join(","))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn inline_results_are_jaqs_results(text in expressions(), body in bodies()) {
        compare(&text, body.as_bytes());
    }

    #[test]
    fn inline_results_of_malformed_bodies_are_jaqs_results(
        text in expressions(),
        body in bodies(),
        odd in string_regex("[\\x00-\\x7f\u{fc}]{0,2}").unwrap(),
        at in any::<prop::sample::Index>(),
    ) {
        let mut bytes = body.into_bytes();
        let at = at.index(bytes.len());
        bytes.splice(at..(at + odd.len() / 2).min(bytes.len()), odd.into_bytes());
        compare(&text, &bytes);
    }

    #[test]
    fn inline_decisions_are_the_evaluators_decisions(
        when in expressions(),
        key in expressions(),
        body in bodies(),
    ) {
        with_event(body.as_bytes(), |event| compare_decisions(&when, &key, event));
    }
}

fn compare_decisions(when: &str, key: &str, event: &EventContext<'_>) {
    let [when, key] = [when, key].map(|text| Expression::new(text).unwrap());
    let handler = HandlerExpressions {
        when: Some(when.clone()),
        ordering_key: Some(key.clone()),
        version_by: Some(key.clone()),
        ..HandlerExpressions::default()
    };
    let set = ExpressionSet::new(Some(key.clone()), vec![handler]);
    let Some(found) = set.evaluate_inline(event) else { return };
    let (when, key) = (Some(when.text()), Some(key.text()));
    let parts = [when, None, key, key, None, None];
    let request = EvaluationRequest { dedupe: key, handlers: vec![parts], max_items: None };
    let result = with_large_stack(|| Evaluator::default().evaluate(&request, event, &|_| ()));
    assert_eq!(format!("{found:?}"), format!("{:?}", result.unwrap()));
}
