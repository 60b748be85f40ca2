//! Renders a page of docs/ as plain text for a terminal: paragraphs and tables fit the width, links lose
//! their targets. It knows the Markdown that these pages use, and no more.

/// The space between two columns of a table.
const GAP: &str = "  ";
const CODE_INDENT: &str = "    ";
/// A column narrower than this is hard to read: the table becomes a list instead.
const MIN_LAST_COLUMN: usize = 24;

/// Renders a page in lines of at most `width` characters. Code blocks keep their lines.
pub fn render(page: &str, width: usize) -> String {
    let mut out = String::new();
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("```") {
            for code in lines.by_ref().take_while(|line| !line.starts_with("```")) {
                push_line(&mut out, &format!("{CODE_INDENT}{code}"));
            }
        } else if line.starts_with('|') {
            let mut rows = vec![cells(line)];
            while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
                rows.push(cells(row));
            }
            render_table(&mut out, &rows, width);
        } else if line.starts_with('#') {
            push_line(&mut out, &plain(line));
        } else if line.is_empty() {
            // A comment or an anchor between two paragraphs leaves one empty line.
            if !out.ends_with("\n\n") {
                out.push('\n');
            }
        } else if !line.starts_with("<!--") {
            let mut paragraph = line.to_owned();
            let goes_on = |next: &&str| !next.is_empty() && !is_block_start(next);
            while let Some(next) = lines.next_if(goes_on) {
                paragraph.push(' ');
                paragraph.push_str(next.trim_start());
            }
            let indent = paragraph.len() - paragraph.trim_start().len() + marker(&paragraph).len();
            for line in wrap(&plain(&paragraph), width, indent) {
                push_line(&mut out, &line);
            }
        }
    }
    out
}

fn push_line(out: &mut String, line: &str) {
    out.push_str(line.trim_end());
    out.push('\n');
}

fn is_block_start(line: &str) -> bool {
    line.starts_with("```") || line.starts_with(['#', '|']) || !marker(line).is_empty()
}

/// The marker of a list item: `- ` or `1. `.
fn marker(line: &str) -> &str {
    let text = line.trim_start();
    let digits = text.chars().take_while(char::is_ascii_digit).count();
    match text {
        _ if text.starts_with("- ") => &text[..2],
        _ if digits > 0 && text[digits..].starts_with(". ") => &text[..digits + 2],
        _ => "",
    }
}

/// The cells of a table's row.
fn cells(row: &str) -> Vec<String> {
    const PIPE: &str = "\u{1}";
    let row = row.replace("\\|", PIPE);
    let row = row.trim().trim_start_matches('|').trim_end_matches('|');
    row.split('|').map(|cell| plain(cell.trim()).replace(PIPE, "|")).collect()
}

/// Renders a table with its header. Columns keep their width, and the last ones are wrapped.
fn render_table(out: &mut String, rows: &[Vec<String>], width: usize) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let rows: Vec<&Vec<String>> = rows.iter().filter(|row| !is_separator(row)).collect();
    let widest = |column: usize, of: fn(&str) -> usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| of(cell)).max().unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..columns).map(|column| widest(column, count)).collect();
    let longest_words: Vec<usize> = (0..columns).map(|at| widest(at, longest_word)).collect();
    let available = width.saturating_sub(GAP.len() * columns.saturating_sub(1));
    // The widest columns give way first, down to their longest word.
    while widths.iter().sum::<usize>() > available {
        let widest = (0..columns).filter(|&at| widths[at] > longest_words[at]);
        let Some(at) = widest.max_by_key(|&at| widths[at]) else { break };
        widths[at] -= 1;
    }
    let is_narrow = widths
        .last()
        .is_some_and(|last| *last < MIN_LAST_COLUMN && *last < widest(columns - 1, count));
    if widths.iter().sum::<usize>() > available || is_narrow {
        return render_as_list(out, &rows, width);
    }
    for (index, row) in rows.iter().enumerate() {
        let wrapped: Vec<Vec<String>> =
            row.iter().zip(&widths).map(|(cell, width)| wrap(cell, *width, 0)).collect();
        let height = wrapped.iter().map(Vec::len).max().unwrap_or(0);
        for at in 0..height {
            let parts = wrapped.iter().zip(&widths).map(|(lines, width)| {
                let part = lines.get(at).map_or("", String::as_str);
                format!("{part:width$}")
            });
            push_line(out, &parts.collect::<Vec<_>>().join(GAP));
        }
        if index == 0 {
            let rules = widths.iter().map(|width| "-".repeat(*width));
            push_line(out, &rules.collect::<Vec<_>>().join(GAP));
        }
    }
}

