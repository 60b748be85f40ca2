//! Tests of secrets: their references, their reading, and that nothing shows one.

use super::super::*;
use super::{Folder, check};

fn bearer(secret: &str) -> String {
    format!("[sources.a.verify]\nscheme = 'bearer'\nsecret = {secret}\n")
}

#[test]
fn a_secret_is_never_a_bare_text_and_is_not_shown() {
    let forms = r#"expected { env = "NAME" }, { file = "path" } or { credential = "name" }"#;
    let key = "3: sources.a.verify.secret";
    for (secret, error) in [
        ("'hush-hush'", format!(" is a bare text: {forms}")),
        ("['hush-hush']", format!(" is a bare text: {forms}")),
        ("8472", format!(" is a number: {forms}")),
        ("[]", format!(" is []: {forms}")),
        ("{}", format!(" is a table: {forms}")),
        ("{ env = 'A', file = 'b' }", format!(" is a table: {forms}")),
        ("{ fil = 'hush' }", ".fil is unknown: did you mean file?".to_owned()),
        ("{ value = 'hush' }", ".value is unknown: expected env, file or credential".to_owned()),
        ("{ env = '' }", format!(".env is a bare text: {forms}")),
        (
            "{ env = 'A=hush' }",
            ".env is a bare text: expected the name of an environment variable".into(),
        ),
        (
            "{ credential = '../x' }",
            ".credential is a bare text: expected the name of a credential, without a slash".into(),
        ),
    ] {
        check(&bearer(secret), &[&format!("{key}{error}")]);
    }
    check(
        "[sources.a]\nverify = 'hush-hush'",
        &["2: sources.a.verify is a bare text: expected a table such as { scheme = \"none\" }"],
    );
    let broken = Folder::new(&bearer("'hush-hush")).errors();
    assert!(!broken.is_empty() && !broken.iter().any(|error| error.contains("hush")), "{broken:?}");
}

#[test]
fn each_secret_has_its_location() {
    let folder = Folder::new(&bearer("[{ env = 'A' },\n { file = 'b' }, { credential = 'c' }]"));
    let loaded = folder.load();
    let found: Vec<_> =
        loaded.secrets.iter().map(|reference| (reference.line, &reference.secret)).collect();
    let expected = [
        (3, &SecretRef::Env("A".into())),
        (4, &SecretRef::File(folder.path().join("b"))),
        (4, &SecretRef::Credential("c".into())),
    ];
    assert_eq!(found, expected);
    assert!(loaded.secrets.iter().all(|reference| reference.key == "sources.a.verify.secret"));
}

#[test]
fn one_trailing_newline_is_no_part_of_a_secret() {
    for (file, secret) in [
        ("key", "key"),
        ("key\n", "key"),
        ("key\r\n", "key"),
        ("key\n\n", "key\n"),
        (" k\r", " k\r"),
    ] {
        let folder = Folder::new(&bearer("{ file = 'key' }")).write("key", file);
        let loaded = folder.load();
        let (secrets, errors) = read_secrets(&loaded);
        assert_eq!(errors, []);
        let found = secrets.resolve(&loaded.config.sources[0].verify.secret).next();
        assert_eq!(found, Some(secret.as_bytes()));
    }
}

#[test]
fn secrets_that_can_not_be_read_are_errors_with_their_line() {
    let text = bearer("[{ file = 'none' }, { env = 'HOOKTRAIL_TEST_UNSET' }, { file = 'empty' }]")
        + "[handlers.h]\nsources = ['a']\ncommand = ['true']\nenv = { K = { file = 'nul' } }";
    let folder = Folder::new(&text).write("empty", "\n").write("nul", "a\0b");
    let (_, errors) = read_secrets(&folder.load());
    let lines: Vec<String> = errors.iter().map(ConfigError::to_string).collect();
    let lines = folder.lines(lines.iter().map(String::as_str));
    let at = "config.toml:3: sources.a.verify.secret:";
    assert_eq!(
        lines,
        [
            format!(
                "{at} file none can't be read: No such file or directory (os error 2): it must \
                 exist and be readable"
            ),
            format!(
                "{at} environment variable HOOKTRAIL_TEST_UNSET is not set: set it where hooktrail \
                 is started"
            ),
            format!("{at} file empty is empty: put the secret there"),
            "config.toml:7: handlers.h.env.K: file nul has a NUL: expected text".to_owned(),
        ]
    );
}

#[test]
fn the_secrets_of_one_part_can_be_read_alone() {
    let text = bearer("{ file = 'none' }")
        + "[handlers.h]\nsources = ['a']\ncommand = ['true']\nenv = { K = { file = 'k' } }\n\
           [handlers.hh]\nsources = ['a']\ncommand = ['true']\nenv = { K = { file = 'none' } }";
    let folder = Folder::new(&text).write("k", "hush");
    let (secrets, errors) = read_secrets_under(&folder.load(), "handlers.h");
    assert_eq!(errors, []);
    assert_eq!(secrets.get(&SecretRef::File(folder.path().join("k"))), Some(&b"hush"[..]));
    assert_eq!(format!("{secrets:?}"), "Secrets(1 of them)");
}

