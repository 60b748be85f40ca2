//! Shared by all tests: the server under test, an HTTP client, a client of the API, signatures, an HTTP server for
//! handlers to call, and a client that speaks TLS.

pub mod admin;
pub mod client;
pub mod http_server;
pub mod load;
pub mod server;
pub mod signature;
pub mod tls_client;
