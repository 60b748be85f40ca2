//! Reads `redact` of a source, and checks that it leaves the keys by which duplicates are recognised.

use super::parse;
use super::toml_reader::{TomlTable, TomlValue};
use super::{Dedupe, DedupeSelector, RedactSettings, Source};
use crate::body_redaction::{BodyRedaction, RedactPath};
use crate::verify::{SchemeSettings, SignedRequest, Verifier};

const REDACT_EXPECTED: &str =
    r#"expected a table such as { headers = ["X-Card"], paths = [".card.number"] }"#;
const HEADERS_EXPECTED: &str = r#"expected a list of headers such as ["X-Card"]"#;
const PATHS_EXPECTED: &str = r#"expected a list of paths such as [".card.number"]"#;

/// Each value of a body may be compared with each path.
const MAX_PATHS: usize = 100;

pub(super) fn read_redact(table: &TomlTable<'_>) -> RedactSettings {
    let redact = table.get("redact").and_then(|value| value.table(REDACT_EXPECTED));
    let Some(table) = redact else { return RedactSettings::default() };
    let header = |text: &str| match parse::parse_header_name(text)? {
        name if name == "content-type" => {
            Err("the body is read by this header: expected another".to_owned())
        }
        name => Ok(name),
    };
    let headers = table.texts("headers", HEADERS_EXPECTED, header);
    let paths = table.texts("paths", PATHS_EXPECTED, RedactPath::parse);
    if headers.is_none() && paths.is_none() {
        table.error(format!("has neither headers nor paths: {REDACT_EXPECTED}"));
    }
    if let (Some(paths), Some(value)) = (&paths, table.get("paths"))
        && paths.len() > MAX_PATHS
    {
        value.error(format!("has {} paths: expected at most {MAX_PATHS}", paths.len()));
    }
    table.reject_unknown();
    RedactSettings {
        headers: headers.unwrap_or_default(),
        body: BodyRedaction::new(paths.unwrap_or_default()),
    }
}

/// Rejects what would leave only `[redacted]` of a key: all events would be duplicates of the first.
pub(super) fn check_keys(table: &TomlTable<'_>, source: &Source) {
    let Some(value) = table.get("redact") else { return };
    if let Some(reason) = find_redacted_key(source) {
        value.error(format!(
            "{reason}: all events would be duplicates of the first: expected other values to \
             redact, or another dedupe"
        ));
    }
    check_preset_key(&value, source);
}

/// Returns how the values to redact include the source's own key.
fn find_redacted_key(source: &Source) -> Option<String> {
    let Dedupe::Key(key) = &source.dedupe else { return None };
    let RedactSettings { headers, body } = &source.redact;
    match key {
        DedupeSelector::Header(name) => {
            let is_redacted = headers.contains(name);
            is_redacted.then(|| format!("names the header {name:?}, by which dedupe recognises"))
        }
        DedupeSelector::Body => None,
        DedupeSelector::Jq(expression) => {
            let text = expression.text();
            let path = RedactPath::parse(text.trim()).ok();
            let is_key = |redacted: &&RedactPath| {
                path.as_ref().is_some_and(|path| redacted.may_overlap(path))
            };
            let is_key_header =
                |name: &&String| text.contains("$headers") && text.contains(name.as_str());
            if let Some(redacted) = body.paths().iter().find(is_key) {
                return Some(format!("has the path {:?}, which dedupe reads", redacted.text()));
            }
            let name = headers.iter().find(is_key_header)?;
            Some(format!("names the header {name:?}, which dedupe reads"))
        }
    }
}

/// Rejects a redacted delivery key of the sender, if the source uses it.
fn check_preset_key(value: &TomlValue<'_>, source: &Source) {
    let Some(preset) = source.verify.scheme.preset() else { return };
    if source.delivery_key_window().is_none() {
        return;
    }
    let name = preset.name;
    let RedactSettings { headers, body } = &source.redact;
    if let Some(header) = preset.key_headers().iter().find(|key| headers.iter().any(|h| h == *key))
    {
        value.error(format!(
            "names the header {header:?}: it has the key by which {name} marks a delivery: expected \
             another"
        ));
    }
    // The scheme reads the key of the body, which needs no secret.
    let verifier = Verifier::new(&source.verify.scheme, &SchemeSettings::default());
    let content_type = if preset.posts_forms { "application/x-www-form-urlencoded" } else { "" };
    let read_key = |body: &[u8]| verifier.key_in_body(&SignedRequest::from_body(body));
    let read_redacted_key = |text: &[u8]| {
        let redacted = body.redact(Some(content_type), text).ok()?;
        read_key(redacted.as_deref().unwrap_or(text))
    };
    let sample = |id: &str| preset.sample_body.replace("{id}", id).into_bytes();
    let first = sample("1");
    // A blank changes a key that is made of all bytes. Such a body has other values too.
    let is_id = read_key(&first) == read_key(&[&first[..], b" "].concat());
    let first_key = read_redacted_key(&first);
    let has_collision = first_key.is_some() && first_key == read_redacted_key(&sample("2"));
    if !body.is_empty() && is_id && has_collision {
        value.error(format!(
            "has a path to the key by which {name} marks a delivery: expected other paths"
        ));
    }
}
