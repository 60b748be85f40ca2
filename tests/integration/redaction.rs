//! Redaction: neither the database nor the log contains a configured secret, in plain or encoded form. No
//! log line quotes a request.

use std::fs;

use crate::support::server::{Scenario, Server, scenario, until};

const TOKEN: &str = "s3cret-t0ken-0123456789";
/// The token with some characters percent-encoded, one of them twice.
const ENCODED: &str = "%733cret%2dt0ken-%25301%323456789";

/// Source `a` with a token in its path, and a handler with another secret.
fn server_with_token() -> Scenario {
    let scenario = scenario()
        .source(
            "a",
            "verify = { scheme = \"token\", path_token = true, secret = { file = \"token\" } }",
        )
        .source("open", "methods = [\"POST\", \"GET\"]")
        .handler("h", "env = { KEY = { file = \"key\" } }", "echo \"$HOOKTRAIL_HEADERS\"")
        .handler_source("h", "open");
    scenario.write_file("token", TOKEN);
    scenario.write_file("key", "handlers-0wn-key\n");
    scenario
}

/// Whether the log or any file of the database contains a text.
fn is_stored(server: &Server, text: &str) -> bool {
    let files = fs::read_dir(server.path()).expect("the folder").flatten();
    let database = files.filter(|file| file.file_name().to_string_lossy().starts_with("t.db"));
    let holds = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    let log = server.log();
    database.map(|file| fs::read(file.path()).unwrap_or_default()).any(|bytes| holds(&bytes))
        || holds(log.as_bytes())
}

#[test]
fn a_path_matches_with_and_without_a_trailing_slash() {
    let server = scenario()
        .source(
            "a",
            "verify = { scheme = \"token\", path_token = true, secret = { file = \"token\" } }",
        )
        .source("b", "path = \"/hooks/b/\"")
        .source("c", "path = \"/hooks/c/{name}\"\nrespond = { body = \"c\" }");
    server.write_file("token", TOKEN);
    let server = server.start();
    for (path, status) in [
        (&*format!("/hooks/a/{TOKEN}"), 202),
        (&*format!("/hooks/a/{TOKEN}/"), 202),
        (&*format!("/hooks/a/{TOKEN}//"), 404),
        ("/hooks/b", 202),
        ("/hooks/b/", 202),
        ("/hooks/b//", 404),
        ("/hooks/c/x", 202),
        ("/hooks/c/x/", 202),
        ("/hooks/c/", 404),
    ] {
        assert_eq!(server.post(path, "{}").status, status, "{path}");
    }
    let stored = server.column("select path from events where id <= 2 order by id");
    assert_eq!(stored, ["/hooks/a/[redacted]", "/hooks/a/[redacted]/"]);
    assert!(!is_stored(&server, TOKEN));
}

#[test]
fn a_token_in_an_almost_matching_path_is_redacted() {
    let server = server_with_token().start();
    let mut rejected = 0;
    for path in [
        "/hooks/a//TOKEN",
        "//hooks/a/TOKEN",
        "/hooks/A/TOKEN",
        "/hooks%2Fa%2FTOKEN",
        "/hooks/a/TOKEN/more",
        "/hooks/a/TOKEN//",
        "/hooks/a/xTOKEN",
        "/hooks/renamed/TOKEN",
        "/TOKEN",
    ] {
        for token in [TOKEN, ENCODED, &TOKEN.to_uppercase()] {
            let status = server.post(&path.replace("TOKEN", token), "{}").status;
            assert!(matches!(status, 401 | 404), "{path}: {status}");
            rejected += 1;
        }
    }
    // A wrong method, and a method that is the token itself.
    assert_eq!(server.request("GET", &format!("/hooks/a/{TOKEN}/"), "", b"").status, 405);
    assert_eq!(server.request(TOKEN, "/hooks/a/x", "", b"").status, 405);
    server.until("select sum(count) from rejections", &(rejected + 2).to_string());
    let paths = server.column("select path from rejections");
    assert!(paths.iter().all(|path| path.contains("[redacted]")), "{paths:?}");
    assert_eq!(
        server.value("select method from rejections order by id desc limit 1"),
        "[redacted]"
    );
    for trace in [TOKEN, ENCODED, &TOKEN.to_uppercase()] {
        assert!(!is_stored(&server, trace), "{trace}");
    }
}

