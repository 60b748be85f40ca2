//! The source `hooktrail`: what the server has to tell, as events that any handler may take.

use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::server::{Scenario, Server, scenario, until};

/// A server that hands its alerts to a handler `alert`, which runs this.
fn told(script: &str, keys: &str) -> Scenario {
    scenario().handler("alert", keys, script).from("alert", "hooktrail")
}

/// What was told so far, by `alert`.
fn alerts(server: &Server) -> Vec<Value> {
    let events = server.list(
        "select cast(e.body as text) from events e join sources s on s.id = e.source \
         where s.name = 'hooktrail' order by e.id",
    );
    events.iter().map(|body| serde_json::from_str(body).expect("JSON")).collect()
}

/// How often this was told, and is still to be, at one moment.
fn told_of(server: &Server, kind: &str) -> i64 {
    let count = server.value(&format!(
        "with told (body) as materialized (select cast(e.body as text) from events e
             join sources s on s.id = e.source where s.name = 'hooktrail')
         select coalesce((select sum(json_extract(body, '$.count')) from told
             where json_extract(body, '$.type') = '{kind}'), 0)
           + coalesce((select sum(count) from alerts where type = '{kind}'), 0)"
    ));
    count.parse().expect("a count")
}

#[test]
fn a_dead_job_is_told_to_the_handler_that_takes_alerts() {
    let server = told("cat", "")
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
    assert_eq!(event, "hooktrail 1 1", "it came from no address");
}

#[test]
fn of_one_kind_one_a_minute_is_told_and_none_is_forgotten() {
    let server = told("true", "")
        .source("a", "")
        .handler("bad", "", "exit 65")
        .handler("worse", "", "exit 65")
        .start();
    for _ in 0..10 {
        server.post("/hooks/a", "x");
    }
    server.until("select count(*) from dead_jobs", "20");
    server.until("select count(*) from outcomes where handler = 'alert'", "2");
    assert_eq!(told_of(&server, "job.dead"), 20);
    let mut handlers: Vec<Value> =
        alerts(&server).into_iter().map(|mut alert| alert["handler"].take()).collect();
    handlers.sort_by_key(Value::to_string);
    assert_eq!(handlers, ["bad", "worse"], "one each, within the minute");
}

#[test]
fn an_alert_that_fails_makes_none() {
    let server = told("exit 65", "").source("a", "").start();
    server.post("/hooks/a", "nobody takes it");
    server.until("select count(*) from dead_jobs where handler = 'alert'", "1");
    // It would have been noted with its outcome.
    assert_eq!(server.value("select count(*) from alerts where type <> 'event.unhandled'"), "0");
    assert_eq!(alerts(&server).len(), 1);
}

#[test]
fn an_event_that_nobody_takes_is_told_where_it_is_wanted() {
    let server = told("true", "when = '.type == \"event.unhandled\"'")
        .source("a", "")
        .source("b", "")
        .handler("bad", "when = '.no == null'", "exit 65")
        .start();
    server.post("/hooks/a", "{}");
    server.post("/hooks/b", "{}");
    server.post("/hooks/a", "{\"no\":1}");
    server.until("select count(*) from outcomes where handler = 'alert'", "2");
    let told: Vec<Value> =
        alerts(&server).iter().map(|it| json!([it["type"], it["source"], it["event"]])).collect();
    let expected = [json!(["event.unhandled", "b", 2]), json!(["event.unhandled", "a", 3])];
    assert!(expected.iter().all(|one| told.contains(one)), "{told:?}");
    until("what is not wanted is not kept for later", || {
        server.value("select coalesce(sum(count), 0) from alerts") == "0"
    });
    assert_eq!(alerts(&server).len(), 2);
}

#[test]
fn without_a_handler_that_takes_them_there_are_none() {
    let mut server = scenario().source("a", "").start();
    server.post("/hooks/a", "nobody takes it");
    assert_eq!(server.value("select count(*) from alerts"), "0");
    server.file("alert.sh", "#!/bin/sh\ncat\n");
    server.reload_with("[handlers.alert]\nsources = [\"hooktrail\"]\ncommand = [\"./alert.sh\"]");
    until("the configuration is reloaded", || server.log().contains(": reloaded"));
    server.post("/hooks/a", "nor this");
    server.until("select count(*) from outcomes where handler = 'alert'", "1");
    assert_eq!(alerts(&server)[0]["event"], 2);
}

