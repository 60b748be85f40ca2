//! Tests of the messages between the server and an evaluator.

use crate::domain::version_value::VersionValue;
use crate::expression::protocol::{EvaluationRequest, decode_request, encode_event, write_result};
use crate::expression::request::HandlerMatch;
use crate::expression::{
    EvaluationResult, EventContext, HandlerDecision, Items, KeySet, RawJobKeys,
};

/// A request as the evaluator receives it, without its length.
fn request_content(request: &EvaluationRequest<'_>, event: &EventContext<'_>) -> Vec<u8> {
    let encoded_event = encode_event(event);
    let message = [request.encode(&encoded_event), encoded_event].concat();
    let (length, content) = message.split_first_chunk().unwrap();
    assert_eq!(u32::from_le_bytes(*length) as usize, content.len());
    content.to_vec()
}

#[test]
fn a_request_arrives_as_it_was_sent_and_borrows_the_body() {
    let request = EvaluationRequest {
        dedupe: Some(".id"),
        handlers: vec![[None, Some(".[]"), None, Some(""), None, Some("ü")]],
        max_items: Some(7),
    };
    let params = [("name".to_owned(), "value".to_owned())];
    let event = EventContext {
        body: b"\xff{}",
        content_type: Some("text/plain"),
        source: "a",
        headers: &[("x", b"\xfe"), ("y", b"")],
        query: Some("q"),
        path: "/hooks/a",
        params: &params,
        ip: "::1",
        client: Some("CN=é"),
        received_at_ms: -1,
        event_id: Some(i64::MAX),
    };
    for (request, event) in
        [(request, event), (EvaluationRequest::default(), EventContext::default())]
    {
        let content = request_content(&request, &event);
        let expected = format!("{request:?} {event:?}");
        let decoded = decode_request(&content, |request, event| {
            let is_borrowed = content.as_ptr_range().contains(&event.body.as_ptr());
            (format!("{request:?} {event:?}"), is_borrowed || event.body.is_empty())
        });
        assert_eq!(decoded, Ok((expected, true)));
    }
}

#[test]
fn a_request_that_ends_too_soon_is_invalid() {
    let request = EvaluationRequest { dedupe: Some(".id"), ..EvaluationRequest::default() };
    let headers: [(&str, &[u8]); 1] = [("x", b"y")];
    let event = EventContext { body: b"{}", headers: &headers, ..EventContext::default() };
    let content = request_content(&request, &event);
    for length in 0..content.len() {
        assert!(decode_request(&content[..length], |_, _| ()).is_err(), "{length} bytes");
    }
}

#[test]
fn the_lists_of_a_result_follow_it_in_order() {
    let list = |texts: &[&str]| {
        let mut list = Items::default();
        for text in texts {
            list.memory.extend_from_slice(text.as_bytes());
            list.finish_item();
        }
        list
    };
    let version = Some(VersionValue::Number("1.50".to_owned()));
    let keys = KeySet::One(RawJobKeys { version, ..RawJobKeys::default() });
    let run = |items, keys| {
        HandlerDecision::Run(HandlerMatch { items, keys, key_errors: vec!["no".to_owned()] })
    };
    let mut result = EvaluationResult {
        dedupe: Err("why".to_owned()),
        handlers: vec![
            HandlerDecision::Skip,
            run(Some(list(&["1", "", "22"])), KeySet::Many(list(&["a", "bb", ""]))),
            HandlerDecision::failed(1, "reason".to_owned()),
            run(None, keys),
        ],
    };
    let mut sent = Vec::new();
    write_result(&mut result, &mut sent).unwrap();
    let mut messages = Vec::new();
    for bytes_to_follow in [0, 3, 3] {
        let (length, rest) = sent.split_first_chunk().unwrap();
        let (content, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        let (bytes, rest) = rest.split_at(bytes_to_follow);
        messages.push((content.to_vec(), bytes.to_vec()));
        sent = rest.to_vec();
    }
    assert!(sent.is_empty());
    let mut received: EvaluationResult = postcard::from_bytes(&messages[0].0).unwrap();
    assert_eq!(received.lists_mut().count(), 2);
    for (list, (ends, bytes)) in received.lists_mut().zip(&messages[1..]) {
        (list.ends, list.memory) = (postcard::from_bytes(ends).unwrap(), bytes.clone());
    }
    assert_eq!(format!("{received:?}"), format!("{result:?}"));
}
