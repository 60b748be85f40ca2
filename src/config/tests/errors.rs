//! Tests of errors, with their line and their remedy.

use super::{Folder, check, handler};

#[test]
fn all_errors_are_reported_at_once_in_the_order_of_their_lines() {
    check(
        r#"
[server]
listn = ["127.0.0.1:80"]
request_timeout = 10
[workers]
thread = 3
what = 1
[handlers.crm]
sources = ["pamiga", 3]
timeout = "30 secs"
[sources.paminga]
pth = "/x"
[handler.x]
"#,
        &[
            "3: server.listn is unknown: did you mean listen?",
            "4: server.request_timeout is 10: expected a duration such as \"30s\"",
            "6: workers.thread is unknown: did you mean threads?",
            "7: workers.what is unknown: expected threads or shutdown_timeout",
            "8: handlers.crm has no command, no url and no jetstream: expected command = [\"program\", \"argument\"], \
             url = \"https://example.com\" or jetstream = { … }",
            "9: handlers.crm.sources is 3: expected a list of sources such as [\"paminga\"]",
            "9: handlers.crm.sources names \"pamiga\", which is not a source: did you mean \"paminga\"?",
            "10: handlers.crm.timeout is \"30 secs\": expected a duration such as \"30s\"",
            "12: sources.paminga.pth is unknown: did you mean path?",
            "13: handler is unknown: did you mean handlers?",
        ],
    );
}

#[test]
fn a_syntax_error_is_reported_with_other_errors_but_hides_missing_keys() {
    check(
        "[server\nlisten = 1\n[workers]\nthreads = 0\n[handlers.h]\ncommand = [true\n",
        &[
            "1: not TOML: unclosed table, expected `]`",
            "4: workers.threads is 0: expected a whole number from 1 to 1024",
            "6: not TOML: unclosed array, expected `]`",
        ],
    );
    check(
        "[workers]\nthreads = 3\nthreads = 4\n[workers]\n",
        &["3: not TOML: duplicate key", "4: not TOML: duplicate key"],
    );
    check(
        "[sources.a]\npath = \n",
        &["2: not TOML: string values must be quoted, expected literal string"],
    );
}

#[test]
fn retention_is_a_table_of_durations() {
    let part = r#"expected a duration such as "30d", or "forever""#;
    for (value, error) in [
        ("{ bodies = 30 }", format!("retention.bodies is 30: {part}")),
        ("{ events = \"never\" }", format!("retention.events is \"never\": {part}")),
        ("{ dead_jobs = \"0s\" }", "retention.dead_jobs is \"0s\": expected at least 1ms".into()),
        (
            "{ body = \"1d\" }",
            "retention.body is unknown: expected bodies, events or dead_jobs".into(),
        ),
        (
            "\"30d\"",
            "retention is \"30d\": expected a table such as { bodies = \"30d\", events = \"365d\", \
             dead_jobs = \"forever\" }"
                .into(),
        ),
    ] {
        for table in ["store", "sources.a"] {
            let error = format!("2: {table}.{error}");
            check(&format!("[{table}]\nretention = {value}\n"), &[error.as_str()]);
        }
    }
}

