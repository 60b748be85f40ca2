//! Handshakes: what is one, what is none, and what is never echoed.

use super::super::{Handshake, OutgoingRequest, SenderResponse, Verifier};
use super::{verifier, without_secrets};

fn ask(verifier: &Verifier, request: &str, body: &str) -> Option<Result<Handshake, String>> {
    let (method, url) = request.split_once(' ').unwrap();
    let (path, query) = url.split_once('?').map_or((url, None), |(p, q)| (p, Some(q)));
    let draft = OutgoingRequest {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.map(str::to_owned),
        body: body.as_bytes().to_vec(),
        ..OutgoingRequest::default()
    };
    let lines = draft.header_refs();
    super::ask(verifier.handshake().unwrap(), &draft.as_signed_request(&lines))
}

fn answer(verifier: &Verifier, request: &str, body: &str) -> Option<SenderResponse> {
    ask(verifier, request, body).map(|found| found.unwrap().answer)
}

fn empty(status: u16) -> Option<SenderResponse> {
    Some(SenderResponse::empty(status))
}

#[test]
fn a_challenge_in_the_query_is_decoded_once_and_echoed_as_text() {
    let text = |body: &str| Some(SenderResponse::text(body));
    let dropbox = verifier("scheme = \"dropbox\"", &["s"]);
    assert_eq!(answer(&dropbox, "GET /?challenge=a%2Bb+c%2541", ""), text("a+b c%41"));
    assert_eq!(answer(&dropbox, "GET /?challenge=", ""), text(""));
    let graph = verifier("scheme = \"microsoft-graph\"", &["s"]);
    assert_eq!(
        answer(&graph, "POST /?validationToken=Validation%3A+%3Cb%3E", ""),
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
        assert_eq!(answer(verifier, request, ""), None, "{request}");
    }
    let fits = format!("GET /?challenge={}", "a".repeat(1024));
    assert!(answer(&dropbox, &fits, "").is_some());
    assert_eq!(answer(&dropbox, &format!("{fits}a"), ""), None);
}

#[test]
fn meta_is_answered_where_it_knows_the_token() {
    let mut tokens = crate::config::Secrets::default();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let keys =
        r#"scheme = "meta", secret = { env = "S" }, verify_token = [{ env = "T" }, { env = "U" }]"#;
    std::fs::write(&file, format!("[sources.a]\nverify = {{ {keys} }}\n")).unwrap();
    for (name, value) in [("S", "s"), ("T", "to ken"), ("U", "older")] {
        tokens.insert(crate::config::SecretRef::Env(name.into()), value.into());
    }
    let loaded = crate::config::load(&file).unwrap();
    let meta = Verifier::new(&loaded.config.sources[0], &tokens);
    let ask = |query: &str| ask(&meta, &format!("GET /?{query}"), "");
    let mode = "hub.mode=subscribe&hub.challenge=115";
    for token in ["to+ken", "to%20ken", "older"] {
        let found = ask(&format!("{mode}&hub.verify_token={token}")).unwrap().unwrap();
        assert_eq!(found.answer, SenderResponse::text("115"));
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
        assert_eq!(ask(&query), Some(Err(reason.to_owned())), "{query}");
    }
    for query in ["", "hub.mode=unsubscribe&hub.verify_token=older&hub.challenge=1"] {
        assert_eq!(ask(query), None, "{query}");
    }
    let bare = without_secrets("scheme = \"meta\"");
    let found = self::ask(&bare, &format!("GET /?{mode}&hub.verify_token="), "");
    assert_eq!(found, Some(Err("no verify_token is configured".to_owned())));
}

#[test]
fn who_only_looks_whether_somebody_is_there_is_told_so() {
    let trello = verifier("scheme = \"trello\"", &["s"]);
    assert_eq!(answer(&trello, "HEAD /", ""), empty(200));
    assert_eq!(answer(&trello, "GET /", ""), None);
    let mailchimp = verifier("scheme = \"mailchimp\", query = \"k\"", &["s"]);
    assert_eq!(answer(&mailchimp, "GET /", ""), empty(200));
    assert_eq!(answer(&mailchimp, "POST /", ""), empty(200));
    assert_eq!(answer(&mailchimp, "POST /", "type=subscribe"), None);
    let mandrill = without_secrets("scheme = \"mandrill\"");
    assert_eq!(answer(&mandrill, "HEAD /", ""), empty(200));
    assert_eq!(answer(&mandrill, "POST /", "mandrill_events=%5B%5D"), empty(200));
    assert_eq!(answer(&mandrill, "POST /", "mandrill_events=[]"), empty(200));
    for body in ["mandrill_events=%5B1%5D", "mandrill_events=[]&x=1", "", "x=[]"] {
        assert_eq!(answer(&mandrill, "POST /", body), None, "{body}");
    }
}

