//! No attempt outlives its timeout, and each ends at once when it is stopped.

use super::*;

/// What is done within a moment, with a timeout of an hour.
fn stopped_when(task: &Task, is_there: impl Fn() -> bool) -> AttemptResult {
    let (stop, began) = (CancelToken::new().unwrap(), Instant::now());
    let task = with(task, |handler| handler.timeout = Duration::from_secs(3600));
    let ended = std::thread::scope(|scope| {
        let run = scope.spawn(|| Url::new(&task.handler).run(&task, &stop));
        while !is_there() {
            assert!(began.elapsed() < LONG);
            std::thread::yield_now();
        }
        stop.set();
        run.join().unwrap()
    });
    assert!(began.elapsed() < LONG);
    ended
}

/// Never answers, but reads the request.
fn silent() -> Fake {
    fake(|_, stream| stream.read(&mut [0]).is_ok_and(|count| count > 0))
}

/// Answers byte by byte, without an end.
fn drip(answer: &'static str) -> Fake {
    fake(move |_, stream| {
        let _ = stream.write_all(answer.as_bytes());
        while stream.write_all(b"x").is_ok() {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        false
    })
}

#[test]
fn a_timeout_is_over_the_whole_exchange() {
    let timed_out = |url: &str, detail: &str| {
        let task = with(&task(url), |handler| handler.timeout = Duration::from_millis(150));
        check(&run_of(&task), Outcome::TimedOut, &format!("timeout 150ms: {detail}"));
    };
    timed_out(&silent().url, "waiting for an answer");
    timed_out(&drip("HTTP/1.1 200 OK\r\nX-Drip: ").url, "waiting for an answer");
    timed_out(&drip("HTTP/1.1 200 OK\r\n\r\n").url, "reading the answer");
    // Nobody accepts, and nobody reads what is sent.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    timed_out(&format!("http://{}/", deaf.local_addr().unwrap()), "waiting for an answer");
    let input = vec![b'x'; 20 << 20].into();
    let url = format!("http://{}/", deaf.local_addr().unwrap());
    let task = with(&task(&url), |handler| handler.timeout = Duration::from_millis(150));
    let ended = run_of(&Task { input, ..task });
    check(&ended, Outcome::TimedOut, "timeout 150ms: waiting for an answer");
    // A TLS handshake that never ends.
    let url = format!("https://{}/", deaf.local_addr().unwrap());
    timed_out(&url, "the TLS handshake with 127.0.0.1");
}

#[test]
fn a_stopped_attempt_ends_at_once_wherever_it_is() {
    for fake in [silent(), drip("HTTP/1.1 200 OK\r\nX: "), drip("HTTP/1.1 200 OK\r\n\r\n")] {
        let ended = stopped_when(&fake.task(), || !fake.asked.lock().unwrap().is_empty());
        check(&ended, Outcome::Interrupted, "stopped");
    }
    let before = silent();
    let stop = CancelToken::new().unwrap();
    stop.set();
    let ended = Url::new(&before.task().handler).run(&before.task(), &stop);
    check(&ended, Outcome::Interrupted, "stopped");
    assert!(before.asked.lock().unwrap().is_empty());
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    for scheme in ["http", "https"] {
        let url = format!("{scheme}://{}/", deaf.local_addr().unwrap());
        check(&stopped_when(&task(&url), || true), Outcome::Interrupted, "stopped");
    }
}
