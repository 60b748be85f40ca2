//! Rows of the database as JSON objects, as `--json` and the API show them.

use serde_json::{Map, Value as Json};

use crate::store::Value;

/// Converts a row to a JSON object whose fields are the columns.
pub fn row_object(columns: &[String], row: &[Value]) -> Map<String, Json> {
    let to_json = |value: &Value| match value {
        Value::Null => Json::Null,
        Value::Integer(number) => Json::from(*number),
        Value::Real(number) => Json::from(*number),
        Value::Text(text) => Json::from(text.as_str()),
        Value::Blob(bytes) => Json::from(String::from_utf8_lossy(bytes)),
    };
    columns.iter().zip(row).map(|(name, value)| (name.clone(), to_json(value))).collect()
}
