//! The source `hooktrail`: problems of the server and of its handlers, as events for any handler.

use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::server::{Scenario, Server, scenario, until};

/// A server whose alerts go to a handler `alert` that runs this script.
pub fn with_alert_handler(script: &str, keys: &str) -> Scenario {
    scenario().handler("alert", keys, script).handler_source("alert", "hooktrail")
}

/// The alerts that are events by now.
fn received_alerts(server: &Server) -> Vec<Value> {
    let events = server.column(
        "select cast(e.body as text) from events e join sources s on s.id = e.source \
         where s.name = 'hooktrail' order by e.id",
    );
    events.iter().map(|body| serde_json::from_str(body).expect("JSON")).collect()
}

/// How many alerts of a kind there are: those that are events by now and those that still wait. One
/// query reads both, so that none moves in between.
fn alert_count(server: &Server, kind: &str) -> i64 {
    let count = server.value(&format!(
        "with sent (body) as materialized (select cast(e.body as text) from events e
             join sources s on s.id = e.source where s.name = 'hooktrail')
         select coalesce((select sum(json_extract(body, '$.count')) from sent
             where json_extract(body, '$.type') = '{kind}'), 0)
           + coalesce((select sum(count) from alerts where type = '{kind}'), 0)"
    ));
    count.parse().expect("a count")
}

#[test]
fn a_dead_job_is_an_alert_with_its_source_handler_and_detail() {
    let server = with_alert_handler("cat", "")
        .source("a", "")
        .handler("bad", "retry = { max_attempts = 1 }", "echo no luck >&2; exit 65")
        .start();
    server.post("/hooks/a", "x");
    server.until("select outcome from outcomes where handler = 'alert'", "succeeded");
    let body = server.value(
        "select cast(a.stdout as text) from outcomes o join attempts a on a.id = o.id \
         where o.handler = 'alert'",
    );
    let mut alert: Value = serde_json::from_str(&body).expect("JSON");
    let at = alert["at"].take();
    assert_eq!(at.as_str().map(str::len), Some(24), "{at}");
    let expected = json!({"type": "job.dead", "at": null, "source": "a", "handler": "bad",
        "event": 1, "job": 1, "item": null, "attempts": 1, "detail": "exit 65: no luck", "count": 1});
    assert_eq!(alert, expected);
    let event = server.value(
        "select source || ' ' || (remote_ip is null) || ' ' || jobs from trail where source = 'hooktrail'",
    );
    assert_eq!(event, "hooktrail 1 1", "an alert has no client IP");
}

#[test]
fn alerts_of_one_kind_are_combined_each_minute_and_none_is_lost() {
    let server = with_alert_handler("true", "")
        .source("a", "")
        .handler("bad", "", "exit 65")
        .handler("worse", "", "exit 65")
        .start();
    for _ in 0..10 {
        server.post("/hooks/a", "x");
    }
    server.until("select count(*) from dead_jobs", "20");
    server.until("select count(*) from outcomes where handler = 'alert'", "2");
    assert_eq!(alert_count(&server, "job.dead"), 20);
    let mut handlers: Vec<Value> =
        received_alerts(&server).into_iter().map(|mut alert| alert["handler"].take()).collect();
    handlers.sort_by_key(Value::to_string);
    assert_eq!(handlers, ["bad", "worse"], "one alert of each handler within a minute");
}

#[test]
fn a_failed_alert_handler_causes_no_other_alert() {
    let server = with_alert_handler("exit 65", "").source("a", "").start();
    server.post("/hooks/a", "no handler");
    server.until("select count(*) from dead_jobs where handler = 'alert'", "1");
    // A further alert would have been written in the transaction of the outcome.
    assert_eq!(server.value("select count(*) from alerts where type <> 'event.unhandled'"), "0");
    assert_eq!(received_alerts(&server).len(), 1);
}

