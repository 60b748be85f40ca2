//! Tests of `jetstream` of handlers and sources.

use std::time::Duration;

use super::super::jetstream::{NatsTls, SubjectTemplate};
use super::super::*;
use super::{Folder, check, config};

const SERVERS: &str = "servers = ['nats://127.0.0.1:4222']";

/// A handler with this `jetstream`, on line 4, and further lines.
fn handler(jetstream: &str, rest: &str) -> String {
    format!("[sources.a]\n[handlers.h]\nsources = ['a']\njetstream = {{ {jetstream} }}\n{rest}")
}

/// A source with this `jetstream`, on line 2, and further lines.
fn source(jetstream: &str, rest: &str) -> String {
    format!(
        "[sources.a]\njetstream = {{ {jetstream} }}\n{rest}\n[handlers.h]\nsources = ['a']\ncommand = ['true']\n"
    )
}

fn target(text: &str) -> JetStreamTarget {
    config(text).handlers[0].jetstream().unwrap().clone()
}

fn subject(text: &str) -> SubjectTemplate {
    target(&handler(&format!("{SERVERS}, stream = 'S', subject = '{text}'"), "")).subject
}

#[test]
fn every_key_of_a_handler_is_read() {
    let folder = Folder::new(&handler(
        "servers = ['nats://a:4222', 'tls://[::1]:4223'], stream = 'S', subject = 'hooks.a', message_id = '.id',
         credentials = { file = 'u.creds' }, tls = { ca = 'ca.pem', certificate = 'c.pem', key = 'k.pem' }",
        "batch_size = 7\nconcurrency = 2\n",
    ));
    let folder = folder.write("ca.pem", "").write("c.pem", "").write("k.pem", "");
    let loaded = folder.load();
    let target = loaded.config.handlers[0].jetstream().unwrap();
    let path = |name: &str| folder.path().join(name);
    let expected = NatsSettings {
        servers: vec!["nats://a:4222".into(), "tls://[::1]:4223".into()],
        credentials: Some(SecretRef::File(path("u.creds"))),
        tls: Some(NatsTls {
            ca: Some(path("ca.pem")),
            identity: Some((path("c.pem"), path("k.pem"))),
        }),
    };
    assert_eq!(target.nats, expected);
    assert_eq!((&*target.stream, target.subject.to_string()), ("S", "hooks.a".to_owned()));
    assert_eq!(target.message_id.as_ref().map(Expression::text), Some(".id"));
    let batch = Batch { size: 7, wait: Duration::ZERO };
    assert_eq!(loaded.config.handlers[0].batch(), Some(batch));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

#[test]
fn every_key_of_a_source_is_read() {
    let text = source(
        &format!("{SERVERS}, stream = 'S', consumer = 'c', filter = 'hooks.*.>', ordered = true"),
        "accept = 'json'\ndedupe = { header = 'x-id', window = '1d' }\n",
    );
    let source = config(&text).sources.remove(0);
    let expected = StreamConsumer {
        nats: NatsSettings {
            servers: vec!["nats://127.0.0.1:4222".into()],
            credentials: None,
            tls: None,
        },
        stream: "S".into(),
        consumer: "c".into(),
        filter: Some("hooks.*.>".into()),
        is_ordered: true,
    };
    assert_eq!((source.consumer(), source.path()), (Some(&expected), None));
    assert_eq!(source.delivery_key_window(), Some(Duration::from_secs(86_400)));
}

#[test]
fn the_id_of_a_message_counts_even_without_dedupe() {
    let text = source(&format!("{SERVERS}, stream = 'S', consumer = 'c'"), "dedupe = false\n");
    let source = config(&text).sources.remove(0);
    assert_eq!(source.delivery_key_window(), Some(Duration::from_secs(7 * 86_400)));
}

#[test]
fn a_subject_has_the_values_of_its_expressions_as_tokens() {
    let build = |text: &str| {
        let value = |expression: &Expression| Ok::<_, ()>(format!("<{}>", expression.text()));
        subject(text).build(value).unwrap()
    };
    assert_eq!(build("hooks.a"), "hooks.a");
    assert_eq!(build("hooks.{.id}"), "hooks.<.id>");
    assert_eq!(build("a.{.a}.b.{.c // {\"x\":\"}\"} | .x}"), "a.<.a>.b.<.c // {\"x\":\"}\"} | .x>");
    assert_eq!(subject("a.{.a}.b.{.c}").filter(), "a.*.b.*");
    assert_eq!(subject("a.{.a}.b.{.c}").to_string(), "a.{.a}.b.{.c}");
}

#[test]
fn errors_of_a_handler_name_the_key_and_the_remedy() {
    let stream = format!("{SERVERS}, stream = 'S'");
    let subject = r#"expected a subject such as "hooks.paminga" or "hooks.paminga.{.contact_id}""#;
    let table = r#"expected a table such as { servers = ["nats://127.0.0.1:4222"], stream = "HOOKS", subject = "hooks.paminga" }"#;
    let server = "expected nats://HOST:PORT or tls://HOST:PORT";
    for (jetstream, rest, error) in [
        (String::new(), "", format!("jetstream has no servers: {table}")),
        (stream.clone(), "", format!("jetstream has no subject: {subject}")),
        (format!("{SERVERS}, subject = 'a'"), "", format!("jetstream has no stream: {table}")),
        (format!("{stream}, subject = 'a..b'"), "", format!("jetstream.subject is \"a..b\": {subject}: its tokens are not empty and have no *, > or blanks")),
        (format!("{stream}, subject = 'a.*'"), "", format!("jetstream.subject is \"a.*\": {subject}: its tokens are not empty and have no *, > or blanks")),
        (format!("{stream}, subject = 'a.x{{.b}}'"), "", format!("jetstream.subject is \"a.x{{.b}}\": {subject}: an expression is a token by itself")),
        (format!("{stream}, subject = 'a.{{.b'"), "", format!("jetstream.subject is \"a.{{.b\": {subject}: a {{ has no }}")),
        (format!("{stream}, subject = 'a', consumer = 'c'"), "", "jetstream.consumer is unknown: expected servers, credentials, tls, stream, subject or message_id".into()),
        ("servers = [], stream = 'S', subject = 'a'".into(), "", r#"jetstream.servers is []: expected a list of servers such as ["nats://127.0.0.1:4222"]"#.into()),
        ("servers = ['http://a'], stream = 'S', subject = 'a'".into(), "", format!("jetstream.servers is a bare text: {server}")),
        ("servers = ['nats://u:p@a'], stream = 'S', subject = 'a'".into(), "", "jetstream.servers contains a user: put it into credentials".into()),
        (format!("{SERVERS}, stream = 'a.b', subject = 'a'"), "", r#"jetstream.stream is "a.b": expected a name of at most 255 characters without blanks and .*>/\"#.into()),
        (format!("{stream}, subject = 'a', tls = {{ key = 'k' }}"), "", "jetstream.tls has a certificate or a key alone: expected both, or neither".into()),
    ] {
        let mut errors = Folder::new(&handler(&jetstream, rest)).errors();
        errors.retain(|found| !found.contains("has no stream") || error.contains("has no stream"));
        errors.retain(|found| !found.contains("has no subject") || error.contains("has no subject"));
        let expected = format!("config.toml:4: handlers.h.{error}");
        assert!(errors.contains(&expected), "{jetstream}: {errors:#?} has not\n{expected}");
    }
}

#[test]
fn keys_of_other_kinds_are_rejected_beside_jetstream() {
    let jetstream = format!("{SERVERS}, stream = 'S', subject = 'a'");
    check(
        &handler(&jetstream, "url = 'https://a.example'\n"),
        &["2: handlers.h has a url and a jetstream: expected one of them"],
    );
    check(
        &handler(&jetstream, "command = ['true']\n"),
        &["2: handlers.h has a command and a jetstream: expected one of them"],
    );
    check(
        &handler(&jetstream, "mode = 'each'\nsign = { env = 'X' }\n"),
        &[
            "5: handlers.h.mode has no effect beside jetstream: remove one of them",
            "6: handlers.h.sign has no effect beside jetstream: remove one of them",
        ],
    );
    let jetstream = format!("{SERVERS}, stream = 'S', consumer = 'c'");
    check(
        &source(
            &jetstream,
            "path = '/x'\nverify = { scheme = 'none' }\nrespond = { status = 200 }\n",
        ),
        &[
            "3: sources.a.path has no effect beside jetstream, which gets no requests: remove one of them",
            "4: sources.a.verify has no effect beside jetstream, which gets no requests: remove one of them",
            "5: sources.a.respond has no effect beside jetstream, which gets no requests: remove one of them",
        ],
    );
}

#[test]
fn errors_of_a_source_name_the_key_and_the_remedy() {
    let table = r#"expected a table such as { servers = ["nats://127.0.0.1:4222"], stream = "HOOKS", consumer = "hooktrail" }"#;
    check(
        &source(&format!("{SERVERS}, stream = 'S'"), ""),
        &[&format!("2: sources.a.jetstream has no consumer: {table}")],
    );
    check(
        &source(&format!("{SERVERS}, stream = 'S', consumer = 'a b', filter = 'a.>.b'"), ""),
        &[
            r#"2: sources.a.jetstream.consumer is "a b": expected a name of at most 255 characters without blanks and .*>/\"#,
            r#"2: sources.a.jetstream.filter is "a.>.b": expected a subject such as "hooks.paminga" or "hooks.>""#,
        ],
    );
}
