//! What each answer comes to, and each that is none.

use super::*;

#[test]
fn the_status_decides() {
    use Outcome::{Failed, Succeeded};
    let check_status = |answer: &'static str, outcome, dead, wait: Option<u64>, detail: &str| {
        let ended = says(answer).run();
        check(&ended, outcome, detail);
        assert_eq!(
            (ended.is_permanent, ended.retry_after),
            (dead, wait.map(Duration::from_secs)),
            "{answer}"
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
    let elsewhere = says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    for status in [301, 302, 303, 307, 308] {
        let to = elsewhere.url.clone();
        let fake = fake(move |_, stream| {
            let answer =
                format!("HTTP/1.1 {status} Go\r\nLocation: {to}\r\nContent-Length: 2\r\n\r\nhi");
            stream.write_all(answer.as_bytes()).is_ok()
        });
        let expected = format!("status {status}: not followed to {}: hi", elsewhere.url);
        check(&fake.run(), Outcome::Failed, &expected);
    }
    assert!(elsewhere.asked.lock().unwrap().is_empty());
}

#[test]
fn answers_before_the_answer_are_passed_over() {
    let fake = says(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    );
    check(&fake.run(), Outcome::Succeeded, "status 200: ok");
}

#[test]
fn an_answer_in_chunks_or_up_to_the_end_is_one() {
    let chunked = says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
    check(&chunked.run(), Outcome::Succeeded, "status 200: ok");
    let old = says_and_closes(b"HTTP/1.0 200 OK\r\n\r\nok");
    check(&old.run(), Outcome::Succeeded, "status 200: ok");
}

#[test]
fn no_more_of_an_answer_is_read_than_is_kept() {
    let flood = fake(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
        false
    });
    let task = with(&flood.task(), |handler| handler.max_output_bytes = 10_000);
    let ended = run_of(&task);
    assert_eq!((ended.outcome, ended.stdout.len()), (Outcome::Succeeded, 10_000));
    assert_eq!(ended.detail.len(), DETAIL_CHARS_MAX);
    let none = with(&flood.task(), |handler| handler.max_output_bytes = 0);
    let ended = run_of(&none);
    assert!(ended.stdout.is_empty() && ended.detail.starts_with("status 200: xxx"));
}

#[test]
fn an_answer_that_breaks_off_is_none() {
    let short = says_and_closes(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal");
    let ended = short.run();
    check(&ended, Outcome::Failed, "status 200, but no answer: the connection was closed");
    assert_eq!(ended.stdout, b"hal");
    // What its head asks for holds all the same.
    let busy = b"HTTP/1.1 503 No\r\nRetry-After: 3600\r\nContent-Length: 9\r\n\r\nhal";
    assert_eq!(says_and_closes(busy).run().retry_after, Some(Duration::from_secs(3600)));
    let gone = b"HTTP/1.1 410 Gone\r\nContent-Length: 9\r\n\r\nhal";
    assert!(says_and_closes(gone).run().is_permanent);
    let chunk = says_and_closes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhal");
    assert_eq!(chunk.run().outcome, Outcome::Failed);
    let garbage =
        says_and_closes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\nhal\r\n");
    let ended = garbage.run();
    assert_eq!(ended.outcome, Outcome::Failed);
    assert!(ended.detail.starts_with("status 200, but no answer: not HTTP: "), "{ended:?}");
}

#[test]
fn a_server_that_closes_or_speaks_something_else_has_failed() {
    for nothing in [&b""[..], b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-"] {
        let ended = fake(move |_, stream| {
            let _ = stream.write_all(nothing);
            false
        })
        .run();
        check(&ended, Outcome::Failed, "no answer: the connection was closed");
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
        let ended = fake(move |_, stream| {
            let _ = stream.write_all(garbage);
            false
        })
        .run();
        assert_eq!(ended.outcome, Outcome::Failed, "{ended:?}");
        assert!(ended.detail.contains("no answer: "), "{ended:?}");
        assert!(!ended.detail.contains(char::is_control), "{ended:?}");
    }
}

#[test]
fn a_head_is_bounded() {
    let ended = fake(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(b"X-Pad: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n").is_ok()
        {
        }
        false
    })
    .run();
    assert_eq!(ended.outcome, Outcome::Failed);
    let one_line = fake(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX-Pad: ");
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
        false
    })
    .run();
    check(&one_line, Outcome::Failed, "no answer: its head is larger than 32 KiB");
}

#[test]
fn who_answers_before_it_has_read_all_is_heard() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 410 Gone\r\nContent-Length: 2\r\n\r\nno").unwrap();
        // Reads no more than the head; what it was sent besides makes the system reset it.
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read(&mut [0; 1024]);
    });
    let input = vec![b'x'; 20 << 20].into();
    let ended = run_of(&Task { input, ..task(&url) });
    server.join().unwrap();
    check(&ended, Outcome::Failed, "status 410: no");
    assert!(ended.is_permanent);
}
