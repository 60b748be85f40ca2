//! The subject of a client certificate: with the event in expressions, handlers and lists.

use std::io::{Read, Write};

use rcgen::DnType;

use crate::support::admin::Api;
use crate::support::client::{Response, request_bytes};
use crate::support::server::{Scenario, Server, scenario, stderr, stdout};
use crate::support::tls_client::{Authority, Identity, connect, send_tls_request};

const PAMINGA: &str = "CN=paminga,O=Paminga Inc";

/// The authorities of a server with TLS and of its senders.
struct Authorities {
    server: Authority,
    senders: Authority,
}

impl Authorities {
    fn new() -> Self {
        Self { server: Authority::new("our own"), senders: Authority::new("the senders'") }
    }

    /// A server that accepts only senders with a certificate.
    fn scenario(&self) -> Scenario {
        self.scenario_with(
            "tls = { certificate = \"cert.pem\", key = \"key.pem\", client_ca = \"ca.pem\" }",
        )
    }

    fn scenario_with(&self, keys: &str) -> Scenario {
        let identity = self.server.issue(&[(DnType::CommonName, "localhost")]);
        let scenario = scenario().server(keys).source("a", "");
        scenario.write_file("cert.pem", &identity.certificate_pem);
        scenario.write_file("key.pem", &identity.key.serialize_pem());
        scenario.write_file("ca.pem", &self.senders.pem());
        scenario
    }

    fn sender(&self, common_name: &str) -> Identity {
        let organization = (DnType::OrganizationName, "Paminga Inc");
        self.senders.issue(&[organization, (DnType::CommonName, common_name)])
    }

    fn try_post(&self, server: &Server, sender: Option<&Identity>, body: &str) -> Option<Response> {
        let request = ("POST", "/hooks/a", "Content-Type: application/json");
        send_tls_request(server.port, &self.server, sender, request, body.as_bytes())
    }

    /// Posts as a sender, and returns the number of the event.
    fn post(&self, server: &Server, sender: &Identity, body: &str) -> i64 {
        self.try_post(server, Some(sender), body).expect("a response").event_id()
    }
}

#[test]
fn a_sender_without_a_certificate_of_the_authority_gets_no_connection() {
    let authorities = Authorities::new();
    let server = authorities.scenario().start();
    let stranger = Authority::new("the senders'").issue(&[(DnType::CommonName, "paminga")]);
    assert_eq!(authorities.try_post(&server, None, "{}"), None);
    assert_eq!(authorities.try_post(&server, Some(&stranger), "{}"), None);
    assert_eq!(authorities.post(&server, &authorities.sender("paminga"), "{}"), 1);
    assert_eq!(server.column("select event || ' ' || client from trail"), [format!("1 {PAMINGA}")]);
    assert_eq!(server.value("select count(*) from rejections"), "0");
}

#[test]
fn a_kept_connection_ends_when_other_authorities_hold() {
    let authorities = Authorities::new();
    let server = authorities.scenario().start();
    let paminga = authorities.sender("paminga");
    let mut kept = connect(server.port, &authorities.server, Some(&paminga));
    let request = request_bytes("POST", "/hooks/a", "", b"{}");
    let request = String::from_utf8(request).unwrap().replace("Connection: close\r\n", "");
    kept.write_all(request.as_bytes()).unwrap();
    server.until("select count(*) from events", "1");
    let mut buffer = [0; 4096];
    assert!(kept.read(&mut buffer).unwrap() > 0);

    server.write_file("ca.pem", &Authority::new("other senders'").pem());
    assert!(server.cli(&["reload"]).status.success());
    kept.write_all(request.as_bytes()).unwrap();
    let mut rest = Vec::new();
    let _ = kept.read_to_end(&mut rest);
    assert!(rest.starts_with(b"HTTP/1.1 401 "), "{}", String::from_utf8_lossy(&rest));
    assert_eq!(authorities.try_post(&server, Some(&paminga), "{}"), None);
    assert_eq!(server.value("select count(*) from events"), "1");
}