#[test]
fn an_event_without_a_handler_is_an_alert_if_a_handler_wants_it() {
    let server = with_alert_handler("true", "when = '.type == \"event.unhandled\"'")
        .source("a", "")
        .source("b", "")
        .handler("bad", "when = '.no == null'", "exit 65")
        .start();
    server.post("/hooks/a", "{}");
    server.post("/hooks/b", "{}");
    server.post("/hooks/a", "{\"no\":1}");
    server.until("select count(*) from outcomes where handler = 'alert'", "2");
    let alerts: Vec<Value> = received_alerts(&server)
        .iter()
        .map(|alert| json!([alert["type"], alert["source"], alert["event"]]))
        .collect();
    let expected = [json!(["event.unhandled", "b", 2]), json!(["event.unhandled", "a", 3])];
    assert!(expected.iter().all(|alert| alerts.contains(alert)), "{alerts:?}");
    until("alerts that no handler wants are discarded", || {
        server.value("select coalesce(sum(count), 0) from alerts") == "0"
    });
    assert_eq!(received_alerts(&server).len(), 2);
}

#[test]
fn no_alert_is_recorded_without_an_alert_handler() {
    let mut server = scenario().source("a", "").start();
    server.post("/hooks/a", "no handler");
    assert_eq!(server.value("select count(*) from alerts"), "0");
    server.write_file("alert.sh", "#!/bin/sh\ncat\n");
    server.reload_with("[handlers.alert]\nsources = [\"hooktrail\"]\ncommand = [\"./alert.sh\"]");
    server.until_reloads(1);
    server.post("/hooks/a", "none again");
    server.until("select count(*) from outcomes where handler = 'alert'", "1");
    assert_eq!(received_alerts(&server)[0]["event"], 2);
}

#[test]
fn a_silent_source_is_one_alert() {
    let server = with_alert_handler("true", "")
        .source("a", "alert_if_silent_for = \"1s\"")
        .source("b", "alert_if_silent_for = \"1h\"")
        .handler("h", "", "true")
        .start();
    server.post("/hooks/a", "x");
    server.until("select count(*) from outcomes where handler = 'alert'", "1");
    let alert = &received_alerts(&server)[0];
    assert_eq!((&alert["type"], &alert["source"]), (&json!("source.silent"), &json!("a")));
    let detail = alert["detail"].as_str().unwrap_or_default();
    assert!(detail.starts_with("no event for 1s, since 20"), "{detail}");
    server.until("select name from sources where is_silent", "a");
    // An event ends the silence. The next silence is another alert.
    server.post("/hooks/a", "x");
    server.until("select count from alerts where type = 'source.silent'", "1");
}

#[test]
fn the_silence_of_a_source_begins_at_its_last_event_even_after_a_crash() {
    let mut server = with_alert_handler("true", "")
        .source("a", "alert_if_silent_for = \"1h\"")
        .handler("h", "", "true")
        .start();
    let hour_ago = "update sources set last_seen_at = last_seen_at - 3600000 where name = 'a'";
    server.post("/hooks/a", "x");
    server.kill();
    server.open_database().execute_batch(hour_ago).expect("an hour");
    server.start();
    server.post("/hooks/a", "y");
    server.kill();
    // The last event is now an hour old, so the alert is due.
    let events = "update minute_counts set last_event_at = last_event_at - 3600000";
    server.open_database().execute_batch(&format!("{hour_ago}; {events}")).expect("an hour");
    assert_eq!(server.value("select count(*) from alerts"), "0");
    server.start();
    server.until("select count(*) from outcomes where handler = 'alert'", "1");
    assert_eq!(received_alerts(&server)[0]["type"], "source.silent");
}

