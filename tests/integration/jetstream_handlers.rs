//! Handlers with `jetstream`: the message of a job, what the stream does with it, and clusters that do not.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::support::nats::{Access, NatsServer, StoredMessage, nats_server};
use crate::support::server::{Scenario, Server, scenario, until};
use crate::support::tls_client::Authority;

/// A handler of source `a` that publishes to stream `S`, with further keys of `jetstream` and of the handler.
fn handler(nats: &NatsServer, jetstream: &str, keys: &str) -> String {
    handler_at(&nats.url(), jetstream, keys)
}

fn handler_at(url: &str, jetstream: &str, keys: &str) -> String {
    let subject = if jetstream.contains("subject") { "" } else { ", subject = \"hooks.a\"" };
    format!(
        "[handlers.forward]\nsources = [\"a\"]\nretry = {{ initial_delay = \"10ms\", max_delay = \"100ms\" }}\n\
         breaker = {{ threshold = 0 }}\n{keys}\n\
         jetstream = {{ servers = [\"{url}\"], stream = \"S\"{subject}{jetstream} }}"
    )
}

fn forwarding(nats: &NatsServer, jetstream: &str, keys: &str) -> Scenario {
    scenario().source("a", "").raw_config(&handler(nats, jetstream, keys))
}

/// A nats-server with the stream `S` for `hooks.>`.
fn nats_with_stream(keys: Value) -> NatsServer {
    let nats = nats_server().start();
    nats.client().create_stream("S", &["hooks.>"], keys);
    nats
}

fn post_json(server: &Server, body: &str) {
    let response =
        server.request("POST", "/hooks/a", "Content-Type: application/json", body.as_bytes());
    assert_eq!(response.status, 202);
}

fn header<'m>(message: &'m StoredMessage, name: &str) -> Option<&'m str> {
    message.headers.get(name).map(String::as_str)
}

#[test]
fn a_message_has_the_body_the_key_and_the_request_of_its_job() {
    let nats = nats_with_stream(json!({}));
    let server = forwarding(&nats, "", "").start();
    let headers =
        "Content-Type: text/csv\nX-Delivery: 7\nNats-Rollup: all\nAuthorization: Bearer x";
    server.request("PUT", "/hooks/a?q=%201", headers, b"");
    server.request("POST", "/hooks/a?q=%201", headers, b"a;b\r\n\0\xff");
    server.until("select outcome || ': ' || detail from outcomes", "succeeded: sequence 1");
    let message = nats.client().messages("S").remove(0);
    assert_eq!(
        (message.subject.as_str(), &message.payload[..]),
        ("hooks.a", &b"a;b\r\n\0\xff"[..])
    );
    let received_at = server.value("select received_at from trail");
    for (name, value) in [
        ("Nats-Expected-Stream", Some("S")),
        ("Content-Type", Some("text/csv")),
        ("Hooktrail-Source", Some("a")),
        ("Hooktrail-Event", Some("1")),
        ("Hooktrail-Handler", Some("forward")),
        ("Hooktrail-Item", None),
        ("Hooktrail-Received-At", Some(received_at.as_str())),
        ("Hooktrail-Ip", Some("127.0.0.1")),
        ("Hooktrail-Method", Some("POST")),
        ("Hooktrail-Path", Some("/hooks/a")),
        ("Hooktrail-Query", Some("q=%201")),
        ("Hooktrail-Key", None),
        ("Nats-Rollup", None),
    ] {
        assert_eq!(header(&message, name), value, "{name}");
    }
    assert!(header(&message, "Nats-Msg-Id").unwrap().ends_with("-forward-0-0"));
    let request: Value =
        serde_json::from_str(header(&message, "Hooktrail-Headers").unwrap()).unwrap();
    assert_eq!(
        (&request["x-delivery"], &request["authorization"]),
        (&json!("7"), &json!("[redacted]"))
    );
}

