//! Connections: to whom, through whom, and how long one serves.

use super::*;

#[test]
fn nobody_there_has_failed() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ended = run_of(&task(&format!("http://{gone}/")));
    let detail = format!("not connected: {gone}: Connection refused (os error 111)");
    check(&ended, Outcome::Failed, &detail);
    let ended = run_of(&task("http://no-such-host.invalid/"));
    assert_eq!(ended.outcome, Outcome::Failed);
    assert!(ended.detail.starts_with("not connected: no-such-host.invalid: "), "{ended:?}");
}

#[test]
fn what_can_not_be_called_is_not_started() {
    let ended = run_of(&sample(|_| {}));
    check(&ended, Outcome::Failed, "not started: no url");
    let socks = with(&task("http://127.0.0.1:1/"), |handler| {
        if let Some(target) = &mut handler.target {
            target.proxy = Some("socks5://127.0.0.1:1".to_owned());
        }
    });
    check(&run_of(&socks), Outcome::Failed, "not started: proxy: expected http:// or https://");
}

#[test]
fn a_connection_is_used_again() {
    let fake = says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let (task, stop) = (fake.task(), CancelToken::new().unwrap());
    let url = Url::new(&task.handler);
    for _ in 0..5 {
        check(&url.run(&task, &stop), Outcome::Succeeded, "status 200: ok");
    }
    assert_eq!(fake.connections(), [0; 5]);
}

#[test]
fn a_connection_with_a_rest_is_not_used_again() {
    let rest = says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 500 Ha\r\n\r\n");
    let (task, stop) = (rest.task(), CancelToken::new().unwrap());
    let url = Url::new(&task.handler);
    for _ in 0..2 {
        check(&url.run(&task, &stop), Outcome::Succeeded, "status 200: ok");
    }
    assert_eq!(rest.connections(), [0, 1]);
    // Nor is one whose answer was not read to its end, or that was closed meanwhile.
    let closes = says("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    let url = Url::new(&closes.task().handler);
    for _ in 0..2 {
        check(&url.run(&closes.task(), &stop), Outcome::Succeeded, "status 200: ok");
    }
    assert_eq!(closes.connections(), [0, 1]);
}

#[test]
fn a_kept_connection_that_was_closed_costs_no_attempt() {
    // Every second request of a connection is met by its end.
    let fake = fake(|number, stream| {
        let is_first = number % 2 == 1;
        is_first && stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_ok()
    });
    let (task, stop) = (fake.task(), CancelToken::new().unwrap());
    let url = Url::new(&task.handler);
    for _ in 0..3 {
        check(&url.run(&task, &stop), Outcome::Succeeded, "status 200: ok");
    }
    assert_eq!(fake.connections(), [0, 0, 1, 1, 2]);
}

#[test]
fn a_new_connection_that_is_closed_is_not_tried_again() {
    let fake = says_and_closes(b"");
    check(&fake.run(), Outcome::Failed, "no answer: the connection was closed");
    assert_eq!(fake.connections(), [0]);
}

#[test]
fn a_proxy_is_the_configured_one() {
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = proxy.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (stream, _) = proxy.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut asked = String::new();
        while !asked.ends_with("\r\n\r\n") {
            reader.read_line(&mut asked).unwrap();
        }
        (&stream).write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let (head, _) = request(&mut reader).unwrap();
        (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        (asked, head)
    });
    let task = with(&task("http://crm.example.com/hook"), |handler| {
        if let Some(target) = &mut handler.target {
            target.proxy = Some(format!("http://{address}"));
        }
    });
    check(&run_of(&task), Outcome::Succeeded, "status 200: ok");
    let (asked, head) = server.join().unwrap();
    assert!(asked.starts_with("CONNECT crm.example.com:80 HTTP/1.1\r\n"), "{asked}");
    assert!(head.starts_with("POST /hook HTTP/1.1\r\n"), "{head}");
    let refuses = says_and_closes(b"HTTP/1.1 403 No\r\n\r\n");
    let refuses = refuses.url.split("/hook").next().unwrap().to_owned();
    let ended = run_of(&with(&task, |handler| {
        if let Some(target) = &mut handler.target {
            target.proxy = Some(refuses);
        }
    }));
    assert_eq!(ended.outcome, Outcome::Failed);
}
