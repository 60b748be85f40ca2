//! Prints rows as an aligned table with local times. On a terminal, a row fits one line: if it is too wide,
//! columns that say nothing are left out, times and headers get shorter, then less important columns are left
//! out, and at last text is cut. A pipe or a file gets all columns whole.

use std::io::Write;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::output;
use crate::clock::{self, LocalTime};
use crate::store::Value;
use crate::store::queries::Rows;

/// Columns of text without a limit, and the width that they keep while there are optional columns to leave
/// out. `detail` and `reason` are the last column of their tables.
const FREE_TEXT: [(&str, usize); 5] =
    [("path", 16), ("client", 16), ("origin_key", 16), ("detail", 36), ("reason", 40)];

/// The columns that a narrow terminal can do without, the least important first.
const OPTIONAL: [&str; 19] = [
    "id",
    "duration_ms",
    "bytes",
    "duplicates",
    "settled_at",
    "method",
    "next_at",
    "job_state",
    "jobs",
    "attempts",
    "attempt",
    "oldest_at",
    "source",
    "remote_ip",
    "item",
    "due_at",
    "count",
    "configured",
    "running",
];

/// No column of text is cut below this width.
const MIN_WIDTH: usize = 8;

/// The number of spaces between columns.
const GAP: usize = 2;

/// The start of the reason of a job whose handler has an open circuit breaker. A time follows.
const OPEN_BREAKER: &str = "circuit breaker open until ";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Numbers and times are never cut.
    Number,
    Time(TimeFormat),
    Text,
    FreeText {
        /// The width that it keeps while there are optional columns to leave out.
        min_width: usize,
        /// Whether a time in it is as short as possible.
        is_short: bool,
    },
}

/// How the times of a column are printed. A later variant has room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum TimeFormat {
    /// All times are of today.
    Time,
    /// All times are of this year.
    Short,
    Long,
}

/// A column as it is printed.
#[derive(Clone, Debug)]
struct Column {
    /// The position in the rows.
    index: usize,
    kind: Kind,
    /// One line, or two.
    header: Vec<String>,
    width: usize,
}

/// Prints a table in parts: all parts have the columns of the first one.
pub struct TableWriter {
    terminal_columns: Option<usize>,
    columns: Vec<Column>,
    selection: ColumnSelection,
}

/// Whether a narrow terminal shows all columns.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ColumnSelection {
    /// Optional columns may be left out.
    Fitting,
    /// The user has chosen the columns: text is cut instead.
    All,
}

impl TableWriter {
    pub fn new() -> Self {
        Self {
            terminal_columns: output::terminal_columns(),
            columns: Vec::new(),
            selection: ColumnSelection::Fitting,
        }
    }

    /// Leaves out no column, in the order of the rows.
    pub fn with_all_columns(self) -> Self {
        Self { selection: ColumnSelection::All, ..self }
    }

    /// Prints rows. The first part that has rows begins with a header.
    pub fn print(&mut self, out: &mut impl Write, rows: &Rows) -> std::io::Result<()> {
        if rows.rows.is_empty() {
            return Ok(());
        }
        let now = LocalTime::new(clock::wall_ms());
        if self.columns.is_empty() {
            self.columns = lay_out(rows, self.terminal_columns, now.as_ref(), self.selection);
            let lines = self.columns.iter().map(|column| column.header.len()).max().unwrap_or(0);
            for line in 0..lines {
                let cells = self.columns.iter().map(|column| {
                    let missing = lines - column.header.len();
                    let part = line.checked_sub(missing).and_then(|line| column.header.get(line));
                    (part.cloned().unwrap_or_default(), column.width)
                });
                writeln!(out, "{}", align(cells))?;
            }
        } else {
            extend(&mut self.columns, rows, self.terminal_columns, now.as_ref());
        }
        let has_colour = output::has_colour();
        for row in &rows.rows {
            let cells = self
                .columns
                .iter()
                .map(|column| (cell(&row[column.index], column.kind, now.as_ref()), column.width));
            writeln!(out, "{}", add_colour(&align(cells), row, has_colour))?;
        }
        Ok(())
    }
}