#[test]
fn handlers_and_expressions_get_the_subject() {
    let authorities = Authorities::new();
    let server = authorities
        .scenario()
        .handler("command", "transform = '$client'", "cat; echo \"<$HOOKTRAIL_CLIENT>\"")
        .handler("inline", &format!("when = '$client == \"{PAMINGA}\"'"), "true")
        .handler(
            "sandboxed",
            "when = '$client | ascii_upcase | startswith(\"CN=PAMINGA,\")'",
            "true",
        )
        .handler("split", "split = '$client | split(\",\") | .[]'\nordering_key = '$client'", "cat")
        .handler("script", "mode = \"cgi\"", "printf 'Status: 200\\n\\n%s' \"$SSL_CLIENT_S_DN\"")
        .handler("batch", "mode = \"batch\"", "cat > lines")
        .handler("other", "when = '$client == \"CN=paminga\"'", "true")
        .start();
    authorities.post(&server, &authorities.sender("paminga"), "{}");
    server.until("select settled_at is not null from trail", "1");
    let outcomes = server.column(
        "select o.handler || ': ' || o.outcome || ' ' || coalesce(cast(a.stdout as text), '') from outcomes o
         join attempts a using (id) order by o.handler, o.item",
    );
    let quoted = |text: &str| format!("\"{text}\"");
    assert_eq!(
        outcomes,
        [
            "batch: succeeded ".to_owned(),
            format!("command: succeeded {}<{PAMINGA}>\n", quoted(PAMINGA)),
            "inline: succeeded ".to_owned(),
            "sandboxed: succeeded ".to_owned(),
            format!("script: succeeded Status: 200\n\n{PAMINGA}"),
            format!("split: succeeded {}", quoted("CN=paminga")),
            format!("split: succeeded {}", quoted("O=Paminga Inc")),
        ]
    );
    let line: serde_json::Value = serde_json::from_str(&server.read_file("lines")).unwrap();
    assert_eq!(line["client"], PAMINGA);
}

#[test]
fn lists_the_api_and_the_console_show_the_subject() {
    let authorities = Authorities::new();
    let server = authorities.scenario().admin("listen = [\"127.0.0.1:0\"]").start();
    authorities.post(&server, &authorities.sender("paminga"), "{}");
    let shown = stdout(&server.cli(&["show", "1"]));
    assert!(shown.contains(&format!("\nclient certificate: {PAMINGA}\n")), "{shown}");
    assert_eq!(server.json_lines(&["show", "1", "--json"])[0]["client"], PAMINGA);
    assert_eq!(server.json_lines(&["list", "--events", "--json"])[0]["client"], PAMINGA);
    let api = Api::of(&server);
    assert_eq!(api.json("/api/v1/events/1")["client"], PAMINGA);
    assert_eq!(api.json("/api/v1/events")["items"][0]["client"], PAMINGA);
    let page = api.get("/events/1").body;
    assert!(page.contains(&format!("<dt>Client</dt><dd>{PAMINGA}</dd>")), "{page}");
}

#[test]
fn commands_for_stored_events_use_the_subject() {
    let authorities = Authorities::new();
    let server = authorities
        .scenario()
        .handler("h", &format!("when = '$client == \"{PAMINGA}\"'"), "echo \"<$HOOKTRAIL_CLIENT>\"")
        .start();
    authorities.post(&server, &authorities.sender("paminga"), "{}");
    authorities.post(&server, &authorities.sender("another"), "{}");
    server.until("select count(*) from outcomes", "1");
    let run = |event| {
        let output = server.cli(&["run", "h", event]);
        format!("{}{}", stdout(&output), stderr(&output))
    };
    assert!(run("1").starts_with(&format!("<{PAMINGA}>\n")), "{}", run("1"));
    assert!(run("2").contains("event 2: not wanted by when"), "{}", run("2"));
    assert_eq!(stdout(&server.cli(&["eval", "$client", "1"])), format!("\"{PAMINGA}\"\n"));
    let check = |event| stdout(&server.cli(&["check", "--event", event]));
    let (of_paminga, of_another) = (check("1"), check("2"));
    assert!(of_paminga.contains("event 1 of a: matches h"), "{of_paminga}");
    assert!(!of_another.contains("matches h"), "{of_another}");
    assert!(server.cli(&["replay", "1", "--yes"]).status.success());
    server.until("select count(*) from outcomes where outcome = 'succeeded'", "2");
    let outputs = server.column("select cast(stdout as text) from attempts");
    assert_eq!(outputs, [format!("<{PAMINGA}>\n"), format!("<{PAMINGA}>\n")]);
}

#[test]
fn a_deferred_event_and_its_items_have_the_subject() {
    let authorities = Authorities::new();
    let keys =
        "split = 'range(300) | [., $client]'\nconcurrency = 1\nmode = \"batch\"\nbatch_size = 300";
    let server = authorities.scenario().handler("h", keys, "cat >> lines").start();
    authorities.post(&server, &authorities.sender("paminga"), "{}");
    server.until("select succeeded from trail", "300");
    let lines = server.read_file("lines");
    let item = |line: &str| -> serde_json::Value { serde_json::from_str(line).unwrap() };
    assert_eq!(lines.lines().count(), 300);
    assert!(lines.lines().all(|line| item(line)["body"][1] == PAMINGA), "{lines}");
}

