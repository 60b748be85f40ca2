//! Sources with `jetstream`: what becomes of each message here and in its stream.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::support::admin::Api;
use crate::support::nats::{
    DISTRIBUTED, NatsClient, NatsCluster, NatsServer, nats_server, newer_nats_server, version_of,
};
use crate::support::server::{Scenario, Server, scenario, until};

/// A source `a` that reads stream `S` by consumer `c`, with further keys of `jetstream` and of the source, and a handler.
fn reading(nats: &NatsServer, jetstream: &str, keys: &str) -> Scenario {
    scenario().source("a", &source_keys(nats, jetstream, keys)).handler("h", "", "cat")
}

fn source_keys(nats: &NatsServer, jetstream: &str, keys: &str) -> String {
    let url = nats.url();
    format!(
        "jetstream = {{ servers = [\"{url}\"], stream = \"S\", consumer = \"c\"{jetstream} }}\n{keys}"
    )
}

fn nats_with_stream() -> NatsServer {
    let nats = nats_server().start();
    nats.client().create_stream("S", &["hooks.>"], json!({}));
    nats
}

fn create_consumer(client: &NatsClient, keys: Value) {
    let mut config = json!({ "durable_name": "c", "ack_policy": "explicit", "ack_wait": 1_000_000_000_u64, "max_ack_pending": 100 });
    config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    let request = json!({ "stream_name": "S", "config": config });
    client.try_call("CONSUMER.DURABLE.CREATE.S.c", &request).unwrap();
}

fn publish_numbers(client: &NatsClient, count: u32, body: impl Fn(u32) -> String) {
    for n in 0..count {
        client.publish("hooks.a", &[], body(n).as_bytes());
    }
}

/// The numbers of messages that the consumer has not delivered yet, and that are not acknowledged.
fn unread(client: &NatsClient) -> Option<(u64, u64)> {
    let info = client.try_call("CONSUMER.INFO.S.c", &json!({})).ok()?;
    Some((info["num_pending"].as_u64()?, info["num_ack_pending"].as_u64()?))
}

#[track_caller]
fn until_acknowledged(client: &NatsClient) {
    until("each message is acknowledged", || unread(client) == Some((0, 0)));
}

#[test]
fn a_message_of_another_program_becomes_an_event() {
    let nats = nats_with_stream();
    let client = nats.client();
    let server = reading(&nats, "", "").start();
    client.publish("hooks.x", &[("Content-Type", "text/csv"), ("X-Kind", "form")], b"a;b\0\xff");
    server.until("select stdout from attempts", "a;b\0\u{fffd}");
    let row = server.rows(
        "select method, path, query, ip, client, origin_key, cast(headers as text) from events",
    );
    let text = |index: usize| crate::support::server::display_value(&row[0][index]);
    assert_eq!(
        (text(0), text(1), text(5)),
        ("POST".to_owned(), "hooks.x".to_owned(), "S:1".to_owned())
    );
    assert_eq!(text(6), "content-type: text/csv\nx-kind: form\n");
    assert_eq!(server.value("select hex(body) from events"), "613B6200FF");
    until_acknowledged(&client);
}

#[test]
fn an_event_of_another_machine_keeps_its_request_and_its_key() {
    let nats = nats_with_stream();
    let forward = format!(
        "[handlers.forward]\nsources = [\"a\"]\n\
         jetstream = {{ servers = [\"{}\"], stream = \"S\", subject = \"hooks.a\" }}",
        nats.url()
    );
    let first = scenario().source("a", "").raw_config(&forward).start();
    let script = "cat; echo; echo $HOOKTRAIL_METHOD $HOOKTRAIL_PATH?$HOOKTRAIL_QUERY $HOOKTRAIL_IP $HOOKTRAIL_CONTENT_TYPE";
    let keys = "when = '$headers[\"x-event\"] == \"push\" and $query.q == \"1\"'";
    let second =
        scenario().source("a", &source_keys(&nats, "", "")).handler("h", keys, script).start();
    first.request("POST", "/hooks/a?q=1", "Content-Type: application/json\nX-Event: push", b"{}");
    first.request("POST", "/hooks/a?q=1", "X-Event: pull", b"{}");
    second
        .until("select stdout from attempts", "{}\nPOST /hooks/a?q=1 127.0.0.1 application/json\n");
    second.until("select count(*) from events", "2");
    let key = second.value("select origin_key from events where id = (select event from outcomes)");
    assert!(key.ends_with("-forward-0-0"), "{key}");
    let (code, text) = second.cli_text(&["show", &key]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("of source a on another machine"), "{text}");
    let (code, text) = first.cli_text(&["show", &key]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("forward"), "{text}");
}

