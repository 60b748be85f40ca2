//! Tests of the differences between jaq and jq, in the order of docs/expressions.md.

use super::check;

#[test]
fn jaq_differs_from_jq_as_documented() {
    check(".a = 1", "null", "error: cannot use null as iterable (array or object)");
    check(".a.b = 1", "{}", "error: cannot use null as iterable (array or object)");
    check(".[0] = 1", "[]", "error: index 0 out of bounds");
    check("setpath([\"a\", \"b\"]; 1)", "{}", r#"{"a":{"b":1}}"#);

    check(".[0] / .[1], .[2]", "[4,2,1.10]", "2.0 1.10");
    check("1 / 0", "null", "error: its output is not JSON: infinity");

    check("[(1, 2) + (10, 20)]", "null", "[11,21,12,22]");

    check("test(\"a(?=b)\")?, test(\"(a)\\\\1\")?", r#""ab""#, "");
    check(
        "from_entries",
        r#"[{"name":"a","value":1}]"#,
        "error: its output is not JSON: a key that is not text",
    );
    check(".[0]", "{}", "null");
    assert!(crate::expression::Expression::new(". as [$a] ?// $a | $a").is_err());
    assert!(crate::expression::Expression::new("$__loc__").is_err());
    check("localtime[3]", "3600", "1");
}