#[test]
fn a_source_that_only_rejects_is_an_alert_if_it_has_accepted_before() {
    let verify = "verify = { scheme = \"bearer\", secret = { file = \"s\" } }";
    let scenario = with_alert_handler("true", "")
        .source("a", verify)
        .source("b", verify)
        .handler("h", "", "true");
    scenario.write_file("s", "right-and-long-enough");
    let mut server = scenario.start();
    let post = |server: &Server, path: &str, secret: &str| {
        server.request("POST", path, &format!("Authorization: Bearer {secret}"), b"x").status
    };
    assert_eq!(post(&server, "/hooks/a", "right-and-long-enough"), 202);
    for times in 1..=3 {
        for path in ["/hooks/b", "/hooks/a"].repeat(15) {
            assert_eq!(post(&server, path, "wrong"), 401);
        }
        // A reload does not end a streak of rejections.
        server.reload_with(&format!("[sources.more{times}]"));
        server.until_reloads(times);
    }
    server.until("select count(*) from outcomes where handler = 'alert'", "1");
    let alert = &received_alerts(&server)[0];
    assert_eq!((&alert["type"], &alert["source"]), (&json!("source.rejecting"), &json!("a")));
    assert_eq!(alert["detail"], "20 rejections in a row: bearer token does not match");
    assert_eq!(alert_count(&server, "source.rejecting"), 1);
    assert_eq!(server.value("select group_concat(name) from sources where is_rejecting"), "a");
    assert_eq!(post(&server, "/hooks/a", "right-and-long-enough"), 202);
    assert_eq!(server.value("select count(*) from sources where is_rejecting"), "0");
}

#[test]
fn low_disk_space_is_an_alert_although_requests_are_rejected() {
    let mut server =
        with_alert_handler("true", "").source("a", "").handler("h", "", "true").start();
    assert_eq!(server.stop(), Some(0));
    server.replace_in_config("min_free_space = 1024", "min_free_space = \"1000 TiB\"");

    server.start();
    server.until("select outcome from outcomes where handler = 'alert'", "succeeded");
    assert_eq!(server.post("/hooks/a", "x").status, 503);
    let alerts = received_alerts(&server);
    let detail = alerts[0]["detail"].as_str().unwrap_or_default();
    assert!(alerts[0]["type"] == "disk.low" && detail.contains("min_free_space"), "{alerts:?}");
}

#[test]
fn no_alert_is_lost_or_repeated_when_the_server_is_killed() {
    let mut server =
        with_alert_handler("true", "").source("a", "").handler("bad", "", "exit 65").start();
    for round in 1..=4 {
        server.post("/hooks/a", "x");
        if round % 2 == 0 {
            server.until("select count(*) from dead_jobs", &round.to_string());
        }
        server.kill();
        server.start();
    }
    server.until("select count(*) from dead_jobs", "4");
    assert_eq!(alert_count(&server, "job.dead"), 4);
    server.signal(Signal::TERM);
    assert_eq!(server.wait_for_exit(), Some(0));
    server.start();
    server.until("select count(*) from outcomes where handler = 'alert'", "1");
    assert_eq!(alert_count(&server, "job.dead"), 4);
}