#[test]
fn questions_in_a_signed_body_are_told_from_events() {
    let slack = verifier("scheme = \"slack\"", &["s"]);
    let asks = r#"{"token":"x","type":"url_verification","challenge":"<b>\u00fc"}"#;
    assert_eq!(answer(&slack, "POST /", asks), Some(SenderResponse::text("<b>\u{fc}")));
    let discord = verifier("scheme = \"discord\"", &["s"]);
    let pong = SenderResponse {
        status: 200,
        content_type: Some("application/json"),
        body: r#"{"type":1}"#.into(),
    };
    assert_eq!(answer(&discord, "POST /", r#"{"type":1,"id":"5"}"#), Some(pong));
    let silent = answer(&discord, "POST /", r#"{"version":1,"type":0}"#).unwrap();
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
        assert_eq!(answer(verifier, "POST /", body), None, "{body}");
    }
    let long = format!(r#"{{"type":"url_verification","challenge":"{}"}}"#, "x".repeat(1025));
    assert_eq!(answer(&slack, "POST /", &long), None);
}

/// A request with headers, unsigned.
fn unsigned(verifier: &Verifier, request: &str, headers: &[(&str, &str)], body: &str) -> bool {
    let (method, url) = request.split_once(' ').unwrap();
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let draft = OutgoingRequest {
        method: method.to_owned(),
        path: "/".to_owned(),
        query: url.split_once('?').map(|(_, query)| query.to_owned()),
        headers: headers.collect(),
        body: body.as_bytes().to_vec(),
        ..OutgoingRequest::default()
    };
    let lines = draft.header_refs();
    let found = verifier.handshake().unwrap().detect(&draft.as_signed_request(&lines), false);
    found.is_some_and(|found| found.unwrap().answer == SenderResponse::empty(200))
}

#[test]
fn slack_checks_a_slash_commands_certificate_unsigned() {
    let slack = verifier("scheme = \"slack\"", &["s"]);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    for (request, headers, body) in [
        ("POST /", &form[..], "ssl_check=1&token=x"),
        ("POST /", &form, "token=x&ssl%5Fcheck=%31"),
        ("GET /?ssl_check=1", &[], ""),
        ("GET /?ssl_check=1&token=x", &[], ""),
    ] {
        assert!(unsigned(&slack, request, headers, body), "{request} {body}");
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
        assert!(!unsigned(&slack, request, headers, body), "{request} {body}");
    }
}

#[test]
fn bitbucket_data_center_tests_a_connection_unsigned() {
    let bitbucket = verifier("scheme = \"bitbucket\"", &["s"]);
    let ping = [("x-event-key", "diagnostics:ping")];
    assert!(unsigned(&bitbucket, "POST /", &ping, r#"{"test":true}"#));
    assert!(unsigned(&bitbucket, "POST /", &ping, "\u{feff}{\"test\": true}"));
    for (request, headers, body) in [
        ("POST /", &ping[..], r#"{"test":false}"#),
        ("POST /", &ping, r#"{"test":"true"}"#),
        ("POST /", &ping, ""),
        ("POST /", &[], r#"{"test":true}"#),
        ("POST /", &[("x-event-key", "repo:push")], r#"{"test":true}"#),
        ("POST /", &[ping[0], ping[0]], r#"{"test":true}"#),
        ("GET /", &ping, r#"{"test":true}"#),
    ] {
        assert!(!unsigned(&bitbucket, request, headers, body), "{request} {body}");
    }
}

#[test]
fn zoom_is_answered_with_the_secret_that_it_signed_by() {
    let body =
        r#"{"event":"endpoint.url_validation","payload":{"plainToken":"q\"t"},"event_ts":1}"#;
    let both = verifier("scheme = \"zoom\"", &["old", "new"]);
    for secret in ["old", "new"] {
        let mut draft = OutgoingRequest {
            method: "POST".to_owned(),
            path: "/".to_owned(),
            body: body.as_bytes().to_vec(),
            ..OutgoingRequest::default()
        };
        verifier("scheme = \"zoom\"", &[secret]).sign(&mut draft, 0).unwrap();
        let lines = draft.header_refs();
        let found = super::ask(both.handshake().unwrap(), &draft.as_signed_request(&lines))
            .unwrap()
            .unwrap();
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
        let encrypted = hex::encode(ring::hmac::sign(&key, b"q\"t"));
        let json: serde_json::Value = serde_json::from_str(&found.answer.body).unwrap();
        assert_eq!(json["encryptedToken"], encrypted);
        assert_eq!(json["plainToken"], "q\"t");
        let right = draft.header("x-zm-signature").unwrap().to_owned();
        draft.set_header("x-zm-signature", format!("v0={}, {right}", "0".repeat(64)));
        let lines = draft.header_refs();
        let several = super::ask(both.handshake().unwrap(), &draft.as_signed_request(&lines));
        assert_eq!(several.unwrap().unwrap().answer, found.answer);
    }
    assert_eq!(ask(&both, "POST /", body), None);
}

#[test]
fn each_sender_hears_what_it_wants_to_hear() {
    for (verify, body, status, told) in [
        ("scheme = \"github\"", "{}", 200, ""),
        ("scheme = \"zoom\"", "{}", 200, ""),
        ("scheme = \"twilio\"", "a=1", 204, ""),
        ("scheme = \"discord\"", r#"{"type":2,"id":"1"}"#, 200, r#"{"type":5}"#),
        ("scheme = \"discord\"", r#"{"type":1,"event":{"type":"X"}}"#, 204, ""),
        ("scheme = \"discord\"", r#"{"type":2,"event":{}}"#, 204, ""),
        ("scheme = \"discord\"", "x", 204, ""),
    ] {
        let found = verifier(verify, &["s"]).answer(body.as_bytes()).unwrap();
        assert_eq!((found.status, found.body.as_str()), (status, told), "{verify} {body}");
    }
    assert_eq!(verifier("scheme = \"bearer\"", &["s"]).answer(b""), None);
}