#[test]
fn a_standard_key_has_24_to_64_bytes_and_is_not_shown() {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
    for length in [24, 25, 32, 64] {
        let key: Vec<u8> = (200..).take(length).map(|byte: usize| byte as u8).collect();
        let text = STANDARD.encode(&key);
        let bare = STANDARD_NO_PAD.encode(&key);
        for secret in [text.clone(), bare.clone(), format!("whsec_{text}"), format!("whsec_{bare}")]
        {
            assert_eq!(parse_shared_standard_key(secret.as_bytes()), Ok(key.clone()), "{secret}");
        }
    }
    // From the documentation of senders: the last letter has excess bits.
    assert!(parse_shared_standard_key(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").is_ok());
    assert!(parse_shared_standard_key(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwhR").is_ok());
    let remedy = "expected whsec_ and the base64 of 24 to 64 bytes";
    for (secret, error) in [
        ("whsec_".to_owned(), "is a key of 0 bytes"),
        (STANDARD.encode([7; 23]), "is a key of 23 bytes"),
        (STANDARD.encode([7; 65]), "is a key of 65 bytes"),
        ("whsec_hush-hush-hush-hush-hush-hush-hush".to_owned(), "is not base64"),
        (format!("{}\n", STANDARD.encode([7; 32])), "is not base64"),
        (format!("{}===", STANDARD_NO_PAD.encode([7; 25])), "is not base64"),
    ] {
        assert_eq!(parse_shared_standard_key(secret.as_bytes()), Err(format!("{error}: {remedy}")));
    }
}

/// A configuration with a `bearer`, a `basic` and a handler's variable that use the secret.
fn used_everywhere() -> String {
    bearer("{ file = 'key' }")
        + "[sources.b.verify]\nscheme = 'basic'\nuser = 'ada'\nsecret = { file = 'key' }\n\
           [handlers.h]\nsources = ['a']\ncommand = ['true']\nenv = { K = { file = 'key' } }\n"
}

#[test]
fn a_likely_mistake_in_a_secret_is_a_warning_that_does_not_show_it() {
    const SPACE: &str = "begins or ends with white space, which counts as part of it: only one \
        newline at the end does not";
    const QUOTES: &str = "is in quotes, which count as part of it: leave them out";
    const MARK: &str = "begins with a byte order mark, which counts as part of it: save it without";
    for (text, expected) in [
        ("hush hush", None),
        ("hush\n", None),
        ("hush\r\n", None),
        ("\"hush", None),
        ("'hush\"", None),
        ("\"", None),
        ("hush \n", Some(SPACE)),
        (" hush\n", Some(SPACE)),
        ("\thush", Some(SPACE)),
        ("hush\n\n", Some(SPACE)),
        ("\"hush\"\n", Some(QUOTES)),
        ("'hush'", Some(QUOTES)),
        ("`hush`", Some(QUOTES)),
        ("\u{feff}hush\n", Some(MARK)),
    ] {
        let folder = Folder::new(&used_everywhere()).write("key", text);
        let loaded = folder.load();
        let (secrets, errors) = read_secrets(&loaded);
        assert_eq!(errors, []);
        let warnings: Vec<String> =
            secret_warnings(&loaded, &secrets).iter().map(ConfigError::to_string).collect();
        assert!(!warnings.iter().any(|warning| warning.contains("hush")), "{warnings:?}");
        let found = folder.lines(warnings.iter().map(String::as_str));
        let expected: Vec<String> =
            ["3: sources.a.verify.secret", "7: sources.b.verify.secret", "11: handlers.h.env.K"]
                .iter()
                .flat_map(|place| {
                    expected.map(|reason| format!("config.toml:{place}: file key {reason}"))
                })
                .collect();
        assert_eq!(found, expected, "{text:?}");
    }
}

#[test]
fn a_bearer_token_excludes_the_word_bearer_and_other_headers_are_whole() {
    let header = "[handlers.u]\nsources = ['a']\nurl = 'https://a.example'\n\
                  headers = { Authorization = { file = 'key' } }\n";
    for (text, count) in [("Bearer hush", 1), ("bearer  hush", 1), ("bearerhush", 0), ("hush", 0)] {
        let folder = Folder::new(&(used_everywhere() + header)).write("key", text);
        let loaded = folder.load();
        let warnings = secret_warnings(&loaded, &read_secrets(&loaded).0);
        assert_eq!(warnings.len(), count, "{warnings:?}");
        let expected = "begins with \"Bearer\": expected what follows it in the header";
        assert!(warnings.iter().all(|error| error.text.ends_with(expected)), "{warnings:?}");
    }
}

#[test]
fn a_secret_no_server_could_use_is_an_error_and_one_only_the_unit_may_have_is_not() {
    let keys = "[sources.s.verify]\nscheme = 'standard'\nsecret = { file = 'short' }\n";
    let text = bearer(
        "[{ file = 'none' }, { file = 'empty' }, { env = 'HOOKTRAIL_TEST_UNSET' }, \
         { credential = 'unset' }, { file = 'key' }]",
    ) + keys;
    let folder = Folder::new(&text).write("empty", "\r\n").write("key", "hush");
    let folder = folder.write("short", "whsec_aHVzaA==");
    let (errors, elsewhere) = check_secrets(&folder.load());
    let texts = |all: &[ConfigError]| {
        all.iter().map(|error| error.text.clone()).collect::<Vec<_>>().join("\n")
    };
    let (errors, elsewhere) = (texts(&errors), texts(&elsewhere));
    for (text, all) in [
        ("none can't be read", &errors),
        ("empty is empty", &errors),
        ("is a key of 4 bytes", &errors),
        ("HOOKTRAIL_TEST_UNSET is not set", &elsewhere),
        ("credential unset needs CREDENTIALS_DIRECTORY", &elsewhere),
    ] {
        assert!(all.contains(text), "{text}: {all}");
    }
    assert_eq!((errors.lines().count(), elsewhere.lines().count()), (3, 2));
}
