//! Tests of bodies before and after their redaction.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{BodyRedaction, RedactPath};
use crate::expression::{EventContext, Expression, unsandboxed};

const FORM: &str = "application/x-www-form-urlencoded";
const MULTIPART: &str = "multipart/form-data; boundary=xx";

fn redaction(paths: &[&str]) -> BodyRedaction {
    BodyRedaction::new(paths.iter().map(|path| RedactPath::parse(path).unwrap()).collect())
}

/// Redacts a body of this type, and checks that redacting it again changes nothing.
#[track_caller]
fn redact(paths: &[&str], content_type: &str, body: &[u8]) -> Vec<u8> {
    let redaction = redaction(paths);
    let redact = |body: &[u8]| {
        let redacted = redaction.redact(Some(content_type), body);
        redacted.unwrap_or_else(|reason| panic!("{reason}")).unwrap_or_else(|| body.to_vec())
    };
    let redacted = redact(body);
    assert_eq!(redact(&redacted), redacted, "again");
    redacted
}

#[track_caller]
fn check(path: &str, body: &str, expected: &str) {
    let redacted = redact(&[path], "application/json", body.as_bytes());
    assert_eq!(String::from_utf8_lossy(&redacted), expected, "{path} of {body}");
}

#[track_caller]
fn check_form(path: &str, body: &str, expected: &str) {
    let redacted = redact(&[path], FORM, body.as_bytes());
    assert_eq!(String::from_utf8_lossy(&redacted), expected, "{path} of {body}");
}

