//! `redact` of a source: neither the database nor the log has the original values, and everything that reads an
//! event sees `[redacted]`. Signatures are checked over the original.

use std::fs;

use crate::sender_presets::server_with_verify;
use crate::support::client::Response;
use crate::support::server::{Server, scenario, stderr, stdout, until};
use crate::support::signature::hmac_sha256;

const CARD: &str = "4111-1111-1111-1111";
const REDACT: &str = "redact = { headers = [\"X-Card\"], paths = [\".card.number\"] }\n";
const HMAC: &str =
    "verify = { scheme = \"hmac\", header = \"X-Sig\", secret = { file = \"secret\" } }\n";
const SECRET: &str = "s3cret-of-the-sender";

/// Whether the log or any file of the database contains a text.
fn is_stored(server: &Server, text: &str) -> bool {
    let files = fs::read_dir(server.path()).expect("the folder").flatten();
    let database = files.filter(|file| file.file_name().to_string_lossy().starts_with("t.db"));
    let has_text = |bytes: Vec<u8>| bytes.windows(text.len()).any(|part| part == text.as_bytes());
    let mut contents = database.map(|file| fs::read(file.path()).unwrap_or_default());
    contents.any(has_text) || has_text(server.log().into_bytes())
}

fn post_as(server: &Server, content_type: &str, body: &str) -> Response {
    server.request("POST", "/hooks/a", &format!("Content-Type: {content_type}"), body.as_bytes())
}

/// Posts JSON, signed by the scheme of `HMAC`.
fn post_signed(server: &Server, headers: &str, body: &str) -> Response {
    let signature = hex::encode(hmac_sha256(SECRET, body));
    let headers = format!("Content-Type: application/json\nX-Sig: {signature}{headers}");
    server.request("POST", "/hooks/a", &headers, body.as_bytes())
}

const BODIES: &str = "select group_concat(cast(body as text), ' ') from events";

#[test]
fn no_original_value_is_stored_and_handlers_get_the_redacted_request() {
    let scenario = scenario()
        .source("a", &format!("{HMAC}{REDACT}dedupe = {{ body = true }}"))
        .handler("h", "", "cat; echo \"$HOOKTRAIL_HEADERS\"")
        .handler("t", "transform = '[.card, $headers[\"x-card\"]]'", "cat")
        .handler("s", "when = '.card.number == \"[redacted]\"'\nsplit = '.card, .card'", "cat");
    scenario.write_file("secret", SECRET);
    let mut server = scenario.start();
    let body = format!("{{ \"n\": 1.10, \"card\": {{\"n\\u0075mber\":\"{CARD}\"}} }}");
    let headers = format!("\nX-Card: {CARD}\nx-card: {CARD}");
    assert_eq!(post_signed(&server, &headers, &body).status, 202);
    // A retry with another value is a duplicate, which is stored with its own headers.
    let other = body.replace(CARD, &format!("{CARD}-2"));
    let duplicate = post_signed(&server, &headers, &other);
    assert!(duplicate.body.contains("\"duplicate\":true"), "{}", duplicate.body);
    // Neither a rejected request nor one with an invalid signature is stored.
    assert_eq!(post_signed(&server, &headers, &body[1..]).status, 400);
    assert_eq!(post_as(&server, "application/json", &body).status, 401);
    server.until("select count(*) from rejections", "2");
    server.until("select count(*) from outcomes where outcome = 'succeeded'", "4");
    assert_eq!(
        server.value(BODIES),
        "{ \"n\": 1.10, \"card\": {\"n\\u0075mber\":\"[redacted]\"} }"
    );
    let headers = server.value("select cast(headers as text) from events");
    assert_eq!(headers.matches("x-card: [redacted]\n").count(), 2, "{headers}");
    let outputs = server.column("select cast(stdout as text) from attempts order by id").join("\n");
    assert!(
        outputs.contains("[{\"number\":\"[redacted]\"},\"[redacted], [redacted]\"]"),
        "{outputs}"
    );
    assert!(outputs.contains("\"x-card\":\"[redacted], [redacted]\""), "{outputs}");
    for is_running in [true, false] {
        assert!(!is_stored(&server, CARD), "running: {is_running}");
        if is_running {
            assert_eq!(server.stop(), Some(0));
        }
    }
}

