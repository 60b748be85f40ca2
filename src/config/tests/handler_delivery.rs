//! Tests of errors in urls, in expressions, and in keys that depend on each other.

use super::super::read_secrets;
use super::{Folder, check, handler};

/// A handler with a url instead of a command, followed by `rest`, whose lines begin at 5.
fn url(rest: &str) -> String {
    format!("[sources.a]\n[handlers.h]\nsources = ['a']\nurl = 'https://example.com'\n{rest}")
}

#[test]
fn a_url_is_callable_and_contains_no_secret() {
    let url = "expected a URL that begins with https:// or http://";
    let port = "expected a port from 1 to 65535, or none";
    for (written, error) in [
        ("''", format!("is a bare text: {url}")),
        ("3", format!("is a number: {url}")),
        ("'example.com'", format!("is a bare text: {url}")),
        ("'example.com:80'", format!("is a bare text: {url}")),
        ("'/in'", format!("is a bare text: {url}")),
        ("'ftp://example.com'", format!("is a bare text: {url}")),
        ("'https://'", format!("is a bare text: {url}")),
        ("'https:///in'", format!("is a bare text: {url}")),
        ("'https://example.com/a b'", format!("is a bare text: {url}")),
        ("'https://example.com/\u{e9}'", format!("is a bare text: {url}")),
        ("'https://example.com:0/'", format!("is a bare text: {port}")),
        ("'https://example.com:70000/'", format!("is a bare text: {port}")),
        (
            "'https://me:hush@example.com/'",
            "contains a user: write credentials in headers".to_owned(),
        ),
        (
            "'https://example.com/#a'",
            "is a bare text: expected a URL without a #: what follows it is never sent".to_owned(),
        ),
    ] {
        let config = format!("[sources.a]\n[handlers.h]\nsources = ['a']\nurl = {written}");
        check(&config, &[&format!("4: handlers.h.url {error}")]);
    }
    for right in ["http://127.0.0.1:9/", "https://[::1]:8443/a?b=c", "HTTPS://Example.com"] {
        check(&format!("[sources.a]\n[handlers.h]\nsources = ['a']\nurl = '{right}'"), &[]);
    }
    check(
        &self::url("proxy = 'proxy:3128'"),
        &["5: handlers.h.proxy is a bare text: expected a proxy such as \
           \"http://proxy.example.com:3128\""],
    );
}