#[test]
fn two_machines_that_store_one_message_have_the_same_idempotency_keys() {
    let nats = nats_with_stream();
    let client = nats.client();
    client.publish("hooks.a", &[("Nats-Msg-Id", "m-1")], b"1");
    client.publish("hooks.a", &[], b"2");
    client.publish("hooks.a", &[("Nats-Msg-Id", "AZrX-wAAcACAAAAAAAAAAA-crm-0-0")], b"3");
    client.publish("hooks.a", &[("Nats-Msg-Id", "AZrX-wAAcACAAAAAAAAAAA-crm-0-1")], b"4");
    let keys = |consumer: &str| {
        let keys = source_keys(&nats, "", "")
            .replace("consumer = \"c\"", &format!("consumer = \"{consumer}\""));
        let server = scenario()
            .source("a", &keys)
            .handler("h", "", "printf %s $HOOKTRAIL_IDEMPOTENCY_KEY")
            .start();
        server.until("select count(*) from attempts", "4");
        server.column(
            "select a.stdout from attempts a join outcomes o on o.id = a.id order by o.event",
        )
    };
    let (first, second) = (keys("one"), keys("two"));
    assert_eq!(first, second);
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 4, "{first:?}");
}

#[test]
fn keys_of_messages_begin_with_the_times_in_their_ids() {
    let nats = nats_with_stream();
    let client = nats.client();
    // The time 0x019AD7FB0000, in the key of another machine.
    client.publish("hooks.a", &[("Nats-Msg-Id", "AZrX-wAAcACAAAAAAAAAAA-crm-0-0")], b"1");
    client.publish("hooks.a", &[], b"2");
    let server = reading(&nats, "", "").start();
    server.until("select count(*) from events", "2");
    let uid_begins = server.column("select hex(substr(uid, 1, 6)) from events order by id");
    let key_begins = server.column("select hex(substr(key, 1, 6)) from dedupe order by event");
    assert_eq!(uid_begins, key_begins);
    assert_eq!(uid_begins[0], "019AD7FB0000");
    // Without an id, that of the publication.
    let published_at = u64::from_str_radix(&uid_begins[1], 16).unwrap();
    let received_at: u64 = server
        .value(
            "select cast(strftime('%s', received_at) as integer) * 1000 from trail where event = 2",
        )
        .parse()
        .unwrap();
    assert!(published_at.abs_diff(received_at) < 3_600_000, "{published_at} {received_at}");
}

#[test]
fn a_message_that_is_published_again_is_a_duplicate_even_without_dedupe() {
    let nats = nats_server().start();
    let client = nats.client();
    // So short that the stream has forgotten the id.
    client.create_stream("S", &["hooks.>"], json!({ "duplicate_window": 100_000_000 }));
    let server = reading(&nats, "", "dedupe = false").start();
    client.publish("hooks.a", &[("Nats-Msg-Id", "m-1")], b"1");
    until("the stream stores the message again", || {
        client.publish("hooks.a", &[("Nats-Msg-Id", "m-1")], b"1");
        client.message_count("S") > 1
    });
    client.publish("hooks.a", &[("Nats-Msg-Id", "m-2")], b"2");
    server.until(
        "select group_concat(duplicates, ' ') from (select * from trail order by event)",
        "1 0",
    );
    until_acknowledged(&client);
}

#[test]
fn a_message_that_was_committed_but_not_acknowledged_is_no_second_event() {
    let nats = nats_with_stream();
    let client = nats.client();
    create_consumer(&client, json!({}));
    let mut server = reading(&nats, "", "").start();
    // NATS stops between the delivery and the acknowledgement.
    let lock = server.lock_database();
    for n in 0..20 {
        client.publish("hooks.a", &[("Nats-Msg-Id", &format!("m-{n}"))], b"x");
    }
    until("the messages are delivered", || {
        unread(&client).is_some_and(|(pending, waiting)| pending == 0 && waiting == 20)
    });
    nats.pause();
    drop(lock);
    server.until("select count(*) from events", "20");
    server.kill();
    nats.resume();
    server.start();
    until_acknowledged(&client);
    assert_eq!(server.value("select count(*) from events"), "20");
    server.until("select sum(succeeded) from trail", "20");
}

