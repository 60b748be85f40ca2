//! Shared by all tests: the server under test, an HTTP client, signatures, and an HTTP server for
//! handlers to call.

pub mod client;
pub mod http_server;
pub mod server;
pub mod signature;
