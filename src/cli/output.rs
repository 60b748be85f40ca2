//! Rows for people (columns in line, local times, colour on a terminal) and for programs (one JSON
//! object a line, named as the views' columns).

use std::borrow::Cow;
use std::io::{IsTerminal, Stderr, StderrLock, Stdout, StdoutLock, Write};

use jiff::Timestamp;
use rusqlite::types::Value;
use serde_json::{Map, Value as Json};

use crate::store::queries::Rows;
use crate::{clock, escape};

/// Prints rows in the form asked for.
pub fn print(out: &mut impl Write, rows: &Rows, json: bool) -> std::io::Result<()> {
    if json { print_json(out, rows) } else { print_table(out, rows, true) }
}

fn print_json(out: &mut impl Write, rows: &Rows) -> std::io::Result<()> {
    for row in &rows.rows {
        writeln!(out, "{}", json_line(&Json::Object(object(&rows.columns, row))))?;
    }
    Ok(())
}

/// A row as an object.
pub fn object(columns: &[String], row: &[Value]) -> Map<String, Json> {
    let json = |value: &Value| match value {
        Value::Null => Json::Null,
        Value::Integer(number) => Json::from(*number),
        Value::Real(number) => Json::from(*number),
        Value::Text(text) => Json::from(text.as_str()),
        Value::Blob(bytes) => Json::from(String::from_utf8_lossy(bytes)),
    };
    columns.iter().zip(row).map(|(name, value)| (name.clone(), json(value))).collect()
}

/// Columns in line, with their names on top where `head` says so.
pub fn print_table(out: &mut impl Write, rows: &Rows, head: bool) -> std::io::Result<()> {
    let cells: Vec<Vec<String>> =
        rows.rows.iter().map(|row| row.iter().map(cell).collect()).collect();
    let width = |at: usize| {
        let widest = cells.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
        widest.max(rows.columns[at].len()).min(60)
    };
    let widths: Vec<usize> = (0..rows.columns.len()).map(width).collect();
    if head {
        let names: Vec<String> = rows.columns.clone();
        writeln!(out, "{}", line(&names, &widths))?;
    }
    let colour = has_colour();
    for row in &cells {
        writeln!(out, "{}", coloured(&line(row, &widths), row, colour))?;
    }
    Ok(())
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        line.push_str(&format!("{cell:width$}  "));
    }
    line.trim_end().to_owned()
}

/// What went well is green, what did not is red: one look tells.
fn coloured(line: &str, cells: &[String], colour: bool) -> String {
    let code = cells.iter().find_map(|cell| match cell.as_str() {
        "succeeded" => Some(32),
        "failed" | "timed_out" | "dead" => Some(31),
        "interrupted" | "deferred" | "running" => Some(33),
        _ => None,
    });
    match code {
        Some(code) if colour => format!("\x1b[{code}m{line}\x1b[0m"),
        _ => line.to_owned(),
    }
}

fn has_colour() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    raw_stdout().is_terminal() && !no_color
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Text(text) => local(text).unwrap_or_else(|| plain(text)),
        Value::Blob(bytes) => plain(&String::from_utf8_lossy(bytes)),
    }
}

/// A moment of the views in local time.
fn local(text: &str) -> Option<String> {
    if text.len() != 24 || !text.ends_with('Z') {
        return None;
    }
    Some(clock::format_local(text.parse::<Timestamp>().ok()?.as_millisecond()))
}

/// Text from outside on one line, with escapes for what moves a cursor or cannot be seen.
pub fn plain(text: &str) -> String {
    escape::escape(text).into_owned()
}

/// A value on one line, with JSON's own escapes for what a terminal would act on.
pub fn json_line(value: &Json) -> String {
    escape::escape_json(&value.to_string()).into_owned()
}

/// Standard output without escapes, for text that holds nothing from outside.
#[expect(clippy::disallowed_methods, reason = "commands print")]
pub fn raw_stdout() -> Stdout {
    std::io::stdout()
}

/// Standard error without escapes, for text that holds nothing from outside.
#[expect(clippy::disallowed_methods, reason = "commands print")]
pub fn raw_stderr() -> Stderr {
    std::io::stderr()
}

/// Standard output as every command writes it.
pub fn stdout() -> Screen<StdoutLock<'static>> {
    let out = raw_stdout();
    Screen::new(out.is_terminal(), out.lock())
}