#[test]
fn a_value_of_any_type_is_replaced_as_a_whole() {
    for value in [
        "\"4111\"",
        "4111",
        "-1.50e+3",
        "null",
        "true",
        "{}",
        "[]",
        r#"{"a":[{"b":"}"}]}"#,
        r#""\"}\\""#,
        r#"[1,"]",[2]]"#,
        "1e999",
        "123456789012345678901234567890.10",
    ] {
        check(".a", &format!("{{\"a\":{value},\"b\":1}}"), r#"{"a":"[redacted]","b":1}"#);
        check(
            ".a",
            &format!("{{ \"a\" :\t{value}\r\n, \"b\":{value} }} \n"),
            &format!("{{ \"a\" :\t\"[redacted]\"\r\n, \"b\":{value} }} \n"),
        );
        check(".[1]", &format!("[{value},{value}]"), &format!("[{value},\"[redacted]\"]"));
    }
}

#[test]
fn everything_else_stays_byte_for_byte() {
    let outside = r#""n":1.10,"big":123456789012345678901234567890,"e":1E+2,"z":-0.0,"s":"\u00e4\/\ud83d\ude00 é""#;
    check(
        ".card.number",
        &format!("{{{outside},\"card\":{{\"number\":4111,{outside}}}}}"),
        &format!("{{{outside},\"card\":{{\"number\":\"[redacted]\",{outside}}}}}"),
    );
}

#[test]
fn a_path_that_leads_nowhere_changes_nothing() {
    for (path, body) in [
        (".card.number", r#"{}"#),
        (".card.number", r#"{"card":null}"#),
        (".card.number", r#"{"card":"4111"}"#),
        (".card.number", r#"{"card":[{"number":1}]}"#),
        (".card.number", r#"[{"card":{"number":1}}]"#),
        (".card.number", r#"{"number":1,"Card":{"number":1},"card ":{"number":1}}"#),
        (".card.number", r#"{"x":{"card":{"number":1}}}"#),
        (".card", "4111"),
        (".card", "\"card\""),
        (".a[2]", r#"{"a":[1,2]}"#),
        (".a[0]", r#"{"a":{"0":1}}"#),
        (".a[]", r#"{"a":[],"b":[1]}"#),
        (".a[]", r#"{"a":"text"}"#),
    ] {
        check(path, body, body);
    }
}

#[test]
fn all_values_of_a_repeated_or_escaped_key_are_replaced() {
    let redacted = "\"[redacted]\"";
    check(
        ".card.number",
        r#"{"card":{"number":1,"number":[2]},"c\u0061rd":{"\u006eumber":3},"card":4}"#,
        &format!(
            r#"{{"card":{{"number":{redacted},"number":{redacted}}},"c\u0061rd":{{"\u006eumber":{redacted}}},"card":4}}"#
        ),
    );
    check(
        r#"."b\"c""#,
        r#"{"b\"c":1,"b\u0022c":2}"#,
        r#"{"b\"c":"[redacted]","b\u0022c":"[redacted]"}"#,
    );
    check(r#"."\u0000""#, r#"{"\u0000":1,"":2}"#, r#"{"\u0000":"[redacted]","":2}"#);
    check(
        r#".["😀"]"#,
        r#"{"\ud83d\ude00":1,"😀":2}"#,
        r#"{"\ud83d\ude00":"[redacted]","😀":"[redacted]"}"#,
    );
    // A lone surrogate is no text, and the rest of the body is redacted nevertheless.
    check(".a", r#"{"\ud83d":1,"a":"\ud83d"}"#, r#"{"\ud83d":1,"a":"[redacted]"}"#);
}

#[test]
fn arrays_objects_and_all_levels_are_searched() {
    let r = "\"[redacted]\"";
    check(
        ".items[].card",
        r#"{"items":[{"card":1},{"x":2},3,{"card":4}]}"#,
        &format!(r#"{{"items":[{{"card":{r}}},{{"x":2}},3,{{"card":{r}}}]}}"#),
    );
    check(
        ".items[].card",
        r#"{"items":{"a":{"card":1}}}"#,
        &format!(r#"{{"items":{{"a":{{"card":{r}}}}}}}"#),
    );
    check(".[]", r#"{"a":1,"b":[2]}"#, &format!(r#"{{"a":{r},"b":{r}}}"#));
    check(".[][0]", "[[1,2],[3]]", &format!("[[{r},2],[{r}]]"));
    check(
        "..|.n?",
        r#"{"n":{"n":1},"a":[{"n":2,"m":3}]}"#,
        &format!(r#"{{"n":{r},"a":[{{"n":{r},"m":3}}]}}"#),
    );
    check(
        ".a|..|.n",
        r#"{"n":1,"a":{"b":[[{"n":2}]]}}"#,
        &format!(r#"{{"n":1,"a":{{"b":[[{{"n":{r}}}]]}}}}"#),
    );
    check(
        "..|.a|..|.n",
        r#"{"a":{"a":{"n":1}},"n":2}"#,
        &format!(r#"{{"a":{{"a":{{"n":{r}}}}},"n":2}}"#),
    );
}

#[test]
fn several_paths_are_replaced_and_the_outer_one_wins() {
    let paths = [".a.b", ".a", ".c[0]", ".c[1].d", ".c[].e", ".a.b.c"];
    let body = br#"{"a":{"b":1},"c":[{"d":1},{"d":2,"e":3}]}"#;
    let expected = br#"{"a":"[redacted]","c":["[redacted]",{"d":"[redacted]","e":"[redacted]"}]}"#;
    assert_eq!(redact(&paths, "application/json", body), expected);
}

#[test]
fn a_body_as_deep_as_allowed_is_redacted() {
    let nested =
        |depth: usize, value: &str| format!("{}{value}{}", "[".repeat(depth), "]".repeat(depth));
    let body = nested(127, r#"{"a":1}"#);
    let expected = nested(127, r#"{"a":"[redacted]"}"#);
    check("..|.a", &body, &expected);
    let deep = nested(128, r#"{"a":1}"#);
    let error = redaction(&["..|.a"]).redact(None, deep.as_bytes()).unwrap_err();
    assert_eq!(error, "body is nested deeper than 128");
    let bomb = nested(200_000, "1");
    assert!(redaction(&[".a"]).redact(None, bomb.as_bytes()).is_err());
}

#[test]
fn a_byte_order_mark_stays() {
    let body = "\u{feff}{\"a\":1}";
    assert_eq!(redact(&[".a"], "", body.as_bytes()), "\u{feff}{\"a\":\"[redacted]\"}".as_bytes());
    let body = "\u{feff}a=1";
    assert_eq!(redact(&[".a"], FORM, body.as_bytes()), "\u{feff}a=%5Bredacted%5D".as_bytes());
}

#[test]
fn a_body_that_cannot_be_read_is_an_error_that_quotes_nothing() {
    for (content_type, body) in [
        ("application/json", "{\"card\":4111"),
        ("application/json", "card=4111"),
        ("application/json", "{\"a\":1} {\"card\":4111}"),
        ("application/json", "\u{feff}\u{feff}{\"card\":4111}"),
        ("application/json", "{\"card\":\"4111\n\"}"),
        ("application/json", " "),
        ("", "card 4111"),
        ("text/plain", "card=4111"),
        ("application/xml", "<card>4111</card>"),
        ("application/x-ndjson", "{\"card\":4111}\n{\"card\":4111}"),
        ("text/html", "{\"card\":4111}"),
        (FORM, "{\"card\":4111}&x=1"),
        (FORM, " [{\"card\":4111}"),
        (FORM, "--xx\r\nContent-Disposition: form-data; name=\"card\"\r\n\r\n4111\r\n--xx--\r\n"),
        (MULTIPART, "--xx\r\nContent-Disposition: form-data; name=\"card\"\r\n\r\n4111\r\n--xx"),
        (MULTIPART, "card=4111"),
        ("multipart/form-data", "--xx\r\n\r\n4111\r\n--xx--"),
    ] {
        let error = redaction(&[".card"]).redact(Some(content_type), body.as_bytes());
        let error = error.expect_err(body);
        assert!(error.starts_with("body ") && !error.contains("4111"), "{error}");
    }
    assert!(redaction(&[".a"]).redact(Some("application/json"), b"{\"a\":\"\xff\"}").is_err());
    // UTF-16
    assert!(redaction(&[".a"]).redact(None, b"{\0\"\0a\0\"\0:\x001\0}\0").is_err());
}

#[test]
fn an_empty_body_and_a_source_without_paths_stay_as_they_are() {
    for content_type in ["application/json", "", "text/xml", FORM, MULTIPART] {
        for body in [&b""[..], b"\xef\xbb\xbf"] {
            assert_eq!(redaction(&[".a"]).redact(Some(content_type), body), Ok(None));
        }
        assert_eq!(redaction(&[]).redact(Some(content_type), b"\xff"), Ok(None));
    }
}

#[test]
fn a_field_of_a_form_is_redacted_where_an_expression_sees_it() {
    let r = "%5Bredacted%5D";
    for (path, body, expected) in [
        (".card", "a=1&card=41%2011&b=+2", format!("a=1&card={r}&b=+2")),
        (".card", "card=&a", format!("card={r}&a")),
        (".card", "a&card&b", format!("a&card={r}&b")),
        (".card", "&&card=1&&", format!("&&card={r}&&")),
        (".card", "card=1=2&card=3", format!("card={r}&card={r}")),
        (".card", "c%61rd=1&Card=2&card%20=3", format!("c%61rd={r}&Card=2&card%20=3")),
        (
            ".card.number",
            "card[number]=1&card[name]=x&number=2",
            format!("card[number]={r}&card[name]=x&number=2"),
        ),
        (".card.number", "card%5Bnumber%5D=1", format!("card%5Bnumber%5D={r}")),
        (
            ".card",
            "card[number]=1&card[a][b]=2&cards=3",
            format!("card[number]={r}&card[a][b]={r}&cards=3"),
        ),
        (
            ".card[].n",
            "card[][n]=1&card[][n]=2&card[][m]=3",
            format!("card[][n]={r}&card[][n]={r}&card[][m]=3"),
        ),
        (".a[1]", "a=1&a=2&a=3", format!("a=1&a={r}&a=3")),
        (".a[1]", "a[]=1&a[]=2", format!("a[]=1&a[]={r}")),
        (".a[\"5\"]", "a[5]=x&a[]=y", format!("a[5]={r}&a[]=y")),
        (r#".["a.b"]"#, "a.b=1", format!("a.b={r}")),
        (r#".["a[b"]"#, "a[b=1", format!("a[b={r}")),
        ("..|.n?", "a[n]=1&n=2&a[b][c][n]=3", format!("a[n]={r}&n={r}&a[b][c][n]={r}")),
        // Another field replaces these for an expression, and not for every program.
        (".a", "a=1&a[b]=2", format!("a={r}&a[b]={r}")),
        (".a.b", "a[b]=1&a=2", format!("a[b]={r}&a=2")),
        // `curl -d` sends JSON with this content type.
        (".card", r#"{"card":"41&11","n":1}"#, r#"{"card":"[redacted]","n":1}"#.to_owned()),
        (".card", r#" {"n":"&card=1&"}"#, r#" {"n":"&card=1&"}"#.to_owned()),
    ] {
        check_form(path, body, &expected);
    }
}

#[test]
fn a_form_that_expressions_do_not_read_is_an_error() {
    let redact = |body: String| redaction(&[".a"]).redact(Some(FORM), body.as_bytes());
    assert!(redact("a[]=1&".repeat(10_000)).is_ok());
    assert_eq!(
        redact("b=1&".repeat(10_001)),
        Err("body is a form with too many fields".to_owned())
    );
    assert!(redact(format!("a{}=1", "[x]".repeat(64))).unwrap().is_some());
    assert_eq!(
        redact(format!("a{}=1", "[x]".repeat(65))),
        Err("body is a form with a field nested deeper than 64".to_owned())
    );
}

/// A multipart body of these heads and contents.
fn multipart(parts: &[(&str, &str)]) -> String {
    let part = |(head, text): &(&str, &str)| {
        format!("--xx\r\nContent-Disposition: form-data; {head}\r\n\r\n{text}\r\n")
    };
    format!("preamble\r\n{}--xx--\r\nepilogue", parts.iter().map(part).collect::<String>())
}

#[test]
fn the_fields_and_files_of_a_multipart_body_are_redacted() {
    let parts = [
        ("name=\"a\"", "4111"),
        ("name=\"card[number]\"\r\nX: 1", "41\r\n\r\n11"),
        ("name=\"b\"", ""),
        ("name=\"f\"; filename=\"4111.pdf\"\r\nContent-Type: application/pdf", "\0\r\n--x"),
        ("filename=\"no-name\"", "x"),
    ];
    let body = multipart(&parts);
    for (path, changes) in [
        (".a", vec![(0, parts[0].0)]),
        (".card.number", vec![(1, parts[1].0)]),
        (".card", vec![(1, parts[1].0)]),
        (".b", vec![(2, parts[2].0)]),
        (".f", vec![(3, "name=\"f\"")]),
        (".f.name", vec![(3, "name=\"f\"")]),
        (".f.base64", vec![(3, "name=\"f\"")]),
        (".f.other", vec![]),
        (".c", vec![]),
    ] {
        let mut expected = parts;
        for (at, head) in changes {
            expected[at] = (head, "[redacted]");
        }
        let redacted = redact(&[path], MULTIPART, body.as_bytes());
        assert_eq!(String::from_utf8_lossy(&redacted), multipart(&expected), "{path}");
    }
    let quoted = multipart(&[("name=\"f\\\"\"; filename=\"4111\"", "x")]);
    assert!(redaction(&[".[]"]).redact(Some(MULTIPART), quoted.as_bytes()).is_err());
}

/// A JSON value without repeated keys, from a small set of keys.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-c\"\\\\{}\\[\\],: \u{e9}\u{1f600}]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-c]|b c|\"", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn any_path() -> impl Strategy<Value = String> {
    let step = prop_oneof![
        "\\.[a-c]\\?".prop_map(String::from),
        Just("[]?".to_owned()),
        Just(".[\"b c\"]?".to_owned()),
        Just(".\"\\\"\"?".to_owned()),
        (0..3).prop_map(|index| format!("[{index}]?")),
    ];
    let steps = prop::collection::vec(step, 1..4).prop_map(|steps| {
        let text = steps.concat();
        if text.starts_with('.') { text } else { format!(".{text}") }
    });
    (any::<bool>(), steps).prop_map(|(has_descend, steps)| match has_descend {
        true => format!("..|{steps}"),
        false => steps,
    })
}

/// Replaces the values to which the path leads in jq and which exist, by jq itself.
fn redact_by_jq(path: &str, body: &str) -> Value {
    // jq's paths also lead to values that do not exist.
    let text = format!(
        "reduce path({path}) as $p (.; . as $d \
         | if ($d | try (getpath($p[:-1]) | has($p[-1])) catch false) \
           then setpath($p; \"[redacted]\") else . end)"
    );
    let expression = Expression::new(&text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
    let event = EventContext {
        body: body.as_bytes(),
        content_type: Some("application/json"),
        ..EventContext::default()
    };
    let output = unsandboxed::first_output(&expression, &event);
    let output = output.unwrap_or_else(|error| panic!("{text} of {body}: {error}"));
    serde_json::from_slice(&output.unwrap()).unwrap()
}

#[test]
fn the_reference_replaces_what_exists() {
    assert_eq!(
        redact_by_jq(".a?[]?.b?", r#"{"a":[{"b":1},{"c":2},3]}"#),
        json!({"a": [{"b": "[redacted]"}, {"c": 2}, 3]})
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_values_are_those_that_jq_finds(value in any_json(), path in any_path()) {
        let body = serde_json::to_string_pretty(&value).unwrap();
        let redacted = redact(&[&path], "application/json", body.as_bytes());
        let parsed: Value = serde_json::from_slice(&redacted).unwrap();
        prop_assert_eq!(parsed, redact_by_jq(&path, &body), "{} of {}", path, body);
    }

    #[test]
    fn the_bytes_outside_of_the_values_are_those_of_the_body(value in any_json(), path in any_path()) {
        let body = serde_json::to_string_pretty(&value).unwrap();
        let redaction = redaction(&[&path]);
        let redacted = redact(&[&path], "application/json", body.as_bytes());
        let (mut rebuilt, mut end) = (Vec::new(), 0);
        for range in redaction.tree.find(body.as_bytes()) {
            prop_assert!(serde_json::from_str::<Value>(&body[range.clone()]).is_ok());
            rebuilt.extend_from_slice(&body.as_bytes()[end..range.start]);
            rebuilt.extend_from_slice(b"\"[redacted]\"");
            end = range.end;
        }
        rebuilt.extend_from_slice(&body.as_bytes()[end..]);
        prop_assert_eq!(rebuilt, redacted);
    }

    #[test]
    fn no_expression_finds_another_value_in_a_redacted_form(
        form in "((a|b|a\\[\\]|a\\[b\\]|b\\[a\\]\\[\\]|a\\[1\\])=[1-3]&){0,6}",
        path in "\\.[ab](\\.[ab]|\\[\\]|\\[[01]\\]){0,2}",
    ) {
        let redacted = redact(&[&path], FORM, form.as_bytes());
        let text = format!("[try {path}? catch empty | .. | scalars]");
        let event = EventContext {
            body: &redacted,
            content_type: Some(FORM),
            ..EventContext::default()
        };
        let found = unsandboxed::first_output(&Expression::new(&text).unwrap(), &event);
        let found: Vec<Value> = serde_json::from_slice(&found.unwrap().unwrap()).unwrap();
        let is_redacted = |value: &Value| value.is_null() || *value == "[redacted]";
        prop_assert!(found.iter().all(is_redacted), "{} of {}: {:?}", path, form, found);
    }
}
