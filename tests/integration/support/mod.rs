//! Shared by all tests: the server under test, an HTTP client, a client of the API, signatures, and an HTTP server for
//! handlers to call.

pub mod admin;
pub mod client;
pub mod http_server;
pub mod server;
pub mod signature;
