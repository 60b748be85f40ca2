//! `hooktrail send`: requests of every scheme that it can sign, to the real server.

use crate::support::server::{Server, scenario, stderr, stdout, until};

/// Source, scheme, whether a repeated sample is a duplicate, and the status of the response.
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

/// A server with a source for each scheme. config.toml has its port, for the command line.
fn server_of_all_schemes() -> Server {
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
        scenario.write_file(name, key);
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
fn send_signs_every_scheme_and_wrong_signatures_are_rejected() {
    let server = server_of_all_schemes();
    for (name, _, is_duplicate, status) in SCHEMES {
        let sent = server.cli(&["send", name, "--repeat"]);
        let output = stdout(&sent);
        assert!(sent.status.success(), "{name}: {output}{}", stderr(&sent));
        assert!(output.starts_with(&format!("POST /hooks/{name}")), "{name}: {output}");
        assert!(!output.contains("s3cr3t") && !output.contains("AAECAwQF"), "{name}: {output}");
        assert_eq!(output.matches(&format!("\n{status} ")).count(), 2, "{name}: {output}");
        let events = if is_duplicate { 1 } else { 2 };
        assert_eq!(output.matches("\nevent ").count(), events, "{name}: {output}");
        assert_eq!(output.matches("\nduplicate of event ").count(), 2 - events, "{name}: {output}");

        let bad = server.cli(&["send", name, "--bad-signature"]);
        assert!(bad.status.success(), "{name}: {}{}", stdout(&bad), stderr(&bad));
        assert!(stdout(&bad).contains("\n401 "), "{name}: {}", stdout(&bad));
    }
    server.until("select sum(count) from rejections", &SCHEMES.len().to_string());
    let secrets =
        "select count(*) from rejections where reason like '%s3cr3t%' or path like '%s3cr3t%'";
    assert_eq!(server.value(secrets), "0");
}

#[test]
fn send_sends_a_file_with_its_content_type() {
    let server = server_of_all_schemes();
    for (name, body, header) in [
        ("json", "{ \"a\": 1 }", "content-type: application/json\n"),
        ("form", "a=1&b=2", "content-type: application/x-www-form-urlencoded\n"),
    ] {
        server.write_file(name, body);
        let sent = server.cli(&["send", "twilio", name]);
        assert!(stdout(&sent).contains(header), "{}{}", stdout(&sent), stderr(&sent));
        assert_eq!(server.value("select body from events order by id desc limit 1"), body);
    }
    let sent = server.cli(&["send", "bearer", "form", "--content-type", "text/csv"]);
    assert!(stdout(&sent).contains("content-type: text/csv\n"), "{}", stdout(&sent));
    assert!(stdout(&sent).contains("authorization: [redacted]\n"), "{}", stdout(&sent));
}

#[test]
fn send_reports_what_it_cannot_send_with_exit_1() {
    let server = server_of_all_schemes();
    for (args, error) in [
        (&["send", "discord"][..], "only the sender can sign: the secret here is its public key"),
        (&["send", "nobody"], "source nobody: there is no such source in config.toml"),
        (&["send", "gets"], "source gets: its methods are GET: expected POST, PUT or PATCH"),
        (&["send", "open", "none.json"], "none.json: can't be read"),
        (&["send", "mailgun", "secret", "--content-type", "application/json"], "body is not JSON"),
        (&["send", "open", "--bad-signature"], "the server accepted a wrong signature"),
    ] {
        let sent = server.cli(args);
        assert_eq!(sent.status.code(), Some(1), "{args:?}: {}", stdout(&sent));
        assert!(stderr(&sent).contains(error), "{args:?}: {}", stderr(&sent));
    }
    assert!(server.cli(&["send", "open"]).status.success());
    let mut server = server;
    assert_eq!(server.stop(), Some(0));
    let sent = server.cli(&["send", "open"]);
    assert_eq!(sent.status.code(), Some(1));
    assert!(stderr(&sent).contains("no server listens there"), "{}", stderr(&sent));
}

#[test]
fn send_uses_a_unix_socket() {
    let scenario = scenario()
        .server("# a socket beside the port")
        .source("a", "verify = { scheme = \"github\", secret = { file = \"secret\" } }");
    scenario.write_file("secret", "s3cret");
    let mut server = scenario.start();
    assert_eq!(server.stop(), Some(0));
    server.set_listen("unix:http.sock");
    server.spawn();
    until("the socket exists", || server.path().join("http.sock").exists());
    until("the server responds", || server.cli(&["send", "a"]).status.success());
    let sent = server.cli(&["send", "a", "--repeat"]);
    assert!(stdout(&sent).contains("duplicate of event "), "{}{}", stdout(&sent), stderr(&sent));
}
