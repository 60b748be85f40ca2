//! Tests of handshakes: which requests are handshakes, and what is never echoed.

use super::super::{HandshakeReply, OutgoingRequest, Reason, SenderResponse, Verifier};
use super::{verifier, without_secrets};

fn detect(
    verifier: &Verifier,
    request: &str,
    body: &str,
) -> Option<Result<HandshakeReply, Reason>> {
    let (method, url) = request.split_once(' ').unwrap();
    let (path, query) = url.split_once('?').map_or((url, None), |(p, q)| (p, Some(q)));
    let outgoing = OutgoingRequest {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.map(str::to_owned),
        body: body.as_bytes().to_vec(),
        ..OutgoingRequest::default()
    };
    let lines = outgoing.header_refs();
    super::detect(verifier.handshakes().unwrap(), &outgoing.as_signed_request(&lines))
}

fn response(verifier: &Verifier, request: &str, body: &str) -> Option<SenderResponse> {
    detect(verifier, request, body).map(|reply| reply.unwrap().response)
}

fn empty(status: u16) -> Option<SenderResponse> {
    Some(SenderResponse::empty(status))
}

#[test]
fn a_challenge_in_the_query_is_decoded_once_and_echoed_as_text() {
    let text = |body: &str| Some(SenderResponse::text(body));
    let dropbox = verifier("scheme = \"dropbox\"", &["s"]);
    assert_eq!(response(&dropbox, "GET /?challenge=a%2Bb+c%2541", ""), text("a+b c%41"));
    assert_eq!(response(&dropbox, "GET /?challenge=", ""), text(""));
    let graph = verifier("scheme = \"microsoft-graph\"", &["s"]);
    assert_eq!(
        response(&graph, "POST /?validationToken=Validation%3A+%3Cb%3E", ""),
        text("Validation: <b>")
    );
    for (verifier, request) in [
        (&dropbox, "GET /"),
        (&dropbox, "GET /?challenge=%ff"),
        (&dropbox, "GET /?challenge=a&challenge=b"),
        (&dropbox, "POST /?challenge=a"),
        (&graph, "GET /?validationToken=a"),
        (&graph, "POST /?validationtoken=a"),
    ] {
        assert_eq!(response(verifier, request, ""), None, "{request}");
    }
    let longest = format!("GET /?challenge={}", "a".repeat(1024));
    assert!(response(&dropbox, &longest, "").is_some());
    assert_eq!(response(&dropbox, &format!("{longest}a"), ""), None);
}

#[test]
fn the_handshake_of_meta_requires_the_verify_token() {
    let mut secrets = crate::config::Secrets::default();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let keys =
        r#"scheme = "meta", secret = { env = "S" }, verify_token = [{ env = "T" }, { env = "U" }]"#;
    std::fs::write(&file, format!("[sources.a]\nverify = {{ {keys} }}\n")).unwrap();
    for (name, value) in [("S", "s"), ("T", "to ken"), ("U", "older")] {
        secrets.insert(crate::config::SecretRef::Env(name.into()), value.into());
    }
    let loaded = crate::config::load(&file).unwrap();
    let meta = loaded.config.sources[0].verifier(&secrets);
    let detect = |query: &str| detect(&meta, &format!("GET /?{query}"), "");
    let mode = "hub.mode=subscribe&hub.challenge=115";
    for token in ["to+ken", "to%20ken", "older"] {
        let reply = detect(&format!("{mode}&hub.verify_token={token}")).unwrap().unwrap();
        assert_eq!(reply.response, SenderResponse::text("115"));
    }
    for (query, reason) in [
        (format!("{mode}&hub.verify_token=other"), "hub.verify_token does not match"),
        (format!("{mode}&hub.verify_token="), "hub.verify_token does not match"),
        (mode.to_owned(), "no query parameter hub.verify_token"),
        (
            format!("{mode}&hub.verify_token=older&hub.verify_token=x"),
            "more than one query parameter hub.verify_token",
        ),
    ] {
        assert_eq!(detect(&query), Some(Err(reason.into())), "{query}");
    }
    for query in ["", "hub.mode=unsubscribe&hub.verify_token=older&hub.challenge=1"] {
        assert_eq!(detect(query), None, "{query}");
    }
    let unconfigured = without_secrets("scheme = \"meta\"");
    let result = self::detect(&unconfigured, &format!("GET /?{mode}&hub.verify_token="), "");
    assert_eq!(result, Some(Err("no verify_token is configured".into())));
}

