//! Reads from a JSON body only what a scheme needs. Skipped values use no stack, however deeply
//! they are nested. serde_json accepts 128 levels for the rest. A body that repeats a needed key is
//! rejected, because another parser may read the other value.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::proof::Reason;
use crate::json;

/// Parses a body after its byte order mark, if it has one.
pub(super) fn parse<'b, T: Deserialize<'b>>(body: &'b [u8]) -> serde_json::Result<T> {
    serde_json::from_slice(json::without_mark(body))
}

/// Parses the parts of a body that a scheme needs. The error quotes nothing of the body.
pub(super) fn read<'b, T: Deserialize<'b>>(body: &'b [u8], expected: &str) -> Result<T, Reason> {
    parse(body).map_err(|e| match e.classify() {
        serde_json::error::Category::Data => format!("body lacks {expected}").into(),
        _ => format!("body is not JSON: line {}, column {}", e.line(), e.column()).into(),
    })
}

/// A JSON object: its members in their order, with their values byte for byte.
pub(super) struct RawObject<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

/// The missing part if a body is no object.
pub(super) const OBJECT: &str = "the JSON object that this sender signs";

impl<'a> RawObject<'a> {
    /// The value of a member. If it occurs twice, the last one counts, as in jq.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(found, _)| found == name).map(|(_, value)| *value)
    }

    /// Replaces a member, or adds it.
    pub fn set(&mut self, name: &'static str, value: &'a RawValue) {
        match self.0.iter_mut().find(|(found, _)| found == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.into(), value)),
        }
    }
}

/// Replaces a member of a body, or adds it.
pub(super) fn with_member(
    body: &[u8],
    name: &'static str,
    value: &impl Serialize,
) -> Result<Vec<u8>, Reason> {
    let value = raw_value(value)?;
    let mut object: RawObject<'_> = read(body, OBJECT)?;
    object.set(name, &value);
    Ok(serde_json::to_vec(&object).map_err(|e| e.to_string())?)
}

pub(super) fn raw_value(value: &impl Serialize) -> Result<Box<RawValue>, Reason> {
    Ok(serde_json::value::to_raw_value(value).map_err(|e| e.to_string())?)
}

impl<'de: 'a, 'a> Deserialize<'de> for RawObject<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        /// The name of a member, borrowed unless it contains escapes.
        #[derive(Deserialize)]
        struct Name<'n>(#[serde(borrow)] Cow<'n, str>);

        struct ObjectVisitor;

        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = RawObject<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(RawObject(members))
            }
        }
        from.deserialize_map(ObjectVisitor)
    }
}

impl Serialize for RawObject<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}