#[test]
fn a_silence_is_told_once() {
    let server = told("true", "")
        .source("a", "alert_if_silent_for = \"1s\"")
        .source("b", "alert_if_silent_for = \"1h\"")
        .handler("h", "", "true")
        .start();
    server.post("/hooks/a", "x");
    server.until("select count(*) from outcomes where handler = 'alert'", "1");
    let told = &alerts(&server)[0];
    assert_eq!((&told["type"], &told["source"]), (&json!("source.silent"), &json!("a")));
    let detail = told["detail"].as_str().unwrap_or_default();
    assert!(detail.starts_with("no event for 1s, since 20"), "{detail}");
    server.until("select name from sources where is_silent", "a");
    // The next event ends it; the next silence is another.
    server.post("/hooks/a", "x");
    server.until("select count from alerts where type = 'source.silent'", "1");
}

#[test]
fn a_silence_is_counted_from_the_last_event_also_after_a_crash() {
    let mut server = told("true", "")
        .source("a", "alert_if_silent_for = \"1h\"")
        .handler("h", "", "true")
        .start();
    let hour_ago = "update sources set last_seen_at = last_seen_at - 3600000 where name = 'a'";
    server.post("/hooks/a", "x");
    server.kill();
    server.trail().execute_batch(hour_ago).expect("an hour");
    server.start();
    server.post("/hooks/a", "y");
    server.kill();
    // Its last event is an hour ago now, and so the alert is due.
    let events = "update events set received_at = received_at - 3600000";
    server.trail().execute_batch(&format!("{hour_ago}; {events}")).expect("an hour");
    assert_eq!(server.value("select count(*) from alerts"), "0");
    server.start();
    server.until("select count(*) from outcomes where handler = 'alert'", "1");
    assert_eq!(alerts(&server)[0]["type"], "source.silent");
}

#[test]
fn a_source_that_only_refuses_is_told_if_it_ever_accepted() {
    let verify = "verify = { scheme = \"bearer\", secret = { file = \"s\" } }";
    let scenario =
        told("true", "").source("a", verify).source("b", verify).handler("h", "", "true");
    scenario.file("s", "right-and-long-enough");
    let mut server = scenario.start();
    let post = |server: &Server, path: &str, secret: &str| {
        server.request("POST", path, &format!("Authorization: Bearer {secret}"), b"x").status
    };
    assert_eq!(post(&server, "/hooks/a", "right-and-long-enough"), 202);
    for times in 1..=3 {
        for path in ["/hooks/b", "/hooks/a"].repeat(15) {
            assert_eq!(post(&server, path, "wrong"), 401);
        }
        // A reload ends no row of refusals.
        server.reload_with(&format!("[sources.more{times}]"));
        server.until("select count(*) from audit_log where action = 'reload'", &times.to_string());
    }
    server.until("select count(*) from outcomes where handler = 'alert'", "1");
    let told = &alerts(&server)[0];
    assert_eq!((&told["type"], &told["source"]), (&json!("source.rejecting"), &json!("a")));
    assert_eq!(told["detail"], "20 rejections in a row: bearer token does not match");
    assert_eq!(told_of(&server, "source.rejecting"), 1);
    assert_eq!(server.value("select group_concat(name) from sources where is_rejecting"), "a");
    assert_eq!(post(&server, "/hooks/a", "right-and-long-enough"), 202);
    assert_eq!(server.value("select count(*) from sources where is_rejecting"), "0");
}

#[test]
fn a_disk_without_room_is_told_although_senders_are_refused() {
    let mut server = told("true", "").source("a", "").handler("h", "", "true").start();
    assert_eq!(server.stop(), Some(0));
    let text = server.config().replace("min_free_space = 1024", "min_free_space = \"1000 TiB\"");
    *server.config() = text;
    server.write_config();
    server.start();
    server.until("select outcome from outcomes where handler = 'alert'", "succeeded");
    assert_eq!(server.post("/hooks/a", "x").status, 503);
    let told = alerts(&server);
    let detail = told[0]["detail"].as_str().unwrap_or_default();
    assert!(told[0]["type"] == "disk.low" && detail.contains("min_free_space"), "{told:?}");
}

