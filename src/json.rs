//! Validates JSON strictly: UTF-8, one value, nested at most 128 deep.
//!
//! It builds no value, and numbers may have any size.

/// Strips one byte order mark. RFC 8259 section 8.1 lets a reader ignore it, and senders on Windows write it.
/// It is stripped wherever a body is parsed, and kept where a body is stored.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// Maximum nesting depth of JSON.
pub const MAX_DEPTH: usize = 128;

/// Validates that bytes are JSON. A byte order mark is ignored.
///
/// `serde_json` ignores values without recursion, so that no nesting can overflow the stack; it has no depth
/// limit either, so the depth is checked separately.
///
/// # Errors
/// Why the bytes are not valid.
pub fn validate(bytes: &[u8]) -> Result<(), String> {
    let bytes = without_mark(bytes);
    // Ignored strings are not validated, so bytes that are not UTF-8 would pass.
    let text = std::str::from_utf8(bytes).map_err(|_| "not JSON: not UTF-8".to_owned())?;
    serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|e| format!("not JSON: {e}"))?;
    if depth(bytes) > MAX_DEPTH {
        return Err(format!("nested deeper than {MAX_DEPTH}"));
    }
    Ok(())
}

/// Returns the nesting depth of a valid JSON text, or of its beginning.
pub fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
