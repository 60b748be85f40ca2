//! TLS on the listener for webhooks: versions, certificates that change, and errors.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};

use rcgen::{CertificateParams, DnType, KeyPair};

use crate::support::client;
use crate::support::load::Load;
use crate::support::server::{HOOKTRAIL, Scenario, Server, scenario, until};

/// Writes a certificate for localhost and its key, valid from and until these days from today.
fn write_certificate(folder: &Path, name: &str, from: i64, until: i64) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let today = jiff::Timestamp::from_millisecond(hooktrail::internals::wall_ms()).unwrap();
    let today = today.to_zoned(jiff::tz::TimeZone::UTC).date();
    let date = |days: i64| {
        let date = today.checked_add(jiff::Span::new().days(days)).unwrap();
        let part = |part: i8| u8::try_from(part).unwrap();
        rcgen::date_time_ymd(date.year().into(), part(date.month()), part(date.day()))
    };
    (params.not_before, params.not_after) = (date(from), date(until));
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
}

/// Makes this certificate the one of the configuration, as a renewal does: each file is replaced at once.
fn install(folder: &Path, name: &str) {
    for (from, to) in [(format!("{name}.key"), "key.pem"), (format!("{name}.pem"), "cert.pem")] {
        std::fs::copy(folder.join(from), folder.join("new")).unwrap();
        std::fs::rename(folder.join("new"), folder.join(to)).unwrap();
    }
}

const TLS: &str = "tls = { certificate = 'cert.pem', key = 'key.pem' }";

/// A server with TLS and a certificate that is valid for 90 days.
fn with_tls() -> Scenario {
    let scenario = scenario().server(TLS).source("a", "");
    write_certificate(scenario.path(), "first", -1, 90);
    install(scenario.path(), "first");
    scenario
}

/// Posts by curl, which trusts this certificate alone.
fn post(server: &Server, trusted: &str, args: &[&str]) -> Output {
    let url = format!("https://localhost:{}/hooks/a", server.port);
    Command::new("curl")
        .args(["--silent", "--show-error", "--data", "{}", "--cacert"])
        .arg(server.path().join(trusted))
        .args(args)
        .arg(url)
        .output()
        .unwrap()
}

