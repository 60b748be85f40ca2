//! Secrets that are known, and what strangers write, stand in no log line; the trail keeps neither a
//! secret nor a trace of it.

use std::fs;

use crate::support::server::{Scenario, Server, scenario, until};

const TOKEN: &str = "s3cret-t0ken-0123456789";
/// A letter of it percent-encoded, another twice.
const ENCODED: &str = "%733cret%2dt0ken-%25301%323456789";

/// Source `a` with its token in the path, and a handler with a secret of its own.
fn with_token() -> Scenario {
    let scenario = scenario()
        .source(
            "a",
            "verify = { scheme = \"token\", path_token = true, secret = { file = \"token\" } }",
        )
        .source("open", "methods = [\"POST\", \"GET\"]")
        .handler("h", "env = { KEY = { file = \"key\" } }", "echo \"$HOOKTRAIL_HEADERS\"")
        .from("h", "open");
    scenario.file("token", TOKEN);
    scenario.file("key", "handlers-0wn-key\n");
    scenario
}

/// Whether any file of the trail, or the log, holds it.
fn is_kept(server: &Server, text: &str) -> bool {
    let files = fs::read_dir(server.path()).expect("its folder").flatten();
    let trail = files.filter(|file| file.file_name().to_string_lossy().starts_with("t.db"));
    let holds = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    let log = server.log();
    trail.map(|file| fs::read(file.path()).unwrap_or_default()).any(|bytes| holds(&bytes))
        || holds(log.as_bytes())
}

#[test]
fn one_slash_more_or_less_at_the_end_of_a_path_is_the_same_path() {
    let server = scenario()
        .source(
            "a",
            "verify = { scheme = \"token\", path_token = true, secret = { file = \"token\" } }",
        )
        .source("b", "path = \"/hooks/b/\"")
        .source("c", "path = \"/hooks/c/{name}\"\nrespond = { body = \"c\" }");
    server.file("token", TOKEN);
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
    let kept = server.list("select path from events where id <= 2 order by id");
    assert_eq!(kept, ["/hooks/a/[redacted]", "/hooks/a/[redacted]/"]);
    assert!(!is_kept(&server, TOKEN));
}

#[test]
fn a_path_that_is_almost_right_leaves_no_token() {
    let server = with_token().start();
    let mut refused = 0;
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
            refused += 1;
        }
    }
    // A wrong method, and one that is itself the token.
    assert_eq!(server.request("GET", &format!("/hooks/a/{TOKEN}/"), "", b"").status, 405);
    assert_eq!(server.request(TOKEN, "/hooks/a/x", "", b"").status, 405);
    server.until("select sum(count) from rejections", &(refused + 2).to_string());
    let paths = server.list("select path from rejections");
    assert!(paths.iter().all(|path| path.contains("[redacted]")), "{paths:?}");
    assert_eq!(
        server.value("select method from rejections order by id desc limit 1"),
        "[redacted]"
    );
    for trace in [TOKEN, ENCODED, &TOKEN.to_uppercase()] {
        assert!(!is_kept(&server, trace), "{trace}");
    }
}

#[test]
fn a_secret_that_a_proxy_repeats_is_kept_in_bodies_alone() {
    let server = with_token().start();
    let headers = format!(
        "X-Original-URI: /hooks/a/{TOKEN}?x=1\nReferer: https://h.example/{ENCODED}/x\n\
         Forwarded: for=192.0.2.7;path=\"{TOKEN}\"\nX-Key: <handlers-0wn-key>\nX-Plain: 50%25\n\
         Authorization: Bearer x\nCookie: a=b"
    );
    let path = format!("/hooks/open?a={ENCODED}&b={TOKEN}&c=%41");
    assert_eq!(server.request("POST", &path, &headers, TOKEN.as_bytes()).status, 202);
    server.until("select count(*) from outcomes where outcome = 'succeeded'", "1");
    let kept = server.value("select cast(headers as text) || '?' || query from events");
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
        assert!(kept.contains(line), "{line}{kept}");
    }
    // What the handler was told is what was kept.
    let told = server.value("select cast(stdout as text) from attempts");
    assert!(told.contains("<[redacted]>") && !told.contains(TOKEN), "{told}");
    assert_eq!(server.value("select cast(body as text) from events"), TOKEN);
    assert!(!is_kept(&server, ENCODED) && !is_kept(&server, "handlers-0wn-key"));
}

