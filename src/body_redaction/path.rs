//! Paths of `redact.paths`: a subset of jq's paths that needs no evaluator. `docs/configuration.md`
//! describes it.

use std::fmt;

/// Limit of the steps of one path.
pub(super) const MAX_STEPS: usize = 32;

/// The remedy of an error about a path.
const EXPECTED: &str = r#"expected a path such as ".card.number", ".items[].card", ".cards[0]", ".a[\"b c\"]" or "..|.card?""#;

/// A path in a body, such as `.card.number`.
#[derive(Clone, PartialEq, Eq)]
pub struct RedactPath {
    text: Box<str>,
    steps: Vec<RedactPathStep>,
}

/// From a value to some of the values in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RedactPathStep {
    /// `.card`, `."card"` and `["card"]`: the values of this key, also if an object repeats it.
    Field(Box<str>),
    /// `[0]`
    Index(usize),
    /// `[]`: all elements of an array, all values of an object.
    Each,
    /// `..`: the value itself and all values in it.
    Descend,
}

impl RedactPath {
    /// Parses a path.
    ///
    /// # Errors
    /// The allowed form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut steps = Vec::new();
        for part in split_at_pipes(text) {
            parse_part(part.trim_ascii(), &mut steps).ok_or(EXPECTED)?;
        }
        if steps.is_empty() || steps.last() == Some(&RedactPathStep::Descend) {
            return Err(EXPECTED.to_owned());
        }
        if steps.len() > MAX_STEPS {
            return Err(format!("expected a path of at most {MAX_STEPS} steps"));
        }
        Ok(Self { text: text.into(), steps })
    }

    /// The path as it is written in config.toml.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn steps(&self) -> &[RedactPathStep] {
        &self.steps
    }

    /// Whether a value at this path may be the one at `other`, contain it, or be in it. A path with `..` leads
    /// into almost every value, which does not count.
    pub fn may_overlap(&self, other: &Self) -> bool {
        may_lead_to(&self.steps, &other.steps)
            || (!self.steps.contains(&RedactPathStep::Descend)
                && may_lead_to(&other.steps, &self.steps))
    }
}

/// Whether steps may lead to a value, or to one around it.
fn may_lead_to(steps: &[RedactPathStep], target: &[RedactPathStep]) -> bool {
    match (steps, target) {
        ([], _) => true,
        ([RedactPathStep::Descend, rest @ ..], _) => {
            (0..=target.len()).any(|skipped| may_lead_to(rest, &target[skipped..]))
        }
        (_, []) => false,
        (_, [RedactPathStep::Descend, ..]) => true,
        ([step, rest @ ..], [target_step, target_rest @ ..]) => {
            let is_match = match (step, target_step) {
                (RedactPathStep::Field(one), RedactPathStep::Field(other)) => one == other,
                (RedactPathStep::Index(one), RedactPathStep::Index(other)) => one == other,
                // The keys of a form's object may be numbers.
                _ => true,
            };
            is_match && may_lead_to(rest, target_rest)
        }
    }
}

impl fmt::Debug for RedactPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedactPath({:?})", self.text)
    }
}

/// Splits at each `|` outside of quotes.
fn split_at_pipes(text: &str) -> impl Iterator<Item = &str> {
    let (mut in_string, mut escaped) = (false, false);
    text.split(move |c| {
        match c {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            _ => return c == '|' && !in_string,
        }
        false
    })
}

/// Parses the text between two pipes. `None`: it is not valid.
fn parse_part(text: &str, steps: &mut Vec<RedactPathStep>) -> Option<()> {
    if text == ".." {
        steps.push(RedactPathStep::Descend);
        return Some(());
    }
    let mut rest = text.strip_prefix('.')?;
    let mut is_first = true;
    while is_first || !rest.is_empty() {
        // A dot begins each field, and may stand before a bracket.
        let after_dot = if is_first { Some(rest) } else { rest.strip_prefix('.') };
        is_first = false;
        let (step, after) = match (after_dot, rest.strip_prefix('[')) {
            (Some(field), None) if !field.starts_with('[') => parse_field(field)?,
            (Some(field), None) => parse_bracket(field.strip_prefix('[')?)?,
            (_, Some(bracket)) => parse_bracket(bracket)?,
            (None, None) => return None,
        };
        steps.push(step);
        // A value of another type changes nothing, with or without it.
        rest = after.trim_start_matches('?');
    }
    Some(())
}

