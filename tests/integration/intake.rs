//! Requests that the server accepts, and how it stores them.

use rusqlite::types::Value;

use crate::support::client::parse_response;
use crate::support::server::{Scenario, scenario};

const FORM: &[u8] = include_bytes!("../payloads/paminga-form.json");
const CAMPAIGN: &[u8] = include_bytes!("../payloads/paminga-campaign.json");

/// Appends each line to a file and answers it.
const STREAM: &str = r#"while read -r line; do
  printf '%s\n' "$line" >> out
  job=${line#*:}
  printf '{"job":%s,"outcome":"succeeded"}\n' "${job%%,*}"
done"#;

/// A source without verification, and a handler that copies its input to its output.
fn unverified_source() -> Scenario {
    scenario().source("a", "").handler("h", "", "cat")
}

#[test]
fn a_body_reaches_the_handler_byte_for_byte() {
    let server = unverified_source().start();
    for (number, body) in [(1, FORM), (2, CAMPAIGN)] {
        let response = server.post("/hooks/a", body);
        assert_eq!((response.status, response.body), (202, format!(r#"{{"event":{number}}}"#)));
    }
    server.until("select count(*) from outcomes where outcome = 'succeeded'", "2");
    let rows = server.rows(
        "select e.body, a.stdout from events e join attempts a on a.job = e.first_job order by e.id",
    );
    for (row, body) in rows.iter().zip([FORM, CAMPAIGN]) {
        assert_eq!(row[..], [Value::Blob(body.to_vec()), Value::Blob(body.to_vec())]);
    }
}

#[test]
fn any_bytes_are_stored_exactly() {
    let server = unverified_source().start();
    for body in [&b""[..], b"\0\xff\xfe{", b"{\"a\":", "ä\r\n".as_bytes()] {
        let event = server.post("/hooks/a?x=%00&&=1", body).event_id();
        let row = &server.rows(&format!("select body, query from events where id = {event}"))[0];
        assert_eq!(row[0], Value::Blob(body.to_vec()));
        assert_eq!(row[1], Value::Text("x=%00&&=1".into()));
    }
}

#[test]
fn repeated_headers_the_method_and_the_path_are_stored() {
    let server = scenario().source("a", "methods = [\"PUT\", \"POST\"]").start();
    let response = server.request("PUT", "/hooks/a", "X-Tag: one\nX-Tag: two", b"x");
    assert_eq!(response.status, 202);
    let row = &server.rows("select method, path, headers from events")[0];
    let Value::Blob(headers) = &row[2] else { panic!("{row:?}") };
    let headers = String::from_utf8_lossy(headers);
    assert!(headers.contains("x-tag: one\n") && headers.contains("x-tag: two\n"), "{headers}");
    assert_eq!(row[..2], [Value::Text("PUT".into()), Value::Text("/hooks/a".into())]);
}

#[test]
fn a_chunked_body_and_expect_continue_are_accepted() {
    let server = unverified_source().start();
    let chunked = "POST /hooks/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                   Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    assert_eq!(
        parse_response(&server.send_raw(chunked.as_bytes())).map(|response| response.status),
        Some(202)
    );
    let expecting = server.request("POST", "/hooks/a", "Expect: 100-continue", b"abcde");
    assert_eq!(expecting.status, 202);
    assert_eq!(server.column("select body from events"), ["abcde", "abcde"]);
}

#[test]
fn a_path_parameter_matches_one_segment_and_a_fixed_path_wins() {
    let server = scenario()
        .source("named", "path = \"/t/{tenant}\"")
        .source("fixed", "path = \"/t/us\"")
        .start();
    for (path, status) in [("/t/us", 202), ("/t/a%20b", 202), ("/t/", 404), ("/t/a/b", 404)] {
        assert_eq!(server.post(path, "x").status, status, "{path}");
    }
    assert_eq!(server.column("select source from trail"), ["fixed", "named"]);
}

#[test]
fn the_configured_response_of_a_source_is_sent() {
    let keys = r#"respond = { status = 201, body = "ok", content_type = "text/plain" }"#;
    let server = scenario().source("a", keys).start();
    let response = server.post("/hooks/a", "x");
    assert_eq!((response.status, response.body.as_str()), (201, "ok"));
    assert_eq!(response.header("content-type"), Some("text/plain"));
}

#[test]
fn a_byte_order_mark_is_skipped_in_expressions_and_stored() {
    let keys = "accept = \"json\"\ndedupe = { jq = '.id' }";
    let server = scenario()
        .source("a", keys)
        .handler("h", "mode = \"stream\"\nwhen = '.id == 1'", STREAM)
        .start();
    let body = b"\xef\xbb\xbf{\"id\":1}";
    let first = server.post("/hooks/a", body);
    assert_eq!(first.status, 202, "{}", first.body);
    assert!(server.post("/hooks/a", b"{\"id\":1}").body.contains("duplicate"));
    assert_eq!(server.post("/hooks/a", b"\xef\xbb\xbf\xef\xbb\xbf{\"id\":1}").status, 400);
    server.until("select job_state from outcomes", "succeeded");
    assert!(
        server.read_file("out").contains("\"body\":{\"id\":1}}"),
        "{}",
        server.read_file("out")
    );
    assert_eq!(server.value("select hex(body) from events"), hex::encode_upper(body));
}
