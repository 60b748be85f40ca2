//! What a process is given, and how much comes out of it.

use std::fs;

use hooktrail::expression::{EventContext, ExpressionSet, HandlerDecision, HandlerExpressions};

use super::{Trial, jq, of_json, trial};

#[test]
fn a_process_has_nothing_but_its_pipes() {
    let trial = trial();
    trial.outputs("length", "[1]").unwrap();
    let pid = trial.processes()[0];
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
    assert_eq!(read("environ"), format!("HOOKTRAIL_RUN_ID={}\0", trial.mark));
    let mut files: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .map(|entry| {
            let to = fs::read_link(entry.path()).unwrap().to_string_lossy().into_owned();
            (entry.file_name().into_string().unwrap(), to.split(':').next().unwrap().to_owned())
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

/// The items of `split`, or why there are none.
fn split(
    trial: &Trial,
    split: &str,
    keys: &str,
    scene: &EventContext<'_>,
) -> Result<HandlerDecision, String> {
    let taker = HandlerExpressions {
        split: Some(jq(split)),
        ordering_key: Some(jq(keys)),
        ..HandlerExpressions::default()
    };
    let answers = trial.pool.evaluate(1, &ExpressionSet::new(None, vec![taker]), scene).unwrap();
    match answers.handlers.into_iter().next().unwrap() {
        HandlerDecision::Failed { expression: "split", reason } => Err(reason),
        taken => Ok(taken),
    }
}

#[test]
fn ten_thousand_items_come_in_their_order() {
    let trial = trial();
    let contacts = (0..10_000).map(|n| format!("{{\"id\":{n},\"name\":\"contact {n}\"}}"));
    let body = format!("{{\"contacts\":[{}]}}", contacts.collect::<Vec<_>>().join(","));
    let taken = split(&trial, ".contacts[]", ".id", &of_json(body.as_bytes())).unwrap();
    let HandlerDecision::Run(wanted) = taken else { panic!("not taken") };
    let items = wanted.items.unwrap();
    assert_eq!(items.len(), 10_000);
    let mut item = Vec::new();
    for at in [0, 1, 4_999, 9_999] {
        items.get(at, &mut item).unwrap();
        let text = String::from_utf8(item.clone()).unwrap();
        assert_eq!(text, format!("{{\"id\":{at},\"name\":\"contact {at}\"}}"));
        assert_eq!(wanted.keys.get(at).unwrap().ordering_key, Some(at.to_string()));
    }
}

#[test]
fn large_items_are_in_a_file_without_a_name() {
    let trial = trial();
    let body = format!("{{\"text\":\"{}\"}}", "x".repeat(500_000));
    let scene = of_json(body.as_bytes());
    let taken = split(&trial, ". as $r | range(12) | {n: ., text: $r.text}", ".n", &scene);
    let HandlerDecision::Run(wanted) = taken.unwrap() else { panic!("not taken") };
    let items = wanted.items.unwrap();
    assert_eq!((items.len(), items.bytes() > 6_000_000), (12, true));
    let mut item = Vec::new();
    items.get(11, &mut item).unwrap();
    assert!(item.starts_with(b"{\"n\":11,\"text\":\"xxx") && item.ends_with(b"xxx\"}"));
    assert_eq!(wanted.keys.get(11).unwrap().ordering_key.as_deref(), Some("11"));
    assert_eq!(fs::read_dir(trial.folder.path()).unwrap().count(), 0);
}

#[test]
fn events_that_wait_are_bounded() {
    let trial = trial();
    let questions = super::whens(&[super::ENDLESS]);
    let body = format!("\"{}\"", "x".repeat(1 << 20));
    let all: Vec<_> = (0..64).map(|_| trial.ask(1, &questions, &body)).collect();
    // Told at once, while the first is still at work.
    let busy = all.iter().filter(|asked| asked.told.try_recv().is_ok_and(|it| it.0.is_err()));
    assert!(busy.count() >= 64 - 17);
}
