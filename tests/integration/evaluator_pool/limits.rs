//! The sandbox of an evaluator process, and large outputs.

use std::fs;

use hooktrail::internals::expression::{
    EventContext, ExpressionSet, HandlerDecision, HandlerExpressions,
};

use super::{Evaluation, TestPool, jq, json_context, test_pool};

#[test]
fn an_evaluator_has_only_its_pipes_and_strict_limits() {
    let test = test_pool();
    test.outputs("length", "[1]").unwrap();
    let pid = test.processes()[0];
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
    assert_eq!(read("environ"), format!("HOOKTRAIL_RUN_ID={}\0", test.run_id));
    let mut files: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .map(|entry| {
            let target = fs::read_link(entry.path()).unwrap().to_string_lossy().into_owned();
            (entry.file_name().into_string().unwrap(), target.split(':').next().unwrap().to_owned())
        })
        .collect();
    files.sort();
    assert_eq!(files, ["0", "1", "2"].map(|fd| (fd.to_owned(), "pipe".to_owned())));
    let limits = read("limits");
    for name in ["Max core file size", "Max file size", "Max open files", "Max processes"] {
        let limit = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        assert_eq!(limit.split_whitespace().next(), Some("0"), "{name}");
    }
    let size = limits.lines().find_map(|line| line.strip_prefix("Max address space")).unwrap();
    let size: u64 = size.split_whitespace().next().unwrap().parse().unwrap();
    assert!(size < 1 << 30, "{size}");
    assert!(read("status").contains("NoNewPrivs:\t1"));
}

/// Evaluates `split` with an ordering key. An error has the reason that `split` failed.
fn split(
    test: &TestPool,
    split: &str,
    keys: &str,
    context: &EventContext<'_>,
) -> Result<HandlerDecision, String> {
    let handler = HandlerExpressions {
        split: Some(jq(split)),
        ordering_key: Some(jq(keys)),
        ..HandlerExpressions::default()
    };
    let results = test.pool.evaluate(1, &ExpressionSet::new(None, vec![handler]), context).unwrap();
    match results.handlers.into_iter().next().unwrap() {
        HandlerDecision::Failed { expression, reason } if expression == "split" => Err(reason),
        decision => Ok(decision),
    }
}

#[test]
fn ten_thousand_items_keep_their_order() {
    let test = test_pool();
    let contacts = (0..10_000).map(|n| format!("{{\"id\":{n},\"name\":\"contact {n}\"}}"));
    let body = format!("{{\"contacts\":[{}]}}", contacts.collect::<Vec<_>>().join(","));
    let decision = split(&test, ".contacts[]", ".id", &json_context(body.as_bytes())).unwrap();
    let HandlerDecision::Run(run) = decision else { panic!("the handler does not run") };
    let items = run.items.unwrap();
    assert_eq!(items.len(), 10_000);
    let mut item = Vec::new();
    for at in [0, 1, 4_999, 9_999] {
        items.get(at, &mut item).unwrap();
        let text = String::from_utf8(item.clone()).unwrap();
        assert_eq!(text, format!("{{\"id\":{at},\"name\":\"contact {at}\"}}"));
        assert_eq!(run.keys.get(at).unwrap().ordering_key, Some(at.to_string()));
    }
}

#[test]
fn large_items_are_in_an_unnamed_file() {
    let test = test_pool();
    let body = format!("{{\"text\":\"{}\"}}", "x".repeat(500_000));
    let context = json_context(body.as_bytes());
    let decision = split(&test, ". as $r | range(12) | {n: ., text: $r.text}", ".n", &context);
    let HandlerDecision::Run(run) = decision.unwrap() else { panic!("the handler does not run") };
    let items = run.items.unwrap();
    assert_eq!((items.len(), items.bytes() > 6_000_000), (12, true));
    let mut item = Vec::new();
    items.get(11, &mut item).unwrap();
    assert!(item.starts_with(b"{\"n\":11,\"text\":\"xxx") && item.ends_with(b"xxx\"}"));
    assert_eq!(run.keys.get(11).unwrap().ordering_key.as_deref(), Some("11"));
    assert_eq!(fs::read_dir(test.folder.path()).unwrap().count(), 0);
}

#[test]
fn the_number_of_waiting_events_is_bounded() {
    let test = test_pool();
    let expressions = super::when_expressions(&[super::ENDLESS]);
    let body = format!("\"{}\"", "x".repeat(1 << 20));
    let evaluations: Vec<_> =
        (0..64).map(|_| test.start_evaluation(1, &expressions, &body)).collect();
    // These fail at once, while the first is still evaluated.
    let is_busy = |evaluation: &&Evaluation| {
        evaluation.receiver.try_recv().is_ok_and(|result| result.0.is_err())
    };
    let busy = evaluations.iter().filter(is_busy);
    assert!(busy.count() >= 64 - 17);
}
