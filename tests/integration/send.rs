//! `hooktrail send`: every scheme that can be signed for, through the real server.

use crate::support::server::{Server, err, out, scenario, until};

/// Each scheme, whether its sample is known again when it is repeated, and the status it is answered.
#[rustfmt::skip]
const SCHEMES: [(&str, &str, bool, u16); 27] = [
    ("token", "scheme = \"token\", header = \"X-T\"", false, 202),
    ("query", "scheme = \"token\", query = \"key\"", false, 202),
    ("segment", "scheme = \"token\", path_token = true", false, 202),
    ("basic", "scheme = \"basic\", user = \"ada\"", false, 202),
    ("bearer", "scheme = \"bearer\"", false, 202),
    ("hmac", "scheme = \"hmac\", header = \"X-Sig\", signed = \"{method} {url} {body}\"", false, 202),
    ("paminga", "scheme = \"paminga\"", true, 200),
    ("standard", "scheme = \"standard\"", true, 200),
    ("github", "scheme = \"github\"", true, 200),
    ("gitlab", "scheme = \"gitlab\"", true, 200),
    ("stripe", "scheme = \"stripe\"", true, 200),
    ("shopify", "scheme = \"shopify\"", true, 200),
    ("slack", "scheme = \"slack\"", true, 200),
    ("twilio", "scheme = \"twilio\"", true, 204),
    ("mailgun", "scheme = \"mailgun\"", true, 200),
    ("mailchimp", "scheme = \"mailchimp\", query = \"k\"", false, 200),
    ("mandrill", "scheme = \"mandrill\"", true, 200),
    ("meta", "scheme = \"meta\", verify_token = { file = \"secret\" }", true, 200),
    ("zoom", "scheme = \"zoom\"", true, 200),
    ("paddle", "scheme = \"paddle\"", true, 200),
    ("square", "scheme = \"square\", url = \"https://hooks.example.com/square\"", true, 200),
    ("hubspot", "scheme = \"hubspot\"", true, 200),
    ("linear", "scheme = \"linear\"", true, 200),
    ("bitbucket", "scheme = \"bitbucket\"", true, 200),
    ("dropbox", "scheme = \"dropbox\"", false, 200),
    ("trello", "scheme = \"trello\"", true, 200),
    ("graph", "scheme = \"microsoft-graph\"", false, 200),
];

/// A server with a source each, whose port the command line finds in config.toml.
fn server() -> Server {
    let mut scenario = scenario();
    for (name, verify, _, _) in SCHEMES {
        let secret = if name == "standard" { "standard-key" } else { "secret" };
        let keys = format!("verify = {{ {verify}, secret = {{ file = \"{secret}\" }} }}");
        scenario = scenario.source(name, &keys);
    }
    for (name, key) in [
        ("discord", "29acbae141bccaf0b22e1a94d34d0bc7361e526d0bfe12c89794bc9322966dd7"),
        ("standard-key", "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
        ("secret", "s3cr3t-and-l0ng"),
    ] {
        scenario.file(name, key);
    }
    scenario = scenario
        .source("discord", "verify = { scheme = \"discord\", secret = { file = \"discord\" } }")
        .source("open", "")
        .source("gets", "methods = [\"GET\"]");
    let mut server = scenario.start();
    server.set_listen(&format!("127.0.0.1:{}", server.port));
    server
}

#[test]
fn every_scheme_is_signed_as_its_sender_would_and_what_is_signed_wrongly_is_refused() {
    let server = server();
    for (name, _, is_known, status) in SCHEMES {
        let sent = server.cli(&["send", name, "--repeat"]);
        let said = out(&sent);
        assert!(sent.status.success(), "{name}: {said}{}", err(&sent));
        assert!(said.starts_with(&format!("POST /hooks/{name}")), "{name}: {said}");
        assert!(!said.contains("s3cr3t") && !said.contains("AAECAwQF"), "{name}: {said}");
        assert_eq!(said.matches(&format!("\n{status} ")).count(), 2, "{name}: {said}");
        let events = if is_known { 1 } else { 2 };
        assert_eq!(said.matches("\nevent ").count(), events, "{name}: {said}");
        assert_eq!(said.matches("\nduplicate of event ").count(), 2 - events, "{name}: {said}");

        let bad = server.cli(&["send", name, "--bad-signature"]);
        assert!(bad.status.success(), "{name}: {}{}", out(&bad), err(&bad));
        assert!(out(&bad).contains("\n401 "), "{name}: {}", out(&bad));
    }
    server.until("select sum(count) from rejections", &SCHEMES.len().to_string());
    let shown =
        "select count(*) from rejections where reason like '%s3cr3t%' or path like '%s3cr3t%'";
    assert_eq!(server.value(shown), "0");
}

#[test]
fn a_body_of_ones_own_is_sent_as_it_is_and_said_to_be_what_it_is() {
    let server = server();
    for (name, body, said) in [
        ("json", "{ \"a\": 1 }", "content-type: application/json\n"),
        ("form", "a=1&b=2", "content-type: application/x-www-form-urlencoded\n"),
    ] {
        server.file(name, body);
        let sent = server.cli(&["send", "twilio", name]);
        assert!(out(&sent).contains(said), "{}{}", out(&sent), err(&sent));
        assert_eq!(server.value("select body from events order by id desc limit 1"), body);
    }
    let sent = server.cli(&["send", "bearer", "form", "--content-type", "text/csv"]);
    assert!(out(&sent).contains("content-type: text/csv\n"), "{}", out(&sent));
    assert!(out(&sent).contains("authorization: [redacted]\n"), "{}", out(&sent));
}

#[test]
fn what_can_not_be_sent_is_said_and_is_exit_1() {
    let server = server();
    for (args, said) in [
        (&["send", "discord"][..], "only the sender can sign: the secret here is its public key"),
        (&["send", "nobody"], "source nobody: there is no such source in config.toml"),
        (&["send", "gets"], "source gets: its methods are GET: expected POST, PUT or PATCH"),
        (&["send", "open", "none.json"], "none.json: can't be read"),
        (&["send", "mailgun", "secret", "--content-type", "application/json"], "body is not JSON"),
        (&["send", "open", "--bad-signature"], "the server accepted a wrong signature"),
    ] {
        let sent = server.cli(args);
        assert_eq!(sent.status.code(), Some(1), "{args:?}: {}", out(&sent));
        assert!(err(&sent).contains(said), "{args:?}: {}", err(&sent));
    }
    assert!(server.cli(&["send", "open"]).status.success());
    let mut server = server;
    assert_eq!(server.stop(), Some(0));
    let sent = server.cli(&["send", "open"]);
    assert_eq!(sent.status.code(), Some(1));
    assert!(err(&sent).contains("is the server running?"), "{}", err(&sent));
}

#[test]
fn a_server_on_a_unix_socket_is_sent_to_over_it() {
    let scenario = scenario()
        .server("# a socket beside the port")
        .source("a", "verify = { scheme = \"github\", secret = { file = \"secret\" } }");
    scenario.file("secret", "s3cret");
    let mut server = scenario.start();
    assert_eq!(server.stop(), Some(0));
    server.set_listen("unix:http.sock");
    server.spawn();
    until("it listens", || server.path().join("http.sock").exists());
    until("it answers", || server.cli(&["send", "a"]).status.success());
    let sent = server.cli(&["send", "a", "--repeat"]);
    assert!(out(&sent).contains("duplicate of event "), "{}{}", out(&sent), err(&sent));
}
