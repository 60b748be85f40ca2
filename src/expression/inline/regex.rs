//! Regular expressions of `test`, compiled once, by the engine that jaq uses. Its time for a text is
//! linear: for each character, each part of the compiled expression is visited at most once.

use regex_bites::bytes::{Regex, RegexBuilder};

use super::NotInlineable;

/// Limits of a compiled expression in bytes. It is compiled with the smallest that holds it, so that
/// its size is known.
const SIZES: [usize; 8] = [256, 512, 1 << 10, 2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10];

/// The memory for a search grows by this number for each part of the expression.
const MAX_GROUPS: usize = 8;

/// A regular expression with the flags of `test`.
#[derive(Clone, Debug)]
pub(in crate::expression) struct InlineRegex {
    regex: Regex,
    flags: Box<str>,
    size: usize,
}

impl PartialEq for InlineRegex {
    fn eq(&self, other: &Self) -> bool {
        (self.regex.as_str(), &self.flags) == (other.regex.as_str(), &other.flags)
    }
}

impl InlineRegex {
    /// Compiles an expression; `None`: it is large or invalid, or has a flag that changes which
    /// matches jaq looks at.
    pub fn new(text: &str, flags: &str) -> Option<Self> {
        let mut builder = RegexBuilder::new(text);
        for flag in flags.chars() {
            match flag {
                'i' => builder.case_insensitive(true),
                'm' => builder.multi_line(true),
                's' => builder.dot_matches_new_line(true),
                'p' => builder.multi_line(true).dot_matches_new_line(true),
                'l' => builder.swap_greed(true),
                'x' => builder.ignore_whitespace(true),
                _ => return None,
            };
        }
        SIZES.into_iter().find_map(|size| {
            let regex = builder.size_limit(size).build().ok()?;
            let flags = flags.into();
            (regex.captures_len() <= MAX_GROUPS).then_some(Self { regex, flags, size })
        })
    }

    /// The work to search a text: the characters times the size.
    pub fn work(&self, text: &str) -> usize {
        self.size.saturating_mul(text.len() + 1)
    }

    /// # Errors
    /// jaq panics: it expects the groups of a match in the order in which they begin.
    pub fn is_match(&self, text: &str) -> Result<bool, NotInlineable> {
        // Group 0 is the match, which begins before any other.
        if self.regex.captures_len() <= 2 {
            return Ok(self.regex.is_match(text.as_bytes()));
        }
        let Some(groups) = self.regex.captures(text.as_bytes()) else { return Ok(false) };
        let starts = groups.iter().flatten().map(|group| group.start());
        if starts.is_sorted() { Ok(true) } else { Err(NotInlineable) }
    }
}