#[test]
fn numbers_have_their_ranges() {
    for (table, key, value, expected) in [
        ("workers", "threads", "0", "expected a whole number from 1 to 1024"),
        ("workers", "threads", "1025", "expected a whole number from 1 to 1024"),
        ("workers", "threads", "1.5", "expected a whole number from 1 to 1024"),
        ("workers", "shutdown_timeout", "\"8d\"", "expected at most 7 days"),
        ("server", "request_timeout", "\"0s\"", "expected at least 1ms"),
        ("server", "request_timeout", "\"1w 1s\"", "expected at most 7 days"),
        ("server", "max_body_size", "0", "expected 1 B to 512 MiB"),
        ("server", "max_body_size", "\"1 GiB\"", "expected 1 B to 512 MiB"),
        (
            "server",
            "max_body_size",
            "\"65 MiB\"",
            "expected at most server.max_inflight_size, which is 64 MiB",
        ),
        (
            "sources.a",
            "max_body_size",
            "\"65 MiB\"",
            "expected at most server.max_inflight_size, which is 64 MiB",
        ),
        (
            "server",
            "max_inflight_size",
            "1024",
            "expected at least server.max_body_size, which is 1 MiB",
        ),
        (
            "store",
            "min_free_space",
            "-1",
            r#"expected a size such as "1 MiB", or a number of bytes"#,
        ),
        ("store", "durability", "\"ful\"", r#"expected "full" or "normal": did you mean "full"?"#),
        ("sources.a", "max_queued", "0", "expected a whole number, at least 1"),
        (
            "sources.a",
            "rate_limit",
            "\"0/s\"",
            r#"expected a rate such as "100/s", "100/m" or "100/h""#,
        ),
        ("sources.a", "accept", "\"xml\"", r#"expected "any", "json" or "form""#),
    ] {
        // In this error alone the value shown is not the value written.
        let shown = if key == "max_inflight_size" { "1 KiB" } else { value };
        let error = format!("2: {table}.{key} is {shown}: {expected}");
        check(&format!("[{table}]\n{key} = {value}"), &[error.as_str()]);
    }
}

#[test]
fn a_handlers_numbers_have_their_ranges() {
    for (key, value, expected) in [
        ("timeout", "\"0s\"", "expected at least 1ms"),
        ("timeout", "\"169h\"", "expected at most 7 days"),
        ("concurrency", "0", "expected a whole number from 1 to 1024"),
        ("concurrency", "1025", "expected a whole number from 1 to 1024"),
        ("priority", "\"high\"", "expected a whole number"),
        ("max_output_size", "\"1 GiB\"", "expected 0 B to 64 MiB"),
        ("retry.max_attempts", "0", "expected a whole number from 1 to 1000000"),
        ("retry.max_attempts", "1000001", "expected a whole number from 1 to 1000000"),
        ("retry.multiplier", "0.9", "expected a number, at least 1"),
        ("retry.multiplier", "nan", "expected a number, at least 1"),
        ("retry.multiplier", "inf", "expected a number, at least 1"),
        ("retry.jitter", "1.1", "expected a number from 0 to 1"),
        ("retry.jitter", "-0.1", "expected a number from 0 to 1"),
        ("retry.initial_delay", "\"-1s\"", r#"expected a duration such as "30s""#),
        ("retry.max_delay", "\"37000d\"", "expected at most 36500 days"),
        ("retry.max_age", "\"0s\"", "expected at least 1ms"),
        ("paused", "1", "expected true or false"),
        ("mode", "\"eac\"", r#"expected "each", "stream", "batch" or "cgi": did you mean "each"?"#),
        ("rate_limit", "\"1/d\"", r#"expected a rate such as "100/s", "100/m" or "100/h""#),
        ("batch_size", "0", "expected a whole number from 1 to 10000"),
        ("batch_size", "10001", "expected a whole number from 1 to 10000"),
        ("batch_wait", "\"8d\"", "expected at most 7 days"),
        ("breaker.threshold", "-1", "expected a whole number from 0 to 1000000"),
        ("breaker.cooldown", "\"0s\"", "expected at least 1ms"),
        ("unique_by", "\".id\"", r#"expected a table such as { jq = ".id", window = "7d" }"#),
        ("when", "true", r#"expected an expression such as ".form_id""#),
    ] {
        let error = format!("5: handlers.h.{key} is {value}: {expected}");
        check(&handler(&format!("{key} = {value}")), &[error.as_str()]);
    }
}

#[test]
fn deeply_nested_brackets_do_not_crash_the_reader() {
    for deep in
        ["a = ".to_owned() + &"[".repeat(100_000), "a = ".to_owned() + &"{a=".repeat(100_000)]
    {
        assert!(!Folder::new(&deep).errors().is_empty());
    }
}

#[test]
fn a_file_cut_at_any_byte_does_not_crash_the_reader() {
    let whole = format!("{}\n{}", crate::config::EMBEDDED, handler("env = { A = '\u{e9}' }"));
    let lines = whole.lines().count();
    for end in (0..whole.len()).filter(|end| whole.is_char_boundary(*end)) {
        let folder = Folder::new(&whole[..end]);
        for error in super::load(&folder.file()).err().iter().flat_map(|errors| &errors.0) {
            assert!(error.line.is_some_and(|line| (1..=lines + 1).contains(&line)), "{error}");
        }
    }
}

#[test]
fn a_key_of_a_pre_release_build_names_its_successor() {
    let config = "[sources.a]\naccept_rate = '5/s'\n[handlers.h]\nsources = ['a']\n\
                  command = ['true']\nrate = '5/s'\nretry = { attempts_max = 3 }";
    check(
        config,
        &[
            "2: sources.a.accept_rate is unknown: its name is now rate_limit",
            "6: handlers.h.rate is unknown: its name is now rate_limit",
            "7: handlers.h.retry.attempts_max is unknown: its name is now max_attempts",
        ],
    );
}
