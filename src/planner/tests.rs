//! From answers to what is owed.

use super::*;

fn judge(text: &str) -> JobPlanner {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, text).unwrap();
    let config = config::load(&file).unwrap().config;
    let handlers = config.handlers.iter().zip((1..).map(HandlerId));
    JobPlanner::new(&config.sources[0], handlers)
}

const PLAIN: &str = "
[sources.a]
[handlers.one]
sources = ['a']
command = ['true']
[handlers.two]
sources = ['a']
command = ['true']
";

#[test]
fn where_nothing_is_asked_each_handler_is_owed_a_job() {
    let judge = judge(PLAIN);
    assert!(judge.expressions().is_none());
    assert_eq!(judge.unconditional_plan().plan.jobs(), 2);
}

#[test]
fn answers_become_jobs_with_their_keys_and_what_failed_is_told() {
    let judge = judge(&format!(
        "{PLAIN}split = '.[]'\nunique_by = {{ jq = '.id', window = '1m' }}\ndebounce_by = '.k'\n\
         debounce = '2s'\n"
    ));
    let keys = |name: &str| RawJobKeys {
        unique_key: Some(name.to_owned()),
        debounce_key: Some(name.to_owned()),
        ..RawJobKeys::default()
    };
    let (mut kept, mut ends) = (Vec::new(), Vec::new());
    for name in ["x", "y"] {
        keys(name).encode(&mut kept);
        ends.push(kept.len() as u64);
    }
    let wanted = HandlerMatch {
        items: Some(expression::Items::new(b"12".to_vec(), vec![1, 2])),
        keys: KeySet::Many(expression::Items::new(kept, ends)),
        key_errors: vec!["ordering_key: no".to_owned()],
    };
    let failed = HandlerDecision::Failed { expression: "when", reason: "no such".to_owned() };
    let answers = EvaluationResult {
        dedupe: Err("why".to_owned()),
        handlers: vec![failed, HandlerDecision::Run(wanted)],
    };
    let judged = judge.plan_from(answers);
    assert_eq!(judged.note.as_deref(), Some("dedupe: why; two: ordering_key: no"));
    assert_eq!((judged.dedupe, judged.plan.jobs()), (None, 3));
    let JobPlan::Judged(all) = judged.plan else { panic!("it was judged") };
    assert!(matches!(&all[0], (HandlerId(1), JobSpec::Dead(why)) if why == "when: no such"));
    let (HandlerId(2), JobSpec::Items(items)) = &all[1] else { panic!("{all:?}") };
    let keys = [0, 1].map(|at| items.keys(at).unwrap());
    assert_eq!(keys[0].once.map(|once| once.window_ms), Some(60_000));
    assert_eq!(keys[0].collapse.map(|collapse| collapse.settle_ms), Some(2_000));
    assert_ne!(keys[0].once.map(|once| once.key), keys[1].once.map(|once| once.key));
}

#[test]
fn named_segments_are_decoded() {
    let found = path_params("/hooks/{tenant}/x/{id}", "/hooks/a%20b/x/7/[redacted]");
    let expected = [("tenant", "a b"), ("id", "7")];
    assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(path_params("/hooks/a", "/hooks/a"), []);
}
