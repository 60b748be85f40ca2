//! Handlers with a `url`: the request that the server sends, the outcome of each response, and attempts
//! without a response.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::support::http_server::{empty_response, stub_server, stub_server_over};
use crate::support::server::{scenario, stderr, stdout, until};

#[test]
fn a_call_has_the_body_the_content_type_the_chosen_headers_and_a_key() {
    let crm = stub_server(|_| Some("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nthanks".into()));
    let keys = "headers = { Authorization = { file = \"token\" }, X-From = \"us\" }\n\
                forward_headers = [\"X-Delivery\"]";
    let scenario = scenario().source("a", "").raw_config(&crm.handler_table("crm", keys));
    scenario.write_file("token", "Bearer hush-hush\n");
    let server = scenario.start();
    let headers = "Content-Type: text/csv\nX-Delivery: 7\nX-Other: 8";
    server.request("POST", "/hooks/a?q=1", headers, b"a;b\r\n\0\xff");
    server.until("select outcome || ': ' || detail from outcomes", "succeeded: status 200: thanks");
    assert_eq!(server.value("select stdout from attempts"), "thanks");
    let requests = crm.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].head.starts_with("POST /hook HTTP/1.1\r\n"), "{}", requests[0].head);
    for (name, value) in [
        ("content-type", Some("text/csv")),
        ("x-delivery", Some("7")),
        ("x-other", None),
        ("x-from", Some("us")),
        ("authorization", Some("Bearer hush-hush")),
        ("content-length", Some("7")),
        ("webhook-id", None),
    ] {
        assert_eq!(requests[0].header(name), value, "{name}");
    }
    assert!(requests[0].header("user-agent").is_some_and(|agent| agent.starts_with("hooktrail/")));
    assert!(requests[0].header("idempotency-key").is_some_and(|key| key.ends_with("-crm-0-0")));
    assert_eq!(requests[0].body, b"a;b\r\n\0\xff");
    assert!(!server.log().contains("hush"), "{}", server.log());
    let run = server.cli(&["run", "crm", "1"]);
    assert!(stdout(&run).contains("thanks"), "{}{}", stdout(&run), stderr(&run));
    assert_eq!(crm.requests().len(), 2);
}

