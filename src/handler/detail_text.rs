//! `detail`: what an attempt is shown by, in one line of bounded length.

/// It is for a line on a screen.
pub const DETAIL_CHARS_MAX: usize = 500;

/// What there is to say, the decisive first; empty parts are left out.
pub fn join(parts: &[&str]) -> String {
    let said = parts.iter().copied().filter(|part| !part.is_empty());
    said.collect::<Vec<_>>().join(": ").chars().take(DETAIL_CHARS_MAX).collect()
}

/// The last line of a process's stderr that says something.
pub fn last_line(stderr: &[u8]) -> String {
    let lines = stderr.split(|&byte| byte == b'\n' || byte == b'\r');
    lines.rev().map(one_line).find(|line| !line.is_empty()).unwrap_or_default()
}

/// Text without anything that could move a cursor or end a line.
pub fn one_line(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(DETAIL_CHARS_MAX * 4)];
    let text = String::from_utf8_lossy(bytes);
    text.replace(char::is_control, " ").trim().to_owned()
}

/// The start of an answer in one line; gaps are one space wide, since answers are often laid out.
pub fn first_words(answer: &[u8]) -> String {
    let text = one_line(answer);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