#[test]
fn what_http_would_reject_is_recorded_and_terminated() {
    let nats = nats_with_stream();
    let client = nats.client();
    create_consumer(&client, json!({}));
    let server = reading(&nats, "", "accept = \"json\"\nmax_body_size = 10").start();
    let json = ("Content-Type", "application/json");
    client.publish("hooks.a", &[json], b"{");
    client.publish("hooks.a", &[("Content-Type", "text/plain")], b"{}");
    client.publish("hooks.a", &[json, ("Hooktrail-Ip", "192.0.2.1")], b"\"01234567890\"");
    client.publish("hooks.a", &[json], b"{\"n\":1}");
    server.until(
        "select group_concat(status, ' ') from (select status from rejections order by status)",
        "400 413 415",
    );
    assert_eq!(
        server.column("select source || ' ' || path || ' ' || remote_ip || ' ' || reason from rejections where status = 413"),
        ["a hooks.a 192.0.2.1 body over 10 bytes"]
    );
    until_acknowledged(&client);
    let delivered =
        client.try_call("CONSUMER.INFO.S.c", &json!({})).unwrap()["delivered"]["consumer_seq"]
            .clone();
    assert_eq!(delivered, json!(4), "each message was delivered once");
    assert_eq!(server.value("select count(*) from events"), "1");
}

#[test]
fn messages_stay_unacknowledged_while_nothing_can_be_written() {
    let nats = nats_with_stream();
    let client = nats.client();
    create_consumer(&client, json!({}));
    let server = reading(&nats, "", "").start();
    let lock = server.lock_database();
    publish_numbers(&client, 5, |n| format!("{n}"));
    until("a message was delivered twice", || {
        let info = client.try_call("CONSUMER.INFO.S.c", &json!({})).unwrap();
        info["num_redelivered"].as_u64() > Some(0)
    });
    assert_eq!(unread(&client).map(|(pending, waiting)| pending + waiting), Some(5));
    drop(lock);
    server.until("select count(*) from events", "5");
    until_acknowledged(&client);
    assert_eq!(server.value("select count(*) from rejections"), "0");
}

#[test]
fn messages_above_the_rate_limit_and_a_full_queue_wait() {
    let nats = nats_with_stream();
    let client = nats.client();
    create_consumer(&client, json!({}));
    publish_numbers(&client, 30, |n| format!("{n}"));
    let server = reading(&nats, "", "rate_limit = \"10/s\"\nmax_queued = 3").start();
    server.until("select sum(succeeded) from trail", "30");
    until_acknowledged(&client);
    assert_eq!(server.value("select count(*) from events"), "30");
    assert_eq!(server.value("select count(*) from rejections"), "0");
}

#[test]
fn messages_of_a_stream_that_was_created_again_are_new() {
    let nats = nats_with_stream();
    let client = nats.client();
    let server = reading(&nats, "", "").start();
    client.publish("hooks.a", &[], b"1");
    server.until("select count(*) from events", "1");
    until_acknowledged(&client);
    client.try_call("STREAM.DELETE.S", &json!({})).unwrap();
    client.create_stream("S", &["hooks.>"], json!({}));
    client.publish("hooks.a", &[], b"1");
    server.until("select group_concat(origin_key, ' ') from events", "S:1 S:1");
}

#[test]
fn machines_that_name_one_consumer_share_the_messages() {
    let nats = nats_with_stream();
    let client = nats.client();
    let servers = [reading(&nats, "", "").start(), reading(&nats, "", "").start()];
    until("both machines read", || {
        client
            .try_call("CONSUMER.INFO.S.c", &json!({}))
            .is_ok_and(|info| info["num_waiting"] == json!(2))
    });
    publish_numbers(&client, 2000, |n| format!("{n}"));
    let bodies = |server: &Server| server.column("select cast(body as text) from events");
    let mut all = Vec::new();
    until("all messages are stored", || {
        all = servers.iter().flat_map(bodies).collect();
        all.len() >= 2000
    });
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 2000);
    assert!(
        servers.iter().all(|server| !bodies(server).is_empty()),
        "one machine got all messages"
    );
}