#[test]
fn an_open_circuit_breaker_is_one_alert_and_its_recovery_another() {
    let keys = "breaker = { threshold = 2, cooldown = \"50ms\" }
                retry = { max_attempts = 1000, initial_delay = \"20ms\", max_delay = \"20ms\" }";
    let server = with_alert_handler("true", "")
        .source("a", "")
        .handler("bad", keys, "[ -e fixed ] || { echo no luck >&2; exit 1; }")
        .start();
    server.post("/hooks/a", "x");
    until("the circuit breaker has opened four times", || {
        let openings = server.value("select count(*) from breaker_log where change = 'opened'");
        openings.parse::<i64>().expect("a count") > 3
    });
    server.write_file("fixed", "");
    server.until("select count(*) from outcomes where handler = 'alert'", "2");
    let alerts: Vec<Value> = received_alerts(&server)
        .iter()
        .map(|alert| json!([alert["type"], alert["handler"], alert["source"]]))
        .collect();
    let expected = [
        json!(["handler.breaker_opened", "bad", null]),
        json!(["handler.breaker_closed", "bad", null]),
    ];
    assert_eq!(alerts, expected);
    assert_eq!(
        received_alerts(&server)[0]["detail"],
        "2 in a row, the last was job 1: exit 1: no luck"
    );
    assert_eq!(server.value("select sum(count) from alerts"), "0");
}

/// A server with the handler that `hooktrail init` writes. A stub replaces msmtp.
fn shipped_handler(env: &str) -> Server {
    let alert = Path::new(env!("CARGO_MANIFEST_DIR")).join("handlers/alert");
    let scenario = scenario().source("a", "").raw_config(&format!(
        "[handlers.alert]\nsources = [\"hooktrail\"]\ncommand = [\"{}\"]\nenv = {{ {env} }}",
        alert.display()
    ));
    scenario.write_file("msmtp", "#!/bin/sh\necho \"$@\" > sent\ncat >> sent\n");
    let path = format!("{}:{}", scenario.path().display(), std::env::var("PATH").unwrap());
    let server = scenario.wrapped_by(&["env", &format!("PATH={path}")]).start();
    server.post("/hooks/a", "no handler");
    server.until("select outcome from outcomes", "succeeded");
    server
}

#[test]
fn the_shipped_alert_handler_mails_alerts_with_msmtp() {
    let server = shipped_handler("ALERT_MAIL = \"ops@example.com\", ALERT_MSMTPRC = \"/x/rc\"");
    let sent = server.read_file("sent");
    let lines: Vec<&str> = sent.lines().collect();
    let head = ["--file=/x/rc -i -t", "To: ops@example.com", "Subject: hooktrail: event.unhandled"];
    assert_eq!(lines[..3], head);
    for line in ["\"source\":\"a\",", "\"event\":1,", "More: hooktrail show 2"] {
        assert!(lines.contains(&line), "{sent}");
    }
}

#[test]
fn the_shipped_alert_handler_mails_alerts_that_it_cannot_post() {
    let server = shipped_handler(
        "ALERT_MAIL = \"ops@example.com\", ALERT_URL = \"http://127.0.0.1:9/\", no_proxy = \"*\"",
    );
    assert!(server.read_file("sent").starts_with("-i -t\nTo: ops@example.com\n"));
}

#[test]
fn a_failed_mail_program_is_retried_whatever_its_exit_code() {
    let mut server = with_alert_handler("", "").source("a", "").prepare();
    let alert = Path::new(env!("CARGO_MANIFEST_DIR")).join("handlers/alert");
    server.write_file("msmtp", "#!/bin/sh\necho rejected >&2; exit 65\n");
    let script = std::fs::read_to_string(alert).unwrap();
    let path = format!("PATH={}:$PATH ALERT_MAIL=you@example.com\n", server.path().display());
    server.write_file("alert.sh", &script.replacen("set -eu\n", &format!("set -eu\n{path}"), 1));
    server.start();
    server.post("/hooks/a", "no handler");
    server.until(
        "select job_state || ': ' || detail from outcomes where handler = 'alert'",
        "queued: exit 75: rejected",
    );
}

#[test]
fn the_chat_message_of_the_alerts_page_says_what_happened() {
    let page = std::fs::read_to_string("docs/alerts.md").unwrap();
    let transform = page.lines().find(|line| line.starts_with("transform = ")).unwrap();
    let receiver = scenario().source("chat", "").start();
    let server = scenario()
        .source("a", "")
        .handler("bad", "", "echo no luck >&2; exit 65")
        .raw_config(&format!(
            "[handlers.chat]\nsources = [\"hooktrail\"]\n\
             url = \"http://127.0.0.1:{}/hooks/chat\"\n{transform}",
            receiver.port
        ))
        .start();
    server.post("/hooks/a", "x");
    receiver.until(
        "select cast(body as text) from events",
        r#"{"text":"hooktrail: job.dead a bad exit 65: no luck"}"#,
    );
}

#[test]
fn the_shipped_alert_handler_posts_alerts() {
    let receiver = scenario().source("alerts", "").start();
    let url = format!("http://127.0.0.1:{}/hooks/alerts", receiver.port);
    let server = shipped_handler(&format!("ALERT_URL = \"{url}\""));
    let body = receiver.value("select cast(body as text) from events");
    assert_eq!(serde_json::from_str::<Value>(&body).expect("JSON"), received_alerts(&server)[0]);
}