#[test]
fn a_handshake_without_a_challenge_gets_an_empty_response() {
    let trello = verifier("scheme = \"trello\"", &["s"]);
    assert_eq!(response(&trello, "HEAD /", ""), empty(200));
    assert_eq!(response(&trello, "GET /", ""), None);
    let mailchimp = verifier("scheme = \"mailchimp\", query = \"k\"", &["s"]);
    assert_eq!(response(&mailchimp, "GET /", ""), empty(200));
    assert_eq!(response(&mailchimp, "POST /", ""), empty(200));
    assert_eq!(response(&mailchimp, "POST /", "type=subscribe"), None);
    let mandrill = without_secrets("scheme = \"mandrill\"");
    assert_eq!(response(&mandrill, "HEAD /", ""), empty(200));
    assert_eq!(response(&mandrill, "POST /", "mandrill_events=%5B%5D"), empty(200));
    assert_eq!(response(&mandrill, "POST /", "mandrill_events=[]"), empty(200));
    for body in ["mandrill_events=%5B1%5D", "mandrill_events=[]&x=1", "", "x=[]"] {
        assert_eq!(response(&mandrill, "POST /", body), None, "{body}");
    }
}

#[test]
fn handshakes_in_a_signed_body_are_distinguished_from_events() {
    let slack = verifier("scheme = \"slack\"", &["s"]);
    let handshake = r#"{"token":"x","type":"url_verification","challenge":"<b>\u00fc"}"#;
    assert_eq!(response(&slack, "POST /", handshake), Some(SenderResponse::text("<b>\u{fc}")));
    let discord = verifier("scheme = \"discord\"", &["s"]);
    let pong = SenderResponse {
        status: 200,
        content_type: Some("application/json"),
        body: r#"{"type":1}"#.into(),
    };
    assert_eq!(response(&discord, "POST /", r#"{"type":1,"id":"5"}"#), Some(pong));
    let silent = response(&discord, "POST /", r#"{"version":1,"type":0}"#).unwrap();
    assert_eq!((silent.status, silent.content_type), (204, Some("application/json")));
    for (verifier, body) in [
        (&slack, r#"{"type":"event_callback","challenge":"x"}"#),
        (&slack, r#"{"type":"url_verification"}"#),
        (&slack, r#"{"type":"url_verification","challenge":5}"#),
        (&slack, "payload=%7B%7D"),
        (&discord, r#"{"type":1,"event":{}}"#),
        (&discord, r#"{"type":2}"#),
        (&discord, "{"),
        (&discord, ""),
    ] {
        assert_eq!(response(verifier, "POST /", body), None, "{body}");
    }
    let long = format!(r#"{{"type":"url_verification","challenge":"{}"}}"#, "x".repeat(1025));
    assert_eq!(response(&slack, "POST /", &long), None);
}

/// Returns whether an unsigned request with headers is a handshake with an empty response.
fn is_unsigned_handshake(
    verifier: &Verifier,
    request: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> bool {
    let (method, url) = request.split_once(' ').unwrap();
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let outgoing = OutgoingRequest {
        method: method.to_owned(),
        path: "/".to_owned(),
        query: url.split_once('?').map(|(_, query)| query.to_owned()),
        headers: headers.collect(),
        body: body.as_bytes().to_vec(),
        ..OutgoingRequest::default()
    };
    let lines = outgoing.header_refs();
    let result = verifier.handshakes().unwrap().detect(&outgoing.as_signed_request(&lines), false);
    result.is_some_and(|reply| reply.unwrap().response == SenderResponse::empty(200))
}

#[test]
fn the_certificate_check_of_slack_is_an_unsigned_handshake() {
    let slack = verifier("scheme = \"slack\"", &["s"]);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    for (request, headers, body) in [
        ("POST /", &form[..], "ssl_check=1&token=x"),
        ("POST /", &form, "token=x&ssl%5Fcheck=%31"),
        ("GET /?ssl_check=1", &[], ""),
        ("GET /?ssl_check=1&token=x", &[], ""),
    ] {
        assert!(is_unsigned_handshake(&slack, request, headers, body), "{request} {body}");
    }
    let many = format!("{}ssl_check=1", "a=1&".repeat(16));
    for (request, headers, body) in [
        ("POST /", &[][..], "ssl_check=1"),
        ("POST /", &[("content-type", "application/json")], "ssl_check=1"),
        ("POST /", &form, "ssl_check=1&command=%2Fx"),
        ("POST /", &form, "payload=&ssl_check=1"),
        ("POST /", &form, "ssl_check=0"),
        ("POST /", &form, "ssl_check=1&ssl_check=1"),
        ("POST /", &form, "ssl_check=1&ssl_check=2"),
        ("POST /", &form, &many),
        ("POST /?ssl_check=1", &form, ""),
        ("GET /?ssl_check=1&command=x", &[], ""),
        ("GET /", &form, "ssl_check=1"),
        ("HEAD /?ssl_check=1", &[], ""),
    ] {
        assert!(!is_unsigned_handshake(&slack, request, headers, body), "{request} {body}");
    }
}

#[test]
fn the_connection_test_of_bitbucket_data_center_is_an_unsigned_handshake() {
    let bitbucket = verifier("scheme = \"bitbucket\"", &["s"]);
    let ping = [("x-event-key", "diagnostics:ping")];
    assert!(is_unsigned_handshake(&bitbucket, "POST /", &ping, r#"{"test":true}"#));
    assert!(is_unsigned_handshake(&bitbucket, "POST /", &ping, "\u{feff}{\"test\": true}"));
    for (request, headers, body) in [
        ("POST /", &ping[..], r#"{"test":false}"#),
        ("POST /", &ping, r#"{"test":"true"}"#),
        ("POST /", &ping, ""),
        ("POST /", &[], r#"{"test":true}"#),
        ("POST /", &[("x-event-key", "repo:push")], r#"{"test":true}"#),
        ("POST /", &[ping[0], ping[0]], r#"{"test":true}"#),
        ("GET /", &ping, r#"{"test":true}"#),
    ] {
        assert!(!is_unsigned_handshake(&bitbucket, request, headers, body), "{request} {body}");
    }
}

#[test]
fn the_response_to_zoom_uses_the_secret_that_signed_the_request() {
    let body =
        r#"{"event":"endpoint.url_validation","payload":{"plainToken":"q\"t"},"event_ts":1}"#;
    let both = verifier("scheme = \"zoom\"", &["old", "new"]);
    for secret in ["old", "new"] {
        let mut outgoing = OutgoingRequest {
            method: "POST".to_owned(),
            path: "/".to_owned(),
            body: body.as_bytes().to_vec(),
            ..OutgoingRequest::default()
        };
        verifier("scheme = \"zoom\"", &[secret]).sign(&mut outgoing, 0).unwrap();
        let lines = outgoing.header_refs();
        let reply = super::detect(both.handshakes().unwrap(), &outgoing.as_signed_request(&lines))
            .unwrap()
            .unwrap();
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
        let encrypted = hex::encode(ring::hmac::sign(&key, b"q\"t"));
        let json: serde_json::Value = serde_json::from_str(&reply.response.body).unwrap();
        assert_eq!(json["encryptedToken"], encrypted);
        assert_eq!(json["plainToken"], "q\"t");
        let valid = outgoing.header("x-zm-signature").unwrap().to_owned();
        outgoing.set_header("x-zm-signature", format!("v0={}, {valid}", "0".repeat(64)));
        let lines = outgoing.header_refs();
        let several =
            super::detect(both.handshakes().unwrap(), &outgoing.as_signed_request(&lines));
        assert_eq!(several.unwrap().unwrap().response, reply.response);
    }
    assert_eq!(detect(&both, "POST /", body), None);
}

#[test]
fn each_preset_has_its_senders_success_response() {
    for (verify, body, status, text) in [
        ("scheme = \"github\"", "{}", 200, ""),
        ("scheme = \"zoom\"", "{}", 200, ""),
        ("scheme = \"twilio\"", "a=1", 204, ""),
        ("scheme = \"discord\"", r#"{"type":2,"id":"1"}"#, 200, r#"{"type":5}"#),
        ("scheme = \"discord\"", r#"{"type":1,"event":{"type":"X"}}"#, 204, ""),
        ("scheme = \"discord\"", r#"{"type":2,"event":{}}"#, 204, ""),
        ("scheme = \"discord\"", "x", 204, ""),
    ] {
        let response = verifier(verify, &["s"]).success_response(body.as_bytes()).unwrap();
        assert_eq!((response.status, response.body.as_str()), (status, text), "{verify} {body}");
    }
    assert_eq!(verifier("scheme = \"bearer\"", &["s"]).success_response(b""), None);
}
