//! Expressions and bodies that crash or hang jaq without limits. The pool replaces the process of each.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use hooktrail::internals::expression::{EvaluatorPool, ExpressionSet, HandlerExpressions};
use hooktrail::internals::process::Supervisor;

use super::{jq, json_context, test_pool, when_expressions};
use crate::support::server::until;

/// The server bounds an evaluation to 3 s. A busy machine gets ten times that.
const RESULT_DEADLINE: Duration = Duration::from_secs(30);

/// Checks that each evaluation ends in time and that the pool evaluates the next expression.
fn check(cases: &[(&str, &str)]) {
    let test = test_pool();
    for (text, body) in cases {
        let case = format!("{text} of {}", &body[..body.len().min(40)]);
        // `when` may stop after its first outputs, but `split` writes all of them.
        let handler = HandlerExpressions { split: Some(jq(text)), ..HandlerExpressions::default() };
        let took =
            test.start_evaluation(1, &ExpressionSet::new(None, vec![handler]), body).duration();
        assert!(took < RESULT_DEADLINE, "{case}: {took:?}");
        assert_eq!(test.outputs("length", "[1]"), Ok(vec!["1".to_owned()]), "after {case}");
    }
    // Earlier evaluations change no later result.
    let context = json_context(b"[1]");
    assert!(test.pool.evaluate(1, &when_expressions(&["length == 1"]), &context).is_ok());
}

fn repeated_text(part: &str, bytes: usize) -> String {
    format!("\"{}\"", part.repeat(bytes / part.len()))
}

fn array_of_ones(count: usize) -> String {
    format!("[{}1]", "1,".repeat(count - 1))
}

fn nested_arrays(count: usize) -> String {
    format!("{}{}{}", "[1,".repeat(120), array_of_ones(count), "]".repeat(120))
}

#[test]
fn regular_expressions() {
    check(&[
        ("gsub(\"\\\\s+\"; \" \")", &repeated_text("word  ", 160_000)),
        ("gsub(\"a\"; \"b\", \"c\")", &repeated_text("a", 1_000_000)),
        ("scan(\"(\\\\w)(=[^;]*;)?\")", &repeated_text("a", 32_000)),
        ("gsub(\"[^b]\"; \"\")", &repeated_text("a", 32_000)),
        ("map(select(test(\"@x\\\\.com$\")))", &format!("[{}1]", "\"a\",".repeat(250_000))),
    ]);
}

#[test]
fn deep_values() {
    check(&[
        ("tonumber", &repeated_text("[", 1_000_000)),
        ("fromjson", &repeated_text("[", 1_000_000)),
        ("transpose", &format!("[{}{}[]]", array_of_ones(300_000) + ",", "[],".repeat(130_000))),
        ("[paths]", &nested_arrays(300_000)),
        ("pick(.[])", &nested_arrays(300_000)),
        ("delpaths([paths])", &nested_arrays(300_000)),
        ("[.. | ..]", &nested_arrays(300_000)),
        ("[.. | tojson]", &nested_arrays(300_000)),
    ]);
}

#[test]
fn wide_values() {
    check(&[
        ("to_entries", &array_of_ones(500_000)),
        ("join(\",\")", &array_of_ones(500_000)),
        ("flatten", &array_of_ones(500_000)),
        ("@sh", &array_of_ones(500_000)),
        ("contains([.[] | tostring])", &array_of_ones(200_000)),
        (". as $r | [.[] | [.] | inside($r)]", &format!("[{}2]", "1,".repeat(300_000))),
        ("indices(.[:1000])", &array_of_ones(500_000)),
        (". as $r | .[] | $r[]", &array_of_ones(500_000)),
        ("[.[] == .[]]", &array_of_ones(500_000)),
        ("{a: .x[], b: .y[]}", &format!("{{\"x\":{0},\"y\":{0}}}", array_of_ones(200_000))),
    ]);
}

#[test]
fn values_that_double() {
    let doubled = |part: &str, times: usize| vec![part; times].join(" | ");
    check(&[
        (&doubled(". + .", 500), &repeated_text("a", 1_000_000)),
        (&doubled("[., .]", 300), "1"),
        (&doubled("tojson", 400), "\"\\\"\""),
        (
            ". as $r | .items[] | {item: ., event: $r}",
            &format!("{{\"items\":{}}}", array_of_ones(380_000)),
        ),
        (".price * .quantity", "{\"price\":\"xxxx\",\"quantity\":10000000000}"),
    ]);
}

#[test]
fn endless_expressions() {
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
fn outputs_that_are_not_json() {
    let test = test_pool();
    for (text, body) in [
        ("[.[] | {name: ., value: 1}] | from_entries", "[null]"),
        ("nan", "1"),
        ("1/0", "1"),
        ("tobytes", "\"a\""),
    ] {
        let reason = test.outputs(text, body).unwrap_err();
        assert!(reason.starts_with("its output is not JSON: "), "{text}: {reason}");
    }
}

/// The test pipes random ones of these together.
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
fn random_expressions_over_hostile_bodies_all_end() {
    let test = test_pool();
    let bodies = [
        repeated_text("a", 1_000_000),
        repeated_text("[", 1_000_000),
        array_of_ones(400_000),
        nested_arrays(200_000),
    ];
    let began = Instant::now();
    let mut seed = 7_usize;
    let mut choose = |count: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % count
    };
    while began.elapsed() < Duration::from_secs(10) {
        let pieces: Vec<_> = (0..=choose(5)).map(|_| PIECES[choose(PIECES.len())]).collect();
        let text = pieces.join(" | ");
        let handler = HandlerExpressions {
            split: Some(jq(&text)),
            ordering_key: Some(jq(&text)),
            ..HandlerExpressions::default()
        };
        let evaluation =
            test.start_evaluation(1, &ExpressionSet::new(None, vec![handler]), &bodies[choose(4)]);
        let took = evaluation.duration();
        assert!(took < RESULT_DEADLINE, "{text}: {took:?}");
    }
    assert_eq!(test.outputs("length", "[1]"), Ok(vec!["1".to_owned()]));
}

#[test]
fn a_process_that_breaks_the_protocol_gives_no_result_and_takes_no_memory() {
    // One handler with items, whose list follows.
    const RESULT: &[u8] = &[7, 0, 0, 0, 0, 0, 1, 2, 1, 0, 0];
    let message =
        |content: &[u8]| [&[u8::try_from(content.len()).unwrap(), 0, 0, 0], content].concat();
    let (folder, supervisor) = (tempfile::tempdir().unwrap(), Supervisor::new("hostile"));
    for (case, bytes) in [
        ("a message of 4 GiB", vec![0xff; 4]),
        ("2^60 handlers", message(&[0, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10])),
        ("a decision that does not exist", message(&[0, 0, 1, 3])),
        ("two decisions for one handler", message(&[0, 0, 2, 0, 0])),
        (
            "an item of 2^60 bytes",
            [RESULT, &message(&[1, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10])].concat(),
        ),
        ("an item that ends before it begins", [RESULT, &message(&[2, 2, 1]), b"xx"].concat()),
    ] {
        let octal: String = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
        let program = folder.path().join("evaluator");
        std::fs::write(&program, format!("#!/bin/sh\nprintf '{octal}'\nexec cat >/dev/null\n"))
            .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        // A process that another test starts meanwhile may briefly hold the file.
        until(case, || {
            let pool = EvaluatorPool::with_program(&program, folder.path(), &supervisor);
            let reason = pool.outputs(1, &jq("length"), &json_context(b"[1]")).unwrap_err();
            reason == "no evaluator process was free in time"
        });
    }
}
