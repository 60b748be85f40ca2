//! Tests of errors in listeners, names, paths, sources and handlers.

use super::{Folder, check, handler};

const SOURCE: &str = "[sources.a]\n";

#[test]
fn a_listener_has_an_address_of_its_own() {
    let expected = "expected an address such as \"127.0.0.1:8080\", \"[::1]:8080\" or \
        \"unix:/run/hooktrail.sock\"";
    for wrong in
        ["localhost:8080", ":8080", "8080", "127.0.0.1", "unix:", "::1:80", "1.2.3.4:70000"]
    {
        let error = format!("2: server.listen is \"{wrong}\": {expected}");
        check(&format!("[server]\nlisten = ['{wrong}']"), &[error.as_str()]);
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
    let found = Folder::new("[server]\nlisten = ['127.0.0.1:8081']").errors();
    let expected = "config.toml: admin listens on \"127.0.0.1:8081\" by default, which has a \
                    listener already: expected another address";
    assert_eq!(found, [expected]);
}

#[test]
fn names_have_a_limited_length_and_alphabet() {
    let rule = "expected a name of a-z, 0-9, _ and -, that begins with a letter or digit, at most \
                64 long";
    for (table, key) in [
        ("sources.Paminga", "sources.Paminga"),
        ("sources.-a", "sources.-a"),
        ("sources.'a b'", "sources.\"a b\""),
        ("sources.''", "sources.\"\""),
    ] {
        // The default path of such a name is not checked.
        let error = format!("1: {key} is not a valid name: {rule}");
        check(&format!("[{table}]"), &[error.as_str()]);
    }
    let (most, more) = ("a".repeat(64), "a".repeat(65));
    check(&format!("[sources.{most}]"), &[]);
    check(
        &format!("[sources.{more}]"),
        &[&format!("1: sources.{more} is not a valid name: {rule}")],
    );
    check(
        "[sources.hooktrail]",
        &["1: sources.hooktrail is the name of the built-in source: expected another"],
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
    let server_path = "the server uses this path itself: expected another";
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
        ("/healthz", server_path.to_owned()),
        ("/readyz", server_path.to_owned()),
        ("/healthz/", server_path.to_owned()),
    ] {
        let error = format!("2: sources.a.path is \"{path}\": {expected}");
        check(&format!("[sources.a]\npath = '{path}'"), &[error.as_str()]);
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
        ("/a", "/a/"),
        ("/hooks/{a}/x/{b}", "/hooks/{c}/x/{d}"),
    ] {
        let found =
            Folder::new(&format!("[sources.a]\npath = '{a}'\n[sources.b]\npath = '{b}'")).errors();
        let place = "config.toml:2";
        let [error] = &found[..] else { panic!("{found:?}") };
        let start = format!("config.toml:4: sources.b.path is \"{b}\": sources.a has it already (");
        assert!(error.starts_with(&start) && error.contains(place), "{error}");
    }
    let token = "verify = { scheme = 'token', path_token = true, secret = { env = 'X' } }";
    let clash = format!("[sources.b]\npath = '/in/{{x}}'\n[sources.a]\npath = '/in'\n{token}");
    assert_eq!(Folder::new(&clash).errors().len(), 1);
    for (a, b) in [("/hooks/{a}", "/hooks/x"), ("/a", "/A"), ("/{a}", "/{a}/b")] {
        check(&format!("[sources.a]\npath = '{a}'\n[sources.b]\npath = '{b}'"), &[]);
    }
    check(
        "[sources.a]\n[sources.b]\npath = '/hooks/a'",
        &["3: sources.b.path is \"/hooks/a\": sources.a has it already (config.toml:1): expected \
             another path"],
    );
}

#[test]
fn invalid_keys_of_a_source_are_errors() {
    for (line, error) in [
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
            "allow_from is \"10.0.0.0/33\": expected a network such as \"10.0.0.0/8\" or \
             \"2001:db8::/32\"",
        ),
        (
            "respond = { status = 302 }",
            "respond.status is 302: expected a whole number from 200 to 299",
        ),
        (
            "respond = { status = 204, body = 'x' }",
            "respond has a body: a response of 204 can't have one",
        ),
        (
            r#"respond = { content_type = "a\r\nb" }"#,
            r#"respond.content_type is "a\r\nb": expected a header's value such as "text/plain""#,
        ),
        ("respond = { statu = 200 }", "respond.statu is unknown: did you mean status?"),
        (
            "dedupe = true",
            "dedupe is true: expected { header = \"X-Delivery\" }, { jq = \".id\" }, { body = true } \
             or false",
        ),
        (
            "dedupe = {}",
            "dedupe has no key to recognise a duplicate by: expected { header = \"X-Delivery\" }, \
             { jq = \".id\" }, { body = true } or false",
        ),
        (
            "dedupe = { header = 'X', body = true }",
            "dedupe has more than one key to recognise a duplicate by: expected header, jq or \
             body",
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
        check(&format!("{SOURCE}{line}"), &[&format!("2: sources.a.{error}")]);
    }
}

#[test]
fn invalid_keys_of_a_handler_are_errors() {
    let command =
        r#"expected a list of a program and its arguments such as ["handlers/crm.py", "--live"]"#;
    for (sources, run, error) in [
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
            "3: handlers.h.sources names \"zz\", which is not a source: expected \"a\" or \"hooktrail\"".into(),
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
        let error: String = error;
        check(&format!("{SOURCE}[handlers.h]\nsources = {sources}\ncommand = {run}"), &[&error]);
    }
    let no_sources = "handlers.h has no sources: expected a list of sources such as [\"paminga\"]";
    check("[handlers.h]\ncommand = ['true']", &[&format!("1: {no_sources}")]);
    for (env, error) in [
        (
            "X = 1",
            "env.X is a number: expected text, { env = \"NAME\" }, { file = \"path\" } or \
             { credential = \"name\" }",
        ),
        ("'A=B' = 'x'", "env.\"A=B\" is not a valid variable name: expected one without ="),
        (
            "HOOKTRAIL_IDEMPOTENCY_KEY = 'x'",
            "env.HOOKTRAIL_IDEMPOTENCY_KEY is set by the server: expected another name",
        ),
    ] {
        check(&handler(&format!("env = {{ {env} }}")), &[&format!("5: handlers.h.{error}")]);
    }
    check(&handler("env = { HOOKTRAIL_CONFIG = 'x' }"), &[]);
}