#[test]
fn an_ordered_source_keeps_the_order_over_kills() {
    let nats = nats_with_stream();
    let client = nats.client();
    create_consumer(&client, json!({ "max_ack_pending": 1 }));
    let mut server = reading(&nats, ", ordered = true", "").start();
    for n in 0..300 {
        client.publish("hooks.a", &[], format!("{n}").as_bytes());
        if n % 100 == 50 {
            server.kill();
            server.start();
        }
    }
    server.until("select count(*) from events", "300");
    let expected: Vec<String> = (0..300).map(|n| n.to_string()).collect();
    assert_eq!(server.column("select cast(body as text) from events order by id"), expected);
}

#[test]
fn a_source_goes_on_after_the_cluster_was_away() {
    let mut nats = nats_with_stream();
    let server = reading(&nats, "", "").start();
    nats.client().publish("hooks.a", &[], b"1");
    server.until("select count(*) from events", "1");
    nats.kill();
    until("the log says so", || server.log().contains("source a: not connected to"));
    nats.restart();
    nats.until_healthy();
    nats.client().publish("hooks.a", &[], b"2");
    server.until("select count(*) from events", "2");
}

#[test]
fn a_stream_that_can_not_be_read_is_a_problem_of_the_server_until_it_can() {
    let nats = nats_server().start();
    let client = nats.client();
    let mut server =
        reading(&nats, "", "accept = \"any\"").admin("listen = [\"127.0.0.1:0\"]").start();
    let api = Api::of(&server);
    let problems = |server: &Server| {
        let (code, status) = server.cli_text(&["status", "--json"]);
        let status: Value = serde_json::from_str(&status).unwrap();
        (code, status["problems"].to_string())
    };
    let readable = || {
        let metrics = api.get("/metrics").body;
        let line = metrics.lines().find(|line| line.starts_with("hooktrail_stream_readable{"));
        line.map(str::to_owned)
    };
    until("the stream is missed", || {
        let (code, problems) = problems(&server);
        code == Some(1)
            && problems.contains("source a: can't read its stream since 20")
            && problems.contains(": stream S: ")
    });
    assert_eq!(readable().as_deref(), Some("hooktrail_stream_readable{source=\"a\"} 0"));
    assert!(api.get("/").body.contains("source a: can't read its stream since "));
    client.create_stream("S", &["hooks.>"], json!({}));
    until("the stream is read", || problems(&server) == (Some(0), "[]".to_owned()));
    assert_eq!(readable().as_deref(), Some("hooktrail_stream_readable{source=\"a\"} 1"));
    assert!(!api.get("/").body.contains("read its stream"));
    client.try_call("STREAM.DELETE.S", &json!({})).unwrap();
    until("the stream is missed again", || problems(&server).0 == Some(1));
    server.replace_in_config(&source_keys(&nats, "", ""), "");
    server.reload_with("");
    server.until_reloads(1);
    until("the source of requests has no stream", || {
        problems(&server) == (Some(0), "[]".to_owned())
    });
    assert_eq!(readable(), None);
}