/// Renders a table that is too wide: the first cell of a row, and below it the others.
fn render_as_list(out: &mut String, rows: &[&Vec<String>], width: usize) {
    let Some((header, rows)) = rows.split_first() else { return };
    for row in rows {
        push_line(out, row.first().map_or("", String::as_str));
        for (name, cell) in header.iter().zip(row.iter()).skip(1) {
            if !cell.is_empty() {
                let text = format!("{CODE_INDENT}{name}: {cell}");
                wrap(&text, width, CODE_INDENT.len()).iter().for_each(|line| push_line(out, line));
            }
        }
    }
}

fn is_separator(row: &[String]) -> bool {
    row.iter().all(|cell| !cell.is_empty() && cell.chars().all(|c| matches!(c, '-' | ':')))
}

fn count(text: &str) -> usize {
    text.chars().count()
}

fn longest_word(text: &str) -> usize {
    text.split(' ').map(count).max().unwrap_or(0)
}

/// Breaks a text into lines at its spaces. All but the first have `indent` spaces before them. A word that
/// is longer than a line stays whole.
fn wrap(text: &str, width: usize, indent: usize) -> Vec<String> {
    let start = text.len() - text.trim_start().len();
    let mut lines = vec![" ".repeat(start)];
    let mut is_empty = true;
    for word in text.split_whitespace() {
        let line_width = lines.last().map_or(0, |line| count(line));
        if !is_empty && line_width + 1 + count(word) > width {
            lines.push(" ".repeat(indent));
            is_empty = true;
        }
        if let Some(line) = lines.last_mut() {
            if !is_empty {
                line.push(' ');
            }
            line.push_str(word);
            is_empty = false;
        }
    }
    lines
}

/// A text without anchors, bold marks and the targets of links. Code spans keep their text and marks.
fn plain(text: &str) -> String {
    let mut out = String::new();
    for (index, part) in text.split('`').enumerate() {
        if index > 0 {
            out.push('`');
        }
        match index % 2 {
            0 => out.push_str(&part.replace("**", "")),
            _ => out.push_str(&part.replace("](", "]\u{2}(")),
        }
    }
    while let Some((start, end)) = find_between(&out, "<a ", "</a>") {
        out.replace_range(start..end, "");
    }
    while let Some((start, end)) = find_between(&out, "](", ")") {
        let Some(open) = find_open_bracket(&out[..start]) else { break };
        let target = &out[start + 2..end - 1];
        // An address elsewhere is all that a reader has of such a link.
        let address = if target.contains("://") { format!(" ({target})") } else { String::new() };
        let label = &out[open + 1..start];
        let replacement = match target == label {
            true => label.to_owned(),
            false => format!("{label}{address}"),
        };
        out.replace_range(open..end, &replacement);
    }
    out.replace('\u{2}', "")
}

/// The place of the bracket that a `]` after this text closes.
fn find_open_bracket(text: &str) -> Option<usize> {
    let mut depth = 0;
    text.char_indices().rev().find_map(|(index, c)| {
        depth += match c {
            ']' => 1,
            '[' => -1,
            _ => 0,
        };
        (depth < 0).then_some(index)
    })
}

fn find_between(text: &str, open: &str, close: &str) -> Option<(usize, usize)> {
    let start = text.find(open)?;
    let end = start + text[start..].find(close)? + close.len();
    Some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paragraph_and_a_list_item_are_wrapped() {
        let page = "One two\nthree **four** [five](a.md#b).\n\n- six seven\n  eight\n- nine\n";
        let expected = "One two three\nfour five.\n\n- six seven\n  eight\n- nine\n";
        assert_eq!(render(page, 13), expected);
    }

    #[test]
    fn a_table_fits_the_width_and_its_cells_are_wrapped() {
        let page =
            "| key | meaning |\n|---|---|\n| `a\\|b` | [one](x.md) two three four five six |\n";
        let expected = "key    meaning\n-----  ------------------------\n\
                        `a|b`  one two three four five\n       six\n";
        assert_eq!(render(page, 31), expected);
    }

    #[test]
    fn a_table_that_is_too_wide_becomes_a_list() {
        let page = "| key | meaning |\n|---|---|\n| `a.long.key` | one two three four |\n";
        assert_eq!(render(page, 20), "`a.long.key`\n    meaning: one two\n    three four\n");
    }

    #[test]
    fn the_label_of_a_link_may_have_brackets() {
        let line = "see [`[sources.NAME]`](#sourcesname), [Senders](senders.md)\n";
        assert_eq!(render(line, 80), "see `[sources.NAME]`, Senders\n");
    }

    #[test]
    fn code_keeps_its_lines_and_its_brackets() {
        assert_eq!(render("```sh\nls  [a](b)\n```\n", 5), "    ls  [a](b)\n");
        assert_eq!(render("the key `.a[](x)` in\n", 80), "the key `.a[](x)` in\n");
        assert_eq!(render("[rustup](https://rustup.rs)\n", 80), "rustup (https://rustup.rs)\n");
    }
}
