//! Control messages of a command on file descriptor 3.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::detail_text::{MAX_DETAIL_CHARS, one_line};
use crate::config;
use crate::process::ControlLine;

/// The control messages of one attempt.
#[derive(Debug, Default)]
pub struct ControlMessages {
    /// The attempt is deferred, for this duration or for the delay of the backoff.
    pub deferred: Option<Option<Duration>>,
    /// All other lines, up to the length of a `detail`.
    pub free_text: String,
}

impl ControlMessages {
    /// Handles a line of a process that runs one attempt.
    pub fn on_line(&mut self, line: &[u8]) -> ControlLine {
        let message = parse_object(line);
        let deferred = message.get("outcome") == Some(&json!("deferred"));
        let value = message.get("retry_after").filter(|value| !value.is_null());
        let wait = value.and_then(parse_retry_after);
        if deferred {
            self.deferred = Some(wait);
        }
        // An invalid `retry_after` becomes part of the detail, and the delay of the backoff
        // applies.
        let is_valid = deferred && (value.is_none() || wait.is_some());
        if is_valid && !is_heartbeat(&message) {
            ControlLine::Message
        } else {
            self.on_line_without_deferral(line)
        }
    }

    /// Handles a line of a process that responds on its stdout. A heartbeat has its effect. A
    /// deferral is free text.
    pub fn on_line_without_deferral(&mut self, line: &[u8]) -> ControlLine {
        if is_heartbeat(&parse_object(line)) {
            return ControlLine::Heartbeat;
        }
        if self.free_text.len() < MAX_DETAIL_CHARS {
            let gap = if self.free_text.is_empty() { "" } else { " " };
            self.free_text.push_str(gap);
            self.free_text.push_str(&one_line(line));
        }
        ControlLine::Message
    }
}

fn parse_object(line: &[u8]) -> Map<String, Value> {
    serde_json::from_slice(line).unwrap_or_default()
}

fn is_heartbeat(message: &Map<String, Value>) -> bool {
    message.get("alive") == Some(&json!(true))
}

/// Parses a `retry_after`: text such as `"10m"`, or a number of seconds.
pub fn parse_retry_after(value: &Value) -> Option<Duration> {
    match value {
        Value::String(text) => config::parse_duration(text),
        Value::Number(secs) => Duration::try_from_secs_f64(secs.as_f64()?).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_descriptor_3_are_heartbeats_deferrals_or_free_text() {
        let check = |lines: &[&str], deferred: Option<Option<u64>>, free_text: &str| {
            let mut control = ControlMessages::default();
            let alive = lines
                .iter()
                .filter(|line| control.on_line(line.as_bytes()) == ControlLine::Heartbeat)
                .count();
            assert_eq!(
                control.deferred,
                deferred.map(|wait| wait.map(Duration::from_secs)),
                "{lines:?}"
            );
            assert_eq!(control.free_text, free_text, "{lines:?}");
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
    fn in_modes_that_respond_on_stdout_only_heartbeats_count() {
        let mut control = ControlMessages::default();
        assert_eq!(control.on_line_without_deferral(br#"{"alive":true}"#), ControlLine::Heartbeat);
        let deferred = r#"{"outcome":"deferred"}"#;
        assert_eq!(control.on_line_without_deferral(deferred.as_bytes()), ControlLine::Message);
        assert_eq!((control.deferred, control.free_text.as_str()), (None, deferred));
    }
}
