//! Expressions at work: which handler wants an event, what it makes of it, what runs after what, and
//! what becomes of one that fails.

use std::fmt::Write as _;

use crate::support::server::{Server, err, out, scenario};

const JOBS: &str =
    "select job || ' ' || handler || ' ' || state from (select j.id as job, h.name as
    handler, case j.state when 3 then 'succeeded' when 4 then 'dead' when 5 then 'cancelled'
    else 'open' end as state from jobs j join handlers h on h.id = j.handler) order by job";

fn settled(server: &Server) {
    server.until("select count(*) from trail where settled_at is null", "0");
}

#[test]
fn a_handler_gets_what_it_wants_and_an_event_that_none_wants_is_kept() {
    let server = scenario()
        .source("a", "")
        .handler("big", "when = '.n > 5'", "cat")
        .handler("push", "when = '$headers[\"x-event\"] == \"push\"'", "cat")
        .start();
    server.post("/hooks/a", r#"{"n":7}"#);
    server.request("POST", "/hooks/a", "X-Event: push", br#"{"n":1}"#);
    server.post("/hooks/a", r#"{"n":1}"#);
    settled(&server);
    assert_eq!(server.list(JOBS), ["1 big succeeded", "2 push succeeded"]);
    assert_eq!(server.list("select jobs from trail order by event"), ["1", "1", "0"]);
}

#[test]
fn each_item_is_a_job_of_its_own_with_retries_of_its_own() {
    let script = "test $HOOKTRAIL_ITEM != 2 || test $HOOKTRAIL_ATTEMPT -ge 3 || exit 1; cat";
    let keys = "split = '.items[]'\nretry = { initial_delay = '10ms' }";
    let server = scenario().source("a", "").handler("h", keys, script).start();
    server.post("/hooks/a", r#"{"items":[{"id":1},{ "id" : 12345678901234567890 },"three"]}"#);
    settled(&server);
    let attempts = "select count(*) || ' of ' || item from outcomes group by item order by item";
    assert_eq!(server.list(attempts), ["1 of 1", "3 of 2", "1 of 3"]);
    let outputs = "select a.stdout from attempts a join outcomes o using (id)
                   where o.outcome = 'succeeded' order by o.item";
    let expected = [r#"{"id":1}"#, r#"{"id":12345678901234567890}"#, r#""three""#];
    assert_eq!(server.list(outputs), expected);
    let shown = out(&server.cli(&["show", "1"]));
    assert!(shown.contains(r#"item 2 (job 2): {"id":12345678901234567890}"#), "{shown}");
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
    let answer = server.post("/hooks/a", format!("{body}]"));
    assert_eq!(answer.status, 202);
    server.until("select jobs || ' ' || queued from trail", "10000 10000");
    server.until("select count(*) from expansions", "0");
    let last = "select body from items where job = (select max(job) from items)";
    assert_eq!(server.value(last), r#"{"id":9999,"name":"contact 9999"}"#);
    assert_eq!(server.value("select count(*) from jobs where state = 0"), "10", "one a key");
}

#[test]
fn what_a_handler_gets_is_transformed_at_each_attempt_by_the_configuration_then_in_force() {
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
    *server.config() = server.config().replace("{id: .n,", "{no: .n,");
    server.write_config();
    server.signal(rustix::process::Signal::HUP);
    server.until("select count(*) from audit_log where action = 'reload'", "1");
    assert!(server.cli(&["retry", "1"]).status.success());
    server.until("select count(*) from outcomes", "2");
    let outputs = server.list("select stdout from attempts order by id");
    let expected = [r#"{"id":1.10,"t":"x y","e":1}"#, r#"{"no":1.10,"t":"x y","e":1}"#];
    assert_eq!(outputs, expected);
}

#[test]
fn a_body_is_read_at_each_attempt_as_it_was_when_it_came() {
    let server = scenario()
        .source("a", "")
        .handler("h", "when = 'type == \"string\"'\ntransform = 'type'", "cat")
        .start();
    let odd = "Content-Type: application/x-www-form-urlencoded; x=\u{fc}";
    server.request("POST", "/hooks/a", odd, b"a=1");
    settled(&server);
    assert_eq!(server.list("select stdout from attempts"), [r#""string""#]);
}

#[test]
fn a_body_that_is_not_transformed_passes_byte_for_byte() {
    let server = scenario().source("a", "").handler("h", "when = '.a'", "cat").start();
    let body = "{ \"a\": 1.0e2,\t\"a\" : true }\r\n";
    server.post("/hooks/a", body);
    settled(&server);
    assert_eq!(server.value("select stdout from attempts"), body);
}

#[test]
fn an_expression_that_fails_loses_nothing_and_is_done_again_when_it_is_mended() {
    let mut server = scenario()
        .source("a", "")
        .handler("h", "split = '.items | .[]'", "cat")
        .handler("other", "", "cat")
        .start();
    let answer = server.post("/hooks/a", r#"{"items":7,"rest":[1,2]}"#);
    assert_eq!(answer.status, 202);
    settled(&server);
    assert_eq!(server.list(JOBS), ["1 h dead", "2 other succeeded"]);
    let detail = server.value("select detail from outcomes where job = 1");
    assert!(detail.starts_with("split: "), "{detail}");
    assert_eq!(server.value("select attempt || outcome from outcomes where job = 1"), "1failed");

    *server.config() = server.config().replace(".items | .[]", ".rest[]");
    server.write_config();
    server.signal(rustix::process::Signal::HUP);
    server.until("select count(*) from audit_log where action = 'reload'", "1");
    assert!(server.cli(&["retry", "1"]).status.success());
    server.until("select count(*) from outcomes where outcome = 'succeeded'", "3");
    let reason = "select reason from jobs where id = 1";
    assert_eq!(server.value(reason), "expanded into jobs 3–4");
    assert_eq!(server.value("select group_concat(item) from outcomes where job > 2"), "1,2");
    let again = server.cli(&["retry", "1"]);
    assert!(!again.status.success(), "{}", out(&again));
}

#[test]
fn jobs_of_one_key_run_one_after_another_in_their_order() {
    let script = "read x; echo \"$x\" >> log; test $HOOKTRAIL_ATTEMPT -ge 2 || exit 1";
    let keys = "ordering_key = '.key'\nconcurrency = 8\nretry = { initial_delay = '5ms' }";
    let server = scenario().source("a", "").handler("h", keys, script).start();
    for n in 0..6 {
        server.post("/hooks/a", format!("{{\"key\":\"k\",\"n\":{n}}}\n"));
    }
    settled(&server);
    let log = server.text_of("log");
    let expected: String =
        (0..6).map(|n| format!("{{\"key\":\"k\",\"n\":{n}}}\n").repeat(2)).collect();
    assert_eq!(log, expected);
}

#[test]
fn an_item_that_comes_twice_is_one_job_however_it_comes() {
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
    assert_eq!(server.value(queued), (3 + 8).to_string(), "null is no key");
    let same = "select count(*) from jobs where state = 5 and reason like 'same as job %'";
    assert_eq!(server.value(same), (8 * 4 - 3).to_string());
}

#[test]
fn a_repeat_by_expression_is_one_event_at_the_same_moment_and_after_a_restart() {
    let keys = "dedupe = { jq = '.id' }";
    let mut server = scenario().source("a", keys).handler("h", "", "cat").start();
    std::thread::scope(|scope| {
        for n in 0..16 {
            let server = &server;
            scope.spawn(move || server.post("/hooks/a", format!(r#"{{"id":"x","n":{n}}}"#)));
        }
    });
    server.kill();
    server.start();
    let answer = server.post("/hooks/a", r#"{"id":"x"}"#);
    assert_eq!(answer.body, r#"{"event":1,"duplicate":true}"#);
    assert_eq!(server.value("select count(*) || ' ' || max(duplicates) from trail"), "1 16");
    for no_key in [r#"{"id":""}"#, r#"{"id":null}"#, r#"{"id":false}"#, r#"{"id":""}"#, "{}"] {
        assert!(!server.post("/hooks/a", no_key).body.contains("duplicate"), "{no_key}");
    }
    let failed = server.post("/hooks/a", r#"{"id":1,"n":[}"#);
    assert_eq!(failed.status, 202);
}

#[test]
fn a_key_that_fails_is_none_and_is_noted() {
    let server = scenario()
        .source("a", "dedupe = { jq = '.id.x' }")
        .handler("h", "ordering_key = '.id | error'", "cat")
        .start();
    server.post("/hooks/a", r#"{"id":1}"#);
    settled(&server);
    let note = server.value("select note from events");
    assert!(note.starts_with("dedupe: ") && note.contains("h: ordering_key: "), "{note}");
    assert!(out(&server.cli(&["show", "1"])).contains("note: dedupe: "));
}

#[test]
fn expressions_can_be_tried_on_what_came() {
    let server = scenario()
        .source("a", "")
        .handler("h", "split = '.[]'\ntransform = '{v: .}'", "cat")
        .handler("no", "when = 'length > 2'", "cat")
        .start();
    server.post("/hooks/a", "[1.50,2]");
    settled(&server);
    let eval = |args: &[&str]| server.cli(&[&["eval"], args].concat());
    assert_eq!(out(&eval(&[".[]", "1"])), "1.50\n2\n");
    assert_eq!(out(&eval(&["$source"])), "\"a\"\n", "of the newest event");
    server.file("body.json", r#"{"a":[{"b":1}]}"#);
    assert_eq!(out(&eval(&[".a[0].b", "body.json"])), "1\n");
    let faulty = eval(&[".a | foo", "1"]);
    assert_eq!(faulty.status.code(), Some(2), "{}", err(&faulty));
    assert!(err(&faulty).contains("line 1, column 6"), "{}", err(&faulty));
    let failing = eval(&[".a", "1"]);
    assert_eq!(failing.status.code(), Some(1), "{}", out(&failing));

    // Where README says that it is not as in jq.
    assert_eq!(
        out(&eval(&["1e1000, 1.10, 12345678901234567890 + 1", "1"])),
        "1e1000\n1.10\n12345678901234567891\n"
    );
    for fails in [r#""b" | test("(?=a)b")"#, "[1,2] | .[2] = 1", "nan", "1 / 0"] {
        assert_eq!(eval(&[fails, "1"]).status.code(), Some(1), "{fails}");
    }
    assert_eq!(eval(&["$__loc__", "1"]).status.code(), Some(2));

    let check = out(&server.cli(&["check", "--event", "1"]));
    assert!(check.contains("event 1 of a: matches h\n"), "{check}");
    assert!(check.contains("  h: 2 items, the first: {\"v\":1.50}\n"), "{check}");
    assert!(check.contains("  no: not wanted by when\n"), "{check}");

    let run = server.cli(&["run", "h", "1"]);
    assert_eq!(out(&run), "{\"v\":1.50}{\"v\":2}", "{}", err(&run));
    let run = server.cli(&["run", "h", "1", "--item", "2"]);
    assert_eq!(out(&run), "{\"v\":2}", "{}", err(&run));
}
