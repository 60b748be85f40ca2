//! `erase`: nothing of an erased event is left in the files.

use std::fs;

use crate::support::server::{Server, scenario, until};

/// The files of the database in which a text stands.
fn files_with(server: &Server, text: &str) -> Vec<String> {
    let has_text = |bytes: &[u8]| bytes.windows(text.len()).any(|part| part == text.as_bytes());
    let mut names: Vec<String> = fs::read_dir(server.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("t.db"))
        .filter(|name| has_text(&fs::read(server.path().join(name)).unwrap()))
        .collect();
    names.sort();
    names
}

/// A body with a text at its begin and at its end, `length` bytes in between.
fn body(id: usize, text: &str, length: usize) -> String {
    format!(
        r#"{{"id":{id},"first":"{text}","fill":"{}","items":["{text}-item"],"last":"{text}"}}"#,
        "x".repeat(length)
    )
}

#[test]
fn nothing_of_an_erased_event_is_left_in_the_files_while_the_server_runs() {
    let script = r#"case "$HOOKTRAIL_ITEM" in '') body=$(cat); echo "out $body"; echo "failed for $body" >&2; exit 65;; *) cat;; esac"#;
    let server = scenario()
        .source("a", "dedupe = { header = \"X-Delivery\" }\non_duplicate = \"ignore\"")
        .handler("h", "ordering_key = '.first'\nversion_by = '.last'", script)
        .handler("split", "split = '.items[]'", "cat")
        .start();
    let lengths = [0, 200, 1000, 3000, 9000, 60_000];
    let total = 4 * lengths.len();
    for (number, length) in lengths.iter().cycle().take(total).enumerate() {
        let text = if number % 4 == 1 { "Secret-Ada" } else { "Public-Bob" };
        let headers = format!(
            "Content-Type: application/json\r\nX-Name: {text}\r\nX-Delivery: d{number}\r\n"
        );
        let sent = |body: String| {
            let response =
                server.request("POST", &format!("/hooks/a?name={text}"), &headers, body.as_bytes());
            assert_eq!(response.status, 202, "{}", response.body);
        };
        sent(body(number, text, *length));
        sent(body(number, text, 10 + length));
    }
    server.until(
        "select count(*) from trail where dead = 1 and succeeded = 1 and duplicates = 1",
        &total.to_string(),
    );
    assert!(!files_with(&server, "Secret-Ada").is_empty());
    let trail = "select group_concat(bytes || source || settled_at || jobs || dead) from trail";
    let before = server.value(trail);

    let condition = r#".first == "Secret-Ada""#;
    let (code, text) = server.cli_text(&["erase", "--where", condition, "--dry-run"]);
    assert_eq!((code, text.as_str()), (Some(0), "would erase 6 events: 2, 6, 10, 14, 18, 22\n"));
    let (code, text) = server.cli_text(&["erase", "--where", condition]);
    assert_eq!(code, Some(2), "{text}");
    let (code, text) =
        server.cli_text(&["erase", "--where", condition, "--yes", "--reason", "request 17"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.starts_with("erased 6 events: 2, 6, 10, 14, 18, 22\nnot changed: backups"),
        "{text}"
    );

    assert_eq!(files_with(&server, "Secret-Ada"), [""; 0]);
    assert!(!files_with(&server, "Public-Bob").is_empty());
    assert_eq!(server.value(trail), before);
    assert_eq!(
        server.column(
            "select action || ' ' || target || ' ' || jobs || ' ' || reason from audit_log"
        ),
        ["erase 6 events 12 request 17"]
    );
    assert_eq!(
        server.column("select distinct detail from outcomes where event = 2 order by 1"),
        ["exit 0", "exit 65"]
    );
    assert!(server.cli_text(&["show", "2"]).1.contains("were removed"));
    assert_eq!(server.cli_text(&["verify"]).0, Some(0));
    assert_eq!(server.cli_text(&["status"]).0, Some(0), "{}", server.cli_text(&["status"]).1);
    // It goes on as before.
    let headers = "Content-Type: application/json\r\nX-Delivery: d1\r\n";
    let again = server.request("POST", "/hooks/a", headers, body(1, "Secret-Ada", 0).as_bytes());
    assert_eq!(again.body, r#"{"event":2,"duplicate":true}"#);
    assert_eq!(files_with(&server, "Secret-Ada"), [""; 0]);
}

#[test]
fn an_event_that_is_not_settled_or_on_which_the_expression_fails_is_left_and_named() {
    let mut server = scenario()
        .source("a", "")
        .source("b", "")
        .handler("h", "", "true")
        .handler("held", "paused = true", "true")
        .handler_source("held", "b")
        .start();
    server.post("/hooks/a", r#"{"id":1}"#);
    server.post("/hooks/a", "[1]");
    server.post("/hooks/b", r#"{"id":1}"#);
    server.post("/hooks/a", r#"{"id":2}"#);
    server.until("select count(*) from trail where succeeded = 1", "3");
    let (code, text) = server.cli_text(&["erase", "--where", ".id == 1", "--yes"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("erased 1 event: 1\n"), "{text}");
    assert!(text.contains("event 2: it is left, because the expression fails: when: "), "{text}");
    assert!(
        text.contains("event 3: it is left, because a job of it is queued or running"),
        "{text}"
    );
    assert_eq!(server.column("select id from events where body is null"), ["1"]);

    assert_eq!(server.cli_text(&["cancel", "--event", "3", "--yes"]).0, Some(0));
    // A copy that the command cannot reach, and no server.
    assert_eq!(server.stop(), Some(0));
    server.write_file("t.replaced-20261129T113042Z.db", "");
    let (code, text) = server.cli_text(&["erase", "3"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("t.replaced-20261129T113042Z.db\n"), "{text}");
    let (code, text) = server.cli_text(&["erase", "--where", "true", "--yes", "--json"]);
    assert_eq!(code, Some(0), "{text}");
    let object: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&object["events"], &object["without_body"]),
        (&serde_json::json!([2, 4]), &2.into())
    );

    for (args, code, expected) in [
        (&["erase"][..], 2, "no events are given"),
        (&["erase", "9"], 1, "event 9: there is no such event"),
        (&["erase", "--where", ".id =", "--yes"], 2, "--where: line 1, column"),
        (&["erase", "1-3"], 2, "there is no terminal to ask on"),
    ] {
        let (found, text) = server.cli_text(args);
        assert_eq!((found, text.contains(expected)), (Some(code), true), "{args:?}: {text}");
    }
}

#[test]
fn what_other_tables_quote_of_an_erased_event_is_removed_too() {
    let server = scenario()
        .source("a", "")
        .handler("h", "when = 'if .fails then error(.text) else true end'\nretry = { max_attempts = 1 }\nbreaker = { threshold = 1 }", "cat >&2; exit 1")
        .handler("alert", "", "true")
        .handler_source("alert", "hooktrail")
        .start();
    server.post("/hooks/a", r#"{"text":"Secret-Ada"}"#);
    server.post("/hooks/a", r#"{"fails":true,"text":"Secret-Ada"}"#);
    server.until("select count(*) from dead_jobs", "2");
    server.until("select count(*) > 0 from breaker_log where detail like '%Secret%'", "1");
    server
        .until("select count(*) > 1 from trail where source = 'hooktrail' and succeeded = 1", "1");
    for condition in [r#"$source == "hooktrail""#, ".text == \"Secret-Ada\""] {
        let (code, text) = server.cli_text(&["erase", "--where", condition, "--yes"]);
        assert_eq!(code, Some(0), "{text}");
    }
    assert_eq!(files_with(&server, "Secret-Ada"), [""; 0]);
    assert_eq!(server.column("select detail from dead_jobs order by event"), ["exit 1", "when"]);
    assert_eq!(server.cli_text(&["verify"]).0, Some(0));
}

#[test]
fn an_interrupted_erasure_is_a_problem_until_it_is_run_again() {
    let server = scenario().source("a", "").handler("h", "", "true").start();
    server.post("/hooks/a", "Secret-Ada");
    server.until("select succeeded from trail", "1");
    // A reader keeps the log, so the content that the log has cannot be removed.
    let reader = server.open_database();
    reader.execute_batch("BEGIN; SELECT count(*) FROM events").unwrap();
    let mut command = server.start_cli(&["erase", "1"], std::process::Stdio::null());
    server.until("select count(*) from events where body is null", "1");
    command.0.kill().unwrap();
    command.0.wait().unwrap();
    reader.execute_batch("ROLLBACK").unwrap();
    until("status says so", || server.cli_text(&["status"]).1.contains("an `erase` did not end"));
    // One of another event completes it too.
    server.post("/hooks/a", "other");
    server.until("select succeeded from trail where event = 2", "1");
    assert_eq!(server.cli_text(&["erase", "2"]).0, Some(0));
    assert_eq!(server.cli_text(&["status"]).0, Some(0));
    assert_eq!(files_with(&server, "Secret-Ada"), [""; 0]);
}