#[test]
fn secrets_are_redacted_in_headers_and_queries_but_not_in_bodies() {
    let server = server_with_token().start();
    let headers = format!(
        "X-Original-URI: /hooks/a/{TOKEN}?x=1\nReferer: https://h.example/{ENCODED}/x\n\
         Forwarded: for=192.0.2.7;path=\"{TOKEN}\"\nX-Key: <handlers-0wn-key>\nX-Plain: 50%25\n\
         Authorization: Bearer x\nCookie: a=b"
    );
    let path = format!("/hooks/open?a={ENCODED}&b={TOKEN}&c=%41");
    assert_eq!(server.request("POST", &path, &headers, TOKEN.as_bytes()).status, 202);
    server.until("select count(*) from outcomes where outcome = 'succeeded'", "1");
    let stored = server.value("select cast(headers as text) || '?' || query from events");
    for line in [
        "x-original-uri: /hooks/a/[redacted]?x=1\n",
        "referer: https://h.example/[redacted]/x\n",
        "forwarded: for=192.0.2.7;path=\"[redacted]\"\n",
        "x-key: <[redacted]>\n",
        "x-plain: 50%25\n",
        "authorization: [redacted]\n",
        "cookie: [redacted]\n",
        "?a=[redacted]&b=[redacted]&c=%41",
    ] {
        assert!(stored.contains(line), "{line}{stored}");
    }
    // The handler receives the headers as they are stored.
    let output = server.value("select cast(stdout as text) from attempts");
    assert!(output.contains("<[redacted]>") && !output.contains(TOKEN), "{output}");
    assert_eq!(server.value("select cast(body as text) from events"), TOKEN);
    assert!(!is_stored(&server, ENCODED) && !is_stored(&server, "handlers-0wn-key"));
}

#[test]
fn basic_credentials_are_redacted_in_any_header() {
    let keys = "verify = { scheme = \"basic\", user = \"u\", secret = { file = \"password\" } }";
    let scenario = scenario().source("a", keys);
    scenario.write_file("password", "pass-w0rd");
    let server = scenario.start();
    let headers = "Authorization: Basic dTpwYXNzLXcwcmQ=\nX-Auth: Basic dTpwYXNzLXcwcmQ=";
    assert_eq!(server.request("POST", "/hooks/a", headers, b"x").status, 202);
    let stored = server.value("select cast(headers as text) from events");
    assert!(stored.contains("x-auth: Basic [redacted]\n"), "{stored}");
}

#[test]
fn a_reload_adds_secrets_to_redact_and_removes_none() {
    let mut server = server_with_token().start();
    server.write_file("token", "an0ther-t0ken-9876543210");
    server.reload_with("");
    server.until_reloads(1);
    for token in [TOKEN, "an0ther-t0ken-9876543210"] {
        assert_eq!(server.post(&format!("/hooks/b/{token}"), "x").status, 404);
    }
    server.until(
        "select group_concat(path, ' ') from rejections",
        "/hooks/b/[redacted] /hooks/b/[redacted]",
    );
}

#[test]
fn a_secret_in_the_detail_of_an_alert_is_redacted() {
    let server = server_with_token()
        .source("dead", "")
        .handler("leaks", "retry = { max_attempts = 1 }", &format!("echo {TOKEN} >&2; exit 1"))
        .handler_source("leaks", "dead")
        .handler("alert", "", "cat")
        .handler_source("alert", "hooktrail")
        .start();
    assert_eq!(server.post("/hooks/dead", "{}").status, 202);
    server.until(
        "select count(*) from events where json_extract(body, '$.detail') = 'exit 1: [redacted]'",
        "1",
    );
}

#[test]
fn no_log_line_quotes_a_request() {
    let keys = "handshake = { methods = [\"POST\"], respond = '.challenge', signed = false }";
    let server = scenario().source("a", keys).source("b", "dedupe = { jq = '.a.b | .c' }").start();
    let text = "private body text";
    let headers = format!("Content-Type: text/plain\nX-Own: {text}");
    assert_eq!(server.request("POST", "/hooks/a", &headers, text.as_bytes()).status, 202);
    assert_eq!(server.post("/hooks/b", format!("{{\"a\":\"{text}\"}}")).status, 202);
    until("the log names the expression", || {
        server.log().contains("source a: handshake.respond fails")
    });
    assert!(!server.log().contains("private"), "{}", server.log());
}

#[test]
fn shared_secrets_are_redacted_in_events_and_rejections() {
    let server = scenario().raw_config(
        r#"
            [sources.h]
            verify = { scheme = "token", header = "X-Token", secret = { file = "secret" } }
            [sources.q]
            verify = { scheme = "token", query = "key", secret = { file = "secret" } }
            [sources.s]
            verify = { scheme = "token", path_token = true, secret = { file = "secret" } }
            "#,
    );
    server.write_file("secret", "s3cret-s3cret-s3cret-s3cret\n");
    let server = server.start();
    let secret = "s3cret-s3cret-s3cret-s3cret";
    let token = format!("X-Token: {secret}\nCookie: {secret}\nAuthorization: Bearer {secret}");
    assert_eq!(server.request("POST", "/hooks/h", &token, b"1").status, 202);
    assert_eq!(server.request("POST", &format!("/hooks/q?a=1&key={secret}"), "", b"2").status, 202);
    assert_eq!(server.request("POST", &format!("/hooks/s/{secret}"), "", b"3").status, 202);
    // Rejected requests are redacted like accepted ones.
    assert_eq!(server.request("GET", &format!("/hooks/s/{secret}"), "", b"").status, 405);
    server.until("select count(*) from rejections", "1");
    let stored =
        server.column("select cast(headers as text) || path || ifnull(query, '') from events");
    let rejected = server.column("select path from rejections");
    assert!(
        stored.iter().all(|row| row.contains("[redacted]") && !row.contains(secret)),
        "{stored:?}"
    );
    assert_eq!(rejected, ["/hooks/s/[redacted]"]);
}
