//! A server with hostile expressions and senders: it goes on serving others, stays small, and loses
//! nothing.

use crate::scenario::{Server, scenario, until};

fn memory_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn hostile_expressions_harm_neither_the_server_nor_other_sources() {
    let handler = |name: &str, source: &str, keys: &str| {
        format!("[handlers.{name}]\nsources = [\"{source}\"]\ncommand = [\"true\"]\n{keys}")
    };
    let server = scenario()
        .source("a", "")
        .source("b", "")
        .source("c", "")
        .with(&handler("endless", "a", "when = 'def f: f; f'"))
        .with(&handler("plain", "b", "when = 'length > 0'"))
        .with(&handler("shared", "c", "split = '. as $r | range(6) | [$r]'\npaused = true"))
        .start();
    let body = format!("\"{}\"", "x".repeat(1_000_000));
    let (mut stored, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        let hostile: Vec<_> =
            (0..4).map(|_| scope.spawn(|| server.post("/hooks/a", &body).status)).collect();
        for _ in 0..50 {
            assert_eq!(server.post("/hooks/b", "[1]").status, 202);
        }
        for status in hostile {
            match status.join().unwrap() {
                202 => stored += 1,
                503 => refused += 1,
                status => panic!("answered {status}"),
            }
        }
    });
    assert!(stored >= 1, "{refused} were refused");
    let events = "select count(*) from trail where source = 'a'";
    server.until(events, &stored.to_string());
    let dead = "select count(*) from dead where detail like 'when: took %'";
    server.until(dead, &stored.to_string());
    // On a busy machine it may take longer than an event has.
    until("large items are stored", || {
        server.post("/hooks/c", &body);
        server.value("select max(queued) from trail where source = 'c'") == "6"
    });
    server.until("select sum(succeeded) from trail where source = 'b'", "50");
    assert!(memory_kib(&server) < 64 << 10, "{} KiB", memory_kib(&server));
}
