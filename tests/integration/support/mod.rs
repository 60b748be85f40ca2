//! Shared by all tests: the server under test, an HTTP client, a client of the API, signatures, an HTTP server for
//! handlers to call, a client that speaks TLS, a load, nats-servers, machines with
//! separate networks, and a machine under a live systemd.

pub mod admin;
pub mod client;
pub mod http_server;
pub mod load;
pub mod machine;
pub mod nats;
pub mod network;
pub mod server;
pub mod signature;
pub mod tls_client;
