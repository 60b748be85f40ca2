//! Details of outcomes may quote what a handler wrote or what an event says. `erase` removes these quotes.

/// The text in the place of a detail that a handler wrote.
const ERASED: &str = "erased";

/// Returns the first words of a detail if the program chose them, such as `exit 7`.
pub fn without_quote(detail: &str) -> &str {
    let start = detail.split(':').next().unwrap_or_default();
    let mut words = start.split(' ');
    let is_value = |word: Option<&str>| {
        word.is_some_and(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.len() <= 12)
    };
    let is_ours = match words.next() {
        Some("exit" | "sequence" | "signal" | "status" | "timeout") => {
            is_value(words.next()) && words.next().is_none()
        }
        Some(
            "when" | "split" | "transform" | "ordering_key" | "version_by" | "unique_by"
            | "debounce_by" | "subject" | "message_id",
        ) => words.next().is_none(),
        _ => matches!(start, "" | "not started"),
    };
    if is_ours { start } else { ERASED }
}

/// Returns whether a detail may quote an event or a handler.
pub fn may_quote(detail: &str) -> bool {
    without_quote(detail) != detail
}

#[cfg(test)]
mod tests {
    use super::without_quote;

    #[test]
    fn only_words_of_the_program_stay_of_a_detail() {
        for (detail, left) in [
            ("exit 7: bob@example.org is unknown", "exit 7"),
            ("exit 0", "exit 0"),
            ("status 503: {", "status 503"),
            ("timeout 1m 30s: waiting", "erased"),
            ("timeout 30s", "timeout 30s"),
            ("not started: no such file", "not started"),
            ("when: cannot index \"bob\"", "when"),
            ("stored bob@example.org", "erased"),
            ("bob says: hello", "erased"),
            ("exit bob", "erased"),
            ("", ""),
        ] {
            assert_eq!(without_quote(detail), left, "{detail}");
        }
    }
}
