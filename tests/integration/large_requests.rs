//! Requests that take long to verify: separate threads verify them, with the same result.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;

use crate::support::server::{Scenario, Server, scenario, until};
use crate::support::signature::hmac_sha256;

/// A body that a check thread verifies.
const LARGE: usize = 200_000;

/// A body that the intake thread verifies.
const SMALL: usize = 50_000;

const VERIFY: &str =
    "verify = { scheme = \"hmac\", header = \"X-Signature\", secret = { file = \"secret\" } }";

fn signed(path: &str, keys: &str) -> Scenario {
    let scenario = scenario().source(path, &format!("{VERIFY}\n{keys}"));
    scenario.write_file("secret", "s3cret");
    scenario
}

fn post(server: &Server, secret: &str, headers: &str, body: &[u8]) -> (u16, String) {
    let signature = hex::encode(hmac_sha256(secret, body));
    let headers = format!("X-Signature: {signature}\n{headers}");
    let response = server.request("POST", "/hooks/a", &headers, body);
    (response.status, response.body)
}

/// A JSON object of this size.
fn json(bytes: usize, members: &str) -> Vec<u8> {
    let rest = bytes - members.len() - 11;
    format!("{{{members},\"pad\":\"{}\"}}", "x".repeat(rest)).into_bytes()
}

/// The number of threads that verify large requests.
fn check_threads(server: &Server) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).expect("the threads");
    let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm"));
    tasks.flatten().filter_map(|task| name(task).ok()).filter(|name| name.trim() == "check").count()
}

#[test]
fn only_large_requests_are_verified_on_a_check_thread() {
    let server = signed("a", "").start();
    assert_eq!(post(&server, "s3cret", "", &json(SMALL, "\"a\":1")).0, 202);
    assert_eq!(post(&server, "other", "", &json(SMALL, "\"a\":2")).0, 401);
    assert_eq!(check_threads(&server), 0);
    assert_eq!(post(&server, "other", "", &json(LARGE, "\"a\":3")).0, 401);
    until("a check thread runs", || check_threads(&server) > 0);
    assert_eq!(server.value("select count(*) from trail"), "1");
}

#[test]
fn many_public_key_signatures_are_verified_on_a_check_thread() {
    let key = SigningKey::from_bytes(&[7; 32]);
    let secret = format!("whpk_{}", STANDARD.encode(key.verifying_key().as_bytes()));
    let verify = "verify = { scheme = \"standard\", secret = { file = \"secret\" } }";
    let scenario = scenario().source("a", verify);
    scenario.write_file("secret", &secret);
    let server = scenario.start();
    let post = |signatures: usize| {
        let signatures = format!("v1a,{} ", STANDARD.encode([0; 64])).repeat(signatures);
        let headers = format!(
            "webhook-id: 1\nwebhook-timestamp: 1764000000\nwebhook-signature: {signatures}"
        );
        server.request("POST", "/hooks/a", &headers, b"{}").status
    };
    assert_eq!(post(2), 401);
    assert_eq!(check_threads(&server), 0);
    assert_eq!(post(32), 401);
    until("a check thread runs", || check_threads(&server) > 0);
}

#[test]
fn large_and_small_requests_get_the_same_responses() {
    let keys = "accept = \"json\"\ndedupe = { jq = \".id\" }\nrespond = { status = 202 }\n\
                handshake = { methods = [\"POST\"], respond = '.challenge' }";
    let server = signed("a", keys).handler("h", "when = '.id != \"no\"'", "cat >> out").start();
    let typed = "Content-Type: application/json";
    for bytes in [SMALL, LARGE] {
        let id = |id: &str| json(bytes, &format!("\"id\":\"{id}-{bytes}\",\"challenge\":null"));
        let first = post(&server, "s3cret", typed, &id("a"));
        let event: serde_json::Value = serde_json::from_str(&first.1).expect("an event");
        assert_eq!((first.0, event["duplicate"].is_null()), (202, true));
        let second = post(&server, "s3cret", typed, &id("a"));
        assert_eq!(second, (202, format!("{{\"event\":{},\"duplicate\":true}}", event["event"])));
        let stored = format!("select body from events where id = {}", event["event"]);
        assert_eq!(server.value(&stored).into_bytes(), id("a"));
        let handshake = json(bytes, "\"challenge\":\"c\"");
        assert_eq!(post(&server, "s3cret", typed, &handshake), (200, "c".to_owned()));
        assert_eq!(post(&server, "s3cret", "Content-Type: text/plain", &id("b")).0, 415);
        let mut broken = id("b");
        broken.pop();
        assert_eq!(post(&server, "s3cret", typed, &broken).0, 400);
        assert_eq!(post(&server, "other", typed, &id("b")).0, 401);
        assert_eq!(post(&server, "other", typed, &handshake).0, 401);
    }
    assert_eq!(server.value("select count(*) from trail"), "2");
    assert_eq!(server.value("select count(*) from trail where jobs = 1"), "2");
}

#[test]
fn large_unsigned_requests_use_at_most_two_check_threads() {
    let server = signed("a", "").source("b", VERIFY).start();
    let body = vec![b'x'; 1 << 20];
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(post(&server, "other", "", &body).0, 401));
        }
        for _ in 0..4 {
            let response = server.request("POST", "/hooks/b", "X-Signature: 00", &body);
            assert_eq!(response.status, 401);
        }
    });
    assert!((1..=2).contains(&check_threads(&server)));
}
