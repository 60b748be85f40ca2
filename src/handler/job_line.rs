//! Encodes a job as one line of JSON, which a process reads in the modes `stream` and `batch`.
//!
//! Every reader must see exactly one line. Line ends outside of JSON strings become spaces. U+2028
//! and U+2029 are escaped, because Node's `readline` takes them for line ends. The rest of a body
//! is unchanged, except that a byte order mark before JSON is removed.

use std::borrow::Cow;
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Task;
use crate::domain::Headers;
use crate::process::InputSource;
use crate::{clock, json};

/// The initial capacity of a line without its body. Lines of small events need less.
const USUAL_BYTES: usize = 1024;

/// Encodes a job as a line, with the newline.
pub fn encode(task: &Task) -> Vec<u8> {
    let mut line = Vec::with_capacity(USUAL_BYTES + task.input.len() + task.input.len() / 3);
    write_job(&mut line, task);
    line
}

fn write_job(line: &mut Vec<u8>, task: &Task) {
    let event = &task.event;
    // A write into memory can't fail.
    let _ = write!(line, r#"{{"job":{},"event":{},"item":"#, task.claim.job, event.id);
    let _ = match task.item {
        Some(number) => write!(line, "{number}"),
        None => write!(line, "null"),
    };
    let _ = write!(line, r#","attempt":{}"#, task.claim.attempt);
    write_text(line, "source", Some(&event.source));
    write_text(line, "received_at", Some(&clock::format_rfc3339(event.received_at_ms)));
    line.extend_from_slice(br#","headers":"#);
    write_headers(line, &event.headers);
    write_text(line, "query", event.query.as_deref());
    write_text(line, "ip", Some(event.ip.as_str()).filter(|ip| !ip.is_empty()));
    write_text(line, "client", event.client.as_deref());
    write_text(line, "idempotency_key", Some(&task.idempotency_key));
    write_body(line, &task.input);
    line.extend_from_slice(b"}");
    escape_separators(line);
    line.push(b'\n');
}

fn write_text(line: &mut Vec<u8>, name: &str, value: Option<&str>) {
    let _ = write!(line, r#","{name}":"#);
    let _ = serde_json::to_writer(line, &value);
}

fn write_body(line: &mut Vec<u8>, body: &[u8]) {
    if json::validate(body).is_ok() {
        line.extend_from_slice(br#","body":"#);
        let body = json::without_mark(body);
        // JSON strings can't contain line ends.
        let is_end = |byte| matches!(byte, b'\n' | b'\r');
        line.extend(body.iter().map(|&byte| if is_end(byte) { b' ' } else { byte }));
    } else {
        let _ = write!(line, r#","body_base64":"{}""#, STANDARD.encode(body));
    }
}

/// Escapes U+2028 and U+2029. In valid JSON, both occur only within strings.
fn escape_separators(line: &mut Vec<u8>) {
    let is_separator = |at: &[u8]| matches!(at, [0xe2, 0x80, 0xa8 | 0xa9, ..]);
    if !line.contains(&0xe2) || !line.windows(3).any(is_separator) {
        return;
    }
    let (mut remaining, mut escaped) = (line.as_slice(), Vec::with_capacity(line.len() + 64));
    while let Some((&first, rest)) = remaining.split_first() {
        if is_separator(remaining) {
            let _ = write!(escaped, "\\u20{:02x}", remaining[2] - 0x80);
            remaining = &remaining[3..];
        } else {
            escaped.push(first);
            remaining = rest;
        }
    }
    *line = escaped;
}

/// Writes the headers as a JSON object. Names are in lower case, and the values of repeated ones
/// are joined with `", "`.
pub fn write_headers(line: &mut Vec<u8>, headers: &Headers) {
    let mut sorted: Vec<&(String, Vec<u8>)> = headers.0.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    line.push(b'{');
    for (index, group) in sorted.chunk_by(|a, b| a.0 == b.0).enumerate() {
        if index > 0 {
            line.push(b',');
        }
        let values: Vec<Cow<'_, str>> =
            group.iter().map(|(_, value)| String::from_utf8_lossy(value)).collect();
        let _ = serde_json::to_writer(&mut *line, &group[0].0);
        line.push(b':');
        let _ = serde_json::to_writer(&mut *line, &values.join(", "));
    }
    line.push(b'}');
}

/// The lines of many jobs. Each line is encoded when the one before it has been written.
pub struct JobLines<'a> {
    remaining: std::slice::Iter<'a, Task>,
    line: Vec<u8>,
    written: usize,
}

impl<'a> JobLines<'a> {
    pub fn new(tasks: &'a [Task]) -> Self {
        Self { remaining: tasks.iter(), line: Vec::new(), written: 0 }
    }
}

impl InputSource for JobLines<'_> {
    fn remaining(&mut self) -> &[u8] {
        if self.written == self.line.len()
            && let Some(task) = self.remaining.next()
        {
            (self.line, self.written) = (encode(task), 0);
        }
        &self.line[self.written..]
    }

    fn advance(&mut self, count: usize) {
        self.written += count;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::Event;
    use crate::handler::tests::sample_task;

    fn line(body: &[u8]) -> String {
        String::from_utf8(encode(&Task { input: Arc::from(body), ..sample_task(|_| {}) })).unwrap()
    }

    const LINE_START: &str = "{\"job\":7,\"event\":42,\"item\":null,\"attempt\":3,\
        \"source\":\"paminga\",\"received_at\":\"2026-11-18T11:06:40.123Z\",\
        \"headers\":{\"content-type\":\"text/plain\",\"x-a\":\"1, say \\\"2\\\"\",\
        \"x-raw\":\"\u{fffd}\"},\"query\":null,\"ip\":\"192.0.2.7\",\
        \"client\":\"CN=paminga,O=\\\"P\\\"\",\"idempotency_key\":\"the-key\",";

    /// Checks how a body is encoded.
    #[track_caller]
    fn check(body: &[u8], expected: &str) {
        assert_eq!(line(body), format!("{LINE_START}{expected}}}\n"));
    }

    #[test]
    fn a_json_body_is_written_byte_for_byte() {
        check(b"{\"b\":1.50,\"a\":1e999,\"a\":[ ]}", "\"body\":{\"b\":1.50,\"a\":1e999,\"a\":[ ]}");
        check(b"0", "\"body\":0");
        check(b" null\t", "\"body\": null\t");
        // A byte order mark is not valid within the line.
        check(b"\xef\xbb\xbf{\"a\":1}", "\"body\":{\"a\":1}");
        check("\"\u{e4}\\ud800\u{2027}\"".as_bytes(), "\"body\":\"\u{e4}\\ud800\u{2027}\"");
        let deep = "[".repeat(128) + &"]".repeat(128);
        check(deep.as_bytes(), &format!("\"body\":{deep}"));
    }

    #[test]
    fn line_separators_are_replaced_or_escaped() {
        check(b"{\r\n\"a\":\n1\r}\n", "\"body\":{  \"a\": 1 } ");
        let separators = "[\"\u{2028}x\u{2029}\",\"\u{20a8}\"]";
        check(separators.as_bytes(), "\"body\":[\"\\u2028x\\u2029\",\"\u{20a8}\"]");
        let mut task = sample_task(|_| {});
        let query = Some("a=\n\u{2028}\0\"".to_owned());
        task.event = Arc::new(Event { query, ..(*task.event).clone() });
        let line = String::from_utf8(encode(&task)).unwrap();
        assert!(line.contains(r#""query":"a=\n\u2028\u0000\"","#), "{line}");
        assert_eq!(line.find('\n'), Some(line.len() - 1));
    }

    #[test]
    fn a_body_that_is_not_json_is_written_as_base64() {
        check(b"the body", "\"body_base64\":\"dGhlIGJvZHk=\"");
        check(b"", "\"body_base64\":\"\"");
        check(b"\xff\n", "\"body_base64\":\"/wo=\"");
        check(b"[\"\xff\"]", "\"body_base64\":\"WyL/Il0=\"");
        check(b"{}{}", "\"body_base64\":\"e317fQ==\"");
        check(b"NaN", "\"body_base64\":\"TmFO\"");
        check(b"\xef\xbb\xbfx", "\"body_base64\":\"77u/eA==\"");
        let deeper = "[".repeat(129) + &"]".repeat(129);
        check(deeper.as_bytes(), &format!("\"body_base64\":\"{}\"", STANDARD.encode(&deeper)));
    }

    #[test]
    fn a_line_has_null_for_what_an_event_lacks() {
        let mut task = sample_task(|_| {});
        let event = Event { ip: String::new(), client: None, ..(*task.event).clone() };
        task.event = Arc::new(event);
        let line = String::from_utf8(encode(&task)).unwrap();
        assert!(line.contains(r#""item":null,"#), "{line}");
        assert!(line.contains(r#""query":null,"ip":null,"client":null,"#), "{line}");
    }

    #[test]
    fn an_item_has_its_number_and_an_empty_query_is_empty_text() {
        let mut task = Task { item: Some(5), ..sample_task(|_| {}) };
        let query = Some(String::new());
        task.event = Arc::new(Event { query, ..(*task.event).clone() });
        let line = String::from_utf8(encode(&task)).unwrap();
        assert!(line.contains(r#""item":5,"#) && line.contains(r#""query":"","#), "{line}");
    }
}
