//! Tests of CGI scripts: their environment, and the results of their output.

use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::config::Handler;
use crate::domain::{Event, Headers};
use crate::handler::tests::{command_of, sample_task};
use crate::process::{CommandSpec, Supervisor};

fn task(script: &str) -> Task {
    task_with(|handler| command_of(handler).args = ["sh", "-c", script].map(String::from).to_vec())
}

fn task_with(change: impl FnOnce(&mut Handler)) -> Task {
    sample_task(|handler| {
        command_of(handler).mode = crate::config::Mode::Cgi;
        change(handler);
    })
}

fn run_attempt(task: &Task) -> AttemptResult {
    CgiRunner.run(task, &CancelToken::new().unwrap())
}

fn with_request(headers: &[(&str, &str)], query: Option<&str>, task: &Task) -> Task {
    let line = |(name, value): &(&str, &str)| ((*name).to_owned(), value.as_bytes().to_vec());
    let headers = Headers(headers.iter().map(line).collect());
    let query = query.map(str::to_owned);
    let event = Arc::new(Event { headers, query, ..(*task.event).clone() });
    Task { event, ..task.clone() }
}

/// Returns the variables that only CGI scripts get.
fn script_variables(task: &Task) -> Vec<String> {
    let mut handler = (*task.handler).clone();
    command_of(&mut handler).args = vec!["env".into(), "-0".into()];
    let task = Task { handler: Arc::new(handler), ..task.clone() };
    let printed = String::from_utf8_lossy(&run_attempt(&task).stdout).into_owned();
    let common = ["HOOKTRAIL_", "PATH=", "HOME=", "LANG=", "TZ="];
    let lines = printed.split_terminator('\0');
    let lines = lines.filter(|line| !common.iter().any(|common| line.starts_with(common)));
    let mut lines: Vec<_> = lines.map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn a_script_gets_the_variables_of_the_rfc() {
    let headers =
        [("host", "hooks.example.com:8443"), ("content-type", "text/plain"), ("x-a", "1")];
    let task = with_request(
        &headers,
        Some("a=1&b=%20"),
        &task_with(|handler| command_of(handler).directory = "/tmp".into()),
    );
    assert_eq!(
        script_variables(&task),
        [
            "CONTENT_LENGTH=8",
            "CONTENT_TYPE=text/plain",
            "DOCUMENT_ROOT=/tmp",
            "GATEWAY_INTERFACE=CGI/1.1",
            "HTTP_HOST=hooks.example.com:8443",
            "HTTP_X_A=1",
            "QUERY_STRING=a=1&b=%20",
            "REDIRECT_STATUS=200",
            "REMOTE_ADDR=192.0.2.7",
            "REQUEST_METHOD=POST",
            "REQUEST_URI=/hooks/paminga?a=1&b=%20",
            "SCRIPT_FILENAME=/tmp/-0",
            "SCRIPT_NAME=/hooks/paminga",
            "SERVER_NAME=hooks.example.com",
            "SERVER_PORT=8443",
            "SERVER_PROTOCOL=HTTP/1.1",
            concat!("SERVER_SOFTWARE=hooktrail/", env!("CARGO_PKG_VERSION")),
            r#"SSL_CLIENT_S_DN=CN=paminga,O="P""#,
        ]
    );
    let mut bare_request = with_request(&[], None, &task);
    bare_request.event = Arc::new(Event { client: None, ..(*bare_request.event).clone() });
    let found = script_variables(&bare_request);
    for line in ["QUERY_STRING=", "SERVER_NAME=localhost", "SERVER_PORT=80"] {
        assert!(found.contains(&line.to_owned()), "{found:?}");
    }
    let is_absent = |name: &str| !found.iter().any(|line| line.starts_with(name));
    assert!(is_absent("CONTENT_TYPE") && is_absent("SSL_CLIENT"), "{found:?}");
    let created = Task { is_json_input: true, input: Arc::from(*b"{}"), ..task };
    let found = script_variables(&created);
    for line in ["CONTENT_TYPE=application/json", "CONTENT_LENGTH=2"] {
        assert!(found.contains(&line.to_owned()), "{found:?}");
    }
    let overridden = Task {
        env: Arc::new([("HTTPS".into(), "on".into()), ("SERVER_PORT".into(), "443".into())]),
        ..created
    };
    let found = script_variables(&overridden);
    for line in ["HTTPS=on", "SERVER_PORT=443"] {
        assert!(found.contains(&line.to_owned()), "{found:?}");
    }
    assert!(!found.contains(&"SERVER_PORT=8443".to_owned()), "{found:?}");
}

#[test]
fn a_script_gets_the_variables_of_commands_too() {
    let output = run_attempt(&task(
        "printf 'Status: 200\\n\\n%s %s' $HOOKTRAIL_EVENT $HOOKTRAIL_IDEMPOTENCY_KEY",
    ));
    assert_eq!(output.detail, "status 200: 42 the-key");
}

#[test]
fn a_header_never_becomes_another_variable() {
    let headers = [
        ("proxy", "http://evil.example.com"),
        ("authorization", "[redacted]"),
        ("connection", "close"),
        ("content-length", "999"),
        ("transfer-encoding", "chunked"),
        ("x_forwarded_for", "192.0.2.99"),
        ("x.a", "dot"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-for", "192.0.2.2"),
        ("cookie", "[redacted]"),
    ];
    let found = script_variables(&with_request(&headers, None, &task_with(|_| {})));
    let http: Vec<_> = found.iter().filter(|line| line.starts_with("HTTP_")).collect();
    assert_eq!(http, ["HTTP_COOKIE=[redacted]", "HTTP_X_FORWARDED_FOR=192.0.2.1, 192.0.2.2"]);
    assert!(found.contains(&"CONTENT_LENGTH=8".to_owned()), "{found:?}");
}

#[test]
fn an_invalid_host_header_becomes_localhost() {
    let check = |host: &str, name: &str, port: u16| {
        let found = script_variables(&with_request(&[("host", host)], None, &task_with(|_| {})));
        let lines = [format!("SERVER_NAME={name}"), format!("SERVER_PORT={port}")];
        assert!(lines.iter().all(|line| found.contains(line)), "{host}: {found:?}");
    };
    check("example.com", "example.com", 80);
    check("[::1]", "[::1]", 80);
    check("[::1]:8080", "[::1]", 8080);
    for invalid in ["example.com:99999", "example.com:", ":80", "a b", "<script>", "", "a/b:80"] {
        check(invalid, "localhost", 80);
    }
}

#[test]
fn nothing_of_the_query_becomes_an_argument() {
    let script = "printf 'Status: 200\\n\\n'; printf '%s|' \"$#\" \"$@\" \"$QUERY_STRING\"";
    for query in ["-s", "a+b", "-d+x%3dy", "$(id)", "a b;c"] {
        let result = run_attempt(&with_request(&[], Some(query), &task(script)));
        assert_eq!(result.detail, format!("status 200: 0|{query}|"));
    }
}

/// A command in the folder `/srv/hooks` whose program was found at `path`.
fn command_spec(path: &str, args: &[&str]) -> CommandSpec {
    CommandSpec {
        path: path.into(),
        args: args.iter().map(|&word| word.to_owned()).collect(),
        env: Vec::new(),
        directory: "/srv/hooks".into(),
        run_id: String::new(),
        supervisor: Supervisor::new("none"),
    }
}

#[test]
fn the_script_is_the_commands_last_element() {
    let script = |command: &[&str]| meta::script_path(&command_spec("/usr/bin/found", command));
    assert_eq!(script(&["php-cgi", "receiver.php"]), PathBuf::from("/srv/hooks/receiver.php"));
    assert_eq!(script(&["php-cgi", "-n", "/a/b.php"]), PathBuf::from("/a/b.php"));
    assert_eq!(script(&["found"]), PathBuf::from("/usr/bin/found"));
}

#[test]
fn the_body_is_read_from_stdin() {
    let result = run_attempt(&task("echo 'Content-Type: text/plain'; echo; cat"));
    assert_eq!(
        (result.outcome, result.detail.as_str()),
        (Outcome::Succeeded, "status 200: the body")
    );
    assert_eq!(result.stdout, b"Content-Type: text/plain\n\nthe body");
}

#[track_caller]
fn check_attempt(script: &str, outcome: Outcome, dead: bool, wait: Option<u64>, detail: &str) {
    let result = run_attempt(&task(script));
    assert_eq!((result.outcome, result.detail.as_str()), (outcome, detail), "{script}");
    assert_eq!(
        (result.is_permanent, result.retry_after),
        (dead, wait.map(Duration::from_secs)),
        "{script}"
    );
}

#[test]
fn the_status_decides_and_defaults_to_200() {
    use Outcome::{Failed, Succeeded};
    let plain = "printf 'Content-Type: text/html\\r\\n\\r\\n<b>\\n ok </b>'";
    check_attempt(plain, Succeeded, false, None, "status 200: <b> ok </b>");
    check_attempt("printf 'Status: 204\\n\\n'", Succeeded, false, None, "status 204");
    check_attempt("printf 'X: y\\nstatus:201 Made\\n\\n'", Succeeded, false, None, "status 201");
    check_attempt("printf 'Status: 410 Gone\\n\\n'", Failed, true, None, "status 410");
    check_attempt("printf 'Status: 500 Oh\\n\\nbroken'", Failed, false, None, "status 500: broken");
    let output = "echo why >&2; printf 'Status: 500 Oh\\n\\nbroken'";
    check_attempt(output, Failed, false, None, "status 500: why");
    let later = "printf 'Status: 503\\nRetry-After: 30\\n\\n'";
    check_attempt(later, Failed, false, Some(30), "status 503");
    let date = "printf 'Status: 429\\nDate: Sun, 06 Nov 1994 12:00:00 GMT\\n\
                Retry-After: Sun, 06 Nov 1994 12:01:00 GMT\\n\\n'";
    check_attempt(date, Failed, false, Some(60), "status 429");
    let elsewhere = "status 302: not followed to https://example.com/";
    check_attempt("printf 'Location: https://example.com/\\n\\n'", Failed, false, None, elsewhere);
    let created = "printf 'Status: 201\\nLocation: https://example.com/\\n\\n'";
    check_attempt(created, Succeeded, false, None, "status 201");
}

#[test]
fn output_without_a_header_block_fails() {
    let check_no_header_block = |script: &str, reason: &str| {
        let detail = format!("exit 0: no header block: {reason}");
        check_attempt(script, Outcome::Failed, false, None, &detail);
    };
    check_no_header_block("true", "no output");
    check_no_header_block("echo >&2 why", "no output: why");
    check_no_header_block("printf 'Status: 200'", "no empty line at its end");
    check_no_header_block("printf 'Status: 200\\n'", "no empty line at its end");
    check_no_header_block("printf '\\nok'", "the first line is empty");
    check_no_header_block("echo done", "\"done\" is not a header");
    check_no_header_block("printf 'HTTP/1.1 200 OK\\n\\n'", "\"HTTP/1.1 200 OK\" is not a header");
    check_no_header_block("printf '<p>a: b</p>\\n\\n'", "\"<p>a: b</p>\" is not a header");
    check_no_header_block("printf 'A: b\\n c: d\\n\\n'", "\"c: d\" is not a header");
    check_no_header_block("printf ': b\\n\\n'", "\": b\" is not a header");
    check_no_header_block("printf 'A: \\033[2J\\nb\\033\\n\\n'", "\"b\" is not a header");
    check_no_header_block("printf 'Status: fine\\n\\n'", "\"fine\" is not a status");
    check_no_header_block("printf 'Status: 99\\n\\n'", "\"99\" is not a status");
    check_no_header_block("printf 'Status: 2000\\n\\n'", "\"2000\" is not a status");
    check_no_header_block("yes 'A: b' | head -n 100000", "it has no end within 32 KiB");
    check_no_header_block("head -c 1000000 /dev/zero", "it has no end within 32 KiB");
}

#[test]
fn the_head_is_read_before_a_body_of_any_length() {
    let script = "printf 'Status: 500\\n\\nthe start '; head -c 1000000 /dev/zero; echo the end";
    let handler = |handler: &mut Handler| {
        command_of(handler).args = ["sh", "-c", script].map(String::from).to_vec();
        handler.max_output_bytes = 8;
    };
    let result = run_attempt(&task_with(handler));
    assert!(result.detail.starts_with("status 500: the start"), "{}", result.detail);
    assert_eq!(result.stdout, b"the end\n");
}

#[test]
fn an_exit_other_than_0_fails_whatever_the_status_is() {
    let fatal = "printf 'Status: 200\\n\\n'; echo fatal >&2; exit 255";
    check_attempt(fatal, Outcome::Failed, false, None, "exit 255: fatal");
    check_attempt("printf 'Status: 410\\n\\n'; exit 65", Outcome::Failed, false, None, "exit 65");
    check_attempt("kill -9 $$", Outcome::Failed, false, None, "signal 9");
    let missing =
        run_attempt(&task_with(|handler| command_of(handler).args = vec!["/no/such".into()]));
    assert_eq!(missing.outcome, Outcome::Failed);
    assert!(missing.detail.starts_with("not started: /no/such: "), "{}", missing.detail);
    let no_command = run_attempt(&task_with(|_| {}));
    assert_eq!(no_command.detail, "not started: no command");
}

#[test]
fn a_script_times_out_and_can_be_cancelled() {
    let stuck = task_with(|handler| {
        command_of(handler).args =
            ["sh", "-c", "echo at it >&2; exec sleep 1000"].map(String::from).to_vec();
        handler.timeout = Duration::from_millis(300);
    });
    let result = run_attempt(&stuck);
    assert_eq!(
        (result.outcome, result.detail.as_str()),
        (Outcome::TimedOut, "timeout 300ms: at it")
    );
    let stop = CancelToken::new().unwrap();
    stop.cancel();
    let result = CgiRunner.run(&task("exit 0"), &stop);
    assert_eq!((result.outcome, result.detail.as_str()), (Outcome::Interrupted, "stopped"));
}

#[test]
fn the_query_never_removes_phps_arguments() {
    let check = |command: &[&str], query: &str, expected: &str| {
        let task = with_request(&[], Some(query), &task_with(|_| {}));
        let all = meta::build_variables(&task, &command_spec("/usr/bin/php-cgi", command));
        let found = all.iter().find(|(name, _)| name == "QUERY_STRING").unwrap();
        assert_eq!(found.1, expected, "{command:?}");
    };
    let php = ["/usr/bin/php-cgi8.2", "-d", "open_basedir=/srv", "receiver.php"];
    for (query, expected) in
        [("-s", "&-s"), ("+%2ds", "&+%2ds"), ("-s=1", "-s=1"), ("a-s", "a-s"), ("", "")]
    {
        check(&php, query, expected);
    }
    check(&["perl", "receiver.pl"], "-s", "-s");
    check(&["/srv/php.cgi"], "-s", "-s");
}
