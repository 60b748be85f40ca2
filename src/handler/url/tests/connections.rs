//! Tests of connections: refused, reused and stale ones, and proxies.

use std::net::SocketAddr;

use rustix::net::{AddressFamily, SocketType};

use super::*;

#[test]
fn a_refused_connection_or_an_unknown_host_fails() {
    // Bound, so that no other test gets the port, but not listening.
    let bound = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&bound, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let bound = TcpListener::from(bound);
    let closed_address = bound.local_addr().unwrap();
    let result = run_attempt(&task(&format!("http://{closed_address}/")));
    let detail = format!("not connected: {closed_address}: Connection refused (os error 111)");
    check(&result, Outcome::Failed, &detail);
    let result = run_attempt(&task("http://no-such-host.invalid/"));
    assert_eq!(result.outcome, Outcome::Failed);
    assert!(result.detail.starts_with("not connected: no-such-host.invalid: "), "{result:?}");
}

#[test]
fn a_task_without_a_url_or_with_an_unsupported_proxy_is_not_started() {
    let result = run_attempt(&sample_task(|_| {}));
    check(&result, Outcome::Failed, "not started: no url");
    let socks = with_settings(&task("http://127.0.0.1:1/"), |handler| {
        if let HandlerKind::Url(target) = &mut handler.kind {
            target.proxy = Some("socks5://127.0.0.1:1".to_owned());
        }
    });
    check(
        &run_attempt(&socks),
        Outcome::Failed,
        "not started: proxy: expected http:// or https://",
    );
}

#[test]
fn a_connection_is_reused() {
    let server = respond_with("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let (task, stop) = (server.task(), CancelToken::new().unwrap());
    let runner = UrlRunner::new(&task.handler);
    for _ in 0..5 {
        check(&runner.run(&task, &stop), Outcome::Succeeded, "status 200: ok");
    }
    assert_eq!(server.connections(), [0; 5]);
}

#[test]
fn a_connection_with_unread_bytes_or_connection_close_is_not_reused() {
    let extra_bytes =
        respond_with("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 500 Ha\r\n\r\n");
    let (task, stop) = (extra_bytes.task(), CancelToken::new().unwrap());
    let runner = UrlRunner::new(&task.handler);
    for _ in 0..2 {
        check(&runner.run(&task, &stop), Outcome::Succeeded, "status 200: ok");
    }
    assert_eq!(extra_bytes.connections(), [0, 1]);
    // A connection whose response was not read to its end, or that was closed, is not reused
    // either.
    let closes =
        respond_with("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    let runner = UrlRunner::new(&closes.task().handler);
    for _ in 0..2 {
        check(&runner.run(&closes.task(), &stop), Outcome::Succeeded, "status 200: ok");
    }
    assert_eq!(closes.connections(), [0, 1]);
}

#[test]
fn a_response_that_no_request_asked_for_is_not_taken_for_the_next_one() {
    let streams = Arc::new(Mutex::new(Vec::new()));
    let accepted = Arc::clone(&streams);
    let server = fake_server(move |_, stream| {
        accepted.lock().push(stream.try_clone().unwrap());
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_ok()
    });
    let (task, stop) = (server.task(), CancelToken::new().unwrap());
    let runner = UrlRunner::new(&task.handler);
    check(&runner.run(&task, &stop), Outcome::Succeeded, "status 200: ok");
    // Some servers say so when they close an idle connection.
    let late = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n";
    streams.lock()[0].write_all(late).unwrap();
    check(&runner.run(&task, &stop), Outcome::Succeeded, "status 200: ok");
    assert_eq!(server.connections(), [0, 1]);
}

#[test]
fn a_closed_idle_connection_is_replaced_within_the_attempt() {
    // The server closes the connection at its second request.
    let server = fake_server(|number, stream| {
        let is_first = number % 2 == 1;
        is_first && stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_ok()
    });
    let (task, stop) = (server.task(), CancelToken::new().unwrap());
    let runner = UrlRunner::new(&task.handler);
    for _ in 0..3 {
        check(&runner.run(&task, &stop), Outcome::Succeeded, "status 200: ok");
    }
    assert_eq!(server.connections(), [0, 0, 1, 1, 2]);
}

#[test]
fn a_new_connection_that_is_closed_is_not_retried() {
    let server = respond_and_close(b"");
    check(&server.run(), Outcome::Failed, "no response: the connection was closed");
    assert_eq!(server.connections(), [0]);
}

#[test]
fn requests_go_through_the_configured_proxy() {
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = proxy.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (stream, _) = proxy.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut requests = String::new();
        while !requests.ends_with("\r\n\r\n") {
            reader.read_line(&mut requests).unwrap();
        }
        (&stream).write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let (head, _) = request(&mut reader).unwrap();
        (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        (requests, head)
    });
    let task = with_settings(&task("http://crm.example.com/hook"), |handler| {
        if let HandlerKind::Url(target) = &mut handler.kind {
            target.proxy = Some(format!("http://{address}"));
        }
    });
    check(&run_attempt(&task), Outcome::Succeeded, "status 200: ok");
    let (requests, head) = server.join().unwrap();
    assert!(requests.starts_with("CONNECT crm.example.com:80 HTTP/1.1\r\n"), "{requests}");
    assert!(head.starts_with("POST /hook HTTP/1.1\r\n"), "{head}");
    let rejecting_proxy = respond_and_close(b"HTTP/1.1 403 No\r\n\r\n");
    let rejecting_proxy = rejecting_proxy.url.split("/hook").next().unwrap().to_owned();
    let result = run_attempt(&with_settings(&task, |handler| {
        if let HandlerKind::Url(target) = &mut handler.kind {
            target.proxy = Some(rejecting_proxy);
        }
    }));
    assert_eq!(result.outcome, Outcome::Failed);
}