#[test]
fn credentials_of_basic_are_redacted_in_any_header() {
    let keys = "verify = { scheme = \"basic\", user = \"u\", secret = { file = \"password\" } }";
    let scenario = scenario().source("a", keys);
    scenario.file("password", "pass-w0rd");
    let server = scenario.start();
    let headers = "Authorization: Basic dTpwYXNzLXcwcmQ=\nX-Auth: Basic dTpwYXNzLXcwcmQ=";
    assert_eq!(server.request("POST", "/hooks/a", headers, b"x").status, 202);
    let kept = server.value("select cast(headers as text) from events");
    assert!(kept.contains("x-auth: Basic [redacted]\n"), "{kept}");
}

#[test]
fn a_reload_adds_secrets_and_forgets_none() {
    let mut server = with_token().start();
    server.file("token", "an0ther-t0ken-9876543210");
    server.reload_with("");
    until("the configuration is reloaded", || server.log().contains(": reloaded"));
    for token in [TOKEN, "an0ther-t0ken-9876543210"] {
        assert_eq!(server.post(&format!("/hooks/b/{token}"), "x").status, 404);
    }
    server.until(
        "select group_concat(path, ' ') from rejections",
        "/hooks/b/[redacted] /hooks/b/[redacted]",
    );
}

#[test]
fn an_alert_shows_no_secret_of_the_reason_that_it_tells() {
    let server = with_token()
        .source("dead", "")
        .handler("leaks", "retry = { max_attempts = 1 }", &format!("echo {TOKEN} >&2; exit 1"))
        .from("leaks", "dead")
        .handler("told", "", "cat")
        .from("told", "hooktrail")
        .start();
    assert_eq!(server.post("/hooks/dead", "{}").status, 202);
    server.until(
        "select count(*) from events where json_extract(body, '$.detail') = 'exit 1: [redacted]'",
        "1",
    );
}

#[test]
fn no_log_line_quotes_a_request() {
    let own = "handshake = { methods = [\"POST\"], respond = '.challenge', signed = false }";
    let server = scenario().source("a", own).source("b", "dedupe = { jq = '.a.b | .c' }").start();
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
fn what_cannot_be_seen_is_escaped_in_what_commands_print() {
    let server = scenario().source("open", "").start();
    let header = "X-H: \u{9b}2J\u{2066}\u{200b}";
    let sent = server.request("POST", "/hooks/open", header, "b\u{202e}\u{1b}[2J".as_bytes());
    assert_eq!(sent.status, 202);
    let hidden =
        |text: &str| text.contains(['\u{202e}', '\u{200b}', '\u{9b}', '\u{2066}', '\u{1b}']);
    for args in [&["show", "1"][..], &["show", "1", "--json"]] {
        let printed = crate::support::server::out(&server.cli(args));
        assert!(!hidden(&printed) && printed.contains("202e"), "{args:?}: {printed}");
    }
    // The body's bytes alone are what was sent, unless a terminal is to show them.
    let body = server.cli(&["show", "1", "--body"]).stdout;
    assert_eq!(body, "b\u{202e}\u{1b}[2J".as_bytes());
    let command = format!("{} show 1 --body", crate::support::server::HOOKTRAIL);
    let on_terminal = std::process::Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .current_dir(server.path())
        .env_remove("HOOKTRAIL_CONFIG")
        .output()
        .expect("script, of util-linux");
    let printed = crate::support::server::out(&on_terminal);
    assert!(printed.contains("b\\u{202e}\\u{1b}[2J"), "{printed:?}");
}
