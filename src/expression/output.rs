//! Converts the outputs of expressions for storage: bounded, and strictly JSON.

use std::fmt::{self, Write as _};
use std::io;

use jaq_core::Exn;
use jaq_json::Val;
use ring::digest::{SHA256, digest};

use super::inline::{InlineValue, NotInlineable};
use super::{EXPRESSION_KEYS, json};
use crate::domain::version_value::VersionValue;

/// Limit of the outputs of all expressions of one event together.
pub(super) const MAX_OUTPUT_BYTES: usize = 64 << 20;

/// Limit of the items of one `split`.
pub(super) const MAX_ITEMS: usize = 100_000;

/// A longer key is stored as its beginning and its hash. The response to a handshake is shorter.
const MAX_KEY_BYTES: usize = 2 << 10;

/// Limit of a reason, which may quote values of any size.
const MAX_REASON_BYTES: usize = 400;

/// A writer that fails when the output exceeds its limit.
pub(super) struct BoundedWriter<'a> {
    pub to: &'a mut Vec<u8>,
    pub bytes_left: &'a mut usize,
}

impl io::Write for BoundedWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes_left = self.bytes_left.checked_sub(bytes.len());
        *self.bytes_left = bytes_left.ok_or_else(|| io::Error::other(too_much_output()))?;
        self.to.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn too_much_output() -> String {
    "more than 64 MiB of output".to_owned()
}

/// The text of a key: text as it is, other values as JSON. Null, false and empty text are no key.
pub(super) fn key_text(value: &Val) -> Result<Option<String>, String> {
    let text = match value {
        Val::Null | Val::Bool(false) => return Ok(None),
        Val::TStr(text) => to_utf8(text)?,
        value => to_json(value)?,
    };
    Ok((!text.is_empty()).then(|| abbreviate(text)))
}

/// The value of `version_by`: a number or text, else none.
pub(super) fn version_value(value: &Val) -> Result<Option<VersionValue>, String> {
    Ok(Some(match value {
        Val::Num(_) => VersionValue::Number(check_length(to_json(value)?)?),
        Val::TStr(text) if !text.is_empty() => VersionValue::Text(check_length(to_utf8(text)?)?),
        _ => return Ok(None),
    }))
}

/// Like [`key_text`], for a result of an inline expression.
pub(super) fn inline_key_text(
    value: Option<InlineValue<'_>>,
) -> Result<Option<String>, NotInlineable> {
    let value = value.map_or(Ok(Val::Null), InlineValue::into_val)?;
    key_text(&value).map_err(|_| NotInlineable)
}

pub(super) fn inline_version_value(
    value: Option<InlineValue<'_>>,
) -> Result<Option<VersionValue>, NotInlineable> {
    match value {
        // Neither an array nor an object is a version, whatever it contains.
        Some(InlineValue::BodyArray | InlineValue::BodyObject) | None => Ok(None),
        Some(value) => version_value(&value.into_val()?).map_err(|_| NotInlineable),
    }
}

fn to_utf8(text: &[u8]) -> Result<String, String> {
    let error = |_| "its output is not JSON: text that is not UTF-8".to_owned();
    String::from_utf8(text.to_vec()).map_err(error)
}

fn to_json(value: &Val) -> Result<String, String> {
    let (mut to, mut bytes_left) = (Vec::new(), MAX_OUTPUT_BYTES);
    json::write(value, &mut BoundedWriter { to: &mut to, bytes_left: &mut bytes_left })
        .map_err(|e| e.to_string())?;
    to_utf8(&to)
}

fn abbreviate(text: String) -> String {
    if text.len() <= MAX_KEY_BYTES {
        return text;
    }
    let hash = hex::encode(digest(&SHA256, text.as_bytes()));
    format!("{}…{hash}", &text[..text.floor_char_boundary(64)])
}

/// Rejects a text that is too long. It can't be abbreviated, as it is compared byte by byte.
fn check_length(text: String) -> Result<String, String> {
    if text.len() > MAX_KEY_BYTES {
        return Err("longer than 2 KiB".to_owned());
    }
    Ok(text)
}

/// The reason why jaq gave no value. The argument of `error` is shown as it is.
pub(super) fn error_reason(exception: Exn<'_, Val>) -> String {
    let Ok(error) = exception.get_err() else {
        return "`break` leads out of the expression".to_owned();
    };
    let text = bounded_reason(&error);
    serde_json::from_str(&text).unwrap_or(text)
}

/// The beginning of a message.
pub(super) fn bounded_reason(message: &impl fmt::Display) -> String {
    struct BoundedText(String);
    impl fmt::Write for BoundedText {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let bytes_left = MAX_REASON_BYTES.saturating_sub(self.0.len());
            self.0.push_str(&text[..text.floor_char_boundary(bytes_left)]);
            if text.len() > bytes_left {
                self.0.push('…');
                return Err(fmt::Error);
            }
            Ok(())
        }
    }
    let mut text = BoundedText(String::new());
    let _ = write!(text, "{message}");
    text.0
}

/// The errors of key expressions: for each the first one, and how many there were.
#[derive(Default)]
pub(super) struct KeyErrors([Option<KeyError>; 4]);

/// The item's number, the reason, and how many errors there were.
type KeyError = (Option<usize>, String, usize);

impl KeyErrors {
    /// Records an error. `item`: its number, from 1.
    pub fn record(&mut self, index: usize, item: Option<usize>, reason: String) {
        let (_, _, count) = self.0[index].get_or_insert((item, reason, 0));
        *count += 1;
    }

    pub fn to_lines(&self) -> Vec<String> {
        let by_name = EXPRESSION_KEYS[2..].iter().zip(&self.0);
        let line = |(name, error): (&&str, &Option<KeyError>)| {
            let (item, reason, count) = error.as_ref()?;
            let item = item.map(|number| format!("item {number}: ")).unwrap_or_default();
            let more = if *count > 1 { format!(" ({} more)", count - 1) } else { String::new() };
            Some(format!("{name}: {item}{reason}{more}"))
        };
        by_name.filter_map(line).collect()
    }
}
