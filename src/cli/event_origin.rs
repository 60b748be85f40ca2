//! Describes for `show` where an event from another machine came from, and how the job of `job.settled` ended.

use serde_json::Value as Json;

use super::output::escape_line;
use crate::domain::{Event, INTERNAL_SOURCE, JOB_SETTLED};
use crate::numbers::format_count;

/// The size of the largest body that is read. Events of type `job.settled` are smaller, unless a `detail` is huge.
const MAX_BODY_BYTES: usize = 256 * 1024;

/// Returns the lines about an event with an origin key: where it came from, and what its body reports. Returns no
/// lines without a key, because any sender by HTTP may send these headers.
pub fn describe_origin(event: &Event) -> Vec<String> {
    let Some(key) = &event.origin_key else { return Vec::new() };
    let lines = [Some(describe_sender(event, key)), describe_settled_job(event)];
    lines.into_iter().flatten().map(|line| escape_line(&line)).collect()
}

fn describe_sender(event: &Event, key: &str) -> String {
    let header = |name: &str| {
        let value = event.headers.get(name).filter(|value| !value.is_empty());
        value.map(|value| String::from_utf8_lossy(value).into_owned())
    };
    let (number, source) = (header("hooktrail-event"), header("hooktrail-source"));
    let (Some(number), Some(source)) = (number, source) else {
        return format!("origin key: {key}");
    };
    let details = [
        ("handler", "hooktrail-handler"),
        ("item", "hooktrail-item"),
        ("received", "hooktrail-received-at"),
        ("client", "hooktrail-ip"),
    ];
    let mut line = format!("from: event {number} of source {source} on another machine");
    for (word, name) in details {
        if let Some(value) = header(name) {
            line += &format!(", {word} {value}");
        }
    }
    line + &format!(", key {key}")
}

/// Returns how the job ended that an event of type `job.settled` reports.
fn describe_settled_job(event: &Event) -> Option<String> {
    let is_from_here = event.source == INTERNAL_SOURCE;
    let is_forwarded = event.headers.get("hooktrail-source") == Some(INTERNAL_SOURCE.as_bytes());
    if !(is_from_here || is_forwarded) || event.body.len() > MAX_BODY_BYTES {
        return None;
    }
    let body: Json = serde_json::from_slice(&event.body).ok()?;
    let text = |name: &str| body.get(name).and_then(Json::as_str);
    let number = |name: &str| body.get(name).and_then(Json::as_u64);
    if text("type") != Some(JOB_SETTLED) {
        return None;
    }
    let mut line = format!("outcome: job {} of handler {}", number("job")?, text("handler")?);
    line += &format!(" for event {} of source {}", number("event")?, text("source")?);
    if let Some(item) = number("item") {
        line += &format!(", item {item}");
    }
    line += match text("state")? {
        "succeeded" => " succeeded",
        "dead" => " is dead",
        "cancelled" => " was cancelled",
        _ => return None,
    };
    line += &format!(" at {}", text("at")?);
    if let Some(attempts) = number("attempts") {
        let count = format_count(i64::try_from(attempts).unwrap_or(i64::MAX), "attempt");
        line += &format!(" after {count}");
    }
    if let Some(detail) = text("detail") {
        line += &format!(": {detail}");
    }
    Some(line)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::{EventId, Headers};

    fn event(headers: &[(&str, &str)], body: &str) -> Event {
        let header = |(name, value): &(&str, &str)| ((*name).to_owned(), value.as_bytes().to_vec());
        Event {
            id: EventId(1),
            uid: [0; 16],
            source: "paminga".into(),
            received_at_ms: 0,
            method: "POST".into(),
            path: "/".into(),
            query: None,
            ip: String::new(),
            client: None,
            origin_key: Some("the-key".into()),
            headers: Headers(headers.iter().map(header).collect()),
            body: Arc::from(body.as_bytes()),
            removed_bytes: None,
            expression_errors: None,
        }
    }

    const HEADERS: [(&str, &str); 5] = [
        ("hooktrail-source", "paminga"),
        ("hooktrail-event", "42"),
        ("hooktrail-handler", "forward"),
        ("hooktrail-received-at", "2026-11-23T10:00:00.123Z"),
        ("hooktrail-ip", "192.0.2.1"),
    ];

    #[test]
    fn an_event_of_another_machine_names_its_event_there() {
        let text = "from: event 42 of source paminga on another machine, handler forward, \
                    received 2026-11-23T10:00:00.123Z, client 192.0.2.1, key the-key";
        assert_eq!(describe_origin(&event(&HEADERS, "{}")), [text]);
        let bare = event(&[("hooktrail-source", "\u{1b}[31m"), ("hooktrail-event", "1")], "");
        let text = r"from: event 1 of source \u{1b}[31m on another machine, key the-key";
        assert_eq!(describe_origin(&bare), [text]);
        assert_eq!(describe_origin(&event(&[], "{}")), ["origin key: the-key"]);
    }

    #[test]
    fn headers_of_an_event_without_an_origin_key_are_not_believed() {
        let event = Event { origin_key: None, ..event(&HEADERS, "{}") };
        assert_eq!(describe_origin(&event), [""; 0]);
    }

    #[test]
    fn a_settled_job_is_described_in_words() {
        let body = |state: &str, item: &str| {
            format!(
                r#"{{"type":"job.settled","at":"2026-11-24T10:11:29.295Z","source":"a","handler":"crm","event":7,"job":12,"item":{item},"attempts":1,"detail":"exit 0","count":1,"state":"{state}"}}"#
            )
        };
        let describe = |headers: &[(&str, &str)], body: &str| {
            let event = Event { source: INTERNAL_SOURCE.into(), ..event(headers, body) };
            describe_origin(&event).into_iter().nth(1)
        };
        let rest = "at 2026-11-24T10:11:29.295Z after 1 attempt: exit 0";
        let job = "outcome: job 12 of handler crm for event 7 of source a";
        for (state, words) in
            [("succeeded", "succeeded"), ("dead", "is dead"), ("cancelled", "was cancelled")]
        {
            let found = describe(&[], &body(state, "null"));
            assert_eq!(found, Some(format!("{job} {words} {rest}")));
        }
        let found = describe(&[], &body("dead", "3"));
        assert_eq!(found, Some(format!("{job}, item 3 is dead {rest}")));
        for other in ["", "{}", r#"{"type":"job.dead"}"#, &body("odd", "null")] {
            assert_eq!(describe(&[], other), None, "{other}");
        }
        // The event of another source only looks like one.
        let webhook = event(&HEADERS, &body("dead", "null"));
        assert_eq!(describe_origin(&webhook).len(), 1);
        let forwarded = event(
            &[("hooktrail-source", "hooktrail"), ("hooktrail-event", "9")],
            &body("dead", "null"),
        );
        assert_eq!(describe_origin(&forwarded).len(), 2);
    }
}
