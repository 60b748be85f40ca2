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
        client: Some("CN=paminga,O=\"Paminga\" Inc"),
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
        "$client",
        "$client == \"CN=paminga\"",
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
fn functions_of_text_give_jaqs_result() {
    let body = r#"{"s":"Push to refs/heads/m\u00e4in\n","e":"","n":null,"k":"MID-corp.com","o":{"a":"x"}}"#;
    for text in [
        r#".s | test("refs/heads/")"#,
        r#".s | test("^Push|^Pull")"#,
        r#".s | test("^push")"#,
        r#".s | test("^push"; "i")"#,
        r#".s | test("P U S H"; "xi")"#,
        r#".s | test("in$")"#,
        r#".s | test("in$"; "m")"#,
        r#".s | test("in.$"; "s")"#,
        r#".s | test("in.$"; "p")"#,
        r#".s | test("(P)(u)(s)?h (t|f)(x)?o"; "l")"#,
        r#".s | test("m[\u00e4]in")"#,
        r#".s | test("m\\win")"#,
        r#".s | test("(?i)MÄIN")"#,
        r#".s | test("")"#,
        r#".e | test("")"#,
        r#".e | test("^$")"#,
        r#".e | test("x")"#,
        r#".k | ascii_downcase | test("@?mid-corp\\.com$")"#,
        r#"$headers["x-kind"] | test("^pu")"#,
        r#"(.s | test("Push")) and (.k | test("MID"))"#,
        r#".s | test("Push") | not"#,
        r#"(.n | test("x"))?"#,
        r#".s.x? | test("x")"#,
        r#".s | startswith("Push")"#,
        r#".s | startswith("push")"#,
        r#".s | startswith("")"#,
        r#".s | endswith("in\n")"#,
        r#".e | endswith("x")"#,
        r#".s | contains("heads/m\u00e4")"#,
        r#".s | contains("")"#,
        r#".e | contains("x")"#,
        r#".k | ascii_downcase"#,
        r#".s | ascii_upcase"#,
        r#"(.n | startswith("x"))? // "none""#,
        r#"[(.n | ascii_downcase)?]"#,
        r#"first(.s)"#,
        r#"[first(.s.x?)]"#,
        r#".o | select(.a == "x") | .a"#,
        r#".o | select(.a == "y") | .a"#,
        r#"select(.s | test("Push")) | .k | startswith("MID")"#,
        r#"select(.s | test("Pull")) | .k | length"#,
        r#"[empty, 1]"#,
        r#"if .n then 1 else empty end"#,
    ] {
        check_inline(text, body);
    }
}

