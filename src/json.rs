//! Whether bytes are JSON in the strict sense: UTF-8, one value, nested at most 128 deep.
//!
//! Nothing is built of it, and its numbers may be of any size.

/// The bytes without the byte order mark before them. RFC 8259 section 8.1 lets a reader skip it, and
/// senders on Windows write it. One is skipped wherever a body is read, and none where it is stored.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// JSON may be nested so deep.
pub const DEPTH_MAX: usize = 128;

/// Skipping values is not recursive in `serde_json`, so nothing a sender nests can overflow the
/// stack; but it has no limit either. A byte order mark is skipped.
///
/// # Errors
/// What is wrong with it.
pub fn validate(bytes: &[u8]) -> Result<(), String> {
    let bytes = without_mark(bytes);
    // Texts that are skipped are not looked into: bytes that are not UTF-8 would pass.
    let text = std::str::from_utf8(bytes).map_err(|_| "not JSON: it is not UTF-8".to_owned())?;
    serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|e| format!("not JSON: {e}"))?;
    if depth(bytes) > DEPTH_MAX {
        return Err(format!("nested deeper than {DEPTH_MAX}"));
    }
    Ok(())
}

/// How deep a valid JSON text is nested, or the beginning of one.
pub fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