#[test]
fn a_transformed_body_is_sent_as_json() {
    let crm = stub_server(|_| Some(empty_response(204, "")));
    let server = scenario()
        .source("a", "")
        .raw_config(&crm.handler_table("crm", "transform = '{id: .n}'"))
        .start();
    server.request("POST", "/hooks/a", "Content-Type: application/x-www-form-urlencoded", b"n=5");
    server.until("select detail from outcomes", "status 204");
    let requests = crm.requests();
    assert_eq!(requests[0].header("content-type"), Some("application/json"));
    assert_eq!(requests[0].body, br#"{"id":"5"}"#);
}

#[test]
fn retries_have_the_same_idempotency_key_and_the_status_decides_the_outcome() {
    let crm = stub_server(|number| {
        Some(match number {
            1 => empty_response(500, ""),
            2 => empty_response(302, "Location: http://127.0.0.1:1/\r\n"),
            3 => "not HTTP\r\n\r\n".to_owned(),
            _ => empty_response(200, ""),
        })
    });
    let keys = "retry = { initial_delay = \"1ms\" }";
    let server = scenario().source("a", "").raw_config(&crm.handler_table("crm", keys)).start();
    server.post("/hooks/a", "{}");
    server.until("select count(*) from trail where succeeded = 1", "1");
    let details = server.column("select outcome || ': ' || detail from outcomes order by id");
    assert_eq!(details[0], "failed: status 500");
    assert_eq!(details[1], "failed: status 302: not followed to http://127.0.0.1:1/");
    assert!(details[2].starts_with("failed: no response: not HTTP: "), "{}", details[2]);
    assert_eq!(details[3], "succeeded: status 200");
    let requests = crm.requests();
    let keys: Vec<_> = requests.iter().map(|request| request.header("idempotency-key")).collect();
    assert!(keys.iter().all(|key| key.is_some() && *key == keys[0]), "{keys:?}");
}

#[test]
fn status_410_makes_the_job_dead() {
    let crm = stub_server(|_| Some("HTTP/1.1 410 Gone\r\nContent-Length: 2\r\n\r\nno".into()));
    let server = scenario().source("a", "").raw_config(&crm.handler_table("crm", "")).start();
    server.post("/hooks/a", "{}");
    server.until("select detail from dead_jobs", "status 410: no");
    assert_eq!(server.value("select count(*) from outcomes"), "1");
}

#[test]
fn retry_after_in_seconds_or_as_a_date_delays_the_retry_by_at_most_a_day() {
    let date = "Date: Sun, 06 Nov 1994 12:00:00 GMT\r\n";
    for (code, headers, wait_ms) in [
        (429, "Retry-After: 600\r\n".to_owned(), "600000"),
        (503, format!("{date}Retry-After: Sun, 06 Nov 1994 12:20:00 GMT\r\n"), "1200000"),
        (503, "Retry-After: 999999999999999999999\r\n".to_owned(), "86400000"),
        (429, format!("{date}Retry-After: Sat, 06 Nov 2094 12:00:00 GMT\r\n"), "86400000"),
    ] {
        let crm = stub_server(move |_| Some(empty_response(code, &headers)));
        let keys = "retry = { initial_delay = \"1s\", max_delay = \"2s\" }";
        let server = scenario().source("a", "").raw_config(&crm.handler_table("crm", keys)).start();
        server.post("/hooks/a", "{}");
        server.until(
            "select outcome || ': ' || detail from outcomes",
            &format!("failed: status {code}"),
        );
        assert_eq!(server.value("select wait_ms from jobs"), wait_ms);
    }
}

#[test]
fn proxies_of_the_environment_are_not_used() {
    let crm = stub_server(|_| Some(empty_response(200, "")));
    let nowhere = "http://127.0.0.1:1";
    let words =
        ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
            .map(|name| format!("{name}={nowhere}"));
    let mut wrap = vec!["env"];
    wrap.extend(words.iter().map(String::as_str));
    let server = scenario()
        .source("a", "")
        .raw_config(&crm.handler_table("crm", ""))
        .wrapped_by(&wrap)
        .start();
    server.post("/hooks/a", "{}");
    server.until("select detail from outcomes", "status 200");
    assert_eq!(crm.requests().len(), 1);
}

#[test]
fn an_invalid_signing_secret_is_a_configuration_error() {
    let scenario = scenario().source("a", "").raw_config(
        "[handlers.crm]\nsources = [\"a\"]\nurl = \"http://127.0.0.1:1/\"\nsign = { file = \"key\" }",
    );
    scenario.write_file("key", "whsec_hush");
    scenario.write();
    let checked = crate::support::server::cli(scenario.path(), &["--config", "config.toml"]);
    assert_eq!(checked.status.code(), Some(78));
    let output = stderr(&checked);
    assert!(output.contains("expected whsec_ and the base64 of 24 to 64 bytes"), "{output}");
    assert!(!output.contains("hush"), "{output}");
}

#[test]
fn a_cancelled_call_ends_at_once() {
    let crm = stub_server(|_| None);
    let keys = "timeout = \"1h\"";
    let server = scenario().source("a", "").raw_config(&crm.handler_table("crm", keys)).start();
    server.post("/hooks/a", "{}");
    until("the handler has been called", || !crm.requests().is_empty());
    let cancelled = server.cli(&["cancel", "1", "--yes"]);
    assert!(cancelled.status.success(), "{}", stderr(&cancelled));
    server.until("select outcome || ': ' || detail from outcomes", "interrupted: cancelled");
    server.until("select cancelled from trail", "1");
}

#[test]
fn a_stop_interrupts_calls() {
    let crm = stub_server(|number| (number > 1).then(|| empty_response(200, "")));
    let mut server = scenario()
        .raw_config("[workers]\nshutdown_timeout = \"100ms\"")
        .source("a", "")
        .raw_config(&crm.handler_table("crm", "timeout = \"1h\""))
        .start();
    server.post("/hooks/a", "{}");
    until("the handler has been called", || !crm.requests().is_empty());
    assert_eq!(server.stop(), Some(0));
    assert_eq!(server.value("select outcome from outcomes"), "interrupted");
    server.start();
    server.until("select outcome from outcomes order by id", "interrupted succeeded");
}

#[test]
fn a_call_interrupted_by_a_kill_is_retried() {
    let crm = stub_server(|number| (number > 1).then(|| empty_response(200, "")));
    let mut server = scenario()
        .source("a", "")
        .raw_config(&crm.handler_table("crm", "timeout = \"1h\""))
        .start();
    server.post("/hooks/a", "{}");
    until("the handler has been called", || !crm.requests().is_empty());
    server.kill();
    server.start();
    server.until("select attempt || outcome from outcomes order by id", "1interrupted 2succeeded");
    assert_eq!(crm.requests().len(), 2);
}

#[test]
fn a_call_without_a_response_times_out() {
    let crm = stub_server(|_| None);
    let keys = "timeout = \"200ms\"\nretry = { max_attempts = 1 }";
    let server = scenario().source("a", "").raw_config(&crm.handler_table("crm", keys)).start();
    server.post("/hooks/a", "{}");
    let expected = "timed_out: timeout 200ms: waiting for the response";
    server.until("select outcome || ': ' || detail from outcomes", expected);
}

#[test]
fn a_reload_trusts_a_new_certificate_authority() {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "our own");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"));
    let authority = authority.expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, &authority).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config =
        ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key);
    let config = Arc::new(config.expect("a configuration"));
    let accept_tls = move |stream| {
        Some(StreamOwned::new(ServerConnection::new(Arc::clone(&config)).ok()?, stream))
    };
    let crm = stub_server_over(|_| Some(empty_response(200, "")), accept_tls);
    let handler = crm.handler_table("crm", "retry = { max_attempts = 1 }");
    let handler = handler.replace("http://127.0.0.1", "https://localhost");
    let wrap = ["env", "SSL_CERT_FILE=ca.pem", "SSL_CERT_DIR="];
    let scenario = scenario().source("a", "").raw_config(&handler).wrapped_by(&wrap);
    scenario.write_file("ca.pem", "");
    let server = scenario.start();
    server.post("/hooks/a", "{}");
    server.until("select substr(detail, 1, 32) from outcomes", "not started: no root certificate");
    server.write_file("ca.pem", &authority.pem());
    server.signal(rustix::process::Signal::HUP);
    server.until_reloads(1);
    server.post("/hooks/a", "{}");
    server.until("select detail from outcomes where event = 2", "status 200");
}