#[test]
fn a_body_that_cannot_be_read_is_rejected_with_a_reason_that_quotes_nothing() {
    let server = scenario().source("a", REDACT).start();
    for (content_type, body) in [
        ("application/json", format!("{{\"card\":{{\"number\":\"{CARD}\"")),
        ("text/plain", format!("card[number]={CARD}")),
        ("application/xml", format!("<card><number>{CARD}</number></card>")),
        ("multipart/form-data; boundary=x", format!("card[number]={CARD}")),
        ("application/json", "[".repeat(129) + &"]".repeat(129)),
    ] {
        let response = post_as(&server, content_type, &body);
        assert_eq!(
            (response.status, response.body.as_str()),
            (400, r#"{"error":"body does not parse"}"#),
            "{body}"
        );
    }
    server.until("select count(*) from rejections where status = 400", "5");
    let reasons = server.column("select reason from rejections order by id");
    assert!(reasons.iter().all(|reason| reason.starts_with("body ")), "{reasons:?}");
    assert!(!is_stored(&server, CARD));
    // An empty body has no values, and a path that leads nowhere creates none.
    for body in ["", "{}", "{\"card\":null}", "[]", "\"text\""] {
        assert_eq!(post_as(&server, "application/json", body).status, 202, "{body}");
    }
    assert_eq!(server.value(BODIES), " {} {\"card\":null} [] \"text\"");
}

#[test]
fn a_source_without_paths_accepts_every_body_and_redacts_its_headers() {
    let server = scenario().source("a", "redact = { headers = [\"X-Card\"] }").start();
    let headers = format!("Content-Type: text/plain\nX-Card: {CARD}");
    assert_eq!(server.request("POST", "/hooks/a", &headers, b"\xff{").status, 202);
    assert!(!is_stored(&server, CARD));
}

#[test]
fn the_fields_of_forms_and_multipart_bodies_are_redacted() {
    let server = scenario()
        .source("a", "redact = { paths = [\".card.number\", \".scan\"] }")
        .handler("h", "transform = '[.card.number, .scan]'", "cat")
        .start();
    let form = format!("a=1&card%5Bnumber%5D={CARD}&card[name]=Ada+L");
    assert_eq!(post_as(&server, "application/x-www-form-urlencoded", &form).status, 202);
    // `curl -d` sends JSON with this content type.
    let json = format!("{{\"card\":{{\"number\":\"{CARD}\"}}}}");
    assert_eq!(post_as(&server, "application/x-www-form-urlencoded", &json).status, 202);
    let part = |head: &str, text: &str| {
        format!("--x\r\nContent-Disposition: form-data; name={head}\r\n\r\n{text}\r\n")
    };
    let multipart = |number: &str, scan: &str, text: &str| {
        format!(
            "{}{}{}--x--\r\n",
            part("\"card[number]\"", number),
            part(scan, text),
            part("\"b\"", "2")
        )
    };
    let file = format!("\"scan\"; filename=\"{CARD}.txt\"\r\nContent-Type: text/plain");
    let body = multipart(CARD, &file, CARD);
    assert_eq!(post_as(&server, "multipart/form-data; boundary=x", &body).status, 202);
    assert_eq!(
        server.column("select cast(body as text) from events order by id"),
        [
            "a=1&card%5Bnumber%5D=%5Bredacted%5D&card[name]=Ada+L",
            "{\"card\":{\"number\":\"[redacted]\"}}",
            &multipart("[redacted]", "\"scan\"", "[redacted]"),
        ]
    );
    server.until("select count(*) from outcomes where outcome = 'succeeded'", "3");
    let outputs = server.column("select cast(stdout as text) from attempts order by job");
    assert_eq!(outputs[0], "[\"[redacted]\",null]");
    assert_eq!(outputs[2], "[\"[redacted]\",\"[redacted]\"]");
    assert!(!is_stored(&server, CARD));
}

#[test]
fn a_large_body_is_redacted() {
    let scenario = scenario().source("a", &format!("{HMAC}redact = {{ paths = [\".[].card\"] }}"));
    scenario.write_file("secret", SECRET);
    let server = scenario.start();
    let body = |value: &str| {
        let items: Vec<String> =
            (0..9_000).map(|number| format!("{{\"id\":{number},\"card\":{value}}}")).collect();
        format!("[{}]", items.join(","))
    };
    assert_eq!(post_signed(&server, "", &body(&format!("\"{CARD}\""))).status, 202);
    // The redacted body is larger.
    assert_eq!(post_signed(&server, "", &body("1")).status, 202);
    let is_redacted = format!(
        "select group_concat(body = cast('{}' as blob)) from events",
        body("\"[redacted]\"")
    );
    assert_eq!(server.value(&is_redacted), "1,1");
    assert!(!is_stored(&server, CARD));
}

#[test]
fn a_reload_changes_what_is_redacted() {
    let mut server = scenario().source("a", "redact = { paths = [\".a\"] }").start();
    let body = "{\"a\":1,\"b\":2}";
    assert_eq!(server.post("/hooks/a", body).status, 202);
    server.replace_in_config("[\".a\"]", "[\".b\"]");
    server.reload_with("");
    server.until_reloads(1);
    assert_eq!(server.post("/hooks/a", body).status, 202);
    server.replace_in_config("redact = { paths = [\".b\"] }", "");
    server.reload_with("");
    server.until_reloads(2);
    assert_eq!(server.post("/hooks/a", body).status, 202);
    assert_eq!(
        server.value(BODIES),
        "{\"a\":\"[redacted]\",\"b\":2} {\"a\":1,\"b\":\"[redacted]\"} {\"a\":1,\"b\":2}"
    );
}

#[test]
fn an_event_whose_dedupe_key_has_a_redacted_value_is_new_and_has_a_note() {
    let server = scenario()
        .source("a", &format!("{REDACT}dedupe = {{ jq = '\"\\(.id) \\(.card.number)\"' }}"))
        .start();
    let body = |number: &str| format!("{{\"id\":1,\"card\":{{\"number\":{number}}}}}");
    for number in ["1", "2", "2"] {
        assert_eq!(server.post("/hooks/a", body(number)).status, 202);
    }
    // Without the value, the expression gives a key.
    for _ in 0..2 {
        assert_eq!(server.post("/hooks/a", "{\"id\":1}").status, 202);
    }
    assert_eq!(server.value("select count(*) from events"), "4");
    assert_eq!(
        server.column("select note from events order by id"),
        ["dedupe: no key, because it has a redacted value"; 3]
            .into_iter()
            .chain(["-"])
            .collect::<Vec<_>>()
    );
}

/// The hash of a body that is known but for one value would give that value away.
#[test]
fn the_delivery_key_of_a_sender_is_made_of_the_redacted_body() {
    let server = server_with_verify("scheme = \"paminga\"", REDACT);
    let post = |number: &str| {
        let body =
            format!("{{\"CampaignActionQualification\":[1],\"card\":{{\"number\":\"{number}\"}}}}");
        let signature = hex::encode(hmac_sha256("0lder", &body));
        let headers = format!("X-Paminga-Signature: {signature}");
        server.request("POST", "/hooks/a", &headers, body.as_bytes()).status
    };
    assert_eq!((post("1"), post("2")), (200, 200));
    assert_eq!(server.value("select bytes || ' ' || duplicates from trail"), "66 1");
}

#[test]
fn a_handshake_is_answered_from_the_redacted_request() {
    let server = scenario()
        .source(
            "a",
            &format!(
                "{REDACT}handshake = {{ methods = [\"GET\", \"POST\"], signed = false, \
                 respond = '$query.challenge // .card.number? // $headers[\"x-card\"]' }}"
            ),
        )
        .start();
    let respond = |method: &str, query: &str, headers: &str, body: &str| {
        let response =
            server.request(method, &format!("/hooks/a{query}"), headers, body.as_bytes());
        (response.status, response.body)
    };
    let expected = |text: &str| (200, text.to_owned());
    assert_eq!(respond("GET", "?challenge=c", "", ""), expected("c"));
    assert_eq!(respond("POST", "?challenge=c", "", "no JSON"), expected("c"));
    assert_eq!(respond("POST", "", "", "{\"card\":{\"number\":1}}"), expected("[redacted]"));
    assert_eq!(respond("POST", "", "X-Card: 1", "{}"), expected("[redacted]"));
    assert_eq!(respond("POST", "", "", "no JSON").0, 400);
    assert_eq!(respond("POST", "", "", "{}").0, 202);
}

#[test]
fn send_finds_the_event_of_a_redacted_request() {
    let mut server = scenario().source("a", "redact = { paths = [\".type\"] }").start();
    server.set_listen(&format!("127.0.0.1:{}", server.port));
    let sent = server.cli(&["send", "a"]);
    assert!(stdout(&sent).contains("\nevent 1: "), "{}{}", stdout(&sent), stderr(&sent));
}

#[test]
fn a_deferred_event_has_the_redacted_values() {
    let server = scenario()
        .source("a", REDACT)
        .handler(
            "h",
            "split = 'range(300) as $n | .card + {$n}'\nbatch_size = 300\nmode = \"batch\"",
            "cat",
        )
        .start();
    let body = format!("{{\"card\":{{\"number\":\"{CARD}\"}}}}");
    assert_eq!(server.post("/hooks/a", body).status, 202);
    server.until("select count(*) from jobs", "300");
    until("the items are redacted", || {
        server.value("select count(*) from items where cast(body as text) like '%[redacted]%'")
            == "300"
    });
    assert!(!is_stored(&server, CARD));
}
