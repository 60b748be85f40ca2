//! The messages between the server and its evaluator processes, encoded by postcard. Both are the
//! same binary, so the format may change with any version.
//!
//! A message is its length in four bytes, little-endian, and its content. A request is one message:
//! the expressions and the event. A result is one message without its lists. For each list, a
//! message with the ends of its texts follows, and then the texts.

use std::io;

use serde::{Deserialize, Serialize};

use super::{EXPRESSION_KEYS, EvaluationResult, EventContext};

/// The expressions to evaluate for one event.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct EvaluationRequest<'a> {
    #[serde(borrow)]
    pub dedupe: Option<&'a str>,
    /// Those of a handler are in the order of [`EXPRESSION_KEYS`].
    #[serde(borrow)]
    pub handlers: Vec<[Option<&'a str>; EXPRESSION_KEYS.len()]>,
    /// `split` ends after this number of items; `None`: more than 100,000 are an error.
    pub max_items: Option<u32>,
}

/// An event with its headers and parameters, which the context only borrows.
type EventParts<'a> = (EventContext<'a>, Vec<(&'a str, &'a [u8])>, Vec<(String, String)>);

impl EvaluationRequest<'_> {
    /// Encodes the request, to which the caller appends the event.
    pub fn encode(&self, encoded_event: &[u8]) -> Vec<u8> {
        encode_message(self, encoded_event.len())
    }
}

/// Encodes an event. Writing to memory can't fail.
pub(super) fn encode_event(event: &EventContext<'_>) -> Vec<u8> {
    postcard::to_allocvec(&(event, event.headers, event.params)).unwrap_or_default()
}

/// Decodes the content of a request and passes it to `evaluate`.
pub(super) fn decode_request<T>(
    content: &[u8],
    evaluate: impl FnOnce(&EvaluationRequest<'_>, &EventContext<'_>) -> T,
) -> postcard::Result<T> {
    let (request, event) = postcard::take_from_bytes(content)?;
    let (event, headers, params): EventParts<'_> = postcard::from_bytes(event)?;
    Ok(evaluate(&request, &EventContext { headers: &headers, params: &params, ..event }))
}

pub(super) fn write_result(
    result: &mut EvaluationResult,
    to: &mut impl io::Write,
) -> io::Result<()> {
    to.write_all(&encode_message(result, 0))?;
    for list in result.lists_mut() {
        to.write_all(&encode_message(&list.ends, 0))?;
        to.write_all(&list.memory)?;
    }
    Ok(())
}

/// Encodes a message. Its length includes `bytes_to_follow`.
fn encode_message(content: &impl Serialize, bytes_to_follow: usize) -> Vec<u8> {
    let mut message = postcard::to_allocvec(&([0_u8; 4], content)).unwrap_or_default();
    if let Some((length, content)) = message.split_first_chunk_mut() {
        *length = u32::try_from(content.len() + bytes_to_follow).unwrap_or(u32::MAX).to_le_bytes();
    }
    message
}

/// Encodes bytes at once, and not one by one as serde does.
pub(super) fn serialize_bytes<S: serde::Serializer>(
    bytes: &[u8],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}
