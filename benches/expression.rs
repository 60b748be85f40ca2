//! What an expression costs an event: in place, and by a process, alone and in groups of eight.
//!
//! `cargo run --release --example expression [BINARY]`: the binary is `hooktrail` as it was built.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use hooktrail::expression::{
    EvaluatorPool, EventContext, Expression, ExpressionSet, HandlerExpressions,
};

const BODY: &[u8] = include_bytes!("body.json");
const TIME: Duration = Duration::from_secs(2);

fn questions(when: &str) -> ExpressionSet {
    let when = Some(Expression::new(when).expect("jq"));
    ExpressionSet::new(None, vec![HandlerExpressions { when, ..HandlerExpressions::default() }])
}

/// Microseconds for each of what is done at once.
fn measure(what: &str, at_once: u32, mut does: impl FnMut()) {
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < TIME {
        for _ in 0..16 {
            does();
        }
        count += 16 * at_once;
    }
    let each = began.elapsed().as_secs_f64() * 1e6 / f64::from(count);
    println!("{what:60} {each:8.2} µs");
}

fn main() {
    let headers: [(&str, &[u8]); 2] = [("content-type", b"application/json"), ("x-kind", b"push")];
    let content_type = Some("application/json");
    let scene =
        EventContext { body: BODY, content_type, headers: &headers, ..EventContext::default() };
    for when in [".form_id? != null", ".a.b == 1 and .c != 2", "$headers[\"x-kind\"] == \"push\""] {
        let questions = questions(when);
        measure(when, 1, || drop(black_box(questions.evaluate_inline(black_box(&scene)))));
    }
    let binary = std::env::args().nth(1).unwrap_or_else(|| "target/release/hooktrail".to_owned());
    let binary = Path::new(&binary).canonicalize().expect("a hooktrail that was built");
    let pool = EvaluatorPool::with_program(&binary, &std::env::temp_dir(), "bench");
    for when in [".form_id | length > 0", "[.. | strings] | length > 0"] {
        let questions = questions(when);
        measure(&format!("{when}, by a process, alone"), 1, || {
            pool.evaluate(1, &questions, &scene).expect("an answer");
        });
        measure(&format!("{when}, by a process, in eights"), 8, || {
            let (tell, told) = crossbeam_channel::bounded(8);
            for _ in 0..8 {
                let tell = tell.clone();
                pool.evaluate_async(
                    1,
                    &questions,
                    &scene,
                    Box::new(move |it| {
                        let _ = tell.send(it.is_ok());
                    }),
                );
            }
            for _ in 0..8 {
                assert!(told.recv().expect("an answer"));
            }
        });
    }
    let contacts = (0..10_000).map(|n| format!("{{\"id\":{n},\"name\":\"contact {n}\"}}"));
    let body = format!("{{\"contacts\":[{}]}}", contacts.collect::<Vec<_>>().join(","));
    let scene = EventContext { body: body.as_bytes(), ..scene };
    let jq = |text| Some(Expression::new(text).expect("jq"));
    let taker = HandlerExpressions {
        split: jq(".contacts[]"),
        ordering_key: jq(".id"),
        unique_by: jq(".id"),
        ..HandlerExpressions::default()
    };
    let questions = ExpressionSet::new(None, vec![taker]);
    measure("10,000 items with two keys each, by a process", 1, || {
        pool.evaluate(1, &questions, &scene).expect("an answer");
    });
}