/// Prints rows as JSON objects or as a table.
pub fn print_rows(out: &mut impl Write, rows: &Rows, json: bool) -> std::io::Result<()> {
    if json { output::print_json(out, rows) } else { print(out, rows) }
}

/// Prints a table with a header. Without rows, it prints nothing.
pub fn print(out: &mut impl Write, rows: &Rows) -> std::io::Result<()> {
    TableWriter::new().print(out, rows)
}

/// Chooses the columns, their widths and the formats of their times.
fn lay_out(
    rows: &Rows,
    terminal_columns: Option<usize>,
    now: Option<&LocalTime>,
    selection: ColumnSelection,
) -> Vec<Column> {
    let mut order: Vec<usize> = (0..rows.columns.len()).collect();
    if selection == ColumnSelection::Fitting {
        order.sort_by_key(|&index| rank(rows, index));
    }
    let mut columns: Vec<Column> = order
        .into_iter()
        .map(|index| {
            let kind = column_kind(rows, index);
            Column { index, kind, header: vec![rows.columns[index].clone()], width: 0 }
        })
        .collect();
    set_headers(&mut columns, rows);
    measure(&mut columns, rows, now);
    let Some(available) = terminal_columns.filter(|&available| width(&columns) > available) else {
        return columns;
    };
    for column in &mut columns {
        if let Kind::FreeText { is_short, .. } = &mut column.kind {
            *is_short = true;
        }
    }
    measure(&mut columns, rows, now);
    let fits = |columns: &[Column]| least_width(columns) <= available;
    if selection == ColumnSelection::Fitting && !fits(&columns) {
        columns.retain(|column| column.index == 0 || !is_uninformative(rows, column.index));
    }
    if !fits(&columns) {
        for column in &mut columns {
            if let Kind::Time(format) = &mut column.kind {
                *format = shortest_format(rows, column.index, now);
            }
        }
        measure(&mut columns, rows, now);
    }
    if !fits(&columns) {
        columns.iter_mut().for_each(|column| split_header(column, rows, now));
        measure(&mut columns, rows, now);
    }
    if selection == ColumnSelection::Fitting {
        leave_out(&mut columns, rows, fits);
    }
    shrink(&mut columns, available);
    columns
}

/// The place of a column in the table: `detail` and `reason` are last.
fn rank(rows: &Rows, index: usize) -> (bool, usize) {
    (matches!(rows.columns[index].as_str(), "detail" | "reason"), index)
}

/// Adapts the columns to more rows: times may get longer, and columns wider.
fn extend(
    columns: &mut [Column],
    rows: &Rows,
    terminal_columns: Option<usize>,
    now: Option<&LocalTime>,
) {
    let widths: Vec<usize> = columns.iter().map(|column| column.width).collect();
    for column in columns.iter_mut() {
        if let Kind::Time(format) = &mut column.kind {
            *format = shortest_format(rows, column.index, now).max(*format);
        }
    }
    measure(columns, rows, now);
    for (column, before) in columns.iter_mut().zip(widths) {
        column.width = column.width.max(before);
    }
    if let Some(available) = terminal_columns {
        shrink(columns, available);
    }
}

/// Leaves out optional columns until the rest fits, and then takes back those for which there is room.
fn leave_out(columns: &mut Vec<Column>, rows: &Rows, fits: impl Fn(&[Column]) -> bool) {
    let mut removed: Vec<Column> = Vec::new();
    for name in OPTIONAL {
        if fits(columns) {
            break;
        }
        let is_optional = |column: &Column| {
            rows.columns[column.index] == name && (column.index > 0 || name == "id")
        };
        if let Some(position) = columns.iter().position(is_optional) {
            removed.push(columns.remove(position));
        }
    }
    while let Some(column) = removed.pop() {
        let rank_of_column = rank(rows, column.index);
        let position = columns.partition_point(|other| rank(rows, other.index) < rank_of_column);
        columns.insert(position, column);
        if !fits(columns) {
            columns.remove(position);
        }
    }
}

