//! Tests of timeouts and cancellation.

use super::*;

/// Runs a task with a timeout of an hour and cancels it when `is_ready` is true.
fn stopped_when(task: &Task, is_ready: impl Fn() -> bool) -> AttemptResult {
    let (stop, began) = (CancelToken::new().unwrap(), Instant::now());
    let task = with_settings(task, |handler| handler.timeout = Duration::from_secs(3600));
    let result = std::thread::scope(|scope| {
        let run = scope.spawn(|| UrlRunner::new(&task.handler).run(&task, &stop));
        while !is_ready() {
            assert!(began.elapsed() < LONG);
            std::thread::yield_now();
        }
        stop.cancel();
        run.join().unwrap()
    });
    assert!(began.elapsed() < LONG);
    result
}

/// Starts a server that reads requests and never responds.
fn silent_server() -> FakeServer {
    fake_server(|_, stream| stream.read(&mut [0]).is_ok_and(|count| count > 0))
}

/// Starts a server that responds byte by byte and never ends.
fn drip_server(response: &'static str) -> FakeServer {
    fake_server(move |_, stream| {
        let _ = stream.write_all(response.as_bytes());
        while stream.write_all(b"x").is_ok() {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        false
    })
}

#[test]
fn the_timeout_covers_the_whole_call() {
    let timed_out = |url: &str, detail: &str| {
        let task =
            with_settings(&task(url), |handler| handler.timeout = Duration::from_millis(150));
        check(&run_attempt(&task), Outcome::TimedOut, &format!("timeout 150ms: {detail}"));
    };
    timed_out(&silent_server().url, "waiting for the response");
    timed_out(&drip_server("HTTP/1.1 200 OK\r\nX-Drip: ").url, "waiting for the response");
    timed_out(&drip_server("HTTP/1.1 200 OK\r\n\r\n").url, "reading the response");
    // The listener never accepts the connection, so nothing reads the request.
    let silent_listener = TcpListener::bind("127.0.0.1:0").unwrap();
    timed_out(
        &format!("http://{}/", silent_listener.local_addr().unwrap()),
        "waiting for the response",
    );
    let input = vec![b'x'; 20 << 20].into();
    let url = format!("http://{}/", silent_listener.local_addr().unwrap());
    let task = with_settings(&task(&url), |handler| handler.timeout = Duration::from_millis(150));
    let result = run_attempt(&Task { input, ..task });
    check(&result, Outcome::TimedOut, "timeout 150ms: waiting for the response");
    // The TLS handshake never ends.
    let url = format!("https://{}/", silent_listener.local_addr().unwrap());
    timed_out(&url, "the TLS handshake with 127.0.0.1");
}

#[test]
fn a_cancelled_attempt_ends_at_once_in_every_phase() {
    for server in [
        silent_server(),
        drip_server("HTTP/1.1 200 OK\r\nX: "),
        drip_server("HTTP/1.1 200 OK\r\n\r\n"),
    ] {
        let result = stopped_when(&server.task(), || !server.requests.lock().is_empty());
        check(&result, Outcome::Interrupted, "stopped");
    }
    let server = silent_server();
    let stop = CancelToken::new().unwrap();
    stop.cancel();
    let result = UrlRunner::new(&server.task().handler).run(&server.task(), &stop);
    check(&result, Outcome::Interrupted, "stopped");
    assert!(server.requests.lock().is_empty());
    let silent_listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for scheme in ["http", "https"] {
        let url = format!("{scheme}://{}/", silent_listener.local_addr().unwrap());
        check(&stopped_when(&task(&url), || true), Outcome::Interrupted, "stopped");
    }
}
