//! Connections to NATS JetStream, for handlers that publish to a stream and sources that consume one.
//!
//! Everything that speaks to NATS runs on one thread ([`NatsThread`]). Each handler and each source has a
//! [`NatsConnection`], which connects again by itself. Other modules pass messages to the thread and wait for the results.

mod check;
mod connection;
mod consumer;
pub mod headers;
mod loss_history;
mod message_id;
mod origin;
mod publisher;
mod reader_states;
mod subjects;
mod thread;

pub use check::ConnectionTest;
pub use connection::NatsConnection;
pub use consumer::{Delivery, MAX_BATCH, ReadFailure, ReadLimits, StreamReader};
pub use loss_history::LossHistory;
pub use message_id::derived_message_id;
pub use origin::OriginRequest;
pub use publisher::{OutgoingMessage, PublishFailure, Published, Publisher, PublisherSettings};
pub use reader_states::ReaderStates;
pub use thread::{NATS_THREAD, NatsThread};
