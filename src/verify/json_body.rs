//! Reads from a JSON body only what a scheme needs. Skipped values use no stack, however deeply
//! they are nested. serde_json accepts 128 levels for the rest. A body that repeats a needed key is
//! rejected, because another parser may read the other value.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
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

/// A JSON object whose values stay byte for byte, so that one of them can be replaced.
#[derive(Debug)]
pub(super) struct RawJsonObject(Vec<(String, Box<RawValue>)>);

impl RawJsonObject {
    pub fn read(body: &[u8]) -> Result<Self, Reason> {
        read(body, "the JSON object that this sender signs")
    }

    pub fn set(&mut self, name: &str, value: &impl Serialize) -> Result<(), Reason> {
        let raw = serde_json::value::to_raw_value(value).map_err(|e| e.to_string())?;
        match self.0.iter_mut().find(|(found, _)| found == name) {
            Some((_, old)) => *old = raw,
            None => self.0.push((name.to_owned(), raw)),
        }
        Ok(())
    }

    pub fn get(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }

    pub fn to_bytes(&self) -> Result<Vec<u8>, Reason> {
        serde_json::to_vec(self).map_err(|e| e.to_string().into())
    }
}

impl<'de> Deserialize<'de> for RawJsonObject {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct RawJsonObjectVisitor;
        impl<'de> Visitor<'de> for RawJsonObjectVisitor {
            type Value = RawJsonObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawJsonObject, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(RawJsonObject(fields))
            }
        }
        from.deserialize_map(RawJsonObjectVisitor)
    }
}

impl Serialize for RawJsonObject {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}
