//! Tests of warnings about values that are valid but may do harm.

use std::os::unix::fs::PermissionsExt;

use super::{Folder, complete};

#[track_caller]
fn check(config: &str, warnings: &[&str]) {
    assert_eq!(Folder::new(&complete(config)).warnings(), warnings, "\n{config}");
}

#[test]
fn an_open_source_on_a_listener_beyond_loopback_is_a_warning() {
    let open = |line: usize| {
        format!(
            "config.toml:{line}: sources.a.verify is none: anybody who reaches server.listen can \
             send events: set a scheme with a secret"
        )
    };
    let signed = "verify = { scheme = 'bearer', secret = { env = 'S' } }";
    for (listen, source, warned) in [
        ("0.0.0.0:80", "", Some(3)),
        ("[::]:80", "\nverify = { scheme = 'none' }", Some(5)),
        ("192.0.2.1:80", "", Some(3)),
        ("192.0.2.1:80", signed, None),
        ("127.8.8.8:80", "", None),
        ("[::1]:80", "", None),
        ("unix:/run/x.sock", "", None),
    ] {
        let config = format!("[server]\nlisten = ['{listen}']\n[sources.a]\n{source}");
        let warned: Vec<String> = warned.into_iter().map(open).collect();
        check(&config, &warned.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn less_than_full_durability_is_a_warning() {
    check(
        "[store]\ndurability = 'normal'",
        &["config.toml:2: store.durability is \"normal\": a power cut may lose the newest events"],
    );
}

#[test]
fn a_cgi_script_that_is_not_there_is_a_warning() {
    let handler = "[sources.a]\n[handlers.h]\nsources = ['a']\nmode = 'cgi'\n\
                   command = ['sh', '-e', 'hooks/a.sh']";
    let folder = Folder::new(handler);
    let text = "config.toml:5: handlers.h.command names the script \"hooks/a.sh\", which does not exist: \
                its path is relative to handlers.h.directory";
    assert_eq!(folder.warnings(), [text]);
    std::fs::create_dir(folder.path().join("hooks")).unwrap();
    assert_eq!(folder.write("hooks/a.sh", "").warnings(), Vec::<String>::new());
    check(&handler.replace("'sh', '-e', 'hooks/a.sh'", "'sh'"), &[]);
    check(&handler.replace("'cgi'", "'each'"), &[]);
}

#[test]
fn a_handler_that_could_not_start_is_a_warning() {
    let handler = |rest: &str| format!("[sources.a]\n[handlers.h]\nsources = ['a']\n{rest}");
    let folder = Folder::new(&handler("command = ['./crm.py']")).write("crm.py", "#!/bin/sh\n");
    let program = folder.path().join("crm.py");
    let warned = |reason: &str| {
        let found = folder.warnings();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("config.toml:4: handlers.h.command names"), "{found:?}");
        assert!(found[0].contains(reason), "{found:?}");
    };
    warned("crm.py\", which is not executable: chmod +x crm.py");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(folder.warnings(), Vec::<String>::new());
    std::fs::remove_file(&program).unwrap();
    std::fs::create_dir(&program).unwrap();
    warned("crm.py\", which is a folder: expected a program");
    std::fs::remove_dir(&program).unwrap();
    warned("crm.py\", which does not exist: expected a program");

    check(&handler("command = ['sh']"), &[]);
    check(
        &handler("command = ['no-such-program']"),
        &["config.toml:4: handlers.h.command names \"no-such-program\", which is not in PATH: \
           install it, or write its path with a slash"],
    );
    check(
        &handler("command = ['sh']\nenv = { PATH = '/nowhere' }"),
        &["config.toml:4: handlers.h.command names \"sh\", which is not in PATH: install it, or \
           write its path with a slash"],
    );
    check(
        &handler("command = ['sh']\ndirectory = 'none'"),
        &["config.toml:5: handlers.h.directory is \"none\": no such folder"],
    );
}

/// Checks the warning about a handler whose command is `program`, after the quoted program.
#[track_caller]
fn check_program(folder: &Folder, program: &str, expected: Option<&str>) {
    let text = format!("[sources.a]\n[handlers.h]\nsources = ['a']\ncommand = ['{program}']\n");
    std::fs::write(folder.file(), text).unwrap();
    let found = folder.warnings();
    let found: Vec<_> = found
        .iter()
        .map(|line| line.strip_prefix("config.toml:4: handlers.h.command names ").unwrap())
        .map(|text| text.split_once("\", which ").unwrap().1)
        .collect();
    assert_eq!(found, expected.as_slice(), "{program}");
}

#[test]
fn a_script_that_the_system_can_not_start_is_a_warning() {
    for (text, expected) in [
        ("#!/bin/sh\n", None),
        ("#! /bin/sh -e\n", None),
        ("#!/usr/bin/env sh\n", None),
        ("#!/usr/bin/env -S sh -e\n", None),
        ("#!/usr/bin/env -S NAME=x sh\n", None),
        ("#!/usr/bin/env NAME=x\n", None),
        ("\u{7f}ELF\0", None),
        (
            "#!/opt/missing -e\nx",
            Some(
                "has the first line #!/opt/missing -e, and \"/opt/missing\" is not a program here: \
                 install it, or correct the line",
            ),
        ),
        (
            "#!/usr/bin/env no-such-program\n",
            Some(
                "has the first line #!/usr/bin/env no-such-program, and \"no-such-program\" is not in \
                 PATH: install it, or write its path with a slash",
            ),
        ),
        (
            "#!/usr/bin/env bsh\n",
            Some(
                "has the first line #!/usr/bin/env bsh, and \"bsh\" is not in PATH: did you mean \
                 \"bash\"?",
            ),
        ),
        (
            "#!/usr/bin/env sh -e\n",
            Some(
                "has the first line #!/usr/bin/env sh -e, and env takes one word there: expected \
                 #!/usr/bin/env -S sh -e",
            ),
        ),
        (
            "#!/bin/sh\r\ntrue\r\n",
            Some(
                "has lines that end in CR LF, so its interpreter is not found: sed -i 's/\\r$//' \
                 ./a.py",
            ),
        ),
        (
            "\u{feff}#!/bin/sh\n",
            Some("has a byte order mark before its #!: sed -i '1s/^\\xEF\\xBB\\xBF//' ./a.py"),
        ),
        ("#!\n", Some("has #! without an interpreter as its first line: add one")),
        ("", Some("has no first line such as #!/bin/sh: add #!/usr/bin/env python3")),
        ("import os\n", Some("has no first line such as #!/bin/sh: add #!/usr/bin/env python3")),
    ] {
        let folder = Folder::new("").write("a.py", text);
        let program = folder.path().join("a.py");
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let expected = expected.map(|text| text.replace("./a.py", "a.py"));
        check_program(&folder, "./a.py", expected.as_deref());
    }
}

#[test]
fn a_program_that_is_not_in_path_has_a_remedy() {
    let folder = Folder::new("").write("crm.py", "#!/bin/sh\n");
    for (program, expected) in [
        ("crm.py", "is not in PATH: write \"./crm.py\" for the file beside config.toml"),
        (
            "curl -X POST",
            "is not in PATH: write the program and each of its arguments as a separate text",
        ),
        ("bahs", "is not in PATH: did you mean \"bash\"?"),
    ] {
        check_program(&folder, program, Some(expected));
    }
    let handler = |rest: &str| format!("[sources.a]\n[handlers.h]\nsources = ['a']\n{rest}");
    check(
        &handler("command = ['php-cgi', 'config.toml']\nenv = { PATH = '/nowhere' }"),
        &["config.toml:4: handlers.h.command names \"php-cgi\", which is not in PATH: install it \
           (Debian: apt install php-cgi), or write its path with a slash"],
    );
}

#[test]
fn a_missing_script_of_an_interpreter_is_a_warning() {
    let handler = |command: &str| {
        format!("[sources.a]\n[handlers.h]\nsources = ['a']\ncommand = {command}\n")
    };
    for script in ["['sh', '-c', 'true']", "['sh']", "['sh', 'config.toml']", "['cat', 'none']"] {
        check(&handler(script), &[]);
    }
    check(
        &handler("['sh', 'none.sh', 'x']"),
        &[
            "config.toml:4: handlers.h.command names the script \"none.sh\", which does not exist: its \
           path is relative to handlers.h.directory",
        ],
    );
}

#[test]
fn a_source_without_a_handler_is_a_warning() {
    let unused = "config.toml:1: sources.a has no handler: its events are stored, and nothing runs for \
                  them: name it in the sources of a handler";
    let handler = |source: &str| {
        format!("[sources.a]\n[handlers.h]\nsources = ['{source}']\ncommand = ['true']")
    };
    check(&handler("hooktrail"), &[unused]);
    check(&handler("a"), &[]);
}

#[test]
fn a_folder_that_can_not_be_written_to_is_a_warning() {
    let folder = Folder::new("");
    let closed = folder.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o555)).unwrap();
    let config =
        "[sources.a]\n[handlers.h]\nsources = ['a']\ncommand = ['sh']\ndirectory = 'closed'";
    std::fs::write(folder.file(), config).unwrap();
    // Root may write to every folder.
    if !rustix::process::geteuid().is_root() {
        let found = folder.warnings();
        let [warning] = &found[..] else { panic!("{found:?}") };
        assert!(warning.starts_with("config.toml:5: handlers.h.directory is "), "{warning}");
        assert!(
            warning.ends_with("where this user can't write: a command that writes there fails")
        );
    }
}

