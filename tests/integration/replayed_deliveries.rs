//! A captured request that is sent again is no second event, however it is dressed up; and a sender
//! that tries again for hours is heard.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hooktrail::config;
use hooktrail::verify::{OutgoingRequest, Verifier};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

use crate::support::client::Answer;
use crate::support::server::{Scenario, Server, scenario, until};

const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const HOUR_MS: i64 = 3_600_000;

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    i64::try_from(since.as_millis()).expect("a moment")
}

/// Senders whose key is signed and that can be signed for, with a body of each.
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

/// A source of that scheme and name, with these keys of `verify`, and these of its own.
fn with_source(scenario: Scenario, name: &str, verify: &str, keys: &str) -> Scenario {
    let secret = "secret = { file = \"secret\" }";
    scenario.source(name, &format!("verify = {{ {verify}, {secret} }}\n{keys}"))
}

fn started(scenario: Scenario) -> Server {
    scenario.file("secret", SECRET);
    scenario.start()
}

/// Signed by the sender as the delivery of this id, at that moment.
fn signed(
    server: &Server,
    source: &str,
    (id, at_ms): (&str, i64),
    sent: (&str, &str),
) -> OutgoingRequest {
    let (content_type, body) = sent;
    let loaded = config::load(&server.path().join("config.toml")).expect("a configuration");
    let (secrets, missing) =
        config::read_secrets_under(&loaded, &format!("sources.{source}.verify"));
    assert_eq!(missing.len(), 0);
    let found = loaded.config.sources.iter().find(|it| it.name == source).expect("the source");
    let headers =
        [("host", "localhost"), ("content-type", content_type)].map(|(n, v)| (n.into(), v.into()));
    let mut draft = OutgoingRequest {
        method: "POST".to_owned(),
        path: found.path.clone(),
        headers: headers.to_vec(),
        body: body.as_bytes().to_vec(),
        id: id.to_owned(),
        ..OutgoingRequest::default()
    };
    Verifier::new(found, &secrets).sign(&mut draft, at_ms).expect("it can be signed for");
    draft
}

fn send(server: &Server, draft: &OutgoingRequest) -> Answer {
    let lines: Vec<String> = draft
        .headers
        .iter()
        .filter(|(name, _)| name != "host")
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    server.request(&draft.method, &draft.path, &lines.join("\n"), &draft.body)
}

#[test]
fn a_captured_request_is_no_second_event_under_another_type_or_with_other_headers() {
    let mut scenario = scenario();
    for (number, (scheme, ..)) in SENDERS.iter().enumerate() {
        let url = matches!(*scheme, "square" | "hubspot" | "trello");
        let url = if url { ", url = \"https://h.example/x\"" } else { "" };
        let verify = format!("scheme = \"{scheme}\"{url}");
        scenario = with_source(scenario, &format!("s{number}"), &verify, "");
    }
    let server = started(scenario);
    for (number, (scheme, content_type, body)) in SENDERS.iter().enumerate() {
        let source = format!("s{number}");
        let draft = signed(&server, &source, ("d1", now_ms()), (content_type, body));
        assert_eq!(send(&server, &draft).status, 200, "{scheme}");
        for other in [
            "application/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=b",
            "image/png",
            "text/plain",
        ] {
            let mut again = draft.clone();
            again.set_header("content-type", other);
            again.set_header("linear-delivery", other.replace('/', "-"));
            again.set_header("idempotency-key", other.replace('/', "-"));
            let status = send(&server, &again).status;
            // Mailgun's signature stands in the body: read otherwise it may not be there.
            assert!(status == 200 || (*scheme == "mailgun" && status == 401), "{scheme} {other}");
        }
        let events = format!("select count(*) from trail where source = '{source}'");
        assert_eq!(server.value(&events), "1", "{scheme}: {body}");
    }
}

