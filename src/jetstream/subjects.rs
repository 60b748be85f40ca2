//! Which subjects a pattern matches.

/// Whether two patterns match a subject together. Each may have `*` for one token, and `>` at its end for one or more.
pub fn overlaps(a: &str, b: &str) -> bool {
    let mut b_tokens = b.split('.');
    for token in a.split('.') {
        match (token, b_tokens.next()) {
            (_, None) => return false,
            (">", Some(_)) | (_, Some(">")) => return true,
            ("*", Some(_)) | (_, Some("*")) => {}
            (token, Some(other)) if token == other => {}
            _ => return false,
        }
    }
    b_tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::overlaps;

    #[test]
    fn patterns_overlap_if_a_subject_matches_both() {
        for (a, b, expected) in [
            ("hooks.a", "hooks.a", true),
            ("hooks.*", "hooks.a", true),
            ("hooks.*", "hooks.*", true),
            ("hooks.>", "hooks.a.*", true),
            ("hooks.>", "hooks", false),
            ("hooks.*", "hooks.a.b", false),
            ("hooks.*.b", "hooks.a", false),
            ("other.>", "hooks.a", false),
            ("hooks.>", ">", true),
            ("hooks.>", "hooks.a.>", true),
            ("hooks.a", "hooks.a.>", false),
            ("hooks.b.c", "hooks.a.>", false),
        ] {
            assert_eq!((overlaps(a, b), overlaps(b, a)), (expected, expected), "{a} {b}");
        }
    }
}
