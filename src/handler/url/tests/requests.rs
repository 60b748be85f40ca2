//! Tests of requests: body, content type, headers and signature.

use super::*;

#[test]
fn the_body_is_posted_with_its_content_type_and_an_idempotency_key() {
    let server = respond_with("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    let result = server.run();
    check(&result, Outcome::Succeeded, "status 200: hello");
    assert_eq!(result.stdout, b"hello");
    let (head, body) = server.only_request();
    let host =
        server.url.strip_prefix("http://").and_then(|address| address.split('/').next()).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        head,
        [
            "POST /hook?a=%20b HTTP/1.1",
            "accept-encoding: identity",
            "accept: */*",
            "content-length: 8",
            "content-type: text/plain",
            &format!("host: {host}"),
            "idempotency-key: the-key",
            &format!("user-agent: hooktrail/{version}"),
        ]
    );
    assert_eq!(body, b"the body");
}

#[test]
fn a_missing_content_type_stays_missing_and_a_transformed_body_is_json() {
    let server = respond_with("HTTP/1.1 204 No Content\r\n\r\n");
    let mut task = server.task();
    let headers = Headers::default();
    task.event = Arc::new(Event { headers, ..(*task.event).clone() });
    task.input = Arc::from(*b"");
    check(&run_attempt(&task), Outcome::Succeeded, "status 204");
    let (head, body) = server.only_request();
    assert!(!head.iter().any(|line| line.starts_with("content-type")), "{head:?}");
    assert!(head.contains(&"content-length: 0".to_owned()), "{head:?}");
    assert!(body.is_empty());
    let server = respond_with("HTTP/1.1 204 No Content\r\n\r\n");
    let json_task = Task { input: Arc::from(*b"{}"), is_json_input: true, ..server.task() };
    run_attempt(&json_task);
    assert!(server.only_request().0.contains(&"content-type: application/json".to_owned()));
}

#[test]
fn forwarded_headers_and_configured_headers_are_sent() {
    let server = respond_with("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let task = with_settings(&server.task(), |handler| {
        if let HandlerKind::Url(target) = &mut handler.kind {
            target.forward_headers = ["x-a", "x-raw", "x-none"].map(str::to_owned).to_vec();
        }
    });
    let own_authority = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    let headers =
        [own_authority("Authorization", "Bearer s3cret"), own_authority("User-Agent", "mine")];
    run_attempt(&Task { headers: Arc::new(headers), ..task });
    let requests = server.requests.lock();
    let head = requests[0].1.as_str();
    for line in ["x-a: 1\r\n", "x-a: say \"2\"\r\n", "authorization: Bearer s3cret\r\n"] {
        assert!(head.contains(line), "{head}");
    }
    assert!(head.contains("user-agent: mine") && !head.contains("hooktrail/"), "{head}");
    assert!(!head.contains("x-none"), "{head}");
}

#[test]
fn an_invalid_secret_header_value_is_not_shown() {
    let task = task("http://127.0.0.1:1/");
    let headers = Arc::new([("X-Key".to_owned(), b"hush\r\nhush".to_vec())]);
    let result = run_attempt(&Task { headers, ..task });
    check(&result, Outcome::Failed, "not started: X-Key: not one line of text");
}

#[test]
fn a_signed_request_has_the_three_webhook_headers() {
    let server = respond_with("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let secret = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_vec();
    run_attempt(&Task { sign: Arc::new([secret.clone(), secret]), ..server.task() });
    let (head, _) = server.only_request();
    let line = |name: &str| {
        let found = head.iter().find_map(|line| line.strip_prefix(name));
        found.unwrap_or_else(|| panic!("{name} {head:?}")).to_owned()
    };
    assert_eq!(line("webhook-id: "), "the-key");
    let sent: i64 = line("webhook-timestamp: ").parse().unwrap();
    assert!((clock::wall_ms() / 1000 - sent).abs() < 60);
    assert_eq!(line("webhook-signature: ").matches("v1,").count(), 2);
    let short_key = Task { sign: Arc::new([b"whsec_aGk=".to_vec()]), ..server.task() };
    let remedy = "expected whsec_ and the base64 of 24 to 64 bytes";
    let detail = format!("not started: sign: the secret is a key of 2 bytes: {remedy}");
    check(&run_attempt(&short_key), Outcome::Failed, &detail);
}