#[test]
fn a_handler_with_more_concurrency_than_threads_is_a_warning() {
    let handler = |name: &str, concurrency: usize| {
        format!(
            "[handlers.{name}]\nsources = ['a']\ncommand = ['sh']\nconcurrency = {concurrency}\n"
        )
    };
    let rest = "no more than 4 jobs run at once: raise workers.threads or lower the concurrency";
    let (two, five) = (handler("b", 2), handler("c", 5));
    check(
        &format!("[sources.a]\n[workers]\nthreads = 4\n{two}{five}"),
        &[&format!("config.toml:3: workers.threads is 4, and handlers.c.concurrency is 5: {rest}")],
    );
    check(&format!("[sources.a]\n[workers]\nthreads = 5\n{two}{five}"), &[]);
    let six: String = ["b", "c", "d", "e", "f", "g"].map(|name| handler(name, 4)).concat();
    check(&format!("[sources.a]\n{six}"), &[]);
}

#[test]
fn a_signature_that_covers_too_little_is_a_warning() {
    let hmac = |rest: &str| {
        format!(
            "[sources.a]\n[sources.a.verify]\nscheme = 'hmac'\nheader = 'X'\nsecret = {{ env = 'S' \
             }}\n{rest}"
        )
    };
    let key = "config.toml:6: sources.a.verify";
    let cases = [
        ("tolerance = '5m'", ".tolerance has no effect: there is no time stamp"),
        ("timestamp_header = 'T'", ".timestamp_header is not signed: {timestamp} is not in signed"),
        ("id_header = 'I'", ".id_header is not signed: {id} is not in signed"),
        ("signed = '{url}'", ".signed has no {body}: the signature does not cover the body"),
        (
            "signed = '{id}{body}'\nid_header = 'I'",
            ".signed has {id}{body} without a text between them: a captured signature is valid for any \
             other division of the same bytes: expected a text between them, if the sender signs one",
        ),
    ];
    for (line, warning) in cases {
        check(&hmac(line), &[&format!("{key}{warning}")]);
    }
    for line in [
        "signed = '{method}{url} {body}'",
        "signed = '{timestamp}{body}'\ntimestamp_header = 'T'",
        "signed = '{body}{timestamp}'\ntimestamp_header = 'T'",
    ] {
        check(&hmac(line), &[]);
    }
}

#[test]
fn an_unknown_placeholder_in_a_url_is_a_warning() {
    let square = |path: &str, url: &str| {
        format!(
            "[sources.a]\npath = '{path}'\n[sources.a.verify]\nscheme = 'square'\nsecret = {{ env = \
             'S' }}\nurl = '{url}'"
        )
    };
    check(&square("/shops/{shop}", "https://h.example/shops/{shop}"), &[]);
    check(
        &square("/shops/{shop}", "https://h.example/shops/{name}"),
        &["config.toml:6: sources.a.verify.url has {name}, which the source's path does not \
             have: the URL is used as written"],
    );
    check(
        "[sources.a]\n[handlers.h]\nsources = ['a']\nurl = 'https://h.example/{id}/x'",
        &["config.toml:4: handlers.h.url has {id}: a handler's URL has no placeholders, it is \
             called as written"],
    );
}