/// Parses a name, quoted or not.
fn parse_field(text: &str) -> Option<(RedactPathStep, &str)> {
    if text.starts_with('"') {
        return parse_quoted(text);
    }
    let is_name_char = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let end = text.find(|c| !is_name_char(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let is_name = name.starts_with(|c: char| !c.is_ascii_digit());
    is_name.then(|| (RedactPathStep::Field(name.into()), rest))
}

/// Parses a text in JSON's quotes.
fn parse_quoted(text: &str) -> Option<(RedactPathStep, &str)> {
    let mut texts = serde_json::Deserializer::from_str(text).into_iter::<String>();
    let name = texts.next()?.ok()?;
    Some((RedactPathStep::Field(name.into()), &text[texts.byte_offset()..]))
}

/// Parses what follows an opening bracket.
fn parse_bracket(text: &str) -> Option<(RedactPathStep, &str)> {
    if text.starts_with('"') {
        let (step, rest) = parse_quoted(text)?;
        return Some((step, rest.strip_prefix(']')?));
    }
    let (inside, rest) = text.split_once(']')?;
    let is_number = !inside.is_empty() && inside.bytes().all(|byte| byte.is_ascii_digit());
    match inside {
        "" => Some((RedactPathStep::Each, rest)),
        _ if is_number => Some((RedactPathStep::Index(inside.parse().ok()?), rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::RedactPathStep::{Descend, Each, Index};
    use super::*;

    fn field(name: &str) -> RedactPathStep {
        RedactPathStep::Field(name.into())
    }

    #[test]
    fn a_path_is_read_as_in_jq() {
        for (text, steps) in [
            (".card", vec![field("card")]),
            (".card.number", vec![field("card"), field("number")]),
            (".card?.number?", vec![field("card"), field("number")]),
            (".items[].card", vec![field("items"), Each, field("card")]),
            (".cards[0]", vec![field("cards"), Index(0)]),
            (".cards.[0]", vec![field("cards"), Index(0)]),
            (".[]", vec![Each]),
            (".[12][].a", vec![Index(12), Each, field("a")]),
            (r#".a["b c"]"#, vec![field("a"), field("b c")]),
            (r#".["b]c"].d"#, vec![field("b]c"), field("d")]),
            (r#"."b.c"["|"]"#, vec![field("b.c"), field("|")]),
            (r#".a."\"\u0000\ud83d\ude00""#, vec![field("a"), field("\"\0\u{1f600}")]),
            (r#".["\"|"]"#, vec![field("\"|")]),
            (".a | .b", vec![field("a"), field("b")]),
            ("..|.card?", vec![Descend, field("card")]),
            (".a | .. | .b[] ", vec![field("a"), Descend, field("b"), Each]),
            ("._1", vec![field("_1")]),
        ] {
            assert_eq!(RedactPath::parse(text).unwrap().steps, steps, "{text}");
        }
    }

    #[test]
    fn other_jq_is_rejected() {
        for text in [
            "",
            " ",
            ".",
            "..",
            "card",
            "$.card",
            ".card.",
            ".a..b",
            "..a",
            "..[0]",
            ".a b",
            ".1",
            ".a-b",
            ".a[",
            ".a[]]",
            ".a[-1]",
            ".a[1:2]",
            ".a[1.5]",
            ".a[b]",
            ".a[ ]",
            ".a[\"b]",
            ".a[\"b\"",
            r#".a["b" ]"#,
            r#".a"b""#,
            r#"."\(.a)""#,
            r#"."\ud800""#,
            ".a,.b",
            ".a | length",
            ".a | ..",
            ".a |",
            "| .a",
            ".a || .b",
            ".a // 1",
            ".ä",
            ".a[+1]",
            ".a[99999999999999999999]",
            "?",
            ".?",
            ".a[0",
            ".a.[",
            "select(.a)",
            ". | .a",
        ] {
            assert_eq!(RedactPath::parse(text), Err(EXPECTED.to_owned()), "{text}");
        }
        let long = ".a".repeat(33);
        assert_eq!(RedactPath::parse(&long), Err("expected a path of at most 32 steps".to_owned()));
        assert!(RedactPath::parse(&long[2..]).is_ok());
    }

    #[test]
    fn two_paths_overlap_if_one_leads_into_the_other() {
        for (one, other, expected) in [
            (".a", ".a", true),
            (".a", ".a.b", true),
            (".a.b", ".a", true),
            (".a.b", ".a.c", false),
            (".a", ".b", false),
            (".[0]", ".[1]", false),
            (".a[].b", ".a[3].b", true),
            (".a[].b", ".a[3].c", false),
            ("..|.x", ".a", false),
            ("..|.x", ".x", true),
            ("..|.x", ".a.x.b", true),
            ("..|.x.y", ".x", false),
            (".a", "..|.x", true),
        ] {
            let parse = |text| RedactPath::parse(text).unwrap();
            assert_eq!(parse(one).may_overlap(&parse(other)), expected, "{one} {other}");
        }
    }
}
