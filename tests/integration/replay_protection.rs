//! Replay protection: a captured request that is sent again is a duplicate, even with other headers. A
//! retry by the sender is accepted for hours.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hooktrail::internals::config;
use hooktrail::internals::verify::OutgoingRequest;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

use crate::support::client::Response;
use crate::support::server::{Scenario, Server, scenario, until};

const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const HOUR_MS: i64 = 3_600_000;

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    i64::try_from(since.as_millis()).expect("a moment")
}

/// Presets with a signed deduplication key that the test can sign: scheme, content type and body.
const SENDERS: [(&str, &str, &str); 14] = [
    ("paminga", "application/json", r#"{"form_completion_id":"445"}"#),
    ("paminga", "application/json", r#"{"CampaignActionQualification":[1]}"#),
    ("paminga", "application/x-www-form-urlencoded", "form_completion_id=446"),
    ("standard", "application/json", r#"{"type":"a"}"#),
    ("stripe", "application/json", r#"{"id":"evt_1"}"#),
    ("slack", "application/json", r#"{"event_id":"Ev1"}"#),
    ("slack", "application/x-www-form-urlencoded", "command=%2Fx&trigger_id=1"),
    ("mailgun", "application/json", r#"{"event-data":{"id":"1"}}"#),
    ("zoom", "application/json", r#"{"event":"meeting.started"}"#),
    ("paddle", "application/json", r#"{"event_id":"evt_1"}"#),
    ("square", "application/json", r#"{"event_id":"evt_1"}"#),
    ("hubspot", "application/json", r#"[{"eventId":1,"attemptNumber":0}]"#),
    ("linear", "application/json", r#"{"action":"create"}"#),
    ("trello", "application/json", r#"{"action":{"id":"a"},"webhook":{"id":"w"}}"#),
];

/// Adds a source with keys of `verify` and other keys.
fn with_source(scenario: Scenario, name: &str, verify: &str, keys: &str) -> Scenario {
    let secret = "secret = { file = \"secret\" }";
    scenario.source(name, &format!("verify = {{ {verify}, {secret} }}\n{keys}"))
}

fn start_with_secret(scenario: Scenario) -> Server {
    scenario.write_file("secret", SECRET);
    scenario.start()
}

/// Signs a request as the sender would, with this delivery ID and time.
fn signed_request(
    server: &Server,
    source: &str,
    (id, at_ms): (&str, i64),
    (content_type, body): (&str, &str),
) -> OutgoingRequest {
    let loaded = config::load(&server.path().join("config.toml")).expect("a configuration");
    let (secrets, missing) =
        config::read_secrets_under(&loaded, &format!("sources.{source}.verify"));
    assert_eq!(missing.len(), 0);
    let found =
        loaded.config.sources.iter().find(|found| found.name == source).expect("the source");
    let headers =
        [("host", "localhost"), ("content-type", content_type)].map(|(n, v)| (n.into(), v.into()));
    let mut request = OutgoingRequest {
        method: "POST".to_owned(),
        path: found.path().unwrap().to_owned(),
        headers: headers.to_vec(),
        body: body.as_bytes().to_vec(),
        id: id.to_owned(),
        ..OutgoingRequest::default()
    };
    found.verifier(&secrets).sign(&mut request, at_ms).expect("a signature");
    request
}

fn send(server: &Server, request: &OutgoingRequest) -> Response {
    let lines: Vec<String> = request
        .headers
        .iter()
        .filter(|(name, _)| name != "host")
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    server.request(&request.method, &request.path, &lines.join("\n"), &request.body)
}

#[test]
fn a_replayed_request_with_other_headers_is_a_duplicate() {
    let mut scenario = scenario();
    for (number, (scheme, ..)) in SENDERS.iter().enumerate() {
        let url = matches!(*scheme, "square" | "hubspot" | "trello");
        let url = if url { ", url = \"https://h.example/x\"" } else { "" };
        let verify = format!("scheme = \"{scheme}\"{url}");
        scenario = with_source(scenario, &format!("s{number}"), &verify, "");
    }
    let server = start_with_secret(scenario);
    for (number, (scheme, content_type, body)) in SENDERS.iter().enumerate() {
        let source = format!("s{number}");
        let request = signed_request(&server, &source, ("d1", now_ms()), (content_type, body));
        assert_eq!(send(&server, &request).status, 200, "{scheme}");
        for other in [
            "application/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=b",
            "image/png",
            "text/plain",
        ] {
            let mut replayed = request.clone();
            replayed.set_header("content-type", other);
            replayed.set_header("linear-delivery", other.replace('/', "-"));
            replayed.set_header("idempotency-key", other.replace('/', "-"));
            let status = send(&server, &replayed).status;
            // Mailgun signs in the body. Under another content type the server may not find the signature.
            assert!(status == 200 || (*scheme == "mailgun" && status == 401), "{scheme} {other}");
        }
        let events = format!("select count(*) from trail where source = '{source}'");
        assert_eq!(server.value(&events), "1", "{scheme}: {body}");
    }
}

const DATA: (&str, &str) = ("application/json", r#"{"event-data":{"id":"1"}}"#);

/// Changes the unsigned part of a Mailgun body.
fn with_other_data(request: &OutgoingRequest, id: &str) -> OutgoingRequest {
    let text = String::from_utf8(request.body.clone()).expect("text");
    let body = text.replace(r#""id":"1""#, &format!(r#""id":"{id}""#));
    assert_ne!(body, text);
    OutgoingRequest { body: body.into_bytes(), ..request.clone() }
}

#[test]
fn a_signed_key_prevents_replays_with_any_dedupe() {
    let keys = "dedupe = { jq = '.\"event-data\".id' }";
    let scenario = with_source(scenario(), "custom", "scheme = \"mailgun\"", keys);
    let scenario = with_source(scenario, "off", "scheme = \"mailgun\"", "dedupe = false");
    let server = start_with_secret(scenario);
    for source in ["custom", "off"] {
        let request = signed_request(&server, source, ("d1", now_ms()), DATA);
        assert_eq!(send(&server, &request).status, 200);
        for id in ["2", "3"] {
            assert_eq!(send(&server, &with_other_data(&request, id)).status, 200);
        }
        let events = format!("select duplicates from trail where source = '{source}'");
        assert_eq!(server.column(&events), ["2"], "{source}");
    }
    // A duplicate by the signed key does not store an unsigned key of the replayed request.
    let other = signed_request(&server, "custom", ("d2", now_ms()), DATA);
    assert_eq!(send(&server, &with_other_data(&other, "2")).status, 200);
    assert_eq!(server.value("select count(*) from trail where source = 'custom'"), "2");
}

#[test]
fn a_replayed_request_is_a_duplicate_even_if_dedupe_depends_on_the_content_type() {
    let recipe = "scheme = \"hmac\", header = \"X-Sig\"";
    let other_types = ["text/html", "application/x-www-form-urlencoded", "application/json"];
    for (verify, dedupe, (content_type, body)) in [
        (recipe, ".id", ("application/json", r#"{"id":"1"}"#)),
        (recipe, ".id", ("application/x-www-form-urlencoded", "id=1")),
        // An evaluator process evaluates this one, and it always gives a key.
        (recipe, r#""\(.id?)-\(.v?)""#, ("application/json", r#"{"id":"1","v":2}"#)),
        ("scheme = \"github\"", ".id", ("application/json", r#"{"id":"1"}"#)),
    ] {
        let keys = format!("dedupe = {{ jq = '{dedupe}' }}\nrespond = {{ status = 200 }}");
        let server = start_with_secret(with_source(scenario(), "m", verify, &keys));
        let request = signed_request(&server, "m", ("d1", now_ms()), (content_type, body));
        assert_eq!(send(&server, &request).status, 200);
        for other in other_types {
            let mut replayed = request.clone();
            replayed.set_header("content-type", other);
            replayed.set_header("x-github-delivery", other);
            assert_eq!(send(&server, &replayed).status, 200, "{dedupe} {other}");
        }
        assert_eq!(server.column("select duplicates from trail"), ["3"], "{dedupe} of {body}");
    }
}

#[test]
fn signed_bodies_without_a_dedupe_key_are_separate_events() {
    let recipe = "scheme = \"hmac\", header = \"X-Sig\"";
    for (dedupe, events) in [(".id", "2"), ("$headers[\"x-id\"]", "2"), (".kind", "1")] {
        let keys = format!("dedupe = {{ jq = '{dedupe}' }}\nrespond = {{ status = 200 }}");
        let server = start_with_secret(with_source(scenario(), "m", recipe, &keys));
        let body = ("application/json", r#"{"kind":"ping"}"#);
        let mut request = signed_request(&server, "m", ("d1", now_ms()), body);
        for id in ["1", "2"] {
            request.set_header("x-id", id);
            assert_eq!(send(&server, &request).status, 200);
        }
        assert_eq!(server.value("select count(*) from trail"), events, "{dedupe}");
    }
}

/// Restarts the server with another tolerance, so that a request becomes too old at once.
fn restart_with_tolerance(server: &mut Server, tolerance: &str) {
    let config = server.config();
    let (before, after) = config.split_once("tolerance = \"").expect("a tolerance");
    let (_, after) = after.split_once('"').expect("the end");
    *config = format!("{before}tolerance = \"{tolerance}\"{after}");
    server.write_config();
    assert_eq!(server.stop(), Some(0));
    server.start();
}

#[test]
fn a_late_retry_of_a_stored_event_is_a_duplicate_and_a_late_new_event_is_rejected() {
    let scenario =
        scenario().handler("h", "retry = { max_attempts = 1 }", "exit 65").handler_source("h", "m");
    let verify = "scheme = \"mailgun\", tolerance = \"9h\"";
    let mut server = start_with_secret(with_source(scenario, "m", verify, ""));
    let at_ms = now_ms() - HOUR_MS;
    let request = signed_request(&server, "m", ("d1", at_ms), DATA);
    assert_eq!(send(&server, &request).status, 200);
    server.until("select state from jobs", "4");
    restart_with_tolerance(&mut server, "1m");
    assert_eq!(send(&server, &request).status, 200);
    assert_eq!(send(&server, &with_other_data(&request, "2")).status, 200);
    assert_eq!(server.column("select duplicates from trail"), ["2"]);
    assert_eq!(server.value("select state from jobs"), "4");
    assert_eq!(send(&server, &signed_request(&server, "m", ("d2", at_ms), DATA)).status, 401);
    let reason = "select reason like 'timestamp is 360_ s old: at most 60 s; is this machine''s \
                  clock right?' from rejections";
    server.until(reason, "1");
    restart_with_tolerance(&mut server, "9h");
    assert_eq!(send(&server, &request).status, 200);
    server.until("select count(*) from outcomes", "2");
}

#[test]
fn a_late_retry_with_scheme_hmac_is_a_duplicate_if_the_dedupe_key_is_signed() {
    let recipe = "scheme = \"hmac\", header = \"X-Sig\", timestamp_header = \"X-Time\", \
                  id_header = \"X-Id\", signed = \"{id}.{timestamp}.{body}\", tolerance = \"9h\"";
    for (dedupe, late) in [
        ("{ body = true }", 200),
        ("{ jq = '.id' }", 200),
        // An evaluator process evaluates this one.
        ("{ jq = '.id | ascii_downcase' }", 200),
        ("{ header = 'X-Id' }", 200),
        // Anyone may set a header that is not signed.
        ("{ header = 'X-Other' }", 401),
        ("{ jq = '$headers[\"x-other\"]' }", 401),
    ] {
        let keys = format!("dedupe = {dedupe}\nrespond = {{ status = 200 }}");
        let mut server = start_with_secret(with_source(scenario(), "m", recipe, &keys));
        let body = ("application/json", r#"{"id":"1"}"#);
        let mut request = signed_request(&server, "m", ("d1", now_ms() - HOUR_MS), body);
        request.set_header("x-other", "1");
        assert_eq!(send(&server, &request).status, 200);
        restart_with_tolerance(&mut server, "1m");
        assert_eq!(send(&server, &request).status, late, "{dedupe}");
        let other = ("application/json", r#"{"id":"2"}"#);
        let new = signed_request(&server, "m", ("d2", now_ms() - HOUR_MS), other);
        assert_eq!(send(&server, &new).status, 401, "{dedupe}");
        assert_eq!(server.value("select count(*) from trail"), "1");
    }
}

#[test]
fn an_old_handshake_is_rejected_and_old_events_log_a_clock_warning() {
    let server = start_with_secret(with_source(scenario(), "a", "scheme = \"slack\"", ""));
    let handshake = r#"{"type":"url_verification","challenge":"c"}"#;
    let old =
        |body| signed_request(&server, "a", ("d1", now_ms() - HOUR_MS), ("application/json", body));
    assert_eq!(send(&server, &old(handshake)).status, 401);
    assert!(!server.log().contains("clock"));
    assert_eq!(send(&server, &old("{}")).status, 401);
    assert_eq!(send(&server, &old("[]")).status, 401);
    until("the log has a warning", || {
        server.log().contains("outside verify.tolerance (timestamp is 360")
    });
    server.until("select sum(count) from rejections where reason like '%clock right?'", "3");
    assert_eq!(server.value("select count(*) from trail"), "0");
    assert_eq!(server.value("select count(*) from handshakes"), "0");
}

/// Signs a body as SendGrid does, sends it and returns the status.
fn post_as_sendgrid(server: &Server, key: &EcdsaKeyPair, body: &str) -> u16 {
    let stamp = (now_ms() / 1000).to_string();
    let random = ring::rand::SystemRandom::new();
    let signature = key.sign(&random, format!("{stamp}{body}").as_bytes()).expect("a signature");
    let name = "X-Twilio-Email-Event-Webhook";
    let headers = format!(
        "{name}-Timestamp: {stamp}\n{name}-Signature: {}\nContent-Type: application/json",
        STANDARD.encode(signature)
    );
    server.request("POST", "/hooks/a", &headers, body.as_bytes()).status
}

#[test]
fn sendgrid_events_repeated_in_other_requests_run_once() {
    let random = ring::rand::SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
    let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).expect("a key");
    // The fixed beginning of a P-256 public key (RFC 5480). The point of the curve follows.
    let head = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").expect("hex");
    let spki = STANDARD.encode([head.as_slice(), key.public_key().as_ref()].concat());
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/senders.md"));
    let recipe = "split = '.[]'\nunique_by = { jq = '.sg_event_id', window = \"7d\" }";
    assert!(page.expect("the page").contains(recipe));
    let verify = "verify = { scheme = \"sendgrid\", secret = { file = \"key\" } }";
    let scenario = scenario().source("a", verify).handler("h", recipe, "true");
    scenario.write_file("key", &spki);
    let server = scenario.start();
    for body in [
        r#"[{"sg_event_id":"1"},{"sg_event_id":"2"}]"#,
        r#"[{"sg_event_id":"1"},{"sg_event_id":"2"}]"#,
        r#"[{"sg_event_id":"2"},{"sg_event_id":"3"}]"#,
    ] {
        assert_eq!(post_as_sendgrid(&server, &key, body), 200);
    }
    assert_eq!(server.value("select count(*) from trail"), "2");
    server.until("select count(*) from outcomes where outcome = 'succeeded'", "3");
    assert_eq!(server.value("select count(*) from jobs where reason = 'same as job 2'"), "1");
}

const REDACT: &str = "redact = { paths = [\".card\"] }";

#[test]
fn a_replayed_request_of_a_source_that_redacts_makes_no_other_event() {
    let senders = [
        ("paminga", "application/json", r#"{"CampaignActionQualification":[1],"card":"4111"}"#),
        ("zoom", "application/json", r#"{"event":"x","url":"/?a=1&card=4111&b=2","card":4111}"#),
        ("slack", "application/x-www-form-urlencoded", "command=%2Fx&card=4111"),
        ("hubspot", "application/json", r#"[{"eventId":1,"card":"4111"}]"#),
    ];
    let mut scenario = scenario();
    for (scheme, ..) in senders {
        let verify = format!("scheme = \"{scheme}\", url = \"https://h.example/x\"");
        scenario = with_source(scenario, scheme, &verify, REDACT);
    }
    let server = start_with_secret(scenario);
    for (scheme, content_type, body) in senders {
        let request = signed_request(&server, scheme, ("d1", now_ms()), (content_type, body));
        assert_eq!(send(&server, &request).status, 200, "{scheme}");
        for other in [
            content_type,
            "application/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=b",
            "text/plain",
            "text/html",
        ] {
            let mut replayed = request.clone();
            replayed.set_header("content-type", other);
            let status = send(&server, &replayed).status;
            assert!(matches!(status, 200 | 400), "{scheme} as {other}: {status}");
        }
        let events = format!("select count(*) from trail where source = '{scheme}'");
        assert_eq!(server.value(&events), "1", "{scheme}");
    }
}

#[test]
fn a_late_retry_is_compared_by_its_redacted_body() {
    let recipe = "scheme = \"hmac\", header = \"X-Sig\", timestamp_header = \"X-Time\", \
                  signed = \"{timestamp}.{body}\", tolerance = \"9h\"";
    for (dedupe, card, late) in [
        ("{ body = true }", "2", 200),
        ("{ jq = '.id' }", "2", 200),
        // The key has a redacted value, so there is none.
        ("{ jq = '\"\\(.id) \\(.card)\"' }", "1", 401),
    ] {
        let keys = format!("{REDACT}\ndedupe = {dedupe}\nrespond = {{ status = 200 }}");
        let mut server = start_with_secret(with_source(scenario(), "m", recipe, &keys));
        let request = |server: &Server, card: &str| {
            let body = format!(r#"{{"id":"1","card":"{card}"}}"#);
            let at_ms = now_ms() - HOUR_MS;
            signed_request(server, "m", ("d1", at_ms), ("application/json", &body))
        };
        assert_eq!(send(&server, &request(&server, "1")).status, 200);
        restart_with_tolerance(&mut server, "1m");
        assert_eq!(send(&server, &request(&server, card)).status, late, "{dedupe}");
        assert_eq!(
            send(&server, &OutgoingRequest { body: b"{".to_vec(), ..request(&server, "1") }).status,
            401
        );
        assert_eq!(server.value("select count(*) from trail"), "1");
    }
}