/// Narrows columns until they fit: free text first, the widest column first.
fn shrink(columns: &mut [Column], available: usize) {
    let steps: [fn(Kind) -> Option<usize>; 3] = [
        |kind| match kind {
            Kind::FreeText { min_width, .. } => Some(min_width),
            _ => None,
        },
        |kind| matches!(kind, Kind::FreeText { .. }).then_some(2 * MIN_WIDTH),
        |kind| matches!(kind, Kind::FreeText { .. } | Kind::Text).then_some(MIN_WIDTH),
    ];
    for min_width in steps {
        while width(columns) > available {
            let wide = columns.iter_mut().filter(|column| {
                min_width(column.kind).is_some_and(|min_width| column.width > min_width)
            });
            let Some(widest) = wide.max_by_key(|column| column.width) else { break };
            widest.width -= 1;
        }
    }
}

fn width(columns: &[Column]) -> usize {
    columns.iter().map(|column| column.width + GAP).sum::<usize>().saturating_sub(GAP)
}

/// The width if free text is cut.
fn least_width(columns: &[Column]) -> usize {
    let excess = columns.iter().map(|column| match column.kind {
        Kind::FreeText { min_width, .. } => column.width.saturating_sub(min_width),
        _ => 0,
    });
    width(columns) - excess.sum::<usize>()
}

fn is_time(column: &str) -> bool {
    column == "at" || column.ends_with("_at") || column.ends_with("_until")
}

fn column_kind(rows: &Rows, index: usize) -> Kind {
    let name = rows.columns[index].as_str();
    if is_time(name) {
        return Kind::Time(TimeFormat::Long);
    }
    if let Some((_, min_width)) = FREE_TEXT.iter().find(|(free_text, _)| *free_text == name) {
        return Kind::FreeText { min_width: *min_width, is_short: false };
    }
    let is_number = |row: &Vec<Value>| matches!(row[index], Value::Integer(_) | Value::Real(_));
    if rows.rows.iter().any(is_number) { Kind::Number } else { Kind::Text }
}

/// Puts the zone of the times into the header of the first column that has any.
fn set_headers(columns: &mut [Column], rows: &Rows) {
    for column in columns.iter_mut().filter(|column| matches!(column.kind, Kind::Time(_))) {
        let mut zones: Vec<String> = Vec::new();
        for at in times(rows, column.index) {
            let zone = at.zone();
            if !zones.contains(&zone) {
                zones.push(zone);
            }
        }
        if !zones.is_empty() {
            column.header = vec![format!("{} ({})", rows.columns[column.index], zones.join("/"))];
            return;
        }
    }
}

/// Sets each width to that of the widest cell.
fn measure(columns: &mut [Column], rows: &Rows, now: Option<&LocalTime>) {
    for column in columns {
        let header = column.header.iter().map(|line| line.width()).max().unwrap_or(0);
        column.width = cells_width(column, rows, now).max(header);
    }
}

fn cells_width(column: &Column, rows: &Rows, now: Option<&LocalTime>) -> usize {
    let cells = rows.rows.iter().map(|row| cell(&row[column.index], column.kind, now).width());
    cells.max().unwrap_or(0)
}

/// Whether all cells are empty, or have the number that is usual in this column.
fn is_uninformative(rows: &Rows, index: usize) -> bool {
    let usual = i64::from(matches!(rows.columns[index].as_str(), "configured" | "count"));
    rows.rows.iter().all(|row| match row[index] {
        Value::Null => true,
        Value::Integer(number) => number == usual,
        _ => false,
    })
}

/// Splits a header that is wider than its cells in two lines.
fn split_header(column: &mut Column, rows: &Rows, now: Option<&LocalTime>) {
    let [header] = &column.header[..] else { return };
    if header.width() <= cells_width(column, rows, now) {
        return;
    }
    let splits = header.match_indices(['_', ' ']).map(|(at, _)| {
        let (first, second) = header.split_at(at);
        [first.to_owned(), second[1..].to_owned()]
    });
    let narrowest = splits.min_by_key(|lines| lines.iter().map(|line| line.width()).max());
    column.header = narrowest.map_or_else(|| column.header.clone(), Vec::from);
}

fn times(rows: &Rows, index: usize) -> impl Iterator<Item = LocalTime> {
    rows.rows.iter().filter_map(move |row| match &row[index] {
        Value::Text(text) => LocalTime::parse(text),
        _ => None,
    })
}

