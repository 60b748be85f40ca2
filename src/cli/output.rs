//! Rows for people (columns in line, local times, colour on a terminal) and for programs (one JSON
//! object a line, named as the views' columns).

use std::io::{IsTerminal, Write};

use jiff::Timestamp;
use rusqlite::types::Value;
use serde_json::{Map, Value as Json};

use crate::clock;
use crate::store::list::Rows;

/// Prints rows in the form asked for.
pub fn print(out: &mut impl Write, rows: &Rows, json: bool) -> std::io::Result<()> {
    if json { print_json(out, rows) } else { print_table(out, rows, true) }
}

fn print_json(out: &mut impl Write, rows: &Rows) -> std::io::Result<()> {
    for row in &rows.rows {
        writeln!(out, "{}", Json::Object(object(&rows.columns, row)))?;
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
    std::io::stdout().is_terminal() && !no_color
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
    Some(clock::local(text.parse::<Timestamp>().ok()?.as_millisecond()))
}

/// Text from outside, without anything that moves a cursor.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
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
        assert!(!out.contains(&0x1b));
    }
}
