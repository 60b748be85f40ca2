//! Expressions and bodies that end an unprotected jaq, each in a process, which is replaced.

use std::time::{Duration, Instant};

use hooktrail::expression::{ExpressionSet, HandlerExpressions};

use super::{jq, of_json, trial, whens};

/// A sender is answered within 3 s. Twice that where tests run on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(6);

/// Each ends or is ended, and what comes after it is answered.
fn check(lines: &[(&str, &str)]) {
    let trial = trial();
    for (text, body) in lines {
        let shown = format!("{text} of {}", &body[..body.len().min(40)]);
        // A `when` may be cut short: `split` writes everything out.
        let taker = HandlerExpressions { split: Some(jq(text)), ..HandlerExpressions::default() };
        let took = trial.ask(1, &ExpressionSet::new(None, vec![taker]), body).took();
        assert!(took < PATIENCE, "{shown}: {took:?}");
        assert_eq!(trial.outputs("length", "[1]"), Ok(vec!["1".to_owned()]), "after {shown}");
    }
    // What is asked is not changed by who was asked before.
    let scene = of_json(b"[1]");
    assert!(trial.pool.evaluate(1, &whens(&["length == 1"]), &scene).is_ok());
}

fn text(of: &str, bytes: usize) -> String {
    format!("\"{}\"", of.repeat(bytes / of.len()))
}

fn ones(count: usize) -> String {
    format!("[{}1]", "1,".repeat(count - 1))
}

fn deep(count: usize) -> String {
    format!("{}{}{}", "[1,".repeat(120), ones(count), "]".repeat(120))
}

#[test]
fn regular_expressions() {
    check(&[
        ("gsub(\"\\\\s+\"; \" \")", &text("word  ", 160_000)),
        ("gsub(\"a\"; \"b\", \"c\")", &text("a", 1_000_000)),
        ("scan(\"(\\\\w)(=[^;]*;)?\")", &text("a", 32_000)),
        ("gsub(\"[^b]\"; \"\")", &text("a", 32_000)),
        ("map(select(test(\"@x\\\\.com$\")))", &format!("[{}1]", "\"a\",".repeat(250_000))),
    ]);
}

#[test]
fn deep_values() {
    check(&[
        ("tonumber", &text("[", 1_000_000)),
        ("fromjson", &text("[", 1_000_000)),
        ("transpose", &format!("[{}{}[]]", ones(300_000) + ",", "[],".repeat(130_000))),
        ("[paths]", &deep(300_000)),
        ("pick(.[])", &deep(300_000)),
        ("delpaths([paths])", &deep(300_000)),
        ("[.. | ..]", &deep(300_000)),
        ("[.. | tojson]", &deep(300_000)),
    ]);
}

#[test]
fn wide_values() {
    check(&[
        ("to_entries", &ones(500_000)),
        ("join(\",\")", &ones(500_000)),
        ("flatten", &ones(500_000)),
        ("@sh", &ones(500_000)),
        ("contains([.[] | tostring])", &ones(200_000)),
        (". as $r | [.[] | [.] | inside($r)]", &format!("[{}2]", "1,".repeat(300_000))),
        ("indices(.[:1000])", &ones(500_000)),
        (". as $r | .[] | $r[]", &ones(500_000)),
        ("[.[] == .[]]", &ones(500_000)),
        ("{a: .x[], b: .y[]}", &format!("{{\"x\":{0},\"y\":{0}}}", ones(200_000))),
    ]);
}

#[test]
fn values_that_double() {
    let doubled = |part: &str, times: usize| vec![part; times].join(" | ");
    check(&[
        (&doubled(". + .", 500), &text("a", 1_000_000)),
        (&doubled("[., .]", 300), "1"),
        (&doubled("tojson", 400), "\"\\\"\""),
        (". as $r | .items[] | {item: ., event: $r}", &format!("{{\"items\":{}}}", ones(380_000))),
        (".price * .quantity", "{\"price\":\"xxxx\",\"quantity\":10000000000}"),
    ]);
}

#[test]
fn what_has_no_end() {
    check(&[
        ("jn(.n; .x)", "{\"n\":2147483647,\"x\":0.5}"),
        ("def f: f; f", "1"),
        ("def f: 1 + f; f", "1"),
        ("[range(1e12)]", "1"),
        ("last(repeat(1))", "1"),
        ("reduce range(1e9) as $i (0; [.])", "1"),
    ]);
}

#[test]
fn what_is_not_json() {
    let trial = trial();
    for (text, body) in [
        ("[.[] | {name: ., value: 1}] | from_entries", "[null]"),
        ("nan", "1"),
        ("1/0", "1"),
        ("tobytes", "\"a\""),
    ] {
        let reason = trial.outputs(text, body).unwrap_err();
        assert!(reason.starts_with("its output is not JSON: "), "{text}: {reason}");
    }
}

/// Whatever is put together of these.
const PIECES: [&str; 32] = [
    ".",
    ".[]",
    ".[]?",
    "..",
    "[.[]?]",
    "[., .]",
    "{a: .}",
    ". + .",
    ". * 9?",
    "tojson",
    "tostring",
    "fromjson?",
    "to_entries?",
    "paths",
    "[paths]",
    "keys?",
    "length",
    "add?",
    "explode?",
    "flatten?",
    "group_by(.)?",
    "sort?",
    "unique?",
    "join(\",\")?",
    "test(\"a*\")?",
    "gsub(\"\"; \"a\")?",
    "@base64",
    "range(9)",
    "[range(99999)]",
    "recurse",
    "limit(9; repeat(.))",
    "transpose?",
];

#[test]
fn random_expressions_over_hostile_bodies_are_all_answered() {
    let trial = trial();
    let bodies = [text("a", 1_000_000), text("[", 1_000_000), ones(400_000), deep(200_000)];
    let began = Instant::now();
    let mut seed = 7_usize;
    let mut choose = |of: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % of
    };
    while began.elapsed() < Duration::from_secs(10) {
        let pieces: Vec<_> = (0..=choose(5)).map(|_| PIECES[choose(PIECES.len())]).collect();
        let text = pieces.join(" | ");
        let taker = HandlerExpressions {
            split: Some(jq(&text)),
            ordering_key: Some(jq(&text)),
            ..HandlerExpressions::default()
        };
        let asked = trial.ask(1, &ExpressionSet::new(None, vec![taker]), &bodies[choose(4)]);
        let took = asked.took();
        assert!(took < PATIENCE, "{text}: {took:?}");
    }
    assert_eq!(trial.outputs("length", "[1]"), Ok(vec!["1".to_owned()]));
}