#[test]
fn an_item_is_a_message_with_its_number_its_subject_and_its_transformed_body() {
    let nats = nats_with_stream(json!({}));
    let keys = "split = '.ids[]'\ntransform = '{n: .id}'";
    let server = forwarding(&nats, ", subject = 'hooks.{.kind // \"none\"}.{.id}'", keys).start();
    post_json(&server, r#"{"ids":[{"id":5,"kind":"x"},{"id":"six"}]}"#);
    server.until("select count(*) from outcomes where outcome = 'succeeded'", "2");
    let mut found: Vec<_> = nats
        .client()
        .messages("S")
        .into_iter()
        .map(|message| {
            let item = header(&message, "Hooktrail-Item").unwrap().to_owned();
            assert_eq!(header(&message, "Content-Type"), Some("application/json"));
            assert!(
                header(&message, "Nats-Msg-Id").unwrap().ends_with(&format!("-forward-{item}-0"))
            );
            (item, message.subject, String::from_utf8(message.payload).unwrap())
        })
        .collect();
    found.sort();
    let expected = [("1", "hooks.x.5", r#"{"n":5}"#), ("2", "hooks.none.six", r#"{"n":"six"}"#)];
    let expected = expected
        .map(|(item, subject, body)| (item.to_owned(), subject.to_owned(), body.to_owned()));
    assert_eq!(found, expected);
}

#[test]
fn a_value_that_is_no_token_of_a_subject_makes_the_job_dead() {
    let nats = nats_with_stream(json!({}));
    let server = forwarding(&nats, ", subject = \"hooks.{.id}\"", "").start();
    for id in ["\"a.b\"", "\"*\"", "\">\"", "\"a b\"", "\"\"", "null", "[1]", "\"a\\nb\"", "\"ü\""]
    {
        post_json(&server, &format!("{{\"id\":{id}}}"));
    }
    server.until("select count(*) from trail where settled_at is not null", "9");
    let details = server.column("select detail from dead_jobs order by job");
    assert_eq!(details.len(), 8, "{details:?}");
    assert!(details.iter().all(|detail| detail.starts_with("subject: ")), "{details:?}");
    assert!(
        details[0].starts_with("subject: \"a.b\" is no token of a subject: expected text without"),
        "{details:?}"
    );
    assert_eq!(details[5], "subject: null is neither text nor a number");
    assert_eq!(nats.client().messages("S")[0].subject, "hooks.ü");
}

#[test]
fn two_machines_with_a_message_id_publish_one_message_and_replays_publish_others() {
    let nats = nats_with_stream(json!({}));
    let start = || forwarding(&nats, ", message_id = \".form\"", "").start();
    let (first, second) = (start(), start());
    post_json(&first, r#"{"form":"f-1"}"#);
    first.until("select detail from outcomes", "sequence 1");
    post_json(&second, r#"{"form":"f-1"}"#);
    second.until("select detail from outcomes", "sequence 1: the stream had this message already");
    assert_eq!(second.cli(&["replay", "1", "--yes"]).status.code(), Some(0));
    second.until("select detail from outcomes order by id desc limit 1", "sequence 2");
    post_json(&second, r#"{"other":1}"#);
    second.until("select detail from dead_jobs", "message_id: null is neither text nor a number");
}

#[test]
fn a_job_whose_first_attempt_was_published_is_no_second_message() {
    let nats = nats_with_stream(json!({}));
    let server = forwarding(&nats, "", "").start();
    post_json(&server, "{}");
    server.until("select detail from outcomes", "sequence 1");
    // `run` publishes under the key of the job, as a second attempt after a crash would.
    let (code, text) = server.cli_text(&["run", "forward", "1"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("the stream had this message already"), "{text}");
    assert_eq!(nats.client().message_count("S"), 1);
}

#[test]
fn each_kind_of_credentials_is_accepted() {
    for (access, secret) in [
        (Access::Password, "hooktrail:a long password\n".to_owned()),
        (Access::Token, "a-long-token".to_owned()),
        (Access::Nkey, String::new()),
        (Access::Credentials, String::new()),
    ] {
        let nats = nats_server().access(access).start();
        nats.client().create_stream("S", &["hooks.>"], json!({}));
        let secret = match access {
            Access::Nkey => std::fs::read_to_string(nats.path().join("user.nk")).unwrap(),
            Access::Credentials => std::fs::read_to_string(nats.path().join("user.creds")).unwrap(),
            _ => secret,
        };
        let scenario = forwarding(&nats, ", credentials = { file = \"secret\" }", "");
        scenario.write_file("secret", &secret);
        let server = scenario.start();
        post_json(&server, "{}");
        server.until("select detail from outcomes", "sequence 1");
        let (code, text) = server.cli_text(&["check", "--connect"]);
        assert_eq!(code, Some(0), "{access:?}: {text}");
        assert!(!server.log().contains(secret.trim()), "{}", server.log());
    }
}

#[test]
fn wrong_credentials_are_an_outcome_and_a_retry() {
    let nats = nats_server().access(Access::Password).start();
    nats.client().create_stream("S", &["hooks.>"], json!({}));
    let scenario = forwarding(&nats, ", credentials = { file = \"secret\" }", "timeout = \"1s\"");
    scenario.write_file("secret", "hooktrail:wrong");
    let mut server = scenario.start();
    post_json(&server, "{}");
    let url = nats.url();
    let detail = format!("not connected to {url}: authorization violation: check the credentials");
    server.until("select outcome || ' ' || job_state from outcomes limit 1", "failed queued");
    assert_eq!(server.value("select detail from outcomes limit 1"), detail);
    let (code, text) = server.cli_text(&["check", "--connect"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&format!("handlers.forward.jetstream: {detail}")), "{text}");
    server.write_file("secret", "hooktrail:a long password");
    server.reload_with("");
    server.until("select count(*) from outcomes where detail = 'sequence 1'", "1");
}

#[test]
fn tls_shows_a_certificate_and_checks_that_of_the_server() {
    let (authority, other) = (Authority::new("CA"), Authority::new("another CA"));
    let nats = nats_server().tls(&authority).start();
    nats.client().create_stream("S", &["hooks.>"], json!({}));
    let file = |name: &str| nats.path().join(name).display().to_string();
    let tls = |ca: &str| {
        let (certificate, key) = (file("client.pem"), file("client.key"));
        format!(", tls = {{ ca = \"{ca}\", certificate = \"{certificate}\", key = \"{key}\" }}")
    };
    let server = forwarding(&nats, &tls(&file("ca.pem")), "").start();
    post_json(&server, "{}");
    server.until("select detail from outcomes", "sequence 1");
    let scenario = forwarding(&nats, &tls("other.pem"), "timeout = \"1s\"");
    scenario.write_file("other.pem", &other.pem());
    let server = scenario.start();
    post_json(&server, "{}");
    server.until("select outcome from outcomes limit 1", "failed");
    let detail = server.value("select detail from outcomes limit 1");
    assert!(detail.contains("invalid peer certificate"), "{detail}");
}

#[test]
fn jobs_wait_for_a_stream_that_does_not_exist_yet() {
    let nats = nats_server().start();
    let server = forwarding(&nats, "", "").start();
    post_json(&server, "{}");
    server.until("select outcome from outcomes limit 1", "failed");
    assert_eq!(
        server.value("select detail from outcomes limit 1"),
        "no stream takes the subject hooks.a: stream S does not exist, does not have this subject, or has no leader now"
    );
    let (code, text) = server.cli_text(&["check", "--connect"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("handlers.forward.jetstream: stream S: "), "{text}");
    nats.client().create_stream("S", &["hooks.>"], json!({}));
    server.until("select job_state from outcomes limit 1", "succeeded");
}

#[test]
fn a_subject_of_another_stream_is_not_published_there() {
    let nats = nats_server().start();
    nats.client().create_stream("OTHER", &["hooks.>"], json!({}));
    nats.client().create_stream("S", &["s.>"], json!({}));
    let server = forwarding(&nats, "", "").start();
    post_json(&server, "{}");
    server.until(
        "select detail from outcomes limit 1",
        "the subject hooks.a belongs to another stream than S",
    );
    assert_eq!(nats.client().message_count("OTHER"), 0);
    let (code, text) = server.cli_text(&["check", "--connect"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("stream S does not take the subject hooks.a: its subjects are s.>"),
        "{text}"
    );
}

#[test]
fn a_full_stream_delays_jobs_and_loses_none() {
    let nats = nats_with_stream(json!({ "max_msgs": 2, "discard": "new" }));
    let server = forwarding(&nats, "", "concurrency = 1\nbatch_size = 1").start();
    (0..4).for_each(|_| post_json(&server, "{}"));
    server.until("select count(distinct job) from outcomes where outcome = 'failed'", "2");
    let detail = server.value("select detail from outcomes where outcome = 'failed' limit 1");
    assert!(detail.starts_with("stream S: maximum messages exceeded"), "{detail}");
    nats.client().try_call("STREAM.PURGE.S", &json!({})).unwrap();
    server.until("select count(*) from outcomes where outcome = 'succeeded'", "4");
}

#[test]
fn a_message_that_is_too_large_makes_the_job_dead_at_once() {
    let nats = nats_server().config("max_payload: 2048").start();
    nats.client().create_stream("S", &["hooks.>"], json!({ "max_msg_size": 1024 }));
    let server = forwarding(&nats, "", "").start();
    for bytes in [3000, 1000, 1] {
        server.post("/hooks/a", "x".repeat(bytes));
    }
    server.until("select count(*) from trail where settled_at is not null", "3");
    let details = server.column("select detail from dead_jobs order by job");
    assert_eq!(details.len(), 2, "{details:?}");
    assert!(
        details[0].starts_with("the message is larger than the server's max_payload: "),
        "{details:?}"
    );
    assert!(
        details[1].starts_with("stream S: message size exceeds maximum allowed"),
        "{details:?}"
    );
    assert_eq!(server.value("select count(*) from outcomes"), "3");
}

#[test]
fn a_stream_that_never_acknowledges_is_a_timeout() {
    let nats = nats_with_stream(json!({ "no_ack": true }));
    let server = forwarding(&nats, "", "timeout = \"300ms\"").start();
    post_json(&server, "{}");
    server.until("select outcome from outcomes limit 1", "timed_out");
    let detail = server.value("select detail from outcomes limit 1");
    assert_eq!(detail, "timeout 300ms: waiting for the acknowledgement of stream S");
}

#[test]
fn a_missing_permission_is_named_in_the_timeout() {
    let nats = nats_server()
        .config(
            "authorization { users: [
               { user: admin, password: admin },
               { user: u, password: p, permissions: { publish: { deny: [\"hooks.>\"] } } } ] }\nno_auth_user: admin",
        )
        .start();
    nats.client().create_stream("S", &["hooks.>"], json!({}));
    let scenario =
        forwarding(&nats, ", credentials = { file = \"secret\" }", "timeout = \"500ms\"");
    scenario.write_file("secret", "u:p");
    let server = scenario.start();
    post_json(&server, "{}");
    server.until("select outcome from outcomes limit 1", "timed_out");
    let detail = server.value("select detail from outcomes limit 1").to_lowercase();
    assert!(detail.contains("permissions violation for publish to \"hooks.a\""), "{detail}");
}

#[test]
fn a_server_that_says_nothing_is_a_failure() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("nats://{}", silent.local_addr().unwrap());
    let server =
        scenario().source("a", "").raw_config(&handler_at(&url, "", "timeout = \"300ms\"")).start();
    post_json(&server, "{}");
    server.until("select outcome from outcomes limit 1", "failed");
    let detail = server.value("select detail from outcomes limit 1");
    assert!(detail.starts_with(&format!("not connected to {url}: ")), "{detail}");
}

#[test]
fn a_silent_stream_delays_neither_a_cancel_nor_a_stop() {
    let nats = nats_with_stream(json!({ "no_ack": true }));
    let mut server = forwarding(&nats, "", "timeout = \"1h\"").server("").start();
    post_json(&server, "{}");
    server.until("select state from queue_depth", "running");
    assert_eq!(server.cli(&["cancel", "1"]).status.code(), Some(0));
    server.until("select outcome || ': ' || detail from outcomes", "interrupted: cancelled");
    post_json(&server, "{}");
    server.until("select state from queue_depth", "running");
    server.signal(rustix::process::Signal::TERM);
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait_for_exit(), Some(0));
    assert_eq!(
        server.value("select outcome || ': ' || detail from outcomes order by id desc limit 1"),
        "interrupted: the server was stopped"
    );
}

#[test]
fn senders_notice_nothing_while_the_cluster_is_away_and_each_job_is_published_once() {
    let mut nats = nats_with_stream(json!({}));
    let server = forwarding(&nats, "", "timeout = \"500ms\"").start();
    post_json(&server, "{\"n\":0}");
    server.until("select detail from outcomes", "sequence 1");
    nats.kill();
    (1..=50).for_each(|n| post_json(&server, &format!("{{\"n\":{n}}}")));
    server.until("select min(50, count(*)) from outcomes where outcome = 'failed'", "50");
    nats.restart();
    server.until("select succeeded from (select sum(succeeded) as succeeded from trail)", "51");
    let mut bodies: Vec<Vec<u8>> =
        nats.client().messages("S").into_iter().map(|m| m.payload).collect();
    bodies.sort();
    bodies.dedup();
    assert_eq!((bodies.len(), nats.client().message_count("S")), (51, 51));
}

#[test]
fn acknowledgements_that_a_crash_of_the_cluster_swallowed_cost_no_second_message() {
    let mut nats = nats_with_stream(json!({}));
    let server = forwarding(&nats, "", "concurrency = 4\nbatch_size = 50").start();
    for round in 0..4 {
        (0..100).for_each(|n| post_json(&server, &format!("{{\"n\":\"{round}-{n}\"}}")));
        nats.kill();
        nats.restart();
        nats.until_healthy();
    }
    server.until("select sum(succeeded) from trail", "400");
    let mut bodies: Vec<Vec<u8>> =
        nats.client().messages("S").into_iter().map(|m| m.payload).collect();
    let count = bodies.len();
    bodies.sort();
    bodies.dedup();
    assert_eq!((bodies.len(), count), (400, 400), "the stream recognises each repeat");
}

#[test]
fn a_reload_changes_the_stream_of_a_handler() {
    let nats = nats_with_stream(json!({}));
    nats.client().create_stream("T", &["other.>"], json!({}));
    let mut server = forwarding(&nats, "", "").start();
    post_json(&server, "{}");
    server.until("select detail from outcomes", "sequence 1");
    server.replace_in_config(
        "stream = \"S\", subject = \"hooks.a\"",
        "stream = \"T\", subject = \"other.a\"",
    );
    server.reload_with("");
    server.until_reloads(1);
    post_json(&server, "{}");
    server.until("select count(*) from outcomes where outcome = 'succeeded'", "2");
    assert_eq!((nats.client().message_count("S"), nats.client().message_count("T")), (1, 1));
}

#[test]
fn a_check_of_the_connections_says_what_it_found() {
    let nats = nats_with_stream(json!({ "duplicate_window": 3_600_000_000_000_u64 }));
    let scenario = forwarding(&nats, ", subject = \"hooks.{.id}\"", "");
    let servers = format!("servers = [\"{}\"]", nats.url());
    let source =
        format!("[sources.s]\njetstream = {{ {servers}, stream = \"S\", consumer = \"c\" }}");
    let handler = "[handlers.h]\nsources = [\"s\"]\ncommand = [\"true\"]";
    let server = scenario.raw_config(&source).raw_config(handler).prepare();
    let (code, text) = server.cli_text(&["check", "--connect"]);
    assert_eq!(code, Some(0), "{text}");
    let stream = "stream S: one replica on disk, duplicate window 1h";
    for line in [
        format!("handler forward: {stream}, messages up to 1048576 bytes"),
        format!("source s: {stream}, consumer c: there is none, the server creates it"),
    ] {
        assert!(text.lines().any(|found| found == line), "{text} has not {line}");
    }
    until("nothing was created", || {
        nats.client().try_call("CONSUMER.INFO.S.c", &json!({})).is_err()
    });
}
