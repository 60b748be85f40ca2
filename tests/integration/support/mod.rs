//! What the tests share: the server under test, an HTTP client, and a service that handlers call.

pub mod client;
pub mod http_server;
pub mod server;
