//! What an expression gives, as it is kept: bounded, and nothing but JSON.

use std::fmt::{self, Write as _};
use std::io;

use jaq_core::Exn;
use jaq_json::Val;
use ring::digest::{SHA256, digest};

use super::inline::{InlineValue, NotInlineable};
use super::json;
use super::request::EXPRESSION_KEYS;
use crate::domain::version_value::VersionValue;

/// Of the expressions of one event together.
pub(super) const OUTPUT_BYTES_MAX: usize = 64 << 20;

/// Of one `split`.
pub(super) const ITEMS_MAX: usize = 100_000;

/// A longer key is known by its beginning and its hash. What answers a handshake is shorter.
const KEY_BYTES_MAX: usize = 2 << 10;

/// A reason names values, which may be of any size.
const REASON_BYTES_MAX: usize = 400;

/// Texts, one after another.
#[derive(Debug, Default)]
pub(super) struct PackedStrings {
    pub bytes: Vec<u8>,
    pub ends: Vec<u32>,
}

impl PackedStrings {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// What was added to `bytes` is one text; how long it is.
    pub fn end(&mut self) -> usize {
        let start = self.ends.last().copied().unwrap_or(0);
        let end = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.ends.push(end);
        (end - start) as usize
    }
}

/// What a handler makes of an event.
#[derive(Debug)]
pub(super) enum HandlerResult {
    Skip,
    /// `which`: in `KINDS`.
    Failed {
        which: u8,
        reason: String,
    },
    Run(HandlerOutput),
}

#[derive(Debug)]
pub(super) struct HandlerOutput {
    pub items: Option<PackedStrings>,
    /// One for each item, without `split` one.
    pub keys: Option<PackedStrings>,
    pub faults: Vec<String>,
}

/// Takes so much and no more.
pub(super) struct BoundedWriter<'a> {
    pub to: &'a mut Vec<u8>,
    pub left: &'a mut usize,
}

impl io::Write for BoundedWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.left.checked_sub(bytes.len());
        *self.left = left.ok_or_else(|| io::Error::other(too_much()))?;
        self.to.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn too_much() -> String {
    "more than 64 MiB of output".to_owned()
}

/// A key: text as it is, anything else as JSON; null, false and empty text are none.
pub(super) fn key_text(value: &Val) -> Result<Option<String>, String> {
    let text = match value {
        Val::Null | Val::Bool(false) => return Ok(None),
        Val::TStr(text) => utf8(text)?,
        value => written(value)?,
    };
    Ok((!text.is_empty()).then(|| abbreviate(text)))
}

/// What `version_by` gives: a number or text, else nothing.
pub(super) fn version_value(value: &Val) -> Result<Option<VersionValue>, String> {
    Ok(Some(match value {
        Val::Num(_) => VersionValue::Number(check_length(written(value)?)?),
        Val::TStr(text) if !text.is_empty() => VersionValue::Text(check_length(utf8(text)?)?),
        _ => return Ok(None),
    }))
}

/// The same for what was evaluated in place.
pub(super) fn simple_text(value: Option<InlineValue<'_>>) -> Result<Option<String>, NotInlineable> {
    let value = value.map_or(Ok(Val::Null), InlineValue::into_val)?;
    key_text(&value).map_err(|_| NotInlineable)
}

pub(super) fn simple_stamp(
    value: Option<InlineValue<'_>>,
) -> Result<Option<VersionValue>, NotInlineable> {
    match value {
        // Neither an array nor an object is one, whatever is in it.
        Some(InlineValue::BodyArray | InlineValue::BodyObject) | None => Ok(None),
        Some(value) => version_value(&value.into_val()?).map_err(|_| NotInlineable),
    }
}

fn utf8(text: &[u8]) -> Result<String, String> {
    let wrong = |_| "its output is not JSON: text that is not UTF-8".to_owned();
    String::from_utf8(text.to_vec()).map_err(wrong)
}

fn written(value: &Val) -> Result<String, String> {
    let (mut to, mut left) = (Vec::new(), OUTPUT_BYTES_MAX);
    json::write(value, &mut BoundedWriter { to: &mut to, left: &mut left })
        .map_err(|e| e.to_string())?;
    utf8(&to)
}

fn abbreviate(text: String) -> String {
    if text.len() <= KEY_BYTES_MAX {
        return text;
    }
    let hash = hex::encode(digest(&SHA256, text.as_bytes()));
    format!("{}…{hash}", &text[..text.floor_char_boundary(64)])
}

/// It is compared by its bytes, so that no other can stand for it.
fn check_length(text: String) -> Result<String, String> {
    if text.len() > KEY_BYTES_MAX {
        return Err("longer than 2 KiB".to_owned());
    }
    Ok(text)
}

/// Why jaq gave no value. What `error` was given is shown as it is.
pub(super) fn fault(exception: Exn<'_, Val>) -> String {
    let Ok(error) = exception.get_err() else { return "it left what is not there".to_owned() };
    let text = reason(&error);
    serde_json::from_str(&text).unwrap_or(text)
}

/// The beginning of what is said.
pub(super) fn reason(what: &impl fmt::Display) -> String {
    struct Beginning(String);
    impl fmt::Write for Beginning {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let left = REASON_BYTES_MAX.saturating_sub(self.0.len());
            self.0.push_str(&text[..text.floor_char_boundary(left)]);
            if text.len() > left {
                self.0.push('…');
                return Err(fmt::Error);
            }
            Ok(())
        }
    }
    let mut beginning = Beginning(String::new());
    let _ = write!(beginning, "{what}");
    beginning.0
}

/// Why keys could not be had: for each `…_by` the first reason, and how many there were.
#[derive(Default)]
pub(super) struct KeyErrors([Option<KeyError>; 4]);

/// The item's number, the reason, how many there were.
type KeyError = (Option<usize>, String, usize);

impl KeyErrors {
    /// `item`: its number, from 1.
    pub fn note(&mut self, kind: usize, item: Option<usize>, reason: String) {
        let (_, _, count) = self.0[kind].get_or_insert((item, reason, 0));
        *count += 1;
    }

    pub fn lines(&self) -> Vec<String> {
        let named = EXPRESSION_KEYS[2..].iter().zip(&self.0);
        let line = |(name, fault): (&&str, &Option<KeyError>)| {
            let (item, reason, count) = fault.as_ref()?;
            let item = item.map(|number| format!("item {number}: ")).unwrap_or_default();
            let more = if *count > 1 { format!(" ({} more)", count - 1) } else { String::new() };
            Some(format!("{name}: {item}{reason}{more}"))
        };
        named.filter_map(line).collect()
    }
}