/// Formats the value of a column without cutting it. A time gets its zone.
pub fn format_field(name: &str, value: &Value) -> String {
    match value {
        Value::Text(text) if is_time(name) => LocalTime::parse(text)
            .map_or_else(|| output::escape_line(text), |at| format!("{} {}", at.long(), at.zone())),
        Value::Text(text) => output::escape_line(&with_local_time(text, false, None)),
        value => output::format_cell(value),
    }
}

fn shortest_format(rows: &Rows, index: usize, now: Option<&LocalTime>) -> TimeFormat {
    let Some(now) = now else { return TimeFormat::Long };
    let formats = times(rows, index).map(|at| match at {
        at if at.is_same_day(now) => TimeFormat::Time,
        at if at.is_same_year(now) => TimeFormat::Short,
        _ => TimeFormat::Long,
    });
    formats.max().unwrap_or(TimeFormat::Time)
}

/// Formats a value: times are local, and other text is escaped.
fn cell(value: &Value, kind: Kind, now: Option<&LocalTime>) -> String {
    match (value, kind) {
        (Value::Null, _) => "-".to_owned(),
        (Value::Text(text), Kind::Time(format)) => match (LocalTime::parse(text), format) {
            (Some(at), TimeFormat::Long) => at.long(),
            (Some(at), TimeFormat::Short) => at.short(),
            (Some(at), TimeFormat::Time) => at.time(),
            (None, _) => output::escape_line(text),
        },
        (Value::Text(text), Kind::FreeText { is_short, .. }) => {
            output::escape_line(&with_local_time(text, is_short, now))
        }
        (value, _) => output::format_cell(value),
    }
}

/// Replaces the time until which a circuit breaker is open by the local time.
fn with_local_time(reason: &str, is_short: bool, now: Option<&LocalTime>) -> String {
    let replaced = reason.strip_prefix(OPEN_BREAKER).and_then(|rest| {
        let (time, after) = rest.split_at_checked("2026-11-23T10:00:00.000Z".len())?;
        let until = LocalTime::parse(time)?;
        let text = match now.filter(|_| is_short) {
            Some(now) if until.is_same_day(now) => until.time(),
            Some(now) if until.is_same_year(now) => until.short(),
            _ => until.long(),
        };
        Some(format!("{OPEN_BREAKER}{text} {}{after}", until.zone()))
    });
    replaced.unwrap_or_else(|| reason.to_owned())
}

/// Joins cells, each padded or cut to its width.
fn align(cells: impl Iterator<Item = (String, usize)>) -> String {
    let mut line = String::new();
    for (cell, width) in cells {
        let cell = cut(&cell, width);
        line.push_str(&cell);
        line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.width()) + GAP));
    }
    line.trim_end().to_owned()
}

/// Cuts a text that is wider than `max`, and marks the cut with `…`. Many characters of Asian scripts and
/// emoji are two columns wide.
fn cut(text: &str, max: usize) -> String {
    if text.width() <= max {
        return text.to_owned();
    }
    let mut width = 1;
    let fits = |c: &char| {
        width += c.width().unwrap_or(0);
        width <= max
    };
    let mut kept: String = text.chars().take_while(fits).collect();
    kept.push('…');
    kept
}

