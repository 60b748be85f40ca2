//! Tests of responses: the outcome of each status, and of invalid or incomplete responses.

use super::*;

#[test]
fn the_status_decides_the_outcome() {
    use Outcome::{Failed, Succeeded};
    let check_status = |response: &'static str, outcome, dead, wait: Option<u64>, detail: &str| {
        let result = respond_with(response).run();
        check(&result, outcome, detail);
        assert_eq!(
            (result.is_permanent, result.retry_after),
            (dead, wait.map(Duration::from_secs)),
            "{response}"
        );
    };
    check_status(
        "HTTP/1.1 201 Made\r\nContent-Length: 0\r\n\r\n",
        Succeeded,
        false,
        None,
        "status 201",
    );
    check_status(
        "HTTP/1.1 410 Gone\r\nContent-Length: 3\r\n\r\nno\n",
        Failed,
        true,
        None,
        "status 410: no",
    );
    check_status("HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n", Failed, false, None, "status 404");
    check_status(
        "HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n",
        Failed,
        false,
        Some(7),
        "status 429",
    );
    check_status(
        "HTTP/1.1 503 No\r\nDate: Sun, 06 Nov 1994 12:00:00 GMT\r\n\
         Retry-After: Sun, 06 Nov 1994 12:02:00 GMT\r\nContent-Length: 0\r\n\r\n",
        Failed,
        false,
        Some(120),
        "status 503",
    );
    check_status(
        "HTTP/1.1 500 Oh\r\nContent-Length: 46\r\n\r\n<html>\n  <title>Internal\terror</title>\n</html>",
        Failed,
        false,
        None,
        "status 500: <html> <title>Internal error</title> </html>",
    );
}

#[test]
fn a_redirect_is_not_followed() {
    let target_server = respond_with("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    for status in [301, 302, 303, 307, 308] {
        let to = target_server.url.clone();
        let server = fake_server(move |_, stream| {
            let response =
                format!("HTTP/1.1 {status} Go\r\nLocation: {to}\r\nContent-Length: 2\r\n\r\nhi");
            stream.write_all(response.as_bytes()).is_ok()
        });
        let expected = format!("status {status}: not followed to {}: hi", target_server.url);
        check(&server.run(), Outcome::Failed, &expected);
    }
    assert!(target_server.requests.lock().is_empty());
}

#[test]
fn informational_responses_are_skipped() {
    let server = respond_with(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    );
    check(&server.run(), Outcome::Succeeded, "status 200: ok");
}

#[test]
fn chunked_and_http_1_0_responses_are_read() {
    let chunked =
        respond_with("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
    check(&chunked.run(), Outcome::Succeeded, "status 200: ok");
    let old = respond_and_close(b"HTTP/1.0 200 OK\r\n\r\nok");
    check(&old.run(), Outcome::Succeeded, "status 200: ok");
}

#[test]
fn the_part_of_a_response_that_is_not_kept_is_not_read() {
    let flood = fake_server(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
        false
    });
    let task = with_settings(&flood.task(), |handler| handler.max_output_bytes = 10_000);
    let result = run_attempt(&task);
    assert_eq!((result.outcome, result.stdout.len()), (Outcome::Succeeded, 10_000));
    assert_eq!(result.detail.len(), MAX_DETAIL_CHARS);
    let runner = with_settings(&flood.task(), |handler| handler.max_output_bytes = 0);
    let result = run_attempt(&runner);
    assert!(result.stdout.is_empty() && result.detail.starts_with("status 200: xxx"));
}

#[test]
fn an_incomplete_response_fails_the_attempt() {
    let short = respond_and_close(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal");
    let result = short.run();
    check(&result, Outcome::Failed, "status 200, but no response: the connection was closed");
    assert_eq!(result.stdout, b"hal");
    // The headers in the head of an incomplete response apply.
    let busy = b"HTTP/1.1 503 No\r\nRetry-After: 3600\r\nContent-Length: 9\r\n\r\nhal";
    assert_eq!(respond_and_close(busy).run().retry_after, Some(Duration::from_secs(3600)));
    let closed_address = b"HTTP/1.1 410 Gone\r\nContent-Length: 9\r\n\r\nhal";
    assert!(respond_and_close(closed_address).run().is_permanent);
    let chunk = respond_and_close(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhal");
    assert_eq!(chunk.run().outcome, Outcome::Failed);
    let garbage =
        respond_and_close(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\nhal\r\n");
    let result = garbage.run();
    assert_eq!(result.outcome, Outcome::Failed);
    assert!(result.detail.starts_with("status 200, but no response: not HTTP: "), "{result:?}");
}

#[test]
fn a_closed_connection_or_another_protocol_fails_the_attempt() {
    for nothing in [&b""[..], b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-"] {
        let result = fake_server(move |_, stream| {
            let _ = stream.write_all(nothing);
            false
        })
        .run();
        check(&result, Outcome::Failed, "no response: the connection was closed");
    }
    for garbage in [
        &b"SSH-2.0-OpenSSH_9.2\r\n\r\n"[..],
        b"220 mail.example.com ESMTP\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 99 OK\r\nContent-Length: 0\r\n\r\n",
        b"\x00\x01\x02\xff\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA B: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: nine\r\n\r\n",
    ] {
        let result = fake_server(move |_, stream| {
            let _ = stream.write_all(garbage);
            false
        })
        .run();
        assert_eq!(result.outcome, Outcome::Failed, "{result:?}");
        assert!(result.detail.contains("no response: "), "{result:?}");
        assert!(!result.detail.contains(char::is_control), "{result:?}");
    }
}

#[test]
fn a_response_head_over_32_kib_fails_the_attempt() {
    let result = fake_server(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(b"X-Pad: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n").is_ok()
        {
        }
        false
    })
    .run();
    assert_eq!(result.outcome, Outcome::Failed);
    let one_line = fake_server(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX-Pad: ");
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
        false
    })
    .run();
    check(&one_line, Outcome::Failed, "no response: its head is larger than 32 KiB");
}

#[test]
fn a_response_with_128_headers_is_read() {
    let server = fake_server(|_, stream| {
        let headers = "X-Pad: x\r\n".repeat(127);
        let response = format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: 2\r\n\r\nok");
        stream.write_all(response.as_bytes()).is_ok()
    });
    check(&server.run(), Outcome::Succeeded, "status 200: ok");
}

#[test]
fn a_response_before_the_whole_request_was_read_counts() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 410 Gone\r\nContent-Length: 2\r\n\r\nno").unwrap();
        // The server reads no more than the head, so the system resets the connection.
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read(&mut [0; 1024]);
    });
    let input = vec![b'x'; 20 << 20].into();
    let result = run_attempt(&Task { input, ..task(&url) });
    server.join().unwrap();
    check(&result, Outcome::Failed, "status 410: no");
    assert!(result.is_permanent);
}
