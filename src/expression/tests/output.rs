//! Tests of outputs: keys, versions, items, and what is not JSON.

use super::{check, json_event, texts};
use crate::domain::version_value::VersionValue;
use crate::expression::protocol::EvaluationRequest;
use crate::expression::request::{HandlerDecision, KeySet, RawJobKeys};

/// Evaluates `dedupe` and the expressions of one handler.
fn evaluate(
    dedupe: &str,
    parts: [&str; 6],
    body: &str,
) -> (Result<Option<String>, String>, HandlerDecision) {
    let parts = parts.map(|text| Some(text).filter(|text| !text.is_empty()));
    let dedupe = Some(dedupe).filter(|text| !text.is_empty());
    let request = EvaluationRequest { dedupe, handlers: vec![parts], max_items: None };
    let mut result = super::evaluate(&request, &json_event(body));
    (result.dedupe, result.handlers.remove(0))
}

fn key(expression: &str, body: &str) -> Result<Option<String>, String> {
    evaluate(expression, [""; 6], body).0
}

/// The items, the keys of each, and the errors.
fn items(parts: [&str; 6], body: &str) -> (Vec<String>, Vec<RawJobKeys>, Vec<String>) {
    let HandlerDecision::Run(output) = evaluate("", parts, body).1 else {
        panic!("the handler is skipped")
    };
    let items = output.items.unwrap();
    let keys = (0..items.len()).map(|index| output.keys.get(index).unwrap());
    (texts(&items), keys.collect(), output.key_errors)
}

#[test]
fn an_output_that_is_not_json_is_an_error() {
    check("nan", "null", "error: its output is not JSON: NaN");
    check("1 / 0", "null", "error: its output is not JSON: infinity");
    check("[-infinite]", "null", "error: its output is not JSON: infinity");
    check("tobytes", "\"a\"", "error: its output is not JSON: bytes");
    check("{(\"a\", 1): 2}", "null", "error: its output is not JSON: a key that is not text");
    check("@base64d", "\"/w==\"", "error: its output is not JSON: text that is not UTF-8");
    check("reduce range(20000) as $i (0; [.])", "null", "error: its output is nested too deep");
    assert!(key("nan", "0").is_err());
}

#[test]
fn a_key_is_the_first_output_as_text() {
    let text = |text: &str| Ok(Some(text.to_owned()));
    assert_eq!(key(".a, 1", r#"{"a":"x"}"#), text("x"));
    assert_eq!(key(".a", r#"{"a":1.50}"#), text("1.50"));
    assert_eq!(key(".a", r#"{"a":true}"#), text("true"));
    assert_eq!(key(".a", r#"{"a":[1,{"b":"\u00fc"}]}"#), text("[1,{\"b\":\"\u{fc}\"}]"));
    for none in ["null", "false", "\"\"", "empty", ".nothing"] {
        assert_eq!(key(none, "{}"), Ok(None), "{none}");
    }
    assert_eq!(key(".a.b", r#"{"a":1}"#), Err("cannot index 1 with \"b\"".to_owned()));
    assert_eq!(key("error(\"no \\(.)\")", "1"), Err("no 1".to_owned()));
}

#[test]
fn a_long_key_stays_unique_and_a_long_reason_is_shortened() {
    let long = |last: &str| format!("\"{}{last}\"", "\u{fc}".repeat(2000));
    let (one, other) = (key(".", &long("1")).unwrap(), key(".", &long("2")).unwrap());
    assert_ne!(one, other);
    assert_eq!(one, key(".", &long("1")).unwrap());
    assert!(one.unwrap().len() < 200);
    let reason = key(".a", &long("")).unwrap_err();
    assert!(reason.starts_with("cannot index \"\u{fc}") && reason.len() < 500, "{reason}");
}

#[test]
fn when_holds_if_any_output_is_neither_false_nor_null() {
    let result = |when: &str| evaluate("", [when, "", "", "", "", ""], r#"{"a":[1]}"#).1;
    assert!(matches!(result("null, false, 0"), HandlerDecision::Run(_)));
    assert!(matches!(result("1, error(\"x\")"), HandlerDecision::Run(_)));
    for none in ["null", "false, null", "empty", ".a[] | . == 2"] {
        assert!(matches!(result(none), HandlerDecision::Skip), "{none}");
    }
    let HandlerDecision::Failed { expression, .. } = result("null, error(\"x\"), 1") else {
        panic!("`when` has a result")
    };
    assert_eq!(expression, "when");
}

#[test]
fn each_output_of_a_split_is_an_item_with_its_keys() {
    let body = r#"{"all":[{"id":1,"at":"b"},{"id":2.50,"at":7},{"id":null,"at":[1]}]}"#;
    let (items, keys, errors) = items(["", ".all[]", ".id", ".at", "$source", ""], body);
    assert_eq!(items, [r#"{"id":1,"at":"b"}"#, r#"{"id":2.50,"at":7}"#, r#"{"id":null,"at":[1]}"#]);
    let text = |text: &str| Some(text.to_owned());
    let expected = [
        RawJobKeys {
            ordering_key: text("1"),
            version: Some(VersionValue::Text("b".to_owned())),
            ..RawJobKeys::default()
        },
        RawJobKeys {
            ordering_key: text("2.50"),
            version: Some(VersionValue::Number("7".to_owned())),
            ..RawJobKeys::default()
        },
        RawJobKeys::default(),
    ];
    assert_eq!(keys, expected);
    assert!(errors.is_empty());
}

#[test]
fn a_split_is_all_or_nothing() {
    let split = |split: &str| evaluate("", ["", split, "", "", "", ""], "[1,2]").1;
    let failed = |verdict| match verdict {
        HandlerDecision::Failed { expression, reason } if expression == "split" => reason,
        verdict => panic!("{verdict:?}"),
    };
    assert_eq!(failed(split(".[], error(\"x\")")), "x");
    assert_eq!(failed(split("range(100001)")), "more than 100,000 items");
    assert_eq!(failed(split("range(5) | \"x\" * 20000000")), "more than 64 MiB of output");
    let keys = evaluate("", ["", "range(100000)", "\"k\" * 1000", "", "", ""], "1").1;
    assert_eq!(failed(keys), "more than 64 MiB of output");
    let HandlerDecision::Run(output) = split("range(100000)") else { panic!("too many") };
    assert_eq!(output.items.unwrap().len(), 100_000);
    let HandlerDecision::Run(output) = split("empty") else { panic!("the handler is skipped") };
    assert_eq!((output.items.unwrap().len(), matches!(output.keys, KeySet::None)), (0, true));
}

#[test]
fn a_failed_key_is_no_key_and_is_recorded_once() {
    let parts = ["", ".[]", ".a", ".b?, (\"x\" * 3000)", "", "error(\"c\")"];
    let (items, keys, errors) = items(parts, r#"[{"a":1},2,3,{"a":4,"b":5}]"#);
    assert_eq!(items.len(), 4);
    assert_eq!(keys[0].ordering_key.as_deref(), Some("1"));
    assert_eq!((&keys[1].ordering_key, &keys[1].version), (&None, &None));
    let expected = [
        "ordering_key: item 2: cannot index 2 with \"a\" (1 more)",
        "version_by: item 2: longer than 2 KiB (1 more)",
        "debounce_by: item 1: c (3 more)",
    ];
    assert_eq!(errors, expected);
}

#[test]
fn a_panic_of_jaq_is_an_error() {
    let reason = key("\"xx\" * 9223372036854775807", "1").unwrap_err();
    assert!(reason.starts_with("jaq panicked: "), "{reason}");
}
