//! Converts JSON to jaq's values and back: to a depth of 128, with every digit of a number, and
//! strictly JSON.
//!
//! serde_json parses it. Its feature `arbitrary_precision` would slow down everything else here
//! that reads JSON, and without it serde_json rounds fractions. So a text with a fraction is parsed
//! again, level by level, as raw values, which keep their digits. jaq's own parser has no limit of
//! depth.

use std::fmt;
use std::io;

use jaq_core::ValT;
use jaq_json::{Map, Num, Rc, Val};
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::json::{MAX_DEPTH, depth};

/// Outputs may nest deeper than input; beyond this the stack would overflow.
const MAX_WRITTEN_DEPTH: usize = 10_000;

/// Longer whole numbers stay text: jaq's time for them is quadratic in their length.
const MAX_WHOLE_DIGITS: usize = 1000;

/// Why a text is not JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JsonError {
    TooDeep,
    Other(String),
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooDeep => write!(f, "nested deeper than {MAX_DEPTH}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// Parses JSON.
///
/// # Errors
/// The text is not JSON, has a lone surrogate, or is nested too deep.
pub(super) fn read(text: &[u8]) -> Result<Val, JsonError> {
    let text =
        std::str::from_utf8(text).map_err(|_| JsonError::Other("it is not UTF-8".to_owned()))?;
    let mut json = serde_json::Deserializer::from_str(text);
    let without_fractions =
        ValueVisitor.deserialize(&mut json).and_then(|value| json.end().map(|()| value));
    without_fractions.or_else(|_| read_by_level(text))
}

fn read_by_level(text: &str) -> Result<Val, JsonError> {
    let parsed = serde_json::from_str::<IgnoredAny>(text);
    let length = parsed.as_ref().err().map_or(text.len(), |e| error_offset(text, e));
    if depth(&text.as_bytes()[..length]) > MAX_DEPTH {
        return Err(JsonError::TooDeep);
    }
    let raw = parsed.and_then(|_| serde_json::from_str(text));
    raw.and_then(read_raw).map_err(|e| JsonError::Other(e.to_string()))
}

/// The offset of a syntax error in bytes.
fn error_offset(text: &str, error: &serde_json::Error) -> usize {
    let lines = text.split_inclusive('\n').take(error.line().saturating_sub(1));
    let start: usize = lines.map(str::len).sum();
    (start + error.column()).min(text.len())
}

/// Converts a raw value whose depth is already checked.
fn read_raw(raw: &RawValue) -> serde_json::Result<Val> {
    let text = raw.get();
    Ok(match text.as_bytes().first() {
        Some(b'[') => {
            let all: Vec<&RawValue> = serde_json::from_str(text)?;
            all.into_iter().map(read_raw).collect::<Result<_, _>>()?
        }
        Some(b'{') => {
            let Members(all) = serde_json::from_str(text)?;
            let all = all.into_iter().map(|(key, value)| Ok((key, read_raw(value)?)));
            Val::obj(all.collect::<serde_json::Result<Map>>()?)
        }
        Some(b'-' | b'0'..=b'9') => parse_number(text),
        _ => ValueVisitor.deserialize(&mut serde_json::Deserializer::from_str(text))?,
    })
}

/// The members of an object in their order, including repeated names.
struct Members<'a>(Vec<(Val, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, _>()? {
                    all.push((Val::from(key), value));
                }
                Ok(Members(all))
            }
        }
        json.deserialize_map(MembersVisitor)
    }
}

/// Converts a JSON number.
pub(super) fn parse_number(digits: &str) -> Val {
    let is_whole = !digits.contains(['.', 'e', 'E']);
    // jaq's integers have no -0.
    if is_whole && digits != "-0" && digits.len() <= MAX_WHOLE_DIGITS {
        return Val::from_num(digits).unwrap_or_default();
    }
    Val::Num(Num::Dec(Rc::new(digits.to_owned())))
}

/// Builds values and gives up at a fraction.
#[derive(Clone, Copy)]
struct ValueVisitor;

impl<'de> DeserializeSeed<'de> for ValueVisitor {
    type Value = Val;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Val, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Val;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Val, E> {
        Ok(Val::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Val, E> {
        Ok(Val::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Val, E> {
        Ok(Val::Num(Num::from_integral(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Val, E> {
        Ok(Val::Num(Num::from_integral(value)))
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Val, E> {
        Err(E::custom("a fraction"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Val, E> {
        Ok(Val::utf8_str(value.as_bytes().to_vec()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Val, A::Error> {
        let mut all = Vec::new();
        while let Some(value) = seq.next_element_seed(self)? {
            all.push(value);
        }
        Ok(all.into_iter().collect())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Val, A::Error> {
        let mut all = Map::default();
        while let Some(key) = map.next_key_seed(self)? {
            all.insert(key, map.next_value_seed(self)?);
        }
        Ok(Val::obj(all))
    }
}

/// Writes a value as JSON. After an error, the bytes written so far are useless.
///
/// # Errors
/// The value has no JSON form, or `to` takes no more.
pub(super) fn write(value: &Val, to: &mut dyn io::Write) -> io::Result<()> {
    write_at(value, to, 0)
}

fn write_at(value: &Val, to: &mut dyn io::Write, depth: usize) -> io::Result<()> {
    let not_json = |what: &str| Err(io::Error::other(format!("its output is not JSON: {what}")));
    if depth > MAX_WRITTEN_DEPTH {
        return Err(io::Error::other("its output is nested too deep"));
    }
    match value {
        Val::Null => to.write_all(b"null"),
        Val::Bool(value) => write!(to, "{value}"),
        Val::Num(Num::Float(value)) if value.is_nan() => not_json("NaN"),
        Val::Num(Num::Float(value)) if value.is_infinite() => not_json("infinity"),
        Val::Num(number) => write!(to, "{number}"),
        Val::BStr(_) => not_json("bytes"),
        Val::TStr(text) => match std::str::from_utf8(text) {
            Ok(text) => serde_json::to_writer(to, text).map_err(io::Error::from),
            Err(_) => not_json("text that is not UTF-8"),
        },
        Val::Arr(all) => {
            let mut open = "[";
            for value in all.iter() {
                to.write_all(open.as_bytes())?;
                write_at(value, to, depth + 1)?;
                open = ",";
            }
            to.write_all(if all.is_empty() { b"[]" } else { b"]" })
        }
        Val::Obj(all) => {
            let mut open = "{";
            for (key, value) in all.iter() {
                if !matches!(key, Val::TStr(_)) {
                    return not_json("a key that is not text");
                }
                to.write_all(open.as_bytes())?;
                write_at(key, to, depth + 1)?;
                to.write_all(b":")?;
                write_at(value, to, depth + 1)?;
                open = ",";
            }
            to.write_all(if all.is_empty() { b"{}" } else { b"}" })
        }
    }
}
