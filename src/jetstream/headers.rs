//! The headers of a message: what a machine says about the event that it publishes, so that handlers run unchanged on
//! another machine. docs/scaling.md lists them.

/// The id by which the stream and the next machine recognise a repeat
/// (<https://docs.nats.io/nats-concepts/jetstream/headers>).
pub const MESSAGE_ID: &str = "Nats-Msg-Id";
/// The stream rejects the message if it is another one.
pub const EXPECTED_STREAM: &str = "Nats-Expected-Stream";
pub const CONTENT_TYPE: &str = "Content-Type";

/// The name of the source.
pub const SOURCE: &str = "Hooktrail-Source";
/// The id of the event in the database of its machine.
pub const EVENT: &str = "Hooktrail-Event";
/// The name of the handler that published.
pub const HANDLER: &str = "Hooktrail-Handler";
/// The number of the item, from 1, if the handler has a `split`.
pub const ITEM: &str = "Hooktrail-Item";
/// When the machine that published received the event, as ISO 8601.
pub const RECEIVED_AT: &str = "Hooktrail-Received-At";
/// The client's IP address. Absent if it is unknown.
pub const IP: &str = "Hooktrail-Ip";
/// The subject of the client certificate.
pub const CLIENT: &str = "Hooktrail-Client";
pub const METHOD: &str = "Hooktrail-Method";
pub const PATH: &str = "Hooktrail-Path";
/// The raw query. Absent if the URL had no `?`.
pub const QUERY: &str = "Hooktrail-Query";
/// The event's headers, as the JSON object that `HOOKTRAIL_HEADERS` has.
pub const HEADERS: &str = "Hooktrail-Headers";
/// The key of the first machine, if this one is not the first.
pub const KEY: &str = "Hooktrail-Key";