#[track_caller]
fn assert_accepted(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("{\"event\":"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

fn check(folder: &Path) -> (Option<i32>, String) {
    let output = Command::new(HOOKTRAIL).args(["check"]).current_dir(folder).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn webhooks_are_accepted_by_tls_1_2_and_1_3_and_no_older_version() {
    let server = with_tls().start();
    assert_accepted(&post(&server, "cert.pem", &["--tls-max", "1.2"]));
    assert_accepted(&post(&server, "cert.pem", &["--tlsv1.3"]));
    assert!(!post(&server, "cert.pem", &["--tls-max", "1.1"]).status.success());
    // curl offers HTTP/2 too.
    let output = post(&server, "cert.pem", &["--http2", "--write-out", " %{http_version}"]);
    assert!(String::from_utf8_lossy(&output.stdout).ends_with(" 1.1"));
    assert!(client::post(server.port, "/hooks/a", b"without TLS").is_none());
    assert_eq!(server.value("select count(*) from events"), "3");
}

#[test]
fn two_requests_share_a_connection() {
    let server = with_tls().start();
    let url = format!("https://localhost:{}/hooks/a", server.port);
    let output = post(&server, "cert.pem", &["--write-out", "%{num_connects}", &url]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text, "{\"event\":1}1{\"event\":2}0");
}

#[test]
fn a_large_body_arrives_whole() {
    let server = with_tls().start();
    let body = "0123456789abcdef".repeat(60_000);
    std::fs::write(server.path().join("body"), &body).unwrap();
    let file = format!("@{}", server.path().join("body").display());
    assert_accepted(&post(&server, "cert.pem", &["--data-binary", &file]));
    // curl joins both `--data` by `&`.
    let expected = format!("{{}}&{body}");
    assert_eq!(server.value("select cast(body as text) from events"), expected);
}

#[test]
fn the_command_send_knows_the_certificate() {
    let mut server = with_tls().prepare();
    server.start();
    server.write_file("body.json", "{}");
    let output = server.cli(&["send", "a", "body.json"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("{\"event\":1}"), "{text}{errors}");
    let output = server.cli(&["check"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("source a: https://127.0.0.1:"), "{text}");
}

#[test]
fn a_renewed_certificate_is_loaded_when_its_files_change() {
    let server = with_tls().start();
    write_certificate(server.path(), "second", -1, 60);
    install(server.path(), "second");
    until("the new certificate is in use", || post(&server, "second.pem", &[]).status.success());
    assert!(!post(&server, "first.pem", &[]).status.success());
}

#[test]
fn a_key_that_does_not_belong_to_the_certificate_changes_nothing() {
    let server = with_tls().start();
    write_certificate(server.path(), "second", -1, 60);
    std::fs::copy(server.path().join("second.key"), server.path().join("key.pem")).unwrap();
    let text = "does not belong to the certificate: expected the key of the first certificate";
    until("the log names the key", || server.log().contains(text));
    assert_accepted(&post(&server, "first.pem", &[]));
    let output = server.cli(&["reload"]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        errors.contains("config.toml:3: server.tls.key: ") && errors.contains(text),
        "{errors}"
    );
    assert_accepted(&post(&server, "first.pem", &[]));
}

#[test]
fn files_that_can_not_be_used_are_errors_with_their_key() {
    let scenario = with_tls();
    scenario.write();
    let folder = scenario.path();
    for (file, content, key, text) in [
        ("cert.pem", Some("x"), "certificate", "has no certificate: expected one in PEM"),
        ("cert.pem", None, "certificate", "can't be read: No such file or directory"),
        ("key.pem", Some(""), "key", "has no private key: expected one in PEM"),
        (
            "key.pem",
            Some(
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            ),
            "key",
            "is encrypted: expected a key without a passphrase",
        ),
    ] {
        install(folder, "first");
        match content {
            Some(content) => std::fs::write(folder.join(file), content).unwrap(),
            None => std::fs::remove_file(folder.join(file)).unwrap(),
        }
        let (code, found) = check(folder);
        let line = format!("config.toml:3: server.tls.{key}: ");
        assert!(code == Some(78) && found.contains(&line) && found.contains(text), "{found}");
    }
}

#[test]
fn an_expired_certificate_is_an_error_and_one_that_expires_soon_a_warning_and_an_alert() {
    let scenario = with_tls()
        .raw_config("[handlers.alerts]\nsources = ['hooktrail']\ncommand = ['cat']")
        .handler("h", "", "true");
    scenario.write();
    let folder = scenario.path().to_owned();
    for (name, from, until, code, text) in [
        ("expired", -30, -1, 78, "senders reject it: renew it"),
        ("future", 2, 30, 78, "is not valid before"),
        ("soon", -30, 9, 0, "renew it"),
    ] {
        write_certificate(&folder, name, from, until);
        install(&folder, name);
        let (found, output) = check(&folder);
        assert!(found == Some(code) && output.contains(text), "{output}");
    }
    let server = scenario.start();
    server.until("select json_extract(body, '$.type') from events", "certificate.expiring");
    let detail = server.value("select json_extract(body, '$.detail') from events");
    assert!(detail.contains("cert.pem expires on "), "{detail}");
}

#[test]
fn a_server_with_an_expired_certificate_starts_and_says_so() {
    let scenario = with_tls();
    write_certificate(scenario.path(), "expired", -30, -1);
    install(scenario.path(), "expired");
    let server = scenario.wrapped_by(&[]).start();
    until("the log says it", || server.log().contains("senders reject it: renew it"));
    assert_accepted(&post(&server, "cert.pem", &["--insecure"]));
}

/// Opens connections to a port: some that send nothing, and some that do not finish their request.
fn occupy(port: u16) -> Vec<TcpStream> {
    let connect = |sent: &[u8]| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(sent).unwrap();
        stream
    };
    let silent = (0..80).map(|_| connect(b""));
    let silent: Vec<TcpStream> = silent.collect();
    // The start of a request, or of a handshake.
    let slow = [&b"POST /hooks/a HTTP/1.1\r\n"[..], &[22, 3, 1]].into_iter().cycle();
    silent.into_iter().chain(slow.take(20).map(connect)).collect()
}

#[test]
fn more_connections_than_slots_keep_no_sender_out_with_tls_and_without() {
    let scenario = scenario().server("max_connections = 50").source("a", "");
    let server = scenario.start();
    let _others = occupy(server.port);
    let load = Load::start(server.port, "/hooks/a");
    load.until_accepted(60);
    load.stop_without_failure();

    let server = with_tls().server("max_connections = 50").start();
    let _others = occupy(server.port);
    for _ in 0..10 {
        assert_accepted(&post(&server, "cert.pem", &[]));
    }
}

/// Runs a client in Python, with the port as its argument, and returns what it prints.
#[track_caller]
fn python(server: &Server, script: &str) -> String {
    let begin = "import socket, ssl, sys\n\
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)\n\
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE\n\
        plain = socket.create_connection(('127.0.0.1', int(sys.argv[1])), timeout=60)\n\
        stream = context.wrap_socket(plain)\n";
    let output = Command::new("python3")
        .arg("-c")
        .arg(format!("{begin}{script}"))
        .arg(server.port.to_string())
        .current_dir(server.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_request_is_accepted_from_a_client_that_ends_without_a_word() {
    let server = with_tls().start();
    // Without close_notify, as many clients do.
    python(
        &server,
        "stream.sendall(b'POST /hooks/a HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 2\\r\\n\\r\\n{}')\n\
         stream.shutdown(socket.SHUT_WR)\n",
    );
    server.until("select count(*) from events", "1");
}

#[test]
fn a_client_that_reads_no_responses_is_disconnected() {
    let server = with_tls().server("request_timeout = '1s'").start();
    let printed = python(
        &server,
        "try:\n    while True:\n        stream.sendall(b'GET /nothing HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')\n\
         except (ConnectionResetError, BrokenPipeError, ssl.SSLError) as e:\n    print('disconnected')\n",
    );
    assert_eq!(printed, "disconnected\n");
}
