//! The SQL function `body_contains`: whether a body contains a text, without regard to the case of ASCII letters.

use std::sync::Arc;

use aho_corasick::AhoCorasick;
use rusqlite::Connection;
use rusqlite::functions::{Context, FunctionFlags};

/// Larger bodies are searched up to this size, so that one of them does not take the time of all others.
const MAX_SEARCHED_BYTES: usize = 16 << 20;

/// Registers the function. A body that was removed contains nothing.
///
/// # Errors
/// SQLite rejects the registration.
pub(super) fn register(conn: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    conn.create_scalar_function("body_contains", 2, flags, contains)
}

fn contains(context: &Context<'_>) -> rusqlite::Result<bool> {
    let Some(body) = context.get_raw(0).as_bytes_or_null()? else { return Ok(false) };
    let pattern: Arc<AhoCorasick> = context.get_or_create_aux(1, |text| {
        let text = text.as_str().map_err(Box::new)?;
        let built = AhoCorasick::builder().ascii_case_insensitive(true).build([text]);
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(built?)
    })?;
    Ok(pattern.is_match(&body[..body.len().min(MAX_SEARCHED_BYTES)]))
}