/// Standard error as every command writes it.
pub fn stderr() -> Screen<StderrLock<'static>> {
    let out = raw_stderr();
    Screen::new(out.is_terminal(), out.lock())
}

/// Writes what a command prints. A terminal gets escapes for whatever it would act on, hide or turn but
/// line ends, tabs and our own colours; a file or a pipe gets the bytes as they are.
pub struct Screen<W: Write> {
    is_terminal: bool,
    out: W,
    /// The beginning of a character whose end is still to come.
    begun: Vec<u8>,
}

impl<W: Write> Screen<W> {
    fn new(is_terminal: bool, out: W) -> Self {
        Self { is_terminal, out, begun: Vec::new() }
    }

    fn put(&mut self, text: &str) -> std::io::Result<()> {
        let mut rest = text;
        while let Some((before, from)) = rest.find(ESCAPE).map(|at| rest.split_at(at)) {
            self.out.write_all(escaped(before).as_bytes())?;
            let colour = COLOURS.into_iter().find(|colour| from.starts_with(colour));
            let (shown, after) = from.split_at(colour.map_or(1, str::len));
            let shown = if colour.is_some() { Cow::Borrowed(shown) } else { escaped(shown) };
            self.out.write_all(shown.as_bytes())?;
            rest = after;
        }
        self.out.write_all(escaped(rest).as_bytes())
    }
}

const ESCAPE: char = '\x1b';
const COLOURS: [&str; 4] = ["\x1b[0m", "\x1b[31m", "\x1b[32m", "\x1b[33m"];

fn escaped(text: &str) -> Cow<'_, str> {
    escape::escape_except(text, |c| matches!(c, '\n' | '\t'))
}

impl<W: Write> Write for Screen<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if !self.is_terminal {
            return self.out.write(bytes);
        }
        let mut all = std::mem::take(&mut self.begun);
        all.extend_from_slice(bytes);
        let begun = all.utf8_chunks().last().map_or(0, |last| last.invalid().len());
        // At most three bytes may begin a character; what is invalid here stays so.
        let is_begun = std::str::from_utf8(&all[all.len() - begun..])
            .is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none());
        if is_begun {
            self.begun = all.split_off(all.len() - begun);
        }
        self.put(&String::from_utf8_lossy(&all))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let begun = std::mem::take(&mut self.begun);
        self.put(&String::from_utf8_lossy(&begun))?;
        self.out.flush()
    }
}

impl<W: Write> Drop for Screen<W> {
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
        print(&mut out, &rows(), true).unwrap();
        let line: Json = serde_json::from_slice(&out).unwrap();
        assert_eq!(line["id"], 7);
        assert_eq!(line["next_at"], Json::Null);
    }

    #[test]
    fn what_came_from_outside_can_not_move_the_cursor() {
        let mut out = Vec::new();
        print(&mut out, &rows(), false).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("exit 1: \\u{1b}[2J"));
    }

    fn on_screen(is_terminal: bool, pieces: &[&[u8]]) -> Vec<u8> {
        let mut screen = Screen::new(is_terminal, Vec::new());
        pieces.iter().for_each(|piece| screen.write_all(piece).unwrap());
        screen.flush().unwrap();
        std::mem::take(&mut screen.out)
    }

    #[test]
    fn a_terminal_gets_escapes_and_a_pipe_the_bytes() {
        let sent = "\x1b[31mdead\x1b[0m \x1b[8m\u{202e}gnp.exe\u{200b}\u{9b}2J\ta\r\n".as_bytes();
        let seen = b"\x1b[31mdead\x1b[0m \\u{1b}[8m\\u{202e}gnp.exe\\u{200b}\\u{9b}2J\ta\\r\n";
        assert_eq!(on_screen(true, &[sent]), seen);
        assert_eq!(on_screen(false, &[sent, b"\xff"]), [sent, b"\xff"].concat());
        // However it is cut.
        let bytes: Vec<&[u8]> = "\u{202e}\u{fc}".as_bytes().chunks(1).collect();
        assert_eq!(on_screen(true, &bytes), "\\u{202e}\u{fc}".as_bytes());
        assert_eq!(on_screen(true, &[b"a\xffb\xe2\x80"]), "a\u{fffd}b\u{fffd}".as_bytes());
    }

    #[test]
    fn json_has_escapes_of_its_own_for_what_cannot_be_seen() {
        let value = serde_json::json!({"path": "/\u{202e}\u{9b}"});
        assert_eq!(json_line(&value), r#"{"path":"/\u202e\u009b"}"#);
    }
}
