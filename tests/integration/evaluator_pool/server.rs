//! A server with hostile expressions and bodies: it serves other sources, its memory stays bounded, and no
//! event is lost.

use crate::support::server::{Server, scenario};

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
        .raw_config(&handler("endless", "a", "when = 'def f: f; f'"))
        .raw_config(&handler("plain", "b", "when = 'length > 0'"))
        .raw_config(&handler("shared", "c", "split = '. as $r | range(6) | [$r]'\npaused = true"))
        .start();
    let body = format!("\"{}\"", "x".repeat(1_000_000));
    std::thread::scope(|scope| {
        let hostile: Vec<_> =
            (0..4).map(|_| scope.spawn(|| server.post("/hooks/a", &body).status)).collect();
        for _ in 0..50 {
            assert_eq!(server.post("/hooks/b", "[1]").status, 202);
        }
        for status in hostile {
            assert_eq!(status.join().unwrap(), 202, "no expression delays a sender");
        }
    });
    let dead = "select count(*) from dead_jobs where detail like 'when: took %'";
    server.until(dead, "4");
    assert_eq!(server.post("/hooks/c", &body).status, 202);
    server.until("select queued from trail where source = 'c'", "6");
    server.until("select sum(succeeded) from trail where source = 'b'", "50");
    assert!(memory_kib(&server) < 64 << 10, "{} KiB", memory_kib(&server));
}