#[test]
fn without_a_certificate_the_subject_is_null_and_empty_for_handlers() {
    let authorities = Authorities::new();
    let keys = "tls = { certificate = \"cert.pem\", key = \"key.pem\" }";
    let server = authorities
        .scenario_with(keys)
        .handler("h", "transform = '$client'", "cat; echo \"<$HOOKTRAIL_CLIENT>\"")
        .start();
    // The server does not ask for it, so the client does not show it.
    authorities.post(&server, &authorities.sender("paminga"), "{}");
    server.until("select cast(stdout as text) from attempts", "null<>\n");
    assert_eq!(server.column("select client from trail"), ["-"]);
    assert_eq!(server.json_lines(&["show", "1", "--json"])[0]["client"], serde_json::Value::Null);
    let shown = stdout(&server.cli(&["show", "1"]));
    assert!(!shown.contains("client certificate"), "{shown}");
}

#[test]
fn a_hostile_subject_is_data() {
    let authorities = Authorities::new();
    let server = authorities
        .scenario()
        .admin("listen = [\"127.0.0.1:0\"]")
        .handler("h", "transform = '$client'", "cat; echo; printf '%s' \"$HOOKTRAIL_CLIENT\"")
        .start();
    let name = "a,O=Paminga Inc\0\n\u{1b}[31m\u{202e}<script>\"'$(id)";
    authorities.post(&server, &authorities.sender(name), "{}");
    let stored = "CN=a\\,O=Paminga Inc\\00\\0A\\1B[31m\u{202e}\\<script\\>\\\"'$(id),O=Paminga Inc";
    assert_eq!(server.column("select client from trail"), [stored]);
    server.until("select count(*) from outcomes where outcome = 'succeeded'", "1");
    let output = server.value("select cast(stdout as text) from attempts");
    let (transformed, variable) = output.split_once('\n').expect("two lines");
    assert_eq!(serde_json::from_str::<String>(transformed).unwrap(), stored);
    assert_eq!(variable, stored);
    let shown = stdout(&server.cli(&["show", "1"]));
    let line = shown.lines().find(|line| line.starts_with("client certificate: "));
    assert!(line.is_some_and(|line| line.ends_with(",O=Paminga Inc")), "{shown}");
    assert!(!shown.contains('\u{202e}'), "{shown}");
    let page = Api::of(&server).get("/events/1").body;
    assert!(page.contains("[U+202E]\\&lt;script\\&gt;"), "{page}");
    assert!(!page.contains("<script>\\"), "{page}");
}

#[test]
fn at_most_1_kib_of_a_subject_is_kept() {
    let authorities = Authorities::new();
    let server = authorities
        .scenario()
        .handler("h", "", "printf '%s' \"$HOOKTRAIL_CLIENT\" | wc -c | tr -d ' \\n'")
        .start();
    authorities.post(&server, &authorities.sender(&"é".repeat(4000)), "{}");
    server.until("select cast(stdout as text) from attempts", "1023");
    let stored = server.value("select client from trail");
    assert_eq!(stored, format!("CN={}", "é".repeat(510)));
}

#[test]
fn a_known_secret_in_a_subject_is_redacted() {
    let authorities = Authorities::new();
    let keys = "verify = { scheme = \"token\", header = \"X-T\", secret = { file = \"secret\" } }";
    let scenario = authorities.scenario().source("b", keys);
    scenario.write_file("secret", "s3cret-of-another");
    let server = scenario.handler("h", "transform = '$client'", "cat").start();
    authorities.post(&server, &authorities.sender("s3cret-of-another"), "{}");
    server.until("select count(*) from outcomes", "1");
    let redacted = "CN=[redacted],O=Paminga Inc";
    assert_eq!(server.column("select client from trail"), [redacted]);
    let output = server.value("select cast(stdout as text) from attempts");
    assert_eq!(output, format!("\"{redacted}\""));
}

#[test]
fn the_subject_is_sealed_and_stays_when_the_content_is_erased() {
    let authorities = Authorities::new();
    let mut server = authorities.scenario().start();
    authorities.post(&server, &authorities.sender("paminga"), "{}");
    assert!(server.cli(&["erase", "1", "--yes"]).status.success());
    assert_eq!(
        server.column("select (body is null) || ' ' || client from events"),
        [format!("1 {PAMINGA}")]
    );
    assert!(server.cli(&["backup", "copy.db"]).status.success());
    let verified = server.cli(&["verify", "copy.db"]);
    assert!(verified.status.success(), "{}", stdout(&verified));
    assert_eq!(server.stop(), Some(0));
    server.allow_altered_rows();
    server.open_database().execute("update events set client = 'CN=another'", []).unwrap();
    let found = stdout(&server.cli(&["verify"]));
    assert!(found.contains("a row was changed after it was sealed: event 1\n"), "{found}");
}
