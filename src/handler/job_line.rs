//! One job as one line of JSON: what a process in the modes `stream` and `batch` reads.
//!
//! A line ends where it is meant to end, for every reader: what is a line end outside of texts
//! becomes a space, and U+2028 and U+2029, which Node's `readline` takes for line ends, are escaped.
//! All else of a body is byte for byte as it came, less a byte order mark before JSON.

use std::borrow::Cow;
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Task;
use crate::domain::Headers;
use crate::process::InputSource;
use crate::{clock, json};

/// More than the line of a small event usually has, its body apart.
const USUAL_BYTES: usize = 1024;

/// The line of a job, with its end.
pub fn encode(task: &Task) -> Vec<u8> {
    let mut line = Vec::with_capacity(USUAL_BYTES + task.input.len() + task.input.len() / 3);
    write(&mut line, task);
    line
}

fn write(line: &mut Vec<u8>, task: &Task) {
    let event = &task.event;
    // Writing into memory can't fail.
    let _ = write!(line, r#"{{"job":{},"event":{},"item":"#, task.claim.job, event.id);
    let _ = match task.item {
        Some(number) => write!(line, "{number}"),
        None => write!(line, "null"),
    };
    let _ = write!(line, r#","attempt":{}"#, task.claim.attempt);
    text(line, "source", Some(&event.source));
    text(line, "received_at", Some(&clock::format_rfc3339(event.received_at_ms)));
    line.extend_from_slice(br#","headers":"#);
    headers(line, &event.headers);
    text(line, "query", event.query.as_deref());
    text(line, "ip", Some(event.ip.as_str()).filter(|ip| !ip.is_empty()));
    text(line, "idempotency_key", Some(&task.key));
    body(line, &task.input);
    line.extend_from_slice(b"}");
    escape_separators(line);
    line.push(b'\n');
}

fn text(line: &mut Vec<u8>, name: &str, value: Option<&str>) {
    let _ = write!(line, r#","{name}":"#);
    let _ = serde_json::to_writer(line, &value);
}

fn body(line: &mut Vec<u8>, body: &[u8]) {
    if json::validate(body).is_ok() {
        line.extend_from_slice(br#","body":"#);
        let body = json::without_mark(body);
        // No text of valid JSON holds one.
        let is_end = |byte| matches!(byte, b'\n' | b'\r');
        line.extend(body.iter().map(|&byte| if is_end(byte) { b' ' } else { byte }));
    } else {
        let _ = write!(line, r#","body_base64":"{}""#, STANDARD.encode(body));
    }
}

/// U+2028 and U+2029 can stand nowhere in JSON but in texts.
fn escape_separators(line: &mut Vec<u8>) {
    let is_one = |at: &[u8]| matches!(at, [0xe2, 0x80, 0xa8 | 0xa9, ..]);
    if !line.contains(&0xe2) || !line.windows(3).any(is_one) {
        return;
    }
    let (mut left, mut escaped) = (line.as_slice(), Vec::with_capacity(line.len() + 64));
    while let Some((&first, rest)) = left.split_first() {
        if is_one(left) {
            let _ = write!(escaped, "\\u20{:02x}", left[2] - 0x80);
            left = &left[3..];
        } else {
            escaped.push(first);
            left = rest;
        }
    }
    *line = escaped;
}

/// A JSON object: names in lower case, repeated ones joined with `", "`.
pub fn headers(line: &mut Vec<u8>, headers: &Headers) {
    let mut all: Vec<&(String, Vec<u8>)> = headers.0.iter().collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    line.push(b'{');
    for (number, same) in all.chunk_by(|a, b| a.0 == b.0).enumerate() {
        if number > 0 {
            line.push(b',');
        }
        let values: Vec<Cow<'_, str>> =
            same.iter().map(|(_, value)| String::from_utf8_lossy(value)).collect();
        let _ = serde_json::to_writer(&mut *line, &same[0].0);
        line.push(b':');
        let _ = serde_json::to_writer(&mut *line, &values.join(", "));
    }
    line.push(b'}');
}

/// The lines of many jobs, each made when the one before it was read.
pub struct JobLines<'a> {
    left: std::slice::Iter<'a, Task>,
    line: Vec<u8>,
    written: usize,
}

impl<'a> JobLines<'a> {
    pub fn new(tasks: &'a [Task]) -> Self {
        Self { left: tasks.iter(), line: Vec::new(), written: 0 }
    }
}

impl InputSource for JobLines<'_> {
    fn remaining(&mut self) -> &[u8] {
        if self.written == self.line.len()
            && let Some(task) = self.left.next()
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
    use crate::handler::tests::sample;

    fn line(body: &[u8]) -> String {
        String::from_utf8(encode(&Task { input: Arc::from(body), ..sample(|_| {}) })).unwrap()
    }

    const HEAD: &str = "{\"job\":7,\"event\":42,\"item\":null,\"attempt\":3,\
        \"source\":\"paminga\",\"received_at\":\"2026-11-18T11:06:40.123Z\",\
        \"headers\":{\"content-type\":\"text/plain\",\"x-a\":\"1, say \\\"2\\\"\",\
        \"x-raw\":\"\u{fffd}\"},\"query\":null,\"ip\":\"192.0.2.7\",\"idempotency_key\":\"the-key\",";

    /// What stands for the body.
    #[track_caller]
    fn check(body: &[u8], expected: &str) {
        assert_eq!(line(body), format!("{HEAD}{expected}}}\n"));
    }

    #[test]
    fn a_body_that_is_json_stands_there_byte_for_byte() {
        check(b"{\"b\":1.50,\"a\":1e999,\"a\":[ ]}", "\"body\":{\"b\":1.50,\"a\":1e999,\"a\":[ ]}");
        check(b"0", "\"body\":0");
        check(b" null\t", "\"body\": null\t");
        // A byte order mark could not stand there.
        check(b"\xef\xbb\xbf{\"a\":1}", "\"body\":{\"a\":1}");
        check("\"\u{e4}\\ud800\u{2027}\"".as_bytes(), "\"body\":\"\u{e4}\\ud800\u{2027}\"");
        let deep = "[".repeat(128) + &"]".repeat(128);
        check(deep.as_bytes(), &format!("\"body\":{deep}"));
    }

    #[test]
    fn what_any_reader_takes_for_a_line_end_is_none() {
        check(b"{\r\n\"a\":\n1\r}\n", "\"body\":{  \"a\": 1 } ");
        let separators = "[\"\u{2028}x\u{2029}\",\"\u{20a8}\"]";
        check(separators.as_bytes(), "\"body\":[\"\\u2028x\\u2029\",\"\u{20a8}\"]");
        let mut task = sample(|_| {});
        let query = Some("a=\n\u{2028}\0\"".to_owned());
        task.event = Arc::new(Event { query, ..(*task.event).clone() });
        let line = String::from_utf8(encode(&task)).unwrap();
        assert!(line.contains(r#""query":"a=\n\u2028\u0000\"","#), "{line}");
        assert_eq!(line.find('\n'), Some(line.len() - 1));
    }

    #[test]
    fn a_body_that_is_not_json_comes_as_base64() {
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
    fn an_item_has_its_number_and_a_query_is_there_where_there_was_one() {
        let mut task = Task { item: Some(5), ..sample(|_| {}) };
        let query = Some(String::new());
        task.event = Arc::new(Event { query, ..(*task.event).clone() });
        let line = String::from_utf8(encode(&task)).unwrap();
        assert!(line.contains(r#""item":5,"#) && line.contains(r#""query":"","#), "{line}");
    }
}