#[test]
fn a_path_without_items_has_no_output_inline() {
    let config = include_str!("../../../config.toml");
    let split = config.split("'''").nth(1).unwrap();
    assert!(split.contains(".CampaignActionQualification?[]?.Campaign[]"));
    for body in [
        "{}",
        "[]",
        "[1]",
        "7",
        "\"text\"",
        "null",
        r#"{"form_id":"1"}"#,
        r#"{"CampaignActionQualification":null}"#,
        r#"{"CampaignActionQualification":[ ]}"#,
        r#"{"CampaignActionQualification":{}}"#,
        r#"{"CampaignActionQualification":"none"}"#,
        r#"{"CampaignActionQualification":[1],"CampaignActionQualification":false}"#,
    ] {
        check_inline(split, body);
        check_inline(".CampaignActionQualification?[]?.Campaign[] as $x | $x + 1", body);
        check_inline("first(.CampaignActionQualification?[]?) // \"none\"", body);
        check_inline("(.CampaignActionQualification[] | length > 1)?", "{}");
    }
    for body in
        [r#"{"CampaignActionQualification":[{}]}"#, r#"{"CampaignActionQualification":{"a":1}}"#]
    {
        check_left_to_jaq(split, body.as_bytes());
    }
    for text in [".a[]", ".a[].b", ".a[] | 1", ".s[]?[error]", ".s[]?[1/0]?", "$headers[]", ".l[]"]
    {
        check_left_to_jaq(text, br#"{"a":null,"s":"t","l":[{}]}"#);
    }
}

#[test]
fn a_part_that_is_not_simple_leaves_an_expression_to_jaq_only_when_it_is_reached() {
    let body = r#"{"a":true,"b":false,"l":[1,2],"e":[]}"#;
    for (unreached, reached) in [
        (".b and (.l | length > 1)", ".a and (.l | length > 1)"),
        (".a or (.l | length > 1)", ".b or (.l | length > 1)"),
        (".a // (.l | length)", ".b // (.l | length)"),
        ("[.e[] | length]", "[.l[] | length]"),
        ("[select(.b) | .l[]]", "[select(.a) | .l[]]"),
        (".b and error", "(.a and error)?"),
    ] {
        check_inline(unreached, body);
        check_left_to_jaq(reached, body.as_bytes());
    }
}

#[test]
fn regular_expressions_beyond_the_limits_are_left_to_jaq() {
    let text =
        format!(r#"{{"s":"{}","n":1,"o":{{}},"ba":"ba","b":["a","b"]}}"#, "ab ".repeat(8000));
    for regex in [
        r#".s | test("x")"#,
        r#".s | test("[ab ]*x")"#,
        r#".ba | test("a{2000}")"#,
        r#".ba | test("((a{100}){100}){100}")"#,
        r#".ba | test("(?:){1000000}")"#,
        r#".ba | test("(")"#,
        r#".ba | test("(?<!x)a")"#,
        r#".ba | test("(a)(a)(a)(a)(a)(a)(a)(a)?")"#,
        r#".ba | test("a"; "g")"#,
        r#".ba | test("a"; "n")"#,
        r#".ba | test("a"; "?")"#,
        r#".ba | test("a"; null)"#,
        r#".ba | test(["a", "i"])"#,
        r#".ba | test("a", "b")"#,
        r#".ba | test(.ba)"#,
        r#".ba | test("\(.n)")"#,
        // jaq panics: the second group begins before the first.
        r#".ba | test("(?:(a)|(b))*$")"#,
        r#".n | test("a")"#,
        r#".o | test("a")"#,
        r#".x | test("a")"#,
        r#".x | startswith("a")"#,
        r#".b | contains("a")"#,
        r#".n | contains("a")"#,
        r#".ba | startswith(.n)"#,
        "def test(re): true; .ba | test(\"x\")",
    ] {
        check_left_to_jaq(regex, text.as_bytes());
    }
    let short = format!(r#"{{"s":"{}"}}"#, "ab ".repeat(300));
    check_inline(r#".s | test("x")"#, &short);
    let repeat = |times| vec![r#"(.s | test("x"))"#; times].join(" or ");
    check_inline(&repeat(10), &short);
    check_left_to_jaq(&repeat(40), short.as_bytes());
}

#[test]
fn copies_beyond_the_limit_are_left_to_jaq() {
    let escaped = format!(r#"{{"s":"\n{}"}}"#, "x".repeat(1 << 20));
    for (text, body) in [
        (vec!["[., .]"; 50].join(" | "), "{}"),
        (vec!["{a: ., b: .}"; 50].join(" | "), "{}"),
        (format!("[{}]", vec![".s"; 20].join(", ")), &*escaped),
        (format!(".s | ascii_upcase | [{}]", vec!["."; 20].join(", ")), &*escaped),
    ] {
        let expression = Expression::new(&text).unwrap();
        with_event(body.as_bytes(), |event| {
            assert_eq!(expression.evaluate_inline(event), None, "{text}")
        });
    }
    check_inline("[., .] | [., .] | [., .]", "[]");
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
    let functions = prop::sample::select(
        &[
            "ascii_downcase",
            "ascii_upcase",
            "startswith(\"a\")",
            "endswith(\"b\")",
            "contains(\"\u{fc}\")",
            "test(\"^[a-b]*$\")",
            "test(\"(a)|(b)\"; \"i\")",
            "length",
            "add",
            "error",
        ][..],
    );
    leaf.prop_recursive(4, 24, 3, move |inner| {
        let two = || (inner.clone(), inner.clone());
        let functions = functions.clone();
        let ops = prop::sample::select(&["==", "!=", "<", "<=", ">", ">=", "and", "or", "//"][..]);
        prop_oneof![
            4 => (two(), ops).prop_map(|((a, b), op)| format!("({a} {op} {b})")),
            1 => inner.clone().prop_map(|a| format!("({a} | not)")),
            1 => inner.clone().prop_map(|a| format!("({a})?")),
            1 => inner.clone().prop_map(|a| format!("first({a})")),
            1 => inner.clone().prop_map(|a| format!("select({a})")),
            1 => inner.clone().prop_map(|a| format!("({a})[]")),
            1 => inner.clone().prop_map(|a| format!("({a})[]?.b[]")),
            1 => two().prop_map(|(a, b)| format!("({a} as $x | {b})")),
            1 => Just("empty".to_owned()),
            2 => (inner.clone(), functions).prop_map(|(a, function)| format!("({a} | {function})")),
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
    fn regular_expressions_match_as_jaqs(
        regex in string_regex(
            r"([abü. ()|*+?^$]|\\\\[bBwWdDsSAzpPk.]|\[\^?[ab-]+\]|\{[0-3],?\}|\(\?[isx:]\)?){0,8}"
        ).unwrap(),
        flags in string_regex("[imslxpgn]{0,2}").unwrap(),
        text in string_regex(r"([abüKAB k]|\\n){0,12}").unwrap(),
    ) {
        compare(&format!("test(\"{regex}\"; \"{flags}\")"), format!("\"{text}\"").as_bytes());
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
        split in prop::option::of(expressions()),
        key in expressions(),
        body in bodies(),
    ) {
        with_event(body.as_bytes(), |event| compare_decisions(&when, split.as_deref(), &key, event));
    }
}

fn compare_decisions(when: &str, split: Option<&str>, key: &str, event: &EventContext<'_>) {
    let [when, key] = [when, key].map(|text| Expression::new(text).unwrap());
    let split = split.map(|text| Expression::new(text).unwrap());
    let handler = HandlerExpressions {
        when: Some(when.clone()),
        split: split.clone(),
        ordering_key: Some(key.clone()),
        version_by: Some(key.clone()),
        ..HandlerExpressions::default()
    };
    let set = ExpressionSet::new(Some(key.clone()), vec![handler]);
    let Some(found) = set.evaluate_inline(event) else { return };
    let (when, key) = (Some(when.text()), Some(key.text()));
    let split = split.as_ref().map(Expression::text);
    let parts = [when, split, key, key, None, None];
    let request = EvaluationRequest { dedupe: key, handlers: vec![parts], max_items: None };
    let result = with_large_stack(|| Evaluator::default().evaluate(&request, event, &|_| ()));
    assert_eq!(format!("{found:?}"), format!("{:?}", result.unwrap()));
}
