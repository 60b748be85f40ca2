//! Every fault, with its line and its remedy.

use super::{Folder, check};

const SOURCE: &str = "[sources.a]\n";

/// A handler that is right but for what is added: its lines begin at 5.
fn handler(rest: &str) -> String {
    format!("[sources.a]\n[handlers.h]\nsources = ['a']\ncommand = ['true']\n{rest}")
}

#[test]
fn all_faults_come_at_once_in_the_order_of_their_lines() {
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
            "8: handlers.crm has nothing to do: expected command = [\"program\", \"argument\"]",
            "9: handlers.crm.sources is 3: expected a list of sources such as [\"paminga\"]",
            "9: handlers.crm.sources names \"pamiga\", no source: did you mean \"paminga\"?",
            "10: handlers.crm.timeout is \"30 secs\": expected a duration such as \"30s\"",
            "12: sources.paminga.pth is unknown: did you mean path?",
            "13: handler is unknown: did you mean handlers?",
        ],
    );
}

#[test]
fn broken_toml_is_shown_beside_other_faults_and_blames_nothing_else() {
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
fn what_this_version_has_not_yet_is_refused_by_name() {
    let later = |keys: &[&str], table: &str, first: usize, config: &dyn Fn(&str) -> String| {
        for key in keys {
            let fault = format!("{first}: {table}.{key} is not yet known to this version");
            check(&config(&format!("{key} = 'x'\n")), &[fault.as_str()]);
        }
    };
    let under = |table: &'static str| move |line: &str| format!("[{table}]\n{line}");
    later(&["tls"], "server", 2, &under("server"));
    later(&["token", "read_token"], "admin", 2, &under("admin"));
    later(&["keep_bodies", "keep_trail", "keep_dead"], "store", 2, &under("store"));
    later(&["handshake", "silent_after"], "sources.a", 2, &under("sources.a"));
    let keys = [
        "when",
        "split",
        "transform",
        "order_by",
        "newest_by",
        "once_by",
        "collapse_by",
        "settle",
        "rate",
        "batch_jobs_max",
        "batch_wait",
        "breaker",
        "url",
        "jetstream",
        "headers",
        "forward_headers",
        "sign",
        "proxy",
    ];
    later(&keys, "handlers.h", 5, &|line| handler(line));
    for mode in ["stream", "batch", "cgi"] {
        let fault = format!("5: handlers.h.mode is \"{mode}\": not yet known to this version");
        check(&handler(&format!("mode = '{mode}'")), &[fault.as_str()]);
    }
    check(
        "[sources.a]\ndedupe = { jq = '.id' }",
        &["2: sources.a.dedupe.jq is not yet known to this version"],
    );
    check(
        "[handlers.h]\nsources = ['hooktrail']\nurl = 'https://example.com'",
        &[
            "2: handlers.h.sources names \"hooktrail\": the built-in source is not yet known to \
             this version",
            "3: handlers.h.url is not yet known to this version",
        ],
    );
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
        ("server", "body_bytes_max", "0", "expected 1 B to 512 MiB"),
        ("server", "body_bytes_max", "\"1 GiB\"", "expected 1 B to 512 MiB"),
        (
            "server",
            "body_bytes_max",
            "\"65 MiB\"",
            "expected at most server.bodies_bytes_max, which is 64 MiB",
        ),
        (
            "sources.a",
            "body_bytes_max",
            "\"65 MiB\"",
            "expected at most server.bodies_bytes_max, which is 64 MiB",
        ),
        (
            "server",
            "bodies_bytes_max",
            "1024",
            "expected at least server.body_bytes_max, which is 1 MiB",
        ),
        (
            "store",
            "free_bytes_min",
            "-1",
            r#"expected a size such as "1 MiB", or a number of bytes"#,
        ),
        ("store", "durability", "\"ful\"", r#"expected "full" or "normal": did you mean "full"?"#),
        ("sources.a", "queued_max", "0", "expected a whole number, at least 1"),
        (
            "sources.a",
            "accept_rate",
            "\"0/s\"",
            r#"expected a rate such as "100/s", "100/m" or "100/h""#,
        ),
        ("sources.a", "accept", "\"xml\"", r#"expected "any", "json" or "form""#),
    ] {
        // The one fault where the value shown is not what was written.
        let shown = if key == "bodies_bytes_max" { "1 KiB" } else { value };
        let fault = format!("2: {table}.{key} is {shown}: {expected}");
        check(&format!("[{table}]\n{key} = {value}"), &[fault.as_str()]);
    }
    for (key, value, expected) in [
        ("timeout", "\"0s\"", "expected at least 1ms"),
        ("timeout", "\"169h\"", "expected at most 7 days"),
        ("concurrency", "0", "expected a whole number from 1 to 1024"),
        ("concurrency", "1025", "expected a whole number from 1 to 1024"),
        ("priority", "\"high\"", "expected a whole number"),
        ("output_bytes_max", "\"1 GiB\"", "expected 0 B to 64 MiB"),
        ("retry.attempts_max", "0", "expected a whole number from 1 to 1000000"),
        ("retry.attempts_max", "1000001", "expected a whole number from 1 to 1000000"),
        ("retry.factor", "0.9", "expected a number, at least 1"),
        ("retry.factor", "nan", "expected a number, at least 1"),
        ("retry.factor", "inf", "expected a number, at least 1"),
        ("retry.jitter", "1.1", "expected a number from 0 to 1"),
        ("retry.jitter", "-0.1", "expected a number from 0 to 1"),
        ("retry.first", "\"-1s\"", r#"expected a duration such as "30s""#),
        ("retry.longest", "\"37000d\"", "expected at most 36500 days"),
        ("retry.give_up_after", "\"0s\"", "expected at least 1ms"),
        ("paused", "1", "expected true or false"),
        ("mode", "\"eac\"", r#"expected "each": did you mean "each"?"#),
    ] {
        let fault = format!("5: handlers.h.{key} is {value}: {expected}");
        check(&handler(&format!("{key} = {value}")), &[fault.as_str()]);
    }
}

#[test]
fn a_listener_has_an_address_of_its_own() {
    let expected = r#"expected an address such as "127.0.0.1:8080", "[::1]:8080" or "unix:/run/hooktrail.sock""#;
    for wrong in
        ["localhost:8080", ":8080", "8080", "127.0.0.1", "unix:", "::1:80", "1.2.3.4:70000"]
    {
        let fault = format!("2: server.listen is \"{wrong}\": {expected}");
        check(&format!("[server]\nlisten = ['{wrong}']"), &[fault.as_str()]);
    }
    check("[server]\nlisten = []", &["2: server.listen is []: expected at least one address"]);
    check(
        "[server]\nlisten = ['127.0.0.1:0', '127.0.0.1:0']\n[admin]\nlisten = ['127.0.0.1:0']",
        &[],
    );
    check(
        "[server]\nlisten = [\n'[::1]:1',\n'[::1]:1']\n[admin]\nlisten = ['[::1]:1']",
        &[
            "4: server.listen is \"[::1]:1\": has a listener already: expected another address",
            "6: admin.listen is \"[::1]:1\": has a listener already: expected another address",
        ],
    );
    let found = Folder::new("[server]\nlisten = ['127.0.0.1:8081']").faults();
    let expected = "config.toml: admin has \"127.0.0.1:8081\" as its listen, which has a listener \
                    already: expected another address";
    assert_eq!(found, [expected]);
}

#[test]
fn names_are_small_and_plain() {
    let rule = "expected a name of a-z, 0-9, _ and -, that begins with a letter or digit, at most \
                64 long";
    for (table, key) in [
        ("sources.Paminga", "sources.Paminga"),
        ("sources.-a", "sources.-a"),
        ("sources.'a b'", "sources.\"a b\""),
        ("sources.''", "sources.\"\""),
    ] {
        // The default path of such a name is not looked at.
        let fault = format!("1: {key} is no name: {rule}");
        check(&format!("[{table}]"), &[fault.as_str()]);
    }
    let (most, more) = ("a".repeat(64), "a".repeat(65));
    check(&format!("[sources.{most}]"), &[]);
    check(&format!("[sources.{more}]"), &[&format!("1: sources.{more} is no name: {rule}")]);
    check(
        "[sources.hooktrail]",
        &["1: sources.hooktrail is the name of the server's own source: expected another"],
    );
    check("sources = 3", &["1: sources is 3: expected a table such as [sources.paminga]"]);
    check(
        "[sources]\npath = '/x'",
        &["2: sources.path is \"/x\": expected a table such as [sources.paminga]"],
    );
}

#[test]
fn a_path_has_one_spelling_and_one_source() {
    let rule = r#"expected a path such as "/hooks/paminga" or "/hooks/{tenant}""#;
    let own = "the server answers this path itself: expected another";
    for (path, expected) in [
        ("hooks", format!("{rule}: it begins with a slash")),
        ("", format!("{rule}: it begins with a slash")),
        ("/a?b=c", format!("{rule}: without a query")),
        ("/a#b", format!("{rule}: without a query")),
        ("/a//b", format!("{rule}: no segment may be empty, . or ..")),
        ("/a/../b", format!("{rule}: no segment may be empty, . or ..")),
        ("/a b", format!("{rule}: of letters, digits and -._~!$&'()*+,;=:@")),
        ("/a%20b", format!("{rule}: of letters, digits and -._~!$&'()*+,;=:@")),
        ("/x{a}", format!("{rule}: of letters, digits and -._~!$&'()*+,;=:@")),
        ("/{}", format!("{rule}: each {{name}} of letters, digits and _, once")),
        ("/{a}/{a}", format!("{rule}: each {{name}} of letters, digits and _, once")),
        ("/healthz", own.to_owned()),
        ("/readyz", own.to_owned()),
    ] {
        let fault = format!("2: sources.a.path is \"{path}\": {expected}");
        check(&format!("[sources.a]\npath = '{path}'"), &[fault.as_str()]);
    }
    for path in ["/", "/a/", "/a.b-c_d~e", "/{tenant}/x/{user_id}", "/Hooks"] {
        check(&format!("[sources.a]\npath = '{path}'"), &[]);
    }
}

#[test]
fn two_sources_never_match_the_same_paths() {
    for (a, b) in [
        ("/hooks/x", "/hooks/x"),
        ("/hooks/{a}", "/hooks/{b}"),
        ("/hooks/{a}/x/{b}", "/hooks/{c}/x/{d}"),
    ] {
        let found =
            Folder::new(&format!("[sources.a]\npath = '{a}'\n[sources.b]\npath = '{b}'")).faults();
        let place = "config.toml:2";
        let [fault] = &found[..] else { panic!("{found:?}") };
        let start = format!("config.toml:4: sources.b.path is \"{b}\": sources.a has it already (");
        assert!(fault.starts_with(&start) && fault.contains(place), "{fault}");
    }
    let token = "verify = { scheme = 'token', segment = true, secret = { env = 'X' } }";
    let clash = format!("[sources.b]\npath = '/in/{{x}}'\n[sources.a]\npath = '/in'\n{token}");
    assert_eq!(Folder::new(&clash).faults().len(), 1);
    for (a, b) in [("/hooks/{a}", "/hooks/x"), ("/a", "/a/"), ("/a", "/A"), ("/{a}", "/{a}/b")] {
        check(&format!("[sources.a]\npath = '{a}'\n[sources.b]\npath = '{b}'"), &[]);
    }
    check(
        "[sources.a]\n[sources.b]\npath = '/hooks/a'",
        &[
            "3: sources.b.path is \"/hooks/a\": sources.a has it already (config.toml:1): expected a \
           path of its own",
        ],
    );
}

#[test]
fn a_source_says_what_it_takes_and_answers() {
    for (line, fault) in [
        ("methods = []", r#"methods is []: expected a list such as ["POST"]"#),
        ("methods = 'POST'", r#"methods is "POST": expected a list such as ["POST"]"#),
        ("methods = ['post']", r#"methods is "post": did you mean "POST"?"#),
        (
            "methods = ['BREW']",
            "methods is \"BREW\": expected \"POST\", \"PUT\", \"PATCH\", \"DELETE\", \"GET\", \
             \"HEAD\" or \"OPTIONS\"",
        ),
        (
            "allow_from = ['10.0.0.0/33']",
            r#"allow_from is "10.0.0.0/33": expected a network such as "10.0.0.0/8" or "2001:db8::/32""#,
        ),
        (
            "respond = { status = 302 }",
            "respond.status is 302: expected a whole number from 200 to 299",
        ),
        (
            "respond = { status = 204, body = 'x' }",
            "respond has a body: an answer of 204 can't have one",
        ),
        (
            r#"respond = { content_type = "a\r\nb" }"#,
            r#"respond.content_type is "a\r\nb": expected a header's value such as "text/plain""#,
        ),
        ("respond = { state = 200 }", "respond.state is unknown: did you mean status?"),
        (
            "dedupe = true",
            "dedupe is true: expected { header = \"X-Delivery\" }, { body = true } or false",
        ),
        (
            "dedupe = {}",
            "dedupe has nothing to recognise a repeat by: expected { header = \"X-Delivery\" }, \
             { body = true } or false",
        ),
        (
            "dedupe = { header = 'X', body = true }",
            "dedupe has more than one key to recognise a repeat by: expected header or body",
        ),
        ("dedupe = { body = false }", "dedupe.body is false: expected true"),
        (
            "dedupe = { body = true, window = '0s' }",
            "dedupe.window is \"0s\": expected at least 1ms",
        ),
        (
            "dedupe = { header = 'X: y' }",
            "dedupe.header is \"X: y\": expected a header's name such as \"X-Signature\"",
        ),
    ] {
        check(&format!("{SOURCE}{line}"), &[&format!("2: sources.a.{fault}")]);
    }
}

#[test]
fn a_handler_says_whose_events_it_takes_and_what_it_does() {
    let command =
        r#"expected a list of a program and its arguments such as ["handlers/crm.py", "--live"]"#;
    for (sources, run, fault) in [
        (
            "[]",
            "['true']",
            "3: handlers.h.sources is []: expected a list of sources such as [\"paminga\"]".into(),
        ),
        (
            "['a', 'a']",
            "['true']",
            "3: handlers.h.sources names \"a\" twice: once is enough".into(),
        ),
        (
            "['zz']",
            "['true']",
            "3: handlers.h.sources names \"zz\", no source: expected \"a\"".into(),
        ),
        ("['a']", "[]", format!("4: handlers.h.command is []: {command}")),
        (
            "['a']",
            "'crm.py --live'",
            format!("4: handlers.h.command is \"crm.py --live\": {command}"),
        ),
        ("['a']", "['']", format!("4: handlers.h.command has an empty program: {command}")),
        (
            "['a']",
            r#"["a\u0000"]"#,
            "4: handlers.h.command is \"a\\0\": expected text without a NUL".into(),
        ),
    ] {
        let fault: String = fault;
        check(&format!("{SOURCE}[handlers.h]\nsources = {sources}\ncommand = {run}"), &[&fault]);
    }
    let no_sources = "handlers.h has no sources: expected a list of sources such as [\"paminga\"]";
    check("[handlers.h]\ncommand = ['true']", &[&format!("1: {no_sources}")]);
    for (env, fault) in [
        (
            "X = 1",
            "env.X is a number: expected text, { env = \"NAME\" }, { file = \"path\" } or { credential = \"name\" }",
        ),
        ("'A=B' = 'x'", "env.\"A=B\" is no name for a variable: expected one without ="),
        ("HOOKTRAIL_KEY = 'x'", "env.HOOKTRAIL_KEY is set by the server: expected another name"),
    ] {
        check(&handler(&format!("env = {{ {env} }}")), &[&format!("5: handlers.h.{fault}")]);
    }
    check(&handler("env = { HOOKTRAIL_CONFIG = 'x' }"), &[]);
}

#[test]
fn no_text_however_torn_ends_the_reader() {
    let whole = format!("{}\n{}", crate::config::EMBEDDED, handler("env = { A = '\u{e9}' }"));
    let lines = whole.lines().count();
    for end in (0..whole.len()).filter(|end| whole.is_char_boundary(*end)) {
        let folder = Folder::new(&whole[..end]);
        for fault in super::load(&folder.file()).err().iter().flat_map(|faults| &faults.0) {
            assert!(fault.line.is_some_and(|line| (1..=lines + 1).contains(&line)), "{fault}");
        }
    }
}
