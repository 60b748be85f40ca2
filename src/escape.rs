//! Escapes invisible characters in text from outside before it is shown: control characters, which move the
//! cursor, and characters that hide text or change its direction.

use std::borrow::Cow;
use std::fmt::Write;

/// Returns whether a terminal acts on the character, hides it, or changes the direction of text.
pub fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Bidirectional marks, embeddings, overrides and isolates (UAX #9).
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{206f}'
            // Zero width: spaces, joiners, fillers, the byte order mark.
            | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2065}' | '\u{feff}' | '\u{ad}' | '\u{34f}'
            | '\u{180e}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{3164}' | '\u{ffa0}'
            // Line and paragraph separators, interlinear annotations, tags.
            | '\u{2028}' | '\u{2029}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Returns the text on one line, with escapes (`\n`, `\u{202e}`) for invisible characters.
pub fn escape(text: &str) -> Cow<'_, str> {
    escape_except(text, |_| false)
}

/// Like [`escape`], but keeps the characters for which `keep` returns true.
pub fn escape_except(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    let needs_escape = |c: char| is_invisible(c) && !keep(c);
    if !text.contains(needs_escape) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match needs_escape(c) {
            true => escaped.extend(c.escape_default()),
            false => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

/// Returns the JSON text with `\u202e` and the like for invisible characters. Its value stays the same.
pub fn escape_json(json: &str) -> Cow<'_, str> {
    if !json.contains(is_invisible) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    let mut units = [0; 2];
    for c in json.chars() {
        match is_invisible(c) {
            true => c.encode_utf16(&mut units).iter().for_each(|unit| {
                // Writing into a String cannot fail.
                let _ = write!(escaped, "\\u{unit:04x}");
            }),
            false => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_are_escaped_and_others_are_kept() {
        for (text, expected) in [
            ("exit 1: \u{1b}[2J\u{9b}1m\u{7f}", "exit 1: \\u{1b}[2J\\u{9b}1m\\u{7f}"),
            ("a\nb\tc\r", "a\\nb\\tc\\r"),
            ("\u{202e}gnp.exe\u{2066}", "\\u{202e}gnp.exe\\u{2066}"),
            ("a\u{200b}b\u{feff}\u{e0041}", "a\\u{200b}b\\u{feff}\\u{e0041}"),
            ("Grüße, 世界 🎉", "Grüße, 世界 🎉"),
        ] {
            assert_eq!(escape(text), expected);
        }
        assert_eq!(escape_except("a\nb\u{200b}", |c| c == '\n'), "a\nb\\u{200b}");
    }

    #[test]
    fn escaped_json_has_the_same_value() {
        let value = serde_json::json!({"a\u{202e}": "\u{200b}\u{9b}\u{e0041}\n\"ü"});
        let escaped = escape_json(&value.to_string()).into_owned();
        assert!(escaped.is_ascii() || !escaped.contains(is_invisible), "{escaped}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }
}
