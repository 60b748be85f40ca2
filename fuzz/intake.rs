//! Makes a request from bytes and runs everything that intake does before it stores the event. Nothing may
//! panic, and inline evaluation has to give the same result twice.

use std::sync::LazyLock;

use hooktrail::internals::config::{self, Config, SecretRef, Secrets};
use hooktrail::internals::expression::{
    EventContext, ExpressionSet, HandlerExpressions, unsandboxed,
};
use hooktrail::internals::verify::{Scheme, SignedRequest};
use hooktrail::internals::{check_content_type, source_dedupe_key};

/// A source of each scheme, by name.
static SOURCES: LazyLock<(Config, Secrets)> = LazyLock::new(|| {
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let mut text = String::new();
    for scheme in Scheme::names() {
        let mut keys = String::new();
        if scheme != "none" {
            keys.push_str(", secret = { env = \"FUZZ\" }");
        }
        keys.push_str(match scheme {
            "token" => ", header = \"X-Token\"",
            "mailchimp" => ", query = \"key\"",
            "basic" => ", user = \"u\"",
            "hmac" => ", header = \"X-Sig\", timestamp_header = \"X-Time\", tolerance = \"5m\"",
            "meta" => ", verify_token = { env = \"FUZZ\" }",
            _ => "",
        });
        text += &format!("[sources.{scheme}]\nverify = {{ scheme = \"{scheme}\"{keys} }}\n");
    }
    let file = std::env::temp_dir().join(format!("hooktrail-fuzz-{}.toml", std::process::id()));
    std::fs::write(&file, text).expect("the temporary folder is writable");
    let loaded = config::load(&file).expect("the configuration has no errors");
    let _ = std::fs::remove_file(&file);
    let mut secrets = Secrets::default();
    secrets.insert(SecretRef::Env("FUZZ".to_owned()), secret.as_bytes().to_vec());
    (loaded.config, secrets)
});

static EXPRESSIONS: LazyLock<ExpressionSet> = LazyLock::new(|| {
    let expression = |text: &str| hooktrail::internals::expression::Expression::new(text).ok();
    let handler = HandlerExpressions {
        when: expression(r#".a? != null or .b.c < 7 or $headers["x-a"] == "1" or $query.q"#),
        ordering_key: expression(".id // .data.id"),
        version_by: expression(".at"),
        ..HandlerExpressions::default()
    };
    ExpressionSet::new(expression("[.id, .b]"), vec![handler])
});

const TYPES: [&str; 6] = [
    "application/json",
    "application/x-www-form-urlencoded; charset=utf-8",
    "multipart/form-data; boundary=x",
    "text/plain",
    "application/vnd.api+json",
    "",
];

/// The first byte selects the scheme and the content type. Header lines, an empty line and the body follow.
pub fn intake(data: &[u8]) {
    let Some((&selector, rest)) = data.split_first() else { return };
    let end = rest.windows(2).position(|two| two == b"\n\n").unwrap_or(0);
    let (head, body) = (&rest[..end], rest.get(end + 2..).unwrap_or(rest));
    let mut headers: Vec<(&str, &[u8])> = Vec::new();
    for line in head.split(|&byte| byte == b'\n').take(64) {
        let at = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
        if let Ok(name) = std::str::from_utf8(&line[..at]) {
            headers.push((name, line.get(at + 1..).unwrap_or_default()));
        }
    }
    let content_type = TYPES[usize::from(selector) % TYPES.len()];
    let query = headers.first().and_then(|(_, value)| std::str::from_utf8(value).ok());
    let (config, secrets) = &*SOURCES;
    let source = &config.sources[usize::from(selector) % config.sources.len()];
    let verifier = source.verifier(secrets);
    let request = SignedRequest {
        method: "POST",
        path: "/hooks/a/segment",
        query,
        headers: &headers,
        body,
        secret_segment: None,
        trusted_proxy_header: None,
    };
    let _ = verifier.check(&request, 1_795_000_000_000);
    if let Some(preset) = verifier.handshakes() {
        let _ = preset.detect(&request, false);
        let _ = preset.detect(&request, true);
    }
    let _ = verifier.success_response(body);
    let _ = source_dedupe_key(source, &headers, body);
    for accept in [config::Accept::Json, config::Accept::Form] {
        let _ = check_content_type(accept, Some(content_type), body);
    }
    let context = EventContext {
        body,
        content_type: Some(content_type),
        source: "a",
        headers: &headers,
        query,
        path: "/hooks/a",
        ..EventContext::default()
    };
    unsandboxed::read_body(&context);
    let first_result = format!("{:?}", EXPRESSIONS.evaluate_inline(&context));
    assert_eq!(first_result, format!("{:?}", EXPRESSIONS.evaluate_inline(&context)));
}
