//! Tests of warnings about values that are valid but may do harm.

use std::os::unix::fs::PermissionsExt;

use super::Folder;

#[track_caller]
fn check(config: &str, warnings: &[&str]) {
    assert_eq!(Folder::new(config).warnings(), warnings, "\n{config}");
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
    let text = "config.toml:5: handlers.h.command ends with \"hooks/a.sh\", which does not exist: \
                expected a script";
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
    ];
    for (line, warning) in cases {
        check(&hmac(line), &[&format!("{key}{warning}")]);
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
