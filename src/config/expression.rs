//! Reads expressions in config.toml and compiles them. An error in one is a configuration error,
//! with its location in the file and in the expression.

use super::error::Location;
use super::parse;
use super::toml_reader::{TomlTable, TomlValue};
use crate::expression::Expression;

const EXPRESSION: &str = r#"expected an expression such as ".form_id""#;

/// Reads the expression of a key; `None` if it is missing or invalid.
pub(super) fn read_expression(table: &TomlTable<'_>, name: &'static str) -> Option<Expression> {
    compile_value(&table.get(name)?)
}

pub(super) fn compile_value(value: &TomlValue<'_>) -> Option<Expression> {
    let text = value.text(EXPRESSION)?;
    match Expression::new(text) {
        Ok(expression) => Some(expression),
        Err(error) => {
            let at = value.locate_within(line_start(value.source_text(), error.line));
            let (line, column) = (error.line, error.column);
            // Of several lines only the one with the error.
            let quoted = match text.trim_end().lines().count() {
                ..2 => format!("is {}", parse::quote(text)),
                _ => format!(
                    "has {}",
                    parse::quote(text.lines().nth(line.saturating_sub(1)).unwrap_or_default())
                ),
            };
            let reason =
                format!("{} {quoted}: line {line}, column {column}: {}", value.key, error.text);
            value.log.error(Location { line: at.line.max(value.at.line), ..at }, reason);
            None
        }
    }
}

/// The offset in a TOML string, as written, at which a line of its text begins.
fn line_start(toml_text: &str, line: usize) -> usize {
    let literal = toml_text.starts_with("'''");
    if !literal && !toml_text.starts_with(r#"""""#) {
        return 0;
    }
    let bytes = toml_text.as_bytes();
    // A newline right after the quotes is not part of the text.
    let mut at = match &bytes[3..] {
        [b'\r', b'\n', ..] => 5,
        [b'\n', ..] => 4,
        _ => 3,
    };
    let mut lines = 1;
    while lines < line && at < bytes.len() {
        at += match bytes[at] {
            b'\n' => {
                lines += 1;
                1
            }
            b'\\' if !literal => {
                let rest = &toml_text[at + 1..];
                let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
                if rest[..blank].contains('\n') {
                    // A backslash at the end of a line removes the line break and all white space
                    // after it.
                    1 + blank
                } else {
                    lines += usize::from(rest.starts_with('n'));
                    2
                }
            }
            _ => 1,
        };
    }
    at.min(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::line_start;

    #[test]
    fn a_line_of_an_expression_is_found_in_the_file() {
        for (toml_text, line, rest) in [
            (r#"".a\n.b""#, 2, r#"".a\n.b""#),
            ("'.a'", 1, "'.a'"),
            ("'''.a\n.b'''", 1, ".a\n.b'''"),
            ("'''\n.a\n.b'''", 1, ".a\n.b'''"),
            ("'''\r\n.a\r\n.b'''", 2, ".b'''"),
            ("'''.a\\\n.b'''", 2, ".b'''"),
            ("\"\"\"\n.a \\\n\n   | .b\n| .c\"\"\"", 2, "| .c\"\"\""),
            (r#""""a\nb\\nc""""#, 2, r#"b\\nc""""#),
            ("'''.a'''", 9, ""),
            ("\"\"\"\\", 9, ""),
            ("\"\"\"\\\u{e9}", 9, ""),
        ] {
            assert_eq!(&toml_text[line_start(toml_text, line)..], rest, "{toml_text} {line}");
        }
    }
}
