//! Ids of messages that several machines make of the same value.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};

/// Makes an id of a value that the messages of several machines have in common. It is a hash, so that any text fits into a
/// header. The source, the handler, the item and the number of the replay keep different messages about one value apart.
pub fn derived_message_id(
    (source, value): (&str, &str),
    handler: &str,
    item: Option<u32>,
    replay: u32,
) -> String {
    let hash = digest(&SHA256, format!("{source}\n{value}").as_bytes());
    let hash = URL_SAFE_NO_PAD.encode(hash);
    format!("{hash}-{handler}-{}-{replay}", item.unwrap_or(0))
}