#[test]
fn no_alert_is_lost_or_told_twice_however_often_the_server_is_killed() {
    let mut server = told("true", "").source("a", "").handler("bad", "", "exit 65").start();
    for round in 1..=4 {
        server.post("/hooks/a", "x");
        if round % 2 == 0 {
            server.until("select count(*) from dead_jobs", &round.to_string());
        }
        server.kill();
        server.start();
    }
    server.until("select count(*) from dead_jobs", "4");
    assert_eq!(told_of(&server, "job.dead"), 4);
    server.signal(Signal::TERM);
    assert_eq!(server.ended(), Some(0));
    server.start();
    server.until("select count(*) from outcomes where handler = 'alert'", "1");
    assert_eq!(told_of(&server, "job.dead"), 4);
}

#[test]
fn a_handler_that_rests_is_told_once_and_that_it_recovered() {
    let keys = "breaker = { threshold = 2, cooldown = \"50ms\" }
                retry = { max_attempts = 1000, initial_delay = \"20ms\", max_delay = \"20ms\" }";
    let server = told("true", "")
        .source("a", "")
        .handler("bad", keys, "[ -e mended ] || { echo no luck >&2; exit 1; }")
        .start();
    server.post("/hooks/a", "x");
    until("it rests again and again", || {
        let rests = server.value("select count(*) from breaker_log where change = 'opened'");
        rests.parse::<i64>().expect("a count") > 3
    });
    server.file("mended", "");
    server.until("select count(*) from outcomes where handler = 'alert'", "2");
    let told: Vec<Value> =
        alerts(&server).iter().map(|it| json!([it["type"], it["handler"], it["source"]])).collect();
    let expected = [
        json!(["handler.breaker_opened", "bad", null]),
        json!(["handler.breaker_closed", "bad", null]),
    ];
    assert_eq!(told, expected);
    assert_eq!(alerts(&server)[0]["detail"], "2 in a row, the last was job 1: exit 1: no luck");
    assert_eq!(server.value("select sum(count) from alerts"), "0");
}

/// The example that ships, with programs of the test's own in the place of those that send.
fn shipped(env: &str) -> Server {
    let alert = Path::new(env!("CARGO_MANIFEST_DIR")).join("handlers/alert");
    let scenario = scenario().source("a", "").with(&format!(
        "[handlers.alert]\nsources = [\"hooktrail\"]\ncommand = [\"{}\"]\nenv = {{ {env} }}",
        alert.display()
    ));
    scenario.file("sendmail", "#!/bin/sh\necho \"$@\" > sent\ncat >> sent\n");
    let server = scenario.start();
    server.post("/hooks/a", "nobody takes it");
    server.until("select outcome from outcomes", "succeeded");
    server
}

#[test]
fn the_example_mails_what_it_is_told() {
    let server = shipped("ALERT_MAIL = \"ops@example.com\", SENDMAIL = \"./sendmail\"");
    let sent = server.text_of("sent");
    let lines: Vec<&str> = sent.lines().collect();
    let head = ["-i -t", "To: ops@example.com", "Subject: hooktrail: event.unhandled"];
    assert_eq!(lines[..3], head);
    for line in ["\"source\":\"a\",", "\"event\":1,", "More: hooktrail show 2"] {
        assert!(lines.contains(&line), "{sent}");
    }
}

#[test]
fn the_example_posts_what_it_is_told() {
    let receiver = scenario().source("alerts", "").start();
    let url = format!("http://127.0.0.1:{}/hooks/alerts", receiver.port);
    let server = shipped(&format!("ALERT_URL = \"{url}\""));
    let body = receiver.value("select cast(body as text) from events");
    assert_eq!(serde_json::from_str::<Value>(&body).expect("JSON"), alerts(&server)[0]);
}