#[test]
fn headers_of_a_url_do_not_clash_with_the_servers() {
    let value = "expected one line of text, { env = \"NAME\" }, { file = \"path\" } or \
                 { credential = \"name\" }";
    let cases: [(&str, String); 9] = [
        (
            "headers = { 'X Y' = 'a' }",
            "headers.\"X Y\" is not a valid header name: expected a header's name such as \"X-Signature\"".into(),
        ),
        ("headers = { X = 1 }", format!("headers.X is a number: {value}")),
        (r#"headers = { X = "a\r\nb" }"#, format!("headers.X is a bare text: {value}")),
        (
            "headers = { Host = 'a' }",
            "headers.Host is set by the server: expected another header".into(),
        ),
        (
            "headers = { X = 'a', x = 'b' }",
            "headers.x is there twice: header names ignore case".into(),
        ),
        (
            "forward_headers = ['Content-Length']",
            "forward_headers names \"content-length\", which the server sets: expected another \
             header"
                .into(),
        ),
        (
            "forward_headers = ['X', 'x']",
            "forward_headers names \"x\" twice: once is enough".into(),
        ),
        (
            "forward_headers = ['x']\nheaders = { X = 'a' }",
            "forward_headers names \"x\": headers has X already: expected it once".into(),
        ),
        (
            "headers = { Webhook-Id = 'a' }\nsign = { env = 'S' }",
            "headers.Webhook-Id is set by the server: expected another header".into(),
        ),
    ];
    for (line, error) in cases {
        check(&url(line), &[&format!("5: handlers.h.{error}")]);
    }
    check(&url("headers = { Webhook-Id = 'a' }\nforward_headers = ['webhook-timestamp']"), &[]);
    let warned = Folder::new(&url("forward_headers = ['Cookie']")).warnings();
    let warning = "config.toml:5: handlers.h.forward_headers names \"cookie\", which is stored \
        and passed on as [redacted]";
    assert_eq!(warned, [warning]);
}

#[test]
fn a_handler_has_either_a_command_or_a_url_and_only_its_keys() {
    check(
        &url("command = ['true']"),
        &["2: handlers.h has a command and a url: expected one of them"],
    );
    for key in ["headers = {}", "forward_headers = []", "sign = { env = 'S' }", "proxy = 'x'"] {
        let name = key.split(' ').next().unwrap();
        let error = format!("5: handlers.h.{name} goes with url: a command has none");
        check(&handler(key), &[&error]);
    }
    for key in
        ["directory = '.'", "mode = 'each'", "env = {}", "batch_size = 1", "batch_wait = '1s'"]
    {
        let name = key.split(' ').next().unwrap();
        let error = format!("5: handlers.h.{name} goes with command: a url has none");
        check(&url(key), &[&error]);
    }
    check(&url("concurrency = 1\ntimeout = '1s'\nmax_output_size = 0\nrate_limit = '1/h'"), &[]);
}

#[test]
fn keys_that_depend_on_each_other_are_given_together() {
    let cases = [
        ("version_by = '.at'", "has version_by without ordering_key: expected both, or neither"),
        ("debounce = '5s'", "has debounce without debounce_by: expected both, or neither"),
    ];
    for (line, error) in cases {
        check(&handler(line), &[&format!("2: handlers.h {error}")]);
    }
    check(&handler("ordering_key = '.id'\ndebounce_by = '.id'"), &[]);
    let expected = "expected a table such as { jq = \".id\", window = \"7d\" }";
    check(
        &handler("unique_by = { window = '1d' }"),
        &[&format!("5: handlers.h.unique_by has no jq: {expected}")],
    );
    let missing = "expected a table such as { respond = \"$query.challenge\" }, or false";
    check(
        "[sources.a]\nhandshake = {}",
        &[&format!("2: sources.a.handshake has no respond: {missing}")],
    );
    let warned = Folder::new(&handler("mode = 'stream'\nbatch_wait = '1s'")).warnings();
    let warning = "config.toml:6: handlers.h.batch_wait has no effect: expected mode = \"batch\" \
                   beside it";
    assert_eq!(warned, [warning]);
}

#[test]
fn an_error_in_an_expression_has_its_location() {
    for key in [
        "when",
        "split",
        "transform",
        "ordering_key",
        "debounce_by",
        "unique_by = { jq",
        "version_by",
    ] {
        let (name, end) = match key.split_once(" = {") {
            Some((name, jq)) => (format!("{name}.{}", jq.trim()), " }"),
            None => (key.to_owned(), ""),
        };
        let config = handler(&format!("{key} = ''{end}\n"));
        let config = match key {
            "version_by" => format!("{config}ordering_key = '.id'"),
            _ => config,
        };
        let error = format!("5: handlers.h.{name} is \"\": line 1, column 1: it is empty");
        check(&config, &[&error]);
    }
    for key in ["dedupe = { jq", "handshake = { respond"] {
        let name = key.replace(" = { ", ".");
        let error = format!("2: sources.a.{name} is \"\": line 1, column 1: it is empty");
        check(&format!("[sources.a]\n{key} = '' }}"), &[&error]);
    }
}

#[test]
fn an_error_in_a_multi_line_expression_has_its_own_line() {
    for (written, line, error) in [
        ("'.a | nope'", 5, "is \".a | nope\": line 1, column 6: "),
        ("'''\n.a\n| nope\n'''", 7, "has \"| nope\": line 2, column 3: "),
        ("\"\"\"\n.a \\\n  | .b\n| nope\"\"\"", 8, "has \"| nope\": line 2, column 3: "),
    ] {
        let errors = Folder::new(&handler(&format!("when = {written}\n"))).errors();
        let start = format!("config.toml:{line}: handlers.h.when {error}");
        assert!(errors.iter().any(|error| error.starts_with(&start)), "{start}: {errors:?}");
    }
}

#[test]
fn secrets_of_a_url_are_checked_by_their_format() {
    let key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let lines = "headers = { A = { file = 'key' }, B = { file = 'lines' } }\n\
                 sign = [{ file = 'key' }, { file = 'short' }]";
    let folder = Folder::new(&url(lines)).write("key", key).write("short", "hush");
    let loaded = folder.write("lines", "hush\nhush");
    let (found, errors) = read_secrets(&loaded.load());
    let errors = errors.iter().map(ToString::to_string).collect::<Vec<_>>();
    let errors = loaded.lines(errors.iter().map(String::as_str));
    assert_eq!(
        errors,
        [
            "config.toml:5: handlers.h.headers.B: file lines has a control character such as a \
             line break: expected one line of text",
            "config.toml:6: handlers.h.sign: file short is a key of 3 bytes: expected whsec_ and \
             the base64 of 24 to 64 bytes",
        ]
    );
    assert_eq!(format!("{found:?}"), "Secrets(1 of them)");
}