const DATA: (&str, &str) = ("application/json", r#"{"event-data":{"id":"1"}}"#);

/// Mailgun's body with another part that nobody signed.
fn with_other_data(draft: &OutgoingRequest, id: &str) -> OutgoingRequest {
    let text = String::from_utf8(draft.body.clone()).expect("text");
    let body = text.replace(r#""id":"1""#, &format!(r#""id":"{id}""#));
    assert_ne!(body, text);
    OutgoingRequest { body: body.into_bytes(), ..draft.clone() }
}

#[test]
fn a_signed_key_guards_against_replays_whatever_dedupe_says() {
    let own = "dedupe = { jq = '.\"event-data\".id' }";
    let scenario = with_source(scenario(), "own", "scheme = \"mailgun\"", own);
    let scenario = with_source(scenario, "off", "scheme = \"mailgun\"", "dedupe = false");
    let server = started(scenario);
    for source in ["own", "off"] {
        let draft = signed(&server, source, ("d1", now_ms()), DATA);
        assert_eq!(send(&server, &draft).status, 200);
        for id in ["2", "3"] {
            assert_eq!(send(&server, &with_other_data(&draft, id)).status, 200);
        }
        let events = format!("select duplicates from trail where source = '{source}'");
        assert_eq!(server.list(&events), ["2"], "{source}");
    }
    // A repeat by the sender's key brings in no key that a stranger chose.
    let other = signed(&server, "own", ("d2", now_ms()), DATA);
    assert_eq!(send(&server, &with_other_data(&other, "2")).status, 200);
    assert_eq!(server.value("select count(*) from trail where source = 'own'"), "2");
}

#[test]
fn a_captured_request_is_no_second_event_where_dedupe_reads_it_otherwise_under_another_type() {
    let recipe = "scheme = \"hmac\", header = \"X-Sig\"";
    let other_types = ["text/html", "application/x-www-form-urlencoded", "application/json"];
    for (verify, dedupe, (content_type, body)) in [
        (recipe, ".id", ("application/json", r#"{"id":"1"}"#)),
        (recipe, ".id", ("application/x-www-form-urlencoded", "id=1")),
        // Asked of a process, and never without a key.
        (recipe, r#""\(.id?)-\(.v?)""#, ("application/json", r#"{"id":"1","v":2}"#)),
        ("scheme = \"github\"", ".id", ("application/json", r#"{"id":"1"}"#)),
    ] {
        let keys = format!("dedupe = {{ jq = '{dedupe}' }}\nrespond = {{ status = 200 }}");
        let server = started(with_source(scenario(), "m", verify, &keys));
        let draft = signed(&server, "m", ("d1", now_ms()), (content_type, body));
        assert_eq!(send(&server, &draft).status, 200);
        for other in other_types {
            let mut again = draft.clone();
            again.set_header("content-type", other);
            again.set_header("x-github-delivery", other);
            assert_eq!(send(&server, &again).status, 200, "{dedupe} {other}");
        }
        assert_eq!(server.list("select duplicates from trail"), ["3"], "{dedupe} of {body}");
    }
}

#[test]
fn signed_bodies_for_which_dedupe_gives_no_key_are_events_each() {
    let recipe = "scheme = \"hmac\", header = \"X-Sig\"";
    for (dedupe, events) in [(".id", "2"), ("$headers[\"x-id\"]", "2"), (".kind", "1")] {
        let keys = format!("dedupe = {{ jq = '{dedupe}' }}\nrespond = {{ status = 200 }}");
        let server = started(with_source(scenario(), "m", recipe, &keys));
        let body = ("application/json", r#"{"kind":"ping"}"#);
        let mut draft = signed(&server, "m", ("d1", now_ms()), body);
        for id in ["1", "2"] {
            draft.set_header("x-id", id);
            assert_eq!(send(&server, &draft).status, 200);
        }
        assert_eq!(server.value("select count(*) from trail"), events, "{dedupe}");
    }
}

/// No test waits until a request is old: its source gets another tolerance.
fn restart_with_tolerance(server: &mut Server, tolerance: &str) {
    let config = server.config();
    let (before, after) = config.split_once("tolerance = \"").expect("a tolerance");
    let (_, after) = after.split_once('"').expect("its end");
    *config = format!("{before}tolerance = \"{tolerance}\"{after}");
    server.write_config();
    assert_eq!(server.stop(), Some(0));
    server.start();
}

#[test]
fn a_late_retry_of_a_stored_event_is_a_repeat_that_heals_nothing_and_a_new_one_as_old_is_refused() {
    let scenario =
        scenario().handler("h", "retry = { max_attempts = 1 }", "exit 65").from("h", "m");
    let verify = "scheme = \"mailgun\", tolerance = \"9h\"";
    let mut server = started(with_source(scenario, "m", verify, ""));
    let at_ms = now_ms() - HOUR_MS;
    let draft = signed(&server, "m", ("d1", at_ms), DATA);
    assert_eq!(send(&server, &draft).status, 200);
    server.until("select state from jobs", "4");
    restart_with_tolerance(&mut server, "1m");
    assert_eq!(send(&server, &draft).status, 200);
    assert_eq!(send(&server, &with_other_data(&draft, "2")).status, 200);
    assert_eq!(server.list("select duplicates from trail"), ["2"]);
    assert_eq!(server.value("select state from jobs"), "4");
    assert_eq!(send(&server, &signed(&server, "m", ("d2", at_ms), DATA)).status, 401);
    let reason = "select reason like 'timestamp is 360_ s old: at most 60 s; is this machine''s \
                  clock right?' from rejections";
    server.until(reason, "1");
    restart_with_tolerance(&mut server, "9h");
    assert_eq!(send(&server, &draft).status, 200);
    server.until("select count(*) from outcomes", "2");
}

#[test]
fn a_late_retry_by_a_recipe_of_ones_own_is_known_by_the_signed_key_of_its_dedupe() {
    let recipe = "scheme = \"hmac\", header = \"X-Sig\", timestamp_header = \"X-Time\", \
                  id_header = \"X-Id\", signed = \"{id}.{timestamp}.{body}\", tolerance = \"9h\"";
    for (dedupe, late) in [
        ("{ body = true }", 200),
        ("{ jq = '.id' }", 200),
        // Asked of a process.
        ("{ jq = '.id | ascii_downcase' }", 200),
        ("{ header = 'X-Id' }", 200),
        // Anybody may write what is not signed.
        ("{ header = 'X-Other' }", 401),
        ("{ jq = '$headers[\"x-other\"]' }", 401),
    ] {
        let keys = format!("dedupe = {dedupe}\nrespond = {{ status = 200 }}");
        let mut server = started(with_source(scenario(), "m", recipe, &keys));
        let body = ("application/json", r#"{"id":"1"}"#);
        let mut draft = signed(&server, "m", ("d1", now_ms() - HOUR_MS), body);
        draft.set_header("x-other", "1");
        assert_eq!(send(&server, &draft).status, 200);
        restart_with_tolerance(&mut server, "1m");
        assert_eq!(send(&server, &draft).status, late, "{dedupe}");
        let other = ("application/json", r#"{"id":"2"}"#);
        let new = signed(&server, "m", ("d2", now_ms() - HOUR_MS), other);
        assert_eq!(send(&server, &new).status, 401, "{dedupe}");
        assert_eq!(server.value("select count(*) from trail"), "1");
    }
}

#[test]
fn an_old_handshake_is_refused_and_a_clock_that_may_be_wrong_is_told_of() {
    let server = started(with_source(scenario(), "a", "scheme = \"slack\"", ""));
    let asks = r#"{"type":"url_verification","challenge":"c"}"#;
    let old = |body| signed(&server, "a", ("d1", now_ms() - HOUR_MS), ("application/json", body));
    assert_eq!(send(&server, &old(asks)).status, 401);
    assert!(!server.log().contains("clock"));
    assert_eq!(send(&server, &old("{}")).status, 401);
    assert_eq!(send(&server, &old("[]")).status, 401);
    until("it is told", || server.log().contains("outside verify.tolerance (timestamp is 360"));
    server.until("select sum(count) from rejections where reason like '%clock right?'", "3");
    assert_eq!(server.value("select count(*) from trail"), "0");
    assert_eq!(server.value("select count(*) from handshakes"), "0");
}

/// Signed as SendGrid signs, now.
fn sendgrid(server: &Server, key: &EcdsaKeyPair, body: &str) -> u16 {
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
fn single_events_of_sendgrid_that_come_again_in_other_batches_run_once() {
    let random = ring::rand::SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
    let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).expect("a key");
    // RFC 5480: the point behind its algorithm and curve.
    let head = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").expect("hex");
    let spki = STANDARD.encode([head.as_slice(), key.public_key().as_ref()].concat());
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/senders.md"));
    let recipe = "split = '.[]'\nunique_by = { jq = '.sg_event_id', window = \"7d\" }";
    assert!(page.expect("the page").contains(recipe));
    let verify = "verify = { scheme = \"sendgrid\", secret = { file = \"key\" } }";
    let scenario = scenario().source("a", verify).handler("h", recipe, "true");
    scenario.file("key", &spki);
    let server = scenario.start();
    for body in [
        r#"[{"sg_event_id":"1"},{"sg_event_id":"2"}]"#,
        r#"[{"sg_event_id":"1"},{"sg_event_id":"2"}]"#,
        r#"[{"sg_event_id":"2"},{"sg_event_id":"3"}]"#,
    ] {
        assert_eq!(sendgrid(&server, &key, body), 200);
    }
    assert_eq!(server.value("select count(*) from trail"), "2");
    server.until("select count(*) from outcomes where outcome = 'succeeded'", "3");
    assert_eq!(server.value("select count(*) from jobs where reason = 'same as job 2'"), "1");
}
