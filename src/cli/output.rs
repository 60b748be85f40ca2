//! Formats values and prints rows as JSON objects. On a terminal, output from outside is escaped.

use std::borrow::Cow;
use std::io::{IsTerminal, Stderr, StderrLock, Stdout, StdoutLock, Write};

use serde_json::Value as Json;

use crate::escape;
use crate::row_json::row_object;
use crate::store::Value;
use crate::store::queries::Rows;

/// Prints each row as a JSON object.
pub fn print_json(out: &mut impl Write, rows: &Rows) -> std::io::Result<()> {
    for row in &rows.rows {
        writeln!(out, "{}", json_line(&Json::Object(row_object(&rows.columns, row))))?;
    }
    Ok(())
}

/// The width of the terminal that standard output is connected to.
pub fn terminal_columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(raw_stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Whether standard output shows colours.
pub fn has_colour() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    raw_stdout().is_terminal() && !no_color
}

/// Formats a value for people. Text is escaped.
pub fn format_cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Text(text) => escape_line(text),
        Value::Blob(bytes) => escape_line(&String::from_utf8_lossy(bytes)),
    }
}

/// Escapes line ends, control characters and invisible characters, so that the text stays on one line.
pub fn escape_line(text: &str) -> String {
    escape::escape(text).into_owned()
}

/// Formats a value as one line. Control and invisible characters get JSON escapes.
pub fn json_line(value: &Json) -> String {
    escape::escape_json(&value.to_string()).into_owned()
}

/// Standard output without escapes. For text that holds nothing from outside.
#[expect(clippy::disallowed_methods, reason = "commands print")]
pub fn raw_stdout() -> Stdout {
    std::io::stdout()
}

/// Standard error without escapes. For text that holds nothing from outside.
#[expect(clippy::disallowed_methods, reason = "commands print")]
pub fn raw_stderr() -> Stderr {
    std::io::stderr()
}

/// Standard output with escapes on a terminal.
pub fn stdout() -> EscapingWriter<StdoutLock<'static>> {
    let out = raw_stdout();
    EscapingWriter::new(out.is_terminal(), out.lock())
}

/// Standard error with escapes on a terminal.
pub fn stderr() -> EscapingWriter<StderrLock<'static>> {
    let out = raw_stderr();
    EscapingWriter::new(out.is_terminal(), out.lock())
}

/// A writer that escapes control and invisible characters if it writes to a terminal. Line ends, tabs and
/// the colours of this program pass. A file or a pipe gets the bytes unchanged.
pub struct EscapingWriter<W: Write> {
    is_terminal: bool,
    out: W,
    /// The first bytes of a character that the last write cut.
    partial_char: Vec<u8>,
}

impl<W: Write> EscapingWriter<W> {
    fn new(is_terminal: bool, out: W) -> Self {
        Self { is_terminal, out, partial_char: Vec::new() }
    }

    fn write_escaped(&mut self, text: &str) -> std::io::Result<()> {
        let mut rest = text;
        while let Some((before, tail)) = rest.find(ESCAPE).map(|index| rest.split_at(index)) {
            self.out.write_all(escape_controls(before).as_bytes())?;
            let colour = COLOURS.into_iter().find(|colour| tail.starts_with(colour));
            let (sequence, after) = tail.split_at(colour.map_or(1, str::len));
            let sequence = match colour {
                Some(_) => Cow::Borrowed(sequence),
                None => escape_controls(sequence),
            };
            self.out.write_all(sequence.as_bytes())?;
            rest = after;
        }
        self.out.write_all(escape_controls(rest).as_bytes())
    }
}

const ESCAPE: char = '\x1b';
const COLOURS: [&str; 4] = ["\x1b[0m", "\x1b[31m", "\x1b[32m", "\x1b[33m"];

fn escape_controls(text: &str) -> Cow<'_, str> {
    escape::escape_except(text, |c| matches!(c, '\n' | '\t'))
}

impl<W: Write> Write for EscapingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if !self.is_terminal {
            return self.out.write(bytes);
        }
        let mut all = std::mem::take(&mut self.partial_char);
        all.extend_from_slice(bytes);
        let invalid_len = all.utf8_chunks().last().map_or(0, |last| last.invalid().len());
        // At most three bytes can be the start of a character. Other invalid bytes stay invalid.
        let is_partial = std::str::from_utf8(&all[all.len() - invalid_len..])
            .is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none());
        if is_partial {
            self.partial_char = all.split_off(all.len() - invalid_len);
        }
        self.write_escaped(&String::from_utf8_lossy(&all))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let partial_char = std::mem::take(&mut self.partial_char);
        self.write_escaped(&String::from_utf8_lossy(&partial_char))?;
        self.out.flush()
    }
}

impl<W: Write> Drop for EscapingWriter<W> {
    fn drop(&mut self) {
        let _ = self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Rows {
        Rows {
            columns: vec!["id".into(), "detail".into(), "next_at".into()],
            rows: vec![vec![
                Value::Integer(7),
                Value::Text("exit 1: \u{1b}[2J".into()),
                Value::Null,
            ]],
        }
    }

    #[test]
    fn a_row_is_one_json_object_named_as_its_columns() {
        let mut out = Vec::new();
        print_json(&mut out, &rows()).unwrap();
        let line: Json = serde_json::from_slice(&out).unwrap();
        assert_eq!(line["id"], 7);
        assert_eq!(line["next_at"], Json::Null);
    }

    fn written(is_terminal: bool, pieces: &[&[u8]]) -> Vec<u8> {
        let mut writer = EscapingWriter::new(is_terminal, Vec::new());
        pieces.iter().for_each(|piece| writer.write_all(piece).unwrap());
        writer.flush().unwrap();
        std::mem::take(&mut writer.out)
    }

    #[test]
    fn a_terminal_gets_escapes_and_a_pipe_the_bytes() {
        let sent = "\x1b[31mdead\x1b[0m \x1b[8m\u{202e}gnp.exe\u{200b}\u{9b}2J\ta\r\n".as_bytes();
        let seen = b"\x1b[31mdead\x1b[0m \\u{1b}[8m\\u{202e}gnp.exe\\u{200b}\\u{9b}2J\ta\\r\n";
        assert_eq!(written(true, &[sent]), seen);
        assert_eq!(written(false, &[sent, b"\xff"]), [sent, b"\xff"].concat());
        // The result does not depend on how the bytes are cut into writes.
        let bytes: Vec<&[u8]> = "\u{202e}\u{fc}".as_bytes().chunks(1).collect();
        assert_eq!(written(true, &bytes), "\\u{202e}\u{fc}".as_bytes());
        assert_eq!(written(true, &[b"a\xffb\xe2\x80"]), "a\u{fffd}b\u{fffd}".as_bytes());
    }

    #[test]
    fn json_escapes_invisible_characters() {
        let value = serde_json::json!({"path": "/\u{202e}\u{9b}"});
        assert_eq!(json_line(&value), r#"{"path":"/\u202e\u009b"}"#);
    }
}