/// Makes a line with a successful outcome or state green, a failed one red, and others yellow.
fn add_colour(line: &str, row: &[Value], has_colour: bool) -> String {
    let code = row.iter().find_map(|value| match value {
        Value::Text(text) => match text.as_str() {
            "succeeded" => Some(32),
            "failed" | "timed_out" | "dead" => Some(31),
            "interrupted" | "deferred" | "running" => Some(33),
            _ => None,
        },
        _ => None,
    });
    match code {
        Some(code) if has_colour => format!("\x1b[{code}m{line}\x1b[0m"),
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows with the columns of the view `outcomes`.
    fn outcomes(handler: &str, detail: &str) -> Rows {
        let columns = "id at event source handler item attempt outcome detail duration_ms next_at job job_state";
        let at = || Value::Text(clock::format_rfc3339(clock::wall_ms()));
        let text = |text: &str| Value::Text(text.to_owned());
        let row = vec![
            Value::Integer(8_123_456),
            at(),
            Value::Integer(7_123_456),
            text("shop"),
            text(handler),
            Value::Null,
            Value::Integer(3),
            text("timed_out"),
            text(detail),
            Value::Integer(30_000),
            at(),
            Value::Integer(9_123_456),
            text("queued"),
        ];
        Rows { columns: columns.split(' ').map(str::to_owned).collect(), rows: vec![row] }
    }

    fn printed(rows: &Rows, terminal_columns: Option<usize>) -> Vec<String> {
        let mut out = Vec::new();
        TableWriter { selection: ColumnSelection::Fitting, terminal_columns, columns: Vec::new() }
            .print(&mut out, rows)
            .unwrap();
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_row_fits_the_terminal_and_keeps_its_numbers() {
        let detail = "exit 1: 連絡先が見つかりません 🙅 ".repeat(9);
        for handler in ["crm", &"h".repeat(64)] {
            for columns in [60, 80, 100, 132, 200] {
                let lines = printed(&outcomes(handler, &detail), Some(columns));
                assert!(lines.iter().all(|line| line.width() <= columns), "{columns}: {lines:#?}");
                let row = lines.last().unwrap();
                assert!(row.ends_with('…') && row.contains("exit 1: "), "{row}");
                assert!(row.contains("7123456") && row.contains("9123456"), "{row}");
            }
        }
        let lines = printed(&outcomes("crm", "exit 1"), Some(80));
        assert!(lines.last().unwrap().contains("  timed_out  "), "{lines:#?}");
    }

    #[test]
    fn a_pipe_gets_every_column_whole_and_the_free_text_last() {
        let detail = "no such contact ".repeat(99);
        let lines = printed(&outcomes("crm", &detail), None);
        assert!(lines[1].ends_with(detail.trim_end()), "{lines:?}");
        let names: Vec<&str> = lines[0].split_whitespace().collect();
        assert_eq!((names.len(), names[1], names.last()), (14, "at", Some(&"detail")));
        assert!(names[2].starts_with('(') && names[2].ends_with(')'), "the zone: {names:?}");
    }

    #[test]
    fn columns_that_say_nothing_go_first() {
        let text = |text: &str| Value::Text(text.to_owned());
        let columns = ["handler", "queued", "breaker_open_until", "succeeded_last_hour", "reason"];
        let mut rows = Rows {
            columns: columns.map(str::to_owned).to_vec(),
            rows: vec![vec![text("crm"), 0.into(), Value::Null, 7.into(), text("why")]],
        };
        let lines = printed(&rows, Some(40));
        assert_eq!(
            lines,
            ["handler  succeeded_last_hour  reason", "crm      7                    why"]
        );
        rows.rows[0][1] = 5.into();
        let lines = printed(&rows, Some(40));
        let wrapped = ["                 succeeded", "handler  queued  last_hour  reason"];
        assert_eq!(lines[..2], wrapped, "{lines:#?}");
    }

    #[test]
    fn text_is_cut_at_the_width_that_a_terminal_shows() {
        assert_eq!(cut("12345", 5), "12345");
        assert_eq!(cut("123456", 5), "1234…");
        assert_eq!(cut("連絡先", 6), "連絡先");
        assert_eq!(cut("連絡先", 5), "連絡…");
        assert_eq!(cut("連絡先", 4), "連…");
        assert_eq!(align([("連".into(), 4), ("x".into(), 1)].into_iter()), "連    x");
    }

    #[test]
    fn control_characters_in_a_cell_are_escaped() {
        let lines = printed(&outcomes("crm", "exit 1: \u{1b}[2J"), None);
        assert!(lines[1].ends_with("exit 1: \\u{1b}[2J"), "{lines:?}");
    }

    #[test]
    fn a_later_part_keeps_the_columns_of_the_first() {
        let mut table = TableWriter {
            selection: ColumnSelection::Fitting,
            terminal_columns: Some(80),
            columns: Vec::new(),
        };
        let mut out = Vec::new();
        for handler in ["crm", "crm-of-another-name"] {
            table.print(&mut out, &outcomes(handler, &"x".repeat(99))).unwrap();
        }
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches("handler").count(), 1, "{text}");
        assert!(text.contains("crm-of-another-name"), "{text}");
        assert!(text.lines().all(|line| line.width() <= 80), "{text}");
    }
}
