//! What a command says on file descriptor 3, and how it asks for a wait.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::detail_text::{DETAIL_CHARS_MAX, one_line};
use crate::config;
use crate::process::ControlLine;

/// The lines of one attempt.
#[derive(Debug, Default)]
pub struct ControlMessages {
    /// It is to be tried again later, after this wait or the backoff's own.
    pub deferred: Option<Option<Duration>>,
    /// All other lines, as much as fits into `detail`.
    pub free_text: String,
}

impl ControlMessages {
    /// A line of a process that is one attempt.
    pub fn on_line(&mut self, line: &[u8]) -> ControlLine {
        let said = object(line);
        let deferred = said.get("outcome") == Some(&json!("deferred"));
        let asked = said.get("retry_after").filter(|asked| !asked.is_null());
        let wait = asked.and_then(wait);
        if deferred {
            self.deferred = Some(wait);
        }
        // A wait that is none is shown to whoever wrote it; the backoff's own is taken.
        let is_clear = deferred && (asked.is_none() || wait.is_some());
        if is_clear && !is_alive(&said) {
            ControlLine::Noted
        } else {
            self.on_line_answering_mode(line)
        }
    }

    /// A line of a process that answers on its stdout: nothing but a sign of life decides anything.
    pub fn on_line_answering_mode(&mut self, line: &[u8]) -> ControlLine {
        if is_alive(&object(line)) {
            return ControlLine::Alive;
        }
        if self.free_text.len() < DETAIL_CHARS_MAX {
            let gap = if self.free_text.is_empty() { "" } else { " " };
            self.free_text.push_str(gap);
            self.free_text.push_str(&one_line(line));
        }
        ControlLine::Noted
    }
}

fn object(line: &[u8]) -> Map<String, Value> {
    serde_json::from_slice(line).unwrap_or_default()
}

fn is_alive(said: &Map<String, Value>) -> bool {
    said.get("alive") == Some(&json!(true))
}

/// `"10m"`, or a number of seconds.
pub fn wait(asked: &Value) -> Option<Duration> {
    match asked {
        Value::String(text) => config::parse_duration(text),
        Value::Number(secs) => Duration::try_from_secs_f64(secs.as_f64()?).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_on_descriptor_3_is_understood() {
        let check = |lines: &[&str], deferred: Option<Option<u64>>, others: &str| {
            let mut notes = ControlMessages::default();
            let alive = lines
                .iter()
                .filter(|line| notes.on_line(line.as_bytes()) == ControlLine::Alive)
                .count();
            assert_eq!(
                notes.deferred,
                deferred.map(|wait| wait.map(Duration::from_secs)),
                "{lines:?}"
            );
            assert_eq!(notes.free_text, others, "{lines:?}");
            alive
        };
        assert_eq!(check(&[r#"{"alive":true}"#, r#"{ "alive" : true }"#], None, ""), 2);
        assert_eq!(check(&[r#"{"alive":false}"#], None, r#"{"alive":false}"#), 0);
        check(&[r#"{"outcome":"deferred","retry_after":"10m"}"#], Some(Some(600)), "");
        check(&[r#"{"outcome":"deferred","retry_after":90}"#], Some(Some(90)), "");
        check(&[r#"{"outcome":"deferred"}"#], Some(None), "");
        check(&[r#"{"outcome":"deferred","retry_after":null}"#], Some(None), "");
        let soon = r#"{"outcome":"deferred","retry_after":"soon"}"#;
        check(&[soon], Some(None), soon);
        check(
            &[r#"{"outcome":"deferred","retry_after":-1}"#],
            Some(None),
            "{\"outcome\":\"deferred\",\"retry_after\":-1}",
        );
        assert_eq!(check(&[r#"{"alive":true,"outcome":"deferred"}"#], Some(None), ""), 1);
        check(&["7 rows", "\u{1b}[1mdone\r", "{}", "[1"], None, "7 rows [1mdone {} [1");
        check(&[r#"{"outcome":"succeeded"}"#], None, r#"{"outcome":"succeeded"}"#);
    }

    #[test]
    fn where_answers_come_by_stdout_it_takes_signs_of_life_alone() {
        let mut notes = ControlMessages::default();
        assert_eq!(notes.on_line_answering_mode(br#"{"alive":true}"#), ControlLine::Alive);
        let deferred = r#"{"outcome":"deferred"}"#;
        assert_eq!(notes.on_line_answering_mode(deferred.as_bytes()), ControlLine::Noted);
        assert_eq!((notes.deferred, notes.free_text.as_str()), (None, deferred));
    }
}
