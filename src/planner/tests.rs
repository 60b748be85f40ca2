//! Tests of the planner: from results of expressions to jobs.

use super::*;
use crate::expression::Items;

fn planner(text: &str) -> JobPlanner {
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
fn without_expressions_each_handler_gets_a_job() {
    let planner = planner(PLAIN);
    assert!(planner.expressions().is_none());
    assert_eq!(planner.unconditional_plan().plan.job_count(), 2);
}

#[test]
fn results_become_jobs_with_their_keys_and_errors_are_collected() {
    let planner = planner(&format!(
        "{PLAIN}split = '.[]'\nunique_by = {{ jq = '.id', window = '1m' }}\ndebounce_by = '.k'\n\
         debounce = '2s'\n"
    ));
    let keys = |name: &str| RawJobKeys {
        unique_key: Some(name.to_owned()),
        debounce_key: Some(name.to_owned()),
        ..RawJobKeys::default()
    };
    let (mut items, mut all_keys) = (Items::default(), Items::default());
    for (item, name) in [(b'1', "x"), (b'2', "y")] {
        items.memory.push(item);
        items.finish_item();
        keys(name).add_to(&mut all_keys);
    }
    let handler_match = HandlerMatch {
        items: Some(items),
        keys: KeySet::Many(all_keys),
        key_errors: vec!["ordering_key: no".to_owned()],
    };
    let failed =
        HandlerDecision::Failed { expression: "when".to_owned(), reason: "no such".to_owned() };
    let results = EvaluationResult {
        dedupe: Err("why".to_owned()),
        handlers: vec![failed, HandlerDecision::Run(handler_match)],
    };
    let planned = planner.plan_from(results);
    assert_eq!(planned.expression_errors.as_deref(), Some("dedupe: why; two: ordering_key: no"));
    assert_eq!((planned.dedupe, planned.plan.job_count()), (None, 3));
    let JobPlan::Evaluated(all) = planned.plan else { panic!("the plan has no list of jobs") };
    assert!(matches!(&all[0], (HandlerId(1), JobSpec::Dead(detail)) if detail == "when: no such"));
    let (HandlerId(2), JobSpec::Items(items)) = &all[1] else { panic!("{all:?}") };
    let keys = [0, 1].map(|index| items.keys(index).unwrap());
    assert_eq!(keys[0].unique.map(|unique| unique.window_ms), Some(60_000));
    assert_eq!(keys[0].debounce.map(|debounce| debounce.debounce_ms), Some(2_000));
    assert_ne!(keys[0].unique.map(|unique| unique.key), keys[1].unique.map(|unique| unique.key));
}

#[test]
fn named_segments_are_decoded() {
    let found = path_params("/hooks/{tenant}/x/{id}", "/hooks/a%20b/x/7/[redacted]");
    let expected = [("tenant", "a b"), ("id", "7")];
    assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(path_params("/hooks/a", "/hooks/a"), []);
}
