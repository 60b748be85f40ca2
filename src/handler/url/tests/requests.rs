//! What is sent: the bytes, their type, the headers, the signature.

use super::*;

#[test]
fn the_bytes_go_by_post_with_their_type_and_a_key() {
    let fake = says("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    let ended = fake.run();
    check(&ended, Outcome::Succeeded, "status 200: hello");
    assert_eq!(ended.stdout, b"hello");
    let (head, body) = fake.only();
    let host = fake.url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).unwrap();
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
fn bytes_without_a_type_get_none_and_what_was_made_is_json() {
    let fake = says("HTTP/1.1 204 No Content\r\n\r\n");
    let mut task = fake.task();
    let headers = Headers::default();
    task.event = Arc::new(Event { headers, ..(*task.event).clone() });
    task.input = Arc::from(*b"");
    check(&run_of(&task), Outcome::Succeeded, "status 204");
    let (head, body) = fake.only();
    assert!(!head.iter().any(|line| line.starts_with("content-type")), "{head:?}");
    assert!(head.contains(&"content-length: 0".to_owned()), "{head:?}");
    assert!(body.is_empty());
    let fake = says("HTTP/1.1 204 No Content\r\n\r\n");
    let made = Task { input: Arc::from(*b"{}"), is_json_input: true, ..fake.task() };
    run_of(&made);
    assert!(fake.only().0.contains(&"content-type: application/json".to_owned()));
}

#[test]
fn headers_are_the_chosen_ones_of_the_event_and_the_handlers_own() {
    let fake = says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let task = with(&fake.task(), |handler| {
        if let Some(target) = &mut handler.target {
            target.forward_headers = ["x-a", "x-raw", "x-none"].map(str::to_owned).to_vec();
        }
    });
    let own = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    let headers = [own("Authorization", "Bearer s3cret"), own("User-Agent", "mine")];
    run_of(&Task { headers: Arc::new(headers), ..task });
    let asked = fake.asked.lock().unwrap();
    let head = asked[0].1.as_str();
    for line in ["x-a: 1\r\n", "x-a: say \"2\"\r\n", "authorization: Bearer s3cret\r\n"] {
        assert!(head.contains(line), "{head}");
    }
    assert!(head.contains("user-agent: mine") && !head.contains("hooktrail/"), "{head}");
    assert!(!head.contains("x-none"), "{head}");
}

#[test]
fn a_secret_that_is_no_header_is_not_shown() {
    let task = task("http://127.0.0.1:1/");
    let headers = Arc::new([("X-Key".to_owned(), b"hush\r\nhush".to_vec())]);
    let ended = run_of(&Task { headers, ..task });
    check(&ended, Outcome::Failed, "not started: X-Key: not one line of text");
}

#[test]
fn what_is_signed_has_the_three_headers() {
    let fake = says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let secret = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_vec();
    run_of(&Task { sign: Arc::new([secret.clone(), secret]), ..fake.task() });
    let (head, _) = fake.only();
    let line = |name: &str| {
        let found = head.iter().find_map(|line| line.strip_prefix(name));
        found.unwrap_or_else(|| panic!("{name} {head:?}")).to_owned()
    };
    assert_eq!(line("webhook-id: "), "the-key");
    let sent: i64 = line("webhook-timestamp: ").parse().unwrap();
    assert!((clock::wall_ms() / 1000 - sent).abs() < 60);
    assert_eq!(line("webhook-signature: ").matches("v1,").count(), 2);
    let unfit = Task { sign: Arc::new([b"whsec_aGk=".to_vec()]), ..fake.task() };
    let remedy = "expected whsec_ and the base64 of 24 to 64 bytes";
    let detail = format!("not started: sign: the secret is a key of 2 bytes: {remedy}");
    check(&run_of(&unfit), Outcome::Failed, &detail);
}