#[test]
fn a_stream_and_a_consumer_that_do_not_fit_are_named_in_the_log() {
    let nats = nats_server().start();
    let client = nats.client();
    let server = reading(&nats, ", filter = \"hooks.a\", ordered = true", "").start();
    until("the log names the stream", || server.log().contains("source a: stream S: "));
    client.create_stream("S", &["hooks.>"], json!({}));
    create_consumer(&client, json!({ "filter_subject": "hooks.b" }));
    let filter = "source a: consumer c of stream S has the filter \"hooks.b\", and config.toml has \"hooks.a\": expected the same";
    until("the log names the filter", || server.log().contains(filter));
    client.try_call("CONSUMER.DELETE.S.c", &json!({})).unwrap();
    create_consumer(&client, json!({ "filter_subject": "hooks.a" }));
    let pending = "source a: consumer c of stream S has a max_ack_pending of 100, and config.toml has ordered = true: expected 1";
    until("the log names max_ack_pending", || server.log().contains(pending));
    let (code, text) = server.cli_text(&["check", "--connect"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("sources.a.jetstream: consumer c of stream S has a max_ack_pending of 100"),
        "{text}"
    );
    client.try_call("CONSUMER.DELETE.S.c", &json!({})).unwrap();
    client.publish("hooks.a", &[], b"1");
    server.until("select count(*) from events", "1");
}

#[test]
fn a_filter_for_the_only_subject_of_the_stream_may_be_missing() {
    for of_consumer in ["", "hooks.>"] {
        let nats = nats_with_stream();
        create_consumer(&nats.client(), json!({ "filter_subject": of_consumer }));
        let server = reading(&nats, ", filter = \"hooks.>\"", "").start();
        nats.client().publish("hooks.a", &[], b"1");
        server.until("select count(*) from events", "1");
        assert!(server.cli_text(&["check", "--connect"]).0 == Some(0));
    }
}

#[test]
fn a_filter_that_matches_no_subject_of_the_stream_has_a_warning() {
    let nats = nats_with_stream();
    let server = reading(&nats, ", filter = \"other.>\"", "").prepare();
    let (code, text) = server.cli_text(&["check", "--connect"]);
    let warning = "warning: source a: no subject of stream S (hooks.>) matches the filter other.>";
    assert!(code == Some(0) && text.contains(warning), "{text}");
}

#[test]
fn a_source_whose_requests_get_no_response_is_a_problem() {
    // The user `few` may ask for streams and consumers, but not for messages.
    let nats = nats_server()
        .config(
            "no_auth_user: all\nauthorization { users: [ { user: all, password: p },\n\
             { user: few, password: p, permissions: { publish: { deny: \"$JS.API.CONSUMER.MSG.NEXT.>\" } } } ] }",
        )
        .start();
    nats.client().create_stream("S", &["hooks.>"], json!({}));
    let scenario = reading(&nats, ", credentials = { file = \"secret\" }", "");
    scenario.write_file("secret", "few:p");
    let server = scenario.admin("listen = [\"127.0.0.1:0\"]").start();
    let problem = "source a: can't read its stream since ";
    until("status says so", || {
        let (code, text) = server.cli_text(&["status"]);
        code == Some(1)
            && text.contains(problem)
            && text.contains("no response to a request for messages")
    });
    assert!(server.log().contains("and the server said: "), "{}", server.log());
    assert!(
        Api::of(&server).get("/metrics").body.contains("hooktrail_stream_readable{source=\"a\"} 0")
    );
}

#[test]
fn a_missing_filter_is_an_error_if_the_stream_has_other_subjects() {
    let nats = nats_server().start();
    let client = nats.client();
    client.create_stream("S", &["hooks.>", "other"], json!({}));
    create_consumer(&client, json!({}));
    let server = reading(&nats, ", filter = \"hooks.>\"", "").prepare();
    let (code, text) = server.cli_text(&["check", "--connect"]);
    let reason = "has the filter \"\", and config.toml has \"hooks.>\": expected the same";
    assert!(code == Some(1) && text.contains(reason), "{text}");
}

#[test]
#[ignore = "needs a newer nats-server: tests/run installs it"]
fn a_filter_that_config_toml_does_not_have_is_an_error() {
    let nats = nats_server().program(newer_nats_server()).start();
    let client = nats.client();
    client.create_stream("S", &["hooks.>"], json!({}));
    let server = reading(&nats, "", "").prepare();
    for (keys, reason) in [
        (
            json!({ "filter_subject": "hooks.>" }),
            "has the filter \"hooks.>\", and config.toml has \"\"",
        ),
        (
            json!({ "filter_subjects": ["hooks.a", "hooks.b"] }),
            "has filter_subjects (hooks.a, hooks.b): expected filter_subject, or no filter",
        ),
    ] {
        create_consumer(&client, keys);
        let (code, text) = server.cli_text(&["check", "--connect"]);
        assert!(code == Some(1) && text.contains(reason), "{text}");
        client.try_call("CONSUMER.DELETE.S.c", &json!({})).unwrap();
    }
}

#[test]
fn a_consumer_that_repeats_early_or_gives_up_has_warnings() {
    let nats = nats_with_stream();
    create_consumer(&nats.client(), json!({ "max_deliver": 3 }));
    let server = reading(&nats, "", "").start();
    let warnings = [
        "source a: consumer c of stream S has an acknowledgement wait of 1s: ",
        "source a: consumer c of stream S delivers a message at most 3 times: ",
    ];
    until("the source reads", || server.log().contains("source a: reads stream S"));
    let (code, text) = server.cli_text(&["check", "--connect", "--strict"]);
    for warning in warnings {
        assert_eq!(server.log().matches(warning).count(), 1, "{}", server.log());
        assert!(text.contains(&format!("warning: {warning}")), "{text}");
    }
    assert!(code == Some(1) && text.contains("2 warnings, and --strict allows none"), "{text}");
}

#[test]
#[ignore = "needs a newer nats-server: tests/run installs it"]
fn a_replicated_stream_of_an_old_nats_server_has_a_warning() {
    for (program, is_old) in
        [(DISTRIBUTED.into(), version_of(DISTRIBUTED) < [2, 12, 8]), (newer_nats_server(), false)]
    {
        let cluster = NatsCluster::start_with("", |_, setup| setup.program(&program));
        let client = cluster.client();
        client.create_stream("S", &["hooks.>"], json!({ "num_replicas": 3 }));
        let nats = &cluster.servers[0];
        let forward = format!(
            "[handlers.forward]\nsources = [\"a\"]\n\
             jetstream = {{ servers = [\"{}\"], stream = \"S\", subject = \"hooks.a\" }}",
            nats.url()
        );
        let server = reading(nats, "", "").raw_config(&forward).start();
        let warning = "stream S has 3 replicas on nats-server ";
        let (code, text) = server.cli_text(&["check", "--connect", "--strict"]);
        for user in ["source a", "handler forward"] {
            assert_eq!(text.contains(&format!("warning: {user}: {warning}")), is_old, "{text}");
        }
        assert_eq!(code, Some(i32::from(is_old)), "{text}");
        until("the source reads", || server.log().contains("source a: reads stream S"));
        let logged = format!("source a: {warning}");
        assert_eq!(server.log().contains(&logged), is_old, "{}", server.log());
    }
}

#[test]
fn a_consumer_that_would_deliver_less_than_configured_is_not_read() {
    let nats = nats_with_stream();
    let client = nats.client();
    let server = reading(&nats, "", "").prepare();
    let at = "sources.a.jetstream: consumer c of stream S";
    for (keys, reason) in [
        (
            json!({ "headers_only": true }),
            "delivers headers only: expected one that delivers messages",
        ),
        (
            json!({ "filter_subject": "hooks.b" }),
            "has the filter \"hooks.b\", and config.toml has \"\": expected the same",
        ),
        (
            json!({ "ack_policy": "none", "max_ack_pending": 0 }),
            "does not ask for explicit acknowledgements: expected one that does",
        ),
        (json!({ "deliver_subject": "x" }), "pushes messages: expected a pull consumer"),
    ] {
        create_consumer(&client, keys);
        let (code, text) = server.cli_text(&["check", "--connect"]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(&format!("{at} {reason}")), "{text} has not {reason}");
        client.try_call("CONSUMER.DELETE.S.c", &json!({})).unwrap();
    }
}

#[test]
fn a_reload_adds_changes_and_removes_a_source_of_a_stream() {
    let nats = nats_with_stream();
    let client = nats.client();
    client.create_stream("T", &["other.>"], json!({}));
    let mut server = scenario().source("a", "").handler("h", "", "cat").start();
    server.post("/hooks/a", "http");
    server.until("select count(*) from events", "1");
    let keys = source_keys(&nats, "", "");
    server.replace_in_config("[sources.a]\n", &format!("[sources.a]\n{keys}"));
    server.reload_with("");
    server.until_reloads(1);
    client.publish("hooks.a", &[], b"S");
    server.until("select count(*) from events", "2");
    assert_eq!(server.request("POST", "/hooks/a", "", b"").status, 404);
    server.replace_in_config("stream = \"S\"", "stream = \"T\"");
    server.reload_with("");
    server.until_reloads(2);
    client.publish("hooks.a", &[], b"not read");
    client.publish("other.a", &[], b"T");
    server.until("select count(*) from events", "3");
    server.replace_in_config(&keys.replace("stream = \"S\"", "stream = \"T\""), "");
    server.reload_with("");
    server.until_reloads(3);
    client.publish("other.a", &[], b"not read");
    assert_eq!(server.request("POST", "/hooks/a", "", b"http").status, 202);
    assert_eq!(
        server.column("select cast(body as text) from events order by id"),
        ["http", "S", "T", "http"]
    );
}

#[test]
fn a_stop_acknowledges_what_it_has_stored_and_leaves_the_rest() {
    let nats = nats_with_stream();
    let client = nats.client();
    let mut server = reading(&nats, "", "").start();
    for round in 0..5 {
        publish_numbers(&client, 200, |n| format!("{round}-{n}"));
        assert_eq!(server.stop(), Some(0));
        let (pending, waiting) = unread(&client).unwrap();
        let stored: u64 = server.value("select count(*) from events").parse().unwrap();
        assert_eq!(stored + pending + waiting, 200 * (round + 1), "round {round}: {waiting} wait");
        assert_eq!(waiting, 0, "nothing waits for the acknowledgement wait");
        server.start();
        server.until("select count(*) from events", &format!("{}", 200 * (round + 1)));
    }
    assert_eq!(server.value("select sum(duplicates) from trail"), "0");
}

/// Publishes messages with malformed headers, and then one that is well-formed, together.
fn publish_behind_malformed(nats: &NatsServer, heads: &[&str], body: &str) {
    let mut publish = "CONNECT {\"headers\":true,\"verbose\":false}\r\n".to_owned();
    for head in heads {
        let (head_bytes, bytes) = (head.len(), head.len() + 3);
        publish.push_str(&format!("HPUB hooks.bad {head_bytes} {bytes}\r\n{head}bad\r\n"));
    }
    publish.push_str(&format!("PUB hooks.a {}\r\n{body}\r\nPING\r\n", body.len()));
    let mut raw = TcpStream::connect(("127.0.0.1", nats.port)).unwrap();
    raw.write_all(publish.as_bytes()).unwrap();
    let mut response = String::new();
    BufReader::new(raw).lines().map(Result::unwrap).find(|line| {
        response.push_str(line);
        line == "PONG"
    });
    assert!(!response.contains("-ERR"), "{response}");
}

#[test]
fn messages_behind_one_with_malformed_headers_are_stored() {
    let nats = nats_with_stream();
    let client = nats.client();
    create_consumer(&client, json!({}));
    let heads = ["NATS/1.0\r\nX-A: a\rb\r\n\r\n", "NATS/1.0\r\nnocolon\r\n\r\n"];
    publish_behind_malformed(&nats, &heads, "first");
    until("the stream has the messages", || client.message_count("S") == 3);
    let server = reading(&nats, "", "").start();
    server.until("select cast(body as text) from events", "first");
    client.publish("hooks.a", &[], b"last");
    server.until("select count(*) from events where body = x'6c617374'", "1");
    assert_eq!(server.post("/healthz", "").status, 405);
}

#[test]
fn headers_above_the_limit_of_requests_are_rejected() {
    let nats = nats_with_stream();
    let client = nats.client();
    let server = reading(&nats, "", "").start();
    client.publish("hooks.a", &[("X-A", &"x".repeat(40_000))], b"1");
    server.until("select status || ' ' || reason from rejections", "431 headers over 32768 bytes");
    let long_id = "i".repeat(3_000);
    client.publish("hooks.a", &[("Nats-Msg-Id", &long_id)], b"2");
    server.until("select substr(origin_key, 1, 7) || length(origin_key) from events", "sha256-71");
    until_acknowledged(&client);
}

#[test]
fn a_rate_limit_holds_no_more_messages_than_it_stores_soon() {
    let nats = nats_with_stream();
    let client = nats.client();
    create_consumer(&client, json!({ "ack_wait": 30_000_000_000_u64 }));
    publish_numbers(&client, 40, |n| format!("{n}"));
    let server = reading(&nats, "", "rate_limit = \"2/s\"").start();
    for stored in ["4", "8"] {
        server.until(&format!("select count(*) >= {stored} from events"), "1");
        let held = unread(&client).unwrap().1;
        assert!(held <= 12, "{held} messages are held");
    }
}

#[test]
fn a_large_message_and_one_with_odd_headers_are_stored() {
    let nats = nats_server().config("max_payload: 8MB").start();
    let client = nats.client();
    client.create_stream("S", &["hooks.>"], json!({}));
    let server = reading(&nats, "", "max_body_size = \"8 MiB\"").start();
    client.publish("hooks.a", &[("X-A", " two  blanks "), ("X-\u{7e}", "é")], &vec![b'x'; 4 << 20]);
    server.until("select length(body) from events", &(4 << 20).to_string());
    assert!(server.value("select cast(headers as text) from events").contains("two  blanks"));
}
