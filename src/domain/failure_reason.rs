//! The pattern of a failure's reason: what failures with the same cause have in common.

/// The most bytes of a pattern.
const MAX_BYTES: usize = 200;

/// Replaces words with digits by `#`, so that reasons that differ only in ids, numbers and times have the same
/// pattern: `exit 1: contact 4711 is unknown`. What comes before a colon, such as `status 503`, tells reasons apart.
pub fn failure_pattern(reason: &str) -> String {
    let (kept, text) = match reason.find(": ") {
        Some(colon) => reason.split_at(colon),
        None if reason.contains(" job ") => ("", reason),
        None => (reason, ""),
    };
    let mut pattern = kept.to_owned();
    let mut rest = text;
    while let Some(start) = rest.find(is_word) {
        let (between, from_word) = rest.split_at(start);
        let (word, after) =
            from_word.split_at(from_word.find(|c| !is_word(c)).unwrap_or(from_word.len()));
        pattern.push_str(between);
        match word.bytes().any(|byte| byte.is_ascii_digit()) {
            true => pattern.push('#'),
            false => pattern.push_str(word),
        }
        rest = after;
        if pattern.len() > MAX_BYTES {
            break;
        }
    }
    if pattern.len() <= MAX_BYTES {
        pattern.push_str(rest);
    }
    let mut runs = pattern.replace("#.#", "#");
    while runs.contains("#.#") {
        runs = runs.replace("#.#", "#");
    }
    runs.truncate(runs.floor_char_boundary(MAX_BYTES));
    runs
}

/// A character of a word: of a number, a UUID, a hash or an identifier.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_that_differ_only_in_ids_have_one_pattern() {
        for (reason, pattern) in [
            ("exit 1: contact 4711 is unknown", "exit 1: contact # is unknown"),
            ("exit 1: no row for 7d9f1c3e-12ab-4c55-9b1e-aa0011223344", "exit 1: no row for #"),
            ("status 502: took 1.25 s at 10.0.0.7", "status 502: took # s at #"),
            ("same as job 7", "same as job #"),
            ("status 503", "status 503"),
            ("timeout 30s", "timeout 30s"),
            ("", ""),
        ] {
            assert_eq!(failure_pattern(reason), pattern, "{reason}");
        }
    }

    #[test]
    fn a_pattern_is_short() {
        assert_eq!(failure_pattern(&format!("exit 1: {}", "連絡 ".repeat(9999))).len(), 200);
        assert!(failure_pattern(&"x".repeat(9999)).len() <= 200);
    }
}
