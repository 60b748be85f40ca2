//! `detail`: one line of bounded length that describes an attempt.

use super::error_line;
use crate::domain::Outcome;

/// The maximum length. A `detail` is one line in a list.
pub const MAX_DETAIL_CHARS: usize = 500;

/// Joins the parts of a detail, the most important first. Empty parts are left out.
pub fn join(parts: &[&str]) -> String {
    let non_empty = parts.iter().copied().filter(|part| !part.is_empty());
    non_empty.collect::<Vec<_>>().join(": ").chars().take(MAX_DETAIL_CHARS).collect()
}

/// Returns the line of stderr that describes the attempt: its error, or the last line of a success.
pub fn stderr_line(stderr: &[u8], outcome: Outcome) -> String {
    match outcome {
        Outcome::Succeeded | Outcome::Deferred => last_line(stderr),
        Outcome::Failed | Outcome::TimedOut | Outcome::Interrupted => {
            one_line(error_line::find(stderr))
        }
    }
}

/// Returns the last line of stderr that is not empty.
fn last_line(stderr: &[u8]) -> String {
    let lines = stderr.split(|&byte| byte == b'\n' || byte == b'\r');
    lines.rev().map(one_line).find(|line| !line.is_empty()).unwrap_or_default()
}

/// Converts bytes to one line of text without control characters, which could move the cursor of a
/// terminal.
pub fn one_line(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(MAX_DETAIL_CHARS * 4)];
    let text = String::from_utf8_lossy(bytes);
    text.replace(char::is_control, " ").trim().to_owned()
}

/// Returns the start of a response as one line, with its white space collapsed.
pub fn first_words(answer: &[u8]) -> String {
    let text = one_line(answer);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
