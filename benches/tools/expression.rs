//! Measures the cost of an expression for each event: evaluated inline, and by an evaluator process, one
//! and eight at a time.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use hooktrail::internals::expression::{
    EvaluatorPool, EventContext, Expression, ExpressionSet, HandlerExpressions, Priority,
};
use hooktrail::internals::process::Supervisor;

use crate::BODY;

const TIME: Duration = Duration::from_secs(2);

fn expressions(when: &str) -> ExpressionSet {
    let when = Some(Expression::new(when).expect("jq"));
    ExpressionSet::new(None, vec![HandlerExpressions { when, ..HandlerExpressions::default() }])
}

/// Prints the microseconds that each of the `at_once` evaluations takes.
fn measure(name: &str, at_once: u32, mut evaluate: impl FnMut()) {
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < TIME {
        for _ in 0..16 {
            evaluate();
        }
        count += 16 * at_once;
    }
    let each = began.elapsed().as_secs_f64() * 1e6 / f64::from(count);
    println!("{name:72} {each:8.2} µs");
}

pub fn run(binary: &Path) -> anyhow::Result<()> {
    let headers: [(&str, &[u8]); 2] = [("content-type", b"application/json"), ("x-kind", b"push")];
    let content_type = Some("application/json");
    let context =
        EventContext { body: BODY, content_type, headers: &headers, ..EventContext::default() };
    for when in [".form_id? != null", ".a.b == 1 and .c != 2", "$headers[\"x-kind\"] == \"push\""] {
        let expressions = expressions(when);
        measure(when, 1, || drop(black_box(expressions.evaluate_inline(black_box(&context)))));
    }
    let binary = binary.canonicalize().with_context(|| format!("{}", binary.display()))?;
    let pool =
        EvaluatorPool::with_program(&binary, &std::env::temp_dir(), &Supervisor::new("bench"));
    let large_body = format!("\"{}\"", "x".repeat(64 << 10));
    let large = EventContext { body: large_body.as_bytes(), ..context };
    for (when, context) in [
        (".form_id | length > 0", context),
        ("[.. | strings] | length > 0", context),
        ("length > 65535", large),
    ] {
        let expressions = expressions(when);
        measure(&format!("{when}, by an evaluator process, alone"), 1, || {
            pool.evaluate(1, &expressions, &context).expect("results");
        });
        measure(&format!("{when}, by an evaluator process, eight at a time"), 8, || {
            let (sender, receiver) = crossbeam_channel::bounded(8);
            for _ in 0..8 {
                let sender = sender.clone();
                pool.evaluate_async(
                    Priority::Intake,
                    1,
                    &expressions,
                    &context,
                    Box::new(move |results| {
                        let _ = sender.send(results.is_ok());
                    }),
                );
            }
            for _ in 0..8 {
                assert!(receiver.recv().expect("results"));
            }
        });
    }
    let contacts = (0..10_000).map(|n| format!("{{\"id\":{n},\"name\":\"contact {n}\"}}"));
    let body = format!("{{\"contacts\":[{}]}}", contacts.collect::<Vec<_>>().join(","));
    let context = EventContext { body: body.as_bytes(), ..context };
    let jq = |text| Some(Expression::new(text).expect("jq"));
    let handler = HandlerExpressions {
        split: jq(".contacts[]"),
        ordering_key: jq(".id"),
        unique_by: jq(".id"),
        ..HandlerExpressions::default()
    };
    let expressions = ExpressionSet::new(None, vec![handler]);
    measure("10,000 items with two keys each, by an evaluator process", 1, || {
        pool.evaluate(1, &expressions, &context).expect("results");
    });
    Ok(())
}
