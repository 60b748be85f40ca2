//! Expressions of a configuration: `when`, `split`, `transform`, ordering and unique keys, and the effect of
//! an expression that fails.

use std::fmt::Write as _;

use crate::support::server::{Server, scenario, stderr, stdout};

const JOBS: &str =
    "select job || ' ' || handler || ' ' || state from (select j.id as job, h.name as
    handler, case j.state when 3 then 'succeeded' when 4 then 'dead' when 5 then 'cancelled'
    else 'open' end as state from jobs j join handlers h on h.id = j.handler) order by job";

fn wait_until_settled(server: &Server) {
    server.until("select count(*) from trail where settled_at is null", "0");
}

#[test]
fn when_chooses_handlers_and_an_event_without_one_is_stored() {
    let server = scenario()
        .source("a", "")
        .handler("big", "when = '.n > 5'", "cat")
        .handler("push", "when = '$headers[\"x-event\"] == \"push\"'", "cat")
        .start();
    server.post("/hooks/a", r#"{"n":7}"#);
    server.request("POST", "/hooks/a", "X-Event: push", br#"{"n":1}"#);
    server.post("/hooks/a", r#"{"n":1}"#);
    wait_until_settled(&server);
    assert_eq!(server.column(JOBS), ["1 big succeeded", "2 push succeeded"]);
    assert_eq!(server.column("select jobs from trail order by event"), ["1", "1", "0"]);
}

#[test]
fn each_item_is_a_job_with_its_own_retries() {
    let script = "test $HOOKTRAIL_ITEM != 2 || test $HOOKTRAIL_ATTEMPT -ge 3 || exit 1; cat";
    let keys = "split = '.items[]'\nretry = { initial_delay = '10ms' }";
    let server = scenario().source("a", "").handler("h", keys, script).start();
    server.post("/hooks/a", r#"{"items":[{"id":1},{ "id" : 12345678901234567890 },"three"]}"#);
    wait_until_settled(&server);
    let attempts = "select count(*) || ' of ' || item from outcomes group by item order by item";
    assert_eq!(server.column(attempts), ["1 of 1", "3 of 2", "1 of 3"]);
    let outputs = "select a.stdout from attempts a join outcomes o using (id)
                   where o.outcome = 'succeeded' order by o.item";
    let expected = [r#"{"id":1}"#, r#"{"id":12345678901234567890}"#, r#""three""#];
    assert_eq!(server.column(outputs), expected);
    let output = stdout(&server.cli(&["show", "1"]));
    assert!(output.contains(r#"item 2 (job 2): {"id":12345678901234567890}"#), "{output}");
}

#[test]
fn ten_thousand_items_in_one_body_are_ten_thousand_jobs() {
    let server = scenario()
        .server("max_body_size = \"4 MiB\"")
        .source("a", "")
        .handler("h", "split = '.[]'\nordering_key = '.id % 10'\npaused = true", "cat")
        .start();
    let mut body = String::from("[");
    for id in 0..10_000 {
        let comma = if id == 0 { "" } else { "," };
        let _ = write!(body, "{comma}{{\"id\":{id},\"name\":\"contact {id}\"}}");
    }
    let response = server.post("/hooks/a", format!("{body}]"));
    assert_eq!(response.status, 202);
    server.until("select jobs || ' ' || queued from trail", "10000 10000");
    server.until("select count(*) from expansions", "0");
    let last = "select body from items where job = (select max(job) from items)";
    assert_eq!(server.value(last), r#"{"id":9999,"name":"contact 9999"}"#);
    assert_eq!(
        server.value("select count(*) from jobs where state = 0"),
        "10",
        "one job of each key"
    );
}

#[test]
fn each_attempt_is_transformed_by_the_current_configuration() {
    let mut server = scenario()
        .source("a", "path = \"/in/{tenant}\"")
        .handler(
            "h",
            "transform = '{id: .n, t: $params.tenant, e: $event}'\nretry = { initial_delay = '1h' }",
            "cat; exit $HOOKTRAIL_ATTEMPT",
        )
        .start();
    server.post("/in/x%20y", r#"{"n":1.10}"#);
    server.until("select count(*) from outcomes", "1");
    server.replace_in_config("{id: .n,", "{no: .n,");
    server.signal(rustix::process::Signal::HUP);
    server.until_reloads(1);
    assert!(server.cli(&["retry", "1"]).status.success());
    server.until("select count(*) from outcomes", "2");
    let outputs = server.column("select stdout from attempts order by id");
    let expected = [r#"{"id":1.10,"t":"x y","e":1}"#, r#"{"no":1.10,"t":"x y","e":1}"#];
    assert_eq!(outputs, expected);
}

#[test]
fn each_attempt_reads_the_body_by_the_stored_content_type() {
    let server = scenario()
        .source("a", "")
        .handler("h", "when = 'type == \"string\"'\ntransform = 'type'", "cat")
        .start();
    let content_type = "Content-Type: application/x-www-form-urlencoded; x=\u{fc}";
    server.request("POST", "/hooks/a", content_type, b"a=1");
    wait_until_settled(&server);
    assert_eq!(server.column("select stdout from attempts"), [r#""string""#]);
}

#[test]
fn without_transform_a_handler_gets_the_exact_bytes() {
    let server = scenario().source("a", "").handler("h", "when = '.a'", "cat").start();
    let body = "{ \"a\": 1.0e2,\t\"a\" : true }\r\n";
    server.post("/hooks/a", body);
    wait_until_settled(&server);
    assert_eq!(server.value("select stdout from attempts"), body);
}

#[test]
fn a_failed_expression_is_a_dead_job_and_retry_evaluates_it_again() {
    let mut server = scenario()
        .source("a", "")
        .handler("h", "split = '.items | .[]'", "cat")
        .handler("other", "", "cat")
        .start();
    let response = server.post("/hooks/a", r#"{"items":7,"rest":[1,2]}"#);
    assert_eq!(response.status, 202);
    wait_until_settled(&server);
    assert_eq!(server.column(JOBS), ["1 h dead", "2 other succeeded"]);
    let detail = server.value("select detail from outcomes where job = 1");
    assert!(detail.starts_with("split: "), "{detail}");
    assert_eq!(server.value("select attempt || outcome from outcomes where job = 1"), "1failed");

    server.replace_in_config(".items | .[]", ".rest[]");
    server.signal(rustix::process::Signal::HUP);
    server.until_reloads(1);
    assert!(server.cli(&["retry", "1"]).status.success());
    server.until("select count(*) from outcomes where outcome = 'succeeded'", "3");
    let reason = "select reason from jobs where id = 1";
    assert_eq!(server.value(reason), "expanded into jobs 3–4");
    assert_eq!(server.value("select group_concat(item) from outcomes where job > 2"), "1,2");
    let repeated = server.cli(&["retry", "1"]);
    assert!(!repeated.status.success(), "{}", stdout(&repeated));
}

#[test]
fn jobs_of_one_ordering_key_run_one_at_a_time_in_order() {
    let script = "read x; echo \"$x\" >> log; test $HOOKTRAIL_ATTEMPT -ge 2 || exit 1";
    let keys = "ordering_key = '.key'\nconcurrency = 8\nretry = { initial_delay = '5ms' }";
    let server = scenario().source("a", "").handler("h", keys, script).start();
    for n in 0..6 {
        server.post("/hooks/a", format!("{{\"key\":\"k\",\"n\":{n}}}\n"));
    }
    wait_until_settled(&server);
    let log = server.read_file("log");
    let expected: String =
        (0..6).map(|n| format!("{{\"key\":\"k\",\"n\":{n}}}\n").repeat(2)).collect();
    assert_eq!(log, expected);
}

#[test]
fn items_with_the_same_unique_key_are_one_job() {
    let keys = "split = '.[]'\nunique_by = { jq = '.id' }\npaused = true";
    let server = scenario().source("a", "").handler("h", keys, "cat").start();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let body = r#"[{"id":1},{"id":2},{"id":3},{"id":2},{"id":null}]"#;
                assert_eq!(server.post("/hooks/a", body).status, 202);
            });
        }
    });
    let queued = "select count(*) from jobs j join items i on i.job = j.id
                  where j.state = 0 and i.body like '%'";
    server.until("select count(*) from deferred_events", "0");
    assert_eq!(server.value(queued), (3 + 8).to_string(), "null is no key");
    let same = "select count(*) from jobs where state = 5 and reason like 'same as job %'";
    assert_eq!(server.value(same), (8 * 4 - 3).to_string());
}

#[test]
fn a_failed_key_expression_gives_no_key_and_a_note() {
    let server = scenario()
        .source("a", "dedupe = { jq = '.id.x' }")
        .handler("h", "ordering_key = '.id | error'", "cat")
        .start();
    server.post("/hooks/a", r#"{"id":1}"#);
    wait_until_settled(&server);
    let note = server.value("select note from events");
    assert!(note.starts_with("dedupe: ") && note.contains("h: ordering_key: "), "{note}");
    assert!(stdout(&server.cli(&["show", "1"])).contains("note: dedupe: "));
}

#[test]
fn eval_check_and_run_evaluate_expressions_on_stored_events() {
    let server = scenario()
        .source("a", "")
        .handler("h", "split = '.[]'\ntransform = '{v: .}'", "cat")
        .handler("no", "when = 'length > 2'", "cat")
        .start();
    server.post("/hooks/a", "[1.50,2]");
    wait_until_settled(&server);
    let eval = |args: &[&str]| server.cli(&[&["eval"], args].concat());
    assert_eq!(stdout(&eval(&[".[]", "1"])), "1.50\n2\n");
    assert_eq!(stdout(&eval(&["$source"])), "\"a\"\n", "the default is the newest event");
    server.write_file("body.json", r#"{"a":[{"b":1}]}"#);
    assert_eq!(stdout(&eval(&[".a[0].b", "body.json"])), "1\n");
    let invalid = eval(&[".a | foo", "1"]);
    assert_eq!(invalid.status.code(), Some(2), "{}", stderr(&invalid));
    assert!(stderr(&invalid).contains("line 1, column 6"), "{}", stderr(&invalid));
    let failing = eval(&[".a", "1"]);
    assert_eq!(failing.status.code(), Some(1), "{}", stdout(&failing));

    // Differences from jq that the documentation lists.
    assert_eq!(
        stdout(&eval(&["1e1000, 1.10, 12345678901234567890 + 1", "1"])),
        "1e1000\n1.10\n12345678901234567891\n"
    );
    for fails in [r#""b" | test("(?=a)b")"#, "[1,2] | .[2] = 1", "nan", "1 / 0"] {
        assert_eq!(eval(&[fails, "1"]).status.code(), Some(1), "{fails}");
    }
    assert_eq!(eval(&["$__loc__", "1"]).status.code(), Some(2));

    let check = stdout(&server.cli(&["check", "--event", "1"]));
    assert!(check.contains("event 1 of a: matches h\n"), "{check}");
    assert!(check.contains("  h: 2 items, the first: {\"v\":1.50}\n"), "{check}");
    assert!(check.contains("  no: not wanted by when\n"), "{check}");

    let run = server.cli(&["run", "h", "1"]);
    assert_eq!(stdout(&run), "{\"v\":1.50}{\"v\":2}", "{}", stderr(&run));
    let run = server.cli(&["run", "h", "1", "--item", "2"]);
    assert_eq!(stdout(&run), "{\"v\":2}", "{}", stderr(&run));
}
